"""EDF and BDF files: real ones against another reader, and written ones with every oddity."""

import subprocess
import sys
from fractions import Fraction

import edf_files
import numpy as np
import pytest

from data_pipelines.recordings.base import RecordingError
from data_pipelines.recordings.edf import EdfRecording
from data_pipelines.recordings.opening import open_recording

UNIT_GAIN = {"physical": ("-32768", "32767"), "digital": ("-32768", "32767")}


def ramp(label, records=4, per_record=8, **fields):
    return edf_files.signal(label, edf_files.ramp(records, per_record), **(UNIT_GAIN | fields))


def test_edf_and_bdf_of_one_night_agree(test_data):
    edf = open_recording(test_data / "sleep-edf/short_psg.edf")
    bdf = open_recording(test_data / "sleep-edf/short_psg.bdf")
    assert edf.labels == bdf.labels
    assert edf.duration_s == bdf.duration_s == 300
    assert edf.start_of_day_s == bdf.start_of_day_s == 16 * 3600 + 13 * 60
    for i in range(len(edf.labels)):
        assert edf.sfreq_hz(i) == bdf.sfreq_hz(i) == (100 if i < 3 else 1)
        np.testing.assert_array_equal(edf.read(i), bdf.read(i))


@pytest.mark.parametrize("name", ["sleep-edf/short_psg.edf", "sleep-edf/short_psg.bdf"])
def test_signals_equal_those_of_mne(test_data, name):
    mne = pytest.importorskip("mne")
    recording = open_recording(test_data / name)
    # One label at a time, so that mne does not resample it to the rate of another.
    for i, label in enumerate(recording.labels):
        reader = mne.io.read_raw_bdf if name.endswith("bdf") else mne.io.read_raw_edf
        raw = reader(test_data / name, include=[label], verbose="error")
        assert float(recording.sfreq_hz(i)) == raw.info["sfreq"]
        scale = 1e6 if recording.unit(i) == "uV" else 1
        np.testing.assert_allclose(recording.read(i), raw.get_data()[0] * scale, atol=1e-6)


def test_the_89_signals_of_a_nox_night(test_data):
    recording = open_recording(test_data / "nox-a1/subject1.edf")
    assert len(recording.labels) == 89
    assert recording.duration_s == 120
    assert "C3 Impédance" in recording.labels
    assert {float(recording.sfreq_hz(i)) for i in range(89)} == {200, 100, 75, 25, 20, 5, 3, 1}
    assert recording.unit(recording.labels.index("C3")) == "uV"
    assert recording.declared_unit(recording.labels.index("C3")) == "V"
    assert recording.unit(recording.labels.index("Nasal Pressure")) == "cmH2O"
    for i in set(range(89)) - set(recording.unreadable):
        assert len(recording.read(i)) == 120 * recording.sfreq_hz(i)


def test_a_derived_channel_of_the_nox_night_is_the_difference_of_its_electrodes(test_data):
    """C3-M2 is stored beside C3 and M2, so scaling to uV can be checked without a second reader."""
    recording = open_recording(test_data / "nox-a1/subject1.edf")
    c3, m2, both = (recording.read(recording.labels.index(x)) for x in ("C3", "M2", "C3-M2"))
    # The recorder filters derived channels, and the ranges have few digits.
    assert np.corrcoef(c3 - m2, both)[0, 1] > 0.99
    assert np.std(c3 - m2) == pytest.approx(np.std(both), rel=0.1)


def test_discontinuous_file_without_gaps_is_taken_as_it_is(test_data):
    mne = pytest.importorskip("mne")
    path = test_data / "edf-quirks/MB0400FU.EDF"
    recording = open_recording(path)
    assert recording.duration_s == 29
    assert recording.notes == ["marked discontinuous (EDF+D) but without gaps"]
    raw = mne.io.read_raw_edf(path, verbose="error")
    i = recording.labels.index("EEG C3-Ref")
    np.testing.assert_allclose(recording.read(i), raw.get_data(["EEG C3-Ref"])[0] * 1e6, atol=1e-6)


def test_reversed_physical_range_flips_the_sign_and_the_start_keeps_its_fraction(test_data):
    mne = pytest.importorskip("mne")
    path = test_data / "edf-quirks/subsecond_starttime.edf"
    recording = open_recording(path)
    raw = mne.io.read_raw_edf(path, verbose="error")
    np.testing.assert_allclose(recording.read(0), raw.get_data()[0] * 1e6, atol=1e-6)
    # The header says 04:05:56; the onset of the first record adds the fraction, which mne drops.
    assert recording.start_of_day_s == pytest.approx(4 * 3600 + 5 * 60 + 56.3945312)
    assert [text for _, _, text in recording.annotations] == ["XLSpike", "Clip Note"]


def test_a_file_of_annotations_alone(test_data):
    recording = open_recording(test_data / "sleep-edf/SC4001EC-Hypnogram.edf")
    assert recording.labels == []
    assert len(recording.annotations) == 154
    assert recording.annotations[0] == (0.0, 30630.0, "Sleep stage W")


def test_stretches_are_those_of_the_whole(tmp_path):
    path = edf_files.write(tmp_path / "a.edf", [ramp("C3", 5, 8), ramp("C4", 5, 3)], record_s="2")
    recording = EdfRecording(path)
    for i, rate in ((0, Fraction(4)), (1, Fraction(3, 2))):
        whole = recording.read(i)
        assert recording.sfreq_hz(i) == rate
        np.testing.assert_array_equal(whole, np.arange(len(whole)))
        for start_s, stop_s in ((0, 10), (1, 3), (0.3, 9.9), (-5, 2), (9, 99), (4, 4), (20, 30)):
            times = np.arange(len(whole)) / float(rate)
            wanted = whole[(times >= start_s) & (times < stop_s)]
            np.testing.assert_array_equal(recording.read(i, start_s, stop_s), wanted)


def test_sparse_and_dense_records_read_alike(tmp_path):
    """A record wider than the stride beyond which each channel is picked out one by one."""
    rng = np.random.default_rng(0)
    wide = edf_files.signal("wide", rng.integers(-9, 9, (3, 20_000)), **UNIT_GAIN)
    narrow = edf_files.signal("narrow", rng.integers(-9, 9, (3, 7)), **UNIT_GAIN)
    recording = EdfRecording(edf_files.write(tmp_path / "a.edf", [wide, narrow]))
    for i, source in enumerate((wide, narrow)):
        np.testing.assert_array_equal(recording.read(i), source["samples"].ravel())
    np.testing.assert_array_equal(recording.read(1, 0.5, 2.5), narrow["samples"].ravel()[4:18])


@pytest.mark.parametrize(
    "record_s, per_record, rate",
    [("1", 62, Fraction(62)), ("2", 125, Fraction(125, 2)), ("0.3", 100, Fraction(1000, 3))],
)
def test_rates_are_exact_fractions(tmp_path, record_s, per_record, rate):
    path = edf_files.write(tmp_path / "a.edf", [ramp("C3", 4, per_record)], record_s=record_s)
    assert EdfRecording(path).sfreq_hz(0) == rate


def test_a_rate_of_62_and_a_half_does_not_drift(tmp_path):
    """62.5 Hz read as 62 Hz would be 232 s late after 8 h."""
    night = edf_files.signal("C3", np.zeros((14_400, 125)), **UNIT_GAIN)
    recording = EdfRecording(edf_files.write(tmp_path / "a.edf", [night], record_s="2"))
    assert recording.duration_s == 28_800
    assert len(recording.read(0)) / float(recording.sfreq_hz(0)) == 28_800


@pytest.mark.parametrize(
    "unit, scale", [("uV", 1), ("µV", 1), ("mV", 1e3), ("V", 1e6), ("nV", 1e-3)]
)
def test_voltages_come_in_microvolts(tmp_path, unit, scale):
    for encoding in ("latin-1", "utf-8"):
        signal = ramp("C3", unit=unit.encode(encoding), physical=("-1", "1"))
        recording = EdfRecording(edf_files.write(tmp_path / f"{encoding}.edf", [signal]))
        assert recording.unit(0) == "uV"
        gain = 2 / 65_535 * scale
        np.testing.assert_allclose(np.diff(recording.read(0)), gain, rtol=1e-9)


def test_other_units_are_left_alone(tmp_path):
    recording = EdfRecording(
        edf_files.write(tmp_path / "a.edf", [ramp("SpO2", unit="%"), ramp("x", unit="")])
    )
    assert (recording.unit(0), recording.unit(1)) == ("%", "")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_labels_in_either_encoding(tmp_path, encoding):
    path = edf_files.write(tmp_path / "a.edf", [ramp("C3 Impédance".encode(encoding))])
    assert EdfRecording(path).labels == ["C3 Impédance"]


def test_a_bad_channel_does_not_lose_the_file(tmp_path):
    path = edf_files.write(
        tmp_path / "a.edf",
        [
            ramp("C3"),
            ramp("CHIN", physical=("0", "0")),
            ramp("ECG", digital=("7", "7")),
            ramp("Pos", physical=("abc", "1")),
            edf_files.signal("Flow", np.zeros((4, 0)), **UNIT_GAIN),
            ramp("C4", physical=("1e99x", "nan")),
            ramp("E1"),
        ],
    )
    recording = EdfRecording(path)
    assert recording.unreadable == {
        1: "its physical minimum and maximum are both 0",
        2: "its digital minimum and maximum are both 7",
        3: "its physical or digital range is not a number",
        4: "it has 0 samples per record",
        5: "its physical or digital range is not a number",
    }
    np.testing.assert_array_equal(recording.read(6), np.arange(32))
    with pytest.raises(RecordingError, match="'CHIN' cannot be read: its physical minimum"):
        recording.read(1)


@pytest.mark.parametrize("records", ["-1", "", "0", "x"])
def test_without_a_number_of_records_the_size_tells(tmp_path, records):
    recording = EdfRecording(edf_files.write(tmp_path / "a.edf", [ramp("C3")], records=records))
    assert recording.duration_s == 4
    assert "number of records is not given" in recording.notes[0]


def test_a_truncated_file_keeps_its_whole_records(tmp_path):
    path = tmp_path / "a.edf"
    path.write_bytes(edf_files.edf([ramp("C3")])[:-5])
    recording = EdfRecording(path)
    assert recording.notes == ["truncated: 3 whole records of 4 declared"]
    np.testing.assert_array_equal(recording.read(0), np.arange(24))


def test_bytes_after_the_last_record_are_ignored(tmp_path):
    path = tmp_path / "a.edf"
    path.write_bytes(edf_files.edf([ramp("C3")]) + b"Erika")
    recording = EdfRecording(path)
    assert recording.duration_s == 4
    assert "ignored" in recording.notes[0]


def test_a_file_that_shrinks_after_it_was_opened(tmp_path):
    path = edf_files.write(tmp_path / "a.edf", [ramp("C3")])
    recording = EdfRecording(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(RecordingError, match="became shorter"):
        recording.read(0)


def test_record_duration_of_zero_leaves_no_rate(tmp_path):
    recording = EdfRecording(edf_files.write(tmp_path / "a.edf", [ramp("C3")], record_s="0"))
    assert "its rate is unknown" in recording.unreadable[0]


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "0 bytes, shorter than the 256"),
        (b"0       " + b" " * 100, "108 bytes, shorter"),
        (b"PK\x03\x04" + b" " * 600, "neither EDF nor BDF"),
        (edf_files.edf([ramp("C3")])[:300], "a header of 1 signals takes 512"),
        (edf_files.edf([ramp("C3")])[:512], "no whole record"),
        (edf_files.edf([ramp("C3")], record_s="-1"), "record duration"),
        (edf_files.edf([ramp("C3")], record_s="99999999"), "longer than 14 days"),
    ],
)
def test_what_is_not_a_recording_says_why(tmp_path, content, message):
    path = tmp_path / "bad.edf"
    path.write_bytes(content)
    with pytest.raises(RecordingError, match=message) as caught:
        open_recording(path)
    assert str(path) in str(caught.value)


def test_huge_numbers_in_a_header_allocate_nothing(tmp_path):
    import tracemalloc

    content = bytearray(edf_files.edf([ramp("C3"), ramp("C4")]))
    content[236:244] = b"99999999"
    samples_at = 256 + 2 * (16 + 80 + 8 * 5 + 80)
    content[samples_at : samples_at + 16] = b"99999999" * 2
    path = tmp_path / "huge.edf"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(RecordingError, match="no whole record of 399999996 bytes"):
        open_recording(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_identity_stays_in_the_file(tmp_path):
    path = edf_files.write(
        tmp_path / "a.edf",
        [ramp("C3"), edf_files.annotations([edf_files.onset(i) for i in range(4)])],
        reserved="EDF+C",
    )
    recording = EdfRecording(path)
    kept = repr(vars(recording)) + repr([vars(signal) for signal in recording._signals])
    shifted = bytearray(path.read_bytes())
    shifted[8:8] = "Mustermännchen".encode()  # a name that makes the header longer
    path.write_bytes(shifted)
    with pytest.raises(RecordingError) as caught:
        EdfRecording(path)
    for secret in ("Erika", "Muster", "1950", "1989", "4711", "Seltsam", "998877", "24.04.89"):
        assert secret not in kept
        assert secret not in str(caught.value)


def test_one_channel_of_a_night_needs_little_memory(tmp_path):
    """89 signals of 200 Hz for 8 h as a file of holes: 1 GB that is never in memory at once."""
    header = edf_files.edf(
        [edf_files.signal(f"S{i}", np.zeros((1, 200)), **UNIT_GAIN) for i in range(89)],
        records="28800",
    )
    path = tmp_path / "night.edf"
    with open(path, "wb") as file:
        file.write(header[: 256 * 90])
        file.truncate(256 * 90 + 28_800 * 89 * 400)
    code = (
        "import resource, sys; from data_pipelines.recordings.edf import EdfRecording\n"
        "base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"x = EdfRecording({str(path)!r}).read(40)\n"
        "assert len(x) == 28800 * 200\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1024)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert float(result.stdout) < 150  # MB; the samples alone are 46
