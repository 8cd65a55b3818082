"""Shared parts of all fits of laws: points, estimates with intervals, costs, and the solver."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats

DELTA = 1e-3  # of the Huber loss on log losses: Hoffmann et al. 2022

DRAWS = 400
# Of log A, log B, log E, alpha, beta, log R*_D, log R*_N: an exponent below 0 would follow a single
# run, and what ends at its bound is told as not determined.
LOWEST = np.array([-np.inf, -np.inf, -np.inf, 1e-3, 1e-3, -5, -5])
HIGHEST = np.array([np.inf, np.inf, np.inf, 3, 3, 10, 10])


class LawError(ValueError):
    """Runs that cannot carry the law asked for; the message says why."""


class Estimate(NamedTuple):
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self):
        return f"{self.value:.4g} ({self.low:.4g} to {self.high:.4g})"


def estimate(value, samples) -> Estimate:
    """Return a value with the middle 95 % of its finite samples."""
    samples = np.asarray(samples, float)
    samples = samples[np.isfinite(samples)]
    low, high = np.percentile(samples, [2.5, 97.5]) if len(samples) else (-np.inf, np.inf)
    return Estimate(float(value), float(low), float(high))


@dataclasses.dataclass(frozen=True)
class Points:
    """Finished runs, one an entry.

    Attributes:
        params: N.
        data: D, what a run has seen, in channel-seconds (or any one unit, such as tokens).
        flops: C.
        loss: what was reached; above 0.
        unique: D in one pass over the run's corpus; infinite where unknown.
    """

    params: np.ndarray
    data: np.ndarray
    flops: np.ndarray
    loss: np.ndarray
    unique: np.ndarray | None = None

    def __post_init__(self):
        for name in ("params", "data", "flops", "loss", "unique"):
            given = getattr(self, name)
            value = np.full(len(self.loss), np.inf) if given is None else np.asarray(given, float)
            object.__setattr__(self, name, value)
            if len(value) != len(self.loss) or not (value > 0).all():
                raise LawError(f"{name} of the runs must be {len(self.loss)} numbers above 0")

    def __len__(self):
        return len(self.loss)

    def take(self, chosen) -> Points:
        """Return the runs of a mask or indices."""
        return Points(*(getattr(self, f.name)[chosen] for f in dataclasses.fields(self)))


class Compute(NamedTuple):
    """C = K N^g D."""

    log_k: float
    g: float

    def data(self, params, flops):
        """D that the budget pays for."""
        return np.exp(np.log(flops) - self.log_k - self.g * np.log(params))

    def flops(self, params, data):
        """C of a run."""
        return np.exp(self.log_k + self.g * np.log(params)) * data


def measure_compute(points: Points) -> Compute:
    """Return how compute grows with parameters, from the runs."""
    n, per = np.log(points.params), np.log(points.flops / points.data)
    if np.ptp(n) < 1e-3:
        return Compute(float(per.mean() - n.mean()), 1.0)
    g, log_k = np.polyfit(n, per, 1)
    return Compute(float(log_k), float(g))


def budgets(flops: np.ndarray, tolerance: float = 0.15) -> np.ndarray:
    """Return each run's budget: the geometric mean of runs that follow each other that closely."""
    log, order = np.log(flops), np.argsort(flops)
    groups = np.split(order, np.flatnonzero(np.diff(log[order]) > tolerance) + 1)
    out = np.empty(len(flops))
    for group in groups:
        out[group] = np.exp(log[group].mean())
    return out


def descend(
    form: Callable,
    theta: np.ndarray,
    y: np.ndarray,
    *,
    delta: float,
    steps: int = 200,
    bounded: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Minimise Huber's loss of ``y - form(theta)`` by damped least squares with weights.

    Args:
        form: theta [B, P] -> (values [B, n], their derivatives [B, n, P]).
        theta: [B, P], where each begins.
        y: [B, n] or [n].
        delta: where Huber's loss turns from square to straight; infinite for least squares.
        steps: at most.
        bounded: keep theta between ``LOWEST`` and ``HIGHEST``.

    Returns:
        theta [B, P] and the losses [B].
    """
    theta = np.array(theta, float)
    count, size = theta.shape
    damp, diagonal = np.full(count, 1e-2), np.arange(size)
    values, slopes = form(theta)
    loss = huber(y - values, delta)
    still = np.zeros(count, int)
    for _ in range(steps):
        residuals = y - values
        weighted = slopes * (1 / np.maximum(np.abs(residuals) / delta, 1))[..., None]
        curvature = weighted.swapaxes(1, 2) @ slopes
        gradient = np.einsum("bnp,bn->bp", weighted, residuals)
        curvature[:, diagonal, diagonal] *= 1 + damp[:, None]
        curvature[:, diagonal, diagonal] += 1e-12
        step = np.linalg.solve(curvature, gradient[..., None])[..., 0]
        trial = theta + np.clip(step, -2, 2)
        if bounded:
            trial = np.clip(trial, LOWEST[:size], HIGHEST[:size])
        new_values, new_slopes = form(trial)
        new_loss = huber(y - new_values, delta)
        better = new_loss < loss  # never for what is not finite
        still = np.where(better & (loss - new_loss > 1e-8 * loss), 0, still + 1)
        theta = np.where(better[:, None], trial, theta)
        values = np.where(better[:, None], new_values, values)
        slopes = np.where(better[:, None, None], new_slopes, slopes)
        loss = np.where(better, new_loss, loss)
        damp = np.clip(np.where(better, damp / 3, damp * 4), 1e-10, 1e10)
        if (still > 12).all():
            break
    return theta, loss


def huber(residuals: np.ndarray, delta: float) -> np.ndarray:
    """Sum Huber's loss over the last axis."""
    size = np.abs(residuals)
    if not np.isfinite(delta):
        return 0.5 * (size**2).sum(-1)
    return np.where(size < delta, 0.5 * size**2, delta * (size - 0.5 * delta)).sum(-1)


def numeric(form: Callable, step: float = 1e-5) -> Callable:
    """Return a form that gives derivatives too, by differences."""

    def both(theta):
        slopes = []
        for i in range(theta.shape[1]):
            move = np.zeros(theta.shape[1])
            move[i] = step
            slopes.append((form(theta + move) - form(theta - move)) / (2 * step))
        return form(theta), np.stack(slopes, -1)

    return both


def redrawn(fitted, residuals, size: int, rng, draws: int = DRAWS) -> np.ndarray:
    """Return [draws, n] values with residuals drawn anew, as wide as a Student's interval wants."""
    n = len(residuals)
    free = n - size
    spread = np.sqrt(n / free) * stats.t.ppf(0.975, free) / stats.norm.ppf(0.975)
    # Huber's fit is about a median: some points are met exactly, and the mean is left where it is.
    return fitted + spread * rng.choice(residuals - residuals.mean(), (draws, n))
