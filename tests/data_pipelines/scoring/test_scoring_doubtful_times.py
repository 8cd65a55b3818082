"""Times that say too little: read where only one meaning fits, else refused; always told."""

import datetime
import types

import pytest

from data_pipelines import scoring
from data_pipelines.scoring import ScoringError, read_scoring
from data_pipelines.scoring.scorers import letters_of

NIGHT = "WW112233RRW2" * 10
NAMES = {"W": "Wake", "1": "N1", "2": "N2", "3": "N3", "R": "REM"}
EVENING = datetime.datetime(2021, 3, 5, 22)


def recording(start_s=22 * 3600.0, duration_s=3600.0, **more):
    return types.SimpleNamespace(
        path=None, start_of_day_s=start_s, duration_s=duration_s, labels=[], **more
    )


def clocks(form, start=EVENING):
    return [(start + datetime.timedelta(seconds=30 * k)).strftime(form) for k in range(120)]


def noxturnal(times):
    rows = (f"{time},{time},{NAMES[x]},30\n" for time, x in zip(times, NIGHT))
    return "Start Time,End Time,Event,Duration\n" + "".join(rows)


def stages(times):
    return "time,stage\n" + "".join(f"{time},{NAMES[x]}\n" for time, x in zip(times, NIGHT))


@pytest.mark.parametrize("write", [noxturnal, stages])
@pytest.mark.parametrize(
    ("form", "start", "told"),
    [
        ("%I:%M:%S", EVENING, "12-hour clock"),
        ("%I:%M:%S", EVENING.replace(hour=23, minute=30), "12-hour clock"),
        ("%I:%M:%S", EVENING.replace(hour=0, minute=30), "12-hour clock"),
        ("%H:%M", EVENING, "whole minutes"),
        ("%d.%m.%Y %H:%M", EVENING.replace(minute=0, second=30), "whole minutes"),
    ],
)
def test_clock_times_that_leave_something_out(tmp_path, write, form, start, told):
    path = tmp_path / "night.csv"
    path.write_text(write(clocks(form, start)))
    start_s = start.hour * 3600.0 + start.minute * 60 + start.second
    found = read_scoring(path, recording=recording(start_s))
    assert letters_of(found.stages) == NIGHT
    assert any(told in finding.note for finding in found.findings)


def test_a_24_hour_clock_of_another_time_is_no_12_hour_clock(tmp_path):
    path = tmp_path / "night.csv"
    path.write_text(noxturnal(clocks("%H:%M:%S", EVENING.replace(hour=10, minute=30))))
    with pytest.raises(ScoringError, match="another recording"):
        read_scoring(path, recording=recording(21 * 3600.0))


@pytest.mark.parametrize("first", [0.0, 22 / 24, 44260 + 22 / 24])
@pytest.mark.parametrize("changes", [False, True])
def test_days_of_a_spreadsheet(tmp_path, first, changes):
    keep = [k for k in range(120) if not changes or k == 0 or NIGHT[k] != NIGHT[k - 1]]
    path = tmp_path / "night.csv"
    path.write_text("".join(f"{first + k / 2880:.9f},{NAMES[NIGHT[k]]}\n" for k in keep))
    found = read_scoring(path, recording=recording())
    assert letters_of(found.stages) == NIGHT
    assert any("spreadsheets" in finding.what for finding in found.findings)


@pytest.mark.parametrize("unit_s", [30, 60])
def test_tables_that_count_epochs_or_minutes(tmp_path, unit_s):
    step = 30 / unit_s
    path = tmp_path / "night_events.tsv"
    rows = (f"{k * step}\t{step}\t{NAMES[x]}\n" for k, x in enumerate(NIGHT))
    path.write_text("onset\tduration\ttrial_type\n" + "".join(rows))
    found = read_scoring(path, recording=recording())
    assert letters_of(found.stages) == NIGHT
    assert [finding.kind for finding in found.findings] == ["time_axis"]


@pytest.mark.parametrize("duration_s", [360.0, 3600.0])
def test_a_list_of_shorter_steps_is_refused(tmp_path, duration_s):
    path = tmp_path / "night.txt"
    path.write_text("Wake\n" * int(duration_s / 20))
    with pytest.raises(ScoringError, match="every 20 s"):
        read_scoring(path, recording=recording(duration_s=duration_s))


def test_times_that_may_be_ends_and_seconds_that_are_none(tmp_path):
    path = tmp_path / "night.csv"
    path.write_text("".join(f"{30 * k + 30},{NAMES[x]}\n" for k, x in enumerate(NIGHT)))
    assert any("ends" in x.note for x in read_scoring(path, recording=recording()).findings)
    path.write_text(stages([k / 2 for k in range(120)]).replace("time,", "Time (s),"))
    with pytest.raises(ScoringError, match="no length of an epoch"):
        read_scoring(path, recording=recording())


def nsrr(text, clock, duration_s):
    rows = "".join(
        f"<ScoredEvent><EventType>Stages|Stages</EventType><EventConcept>SDO:x|{x}</EventConcept>"
        f"<Start>{30 * k}</Start><Duration>30</Duration></ScoredEvent>".replace(
            f"SDO:x|{x}", {"W": "Wake|0", "R": "REM sleep|5"}.get(x, f"Stage {x} sleep|{x}")
        )
        for k, x in enumerate(text)
    )
    return (
        "<PSGAnnotation><ScoredEvents><ScoredEvent><EventConcept>Recording Start Time"
        f"</EventConcept><Start>0</Start><Duration>{duration_s}</Duration>"
        f"<ClockTime>05.03.21 {clock}</ClockTime></ScoredEvent>{rows}</ScoredEvents>"
        "</PSGAnnotation>"
    )


@pytest.mark.parametrize("later", [1, 2, 20])
def test_a_recording_cut_out_of_the_one_that_is_scored(tmp_path, later):
    path = tmp_path / "night-nsrr.xml"
    path.write_text(nsrr("3" * later + NIGHT, "22.00.00", 3600 + 30 * later))
    found = read_scoring(path, recording=recording(22 * 3600.0 + 30 * later))
    assert letters_of(found.stages) == NIGHT
    assert any(finding.kind == "scoring_shifted" for finding in found.findings)


def test_a_start_that_disagrees_with_an_equal_length_is_told(tmp_path):
    path = tmp_path / "night-nsrr.xml"
    path.write_text(nsrr(NIGHT, "22.00.00", 3600))
    assert read_scoring(path, recording=recording()).findings == ()
    (told,) = read_scoring(path, recording=recording(22 * 3600.0 + 45)).findings
    assert told.kind == "time_axis" and "45 s after" in told.note


@pytest.mark.parametrize(
    ("inside", "scored"),
    [
        ("night.edf", "scoring/night.csv"),
        ("edf/night.edf", "annotations/night.csv"),
        ("edf/s1/night.edf", "hypnograms/s1/night_hypnogram.csv"),
        ("sub-1/eeg/sub-1_eeg.edf", "derivatives/scoring/sub-1/eeg/sub-1_events.tsv"),
        ("night.edf", "night.stages"),
        ("night.edf", "night_hypnogram.npy"),
    ],
)
def test_scorings_that_are_not_read_are_told(tmp_path, inside, scored):
    for name in (inside, scored):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("Wake\n")
    found, told = scoring.read_beside(tmp_path / inside, recording=recording())
    assert found is None
    assert any(scored.rpartition("/")[2] in x.note for x in told if x.kind == "unread_file")


def test_scorings_elsewhere_of_another_name_are_not_told(tmp_path):
    for name in ("edf/night.edf", "edf/other.edf", "scoring/night10.csv", "notes/night.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("Wake\n")
    _, told = scoring.read_beside(tmp_path / "edf/night.edf", recording=recording())
    assert [finding.kind for finding in told] == ["no_scoring"]
