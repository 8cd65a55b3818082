"""The folder of small public recordings: every file can be opened, and its labels are resolved."""

import pathlib
import subprocess
import sys

import numpy as np

from data_pipelines.channels.resolve import load_aliases
from data_pipelines.recordings.opening import open_recording
from data_pipelines.scoring import read_beside, read_scoring

ROOT = pathlib.Path(__file__).parent.parent.parent


def gather(*arguments):
    command = [sys.executable, "-m", "launch.gather_public", *arguments]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120)


def test_the_recordings_are_gathered_with_the_scoring_of_one(test_data, tmp_path):
    gather(f"--input={test_data}", f"--output={tmp_path}")
    names = ["dynamo.edf", "nox_a1_2min.edf", "sleep_edf_5min.edf", "sleep_edf_5min_bdf.bdf"]
    files = [path for path in tmp_path.iterdir() if "Hypnogram" not in path.name]
    assert sorted(path.name for path in files) == names
    labels = {label for path in files for label in open_recording(path).labels}
    aliases = load_aliases(ROOT / "configs/pipelines/public_aliases.toml")
    known = {label for entries in aliases.values() for label in entries}
    assert known - labels == {"EEG UCDDB"}
    stages = read_scoring(tmp_path / "dynamo-Hypnogram.edf").stages
    assert len(stages) > 150 and np.isin(stages, [0, 1, 2, 3, 4]).mean() > 0.9


def test_nights_of_one_eeg_lie_on_their_grid_beside_their_scoring(test_data, tmp_path):
    ucddb = tmp_path / "public/ucddb-eeg"
    ucddb.mkdir(parents=True)
    (tmp_path / "public/dynamo").symlink_to(test_data / "dynamo")
    for part in ("eeg.npz", "stage.txt", "respevt.txt"):
        (ucddb / f"ucddb018_{part}").symlink_to(test_data / f"ucddb-eeg/ucddb018_{part}")
    folder = tmp_path / "recordings"
    gather("--which=one_eeg", f"--input={tmp_path / 'public'}", f"--output={folder}")
    assert {path.name for path in folder.glob("*.edf")} >= {"dynamo.edf", "ucddb018.edf"}
    night = open_recording(folder / "ucddb018.edf")
    with np.load(ucddb / "ucddb018_eeg.npz") as file:
        wanted = file["eeg"][100] * float(file["step"]) * 125
        assert night.duration_s == 30 * len(file["stage"])
    np.testing.assert_allclose(night.read(0, 3000, 3030), wanted, atol=0.1)
    assert night.start_of_day_s == (23 * 60 + 49) * 60 + 2
    found, _ = read_beside(folder / "ucddb018.edf", recording=night, code_book="ucddb")
    assert len(found.stages) == 822
    assert found.events and found.events[0].onset_s > 0


def test_ecgs_are_gathered_in_millivolts_with_whose_they_are(test_data, tmp_path):
    for files in (
        ["mitdb-lead1/201.npz", "mitdb-lead1/202.npz"],
        ["bidmc/bidmc20.npz", "bidmc/bidmc21.npz"],
    ):
        for file in files:
            (tmp_path / "public" / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "public" / file).symlink_to(test_data / file)
    folder = tmp_path / "recordings"
    gather("--which=ecg", f"--input={tmp_path / 'public'}", f"--output={folder}")
    rows = dict(row.split(",") for row in (folder / "participants.csv").read_text().split()[1:])
    assert set(rows) == {"mitdb201", "mitdb202", "bidmc20", "bidmc21"}
    assert rows["mitdb201"] == rows["mitdb202"] != rows["bidmc20"] == rows["bidmc21"]
    record = open_recording(folder / "mitdb201.edf")
    with np.load(test_data / "mitdb-lead1/201.npz") as file:
        wanted_mv = (file["ecg"][3600:7200].astype(float) - 1024) / 200
    np.testing.assert_allclose(record.read(0, 10, 20) / 1000, wanted_mv, atol=1e-3)  # read in uV
