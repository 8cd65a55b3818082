"""RoFormer, arXiv 2104.09864: BERT's encoder (post-LayerNorm, biases, GELU), rotary positions.

Equal to ``RoFormerModel`` of the Hugging Face library fed with embeddings (no rotary values, no
token types but the first), but for its unused word embedding.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypnos_jax.nn.dropout import Dropout
from hypnos_jax.nn.linear import INIT
from hypnos_jax.nn.multi_head_attention import MultiHeadAttention
from hypnos_jax.nn.transformer import FeedForward, LayerNorm, rematerialised
from hypnos_jax.sharding import keep_rows

EPSILON = 1e-12  # of every LayerNorm


class RoformerLayer(nn.Module):
    """``x = norm(x + attention(x)); x = norm(x + ffn(x))``, dropout on both branches.

    Attributes:
        heads: H.
        ffn_dim: hidden width of the position-wise network.
        dropout: rate on attention weights and branches.
        lora_rank, lora_alpha, lora_dropout: of additions to q, k and v; see ``LowRank``.
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

        lora = {
            "rank": self.lora_rank,
            "alpha": self.lora_alpha,
            "dropout": self.lora_dropout,
        }
        attention = MultiHeadAttention(
            self.heads,
            rope=True,
            bias=True,
            dropout=self.dropout,
            lora=lora if self.lora_rank else None,
            dtype=self.dtype,
            name="attention",
        )
        y = attention(x, mask[:, None], train=train)
        x = add(keep_rows(x), y, "attention_norm")
        return add(x, FeedForward("gelu", self.ffn_dim, self.dtype, name="ffn")(x), "ffn_norm")


class _Scanned(nn.Module):
    """A layer as ``nn.scan`` wants it."""

    layer: dict
    remat: str
    train: bool

    @nn.compact
    def __call__(self, x, mask):
        def call(module, x, mask):
            return module(x, mask, train=self.train)

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
