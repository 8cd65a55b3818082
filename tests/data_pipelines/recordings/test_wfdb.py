"""PhysioNet records: real ones against the wfdb library, and headers that lie."""

import hypothesis
import numpy as np
import pytest
import scipy.io
from hypothesis import strategies as st

from data_pipelines.channels.resolve import resolve
from data_pipelines.recordings import wfdb as wfdb_reader
from data_pipelines.recordings.base import RecordingError
from data_pipelines.recordings.opening import open_recording, read_channel

HEADER = "a 2 250 1000 12:30:00 01/02/1989\na.dat 16 200/mV 16 0 0 0 0 ECG\n"
HEADER += "a.dat 16x2 100(5)/NU 16 0 0 0 0 Resp (chest)\n# 69 M Erika Mustermann\n"


def written(folder, header=HEADER, frames=1000):
    """A record of one ECG and one respiration at twice its rate; samples say where they are."""
    table = np.stack([np.arange(frames), 2 * np.arange(frames), 2 * np.arange(frames) + 1], axis=1)
    (folder / "a.dat").write_bytes(table.astype("<i2").tobytes())
    (folder / "a.hea").write_text(header)
    return folder / "a.hea"


@pytest.mark.parametrize("name", ["100", "03700181"])
def test_packed_records_equal_the_library(test_data, name):
    wfdb = pytest.importorskip("wfdb")
    path = test_data / "wfdb-samples" / name
    recording = open_recording(path.with_suffix(".hea"))
    theirs = wfdb.rdrecord(str(path), smooth_frames=False)
    assert recording.labels == theirs.sig_name
    for i, signal in enumerate(theirs.e_p_signal):
        assert recording.sfreq_hz(i) == theirs.fs * theirs.samps_per_frame[i]
        scale = 1e3 if recording.unit(i) == "uV" else 1
        np.testing.assert_allclose(recording.read(i), signal * scale, rtol=1e-9)


def test_several_rates_of_one_record_are_expanded_not_averaged(test_data):
    pytest.importorskip("wfdb")
    recording = open_recording(test_data / "wfdb-samples/03700181.dat")
    assert [float(recording.sfreq_hz(i)) for i in range(3)] == [500, 125, 125]
    assert [len(recording.read(i)) for i in range(3)] == [300_000, 75_000, 75_000]
    assert recording.start_of_day_s == 17 * 3600 + 27 * 60 + 45


def test_reading_in_pieces_changes_nothing(test_data, monkeypatch):
    pytest.importorskip("wfdb")
    recording = open_recording(test_data / "wfdb-samples/03700181.hea")
    whole = [recording.read(i, 0, 60) for i in range(3)]
    monkeypatch.setattr(wfdb_reader, "_CHUNK_SAMPLES", 6 * 997)
    for i in range(3):
        np.testing.assert_array_equal(recording.read(i, 0, 60), whole[i])
    np.testing.assert_array_equal(recording.read(0, 1.3, 2.7), whole[0][650:1350])


def test_cinc_2017_records_equal_their_matlab_files(test_data):
    for path in sorted((test_data / "cinc2017").glob("*.mat"))[:50]:
        recording = open_recording(path)
        signal, rate = read_channel(recording, resolve(recording.labels).bindings["ecg"])
        stored = scipy.io.loadmat(path)["val"][0]
        assert rate == 300
        np.testing.assert_allclose(signal, stored)  # 1000 per mV, so the numbers are uV


def test_a_record_without_its_signals_names_the_file(test_data):
    with pytest.raises(RecordingError, match=r"slp32.hea: its signal file slp32.dat is missing"):
        open_recording(test_data / "slpdb/slp32.hea")


def test_written_record(tmp_path):
    recording = open_recording(written(tmp_path))
    assert recording.labels == ["ECG", "Resp (chest)"]
    assert (recording.sfreq_hz(0), recording.sfreq_hz(1)) == (250, 500)
    assert recording.duration_s == 4
    np.testing.assert_allclose(recording.read(0), np.arange(1000) / 200 * 1e3)
    np.testing.assert_allclose(recording.read(1), (np.arange(2000) - 5) / 100)
    np.testing.assert_allclose(recording.read(1, 1, 2), (np.arange(500, 1000) - 5) / 100)


def test_truncated_signals_keep_whole_frames(tmp_path):
    recording = open_recording(written(tmp_path, frames=600))
    assert recording.notes == ["truncated: 600 whole frames of 1000 declared"]
    assert len(recording.read(1)) == 1200


def test_dates_and_comments_are_dropped(tmp_path):
    recording = open_recording(written(tmp_path))
    kept = repr(vars(recording))
    for secret in ("1989", "Erika", "69"):
        assert secret not in kept
    assert recording.start_of_day_s == 12.5 * 3600


@pytest.mark.parametrize(
    "change, message",
    [
        (("a 2", "a/3 2"), "several segments"),
        (("a 2", "a 3"), "3 signals declared, 2 described"),
        (("a 2 250", "a 2 0"), "rate is 0 Hz"),
        (("a 2 250 1000", "Erika M 69"), "first line is not that of a WFDB header"),
        (("a.dat 16 ", "a.dat 99 "), "signal format 99 is not supported"),
        (("a.dat 16 ", "../a.dat 16 "), "must lie beside its header"),
        (("a.dat 16 ", "b.dat 16 "), "b.dat is missing"),
        (("a.dat 16 ", "a.dat 212 "), "described in two formats"),
        (("16x2", "16x0"), "0 samples per frame"),
        (("a.dat 16 200/mV", "a.dat Erika"), "does not describe a signal"),
    ],
)
def test_headers_that_lie(tmp_path, change, message):
    path = written(tmp_path, HEADER.replace(*change, 1))
    with pytest.raises(RecordingError, match=message) as caught:
        open_recording(path)
    assert str(path) in str(caught.value)
    assert "Erika" not in str(caught.value)


@hypothesis.given(
    at=st.integers(0, len(HEADER)),
    cut=st.integers(0, 12),
    piece=st.text(st.sampled_from("0123456789+-x:/() .eE\nadt#\x00é"), max_size=12),
)
@hypothesis.settings(max_examples=300, deadline=2000)
def test_only_recording_errors(tmp_path_factory, at, cut, piece):
    path = written(tmp_path_factory.getbasetemp(), HEADER[:at] + piece + HEADER[at + cut :])
    try:
        recording = open_recording(path)
        for i in range(len(recording.labels)):
            assert len(recording.read(i)) == recording.num_samples(i)
    except RecordingError as error:
        assert str(error).startswith(str(path))
