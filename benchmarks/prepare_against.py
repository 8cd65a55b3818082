"""CPU time to prepare one scored night, by this tree and by another checkout, in one run.

    git worktree add ../before main
    python benchmarks/prepare_against.py --against=../before

Both trees prepare the same file of noise with the same scoring beside it, in fresh processes that
take turns (this, other, other, this, ...); imports and a first preparation are not counted. Each
pair of processes gives a ratio; the median and the quartiles of the ratios are printed. At a load
of more than the machine has cores the spread says so.
"""

import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import numpy as np
from absl import app, flags
from noise_edf import write_edf

from data_pipelines import scoring

AGAINST = flags.DEFINE_string("against", None, "Folder of the other checkout.", required=True)
HOURS = flags.DEFINE_float("hours", 8.0, "Length of the night.")
PAIRS = flags.DEFINE_integer("pairs", 9, "Pairs of processes.", lower_bound=3)
CALLS = flags.DEFINE_integer("calls", 2, "Preparations in a process; the fastest counts.")

# Names that both trees have; what differs between them is what is measured.
CODE = """
import json, pathlib, sys, time
from data_pipelines.builders import recording_night
from data_pipelines.recipes import hypnos
path, calls = pathlib.Path(sys.argv[1]), int(sys.argv[2])
make_night = recording_night.PrepareRecording(hypnos.RECIPE, hypnos.EIGHT, mains_hz=50)
spent = []
for _ in range(calls + 1):
    began = time.process_time()
    night = make_night(recording_night.Pending(name=path.stem, path=path))
    spent.append(time.process_time() - began)
assert len(night.channels) == 8 and (night.stages >= 0).all() and night.events
print(json.dumps(min(spent[1:])))
"""


def write_scoring(path):
    """An epoch of each stage in turn, and an event every minute."""
    epochs = int(HOURS.value * 120)
    stages = (np.arange(epochs) // 4 % 5).astype(np.int8)
    kinds = ("hypopnea", "arousal", "desaturation", "leg_movement")
    events = [scoring.Event(kinds[i % 4], 60.0 * i + 5, 10.0) for i in range(int(HOURS.value * 60))]
    scored = scoring.Scoring(stages, events, "made")
    start = datetime.datetime(1985, 1, 1, 22, 30)  # as the recording
    scoring.write_edf_annotations(path, scored, start=start)


def cpu_s(tree, path):
    """Seconds of CPU that a tree takes for the night."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(path), str(CALLS.value)],
        cwd=path.parent,
        env=os.environ | {"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{tree}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def main(_):
    here, other = pathlib.Path(__file__).parents[1], pathlib.Path(AGAINST.value).resolve()
    if not (other / "data_pipelines").is_dir():
        raise SystemExit(f"--against={other}: holds no data_pipelines")
    spent = {here: [], other: []}
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "night.edf"
        write_edf(path, HOURS.value, 256, 0)
        write_scoring(path.with_name("night-Hypnogram.edf"))
        for pair in range(PAIRS.value):
            for tree in (here, other) if pair % 2 == 0 else (other, here):
                spent[tree].append(cpu_s(tree, path))
    ratios = [a / b for a, b in zip(spent[here], spent[other])]
    low, middle, high = statistics.quantiles(ratios, n=4)
    print("| | CPU s, least | median |\n|---|---|---|")
    for name, tree in (("this tree", here), ("the other", other)):
        print(f"| {name} | {min(spent[tree]):.3f} | {statistics.median(spent[tree]):.3f} |")
    least = min(spent[here]) / min(spent[other])
    print(
        f"\n{HOURS.value:g} h, {PAIRS.value} pairs: ratio {middle:.3f} "
        f"(quartiles {low:.3f} to {high:.3f}), of the least times {least:.3f}; "
        f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )


if __name__ == "__main__":
    app.run(main)
