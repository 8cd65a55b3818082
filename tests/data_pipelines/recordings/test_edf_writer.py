"""Files of ``write_edf`` are read back by our reader and by MNE's."""

import datetime

import numpy as np
import pytest

from data_pipelines.recordings.edf_writer import EdfSignal, write_edf
from data_pipelines.recordings.opening import open_recording
from data_pipelines.scoring import read_scoring

START = datetime.datetime(1985, 1, 1, 22, 3, 4)
STAGES = [(0.0, 60.0, "Sleep stage W"), (60.0, 30.0, "Sleep stage N2")]
SPINDLES = [(61.25, 0.5, "spindle"), (61.5, None, "Augenöffnen")]


@pytest.fixture
def signals():
    rng = np.random.default_rng(0)
    make = lambda label, unit, rate, size, low, high: EdfSignal(
        label, unit, rate, size * rng.standard_normal(90 * rate), low, high, prefilter="HP:0.1Hz"
    )
    return [
        make("EEG C3-M2", "uV", 256, 40.0, -300.123456, 300.123456),
        make("Flow", "mV", 32, 0.001, -0.0123456789, 0.0123456789),
        make("SpO2", "%", 1, 80.0, 0.0, 100.0),  # half of it lies beyond the range
    ]


def test_signals_of_any_rates_and_ranges_come_back(signals, tmp_path):
    write_edf(tmp_path / "a.edf", signals, START)
    found = open_recording(tmp_path / "a.edf")
    assert list(found.labels) == [s.label for s in signals]
    assert found.duration_s == 90
    assert found.start_of_day_s == 22 * 3600 + 3 * 60 + 4
    assert found.annotations == []
    micro = {"uV": 1.0, "mV": 1000.0, "%": 1.0}
    for i, own in enumerate(signals):
        assert found.sfreq_hz(i) == own.rate_hz
        kept = np.clip(own.samples, own.physical_min, own.physical_max)
        step = (own.physical_max - own.physical_min) / 65534
        wrong = np.abs(found.read(i) / micro[own.unit] - kept)
        assert wrong.max() < 0.51 * step + 1e-6 * own.physical_max


def test_annotations_come_back_in_order(signals, tmp_path):
    write_edf(tmp_path / "a.edf", signals, START, [*SPINDLES, *STAGES])
    found = open_recording(tmp_path / "a.edf")
    assert found.annotations == sorted(STAGES + SPINDLES, key=lambda row: row[0])
    assert found.duration_s == 90
    np.testing.assert_array_equal(read_scoring(tmp_path / "a.edf").stages, [0, 0, 2])


def test_another_reader_sees_the_same(signals, tmp_path):
    mne = pytest.importorskip("mne")
    write_edf(tmp_path / "a.edf", signals, START, STAGES)
    raw = mne.io.read_raw_edf(tmp_path / "a.edf", include=["EEG C3-M2"], verbose="error")
    found = open_recording(tmp_path / "a.edf")
    np.testing.assert_allclose(1e6 * raw.get_data()[0], found.read(0), atol=1e-3)
    assert list(raw.annotations.description) == [text for _, _, text in STAGES]
    assert raw.info["meas_date"].replace(tzinfo=None) == START


def test_what_does_not_fit_is_told_with_the_file_and_leaves_nothing(signals, tmp_path):
    with pytest.raises(ValueError, match="a.edf: annotation .* printable"):
        write_edf(tmp_path / "a.edf", signals, START, [(1.0, 100.0, "Sleep stage W\x14")])
    assert not list(tmp_path.iterdir())
