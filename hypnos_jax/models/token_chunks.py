"""Chunked inference with a cache: the tokens of a night, equal to a single pass.

The network keeps what a piece needs of those before it, so that a night of any length takes bounded
memory and one compilation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

CHUNK_S = 256  # ours: seconds that pass the backbone at once; more is slower on a CPU
SHORTEST_PASS_S = 64  # ours: short ones are padded to powers of two from here: few shapes
ANEW_S = 2048  # the released library's, for models whose layers see the whole past
OVER_TIME = ("codes", "valid", "tracks")  # what of an example runs over time

Example = dict[str, np.ndarray]


def carry(apply, variables):
    """Return the step that ``embed_tokens`` wants of ``apply(variables, cache, batch, first)``."""

    def step(batch, cache):
        first = cache is None
        if first:
            # Zeros that count as not seen, so that one program serves the first piece and later.
            shapes = jax.eval_shape(apply, variables, {}, batch, True)[1]
            cache = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return apply(variables, cache, batch, first)

    return step


def embed_tokens(
    step: Callable[[Example, Any], tuple[Any, Any]],
    read: Callable[[int, int], Example],
    seconds: int,
    *,
    lag: bool,
    reach: int | None,
    chunk_s: int = CHUNK_S,
    coming: bool = False,
) -> Iterator[Any]:
    """Yield the embeddings of a token sequence chunk by chunk; together they equal a single pass.

    All pieces have one shape, so there is one compilation.

    Args:
        step: (batch of one row, cache or None at the start) -> arrays [1, n, ...], cache; as
            ``EmbedsInPieces.embed_next`` has it.
        read: (start_s, stop_s) -> example without batch axis, arrays over time padded beyond the
            end; as ``data_pipelines.pipeline`` describes it.
        seconds: S.
        lag: row t has seen the seconds before t; False: second t too.
        reach: seconds of the past that a row depends on; None for all of them, which no cache can
            hold: every 2048 s then start anew, as the released library has it.
        chunk_s: seconds per piece.
        coming: ``step`` is given a third argument, the example of the seconds that come right after
            those of the batch's rows, and returns arrays of these beside, as a pair.

    Yields:
        the same arrays [n, ...], the n of all pieces adding up to ``seconds``; with ``coming`` a
        pair of them, of which the second is of each second itself, whatever ``lag`` is.
    """
    if reach is None:
        whole = {"lag": lag, "reach": 0, "chunk_s": ANEW_S + 1, "coming": coming}
        for start in range(0, seconds, ANEW_S):

            def part(a, b, start=start):
                return read(start + a, start + b)

            yield from embed_tokens(step, part, min(ANEW_S, seconds - start), **whole)
        return
    rows = seconds if lag else 1 + seconds  # those of BOS and all seconds but the last, or all
    length = SHORTEST_PASS_S
    while length < min(rows, chunk_s):
        length *= 2
    length, cache = min(length, chunk_s), None
    for done in range(0, rows, length):
        last = done - 1 + length + coming
        batch = {k: np.asarray(x)[None] for k, x in read(max(done - 1, 0), last).items()}
        if done == 0:
            for name in OVER_TIME:
                rest = [(0, 0)] * (batch[name].ndim - 2)
                batch[name] = np.pad(batch[name], [(0, 0), (1, 0), *rest])
        kept = slice(0 if lag or done else 1, rows - done)
        if not coming:
            found, cache = step(batch, cache)
            yield _kept(found, kept)
            continue
        after = {**batch, **{name: batch[name][:, 1:] for name in OVER_TIME}}
        batch |= {name: batch[name][:, :-1] for name in OVER_TIME}
        (found, beside), cache = step(batch, cache, after)
        yield _kept(found, kept), _kept(beside, slice(0, max(seconds - done, 0)))


def _kept(arrays, rows):
    return jax.tree.map(lambda x: np.asarray(x)[0, rows], arrays)


def cut(whole: Example, start: int, stop: int) -> Example:
    """Rows ``start:stop`` of what runs over time, with zeros beyond the end."""
    seconds = len(whole["codes"])
    out = dict(whole)
    for name in OVER_TIME:
        rows = whole[name][start:stop]
        beyond = [(0, stop - max(start, min(stop, seconds)))] + [(0, 0)] * (rows.ndim - 1)
        out[name] = np.pad(rows, beyond)
    return out
