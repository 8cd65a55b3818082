"""Variation of training signals: polarity, gain and rate, drawn anew at each visit of a crop.

Small corpora are memorised; what differs between amplifiers, electrodes and hearts all the same is
varied, so that the same second is not seen twice alike. Each draw is a function of the seed and the
example's number, as everything in a batch. Evaluation reads signals as they are.
"""

from __future__ import annotations

import dataclasses
import fractions

import numpy as np
from absl import logging

from data_pipelines.channels.table import CHANNELS
from data_pipelines.pipeline import PipelineError
from data_pipelines.recipes import Row
from data_pipelines.shuffle import mix
from data_pipelines.signals.resampling import resample

# Signal types whose polarity and size depend on how sensors were placed and amplified.
WAVES = frozenset({"eeg", "eog", "emg", "ecg", "resp"})
RATIO = 128  # rates are (128 + k) / 128, so that resampling is exact and cheap
# Streams of random numbers, apart from those of a source's order and crops.
FLIP, GAIN, RATE = np.uint64(101), np.uint64(102), np.uint64(103)


@dataclasses.dataclass(frozen=True)
class Variation:
    """How much training signals are varied; by nothing where all are 0.

    Attributes:
        flip: share of the visits at which a signal's sign is changed, 0 to 1.
        gain: a signal is multiplied with exp(u), u uniform in [-gain, gain], 0 to 1.
        rate: time passes exp(u) times as fast, u uniform in [-rate, rate], 0 to 0.3; in steps of
            1/128.
        seed: of the draws.

    Raises:
        PipelineError: a number outside of its range.
    """

    flip: float = 0.0
    gain: float = 0.0
    rate: float = 0.0
    seed: int = 0

    def __post_init__(self):
        for name, most in (("flip", 1), ("gain", 1), ("rate", 0.3)):
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise PipelineError(f"config.data.{name}={value}: it is from 0 to {most}")

    def __bool__(self):
        return bool(self.flip or self.gain or self.rate)

    def factors(self, numbers: np.ndarray, columns: int = 1) -> np.ndarray:
        """Return float32 ``[n, columns]``: what each signal of each example is multiplied with.

        Args:
            numbers: of the examples.
            columns: signals of an example, which vary apart from each other.
        """
        signs = np.where(self._uniform(FLIP, numbers, columns) < self.flip, -1, 1)
        gains = np.exp(self.gain * (2 * self._uniform(GAIN, numbers, columns) - 1))
        return (signs * gains).astype(np.float32)

    def rates(self, numbers: np.ndarray) -> np.ndarray:
        """Return int ``[n]``: of how many 128ths of a second a second of each example is made."""
        drawn = np.exp(self.rate * (2 * self._uniform(RATE, numbers, 1)[:, 0] - 1))
        return np.rint(RATIO * drawn).astype(np.int64)

    def _uniform(self, stream, numbers, columns):
        """Numbers in [0, 1), ``[n, columns]``."""
        keys = mix(mix(mix(self.seed) + stream) + np.asarray(numbers).astype(np.uint64))
        drawn = mix((keys[:, None] + np.arange(columns, dtype=np.uint64)).ravel())
        return (drawn >> np.uint64(11)).reshape(len(keys), columns) / 2.0**53


def seconds_needed(seconds: int, rate: int) -> int:
    """Return how many whole seconds are read for so many at a rate in 128ths."""
    return -(-seconds * rate // RATIO)


def at_rate(
    samples: np.ndarray, valid: np.ndarray, rate: int, seconds: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return a signal as if time had passed faster or slower.

    Args:
        samples: float32 ``[seconds_needed(seconds, rate) * rate_hz]``.
        valid: bool, one a second of it.
        rate: 128ths of a second that become a second.
        seconds: of the result.

    Returns:
        Samples ``[seconds * rate_hz]``, 0 where not valid, and ``[seconds]``: a second is valid
        where all that it is made of is.
    """
    if rate == RATIO:
        return samples, valid
    rate_hz = len(samples) // len(valid)
    out = resample(samples, fractions.Fraction(rate), RATIO)[: seconds * rate_hz]
    first = np.arange(seconds) * rate // RATIO
    last = -(-(np.arange(seconds) + 1) * rate // RATIO)
    whole = np.array([valid[a:b].all() for a, b in zip(first, last)])
    return (out.reshape(seconds, rate_hz) * whole[:, None]).reshape(-1), whole


def varying(modalities: list[Row]) -> np.ndarray:
    """Return bool ``[M]``: which rows of a recipe are waves whose sign and size may be varied.

    Levels, rates, codes and magnitudes, whose sign and size mean something, stay as they are.
    """
    found = np.array(
        [
            row.scaling not in ("fixed", "code")
            and row.made_of[0] in CHANNELS
            and CHANNELS[row.made_of[0]].signal_type in WAVES
            for row in modalities
        ],
        bool,
    )
    names = [[row.name for row, own in zip(modalities, found) if own == which] for which in (1, 0)]
    logging.info("sign and size are varied of %s, and not of %s", *names)
    return found
