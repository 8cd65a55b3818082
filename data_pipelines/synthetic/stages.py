"""Sequences of sleep stages: a semi-Markov chain with the statistics of scored nights.

Transitions and dwell times were counted by us over the majority of five scorers in 60 nights (20
healthy sleepers, 40 with sleep apnea) of the Dreem Open Datasets (Guillot, Sauvet, During and
Thorey 2020, IEEE Trans Neural Syst Rehabil Eng 28:1955; MIT licence), from the first to the last
epoch of sleep. What follows N2 was counted by the time since the last REM (or since sleep onset):
that alone makes NREM-REM cycles (of about 90 min, the first REM after 80 to 100 min: Carskadon and
Dement, Normal human sleep). Ours, because the counts do not hold them: N3 fading and REM
lengthening over the night, and the sizes of the effects of age beyond the cited ones.
"""

import numpy as np

from data_pipelines.store import EPOCH_S

W, N1, N2, N3, R = range(5)

TRANSITIONS = np.array(  # row: from, column: to; W N1 N2 N3 R
    [
        [0, 1476, 220, 2, 57],
        [477, 0, 1525, 2, 70],
        [965, 484, 0, 681, 245],
        [99, 8, 577, 0, 1],
        [214, 58, 85, 0, 0],
    ],
    float,
)
"""Counts of the changes of stage."""

AFTER_N2 = np.array(  # one row per 20 min since the last REM, the last for all after 100 min
    [
        [0.500, 0.247, 0, 0.128, 0.126],
        [0.311, 0.152, 0, 0.527, 0.010],
        [0.376, 0.219, 0, 0.331, 0.074],
        [0.372, 0.207, 0, 0.261, 0.159],
        [0.379, 0.233, 0, 0.218, 0.170],
        [0.454, 0.183, 0, 0.250, 0.113],
    ]
)
"""Shares of what follows N2 (2,375 changes)."""

DWELL = np.array([[0.68, 0.96], [0.31, 0.49], [1.68, 1.27], [1.23, 1.41], [2.77, 1.19]])
"""Mean and standard deviation of the logarithm of a stay, in epochs, per stage."""

FULL_NIGHT_H = 7.0
"""Nights at least this long have cycles of natural length; in shorter ones time is compressed."""


def simulate_stages(rng: np.random.Generator, hours: float, subject) -> np.ndarray:
    """Draw the stages of one night.

    Nights under 7 h are compressed: the clocks of the cycle run faster in proportion and long
    stays shrink, so that a night of half an hour still goes through all stages; such sequences
    have realistic order, not realistic durations. Under 15 min the order is fixed (W N1 N2 N3 N2
    R W) and only its lengths vary.

    Args:
        rng: Source of randomness.
        hours: Length of the recording, lights off to the end.
        subject: ``age`` and ``slow_wave`` are used.

    Returns:
        int8 ``[E]``, 0 W, 1 N1, 2 N2, 3 N3, 4 R; E whole epochs of 30 s.

    Raises:
        ValueError: Shorter than 3.5 min, which cannot hold all stages, or longer than 24 h.
    """
    epochs = int(hours * 3600 // EPOCH_S) if np.isfinite(hours) else 0
    if not 7 <= epochs <= 24 * 120:
        raise ValueError(f"a night of {hours:g} h; must be between 0.06 h (3.5 min) and 24 h")
    if epochs < 30:
        return _fixed_order(rng, epochs)
    pace = min(1.0, hours / FULL_NIGHT_H)
    short = pace < 0.5
    for _ in range(1000):
        stages = _walk(rng, epochs, pace, subject)
        counts = np.bincount(stages, minlength=5)
        if not short or counts.min() >= max(1, epochs // 30):
            return stages
    return _fixed_order(rng, epochs)


def _walk(rng, epochs, pace, subject):
    decades = (subject.age - 45) / 10
    # Sleep onset latency and its 1.1 min per decade: Boulos et al. 2019; its spread is ours.
    latency = rng.lognormal(np.log(max(6.0, 15 + 1.1 * decades) * 0.8), 0.6) * 2 * pace
    stages = [W] * max(1, min(round(latency), epochs // 5))
    onset = since = len(stages)
    stage = N1
    while len(stages) < epochs:
        now = len(stages)
        night = (now - onset) * EPOCH_S / 3600 / pace  # hours of natural time since sleep onset
        mean, spread = DWELL[stage]
        if stage == N3:
            mean += 0.35 + 0.5 * np.log(subject.slow_wave) - 0.10 * (night - 2)
        elif stage == R:
            # Less 0.25: the counted stays have a shorter tail than a lognormal of their moments.
            mean += 0.07 * (night - 3.5) - 0.25
        elif stage == W:
            # Wake after sleep onset grows with age (9.7 min per decade: Boulos et al. 2019).
            mean += 0.13 * decades
        stay = np.exp(rng.normal(mean, spread))
        if stage in (N2, N3, R):
            stay *= pace**0.8
        stages += [stage] * max(1, round(min(stay, 240)))
        if stage == R:
            since = len(stages)
        weights = TRANSITIONS[stage]
        if stage == N2:
            minutes = (len(stages) - since) * EPOCH_S / 60 / pace
            row = min(int(minutes // 20), 5)
            if since == onset:
                row = max(row, 1)  # the first row is the return to a REM that was interrupted
            weights = AFTER_N2[row].copy()
            weights[W] *= np.exp(0.10 * decades) * 0.8
            weights[N3] *= subject.slow_wave**0.7 * np.exp(-0.15 * (night - 2.5))
            weights[R] *= np.exp(0.12 * (night - 3))
        stage = int(np.searchsorted(np.cumsum(weights / weights.sum()), rng.random()))
        stage = min(stage, R)
    return np.array(stages[:epochs], np.int8)


def _fixed_order(rng, epochs):
    order = np.array([W, N1, N2, N3, N2, R, W], np.int8)
    shares = np.array([1.5, 1, 2, 2, 1, 2, 0.5]) * rng.uniform(0.8, 1.25, 7)
    edges = np.rint(np.cumsum(shares) / shares.sum() * (epochs - 7)).astype(int)
    return np.repeat(order, np.diff(edges, prepend=0) + 1)
