"""A scoring on the time axis of its recording: cut recordings, first records, units, lengths."""

import datetime
import re
import types

import edf_files
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from data_pipelines import scoring
from data_pipelines.recordings.edf import EdfRecording
from data_pipelines.scoring import EPOCH_S, Event, Scoring, ScoringError, read_scoring

BEGAN = datetime.datetime(2021, 3, 5, 23, 50)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("placement")


def recording(path, start, epochs, *, first="0", width=2, version=b"0       ", rate=1, date=None):
    """A recording of 30-s records, whose first is `first` s later than its header."""
    seconds = float(first)
    signals = [
        edf_files.signal("C3", np.zeros((epochs, 30 * rate))),
        edf_files.annotations([edf_files.onset(f"{seconds + 30 * i:g}") for i in range(epochs)]),
    ]
    if width == 3:  # an annotation signal holds bytes, whatever the width of a sample
        texts = signals[1]["samples"].astype("<i2").view(np.uint8).reshape(epochs, -1)
        texts = np.pad(texts, ((0, 0), (0, -texts.shape[1] % 3))).reshape(epochs, -1, 3)
        signals[1]["samples"] = (texts.astype(int) * [1, 256, 65536]).sum(-1)
        signals[1]["label"] = "BDF Annotations"
    data = edf_files.edf(
        signals,
        record_s="30",
        reserved="EDF+C",
        start=f"{start:%H.%M.%S}",
        width=width,
        version=version,
    )
    date = f"{start:%d.%m.%y}" if date is None else date
    path.write_bytes(data[:168] + date.encode() + data[176:])
    return EdfRecording(path)


def hypnogram(path, start, stages, *, first=0.0):
    scoring.write_edf_annotations(path, Scoring(np.array(stages, np.int8), [], ""), start=start)
    if first:
        data = path.read_bytes()
        body = data[512:].rstrip(b"\0").replace(b"+0\x14\x14", b"+%g\x14\x14" % first, 1)
        # Its annotations count from the header, not from its first record.
        path.write_bytes(data[:512] + body.ljust(len(data) - 512, b"\0"))
    return path


@hypothesis.given(
    stages=st.lists(st.integers(0, 4), min_size=20, max_size=60),
    before=st.integers(-15, 15),
    first=st.sampled_from(["0", "0.25", "600", "1800", "90"]),
    epochs=st.integers(20, 60),
    blank=st.booleans(),
    bdf=st.booleans(),
)
@hypothesis.settings(max_examples=60, deadline=None)
def test_headers_say_how_scoring_and_recording_lie_to_each_other(
    folder, stages, before, first, epochs, blank, bdf
):
    """What time a recording's sample has: header, and the first record's own time."""
    blanked = {"date": "01.01.85"} if blank else {}
    kind = {"width": 3, "version": b"\xffBIOSEMI"} if bdf else {}
    opened = recording(folder / "night.edf", BEGAN, epochs, first=first, **blanked, **kind)
    assert opened.labels == ["C3"]
    assert opened.start_of_day_s == pytest.approx((85_800 + float(first)) % 86_400)
    path = hypnogram(
        folder / "night-Hypnogram.edf", BEGAN - datetime.timedelta(seconds=30 * before), stages
    )
    lead = round(float(first) / 30) + before  # epochs of the scoring before the recording
    wanted = [stages[e + lead] if 0 <= e + lead < len(stages) else -1 for e in range(epochs)]
    inside = sum(stage >= 0 for stage in wanted)
    if inside < 0.1 * min(epochs, len(stages)) + 1:
        return
    found, _ = scoring.align(read_scoring(path, recording=opened), opened.duration_s)
    assert found.stages.tolist() == wanted
    told = {x.kind: x.seconds for x in found.findings if "before" in x.what or "beside" in x.what}
    assert told.get("scoring_trimmed", 0) == pytest.approx(30 * max(lead, 0), abs=1)
    assert ("scoring_shifted" in told) == (abs(before * 30 + float(first)) >= 1)


def test_a_hypnogram_has_a_first_record_of_its_own(folder):
    opened = recording(folder / "night.edf", BEGAN, 20)
    path = hypnogram(folder / "night-Hypnogram.edf", BEGAN, [0, 1, 2, 3, 4] * 4, first=60)
    assert read_scoring(path, recording=opened).stages.tolist() == [0, 1, 2, 3, 4] * 4


@pytest.mark.parametrize(
    ("start", "date"),
    [
        (BEGAN - datetime.timedelta(days=1), None),  # dates contradict
        (BEGAN + datetime.timedelta(days=365), None),
        (BEGAN - datetime.timedelta(minutes=29), "01.01.85"),  # 1 min of 30 lies within
        (BEGAN + datetime.timedelta(hours=2), None),
    ],
)
def test_another_nights_scoring_is_refused(folder, start, date):
    opened = recording(folder / "night.edf", BEGAN, 60, date=date)
    path = hypnogram(folder / "night-Hypnogram.edf", start, [0, 1, 2, 3, 4] * 12)
    with pytest.raises(ScoringError, match="belongs to another recording"):
        read_scoring(path, recording=opened)


@pytest.mark.parametrize("blanked", ["recording", "scoring", "both"])
def test_a_blanked_start_of_either_file(folder, blanked):
    nothing = datetime.datetime(1985, 1, 1)
    of_recording = BEGAN if blanked == "scoring" else nothing
    of_scoring = BEGAN if blanked == "recording" else nothing
    opened = recording(folder / "night.edf", of_recording, 20)
    path = hypnogram(folder / "night-Hypnogram.edf", of_scoring, [0, 1, 2, 3, 4] * 4)
    found = read_scoring(path, recording=opened)
    assert found.stages.tolist() == [0, 1, 2, 3, 4] * 4
    assert [x.kind for x in found.findings] == ["time_axis"] * (blanked != "both")


def test_times_that_count_from_the_first_sample_or_the_header_are_told(folder):
    opened = recording(folder / "night.edf", BEGAN, 20, first="600")
    path = folder / "a.annot"
    path.write_text("N2\t.\t.\t0\t600\t.\n")
    (told,) = read_scoring(path, recording=opened).findings
    assert told.kind == "time_axis" and told.seconds == 600
    bids = folder / "a_events.tsv"  # BIDS counts from the first sample, its writers do not always
    bids.write_text("onset\tduration\ttrial_type\n0\t600\tN2\n")
    (told,) = read_scoring(bids, recording=opened).findings
    assert told.kind == "time_axis" and told.seconds == 600


@hypothesis.given(
    runs=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 9)), min_size=4, max_size=12),
    factor=st.sampled_from([1000, 256, 100, 1]),
)
@hypothesis.settings(max_examples=40, deadline=None)
def test_times_in_milliseconds_or_samples_are_told_or_refused(folder, runs, factor):
    stages = np.repeat([stage for stage, _ in runs], [count for _, count in runs])
    if len(np.flatnonzero(np.diff(stages))) < 2:
        return
    opened = types.SimpleNamespace(
        path=None,
        start_of_day_s=None,
        duration_s=float(len(stages) * EPOCH_S),
        labels=["C3", "SpO2", "ECG"],
        problem=lambda index: None,
        sfreq_hz=lambda index: (100, 1, 256)[index],
    )
    rows = [
        f"{i * EPOCH_S * factor}\t{EPOCH_S * factor}\t{('Wake', 'N1', 'N2', 'N3', 'REM')[stage]}"
        for i, stage in enumerate(stages)
    ]
    path = folder / "a_events.tsv"
    path.write_text("\n".join(["onset\tduration\ttrial_type", *rows]))
    if factor == 1:
        assert read_scoring(path, recording=opened).stages.tolist() == stages.tolist()
        return
    try:
        found = read_scoring(path, recording=opened)
    except ScoringError as error:
        assert re.search("another unit|seem to be in|look like (milliseconds|samples)", str(error))
    else:
        assert found.stages.tolist() == stages.tolist()
        assert [finding.kind for finding in found.findings] == ["time_axis"]
    xml = "".join(
        f"<ScoredEvent><EventType>Stages|Stages</EventType><EventConcept>{text}</EventConcept>"
        f"<Start>{start}</Start><Duration>{length}</Duration></ScoredEvent>"
        for start, length, text in (row.split("\t") for row in rows)
    )
    path = folder / "a-nsrr.xml"
    path.write_text(f"<PSGAnnotation><ScoredEvents>{xml}</ScoredEvents></PSGAnnotation>")
    with pytest.raises(ScoringError, match="another unit|look like (milliseconds|samples)"):
        read_scoring(path, recording=opened)


def test_lengths_that_disagree_are_findings():
    """One epoch is rounding, and a note."""
    made = Scoring(np.array([0, 1, 2, 3, 4] * 20, np.int8), [Event("arousal", 5.0, 3.0)], "made")
    for epochs, kinds in ((100, []), (101, []), (99, []), (98, ["scoring_trimmed"])):
        found, notes = scoring.align(made, epochs * 30.0)
        assert [x.kind for x in found.findings] == kinds
        assert len(found.notes) + len(found.findings) == len(notes) == (epochs != 100)
    found, _ = scoring.align(made, 960 * 30.0)
    assert [x.kind for x in found.findings] == ["scoring_length"]
    assert found.findings[0].seconds == 860 * 30
    one = Scoring(np.array([2], np.int8), [], "made")
    found, _ = scoring.align(one, 960 * 30.0)
    assert "only 1 of the recording's 960 epochs" in found.findings[-1].note


def test_a_full_night_beside_a_recording_cut_to_minutes_stays_readable(test_data):
    folder = test_data / "sleep-edf"
    opened = EdfRecording(folder / "short_psg.edf")
    read = read_scoring(folder / "SC4001EC-Hypnogram.edf", recording=opened)
    found, _ = scoring.align(read, opened.duration_s)
    assert found.stages.tolist() == [0] * 10
    assert [x.kind for x in found.findings] == ["scoring_trimmed"]
