"""Stretches of bytes of an ArrayRecord file, read without the records around them.

ArrayRecord files are Riegeli files: blocks of 64 KiB that each begin with a header of 24 bytes,
wherever the records lie (github.com/google/riegeli, doc/riegeli_records_file_format.md). A place
counts the bytes between those headers, as the indices of :mod:`data_pipelines.store` do.
"""

import os

import numpy as np

BLOCK, BLOCK_HEADER = 2**16, 24
MOST_PIECES = 1024  # that a system call takes (POSIX's IOV_MAX on Linux and macOS)


class CutOffError(ValueError):
    """The file ends before the bytes that were asked for."""


def read_bytes(file, place: int, size: int) -> bytes:
    """Read ``size`` bytes at a place that counts what lies between the headers of the blocks.

    Raises:
        CutOffError: The file ends before that.
    """
    body = BLOCK - BLOCK_HEADER
    first = place + BLOCK_HEADER * (place // body + 1)
    last = place + size + BLOCK_HEADER * ((place + size - 1) // body + 1)
    data = os.pread(file.fileno(), last - first, first)
    if len(data) != last - first:
        raise CutOffError(f"{file.name} is shorter than when it was prepared")
    if len(data) == size:
        return data
    cut = BLOCK - first % BLOCK
    blocks = range(cut + BLOCK_HEADER, len(data), BLOCK)
    return data[:cut] + b"".join(data[at : at + body] for at in blocks)


def read_into(file, place: int, out: np.ndarray) -> None:
    """Read as :func:`read_bytes`, straight into a contiguous array: large crops are copied once.

    Raises:
        CutOffError: The file ends before that.
    """
    body, view, done = BLOCK - BLOCK_HEADER, memoryview(out).cast("B"), 0
    headers = bytearray(BLOCK_HEADER)
    while done < len(view):
        first = place + done + BLOCK_HEADER * ((place + done) // body + 1)
        stop = min(len(view), done + BLOCK - first % BLOCK)
        pieces, wanted = [view[done:stop]], stop - done
        while stop < len(view) and len(pieces) + 2 <= MOST_PIECES:
            piece = view[stop : stop + body]
            pieces += (headers, piece)
            stop, wanted = stop + len(piece), wanted + BLOCK_HEADER + len(piece)
        if os.preadv(file.fileno(), pieces, first) != wanted:
            raise CutOffError(f"{file.name} is shorter than when it was prepared")
        done = stop
