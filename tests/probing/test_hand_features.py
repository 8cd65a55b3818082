"""Hand-made features: known spectra, known beats, known breaths, and missing channels."""

import csv
from fractions import Fraction

import numpy as np
import pytest

from data_pipelines.recipes.hypnos import ROWS
from data_pipelines.signals.causal import preprocess_channel
from data_pipelines.signals.heartbeats import RHYTHM_NAMES, find_r_peaks, rhythm_features
from data_pipelines.store import ChannelSignal, Night
from hypnos_jax.probing.hand_features import BANDS_HZ, epoch_features, past_mean, record_features


class MemoryStore:
    """The reading half of a store of signals, over a night in memory."""

    kind = "signals"

    def rate_hz(self, channel):
        return ROWS[channel].rate_hz

    def signal(self, night, channel, start, stop):
        rate = self.rate_hz(channel)
        return night.channels[channel].samples[start * rate : stop * rate]

    def valid(self, night, channel, start, stop):
        return night.channels[channel].valid[start:stop]

    def tracks(self, night, channel, start, stop):
        return night.channels[channel].tracks[start:stop]


def make_night(seconds, signals, tracks=None):
    channels = {}
    for name, samples in signals.items():
        own = np.zeros((seconds, 2)) if tracks is None else tracks
        channels[name] = ChannelSignal(
            name, ROWS[name].rate_hz, samples, np.ones(seconds, bool), own
        )
    return Night("n", "s", "train", channels, np.zeros(seconds // 30, np.int8))


def column(rows, names, name):
    return rows[:, names.index(name)]


@pytest.mark.parametrize(
    ("hz", "band"), [(1, "slow"), (6, "theta"), (10, "alpha"), (13.5, "sigma")]
)
def test_a_sine_is_in_its_band(hz, band):
    t = np.arange(60 * 128) / 128
    noise = 0.01 * np.random.default_rng(0).standard_normal(len(t))
    night = make_night(60, {"eeg_c3": np.sin(2 * np.pi * hz * t) + noise})
    rows, names = epoch_features(MemoryStore(), night)
    shares = {name: np.exp(column(rows, names, f"eeg_c3/{name}")) for name in BANDS_HZ}
    assert (shares[band] > 0.9).all()
    np.testing.assert_allclose(sum(shares.values()), 1, atol=1e-5)


def test_absent_and_invalid_channels_are_missing():
    rng = np.random.default_rng(0)
    night = make_night(90, {"eeg_c3": rng.standard_normal(90 * 128)})
    night.channels["eeg_c3"].valid[30:50] = False
    rows, names = epoch_features(MemoryStore(), night)
    assert rows.shape == (3, len(names))
    now = [not name.endswith("/past") and name.startswith("eeg_c3") for name in names]
    assert np.isfinite(rows[[0, 2]][:, now]).all()
    assert np.isnan(rows[1][now]).all()
    others = [not name.startswith("eeg_c3") for name in names]
    assert np.isnan(rows[:, others]).all()


def test_the_tracks_give_amplitude_back():
    rng = np.random.default_rng(0)
    tracks = np.zeros((60, 2))
    tracks[30:, 1] = np.log(3)
    night = make_night(60, {"emg_chin": rng.standard_normal(60 * 128)}, tracks)
    rows, names = epoch_features(MemoryStore(), night)
    np.testing.assert_allclose(np.exp(column(rows, names, "emg_chin/log_std")), [1, 3], rtol=1e-5)


def test_breaths():
    t = np.arange(600 * 32) / 32
    size = np.where(t < 450, 1.0, 0.2)
    signal = size * np.sin(2 * np.pi * 0.25 * t)
    tracks = np.stack([signal.reshape(600, 32).mean(1), np.zeros(600)], axis=1)
    night = make_night(600, {"resp_abd": signal, "resp_thx": -signal}, tracks)
    rows, names = epoch_features(MemoryStore(), night)
    np.testing.assert_allclose(column(rows, names, "resp_abd/rate"), 0.25, atol=0.01)
    drop = column(rows, names, "resp_abd/amplitude_over_past")
    assert abs(drop[14]) < 0.05
    assert drop[15] < -1
    np.testing.assert_allclose(column(rows, names, "resp_abd/resp_thx/correlation"), -1, atol=1e-3)


def test_past_mean_leaves_gaps_out():
    rows = np.array([[np.nan], [1.0], [3.0], [np.nan], [5.0]])
    found = past_mean(rows, 2)[:, 0]
    np.testing.assert_allclose(found, [np.nan, 1, 2, 3, 5])


def beats(times, seconds, rate=128, sign=1):
    t = np.arange(seconds * rate) / rate
    signal = 0.02 * np.random.default_rng(1).standard_normal(len(t))
    for at in times:
        signal += sign * np.exp(-(((t - at) / 0.012) ** 2)) - 0.2 * np.exp(
            -(((t - at - 0.3) / 0.05) ** 2)
        )
    return signal


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("rate", [100, 128, 300])
def test_peaks_are_where_the_beats_are(sign, rate):
    times = np.cumsum(0.8 + 0.2 * np.random.default_rng(2).random(60))
    found = find_r_peaks(beats(times, 61, rate, sign), rate)
    assert len(found) == len(times)
    np.testing.assert_allclose(found, times, atol=0.01)


def test_peaks_survive_an_artifact_and_a_change_of_size():
    times = np.arange(1, 60, 0.9)
    signal = beats(times, 60) * np.linspace(1, 4, 60 * 128)
    signal[30 * 128 : 30 * 128 + 20] += 30
    found = find_r_peaks(signal, 128)
    near = np.abs(found[:, None] - times[None]).min(0) < 0.03
    assert near.mean() > 0.97
    assert len(found) <= len(times) + 2


def test_no_beats_no_features():
    assert len(find_r_peaks(np.zeros(1000), 128)) == 0
    assert len(find_r_peaks(np.zeros(10), 128)) == 0
    assert np.isnan(rhythm_features(np.arange(4.0))).all()
    with pytest.raises(ValueError, match="60 Hz"):
        find_r_peaks(np.zeros(1000), 32)


def test_irregularity():
    rng = np.random.default_rng(3)
    even = rhythm_features(np.cumsum(0.8 + 0.01 * rng.standard_normal(60)))
    uneven = rhythm_features(np.cumsum(0.5 + 0.6 * rng.random(60)))
    for name in ("relative_rmssd", "pnn50", "absolute_deviation", "sample_entropy"):
        i = RHYTHM_NAMES.index(name)
        assert uneven[i] > even[i] + 0.05, name
    histogram = uneven[RHYTHM_NAMES.index("difference_0") :]
    assert histogram.sum() == pytest.approx(1)


def test_a_record_without_ecg_has_no_rhythm():
    rows, names = record_features(MemoryStore(), make_night(30, {}))
    assert np.isnan(rows).all()
    assert len(names) == len(RHYTHM_NAMES)


def test_peaks_of_a_real_record(test_data):
    wfdb = pytest.importorskip("wfdb")
    path = str(test_data / "wfdb-samples" / "100")
    record, notes = wfdb.rdrecord(path), wfdb.rdann(path, "atr")
    true = np.array(notes.sample)[[s in "NLRBAaJSVrFejE" for s in notes.symbol]] / record.fs
    made = preprocess_channel(1000 * record.p_signal[:, 0], Fraction(360), ROWS["ecg"], mains_hz=60)
    apart = np.abs(find_r_peaks(made.samples, 128)[:, None] - true[None])
    assert (apart.min(0) < 0.1).mean() > 0.995
    assert (apart.min(1) < 0.1).mean() > 0.995


def test_fibrillation_is_told_from_sinus_rhythm(test_data):
    scipy_io = pytest.importorskip("scipy.io")
    metrics = pytest.importorskip("sklearn.metrics")
    with open(test_data / "cinc2017" / "REFERENCE.csv") as file:
        labels = dict(csv.reader(file))
    scores, truth = [], []
    for path in sorted((test_data / "cinc2017").glob("*.mat")):
        if labels.get(path.stem) not in ("A", "N"):
            continue
        signal = scipy_io.loadmat(path)["val"][0]
        made = preprocess_channel(signal, Fraction(300), ROWS["ecg"], mains_hz=60)
        found = rhythm_features(find_r_peaks(made.samples, 128))
        scores.append(found[RHYTHM_NAMES.index("pnn50")])
        truth.append(labels[path.stem] == "A")
    assert metrics.roc_auc_score(truth, scores) > 0.9
