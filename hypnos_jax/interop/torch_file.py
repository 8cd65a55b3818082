"""Tensors of a PyTorch checkpoint -> a safetensors file, in a process of its own.

``python -m hypnos_jax.interop.torch_file IN OUT KEY...`` loads weights only: nothing that the file
may hold besides tensors and plain containers is ever executed. A process of its own, so that
PyTorch is neither needed nor imported where models run, and a hostile file ends nobody else.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

SUFFIXES = (".pt", ".pth", ".ckpt")
FACTS = "facts"  # name of what is plain, in the metadata of a safetensors file, as JSON
HEAD_BYTES = 1 << 24  # ours: what is looked at of a file to tell what it holds


class TorchFileError(ValueError):
    """A checkpoint of PyTorch that cannot be read."""


@dataclasses.dataclass(frozen=True)
class TorchFile:
    """What a checkpoint holds.

    Attributes:
        tensors: of the model, by their dotted names.
        facts: what lies beside the model, by its key: numbers, text, and lists and objects of
            them; None for all else, such as the state of an optimizer.
    """

    tensors: dict[str, np.ndarray]
    facts: dict[str, Any]


def is_torch_file(path: str | os.PathLike) -> bool:
    """Return whether a path is named as files of PyTorch are."""
    return pathlib.Path(path).suffix in SUFFIXES


def mentions(path: str | os.PathLike, text: str) -> bool:
    """Return whether a text, such as a part of a tensor's name, is in a file's list of contents.

    The list is searched as bytes, and not loaded. It is short: tensors lie elsewhere.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if n.rpartition("/")[2] == "data.pkl"]
            with archive.open(names[0] if names else "data.pkl") as file:
                head = file.read(HEAD_BYTES)
    except (OSError, KeyError, zipfile.BadZipFile, RuntimeError, NotImplementedError):
        try:
            with open(path, "rb") as file:  # of PyTorch before 1.6, where the list comes first
                head = file.read(HEAD_BYTES)
        except OSError:
            return False
    return text.encode() in head


def read_torch_file(
    path: str | os.PathLike, keys: tuple[str, ...] = ("state_dict",), *, timeout_s: float = 600.0
) -> TorchFile:
    """Read a ``.pt``, ``.pth`` or ``.ckpt`` file.

    Args:
        path: the file.
        keys: under which of them a training checkpoint has the model; a file without them is the
            model itself.
        timeout_s: how long reading may take.

    Raises:
        TorchFileError: PyTorch is not installed, or the file holds more than weights, or none.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "tensors.safetensors"
        module = "hypnos_jax.interop.torch_file"
        command = [sys.executable, "-m", module, os.fspath(path), str(out), *keys]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise TorchFileError(f"{path}: reading it took more than {timeout_s:g} s") from None
        if done.returncode or not out.is_file():
            reason = (done.stderr.strip().splitlines() or ["its reader was ended"])[-1]
            raise TorchFileError(f"{path} cannot be read as weights of PyTorch: {reason}")
        with safetensors.safe_open(out, framework="numpy") as file:
            facts = json.loads(file.metadata()[FACTS])
        return TorchFile(safetensors.numpy.load_file(out), facts)


def main(source: str, target: str, *keys: str) -> int:
    """Convert one file; the last line of stderr says why not."""
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed (pip install torch)", file=sys.stderr)
        return 1
    try:
        found = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # a stranger's file: any kind
        print(f"{type(error).__name__}: {str(error).splitlines()[0][:200]}", file=sys.stderr)
        return 1
    beside = {}
    if isinstance(found, dict):
        key = next((key for key in keys if key in found), None)
        if key is not None:
            beside = {str(name): x for name, x in found.items() if name != key}
            found = found[key]
    if not isinstance(found, dict) or not all(torch.is_tensor(x) for x in found.values()):
        print("it holds no table of tensors", file=sys.stderr)
        return 1
    tensors = {}
    for name, x in found.items():
        x = x.detach().to(torch.float32) if x.is_floating_point() else x.detach()
        # ascontiguousarray alone would give a scalar an axis.
        tensors[name] = np.ascontiguousarray(x.numpy()).reshape(x.shape)
    facts = json.dumps({name: x if _plain(x) else None for name, x in beside.items()})
    safetensors.numpy.save_file(tensors, target, metadata={FACTS: facts})
    return 0


def _plain(x) -> bool:
    if isinstance(x, dict):
        return all(isinstance(name, str) and _plain(value) for name, value in x.items())
    if isinstance(x, (list, tuple)):
        return all(map(_plain, x))
    return x is None or isinstance(x, (bool, int, float, str))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
