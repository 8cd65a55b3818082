"""The fused head and loss: equal to the plain definition, gradients included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypnos_jax.nn.cross_entropy import cross_entropy


def plain(x, kernel, bias, target):
    logits = jnp.einsum("knd,kdv->knv", x, kernel) + bias[:, None]
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), target[..., None], -1)[..., 0]


@pytest.fixture
def example():
    keys = jax.random.split(jax.random.key(0), 4)
    x, kernel = jax.random.normal(keys[0], (2, 5, 4)), jax.random.normal(keys[1], (2, 4, 7))
    bias = jax.random.normal(keys[2], (2, 7))
    return x, kernel, bias, jax.random.randint(keys[3], (2, 5), 0, 7)


def test_scores_are_those_of_the_softmax(example):
    nll, scores = cross_entropy(*example)
    np.testing.assert_allclose(nll, plain(*example), atol=1e-5)
    x, kernel, bias, target = (np.asarray(value) for value in example)
    logits = np.einsum("knd,kdv->knv", x, kernel) + bias[:, None]
    np.testing.assert_array_equal(scores["hit"], logits.argmax(-1) == target)
    np.testing.assert_allclose(scores["max_logit"], abs(logits).max(-1), rtol=1e-5)
    np.testing.assert_allclose(
        scores["log_partition"], np.log(np.exp(logits).sum(-1)), rtol=1e-5, atol=1e-6
    )


def test_gradients_are_those_of_the_definition(example):
    *learnt, target = example
    weight = jnp.arange(10.0).reshape(2, 5)  # the first counts nothing
    got = jax.grad(lambda *x: jnp.sum(weight * cross_entropy(*x, target)[0]), (0, 1, 2))(*learnt)
    want = jax.grad(lambda *x: jnp.sum(weight * plain(*x, target)), (0, 1, 2))(*learnt)
    for a, b in zip(got, want):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(got[0][0, 0], 0)


def test_a_code_that_does_not_exist_is_nan_and_spoils_no_other(example):
    x, kernel, bias, target = example
    nll = cross_entropy(x, kernel, bias, target.at[0, 3].set(7))[0]
    assert np.argwhere(np.isnan(nll)).tolist() == [[0, 3]]


def test_products_in_bfloat16_have_gradients_in_float32(example):
    x, kernel, bias, target = example
    loss = lambda x, kernel: cross_entropy(x, kernel, bias, target)[0].sum()
    by_x, by_kernel = jax.grad(loss, (0, 1))(x.astype(jnp.bfloat16), kernel)
    assert (by_x.dtype, by_kernel.dtype) == (jnp.bfloat16, jnp.float32)
    want = jax.grad(lambda kernel: plain(x, kernel, bias, target).sum())(kernel)
    np.testing.assert_allclose(by_kernel, want, atol=0.05)
