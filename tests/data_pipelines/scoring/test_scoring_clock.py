"""Wall-clock exports: the stages come out as they were scored, or the file is refused or told."""

import datetime
import types

import edf_files
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from data_pipelines import scoring
from data_pipelines.recordings.edf import EdfRecording
from data_pipelines.scoring import EPOCH_S, ScoringError, read_scoring

NAMES = ("Wake", "N1", "N2", "N3", "REM")
DATES = {
    "none": lambda t: "",
    "d/m/y": lambda t: f"{t:%d/%m/%Y} ",
    "m/d/y": lambda t: f"{t.month}/{t.day}/{t.year} ",
    "d.m.yy": lambda t: f"{t:%d.%m.%y} ",
    "d-m-y": lambda t: f"{t:%d-%m-%Y} ",
    "y-m-d": lambda t: f"{t:%Y-%m-%d}T",
    "y/m/d": lambda t: f"{t:%Y/%m/%d}, ",
    "d-mon-y": lambda t: (
        f"{t:%d}-{'JanFebMarAprMayJunJulAugSepOctNovDec'[3 * t.month - 3 :][:3]}-{t.year} "
    ),
}
CLOCKS = {
    "24 h": lambda t: f"{t:%H:%M:%S}",
    "AM/PM": lambda t: f"{(t.hour - 1) % 12 + 1}:{t:%M:%S} {'AM' if t.hour < 12 else 'PM'}",
    "dotted": lambda t: f"{t:%H.%M.%S}",
    "ms": lambda t: f"{t:%H:%M:%S}.000",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("clock")


def recording(folder, start, epochs, *, date=None):
    """A recording that says no more of itself than its start and its length."""
    path = folder / "night.edf"
    date = f"{start:%d.%m.%y}" if date is None else date
    path.write_bytes(f"{'0':<8}{'':<160}{date}{start:%H.%M.%S}{'512':<8}".encode().ljust(256))
    seconds = start.hour * 3600 + start.minute * 60 + start.second
    return types.SimpleNamespace(path=path, start_of_day_s=seconds, duration_s=epochs * EPOCH_S)


def export(folder, rows, *, date="d/m/y", clock="24 h", lengths=True):
    """Write (start, end, length in s, text) as Noxturnal does."""
    lines = ["Start Time;End Time;Event;Duration"]
    for start, end, length, text in rows:
        start, end = (DATES[date](t) + CLOCKS[clock](t) for t in (start, end))
        lines.append(f"{start};{end};{text};{length if lengths else ''}")
    path = folder / "night_events.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def rows_of(stages, start, shown=lambda t: t, skip=()):
    """An epoch a row; `shown` is what the clock shows at a time."""
    rows = []
    for epoch, stage in enumerate(stages):
        if epoch in skip:
            continue
        begin = start + datetime.timedelta(seconds=EPOCH_S * epoch)
        end = begin + datetime.timedelta(seconds=EPOCH_S)
        rows.append((shown(begin), shown(end), EPOCH_S, NAMES[stage]))
    return rows


def read(path, opened):
    found, _ = scoring.align(read_scoring(path, recording=opened), opened.duration_s)
    return found


NIGHTS = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 60)), min_size=3, max_size=8).map(
    lambda runs: np.repeat([stage for stage, _ in runs], [count for _, count in runs])
)
STARTS = st.datetimes(datetime.datetime(2005, 1, 2), datetime.datetime(2030, 12, 30)).map(
    lambda start: start.replace(microsecond=0)
)


@hypothesis.given(
    stages=NIGHTS,
    start=STARTS,
    date=st.sampled_from(sorted(DATES)),
    clock=st.sampled_from(sorted(CLOCKS)),
    lead=st.integers(0, 100),
    lengths=st.booleans(),
    blank=st.booleans(),
)
@hypothesis.settings(max_examples=25, deadline=None)
def test_every_form_of_date_and_clock(folder, stages, start, date, clock, lead, lengths, blank):
    begin = start + datetime.timedelta(seconds=EPOCH_S * lead)
    opened = recording(
        folder, start, lead + len(stages), date="01.01.85" if blank and start.second else None
    )
    path = export(folder, rows_of(stages, begin), date=date, clock=clock, lengths=lengths)
    found = read(path, opened)
    assert found.stages.tolist() == [-1] * lead + stages.tolist()


@hypothesis.given(
    stages=NIGHTS,
    change=st.sampled_from([-3600, -1800, 3600, 1800]),
    at=st.integers(0, 600),
    to_change=st.integers(0, 3600),
    date=st.sampled_from(["none", "d/m/y", "m/d/y"]),
    lengths=st.booleans(),
    skips=st.sets(st.integers(0, 600), max_size=3),
    true_ends=st.booleans(),
    order=st.sampled_from(["of time", "of time", "of time", "of the clock", "of names"]),
)
@hypothesis.settings(max_examples=50, deadline=None)
def test_a_clock_that_is_set(
    folder, stages, change, at, to_change, date, lengths, skips, true_ends, order
):
    """Exact, or refused, or told: never different in silence."""
    stages = np.resize(stages, len(stages) + 130)
    # Of a few rows after the change nothing can be told once their order is lost.
    at = min(at, len(stages) - (2 if order == "of time" else 15))
    moment = datetime.datetime(2021, 10, 31, 3)
    start = moment - datetime.timedelta(seconds=EPOCH_S * at + to_change % EPOCH_S)
    set_by = datetime.timedelta(seconds=change)

    def shown(time):
        return time + set_by if time >= moment else time

    rows = rows_of(stages, start, shown, skips)
    if not true_ends:  # an export that adds the length to the start
        rows = [(t, t + datetime.timedelta(seconds=n), n, text) for t, _, n, text in rows]
    if order != "of time":
        rows.sort(key=lambda row: row[0 if order == "of the clock" else 3])
    exact = at and lengths and not skips and order == "of time"
    opened = recording(folder, start, len(stages))
    wanted = stages.copy()
    wanted[[x for x in skips if x < len(stages)]] = -1
    try:
        found = read(export(folder, rows, date=date, lengths=lengths), opened)
    except ScoringError as error:
        assert "clock" in str(error) or "another recording" in str(error)
        assert not exact
        return
    if exact:
        assert found.stages.tolist() == wanted.tolist()
        assert [x.what for x in found.findings] == [
            f"clock set {'back' if change < 0 else 'forward'}"
        ]
    elif (found.stages != wanted).sum() > 1:
        assert found.findings


@hypothesis.given(
    stages=NIGHTS,
    start=STARTS,
    order=st.sampled_from(["stages first", "events first", "by name", "by time"]),
    gap=st.sampled_from([0, 59, 60, 61, 119, 120, 121]),
    at=st.integers(0, 600),
    events=st.sets(st.integers(0, 20_000), max_size=30),
    date=st.sampled_from(["none", "d/m/y"]),
    lengths=st.booleans(),
)
@hypothesis.settings(max_examples=25, deadline=None)
def test_without_a_set_clock_nothing_is_moved(
    folder, stages, start, order, gap, at, events, date, lengths
):
    """Whatever the order of the rows, and although an hour is left out of the scoring."""
    start = start.replace(minute=at % 2 * 30, second=0)
    skip = set(range(at, at + gap)) if at + gap < len(stages) and order == "by time" else set()
    rows = rows_of(stages, start, skip=skip)
    extra = []
    for second in sorted(x for x in events if x < EPOCH_S * len(stages) - 20):
        begin = start + datetime.timedelta(seconds=second)
        extra.append((begin, begin + datetime.timedelta(seconds=12), 12, "Arousal"))
    rows = [*extra, *rows] if order == "events first" else [*rows, *extra]
    if order == "by name":
        rows.sort(key=lambda row: row[3])
    elif order == "by time":
        rows.sort(key=lambda row: row[0])
    opened = recording(folder, start, len(stages))
    found = read(export(folder, rows, date=date, lengths=lengths), opened)
    wanted = stages.copy()
    wanted[list(skip)] = -1
    assert found.stages.tolist() == wanted.tolist()
    assert len(found.events) == len(extra)


EVENING = datetime.datetime(2021, 3, 5, 23, 55)
STAGES = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 0, 2, 1, 1, 3, 3, 4, 2])


def changed(old, new, rows=None):
    """An export of `STAGES` from `EVENING` with some of its text changed."""

    def write(folder, **form):
        path = export(folder, rows_of(STAGES, EVENING), **form)
        lines = path.read_text().splitlines()
        for row in range(len(lines)) if rows is None else rows:
            lines[row] = lines[row].replace(old, new)
        path.write_text("\n".join(lines))
        return path

    return write


@pytest.mark.parametrize(
    ("write", "form"),
    [
        (changed("06/03/2021 00:00:00", "05/03/2021 24:00:00"), {}),
        (changed("06/03/2021 00:00:00", "06/03/2021 24:00:00"), {}),
        (changed("00:00:00", "24:00:00"), {"date": "none"}),
        (changed(";00:0", ";24:0"), {"date": "none"}),
        (changed("06/03/2021", "05/03/2021"), {}),  # the date of the night, not of the day
        (changed("05/03/2021 ", "", rows=range(3, 9)), {}),
        (changed("05/03/2021 ", "", rows=range(1, 4)), {}),
        (changed("06/03/2021 ", ""), {}),
        (changed(" PM", " p.m."), {"clock": "AM/PM"}),
        (changed(" AM", "AM"), {"clock": "AM/PM", "date": "m/d/y"}),
        (changed("12:0", "0:0"), {"clock": "AM/PM"}),
    ],
)
def test_odd_ways_to_write_a_time(folder, write, form):
    found = read(write(folder, **form), recording(folder, EVENING, len(STAGES)))
    assert found.stages.tolist() == STAGES.tolist()


@pytest.mark.parametrize("zone", ["Z", "+00:00", "-0500"])
def test_times_of_another_zone_are_not_taken_for_the_recordings(folder, zone):
    for hours, fits in ((0, True), (1, False), (-1, False), (5, False)):
        begin = EVENING + datetime.timedelta(hours=hours)
        rows = rows_of(STAGES, begin)
        path = export(folder, rows, date="y-m-d")
        path.write_text(
            path.read_text().replace(":00;", f":00{zone};").replace(":30;", f":30{zone};")
        )
        opened = recording(folder, EVENING, len(STAGES))
        if fits:
            assert read(path, opened).stages.tolist() == STAGES.tolist()
        else:
            with pytest.raises(ScoringError, match="time zone"):
                read(path, opened)


def test_a_clock_that_counts_from_the_start_of_the_recording(folder):
    """0:00:00, 0:00:30 ... is no time of day where the recording starts at 22:30."""
    start = datetime.datetime(2021, 3, 5, 22, 30)
    path = export(folder, rows_of(STAGES, start.replace(hour=0, minute=0)), date="none")
    found = read(path, recording(folder, start, len(STAGES)))
    assert found.stages.tolist() == STAGES.tolist()
    assert "time since the recording's start" in found.findings[0].note
    # Scored from midnight on, or by a clock that starts with the recording: told.
    found = read(path, recording(folder, start, 960))
    assert found.stages[180 : 180 + len(STAGES)].tolist() == STAGES.tolist()
    assert "read as midnight" in found.findings[0].note


@pytest.mark.parametrize("date", ["01.01.85", "01.01.00", "00.00.00", "xx.xx.xx", "01.01.70"])
def test_a_blanked_start_is_no_time_of_day(folder, date):
    """A real midnight, and a scoring that was blanked likewise, are read."""

    def opened(date, clock):
        signal = edf_files.signal("C3", np.zeros((len(STAGES), 1)))
        data = edf_files.edf([signal], record_s="30", start=clock)
        path = folder / "night.edf"
        path.write_bytes(data[:168] + date.encode() + data[176:])
        return EdfRecording(path)

    scored = export(folder, rows_of(STAGES, EVENING))
    with pytest.raises(ScoringError, match="blanked"):
        read(scored, opened(date, "00.00.00"))
    noon = EVENING.replace(hour=12, minute=1, second=30)
    found = read(export(folder, rows_of(STAGES, noon)), opened(date, "12.00.00"))
    assert [x.kind for x in found.findings][0] == "time_axis"
    later = EVENING.replace(hour=0, minute=1, second=30)  # perhaps likewise, perhaps real
    fits = export(folder, rows_of(STAGES[:-4], later), date="none")
    assert [x.kind for x in read(fits, opened(date, "00.00.00")).findings][0] == "time_axis"
    likewise = export(folder, rows_of(STAGES, EVENING.replace(hour=0, minute=0)), date="none")
    found = read(likewise, opened(date, "00.00.00"))
    assert found.stages.tolist() == STAGES.tolist() and not found.findings
    real = export(folder, rows_of(STAGES, datetime.datetime(2021, 3, 6)))
    found = read(real, opened("06.03.21", "00.00.00"))
    assert found.stages.tolist() == STAGES.tolist() and not found.findings
    # Nothing else needs the clock.
    (folder / "a_events.tsv").write_text("onset\tduration\ttrial_type\n30\t60\tN2\n")
    assert read(folder / "a_events.tsv", opened(date, "00.00.00")).stages[1:3].tolist() == [2, 2]


def test_luna_and_remlogic_times_of_a_set_clock(folder):
    moment = datetime.datetime(2021, 10, 31, 3)
    stages = np.repeat([1, 2, 3, 4], 40)
    start = moment - datetime.timedelta(minutes=40)
    for change in (3600, 1800):
        rows = rows_of(
            stages,
            start,
            lambda t: t - datetime.timedelta(seconds=change) if t >= moment else t,  # noqa: B023
        )
        luna = folder / "night.annot"
        luna.write_text(
            "".join(
                f"{('N1', 'N2', 'N3', 'R')[stages[i] - 1]}\t.\t.\t{a:%H:%M:%S}\t{b:%H:%M:%S}\t.\n"
                for i, (a, b, _, _) in enumerate(rows)
            )
        )
        text = folder / "night.txt"
        text.write_text(
            "Time [hh:mm:ss]\tEvent\tDuration[s]\n"
            + "".join(
                f"{a:%H:%M:%S}\tSLEEP-{('S1', 'S2', 'S3', 'REM')[stages[i] - 1]}\t30\n"
                for i, (a, _, _, _) in enumerate(rows)
            )
        )
        for path in (luna, text):
            found = read(path, recording(folder, start, len(stages)))
            assert found.stages.tolist() == stages.tolist()
            assert [x.what for x in found.findings] == ["clock set back"]


def test_rows_whose_times_are_none_are_counted(folder):
    path = changed("05/03/2021 23:56:00;", "unknown;", rows=[2, 3])(folder)
    found = read(path, recording(folder, EVENING, len(STAGES)))
    assert found.stages.tolist() == [0, -1, -1, *STAGES[3:]]
    assert [(x.kind, x.count) for x in found.findings] == [("unread_annotation", 2)]
