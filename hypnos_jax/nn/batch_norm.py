"""Batch normalisation whose statistics see what counts, over the whole batch of the mesh.

Ours, as ``flax.linen.BatchNorm`` (which has a mask) averages the biased variance: published towers
are normalised by PyTorch's running variance, the unbiased one. It has no groups either.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypnos_jax.nn.linear import zeros_init


class BatchNorm(nn.Module):
    """Normalise each feature by its mean and variance over the batch, then scale and shift.

    Under ``jit`` a mean over the batch is one over the whole mesh. The running statistics, which
    evaluation uses, are in the collection ``"batch_stats"``; they average the batches' with the
    variance unbiased. float32 throughout.

    Attributes:
        groups: how many parts of the rows are normalised each by its own statistics, as
            unsynchronised devices would; the running ones follow their mean.
        momentum: weight of a batch in the running statistics.
        epsilon: added to the variance.
    """

    groups: int = 1
    momentum: float = 0.1
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, counted: jax.Array, *, train: bool = False) -> jax.Array:
        """Return float32 [B, L, D].

        Args:
            x: [B, L, D].
            counted: bool [B, L], what enters the statistics.
            train: use the batch's statistics, and move the running ones towards them.

        Raises:
            ValueError: ``groups`` does not divide B.
        """
        features = x.shape[-1]
        zeros = zeros_init("embed")
        ones = nn.with_logical_partitioning(nn.initializers.ones, ("embed",))
        scale = self.param("scale", ones, (features,))
        bias = self.param("bias", zeros, (features,))
        mean_of = self.variable("batch_stats", "mean", lambda: zeros(None, (features,)))
        var_of = self.variable("batch_stats", "var", lambda: ones(None, (features,)))
        x = x.astype(jnp.float32)
        if not train:
            scale = scale * jax.lax.rsqrt(var_of.value + self.epsilon)
            return x * scale[None, None] + (bias - mean_of.value * scale)[None, None]
        if len(x) % self.groups:
            raise ValueError(f"groups={self.groups} do not divide {len(x)} rows")
        cut = x.reshape(self.groups, -1, *x.shape[1:])
        weight = counted.reshape(*cut.shape[:-1], 1).astype(jnp.float32)
        y, mean, var, count = _normalised(cut, weight, scale, bias, self.epsilon)
        if not self.is_initializing():
            self._follow(mean_of, mean, count > 1)
            self._follow(var_of, var * count / jnp.maximum(count - 1, 1.0), count > 1)
        return y.reshape(x.shape)

    def _follow(self, running, found, enough):
        """Move a running statistic towards the groups' mean; where too few counted, leave it."""
        weight = jnp.where(enough, 1.0, 0.0)
        total = weight.sum()
        new = jnp.where(enough, found, 0.0).sum(0) / jnp.maximum(total, 1.0)
        step = jnp.where(total > 0, self.momentum, 0.0)
        running.value = running.value + step * (jax.lax.stop_gradient(new) - running.value)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _normalised(x, weight, scale, bias, epsilon):
    """``x`` [G, N, L, D] by its own statistics where ``weight`` [G, N, L, 1] is 1, scaled and
    shifted; and their mean, variance [G, D] and count [G, 1], through which no gradient passes.

    The gradient is written out, as it is half of what plain differentiation computes, and compiles.
    """
    return _forward(x, weight, scale, bias, epsilon)[0]


def _forward(x, weight, scale, bias, epsilon):
    count = weight.sum((1, 2))
    safe = jnp.maximum(count, 1.0)
    mean = (x * weight).sum((1, 2)) / safe
    centred = x - mean[:, None, None]
    var = (centred**2 * weight).sum((1, 2)) / safe
    inverse = jax.lax.rsqrt(var + epsilon)
    y = centred * (inverse * scale[None])[:, None, None] + bias[None, None, None]
    return (y, mean, var, count), (x, weight, scale, mean, inverse, safe)


def _backward(epsilon, kept, gradients):
    x, weight, scale, mean, inverse, count = kept
    gradient = gradients[0]
    centred = x - mean[:, None, None]
    total, along = gradient.sum((1, 2)), (gradient * centred).sum((1, 2))
    # What each counted value does to all others through the mean and the variance.
    through = (total / count)[:, None, None] + centred * (along * inverse**2 / count)[:, None, None]
    by_x = (gradient - weight * through) * (inverse * scale[None])[:, None, None]
    return by_x, jnp.zeros_like(weight), (along * inverse).sum(0), total.sum(0)


_normalised.defvjp(_forward, _backward)
