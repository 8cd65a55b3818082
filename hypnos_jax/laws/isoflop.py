"""IsoFLOP curves: for each budget of compute the best size, and how it grows with the budget."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import stats

from hypnos_jax.laws.fitting import (
    DRAWS,
    Estimate,
    LawError,
    Points,
    budgets,
    estimate,
    measure_compute,
)


@dataclasses.dataclass(frozen=True)
class Valley:
    """The parabola of one budget.

    Attributes:
        flops: the budget.
        coefficients: of loss over log N, the highest power first.
        params, data, loss: at its lowest point.
        inside: the lowest point lies between the smallest and the largest size of the budget.
        low, high: the sizes that were run.
    """

    flops: float
    coefficients: np.ndarray
    params: Estimate
    data: Estimate
    loss: Estimate
    inside: bool
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """y = scale C^exponent."""

    exponent: Estimate
    log_scale: float
    samples: np.ndarray  # [B, 2]: exponent, log scale

    def at(self, flops: float) -> Estimate:
        """Return y of a budget."""
        log = np.log(flops)
        return estimate(
            np.exp(self.log_scale + self.exponent.value * log),
            np.exp(np.clip(self.samples[:, 1] + self.samples[:, 0] * log, -700, 700)),
        )


@dataclasses.dataclass(frozen=True)
class IsoFlop:
    """Valleys of several budgets, and the power laws through them."""

    valleys: tuple[Valley, ...]
    params: PowerLaw | None
    data: PowerLaw | None
    warnings: tuple[str, ...]


def fit_isoflop(
    points: Points, budget: np.ndarray | None = None, *, seed: int = 0, draws: int = DRAWS
) -> IsoFlop:
    """Fit a parabola of loss over log N to the runs of each budget, and power laws to their lowest
    points.

    Args:
        points: runs.
        budget: [n], which budget each belongs to; by default from their FLOPs.
        seed: of the residuals drawn, from those of all budgets together.
        draws: refits.

    Raises:
        LawError: no budget has three sizes, or none bends upwards.
    """
    budget = budgets(points.flops) if budget is None else np.asarray(budget, float)
    compute, warnings, groups, left = measure_compute(points), [], [], []
    for flops in np.unique(budget):
        own = points.take(budget == flops)
        x = np.log(own.params)
        if len(np.unique(np.round(x, 3))) < 3:
            warnings.append(f"budget {flops:.3g}: fewer than three sizes, left out")
            continue
        apart = own.flops.max() / own.flops.min() - 1
        if apart > 0.1:
            warnings.append(f"budget {flops:.3g}: some runs spent {apart:.0%} more than others")
        centre = x.mean()
        matrix = np.vander(x - centre, 3)
        coefficients = np.linalg.lstsq(matrix, own.loss, rcond=None)[0]
        if coefficients[0] <= 0:
            warnings.append(f"budget {flops:.3g}: the losses do not bend upwards, left out")
            continue
        groups.append((flops, own, x, centre, matrix, coefficients))
        left.append(own.loss - matrix @ coefficients)
    if not groups:
        raise LawError("no budget has three sizes between which the loss has a lowest point")
    free = sum(len(x) - 3 for x in left)
    if free < 1:
        raise LawError("three sizes for every budget leave nothing to tell the noise by: run four")
    # Each budget's residuals are shrunk by its own fit; the t is of what all leave free.
    factor = stats.t.ppf(0.975, free) / stats.norm.ppf(0.975)
    pool = np.concatenate([x * np.sqrt(len(x) / max(len(x) - 3, 1)) for x in left if len(x) > 3])
    rng = np.random.default_rng(seed)
    valleys, logs = [], []
    for flops, own, x, centre, matrix, coefficients in groups:
        noise = factor * rng.choice(np.concatenate([pool, -pool]), (draws, len(own)))
        again = (matrix @ coefficients + noise) @ np.linalg.pinv(matrix).T
        again = np.concatenate([coefficients[None], again])
        curved = again[:, 0] > 0
        with np.errstate(all="ignore"):
            moved = np.where(curved, -again[:, 1] / (2 * again[:, 0]), np.nan)
        # A parabola says nothing far from its runs: beyond them by their own width, it is cut.
        width = np.ptp(x)
        log_n = np.clip(centre + moved, x.min() - width, x.max() + width)
        lowest = (again * np.vander(log_n - centre, 3)).sum(1)
        log_c = np.log(own.flops).mean()  # what was spent: the budget may be a name
        log_d = log_c - compute.log_k - compute.g * log_n
        logs.append((log_c, log_n, log_d))
        inside = bool(x.min() < log_n[0] < x.max())
        valley = Valley(
            flops=float(flops),
            coefficients=np.array(np.polyfit(x, matrix @ coefficients, 2)),
            params=estimate(np.exp(log_n[0]), np.exp(log_n[1:])),
            data=estimate(np.exp(log_d[0]), np.exp(log_d[1:])),
            loss=estimate(lowest[0], lowest[1:]),
            inside=inside,
            low=float(own.params.min()),
            high=float(own.params.max()),
        )
        valleys.append(valley)
        if not inside:
            warnings.append(
                f"budget {flops:.3g}: the lowest point lies at the edge of the sizes that were run,"
                " so the best size is only known to be beyond it: run"
                f" {'larger' if log_n[0] >= x.max() else 'smaller'} ones"
            )
        if (~curved).mean() > 0.05:
            warnings.append(
                f"budget {flops:.3g}: {(~curved).mean():.0%} of the refits with other noise have no"
                " lowest point, so its interval is too narrow"
            )
    if len(valleys) < 2:
        warnings.append("one budget only: no power law")
        return IsoFlop(tuple(valleys), None, None, tuple(warnings))
    if len(valleys) < 3:
        warnings.append("two budgets only: a power law through two points cannot be checked")
    laws = [_power([x[0] for x in logs], np.stack([x[i] for x in logs])) for i in (1, 2)]
    for law, of in zip(laws, ("best size", "best amount of data")):
        if law.exponent.low <= 0:
            warnings.append(f"the {of} does not surely grow with compute: {law.exponent}")
    return IsoFlop(tuple(valleys), *laws, tuple(warnings))


def _power(log_c, logs) -> PowerLaw:
    """Lines through [budgets, 1 + B] logs, the first the estimate."""
    x = np.array(log_c)
    centred = x - x.mean()
    slope = centred @ logs / (centred @ centred)
    scale = logs.mean(0) - slope * x.mean()
    return PowerLaw(
        estimate(slope[0], slope[1:]), float(scale[0]), np.stack([slope[1:], scale[1:]], 1)
    )
