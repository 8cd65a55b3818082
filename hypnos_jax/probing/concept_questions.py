"""Questions about a concept of captions: which epochs have it, and sentences with and without it.

A concept is what ``grammar.render`` can hold out: a statistic, a number, a channel, an event, a
position or a stage.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from data_pipelines.captions import prompts
from data_pipelines.captions.facts import EVENTS, POSITIONS, SLOTS, STAGES, Facts

UNKNOWN, BETWEEN = -1, -2  # labels of epochs without an answer, and of the middle third
FEWEST = 6  # epochs with a number below which there are no thirds

Sentences = tuple[tuple[str, ...], tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Question:
    """A question of two answers.

    Attributes:
        labels: int [N], 0 no, 1 yes, ``UNKNOWN`` or ``BETWEEN``.
        classes: names of both answers.
        sentences: of both answers.
        beside: name of another concept -> the same sentences about that one.
        told: what else is told of it.
    """

    labels: np.ndarray
    classes: tuple[str, str]
    sentences: Sentences
    beside: dict[str, Sentences] = dataclasses.field(default_factory=dict)
    told: dict = dataclasses.field(default_factory=dict)


def questions_of(concept: str, facts: Sequence[Facts], count: int) -> dict[str, Question | None]:
    """Return the questions about a concept by name; several for one of several numbers, None for a
    number that few epochs have.

    Args:
        concept: what ``grammar.render`` can hold out, in any case of letters.
        facts: of epochs, [N].
        count: sentences of an answer.

    Raises:
        ValueError: a concept that no caption says.
    """
    name = concept.lower()
    slots = [
        slot
        for slot, own in SLOTS.items()
        if own.printed and name in (slot, own.channel, slot.rpartition(".")[2])
    ]
    if slots:
        return {f"high {slot}": number_question(slot, facts, count) for slot in slots}
    for of_kind, names, sentences in (
        (_event, EVENTS, lambda kind: prompts.event_prompts((kind,), count)),
        (_position, POSITIONS, lambda position: prompts.position_prompts(position, count)),
        (_stage, STAGES, lambda stage: prompts.one_stage_prompts(stage, count)),
    ):
        for own in names:
            if own.lower() == name:
                return {own: _of_kind(own, names, facts, of_kind, sentences)}
    raise ValueError(f"no caption says {concept!r}")


def number_question(slot: str, facts: Sequence[Facts], count: int) -> Question | None:
    """Return whether a number is in its upper third (yes) or its lower (no); None where few epochs
    have it.

    Sentences say values of these thirds. Beside are the other numbers of its channel with its
    unit, with the same values: what they reach is what a number tells whose name is not known.
    """
    values = np.array([own.numbers.get(slot, math.nan) for own in facts])
    there = np.isfinite(values)
    if there.sum() < FEWEST:
        return None
    low, high = np.quantile(values[there], [1 / 3, 2 / 3])
    labels = np.where(values >= high, 1, np.where(values <= low, 0, BETWEEN))
    labels[~there] = UNKNOWN
    said = [
        np.quantile(values[there & own], np.linspace(0.1, 0.9, count)).tolist()
        for own in (values <= low, values >= high)
    ]

    def sentences(name: str) -> Sentences:
        return tuple(prompts.number_prompts(name, own) for own in said)

    others = [
        name
        for name, own in SLOTS.items()
        if own.printed
        and name != slot
        and (own.channel, own.unit) == (SLOTS[slot].channel, SLOTS[slot].unit)
    ]
    beside = {name: sentences(name) for name in others}
    told = {"thirds": [float(low), float(high)]}
    return Question(labels, ("low", "high"), sentences(slot), beside, told)


def _of_kind(
    name: str,
    names: Sequence[str],
    facts: Sequence[Facts],
    has: Callable[[Facts, str], int],
    sentences: Callable[[str], Sentences],
) -> Question:
    """Whether epochs have one of several names; beside are the others that some epoch has."""
    labels = np.array([has(own, name) for own in facts], int)
    there = [x for x in names if x != name and any(has(own, x) == 1 for own in facts)]
    beside = {other: sentences(other) for other in there}
    return Question(labels, ("no", "yes"), sentences(name), beside)


def _event(facts: Facts, kind: str) -> int:
    if facts.events is None:
        return UNKNOWN
    return int(any(event.kind == kind for event in facts.events))


def _position(facts: Facts, position: str) -> int:
    return UNKNOWN if facts.position is None else int(facts.position == position)


def _stage(facts: Facts, stage: str) -> int:
    return UNKNOWN if facts.stage is None else int(facts.stage == stage)
