"""A metric over the number of modalities, and the metric of a probe over the loss."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import special, stats

from hypnos_jax.laws.fitting import DRAWS, Estimate, LawError, descend, estimate, numeric, redrawn


@dataclasses.dataclass(frozen=True)
class Diversity:
    """metric = c - a M^-b over the number of modalities M.

    Attributes:
        a, b, c: fitted; a below 0 where the metric falls, as a loss does.
        gain: what doubling the largest M would add.
        samples: [B, 3], refits of a, b, c.
        warnings: what a reader must know.
    """

    a: Estimate
    b: Estimate
    c: Estimate
    gain: Estimate
    samples: np.ndarray
    warnings: tuple[str, ...]


def fit_diversity(count, metric, *, seed: int = 0, draws: int = DRAWS) -> Diversity:
    """Fit metric = c - a M^-b by least squares.

    Args:
        count: [n] modalities of each run.
        metric: [n].
        seed: of the residuals drawn.
        draws: refits.

    Raises:
        LawError: fewer than five runs or four numbers of modalities.
    """
    count, metric = np.asarray(count, float), np.asarray(metric, float)
    if len(count) < 5 or len(np.unique(count)) < 4:
        raise LawError(
            f"{len(count)} runs of {len(np.unique(count))} numbers of modalities: 3 parameters need"
            " at least 5 runs of 4"
        )
    grid = np.concatenate([np.linspace(0.02, 3, 150), np.linspace(3.05, 6, 60)])
    bases = np.stack([np.stack([-(count**-b), np.ones(len(count))], 1) for b in grid])
    inverses = np.linalg.pinv(bases)

    def solve(values):  # [B, n]
        weights = np.einsum("gpn,bn->bgp", inverses, values)
        wrong = ((values[:, None] - np.einsum("gnp,bgp->bgn", bases, weights)) ** 2).sum(-1)
        best = wrong.argmin(1)
        chosen = weights[np.arange(len(values)), best]
        return np.stack([chosen[:, 0], grid[best], chosen[:, 1]], 1)

    theta = solve(metric[None])[0]
    fitted = theta[2] - theta[0] * count ** -theta[1]
    again = redrawn(fitted, metric - fitted, 3, np.random.default_rng(seed), draws)
    samples = solve(again)
    top = count.max()

    def gain(t):
        return t[..., 0] * (top ** -t[..., 1] - (2 * top) ** -t[..., 1])

    a, b, c = (estimate(theta[i], samples[:, i]) for i in range(3))
    warnings = []
    if b.low <= grid[0] or b.high >= grid[-1]:
        warnings.append(
            f"the exponent is {b}: not determined, so neither is where more modalities would lead"
        )
    if a.low <= 0 <= a.high:
        warnings.append(f"a is {a}: the runs do not show that modalities matter at all")
    return Diversity(a, b, c, estimate(gain(theta), gain(samples)), samples, tuple(warnings))


@dataclasses.dataclass(frozen=True)
class Relation:
    """A probe's metric against the loss.

    Attributes:
        rank: Spearman's correlation.
        form: ``"line"`` or ``"sigmoid"``, where it explains clearly more (AICc, by 4).
        x, y: where the curve goes, [100].
        low, high: its band.
        warnings: what a reader must know.
    """

    rank: Estimate
    form: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray
    warnings: tuple[str, ...]


def relate(loss, metric, *, seed: int = 0, draws: int = DRAWS) -> Relation:
    """Relate a metric to the loss of the same runs.

    Raises:
        LawError: fewer than five runs, or a metric that is the same in all.
    """
    loss, metric = np.asarray(loss, float), np.asarray(metric, float)
    n = len(loss)
    if n < 5 or np.ptp(loss) == 0 or np.ptp(metric) == 0:
        raise LawError(f"{n} runs with loss and metric, 5 that differ are needed")
    rng = np.random.default_rng(seed)
    chosen = rng.integers(n, size=(draws, n))
    with np.errstate(all="ignore"):
        pairs = stats.rankdata([loss[chosen], metric[chosen]], axis=-1)
        pairs -= pairs.mean(-1, keepdims=True)
        samples = (pairs[0] * pairs[1]).sum(-1) / np.sqrt((pairs**2).sum(-1).prod(0))
    rank = estimate(stats.spearmanr(loss, metric).statistic, samples)

    def scaled(x):
        return (np.asarray(x) - loss.mean()) / loss.std()

    x = np.linspace(loss.min(), loss.max(), 100)

    def line(at):
        return numeric(lambda t: t[:, :1] + t[:, 1:2] * scaled(at))

    def sigmoid(at):
        def form(t):
            low, height, middle, width = (t[:, i, None] for i in range(4))
            return low + height * special.expit((middle - scaled(at)) / np.exp(width))

        return numeric(form)

    slope, height = float(np.polyfit(scaled(loss), metric, 1)[0]), np.ptp(metric)
    begin = {
        "line": (line, [[metric.mean(), slope]]),
        "sigmoid": (
            sigmoid,
            [
                [metric.max() if slope > 0 else metric.min(), -np.sign(slope) * height, m, w]
                for m in (-1.0, 0.0, 1.0)
                for w in (-1.5, 0.0, 1.0)
            ],
        ),
    }
    best = None
    for name, (form, theta) in begin.items():
        size = len(theta[0])
        if n < size + 3:
            continue
        theta, wrong = descend(form(loss), np.array(theta), metric, delta=np.inf)
        theta, wrong = theta[np.argmin(wrong)], 2 * wrong.min()
        score = n * np.log(max(wrong, 1e-300) / n) + 2 * (size + 1) * n / (n - size - 2)
        if best is None or score < best[0] - 4:  # else the simpler one
            best = (score, name, form, theta)
    _, name, form, theta = best
    fitted = form(loss)(theta[None])[0][0]
    again = redrawn(fitted, metric - fitted, len(theta), rng, draws)
    refits, _ = descend(form(loss), np.tile(theta, (draws, 1)), again, delta=np.inf, steps=60)
    low, high = np.percentile(form(x)(refits)[0], [2.5, 97.5], axis=0)
    warnings = []
    if rank.low <= 0 <= rank.high:
        warnings.append(f"the rank correlation is {rank}: these runs show no relation")
    return Relation(rank, name, x, form(x)(theta[None])[0][0], low, high, tuple(warnings))
