"""The formats of published models, a module of this folder each.

A module offers ``OBJECTIVE`` (the name of ours that it holds), ``recognises(path)``,
``read(path) -> (Part, group -> Part of its tokenizers)`` and ``write(path, Part, tokenizers)``;
what it cannot read or represent it says in a ``FormatError``.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import types
from typing import Any

NAMES = ("hypnos", "sleep2vec")


class FormatError(ValueError):
    """A file that is not of its format, or a model that the format cannot represent."""


@dataclasses.dataclass(frozen=True)
class Part:
    """A model as a run has it: the ``objective`` of its config, and its variables."""

    objective: dict[str, Any]
    variables: dict[str, Any]


def find(name: str) -> types.ModuleType:
    """Return the module of a format.

    Raises:
        FormatError: there is none.
    """
    if name not in NAMES:
        raise FormatError(f"no format {name!r}; there are {list(NAMES)}")
    return importlib.import_module(f"hypnos_jax.interop.{name}")


def recognise(path: str | os.PathLike) -> types.ModuleType:
    """Return the module of a file's format; the first one where none knows it, to say why not."""
    modules = [find(name) for name in NAMES]
    return next((module for module in modules if module.recognises(path)), modules[0])
