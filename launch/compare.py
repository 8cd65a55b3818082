"""Compare losses and models on simulated nights whose sites and ages every signal shows.

    python -m launch.compare --output=DIR                  (``make compare``)

Trains towers by DASH-InfoNCE and by InfoNCE, several seeds each, and the Hypnos chain (tokenizers
and RQ-Transformer) on the same nights, all without labels and without one of the sites; then reads
sleep stages out of the frozen features with linear probes, beside towers at random and hand-made
features, on the sites that training saw and on the one that it did not. Each step is a command of
the README or written to ``DIR/results``; the same command goes on where it was. Ends with
``comparison.md``, ``comparison.json`` and ``comparison.png``.
"""

from __future__ import annotations

import functools
import json
import pathlib
import sys
import time

from absl import app, flags, logging

from launch.steps import StepError, command

OUTPUT = flags.DEFINE_string("output", None, "folder for everything that the job writes")
NIGHTS = flags.DEFINE_integer("nights", 96, "simulated nights, over three sites", 12)
HOURS = flags.DEFINE_float("hours", 1.0, "length of a night", 0.25)
SEED = flags.DEFINE_integer("seed", 0, "of the cohort", 0)
SEEDS = flags.DEFINE_integer("seeds", 3, "of each kind of towers", 1)
SHORTCUT = flags.DEFINE_float("shortcut", 1.0, "strength of what site and age do to signals", 0.0)
SIZE = flags.DEFINE_string("size", "demo", "size of the models, as in the configs")
STEPS = flags.DEFINE_integer("steps", None, "of the towers' training; the config's by default", 1)
HYPNOS = flags.DEFINE_bool("hypnos", True, "train the Hypnos chain too")
JOBS = flags.DEFINE_integer("jobs", 2, "processes that simulate nights", 1)

UNSEEN = ("C",)  # the last of three sites is held out
SEEN = ("A", "B")
WINDOWS = 48  # ours: N of the contrastive accuracy, at most
TOWERS = {"dash": "towers, DASH-InfoNCE", "info_nce": "towers, InfoNCE"}
RANDOM, HYPNOS_NAME, HAND = "towers at random", "Hypnos, RQ-Transformer", "hand-made features"


def train_towers(folder: pathlib.Path, loss: str, seed: int) -> pathlib.Path:
    """Train towers; return their workdir."""
    workdir = folder / "towers" / f"{loss}-{seed}"
    steps = [f"--config.train.steps={STEPS.value}"] if STEPS.value else []
    train(
        workdir,
        f"configs/sleep2vec/pretrain.py:{SIZE.value},{loss}",
        folder / "nights",
        f"--config.seed={seed}",
        *steps,
    )
    return workdir


def train(workdir: pathlib.Path, config: str, data: pathlib.Path, *more: str) -> None:
    """Train to the last step; a run that is there already is not even compiled."""
    from hypnos_jax.runtime import seals

    path = workdir / "config.json"
    if path.is_file():
        steps = json.loads(path.read_text())["train"]["steps"]
        asked = [word for word in more if word.startswith("--config.train.steps=")]
        same = not asked or asked == [f"--config.train.steps={steps}"]
        if same and seals.good_steps(workdir)[-1:] == [steps]:
            return
    command(
        "train",
        f"--config={config}",
        f"--workdir={workdir}",
        f"--config.data.path={data}",
        *more,
    )


def train_hypnos(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Train the Hypnos chain; return the model's workdir and its tokens."""
    from data_pipelines.channels.table import CHANNELS
    from hypnos_jax.probing.comparison import AS_CHANNELS

    channels, tokens, model = (folder / "hypnos" / x for x in ("channels", "tokens", "model"))
    for signal_type in dict.fromkeys(CHANNELS[x].signal_type for x in AS_CHANNELS.values()):
        train(
            folder / "hypnos" / "tokenizers" / signal_type,
            f"configs/hypnos/rvq_tokenizer.py:{SIZE.value},{signal_type}",
            channels,
        )
    command(
        "tokenize_nights",
        f"--nights={channels}",
        f"--tokenizers={folder / 'hypnos' / 'tokenizers'}",
        f"--output={tokens}",
    )
    train(model, f"configs/hypnos/rq_transformer.py:{SIZE.value}", tokens)
    return model, tokens


class Results:
    """One file a method and seed under ``DIR/results``; what is there is not made again."""

    def __init__(self, folder: pathlib.Path):
        """Take the folder."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def of(self, name: str, make) -> dict:
        """Return a result, made by ``make()`` where it is not there."""
        from hypnos_jax.runtime.files import write_json

        path = self.folder / f"{name}.json"
        if not path.exists():
            begin = time.monotonic()
            found = make()
            write_json(path, {**found, "seconds": time.monotonic() - begin})
            print(f"{name}: {time.monotonic() - begin:.0f} s", flush=True)
        return json.loads(path.read_text())


class Towers:
    """Judges towers of one config, compiled once for all of their variables."""

    def __init__(self, folder: pathlib.Path, workdir: pathlib.Path):
        """Take the nights, and a run for its config."""
        import flax.linen as nn
        import jax

        from hypnos_jax import config as configs
        from hypnos_jax import evaluate, sharding
        from hypnos_jax import state as states
        from hypnos_jax.batch import batch_spec, load_source

        config = json.loads((workdir / "config.json").read_text())
        mesh = sharding.make_mesh(data=1, devices=jax.local_devices()[:1])
        objective = configs.make_objective(config)
        spec = batch_spec(load_source(config, workdir, split="train"), 1)
        init = states.init_function(objective, spec)
        tokens = config["data"]["window_tokens"]
        nights = {"name": "modality_nights", "path": config["data"]["path"], "fill": []}

        def context(data):
            return evaluate.Context({**config, "data": data}, objective, init, mesh, folder)

        pairs = {**config["data"], "min_tokens": 1}
        self.where = {
            "seen": context({**pairs, "sites": list(SEEN)}),
            "unseen": context({**pairs, "sites": list(UNSEEN)}),
        }
        self.nights = context({**nights, "window_tokens": tokens})
        self.scope = lambda: (jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES))

    def judge_run(self, workdir: pathlib.Path) -> dict:
        """Judge a run's newest checkpoint."""
        from hypnos_jax import checkpoint

        _, step, variables = checkpoint.restore_variables(workdir)
        return self.judge(variables, workdir, step)

    def judge_random(self, seed: int, workdir: pathlib.Path) -> dict:
        """Judge towers as they begin."""
        mesh, rules = self.scope()
        with mesh, rules:
            variables = self.nights.init(seed)
        return self.judge(variables, workdir, 0)

    def judge(self, variables: dict, workdir: pathlib.Path, step: int) -> dict:
        """Return ``{"counts": ..., "retrieval": {"seen": ..., "unseen": ...}}``."""
        from hypnos_jax.evaluators.retrieval import Retrieval
        from hypnos_jax.probing.comparison import stage_counts, tower_features

        mesh, rules = self.scope()
        with mesh, rules:
            found = {}
            for where, context in self.where.items():
                context.workdir = workdir / where
                context.workdir.mkdir(parents=True, exist_ok=True)
                own = Retrieval(context, split="test", windows=WINDOWS)
                found[where] = dict(own.run(variables, step))
            own = tower_features(self.nights, variables)
            counts = stage_counts(self.nights.store, own, UNSEEN)
        return {"retrieval": found, "counts": counts}


def run(folder: pathlib.Path) -> str:
    """Do all of it; return the table."""
    from data_pipelines.store import NightStore
    from hypnos_jax import checkpoint
    from hypnos_jax.export.model import load_model
    from hypnos_jax.probing import comparison

    checkpoint.quiet()
    begin = time.monotonic()
    command(
        "synthesize",
        "--kind=modalities",
        f"--output={folder / 'nights'}",
        f"--nights={NIGHTS.value}",
        f"--seed={SEED.value}",
        f"--hours={HOURS.value}",
        f"--shortcut={SHORTCUT.value}",
        "--sites=3",
        f"--jobs={JOBS.value}",
    )
    store, results = NightStore(folder / "nights"), Results(folder / "results")
    comparison.write_channels(store, folder / "hypnos" / "channels")
    channels = NightStore(folder / "hypnos" / "channels")
    methods = {name: [] for name in (*TOWERS.values(), RANDOM, HYPNOS_NAME, HAND)}

    def hand():
        own = comparison.hand_features(channels)
        return {"counts": comparison.stage_counts(channels, own, UNSEEN)}

    methods[HAND] = [results.of("hand", hand)]
    towers = None
    for seed in range(SEEDS.value):
        runs = {loss: train_towers(folder, loss, seed) for loss in TOWERS}
        towers = towers or Towers(folder, runs["dash"])
        for loss, workdir in runs.items():
            make = functools.partial(towers.judge_run, workdir)
            methods[TOWERS[loss]].append(results.of(f"{loss}-{seed}", make))
        make = functools.partial(towers.judge_random, seed, folder / "towers" / f"random-{seed}")
        methods[RANDOM].append(results.of(f"random-{seed}", make))
        write_report(folder, store, methods, time.monotonic() - begin)
    if HYPNOS.value:
        model, tokens = train_hypnos(folder)

        def hypnos():
            own = comparison.hypnos_features(load_model(model), NightStore(tokens))
            return {"counts": comparison.stage_counts(channels, own, UNSEEN)}

        methods[HYPNOS_NAME] = [results.of("hypnos", hypnos)]
    return write_report(folder, store, methods, time.monotonic() - begin)


def write_report(folder: pathlib.Path, store, methods: dict, seconds: float) -> str:
    """Write and draw what there is by now; return the table."""
    from hypnos_jax.probing import comparison
    from hypnos_jax.runtime.files import write_json

    methods = {name: found for name, found in methods.items() if found}
    report = make_report(store, methods, seconds)
    write_json(folder / "comparison.json", report)
    comparison.draw(report, folder / "comparison.png")
    table = comparison.write_table(report)
    (folder / "comparison.md").write_text(table)
    return table


def make_report(store, methods: dict[str, list[dict]], seconds: float) -> dict:
    """Return all that was found, and how to read it."""
    from hypnos_jax.probing import comparison

    scores = comparison.judge(store, methods, UNSEEN)
    people = {where: scores[next(iter(methods))][where]["subjects"] for where in comparison.SITES}
    first = " minus ".join(TOWERS.values())
    differences = {first: scores[first]} if first in scores else {}
    for name in methods:
        pair = f"{TOWERS['dash']} minus {name}"
        if pair in scores:
            differences[pair] = scores[pair]
    notes = [
        f"{len(store.nights)} simulated nights of {HOURS.value:g} h from sites A, B and C; C was"
        " seen by nothing that was trained. Shortcut strength"
        f" {SHORTCUT.value:g}: {store.manifest['provenance']['synthetic']}.",
        f"Test people: {people['seen']} of the seen sites, {people['unseen']} of the unseen one."
        " Intervals: bootstrap over test people, of the mean over seeds.",
        "Contrastive accuracy: recall at 1 of the same token in another modality, among N windows"
        " of test nights at the same place, mean over 36 pairs and both directions.",
        "Towers read nine modalities. Hypnos and the hand-made features read EEG, EOG, chin and"
        " ECG alone, since its belts want 32 Hz; Hypnos has one seed.",
    ]
    return {
        "title": f"{len(store.nights)} simulated nights, shortcut strength {SHORTCUT.value:g}",
        "methods": {
            name: {
                "count": len(found),
                "staging": scores[name],
                "retrieval": comparison.mean_retrieval(found),
            }
            for name, found in methods.items()
        },
        "differences": differences,
        "notes": notes,
        "seconds": seconds,
    }


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    logging.set_verbosity(logging.INFO)
    begin = time.monotonic()
    try:
        table = run(pathlib.Path(OUTPUT.value))
    except (StepError, ValueError, OSError) as error:
        logging.error("%s: %s", type(error).__name__, error)
        return 1
    print(f"\n{table}\n{time.monotonic() - begin:.0f} s in all")
    return 0


if __name__ == "__main__":
    flags.mark_flag_as_required("output")
    sys.exit(app.run(main))
