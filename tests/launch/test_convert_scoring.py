"""A scoring written in every form: what reads back, what other readers see, what is refused."""

import csv
import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import types
import xml.etree.ElementTree

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tiny_recordings import CANARY, write_edf

from data_pipelines import scoring
from data_pipelines.scoring import Event, Scoring, ScoringError, read_scoring
from data_pipelines.scoring.writing import FORMS, write_scoring

ROOT = pathlib.Path(__file__).parents[2]
VALUES = {
    "arousal": ("", "spontaneous", "respiratory", "leg_movement"),
    "position": ("supine", "prone", "left", "right", "upright"),
}
ONE_VALUE = ("position", "lights_off", "lights_on")
EVENTS = [
    Event(kind, 7.125 * number, 3.5, value)
    for number, (kind, value) in enumerate(
        (kind, value)
        for kind in scoring.EVENT_KINDS
        for value in (*VALUES.get(kind, ("",)), *(("epoch",) if kind not in ONE_VALUE else ()))
    )
]
LOOKED_FOR = st.booleans() | st.sampled_from([("apnea",), ("arousal", "leg_movement")])
HOLD_ALL = sorted(set(FORMS) - {".csv"})


@st.composite
def scorings(draw):
    """Any scoring that a reader may give: times in ms, every kind and value."""
    stages = draw(st.lists(st.integers(-1, 4), max_size=30))
    events = []
    for event in draw(st.lists(st.sampled_from(EVENTS), max_size=12)):
        duration = draw(st.integers(0, 600_000))
        onset = draw(st.integers(-duration, 1_000_000))
        made = Event(event.kind, onset / 1000, duration / 1000, event.value)
        if made not in events:  # the same event twice is read as one
            events.append(made)
    return Scoring(np.array(stages, np.int8), events, "made", draw(LOOKED_FOR))


def ms(event):
    return event.kind, round(event.onset_s * 1000), round(event.duration_s * 1000), event.value


@pytest.mark.parametrize("suffix", FORMS)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(scored=scorings())
def test_what_is_written_reads_back(tmp_path, suffix, scored):
    path = tmp_path / f"a{suffix}"
    assume(len(scored.stages) or (scored.events and suffix != ".csv"))
    told = write_scoring(path, scored, start_of_day_s=80_000.5, replace=True)
    found = read_scoring(path)
    assert found.stages.tolist() == scored.stages.tolist()
    # Events of one kind that overlap are told, whoever wrote them.
    assert {(x.kind, x.what) for x in found.findings} <= {("several_scorers", "events")}
    if suffix == ".csv":
        assert found.events == [] and not found.events_scored
        assert len(told) == bool(scored.events) + bool(scored.events_scored)
    else:
        assert sorted(map(ms, found.events)) == sorted(map(ms, scored.events))
        assert found.events_scored == scored.events_scored
        assert told == []
    night = types.SimpleNamespace(path=None, start_of_day_s=80_000.5, duration_s=1000.0)
    beside = read_scoring(path, recording=night)
    assert beside.stages.tolist() == scored.stages.tolist()
    assert sorted(map(ms, beside.events)) == sorted(map(ms, found.events))
    content = path.read_bytes()
    write_scoring(path, scored, start_of_day_s=80_000.5, replace=True)
    assert path.read_bytes() == content


def test_every_kind_and_value_is_written():
    """The strategy above draws from all there is."""
    assert {event.kind for event in EVENTS} == set(scoring.EVENT_KINDS)
    assert len({(event.kind, event.value) for event in EVENTS}) == len(EVENTS)


@pytest.fixture
def scored():
    stages = np.array([-1, 0, 0, 1, 2, 3, 4, 4, -1, -1], np.int8)
    events = [Event("hypopnea", 65.25, 12.0), Event("arousal", 77.0, 3.125, "respiratory")]
    return Scoring(stages, events, "made")


def test_what_a_form_cannot_hold_is_told(tmp_path, scored):
    (left_out, looked) = write_scoring(tmp_path / "a.csv", scored)
    assert left_out == "2 events are left out: 1 hypopnea, 1 arousal"
    assert "for which events somebody looked" in looked
    odd = Scoring(scored.stages, [Event("arousal", 3.0, 3.0, "a bell")], "made")
    for suffix in HOLD_ALL:
        (told,) = write_scoring(tmp_path / f"a{suffix}", odd)
        assert told == "1 events lose what is in brackets: 1 arousal (a bell)"
        assert b"bell" not in (tmp_path / f"a{suffix}").read_bytes()
    apart = dataclasses.replace(scored, scorers=(scored.stages, scored.stages))
    assert "2 people" in write_scoring(tmp_path / "c.annot", apart)[0]
    only_events = Scoring(np.zeros(0, np.int8), scored.events, "made")
    with pytest.raises(ScoringError, match="can hold nothing"):
        write_scoring(tmp_path / "b.csv", only_events)
    assert not (tmp_path / "b.csv").exists()


def test_bids_events_are_a_plain_table(tmp_path, scored):
    path = tmp_path / "a_events.tsv"
    quiet = Scoring(scored.stages, [], "made")
    write_scoring(path, quiet)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", strict=True))
    # BIDS: onset and duration first, in s, `n/a` for what is not known, no empty cell.
    assert list(rows[0]) == ["onset", "duration", "trial_type"]
    assert all(all(cell.strip() == cell != "" for cell in row.values()) for row in rows)
    assert all(row["duration"] == "n/a" or float(row["duration"]) >= 0 for row in rows)
    assert [float(row["onset"]) for row in rows] == sorted(float(row["onset"]) for row in rows)
    assert {"onset": "0", "duration": "n/a", "trial_type": "Events scored"} in rows
    assert b"\r" not in path.read_bytes()


def test_nsrr_xml_has_the_structure_of_nsrr(tmp_path, scored):
    path = tmp_path / "a-nsrr.xml"
    write_scoring(path, scored, start_of_day_s=81_000.0, duration_s=3600.5)
    root = xml.etree.ElementTree.parse(path).getroot()
    assert root.tag == "PSGAnnotation"
    assert root.findtext("EpochLength") == "30"
    first, *rows = root.find("ScoredEvents")
    assert first.findtext("EventConcept") == "Recording Start Time"
    assert first.findtext("Duration") == "3600.5"
    assert first.findtext("ClockTime") == "00.00.00 22.30.00"
    found = [[row.findtext(x) for x in ("EventType", "EventConcept", "Start")] for row in rows]
    assert ["Respiratory|Respiratory", "Hypopnea|Hypopnea", "65.25"] in found
    assert ["Stages|Stages", "REM sleep|5", "180.0"] in found
    assert ["Stages|Stages", "Unscored|9", "240.0"] in found
    assert all(float(row.findtext("Duration")) > 0 for row in rows)


def test_edf_annotations_as_other_readers_see_them(tmp_path, scored):
    path = tmp_path / "a.edf"
    write_scoring(path, scored, start_of_day_s=81_000.0)
    expected = {("Sleep stage ?", 0.0, 30.0), ("Sleep stage R", 180.0, 60.0)}
    expected |= {("Hypopnea", 65.25, 12.0), ("Respiratory arousal", 77.0, 3.125)}
    edfio = pytest.importorskip("edfio")
    read = edfio.read_edf(path)
    assert {(x.text, x.onset, x.duration) for x in read.annotations} >= expected
    assert read.starttime.isoformat() == "22:30:00"
    mne = pytest.importorskip("mne")
    notes = mne.read_annotations(path)
    assert set(zip(notes.description, notes.onset, notes.duration)) >= expected
    pyedflib = pytest.importorskip("pyedflib")
    with pyedflib.EdfReader(str(path)) as file:
        onsets, durations, texts = file.readAnnotations()
    assert set(zip(texts, onsets, map(float, durations))) >= expected


def test_the_hypnogram_of_yasa(tmp_path, scored):
    path = tmp_path / "a.csv"
    write_scoring(path, scored)
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["Epoch", "Stage"]
    names = ["UNS", "WAKE", "WAKE", "N1", "N2", "N3", "REM", "REM", "UNS", "UNS"]
    assert rows[1:] == [[str(i), name] for i, name in enumerate(names)]


def convert(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "launch.convert_scoring", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_command(tmp_path):
    recording = write_edf(tmp_path / "night.edf", seconds=300)
    export = tmp_path / "night.txt"
    export.write_text(
        f"RemLogic Event Export\nPatient:\t{CANARY}\n\n"
        "Time [hh:mm:ss]\tEvent\tDuration[s]\n22:30:00\tSLEEP-S0\t30\n22:30:30\tSLEEP-S2\t30\n"
        "22:30:31\tAPNEA-CENTRAL\t12\n"
    )
    output = tmp_path / "night_events.tsv"
    done = convert(f"--input={export}", f"--recording={recording}", f"--output={output}")
    assert done.returncode == 0, done.stderr
    assert "2 epochs of 30 s: W 1, N1 0, N2 1" in done.stdout
    assert "apnea_central 1" in done.stdout
    assert output.read_text() == (
        "onset\tduration\ttrial_type\n0\t30\tSleep stage W\n30\t30\tSleep stage N2\n"
        "31\t12\tCentral apnea\n"
    )
    assert CANARY not in done.stdout + done.stderr + output.read_text()


def test_what_the_command_refuses(tmp_path):
    (tmp_path / "in.tsv").write_text("onset\tduration\ttrial_type\n0\t30\tSleep stage W\n")
    (tmp_path / "there.tsv").write_text("there")
    write_edf(tmp_path / "signals.edf", seconds=30)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    # One process, as each takes seconds to start.
    code = (
        "import sys\nfrom absl import flags\nfrom launch import convert_scoring\n"
        "for line in sys.argv[1:]:\n"
        "    flags.FLAGS.unparse_flags()\n    flags.FLAGS(['x', *line.split()])\n"
        "    print(convert_scoring.main(['x']), file=sys.stderr)\n"
    )
    lines = [
        "--overwrite --input=in.tsv --output=out.xlsx",
        "--overwrite --input=in.tsv --output=in.tsv",
        "--nooverwrite --input=in.tsv --output=there.tsv",
        "--overwrite --input=in.tsv --output=signals.edf",
        "--overwrite --input=in.tsv --output=none/out.tsv",
        "--overwrite --input=none.tsv --output=out.tsv",
    ]
    done = subprocess.run(
        [sys.executable, "-c", code, *lines],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    told = done.stderr.splitlines()
    assert told[1::2] == ["1"] * len(lines)
    messages = [
        r"\.tsv \(BIDS events\), \.annot .*\.csv",
        "is what is read",
        "--overwrite replaces it",
        "holds signals",
        "No such file.*none",
        "is not there",
    ]
    for message, line in zip(messages, told[::2], strict=True):
        assert re.search(message, line)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_real_scorings_survive_every_form(tmp_path, test_data):
    sources = [
        test_data / "sleep-edf/SC4001EC-Hypnogram.edf",
        test_data / "sleep-edf/SC4001E0-PSG.edf.hyp",
        *sorted((test_data / "slpdb").glob("*.st"))[:4],
        *sorted((test_data / "boas").rglob("*psg_events.tsv"))[:2],
    ]
    for source in sources:
        scored = read_scoring(source)
        for suffix in HOLD_ALL:
            assert write_scoring(tmp_path / f"{source.stem}{suffix}", scored, replace=True) == []
