"""A channel that comes in blocks is prepared as the whole recording is."""

import fractions

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.recipes.hypnos import ROWS
from data_pipelines.signals.causal import preprocess_channel
from data_pipelines.signals.streaming import ChannelStream

RATES = [128, 100, 200, 256, 512, 250, 32, fractions.Fraction(256, 3), 99.9, 64.06]


def noise(sfreq, seconds, seed=0, offset=300.0):
    """Coloured noise with drift, offset and an artefact."""
    rng = np.random.default_rng(seed)
    count = int(seconds * fractions.Fraction(sfreq))
    t = np.arange(count) / float(sfreq)
    signal = offset + 30 * rng.standard_normal(count) + 50 * np.sin(0.7 * t) + 0.2 * t
    signal[count // 2] += 4000
    return signal


def streamed(signal, cuts, stream, *, through_state=False):
    """Everything that a stream gives for a signal cut in blocks, as [samples, valid, tracks]."""
    pieces = []
    for block in np.split(signal, cuts):
        if through_state:
            state = {name: x.copy() for name, x in stream.state().items()}
            stream = ChannelStream(stream.row, stream.sfreq, mains_hz=50)
            stream.restore(state)
        pieces.append(stream.push(block))
    pieces.append(stream.close())
    return [np.concatenate([getattr(p, x) for p in pieces]) for x in ("samples", "valid", "tracks")]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.data())
def test_blocks_of_any_size_give_what_the_whole_recording_gives(data):
    channel = ROWS[data.draw(st.sampled_from(["eeg_c3", "ecg", "resp_abd"]))]
    sfreq = data.draw(st.sampled_from(RATES))
    seconds = data.draw(st.floats(1.1, 75))
    signal = noise(sfreq, seconds)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(signal)), max_size=20)))
    stream = ChannelStream(channel, sfreq, mains_hz=50)
    samples, valid, tracks = streamed(signal, cuts, stream, through_state=True)
    whole = preprocess_channel(signal, sfreq, channel, mains_hz=50)
    np.testing.assert_allclose(samples, whole.samples, atol=3e-6)
    assert np.array_equal(valid, whole.valid)
    np.testing.assert_allclose(tracks, whole.tracks, rtol=1e-4, atol=1e-4)
    assert samples.dtype == whole.samples.dtype == np.float32


@pytest.mark.parametrize("sfreq", [256, 100])
def test_seconds_come_as_soon_as_the_resampler_has_seen_them(sfreq):
    stream = ChannelStream(ROWS["eeg_c3"], sfreq, mains_hz=60)
    signal = noise(sfreq, 70)
    counts = [len(stream.push(block).valid) for block in signal.reshape(-1, sfreq // 4)]
    ready = np.flatnonzero(counts)
    # the first minute at once when it is over, then a second every second, a fraction late
    assert counts[ready[0]] == 60 and set(np.diff(ready)) == {4}
    assert all(counts[i] == 1 for i in ready[1:])
    assert ready[0] == 4 * 60


def test_gaps_and_flat_stretches():
    channel, sfreq = ROWS["eeg_c3"], 256
    signal = noise(sfreq, 120)
    signal[80 * sfreq : 85 * sfreq - 3] = np.nan
    signal[100 * sfreq : 110 * sfreq] = 12.0
    samples, valid, _ = streamed(signal, [], ChannelStream(channel, sfreq, mains_hz=50))
    assert np.array_equal(np.flatnonzero(~valid), [*range(80, 85), *range(105, 110)])
    assert not samples.reshape(-1, 128)[~valid].any()
    whole = preprocess_channel(signal, sfreq, channel, mains_hz=50)
    clean = [*range(80), *range(90, 100), *range(115, 120)]
    both = (x.reshape(-1, 128)[clean] for x in (samples, whole.samples))
    first, other = both
    assert np.median(np.abs(first - other)) < 0.05


@pytest.mark.parametrize(
    ("name", "sfreq", "flat_s", "level"),
    [
        ("eeg_c3", 128, 70, 0.05),
        ("eeg_c3", 100, 70, 12.0),
        ("ecg", 200, 7.25, 3000.0),
        ("resp_abd", 25, 60.5, 12.0),
        ("resp_abd", 32, 59.5, 0.05),
    ],
)
def test_a_sensor_that_is_flat_at_first(name, sfreq, flat_s, level):
    channel = ROWS[name]
    rng = np.random.default_rng(3)
    signal = 200 * rng.standard_normal(220 * sfreq)
    signal[:: 3 * sfreq] += 1500
    signal[: int(flat_s * sfreq)] = level
    stream = ChannelStream(channel, sfreq, mains_hz=50)
    with np.errstate(over="raise", invalid="raise"):
        samples, valid, tracks = streamed(signal, range(50, len(signal), 50), stream)
    whole = preprocess_channel(signal, sfreq, channel, mains_hz=50)
    assert np.array_equal(valid, whole.valid)
    np.testing.assert_allclose(samples, whole.samples, atol=3e-6)
    np.testing.assert_allclose(tracks, whole.tracks, rtol=1e-4, atol=1e-4)


def test_the_rounding_of_a_constant_is_no_scale():
    # A last digit that flickers is not flat, but what is left of it is noise of 1e-15.
    signal = 200 * np.random.default_rng(4).standard_normal(200 * 128)
    signal[: 70 * 128] = 0.05 + np.arange(70 * 128) % 2 * 1e-16
    signal[70 * 128 :: 300] += 1500
    stream = ChannelStream(ROWS["eeg_c3"], 128, mains_hz=50)
    with np.errstate(over="raise", invalid="raise"):
        samples, _, _ = streamed(signal, [], stream)
    whole = preprocess_channel(signal, 128, ROWS["eeg_c3"], mains_hz=50)
    np.testing.assert_allclose(samples, whole.samples, atol=3e-6)


@pytest.mark.parametrize("late_s", [0.3, 7.5, 10.0])
def test_cuts_do_not_matter_to_a_sensor_that_begins_late(late_s):
    signal = noise(200, 90, offset=3000.0)
    signal[: int(late_s * 200)] = np.nan
    signal[15 * 200 : 17 * 200] = np.nan
    ways = [
        streamed(signal, cuts, ChannelStream(ROWS["ecg"], 200, mains_hz=50))
        for cuts in ([], range(200, len(signal), 200), range(7, len(signal), 7), [1990, 2010])
    ]
    for way in ways[1:]:
        for first, other in zip(ways[0], way):
            assert np.array_equal(first, other)


@pytest.mark.parametrize("late_s", [0.3, 7.5, 100.0])
def test_a_sensor_that_begins_late(late_s):
    channel, sfreq = ROWS["ecg"], 200
    signal = noise(sfreq, 200)
    signal[: int(late_s * sfreq)] = np.nan
    stream = ChannelStream(channel, sfreq, mains_hz=50)
    samples, valid, _ = streamed(signal, range(100, len(signal), 100), stream)
    whole = preprocess_channel(signal, sfreq, channel, mains_hz=50)
    assert np.array_equal(valid, whole.valid)
    assert np.isfinite(samples).all()
    np.testing.assert_allclose(samples[-128 * 60 :], whole.samples[-128 * 60 :], atol=0.02)


def test_a_sensor_that_is_lost_at_once_does_not_keep_the_others_waiting():
    stream = ChannelStream(ROWS["ecg"], 128, mains_hz=50)
    signal = noise(128, 150)
    signal[5 * 128 :] = np.nan
    counts = [len(stream.push(block).valid) for block in signal.reshape(-1, 128)]
    assert max(counts) == 60 and sum(counts) == 150
    never = ChannelStream(ROWS["ecg"], 128, mains_hz=50)
    made = never.push(np.full(128 * 10, np.nan))
    assert len(made.valid) == 10 and not made.valid.any() and not made.samples.any()


def test_the_averages_of_an_earlier_recording_save_the_wait():
    channel = ROWS["resp_abd"]
    signal = 1e-4 * noise(25, 400)
    stream = ChannelStream(channel, 25, mains_hz=None)
    assert stream.running is None
    stream.push(signal[: 25 * 150])
    mean, std = stream.running
    assert 1e-3 < std < 1e-1
    again = ChannelStream(channel, 25, mains_hz=None, running=(mean, std))
    samples = again.push(signal[25 * 150 :])
    assert len(samples.valid) == 249
    whole = preprocess_channel(signal, 25, channel, mains_hz=None)
    np.testing.assert_allclose(samples.samples[-32 * 60 :], whole.samples[-32 * 61 : -32], atol=0.2)


def test_what_is_no_waveform_is_refused():
    with pytest.raises(ValueError, match="spo2 is no waveform"):
        ChannelStream(ROWS["spo2"], 1, mains_hz=None)
    with pytest.raises(ValueError, match="mains_hz is 55"):
        ChannelStream(ROWS["ecg"], 128, mains_hz=55)
    with pytest.raises(ValueError, match=r"push one channel \[T\]"):
        ChannelStream(ROWS["ecg"], 128, mains_hz=50).push(np.zeros((2, 128)))
    with pytest.raises(ValueError, match="standard deviation of 0"):
        ChannelStream(ROWS["ecg"], 128, mains_hz=50, running=(0.0, 0.0))
