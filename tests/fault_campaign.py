"""The campaign of faults: real signals to real processes, and damage to real checkpoints.

    python -m tests.fault_campaign --output=DIR --mutations=10200 --kills=200 --kills_of_two=30 \\
        --stuck=5

Trains the toy of ``tests/toy_objective.py`` over and over in processes of its own. A round is one
run that is killed (SIGKILL) several times, each time in a phase of its work that is drawn, and
started again; at its end it must be the same run, bit for bit, as one that nobody disturbed: every
line of its metrics, the parameters, the ledger of what it was trained on. Between the kills nothing
that was once saved may be lost. Mutations damage a copy of a run's checkpoints: each must be found
or do no harm. Rounds that are done are kept in ``DIR/rounds.jsonl`` and not repeated; the tables
are printed, and written to ``DIR/tables.md``.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import faulthandler
import json
import mmap
import os
import pathlib
import random
import shutil
import signal
import struct
import sys
import threading
import time

ROOT = pathlib.Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from hypnos_jax.runtime import seals  # noqa: E402

STEPS, KILLS_A_ROUND = 40, 20
# What the loop does, and beside it what the thread does that saves.
PHASES = ("start", "restore", "compile", "refill", "step", "evaluate", "save")
BESIDE = ("idle", "write", "seal", "prune")
MARKS = struct.Struct(f"=2I{len(PHASES + BESIDE)}I")
WAIT_S = 240.0


class Marks:
    """Phases of a process, in a file that another one reads: phase, beside it, and how often."""

    def __init__(self, path: pathlib.Path):
        """Open the file, which holds zeros at first."""
        if not path.exists():
            path.write_bytes(bytes(MARKS.size))
        with path.open("r+b") as file:
            self.shared = mmap.mmap(file.fileno(), MARKS.size)

    def enter(self, phase: str) -> None:
        """Say what begins."""
        number = (PHASES + BESIDE).index(phase)
        struct.pack_into("=I", self.shared, 4 * (number >= len(PHASES)), number)
        (count,) = struct.unpack_from("=I", self.shared, 4 * (2 + number))
        struct.pack_into("=I", self.shared, 4 * (2 + number), count + 1)

    def count(self, phase: str) -> int:
        """How often a phase was entered."""
        return MARKS.unpack_from(self.shared)[2 + (PHASES + BESIDE).index(phase)]

    def now(self) -> tuple[str, str]:
        """What is done now."""
        phase, beside = MARKS.unpack_from(self.shared)[:2]
        return PHASES[phase], (PHASES + BESIDE)[max(beside, len(PHASES))]


def mark_phases(path: str, cache: str) -> None:
    """In the process that trains: say in a file what it does. Changes nothing of what it does."""
    import jax

    from data_pipelines import pipeline
    from hypnos_jax import checkpoint, evaluate
    from hypnos_jax.runtime import compile_cache
    from hypnos_jax.step import Plan

    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    compile_cache.keep = lambda folder: None
    faulthandler.register(signal.SIGUSR1)
    marks = Marks(pathlib.Path(path))
    marks.enter("start")

    def during(owner, name, phase, after):
        function = getattr(owner, name)

        def marked(*args, **kwargs):
            marks.enter(phase)
            try:
                return function(*args, **kwargs)
            finally:
                marks.enter(after)

        setattr(owner, name, marked)

    class Feed:
        def __init__(self, feed):
            self.feed, self.close = feed, feed.close

        def __next__(self):
            marks.enter("refill")
            try:
                return next(self.feed)
            finally:
                marks.enter("step")

    batches, run, save = (
        pipeline.Source.batches,
        evaluate.Evaluators.run,
        checkpoint.Checkpoints.save,
    )
    pipeline.Source.batches = lambda *args: Feed(batches(*args))

    def evaluating(*args, **kwargs):
        marks.enter("evaluate")
        yield from run(*args, **kwargs)
        marks.enter("step")

    def saving(self, *args):
        self.wait()
        marks.enter("write")
        marks.enter("save")
        save(self, *args)
        marks.enter("step")

    evaluate.Evaluators.run, checkpoint.Checkpoints.save = evaluating, saving
    during(checkpoint.Checkpoints, "restore", "restore", "start")
    during(Plan, "trace", "compile", "compile")
    during(checkpoint, "write_seal", "seal", "seal")
    during(checkpoint.Checkpoints, "_prune", "prune", "idle")


class Campaign:
    """Runs of the toy in ``output``, and what became of them."""

    def __init__(self, output: pathlib.Path, seed: int):
        """Read what was done before."""
        self.output, self.draw = output, random.Random(seed)
        output.mkdir(parents=True, exist_ok=True)
        self.log = output / "rounds.jsonl"
        self.log.touch()
        self.rounds = [json.loads(line) for line in self.log.open()]
        self.draw.seed(seed + len(self.rounds))

    def add(self, **found) -> None:
        """Keep what was found."""
        self.rounds.append(found)
        with self.log.open("a") as file:
            file.write(json.dumps(found) + "\n")

    def start(self, workdir: pathlib.Path, processes: int, **changes):
        """Start the training; returns the processes and their marks."""
        import processes as started
        import toy_objective

        from hypnos_jax import config as configs

        options = {
            "train.steps": STEPS,
            "data.delay_s": 0.002,
            "mesh": {"data": -1},
            "evals.validation.every": 4,
            "checkpoints": {
                "every": 3,
                "every_s": 3.0,  # at other steps whenever the machine is busier
                "keep": 2,
                "keep_best": 1,
                "best_metric": "eval/validation/loss",
            },
            **changes,
        }
        config = configs.change(configs.resolve(toy_objective.toy_config()), options)
        files = [workdir.with_name(f"{workdir.name}_marks_{i}") for i in range(processes)]
        for file in files:
            file.unlink(missing_ok=True)
        before = (
            "import fault_campaign; fault_campaign.mark_phases("
            f"{str(workdir)!r} + f'_marks_{{index}}', {str(self.output / 'compiled')!r})"
        )
        group = started.start_toy([config] * processes, workdir, devices=2, before=before)
        return group, [Marks(file) for file in files]

    def reference(self, processes: int) -> pathlib.Path:
        """Return the folder of a run that nobody disturbs."""
        workdir = self.output / f"undisturbed_{processes}"
        if not (workdir / "done").exists():
            shutil.rmtree(workdir, ignore_errors=True)
            group, marks = self.start(workdir, processes)
            with group:
                if faults := ending(group, marks):
                    raise RuntimeError(faults)
            (workdir / "done").touch()
        return workdir

    def round(self, processes: int, kills: int) -> list[dict]:
        """Kill a run some times, let it end, compare it; return what was met."""
        reference = self.reference(processes)
        workdir = self.output / f"round_{len(self.rounds)}"
        shutil.rmtree(workdir, ignore_errors=True)
        met, newest, faults = [], -1, []
        while len(met) < kills:
            told = self.kill(workdir, processes)
            if told is None:  # it came to its end before
                break
            met.append(told)
            good = (good_steps(workdir) or [-1])[-1]
            if good < newest:
                faults.append(f"step {newest} was lost; {good} is the newest")
            newest = good
            if good >= 0:
                faults += different(workdir, reference, good)
        group, marks = self.start(workdir, processes)
        with group, reading(workdir, faults):
            faults += ending(group, marks)
        faults += compare(workdir, reference)
        if not faults:
            shutil.rmtree(workdir)
        self.add(kind=f"kill_{processes}", met=met, faults=faults)
        return met

    def kill(self, workdir: pathlib.Path, processes: int) -> dict | None:
        """Start, kill in a phase that is drawn, and tell what it was doing."""
        phase = self.draw.choice((*PHASES, *BESIDE[1:], "any", "any"))
        group, marks = self.start(workdir, processes)
        victim = self.draw.randrange(processes)
        nth = 1 if phase in ("start", "restore", "compile") else self.draw.randint(1, 3)
        delay_s = self.draw.expovariate(1 / 0.03)
        end = time.monotonic() + WAIT_S
        if phase == "any":
            end, nth, delay_s = time.monotonic() + self.draw.uniform(0, 12), 10**9, 0.0
        with group:
            process = group.all[victim]
            name = "step" if phase == "any" else phase
            while marks[victim].count(name) < nth and time.monotonic() < end:
                if process.poll() is not None:
                    return None
                time.sleep(0.001)
            time.sleep(delay_s)
            if process.poll() is not None:
                return None
            process.send_signal(signal.SIGKILL)
            process.wait()
            at, beside = marks[victim].now()
            then, codes = time.monotonic(), []
            # Who waits for another to arrive at the start does so for minutes.
            patience_s = 10.0 if at == "start" else WAIT_S / 2
            for other in group.all:
                while other.poll() is None and time.monotonic() < then + patience_s:
                    time.sleep(0.05)
                codes.append(other.poll())
            told = {"aimed": phase, "at": at, "beside": beside}
            if processes > 1:
                codes.pop(victim)
                told |= {"victim": victim, "others": codes, "after_s": time.monotonic() - then}
            return told

    def stuck(self) -> None:
        """Stop one of two processes for ever; the run must end by itself, and resume."""
        reference = self.reference(2)
        workdir = self.output / f"round_{len(self.rounds)}"
        shutil.rmtree(workdir, ignore_errors=True)
        victim = self.draw.randrange(2)
        watchdog = {"step_s": 20.0, "data_s": 20.0, "save_s": 20.0, "evaluation_s": 20.0}
        group, marks = self.start(workdir, 2, watchdog=watchdog)
        with group:
            nth = self.draw.randint(3, 30)
            group.wait_for(lambda: marks[victim].count("step") >= nth, WAIT_S)
            group.all[victim].send_signal(signal.SIGSTOP)
            then, other = time.monotonic(), group.all[1 - victim]
            while other.poll() is None and time.monotonic() < then + WAIT_S:
                time.sleep(0.05)
            told = {"victim": victim, "other": other.poll(), "after_s": time.monotonic() - then}
        group, marks = self.start(workdir, 2)
        with group:
            faults = ending(group, marks)
        faults += compare(workdir, reference)
        if told["other"] is None:
            faults.append("the other process did not end")
        self.add(kind="stuck", met=[told], faults=faults)

    def mutate(self, count: int) -> None:
        """Damage a copy of a run's checkpoints, again and again."""
        reference = self.reference(1)
        workdir = self.output / "mutated"
        shutil.rmtree(workdir, ignore_errors=True)
        shutil.copytree(reference, workdir)
        found, faults, slowest_s = mutate(workdir, reference, count, self.draw)
        self.add(kind="mutations", met=found, faults=faults, slowest_s=slowest_s)

    def kills(self, kind: str) -> list[dict]:
        """What the rounds of a kind met."""
        return [told for round in self.rounds if round["kind"] == kind for told in round["met"]]


def ending(group, marks: list[Marks]) -> list[str]:
    """Wait for the end of all processes while they go on; what went wrong, with stacks."""
    end, seen = time.monotonic() + WAIT_S, None
    while any(process.poll() is None for process in group.all) and time.monotonic() < end:
        now = [bytes(mark.shared) for mark in marks]
        if now != seen:
            end, seen = time.monotonic() + WAIT_S, now
        time.sleep(0.05)
    codes = [process.poll() for process in group.all]
    for process in group.all:
        if process.poll() is None:
            process.send_signal(signal.SIGUSR1)
            time.sleep(1)
    return [f"exit codes {codes}\n{group.words()}"] if any(code != 0 for code in codes) else []


def good_steps(workdir: pathlib.Path) -> list[int]:
    """Steps that can be trusted, without a word in the log."""

    return seals.good_steps(workdir)


def lines(workdir: pathlib.Path) -> list[dict]:
    """What a run logged, without the times; a line that is cut off is left out."""
    from hypnos_jax import metrics

    text = (workdir / "metrics.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [{name: row[name] for name in row.keys() - metrics.TIMES} for row in rows]


def different(workdir: pathlib.Path, reference: pathlib.Path, step: int) -> list[str]:
    """What a checkpoint in the middle of a run has that an undisturbed run did not have then."""
    from hypnos_jax import checkpoint

    _, _, variables = checkpoint.restore_variables(workdir, step)
    faults = []
    if int(variables["seen"]["rows"]) != 8 * step or variables["seen"]["slots"].sum() != 8 * step:
        faults.append(f"step {step} was not trained on {8 * step} rows")
    ours, theirs = lines(workdir), lines(reference)
    ours = [row for row in ours if row["step"] <= step and "loss" in row]
    theirs = [row for row in theirs if row["step"] <= step and "loss" in row]
    if ours != theirs:
        faults.append(f"the metrics up to step {step} differ")
    return faults


def compare(workdir: pathlib.Path, reference: pathlib.Path) -> list[str]:
    """What two runs that are done do not have in common, bit for bit."""
    import jax
    import numpy as np

    from hypnos_jax import checkpoint

    faults = []
    ours, theirs = lines(workdir), lines(reference)
    steps = [row["step"] for row in ours if "loss" in row]
    if steps != list(range(1, STEPS + 1)):
        faults.append(f"the metrics have the steps {steps}")
    if ours != theirs:
        faults.append("the metrics differ")
    (_, at, a), (_, then, b) = (
        checkpoint.restore_variables(x, "newest") for x in (workdir, reference)
    )
    if at != then or not jax.tree.all(jax.tree.map(np.array_equal, a, b)):
        faults.append(f"the variables of step {at} and {then} differ")
    if not (a["seen"]["slots"] == 8 * STEPS // 40).all():
        faults.append(f"the ledger has {a['seen']['slots'].tolist()}")
    return faults


@contextlib.contextmanager
def reading(workdir: pathlib.Path, faults: list[str]):
    """Meanwhile load the newest checkpoint of the run, as an evaluation or export does."""
    from hypnos_jax import checkpoint

    done = threading.Event()

    def read():
        while not done.wait(0.2):
            if not list(workdir.glob("checkpoints/*/sha256.json")):
                continue
            try:
                _, step, variables = checkpoint.restore_variables(workdir, "newest")
            except Exception as error:
                faults.append(f"reading meanwhile: {error!r}")
                return
            if int(variables["seen"]["rows"]) != 8 * step:
                faults.append(f"reading meanwhile: step {step} is another")

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def mutate(workdir, reference, count: int, draw: random.Random):
    """Damage the newest checkpoint in ``count`` ways, one at a time; undo each.

    Returns:
        Kind -> [found, harmless], what went wrong, and the slowest way back to a good step in s.
    """
    import jax
    import numpy as np

    from hypnos_jax import checkpoint

    root = workdir / "checkpoints"
    steps = seals.good_steps(workdir)
    folder, before = root / str(steps[-1]), root / str(steps[-2])
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    saved = {path: path.read_bytes() for path in files}
    files = [path for path in files if saved[path]]
    _, _, whole = checkpoint.restore_variables(reference, "newest")

    def flip(path):
        data = bytearray(saved[path])
        place = draw.randrange(len(data))
        data[place] ^= 1 << draw.randrange(8)
        path.write_bytes(data)

    def truncate(path):
        path.write_bytes(saved[path][: draw.randrange(len(saved[path]))])

    def lengthen(path):
        path.write_bytes(saved[path] + draw.randbytes(draw.randint(1, 64)))

    def zero(path):
        place = draw.randrange(len(saved[path]))
        path.write_bytes(saved[path][:place] + bytes(len(saved[path]) - place))

    def delete(path):
        path.unlink()

    def duplicate(path):
        path.with_name(path.name + "x" * draw.randint(1, 3)).write_bytes(saved[path])

    def swap(path):
        path.write_bytes(saved[draw.choice([other for other in files if other != path])])

    def from_before(path):
        other = draw.choice(
            [p for p in before.rglob("*") if p.is_file() and p.name == path.name]
            or [p for p in before.rglob("*") if p.is_file()]
        )
        path.write_bytes(other.read_bytes())

    def part_from_before(path):
        part = draw.choice([p.name for p in folder.iterdir() if p.is_dir()])
        shutil.rmtree(folder / part)
        shutil.copytree(before / part, folder / part)

    def whole_from_before(path):
        shutil.rmtree(folder)
        shutil.copytree(before, folder)

    kinds = (flip, flip, flip, flip, flip, flip, truncate, truncate, lengthen, zero, delete)
    kinds += (duplicate, swap, swap, from_before, part_from_before, whole_from_before)
    found = {kind.__name__: [0, 0] for kind in kinds}
    faults, slowest_s = [], 0.0
    for number in range(count):
        kind, path = kinds[number % len(kinds)], files[number // len(kinds) % len(files)]
        kind(path)
        then = time.monotonic()
        good = seals.good_steps(workdir)
        slowest_s = max(slowest_s, time.monotonic() - then)
        if good == steps[:-1]:
            found[kind.__name__][0] += 1
        elif good == steps:  # such as a space more in the manifest
            found[kind.__name__][1] += 1
            if {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} != saved:
                _, _, variables = checkpoint.restore_variables(workdir, "newest")
                if not jax.tree.all(jax.tree.map(np.array_equal, variables, whole)):
                    faults.append(f"{kind.__name__} of {path.relative_to(folder)} was not found")
        else:
            faults.append(f"{kind.__name__} of {path.relative_to(folder)} left {good}")
        if kind in (part_from_before, whole_from_before):
            shutil.rmtree(folder)
            for whole_path, data in saved.items():
                whole_path.parent.mkdir(parents=True, exist_ok=True)
                whole_path.write_bytes(data)
        else:
            path.write_bytes(saved[path])
            for more in path.parent.glob(f"{path.name}x*"):
                more.unlink()
        if (number + 1) % 1000 == 0:
            print(f"{number + 1} of {count} mutations", flush=True)
    return [found], faults, slowest_s


def tables(campaign: Campaign) -> str:
    """Return what was found, as Markdown."""
    out = []
    for kind, title in (("kill_1", "one process"), ("kill_2", "two processes")):
        met = campaign.kills(kind)
        rounds = [round for round in campaign.rounds if round["kind"] == kind]
        wrong = [fault for round in rounds for fault in round["faults"]]
        out += [f"{len(met)} kills of {title}, {len(rounds)} runs, {len(wrong)} faults", ""]
        loop = collections.Counter(told["at"] for told in met)
        beside = collections.Counter(told["beside"] for told in met)
        out += ["| at work on | kills |", "|---|---|"]
        out += [f"| {phase} | {loop[phase]} |" for phase in PHASES]
        out += [f"| ... while a save is at {phase} | {beside[phase]} |" for phase in BESIDE[1:]]
        if kind == "kill_2" and met:
            ended = [told for told in met if told["others"][0] is not None]
            codes = collections.Counter(str(told["others"][0]) for told in ended)
            slowest = max((told["after_s"] for told in ended), default=0)
            waiting = [told["at"] for told in met if told["others"][0] is None]
            out += [
                "",
                f"The other process ended by itself with {dict(codes)}, after {slowest:.0f} s at"
                f" most; it still waited for the dead one in {dict(collections.Counter(waiting))}.",
            ]
        out += ["", *wrong]
    stuck = campaign.kills("stuck")
    if stuck:
        codes = collections.Counter(str(told["other"]) for told in stuck)
        slowest = max(told["after_s"] for told in stuck)
        wrong = [
            f for round in campaign.rounds if round["kind"] == "stuck" for f in round["faults"]
        ]
        out += [
            f"{len(stuck)} processes stuck (SIGSTOP): the other ended with {dict(codes)}, after"
            f" {slowest:.0f} s at most; {len(wrong)} faults",
            "",
            *wrong,
        ]
    for round in campaign.rounds:
        if round["kind"] == "mutations":
            out += ["| mutation | found | harmless |", "|---|---|---|"]
            out += [f"| {name} | {a} | {b} |" for name, (a, b) in round["met"][0].items()]
            out += [
                "",
                f"slowest way back {round['slowest_s']:.2f} s; {len(round['faults'])} faults",
            ]
            out += ["", *round["faults"]]
    return "\n".join(out) + "\n"


def main(argv=None) -> int:
    """Do what is not yet done, and tell; 1 where anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--kills", type=int, default=0, help="of one process")
    parser.add_argument("--kills_of_two", type=int, default=0, help="of one of two processes")
    parser.add_argument("--stuck", type=int, default=0, help="stopped ones of two processes")
    parser.add_argument("--mutations", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args(argv)
    from absl import logging

    logging.set_verbosity(logging.FATAL)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # starts cost most of the time
    campaign, then = Campaign(flags.output.resolve(), flags.seed), time.monotonic()
    if flags.mutations and not campaign.kills("mutations"):
        campaign.mutate(flags.mutations)
    for processes, wanted in ((1, flags.kills), (2, flags.kills_of_two)):
        kind = f"kill_{processes}"
        while (left := wanted - len(campaign.kills(kind))) > 0:
            campaign.round(processes, min(left, KILLS_A_ROUND))
            done = len(campaign.kills(kind))
            faults = campaign.rounds[-1]["faults"]
            print(f"{time.monotonic() - then:.0f} s: {done}/{wanted} {kind} {faults}", flush=True)
    while len(campaign.kills("stuck")) < flags.stuck:
        campaign.stuck()
        print(f"{time.monotonic() - then:.0f} s: {campaign.rounds[-1]}", flush=True)
    text = tables(campaign)
    (campaign.output / "tables.md").write_text(text)
    print(text)
    return int(any(round["faults"] for round in campaign.rounds))


if __name__ == "__main__":
    sys.exit(main())
