"""Losses as pure functions of arrays: one number per row, each a mean over what is valid in it.

Shapes: B batch, S seconds, T samples. A row in which nothing is valid gives 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Return [B]: the mean of ``values`` [B, ...] where ``mask`` (same shape) is not 0."""
    axes = tuple(range(1, values.ndim))
    mask = mask.astype(values.dtype)
    # where, not a product: a NaN that does not count must not spread.
    total = jnp.sum(jnp.where(mask > 0, values, 0) * mask, axes)
    return total / jnp.maximum(jnp.sum(mask, axes), 1e-9)


def time_l1(estimate: jax.Array, target: jax.Array, valid: jax.Array) -> jax.Array:
    """Return [B]: mean absolute error of samples.

    Args:
        estimate, target: [B, T].
        valid: bool [B, S], S divides T; samples of other seconds do not count.
    """
    return masked_mean(jnp.abs(estimate - target), _samples(valid, target.shape[1]))


def stft_magnitude(signal: jax.Array, window: int) -> jax.Array:
    """Return the short-time spectrum's magnitude, float32 [B, F, window // 2 + 1].

    Hann windows a quarter of their length apart, none of them past an end, scaled so that white
    noise of variance 1 has mean square 1 in every bin.

    Args:
        signal: [B, T].
        window: samples, a multiple of 4, at most T.

    Raises:
        ValueError: the window is longer than the signal or no multiple of 4.
    """
    length = signal.shape[1]
    if window % 4 or window > length:
        raise ValueError(
            f"a window of {window} samples does not fit {length} samples in steps of a quarter:"
            " use a multiple of 4 that is not longer than the crop"
        )
    hop = window // 4
    # Frames are four quarters each; slices of a reshaped array, where an index array would gather.
    quarters = signal[:, : length // hop * hop].reshape(signal.shape[0], -1, hop)
    frames = quarters.shape[1] - 3
    cut = jnp.concatenate([quarters[:, i : i + frames] for i in range(4)], axis=-1)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    hann = jnp.asarray(hann / np.sqrt(np.sum(hann**2)), jnp.float32)
    spectrum = jnp.fft.rfft(cut.astype(jnp.float32) * hann[None, None])
    power = spectrum.real**2 + spectrum.imag**2
    return jnp.sqrt(power + 1e-12)  # the gradient of a bare root has no bound at 0


def stft_distance(
    estimate: jax.Array,
    target: jax.Array,
    valid: jax.Array,
    *,
    windows: Sequence[int],
    floor: float,
) -> jax.Array:
    """Return [B]: distance of magnitude spectra, mean over resolutions.

    At each resolution: mean ``|log max(A, floor) - log max(B, floor)|`` plus mean ``(A - B)^2``
    over bins and frames. Multi-resolution as in arXiv 1910.11480; log L1 and linear L2 as in
    EnCodec, arXiv 2210.13438, section 3.4, on linear instead of mel frequency.

    Args:
        estimate, target: [B, T].
        valid: bool [B, S], S divides T; a frame counts when all seconds it touches are valid.
        windows: samples, each a multiple of 4.
        floor: magnitude below which nothing is compared; ``stft_magnitude`` has the unit. Signals
            that were low-passed are empty in some bins, whose logarithms are noise.

    Raises:
        ValueError: a window does not fit T.
    """
    mask = _samples(valid, target.shape[1])
    total = jnp.zeros(target.shape[0])
    for window in windows:
        a, b = stft_magnitude(estimate, window), stft_magnitude(target, window)
        counted = _whole_frames(mask, window)[..., None]
        log = jnp.abs(jnp.log(jnp.maximum(a, floor)) - jnp.log(jnp.maximum(b, floor)))
        total += masked_mean(log + (a - b) ** 2, jnp.broadcast_to(counted, a.shape))
    return total / max(len(windows), 1)


def _samples(valid: jax.Array, length: int) -> jax.Array:
    if length % valid.shape[1]:
        raise ValueError(f"{valid.shape[1]} seconds do not divide {length} samples")
    return jnp.repeat(valid, length // valid.shape[1], axis=1)


def _whole_frames(mask: jax.Array, window: int) -> jax.Array:
    """Return bool [B, F]: frames whose every sample counts."""
    hop = window // 4
    quarters = mask[:, : mask.shape[1] // hop * hop].reshape(mask.shape[0], -1, hop).all(-1)
    frames = quarters.shape[1] - 3
    return jnp.stack([quarters[:, i : i + frames] for i in range(4)]).all(0)
