"""Epochs of a store that fit a question in words, or that are like another epoch.

A question about stages and events alone is asked in several captions (``captions.question``), any
other as it stands. What the model finds is a guess; facts of the store, where there are any, are
shown beside it and say whether the epoch is what was asked for.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

import numpy as np

from data_pipelines.captions.facts import STAGES, Facts
from data_pipelines.captions.question import Question, read_question
from data_pipelines.captions.side_file import FactsFile
from data_pipelines.store import NightEntry, NightStore, StoreError
from hypnos_jax.export.model import LoadedModel
from hypnos_jax.inference.epoch_index import Hit, open_index, unit
from hypnos_jax.inference.text_embedder import TextEmbedder, shown
from hypnos_jax.inference.window_embedder import WindowEmbedder

NIGHTS_COUNTED = 100  # ours: by which it is told how many epochs are what was asked for
APART = 10  # epochs: neighbours look alike, and would fill the list


@dataclasses.dataclass(frozen=True)
class Found:
    """An epoch that was found.

    Attributes:
        hit: night, epoch and score.
        facts: of the epoch; None where the store has none of it.
        agrees: whether the facts are what was asked for; None where that is not known.
    """

    hit: Hit
    facts: Facts | None
    agrees: bool | None

    @property
    def stage(self) -> str:
        """The stage, "-" where it is not known."""
        return (self.facts and self.facts.stage) or "-"

    @property
    def events(self) -> str:
        """The events, with their seconds; "-" where nobody looked."""
        if self.facts is None or self.facts.events is None:
            return "-"
        told = (f"{e.kind} {e.start_s:.1f}-{e.stop_s:.1f}" for e in self.facts.events)
        return "; ".join(told) or "no event"


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a search found.

    Attributes:
        asked: what was looked for, in words.
        texts: what was embedded for it; none where an epoch was.
        found: best first.
        share: of the scored epochs of a hundred nights that are what was asked for, whatever the
            model says; None where that is not known.
    """

    asked: str
    texts: tuple[str, ...]
    found: tuple[Found, ...]
    share: float | None = None


class NightSearch:
    """A model and a store whose epochs are indexed.

    Attributes:
        store: of nights.
        index: of their embeddings.
        modalities: of the model, rows {name, rate_hz, ...}.
    """

    def __init__(
        self,
        model: str | os.PathLike | LoadedModel,
        store: NightStore | str | os.PathLike,
        *,
        index: str | os.PathLike | None = None,
        finished: Callable[[str], None] = lambda name: None,
    ):
        """Open a model and a store, and build their index where it is not there yet.

        Args:
            model: what ``export.load_model`` takes; it embeds texts.
            store: of nights, prepared by the model's recipe.
            index: folder of the index; see ``open_index``.
            finished: called with the name of each night that was embedded.

        Raises:
            ModelError, StoreError, ValueError, OSError: as ``TextEmbedder``, ``WindowEmbedder`` and
                ``open_index`` say.
        """
        self._texts = TextEmbedder(model)
        embedder = WindowEmbedder(self._texts.model)
        self.modalities = embedder.modalities
        self.store = store if isinstance(store, NightStore) else NightStore(store)
        self.index = open_index(embedder, self.store, index, finished=finished)
        self._facts = FactsFile(self.store)

    def ask(self, text: str, *, top: int = 20, apart: int = APART, literal: bool = False) -> Answer:
        """Return the epochs that fit a text best.

        Args:
            text: a question, or a caption.
            top: how many epochs.
            apart: epochs of one night are at least so far from each other.
            literal: embed the text itself, also where it is understood.

        Raises:
            TextError: a text that no caption could contain; it says what the model knows.
        """
        text = self._texts.cleaned(text)
        question = None if literal else read_question(text)
        if question is None:
            texts = (self._texts.checked(text),)
            vector = self._texts.embed(texts)[0]
        else:
            captions = question.captions()
            texts = tuple(map(str, captions))
            vector = unit(self._texts.embed(captions).mean(axis=0))
        hits = self.index.nearest(vector, top, apart=apart)
        share = None if question is None else self._share(question)
        return Answer(text, texts, tuple(self._found(hit, question) for hit in hits), share)

    def like(self, recording: str, epoch: int, *, top: int = 20, apart: int = APART) -> Answer:
        """Return the epochs that are most like another, without it and its neighbours.

        Raises:
            ValueError: the store has no such night or epoch, or it has no signal.
        """
        place = self.index.place(recording, epoch)
        vector = unit(self.index.row(place, epoch))
        hits = self.index.nearest(vector, top, apart=apart, without=(place, epoch))
        asked = f"like epoch {epoch} of {recording}"
        return Answer(asked, (), tuple(self._found(hit, None) for hit in hits))

    def signals(self, hit: Hit) -> list[tuple[str, np.ndarray]]:
        """Return the names and samples, in standard units, of what the model reads of an epoch."""
        start, stop = 30 * hit.epoch, 30 * (hit.epoch + 1)
        return [
            (row["name"], self.store.signal(hit.night, row["name"], start, stop))
            for row in self.modalities
            if row["name"] in hit.night.channels
        ]

    def facts(self, night: NightEntry, epoch: int) -> Facts | None:
        """Return the facts of an epoch; None where there are none that can be read."""
        try:
            return self._facts.facts(night, epoch)
        except (StoreError, IndexError):
            return None

    def _found(self, hit: Hit, question: Question | None) -> Found:
        facts = self.facts(hit.night, hit.epoch)
        known = question is not None and facts is not None
        return Found(hit, facts, question.agrees(facts) if known else None)

    def _share(self, question: Question) -> float | None:
        """Share of the scored epochs of some nights that are what is asked for; None without."""
        counts = {True: 0, False: 0, None: 0}
        nights = self.store.nights
        for night in nights[:: -(-len(nights) // NIGHTS_COUNTED) or 1]:
            try:
                facts = self._facts.night(night)
            except StoreError:
                continue
            for code, events in zip(facts.stage.tolist(), facts.events, strict=True):
                stage = STAGES[code] if code >= 0 else None
                counts[question.agrees(Facts(stage=stage, events=events))] += 1
        known = counts[True] + counts[False]
        return counts[True] / known if known else None


def read_place(text: str) -> tuple[str, int]:
    """Return the recording and the epoch of ``RECORDING:EPOCH``.

    Raises:
        ValueError: it is no such thing.
    """
    recording, _, epoch = text.rpartition(":")
    if not recording or not (epoch.isascii() and epoch.isdecimal()) or len(epoch) > 9:
        raise ValueError(f"--like={shown(text)} is not RECORDING:EPOCH, such as aster-s001-n1:240")
    return recording, int(epoch)
