"""Facts of captions: the inverse of ``grammar``, which also reads the official wording.

It reads our captions, those of SleepLM (Xu et al. 2026), also as their tokenizer spells them ("3 9
. 0 5 %"), and whatever a model makes of either. One pass over the tokens; nothing is executed,
nothing raises, and what is not understood is handed back.
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata

from data_pipelines.captions import phrases
from data_pipelines.captions.facts import (
    EPOCH_S,
    SLOTS,
    TRACKS,
    Facts,
    Interval,
    PositionChange,
)

LIMIT = 100_000  # characters that are read: five captions have about 3,000
_LONGEST_NUMBER = 12  # characters
_SPACED_NUMBER = re.compile(r"(?<![a-z0-9])[0-9](?: ?[0-9])*(?: ?\. ?[0-9](?: ?[0-9])*)?")
_SPACED_HYPHEN = re.compile(r"(?<=[a-z0-9]) - (?=[a-z0-9])")
_SPACED_NAME = re.compile(r"(?<![a-z0-9])(n|c|e|spo|sao|(?<=-)a) ([1-4])(?![a-z0-9])")
_DIGITS = frozenset("0123456789")
_STOPS = frozenset(".!?")


@dataclasses.dataclass(frozen=True)
class Parsed:
    """What a text says.

    Attributes:
        facts: read from it; ``numbers`` are as printed.
        unread: pieces of the text that mean nothing here: unknown words, numbers that belong to
            nothing, events without times, and what says otherwise than the text before it.
    """

    facts: Facts
    unread: tuple[str, ...]


def parse(text: str) -> Parsed:
    """Read a caption of one modality, of several, or anything else.

    Text after the first 100,000 characters is not read.
    """
    reader = _Reader()
    head = unicodedata.normalize("NFKC", text[:LIMIT]).lower()[:LIMIT]
    head = _SPACED_HYPHEN.sub("-", head)
    head = _SPACED_NAME.sub(r"\1\2", head)
    head = _SPACED_NUMBER.sub(lambda match: match.group().replace(" ", ""), head)
    words = phrases.tokens(head)
    place = 0
    while place < len(words):
        word = words[place]
        if word in _STOPS:
            reader.end_sentence()
            place += 1
            continue
        for length in range(min(phrases.LONGEST.get(word, 0), len(words) - place), 0, -1):
            symbols = phrases.PHRASES.get(tuple(words[place : place + length]))
            if symbols:
                said = " ".join(words[place : place + length])
                for kind, value in symbols:
                    reader.take(kind, value, said)
                place += length
                break
        else:
            if word[0] in _DIGITS:
                reader.number(word)
            else:
                reader.leave(word)
            place += 1
    reader.end_sentence()
    if len(text) > LIMIT:
        reader.unread.append([text[LIMIT:]])
    return Parsed(reader.facts(), tuple(" ".join(piece) for piece in reader.unread))


def meaning(facts: Facts) -> str:
    """Return the key of equal meaning: the stage and the kinds of events, for example
    "N2: Arousal, Hypopnea"."""
    if facts.events is None:
        events = "?"
    else:
        events = ", ".join(sorted({event.kind for event in facts.events})) or "no event"
    return f"{facts.stage or '?'}: {events}"


class _Reader:
    """The state of reading: what is known so far, and of the sentence at hand."""

    def __init__(self) -> None:
        self.unread: list[list[str]] = []
        self._numbers: dict[str, float] = {}
        self._trends: dict[str, list[Interval]] = {}
        self._position: str | None = None
        self._positioned = False
        self._changes: list[PositionChange] = []
        self._stage: str | None = None
        self._events: list[Interval] | None = None
        self._channel: str | None = None
        self._begin()

    def _begin(self) -> None:
        self._joins = False  # whether the next unread word belongs to the last piece
        self._statistic: str | None = None
        self._direction: str | None = None
        self._said: list[tuple[str, str | None, str]] = []
        self._times: list[tuple[float, str]] = []  # that belong to no statistic
        self._courses: list[tuple[str | None, str, list[tuple[float, str]]]] = []

    def leave(self, words: str) -> None:
        """Note words that are not understood, in one piece with those just before them."""
        if self._joins:
            self.unread[-1].append(words)
        else:
            self.unread.append([words])
        self._joins = True

    def take(self, kind: str, value: str | None, words: str) -> None:
        """Take a phrase that is known."""
        self._joins = False
        if kind == phrases.CHANNEL:
            self._channel = value
        elif kind == phrases.STATISTIC:
            self._statistic, self._direction = value, None
        elif kind == phrases.DIRECTION:
            self._statistic, self._direction = None, value
            self._courses.append((self._channel, str(value), []))
        elif kind == phrases.STAGE and self._stage in (None, value):
            self._stage = value
        elif kind == phrases.STAGE:
            self.leave(words)
        if kind not in (phrases.STATISTIC, phrases.STAGE, phrases.FILLER, phrases.DIRECTION):
            self._said.append((kind, value, words))

    def number(self, text: str) -> None:
        """Take a number: of the statistic before it, or a time."""
        self._joins = False
        if len(text) > _LONGEST_NUMBER:
            self.leave(text[:_LONGEST_NUMBER])
            return
        value = float(text)
        if self._direction:
            times = self._courses[-1][2]
            times.append((value, text))
            if len(times) == 2:
                self._direction = None
        elif self._statistic:
            slot = f"{self._channel}.{self._statistic}"
            slot = slot if slot in SLOTS else phrases.SLOT_OF.get(self._statistic, "")
            if slot and slot not in self._numbers:
                self._numbers[slot] = value
            else:
                self.leave(f"{self._statistic} {text}")
            self._statistic = None
        else:
            self._times.append((value, text))

    def end_sentence(self) -> None:
        """Make facts of what the sentence said, and begin another."""
        self._joins = False
        kinds = {kind for kind, _, _ in self._said}
        self._read_trends()
        events = [(value, words) for kind, value, words in self._said if kind == phrases.EVENT]
        if events and self._times:
            self._read_events(events)
        elif phrases.NO in kinds and (events or phrases.OCCURRENCE in kinds):
            self._events = [] if self._events is None else self._events
        else:
            for _, words in events:
                self.leave(words)
        sides = (phrases.POSITION, phrases.SIDE) if phrases.CUE in kinds else (phrases.POSITION,)
        places = [(value, words) for kind, value, words in self._said if kind in sides]
        if not events and places:
            self._read_position(places)
        for kind, _, words in self._said:
            if kind == phrases.SIDE and kind not in sides:
                self.leave(words)
        for _, text in self._times:
            self.leave(text)
        self._begin()

    def _read_trends(self) -> None:
        named = [value for kind, value, _ in self._said if kind == phrases.CHANNEL]
        later = next((channel for channel in named if channel in TRACKS), None)
        for channel, direction, times in self._courses:
            track = channel if channel in TRACKS else later
            interval = _interval(times, direction)
            if track and interval:
                self._trends.setdefault(track, []).append(interval)
            else:
                self.leave(" ".join((direction, *(text for _, text in times))))

    def _read_events(self, events: list[tuple[str | None, str]]) -> None:
        flags = {value for kind, value, _ in self._said if kind == phrases.FLAG}
        for kind, words in events:
            times, self._times = self._times[:2], self._times[2:]
            interval = _interval(times, str(kind))
            if interval:
                interval = dataclasses.replace(
                    interval, before="before" in flags, after="after" in flags
                )
                self._events = [*(self._events or ()), interval]
            else:
                self.leave(" ".join((words, *(text for _, text in times))))

    def _read_position(self, places: list[tuple[str | None, str]]) -> None:
        if self._positioned:
            self.leave(" ".join(words for _, words in places))
            return
        self._positioned, self._position = True, places[0][0]
        for position, words in places[1:]:
            times, self._times = self._times[:1], self._times[1:]
            if times and times[0][0] <= EPOCH_S and position:
                self._changes.append(PositionChange(times[0][0], position))
            elif position != self._position or times:
                self.leave(" ".join((words, *(text for _, text in times))))

    def facts(self) -> Facts:
        """Return all that was read; intervals and changes by time."""
        trends = {
            track: tuple(sorted(self._trends[track], key=lambda item: item.start_s))
            for track in TRACKS
            if track in self._trends
        }
        events = self._events
        return Facts(
            numbers=self._numbers,
            trends=trends,
            position=self._position,
            position_changes=tuple(sorted(self._changes, key=lambda change: change.at_s)),
            stage=self._stage,
            events=None if events is None else tuple(sorted(events, key=lambda e: e.start_s)),
        )


def _interval(times: list[tuple[float, str]], kind: str) -> Interval | None:
    if len(times) != 2 or not 0 <= times[0][0] < times[1][0] <= EPOCH_S:
        return None
    return Interval(times[0][0], times[1][0], kind)
