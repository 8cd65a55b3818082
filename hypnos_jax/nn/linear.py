"""Matrix products over the last axis, biases, and how both begin and are laid out.

An array's last name tells what it is (``kernel``, ``bias``), and its axes carry logical names.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypnos_jax.nn.backend import platform

INIT = nn.initializers.normal(0.02)


XAVIER = nn.initializers.xavier_uniform()


# PyTorch's own of linear layers and convolutions: uniform within 1 / sqrt(inputs).
FAN_IN = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def kernel_init(*names: str | None, init: Callable = INIT, inputs: int = 1) -> Callable:
    """Return the initialiser of a kernel whose axes bear these logical names.

    Args:
        names: of its axes.
        init: of the matrix that the kernel is: by default Normal(0, 0.02).
        inputs: how many of the axes, the first ones, are the matrix's rows.
    """

    def matrix(key, shape, dtype=jnp.float32):
        rows, columns = math.prod(shape[:inputs]), math.prod(shape[inputs:])
        return init(key, (rows, columns), dtype).reshape(shape)

    return nn.with_logical_partitioning(matrix, names)


def zeros_init(*names: str | None) -> Callable:
    """Return the initialiser of a bias whose axes bear these logical names."""
    return nn.with_logical_partitioning(nn.initializers.zeros, names)


def fan_in_bias_init(inputs: int, *names: str | None) -> Callable:
    """Return PyTorch's initialiser of the bias of a layer of so many inputs; see ``FAN_IN``."""
    reach = inputs**-0.5

    def uniform(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -reach, reach)

    return nn.with_logical_partitioning(uniform, names)


@jax.custom_vjp
def linear(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return ``x @ kernel``, [..., F] of [..., D] and [D, F], in their dtype.

    Two things make it fast on CPUs. Results are asked for in float32: a CPU that multiplies
    bfloat16 does so only then. And the kernel's gradient is a product over the rows of x and of the
    output's gradient, one of which XLA transposes, recomputing what led to it in the order of the
    transpose, which may take longer than the product: here the narrower one.
    """
    return _product(x, kernel, 1, 0)


def _product(x, y, over_x, over_y):
    x = x.reshape(-1, x.shape[-1]) if over_x == 0 else x
    y = y.reshape(-1, y.shape[-1])
    axes = (((x.ndim - 1 if over_x else 0,), (over_y,)), ((), ()))
    result = jnp.float32 if platform() == "cpu" else None
    return jax.lax.dot_general(x, y, axes, preferred_element_type=result).astype(x.dtype)


def _linear_backward(kept, gradient):
    x, kernel = kept
    if x.shape[-1] <= gradient.shape[-1]:
        by_kernel = _product(x, gradient, 0, 0)
    else:
        by_kernel = _product(gradient, x, 0, 0).T
    return _product(gradient, kernel, 1, 1), by_kernel


def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Return ``x + bias``, [..., F] and [F], in x's dtype; the bias's gradient is a sum in float32.

    Written as a sum over rows it would be one in x's dtype, which for bfloat16 is inexact, and slow
    on CPUs: here it is a product with ones.
    """
    return _add_bias(x, bias.astype(x.dtype))


@jax.custom_vjp
def _add_bias(x, bias):
    return x + bias.reshape((1,) * (x.ndim - 1) + (-1,))


def _add_bias_backward(_, gradient):
    rows = gradient.reshape(-1, gradient.shape[-1])
    ones = jnp.ones((1, len(rows)), rows.dtype)
    total = jax.lax.dot_general(
        ones, rows, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32
    )
    return gradient, total[0].astype(gradient.dtype)


_add_bias.defvjp(lambda x, bias: (_add_bias(x, bias), None), _add_bias_backward)
linear.defvjp(lambda x, kernel: (_product(x, kernel, 1, 0), (x, kernel)), _linear_backward)
