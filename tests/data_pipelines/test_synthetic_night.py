"""Simulated signals: what a scorer looks for is there, and the channels tell one story."""

import numpy as np
import pytest
import scipy.signal

from data_pipelines.synthetic import draw_subject, simulate_night
from data_pipelines.synthetic.noise import LATENT_HZ
from data_pipelines.synthetic.stages import N2, N3, R, W


@pytest.fixture(scope="module")
def night():
    subject = draw_subject(2, 0, ahi=30.0, age=40, central_share=0.3, af=False, desaturation=6.0)
    return simulate_night(2, 4.0, subject=subject)


def epochs(night, name):
    return night.signals[name].reshape(len(night.plan.stages), -1)


def band_power(night, name, low, high):
    rate = night.rates[name]
    freqs, power = scipy.signal.welch(epochs(night, name), rate, nperseg=4 * rate, axis=1)
    return power[:, (freqs >= low) & (freqs < high)].mean(axis=1)


def by_stage(night, values):
    return [np.median(values[night.plan.stages == stage]) for stage in range(5)]


@pytest.mark.parametrize("name", ["eeg_c3", "eeg_c4", "eeg_f4", "eeg_o1"])
def test_spectra_follow_the_stage(night, name):
    delta = by_stage(night, band_power(night, name, 0.5, 4))
    assert delta[N3] > 1.8 * delta[N2] > 1.8 * delta[R]
    beta = by_stage(night, band_power(night, name, 18, 30))
    assert beta[W] > 2 * beta[N2] > 2 * beta[N3] * 0.9
    alpha = band_power(night, name, 8, 12) / band_power(night, name, 4, 7)
    alpha = by_stage(night, alpha)
    assert alpha[W] > 1.5 * alpha[N2]


def test_spindles_are_of_n2_and_central(night):
    sigma = band_power(night, "eeg_c3", 12, 15) / band_power(night, "eeg_c3", 17, 22)
    sigma = by_stage(night, sigma)
    assert sigma[N2] > 2 * max(sigma[W], sigma[R])
    n2 = night.plan.stages == N2
    central, occipital = (band_power(night, f"eeg_{e}", 12, 15)[n2].mean() for e in ("c3", "o1"))
    assert central > 1.3 * occipital


def test_left_and_right_are_alike_but_not_the_same(night):
    for stage in range(5):
        own = night.plan.stages == stage
        left, right = (epochs(night, n)[own].ravel() for n in ("eeg_c3", "eeg_c4"))
        assert 0.3 < np.corrcoef(left, right)[0, 1] < 0.97


def test_eyes_move_against_each_other_and_waves_with_each_other(night):
    def correlation(stage, low, high):
        sos = scipy.signal.butter(2, [low, high], "band", fs=128, output="sos")
        left, right = (scipy.signal.sosfilt(sos, epochs(night, n)) for n in ("eog_e1", "eog_e2"))
        own = night.plan.stages == stage
        return np.corrcoef(left[own].ravel(), right[own].ravel())[0, 1]

    assert correlation(R, 0.3, 3) < -0.3
    assert correlation(W, 0.3, 3) < -0.3
    assert correlation(N3, 0.5, 3) > 0.3
    # Drowsy wake and N1 hold slow eye movements: much power below 0.6 Hz in the difference.
    assert correlation(1, 0.15, 0.6) < -0.2


def test_chin_falls_from_wake_to_rem(night):
    tone = np.median(np.abs(epochs(night, "emg_chin")), axis=1)
    tone = by_stage(night, tone)
    assert tone[W] > 1.3 * tone[N2] > 1.3 * tone[R]


def test_r_peaks_are_the_beats(night):
    rate = night.rates["ecg"]
    sos = scipy.signal.butter(2, [5, 30], "band", fs=rate, output="sos")
    steep = scipy.signal.sosfiltfilt(sos, night.signals["ecg"])
    level = 0.5 * np.quantile(steep, 0.998)
    peaks, _ = scipy.signal.find_peaks(steep, height=level, distance=int(0.3 * rate))
    assert len(peaks) == pytest.approx(len(night.beats), rel=0.01)
    distance = np.abs(peaks[:, None] / rate - night.beats[None, :2000])[:1500].min(axis=1)
    assert np.median(distance) < 0.02
    assert 45 < 60 / np.mean(np.diff(night.beats)) < 95


def test_the_heart_breathes(night):
    """Sinus arrhythmia: in N3 the intervals swing at the rate of breathing."""
    times = np.arange(night.duration_s * 4) / 4
    beats = night.beats
    intervals = np.interp(times, beats[1:], np.diff(beats)).reshape(len(night.plan.stages), -1)
    quiet = intervals[night.plan.stages == N3]
    freqs, power = scipy.signal.welch(quiet - quiet.mean(1, keepdims=True), 4, nperseg=120)
    power = power.mean(0)
    breath = night.subject.breaths_per_min / 60
    high = (freqs > 0.15) & (freqs < 0.45)
    assert freqs[high][np.argmax(power[high])] == pytest.approx(breath, abs=0.06)


def test_fibrillation_is_irregular_and_has_no_p_wave():
    irregular = {}
    for af in (False, True):
        subject = draw_subject(4, 0, af=af, ahi=1.0)
        made = simulate_night(4, 0.5, subject=subject, channels=("ecg",))
        change = np.diff(np.diff(made.beats))
        irregular[af] = np.sqrt(np.mean(change**2)) / np.mean(np.diff(made.beats))
        rate = made.rates["ecg"]
        first = (made.beats[5:-5] * rate).astype(int)[:, None]
        beat = np.median(made.signals["ecg"][first + np.arange(-int(0.3 * rate), rate // 5)], 0)
        p_wave = beat[int(0.08 * rate) : int(0.15 * rate)].max() - np.median(beat[:4])
        assert (p_wave > 0.05 * made.subject.r_mv * 1000) == (not af)
    assert irregular[True] > 0.2 > 3 * irregular[False]


def breathing_events(night, *kinds):
    """Events with no other within 60 s before their onset."""
    every = night.plan.of("apnea_obstructive", "apnea_central", "apnea_mixed", "hypopnea")
    alone, last_end = [], -100.0
    for event in every:
        if event.kind in kinds and event.onset_s - last_end > 45:
            alone.append(event)
        last_end = event.onset_s + event.duration_s
    return alone


def piece(night, name, start_s, stop_s):
    rate = night.rates[name]
    return night.signals[name][int(start_s * rate) : int(stop_s * rate)]


def test_saturation_falls_after_the_delay(night):
    events = breathing_events(night, "apnea_obstructive", "apnea_central")
    assert len(events) >= 5
    for event in events:
        end = event.onset_s + event.duration_s
        level = night.breathing.saturation
        window = level[int(event.onset_s * LATENT_HZ) : int((end + 45) * LATENT_HZ)]
        before = level[int((event.onset_s - 3) * LATENT_HZ)]
        assert before - window.min() > 1.5
        nadir_s = np.argmin(window) / LATENT_HZ - event.duration_s
        assert 3 < nadir_s < 35  # after the end of the apnea, not with it
        early = window[: int(0.6 * night.subject.circulation_s * LATENT_HZ)]
        assert before - early.min() < 1.0


def test_belts_tell_obstructive_from_central(night):
    for kind, paradox in (("apnea_obstructive", True), ("apnea_central", False)):
        ratios, signs = [], []
        for event in breathing_events(night, kind):
            inside = (event.onset_s + 2, event.onset_s + event.duration_s - 1)
            before = (event.onset_s - 25, event.onset_s - 2)
            for name in ("resp_thx", "airflow"):
                sizes = [
                    np.std(scipy.signal.detrend(piece(night, name, *w))) for w in (inside, before)
                ]
                ratios.append((name, sizes[0] / sizes[1]))
            moves = [
                scipy.signal.detrend(piece(night, n, *inside)) for n in ("resp_thx", "resp_abd")
            ]
            signs.append(np.corrcoef(*moves)[0, 1])
        flow = [ratio for name, ratio in ratios if name == "airflow"]
        chest = [ratio for name, ratio in ratios if name == "resp_thx"]
        assert np.median(flow) < 0.25
        if paradox:
            assert np.median(chest) > 0.3
            assert np.median(signs) < -0.2
        else:
            assert np.median(chest) < 0.35


def test_the_heart_rises_after_apneas(night):
    rises = []
    for event in breathing_events(night, "apnea_obstructive"):
        end = event.onset_s + event.duration_s
        during = piece(night, "heart_rate", event.onset_s + 3, end).mean()
        rises.append(piece(night, "heart_rate", end + 4, end + 12).mean() - during)
    assert np.mean(rises) > 4


def test_arousals_show_in_chin_and_eeg(night):
    beta, chin = [], []
    sos = scipy.signal.butter(3, [8, 30], "band", fs=128, output="sos")
    fast = scipy.signal.sosfilt(sos, night.signals["eeg_c4"])
    for event in night.plan.of("arousal"):
        if event.onset_s < 15:
            continue
        now = slice(int(event.onset_s * 128), int((event.onset_s + 3) * 128))
        then = slice(int((event.onset_s - 10) * 128), int((event.onset_s - 2) * 128))
        beta.append(np.std(fast[now]) / np.std(fast[then]))
        chin.append(
            np.std(night.signals["emg_chin"][now]) / np.std(night.signals["emg_chin"][then])
        )
    assert len(beta) > 10
    assert np.median(beta) > 1.3
    assert np.median(chin) > 1.3


def test_scored_desaturations_are_falls_of_three_points(night):
    falls = [e for e in night.scoring.events if e.kind == "desaturation"]
    assert falls
    level = night.breathing.saturation
    for event in falls:
        start, stop = (
            int(t * LATENT_HZ) for t in (event.onset_s, event.onset_s + event.duration_s)
        )
        assert level[start] - level[stop] >= 2.4


def test_events_keep_the_rules_of_scoring(night):
    events = night.scoring.events
    assert [e.onset_s for e in events] == sorted(e.onset_s for e in events)
    for event in events:
        assert event.onset_s >= 0 and event.onset_s + event.duration_s <= night.duration_s
        if event.kind.startswith("apnea") or event.kind == "hypopnea":
            assert event.duration_s >= 10
            assert night.plan.stages[int(event.onset_s // 30)] != W
        if event.kind == "arousal":
            assert 3 <= event.duration_s <= 15
        if event.kind == "leg_movement":
            assert 0.5 <= event.duration_s <= 10


def test_same_seed_same_night_other_seed_another():
    first, again, other = (simulate_night(seed, 0.1) for seed in (7, 7, 8))
    for name, signal in first.signals.items():
        assert signal.tobytes() == again.signals[name].tobytes()
        assert signal.dtype == np.float32
        assert len(signal) == 360 * first.rates[name]
        assert np.isfinite(signal).all()
    assert first.scoring.events == again.scoring.events
    assert other.signals["ecg"].tobytes() != first.signals["ecg"].tobytes()


def test_channels_do_not_depend_on_which_others_are_made():
    alone = simulate_night(7, 0.1, channels=("ecg", "emg_chin"))
    every = simulate_night(7, 0.1)
    assert set(alone.signals) == {"ecg", "emg_chin"}
    for name, signal in alone.signals.items():
        np.testing.assert_array_equal(signal, every.signals[name])


def test_an_unknown_attribute_of_a_subject_is_named():
    with pytest.raises(ValueError, match="no 'shoe_size'"):
        draw_subject(0, 0, shoe_size=43)
