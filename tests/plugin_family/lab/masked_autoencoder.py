"""The model: tokens of all channels as one, a transformer over them, and a linear decoder."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypnos_jax.nn.roformer import Roformer
from hypnos_jax.nn.transformer import Linear


class MaskedAutoencoder(nn.Module):
    """Attributes: rows {name, frames, ...} of what it reads, and the transformer's sizes."""

    modalities: tuple[dict[str, Any], ...]
    dim: int
    layers: int
    heads: int
    dtype: str = "float32"

    def setup(self):
        normal = nn.with_logical_partitioning(nn.initializers.normal(0.02), ("embed",))
        self.mask = self.param("mask", normal, (self.dim,))
        linear = lambda names, *sizes: Linear(names, *sizes, bias=True, dtype=self.dtype)
        self.patches = [linear((None, "embed"), m["frames"], self.dim) for m in self.modalities]
        self.decoders = [linear(("embed", None), self.dim, m["frames"]) for m in self.modalities]
        size = 4 * self.dim
        self.trunk = Roformer(self.layers, self.heads, size, 0.0, dtype=jnp.dtype(self.dtype))

    def encode(self, batch: dict, hidden: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Return float32 [B, L, D], and bool [B, L, M], what holds signal.

        Args:
            batch: of ``lab.token_nights``.
            hidden: bool [B, L], tokens that the mask's vector stands for.
        """
        valid = batch["valid"] & batch["present"][:, None]
        x = 0.0
        for m, (row, patch) in enumerate(zip(self.modalities, self.patches, strict=True)):
            own = patch(batch[f"signal/{row['name']}"].astype(self.dtype)).astype(jnp.float32)
            x += jnp.where(valid[..., m, None], own, 0.0)
        if hidden is not None:
            x = jnp.where(hidden[..., None], self.mask[None, None], x)
        return self.trunk(x, valid.any(-1)), valid

    def decode(self, x: jax.Array) -> list[jax.Array]:
        """Return the signals of each channel, float32 [B, L, f], of ``x`` [B, L, D]."""
        return [decoder(x.astype(self.dtype)).astype(jnp.float32) for decoder in self.decoders]
