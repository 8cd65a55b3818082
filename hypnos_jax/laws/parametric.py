"""Laws of loss: how it falls with parameters N, data D and compute C, fitted to finished runs.

Every fit says how sure it is: intervals are of 95 %, by refitting to residuals drawn anew (the grid
of runs was chosen, so it stays). What the runs cannot carry is refused (``LawError``) or warned of,
in words that a report can print. Compute is taken as C = K N^g D, measured from the runs, where
language models have C = 6 N D. A law, its fit, what it recommends and how well it predicts are read
together: hence the length of this file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from hypnos_jax.laws.fitting import (
    DELTA,
    DRAWS,
    HIGHEST,
    Compute,
    Estimate,
    LawError,
    Points,
    budgets,
    descend,
    estimate,
    huber,
    measure_compute,
    numeric,
    redrawn,
)

BORROWED = (15.3878, 5.3097)  # R*_D, R*_N of language models, Muennighoff et al. 2023


# The solver: Huber's loss, many fits at once.


# Chinchilla's parametric law, and the one of repeated data.


def chinchilla(params, data) -> Callable:
    """Return the form log L = logsumexp(a - alpha log N, b - beta log D, e)."""
    log_n, log_d = np.log(params), np.log(data)

    def form(theta):
        a, b, e, alpha, beta = (theta[:, i, None] for i in range(5))
        terms = np.stack(np.broadcast_arrays(a - alpha * log_n, b - beta * log_d, e), -1)
        top = terms.max(-1, keepdims=True)
        shares = np.exp(terms - top)
        total = shares.sum(-1, keepdims=True)
        shares /= total
        n, d, rest = shares[..., 0], shares[..., 1], shares[..., 2]
        slopes = np.stack([n, d, rest, -n * log_n, -d * log_d], -1)
        return (top + np.log(total))[..., 0], slopes

    return form


def best_params(theta, data, g: float):
    """Return log N that suits D: where parameters and data are worth the same to the last FLOP."""
    a, b, _, alpha, beta = (theta[..., i, None] for i in range(5))
    return (np.log(alpha) + a - np.log(g * beta) - b + beta * np.log(data)) / alpha


def effective(theta, params, data, unique, g: float):
    """Return log N' and log D' that repeated data leave (Muennighoff et al. 2023, section 3.1).

    D' = U + U R* (1 - exp(-R / R*)) with R = D / U - 1 repetitions; N' alike, of the parameters
    that suit U, the whole corpus (theirs: what of it was seen), so that an endless corpus leaves
    Chinchilla's law. ``theta`` [B, 7] has log R*_D and log R*_N behind Chinchilla's five.
    """
    rd, rn = np.exp(theta[..., 5, None]), np.exp(theta[..., 6, None])
    with np.errstate(all="ignore"):
        used = np.minimum(data, unique)
        log_d = np.log(used) + np.log1p(rd * -np.expm1(-(data / used - 1) / rd))
        log_n, suited = np.log(params), best_params(theta, unique, g)
        base = np.minimum(log_n, np.where(np.isnan(suited), log_n, suited))
        excess = np.expm1(np.minimum(log_n - base, 50))
        return base + np.log1p(rn * -np.expm1(-excess / rn)), log_d


def constrained(params, data, unique, g: float) -> Callable:
    """Return Chinchilla's form of effective parameters and data."""

    def form(theta):
        log_n, log_d = effective(theta, params, data, unique, g)
        a, b, e, alpha, beta = (theta[:, i, None] for i in range(5))
        return np.logaddexp(np.logaddexp(a - alpha * log_n, b - beta * log_d), e)

    return numeric(form)


@dataclasses.dataclass(frozen=True)
class Parametric:
    """L(N, D) = E + A / N^alpha + B / D^beta, fitted; of repeated data where theta has seven.

    Attributes:
        theta: [5 or 7]: log A, log B, log E, alpha, beta; log R*_D and log R*_N.
        samples: [B, 5 or 7], refits.
        residuals: [n], of log losses.
        points, compute: what it was fitted to.
        warnings: what a reader must know.
        borrowed: the repetition constants are a language model's.
    """

    theta: np.ndarray
    samples: np.ndarray
    residuals: np.ndarray
    points: Points
    compute: Compute
    warnings: tuple[str, ...] = ()
    borrowed: bool = False

    def estimates(self) -> dict[str, Estimate]:
        """Return E, A, B, alpha, beta, the exponents of compute, and the repetition constants."""
        found = {
            "E": (2, np.exp),
            "A": (0, np.exp),
            "B": (1, np.exp),
            "alpha": (3, float),
            "beta": (4, float),
        }
        if len(self.theta) == 7:
            found |= {"R*_D": (5, np.exp), "R*_N": (6, np.exp)}
        with np.errstate(over="ignore"):
            out = {
                name: estimate(f(self.theta[i]), np.exp(s) if f is np.exp else s)
                for name, (i, f) in found.items()
                for s in [self.samples[:, i]]
            }
        out["a"] = estimate(*self._exponents(0))
        out["b"] = estimate(*self._exponents(1))
        return out

    def _exponents(self, which):
        def one(theta):
            alpha, beta = theta[..., 3], theta[..., 4]
            a = beta / (alpha + self.compute.g * beta)
            return 1 - self.compute.g * a if which else a

        return one(self.theta), one(self.samples)

    def log_loss(self, params, data, unique=np.inf):
        """Return log L [n] and its samples [B, n]."""
        thetas = np.concatenate([self.theta[None], self.samples])
        if len(self.theta) == 7:
            values = constrained(params, data, unique, self.compute.g)(thetas)[0]
        else:
            values = chinchilla(params, data)(thetas)[0]
        return values[0], values[1:]

    def spread(self) -> float:
        """Return the standard deviation of log losses about the law."""
        free = len(self.points) - len(self.theta)
        return float(np.sqrt((self.residuals**2).sum() / free))


def starts(params, data, loss) -> np.ndarray:
    """Return a grid of places to begin at [B, 5], each with the terms in proportion to the loss."""
    log_n, log_d = np.log(params).mean(), np.log(data).mean()
    level, lowest = np.log(loss).mean(), np.log(loss.min())
    grid = np.array(
        np.meshgrid(
            [-3.0, -1.5, -0.5],  # log of the share of the loss that more parameters would save
            [-3.0, -1.5, -0.5],
            [-3.0, -1.0, -0.3, -0.05],  # log of E as a share of the lowest loss
            [0.1, 0.3, 0.6, 1.2],
            [0.1, 0.3, 0.6, 1.2],
        )
    ).reshape(5, -1)
    a, b, e, alpha, beta = grid
    return np.stack(
        [level + a + alpha * log_n, level + b + beta * log_d, lowest + e, alpha, beta], 1
    )


def fit_parametric(
    points: Points, *, seed: int = 0, draws: int = DRAWS, compute: Compute | None = None
) -> Parametric:
    """Fit Chinchilla's law from a grid of starts, and refit it for the intervals.

    Args:
        points: runs, each having seen its data about once.
        seed: of the residuals drawn.
        draws: refits.
        compute: by default as measured.

    Raises:
        LawError: too few runs, or all of one size or length.
    """
    _refuse_few(points, 5)
    y = np.log(points.loss)
    form = chinchilla(points.params, points.data)
    grid = starts(points.params, points.data, points.loss)
    loss = huber(y - form(grid)[0], DELTA)
    grid = grid[np.argsort(loss)[:32]]
    theta, loss = descend(form, grid, y, delta=DELTA, steps=400, bounded=True)
    best = theta[np.argmin(loss)]
    fitted = form(best[None])[0][0]
    residuals = y - fitted
    rng = np.random.default_rng(seed)
    again = redrawn(fitted, residuals, 5, rng, draws)
    samples, _ = descend(form, np.tile(best, (draws, 1)), again, delta=DELTA, bounded=True)
    compute = compute or measure_compute(points)
    fit = Parametric(best, samples, residuals, points, compute)
    return dataclasses.replace(fit, warnings=tuple(_doubts(fit)))


def _refuse_few(points, size):
    if len(points) < size + 2:
        raise LawError(
            f"{len(points)} runs for {size} parameters: at least {size + 2} are needed, and twice"
            " as many for intervals that mean something"
        )
    for name, values in (("sizes", points.params), ("amounts of data", points.data)):
        if len(np.unique(np.round(np.log(values), 2))) < 3:
            raise LawError(
                f"all runs are of fewer than three {name}: the law cannot tell parameters from data"
            )


def _doubts(fit: Parametric):
    found = fit.estimates()
    for name, of in (("alpha", "parameters"), ("beta", "data")):
        if found[name].low <= 0.01:
            yield (
                f"{name} is {found[name]}: the interval reaches 0, so these runs do not show that"
                f" more {of} lower the loss"
            )
        elif found[name].high > 0.99 * HIGHEST[3]:
            yield (
                f"{name} is {found[name]}: not determined, its interval ends where the fit stops"
                " looking"
            )
        elif found[name].high - found[name].low > found[name].value:
            yield f"{name} is {found[name]}: hardly determined"
    if found["E"].low < 0.05 * fit.points.loss.min():
        yield (
            f"E, the loss that remains, is {found['E']}: the runs do not show where the loss would"
            " end, so do not extrapolate far"
        )
    if len(fit.points) < 2 * len(fit.theta):
        yield f"only {len(fit.points)} runs for {len(fit.theta)} parameters"


def fit_constrained(
    points: Points, *, seed: int = 0, draws: int = DRAWS, compute: Compute | None = None
) -> Parametric:
    """Fit the law of repeated data to runs with few and with many passes over their corpora.

    Raises:
        LawError: too few runs, or too few that saw their corpus more than one and a half times.
    """
    repeated = points.data > 1.5 * points.unique
    if repeated.sum() < 3:
        raise LawError(
            f"{repeated.sum()} runs saw their corpus more than one and a half times, 3 are needed:"
            " nothing tells what repeated nights are worth"
        )
    _refuse_few(points, 7)
    compute = compute or measure_compute(points)
    y = np.log(points.loss)
    form = constrained(points.params, points.data, points.unique, compute.g)
    try:
        base = fit_parametric(points.take(~repeated), seed=seed, draws=1).theta
    except LawError:  # too few of them: all together
        base = fit_parametric(points, seed=seed, draws=1).theta
    grid = np.log([[d, n] for d in (1, 5, 20, 80) for n in (1, 5, 20, 80)])
    theta, loss = descend(
        form, np.hstack([np.tile(base, (16, 1)), grid]), y, delta=DELTA, bounded=True
    )
    theta = theta[np.argmin(loss)]
    fitted = form(theta[None])[0][0]
    again = redrawn(fitted, y - fitted, 7, np.random.default_rng(seed), draws)
    samples, _ = descend(
        form, np.tile(theta, (draws, 1)), again, delta=DELTA, steps=100, bounded=True
    )
    fit = Parametric(theta, samples, y - fitted, points, compute)
    doubts, found = list(_doubts(fit)), fit.estimates()
    for name, of in (("R*_D", "repeated nights"), ("R*_N", "parameters beyond what suits them")):
        if found[name].high > 20 * max(found[name].low, 1e-9):
            doubts.append(f"{name} is {found[name]}: what {of} are worth is not determined")
    return dataclasses.replace(fit, warnings=tuple(doubts))


def with_borrowed_repetition(fit: Parametric) -> Parametric:
    """Return a law of repeated data whose two constants are those published of language models."""
    more = np.log(BORROWED)
    note = (
        "what repeated nights are worth was not measured: R*_D = 15.4 and R*_N = 5.3 are borrowed"
        " from language models (Muennighoff et al. 2023)"
    )
    return dataclasses.replace(
        fit,
        theta=np.concatenate([fit.theta, more]),
        samples=np.hstack([fit.samples, np.tile(more, (len(fit.samples), 1))]),
        warnings=(*fit.warnings, note),
        borrowed=True,
    )


def worth(fit: Parametric, passes: float) -> Estimate:
    """Return how many passes of new data so many passes over the same are worth."""
    scale = np.exp([fit.theta[5], *fit.samples[:, 5]])
    return _with_interval(1 + scale * -np.expm1(-(passes - 1) / scale))


# What is done with the laws.


@dataclasses.dataclass(frozen=True)
class Allocation:
    """The best way to spend a budget.

    Attributes:
        flops: the budget.
        unique: D in one pass over the corpus; infinite for no limit.
        params, data, epochs, loss: the best, each with its interval.
        warnings: what a reader must know.
    """

    flops: float
    unique: float
    params: Estimate
    data: Estimate
    epochs: Estimate | None
    loss: Estimate
    warnings: tuple[str, ...]


def allocate(fit: Parametric, flops: float, unique: float = np.inf) -> Allocation:
    """Return the parameters and passes that lower the loss most for a budget and a corpus.

    Args:
        fit: of repeated data, or not: then the published constants of language models stand in
            where the corpus is too small.
        flops: C.
        unique: D in one pass over the corpus, in the unit of the runs.
    """
    compute, points = fit.compute, fit.points
    thetas = np.concatenate([fit.theta[None], fit.samples])
    log_n = log_best_params(thetas, flops, compute)
    log_d = np.log(compute.data(np.exp(log_n), flops))
    warnings = []
    # Where it is not sure that the corpus lasts, the interval has to know what more passes bring.
    if np.isfinite(unique) and np.nanpercentile(log_d, 97.5) > np.log(unique):
        if len(fit.theta) == 5:
            fit = with_borrowed_repetition(fit)
            warnings.append(fit.warnings[-1])
            thetas = np.concatenate([fit.theta[None], fit.samples])
        # Larger and fewer passes, up to one, or smaller where too many parameters are worth little.
        low, high = np.clip(np.nanpercentile(log_n, [1, 99]), log_n[0] - 4, log_n[0] + 4)
        single = np.log(_single(unique, flops, compute))
        grid = np.linspace(low - 3, max(high, single) + 0.5, 500)
        n = np.exp(grid)
        d = compute.data(n, flops)
        form = constrained(n, d, unique, compute.g)
        values = np.concatenate([form(part)[0] for part in np.array_split(thetas, 20)])
        best = np.argmin(np.where(np.isfinite(values), values, np.inf), 1)
        log_n, log_loss = grid[best], values[np.arange(len(values)), best]
        log_d = np.log(compute.data(np.exp(log_n), flops))
    else:
        values = thetas[:, 0] - thetas[:, 3] * log_n, thetas[:, 1] - thetas[:, 4] * log_d
        log_loss = np.logaddexp(np.logaddexp(*values), thetas[:, 2])
    n, d = np.exp(log_n), np.exp(log_d)
    if flops > 10 * points.flops.max():
        warnings.append(
            f"the budget is {flops / points.flops.max():.3g} times the largest run's: the interval"
            " says how far the runs scatter, not whether the law still holds there"
        )
    for name, value, known in (
        ("size", n[0], points.params),
        ("amount of data", d[0], points.data),
    ):
        if value > 3 * known.max():
            warnings.append(f"the best {name} is {value / known.max():.3g} times the most that ran")
        elif value < known.min() / 3:
            warnings.append(
                f"the best {name} is only {value / known.min():.2g} of the least that ran"
            )
    return Allocation(
        float(flops),
        float(unique),
        _with_interval(n),
        _with_interval(d),
        _with_interval(d / unique) if np.isfinite(unique) else None,
        _with_interval(np.exp(log_loss)),
        tuple(warnings),
    )


def _with_interval(values):
    """The value of the fit, which is the first, with the interval of the samples' values."""
    return estimate(values[0], values[1:])


def _single(unique, flops, compute):
    """N that a budget pays for in one pass over the corpus."""
    return np.exp((np.log(flops / unique) - compute.log_k) / compute.g)


def log_best_params(thetas: np.ndarray, flops: float, compute: Compute) -> np.ndarray:
    """Return log N [B] that lowers the loss most for a budget, with endless data."""
    a, b, _, alpha, beta = (thetas[:, i] for i in range(5))
    g = compute.g
    with np.errstate(all="ignore"):
        balance = np.log(alpha) + a - np.log(g * beta) - b
        return (balance + beta * (np.log(flops) - compute.log_k)) / (alpha + g * beta)


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Prediction of the largest budget from the smaller ones.

    Attributes:
        flops: the budget held out.
        predicted: one Estimate a run, noise of single runs included.
        reached: their losses.
        error: mean of log(reached / predicted).
        spread: standard deviation of the runs about the law that predicted.
        within: share of the runs in their intervals.
        warnings: of the fit to what was left.
    """

    flops: float
    params: np.ndarray
    predicted: tuple[Estimate, ...]
    reached: np.ndarray
    error: float
    spread: float
    within: float
    warnings: tuple[str, ...]


def hold_out(
    points: Points, budget: np.ndarray | None = None, *, seed: int = 0, draws: int = DRAWS
) -> HeldOut:
    """Predict the runs of the largest budget from a law fitted to the others.

    Raises:
        LawError: one budget only, or too few runs are left.
    """
    budget = budgets(points.flops) if budget is None else np.asarray(budget, float)
    largest = budget == budget.max()
    if largest.all():
        raise LawError("all runs have one budget: there is nothing to predict it from")
    rest, held = points.take(~largest), points.take(largest)
    fit = fit_parametric(rest, seed=seed, draws=draws)
    log, samples = fit.log_loss(held.params, held.data)
    spread = fit.spread()
    noise = spread * np.random.default_rng(seed + 1).normal(size=samples.shape)
    predicted = [estimate(np.exp(x), np.exp(s)) for x, s in zip(log, (samples + noise).T)]
    within = np.mean([p.low <= x <= p.high for p, x in zip(predicted, held.loss)])
    return HeldOut(
        float(budget.max()),
        held.params,
        tuple(predicted),
        held.loss,
        float(np.mean(np.log(held.loss) - log)),
        spread,
        float(within),
        fit.warnings,
    )
