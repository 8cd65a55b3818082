"""Time and memory to prepare one night, by stage, beside the published preprocessing.

    python benchmarks/prepare_night.py --hours=8 --reference_python=/path/to/venv/bin/python

The reference is ``hypnos.embedding.pipeline.preprocess_edf`` of ``pip install hypnos==0.1.0`` (it
needs torch) in its own environment, on the same EDF file; without the flag its row is left out. It
reads, resamples, filters and z-scores eight channels into memory. Ours does this, checks each
channel and keeps tracks: once with the channels one after the other, once as it comes, and once
into a store. Every measurement is a fresh process, imports not counted; the rows take turns, and
of each the least wall time and the least CPU time of ``--repeats`` count. Stages are CPU seconds.
"""

import contextlib
import importlib
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

from absl import app, flags
from noise_edf import LABELS, write_edf

HOURS = flags.DEFINE_float("hours", 8.0, "Length of the night.")
RATE_HZ = flags.DEFINE_integer("sfreq_hz", 256, "Native rate of every channel.")
EXTRA = flags.DEFINE_integer("extra", 0, "Further channels in the file that nobody asks for.")
REPEATS = flags.DEFINE_integer("repeats", 3, "Measurements of each; the fastest counts.")
REFERENCE = flags.DEFINE_string("reference_python", None, "Python that has hypnos==0.1.0.")
INSIDE = flags.DEFINE_string("inside", None, "Measure this file in this process (internal).")
ROW = flags.DEFINE_string("row", None, "Which row to measure (internal).")

ROWS = {
    "reference": "hypnos 0.1.0 preprocess_edf, into memory",
    "one": "ours, into memory, one channel at a time",
    "memory": "ours, into memory",
    "store": "ours, into a store",
}

REFERENCE_CODE = """
import json, resource, sys, time
from hypnos.embedding.manifest import ModalitySpec, ModelMetadata
from hypnos.embedding.pipeline import preprocess_edf
names = ["eeg_c3", "eeg_c4", "eog_e1", "eog_e2", "emg_chin", "ecg", "resp_abd", "resp_thx"]
channels = ["C3", "C4", "E1", "E2", "Chin", "ECG", "ABD", "THX"]
keys = ["eeg", "eeg", "eeg", "eeg", "emg", "ecg", "respiratory", "respiratory"]
specs = [
    ModalitySpec(n, k, [c], k, 8, 2048, 1.0, 32 if k == "respiratory" else 128, k)
    for n, c, k in zip(names, channels, keys)
]
metadata = ModelMetadata("", {}, specs, {})
wall, cpu = time.perf_counter(), time.process_time()
signals = preprocess_edf(sys.argv[1], metadata)
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
assert len(signals) == 8, sorted(signals)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"stages": {}, "wall_s": wall, "cpu_s": cpu, "peak_mib": peak}))
"""


def measure(path, row):
    """Prepare the file here; print stages, totals and peak memory as JSON."""
    from data_pipelines.builders import folder, night_builder, recording_night
    from data_pipelines.recipes import hypnos
    from data_pipelines.signals import causal

    stages = {}

    def time_calls(module, name, stage):
        function = getattr(module, name)

        def timed(*args, **kwargs):
            began = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                stages[stage] = stages.get(stage, 0.0) + time.thread_time() - began

        setattr(module, name, timed)

    time_calls(recording_night, "check_quality", "check_quality")
    time_calls(hypnos, "read_channel", "read")
    time_calls(causal, "resample", "resample")
    time_calls(causal, "filter_forward", "filter")
    time_calls(causal, "flat_seconds", "flat")
    time_calls(causal, "amplitude_tracks", "tracks")
    time_calls(causal, "normalize", "z-score")
    time_calls(night_builder, "write_night", "write night")
    time_calls(night_builder, "seal", "write store")
    importlib.import_module("data_pipelines.builders.night_records")  # once a run, not once a night
    if row == "one":
        hypnos.CHANNELS_AT_ONCE = 1
    items, _ = folder.find_recordings(path.parent)
    make_night = recording_night.PrepareRecording(hypnos.RECIPE, hypnos.EIGHT, mains_hz=50)
    with tempfile.TemporaryDirectory(dir=path.parent) as output:
        wall, cpu = time.perf_counter(), time.process_time()
        if row == "store":
            with contextlib.redirect_stderr(sys.stdout):
                night_builder.write_store(
                    output, kind="signals", items=items, make_night=make_night, progress=False
                )
        else:
            night = make_night(items[path.stem])
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        if row == "store":
            (night,) = night_builder.NightStore(output).nights
        assert len(night.channels) == 8, night.channels
    stages["other"] = cpu - sum(stages.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"stages": stages, "wall_s": wall, "cpu_s": cpu, "peak_mib": peak}))


def run(arguments):
    done = subprocess.run(arguments, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{arguments[0]}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(_):
    if INSIDE.value:
        measure(pathlib.Path(INSIDE.value), ROW.value)
        return
    rows = [row for row in ROWS if row != "reference" or REFERENCE.value]
    runs = {row: [] for row in rows}
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "night.edf"
        write_edf(path, HOURS.value, RATE_HZ.value, EXTRA.value)
        size = path.stat().st_size / 2**20
        print(
            f"{HOURS.value:g} h, {len(LABELS) + EXTRA.value} channels at {RATE_HZ.value} Hz, "
            f"{size:.0f} MiB; best of {REPEATS.value}\n"
        )
        for row in rows * REPEATS.value:
            if row == "reference":
                arguments = [REFERENCE.value, "-c", REFERENCE_CODE, str(path)]
            else:
                arguments = [sys.executable, __file__, f"--inside={path}", f"--row={row}"]
            runs[row].append(run(arguments))
    best = {
        row: {key: min(run[key] for run in runs[row]) for key in ("wall_s", "cpu_s", "peak_mib")}
        for row in rows
    }
    print("| | wall s | CPU s | peak RSS, MiB |\n|---|---|---|---|")
    for row in rows:
        cells = [
            f"{value:.{0 if key == 'peak_mib' else 2}f}"
            + (f" ({value / best[rows[0]][key]:.2f}x)" if row != rows[0] else "")
            for key, value in best[row].items()
        ]
        print(f"| {ROWS[row]} | " + " | ".join(cells) + " |")
    stages = min(runs["store"], key=lambda run: run["cpu_s"])["stages"]
    print("\nCPU s by stage: " + ", ".join(f"{name} {s:.2f}" for name, s in stages.items()))


if __name__ == "__main__":
    app.run(main)
