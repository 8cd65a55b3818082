"""RoFormer, arXiv 2104.09864: BERT's encoder (post-LayerNorm, biases, GELU), rotary positions.

Equal to ``RoFormerModel`` of the Hugging Face library fed with embeddings (no rotary values, no
token types but the first), but for its unused word embedding.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypnos_jax.nn.attention import rotary
from hypnos_jax.nn.dropout import Dropout
from hypnos_jax.nn.transformer import (
    INIT,
    FeedForward,
    LayerNorm,
    add_bias,
    kernel_init,
    linear,
    rematerialised,
    zeros_init,
)
from hypnos_jax.sharding import keep_rows

EPSILON = 1e-12  # of every LayerNorm


class RotaryAttention(nn.Module):
    """Multi-head self-attention in both directions, q and k rotated, every projection with a bias.

    Attributes:
        heads: H; must divide D.
        dropout: rate on the attention weights.
        lora_rank: of a learnt low-rank addition to the maps to q, k and v (LoRA, arXiv 2106.09685),
            0 for none: ``x W + (alpha / rank) dropout(x) A B``, B starting at 0.
        lora_alpha, lora_dropout: of that addition.
        dtype: of the matrix products.
    """

    heads: int
    dropout: float = 0.1
    lora_rank: int = 0
    lora_alpha: float = 16.0
    lora_dropout: float = 0.05
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, *, train: bool = False) -> jax.Array:
        """Return [B, L, D] of ``x`` [B, L, D]; nobody looks where ``mask``, bool [B, L], is False.

        Raises:
            ValueError: ``heads`` does not divide D.
        """
        dim = x.shape[-1]
        if dim % self.heads:
            raise ValueError(f"heads={self.heads} does not divide the width {dim}")
        shape = (dim, 3, self.heads, dim // self.heads)
        kernel = self.param("qkv_kernel", kernel_init("embed", None, "heads", "head_dim"), shape)
        bias = self.param("qkv_bias", zeros_init(None, "heads", "head_dim"), shape[1:])
        own = x.astype(self.dtype)
        qkv = linear(own, kernel.astype(self.dtype).reshape(dim, -1))
        if self.lora_rank:
            qkv += self._low_rank(own, train)
        qkv = add_bias(qkv, bias.reshape(-1)).reshape(*x.shape[:-1], *shape[1:])
        q, k, v = (qkv[:, :, i] for i in range(3))
        scores = jnp.einsum(
            "bqhe,bkhe->bhqk", rotary(q), rotary(k), preferred_element_type=jnp.float32
        )
        scores = scores * shape[-1] ** -0.5
        scores = jnp.where(mask[:, None, None], scores, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
        weights = Dropout(self.dropout)(weights, train=train)
        out = jnp.einsum("bhqk,bkhe->bqhe", weights, v).reshape(x.shape)
        kernel = self.param(
            "out_kernel", kernel_init("heads", "head_dim", "embed"), (*shape[2:], dim)
        )
        bias = self.param("out_bias", zeros_init("embed"), (dim,))
        return add_bias(linear(out, kernel.astype(self.dtype).reshape(dim, dim)), bias)

    def _low_rank(self, x, train):
        """The addition to q, k and v, side by side, [B, L, 3 D]."""
        dim, rank = x.shape[-1], self.lora_rank
        down = self.param(
            "lora_a",
            nn.with_logical_partitioning(
                nn.initializers.he_uniform(in_axis=-3, out_axis=-1), ("embed", None, None)
            ),
            (dim, 3, rank),
        )
        up = self.param("lora_b", zeros_init(None, None, "embed"), (3, rank, dim))
        x = Dropout(self.lora_dropout, name="lora_dropout")(x, train=train)
        low = linear(x, down.astype(self.dtype).reshape(dim, -1))
        low = low.reshape(*x.shape[:-1], 3, rank)
        added = jnp.einsum("blnr,nrd->blnd", low, up.astype(self.dtype))
        return added.reshape(*x.shape[:-1], 3 * dim) * (self.lora_alpha / rank)


class RoformerLayer(nn.Module):
    """``x = norm(x + attention(x)); x = norm(x + ffn(x))``, dropout on both branches.

    Attributes:
        heads: H.
        ffn_dim: hidden width of the position-wise network.
        dropout: rate on attention weights and branches.
        lora_rank, lora_alpha, lora_dropout: see ``RotaryAttention``.
        dtype: of the matrix products; the stream and the norms stay float32.
    """

    heads: int
    ffn_dim: int
    dropout: float = 0.1
    lora_rank: int = 0
    lora_alpha: float = 16.0
    lora_dropout: float = 0.05
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, *, train: bool = False) -> jax.Array:
        """Return [B, L, D] float32 of ``x`` [B, L, D] under ``mask`` bool [B, L]."""

        def add(x, y, norm):
            y = Dropout(self.dropout)(y.astype(jnp.float32), train=train)
            return keep_rows(LayerNorm(epsilon=EPSILON, name=norm)(x + y))

        attention = RotaryAttention(
            self.heads,
            self.dropout,
            self.lora_rank,
            self.lora_alpha,
            self.lora_dropout,
            self.dtype,
            name="attention",
        )
        x = add(keep_rows(x), attention(x, mask, train=train), "attention_norm")
        return add(x, FeedForward("gelu", self.ffn_dim, self.dtype, name="ffn")(x), "ffn_norm")


class _Scanned(nn.Module):
    """A layer as ``nn.scan`` wants it."""

    layer: dict
    remat: str
    train: bool

    @nn.compact
    def __call__(self, x, mask):
        call = lambda module, x, mask: module(x, mask, train=self.train)
        layer = RoformerLayer(**self.layer, name="layer")
        return rematerialised(call, self.remat)(layer, x, mask), None


class Roformer(nn.Module):
    """The encoder: an added vector, a norm, and ``layers`` equal layers, scanned.

    Attributes:
        layers: how many.
        heads, ffn_dim, dropout, lora_rank, lora_alpha, lora_dropout: see ``RoformerLayer``.
        remat: what of a layer is recomputed in the backward pass; see ``rematerialised``.
        unroll: layers unrolled per step of the scan.
        dtype: of the matrix products.
    """

    layers: int
    heads: int
    ffn_dim: int
    dropout: float = 0.1
    lora_rank: int = 0
    lora_alpha: float = 16.0
    lora_dropout: float = 0.05
    remat: str = "none"
    unroll: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, *, train: bool = False) -> jax.Array:
        """Return the last layer's output, float32 [B, L, D].

        Args:
            x: [B, L, D].
            mask: bool [B, L]: which positions may be looked at.
            train: draw dropout, from the stream ``"dropout"``.
        """
        # BERT's two kinds of token, of which all are the first: published weights have both.
        kinds = self.param(
            "type_embedding",
            nn.with_logical_partitioning(INIT, (None, "embed")),
            (2, x.shape[-1]),
        )
        x = x.astype(jnp.float32) + kinds[:1, None]
        x = LayerNorm(epsilon=EPSILON, name="input_norm")(x)
        x = Dropout(self.dropout)(x, train=train)
        layer = {
            "heads": self.heads,
            "ffn_dim": self.ffn_dim,
            "dropout": self.dropout,
            "lora_rank": self.lora_rank,
            "lora_alpha": self.lora_alpha,
            "lora_dropout": self.lora_dropout,
            "dtype": self.dtype,
        }
        stack = nn.scan(
            _Scanned,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=nn.broadcast,
            length=self.layers,
            unroll=min(self.unroll, self.layers),
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        x, _ = stack(layer, self.remat, train, name="layers")(x, mask)
        return x
