"""The reconstruction evaluator on reconstructions with known faults."""

import numpy as np
import pytest

from hypnos_jax.evaluators.reconstruction import Reconstruction

RATE, SECONDS = 128, 16


class Context:
    """Batches of given signals and estimates."""

    def __init__(self, folder, signal, estimate, valid=None):
        self.workdir, self.signal, self.estimate = folder, signal, estimate
        rate = signal.shape[1] // SECONDS
        self.valid = np.ones((len(signal), SECONDS), bool) if valid is None else valid
        assert rate * SECONDS == signal.shape[1]

    def functions(self, name):
        assert name == "reconstruct"
        return lambda variables, batch: self.estimate

    def batches(self, split, batch_size, limit):
        yield {"signal": self.signal, "valid": self.valid, "weight": np.ones(len(self.signal))}


def results(context, signal_type, rows=0):
    return dict(Reconstruction(context, signal_type=signal_type, rows=rows).run({}, 7))


def ecg(rows=3, beat_s=0.9):
    t = np.arange(RATE * SECONDS) / RATE
    x = np.zeros((rows, len(t)))
    for row in range(rows):
        for beat in np.arange(0.4 + 0.1 * row, SECONDS - 0.3, beat_s):
            x[row] += 6 * np.exp(-0.5 * ((t - beat) / 0.012) ** 2)
    return x + 0.05 * np.random.default_rng(0).normal(size=x.shape)


def test_a_late_ecg(tmp_path):
    x = ecg()
    found = results(Context(tmp_path, x, np.roll(x, 4, axis=1)), "ecg", rows=2)
    assert found["r_peak_error_ms"] == pytest.approx(4 / RATE * 1000)
    assert found["r_peak_missed"] < 0.05 and found["r_peak_extra"] < 0.05
    assert found["coherence/qrs"] > 0.95
    picture = tmp_path / "figures" / "7_reconstruction_ecg.png"
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_missed_and_invented_beats(tmp_path):
    x = ecg()
    half = ecg(beat_s=1.8)
    assert results(Context(tmp_path, x, half), "ecg")["r_peak_missed"] == pytest.approx(
        0.5, abs=0.1
    )
    assert results(Context(tmp_path, half, x), "ecg")["r_peak_extra"] == pytest.approx(0.5, abs=0.1)


def test_an_inverted_ecg_has_its_beats(tmp_path):
    x = ecg()
    found = results(Context(tmp_path, -x, x), "ecg")
    assert found["r_peak_error_ms"] == 0 and found["r_peak_missed"] == 0


def test_late_breaths(tmp_path):
    t = np.arange(32 * SECONDS) / 32
    x = np.sin(2 * np.pi * (0.25 * t[None] + np.array([[0.1], [0.4]])))
    found = results(Context(tmp_path, x, np.roll(x, 8, axis=1)), "resp")
    assert found["breath_error_ms"] == pytest.approx(250, abs=50)


def test_bands_that_were_lost(tmp_path):
    noise = np.random.default_rng(0).normal(size=(8, RATE * SECONDS))
    spectrum, hz = np.fft.rfft(noise), np.fft.rfftfreq(RATE * SECONDS, 1 / RATE)
    slow, fast = (np.fft.irfft(spectrum * keep) for keep in (hz < 13, hz >= 13))
    lost = results(Context(tmp_path, slow + fast, slow + np.roll(fast, 999, axis=1)), "eeg")
    assert lost["coherence/delta"] > 0.95 and lost["coherence/alpha"] > 0.9
    assert lost["coherence/beta"] < 0.2
    half = results(Context(tmp_path, noise, slow), "eeg")
    share = np.sum(noise**2) / np.sum(fast**2)
    assert half["snr_db"] == pytest.approx(10 * np.log10(share), abs=0.01)
    exact = results(Context(tmp_path, slow, slow), "eeg")
    assert exact["log_spectral_distance_db"] == 0 and exact["snr_db"] > 60


def test_invalid_seconds_do_not_count(tmp_path):
    x = ecg()
    y, valid = x.copy(), np.ones((3, SECONDS), bool)
    y[0, :RATE] = 100.0
    valid[0, 0] = False
    assert results(Context(tmp_path, x, y, valid), "ecg")["snr_db"] > 60
    assert results(Context(tmp_path, x, y, np.zeros_like(valid)), "ecg") == {}
    with pytest.raises(ValueError, match="spo2"):
        Reconstruction(Context(tmp_path, x, y), signal_type="spo2")
