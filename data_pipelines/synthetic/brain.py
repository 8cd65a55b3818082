"""EEG, eye movements and muscle tone by stage.

The background is noise whose spectrum follows the stage; on it lie single waves (slow waves,
K-complexes, spindles, vertex waves, sawtooth waves) at random times. Their definitions are the
AASM manual's: spindles of 11-16 Hz and 0.5-2 s, K-complexes of at least 0.5 s, slow waves of
0.5-2 Hz and more than 75 uV over a fifth of an epoch of N3, slow eye movements in drowsiness,
rapid ones in REM. E1 sits below the left and E2 above the right eye, so that eye movements and
blinks have opposite signs in E1 and E2 and brain waves equal ones. Densities, amplitudes and the
table of spectra are ours.
"""

import numpy as np
import scipy

from data_pipelines.synthetic.noise import (
    LATENT_HZ,
    WINDOW_S,
    add_templates,
    at_rate,
    bin_frequencies,
    bins_below,
    bumps,
    gaussian_coefficients,
    noise_from,
    window_count,
    window_times,
)
from data_pipelines.synthetic.stages import EPOCH_S, N1, N3, R, W
from data_pipelines.synthetic.subjects import stream

KNOTS_HZ = np.array([0.25, 0.7, 1.5, 3, 5, 7, 10, 13, 16, 20, 30, 45])
SPECTRA_DB = np.array(  # uV^2/Hz of C3-M2 and C4-M1 at the knots, in W N1 N2 N3 R
    [
        [12, 13, 11, 7, 4, 3, 3, 0, -3, -4, -7, -11],
        [12, 14, 13, 10, 8, 6, 2, -1, -4, -7, -11, -16],
        [17, 20, 17, 13, 9, 5, 2, 0, -5, -10, -15, -20],
        [23, 25, 22, 16, 11, 6, 2, -1, -7, -12, -18, -22],
        [11, 13, 12, 10, 7, 4, 1, -2, -5, -7, -11, -16],
    ]
)
REGION_DB = {  # added to the spectrum at the knots
    "f": np.array([1.5, 1.5, 1.5, 1, 0.5, 0, -2, 0, 0, 0, 0.5, 1]),
    "c": np.zeros(12),
    "o": np.array([-2, -2, -2, -1.5, -1, 0, 3, -1.5, -1, -1, -0.5, 0]),
    "e": np.array([-1, -1.5, -2, -2.5, -3, -4, -5, -5, -4, -3, -2, -1]),
}
#                slow wave, spindle, vertex, alpha: amplitude relative to C3 and C4
TOPOGRAPHY = {
    "f": (1.2, 0.75, 0.7, 0.55),
    "c": (1.0, 1.0, 1.0, 1.0),
    "o": (0.6, 0.35, 0.3, 1.7),
    "e": (0.6, 0.2, 0.25, 0.3),
}
SIDES = {"eeg_c3": "lc", "eeg_c4": "rc", "eeg_f3": "lf", "eeg_f4": "rf", "eeg_o1": "lo"}
SIDES |= {"eeg_o2": "ro", "eog_e1": "le", "eog_e2": "re"}

SLOW_WAVES_PER_MIN = np.array([0.0, 0.3, 2.0, 15.0, 0.1])
K_COMPLEXES_PER_MIN = np.array([0.0, 0.0, 1.2, 0.3, 0.0])
SPINDLES = np.array([0.0, 0.08, 1.0, 0.35, 0.02])  # times the subject's density
VERTEX_WAVES_PER_MIN = np.array([0.0, 2.0, 0.3, 0.0, 0.0])
SAWTOOTH_PER_MIN = np.array([0.0, 0.0, 0.0, 0.0, 0.5])
CHIN_TONE = np.array([1.0, 0.62, 0.5, 0.45, np.nan])  # of the tone awake; REM from the subject


def stage_weights(rng, plan) -> np.ndarray:
    """Mix of stages per window, ``[windows, 5]``.

    A stage does not switch at the scorer's grid: changes happen within 12 s of an epoch's edge
    and take some seconds, and the state wanders towards neighbouring stages for minutes. That
    makes some epochs as ambiguous as real ones are to scorers.
    """
    stages = plan.stages
    times = window_times(plan.duration_s)
    edges = np.flatnonzero(np.diff(stages)) + 1
    moved = edges * EPOCH_S + rng.uniform(-12, 12, len(edges))
    run = np.searchsorted(np.sort(moved), times)
    sequence = np.concatenate([stages[:1], stages[edges]])
    weights = np.eye(5)[sequence[run]]
    kernel = np.hanning(7)[1:-1]
    weights = scipy.ndimage.convolve1d(weights, kernel / kernel.sum(), axis=0, mode="nearest")
    neighbours = np.array(
        [
            [0, 0.8, 0.1, 0, 0.1],
            [0.4, 0, 0.4, 0, 0.2],
            [0.05, 0.4, 0, 0.45, 0.1],
            [0, 0, 1, 0, 0],
            [0.15, 0.6, 0.25, 0, 0],
        ]
    )
    # A slow random walk between 0 and 0.6: how far the state leans to a neighbouring stage.
    wander = scipy.signal.lfilter([0.2], [1, -0.98], rng.standard_normal((len(times), 5)), axis=0)
    lean = 0.6 / (1 + np.exp(2.2 - 1.6 * wander))
    towards = weights @ neighbours
    tilt = np.exp(
        0.8 * scipy.signal.lfilter([0.2], [1, -0.98], rng.standard_normal((len(times), 5)), axis=0)
    )
    towards = towards * tilt
    towards /= towards.sum(axis=1, keepdims=True)
    lean = (weights * lean).sum(axis=1, keepdims=True)
    return (1 - lean) * weights + lean * towards


def arousal_track(plan) -> np.ndarray:
    """Strength of arousal, 0 to about 1, at 4 Hz ``[4 * duration + 1]``."""
    track = np.zeros(plan.duration_s * LATENT_HZ + 1)
    for event in plan.of("arousal"):
        first = int(event.onset_s * LATENT_HZ)
        track[max(first, 0) : int((event.onset_s + event.duration_s) * LATENT_HZ) + 1] = 1
    kernel = np.hanning(7) / np.hanning(7).sum()
    return np.convolve(track, kernel, mode="same")


def _density(weights, subject, side, alpha, arousal, wobble, freqs):
    """Power spectral density ``[windows, bins]`` in uV^2/Hz."""
    knots = SPECTRA_DB + subject.spectrum_db + REGION_DB[side[1]]
    with np.errstate(divide="ignore"):
        at = np.log(np.maximum(freqs, KNOTS_HZ[0]))
    table = np.stack([np.interp(at, np.log(KNOTS_HZ), row) for row in knots])
    level = weights @ table
    # Arousals: less slow activity, more alpha and beta.
    shift = np.interp(at, np.log([1, 4, 8, 12, 16, 30]), [-5, -3, 5, 5, 6, 6])
    level += arousal[:, None] * shift * (1 - weights[:, :1])
    level += wobble[:, :1] * (freqs < 6) + wobble[:, 1:2] * (freqs >= 6)
    density = np.exp(np.float32(np.log(10) / 10) * level.astype(np.float32))
    peak = np.exp(-0.5 * ((freqs - subject.alpha_hz) / 0.9) ** 2)
    height = 10 ** (0.1 * (4 + subject.alpha_db)) * TOPOGRAPHY[side[1]][3] ** 2
    density += (alpha * height)[:, None].astype(np.float32) * peak.astype(np.float32)
    # Electrodes of different height over the same source: a filter's roll-off below 0.3 Hz.
    density *= (1 / (1 + (0.3 / np.maximum(freqs, 0.1)) ** 4)).astype(np.float32)
    return density * np.float32(subject.eeg_gain**2)


def make_eeg(seed, subject, plan, rate_hz: int, names) -> dict[str, np.ndarray]:
    """Simulate contralaterally referenced EEG and the brain's part of the EOG.

    Left and right share most of the background and all large waves, with own amplitudes and
    some milliseconds between them.

    Args:
        seed: Tuple that names the night.
        subject: Whose brain.
        plan: The night.
        rate_hz: Samples per second of all channels.
        names: Canonical channel names, keys of :data:`SIDES`.

    Returns:
        Name -> float32 ``[duration_s * rate_hz]`` in uV.
    """
    duration = plan.duration_s
    windows, bins = window_count(duration), bins_below(62.0, rate_hz)
    freqs = bin_frequencies(bins)
    weights = stage_weights(stream(*seed, "weights"), plan)
    arousal = arousal_track(plan)[:: LATENT_HZ * 2]
    arousal = np.pad(arousal, (0, max(0, windows - len(arousal))), mode="edge")[:windows]
    rng = stream(*seed, "background")
    # Power wanders slowly by some dB beyond what the stage says.
    wobble = 2.0 * scipy.signal.lfilter(
        [0.31], [1, -0.95], rng.standard_normal((windows, 2)), axis=0
    )
    closed = _eyes_closed(stream(*seed, "eyes"), plan, windows)
    alpha = weights[:, W] * closed + 0.25 * weights[:, N1] + 0.5 * arousal * (1 - weights[:, W])
    alpha *= np.exp(0.4 * rng.standard_normal(windows))
    shared = gaussian_coefficients(rng, windows, bins)
    halves = {side: gaussian_coefficients(rng, windows, bins) for side in "lr"}
    waves = {side: _waves(seed, subject, plan, weights, rate_hz, side) for side in "lr"}
    signals = {}
    for name in names:
        side = SIDES[name]
        own = gaussian_coefficients(stream(*seed, "own", name), windows, bins)
        mix = 0.75 * shared + 0.45 * halves[side[0]] + 0.485 * own
        density = _density(weights, subject, side, alpha, arousal, wobble, freqs)
        signal = noise_from(mix, density, rate_hz, duration)
        for track, gain in zip(waves[side[0]], TOPOGRAPHY[side[1]][:3], strict=True):
            signal += np.float32(gain * subject.eeg_gain) * track
        signals[name] = signal
    return signals


def _eyes_closed(rng, plan, windows):
    """Fraction of closed eyes per window: wake before sleep is mostly closed, later less so."""
    toggles = np.cumsum(rng.exponential(12.0, windows // 4 + 8))
    state = np.searchsorted(toggles, np.arange(windows) * 2.0) % 3 != 0
    return 0.15 + 0.85 * state


def _draw_times(rng, rate_per_min, duration_s):
    """Poisson times for a rate given per window."""
    counts = rng.poisson(np.clip(rate_per_min, 0, None) * 2 / 60)
    times = np.repeat(np.arange(len(counts)) * 2.0 - 1, counts) + rng.uniform(0, 2, counts.sum())
    return np.sort(times[(times > 0) & (times < duration_s - 3)])


def _waves(seed, subject, plan, weights, rate_hz, side):
    """Slow waves with K-complexes, spindles, and vertex with sawtooth waves of one hemisphere.

    The times are drawn from one stream for both sides; the sides differ by amplitude and delay.
    """
    rng, own = stream(*seed, "waves"), stream(*seed, "waves", side)
    duration = plan.duration_s
    slow, fast, sharp = (np.zeros(duration * rate_hz, np.float32) for _ in range(3))

    times = _draw_times(rng, weights @ SLOW_WAVES_PER_MIN * subject.slow_wave**0.5, duration)
    # Of two that overlap much the later is left out, so that N3 is not one mass.
    times = times[np.diff(times, prepend=-9) > 0.9]
    period = rng.uniform(0.8, 1.5, len(times))
    deep = weights[np.minimum((times / 2).astype(int), len(weights) - 1), N3]
    height = (28 + 26 * deep) * subject.slow_wave * rng.lognormal(0, 0.3, len(times))
    height = height * own.lognormal(0, 0.12, len(times))

    def slow_wave(t, i):
        phase = t / period[i][:, None]
        return (
            -height[i][:, None]
            * np.sin(2 * np.pi * phase)
            * np.sin(np.pi * np.clip(phase, 0, 1)) ** 0.5
        )

    add_templates(slow, times + own.normal(0, 0.01, len(times)), rate_hz, period, slow_wave)

    times = _draw_times(rng, weights @ K_COMPLEXES_PER_MIN, duration)
    k_height = 80 * subject.slow_wave**0.5 * rng.lognormal(0, 0.25, len(times))
    k_height = k_height * own.lognormal(0, 0.12, len(times))
    k_times = times

    def k_complex(t, i):
        sharp_part = -np.exp(-0.5 * ((t - 0.25) / 0.09) ** 2)
        slow_part = 0.7 * np.exp(-0.5 * ((t - 0.62) / 0.2) ** 2)
        return k_height[i][:, None] * (sharp_part + slow_part)

    add_templates(
        slow, times + own.normal(0, 0.01, len(times)), rate_hz, np.full(len(times), 1.4), k_complex
    )

    density = weights @ SPINDLES * subject.spindles_per_min
    times = np.concatenate(
        [_draw_times(rng, density, duration), k_times[rng.random(len(k_times)) < 0.4] + 0.8]
    )
    length = np.clip(rng.lognormal(np.log(0.85), 0.3, len(times)), 0.5, 2.0)
    pitch = subject.spindle_hz + rng.normal(0, 0.35, len(times))
    start = rng.uniform(0, 2 * np.pi, len(times)) + own.normal(0, 0.3, len(times))
    loud = 14 * rng.lognormal(0, 0.3, len(times)) * own.lognormal(0, 0.2, len(times))

    def spindle(t, i):
        shape = np.sin(np.pi * np.clip(t / length[i][:, None], 0, 1)) ** 1.2
        chirp = pitch[i][:, None] * t - 0.4 * t**2
        return loud[i][:, None] * shape * np.sin(2 * np.pi * chirp + start[i][:, None])

    add_templates(fast, times, rate_hz, length, spindle)

    times = _draw_times(rng, weights @ VERTEX_WAVES_PER_MIN, duration)
    v_height = 45 * rng.lognormal(0, 0.3, len(times)) * own.lognormal(0, 0.15, len(times))

    def vertex(t, i):
        wave = -np.exp(-0.5 * ((t - 0.15) / 0.05) ** 2) + 0.3 * np.exp(
            -0.5 * ((t - 0.32) / 0.08) ** 2
        )
        return v_height[i][:, None] * wave

    add_templates(sharp, times, rate_hz, np.full(len(times), 0.6), vertex)

    times = _draw_times(rng, weights @ SAWTOOTH_PER_MIN, duration)
    beat = rng.uniform(2.0, 4.0, len(times))
    lasts = rng.uniform(1.5, 4.0, len(times))
    tall = 18 * rng.lognormal(0, 0.3, len(times)) * own.lognormal(0, 0.15, len(times))

    def sawtooth(t, i):
        shape = np.sin(np.pi * np.clip(t / lasts[i][:, None], 0, 1)) ** 0.5
        return tall[i][:, None] * shape * (2 * ((beat[i][:, None] * t) % 1) - 1)

    add_templates(sharp, times, rate_hz, lasts, sawtooth)
    return slow, fast, sharp


def make_eye_movements(seed, subject, plan, rate_hz: int) -> tuple[np.ndarray, np.ndarray]:
    """Simulate the eyes' part of E1 and E2 in uV: slow, rapid, blinks, after an AC coupling."""
    rng = stream(*seed, "eye movements")
    weights = stage_weights(stream(*seed, "weights"), plan)
    windows = len(weights)
    duration = plan.duration_s
    open_eyes = 1 - (_eyes_closed(stream(*seed, "eyes"), plan, windows) - 0.15) / 0.85
    # Rapid eye movements come in bursts.
    phasic = np.repeat(rng.random(windows // 5 + 1) < 0.45, 5)[:windows]
    rate = weights[:, R] * np.where(phasic, 28, 2) + weights[:, W] * (2 + 20 * open_eyes)
    times = _draw_times(rng, rate, duration)
    steps = rng.lognormal(np.log(85), 0.5, len(times)) * rng.choice([-1.0, 1.0], len(times))
    gaze = np.zeros(duration * rate_hz, np.float32)
    where = (times * rate_hz).astype(int)
    np.add.at(gaze, where, steps.astype(np.float32))
    # A step seen through electrodes of 0.3 s to 1 s memory; saccades last about 50 ms.
    memory = float(np.exp(-1 / (0.7 * rate_hz)))
    gaze = scipy.signal.lfilter([1.0], [1.0, -memory], gaze).astype(np.float32)
    blunt = max(1, int(0.05 * rate_hz))
    gaze = scipy.ndimage.uniform_filter1d(gaze, blunt)

    times = _draw_times(rng, weights @ np.array([2.5, 7.0, 0.4, 0.0, 0.3]), duration)
    period = rng.uniform(2.0, 4.5, len(times))
    swing = rng.lognormal(np.log(55), 0.4, len(times)) * rng.choice([-1.0, 1.0], len(times))

    def rolling(t, i):
        phase = t / period[i][:, None]
        return swing[i][:, None] * np.sin(2 * np.pi * phase) * np.sin(np.pi * phase)

    add_templates(gaze, times, rate_hz, period, rolling)

    blinks = np.zeros(duration * rate_hz, np.float32)
    times = _draw_times(rng, weights[:, W] * open_eyes * 16, duration)
    height = rng.lognormal(np.log(110), 0.35, len(times))

    def blink(t, i):
        return height[i][:, None] * np.sin(np.pi * np.clip(t / 0.28, 0, 1)) ** 2

    add_templates(blinks, times, rate_hz, np.full(len(times), 0.28), blink)
    return -0.9 * gaze - 0.7 * blinks, gaze + 0.9 * blinks


def chin_tone(seed, subject, plan) -> np.ndarray:
    """Envelope of the chin's muscle tone in uV rms at 4 Hz ``[4 * duration + 1]``."""
    rng = stream(*seed, "tone")
    weights = stage_weights(stream(*seed, "weights"), plan)
    table = np.log(np.where(np.isnan(CHIN_TONE), subject.atonia, CHIN_TONE))
    level = weights @ table
    level += scipy.signal.lfilter([0.09], [1, -0.97], rng.standard_normal(len(level)))
    count = plan.duration_s * LATENT_HZ + 1
    tone = subject.chin_uv * np.exp(
        np.interp(np.arange(count) / LATENT_HZ, window_times(plan.duration_s), level)
    )
    arousal = arousal_track(plan)
    causes = np.exp(rng.normal(0.4, 0.5))
    tone *= 1 + causes * arousal
    tone += bumps(plan.duration_s, plan.body_movements, 1.0, 3.0, 3 * subject.chin_uv)
    # Twitches of phasic REM and swallowing awake.
    at = _draw_times(rng, weights @ np.array([4.0, 0.8, 0.2, 0.1, 3.0]), plan.duration_s)
    tone += bumps(plan.duration_s, at, 0.1, 0.3, subject.chin_uv * rng.lognormal(0, 0.5, len(at)))
    return tone


def make_muscle(seed, tone, rate_hz: int, duration_s: int) -> np.ndarray:
    """Simulate a surface EMG in uV with a given rms track at 4 Hz."""
    bins = bins_below(rate_hz / 2, rate_hz)
    freqs = bin_frequencies(bins)
    shape = (freqs / 20) ** 2 / (1 + (freqs / 20) ** 2) / (1 + (freqs / 110) ** 4)
    shape /= shape.sum() / WINDOW_S
    windows = window_count(duration_s)
    carrier = noise_from(
        gaussian_coefficients(stream(*seed), windows, bins), shape, rate_hz, duration_s
    )
    return carrier * at_rate(tone, LATENT_HZ, rate_hz, duration_s)


def movement_artefact(seed, plan, rate_hz: int) -> np.ndarray:
    """Simulate the slow electrode artefact of body movements in uV."""
    rng = stream(*seed)
    signal = np.zeros(plan.duration_s * rate_hz, np.float32)
    at = plan.body_movements
    length = rng.uniform(2.0, 7.0, len(at))
    height = rng.lognormal(np.log(90), 0.5, len(at))
    pitch = rng.uniform(0.3, 1.6, (len(at), 3))
    start = rng.uniform(0, 2 * np.pi, (len(at), 3))

    def swing(t, i):
        shape = np.sin(np.pi * np.clip(t / length[i][:, None], 0, 1))
        waves = sum(
            np.sin(2 * np.pi * pitch[i, k][:, None] * t + start[i, k][:, None]) for k in range(3)
        )
        return height[i][:, None] * shape * waves / 2

    add_templates(signal, at, rate_hz, length, swing)
    return signal
