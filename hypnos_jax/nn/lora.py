"""LoRA, arXiv 2106.09685: a learnt low-rank addition to a linear map."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypnos_jax.nn.dropout import Dropout
from hypnos_jax.nn.linear import linear, zeros_init


class LowRank(nn.Module):
    """``(alpha / rank) dropout(x) A B``, to be added to ``x W``; B starts at 0.

    ``nn.share_scope`` puts ``lora_a`` and ``lora_b`` beside the map's own kernel.

    Attributes:
        features: outputs F of each map.
        maps: N maps of the same input, side by side; None for one, without an axis for it.
        rank, alpha: of the addition.
        dropout: rate on its input.
        dtype: of the matrix products.
    """

    features: int
    maps: int | None = None
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Return [..., N F] of ``x`` [..., D]."""
        inner = () if self.maps is None else (self.maps,)
        free = (None,) * len(inner)
        down = self.param(
            "lora_a",
            nn.with_logical_partitioning(
                nn.initializers.he_uniform(in_axis=0, out_axis=-1), ("embed", *free, None)
            ),
            (x.shape[-1], *inner, self.rank),
        )
        up = self.param(
            "lora_b", zeros_init(*free, None, "embed"), (*inner, self.rank, self.features)
        )
        x = Dropout(self.dropout, name="lora_dropout")(x.astype(self.dtype), train=train)
        low = linear(x, down.astype(self.dtype).reshape(x.shape[-1], -1))
        low = low.reshape(*x.shape[:-1], self.maps or 1, self.rank)
        up = up.astype(self.dtype).reshape(-1, self.rank, self.features)
        added = jnp.einsum("...nr,nrf->...nf", low, up)
        return added.reshape(*x.shape[:-1], -1) * (self.alpha / self.rank)
