"""Tokens of a stored night, as chunked inference reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines.store import NightEntry, NightStore
from hypnos_jax.models.token_chunks import Example


def read_window(
    store: NightStore,
    night: NightEntry,
    rows: Sequence[dict[str, Any]],
    start_s: int,
    stop_s: int,
) -> Example:
    """Read a stretch of a token night as ``embed_tokens`` wants it.

    Args:
        store: a store of tokens.
        night: one of its nights.
        rows: the model's modalities; see ``NightStore.columns``.
        start_s, stop_s: may reach beyond the night.
    """
    there = [row["name"] for row in store.modalities]
    keep = [there.index(row["name"]) for row in rows]
    columns = store.columns(list(rows))
    ids = [store.modalities[i]["channel_id"] for i in keep]
    return {
        "codes": store.codes(night, start_s, stop_s)[:, columns].astype(np.int32),
        "present": store.present(night)[keep],
        "channel_ids": np.array(ids, np.int32),
        "valid": store.token_valid(night, start_s, stop_s)[:, keep],
        "tracks": store.token_tracks(night, start_s, stop_s)[:, keep],
        "weight": np.float32(1),
    }
