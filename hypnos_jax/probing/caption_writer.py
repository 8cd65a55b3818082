"""Captions that a model writes of a batch's epochs, as texts."""

from __future__ import annotations

import jax
import numpy as np

from data_pipelines.captions import automaton
from data_pipelines.captions.facts import MODALITIES
from hypnos_jax import evaluate
from hypnos_jax.inference.caption_decoding import CaptionWriter, Decoding, Grammar
from hypnos_jax.objectives import WritesCaptions


class EpochWriter:
    """Writes captions greedily.

    Args:
        context: of a model that ``WritesCaptions``.
        split: of the nights that are written about.
        constrained: only words by which the grammar could go on; for models with its vocabulary.

    Raises:
        ValueError: the model writes no captions, or has another vocabulary.
    """

    def __init__(self, context: evaluate.Context, split: str, *, constrained: bool):
        tokenizer = context.config["data"].get("tokenizer")
        if not context.can(WritesCaptions):
            raise ValueError("captions: the model writes none")
        if constrained and tokenizer != "closed":
            raise ValueError(
                "captions.constrained: the grammar has the words of config.data.tokenizer='closed',"
                f" and this is {tokenizer!r}"
            )
        self._context, self._split, self._constrained = context, split, constrained
        self._remember = context.functions("remember")
        self._network = context.attribute("caption_network")
        self._writers: dict[str, CaptionWriter] = {}

    def write(self, variables: dict, batch: dict, modality: str) -> list[str]:
        """Return a caption of each row.

        Args:
            variables: of the objective.
            batch: of ``captioned_epochs``, on the devices.
            modality: one of ``facts.MODALITIES``, which the caption is to speak of.
        """
        tokenizer = self._context.source(self._split).tokenizer
        kept_to = modality if self._constrained else ""
        if kept_to not in self._writers:
            decoding = Decoding(tokenizer.sot, tokenizer.eot)
            grammar = _grammar(modality) if self._constrained else None
            self._writers[kept_to] = CaptionWriter(self._network, decoding, grammar)
        memory = self._remember(variables, batch)
        conditions = np.full((len(memory), self._network.prefix), -1, np.int32)
        conditions[:, 0] = MODALITIES.index(modality)
        own = {"params": variables["params"]["network"]}
        ids, _ = self._writers[kept_to](own, memory, conditions)
        self._context.heartbeat()
        return [tokenizer.decode(row) for row in jax.device_get(ids)]


def _grammar(modality: str) -> Grammar:
    own = automaton.automaton(modality)
    return Grammar(own.tables, own.start(), automaton.allowed, automaton.advance)
