"""Texts to embeddings, by a model that has texts where its signals are.

A model knows the words of its captions. Text with other words, with control characters, or longer
than anything a caption could be is refused, and the refusal says what the model knows.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import unicodedata
from collections.abc import Sequence

import jax
import numpy as np

from data_pipelines.captions.grammar import Caption
from data_pipelines.captions.tokenizers import open_tokenizer
from data_pipelines.captions.vocabulary import closed
from data_pipelines.files import atomic_write
from hypnos_jax.export.model import LoadedModel, ModelError, load_model
from hypnos_jax.objectives import EmbedsText

LONGEST = 10_000  # ours: characters of a text; the longest captions have some 1,000
BATCH = 32  # texts that are embedded at once
SHOWN = 40  # characters of a text that are quoted in an error
_SPACES = "\t\n\r"


class TextError(ValueError):
    """A text that no caption could contain."""


@dataclasses.dataclass(frozen=True)
class TextEmbeddings:
    """Embeddings of texts.

    Attributes:
        texts: as they were given, with spaces as one.
        rows: float32 [N, D] of length 1, to be compared by products.
        model: checksum of the model.
    """

    texts: tuple[str, ...]
    rows: np.ndarray
    model: str

    def save(self, path: str | os.PathLike) -> None:
        """Write ``.npz`` (no pickle): ``rows``, ``texts``, ``model``; whole or not at all."""
        with atomic_write(path) as file:
            np.savez(file, rows=self.rows, texts=np.array(self.texts), model=np.array(self.model))


class TextEmbedder:
    """A model that embeds texts, compiled once.

    Attributes:
        model: the loaded model.
        checksum: of it.
    """

    def __init__(self, model: str | os.PathLike | LoadedModel):
        """Load a model.

        Args:
            model: what ``export.load_model`` takes.

        Raises:
            ModelError: no model, one that knows no texts, or one of another tokenizer than is here.
        """
        self.model = load_model(model)
        self.checksum = self.model.checksum
        objective = self.model.objective
        kind = type(objective).__name__
        if not isinstance(objective, EmbedsText):
            raise ModelError(f"a {kind} embeds no texts: it was trained on signals alone")
        if "text" not in self.model.config:
            raise ModelError(f"the config of this {kind} does not say what makes ids of its texts")
        self._text = self.model.config["text"]
        try:
            self._tokenizer = open_tokenizer(self._text)
        except (ModuleNotFoundError, ValueError) as error:
            raise ModelError(f"texts cannot be read: {error}") from error
        self._variables = jax.device_put(self.model.variables)
        self._embed = jax.jit(functools.partial(objective.apply, method="embed_text"))

    def embed(self, texts: Sequence[str | Caption]) -> np.ndarray:
        """Return float32 [N, D] of length 1.

        What is longer than the model's context loses whole sentences at its end.

        Args:
            texts: as ``checked`` returns them, or captions of the grammar.
        """
        context = self._text["context"]
        ids = np.zeros((-(-len(texts) // BATCH) * BATCH, context), np.int32)
        ids[:, 0] = self._tokenizer.sot
        for row, text in enumerate(texts):
            ids[row] = self._tokenizer.encode(text, context)
        pieces = [
            jax.device_get(self._embed(self._variables, ids[start : start + BATCH]))
            for start in range(0, len(ids), BATCH)
        ]
        rows = np.concatenate(pieces) if pieces else np.zeros((0, 0), np.float32)
        return rows[: len(texts)]

    def cleaned(self, text: str) -> str:
        """Return a text with spaces as one.

        Raises:
            TextError: it is empty or too long, or has control characters.
        """
        if len(text) > LONGEST:
            raise TextError(
                f"a text of {len(text)} characters; captions are far shorter than {LONGEST}"
            )
        odd = next((c for c in text if c not in _SPACES and not _is_plain(c)), None)
        if odd is not None:
            raise TextError(f"{shown(text)} has the character U+{ord(odd):04X}, which is no text")
        text = " ".join(text.split())
        if not any(c.isalpha() for c in text):
            raise TextError(f"{shown(text)} has no word. {self.known()}")
        return text

    def checked(self, text: str) -> str:
        """Return a text as ``cleaned`` does, if a caption could contain it.

        Raises:
            TextError: as ``cleaned``; or it has words that no caption has, and then the error says
                which are near, and what the model knows.
        """
        text = self.cleaned(text)
        # The published encoding spells any word, but has seen those of captions alone.
        unknown = closed().unknown_words(text)
        if unknown:
            near = [
                f"{shown(word)}" + (f" (near: {', '.join(own)})" if own else "")
                for word, own in unknown.items()
            ]
            raise TextError(
                f"no caption has the word{'s' if len(near) > 1 else ''} {'; '.join(near)}."
                f" {self.known()}"
            )
        return text

    def known(self) -> str:
        """Return examples of what can be asked, as a sentence."""
        return "The model knows sentences such as: " + " ".join(closed().examples)


def embed_texts(
    model: str | os.PathLike | LoadedModel | TextEmbedder, texts: Sequence[str]
) -> TextEmbeddings:
    """Embed texts.

    Args:
        model: what ``export.load_model`` takes, or (to compile once) a ``TextEmbedder``.
        texts: of captions, or in their words.

    Raises:
        ModelError: no model, or one that embeds no texts.
        TextError: one that no caption could contain; it says which.
    """
    embedder = model if isinstance(model, TextEmbedder) else TextEmbedder(model)
    found = []
    for number, text in enumerate(texts, 1):
        try:
            found.append(embedder.checked(text))
        except TextError as error:
            raise TextError(f"text {number} of {len(texts)}: {error}") from None
    return TextEmbeddings(tuple(found), embedder.embed(found), embedder.checksum)


def shown(text: str) -> str:
    """Return the beginning of a text in quotes, with nothing in it that a terminal would obey."""
    head = text[:SHOWN]
    plain = "".join(c if _is_plain(c) else f"\\u{{{ord(c):x}}}" for c in head)
    return f"'{plain}{'...' if len(text) > len(head) else ''}'"


def _is_plain(character: str) -> bool:
    return unicodedata.category(character)[0] != "C" and (
        character == " " or character.isprintable()
    )
