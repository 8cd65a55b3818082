"""One transformer over the epochs of a night, whose tokens are sums of what the channels show.

Each modality has a small embedding of its own; where it is hidden, or missing, a learnt vector of
the modality stands for it. A token of the transformer is the sum over modalities of one epoch, so
that all of them meet in it, and any of them may be missing. Tokenizers and trunk are those of
sleep2vec's towers; the rest is ours.

Shapes: B windows, L tokens of 30 s, M modalities, F samples of a token, V values that are read of
it, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from hypnos_jax.models.modality_towers import MlpTokenizer, dequantized
from hypnos_jax.nn.linear import zeros_init
from hypnos_jax.nn.roformer import Roformer
from hypnos_jax.sharding import keep_rows

MOST_VALUES = 64  # samples of a token that are values, such as band powers, and no waveform
SEGMENT_S = 4.0  # of the spectrum of a waveform, or a quarter of the token at low rates
FLOOR = 1e-4  # of power, in squares of the stored unit


class NightEncoder(nn.Module):
    """Embeddings of the modalities, summed, and a transformer over the epochs in both directions.

    A modality of at most ``MOST_VALUES`` samples a token is read as it is; of a waveform the
    logarithms of its power in ``bands`` bands are read.

    Attributes:
        modalities: ``{name, rate_hz, frames}`` each, ``frames`` being F.
        dim, layers, heads, ffn_dim: of the transformer.
        bands: V of a waveform.
        neighbours: epochs that a learnt depthwise sum at the entry spans, an odd number; with it
            the transformer knows the order of what is near. Rotary positions tell the rest.
        dropout: rate in embeddings and transformer.
        remat: see ``nn.transformer.rematerialised``.
        dtype: of the matrix products, ``"float32"`` or ``"bfloat16"``.
    """

    modalities: tuple[dict[str, Any], ...]
    dim: int
    layers: int
    heads: int
    ffn_dim: int
    bands: int = 16
    neighbours: int = 7
    dropout: float = 0.1
    remat: str = "none"
    dtype: str = "float32"

    title = "a transformer over the epochs of a night, whose tokens are sums over channels"
    causal = False

    def setup(self):
        if self.neighbours % 2 == 0:
            raise ValueError(f"neighbours={self.neighbours}: must be an odd number of epochs")
        dtype = jnp.dtype(self.dtype)
        self.embeddings = [
            MlpTokenizer(width, self.dim, self.dropout, dtype, name=f"embedding_{m['name']}")
            for m, width in zip(self.modalities, self.widths)
        ]
        self.hidden_embedding = self.param(
            "hidden_embedding",
            nn.with_logical_partitioning(nn.initializers.normal(0.02), ("modality", "embed")),
            (len(self.modalities), self.dim),
        )
        self.near = self.param(
            "near_scale", zeros_init("kernel", "embed"), (self.neighbours, self.dim)
        )
        self.trunk = Roformer(
            self.layers,
            self.heads,
            self.ffn_dim,
            self.dropout,
            remat=self.remat,
            dtype=dtype,
        )

    @property
    def widths(self) -> tuple[int, ...]:
        """V of each modality."""
        return tuple(value_width(m, self.bands) for m in self.modalities)

    def values(self, batch: dict[str, jax.Array], valid: jax.Array) -> list[jax.Array]:
        """Return what is read of each modality, float32 [B, L, V] each, 0 where not ``valid``.

        Args:
            batch: ``signal/<name>`` [B, L, F] of each modality and ``scale`` float32 [B, M].
            valid: bool [B, L, M].
        """
        return [
            jnp.where(
                valid[..., i, None],
                token_values(
                    dequantized(batch[f"signal/{m['name']}"], batch["scale"][:, i]), m, self.bands
                ),
                0.0,
            )
            for i, m in enumerate(self.modalities)
        ]

    def encode(
        self, values: list[jax.Array], shown: jax.Array, there: jax.Array, *, train: bool = False
    ) -> jax.Array:
        """Return float32 [B, L, D] of values of each modality.

        Args:
            values: of ``values``.
            shown: bool [B, L, M], what may be seen of them.
            there: bool [B, L], tokens that may be looked at, hidden or not.
            train: draw dropout, from the stream ``"dropout"``.
        """
        x = 0.0
        for i, embedding in enumerate(self.embeddings):
            own = embedding(values[i], train=train)
            x += jnp.where(shown[..., i, None], own, self.hidden_embedding[i][None, None])
        x = keep_rows(jnp.where(there[..., None], x, 0.0))
        half = self.neighbours // 2
        padded = jnp.pad(x, ((0, 0), (half, half), (0, 0)))
        length = x.shape[1]
        x += sum(
            padded[:, k : k + length] * self.near[k][None, None] for k in range(self.neighbours)
        )
        return self.trunk(x, there, train=train)

    def encode_tokens(
        self, batch: dict[str, jax.Array], kept: jax.Array | None = None, *, train: bool = False
    ) -> tuple[jax.Array, jax.Array, None]:
        """Return rows float32 [B, L, 1, D] and their validity; see ``hypnos_jax.models``."""
        valid = batch["valid"] & batch["present"][:, None]
        if kept is not None:
            valid = valid & kept
        there = valid.any(-1)
        rows = self.encode(self.values(batch, valid), valid, there, train=train)
        return rows[:, :, None], there[..., None], None


def value_width(modality: Mapping[str, Any], bands: int) -> int:
    """Return V, how many values are read of a token of a modality."""
    return modality["frames"] if modality["frames"] <= MOST_VALUES else bands


def token_values(signal: jax.Array, modality: Mapping[str, Any], bands: int) -> jax.Array:
    """Return float32 [B, L, V] of a modality's tokens [B, L, F]: themselves, or log powers."""
    signal = signal[..., : modality["frames"]].astype(jnp.float32)
    if modality["frames"] <= MOST_VALUES:
        return signal
    return log_band_powers(signal, modality["rate_hz"], bands)


def log_band_powers(signal: jax.Array, rate_hz: float, bands: int) -> jax.Array:
    """Return the natural logarithms of mean power in bands, float32 [..., bands].

    Hann windows of 4 s (of a quarter of the signal where that has fewer than four samples a band),
    half overlapping, their spectra averaged (Welch 1967); bands of equal width on a logarithmic
    axis from one cycle a window to half of the rate.

    Args:
        signal: float32 [..., T].
        rate_hz: samples a second.
        bands: how many.
    """
    total = signal.shape[-1]
    size = min(max(round(SEGMENT_S * rate_hz), 4 * bands), total)
    step = max(size // 2, 1)
    starts = range(0, total - size + 1, step)
    pieces = jnp.stack([signal[..., s : s + size] for s in starts], axis=-2)
    pieces = pieces - pieces.mean(-1, keepdims=True)
    hann = np.hanning(size + 2)[1:-1].astype(np.float32)
    hann = (hann / np.sqrt(np.mean(hann**2))).reshape((1,) * (pieces.ndim - 1) + (size,))
    power = jnp.abs(jnp.fft.rfft(pieces * hann)) ** 2 / size
    power = power.mean(-2)[..., 1:]  # without the mean of the window
    count = power.shape[-1]
    place = np.log(np.arange(1, count + 1)) / np.log(count + 1) * bands
    of = np.minimum(place.astype(int), bands - 1)
    weights = (of[:, None] == np.arange(bands)).astype(np.float32)
    # A band between two lines of the spectrum has the line below it.
    for band in np.flatnonzero(weights.sum(0) == 0):
        weights[of[of < band].size - 1, band] = 1
    return jnp.log(power @ (weights / weights.sum(0)) + FLOOR)
