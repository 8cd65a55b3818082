"""The formats of published models, a module of this folder each.

A module offers ``OBJECTIVES`` (the names of ours that it holds), ``recognises(path)``,
``read(path) -> (Part, group -> Part of its tokenizers)`` and ``write(path, Part, tokenizers)``;
what it cannot read or represent it says in a ``FormatError``.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import types
from typing import Any

from hypnos_jax.interop.torch_file import is_torch_file

NAMES = ("hypnos", "sleep2vec", "synthsleepnet", "sleeplm")


class FormatError(ValueError):
    """A file that is not of its format, or a model that the format cannot represent."""


@dataclasses.dataclass(frozen=True)
class Part:
    """A model as a run has it.

    Attributes:
        objective: of its config.
        variables: collection -> nested dict of arrays.
        recipe: name of what prepares recordings for it; None where its rows tell.
        text: ``tokenizer`` and ``context`` of a model of texts (``captions.tokenizers``).
    """

    objective: dict[str, Any]
    variables: dict[str, Any]
    recipe: str | None = None
    text: dict[str, Any] = dataclasses.field(default_factory=dict)


def find(name: str) -> types.ModuleType:
    """Return the module of a format.

    Raises:
        FormatError: there is none.
    """
    if name not in NAMES:
        raise FormatError(f"no format {name!r}; there are {list(NAMES)}")
    return importlib.import_module(f"hypnos_jax.interop.{name}")


def recognise(path: str | os.PathLike) -> types.ModuleType:
    """Return the module of a file's format; the first one where none knows it, to say why not.

    Raises:
        FormatError: a file of PyTorch that no format knows.
    """
    modules = [find(name) for name in NAMES]
    found = next((module for module in modules if module.recognises(path)), None)
    if found is None and is_torch_file(path):
        raise FormatError(
            f"{path} cannot be read: it has no tensor by which one of the formats {list(NAMES)}"
            " would be known"
        )
    return found or modules[0]
