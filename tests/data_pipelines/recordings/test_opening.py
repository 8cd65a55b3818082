"""Opening anything, reading derived channels, and mne.io.Raw on both sides."""

from fractions import Fraction

import edf_files
import numpy as np
import pytest

from data_pipelines.channels.resolve import Binding, resolve
from data_pipelines.recordings.base import Recording, RecordingError, sample_range
from data_pipelines.recordings.opening import open_recording, read_channel

GAIN = {"physical": ("-32768", "32767"), "digital": ("-32768", "32767")}


@pytest.mark.parametrize("suffix", [".edf", ".bdf", ".hea", ".mat"])
def test_a_folder_with_the_name_of_a_file(tmp_path, suffix):
    (tmp_path / f"a{suffix}").mkdir()
    with pytest.raises(RecordingError, match="is a folder; a recording is one file"):
        open_recording(tmp_path / f"a{suffix}")


def test_what_is_no_recording(tmp_path):
    with pytest.raises(RecordingError, match="no such file"):
        open_recording(tmp_path / "a.edf")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(RecordingError, match=r"\.txt is not a known kind of recording; .*\.edf"):
        open_recording(tmp_path / "notes.txt")


def test_an_unreadable_file(tmp_path):
    path = edf_files.write(tmp_path / "a.edf", [edf_files.signal("C3", [[1, 2]], **GAIN)])
    path.chmod(0)
    try:
        path.read_bytes()
    except PermissionError:
        with pytest.raises(RecordingError, match="cannot be read"):
            open_recording(path)
    else:
        pytest.skip("this user reads any file")


def test_upper_case_suffixes_are_the_same(tmp_path):
    path = edf_files.write(tmp_path / "A.EDF", [edf_files.signal("C3", [[1, 2]], **GAIN)])
    assert open_recording(str(path)).name == "A"


def test_a_reference_of_another_rate_is_resampled(tmp_path):
    """The same 1 Hz sine at 100 Hz and at 50 Hz leaves almost nothing when subtracted."""
    seconds = 20
    fast = 1000 * np.sin(2 * np.pi * np.arange(seconds * 100) / 100)
    slow = 1000 * np.sin(2 * np.pi * np.arange(seconds * 50) / 50)
    signals = [
        edf_files.signal("C3", fast.round().reshape(seconds, 100), **GAIN),
        edf_files.signal("M2", slow.round().reshape(seconds, 50), **GAIN),
    ]
    recording = open_recording(edf_files.write(tmp_path / "a.edf", signals))
    binding = resolve(recording.labels).bindings["eeg_c3"]
    signal, rate = read_channel(recording, binding)
    assert rate == 100
    assert len(signal) == 2000
    assert np.abs(signal[200:-200]).max() < 5
    part, _ = read_channel(recording, binding, 5, 10)
    assert len(part) == 500


def test_inversion_and_scale(tmp_path):
    signals = [edf_files.signal("M2-C3", edf_files.ramp(2, 4), **GAIN)]
    recording = open_recording(edf_files.write(tmp_path / "a.edf", signals))
    signal, _ = read_channel(recording, resolve(recording.labels).bindings["eeg_c3"])
    np.testing.assert_array_equal(signal, -np.arange(8.0))


def test_a_reference_in_another_unit_is_refused(tmp_path):
    signals = [
        edf_files.signal("C3", edf_files.ramp(2, 4), **GAIN),
        edf_files.signal("M2", edf_files.ramp(2, 4), unit="%", **GAIN),
    ]
    recording = open_recording(edf_files.write(tmp_path / "a.edf", signals))
    with pytest.raises(RecordingError, match="'C3' is in uV and its reference 'M2' in %"):
        read_channel(recording, resolve(recording.labels).bindings["eeg_c3"])


def test_sample_range_is_exact_at_the_edges():
    rate = Fraction(125, 2)
    assert sample_range(0, None, rate, 100) == (0, 100)
    assert sample_range(0.016, 0.032, rate, 100) == (1, 2)
    assert sample_range(2, 4, rate, 1000) == (125, 250)
    assert sample_range(-3, -1, rate, 100) == (0, 0)
    with pytest.raises(RecordingError, match="samples asked for at once"):
        sample_range(0, None, rate, 2**28)


# --- mne.io.Raw -----------------------------------------------------------------------------------


def test_a_raw_is_a_recording(test_data):
    mne = pytest.importorskip("mne")
    path = test_data / "edf-quirks/subsecond_starttime.edf"
    ours = open_recording(path)
    raw = mne.io.read_raw_edf(path, verbose="error")
    theirs = open_recording(raw)
    assert theirs.name == "subsecond_starttime"
    assert theirs.labels == ours.labels
    assert theirs.duration_s == ours.duration_s
    assert theirs.sfreq_hz(0) == ours.sfreq_hz(0) == 512
    np.testing.assert_allclose(theirs.read(1, 1, 2.5), ours.read(1, 1, 2.5), atol=1e-6)
    assert [text for _, _, text in theirs.annotations] == ["XLSpike", "Clip Note"]
    assert theirs.annotations[0][0] == pytest.approx(ours.annotations[0][0], abs=1e-5)
    assert theirs.to_raw() is raw


def test_a_raw_in_memory():
    mne = pytest.importorskip("mne")
    info = mne.create_info(["C3", "SpO2"], 256 / 3, ["eeg", "misc"])
    raw = mne.io.RawArray(np.ones((2, 512)) * [[5e-5], [97]], info, verbose="error")
    recording = open_recording(raw)
    assert recording.name == "raw" and recording.path is None
    assert recording.sfreq_hz(0) == Fraction(256, 3)
    assert (recording.unit(0), recording.unit(1)) == ("uV", "")
    np.testing.assert_allclose(recording.read(0), 50)
    np.testing.assert_allclose(recording.read(1), 97)


def test_annotations_of_a_cropped_raw_do_not_shift():
    mne = pytest.importorskip("mne")
    info = mne.create_info(["C3"], 10.0, "eeg")
    raw = mne.io.RawArray(np.zeros((1, 300)), info, verbose="error")
    raw.set_meas_date(0)
    raw.set_annotations(mne.Annotations([12.0], [3.0], ["event"], orig_time=0))
    recording = open_recording(raw.copy().crop(10, 20))
    assert recording.start_of_day_s == 10
    assert recording.annotations == [(2.0, 3.0, "event")]


def test_to_raw_keeps_one_rate_in_volts(test_data):
    pytest.importorskip("mne")
    recording = open_recording(test_data / "sleep-edf/short_psg.edf")
    raw = recording.to_raw()
    assert raw.ch_names == ["EEG Fpz-Cz", "EEG Pz-Oz", "EOG horizontal"]
    assert raw.info["sfreq"] == 100
    np.testing.assert_allclose(raw.get_data()[0] * 1e6, recording.read(0))
    slow = recording.to_raw(1)
    assert slow.ch_names[0] == "Resp oro-nasal"
    np.testing.assert_allclose(slow.get_data()[0], recording.read(3))
    with pytest.raises(RecordingError, match=r"no channel at 7 Hz; there are \[1.0, 100.0\]"):
        recording.to_raw(7)


def test_gaps_survive_the_way_to_raw_and_back(tmp_path):
    pytest.importorskip("mne")
    signals = [
        edf_files.signal("C3", edf_files.ramp(2, 10), **GAIN),
        edf_files.annotations([edf_files.onset(0), edf_files.onset(4, (4.5, 1, "late"))]),
    ]
    recording = open_recording(edf_files.write(tmp_path / "a.edf", signals, reserved="EDF+D"))
    raw = recording.to_raw()
    assert list(raw.annotations.description) == ["BAD_gap", "late"]
    assert list(raw.annotations.onset) == [1.0, 4.5]
    again = open_recording(raw)
    np.testing.assert_allclose(again.read(0), recording.read(0))
    assert np.isnan(again.read(0)[10:40]).all()


def test_a_recording_of_ones_own(tmp_path):
    """The face is small enough to put on arrays; derived channels then work as for files."""

    class Arrays(Recording):
        name, path, duration_s, start_of_day_s = "mine", None, 2.0, None
        labels, notes = ["C3", "M2"], []

        def sfreq_hz(self, index):
            return Fraction(4)

        def unit(self, index):
            return "uV"

        def read(self, index, start_s=0, stop_s=None):
            begin, end = sample_range(start_s, stop_s, Fraction(4), 8)
            return np.arange(8.0)[begin:end] * (index + 1)

    recording = Arrays()
    assert recording.unreadable == {}
    assert recording.num_samples(0) == 8
    signal, _ = read_channel(recording, Binding("eeg_c3", "C3", 0, 1, "M2"))
    np.testing.assert_array_equal(signal, -np.arange(8.0))
