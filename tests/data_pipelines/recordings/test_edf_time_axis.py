"""The time axis of EDF+C and BDF+C, and annotations as writers write them."""

import datetime

import edf_files
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from data_pipelines.recordings import record_times
from data_pipelines.recordings.edf import EdfRecording

GAIN = {"physical": ("-32768", "32767"), "digital": ("-32768", "32767")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("axis")


def tal(onset, *notes):
    """A record's bytes; onsets and durations are written as given."""
    lists = [f"{onset}\x14\x14"]
    lists += [
        f"{at}{'' if long is None else chr(21) + long}\x14{text}\x14" for at, long, text in notes
    ]
    return "\0".join(lists).encode() + b"\0"


def file(
    path, texts, *, rate=4, record_s="1", reserved="EDF+C", label="EDF Annotations", bdf=False
):
    """A signal that says where it is, and a channel of annotations for each list of texts."""
    several = texts if isinstance(texts[0], list) else [texts]
    records = len(several[0])
    signals = [edf_files.signal("C3", edf_files.ramp(records, rate), **GAIN)]
    size = 2 + max(len(text) for one in several for text in one)
    for one in several:
        signals.append(edf_files.annotations(one, size=size + size % 2) | {"label": label})
    more = {}
    if bdf:
        more = {"width": 3, "version": b"\xffBIOSEMI"}
        for signal in signals[1:]:
            octets = signal["samples"].astype("<i2").view(np.uint8).reshape(records, -1)
            octets = np.pad(octets, ((0, 0), (0, -octets.shape[1] % 3))).reshape(records, -1, 3)
            signal["samples"] = (octets.astype(int) * [1, 256, 65536]).sum(-1)
    return edf_files.write(path, signals, reserved=reserved, record_s=record_s, **more)


@hypothesis.given(
    gaps=st.lists(st.sampled_from([0, 0, 0, 0, 1, 7, 60.5]), min_size=3, max_size=40),
    first=st.sampled_from([0, 0.25, 600]),
    bdf=st.booleans(),
    reserved=st.sampled_from(["EDF+C", "edf+c", " EDF+C", "", "BDF+C"]),
    separate=st.booleans(),
)
@hypothesis.settings(max_examples=30, deadline=None)
def test_gaps_of_a_file_marked_continuous(folder, gaps, first, bdf, reserved, separate):
    """What an honest EDF+D of the same records says, and a finding."""
    if sum(gap > 0 for gap in gaps) > len(gaps) // 2:
        gaps = [0] * len(gaps) + gaps
    onsets = first + np.cumsum([0, *(1 + gap for gap in gaps)])
    texts = [tal(f"+{onset:g}", (f"+{onset + 0.5:g}", "2", "x")) for onset in onsets]
    if separate:  # a channel of texts after that of the records' times
        texts = [[tal(f"+{onset:g}") for onset in onsets], texts]
    found = EdfRecording(file(folder / "c.edf", texts, reserved=reserved, bdf=bdf))
    honest = EdfRecording(file(folder / "d.edf", texts, reserved="EDF+D", bdf=bdf))
    assert found.labels == ["C3"]
    assert found.duration_s == honest.duration_s == onsets[-1] + 1 - first
    np.testing.assert_array_equal(found.read(0), honest.read(0))
    assert found.annotations == honest.annotations == [(t - first + 0.5, 2.0, "x") for t in onsets]
    assert found.start_of_day_s == 16 * 3600 + 13 * 60 + first
    told = [(x.kind, x.count, x.seconds) for x in found.findings]
    many = sum(gap > 0 for gap in gaps)
    assert told == ([("time_axis", many, sum(gaps))] if many else [])
    assert not honest.findings


@hypothesis.given(
    drift=st.sampled_from([0, 1e-3, -1e-3, 1e-4]),
    jitter=st.sampled_from([0, 0.001, 0.02, 0.2]),
    decimals=st.sampled_from([6, 2, 1]),
    record_s=st.sampled_from(["1", "0.5", "0.9999", "10.24", "0.3333"]),
    seed=st.integers(0, 99),
    gap=st.sampled_from([0, 0, 30]),
)
@hypothesis.settings(max_examples=40, deadline=None)
def test_rounding_drift_and_jitter_are_no_gaps(
    folder, drift, jitter, decimals, record_s, seed, gap
):
    """Also beside a gap, which is found where it is."""
    records, at = 800, 345
    length = float(record_s)
    times = np.arange(records) * length * (1 + drift)
    times[1:] += np.random.default_rng(seed).uniform(-jitter, jitter, records - 1)
    times[at:] += gap
    texts = [tal(f"+{max(time, 0):.{decimals}f}") for time in times]
    found = EdfRecording(file(folder / "c.edf", texts, rate=1, record_s=record_s))
    assert [x.kind for x in found.findings] == ["time_axis"] * (gap > 0)
    lost = np.isnan(found.read(0))
    if not gap:
        assert found.duration_s == pytest.approx(records * length) and not lost.any()
        return
    off = 1 + (2 * jitter + 0.1 + abs(drift) * at * length) / length
    assert lost.sum() == pytest.approx(gap / length, abs=off)
    assert np.flatnonzero(lost)[0] == at and np.ptp(np.flatnonzero(lost)) == lost.sum() - 1
    np.testing.assert_array_equal(found.read(0)[~lost], np.arange(records))


@pytest.mark.parametrize(
    "record_s, rate", [("0.9999", 1), ("1", 1.0005), ("0.5", 1), ("1", 0.9995)]
)
def test_times_in_whole_seconds(folder, record_s, rate):
    """Rounded or cut: what is left of a drift are steps of a second, evenly apart."""
    for rounded in (round, int):
        texts = [tal(f"+{rounded(i * float(record_s) * rate)}") for i in range(5000)]
        found = EdfRecording(file(folder / "c.edf", texts, rate=1, record_s=record_s))
        assert not found.findings and not np.isnan(found.read(0)).any()


@pytest.mark.parametrize("at", [1, 4998, 9999])
def test_a_gap_among_many_records_is_found_by_probes(folder, monkeypatch, at):
    asked = []
    real = EdfRecording._time_of
    monkeypatch.setattr(EdfRecording, "_time_of", lambda *a: asked.append(a[2]) or real(*a))
    onsets = np.arange(10_000)
    EdfRecording(file(folder / "a.edf", [tal(f"+{x}") for x in onsets], rate=1))
    assert len(asked) <= record_times.PROBES + 1
    onsets[at:] += 100
    found = EdfRecording(file(folder / "a.edf", [tal(f"+{x}") for x in onsets], rate=1))
    assert np.flatnonzero(np.isnan(found.read(0))).tolist() == list(range(at, at + 100))


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ([0, 1, 2, 1, 2, 3, 4], "run back or overlap"),
        ([0, 1, 2, 3, 0, 1, 2, 3], "run back or overlap"),  # two recordings, one after the other
        ([0] * 8, "s (100.00%) shorter"),
        ([0, 3, 6, 9, 12, 15], "a gap after 5 of 6 records"),  # times in another unit
        ([0, 1, 2, 200_000, 200_001, 200_002], "gaps of"),
        ([0, 1, 2, 3, 40, 5, 6, 7, 8], "contradict"),
        ([0, 1, 2, 3, 2.5, 5, 6, 7, 8], "contradict"),
    ],
)
def test_times_that_cannot_be_true_are_told(folder, times, said):
    """The records are taken one after the other, as the header has it."""
    found = EdfRecording(file(folder / "a.edf", [tal(f"+{x}") for x in times]))
    assert found.duration_s == len(times)
    assert not np.isnan(found.read(0)).any()
    (told,) = found.findings
    assert told.kind == "time_axis" and said in told.note


def test_a_clock_far_from_the_rate_is_told(folder):
    texts = [tal(f"+{1.01 * i:.2f}") for i in range(3000)]
    found = EdfRecording(file(folder / "a.edf", texts, rate=1))
    assert not np.isnan(found.read(0)).any()
    assert [x.what for x in found.findings] == ["clock that drifts"]


def test_records_without_times_are_contiguous(folder):
    texts = [b"+0\x14\x14\0", *[b"\0"] * 8, b"+5\x1530\x14Sleep stage W\x14\0"]
    found = EdfRecording(file(folder / "a.edf", texts))
    assert found.duration_s == 10 and not found.findings
    assert found.annotations == [(5.0, 30.0, "Sleep stage W")]


@pytest.mark.parametrize("first", ["16:13", 1.6e9])
def test_record_times_that_do_not_count_from_the_header(folder, first):
    """From midnight, or from 1970: the start in the header stays what it is."""
    first = 16 * 3600 + 13 * 60 if first == "16:13" else first
    texts = [tal(f"+{first + i:.0f}", (f"+{first + i:.0f}", "1", "x")) for i in range(5)]
    found = EdfRecording(file(folder / "a.edf", texts))
    assert found.start_of_day_s == 16 * 3600 + 13 * 60
    assert [x.kind for x in found.findings] == ["time_axis"]
    assert [onset for onset, _, _ in found.annotations] == [0, 1, 2, 3, 4]


AMOUNTS = st.integers(0, 30_000).map(lambda n: n / 4)


@hypothesis.given(
    rows=st.lists(st.tuples(AMOUNTS, AMOUNTS, st.integers(0, 8)), min_size=1, max_size=6),
    run_together=st.booleans(),
    bdf=st.booleans(),
)
@hypothesis.settings(max_examples=40, deadline=None)
def test_numbers_as_writers_write_them(folder, rows, run_together, bdf):
    forms = (
        lambda x: f"+{x:g}",
        lambda x: f"+{x:.2f}".replace(".", ","),
        lambda x: f"+{x:.20f}",
        lambda x: f"+{x:.6e}",
        lambda x: f"+{x:.4E}".replace("E+0", "E"),
        lambda x: f" +{x}",
        lambda x: f"+ {x}",
        lambda x: f"+{int(x)}." if x == int(x) else f"+{x:07.2f}",
        lambda x: f"{x}",
    )
    written, wanted = [], []
    for number, (onset, duration, form) in enumerate(rows):
        form = forms[0 if run_together and form == 8 else form]
        written.append((form(onset), form(duration).replace("+", ""), f"note {number}"))
        wanted.append((float(f"{onset:.4E}") if form is forms[4] else onset, duration, number))
    text = tal("+0", *written)
    if run_together:  # no zero byte between the lists
        text = text.rstrip(b"\0").replace(b"\0", b"") + b"\0"
    found = EdfRecording(file(folder / "a.edf", [text, tal("+1")], bdf=bdf))
    by_text = {text: (onset, duration) for onset, duration, text in found.annotations}
    assert len(by_text) == len(rows) and not found.findings
    for onset, duration, number in wanted:
        assert by_text[f"note {number}"] == pytest.approx((onset, duration), rel=1e-4)


@pytest.mark.parametrize(
    "malformed",
    [
        b"+zero\x1530\x14Sleep stage W\x14\0",
        b"+1.234,5\x1530\x14Sleep stage W\x14\0",
        b"+nan\x14x\x14\0",
        b"00:00:30\x14x\x14\0",
        b"+30\x15-30\x14x\x14\0",
        b"+30\x15half\x14x\x14\0",
        b"Sleep stage W\x14\0",
        b"Sleep stage W\0",
        b"+1e999\x14x\x14\0",
    ],
)
def test_annotations_that_cannot_be_read_are_counted(folder, malformed):
    texts = [b"+0\x14\x14\0" + malformed + malformed + b"+1\x14good\x14\0", tal("+1")]
    found = EdfRecording(file(folder / "a.edf", texts))
    assert found.annotations == [(1.0, None, "good")]
    (told,) = found.findings
    assert (told.kind, told.count) == ("unread_annotation", 2)
    assert "Sleep" not in told.note and "Sleep" not in told.what


@pytest.mark.parametrize(
    "label",
    ["EDF annotations", "EDF ANNOTATIONS", "EDF Annotation", "BDF annotations", "edf annotations"]
    + ["EDF+ Annotations", "EDF_Annotations", "EDFAnnotations", "EDF Annotations1"],
)
@pytest.mark.parametrize("reserved", ["EDF+C", ""])
def test_the_channel_of_annotations_is_no_signal(folder, label, reserved):
    texts = [tal("+0", ("+0", "30", "Sleep stage W")), tal("+1")]
    found = EdfRecording(file(folder / "a.edf", texts, label=label, reserved=reserved))
    assert found.labels == ["C3"]
    assert found.annotations == [(0.0, 30.0, "Sleep stage W")]


def test_annotations_equal_those_of_mne(folder):
    """Several channels of annotations, many decimals, texts in UTF-8."""
    mne = pytest.importorskip("mne")
    first = [tal(f"+{i}", (f"+{i}.123456789012345", "0.25000000000000", "Éveil")) for i in range(5)]
    second = [tal(f"+{i}", (f"+{i}.5", None, "b")) for i in range(5)]
    path = file(folder / "a.edf", [first, second])
    path.write_bytes(path.read_bytes().replace(b"X F 01-JAN-1950", b"X X X          "))
    theirs = mne.read_annotations(path)
    ours = EdfRecording(path).annotations
    assert [text for _, _, text in ours] == list(theirs.description)
    np.testing.assert_allclose([onset for onset, _, _ in ours], theirs.onset, atol=1e-9)
    np.testing.assert_allclose([x or 0 for _, x, _ in ours], theirs.duration)


@pytest.mark.parametrize(
    ("date", "clock", "filler"),
    [
        ("01.01.85", "00.00.00", True),
        ("01.01.00", "00:00:00", True),
        ("00.00.00", "00.00.00", True),
        ("30.12.99", "00.00.00", True),
        ("        ", "12.00.00", True),
        ("01.01.85", "00.00.01", False),
        ("01.01.85", "22.30.00", False),
        ("06.03.21", "00.00.00", False),
    ],
)
def test_blanked_starts(folder, date, clock, filler):
    path = file(folder / "a.edf", [tal("+0"), tal("+1")])
    data = path.read_bytes()
    path.write_bytes(data[:168] + date.encode() + clock.encode() + data[184:])
    assert EdfRecording(path).start_is_filler == filler


def test_blanked_starts_of_other_recordings(tmp_path):
    mne = pytest.importorskip("mne")
    from data_pipelines.recordings.opening import open_recording

    raw = mne.io.RawArray(np.zeros((1, 100)), mne.create_info(["C3"], 10.0), verbose="error")
    for date, filler in (((2000, 1, 1), True), ((2021, 3, 5), False)):
        raw.set_meas_date(datetime.datetime(*date, tzinfo=datetime.UTC))
        assert open_recording(raw).start_is_filler == filler
    (tmp_path / "a.dat").write_bytes(bytes(200))
    for start, filler in (
        ("", False),
        (" 0:0:0", True),
        (" 22:00:00", False),
        (" 0:0:0 5/3/2021", False),
    ):
        (tmp_path / "a.hea").write_text(f"a 1 10 100{start}\na.dat 16 200 16 0 0 0 0 C3\n")
        assert open_recording(tmp_path / "a.hea").start_is_filler == filler


def test_lists_without_a_zero_byte_between_them(test_data):
    """As Nihon Kohden writes them; other readers take the second onset, 1.14 s, for a text."""
    found = EdfRecording(test_data / "edf-quirks" / "MB0400FU.EDF").annotations
    assert found == [(0.0, None, "Segment: REC START ALLE EEG"), (1.14, None, "A1+A2 OFF")]
