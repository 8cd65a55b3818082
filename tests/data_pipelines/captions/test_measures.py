"""Facts of epochs: values that can be derived by hand, gates, and truths of a simulated night."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.captions import (
    measures_brain,
    measures_breathing,
    measures_heart,
    measures_muscle,
    micro_events,
    trends,
)
from data_pipelines.captions.epoch_signals import NightSignals, band_power, welch
from data_pipelines.captions.facts import SLOTS, Interval, PositionChange
from data_pipelines.captions.measures import facts_of
from data_pipelines.captions.night_summary import summarise
from data_pipelines.channels.table import COHORTS
from data_pipelines.recipes import sleeplm
from data_pipelines.scoring import Event
from data_pipelines.signals.modalities import make_modality
from data_pipelines.store import ChannelSignal, Night
from data_pipelines.synthetic.night import simulate_night

RATE = 64
EPOCHS = 3
TIMES = np.arange(EPOCHS * 30 * RATE) / RATE


def signals_of(bad=(), **rows):
    """Rows in their units as measures read them; ``bad`` seconds were not measured."""

    def read(name):
        samples = np.asarray(rows[name], np.float32)
        seconds = EPOCHS * 30
        valid = np.ones(seconds, bool)
        valid[list(bad)] = False
        return ChannelSignal(name, len(samples) // seconds, samples, valid, np.zeros((seconds, 2)))

    return NightSignals(EPOCHS, read, tuple(rows), dict.fromkeys(rows, (0.0, 1.0)))


def tone(hz, size=20.0):
    return size * np.sin(2 * np.pi * hz * TIMES)


def beats_of(intervals):
    """An ECG whose R peaks follow the intervals, over and over."""
    times = np.cumsum(np.resize(intervals, 400))
    times = times[times < TIMES[-1]]
    ecg = np.zeros(len(TIMES))
    for at in times:
        ecg += 900 * np.exp(-0.5 * ((TIMES - at) / 0.015) ** 2)
    return ecg


# --- brain ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hz", "band"), [(2, "delta"), (6, "theta"), (10, "alpha"), (14, "sigma"), (20, "beta")]
)
def test_a_tone_is_in_its_band(hz, band):
    found = measures_brain.measure(signals_of(eeg_c3=tone(hz)))
    assert set(found) == {f"eeg_c3.{name}" for name in measures_brain.EEG_BANDS}
    for name, values in found.items():
        assert values == pytest.approx(100.0 if name == f"eeg_c3.{band}" else 0.0, abs=0.5)


def test_a_spindle_and_slow_waves_are_found_where_they_are():
    pytest.importorskip("yasa")
    rng = np.random.default_rng(0)
    eeg = 5 * rng.standard_normal(len(TIMES)) + tone(10, 3.0)
    for at in (40.0, 50.0):  # s
        eeg += 40 * np.exp(-0.5 * ((TIMES - at) / 0.35) ** 2) * np.sin(2 * np.pi * 13.5 * TIMES)
    eeg += np.where((TIMES > 70) & (TIMES < 80), tone(0.9, 60.0), 0)
    found = micro_events.measure(signals_of(eeg_c3=eeg), np.array([0, 2, 3]))
    assert {name: np.isnan(x).tolist() for name, x in found.items()} == dict.fromkeys(
        found, [True, False, False]
    )
    assert found["eeg_c3.spindles"][1:].tolist() == [2, 0]
    assert 1 < found["eeg_c3.spindle_s"][1] < 4
    assert found["eeg_c3.slow_waves"][1] == 0 and 7 <= found["eeg_c3.slow_waves"][2] <= 10
    # In a night without light and deep sleep nobody looked.
    awake = micro_events.measure(signals_of(eeg_c3=eeg), np.array([0, 4, -1]))
    assert all(np.isnan(x).all() for x in awake.values())


def test_two_tones_share_the_power_by_their_squares():
    found = measures_brain.measure(signals_of(eog_e1=tone(0.5, 30) + tone(3, 40)))
    assert found["eog_e1.slow"] == pytest.approx(100 * 900 / 2500, abs=1)
    assert found["eog_e1.saccadic"] == pytest.approx(100 * 1600 / 2500, abs=1)


def test_a_spectrum_has_the_power_of_its_signal_and_its_bands_add_up():
    density, hz = welch(tone(7).reshape(EPOCHS, -1), RATE, 4)
    assert band_power(density, hz, 0, 32) == pytest.approx(20**2 / 2, rel=1e-3)
    parts = band_power(density, hz, 0.5, 7.1) + band_power(density, hz, 7.1, 31)
    assert parts == pytest.approx(band_power(density, hz, 0.5, 31))


def test_eeg_that_is_flat_wide_or_missing_says_nothing():
    eeg = tone(10).reshape(EPOCHS, 30, RATE).copy()
    eeg[1, :16] = 0.2  # flat for more than half of the epoch
    eeg[2, :16] *= 30  # spans 1,200 uV
    found = measures_brain.measure(signals_of(eeg_c3=eeg.reshape(-1)))["eeg_c3.alpha"]
    assert found[0] > 99 and np.isnan(found[1:]).all()
    lost = measures_brain.measure(signals_of(bad=range(16), eeg_c3=tone(10)))["eeg_c3.alpha"]
    assert np.isnan(lost[0]) and (lost[1:] > 99).all()


def test_seconds_that_are_not_clean_are_left_out_of_the_rest():
    eeg = tone(10).reshape(EPOCHS, 30, RATE).copy()
    eeg[0, 10:12] = 5000 * np.sign(tone(1)[: 2 * RATE]).reshape(2, RATE)
    found = measures_brain.measure(signals_of(eeg_c3=eeg.reshape(-1)))["eeg_c3.alpha"]
    assert (found > 99).all()


def test_saccades_are_jumps_of_the_eyes_in_opposite_ways():
    noise = np.random.default_rng(0).standard_normal((2, len(TIMES)))

    def step(at):
        return 75 * np.tanh((TIMES - at) / 0.04)

    steps, together = step(40.0) - step(43.0) + step(47.0) - step(52.0), step(70.0)
    eyes = signals_of(eog_e1=noise[0] + steps + together, eog_e2=noise[1] - steps + together)
    found = measures_brain.measure(eyes)
    without = measures_brain.measure(signals_of(eog_e1=noise[0], eog_e2=noise[1]))
    more = found["eog.saccades"] - without["eog.saccades"]
    assert more[1] >= 2 and more[2] <= 0
    assert found["eog.correlation"][1] < -0.9 and found["eog.correlation"][2] > 0.9


# --- heart ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("intervals", "rate", "rmssd"),
    [((0.8,), 75.0, 0.0), ((0.78, 0.82), 75.0, 40.0), ((1.2, 1.2, 1.23), 50.0, 24.5)],
)
def test_trains_of_beats_have_their_rate_and_rmssd(intervals, rate, rmssd):
    found, tracks = measures_heart.measure(signals_of(ecg=beats_of(intervals)))
    assert found["ecg.rate"] == pytest.approx(rate, rel=0.03)
    assert found["ecg.rmssd"] == pytest.approx(rmssd, abs=1.5)
    # Without a recorded rate, that of the beats is taken.
    assert found["heart_rate.mean"] == pytest.approx(60 / np.mean(intervals), rel=0.01)
    assert tracks["heart_rate"].shape == (EPOCHS, 120)


def test_beats_that_are_few_irregular_or_contradict_the_recorded_rate_say_nothing():
    rate, rmssd = measures_heart.of_beats(np.r_[0.5:26:7, 30:60:3.5, 60.5:90:1.0], EPOCHS)
    assert np.isfinite(rate).tolist() == [False, True, True]
    assert np.isfinite(rmssd).tolist() == [False, False, True]
    any_length = np.random.default_rng(0).uniform(0.4, 1.6, 100)
    rate, rmssd = measures_heart.of_beats(np.cumsum(any_length), EPOCHS)
    assert np.isnan(rmssd).all() and np.isfinite(rate).all()
    recorded = np.repeat([74.0, 110.0, 74.0], 30)
    found, _ = measures_heart.measure(signals_of(ecg=beats_of((0.8,)), heart_rate=recorded))
    assert np.isfinite(found["ecg.rate"]).tolist() == [True, False, True]
    assert np.isfinite(found["ecg.rmssd"]).tolist() == [True, False, True]


def test_an_extra_beat_moves_no_derived_heart_rate():
    beats = np.r_[0.4:90:0.8]
    track = measures_heart.rate_track(np.sort(np.r_[beats, 40.8]), EPOCHS)
    assert np.nanmin(track) == pytest.approx(75, abs=0.1)
    assert np.nanmax(track) == pytest.approx(75, abs=0.1)


def test_levels_are_of_plausible_seconds_and_need_four_fifths_of_them():
    spo2 = np.tile(np.r_[np.full(15, 97.0), np.full(15, 93.0)], EPOCHS)
    spo2[30:36], spo2[60:67] = 20.0, 127.0
    found, tracks = measures_heart.measure(signals_of(spo2=spo2))
    assert found["spo2.min"].tolist()[:2] == [93.0, 93.0]
    assert found["spo2.mean"][:2] == pytest.approx([95.0, (9 * 97 + 15 * 93) / 24])
    assert np.isnan(found["spo2.mean"][2]) and np.isnan(tracks["spo2"][2]).all()
    assert set(found) == {"spo2.min", "spo2.mean"}


# --- trends ---------------------------------------------------------------------------------------


def trends_of(values, name="heart_rate"):
    return trends.find_trends(np.atleast_2d(np.asarray(values, float)), trends.RULES[name])[0]


def test_a_slope_a_plateau_and_a_fall_are_found_where_they_are():
    seconds = np.arange(30)
    assert trends_of(60 + 0.3 * seconds) == (Interval(0.0, 30.0, "increasing"),)
    assert trends_of(60 - 0.05 * seconds) == ()  # neither steep enough nor steady
    assert trends_of(np.full(30, 97.0), "spo2") == (Interval(0.0, 30.0, "stable"),)
    shape = np.r_[np.full(15, 60.0), 60 + np.arange(15)]
    steady, rise = trends_of(shape)
    assert (steady.kind, rise.kind) == ("stable", "increasing")
    assert steady.stop_s == pytest.approx(15, abs=2) and rise.stop_s == 30.0
    fall = np.where(seconds < 15, 98.0, 98 - 0.4 * (seconds - 15))
    assert [t.kind for t in trends_of(fall, "spo2")] == ["stable", "decreasing"]
    assert trends_of(np.full(30, np.nan)) == ()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(40, 120), min_size=30, max_size=30), st.sampled_from([*trends.RULES]))
def test_trends_are_on_the_grid_in_order_and_at_most_four(values, name):
    found = trends_of(values, name)
    assert len(found) <= 4
    edges = [edge for t in found for edge in (t.start_s, t.stop_s)]
    assert edges == sorted(edges) and all(0 <= edge <= 30 for edge in edges)
    assert all((edge / 0.9375).is_integer() for edge in edges)
    assert all(t.start_s < t.stop_s for t in found)


# --- breathing ------------------------------------------------------------------------------------


def test_a_sine_breathes_at_its_rate_with_the_flatness_of_a_sine():
    found = measures_breathing.measure(signals_of(airflow=tone(0.25), resp_thx=tone(0.25)))
    assert found["airflow.rate"] == pytest.approx(15, abs=0.1)
    assert found["resp_thx.variability"] == pytest.approx(0, abs=0.06)
    assert found["airflow.flatness"] == pytest.approx(2 / np.pi, abs=0.01)
    assert found["airflow.amplitude_ratio"][1:] == pytest.approx(1, abs=0.05)


def test_the_flatter_the_top_the_higher_the_flatness():
    ratios = []
    for top in (20.0, 14.0, 6.0):
        flow = np.clip(tone(0.25), -top, top)
        ratios.append(measures_breathing.measure(signals_of(airflow=flow))["airflow.flatness"][1])
    assert ratios == sorted(ratios) and ratios[-1] > 0.8


def test_breath_intervals_vary_as_the_breaths_do():
    at = np.cumsum(np.resize((3.0, 5.0), 30))
    breaths = np.exp(-0.5 * ((TIMES[:, None] - at) / 0.7) ** 2).sum(axis=1)
    found = measures_breathing.measure(signals_of(resp_abd=breaths - breaths.mean()))
    assert found["resp_abd.rate"] == pytest.approx(15, abs=0.8)
    assert found["resp_abd.variability"] == pytest.approx(1, abs=0.1)


def test_noise_and_an_apnea_have_no_rate():
    noise = np.random.default_rng(0).standard_normal(len(TIMES))
    slow = scipy.signal.sosfiltfilt(
        scipy.signal.butter(2, (0.9, 1.9), "band", fs=64, output="sos"), noise
    )
    found = measures_breathing.measure(signals_of(airflow=slow))
    assert np.isnan(found["airflow.rate"]).all() and np.isnan(found["airflow.flatness"]).all()
    breath = tone(0.25)
    breath[60 * RATE :] *= 0.02
    found = measures_breathing.measure(signals_of(resp_thx=breath))
    assert np.isfinite(found["resp_thx.rate"]).tolist() == [True, True, False]
    assert found["resp_thx.amplitude_ratio"][2] < 0.2


@pytest.mark.parametrize("degrees", [0, 60, 150])
def test_the_angle_between_chest_and_belly(degrees):
    belly = 20 * np.sin(2 * np.pi * 0.25 * TIMES - np.radians(degrees))
    found = measures_breathing.measure(signals_of(resp_thx=tone(0.25), resp_abd=belly))
    assert found["resp.phase"] == pytest.approx(degrees, abs=2)


# --- muscle and position --------------------------------------------------------------------------


def test_the_chin_has_its_median_frequency_and_its_bursts():
    rng = np.random.default_rng(0)
    sections = scipy.signal.butter(6, (14, 18), "band", fs=RATE, output="sos")
    emg = scipy.signal.sosfiltfilt(sections, rng.standard_normal(len(TIMES)))
    calm = measures_muscle.measure(signals_of(emg_chin=emg))
    assert calm["emg_chin.median_frequency"] == pytest.approx(16, abs=0.4)
    bursts = emg * np.where(np.sin(2 * np.pi * 0.5 * TIMES) > 0.8, 6.0, 1.0)
    found = measures_muscle.measure(signals_of(emg_chin=bursts))
    assert (found["emg_chin.burst_ratio"] > 1.5 * calm["emg_chin.burst_ratio"]).all()
    even = measures_muscle.measure(signals_of(emg_chin=tone(16) * (1 + tone(0.5, 0.5))))
    assert even["emg_chin.burst_rate"] == pytest.approx(0.5, abs=0.05)
    assert np.isnan(
        measures_muscle.measure(signals_of(bad=range(16), emg_chin=emg))["emg_chin.burst_rate"][0]
    )


def test_a_position_counts_from_three_seconds_on():
    codes = np.full((4, 30), 2)
    codes[0, 10:12] = 0  # too short
    codes[1, 20:] = 1
    codes[1, 18:20] = -1
    codes[2] = -1
    codes[3, :4] = -1
    first, changes = measures_muscle.find_positions(codes)
    assert first.tolist() == [2, 2, -1, 2]
    assert changes == [(), (PositionChange(20.0, "left"),), (), ()]


# --- a whole night --------------------------------------------------------------------------------


def prepared(made, names):
    codes = {"position": COHORTS["synthetic"]["Position"].codes}
    channels, scaling = {}, {}
    for name in names:
        one = make_modality(
            sleeplm.ROWS[name],
            lambda channel: (made.signals[channel], Fraction(made.rates[channel])),
            [name],
            codes,
        )
        channels[name], scaling[name] = one.signal, (one.centre, one.scale)
    return Night(
        *("night", "night", "train", channels, made.scoring.stages, made.scoring.events),
        metadata={"events_scored": True},
        qc={"scaling": scaling},
    )


@pytest.fixture(scope="module")
def simulated():
    made = simulate_night(5, 0.4, channels=sleeplm.TWELVE)
    night = prepared(made, sleeplm.TWELVE)
    return made, night, facts_of(night)


def of_epochs(times, epochs):
    return np.split(times, np.searchsorted(times, np.arange(1, epochs) * 30))


def test_facts_of_a_simulated_night_are_those_that_were_simulated(simulated):
    made, night, facts = simulated
    asked_for = {name for name in SLOTS if "spindle" in name or "slow_wave" in name}
    assert set(facts.numbers) == set(SLOTS) - asked_for and facts.epochs == len(made.plan.stages)
    beats = of_epochs(made.beats, facts.epochs)
    rates = [60 / np.median(np.diff(own)) for own in beats]
    assert np.nanmedian(np.abs(facts.numbers["ecg.rate"] - rates)) < 0.2
    rmssd = [1000 * np.sqrt(np.mean(np.diff(own, 2) ** 2)) for own in beats]
    assert np.nanmedian(np.abs(facts.numbers["ecg.rmssd"] - rmssd)) < 1.0
    turns = made.breathing.phase[:: 30 * 4] / (2 * np.pi)
    breaths = 2 * np.diff(turns[: facts.epochs + 1])
    assert np.nanmedian(np.abs(facts.numbers["resp_thx.rate"] - breaths)) < 0.5
    recorded = made.signals["spo2"].reshape(facts.epochs, 30)
    assert facts.numbers["spo2.min"] == pytest.approx(recorded.min(axis=1), abs=0.01)
    delta, stages = facts.numbers["eeg_c3.delta"], facts.stage
    assert np.median(delta[stages == 3]) > np.median(delta[stages == 0]) + 10


def test_positions_of_the_sensor_are_those_that_were_scored(simulated):
    _, night, facts = simulated
    without = dataclasses.replace(night, channels={"eeg_c3": night.channels["eeg_c3"]})
    of_scoring = facts_of(without)
    assert len(set(facts.position.tolist())) > 1
    # The sensor's seconds begin a part of a second earlier.
    assert np.mean(facts.position == of_scoring.position) >= 0.95
    assert any(facts.position_changes) and any(of_scoring.position_changes)


def with_events(night, events, looked=True):
    night = dataclasses.replace(
        night,
        channels={"spo2": night.channels["spo2"]},
        events=events,
        metadata={"events_scored": looked},
    )
    return night, facts_of(night).events


def test_events_are_cut_at_the_edges_of_epochs(simulated):
    events = [
        Event("arousal", 28.0, 4.0),
        Event("hypopnea", 29.95, 20.05),  # 0.05 s of the first epoch
        Event("apnea_central", 70.0, 60.0),
        Event("lights_off", 0.0, 0.0),
    ]
    _, found = with_events(simulated[1], events)
    assert found[0] == (Interval(28.0, 30.0, "Arousal", after=True),)
    assert found[1] == (
        Interval(0.0, 2.0, "Arousal", before=True),
        Interval(0.0, 20.0, "Hypopnea", before=True),
    )
    assert found[2] == (Interval(10.0, 30.0, "Central Apnea", after=True),)
    assert found[3] == (Interval(0.0, 30.0, "Central Apnea", True, True),)
    assert found[4] == (Interval(0.0, 10.0, "Central Apnea", before=True),)
    assert found[5] == ()


def test_what_nobody_looked_for_is_not_denied(simulated):
    arousal = [Event("arousal", 5.0, 4.0)]
    night = simulated[1]
    assert with_events(night, arousal, looked=False)[1][:2] == [None, None]
    some = with_events(night, arousal, looked=("arousal",))[1]
    assert some[0] == (Interval(5.0, 9.0, "Arousal"),) and some[1] is None
    both = with_events(night, arousal, looked=("arousal", "apnea"))[1]
    assert both[1] == ()
    marked = [*arousal, Event("apnea_hypopnea", 30.0, 30.0, "epoch")]
    assert with_events(night, marked)[1][:3] == [some[0], None, ()]


def test_the_numbers_of_a_night(simulated):
    night = simulated[1]
    stages = np.array([0, 0, 1, 2, 2, 3, 0, 4, 2, 0] + [-1] * (len(night.stages) - 10), np.int8)
    events = [
        Event("hypopnea", 95.0, 12.0),
        Event("apnea_obstructive", 125.0, 20.0),
        Event("apnea_obstructive", 2.0, 20.0),  # awake
        Event("arousal", 106.0, 5.0),
        Event("lights_off", 30.0, 0.0),
        Event("lights_on", 300.0, 0.0),
    ]
    night = dataclasses.replace(with_events(night, events)[0], stages=stages)
    found = {name: number.value for name, number in summarise(night, facts_of(night)).items()}
    assert found["total_sleep_time"] == 3.0
    assert found["sleep_efficiency"] == pytest.approx(100 * 6 / 9)
    assert (found["sleep_latency"], found["rem_latency"]) == (0.5, 2.5)
    assert found["wake_after_sleep_onset"] == 1.0
    assert found["share_n2"] == pytest.approx(50)
    assert found["ahi"] == found["ahi_3"] == pytest.approx(2 / 0.05)
    assert found["arousal_index"] == pytest.approx(20) and found["odi"] == 0
    assert found["heart_rate_n2"] is None and 85 < found["spo2_min"] < 100
    silent = dataclasses.replace(night, metadata={})
    found = {name: number.value for name, number in summarise(silent, facts_of(night)).items()}
    assert found["ahi"] is None and found["odi"] is None and found["total_sleep_time"] == 3.0
