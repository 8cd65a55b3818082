"""The sentences of the grammar as a graph of words, made deterministic.

An edge has a word in lower case, a punctuation mark, a digit, or a time: ``{a}`` and ``{b}`` of an
interval, ``{at}`` of a change. ``automaton`` makes tables of it.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Mapping

from data_pipelines.captions import wording
from data_pipelines.captions.facts import SLOTS, TRACKS
from data_pipelines.captions.grammar import HEDGED
from data_pipelines.captions.phrases import tokens

DONE = "<end>"  # the edge from the end of a sentence to the end of the caption
_TIMES = ("{a}", "{b}", "{at}")
_PART = re.compile(r"(\{[^}]*\})")


@dataclasses.dataclass(eq=False)
class _Place:
    """A place in a sentence: edges to other places, some without a word."""

    edges: list[tuple[str | None, _Place]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(eq=False)
class Clause:
    """A kind of sentence.

    Attributes:
        begin, end: places before its first word and after its full stop.
        says: its bit.
        blocked_by: bits of sentences after which it may not come.
        needs: bits of sentences that a caption with it must have.
        clears: whether times of the next sentence may be earlier than its own.
    """

    begin: _Place
    end: _Place
    says: int
    blocked_by: int
    needs: int = 0
    clears: bool = True


@dataclasses.dataclass
class Node:
    """A node of the deterministic graph: a word leads to one node.

    Attributes:
        following: edge -> number of the node.
        clauses: sentences that it may be in the middle or at the end of; all of them at the start.
        ends: the sentence that ends here.
    """

    following: dict[str, int]
    clauses: tuple[Clause, ...]
    ends: Clause | None


def clauses_of(modality: str) -> tuple[Clause, ...]:
    """Return the sentences that the caption of a modality is made of."""
    if modality == "stage_event":
        bodies = _stage_event()
    else:
        bodies = []
        for channel in dict.fromkeys(
            slot.channel for slot in SLOTS.values() if slot.modality == modality
        ):
            bodies.append(_numbers(channel))
            if channel in TRACKS:
                bodies.append(_trends(channel))
        if modality == "position_muscle":
            bodies.append(_position())
    bodies.append(_texts([wording.EMPTY[modality]]))
    every = (1 << len(bodies)) - 1
    empty = 1 << (len(bodies) - 1)
    clauses = []
    for number, (begin, end) in enumerate(bodies):
        stop = _Place()
        end.edges.append((".", stop))
        says = 1 << number
        blocked_by = every if says == empty else says | empty
        clauses.append(Clause(begin, stop, says, blocked_by))
    if modality == "stage_event":
        _order_stage_event(clauses)
    return tuple(clauses)


def determinise(clauses: Iterable[Clause]) -> list[Node]:
    """Return nodes of the deterministic graph, the start first (subset construction).

    Raises:
        ValueError: two kinds of sentences have the same words, or a time and a digit may stand at
            one place.
    """
    clauses = tuple(clauses)
    owners: dict[_Place, Clause] = {}
    for clause in clauses:
        for place in _reachable(clause.begin):
            owners[place] = clause
    begins = {clause.begin for clause in clauses}
    ends = {clause.end: clause for clause in clauses}
    root = _closure(begins)
    numbers = {root: 0}
    nodes: list[Node] = []
    waiting = [root]
    for places in waiting:
        found = _edges(places)
        ended = [ends[place] for place in places if place in ends]
        if ended:
            for label, following in _edges(root).items():
                found.setdefault(label, set()).update(following)
        if len(ended) > 1 or (len(found) > 1 and any(time in found for time in _TIMES)):
            raise ValueError(f"the wording is ambiguous before {', '.join(sorted(found))}")
        edges: dict[str, int] = {}
        for label in sorted(found):
            target = _closure(found[label])
            if target not in numbers:
                numbers[target] = len(numbers)
                waiting.append(target)
            edges[label] = numbers[target]
        if ended:
            edges[DONE] = -1
        within = clauses if places == root else {owners[place]: None for place in places}
        nodes.append(Node(edges, tuple(within), ended[0] if ended else None))
    return nodes


def _edges(places: Iterable[_Place]) -> dict[str, set[_Place]]:
    found: dict[str, set[_Place]] = {}
    for place in places:
        for label, following in place.edges:
            if label is not None:
                found.setdefault(label, set()).add(following)
    return found


def _closure(places: Iterable[_Place]) -> frozenset[_Place]:
    """Return places and those that they lead to without a word."""
    reached = dict.fromkeys(places)
    waiting = list(reached)
    for place in waiting:
        for label, following in place.edges:
            if label is None and following not in reached:
                reached[following] = None
                waiting.append(following)
    return frozenset(reached)


def _reachable(begin: _Place) -> list[_Place]:
    reached = {begin: None}
    waiting = [begin]
    for place in waiting:
        for _, following in place.edges:
            if following not in reached:
                reached[following] = None
                waiting.append(following)
    return waiting


Body = tuple[_Place, _Place]
Slot = Callable[[_Place, _Place], None]


def _say(begin: _Place, text: str, end: _Place, slots: Mapping[str, Slot] | None = None) -> None:
    """Add a path of the words of a text; what stands in braces is a time or one of the slots."""
    place = begin
    for part in _PART.split(text.lower()):
        if slots and part in slots:
            following = _Place()
            slots[part](place, following)
            place = following
            continue
        for word in [part] if part in _TIMES else tokens(part):
            for letter in word if word.isdecimal() else [word]:
                following = _Place()
                place.edges.append((letter, following))
                place = following
    place.edges.append((None, end))


def _any(texts: Iterable[str], slots: Mapping[str, Slot] | None = None) -> Slot:
    def add(begin: _Place, end: _Place) -> None:
        for text in texts:
            _say(begin, text, end, slots)

    return add


def _texts(texts: Iterable[str], slots: Mapping[str, Slot] | None = None) -> Body:
    body = _Place(), _Place()
    _any(texts, slots)(*body)
    return body


def _numbers(channel: str) -> Body:
    """Return the sentence of a channel's statistics: any of them, in their order."""
    begin, end = _Place(), _Place()
    slots = [name for name, slot in SLOTS.items() if slot.channel == channel and slot.printed]
    labels = [_Place() for _ in slots]
    lead = _Place()
    _any(wording.CHANNEL_LEADS, {"{channel}": _any(wording.CHANNELS[channel])})(begin, lead)
    lead.edges += [(None, label) for label in labels]
    for number, (name, label) in enumerate(zip(slots, labels, strict=True)):
        relation, value, said, joined = (_Place() for _ in range(4))
        _any(wording.statistic_labels(name))(label, relation)
        _any(wording.RELATIONS)(relation, value)
        _value(name, value, said)
        said.edges.append((None, end))
        if labels[number + 1 :]:
            _any(wording.JOINTS)(said, joined)
            joined.edges += [(None, later) for later in labels[number + 1 :]]
    return begin, end


def _value(name: str, begin: _Place, end: _Place) -> None:
    """Add a number with its unit: as many decimals as the slot has, or a hedged integer."""
    slot = SLOTS[name]
    unit, point, hedge = _Place(), _Place(), _Place()
    _say(unit, slot.unit, end)
    _integer(begin, point, decimals=slot.decimals, unit=unit, percent=slot.unit == "%")
    if slot.modality in HEDGED:
        _any(wording.HEDGES)(begin, hedge)
        _integer(hedge, unit, decimals=0, unit=unit, percent=slot.unit == "%")


def _integer(begin: _Place, point: _Place, *, decimals: int, unit: _Place, percent: bool) -> None:
    """Add 0 to 999, or to 100, with decimals; no zero leads, and 100 % has no digit but zeros."""
    first, second, third = _Place(), _Place(), _Place()
    ends = [second, third]
    for digit in range(10):
        begin.edges.append((str(digit), first if digit else third))
        first.edges.append((str(digit), second))
        if not percent:
            second.edges.append((str(digit), third))
    ends.append(first)
    for place in ends:
        _fraction(place, "0123456789", decimals, unit)
    if percent:
        place = begin
        for digit in "100":
            following = _Place()
            place.edges.append((digit, following))
            place = following
        _fraction(place, "0", decimals, unit)


def _fraction(begin: _Place, digits: str, decimals: int, end: _Place) -> None:
    place = begin
    for number in range(decimals + 1 if decimals else 0):
        following = _Place()
        place.edges += [(digit, following) for digit in (digits if number else ".")]
        place = following
    place.edges.append((None, end))


def _trends(track: str) -> Body:
    begin, item, said = _Place(), _Place(), _Place()
    channel = _any(wording.CHANNELS[track])
    _any(wording.TREND_LEADS, {"{channel}": channel})(begin, item)
    noun, times = _Place(), _Place()
    _any(itertools.chain(*wording.DIRECTIONS.values()))(item, noun)
    _any(wording.TREND_NOUNS)(noun, times)
    _say(times, wording.TREND_TIMES, said)
    _any(wording.TREND_JOINTS)(said, item)
    return begin, said


def _position() -> Body:
    """Return the sentence of the position; where it is not known, there is a change."""
    begin, said, unknown = _Place(), _Place(), _Place()
    names = [n for position, some in wording.POSITIONS.items() if position for n in some]
    named = {"{position}": _any(names)}
    _any(wording.POSITION_SENTENCES, named)(begin, said)
    nameless = {"{position}": _any(wording.POSITIONS[None])}
    _any(wording.POSITION_SENTENCES, nameless)(begin, unknown)
    for place in (said, unknown):
        _any(wording.POSITION_CHANGES, named)(place, said)
    return begin, said


def _stage_event() -> list[Body]:
    """Return the sentences: awake, asleep, an event, no event (in any state, asleep, awake)."""
    awake = [name for stage, some in wording.STAGES.items() if stage == "W" for name in some]
    asleep = [name for stage, some in wording.STAGES.items() if stage != "W" for name in some]
    bodies = [_texts(wording.STAGE_SENTENCES, {"{stage}": _any(some)}) for some in (awake, asleep)]
    begin, end, said, both = (_Place() for _ in range(4))
    names = wording.EVENTS.values()
    articled = [wording.with_article(name) for name in names]
    _any(wording.EVENT_SENTENCES, {"{event}": _any(names), "{an event}": _any(articled)})(
        begin, said
    )
    said.edges.append((None, end))
    _any(f", {words}" for words in wording.AFTER)(said, end)
    for words in wording.BEFORE:
        _say(said, f", {words}", both)
    both.edges.append((None, end))
    _any([f"and {words}" for words in wording.AFTER])(both, end)
    bodies.append((begin, end))
    for texts in (wording.NO_EVENT, wording.NO_EVENT_ASLEEP, wording.NO_EVENT_AWAKE):
        bodies.append(_texts(texts))
    return bodies


def _order_stage_event(clauses: list[Clause]) -> None:
    """Say which of the sentences exclude or need each other."""
    awake, asleep, event, no_event, undisturbed, quiet, empty = clauses
    nothing = no_event.says | undisturbed.says | quiet.says
    awake.blocked_by |= asleep.says | undisturbed.says
    asleep.blocked_by |= awake.says | quiet.says
    event.blocked_by = nothing | empty.says
    event.clears = False
    for clause in (no_event, undisturbed, quiet):
        clause.blocked_by |= nothing | event.says
    undisturbed.blocked_by |= awake.says
    undisturbed.needs = asleep.says
    quiet.blocked_by |= asleep.says
    quiet.needs = awake.says
    awake.clears = asleep.clears = False
