"""The grammar as a deterministic automaton over the closed vocabulary: what may come next.

A decoder that keeps to it writes captions that ``grammar.render`` could have written, in either
mode: numbers have their digits, times are 0 <= a < b <= 30.0 and in order, no channel and no
statistic comes twice, and the end comes after whole sentences alone.

A state is int32 [4]: node, digits of a time read so far, a register (the last start or time of a
change, in tenths of a second), and the sentences said so far (one bit each). ``allowed`` and
``advance`` work on NumPy and JAX arrays alike, given the automaton's ``tables`` as such arrays.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from data_pipelines.captions.phrase_graph import DONE, Clause, clauses_of, determinise
from data_pipelines.captions.vocabulary import Vocabulary, closed

Tables = Mapping[str, Any]
_DIGITS = 10  # characters of times: digits 0 to 9, then the decimal point
_POINT, _OTHER = 10, 11
MIN_ROOM = 16  # words: the shortest caption of any modality has fewer
_LONGEST_TIME = 4  # words: "29.9"
_FAR = 10_000  # words to the end, where it cannot be reached
_LAST = 300  # tenths of a second
_COMPLETE = 1_000  # added to the value of a time whose last digit was read
_START, _STOP, _AT = 1, 2, 3  # kinds of times: of an interval, and of a change


class Automaton:
    """The automaton of one modality.

    Attributes:
        tables: arrays by name, with N nodes and V words:
            ``next`` int16 [N, V]: the node after a word; -1 where it may not follow.
            ``possible`` bool [N, 2**bits]: whether a node may be entered, by what is said already.
            ``to_end`` int16 [N, 2**bits]: the fewest words from a node to the end, by what is said.
            ``said`` int32 [N]: bits that a node adds: it ends a sentence.
            ``clears`` bool [N]: whether a node sets the register to 0.
            ``kind`` int8 [N]: 1, 2 or 3 where a time is read: a start, a stop, a change.
            ``after`` int16 [N]: the node after that time.
            ``character`` int8 [V]: 0 to 9, 10 the point, 11 any other word.
            ``time_next`` int16 [64, 12]: digits read, and the next character -> digits read; 1,000
            and more: the time in tenths is complete.
            ``time_allowed`` bool [64, 302, 2, 12]: digits read, least value, whether 30.0 is
            allowed -> whether a character may follow.

    Args:
        modality: one of ``facts.MODALITIES``.
        vocabulary: whose ids the words have.
    """

    def __init__(self, modality: str, vocabulary: Vocabulary | None = None) -> None:
        self._vocabulary = vocabulary or closed()
        self.tables = _tables(clauses_of(modality), self._vocabulary)

    def start(self, *shape: int) -> np.ndarray:
        """Return int32 [*shape, 4]: the state before the first word (which follows the start)."""
        return np.zeros((*shape, 4), np.int32)

    def accepts(self, text: str) -> bool:
        """Whether a text is a caption of this modality, whole."""
        state = self.start()
        for word in (*self._vocabulary.ids(text), self._vocabulary.eot):
            if not allowed(self.tables, state)[word]:
                return False
            state = advance(self.tables, state, np.int32(word))
        return True


def allowed(tables: Tables, state: Any, room: Any | None = None) -> Any:
    """Return bool [..., V]: the words that may follow a state int32 [..., 4].

    After the end only padding may follow. There is always a word that may.

    Args:
        tables: of the automaton.
        state: int32 [..., 4].
        room: int32 [...]: how many words more there is room for, the end included. Words after
            which the caption could not be ended in it are not allowed then. At the start it must
            be ``MIN_ROOM`` at least.
    """
    xp = state.__array_namespace__()
    node, digits, register, said = (state[..., place] for place in range(4))
    following = tables["next"][node]
    words = (following >= 0) & tables["possible"][following, said[..., None]]
    if room is not None:
        ends = tables["to_end"][following, said[..., None] | tables["said"][following]]
        words = words & (ends < room[..., None])
    kind = tables["kind"][node]
    least = register + (kind == _STOP)
    times = tables["time_allowed"][digits, least, (kind != _START).astype("int32")]
    return xp.where((kind > 0)[..., None], times[..., tables["character"]], words)


def advance(tables: Tables, state: Any, word: Any) -> Any:
    """Return the state int32 [..., 4] after a word int32 [...] that ``allowed`` allows."""
    xp = state.__array_namespace__()
    node, digits, register, said = (state[..., place] for place in range(4))
    kind = tables["kind"][node]
    reads = kind > 0
    after_digit = tables["time_next"][digits, tables["character"][word]].astype("int32")
    complete = reads & (after_digit >= _COMPLETE)
    following = tables["next"][node, word].astype("int32")
    after_time = xp.where(complete, tables["after"][node].astype("int32"), node)
    node = xp.where(reads, after_time, following)
    register = xp.where(complete & (kind != _STOP), after_digit - _COMPLETE, register)
    register = xp.where(tables["clears"][node], 0, register)
    digits = xp.where(reads & ~complete, after_digit, 0)
    return xp.stack([node, digits, register, said | tables["said"][node]], axis=-1).astype("int32")


@functools.cache
def automaton(modality: str) -> Automaton:
    """Return the automaton of a modality over the closed vocabulary; one object for a process."""
    return Automaton(modality)


def _tables(clauses: tuple[Clause, ...], vocabulary: Vocabulary) -> dict[str, np.ndarray]:
    nodes = determinise(clauses)
    masks = np.arange(1 << max(clause.says for clause in clauses).bit_length())
    count = len(nodes) + 2  # the end, and a last one that -1 stands for: nothing follows it
    done = count - 2
    tables = {
        "next": np.full((count, vocabulary.size), -1, np.int16),
        "possible": np.zeros((count, len(masks)), bool),
        "said": np.zeros(count, np.int32),
        "clears": np.zeros(count, bool),
        "kind": np.zeros(count, np.int8),
        "after": np.zeros(count, np.int16),
        "character": np.full(vocabulary.size, _OTHER, np.int8),
    }
    kinds = {"{a}": _START, "{b}": _STOP, "{at}": _AT}
    for number, node in enumerate(nodes):
        for clause in node.clauses:
            tables["possible"][number] |= (masks & clause.blocked_by) == 0
        for label, following in node.following.items():
            if label in kinds:
                tables["kind"][number] = kinds[label]
                tables["after"][number] = following
            elif label == DONE:
                tables["next"][number, vocabulary.eot] = done
            else:
                tables["next"][number, _word(vocabulary, label)] = following
        if node.ends is not None:
            tables["said"][number] = node.ends.says
            tables["clears"][number] = node.ends.clears
    tables["next"][done, vocabulary.pad] = done
    missing = functools.reduce(
        np.logical_or,
        (((masks & c.says) != 0) & ((masks & c.needs) != c.needs) for c in clauses),
    )
    tables["possible"][done] = ~missing
    tables["to_end"] = _to_end(tables, done)
    characters = [_word(vocabulary, character) for character in "0123456789."]
    tables["character"][characters] = np.arange(11)
    tables["time_next"], tables["time_allowed"] = _times()
    return tables


def _to_end(tables: Tables, done: int) -> np.ndarray:
    """Return ``to_end``: shortest paths over nodes and what is said, by relaxing all edges."""
    sources, words = np.nonzero(tables["next"] >= 0)
    timed = np.flatnonzero(tables["kind"])
    sources = np.concatenate([sources, timed])
    targets = np.concatenate([tables["next"][sources[: len(words)], words], tables["after"][timed]])
    edges = np.unique(np.stack([sources, targets], 1), axis=0)
    sources, targets = edges[edges[:, 0] != done].T
    cost = np.where(tables["kind"][sources] > 0, _LONGEST_TIME, 1)[:, None]
    firsts = np.flatnonzero(np.diff(sources, prepend=-1))
    masks = np.arange(tables["possible"].shape[1])
    said = masks | tables["said"][targets][:, None]
    enters = tables["possible"][targets]
    to_end = np.full(tables["possible"].shape, _FAR, np.int16)
    to_end[done] = 0
    while True:
        ways = np.where(enters, to_end[targets[:, None], said] + cost, _FAR)
        shorter = to_end.copy()
        shorter[sources[firsts]] = np.minimum.reduceat(ways, firsts)
        if (shorter == to_end).all():
            return to_end
        to_end = shorter


def _word(vocabulary: Vocabulary, text: str) -> int:
    (number,) = vocabulary.ids(text)
    if number == vocabulary.unknown:
        raise ValueError(f"the vocabulary lacks {text!r}, which the grammar says")
    return number


@functools.cache
def _times() -> tuple[np.ndarray, np.ndarray]:
    """Return ``time_next`` and ``time_allowed``: how times of 0.0 to 30.0 are read."""
    prefixes = ["", *map(str, range(31)), *(f"{whole}." for whole in range(31))]
    places = {prefix: place for place, prefix in enumerate(prefixes)}
    time_next = np.zeros((64, 12), np.int16)
    values = np.zeros((64, 12, _LAST + 1), bool)  # that may still come of a prefix and a character
    for place, prefix in enumerate(prefixes):
        for character in range(11):
            text = prefix + "0123456789."[character]
            for value in range(_LAST + 1):
                values[place, character, value] = f"{value / 10:.1f}".startswith(text)
            if text in places:
                time_next[place, character] = places[text]
            elif values[place, character].any():
                time_next[place, character] = _COMPLETE + round(float(text) * 10)
    # A value of at least so much, up to 29.9 or to 30.0.
    allowed_times = np.zeros((64, _LAST + 2, 2, 12), bool)
    for last in (0, 1):
        within = values[..., : _LAST + last]
        any_above = np.flip(np.maximum.accumulate(np.flip(within, -1), -1), -1)
        allowed_times[:, : _LAST + last, last] = any_above.transpose(0, 2, 1)
    return time_next, allowed_times
