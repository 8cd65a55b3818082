"""EDF+D: contiguous records are taken as they are, gaps become NaN, and no time ever shifts."""

import edf_files
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from data_pipelines.recordings.base import RecordingError
from data_pipelines.recordings.edf import EdfRecording

GAIN = {"physical": ("-32768", "32767"), "digital": ("-32768", "32767")}


def discontinuous(path, onsets, rates=(4, 2), notes=None, record_s="1"):
    records = len(onsets)
    signals = [
        edf_files.signal(f"S{rate}", edf_files.ramp(records, rate), **GAIN) for rate in rates
    ]
    notes = notes or {}
    tals = [edf_files.onset(at, *notes.get(i, ())) for i, at in enumerate(onsets)]
    signals.append(edf_files.annotations(tals))
    return EdfRecording(edf_files.write(path, signals, reserved="EDF+D", record_s=record_s))


def test_a_gap_is_nan_on_an_honest_time_axis(tmp_path):
    recording = discontinuous(tmp_path / "a.edf", [0, 1, 5, 6])
    assert recording.duration_s == 7
    assert recording.notes == ["1 gaps (EDF+D): filled with NaN"]
    wanted = np.concatenate([np.arange(8), np.full(12, np.nan), np.arange(8, 16)])
    np.testing.assert_array_equal(recording.read(0), wanted)
    np.testing.assert_array_equal(recording.read(0, 1.5, 5.5), wanted[6:22])
    np.testing.assert_array_equal(recording.read(0, 2, 5), np.full(12, np.nan))
    assert len(recording.read(1)) == 14


def test_annotations_keep_their_time_across_a_gap(tmp_path):
    notes = {0: [(0.5, None, "before")], 2: [(5.25, 30, "Sleep stage W")]}
    gapped = discontinuous(tmp_path / "a.edf", [0, 1, 5, 6], notes=notes)
    assert gapped.annotations == [(0.5, None, "before"), (5.25, 30.0, "Sleep stage W")]


def test_times_count_from_the_first_record(tmp_path):
    notes = {0: [(100.5, 1, "note")]}
    recording = discontinuous(tmp_path / "a.edf", ["100.25", "101.25", "110.25"], notes=notes)
    assert recording.start_of_day_s == 16 * 3600 + 13 * 60 + 100.25
    assert recording.duration_s == 11
    assert recording.annotations == [(0.25, 1.0, "note")]
    assert np.isnan(recording.read(0)[8:40]).all()


def test_jitter_of_the_clock_is_no_gap(tmp_path):
    recording = discontinuous(tmp_path / "a.edf", ["0", "1.01", "1.99", "3.02"])
    assert recording.duration_s == 4
    assert recording.notes == ["marked discontinuous (EDF+D) but without gaps"]
    np.testing.assert_array_equal(recording.read(0), np.arange(16))


def test_a_slow_clock_does_not_pile_up(tmp_path):
    """20 ms late with every record: small steps that each look contiguous, 2 s after 100."""
    onsets = [f"{1.02 * i:.2f}" for i in range(101)]
    recording = discontinuous(tmp_path / "a.edf", onsets, rates=(50,))
    assert recording.duration_s == pytest.approx(103, abs=0.06)
    at = np.flatnonzero(recording.read(0) == 5000)[0]
    assert at / 50 == pytest.approx(102, abs=0.06)


@pytest.mark.parametrize(
    "onsets, message",
    [
        ([0, 1, 0.5, 3], "record 2 starts before the one before it ends"),
        ([0, 1, 10**9, 10**9 + 1], "s of gaps"),
    ],
)
def test_impossible_times_are_refused(tmp_path, onsets, message):
    with pytest.raises(RecordingError, match=message):
        discontinuous(tmp_path / "a.edf", onsets)


def test_without_record_times_it_is_refused(tmp_path):
    signals = [edf_files.signal("C3", edf_files.ramp(3, 4), **GAIN)]
    path = edf_files.write(tmp_path / "a.edf", signals, reserved="EDF+D")
    with pytest.raises(RecordingError, match="without the channel of record times"):
        EdfRecording(path)
    signals.append(edf_files.annotations([edf_files.onset(0), b"garbage", edf_files.onset(9)]))
    path = edf_files.write(tmp_path / "b.edf", signals, reserved="EDF+D")
    with pytest.raises(RecordingError, match="record 1 has no start time"):
        EdfRecording(path)


@hypothesis.given(
    steps=st.lists(st.sampled_from([0, 0, 0, 1, 3, 10]), min_size=1, max_size=8),
    rates=st.lists(st.sampled_from([1, 3, 5, 8]), min_size=1, max_size=3),
    record_s=st.sampled_from(["1", "2"]),
)
@hypothesis.settings(max_examples=60, deadline=None)
def test_every_sample_lies_where_its_record_says(tmp_path_factory, steps, rates, record_s):
    length = int(record_s)
    onsets = np.cumsum([0, *(length + gap for gap in steps)])
    path = tmp_path_factory.mktemp("gaps") / "a.edf"
    recording = discontinuous(path, onsets, rates=rates, record_s=record_s)
    assert recording.duration_s == onsets[-1] + length
    for i, per_record in enumerate(rates):
        signal, rate = recording.read(i), float(recording.sfreq_hz(i))
        assert len(signal) == recording.num_samples(i)
        assert abs(len(signal) - recording.duration_s * rate) <= 1
        assert np.count_nonzero(~np.isnan(signal)) == per_record * len(onsets)
        for record, onset in enumerate(onsets):
            (at,) = np.flatnonzero(signal == record * per_record)
            # Exact unless the gap is no whole number of samples.
            assert abs(at - onset * rate) <= (0 if rate.is_integer() else 1)
