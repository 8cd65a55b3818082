"""The batch contract: name -> array, rows first, every array padded to its full shape.

Every batch has ``weight`` float32 [B] (0: the row is padding) and ``valid`` bool [B, S] or
[B, S, M] (True: this second of this channel holds signal). A source adds:

- ``signal_crops``: ``signal`` float32 [B, T] (standardised; T = S x rate), ``channel_id`` int32
  [B].
- ``token_windows``: ``codes`` int32 [B, S, sumK], ``present`` bool [B, M], ``channel_ids`` int32
  [B, M], ``tracks`` float32 [B, S, M, 2] (mean, log standard deviation, physical units).
"""

from __future__ import annotations

import numpy as np


class BatchError(ValueError):
    """A batch that does not keep the contract."""


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
