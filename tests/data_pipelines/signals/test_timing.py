"""Codes of beats, breaths and bursts: what they say, and that pieces make the same ones."""

import numpy as np
import pytest

from data_pipelines.signals.timing import TIMINGS, TimingStream, describe

RATES = {"ecg": 128, "resp": 32, "eeg": 128, "eog": 128, "emg": 128}
SECONDS = 90


def ecg_of(beats_s, seconds=SECONDS):
    """Spikes of 40 ms under noise, z-scored."""
    t = np.arange(seconds * 128) / 128
    rng = np.random.default_rng(0)
    wave = sum(np.exp(-0.5 * ((t - at) / 0.012) ** 2) for at in beats_s)
    wave = wave + 0.02 * rng.standard_normal(len(t))
    return (wave - wave.mean()) / wave.std()


def codes_of(signal_type, samples, valid=None):
    valid = np.ones(len(samples) // RATES[signal_type], bool) if valid is None else valid
    return TimingStream(signal_type, RATES[signal_type]).push(samples, valid).astype(int)


def bin_of(interval_s, low, high):
    """Place of an interval among 40 logarithmic bins, counted from 0."""
    return 40 * np.log(interval_s / low) / np.log(high / low)


def test_beats_give_the_last_two_intervals_and_the_time_since():
    beats = np.cumsum(np.tile([0.7, 0.9], 56))
    codes = codes_of("ecg", ecg_of(beats))[5:]
    ends = np.arange(5, SECONDS) + 1 - 1 / 128
    for row, end in zip(codes, ends):
        # A beat is known 0.27 s after it came; borders of bins belong to either side.
        known = beats[beats + 0.27 <= end + 0.02]
        choices = []
        for last in (known[-3:], known[-4:-1]):
            newest, before = np.diff(last)[::-1]
            place = bin_of(newest, 0.25, 2), bin_of(before, 0.25, 2), (end - last[-1]) / 0.05
            choices.append(np.abs(row - 0.5 - np.array(place)).max())
        assert min(choices) < 1, (end, row)
    assert {tuple(row) for row in codes[:, :2]} == {(20, 25), (25, 20)}


def test_a_pause_and_a_missing_stretch():
    beats = np.array([at for at in np.arange(0.5, SECONDS, 0.8) if not 40 < at < 46])
    samples, valid = ecg_of(beats), np.ones(SECONDS, bool)
    valid[60:65] = False
    samples.reshape(SECONDS, 128)[60:65] = 0
    codes = codes_of("ecg", samples, valid)
    assert (codes[0] == 0).all()  # nothing is known at the beginning
    assert (codes[43:46, 2] == 40).all() and (codes[43:46, 0] == codes[35, 0]).all()
    assert codes[46, 0] == 40  # the pause itself
    assert (codes[49:59, :2] == codes[35, :2]).all()  # and no noise was taken for beats
    assert (codes[60:65] == 0).all()
    assert codes[65, 0] == 0 and (codes[68:, :2] == codes[35, :2]).all()  # no interval across it


def test_breaths_of_five_seconds():
    t = np.arange(SECONDS * 32) / 32
    codes = codes_of("resp", np.sqrt(2) * np.sin(2 * np.pi * t / 5))
    assert (np.abs(codes[40:, :2] - 0.5 - bin_of(5, 1, 12)) <= 1).all()
    since = (np.arange(40, SECONDS) + 1 - 1.25) % 5
    since += 5 * (since < 0.8)  # the newest is not known yet
    assert (np.abs(codes[40:, 2] - 0.5 - since / 0.3) <= 1).all()


@pytest.mark.parametrize("signal_type", ["eeg", "eog", "emg"])
def test_a_burst_is_seen_in_the_quarter_that_it_came_in(signal_type):
    low, high = TIMINGS[signal_type].band_hz
    t = np.arange(SECONDS * 128) / 128
    rng = np.random.default_rng(0)
    burst = np.sin(np.pi * (low + high) * t) * ((t > 50.25) & (t < 50.5))
    codes = codes_of(signal_type, 0.1 * rng.standard_normal(len(t)) + 3 * burst)
    late = codes[50:52].reshape(-1)
    assert late.argmax() in (1, 2) and late.max() > codes[60:].max() + 2


@pytest.mark.parametrize("signal_type", sorted(RATES))
def test_pieces_of_any_length_give_the_same_codes_to_the_last_bit(signal_type):
    rate = RATES[signal_type]
    rng = np.random.default_rng(1)
    samples = np.cumsum(rng.standard_normal(SECONDS * rate)).astype(np.float32)
    samples -= np.convolve(samples, np.ones(rate) / rate, mode="same")
    samples += np.float32(4) * (np.arange(len(samples)) % (rate * 3 // 4) < rate // 20)
    valid = rng.random(SECONDS) > 0.05
    samples.reshape(SECONDS, rate)[~valid] = 0
    whole = codes_of(signal_type, samples, valid)
    assert (whole[valid] > 0).mean() > 0.3 and (whole[~valid] == 0).all()
    assert whole.max() < describe(signal_type)["timing_codes"]
    stream, found, at = TimingStream(signal_type, rate), [], 0
    while at < SECONDS:
        stop = min(SECONDS, at + int(rng.integers(0, 9)))
        found.append(stream.push(samples[at * rate : stop * rate], valid[at:stop]))
        kept, at = stream.state(), stop
        stream = TimingStream(signal_type, rate)
        stream.restore(kept)
    np.testing.assert_array_equal(np.concatenate(found), whole)


def test_other_types_and_other_versions_are_refused():
    with pytest.raises(ValueError, match="'spo2'.*'ecg'"):
        describe("spo2")
    with pytest.raises(ValueError, match="'beats 1' here, and was by 'beats 0'"):
        TimingStream("ecg", 128, "beats 0")
