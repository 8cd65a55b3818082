"""Tensors of a PyTorch checkpoint -> a safetensors file, in a process of its own.

``python -m hypnos_jax.interop.torch_file IN OUT`` loads weights only: nothing that the file may
hold besides tensors and plain containers is ever executed. A process of its own, so that PyTorch
is neither needed nor imported where models run, and a hostile file ends nobody else.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import safetensors.numpy


class TorchFileError(ValueError):
    """A checkpoint of PyTorch that cannot be read."""


def read_torch_file(path: str | os.PathLike, *, timeout_s: float = 600.0) -> dict[str, np.ndarray]:
    """Return every tensor of a ``.pt``, ``.pth`` or ``.ckpt`` file by its dotted name.

    Of a training checkpoint, what is under ``state_dict``.

    Args:
        path: the file.
        timeout_s: how long reading may take.

    Raises:
        TorchFileError: PyTorch is not installed, or the file holds more than weights, or none.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "tensors.safetensors"
        command = [sys.executable, "-m", "hypnos_jax.interop.torch_file", os.fspath(path), str(out)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise TorchFileError(f"{path}: reading it took more than {timeout_s:g} s") from None
        if done.returncode or not out.is_file():
            reason = (done.stderr.strip().splitlines() or ["its reader was ended"])[-1]
            raise TorchFileError(f"{path} cannot be read as weights of PyTorch: {reason}")
        return safetensors.numpy.load_file(out)


def main(source: str, target: str) -> int:
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
    found = found.get("state_dict", found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not all(torch.is_tensor(x) for x in found.values()):
        print("it holds no table of tensors", file=sys.stderr)
        return 1
    tensors = {}
    for name, x in found.items():
        x = x.detach().to(torch.float32) if x.is_floating_point() else x.detach()
        tensors[name] = np.ascontiguousarray(x.numpy())
    safetensors.numpy.save_file(tensors, target)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
