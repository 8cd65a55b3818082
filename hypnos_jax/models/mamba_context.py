"""The tokens of a night seen one after the other: Mamba layers over fused tokens."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypnos_jax.nn.batch_norm import BatchNorm
from hypnos_jax.nn.dropout import Dropout
from hypnos_jax.nn.ssm import Mamba1, Mamba2
from hypnos_jax.nn.transformer import LayerNorm, Linear, rematerialised
from hypnos_jax.sharding import keep_rows

KINDS = ("mamba2", "mamba1")


class MambaContext(nn.Module):
    """State-space layers over the epochs of a night, in time and memory linear in their number.

    By default as SynthSleepNet has it, arXiv 2502.17481: ``s = norm(x); s + mamba2(s)``, where norm
    is a batch normalisation over all rows that count (the official code takes its statistics at one
    time step after the other). NeuroNet's, arXiv 2404.17585, has ``kind="mamba1"``,
    ``embed=(256, 256)``, ``residual=False`` and ``batch_norm=False``.

    Applied with the collection ``"cache"`` mutable, it goes on where the last piece of the night
    ended, such as an epoch at a time.

    Attributes:
        kind: one of ``KINDS``.
        layers: how many, one after the other.
        d_state, d_conv, expand: see ``Mamba2``.
        head_dim: of ``"mamba2"``; must divide ``expand`` times the width.
        chunk: positions that are computed at once; 0 for what suits the length.
        bidirectional: add to each layer a second one, of weights of its own, that runs backwards in
            time.
        residual: add each layer to its input.
        batch_norm: normalise the input over the batch.
        pre_norm: normalise each layer's input (LayerNorm); the residual stream is left as it is.
        embed: widths of linear maps before all else, with batch normalisation and ELU between them;
            the last is the width of the output. () for none.
        dropout: rate on each layer's output.
        remat: what of a layer is recomputed in the backward pass; see ``rematerialised``.
        dtype: of the matrix products, ``"float32"`` or ``"bfloat16"``.
    """

    kind: str = "mamba2"
    layers: int = 1
    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    head_dim: int = 64
    chunk: int = 0
    bidirectional: bool = False
    residual: bool = True
    batch_norm: bool = True
    pre_norm: bool = False
    embed: tuple[int, ...] = ()
    dropout: float = 0.0
    remat: str = "none"
    dtype: str = "float32"

    @property
    def causal(self) -> bool:
        """Whether a token sees itself and the past alone."""
        return not self.bidirectional

    @property
    def couples_batch(self) -> bool:
        """Whether there are batch statistics."""
        return self.batch_norm or len(self.embed) > 1

    @nn.compact
    def __call__(self, x: jax.Array, valid: jax.Array, *, train: bool = False) -> jax.Array:
        """Return float32 [B, L, H'], H' the last of ``embed`` or H.

        Args:
            x: [B, L, H].
            valid: bool [B, L]; what is not enters no state.
            train: use the batch's statistics; draw dropout, from the stream ``"dropout"``.

        Raises:
            ValueError: an unknown ``kind``, a ``head_dim`` that does not divide, or a piece of a
                night for layers that need what follows it.
        """
        if self.kind not in KINDS:
            raise ValueError(f"context.kind={self.kind!r} is not known; use one of {KINDS}")
        streams = self.is_mutable_collection("cache") and not self.is_initializing()
        if streams and self.bidirectional:
            raise ValueError(
                "context.bidirectional=True needs what comes later, so a night cannot come in"
                " pieces; use False, or give whole nights"
            )
        x = keep_rows(x.astype(jnp.float32))
        for i, width in enumerate(self.embed):
            if i:
                norm = BatchNorm(name=f"embed_norm_{i - 1}")
                x = jax.nn.elu(norm(x, valid, train=train))
            x = self._linear(width, f"embed_{i}", x)
        if self.batch_norm:
            x = BatchNorm(name="batch_norm")(x, valid, train=train)
        for i in range(self.layers):
            y = x
            if self.pre_norm:
                y = LayerNorm(name=f"norm_{i}")(x)
            y = self._layer(y, valid, f"layer_{i}")
            y = Dropout(self.dropout, name=f"dropout_{i}")(y, train=train)
            x = keep_rows(x + y if self.residual else y)
        return x

    def _linear(self, width, name, x):
        dtype = jnp.dtype(self.dtype)
        layer = Linear(("embed", "mlp"), x.shape[-1], width, bias=True, dtype=dtype, name=name)
        return keep_rows(layer(x.astype(dtype)).astype(jnp.float32))

    def _layer(self, x, valid, name):
        call = rematerialised(lambda module, *given: module(*given), self.remat)
        y = call(self._mixer(name), x, valid).astype(jnp.float32)
        if self.bidirectional:
            back = call(self._mixer(f"{name}_back"), x[:, ::-1], valid[:, ::-1])
            y += back[:, ::-1].astype(jnp.float32)
        return y

    def _mixer(self, name):
        shared = {
            "d_state": self.d_state,
            "d_conv": self.d_conv,
            "expand": self.expand,
            "chunk": self.chunk or None,
            "dtype": jnp.dtype(self.dtype),
            "name": name,
        }
        if self.kind == "mamba1":
            return Mamba1(**shared)
        return Mamba2(head_dim=self.head_dim, **shared)
