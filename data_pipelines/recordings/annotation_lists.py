"""Time-stamped annotation lists (TALs) of EDF+ and BDF+, read as writers write them.

Source: Kemp and Olivan 2003, European data format 'plus', section 2.2.4: `+onset`, optionally
`\\x15duration`, then texts that each end with `\\x14`; a zero byte ends the list. The standard
asks for a sign, a decimal point and no exponent, and allows any number of digits. Files are met
with decimal commas, exponents, blanks, no sign, and no zero byte between two lists; all of these
can be read in one way only.
"""

import dataclasses
import re
from fractions import Fraction

_MINUS = "\N{MINUS SIGN}".encode()
_AMOUNT = rb" *(?:[+-]|" + _MINUS + rb")? *(?:\d{1,30}(?:[.,]\d*)?|[.,]\d+)(?:[eE][+-]?\d{1,2})? *"
_LIST = re.compile(rb"(" + _AMOUNT + rb")(?:\x15(" + _AMOUNT + rb")?)?(?:\x14(.*))?", re.S)
# A list that begins within another's texts, because the zero byte between the two is missing.
_LIST_WITHIN = re.compile(rb"(?= *\+)" + _AMOUNT + rb"|" + _AMOUNT + rb"\x15(?:" + _AMOUNT + rb")?")
_TIME = re.compile(rb"\x00*(" + _AMOUNT + rb")(?:\x15(?:" + _AMOUNT + rb")?)?\x14(?:[\x14\x00]|$)")


@dataclasses.dataclass(frozen=True)
class AnnotationList:
    """Texts of one onset.

    Attributes:
        onset_s: Seconds from the header's start of the file, exact.
        duration_s: Seconds, or None where the list has none.
        texts: As written; without empty ones.
    """

    onset_s: Fraction
    duration_s: Fraction | None
    texts: list[bytes]


def record_time(block: bytes) -> Fraction | None:
    """Return when a record starts, by the first list of its annotation signal; None if unsaid."""
    match = _TIME.match(block)
    return None if match is None else _seconds(match[1])


def only_time(block: bytes) -> bool:
    """Whether a block holds no more than the time of its record, as most do."""
    filled = block.rstrip(b"\0")
    return filled.endswith(b"\x14\x14") and filled.count(b"\x14") == 2 and b"\0" not in filled


def read_lists(block: bytes) -> tuple[list[AnnotationList], int]:
    """Return the lists of an annotation signal in one record, and how many are not understood.

    Not understood is one that does not begin with a number of seconds, or whose duration is
    negative.
    """
    lists, unread = [], 0
    for chunk in block.split(b"\0"):
        if not chunk.strip():
            continue
        for one in _separate(chunk):
            match = _LIST.fullmatch(one)
            duration = _seconds(match[2]) if match and match[2] else None
            if match is None or duration is not None and duration < 0:
                unread += 1
                continue
            texts = [text for text in (match[3] or b"").split(b"\x14") if text]
            lists.append(AnnotationList(_seconds(match[1]), duration, texts))
    return lists, unread


def _separate(chunk: bytes) -> list[bytes]:
    """Return the lists of a chunk: one, or several where zero bytes are missing between them."""
    head, *texts = chunk.split(b"\x14")
    found = [[head]]
    for place, text in enumerate(texts):
        last = not any(texts[place + 1 :])
        if _LIST_WITHIN.fullmatch(text) and not last:
            found.append([])
        found[-1].append(text)
    return [b"\x14".join(parts) for parts in found]


def _seconds(text: bytes) -> Fraction:
    try:
        return Fraction(int(text))  # most are whole, and this takes a fifth of the time
    except ValueError:
        text = text.replace(_MINUS, b"-").replace(b",", b".").replace(b" ", b"")
        return Fraction(text.decode("ascii"))
