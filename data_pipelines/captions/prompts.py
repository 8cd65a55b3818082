"""Prompts of classes: the grammar's own sentences about a stage or an event, several of each.

What a model is asked should look like what it was trained on, so prompts are captions of made-up
facts. The published model's prompts are not known; these are ours.
"""

from __future__ import annotations

from collections.abc import Sequence

from data_pipelines.captions.facts import POSITIONS, SLOTS, STAGES, Facts, Interval
from data_pipelines.captions.grammar import render

BREATHING = ("Obstructive Apnea", "Central Apnea", "Mixed Apnea", "Hypopnea", "Apnea or Hypopnea")
# Binary questions -> the words of ``facts.EVENTS`` that say yes.
QUESTIONS: dict[str, tuple[str, ...]] = {
    "arousal": ("Arousal",),
    "apnea_or_hypopnea": BREATHING,
    "desaturation": ("Oxygen Desaturation",),
}
WORDINGS = 12  # prompts of a stage, and at least of an answer
TIMES_S = ((3.0, 18.5), (0.0, 9.5), (12.5, 30.0), (8.0, 14.0))  # of made-up events


def stage_prompts(count: int = WORDINGS) -> dict[str, tuple[str, ...]]:
    """Return stage -> sentences that it is so and that nothing happens."""
    return {
        stage: tuple(_say(Facts(stage=stage, events=()), i) for i in range(count))
        for stage in STAGES
    }


def event_prompts(kinds: Sequence[str], count: int = WORDINGS) -> tuple[tuple[str, ...], ...]:
    """Return sentences without and with an event of some kinds, over the same stages.

    Args:
        kinds: of ``facts.EVENTS``, in turn.
        count: of each answer, at least; one for each stage and kind.
    """
    without, having = [], []
    for i in range(max(count, len(STAGES) * len(kinds))):
        stage = STAGES[i % len(STAGES)]
        kind = kinds[i // len(STAGES) % len(kinds)]
        event = Interval(*TIMES_S[i % len(TIMES_S)], kind)
        without.append(_say(Facts(stage=stage, events=()), i))
        having.append(_say(Facts(stage=stage, events=(event,)), i))
    return tuple(without), tuple(having)


def one_stage_prompts(stage: str, count: int = WORDINGS) -> tuple[tuple[str, ...], ...]:
    """Return sentences of other stages and of one, at least ``count`` of each."""
    by_stage = stage_prompts(count)
    return tuple(t for own in STAGES if own != stage for t in by_stage[own]), by_stage[stage]


def position_prompts(position: str, count: int = WORDINGS) -> tuple[tuple[str, ...], ...]:
    """Return sentences of other positions and of one, ``count`` of each."""
    others = [own for own in POSITIONS if own != position]
    return tuple(
        tuple(_say(Facts(position=own[i % len(own)]), i, "position_muscle") for i in range(count))
        for own in (others, [position])
    )


def number_prompts(slot: str, values: Sequence[float]) -> tuple[str, ...]:
    """Return sentences that say a number of ``facts.SLOTS``, one for each value."""
    return tuple(
        _say(Facts({slot: value}), i, SLOTS[slot].modality) for i, value in enumerate(values)
    )


def _say(facts: Facts, wording: int, modality: str = "stage_event") -> str:
    return str(render(facts, modality, recording="prompt", epoch=wording))
