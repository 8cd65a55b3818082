"""Coverage of the intervals of fitted laws: laws planted under noise, many times.

    nice -n 15 python benchmarks/planted_laws.py --trials=200

Each trial draws the noise anew on the same grid of runs and fits; a 95 % interval should hold the
planted value in 95 of 100 trials. No accelerator, no jax: one core, some minutes.
"""

import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the matrices are small

import numpy as np
from absl import app, flags

from hypnos_jax.laws import fitting, isoflop
from hypnos_jax.laws import parametric as laws

TRIALS = flags.DEFINE_integer("trials", 200, "of every case")
CASES = flags.DEFINE_list("cases", [], "isoflop, parametric, repeated, diversity; all by default")

LAW = {"E": 1.7, "A": 40.0, "B": 300.0, "alpha": 0.35, "beta": 0.37}
THETA = np.array([*np.log([LAW["A"], LAW["B"], LAW["E"]]), LAW["alpha"], LAW["beta"]])
EXPONENT = LAW["beta"] / (LAW["alpha"] + LAW["beta"])  # of the best size
ONE = fitting.Compute(np.log(6), 1.0)


def best_size(flops):
    balance = LAW["alpha"] * LAW["A"] / (LAW["beta"] * LAW["B"])
    return balance ** (1 / (LAW["alpha"] + LAW["beta"])) * (flops / 6) ** EXPONENT


def loss_of(params, data):
    return LAW["E"] + LAW["A"] / params ** LAW["alpha"] + LAW["B"] / data ** LAW["beta"]


def isoflop_runs(budgets, sizes, reach=4.0):
    """Sizes around each budget's best, from a ``reach``-th to ``reach`` times it."""
    flops = np.repeat(10.0 ** np.linspace(12, 13.5, budgets), sizes)
    params = best_size(flops) * np.tile(np.geomspace(1 / reach, reach, sizes), budgets)
    return params, flops / 6 / params, flops


def curves(rng, noise, budgets, sizes):
    params, data, flops = isoflop_runs(budgets, sizes)
    loss = loss_of(params, data) * np.exp(noise * rng.normal(size=len(params)))
    fit = isoflop.fit_isoflop(
        fitting.Points(params, data, flops, loss), seed=int(rng.integers(1e9))
    )
    last = fit.valleys[-1]
    return [
        ("exponent of the best size", EXPONENT, fit.params.exponent),
        ("best size, largest budget", best_size(last.flops), last.params),
        ("best size, 10 x further", best_size(10 * last.flops), fit.params.at(10 * last.flops)),
    ]


def parametric(rng, noise, budgets, sizes):
    params, data, flops = isoflop_runs(budgets, sizes)
    loss = loss_of(params, data) * np.exp(noise * rng.normal(size=len(params)))
    fit = laws.fit_parametric(
        fitting.Points(params, data, flops, loss), seed=int(rng.integers(1e9))
    )
    found = fit.estimates()
    ahead = laws.allocate(fit, 10 * flops.max())
    size = best_size(10 * flops.max())
    return [
        *((name, LAW[name], found[name]) for name in ("E", "alpha", "beta")),
        ("exponent of the best size", EXPONENT, found["a"]),
        ("best size, 10 x further", size, ahead.params),
        ("loss, 10 x further", loss_of(size, 10 * flops.max() / 6 / size), ahead.loss),
    ]


def repeated(rng, noise, rd, rn):
    grid = np.meshgrid([1e4, 1e5, 1e6, 1e7], [1e6, 5e6, 2e7, 1e8], [1e6, 1e7, 1e8])
    params, data, unique = (x.ravel() for x in grid)
    theta = np.concatenate([THETA, np.log([rd, rn])])
    log = laws.constrained(params, data, unique, 1.0)(theta[None])[0][0]
    loss = np.exp(log + noise * rng.normal(size=len(log)))
    points = fitting.Points(params, data, 6 * params * data, loss, unique)
    fit = laws.fit_constrained(points, seed=int(rng.integers(1e9)), draws=200)
    found = fit.estimates()
    return [
        *((name, LAW[name], found[name]) for name in ("alpha", "beta")),
        ("R*_D", rd, found["R*_D"]),
        ("R*_N", rn, found["R*_N"]),
    ]


def diversity(rng, noise, a, b, c):
    count = np.repeat(np.arange(1, 9), 3)
    metric = c - a * count**-b + noise * rng.normal(size=len(count))
    fit = metric.fit_diversity(count, metric, seed=int(rng.integers(1e9)))
    gain = a * (8**-b - 16**-b)
    return [
        ("a", a, fit.a),
        ("b", b, fit.b),
        ("c", c, fit.c),
        ("gain of 16 over 8", gain, fit.gain),
    ]


TABLE = {
    "isoflop": (
        curves,
        [
            ("4 budgets x 5 sizes, noise 0.3 %", {"noise": 0.003, "budgets": 4, "sizes": 5}),
            ("4 budgets x 5 sizes, noise 1 %", {"noise": 0.01, "budgets": 4, "sizes": 5}),
            ("6 budgets x 7 sizes, noise 1 %", {"noise": 0.01, "budgets": 6, "sizes": 7}),
        ],
    ),
    "parametric": (
        parametric,
        [
            ("4 budgets x 5 sizes, noise 0.3 %", {"noise": 0.003, "budgets": 4, "sizes": 5}),
            ("4 budgets x 5 sizes, noise 1 %", {"noise": 0.01, "budgets": 4, "sizes": 5}),
            ("6 budgets x 7 sizes, noise 1 %", {"noise": 0.01, "budgets": 6, "sizes": 7}),
        ],
    ),
    "repeated": (repeated, [("48 runs, noise 0.3 %", {"noise": 0.003, "rd": 10.0, "rn": 4.0})]),
    "diversity": (
        diversity,
        [("8 x 3 runs, noise 0.005", {"noise": 0.005, "a": 0.3, "b": 0.8, "c": 0.8})],
    ),
}


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    print("| law | runs | planted | truth | median found | median width | interval holds it |")
    print("|---|---|---|---|---|---|---|")
    for law in CASES.value or TABLE:
        trial, cases = TABLE[law]
        for runs, options in cases:
            rng, rows, refused, then = np.random.default_rng(0), [], 0, time.process_time()
            for _ in range(TRIALS.value):
                try:
                    rows.append(trial(rng, **options))
                except fitting.LawError:
                    refused += 1
            for own in zip(*rows):
                name, truth = own[0][:2]
                found = np.array([row[2] for row in own])
                held = np.mean((found[:, 1] <= truth) & (truth <= found[:, 2]))
                width = np.median(found[:, 2] - found[:, 1])
                print(
                    f"| {law} | {runs} | {name} | {truth:.4g} | {np.median(found[:, 0]):.4g} |"
                    f" {width:.3g} | {held:.1%} |",
                    flush=True,
                )
            print(
                f"<!-- {law}, {runs}: {len(rows)} trials, {refused} refused,"
                f" {(time.process_time() - then) / TRIALS.value:.3f} CPU-s a trial -->",
                flush=True,
            )


if __name__ == "__main__":
    app.run(main)
