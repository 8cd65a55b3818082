"""Breathing, oxygen and heart: what apneas do to belts, flow, saturation and pulse.

Breath by breath: the volume follows a phase whose speed is the respiratory rate; effort and flow
scale it. An obstructive apnea takes the flow, lets effort grow and drives chest and belly apart; a
central one takes both; breaths after it are larger. The saturation answers to missing ventilation
after the circulation time of the subject. The heart is an integral pulse-frequency model: beats
fall where the integral of the rate passes whole numbers; the rate holds the stage's mean, slow and
0.1-Hz noise, the breathing (vagal), a fall during and a rise after each apnea, and arousals. The
shape of a beat is a sum of Gaussians with the positions and widths of McSharry et al. 2003 (IEEE
Trans Biomed Eng 50:289). All sizes by stage are ours.
"""

import dataclasses

import numpy as np
import scipy

from data_pipelines.scoring import Event
from data_pipelines.synthetic.brain import arousal_track, stage_weights
from data_pipelines.synthetic.noise import LATENT_HZ, add_templates, at_rate, bumps, window_times
from data_pipelines.synthetic.plan import BREATHING_KINDS
from data_pipelines.synthetic.subjects import stream

HEART_BY_STAGE = np.array([1.07, 1.03, 1.00, 0.985, 1.04])
RSA_BY_STAGE = np.array([0.6, 0.9, 1.0, 1.15, 0.55])
SLOW_HR_BY_STAGE = np.array([0.045, 0.03, 0.02, 0.012, 0.045])
BREATH_RATE_BY_STAGE = np.array([1.06, 1.02, 1.0, 1.0, 1.05])
BREATH_NOISE_BY_STAGE = np.array([0.22, 0.15, 0.08, 0.04, 0.20])

# Positions and widths in s at 60 beats per min: McSharry et al. 2003, table I (angles as seconds of
# a beat). Heights relative to R are ours, for lead II, and QRS is drawn at 0.7 of its width.
BEAT = {
    "P": (-0.200, 0.040, 0.12),
    "Q": (-0.050, 0.016, -0.10),
    "R": (0.0, 0.016, 1.0),
    "S": (0.050, 0.016, -0.18),
    "T": (0.300, 0.064, 0.28),
}


@dataclasses.dataclass(frozen=True)
class Breathing:
    """Breathing of a night on the 4-Hz grid, all ``[4 * duration + 1]``.

    Attributes:
        phase: Of the breath in rad; inspiration starts at multiples of 2 pi.
        depth: Size of a breath if nothing hindered it, about 1.
        flow: Share of the wanted breath that arrives in the lung, 0..1 and beyond 1 after apneas.
        chest, belly: Effort that the belts see, relative.
        paradox: Phase in rad between chest and belly.
        saturation: Oxygen saturation at the finger in percent.
    """

    phase: np.ndarray
    depth: np.ndarray
    flow: np.ndarray
    chest: np.ndarray
    belly: np.ndarray
    paradox: np.ndarray
    saturation: np.ndarray


def _weights_4hz(seed, plan):
    weights = stage_weights(stream(*seed, "weights"), plan)
    times = np.arange(plan.duration_s * LATENT_HZ + 1) / LATENT_HZ
    centres = window_times(plan.duration_s)
    return np.stack([np.interp(times, centres, column) for column in weights.T], axis=1)


def _smooth(values, seconds):
    kernel = np.hanning(max(3, int(seconds * LATENT_HZ) + 2))[1:-1]
    return np.convolve(values, kernel / kernel.sum(), mode="same")


def _wander(rng, count, seconds):
    """Unit-variance noise with a correlation time, at 4 Hz."""
    keep = np.exp(-1 / (seconds * LATENT_HZ))
    noise = rng.standard_normal(count) * np.sqrt(1 - keep**2)
    return scipy.signal.lfilter([1.0], [1.0, -keep], noise)


def make_breathing(seed, subject, plan) -> Breathing:
    """Simulate the breathing of a night."""
    rng = stream(*seed, "breathing")
    weights = _weights_4hz(seed, plan)
    count = len(weights)
    unsteady = weights @ BREATH_NOISE_BY_STAGE
    rate = subject.breaths_per_min / 60 * (weights @ BREATH_RATE_BY_STAGE)
    rate *= np.exp(0.8 * unsteady * _wander(rng, count, 6.0))
    depth = np.exp(1.2 * unsteady * _wander(rng, count, 4.0) + 0.1 * _wander(rng, count, 300.0))
    depth *= 1 + 0.5 * bumps(plan.duration_s, plan.body_movements, 1, 4, 1.0)
    flow, chest, belly = np.ones(count), np.ones(count), np.ones(count)
    paradox = 0.12 + 0.08 * _wander(rng, count, 120.0)
    for event, reduction in zip(plan.of(*BREATHING_KINDS), plan.depths, strict=True):
        first = int(event.onset_s * LATENT_HZ)
        stop = min(int((event.onset_s + event.duration_s) * LATENT_HZ), count)
        if stop - first < 2:
            continue
        span = slice(first, stop)
        progress = np.linspace(0, 1, stop - first)
        flow[span] = 1 - reduction
        if event.kind == "apnea_central":
            chest[span] = belly[span] = 0.03
        elif event.kind == "apnea_mixed":
            central = progress < 0.45
            effort = np.where(central, 0.03, 0.5 + 0.7 * progress)
            chest[span], belly[span] = effort, effort
            paradox[span] += np.where(central, 0, rng.uniform(1.8, 2.9))
        elif event.kind == "apnea_obstructive":
            effort = rng.uniform(0.45, 0.65) + rng.uniform(0.3, 0.7) * progress
            chest[span] = effort * rng.uniform(0.7, 1.1)
            belly[span] = effort * rng.uniform(0.8, 1.2)
            paradox[span] += rng.uniform(1.8, 3.0)
        else:
            effort = 1 - reduction * rng.uniform(0.45, 0.8)
            chest[span] = belly[span] = effort
            paradox[span] += rng.uniform(0.2, 1.2)
        # Recovery: three to five large breaths.
        after = slice(stop, min(stop + int(rng.uniform(9, 17) * LATENT_HZ), count))
        size = rng.uniform(1.3, 1.9)
        for track in (flow, chest, belly):
            track[after] = size
    depth *= 1 + 0.35 * arousal_track(plan)
    flow, chest, belly = (_smooth(track, 1.5) for track in (flow, chest, belly))
    paradox = _smooth(paradox, 2.0)
    phase = 2 * np.pi * np.cumsum(rate) / LATENT_HZ
    return Breathing(phase, depth, flow, chest, belly, paradox, _saturation(rng, subject, flow))


def _saturation(rng, subject, flow):
    """Answer of the finger: without breath the store falls evenly, breaths refill it, and blood
    takes its time to the finger."""
    count = len(flow)
    fall = subject.desaturation / 20 / LATENT_HZ  # percent per step of a full apnea
    refill = 1 / (12.0 * LATENT_HZ)
    debt, debts = 0.0, []
    for breath in flow.tolist():
        debt += fall * max(1 - breath, 0.0) - refill * debt * breath
        debts.append(debt)
    delay = min(int(subject.circulation_s * LATENT_HZ), count)
    late = np.concatenate([np.zeros(delay), debts[: count - delay]])
    return np.clip(subject.spo2 + 0.35 * _wander(rng, count, 400.0) - late, 55, 99.5)


def desaturations(breathing, plan) -> list[Event]:
    """Falls of at least 3 points that follow breathing events, as a scorer marks them."""
    level, found, busy = breathing.saturation, [], 0
    for event in plan.of(*BREATHING_KINDS):
        first = max(int(event.onset_s * LATENT_HZ), busy)
        stop = min(int((event.onset_s + event.duration_s + 45) * LATENT_HZ), len(level))
        if stop - first < 8:
            continue
        low = first + int(np.argmin(level[first:stop]))
        high = first + int(np.argmax(level[first : low + 1]))
        if level[high] - level[low] >= 3 and low > high:
            # Onset: the last point within half a percent of the level before the fall.
            near = np.flatnonzero(level[high:low] > level[high] - 0.5)
            start = high + int(near[-1])
            found.append(
                Event("desaturation", start / LATENT_HZ, max(0.25, (low - start) / LATENT_HZ))
            )
            busy = low
    return found


def _volume(phase):
    """Lung volume over the breath: 40 % in, the rest out; zero mean, about +-1."""
    return -np.cos(phase + 0.45 * np.sin(phase - 0.6))


def make_belts(seed, breathing, rate_hz: int, duration_s: int) -> tuple[np.ndarray, np.ndarray]:
    """Simulate chest and belly belts at a rate, in arbitrary units of about +-1."""
    rng = stream(*seed, "belts", rate_hz)

    def track(values):
        return at_rate(values, LATENT_HZ, rate_hz, duration_s)

    phase = _phase_at(breathing.phase, rate_hz, duration_s)
    half = track(breathing.paradox) / 2
    belts = []
    for effort, sign in ((breathing.chest, 1), (breathing.belly, -1)):
        belt = _volume(phase + sign * half) * track(breathing.depth * effort)
        drift = track(0.25 * _wander(rng, len(breathing.phase), 25.0))
        noise = 0.012 * rng.standard_normal(len(belt))
        belts.append((belt + drift + noise).astype(np.float32))
    chest, belly = belts
    return 0.8 * chest, 1.0 * belly


def make_airflow(seed, breathing, rate_hz: int, duration_s: int) -> tuple[np.ndarray, np.ndarray]:
    """Simulate oronasal thermistor (lagging, soft) and nasal pressure (square law), about +-1."""
    rng = stream(*seed, "airflow", rate_hz)
    phase = _phase_at(breathing.phase, rate_hz, duration_s)
    size = at_rate(breathing.depth * breathing.flow, LATENT_HZ, rate_hz, duration_s)
    flow = np.gradient(_volume(phase)) * rate_hz / 1.6 * size
    pressure = np.sign(flow) * np.abs(flow) ** 1.6 * 0.8
    keep = float(np.exp(-1 / (0.4 * rate_hz)))
    thermal = scipy.signal.lfilter([1 - keep], [1, -keep], flow)
    noise = rng.standard_normal((2, len(flow)))
    return (
        (thermal + 0.01 * noise[0]).astype(np.float32),
        (pressure + 0.015 * noise[1]).astype(np.float32),
    )


def _phase_at(phase, rate_hz, duration_s):
    times = np.arange(duration_s * rate_hz) * (LATENT_HZ / rate_hz)
    return np.interp(times, np.arange(len(phase)), phase)


def heart_rate(seed, subject, plan, breathing) -> np.ndarray:
    """Instantaneous heart rate of sinus rhythm in beats per min at 4 Hz."""
    rng = stream(*seed, "heart")
    weights = _weights_4hz(seed, plan)
    count = len(weights)
    rate = subject.heart_bpm * (weights @ HEART_BY_STAGE)
    # Over the night the heart slows by some percent (ours).
    rate *= 1.03 - 0.06 * np.linspace(0, 1, count) ** 0.7
    slow = weights @ SLOW_HR_BY_STAGE
    band = scipy.signal.butter(2, [0.05, 0.14], "band", fs=LATENT_HZ, output="sos")
    mayer = scipy.signal.sosfilt(band, rng.standard_normal(count))
    mayer /= max(float(mayer.std()), 1e-9)
    relative = slow * (0.6 * mayer + 0.8 * _wander(rng, count, 40.0))
    vagal = weights @ RSA_BY_STAGE * subject.rsa * np.clip(breathing.depth, 0, 2)
    effort = np.maximum(breathing.chest, breathing.belly)
    relative += vagal * np.sin(breathing.phase + 0.5) * np.clip(effort, 0, 1.3)
    for event in plan.of(*BREATHING_KINDS):
        swing = 0.06 if event.kind == "hypopnea" else 0.12
        swing *= min(event.duration_s / 20, 1.6)
        first, last = event.onset_s, event.onset_s + event.duration_s
        span = slice(int(first * LATENT_HZ), int(last * LATENT_HZ))
        fall = np.linspace(0, 1, len(relative[span]))
        relative[span] -= 0.6 * swing * fall
        stop = span.stop + 3 * LATENT_HZ
        relative[span.stop : stop] -= (
            0.6 * swing * np.linspace(1, 0, len(relative[span.stop : stop]))
        )
    ends = [e.onset_s + e.duration_s + 1.5 for e in plan.of(*BREATHING_KINDS)]
    relative += bumps(plan.duration_s, ends, 2.5, 6.0, 0.10)
    onsets = [e.onset_s for e in plan.of("arousal")]
    relative += bumps(plan.duration_s, onsets, 2.0, 5.0, 0.13)
    legs = [e.onset_s for e in plan.of("leg_movement")]
    relative += bumps(plan.duration_s, legs, 2.0, 4.0, 0.06)
    relative += bumps(plan.duration_s, plan.body_movements, 2.0, 8.0, 0.2)
    return np.clip(rate * (1 + relative), 32, 170)


def beat_times(seed, subject, plan, rate_bpm) -> np.ndarray:
    """R peaks in s: the integral of the rate, or irregular intervals in atrial fibrillation."""
    duration = plan.duration_s
    if not subject.af:
        passed = np.concatenate([[0.0], np.cumsum(rate_bpm[:-1]) / 60 / LATENT_HZ])
        beats = np.arange(1, int(passed[-1]) + 1)
        return np.interp(beats - 0.5, passed, np.arange(len(passed)) / LATENT_HZ)
    rng = stream(*seed, "fibrillation")
    # No memory from beat to beat; a mean above sinus rhythm's; a coefficient of variation of 0.2
    # (ours), never under 0.33 s (refractory node).
    count = int(duration * 3)
    mean = 60 / (1.2 * np.interp(np.arange(count) / 1.3, np.arange(len(rate_bpm)) / 4, rate_bpm))
    times = np.cumsum(np.maximum(mean * rng.lognormal(-0.02, 0.2, count), 0.33))
    return times[times < duration - 0.5]


def make_ecg(seed, subject, plan, breathing, beats, rate_hz: int) -> np.ndarray:
    """Simulate one lead of ECG in mV around given beats."""
    rng = stream(*seed, "ecg")
    duration = plan.duration_s
    signal = np.zeros(duration * rate_hz, np.float32)
    interval = np.diff(beats, prepend=beats[0] - 1.0 if len(beats) else 0.0)
    stretch = np.sqrt(np.clip(interval, 0.35, 1.8)).astype(np.float32)  # QT follows Bazett
    chest = np.interp(beats, np.arange(len(breathing.phase)) / LATENT_HZ, breathing.phase)
    tall = subject.r_mv * (1 + 0.07 * np.sin(chest) + 0.02 * rng.standard_normal(len(beats)))
    tall = tall.astype(np.float32)
    shape = rng.lognormal(0, 0.25, len(BEAT))

    def beat(t, i):
        wave = np.zeros_like(t)
        for (name, (at, width, height)), factor in zip(BEAT.items(), shape, strict=True):
            if name == "P" and subject.af:
                continue
            factor = 1.0 if name == "R" else factor
            late = at * (stretch[i][:, None] if name in "PT" else 1.0)
            wide = width * 0.7 if name in "QRS" else width * stretch[i][:, None]
            wave += np.float32(height * factor) * np.exp(-0.5 * ((t - 0.3 - late) / wide) ** 2)
        return wave * tall[i][:, None]

    add_templates(signal, beats - 0.3, rate_hz, np.full(len(beats), 1.05), beat)
    if subject.af:
        pitch = 6.0 + 1.0 * _wander(rng, duration * LATENT_HZ + 1, 2.0)
        phase = _phase_at(2 * np.pi * np.cumsum(pitch) / LATENT_HZ, rate_hz, duration)
        swell = at_rate(1 + 0.4 * _wander(rng, duration * LATENT_HZ + 1, 3.0), 4, rate_hz, duration)
        signal += np.float32(0.06 * subject.r_mv) * swell * np.sin(phase).astype(np.float32)
    slow = 0.05 * _wander(rng, duration * LATENT_HZ + 1, 3.0)
    slow += 0.03 * np.sin(breathing.phase) + bumps(duration, plan.body_movements, 0.5, 2.0, 0.5)
    signal += at_rate(slow, LATENT_HZ, rate_hz, duration)
    signal += np.float32(0.008) * rng.standard_normal(len(signal), np.float32)
    return signal


def rate_numbers(beats, duration_s: int) -> np.ndarray:
    """Heart rate as a monitor shows it: one number per second, mean of the last 4 intervals."""
    if len(beats) < 6:
        return np.zeros(duration_s, np.float32)
    four = 60 * 4 / (beats[4:] - beats[:-4])
    at = np.searchsorted(beats[4:], np.arange(duration_s), side="right") - 1
    return four[np.clip(at, 0, None)].astype(np.float32)
