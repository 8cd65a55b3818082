"""The schedule's shape and what weight decay touches."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypnos_jax import optim, state


def test_the_rate_rises_in_a_line_and_falls_in_a_cosine():
    schedule = optim.make_schedule(steps=110, learning_rate=1.0, warmup_steps=10, end_scale=0.1)
    rates = np.array([schedule(step) for step in range(111)])
    np.testing.assert_allclose(np.diff(rates[:11]), rates[1] - rates[0], rtol=1e-5)
    assert rates[0] > 0
    assert rates[10] == rates.max() == 1.0
    assert rates[60] == pytest.approx(0.55)
    assert rates[110] == pytest.approx(0.1)


def test_a_warm_up_longer_than_the_run_is_cut():
    schedule = optim.make_schedule(steps=4, learning_rate=1.0, warmup_steps=100)
    assert schedule(4) == pytest.approx(1.0)


def test_decay_shrinks_matrices_alone():
    params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    schedule = optim.make_schedule(steps=10, learning_rate=0.1, decay="constant")
    tx = optim.make_optimizer(schedule, state.matrices(params), weight_decay=0.5)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(updates["bias"], 0)


def test_embeddings_and_stacked_biases_are_not_matrices():
    box = lambda shape, *names: nn.LogicallyPartitioned(jnp.zeros(shape), names)
    boxed = {
        "head_bias": box((6, 3), "layers", "embed"),
        "code_embedding": box((6, 3), "vocab", "embed"),
        "qkv_kernel": box((6, 2, 3), "layers", "embed", "mlp"),
    }
    decayed = {"head_bias": False, "code_embedding": False, "qkv_kernel": True}
    assert state.matrices(boxed) == decayed


def test_a_gradient_longer_than_the_clip_is_shortened():
    params = {"w": jnp.zeros((2, 2))}
    schedule = optim.make_schedule(steps=10, learning_rate=1.0, decay="constant")
    small, large = (
        optim.make_optimizer(schedule, {"w": True}, clip_norm=1.0, eps=1.0).update(
            {"w": jnp.full((2, 2), size)},
            optim.make_optimizer(schedule, {"w": True}, clip_norm=1.0, eps=1.0).init(params),
            params,
        )[0]["w"]
        for size in (0.5, 50.0)
    )
    np.testing.assert_allclose(small, large, rtol=1e-6)


def test_the_schedule_of_sleep2vec():
    steps, peak = 1000, 5e-5
    schedule = optim.make_schedule(
        steps=steps, learning_rate=peak, warmup_steps=30, end_scale=0.1, from_zero=True
    )
    assert schedule(0) == 0
    assert schedule(15) == pytest.approx(peak / 2)
    assert schedule(30) == pytest.approx(peak)
    assert schedule(steps) == pytest.approx(0.1 * peak)
    averaging = optim.make_averaging(steps=steps, ema_decay=0.996, ema_schedule="cosine")
    assert averaging(0) == pytest.approx(0.996)
    assert averaging(500) == pytest.approx(0.998)
    assert averaging(steps) == pytest.approx(1)


def test_an_average_begins_by_forgetting():
    averaging = optim.make_averaging(steps=10, ema_decay=0.9)
    assert averaging(0) == pytest.approx(0.1)
    assert averaging(1000) == pytest.approx(0.9)
    assert optim.make_averaging(steps=10) is None
    with pytest.raises(ValueError, match="ema_schedule='linear'"):
        optim.make_averaging(steps=10, ema_decay=0.9, ema_schedule="linear")
