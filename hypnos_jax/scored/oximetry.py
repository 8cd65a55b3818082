"""Oxygen saturation of a night, straight from the signal: mean, nadir, T90 and ODI.

Seconds first: a second is usable where half of its samples or more are numbers of 50 to 100 %, and
has their mean. A second that lies more than 4 points from a usable one beside it is not: blood does
not change so fast, a finger that slips does. No gap is filled.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from data_pipelines.scoring import EPOCH_S

LOW, HIGH = (
    50.0,
    100.0,
)  # %; oximeters are not calibrated below, and 127 or 0 are marks of no finger
JUMP = 4.0  # points in a second
BASELINE_S, LEAST_S = 120, 10
LEAST_BASELINE_S = 30  # ours: of the 120 s so many must be usable
DROPS = (3, 4)  # points
RULE = (
    "a drop of {drop} points or more below the mean of the 120 s before it, for 10 s or more"
    " (Chung et al. 2012, Anesth Analg 114:993; there for 4 points and more than 10 s)"
)


@dataclasses.dataclass(frozen=True)
class Saturation:
    """Saturation second by second.

    Attributes:
        percent: float [S], mean of the usable samples of a second; NaN where it is not usable.
        left_out: why seconds are not usable -> their number: ``no_number out_of_range jump``.
    """

    percent: np.ndarray
    left_out: dict[str, int]

    @classmethod
    def of(cls, samples: np.ndarray, rate_hz: float) -> Saturation:
        """Return the whole seconds of a signal in % [N]; below 1 Hz, a sample holds until the next.

        Raises:
            ValueError: the rate is no positive number.
        """
        if not rate_hz > 0:
            raise ValueError(f"a saturation at {rate_hz} Hz; expected a positive rate")
        samples, rate_hz = np.asarray(samples, np.float64), float(rate_hz)
        count = int(len(samples) / rate_hz + 1e-6)
        if rate_hz < 1:
            samples = samples[
                np.minimum((np.arange(count) * rate_hz).astype(int), len(samples) - 1)
            ]
            rate_hz = 1.0
        # A rate need be no whole number: a sample is of the second in which it was taken.
        second = (np.arange(len(samples)) / rate_hz + 1e-9).astype(int)
        samples, second = samples[second < count], second[second < count]
        finite = np.isfinite(samples)
        within = finite & (samples >= LOW) & (samples <= HIGH)

        def of_seconds(weights):
            return np.bincount(second, weights, minlength=count)

        given, number, good = (of_seconds(x.astype(float)) for x in (finite >= 0, finite, within))
        usable = (good > 0) & (2 * good >= given)
        total = of_seconds(np.where(within, samples, 0.0))
        percent = np.where(usable, total / np.maximum(good, 1), np.nan)
        with np.errstate(invalid="ignore"):
            jumps = np.flatnonzero(np.abs(np.diff(percent)) > JUMP)
        left = {
            "no_number": int((~usable & (2 * number < given)).sum()),
            "out_of_range": int((~usable & (2 * number >= given)).sum()),
            "jump": len(np.union1d(jumps, jumps + 1)),
        }
        percent[np.union1d(jumps, jumps + 1)] = np.nan
        return cls(percent, left)

    def desaturations(self, drop: float) -> np.ndarray:
        """Return desaturations by ``RULE`` as half-open intervals in s, int [D, 2].

        The baseline is that of the first second; a second that is not usable ends the fall.
        """
        usable = np.isfinite(self.percent)
        sums = np.concatenate([[0.0], np.cumsum(np.where(usable, self.percent, 0.0))])
        counts = np.concatenate([[0], np.cumsum(usable)])
        found, at, length = [], 0, len(self.percent)
        while at < length:
            low = max(at - BASELINE_S, 0)
            before = counts[at] - counts[low]
            if usable[at] and before >= LEAST_BASELINE_S:
                limit = (sums[at] - sums[low]) / before - drop + 1e-6  # sums are not exact
                stop = at
                while stop < length and self.percent[stop] <= limit:
                    stop += 1
                if stop - at >= LEAST_S:
                    found.append((at, stop))
                    at = stop
                    continue
            at += 1
        return np.array(found, int).reshape(-1, 2)

    def drop_of(self, onset_s: float, stop_s: float, *, before_s=30.0, after_s=45.0) -> float:
        """Return how many points the saturation falls around a respiratory event; NaN if unknown.

        The highest second from ``before_s`` before the event to its end, less the lowest after that
        until ``after_s`` past the end. The manual's "pre-event baseline" has no number of seconds;
        these are ours: blood reaches a finger 10 to 40 s late.
        """
        length = len(self.percent)
        first, stop, last = (
            int(np.clip(x, 0, length)) for x in (onset_s - before_s, stop_s + 1, stop_s + after_s)
        )
        window = self.percent[first:last]
        if not np.isfinite(self.percent[first:stop]).any():
            return float("nan")
        peak = int(np.nanargmax(self.percent[first:stop]))
        return float(window[peak] - np.nanmin(window[peak:]))


def asleep_by_second(stages: np.ndarray, seconds: int) -> np.ndarray:
    """Return which seconds are in an epoch of sleep, bool [seconds]; those past the stages not."""
    asleep = np.repeat(np.asarray(stages) > 0, EPOCH_S)[:seconds]
    return np.append(asleep, np.zeros(seconds - len(asleep), bool))


def measures(saturation: Saturation, stages: np.ndarray | None) -> dict:
    """Return the measures of a night, JSON.

    Args:
        saturation: of the night.
        stages: int [E], by which only seconds of sleep are counted; None counts all seconds.

    Returns:
        ``counted`` (``sleep`` or ``recording``), ``usable_share`` of the counted seconds,
        ``left_out_s`` of the whole night, ``hours`` counted and usable, ``mean nadir`` in %,
        ``t90`` (``minutes`` below 90 %, ``share`` of the hours) and ``odi``, of each drop a record
        like those of the AHI. Numbers are None, with a ``reason``, where no second counts.
    """
    percent, seconds = saturation.percent, len(saturation.percent)
    within = np.ones(seconds, bool) if stages is None else asleep_by_second(stages, seconds)
    counted = within & np.isfinite(percent)
    own, hours = percent[counted], float(counted.sum()) / 3600
    words = "recording" if stages is None else "sleep"
    reason = None if len(own) else f"no usable second of {words}"
    odi = []
    for drop in DROPS:
        falls = saturation.desaturations(drop)
        events = int(within[falls[:, 0]].sum()) if len(own) else 0
        odi.append(
            {
                "name": f"ODI {drop} %",
                "value": events / hours if len(own) else None,
                "rule": f"drop_of_{drop}pct",
                "words": RULE.format(drop=drop),
                "counts": {"desaturations": events},
                "hours": hours,
                "of": f"usable {words}",
                "reason": reason,
                "notes": [],
            }
        )
    below = float((own < 90).sum())
    return {
        "counted": words,
        "usable_share": float(counted.sum() / within.sum()) if within.any() else 0.0,
        "left_out_s": saturation.left_out,
        "hours": hours,
        "mean": float(own.mean()) if len(own) else None,
        "nadir": float(own.min()) if len(own) else None,
        "t90": {
            "minutes": below / 60 if len(own) else None,
            "share": below / len(own) if len(own) else None,
        },
        "odi": odi,
        "reason": reason,
    }
