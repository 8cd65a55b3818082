"""Laws that are known because they were planted, or because they were published."""

import pathlib

import numpy as np
import pytest

from hypnos_jax.laws import fitting, isoflop, metric, parametric, runs
from hypnos_jax.laws.fitting import LawError, Points

PUBLISHED = pathlib.Path(__file__).parent / "published"
A, B, E, ALPHA, BETA = 40.0, 300.0, 1.7, 0.35, 0.37
THETA = np.array([np.log(A), np.log(B), np.log(E), ALPHA, BETA])
EXPONENT = BETA / (ALPHA + BETA)


def best_size(flops):
    return (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA)) * (flops / 6) ** EXPONENT


def loss_of(params, data):
    return E + A / params**ALPHA + B / data**BETA


def planted(noise, *, seed=0, budgets=4, sizes=5, centre=1.0):
    """Runs about the best size of each budget, or about ``centre`` times it."""
    flops = np.repeat(np.geomspace(1e12, 3e13, budgets), sizes)
    params = centre * best_size(flops) * np.tile(np.geomspace(0.25, 4, sizes), budgets)
    data = flops / 6 / params
    loss = loss_of(params, data) * np.exp(
        noise * np.random.default_rng(seed).normal(size=len(flops))
    )
    return Points(params, data, flops, loss)


def holds(estimate, truth):
    return estimate.low <= truth <= estimate.high


def test_a_planted_law_is_found_to_the_digit_without_noise():
    fit = parametric.fit_parametric(planted(1e-7), draws=20)
    np.testing.assert_allclose(fit.theta, THETA, rtol=1e-3)
    assert not fit.warnings
    assert fit.estimates()["a"].value == pytest.approx(EXPONENT, abs=1e-3)
    size = best_size(1e15)
    best = parametric.allocate(fit, 1e15)
    assert best.params.value == pytest.approx(size, rel=0.01)
    assert best.data.value == pytest.approx(1e15 / 6 / size, rel=0.01)
    assert best.loss.value == pytest.approx(loss_of(size, 1e15 / 6 / size), rel=1e-3)


def test_intervals_of_a_noisy_law_hold_what_was_planted():
    fit = parametric.fit_parametric(planted(0.005), draws=100)
    assert holds(fit.estimates()["a"], EXPONENT)
    assert holds(fit.estimates()["alpha"], ALPHA)
    ahead = parametric.allocate(fit, 1e15)
    assert holds(ahead.params, best_size(1e15))
    assert ahead.params.high > 1.05 * ahead.params.low
    assert any("33.3 times the largest" in text for text in ahead.warnings)


def test_isoflop_intervals_hold_the_planted_exponent_as_often_as_they_claim():
    fits = [isoflop.fit_isoflop(planted(0.005, seed=seed), draws=200) for seed in range(100)]
    assert 88 <= sum(holds(fit.params.exponent, EXPONENT) for fit in fits) <= 100
    assert sum(holds(fit.valleys[1].params, best_size(fit.valleys[1].flops)) for fit in fits) >= 88
    found = np.median([fit.params.exponent.value for fit in fits])
    assert found == pytest.approx(EXPONENT, abs=0.02)
    assert fits[0].data.exponent.value == pytest.approx(1 - fits[0].params.exponent.value, abs=1e-6)


def test_a_valley_beyond_the_sizes_that_were_run_is_told():
    fit = isoflop.fit_isoflop(planted(1e-4, centre=1 / 16), draws=50)
    assert not any(valley.inside for valley in fit.valleys)
    assert "edge" in fit.warnings[0]
    assert "larger" in fit.warnings[0]


def test_what_the_runs_cannot_carry_is_refused_in_words():
    points = planted(0.01)
    with pytest.raises(LawError, match=r"6 runs for 5 parameters: at least 7"):
        parametric.fit_parametric(points.take(slice(6)))
    one_size = points.params == points.params[0]
    same = Points(np.full(20, 1e6), points.data, points.flops, points.loss)
    assert one_size.sum() == 1
    with pytest.raises(LawError, match="fewer than three sizes"):
        parametric.fit_parametric(same)
    with pytest.raises(LawError, match="no budget has three sizes"):
        isoflop.fit_isoflop(same)
    with pytest.raises(LawError, match="three sizes for every budget leave nothing"):
        isoflop.fit_isoflop(planted(0.0, sizes=3))
    with pytest.raises(LawError, match="0 runs saw their corpus"):
        parametric.fit_constrained(points)
    with pytest.raises(LawError, match="one budget"):
        parametric.hold_out(points, np.ones(20))
    with pytest.raises(LawError, match="5 runs of 4"):
        metric.fit_diversity([1, 2, 3], [0.1, 0.2, 0.3])
    with pytest.raises(LawError, match="5 that differ"):
        metric.relate([1, 2, 3, 4, 5], [1, 1, 1, 1, 1])
    with pytest.raises(LawError, match="above 0"):
        Points(points.params, points.data, points.flops, -points.loss)


def test_losses_that_do_not_depend_on_size_are_no_law():
    points = planted(0.0)
    noise = np.random.default_rng(0).normal(size=20)
    loss = (1 + 300 / points.data**0.37) * np.exp(0.01 * noise)
    fit = parametric.fit_parametric(
        Points(points.params, points.data, points.flops, loss), draws=100
    )
    assert any(text.startswith("alpha") for text in fit.warnings)


def test_the_published_fit_of_published_points_is_found_again():
    points = runs.Table.of_csv(PUBLISHED / "chinchilla_figure_4.csv").points
    assert len(points) == 245
    # Besiroglu et al. leave out the five highest losses.
    points = points.take(points.loss < np.sort(points.loss)[-5])
    found = parametric.fit_parametric(points, draws=40).estimates()
    # Their table 1, with standard errors of 0.03, 124.58, 1293.23, 0.02, 0.02.
    assert found["E"].value == pytest.approx(1.8172, abs=0.003)
    assert found["A"].value == pytest.approx(482.01, rel=0.02)
    assert found["B"].value == pytest.approx(2085.43, rel=0.02)
    assert found["alpha"].value == pytest.approx(0.3478, abs=0.002)
    assert found["beta"].value == pytest.approx(0.3658, abs=0.002)
    assert found["a"].value == pytest.approx(0.512, abs=0.002)


def repeated_runs(noise):
    grid = np.meshgrid([1e4, 1e5, 1e6, 1e7], [1e6, 5e6, 2e7, 1e8], [1e6, 1e7, 1e8])
    params, data, unique = (x.ravel() for x in grid)
    theta = np.concatenate([THETA, np.log([10.0, 4.0])])
    log = parametric.constrained(params, data, unique, 1.0)(theta[None])[0][0]
    log = log + noise * np.random.default_rng(0).normal(size=len(log))
    return Points(params, data, 6 * params * data, np.exp(log), unique)


def test_what_repeated_nights_are_worth_is_found_again():
    fit = parametric.fit_constrained(repeated_runs(0.002), draws=20)
    found = fit.estimates()
    assert found["R*_D"].value == pytest.approx(10, rel=0.1)
    assert found["R*_N"].value == pytest.approx(4, rel=0.2)
    assert found["alpha"].value == pytest.approx(ALPHA, abs=0.02)
    # A corpus that is too small: more passes, and a smaller model than one pass would pay for.
    small, endless = parametric.allocate(fit, 1e15, unique=3e6), parametric.allocate(fit, 1e15)
    assert small.epochs.value > 10
    assert small.params.value < 1e15 / 6 / 3e6
    assert small.loss.value > endless.loss.value
    assert endless.epochs is None


def test_without_repeated_runs_the_constants_of_language_models_stand_in_and_are_named():
    fit = parametric.fit_parametric(planted(0.001), draws=20)
    best = parametric.allocate(fit, 1e14, unique=1e6)
    assert any("borrowed from language models" in text for text in best.warnings)
    assert best.epochs.low <= best.epochs.value <= best.epochs.high
    noisy = parametric.fit_parametric(planted(0.01), draws=100)
    just = parametric.allocate(
        noisy, 1e14, unique=1.1 * parametric.allocate(noisy, 1e14).data.value
    )
    assert just.epochs.low < 1 < just.epochs.high  # the corpus may not last: that is told too
    assert any("borrowed" in text for text in just.warnings)
    plenty = parametric.allocate(fit, 1e13, unique=1e12)
    assert not any("borrowed" in text for text in plenty.warnings)
    assert plenty.epochs.value < 1


def test_repeated_data_are_worth_what_the_paper_says():
    # Muennighoff et al. 2023, section 3.1: U + U R* (1 - exp(-R / R*)), here of 4 passes.
    theta = np.concatenate([THETA, np.log([15.0, 5.0])])[None]
    params = best_size(6e10)
    _, log_d = parametric.effective(theta, np.array([1e3]), np.array([4e6]), np.array([1e6]), 1.0)
    assert np.exp(log_d[0, 0]) == pytest.approx(1e6 * (1 + 15 * (1 - np.exp(-3 / 15))))
    log_n, log_d = parametric.effective(
        theta, np.array([params]), np.array([4e6]), np.array([np.inf]), 1.0
    )
    assert np.exp(log_n[0, 0]) == pytest.approx(params)
    assert np.exp(log_d[0, 0]) == pytest.approx(4e6)


def test_the_largest_budget_is_predicted_from_the_smaller():
    held = parametric.hold_out(planted(0.003, budgets=5), draws=100)
    assert len(held.reached) == 5
    assert held.within >= 0.8
    assert abs(held.error) < 0.02
    # A law that breaks: the last budget is 5 % worse than it should be.
    points = planted(0.001, budgets=5)
    worse = np.where(points.flops == points.flops.max(), 1.05, 1.0)
    broken = Points(points.params, points.data, points.flops, points.loss * worse)
    held = parametric.hold_out(broken, draws=100)
    assert held.error == pytest.approx(0.05, abs=0.02)
    assert held.within < 0.5


def test_modalities_planted_are_found_and_their_intervals_hold_them():
    count, inside = np.repeat(np.arange(1, 9), 3), 0
    for seed in range(40):
        noise = 0.005 * np.random.default_rng(seed).normal(size=24)
        fit = metric.fit_diversity(count, 0.8 - 0.3 * count**-0.8 + noise, draws=100)
        inside += holds(fit.b, 0.8)
    assert inside >= 34
    flat = metric.fit_diversity(count, 0.5 + noise, draws=100)
    assert any("not determined" in text for text in flat.warnings)


def test_a_probe_follows_the_loss_or_does_not():
    loss, rng = np.linspace(2.0, 4.0, 20), np.random.default_rng(1)
    bent = metric.relate(loss, 0.8 / (1 + np.exp((loss - 3) / 0.2)), draws=50)
    assert bent.form == "sigmoid"
    assert bent.rank.value == pytest.approx(-1)
    straight = metric.relate(loss, 1 - 0.2 * loss + 0.01 * rng.normal(size=20), draws=50)
    assert straight.form == "line"
    assert straight.rank.high < -0.9
    none = metric.relate(loss, rng.normal(size=20), draws=100)
    assert "no relation" in none.warnings[0]


def test_a_budget_is_what_was_spent_and_not_its_name():
    points = planted(1e-4)
    named = isoflop.fit_isoflop(points, 2 * fitting.budgets(points.flops), draws=20)
    plain = isoflop.fit_isoflop(points, draws=20)
    assert named.valleys[0].data.value == pytest.approx(plain.valleys[0].data.value)
    assert named.params.at(1e15).value == pytest.approx(plain.params.at(1e15).value)
    uneven = np.where(points.params < np.median(points.params), 0.8, 1.0)
    spent = Points(points.params, points.data, points.flops * uneven, points.loss)
    fit = isoflop.fit_isoflop(spent, fitting.budgets(points.flops), draws=20)
    assert any("spent 25% more" in text for text in fit.warnings)


def test_budgets_are_told_apart_by_their_flops():
    flops = np.array([1.02e12, 1e12, 3e12, 3.1e12, 0.99e12])
    found = fitting.budgets(flops)
    assert len(set(found)) == 2
    assert found[0] == found[1] == found[4]
