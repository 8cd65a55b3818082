"""Reading large safetensors files in little more memory than their tensors take."""

from __future__ import annotations

import os

import numpy as np
import safetensors

HELD_BYTES = 1 << 27  # ours: what may have been read of a mapped file before its pages are let go
ALIGNMENT = 64  # what XLA wants of an array that it is to use where it lies


class TensorFile:
    """A safetensors file, read tensor by tensor.

    The file is mapped, and pages of it that were read count as this process's memory until it is
    closed; so it is closed and opened again now and then.

    Attributes:
        names: of its tensors.
        metadata: its text, name -> value.
    """

    def __init__(self, path: str | os.PathLike):
        """Open a file.

        Raises:
            safetensors.SafetensorError: it is damaged or no safetensors file.
            OSError: it cannot be read.
        """
        self._path = path
        self._open()
        self.names, self.metadata = set(self._file.keys()), self._file.metadata() or {}

    def _open(self):
        self._file, self._read = safetensors.safe_open(self._path, framework="numpy"), 0

    def get(self, name: str) -> np.ndarray:
        """Return one tensor, where JAX on a CPU can use it without a copy."""
        tensor = self._file.get_tensor(name)
        self._read += tensor.nbytes
        if self._read > HELD_BYTES:
            self._open()
        out = aligned_empty(tensor.shape, tensor.dtype)
        out[...] = tensor
        return out


def aligned_empty(shape: tuple[int, ...], dtype=np.float32) -> np.ndarray:
    """Return an array of no particular values that JAX on a CPU can use without a copy."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)
