"""Masked autoencoding with a contrast of two masks: NeuroNet, arXiv 2404.17585, as in its code."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypnos_jax import losses
from hypnos_jax.models.neuronet import Neuronet, night_signals
from hypnos_jax.objectives import Embedding, Loss

REDUCTIONS = ("sum", "mean")


class MaskedAutoencoding(nn.Module):
    """Predict the hidden frames of an epoch, twice, and find one masked epoch by the other.

    Channels of one type are pooled: each epoch of each channel is a row of its own. The same frames
    pass the autoencoder under two independent masks. ``loss = L1 + L2 + contrast_weight NT-Xent``:
    L is the squared error of the hidden frames' features, which the frame network makes and which
    the gradient reaches too; NT-Xent compares the projections of both CLS tokens.

    Differs from the official code: rows without signal do not count; batch norms see all frames of
    a batch at once and not one place of a frame after the other; two channels of one epoch are no
    negatives of each other. Evaluation hides the same frames each time.

    Attributes:
        model: keyword arguments of ``Neuronet``.
        temperature: of the contrast.
        contrast_weight: of the loss.
        reduction: ``"sum"`` of both reconstructions, as in the code; or their ``"mean"``.
        stop_gradient_target: no gradient reaches the features as targets.
    """

    model: dict[str, Any]
    temperature: float = 0.05
    contrast_weight: float = 1.0
    reduction: str = "sum"
    stop_gradient_target: bool = False

    token_s = 30.0
    causal = True
    embed_data = "modality_nights"
    title = Neuronet.title
    seen = Neuronet.seen
    rng_streams = ("dropout", "mask")
    couples_batch = True  # negatives, and batch norms
    averaged = ("batch_stats",)

    def setup(self):
        self.network = Neuronet(**self.model)

    def __call__(self, batch: dict[str, jax.Array], *, train: bool = False) -> Loss:
        """Return the loss and its parts as sums over epochs of channels.

        Args:
            batch: of ``modality_nights``.
            train: draw masks, use and move the statistics of batch norms.

        Returns:
            Metrics: ``reconstruction`` (of one mask), ``contrast``, ``accuracy`` (how often a
            masked epoch finds its other half); and what tells a collapse: ``feature_std``, how much
            a feature differs from frame to frame, and ``mean_predictor``, the reconstruction of a
            predictor that always says the mean.

        Raises:
            ValueError: no such reduction.
        """
        if self.reduction not in REDUCTIONS:
            raise ValueError(f"reduction={self.reduction!r}; it is one of {REDUCTIONS}")
        signals, valid = night_signals(batch, self.modalities)
        valid &= (batch["weight"] > 0)[:, None, None]
        channels = valid.shape[2]
        signals, counted = signals.reshape(-1, signals.shape[-1]), valid.reshape(-1)
        frames = self.network.features(signals, counted, train=train)
        target = jax.lax.stop_gradient(frames) if self.stop_gradient_target else frames

        key = self.make_rng("mask") if train else jax.random.key(0)
        noise = jax.random.uniform(key, (2 * len(frames), frames.shape[1]))
        # Both masks of an epoch beside each other: one program, and larger products.
        predicted, mask, cls = self.network.autoencode(jnp.repeat(frames, 2, 0), noise, train=train)
        error = losses.hidden_error(predicted, jnp.repeat(target, 2, 0), mask.hidden)
        reconstruction = error.reshape(-1, 2).mean(1)
        views = [self.network.project(x, counted, train=train) for x in (cls[::2], cls[1::2])]
        epoch = jnp.arange(len(counted)) // channels
        contrast, hit = losses.nt_xent(
            *views,
            counted,
            temperature=self.temperature,
            apart=epoch[:, None] == epoch[None] if channels > 1 else None,
        )
        cost = reconstruction * (2 if self.reduction == "sum" else 1)
        cost = jnp.where(counted, cost + self.contrast_weight * contrast, 0.0)
        weight = counted.sum().astype(jnp.float32)
        each = {"reconstruction": reconstruction, "contrast": contrast, "accuracy": hit}
        metrics = {name: (jnp.where(counted, x, 0.0).sum(), weight) for name, x in each.items()}
        spread = losses.spread(frames, counted)
        metrics["feature_std"] = (jnp.sqrt(spread).mean() * weight, weight)
        metrics["mean_predictor"] = (spread.mean() * weight, weight)
        return Loss(cost.sum(), weight, metrics)

    @property
    def modalities(self) -> list[dict]:
        """The rows of what is read."""
        return self.model["modalities"]

    def embed(self, batch: dict[str, jax.Array]) -> Embedding:
        """Return a row for each epoch of each channel, float32 [B, L, M, D]."""
        rows, valid, _ = self.network.encode_tokens(batch)
        return Embedding(rows * valid[..., None], valid)
