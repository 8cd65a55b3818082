"""Checkpoints of official PyTorch code as tables of tensors, and our variables filled from them.

Every tensor must find its place: a checkpoint that lacks one, or has one more, is refused by its
name.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from data_pipelines.files import atomic_write
from hypnos_jax.interop.formats import FormatError
from hypnos_jax.interop.hypnos_names import Entry
from hypnos_jax.interop.torch_file import (
    FACTS,
    TorchFile,
    TorchFileError,
    is_torch_file,
    mentions,
    read_torch_file,
)
from hypnos_jax.runtime.tensor_files import TensorFile

TABLE_ERROR = 1e-5  # ours: how far sines of another library may be from ours


class StateDictError(FormatError):
    """A checkpoint that is not one of the official code, or that our model cannot represent."""


def has_tensor(path: str | os.PathLike, part: str) -> bool:
    """Return whether a file has a tensor with ``part`` in its name, as far as its head tells."""
    if is_torch_file(path):
        return mentions(path, part)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return any(part in name for name in list(file.keys()))
    except (OSError, safetensors.SafetensorError):
        return False


def read_tensors(path: str | os.PathLike, keys: tuple[str, ...] = ("state_dict",)) -> TorchFile:
    """Read a checkpoint: ``.safetensors``, or a file of PyTorch, of which only weights are read.

    Args:
        path: the file. Of a safetensors file, facts are the JSON under ``facts`` of its metadata.
        keys: see ``read_torch_file``.

    Raises:
        StateDictError: it cannot be read.
    """
    if is_torch_file(path):
        try:
            return read_torch_file(path, keys)
        except TorchFileError as error:
            raise StateDictError(str(error)) from None
    try:
        file = TensorFile(path)
        tensors = {name: file.get(name) for name in sorted(file.names)}
        facts = json.loads(file.metadata.get(FACTS, "{}"))
    except (OSError, safetensors.SafetensorError) as error:
        raise StateDictError(f"{path} cannot be read as a safetensors file: {error}") from None
    except ValueError as error:
        raise StateDictError(f"{path}: {FACTS} of its metadata are no JSON: {error}") from None
    return TorchFile(tensors, facts if isinstance(facts, dict) else {})


def write_tensors(
    path: str | os.PathLike, tensors: Mapping[str, np.ndarray], facts: Mapping[str, Any]
) -> None:
    """Write a safetensors file that ``read_tensors`` reads; it is replaced whole."""
    metadata = {"format": "pt"} | ({FACTS: json.dumps(facts)} if facts else {})
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    # ascontiguousarray alone would give a scalar an axis.
    tensors = {name: np.ascontiguousarray(x).reshape(x.shape) for name, x in tensors.items()}
    with atomic_write(path) as file:
        safetensors.numpy.save_file(tensors, file.name, metadata=metadata)


def shape_of(tensors: Mapping[str, np.ndarray], name: str, axes: int) -> tuple[int, ...]:
    """Return the shape of a tensor.

    Raises:
        StateDictError: it is missing, or has another number of axes.
    """
    if name not in tensors:
        raise StateDictError(f"it lacks the tensor {name!r}")
    if tensors[name].ndim != axes:
        raise StateDictError(f"tensor {name!r} has shape {tensors[name].shape}, not {axes} axes")
    return tensors[name].shape


def is_table(found: np.ndarray, table: np.ndarray) -> bool:
    """Return whether a tensor is a table of sines."""
    return found.shape == table.shape and bool(np.allclose(found, table, rtol=0, atol=TABLE_ERROR))


def fill(
    tensors: Mapping[str, np.ndarray],
    entries: Sequence[Entry],
    tables: Mapping[str, np.ndarray],
    unused: Sequence[str],
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, np.ndarray]:
    """Return variables by their paths: every tensor is used, and every variable written whole.

    Args:
        tensors: of the checkpoint.
        entries: which tensor is which variable.
        tables: tensors that are known, name -> value.
        unused: names of tensors that no output depends on.
        shapes: of the variables.

    Raises:
        StateDictError: a tensor is missing, left over, of a wrong shape or not finite.
    """
    names = {entry.theirs for entry in entries} | set(tables) | set(unused)
    for name in [entry.theirs for entry in entries] + list(tables) + list(unused):
        if name not in tensors:
            raise StateDictError(f"it lacks the tensor {name!r}")
    left = sorted(set(tensors) - names)
    if left:
        raise StateDictError(
            f"it has a tensor {left[0]!r} of which the model knows nothing ({len(left)} of"
            f" {len(tensors)} are left over)"
        )
    for name, table in tables.items():
        if not is_table(tensors[name], table):
            raise StateDictError(
                f"tensor {name!r} is not the table of sines {table.shape} that the official code"
                " has"
            )
    flat = {name: np.full(shape, np.nan, np.float32) for name, shape in shapes.items()}
    for entry in entries:
        if entry.ours not in flat:
            raise StateDictError(f"tensor {entry.theirs!r} is of no variable of the model")
        theirs, wanted = tensors[entry.theirs], entry.give(flat[entry.ours]).shape
        if theirs.shape != wanted:
            raise StateDictError(
                f"tensor {entry.theirs!r} has shape {theirs.shape}; {wanted} fits the others"
            )
        if not np.isfinite(theirs).all():
            raise StateDictError(f"tensor {entry.theirs!r} holds NaN or infinity")
        entry.take(theirs.astype(np.float32), flat[entry.ours])
    unwritten = [name for name, x in flat.items() if np.isnan(x).any()]
    if unwritten:
        raise StateDictError(f"no tensor fills {unwritten[0]!r}")
    return flat
