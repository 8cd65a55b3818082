"""Batch normalisation against its definition."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypnos_jax.nn.batch_norm import BatchNorm

X = np.random.default_rng(0).normal(3, 2, (6, 5, 4)).astype(np.float32)
EVERY = np.ones((6, 5), bool)


def run(x, counted, train=True, groups=1, stats=None):
    norm = BatchNorm(groups)
    variables = nn.unbox(norm.init(jax.random.key(0), x, counted, train=True))
    if stats:
        variables = {**variables, "batch_stats": stats}
    return norm.apply(variables, x, counted, train=train, mutable=["batch_stats"])


def test_the_batch_is_normalised_and_remembered():
    y, updated = run(X, EVERY)
    flat = X.reshape(-1, 4)
    expected = (X - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    stats = updated["batch_stats"]
    np.testing.assert_allclose(stats["mean"], 0.1 * flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-5)


def test_evaluation_uses_what_is_remembered():
    stats = {"mean": jnp.full(4, 3.0), "var": jnp.full(4, 4.0)}
    y, updated = run(X, EVERY, train=False, stats=stats)
    np.testing.assert_allclose(y, (X - 3) / np.sqrt(4 + 1e-5), atol=1e-5)
    assert jax.tree.all(jax.tree.map(np.array_equal, updated["batch_stats"], stats))


def test_only_what_counts_enters_the_statistics():
    counted = EVERY.copy()
    counted[4:] = False
    counted[0, 3:] = False
    other = np.where(counted[..., None], X, 1e6)
    y, updated = run(X, counted)
    z, again = run(other, counted)
    np.testing.assert_allclose(y[counted], z[counted], atol=1e-5)
    np.testing.assert_allclose(updated["batch_stats"]["var"], again["batch_stats"]["var"])
    np.testing.assert_allclose(y[counted].mean(0), 0, atol=1e-5)


def test_a_batch_of_which_nothing_counts_is_forgotten():
    y, updated = run(X, ~EVERY)
    assert np.isfinite(y).all()
    np.testing.assert_array_equal(updated["batch_stats"]["mean"], 0)
    np.testing.assert_array_equal(updated["batch_stats"]["var"], 1)


def test_groups_are_normalised_each_for_itself():
    y, updated = run(X, EVERY, groups=2)
    parts = [run(half, EVERY[:3]) for half in (X[:3], X[3:])]
    np.testing.assert_allclose(y, np.concatenate([part for part, _ in parts]), atol=1e-5)
    means = [stats["batch_stats"]["mean"] for _, stats in parts]
    np.testing.assert_allclose(updated["batch_stats"]["mean"], np.mean(means, 0), rtol=1e-5)
    with pytest.raises(ValueError, match="groups=4 do not divide 6 rows"):
        run(X, EVERY, groups=4)
