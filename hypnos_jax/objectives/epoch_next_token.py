"""Next-token prediction over quantised epochs: the RQ-Transformer of Hypnos, a token each 30 s.

Hypnos (arXiv 2606.09605) has a token a second, made by tokenizers that are trained before. Here a
token is an epoch: what is read of each modality (its values, such as band powers, or the log powers
of a waveform) is quantised by residual codebooks that follow the data as the network learns.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypnos_jax.models.modality_towers import dequantized
from hypnos_jax.models.night_encoder import token_values, value_width
from hypnos_jax.models.rq_transformer import RqTransformer
from hypnos_jax.nn.quantize import ResidualQuantizer
from hypnos_jax.objectives import Embedding, Loss


class EpochNextToken(nn.Module):
    """Cross-entropy of the next epoch's codes, all modalities in parallel.

    The loss is the mean over valid epochs of modalities, of the mean over levels, in nats. The
    codebooks are k-means of the first batches, level by level, then running means; no gradient
    reaches them (``nn.quantize``).

    Attributes:
        model: keyword arguments of ``RqTransformer``; windows are in tokens, and its modalities
            are ``{name, rate_hz, frames}``.
        levels, codes: of the codebooks of each modality.
        decay: of their running means.
        bands: values that are read of a waveform; see ``models.night_encoder``.
    """

    model: dict[str, Any]
    levels: int = 4
    codes: int = 64
    decay: float = 0.99
    bands: int = 16

    token_s = 30.0
    causal = True
    embed_data = "modality_nights"
    title = (
        "a multi-modal RQ-Transformer (after Hypnos, arXiv 2606.09605), trained to predict the next"
        " epoch's codes of every channel"
    )
    seen = "row t has seen epoch t and those of its window before it, of all modalities"
    rng_streams = ("dropout", "crp", "vq")
    couples_batch = False
    averaged = ()

    def setup(self):
        rows = [
            {"name": m["name"], "levels": self.levels, "codes": self.codes}
            | {"channel_id": i, "group": m["name"]}
            for i, m in enumerate(self.modalities)
        ]
        self.network = RqTransformer(**{**self.model, "modalities": tuple(rows)})
        self.quantizers = [
            ResidualQuantizer(
                value_width(m, self.bands),
                self.levels,
                self.codes,
                self.decay,
                name=f"quantizer_{m['name']}",
            )
            for m in self.modalities
        ]

    def __call__(self, batch: dict[str, jax.Array], *, train: bool = False) -> Loss:
        """Return the loss and its parts as sums over valid epochs of modalities.

        Args:
            batch: of ``modality_nights``.
            train: draw dropout and the modality groups, and let the codebooks follow.

        Returns:
            Metrics: ``accuracy``, and ``loss/<name>`` of each modality.
        """
        counted = self._valid(batch) & (batch["weight"] > 0)[:, None, None]
        tokens = self._tokens(batch, counted, train=train)
        total, scores = self.network(tokens, counted.astype(jnp.float32), train=train)
        counted &= scores["present"][:, None]
        weight = counted.sum().astype(jnp.float32)
        metrics, hits = {}, 0.0
        for i, m in enumerate(self.modalities):
            own = slice(i * self.levels, (i + 1) * self.levels)
            nll, hit = (
                jnp.where(counted[..., i], scores[key][..., own].mean(-1), 0.0).sum()
                for key in ("nll", "hit")
            )
            metrics[f"loss/{m['name']}"] = (nll, counted[..., i].sum().astype(jnp.float32))
            hits += hit
        return Loss(total, weight, {"accuracy": (hits, weight), **metrics})

    @property
    def modalities(self) -> list[dict]:
        """The rows of what is read."""
        return self.model["modalities"]

    def embed(self, batch: dict[str, jax.Array]) -> Embedding:
        """Return each modality's context, float32 [B, L, M, D]."""
        valid = self._valid(batch)
        rows = self.network.context(self._tokens(batch, valid), lag=False)
        return Embedding(jnp.moveaxis(rows, 1, 2) * valid[..., None], valid)

    @nn.nowrap
    def _valid(self, batch):
        return batch["valid"] & batch["present"][:, None]

    def _tokens(self, batch, counted, *, train=False):
        """What ``RqTransformer`` reads."""
        codes = []
        for i, (m, quantizer) in enumerate(zip(self.modalities, self.quantizers)):
            signal = dequantized(batch[f"signal/{m['name']}"], batch["scale"][:, i])
            values = token_values(signal, m, self.bands)
            weight = counted[..., i].astype(jnp.float32)
            codes.append(quantizer(jax.lax.stop_gradient(values), weight, train=train).codes)
        rows = len(batch["valid"])
        return {
            "codes": jnp.concatenate(codes, axis=-1),
            "present": batch["present"] & counted.any(1),
            "channel_ids": jnp.broadcast_to(jnp.arange(len(codes))[None], (rows, len(codes))),
        }
