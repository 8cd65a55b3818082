"""The folder of small public recordings: every file can be opened, and its labels are resolved."""

import pathlib
import subprocess
import sys

import numpy as np

from data_pipelines.channels.resolve import load_aliases
from data_pipelines.recordings.opening import open_recording
from data_pipelines.scoring import read_scoring

ROOT = pathlib.Path(__file__).parent.parent.parent


def test_the_recordings_are_gathered_with_the_scoring_of_one(test_data, tmp_path):
    command = [sys.executable, "-m", "launch.gather_public"]
    command += [f"--input={test_data}", f"--output={tmp_path}"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120)
    names = ["dynamo.edf", "nox_a1_2min.edf", "sleep_edf_5min.edf", "sleep_edf_5min_bdf.bdf"]
    files = [path for path in tmp_path.iterdir() if "Hypnogram" not in path.name]
    assert sorted(path.name for path in files) == names
    labels = {label for path in files for label in open_recording(path).labels}
    aliases = load_aliases(ROOT / "configs/pipelines/public_aliases.toml")
    assert {label for entries in aliases.values() for label in entries} <= labels
    stages = read_scoring(tmp_path / "dynamo-Hypnogram.edf").stages
    assert len(stages) > 150 and np.isin(stages, [0, 1, 2, 3, 4]).mean() > 0.9
