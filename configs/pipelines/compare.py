"""Towers by two losses and the Hypnos chain on simulated nights, compared (``make compare``).

    python -m launch.pipeline --pipeline=configs/pipelines/compare.py --output=DIR

Sites and ages are seen in every signal of the nights. Towers are trained by DASH-InfoNCE and by
InfoNCE, several seeds each, and the Hypnos chain on the same nights, all without labels and without
the last of three sites; then sleep stages are read out of the frozen features. The argument is the
size of the models, ``demo`` by default. Options: ``nights``, ``hours``, ``seed`` and ``shortcut``
(strength of what site and age do to signals) of the cohort; ``seeds`` of each kind of towers;
``steps`` of their training (0: the config's); ``hypnos=false`` leaves Hypnos out; ``jobs``.
"""

import json

from configs.pipelines import Step
from configs.pipelines.demo import train_model

TOWERS = {"dash": "towers DASH-InfoNCE", "info_nce": "towers InfoNCE"}
HYPNOS = "Hypnos RQ-Transformer"
SEEN, UNSEEN = ["A", "B"], ["C"]  # the last of three sites is held out
WINDOWS = 48  # ours: N of the contrastive accuracy, at most


def get_pipeline(
    size: str = "demo",
    *,
    nights: int = 96,
    hours: float = 1.0,
    seed: int = 0,
    seeds: int = 3,
    shortcut: float = 1.0,
    steps: int = 0,
    hypnos: bool = True,
    jobs: int = 2,
) -> list[Step]:
    """Return the steps; the options are those of the file's docstring."""
    cohort = {
        "kind": "modalities",
        "output": "{output}/nights",
        "nights": nights,
        "seed": seed,
        "hours": hours,
        "shortcut": shortcut,
        "sites": len(SEEN + UNSEEN),
        "jobs": jobs,
    }
    channels = {"nights": "{output}/nights", "output": "{output}/hypnos/channels"}
    out = [
        Step("synthesize", "synthesize", cohort, "nights", 330),
        Step("channels", "modalities_as_channels", channels, "hypnos/channels", 30),
    ]
    models, stores = [], ["{output}/nights", "{output}/hypnos/channels"]
    for loss, name in TOWERS.items():
        for number in range(seeds):
            out += train_towers(size, loss, number, steps)
            models.append(f"{name}={{output}}/towers/{loss}-{number}")
    if hypnos:
        out += train_model("hypnos/channels", "hypnos/", ("eeg", "eog", "emg", "ecg"), size=size)
        models.append(f"{HYPNOS}={{output}}/hypnos/model")
        stores.append("{output}/hypnos/tokens")
    comparison = {
        "models": ",".join(models),
        "nights": ",".join(stores),
        "output": "{output}",
        "unseen_sites": ",".join(UNSEEN),
        "title": f"{nights} simulated nights, shortcut strength {shortcut:g}",
    }
    return [*out, Step("compare", "compare", comparison, "comparison.md", 300)]


def train_towers(size: str, loss: str, seed: int, steps: int) -> list[Step]:
    """Return the training of towers, and whether windows of test nights find themselves."""
    folder = f"towers/{loss}-{seed}"
    arguments = {
        "config": f"configs/sleep2vec/pretrain.py:{size},{loss}",
        "workdir": f"{{output}}/{folder}",
        "config.data.path": "{output}/nights",
        "config.seed": seed,
    }
    if steps:
        arguments["config.train.steps"] = steps
    found = {"type": "retrieval", "split": "test", "windows": WINDOWS}
    evals = {"retrieval_seen": {**found, "sites": SEEN}}
    evals["retrieval_unseen"] = {**found, "sites": UNSEEN}
    changes = ("data.min_tokens=1", f"evals={json.dumps(evals)}")  # short nights count too
    evaluation = {"workdir": f"{{output}}/{folder}", "set": changes}
    return [
        Step(f"train {loss} {seed}", "train", arguments, folder, 90),
        Step(f"retrieval {loss} {seed}", "evaluate", evaluation, f"{folder}/evaluation.json", 40),
    ]
