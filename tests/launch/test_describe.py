"""A recording described: the files agree, say what is missing, and name nobody."""

import csv
import importlib.util
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from tiny_recordings import CANARY, write_edf

from data_pipelines.captions.facts import MODALITIES, SLOTS
from data_pipelines.captions.parse import parse
from data_pipelines.scoring import Event, Scoring
from data_pipelines.scoring.writing import write_scoring

ROOT = pathlib.Path(__file__).parents[2]
LABELS = {"EEG C3-M2": 20.0, "ECG": 300.0, "ABD": 5.0, "Chin1-Chin2": 10.0}


def describe(*arguments):
    command = [sys.executable, "-m", "launch.describe", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    folder = tmp_path_factory.mktemp("described")
    recording = write_edf(folder / "Yellowbird-C.edf", seconds=180, labels=LABELS)
    events = [Event("arousal", 28.0, 5.0), Event("apnea_central", 100.0, 15.0)]
    scored = folder / "stages.annot"
    write_scoring(scored, Scoring(np.array([0, 1, 2, 3, 4, -1], np.int8), events, "made"))
    options = [f"--input={recording}", f"--output={folder / 'out'}", f"--scoring={scored}"]
    done = describe(*options, "--micro_events")
    assert done.returncode == 0, done.stderr
    return folder / "out", done.stdout


def test_the_table_the_document_and_the_page_say_the_same(described):
    folder, said = described
    assert sorted(p.name for p in folder.iterdir()) == ["epochs.csv", "epochs.json", "night.html"]
    with open(folder / "epochs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    document = json.loads((folder / "epochs.json").read_text())
    page = (folder / "night.html").read_text()
    assert [row["stage"] for row in rows] == ["W", "N1", "N2", "N3", "R", ""]
    assert set(SLOTS) | set(MODALITIES) <= set(rows[0])
    assert rows[0]["events"] == "Arousal 28.0-30.0 (goes on)"
    assert rows[5]["flags"].startswith("no stage")
    for row, epoch in zip(rows, document["epochs"], strict=True):
        assert {name: row[name] for name in epoch["captions"]} == epoch["captions"]
        assert epoch["captions"]["global"] in page
        facts = epoch["facts"]
        read = parse(row["brain"]).facts.numbers
        assert read["eeg_c3.delta"] == pytest.approx(facts["numbers"]["eeg_c3.delta"], abs=0.006)
    assert document["night"]["total_sleep_time"]["value"] == 2.0
    assert "data:image/png;base64," in page and "6 epochs described" in said


def test_spindles_and_slow_waves_have_a_number_or_a_reason(described):
    folder, said = described
    page = (folder / "night.html").read_text()
    with open(folder / "epochs.csv", newline="") as file:
        found = [row["eeg_c3.spindles"] for row in csv.DictReader(file)]
    assert not any(found[k] for k in (0, 4, 5))  # wake, REM and what nobody scored
    if importlib.util.find_spec("yasa") is None:
        told = "slow waves were not looked for: YASA is not installed"
        assert not any(found)
    else:
        told = "slow waves are those of yasa"
        assert all(found[1:4])
    assert told in said and told in page


def test_captions_of_no_model_are_not_kept_to_a_grammar(tmp_path):
    done = describe("--input=x.edf", f"--output={tmp_path / 'out'}", "--constrained")
    assert done.returncode != 0 and "none is given" in done.stdout + done.stderr


def test_nothing_of_the_files_text_or_name_is_in_what_is_written(described):
    for path in described[0].iterdir():
        text = path.read_text()
        assert not any(word in text for word in (*CANARY.split(), "Yellowbird", "22:30"))


def test_a_file_that_is_no_recording_is_refused_in_one_line(tmp_path):
    (tmp_path / "night.edf").write_bytes(b"<script>alert(1)</script>" * 40)
    done = describe(f"--input={tmp_path / 'night.edf'}", f"--output={tmp_path / 'out'}")
    assert done.returncode == 1 and not (tmp_path / "out").exists()
    assert len(done.stderr.strip().splitlines()) == 1 and done.stderr.startswith("describe: ")
