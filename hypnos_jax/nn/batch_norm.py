"""Batch normalisation whose statistics see what counts, over the whole batch of the mesh.

Ours, as ``flax.linen.BatchNorm`` (which has a mask) averages the biased variance: published towers
are normalised by PyTorch's running variance, the unbiased one. It has no groups either.
"""

from __future__ import annotations

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
            mean, var = mean_of.value[None], var_of.value[None]
            cut = x[None]
        else:
            if len(x) % self.groups:
                raise ValueError(f"groups={self.groups} do not divide {len(x)} rows")
            cut = x.reshape(self.groups, -1, *x.shape[1:])
            weight = counted.reshape(*cut.shape[:-1], 1).astype(jnp.float32)
            count = weight.sum((1, 2))  # [G, 1]
            safe = jnp.maximum(count, 1.0)
            mean = (cut * weight).sum((1, 2)) / safe
            var = (((cut - mean[:, None, None]) ** 2) * weight).sum((1, 2)) / safe
            if not self.is_initializing():
                self._follow(mean_of, mean, count, count > 1)
                self._follow(var_of, var * count / jnp.maximum(count - 1, 1.0), count, count > 1)
        rows = (slice(None), None, None)
        y = (cut - mean[rows]) * jax.lax.rsqrt(var[rows] + self.epsilon)
        return (y * scale[None, None, None] + bias[None, None, None]).reshape(x.shape)

    def _follow(self, running, found, count, enough):
        """Move a running statistic towards the groups' mean; where too few counted, leave it."""
        weight = jnp.where(enough, 1.0, 0.0)
        total = weight.sum()
        new = jnp.where(enough, found, 0.0).sum(0) / jnp.maximum(total, 1.0)
        step = jnp.where(total > 0, self.momentum, 0.0)
        running.value = running.value + step * (jax.lax.stop_gradient(new) - running.value)
