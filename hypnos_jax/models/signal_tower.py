"""The signal side of SleepLM (Xu et al. 2026, arXiv 2602.23605), as in its code.

An epoch's channels are cut into patches; blocks attend across the channels of a patch, then along
the patches of a channel. Learnt queries gather an embedding, and a memory that captions and the
reconstruction are made of.

Shapes: B epochs, C channels, T patches, N memory tokens, D width, Z of the embedding.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypnos_jax.nn.dual_attention import (
    STACKED_XAVIER,
    AttentionPooler,
    DualLayer,
    pooling_attention,
)
from hypnos_jax.nn.linear import FAN_IN
from hypnos_jax.nn.transformer import Linear, RmsNorm, Transformer, rematerialised
from hypnos_jax.sharding import keep_rows

SAMPLES = 1920  # of an epoch of 30 s at 64 Hz
RECONSTRUCTION_LAYERS = 2  # fixed in the code
TORCH_EPSILON = 1e-5
# How a tower begins: standard deviations of the channels' table and the poolers' queries, and the
# initialiser of the blocks' kernels. As released, a token is nine tenths its channel's own vector,
# and the poolers average all tokens, so that all epochs look alike at first (cosines of 0.99), and
# small batches make them the same. Wide is ours.
STARTS = {
    "released": (1.0, 0.02, FAN_IN),
    "wide": (0.3, 1.0, nn.initializers.variance_scaling(1.0, "fan_in", "uniform")),
}


def torch_linear(inputs: int, outputs: int, dtype: jnp.dtype, name: str | None = None) -> Linear:
    """Return a linear layer with a bias that begins as PyTorch's own does."""
    names = ("embed", "mlp")
    return Linear(
        names, inputs, outputs, None, True, dtype, None, FAN_IN, fan_in_bias=True, name=name
    )


class SignalTower(nn.Module):
    """Epochs of several channels to an embedding and a memory.

    Attributes:
        channels: C.
        width, heads: of the blocks.
        patch: samples of a patch.
        conv_dim: width of a patch before its projection.
        blocks: how many.
        ffn_ratio: hidden width of the position-wise networks, in widths.
        memory_tokens: N.
        embed_dim: Z.
        dropout: rate; see ``PostNormLayer``.
        start: how it begins; a key of ``STARTS``.
        remat: what of a block is recomputed; see ``rematerialised``.
        dtype: of the products.
    """

    channels: int
    width: int
    heads: int
    patch: int
    conv_dim: int
    blocks: int
    ffn_ratio: float
    memory_tokens: int
    embed_dim: int
    dropout: float = 0.0
    start: str = "released"
    remat: str = "none"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, signals: jax.Array, mask: jax.Array | None = None, *, train: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """Return the embedding [B, Z] (of no particular length) and the memory [B, N, D], float32.

        Args:
            signals: float32 [B, C, samples]; channels that are absent are 0.
            mask: bool [B, C], the channels that may be looked at; None for all.
            train: draw dropout.

        Raises:
            ValueError: other channels than ``channels``, no whole patches, or an unknown start.
        """
        if self.start not in STARTS:
            raise ValueError(f"model.start={self.start!r}; it is one of {sorted(STARTS)}")
        of_channels, of_queries, of_kernels = STARTS[self.start]
        rows, channels, samples = signals.shape
        if channels != self.channels or samples % self.patch:
            raise ValueError(
                f"signals are {signals.shape}; this model reads {self.channels} channels, in whole"
                f" patches of {self.patch} samples"
            )
        x = signals.reshape(rows, channels, -1, self.patch).astype(self.dtype)
        x = torch_linear(self.patch, self.conv_dim, self.dtype, "patch_conv")(x)
        x = torch_linear(self.conv_dim, self.width, self.dtype, "patch_embed")(x)
        init = nn.with_logical_partitioning(
            nn.initializers.normal(of_channels), ("channels", "embed")
        )
        table = self.param("channel_embedding", init, (channels, self.width))
        x = keep_rows(x.astype(jnp.float32) + table[None, :, None])
        init = nn.with_logical_partitioning(nn.initializers.normal(0.02), (None,))
        rates = self.param("channel_rates", init, (self.width // self.heads // 2,))

        def call(module, x, mask, rates):
            return module(x, mask, rates, train=train)

        layer = {
            "heads": self.heads,
            "ffn_dim": int(self.width * self.ffn_ratio),
            "dropout": self.dropout,
            "initialiser": of_kernels,
            "dtype": self.dtype,
        }
        for i in range(self.blocks):
            block = DualLayer(layer, name=f"block_{i}")
            x = rematerialised(call, self.remat)(block, x, mask, rates)
        x = RmsNorm(self.dtype, name="final_norm")(x).reshape(rows, -1, self.width)
        seen = mask
        if mask is not None:
            seen = jnp.repeat(mask, x.shape[1] // channels, axis=1)[:, None]
        pooler = {
            "heads": self.heads,
            "initialiser": nn.initializers.normal(of_queries),
            "dtype": self.dtype,
        }
        whole = AttentionPooler(1, **pooler, name="embedding_pooler")(x, seen)
        memory = AttentionPooler(self.memory_tokens, **pooler, name="memory_pooler")(x, seen)
        pool = pooling_attention(self.heads, self.dtype, "pool")
        found = pool(whole, memory=memory)[:, 0]
        embedding = torch_linear(self.width, self.embed_dim, self.dtype, "embed")(found)
        return embedding.astype(jnp.float32), keep_rows(memory.astype(jnp.float32))


class SignalDecoder(nn.Module):
    """The memory back to signals: pre-LayerNorm layers (ReLU), their mean, and a network of two.

    Attributes:
        channels, samples: of the signals.
        width: of the memory.
        heads, dropout: of the layers.
        remat, dtype: of the layers.
    """

    channels: int
    width: int
    heads: int
    samples: int = SAMPLES
    dropout: float = 0.1
    remat: str = "none"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, memory: jax.Array, *, train: bool = False) -> jax.Array:
        """Return float32 [B, C, samples] of ``memory`` [B, N, D]."""
        layer = {
            "dim": self.width,
            "heads": self.heads,
            "causal": False,
            "rope": False,
            "ffn": "relu",
            "ffn_dim": 2 * self.width,
            "layer_scale": None,
            "bias": True,
            "epsilon": TORCH_EPSILON,
            "dropout": self.dropout,
            "inner_dropout": self.dropout,
            "initialiser": STACKED_XAVIER,
            "attention_out": FAN_IN,
            "ffn_up": FAN_IN,
            "ffn_down": FAN_IN,
            "fan_in_bias": True,
            "dtype": self.dtype,
        }
        stack = Transformer(
            RECONSTRUCTION_LAYERS, layer, norm=False, remat=self.remat, name="layers"
        )
        x = stack(memory, train=train).mean(1).astype(self.dtype)
        x = torch_linear(self.width, self.width // 2, self.dtype, "hidden")(x)
        x = torch_linear(self.width // 2, self.channels * self.samples, self.dtype, "out")(
            jax.nn.relu(x)
        )
        return x.astype(jnp.float32).reshape(-1, self.channels, self.samples)
