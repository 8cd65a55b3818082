"""Spectra of hidden tokens, or of tokens under noise: towers without any contrast (ours)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from hypnos_jax.models.modality_towers import ModalityTowers, dequantized, masked_tokens
from hypnos_jax.nn.transformer import Linear
from hypnos_jax.objectives import Embedding, Loss

FLOOR = 1e-3  # of a band's power; white noise of unit variance has 1 in every band


class SpectrumPrediction(nn.Module):
    """Predict the band powers of tokens that are hidden (masked autoencoder) or noisy (denoising).

    The network is that of ``DashInfonce``, so that the two differ in what they are trained for
    alone: each modality passes its tokenizer and the shared trunk, by itself. What is predicted are
    logarithms of powers in bands that are equally wide on a logarithmic axis, as the waveform of 30
    s cannot be told from the tokens around it; the mean over the window is taken off, so that what
    tells one night or device from another is not asked. ``model.mask_rate`` of a window's tokens
    are hidden and predicted; where it is 0, white noise is added to the signal, and all tokens are
    predicted as they are without. Evaluation hides the same tokens, and adds the same noise, each
    time.

    Attributes:
        model: keyword arguments of ``ModalityTowers``.
        bands: how many of each modality.
        noise: standard deviation of the added noise; signals have about 1.
    """

    model: dict[str, Any]
    bands: int = 24
    noise: float = 0.0

    token_s = 30.0
    causal = False
    embed_data = "modality_nights"
    seen = "a row has seen its whole window of tokens, those after it too, and no other modality"
    title = "a masked or denoising autoencoder of sleep signals' spectra"
    rng_streams = ("dropout", "mask")

    def setup(self):
        self.towers = ModalityTowers(**self.model)
        width = len(self.modalities) * self.bands
        self.predict = Linear(("embed", "mlp"), self.towers.dim, width, bias=True)

    def __call__(self, batch: dict[str, jax.Array], *, train: bool = False) -> Loss:
        """Return the squared error of log powers, a sum over tokens that are predicted.

        Args:
            batch: of ``modality_nights``.
            train: draw masks, noise and dropout.

        Returns:
            Metrics: ``mean_predictor``, the error of who always says the window's mean.

        Raises:
            ValueError: neither anything to hide nor any noise.
        """
        rate = self.towers.mask_rate
        if not rate and not self.noise:
            raise ValueError(
                "objective.noise=0 and objective.model.mask_rate=0: nothing is to be predicted"
            )
        key = self.make_rng("mask") if train else jax.random.key(0)
        valid = batch["valid"] & batch["present"][:, None] & (batch["weight"] > 0)[:, None, None]
        tokens, target, asked = [], [], []
        for i, row in enumerate(self.modalities):
            own = valid[..., i]
            signal = dequantized(batch[f"signal/{row['name']}"], batch["scale"][:, i])
            signal = jnp.where(own[..., None], signal, 0.0)
            target.append(_off_mean(log_powers(signal, self.bands), own))
            key, draw = jax.random.split(key)
            if rate:
                found, hidden = (
                    self.towers.tokenize(signal, i, train=train),
                    masked_tokens(draw, own, rate),
                )
                tokens.append(self.towers.hide(found, i, hidden))
                asked.append(hidden)
            else:
                noisy = signal + self.noise * jax.random.normal(draw, signal.shape)
                tokens.append(self.towers.tokenize(noisy, i, train=train))
                asked.append(own)
        hidden = self.towers.side_by_side(jnp.stack(tokens, 1), valid, train=train)[0]
        said = self.predict(hidden).reshape(*hidden.shape[:3], len(tokens), self.bands)
        said = jnp.stack([said[:, :, i, i] for i in range(len(tokens))], 2)
        asked = jnp.stack(asked, 2)
        target, weight = jnp.stack(target, 2), asked.sum().astype(jnp.float32)
        error, plain = (
            jnp.where(asked, jnp.square(x).mean(-1), 0.0).sum() for x in (said - target, target)
        )
        return Loss(error, weight, {"mean_predictor": (plain, weight)})

    @property
    def modalities(self) -> list[dict]:
        """The rows of what is read."""
        return self.model["modalities"]

    def embed(self, batch: dict[str, jax.Array]) -> Embedding:
        """Return what the trunk makes of every token of every modality, float32 [B, L, M, H]."""
        hidden, valid, _ = self.towers.encode_tokens(batch)
        return Embedding(hidden * valid[..., None], valid)


def _off_mean(x: jax.Array, valid: jax.Array) -> jax.Array:
    """``x`` [B, L, K] less its mean over the window's valid tokens, bool [B, L]."""
    counted = valid[..., None].astype(jnp.float32)
    mean = (x * counted).sum(1, keepdims=True) / jnp.maximum(counted.sum(1, keepdims=True), 1.0)
    return x - mean


def log_powers(signal: jax.Array, bands: int) -> jax.Array:
    """Return log band powers of tokens, float32 [..., bands] of ``signal`` [..., F].

    Bands are equally wide on a logarithmic axis from one cycle a token to half the rate; where they
    are narrower than a bin of the spectrum, neighbours share it.
    """
    length = signal.shape[-1]
    window = np.hanning(length).astype(np.float32)
    window = (window / np.sqrt(np.sum(window**2))).reshape(*[1] * (signal.ndim - 1), -1)
    power = jnp.square(jnp.abs(jnp.fft.rfft(signal * window, axis=-1)))
    edges = np.floor(np.geomspace(1, power.shape[-1], bands + 1)).astype(int)
    pool = np.zeros((power.shape[-1], bands), np.float32)
    for band, (low, high) in enumerate(zip(edges, edges[1:])):
        low = min(low, power.shape[-1] - 1)
        pool[low : max(low + 1, high), band] = 1.0 / max(1, high - low)
    return jnp.log(power @ pool + FLOOR)
