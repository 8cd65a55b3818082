"""Whether what a text says of an epoch is what was measured and scored."""

from __future__ import annotations

from collections.abc import Sequence

from data_pipelines.captions.facts import SLOTS, Facts, Interval
from data_pipelines.captions.parse import Parsed

# Ours: how far from the fact a number may be to count as right, by its unit.
TOLERANCES = {"%": 5.0, "bpm": 2.0, "ms": 10.0, "s": 0.5, "Hz": 1.0, "": 0.1}
CLOSER = {"spo2.min": 2.0, "spo2.mean": 2.0}  # of which 5 points are not little
FOUND = 0.5  # intersection over union from which an event that is said is the one that is there
LONGEST = 60  # characters of what is not understood that are shown


def differences(said: Parsed, facts: Facts, modality: str) -> list[str]:
    """Return what a caption says otherwise than the facts, as phrases; none where they agree.

    Numbers within ``TOLERANCES`` agree, and events of one kind whose intersection over union is
    ``FOUND`` or more. What nobody measured or scored is told as such where it is said. What the
    caption does not mention is no difference, but for events, of which it claims to say all.

    Args:
        said: a caption as it was read.
        facts: of the epoch.
        modality: of the caption; what it says of others is told.
    """
    known, own = facts.printed(), said.facts.of(modality)
    found = []
    for name, value in said.facts.numbers.items():
        slot = SLOTS[name]
        told = f"{name} {value:.{slot.decimals}f}{slot.unit and ' '}{slot.unit} said"
        if name not in own.numbers:
            found.append(f"{told}, though it was not asked for")
        elif name not in known.numbers:
            found.append(f"{told}, not measured")
        elif abs(value - known.numbers[name]) > CLOSER.get(name, TOLERANCES[slot.unit]) + 1e-9:
            found.append(f"{told}, {known.numbers[name]:.{slot.decimals}f} measured")
    if own.stage and own.stage != known.stage:
        found.append(f"stage {own.stage} said, {known.stage or 'none'} scored")
    if own.position and own.position != known.position:
        found.append(f"{own.position} said, {known.position or 'no position'} measured")
    if modality == "stage_event":
        found += _events(own.events, known.events)
    for track, trends in own.trends.items():
        if track not in facts.trends:
            found += [f"{track} {_told(trend)} said, not measured" for trend in trends]
        else:
            lost = _unmatched(trends, known.trends.get(track, ()))
            found += [f"{track} {_told(trend)} said, not measured so" for trend in lost]
    found += [f"not understood: {piece[:LONGEST]}" for piece in said.unread]
    return found


def matched(there: Sequence[Interval], said: Sequence[Interval]) -> list[tuple[Interval, Interval]]:
    """Return pairs of one kind that overlap, the largest overlap first, each interval once."""
    offers = [
        (-iou(a, b), i, j)
        for i, a in enumerate(there)
        for j, b in enumerate(said)
        if a.kind == b.kind and iou(a, b) > 0
    ]
    pairs, taken, given = [], set(), set()
    for _, i, j in sorted(offers):
        if i not in taken and j not in given:
            taken.add(i)
            given.add(j)
            pairs.append((there[i], said[j]))
    return pairs


def iou(a: Interval, b: Interval) -> float:
    """Return intersection over union of two intervals of any kind."""
    shared = min(a.stop_s, b.stop_s) - max(a.start_s, b.start_s)
    union = max(a.stop_s, b.stop_s) - min(a.start_s, b.start_s)
    return max(shared, 0.0) / union if union > 0 else 0.0


def _events(said, known):
    if said is None:
        return []
    if known is None:
        return [f"{_told(event)} said, events not scored" for event in said]
    found = [f"{_told(event)} said, not scored" for event in _unmatched(said, known)]
    return found + [f"{_told(event)} scored, not said" for event in _unmatched(known, said)]


def _unmatched(some: Sequence[Interval], others: Sequence[Interval]) -> list[Interval]:
    """Those of some intervals that are among the others nowhere."""
    left = list(some)
    for own, other in matched(some, others):
        if iou(own, other) >= FOUND:
            left.remove(own)
    return left


def _told(interval: Interval) -> str:
    return f"{interval.kind} {interval.start_s:.1f}-{interval.stop_s:.1f} s"
