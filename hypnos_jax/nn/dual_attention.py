"""Attention along one axis of a grid of tokens at a time, and pooling by learnt queries.

Layers are normalised after each sum (RMSNorm), as the signal encoder of SleepLM (Xu et al. 2026,
arXiv 2602.23605) has them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypnos_jax.nn.dropout import Dropout
from hypnos_jax.nn.linear import FAN_IN
from hypnos_jax.nn.multi_head_attention import MultiHeadAttention
from hypnos_jax.nn.transformer import FeedForward, RmsNorm
from hypnos_jax.sharding import keep_rows

# PyTorch's of the stacked q, k and v: Xavier's of a matrix of 3 D rows and D columns.
STACKED_XAVIER = nn.initializers.variance_scaling(0.5, "fan_in", "uniform")


class PostNormLayer(nn.Module):
    """``x = norm(x + attention(x)); x = norm(x + ffn(x))``, rotary positions, SwiGLU, RMSNorm.

    Attributes:
        heads: H.
        ffn_dim: hidden width.
        dropout: rate on attention weights, on the hidden layer and on the position-wise network's
            output.
        initialiser: of all kernels.
        dtype: of the matrix products; the stream and the norms stay float32.
    """

    heads: int
    ffn_dim: int
    dropout: float = 0.0
    initialiser: Callable = FAN_IN
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array | None = None,
        *,
        rates: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Return [..., S, D] float32 of ``x`` [..., S, D].

        Args:
            x: tokens; the axis before the last is attended along.
            mask: see ``MultiHeadAttention``.
            rates: of the rotary positions; see ``attention.rotary``.
            train: draw dropout, from the stream ``"dropout"``.
        """
        attention = MultiHeadAttention(
            self.heads,
            rope=True,
            bias="out",
            dropout=self.dropout,
            initialiser=self.initialiser,
            fan_in_bias=True,
            dtype=self.dtype,
            name="attention",
        )
        y = attention(x, mask, rates=rates, train=train)
        x = RmsNorm(name="attention_norm")(keep_rows(x + y.astype(jnp.float32)))
        ffn = FeedForward(
            "swiglu",
            self.ffn_dim,
            self.dtype,
            initialiser=self.initialiser,
            dropout=self.dropout,
            name="ffn",
        )
        y = Dropout(self.dropout)(ffn(x, train=train).astype(jnp.float32), train=train)
        return RmsNorm(name="ffn_norm")(keep_rows(x + y))


class DualLayer(nn.Module):
    """A layer across the rows of a grid, each column by itself, then one along each row.

    Attributes:
        layer: keyword arguments of both ``PostNormLayer``.
    """

    layer: dict[str, Any]

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array | None, rates: jax.Array, *, train: bool = False
    ) -> jax.Array:
        """Return [B, C, T, D] float32 of ``x`` [B, C, T, D].

        Args:
            x: C rows, such as channels, of T tokens.
            mask: bool [B, C], the rows that may be looked at; None for all.
            rates: of the rotary positions of rows; those of columns are the usual ones.
            train: draw dropout.
        """
        across = None if mask is None else mask[:, None, None]
        x = x.swapaxes(1, 2)
        x = PostNormLayer(**self.layer, name="across")(x, across, rates=rates, train=train)
        return PostNormLayer(**self.layer, name="along")(x.swapaxes(1, 2), train=train)


class AttentionPooler(nn.Module):
    """What learnt queries find in a sequence (CoCa, arXiv 2205.01917).

    Attributes:
        queries: how many.
        heads: H.
        initialiser: of the queries.
        dtype: of the products.
    """

    queries: int
    heads: int
    initialiser: Callable = nn.initializers.normal(0.02)
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Return [B, queries, D] of ``x`` [B, T, D], of which ``mask`` [B, 1, T] may be seen."""
        init = nn.with_logical_partitioning(self.initialiser, (None, "embed"))
        queries = self.param("queries", init, (self.queries, x.shape[-1]))
        return pooling_attention(self.heads, self.dtype, name="attention")(
            queries[None], mask, memory=x
        )


def pooling_attention(heads: int, dtype: jnp.dtype, name: str | None = None) -> MultiHeadAttention:
    """Return attention to another sequence with biases, which begins as PyTorch's own does."""
    options = {"initialiser": STACKED_XAVIER, "out_initialiser": FAN_IN, "dtype": dtype}
    return MultiHeadAttention(heads, bias=True, **options, name=name)
