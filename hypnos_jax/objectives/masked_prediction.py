"""Masked prediction across channels, with contrast: SynthSleepNet, arXiv 2502.17481."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypnos_jax import losses
from hypnos_jax.models.neuronet import night_signals
from hypnos_jax.models.synthsleepnet import Synthsleepnet
from hypnos_jax.nn.dropout import keep_some
from hypnos_jax.objectives import Embedding, Loss


class MaskedPrediction(nn.Module):
    """Predict each channel's hidden tokens from what all channels show, and let channels agree.

    ``loss = prediction + contrast_weight contrast``. Prediction: the squared error of the hidden
    tokens of all channels, targets being what the channel's own encoder makes of the whole epoch.
    Contrast: NT-Xent between the fused epoch and each channel, mean over the channels.

    Differs from the official code: channels may be missing, by epoch or night; evaluation hides the
    same tokens each time. Where batch statistics are not frozen, micro-batches have their own.

    Attributes:
        model: keyword arguments of ``Synthsleepnet``.
        temperature: of the contrast.
        contrast_weight: of the loss.
        stop_gradient_target: no gradient reaches the encoders through the targets, which can
            otherwise make them easy to predict. The official code lets it through.
        modality_dropout: probability that a channel of a training row is left out; one stays.
    """

    model: dict[str, Any]
    temperature: float = 0.1
    contrast_weight: float = 1.0
    stop_gradient_target: bool = True
    modality_dropout: float = 0.0

    token_s = 30.0
    causal = True
    embed_data = "modality_nights"
    fused = True
    title = Synthsleepnet.title
    seen = Synthsleepnet.seen
    rng_streams = ("dropout", "mask", "modalities")
    couples_batch = True  # negatives, and batch norms
    averaged = ("batch_stats",)

    def setup(self):
        self.network = Synthsleepnet(**self.model)

    def __call__(self, batch: dict[str, jax.Array], *, train: bool = False) -> Loss:
        """Return the loss and its parts; see ``represent`` and ``contrast``.

        Args:
            batch: of ``modality_nights``.
            train: draw masks and dropout, use and move the statistics of batch norms.

        Returns:
            Metrics: ``prediction``, ``contrast``, ``accuracy`` (how often a fused epoch and a
            channel find each other); and what tells a collapse: ``token_std``, how much
            a target's feature differs from token to token, and ``mean_predictor``, the prediction
            of one that always says the channel's mean.
        """
        return self.contrast(self.represent(batch, train=train), batch, train=train)

    def represent(self, batch: dict[str, jax.Array], *, train: bool = False) -> jax.Array:
        """Return the encoders' tokens, float32 [B, L, M, 1 + T, D]: most memory is theirs."""
        signals, valid = self._seen(batch)
        rows = signals.reshape(-1, *signals.shape[2:])
        tokens = self.network.unimodal(rows, valid.reshape(len(rows), -1), train=train)
        return tokens.reshape(*valid.shape, *tokens.shape[2:])

    def contrast(
        self, tokens: jax.Array, batch: dict[str, jax.Array], *, train: bool = False
    ) -> Loss:
        """Return the call's loss, from what ``represent`` returns of all rows of the batch."""
        valid = self._seen(batch)[1]
        tokens = tokens.reshape(-1, *tokens.shape[2:])
        there = valid.reshape(len(tokens), -1)
        if train and self.modality_dropout:
            there &= keep_some(self.make_rng("modalities"), there, self.modality_dropout)
        key = self.make_rng("mask") if train else jax.random.key(0)
        noise = jax.random.uniform(key, (*there.shape, tokens.shape[2] - 1))
        found = self.network.predict(tokens, there, noise, train=train)

        target = tokens[:, :, 1:]
        target = jax.lax.stop_gradient(target) if self.stop_gradient_target else target
        pairs = (x.reshape(-1, *x.shape[2:]) for x in (found.predicted, target, found.hidden))
        error = losses.hidden_error(*pairs).reshape(there.shape)  # as many hidden in every channel
        prediction = jnp.where(there, error, 0.0).sum() / jnp.maximum(there.sum(), 1)

        agree = functools.partial(losses.nt_xent, temperature=self.temperature)
        cost, hits = jax.vmap(agree, (None, 1, 1), 1)(found.fused, found.channels, there)
        cost, counts = cost.sum(0), there.sum(0)  # [M]
        used = jnp.maximum((counts > 0).sum(), 1)
        contrast = (cost / jnp.maximum(counts, 1)).sum() / used

        rows = there.any(1).sum().astype(jnp.float32)
        pairs = counts.sum().astype(jnp.float32)
        spread = jax.vmap(losses.spread, 1)(target, there)  # [M, D]
        metrics = {
            "prediction": (prediction * rows, rows),
            "contrast": (contrast * rows, rows),
            "accuracy": (hits.sum(), pairs),
            "token_std": ((jnp.sqrt(spread).mean(1) * counts).sum(), pairs),
            "mean_predictor": ((spread.mean(1) * counts).sum(), pairs),
        }
        return Loss((prediction + self.contrast_weight * contrast) * rows, rows, metrics)

    def _seen(self, batch):
        """Signals [B, L, M, S], and what of them counts."""
        signals, valid = night_signals(batch, self.modalities)
        return signals, valid & (batch["weight"] > 0)[:, None, None]

    @property
    def modalities(self) -> list[dict]:
        """The rows of what is read."""
        return self.model["modalities"]

    def embed(self, batch: dict[str, jax.Array]) -> Embedding:
        """Return a row for each epoch, float32 [B, L, 1, H]."""
        rows, valid, _ = self.network.encode_tokens(batch)
        return Embedding(rows * valid[..., None], valid)
