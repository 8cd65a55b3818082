"""Captions of a recording's epochs, by a model that writes them."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from data_pipelines import pipeline
from data_pipelines.captions import automaton
from data_pipelines.captions.facts import MODALITIES
from data_pipelines.captions.tokenizers import open_tokenizer
from data_pipelines.captions.vocabulary import Vocabulary
from data_pipelines.recordings.base import RecordingError
from data_pipelines.store import ChannelSignal
from hypnos_jax.config import frozen
from hypnos_jax.export.model import LoadedModel, ModelError, load_model
from hypnos_jax.inference.caption_decoding import CaptionWriter, Decoding, Grammar
from hypnos_jax.models.sleep_language_model import SleepLanguageModel
from hypnos_jax.objectives import WritesCaptions

EPOCHS = 32  # that are written of at once


class Captioner:
    """A model that writes captions, compiled once for many recordings.

    The likeliest word, one by one. A model with the words of the grammar may be kept to its
    sentences: what it says is well formed then, and may be wrong.

    Attributes:
        model: the loaded model.
        modalities: rows {name, rate_hz, frames} of what it reads.
        constrained: whether captions are kept to the grammar.
    """

    def __init__(self, model: str | os.PathLike | LoadedModel, *, constrained: bool | None = None):
        """Load a model.

        Args:
            model: what ``export.load_model`` takes.
            constrained: keep captions to the grammar; by default where the model has its words.

        Raises:
            ModelError: no model, one that writes no captions, one of another tokenizer than is
                here, or one without the grammar's words that is to be kept to it.
        """
        self.model = load_model(model)
        objective = self.model.objective
        if not isinstance(objective, WritesCaptions) or "text" not in self.model.config:
            raise ModelError(f"a {type(objective).__name__} writes no captions")
        try:
            self._tokenizer = open_tokenizer(self.model.config["text"])
        except (ModuleNotFoundError, ValueError) as error:
            raise ModelError(f"captions cannot be written: {error}") from error
        closed = isinstance(self._tokenizer, Vocabulary)
        if constrained and not closed:
            raise ModelError(
                "constrained: the grammar has the words of the tokenizer 'closed', and this model"
                f" has {self.model.config['text']['tokenizer']!r}"
            )
        self.constrained = closed if constrained is None else constrained
        self.modalities = self.model.config["modalities"]
        self._source = pipeline.find_source(objective.embed_data)
        self._variables = jax.device_put(self.model.variables)
        self._remember = jax.jit(functools.partial(objective.apply, method="remember"))
        self._network = SleepLanguageModel(**frozen(dict(objective.model)))
        self._writers: dict[str, CaptionWriter] = {}

    def _writer(self, modality: str) -> CaptionWriter:
        # Without a grammar all modalities share one program.
        key = modality if self.constrained else ""
        if key not in self._writers:
            grammar = None
            if key:
                rules = automaton.automaton(modality)
                grammar = Grammar(rules.tables, rules.start(), automaton.allowed, automaton.advance)
            decoding = Decoding(self._tokenizer.sot, self._tokenizer.eot)
            self._writers[key] = CaptionWriter(self._network, decoding, grammar)
        return self._writers[key]

    def write(
        self, signals: Mapping[str, ChannelSignal], modalities: Sequence[str] = MODALITIES
    ) -> list[dict[str, str] | None]:
        """Return captions of each whole epoch: modality -> text; None where there is no signal.

        Args:
            signals: name -> prepared signal, any subset of what the model reads.
            modalities: what to speak of, some of ``MODALITIES``.

        Raises:
            RecordingError: none of the channels is there, or no whole epoch.
        """
        names = {row["name"] for row in self.modalities}
        signals = {name: x for name, x in signals.items() if name in names}
        if not signals:
            raise RecordingError(f"it has none of the model's channels {sorted(names)}")
        found: list[dict[str, str] | None] = []
        data = {"window_tokens": EPOCHS}
        for window in self._source.recording_batches(
            signals, data=data, modalities=self.modalities
        ):
            count = int(window["tokens"][0])
            memory = self._remember(self._variables, _epochs(window))
            texts = {name: self._texts(name, memory)[:count] for name in modalities}
            there = window["valid"][0, :count].any(axis=1)
            found += [
                {name: own[i] for name, own in texts.items()} if there[i] else None
                for i in range(count)
            ]
        return found

    def _texts(self, modality, memory):
        prefix = self._network.prefix
        conditions = np.full((len(memory), prefix), -1, np.int32)
        conditions[:, 0] = MODALITIES.index(modality)
        own = {"params": self._variables["params"]["network"]}
        ids, _ = self._writer(modality)(own, memory, conditions)
        return [self._tokenizer.decode(row) for row in ids]


def _epochs(window):
    """A window of L tokens as L rows of one token."""
    length = window["valid"].shape[1]
    rows = {}
    for name, x in window.items():
        if name == "valid" or name.startswith("signal/"):
            rows[name] = x[0][:, None]
        elif name != "tokens":
            rows[name] = np.repeat(x, length, axis=0)
    return rows
