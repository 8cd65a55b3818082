"""Tokenizers of texts by name, and the check that a model is given the one it was trained with.

A model's ``text`` is ``{"tokenizer", "context", "identity"}``: a key of ``TOKENIZERS``, token ids
of a text, and the hash of the list of words or merges; and of the closed vocabulary ``words``, that
list, for whoever reads a model without this package.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from typing import Any

from data_pipelines.captions.clip_tokenizer import ClipTokenizer
from data_pipelines.captions.vocabulary import Vocabulary, closed

# The words of the grammar, and the published byte-pair encoding.
TOKENIZERS = {"closed": closed, "clip": functools.cache(ClipTokenizer)}


class TokenizerError(ValueError):
    """A tokenizer that is unknown, or another than a model was trained with."""


def describe(kind: str, context: int, identity: str | None = None) -> dict[str, Any]:
    """Return a model's ``text``.

    Without an identity, it is that of the tokenizer as it is here; None where it is not installed.
    """
    text = {"tokenizer": kind, "context": context, "identity": identity}
    with contextlib.suppress(ModuleNotFoundError):
        found = _find(kind)
        text["identity"] = identity or found.identity
        if isinstance(found, Vocabulary):
            text["words"] = list(found.words)
    return text


def open_tokenizer(text: Mapping[str, Any]) -> Vocabulary | ClipTokenizer:
    """Return the tokenizer of a model's ``text``.

    Raises:
        TokenizerError: it is unknown, or other words than the model was trained with.
        ModuleNotFoundError: a package of it is not installed.
    """
    found = _find(text["tokenizer"])
    if text["identity"] not in (None, found.identity):
        raise TokenizerError(
            f"the model was trained with the tokenizer {text['tokenizer']!r} of identity"
            f" {str(text['identity'])[:12]}...; here it is {found.identity[:12]}...: use the"
            " version of hypnos_jax that made the model, or train it anew"
        )
    return found


def check(text: Mapping[str, Any]) -> None:
    """Raise ``TokenizerError`` as ``open_tokenizer`` does; what is not installed is let pass."""
    # Signals are embedded without; whoever needs texts asks again.
    with contextlib.suppress(ModuleNotFoundError):
        open_tokenizer(text)


def _find(kind: str) -> Vocabulary | ClipTokenizer:
    if kind not in TOKENIZERS:
        raise TokenizerError(f"no tokenizer {kind!r}; there are {sorted(TOKENIZERS)}")
    return TOKENIZERS[kind]()
