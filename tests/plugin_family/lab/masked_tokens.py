"""The objective: tokens are masked, and what was there is told from those around them."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypnos_jax.models.modality_towers import masked_tokens
from hypnos_jax.objectives import Embedding, Loss
from lab.masked_autoencoder import MaskedAutoencoder


class MaskedTokens(nn.Module):
    """Attributes: arguments of ``MaskedAutoencoder``, and the share of tokens that is masked."""

    model: dict[str, Any]
    mask_rate: float = 0.5

    title = "a masked autoencoder of 5-s tokens of EEG, EOG and chin"
    token_s = 5.0
    causal = False
    embed_data = "lab.token_nights"
    rng_streams = ("mask",)
    fused = True

    def setup(self):
        self.network = MaskedAutoencoder(**self.model)

    def __call__(self, batch: dict, *, train: bool = False) -> Loss:
        """Return squared errors of masked tokens; evaluation masks the same at every step."""
        present = batch["present"] & (batch["weight"] > 0)[:, None]
        key = self.make_rng("mask") if train else jax.random.key(0)
        there = (batch["valid"] & present[:, None]).any(-1)
        hidden = masked_tokens(key, there, self.mask_rate)
        x, valid = self.network.encode({**batch, "present": present}, hidden)
        metrics = {}
        for m, (row, found) in enumerate(zip(self.modalities, self.network.decode(x))):
            error = jnp.square(found - batch[f"signal/{row['name']}"]).mean(-1)
            counted = (hidden & valid[..., m]).astype(jnp.float32)
            metrics[f"error_{row['name']}"] = ((error * counted).sum(), counted.sum())
        total, weight = (sum(parts) for parts in zip(*metrics.values()))
        return Loss(total, weight, metrics)

    @property
    def modalities(self) -> list[dict]:
        """The rows of what is read."""
        return self.model["modalities"]

    def embed(self, batch: dict) -> Embedding:
        """Return what the transformer makes of every token, float32 [B, L, 1, D]."""
        x, valid = self.network.encode(batch)
        valid = valid.any(-1, keepdims=True)
        return Embedding(x[:, :, None] * valid[..., None], valid)
