"""Captions that a model writes of a batch's epochs, as texts: the likeliest word, one by one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.captions import automaton
from data_pipelines.captions.facts import MODALITIES
from hypnos_jax import evaluate
from hypnos_jax.objectives import WritesCaptions

PAD = 0  # id that is no word


class CaptionWriter:
    """Writes captions by a compiled program: one for all modalities, or each its own where
    constrained.

    Args:
        context: of a model that ``WritesCaptions``.
        split: of the nights that are written about.
        constrained: only words by which the grammar could go on; for models with its vocabulary.

    Raises:
        ValueError: the model writes no captions, or has another vocabulary.
    """

    def __init__(self, context: evaluate.Context, split: str, *, constrained: bool):
        data = context.config["data"]
        if not context.can(WritesCaptions):
            raise ValueError("captions: the model writes none")
        if constrained and data.get("tokenizer") != "closed":
            raise ValueError(
                "captions.constrained: the grammar has the words of config.data.tokenizer='closed',"
                f" and this is {data.get('tokenizer')!r}"
            )
        self._context, self._split, self._constrained = context, split, constrained
        self._remember = context.functions("remember")
        self._next = context.functions("continue_caption", mutable=("cache",))
        self._run = jax.jit(self._written, static_argnames=("length", "start", "end"))

    def write(self, variables: dict, batch: dict, modality: str) -> list[str]:
        """Return a caption of each row.

        Args:
            variables: of the objective.
            batch: of ``captioned_epochs``, on the devices.
            modality: one of ``facts.MODALITIES``, which the caption is to speak of.
        """
        tokenizer = self._context.source(self._split).tokenizer
        ids = self._run(
            variables,
            batch,
            np.int32(MODALITIES.index(modality)),
            dict(automaton.automaton(modality).tables) if self._constrained else {},
            length=batch["caption"].shape[1],
            start=tokenizer.sot,
            end=tokenizer.eot,
        )
        self._context.heartbeat()
        return [tokenizer.decode(own) for own in jax.device_get(ids)]

    def _written(self, variables, batch, condition, tables, *, length, start, end):
        """Int32 [B, X]: the start, the words, the end, and padding behind it."""
        memory = self._remember(variables, batch)
        rows = len(memory)
        first = jnp.full(rows, start, jnp.int32)
        conditions = jnp.full(rows, condition, jnp.int32)
        scores, cache = self._next(variables, first, memory, conditions, jnp.int32(0))

        def choose(scores, state, place):
            if not tables:
                # No label is either, so that no training has lowered their scores.
                return scores.at[:, jnp.array([PAD, start])].set(-jnp.inf).argmax(1), state
            room = jnp.full(rows, length, jnp.int32) - place
            allowed = automaton.allowed(tables, state, room)
            word = jnp.where(allowed, scores, -jnp.inf).argmax(1)
            return word, automaton.advance(tables, state, word)

        def goes_on(carry):
            place, ids, _, _, _ = carry
            return (place < length) & ~(ids == end).any(1).all()

        def add(carry):
            place, ids, scores, state, cache = carry
            word, state = choose(scores, state, place)
            word = jnp.where((ids == end).any(1), PAD, word).astype(jnp.int32)
            ids = ids.at[:, place].set(word)
            scores, cache = self._next({**variables, **cache}, word, memory, None, place)
            return place + 1, ids, scores, state, cache

        ids = jnp.zeros((rows, length), jnp.int32).at[:, 0].set(start)
        state = jnp.zeros((rows, 4), jnp.int32)
        carry = (jnp.int32(1), ids, scores, state, cache)
        return jax.lax.while_loop(goes_on, add, carry)[1]
