"""The batch contract: name -> array, rows first, every array padded to its full shape.

Every batch has ``weight`` float32 [B] (0: the row is padding) and ``valid`` bool [B, S] or
[B, S, M] (True: this second of this channel holds signal). A source adds:

- ``signal_crops``: ``signal`` float32 [B, T] (standardised; T = S x rate), ``channel_id`` int32
  [B].
- ``token_windows``: ``codes`` int32 [B, S, sumK], ``present`` bool [B, M], ``channel_ids`` int32
  [B, M], ``tracks`` float32 [B, S, M, 2] (mean, log standard deviation, physical units).
"""

from __future__ import annotations

import jax
import numpy as np


class BatchError(ValueError):
    """A batch that does not keep the contract."""


def shapes(config: dict) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of a config's global batch, without its data.

    Args:
        config: resolved and filled.

    Returns:
        name -> shape and dtype, as the contract above has them, B being
        ``config.train.batch_size``.

    Raises:
        BatchError: a source whose batches are not described here.
    """
    data, rows = config["data"], config["train"]["batch_size"]
    of = lambda dtype, *shape: jax.ShapeDtypeStruct((rows, *shape), dtype)
    if data["name"] == "signal_crops":
        seconds = data["crop_s"]
        return {
            "signal": of(np.float32, seconds * config["objective"]["rate_hz"]),
            "valid": of(np.bool_, seconds),
            "channel_id": of(np.int32),
            "weight": of(np.float32),
        }
    if data["name"] == "token_windows":
        seconds, modalities = data["window_s"], config["objective"]["model"]["modalities"]
        count, levels = len(modalities), sum(m["levels"] for m in modalities)
        return {
            "codes": of(np.int32, seconds, levels),
            "present": of(np.bool_, count),
            "channel_ids": of(np.int32, count),
            "valid": of(np.bool_, seconds, count),
            "tracks": of(np.float32, seconds, count, 2),
            "weight": of(np.float32),
        }
    raise BatchError(
        f"config.data.name={data['name']!r}: only the batches of 'signal_crops' and 'token_windows'"
        " are known without their data"
    )


def check_batch(batch: dict[str, np.ndarray], rows: int) -> None:
    """Check one batch of numpy arrays against the contract.

    Args:
        batch: name -> array with ``rows`` rows.
        rows: B.

    Raises:
        BatchError: which array, and how it differs.
    """
    for name in ("weight", "valid"):
        if name not in batch:
            raise BatchError(f"the batch has no {name!r}; it has {sorted(batch)}")
    for name, array in batch.items():
        if array.shape[:1] != (rows,):
            raise BatchError(f"batch[{name!r}] has shape {array.shape}, not {rows} rows")
        if array.dtype in (np.float64, np.int64):
            raise BatchError(f"batch[{name!r}] is {array.dtype}; use 32 bits")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise BatchError(f"batch[{name!r}] holds NaN or infinity")
    if batch["weight"].shape != (rows,):
        raise BatchError(f"batch['weight'] has shape {batch['weight'].shape}, not ({rows},)")


def channel_seconds(batch: dict[str, np.ndarray]) -> float:
    """Return how many seconds of signal a batch holds, each channel counted for itself."""
    valid = batch["valid"]
    return float((valid.reshape(len(valid), -1).sum(1) * (batch["weight"] > 0)).sum())
