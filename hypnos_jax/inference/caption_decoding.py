"""Captions word by word: greedy, by beams, or kept to a grammar; one program for many epochs.

The text encoder is causal and feeds the decoder, so both keep the keys and values of the words so
far, and each word costs one position. States of words do not depend on the places behind them,
under either mask of the text encoder, so this is equal to passing the whole prefix again.

Shapes: B epochs, K beams, X words (the context), V ids.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hypnos_jax.models.sleep_language_model import SleepLanguageModel

PAD = 0
OFFICIAL_SHORTEST = 16
NEVER = -1e30  # cost-free stand-in for minus infinity, which sums and differences survive


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How captions are written.

    Attributes:
        sot, eot: ids before the first and behind the last word.
        length: ids of a caption at most, ``sot`` and ``eot`` included; as many as the context holds
            by default.
        shortest: ids before which ``eot`` may not come, ``sot`` counted.
        beams: K; 1 is greedy.
        length_penalty: finished captions are compared by log-probability / (words ** penalty).
        official: what the released code does: three beams that are the same one, with raw logits,
            is greedy with at least 16 ids and at most 256. It may also go on behind ``eot``, which
            is not repeated here.
    """

    sot: int
    eot: int
    length: int | None = None
    shortest: int = 0
    beams: int = 1
    length_penalty: float = 0.6
    official: bool = False


@dataclasses.dataclass(frozen=True)
class Grammar:
    """What may come next, for a program.

    Attributes:
        tables: arrays of the automaton, by name.
        start: int32 [...], the state before the first word.
        allowed: ``(tables, state, room) -> bool [..., V]`` of states [..., *start.shape], given how
            many ids there is still room for.
        advance: ``(tables, state, word) -> state``.
    """

    tables: Mapping[str, Any]
    start: np.ndarray
    allowed: Callable
    advance: Callable


class CaptionWriter:
    """A model's captions, by one compiled program for each number of epochs.

    Args:
        network: unbound.
        decoding: how.
        grammar: what captions are kept to, all rows to the same.

    Raises:
        ValueError: options that exclude each other, or a length that the context lacks.
    """

    def __init__(
        self, network: SleepLanguageModel, decoding: Decoding, grammar: Grammar | None = None
    ) -> None:
        length = decoding.length or network.context
        if not 2 <= length <= network.context:
            raise ValueError(
                f"length={length}; it is from 2 to the context of {network.context} ids"
            )
        if decoding.beams < 1:
            raise ValueError(f"beams={decoding.beams}; it is 1 at least")
        if decoding.official and (decoding.beams > 1 or grammar):
            raise ValueError("official=True takes neither beams nor a grammar")
        shortest = max(decoding.shortest, OFFICIAL_SHORTEST if decoding.official else 0)
        if not decoding.official and shortest >= length:
            raise ValueError(f"shortest={shortest} leaves no place for the end in length={length}")
        decoding = dataclasses.replace(decoding, length=length, shortest=shortest)
        calls = (grammar.allowed, grammar.advance) if grammar else (None, None)
        self._given = None
        if grammar:
            self._given = dict(grammar.tables), jnp.asarray(grammar.start, jnp.int32)
        self._program = jax.jit(functools.partial(_write, network, decoding, *calls))

    def __call__(
        self, variables: Mapping[str, Any], memory: jax.Array, conditions: jax.Array
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return captions int32 [B, X], 0 behind the end, and their log-probabilities float32 [B].

        Args:
            variables: of the network, with ``params``.
            memory: float32 [B, N, D], of ``SleepLanguageModel.encode_signals``.
            conditions: int32 [B, P], what to speak of; -1 for none.
        """
        params = {"params": variables["params"]}
        ids, scores = self._program(params, memory, jnp.asarray(conditions), self._given)
        return np.asarray(ids), np.asarray(scores)


def _write(network, decoding, allowed, advance, params, memory, conditions, grammar):
    """One program: K beams of each row side by side, [B K, ...]."""
    rows, beams, length = len(memory), decoding.beams, decoding.length
    memory, conditions = (jnp.repeat(x, beams, axis=0) for x in (memory, conditions))

    def next_words(ids, cache, conditions, place):
        """Log-probabilities [B, K, V] of what follows ``ids`` [B K], and the cache with them."""
        hidden, moved = network.apply(
            params | ({"cache": cache} if cache else {}),
            ids[:, None],
            memory,
            conditions,
            place,
            method="extend_caption",
            mutable="cache",
        )
        logits = network.apply(params, hidden[:, 0], method="logits")
        return jax.nn.log_softmax(logits).reshape(rows, beams, -1), moved["cache"]

    def choose(scores, logp, done, states, place):
        """The best K of the continuations: score, beam and word, each [B, K]."""
        words = jnp.arange(logp.shape[-1])[None, None]
        if grammar is not None:
            may = allowed(grammar[0], states, jnp.full(states.shape[:2], length - place))
            logp = jnp.where(may, logp, NEVER)
        early = (words == decoding.eot) & (place < decoding.shortest)
        logp = jnp.where(early | (words == decoding.sot) | (words == PAD), NEVER, logp)
        if not decoding.official:  # the last place there is ends a caption
            logp = jnp.where((place == length - 1) & (words != decoding.eot), NEVER, logp)
        logp = jnp.where(done[..., None], jnp.where(words == PAD, 0.0, NEVER), logp)
        total = scores[..., None] + logp
        if beams == 1:
            word = logp.argmax(-1)
            best = jnp.take_along_axis(total, word[..., None], -1)[..., 0]
            return best, jnp.zeros_like(word), word
        best, places = jax.lax.top_k(total.reshape(rows, -1), beams)
        return best, places // logp.shape[-1], places % logp.shape[-1]

    def step(carry):
        place, ids, scores, done, states, logp, cache = carry
        scores, beam, word = choose(scores, logp, done, states, place)

        def taken(x):
            return x if beams == 1 else jax.vmap(lambda x, beam: x[beam])(x, beam)

        ids, done, states = (taken(x) for x in (ids, done, states))
        if grammar is not None:
            moved = advance(grammar[0], states, word.astype(jnp.int32))
            states = jnp.where(done[..., None], states, moved)
        ids = ids.at[:, :, place].set(word)
        done |= word == decoding.eot

        def reordered(path, x):
            # Beams of a row have one memory: what was kept of it stays in its place.
            if beams == 1 or any(getattr(key, "key", None) == "cross" for key in path):
                return x
            return taken(x.reshape(rows, beams, *x.shape[1:])).reshape(x.shape)

        cache = jax.tree_util.tree_map_with_path(reordered, cache)
        logp, cache = next_words(word.reshape(-1), cache, None, place)
        return place + 1, ids, scores, done, states, logp, cache

    first = jnp.full((rows * beams,), decoding.sot, jnp.int32)
    logp, cache = next_words(first, None, conditions, 0)
    ids = jnp.zeros((rows, beams, network.context), jnp.int32).at[:, :, 0].set(decoding.sot)
    # All beams begin as one: the others would repeat it.
    scores = jnp.full((rows, beams), NEVER).at[:, 0].set(0.0)
    start = jnp.zeros((1,), jnp.int32) if grammar is None else grammar[1]
    states = jnp.broadcast_to(start, (rows, beams, *start.shape))
    done = jnp.zeros((rows, beams), bool)
    carry = (jnp.int32(1), ids, scores, done, states, logp, cache)
    carry = jax.lax.while_loop(lambda carry: (carry[0] < length) & ~carry[3].all(), step, carry)
    ids, scores = carry[1], carry[2]
    words = (ids != PAD).sum(-1) - 1
    best = (scores / words**decoding.length_penalty).argmax(1)
    at = jnp.arange(rows)
    return ids[at, best], scores[at, best]
