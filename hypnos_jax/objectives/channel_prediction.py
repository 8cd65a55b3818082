"""Masked prediction of each channel over a night, with a little contrast between channels. Ours.

The channels' spans are hidden each for itself, so that what is hidden in one is to be told from
its own past and future and from what the others show (SynthSleepNet, arXiv 2502.17481, hides
within one epoch; data2vec and MAE hide one signal). The contrast is that of InfoNCE (arXiv
1807.03748) between an epoch as one channel shows it and as all others do.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypnos_jax import losses
from hypnos_jax.models.night_encoder import NightEncoder
from hypnos_jax.nn.transformer import Linear
from hypnos_jax.objectives import Embedding, Loss


class ChannelPrediction(nn.Module):
    """Predict each channel's hidden spans, and let epochs find themselves across channels.

    ``loss = prediction + contrast_weight contrast``. Prediction: smooth L1 (Huber, 1 at its bend)
    of the hidden values of each modality, mean over values and hidden tokens. Contrast: of each
    window one modality is drawn; two more passes see all others, and it alone; some epochs of the
    batch are to find each other among these, both ways. With ``contrast_weight=0`` these passes
    are not run; a window with one modality does not enter them.

    Evaluation hides the same spans each time.

    Attributes:
        model: keyword arguments of ``NightEncoder``.
        mask_rate: share of a modality's tokens that is hidden, about: spans may overlap.
        span_tokens: length of a hidden span.
        noise: standard deviation of what is added to the values seen in training.
        contrast_weight: of the loss.
        temperature: of the contrast.
        contrast_tokens: epochs of the batch that are contrasted, at most.
        contrast_dim: width of what is compared.
    """

    model: dict[str, Any]
    mask_rate: float = 0.45
    span_tokens: int = 8
    noise: float = 0.1
    contrast_weight: float = 0.1
    temperature: float = 0.1
    contrast_tokens: int = 512
    contrast_dim: int = 32

    token_s = 30.0
    causal = False
    embed_data = "modality_nights"
    fused = True
    title = f"{NightEncoder.title}, trained to predict what is hidden of each channel"
    seen = "a row has seen its whole window of tokens, those after it too, of all modalities"
    rng_streams = ("dropout", "mask", "noise")
    couples_batch = True  # negatives

    def setup(self):
        self.network = NightEncoder(**self.model)
        dim, names = self.network.dim, ("embed", "mlp")
        self.hidden = Linear(names, dim, dim, bias=True)
        self.answers = [
            Linear(names, dim, width, bias=True, name=f"answer_{m['name']}")
            for m, width in zip(self.modalities, self.network.widths)
        ]
        if self.contrast_weight:
            self.views = [
                Linear(names, dim, self.contrast_dim, bias=True, name=f"view_{name}")
                for name in ("others", "alone")
            ]

    def __call__(self, batch: dict[str, jax.Array], *, train: bool = False) -> Loss:
        """Return the loss and its parts as means over the batch, weighted by its rows.

        Args:
            batch: of ``modality_nights``.
            train: draw masks, noise and dropout.

        Returns:
            Metrics: ``prediction``; ``mean_predictor``, the prediction of one that always says
            the batch's mean; ``contrast`` and ``accuracy``, how often an epoch and its other view
            find each other, where there is a contrast.
        """
        valid = batch["valid"] & batch["present"][:, None] & (batch["weight"] > 0)[:, None, None]
        there = valid.any(-1)
        values = self.network.values(batch, valid)
        keys = jax.random.split(self.make_rng("mask") if train else jax.random.key(0), 3)
        hidden = valid & spans(keys[0], valid.shape, self.mask_rate, self.span_tokens)
        shown = [valid & ~hidden]
        if self.contrast_weight:
            score = jnp.where(valid.any(1), jax.random.uniform(keys[1], valid[:, 0].shape), -1.0)
            drawn = jax.nn.one_hot(score.argmax(1), valid.shape[2], dtype=bool)[:, None]
            shown += [valid & ~drawn, valid & drawn]
        seen = values
        if train and self.noise:
            noise = jax.random.split(self.make_rng("noise"), len(values))
            seen = [x + self.noise * jax.random.normal(k, x.shape) for k, x in zip(noise, values)]
        # The passes as rows of one batch, a window's beside each other: no row leaves its device.
        count = len(shown)
        passes = [jnp.repeat(x, count, 0) for x in (*seen, there)]
        rows = self.network.encode(
            passes[:-1],
            jnp.stack(shown, 1).reshape(-1, *valid.shape[1:]),
            passes[-1],
            train=train,
        ).reshape(len(valid), count, *valid.shape[1:2], -1)

        loss, mean = self._prediction(rows[:, 0], values, valid, hidden)
        found = {"prediction": loss, "mean_predictor": mean}
        if self.contrast_weight:
            both = shown[1].any(-1) & shown[2].any(-1)
            found["contrast"], found["accuracy"] = self._contrast(keys[2], rows, both)
            loss += self.contrast_weight * found["contrast"]
        weight = there.any(1).sum().astype(jnp.float32)
        return Loss(loss * weight, weight, {n: (x * weight, weight) for n, x in found.items()})

    def _prediction(self, rows, values, valid, hidden):
        """Smooth L1 of what is hidden, and that of the mean."""
        middle = jax.nn.gelu(self.hidden(rows))
        cost, guess = 0.0, 0.0
        for i, answer in enumerate(self.answers):
            own = valid[..., i, None]
            mean = (values[i] * own).sum((0, 1)) / jnp.maximum(own.sum(), 1)
            for k, said in enumerate((answer(middle), mean[None, None])):
                error = losses.smooth_l1(said - values[i]).mean(-1)
                error = jnp.where(hidden[..., i], error, 0.0).sum()
                cost, guess = (cost + error, guess) if k == 0 else (cost, guess + error)
        count = jnp.maximum(hidden.sum(), 1)
        return cost / count, guess / count

    def _contrast(self, key, rows, both):
        """InfoNCE between the passes that see all but one modality and it alone, and its hits."""
        views = [view(rows[:, 1 + k]).reshape(-1, self.contrast_dim)
                 for k, view in enumerate(self.views)]  # fmt: skip
        both = both.reshape(-1)
        order = jnp.argsort(jnp.where(both, jax.random.uniform(key, both.shape), 2.0))
        chosen = order[: self.contrast_tokens]
        counted = both[chosen]
        cost, hit = losses.pairing(
            *(view[chosen] for view in views), counted, scale=1 / self.temperature
        )
        count = jnp.maximum(counted.sum(), 1)
        return cost.sum() / count, jnp.where(counted, hit, 0.0).sum() / count

    @property
    def modalities(self) -> list[dict]:
        """The rows of what is read."""
        return self.model["modalities"]

    def embed(self, batch: dict[str, jax.Array]) -> Embedding:
        """Return a row for each epoch, float32 [B, L, 1, D]."""
        rows, valid, _ = self.network.encode_tokens(batch)
        return Embedding(rows * valid[..., None], valid)


def spans(key: jax.Array, shape: tuple[int, int, int], rate: float, length: int) -> jax.Array:
    """Return bool [B, L, M]: spans of tokens, drawn for each window and modality.

    As many as make up ``rate`` of the tokens where they may overlap, one at least; a span may
    begin before the window, so that its ends are hidden as often as its middle.
    """
    rows, tokens, count = shape
    number = max(1, round(-math.log(1 - rate) * (tokens + length - 1) / length))
    starts = jax.random.randint(key, (rows, count, number), 1 - length, tokens)
    places = jnp.arange(tokens)[None, None, None]
    inside = (places >= starts[..., None]) & (places < starts[..., None] + length)
    return jnp.swapaxes(inside.any(2), 1, 2)
