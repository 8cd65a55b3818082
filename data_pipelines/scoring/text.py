"""Text of scoring files: the encodings, tables and numbers that exports come in."""

import csv
import math
import pathlib
import re

from data_pipelines.scoring.record import ScoringError

_NUMBER = re.compile(r"[+-]?(\d{1,15}([.,]\d{0,40})?|[.,]\d{1,40})([eE][+-]?\d{1,3})?")
_DELIMITERS = "\t;,"

MAX_BYTES = 64 * 2**20
"""A scoring file is never larger: a week of dense events is a few MB."""


def read_bytes(path) -> bytes:
    """Return the content of a file of at most `MAX_BYTES`.

    Raises:
        ScoringError: it is larger, not a plain file, or cannot be read.
    """
    path = pathlib.Path(path)
    try:
        if not path.is_file():
            kind = "a folder" if path.is_dir() else "not there" if not path.exists() else "no file"
            raise ScoringError(f"{path}: is {kind}; expected a scoring file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ScoringError(f"{path}: cannot be read ({error.strerror})") from None
    if len(data) > MAX_BYTES:
        raise ScoringError(f"{path}: more than {MAX_BYTES // 2**20} MiB, too large for a scoring")
    return data


def decode(data: bytes) -> str:
    """Return text in UTF-8, UTF-16 (with its mark, or told by its zero bytes) or Windows-1252."""
    return data.decode(encoding_of(data), "replace").removeprefix("\ufeff")


def encoding_of(data: bytes) -> str:
    """Return the name of the encoding that :func:`decode` takes bytes to be in."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    if len(data) > 3:
        for first, name in ((1, "utf-16-le"), (0, "utf-16-be")):
            half = data[first:200:2]
            if half.count(0) > len(half) // 2:
                return name
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        # Of a file that was not read to its end, the last letter may be cut.
        if error.end < len(data) or error.reason != "unexpected end of data":
            return "cp1252"
    return "utf-8"


def number_of(text: str) -> float | None:
    """Return the number that `text` is, with a point or a comma; None if it is none.

    `nan` and `inf` come back as such, for the bounds to refuse by name.
    """
    text = text.strip()
    if re.fullmatch(r"[+-]?(nan|inf|infinity)", text, re.IGNORECASE):
        return math.nan if "nan" in text.casefold() else math.inf
    return float(text.replace(",", ".")) if _NUMBER.fullmatch(text) else None


def table_of(text: str, path) -> list[list[str]]:
    """Return the rows of a table whose delimiter is the commonest of tab, `;` and `,`.

    Raises:
        ScoringError: it cannot be split into fields.
    """
    lines = [line for line in text.replace("\0", "").splitlines() if line.strip()]
    sample = lines[:50]
    delimiter = max(_DELIMITERS, key=lambda mark: sum(mark in line for line in sample))
    try:
        return [[field.strip() for field in row] for row in csv.reader(lines, delimiter=delimiter)]
    except csv.Error:
        raise ScoringError(f"{path}: a line of the table cannot be split into fields") from None
