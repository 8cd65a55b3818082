"""The causal preprocessing: equal to the published one, causal, blind to gain, honest of gaps."""

import fractions
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.recipes.hypnos import PATHS
from data_pipelines.signals import causal
from data_pipelines.signals.rolling_scale import compress

RATES = {"eeg": 128, "emg": 128, "ecg": 128, "respiratory": 32, "ppg": 128}

# Every 90/24th second's sample of the output of ``resample_signal`` and then
# ``causal_preprocess_signal`` of the package hypnos 0.1.0 for ``published_signal``, computed once
# with numpy 2.4.6 and scipy 1.17.1. (recipe, input Hz, output Hz, mains Hz): values.
PUBLISHED = {
    ("eeg", 256, 128, 50): [
        0.40171,
        0.31004,
        -0.87640,
        0.00897,
        1.20035,
        1.44339,
        0.79954,
        -0.65737,
        0.68552,
        1.27047,
        0.55475,
        0.09741,
        -0.24563,
        0.50197,
        -0.22346,
        1.17168,
        0.29287,
        -1.21385,
        0.69975,
        11.43082,
        -0.09341,
        0.23116,
        0.21745,
        0.11593,
    ],
    ("emg", 200, 128, 60): [
        0.41078,
        -0.78291,
        -0.53065,
        0.39794,
        0.91433,
        1.12968,
        0.62561,
        -0.63100,
        1.11751,
        0.78798,
        0.32258,
        -0.46897,
        -0.15630,
        0.65030,
        -0.00838,
        0.66945,
        0.74470,
        -1.28156,
        0.84734,
        11.45353,
        -0.18146,
        0.23962,
        0.25301,
        0.10323,
    ],
    ("ecg", 500, 128, 50): [
        0.39232,
        1.39012,
        0.83807,
        0.36779,
        -0.33752,
        -0.73724,
        -0.50459,
        -0.42791,
        1.26101,
        1.80354,
        1.40924,
        0.30621,
        -1.05722,
        -1.16681,
        -1.07395,
        0.24128,
        1.12527,
        0.72011,
        1.40441,
        -8.51967,
        0.12878,
        0.85366,
        -0.04438,
        -0.40300,
    ],
    ("respiratory", 10, 32, 50): [
        0.33646,
        0.78073,
        1.26889,
        -0.64565,
        -1.03001,
        -1.06709,
        -1.20353,
        -0.49175,
        0.36263,
        1.93559,
        1.23187,
        0.23603,
        -1.10141,
        -0.58250,
        -0.11971,
        0.24271,
        1.03900,
        1.28577,
        1.51189,
        -7.29504,
        0.33601,
        0.73640,
        -0.09789,
        -0.43797,
    ],
    ("ppg", 100, 128, 50): [
        0.59475,
        1.26111,
        0.36381,
        -0.59406,
        -0.54295,
        -1.12857,
        -0.26518,
        0.42973,
        1.43684,
        1.70247,
        1.01008,
        -0.48461,
        -1.43286,
        -1.50082,
        -0.39229,
        0.58244,
        1.61735,
        0.98458,
        1.10691,
        -11.11472,
        1.58320,
        -1.05375,
        0.11827,
        0.24292,
    ],
}


def published_signal(fs, seconds):
    t = np.arange(fs * seconds) / fs
    noise = ((np.arange(fs * seconds) * 1103515245 + 12345) % 2**31) / 2**30 - 1
    chirp = np.sin(2 * np.pi * 9.7 * t * (1 + t / 900))
    x = 20 * noise + 60 * np.sin(2 * np.pi * 0.3 * t) + 25 * chirp
    x += 30 * np.sin(2 * np.pi * 50 * t) + 12
    x[fs * 70 : fs * 71] += 3000
    return x


def channel(recipe, rate=None):
    rate = rate or RATES.get(recipe, 1)
    path = PATHS["eeg" if recipe == "eog" else recipe]
    return types.SimpleNamespace(name=f"a {recipe}", path=path, rate_hz=rate)


def run(x, fs, recipe="eeg", mains_hz=50, rate=None):
    return causal.preprocess_channel(
        x, fractions.Fraction(fs), channel(recipe, rate), mains_hz=mains_hz
    )


def noise(seconds, fs=128, seed=0, std=20.0):
    return std * np.random.default_rng(seed).standard_normal(int(seconds * fs))


@pytest.mark.parametrize("key", PUBLISHED, ids=str)
def test_it_equals_values_of_the_published_package(key):
    recipe, fs, rate, mains = key
    samples = run(published_signal(fs, 90), fs, recipe, mains).samples
    at = (np.arange(24) * rate * 90) // 24 + 7
    np.testing.assert_allclose(samples[at], PUBLISHED[key], atol=1e-4)


@pytest.mark.parametrize(
    ("recipe", "fs"),
    [("eeg", 256), ("eeg", 100), ("eeg", 128), ("emg", 200), ("ecg", 500), ("respiratory", 10)],
)
def test_it_equals_the_published_package(recipe, fs):
    published = pytest.importorskip(
        "hypnos.data.preprocessing",
        reason="pip install --no-deps hypnos==0.1.0 to compare with the published code",
    )
    x = noise(200, fs, seed=fs) + 50 * np.sin(np.arange(200 * fs) / fs)
    x[fs * 100 : fs * 101] += 3000
    resampled = published.resample_signal(x, fs, RATES[recipe])
    expected = published.causal_preprocess_signal(resampled, RATES[recipe], recipe)[0]
    np.testing.assert_allclose(run(x, fs, recipe).samples, np.ravel(expected), atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(at=st.integers(70, 118), recipe=st.sampled_from(["eeg", "ecg", "respiratory"]))
def test_nothing_after_a_moment_changes_what_came_before(at, recipe):
    fs = 100
    x = noise(120, fs)
    changed = x.copy()
    changed[at * fs :] += 50 * noise(120 - at, fs, seed=1)
    rate = RATES[recipe]
    before, after = run(x, fs, recipe).samples, run(changed, fs, recipe).samples
    seen_ahead = 1  # the polyphase filter reaches 10 samples of the slower rate ahead
    np.testing.assert_array_equal(
        before[: (at - seen_ahead) * rate], after[: (at - seen_ahead) * rate]
    )
    assert np.abs(before - after).max() > 1


@settings(max_examples=15, deadline=None)
@given(gain=st.floats(0.05, 5000), recipe=st.sampled_from(["eeg", "ecg", "respiratory"]))
def test_gain_does_not_matter(gain, recipe):
    x = noise(100)
    expected = run(x, 128, recipe).samples
    np.testing.assert_allclose(run(gain * x, 128, recipe).samples, expected, atol=1e-5)


@pytest.mark.parametrize("gain", [1e-6, 1e-3])
def test_a_channel_in_volts_is_not_flattened_by_the_variance_floor(gain):
    x = noise(100)
    np.testing.assert_allclose(run(gain * x, 128).samples, run(x, 128).samples, atol=1e-3)


def test_gain_is_kept_in_the_tracks():
    x = noise(100)
    plain, third = run(x, 128), run(0.3 * x, 128)
    np.testing.assert_allclose(third.tracks[:, 1] - plain.tracks[:, 1], np.log(0.3), atol=1e-4)
    np.testing.assert_allclose(third.tracks[:, 0], 0.3 * plain.tracks[:, 0], atol=1e-3)
    assert np.median(np.exp(plain.tracks[:, 1])) == pytest.approx(20 * (45 / 64) ** 0.5, rel=0.1)


def test_a_drop_of_a_third_is_forgotten_at_the_published_pace():
    t = np.arange(600 * 32) / 32
    breath = np.sin(2 * np.pi * 0.25 * t)
    breath[300 * 32 :] *= 0.7
    samples = 100 * run(100 * breath, 32, "respiratory").samples
    usual = np.abs(samples[200 * 32 : 300 * 32]).max()

    def drop(after_s, width_s=4):
        at = (300 + after_s) * 32
        return 1 - np.abs(samples[at - width_s * 16 : at + width_s * 16]).max() / usual

    for after_s, expected in ((10, 0.26), (30, 0.22)):
        assert drop(after_s) == pytest.approx(expected, abs=0.015)
    assert 0.2 > drop(60) > drop(120) > drop(200) > 0


def test_compression_is_smooth_at_its_knee():
    near = np.array([8 - 1e-6, 8, 8 + 1e-6, -8 - 1e-6])
    out = compress(near)
    np.testing.assert_allclose(out, near, atol=1e-9)
    np.testing.assert_allclose(np.diff(out[:3]), 1e-6, rtol=1e-4)
    assert compress(np.array([100.0]))[0] == pytest.approx(8 + 2 * np.log(47))


@settings(max_examples=40, deadline=None)
@given(
    numerator=st.integers(1, 3000),
    denominator=st.integers(1, 40),
    seconds=st.floats(1.5, 20),
    rate=st.sampled_from([32, 128]),
)
def test_any_rate_gives_whole_seconds(numerator, denominator, seconds, rate):
    fs = fractions.Fraction(numerator, denominator)
    x = noise(1, int(seconds * fs) + 2)
    whole = int(len(x) / fs)
    recipe = "eeg" if rate == 128 else "respiratory"
    if whole == 0:
        with pytest.raises(causal.UnusableSignal):
            run(x, fs, recipe)
        return
    made = run(x, fs, recipe)
    assert made.samples.shape == (whole * rate,) and made.samples.dtype == np.float32
    assert made.valid.shape == (whole,) and made.tracks.shape == (whole, 2)
    assert np.isfinite(made.samples).all() and np.isfinite(made.tracks).all()


def test_a_fractional_rate_does_not_drift():
    fs = fractions.Fraction(125, 2)
    t = np.arange(int(600 * fs)) * 2 / 125
    burst = np.where(np.abs(t - 590) < 0.25, 200.0, 0.0) * np.sin(2 * np.pi * 10 * t)
    samples = run(burst + noise(1, len(t), std=1.0), fs).samples
    centre = np.sum(np.arange(len(samples)) * samples**8) / np.sum(samples**8) / 128
    assert centre == pytest.approx(590, abs=0.1)


@pytest.mark.parametrize("mains_hz", [50, 60])
def test_mains_hum_is_removed_where_it_is(mains_hz):
    hum = 100 * np.sin(2 * np.pi * mains_hz * np.arange(200 * 256) / 256)
    x = noise(200, 256) + hum

    def at_mains(notch_hz):
        samples = run(x, 256, mains_hz=notch_hz).samples[60 * 128 :]
        hz = np.arange(len(samples) // 2 + 1) / 140
        return np.abs(np.fft.rfft(samples))[np.abs(hz - mains_hz) < 0.05].max()

    for wrong in (None, 110 - mains_hz):
        assert at_mains(wrong) > 20 * at_mains(mains_hz)


def test_a_gap_is_masked_and_disturbs_nothing_before_it_nor_for_long_after():
    x = noise(400)
    gap = x.copy()
    gap[150 * 128 : 200 * 128] = np.nan
    whole, made = run(x, 128), run(gap, 128)
    assert not made.valid[150:200].any() and made.valid.sum() == 350
    assert not made.samples[150 * 128 : 200 * 128].any()
    assert not made.tracks[150:200].any()
    np.testing.assert_array_equal(made.samples[: 149 * 128], whole.samples[: 149 * 128])
    assert np.abs(made.samples[201 * 128 :]).max() < 8
    np.testing.assert_allclose(made.samples[330 * 128 :], whole.samples[330 * 128 :], atol=0.35)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 99), share=st.floats(0, 0.9), fs=st.sampled_from([10, 100, 128]))
def test_any_pattern_of_gaps_gives_finite_samples_and_zeros_where_invalid(seed, share, fs):
    rng = np.random.default_rng(seed)
    x = noise(70, fs, seed)
    for _ in range(int(share * 30)):
        start = rng.integers(len(x))
        x[start : start + rng.integers(1, 8 * fs)] = np.nan
    try:
        made = run(x, fs)
    except causal.UnusableSignal:
        assert np.isnan(x).mean() > 0.4
        return
    assert np.isfinite(made.samples).all() and np.isfinite(made.tracks).all()
    assert not made.samples.reshape(-1, 128)[~made.valid].any()


def test_a_lost_electrode_is_masked_and_a_flat_channel_is_absent():
    x = noise(100)
    x[40 * 128 : 60 * 128] = -3276.8
    made = run(x, 128)
    assert not made.valid[40:60].any() and made.valid[:40].all() and made.valid[60:].all()
    for flat in (np.zeros(12800), np.full(12800, 7.0), np.full(12800, np.nan)):
        with pytest.raises(causal.UnusableSignal):
            run(flat, 128)


def test_oximetry_keeps_its_level_and_loses_its_dropouts():
    x = np.repeat(np.linspace(97, 88, 100), 3)
    x[60:75] = 127.0  # 5 s of the sensor's word for "no finger"
    x[150:240] = 0.0  # 30 s of dropout
    made = run(x, 3, "spo2", rate=1)
    assert made.valid[20:25].all() and not made.valid[50:80].any()
    assert made.tracks[10, 0] == pytest.approx(x[30:33].mean(), abs=0.01)
    np.testing.assert_allclose(made.samples[22], (x[57] + x[78] - 190) / 10, atol=0.2)


def test_position_codes_are_never_mixed():
    x = np.repeat([1.0, 3.0, 0.0, 2.0], 250)
    made = run(x, 25, "position", rate=1)
    assert set(made.samples.tolist()) == {0.0, 1.0, 2.0, 3.0}


@pytest.mark.parametrize("mains_hz", [0, 55, "50"])
def test_other_mains_are_refused(mains_hz):
    with pytest.raises(ValueError, match="mains_hz"):
        run(noise(10), 128, mains_hz=mains_hz)
