"""Beats to what the experiments on beats read: the spectrum and the level of the heart rate.

Every 10 s, the powers of the heart rate in 14 bands from 0.008 to 0.5 Hz (a Hann window of 90 s
around the step's middle) and its level. An apnea is a swing of the rate of 20 to 60 s; breathing
is the band above 0.15 Hz.
"""

import numpy as np

STEP_S, WINDOW_S, RATE_HZ = 10, 90, 4
EDGES_HZ = np.geomspace(0.008, 0.5, 15)
SLOW = 8  # bands below 0.084 Hz
SHORTEST_S, LONGEST_S = 0.33, 2.0
GAP_S = 4.0  # without a beat, the rate is unknown
FLOOR = 1e-3  # of power, in (beats a minute)^2 per band

SERIES = f"""# log10 powers of the heart rate below 0.084 Hz
[series.slow]
step_s = 10
values = {SLOW}
scaling = "global"
clip = 5
unit = "log10 (beats a minute)^2"

# the same from 0.084 to 0.5 Hz
[series.fast]
step_s = 10
values = {14 - SLOW}
scaling = "global"
clip = 5
unit = "log10 (beats a minute)^2"

[series.level]
step_s = 10
values = 2
columns = ["heart_rate", "spread"]
scaling = "night"
clip = 5
unit = "beats a minute"
"""


def series(times_s: np.ndarray, intervals_s: np.ndarray, duration_s: float) -> dict:
    """Return ``slow`` [T, 8], ``fast`` [T, 6], ``heart_rate`` and ``spread`` [T]; NaN is unknown.

    Args:
        times_s: [N] of beats, from the start of the night.
        intervals_s: [N] the interval that ends with each.
        duration_s: of the night; T = duration_s // 10.
    """
    steps = int(duration_s // STEP_S)
    keep = (intervals_s >= SHORTEST_S) & (intervals_s <= LONGEST_S) & np.isfinite(times_s)
    times, rate = times_s[keep], 60 / intervals_s[keep]
    order = np.argsort(times, kind="stable")
    times, rate = times[order], rate[order]
    around = np.lib.stride_tricks.sliding_window_view(np.pad(rate, 5, mode="edge"), 11)
    near = np.median(around, axis=1)
    real = np.abs(rate - near) < 0.3 * near  # else a beat too many, or one missed
    times, rate = times[real], rate[real]
    grid = (np.arange(steps * STEP_S * RATE_HZ) + 0.5) / RATE_HZ
    even = np.interp(grid, times, rate)
    after = np.searchsorted(times, grid).clip(1, len(times) - 1)
    known = times[after] - times[after - 1] <= GAP_S
    known &= (grid >= times[0]) & (grid <= times[-1])
    half = WINDOW_S * RATE_HZ // 2
    even, known = np.pad(even, half, mode="edge"), np.pad(known, half)
    starts = np.arange(steps) * STEP_S * RATE_HZ + STEP_S * RATE_HZ // 2
    pieces = np.lib.stride_tricks.sliding_window_view(even, 2 * half)[starts]
    there = np.lib.stride_tricks.sliding_window_view(known, 2 * half)[starts].mean(1) > 0.7
    level, spread = np.median(pieces, 1), pieces.std(1)
    hann = np.hanning(2 * half)
    slope = np.arange(2 * half) - half + 0.5
    flat = pieces - pieces.mean(1, keepdims=True)
    flat -= (flat @ slope / (slope @ slope))[:, None] * slope
    power = np.abs(np.fft.rfft(flat * hann)) ** 2 / (hann @ hann) / (half)
    hz = np.fft.rfftfreq(2 * half, 1 / RATE_HZ)
    bands = []
    for low, high in zip(EDGES_HZ, EDGES_HZ[1:]):
        inside = (hz >= low) & (hz < high)
        if not inside.any():  # the resolution is 0.011 Hz
            inside[np.argmin(np.abs(hz - np.sqrt(low * high)))] = True
        bands.append(np.log10(power[:, inside].mean(1) + FLOOR))
    bands = np.stack(bands, 1)
    bands[~there], level[~there], spread[~there] = np.nan, np.nan, np.nan
    found = {"slow": bands[:, :SLOW], "fast": bands[:, SLOW:]}
    found |= {"heart_rate": level, "spread": np.log10(spread + 0.1)}
    return {name: x.astype(np.float32) for name, x in found.items()}
