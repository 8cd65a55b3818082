"""Counted arithmetic against what can be counted by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypnos_jax import sharding
from hypnos_jax.cost import flops


def count(function, *shapes):
    return flops.matrix_flops(
        jax.make_jaxpr(function)(*(jnp.zeros(shape, jnp.float32) for shape in shapes))
    )


def test_a_matrix_product_is_two_operations_a_term():
    assert count(lambda a, b: a @ b, (3, 5), (5, 7)) == {"float32": 2 * 3 * 5 * 7}


def test_a_batched_product_counts_every_batch():
    assert count(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), (4, 3, 5), (4, 5, 7)) == {
        "float32": 4 * 2 * 3 * 5 * 7
    }


def test_a_scan_counts_as_often_as_it_runs():
    def looped(x, w):
        return jax.lax.scan(lambda x, _: (jax.jit(jnp.matmul)(x, w), None), x, None, length=11)

    assert count(looped, (3, 5), (5, 5)) == {"float32": 11 * 2 * 3 * 5 * 5}


def test_a_gradient_costs_two_more_products_and_what_it_recomputes():
    loss = lambda w, x: jnp.sum(jnp.tanh(x @ w) ** 2)
    product = 2 * 4 * 5 * 6
    assert count(jax.grad(loss, (0, 1)), (5, 6), (4, 5)) == {"float32": 3 * product}
    again = jax.checkpoint(loss)
    assert count(jax.grad(again, (0, 1)), (5, 6), (4, 5)) == {"float32": 4 * product}


@pytest.mark.parametrize("stride, groups", [(1, 1), (2, 1), (1, 4)])
def test_a_convolution_counts_its_kernel_at_every_output(stride, groups):
    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride,),
            "SAME",
            dimension_numbers=("NHC", "HIO", "NHC"),
            feature_group_count=groups,
        )

    outputs = 2 * (16 // stride) * 12
    found = count(convolve, (2, 16, 8), (3, 8 // groups, 12))
    assert found == {"float32": 2 * 3 * (8 // groups) * outputs}


def test_a_branch_costs_as_much_as_the_cheaper_one():
    def either(x, w):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ w @ w, lambda: x @ w)

    assert count(either, (3, 5), (5, 5)) == {"float32": 2 * 3 * 5 * 5}


def test_one_of_many_branches_costs_their_mean():
    def one(x, w):
        branches = [lambda x=x, n=n: x[:n] @ w for n in (1, 2, 3)]
        return jax.lax.switch(x[0, 0].astype(int), [lambda f=f: f().sum() for f in branches])

    assert count(one, (3, 5), (5, 5)) == {"float32": 2 * 2 * 5 * 5}


def test_the_rate_of_products_is_of_all_devices():
    rate = flops.matmul_rate(sharding.make_mesh(data=2, fsdp=2, tensor=2), size=64)
    assert np.isfinite(rate)
    assert rate > 0
