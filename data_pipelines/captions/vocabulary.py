"""A closed vocabulary of captions: words, punctuation and single digits as small integers.

It holds every word of ``wording`` and some more of questions, and does not change with the data. A
model's export carries its ``identity``, the hash of the list, and refuses another.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence

import numpy as np

from data_pipelines.captions import wording
from data_pipelines.captions.grammar import Caption

# A word may hold digits ("N2") and hyphens ("non-REM"); a number is one token a digit.
_TOKEN = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:-[A-Za-z0-9]+)*|\S")
_SPECIAL = ("<pad>", "<start>", "<end>", "<unknown>")
_PUNCTUATION = tuple(".,:;()%-!?")
_CLOSING = frozenset(".,:;)%!?")  # without a space before
_DIGITS = frozenset("0123456789")
# Words of questions, and of the official captions, that our wording happens not to use.
_MORE = (
    "a absent after along also an apnoea awake band beats before bpm bradycardia breathing by "
    "channel close containing deep delayed desaturation during EEG EMG event events finally "
    "fraction frequency has have heart high higher Hz in including increase interval is lastly "
    "level light low lower lying many minute modulation more movements ms muscle N1 N2 N3 near "
    "night not obstructive occurs one or oxygen phasic power present quiet rapid rate recorded "
    "reduced relative REM s saturation several shift short side signal sleep slow some spindle "
    "spindles SpO2 stable stage strong that the through time tonic two ultra-short value very "
    "wake where while with within without"
)
_EXAMPLES = (
    "The sleeper is in REM sleep.",
    "An oxygen desaturation runs from 3.0 to 21.5 seconds.",
    "No scored event.",
    "EEG C3: delta share of 61.20%.",
    "The body is supine.",
)
_MOST_UNKNOWN = 10  # words that are looked up: each costs a walk over the list
_LONGEST_WORD = 40


class Vocabulary:
    """The closed vocabulary.

    Attributes:
        words: all entries by id; the first four are no words.
        size: how many there are.
        pad, sot, eot, unknown: ids of padding (0), start, end, and any word that is not here.
        identity: SHA-256 of the list, in hexadecimal.
    """

    pad, sot, eot, unknown = range(4)

    def __init__(self) -> None:
        words = {}
        for word in itertools.chain(_tokens_of(wording), _MORE.split()):
            if word not in _DIGITS and word not in _PUNCTUATION:
                words.setdefault(word.lower(), word)
        listed = (words[word] for word in sorted(words))
        self.words = (*_SPECIAL, *sorted(_DIGITS), *_PUNCTUATION, *listed)
        self.size = len(self.words)
        self.identity = hashlib.sha256("\n".join(self.words).encode()).hexdigest()
        self._ids = {word.lower(): number for number, word in enumerate(self.words)}
        for name in _SPECIAL:
            del self._ids[name]

    def ids(self, text: str) -> list[int]:
        """Return the ids of a text, without start and end."""
        return [self._id(token) for token in _tokens(text)]

    def restored(self, text: str) -> str:
        """Return a text with the spaces and the capitals of captions."""
        known = ((token, self._id(token)) for token in _tokens(text))
        return _spaced([t if i == self.unknown else self.words[i] for t, i in known])

    def encode(self, text: Caption | str, length: int) -> np.ndarray:
        """Return int32 [length]: start, the words, end, padding.

        What is too long loses whole sentences at its end; where the first alone is too long, words
        of it. No number is cut.
        """
        if length < 3:
            raise ValueError(f"length is at least 3 tokens, got {length}")
        tokens = list(itertools.islice(_tokens(str(text)), length))
        if len(tokens) > length - 2:
            tokens = tokens[: _cut(tokens, length - 2)]
        ids = np.full(length, self.pad, np.int32)
        ids[: len(tokens) + 2] = [self.sot, *map(self._id, tokens), self.eot]
        return ids

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Return the text of ids up to the first end, spaced and with capitals as captions are."""
        words = []
        for number in np.asarray(ids).ravel().tolist():
            if number == self.eot:
                break
            if number not in (self.pad, self.sot):
                words.append(self.words[number] if 0 <= number < self.size else _SPECIAL[-1])
        return _spaced(words)

    def unknown_words(self, text: str) -> dict[str, tuple[str, ...]]:
        """Return words of a text that are not here (ten at most), each with the nearest that are.

        A query of such words is one that no caption could contain: ``examples`` has some that do.
        """
        unknown: dict[str, tuple[str, ...]] = {}
        for token in _tokens(text):
            word = token.lower()[:_LONGEST_WORD]
            if self._id(token) == self.unknown and word not in unknown:
                unknown[word] = tuple(
                    self.words[self._ids[near]]
                    for near in difflib.get_close_matches(word, list(self._ids), n=3)
                )
                if len(unknown) == _MOST_UNKNOWN:
                    break
        return unknown

    @property
    def examples(self) -> tuple[str, ...]:
        """Sentences as captions have them, to show to who asks in other words."""
        return _EXAMPLES

    def _id(self, token: str) -> int:
        return self._ids.get(token.lower(), self.unknown)


@functools.cache
def closed() -> Vocabulary:
    """Return the closed vocabulary; one object for a process."""
    return Vocabulary()


def _tokens(text: str) -> Iterator[str]:
    return (match.group() for match in _TOKEN.finditer(text))


def _tokens_of(module: object) -> Iterator[str]:
    """Yield the tokens of all tables of a module: strings, in tuples and dictionaries of them."""
    tables = [value for name, value in vars(module).items() if name.isupper() and name[0] != "_"]
    while tables:
        table = tables.pop()
        if isinstance(table, str):
            yield from _tokens(re.sub(r"\{[^}]*\}", " ", table))
        elif isinstance(table, dict):
            tables += list(table.values())
        else:
            tables += list(table)


def _is_point(tokens: Sequence[str], place: int) -> bool:
    """Whether a full stop is a decimal point: between digits."""
    around = tokens[place - 1 : place] + tokens[place + 1 : place + 2]
    return len(around) == 2 and all(token in _DIGITS for token in around)


def _cut(tokens: list[str], room: int) -> int:
    """Return how many tokens to keep: to the last end of a sentence, or of a word, in the room."""
    for place in range(room, 0, -1):
        if tokens[place - 1] == "." and not _is_point(tokens, place - 1):
            return place
    while room and _in_number(tokens, room):
        room -= 1
    return room


def _in_number(tokens: list[str], place: int) -> bool:
    """Whether a cut before a place would part a number."""
    inside = [token in _DIGITS or token == "." for token in tokens[place - 1 : place + 1]]
    return len(inside) == 2 and all(inside)


def _spaced(words: list[str]) -> str:
    """Join words: digits to numbers, punctuation to words, capitals where sentences begin."""
    parts: list[str] = []
    begins = True
    for place, word in enumerate(words):
        before = words[place - 1] if place else ""
        numeric = word in _DIGITS and (
            before in _DIGITS or (before == "." and place > 1 and words[place - 2] in _DIGITS)
        )
        if parts and not (word in _CLOSING or before == "(" or numeric):
            parts.append(" ")
        parts.append(word[0].upper() + word[1:] if begins else word)
        begins = word == "." and not _is_point(words, place)
    return "".join(parts)
