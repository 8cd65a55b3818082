"""Cells: what a head reads of a night, one row of features every few seconds or every epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def cells_of(
    modalities: Mapping[str, np.ndarray], names: Sequence[str], token_s: float, cell_s: float
) -> np.ndarray:
    """Return float32 [N, M D], the mean embedding of each whole cell, modalities side by side.

    Args:
        modalities: name -> [S, D], as ``RecordingEmbedding`` has them: rows of zeros where there
            was no signal.
        names: M modalities in the order of the features; those that are missing are NaN, and so is
            a cell of one in which it had no signal.
        token_s: seconds of a row.
        cell_s: seconds of a cell, some whole number of rows.

    Raises:
        ValueError: a cell is not a whole number of rows, or none of the modalities is there.
    """
    count = round(cell_s / token_s)
    if count < 1 or abs(count * token_s - cell_s) > 1e-6 * cell_s:
        raise ValueError(f"cells of {cell_s:g} s are not whole rows of {token_s:g} s")
    there = [modalities[name] for name in names if name in modalities]
    if not there:
        raise ValueError(f"the night has none of {list(names)}")
    cells, width = len(there[0]) // count, there[0].shape[1]
    out = np.full((cells, len(names), width), np.nan, np.float32)
    for place, name in enumerate(names):
        if name in modalities:
            rows = modalities[name][: cells * count].astype(np.float32)
            rows = rows.reshape(cells, count, width)
            valid = rows.any(-1).sum(1)
            out[valid > 0, place] = (rows.sum(1) / np.maximum(valid, 1)[:, None])[valid > 0]
    return out.reshape(cells, -1)


def silenced(
    modalities: Mapping[str, np.ndarray], valid: Mapping[str, np.ndarray], token_s: float
) -> dict[str, np.ndarray]:
    """Return embeddings with rows of zeros where their modality had no signal.

    A model of tokens gives rows there too, of what it expects from the past: no answer should rest
    on these alone.

    Args:
        modalities: name -> [S, D].
        valid: name -> bool [seconds], where there was signal; a fused embedding, whose name it
            lacks, has signal where any of them has.
        token_s: seconds of a row; one that is shorter than a second has that second's.
    """
    out = {}
    for name, rows in modalities.items():
        own = valid.get(name)
        if own is None:
            shortest = min(map(len, valid.values()), default=0)
            own = np.any([x[:shortest] for x in valid.values()], axis=0) if valid else None
        if own is None or not len(own):
            out[name] = rows
            continue
        first = (np.arange(len(rows)) * token_s).astype(int)
        stop = np.maximum((first + token_s).astype(int), first + 1)
        count = np.append(0, np.cumsum(own))
        heard = count[np.minimum(stop, len(own))] > count[np.minimum(first, len(own))]
        out[name] = rows * heard[:, None].astype(rows.dtype)
    return out


def around(cells: np.ndarray, spans: Sequence[int]) -> np.ndarray:
    """Return [N, F (1 + spans)]: each cell, and means over as many cells around it.

    Args:
        cells: [N, F]; NaN does not count.
        spans: odd numbers of cells, that one in the middle; at the ends of the night there are
            fewer.
    """
    known = np.isfinite(cells)
    filled, parts = np.where(known, cells, 0), [cells]
    # Sums from the beginning, in double precision: a difference of two is that of a span.
    sums = [np.cumsum(np.pad(x, ((1, 0), (0, 0))), 0, np.float64) for x in (filled, known)]
    at = np.arange(len(cells))
    for span in spans:
        first = np.maximum(at - span // 2, 0)
        stop = np.minimum(at + span // 2 + 1, len(cells))
        total, count = (x[stop] - x[first] for x in sums)
        parts.append(np.where(count > 0, total / np.maximum(count, 1), np.nan))
    return np.concatenate(parts, 1).astype(np.float32)
