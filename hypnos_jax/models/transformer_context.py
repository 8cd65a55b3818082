"""The tokens of a night seen together: a RoFormer encoder over fused tokens."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypnos_jax.nn.roformer import Roformer


class TransformerContext(nn.Module):
    """An encoder over the epochs of a night, in both directions, as wide as its input.

    Attributes:
        layers, heads, ffn_dim, dropout, remat: see ``Roformer``.
        dtype: of the matrix products, ``"float32"`` or ``"bfloat16"``.
    """

    layers: int
    heads: int
    ffn_dim: int
    dropout: float = 0.1
    remat: str = "none"
    dtype: str = "float32"

    causal = False

    @nn.compact
    def __call__(self, x: jax.Array, valid: jax.Array, *, train: bool = False) -> jax.Array:
        """Return float32 [B, L, H] of ``x`` [B, L, H], looking where ``valid`` bool [B, L]."""
        encoder = Roformer(
            self.layers,
            self.heads,
            self.ffn_dim,
            self.dropout,
            remat=self.remat,
            dtype=jnp.dtype(self.dtype),
            name="encoder",
        )
        return encoder(x, valid, train=train)
