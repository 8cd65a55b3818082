"""Scores of generated captions against the facts of their epochs, read by the parser of captions.

The slots come first (numbers by name), then stage and position, then events and trends as
intervals, then what a caption should not say: numbers that a gate took, facts of another modality
than was asked for, and words that mean nothing.
"""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from data_pipelines.captions import phrases
from data_pipelines.captions.agreement import TOLERANCES, iou, matched
from data_pipelines.captions.facts import SLOTS, Facts, Interval
from data_pipelines.captions.parse import parse

OVERLAPS = (0.3, 0.5)  # intersection over union from which an event is found
_SENTENCE = re.compile(r"(?<=[.!?])\s+")

Captions = Mapping[str, str]  # modality -> text


def score(facts: Sequence[Facts], captions: Sequence[Captions]) -> dict:
    """Return how captions agree with the facts of their epochs.

    Only what a caption says of its own modality counts as said. Numbers of modalities that no
    caption of an epoch was asked of are left out.

    Args:
        facts: of each epoch.
        captions: of each epoch.

    Returns:
        ``slot_f1`` (a number counts that is said where there is one, and within ``TOLERANCES``),
        ``said_f1`` (whatever its value), ``hallucination_rate`` (numbers that a gate took, of all
        that are said), ``gated_said`` (how often one that a gate took is said), ``stage_accuracy``,
        ``position_accuracy`` (what is not said is wrong), ``events`` and ``trends`` (see
        ``interval_scores``), ``leakage`` (share of sentences with a fact of another modality),
        ``unread`` (share of the words that the parser could not read), ``epochs``, and ``slots``:
        name -> ``mae f1 there said``. What has nothing to rest on is NaN.
    """
    truth = [own.printed() for own in facts]
    said, read = [], []
    for own in captions:
        parsed = {modality: parse(text) for modality, text in own.items()}
        said.append({modality: found.facts.of(modality) for modality, found in parsed.items()})
        read.append([unread_words(found.unread) for found in parsed.values()])
    words = sum(len(phrases.tokens(t.lower())) for own in captions for t in own.values())
    sentences = [leaked(text, modality) for own in captions for modality, text in own.items()]
    by_modality = list(zip(truth, said, strict=True))
    stage = [(a.stage, b["stage_event"].stage) for a, b in by_modality if "stage_event" in b]
    place = [(a.position, b["position_muscle"].position) for a, b in by_modality if _body(b)]
    events = [
        (a.events, b["stage_event"].events or ())
        for a, b in by_modality
        if "stage_event" in b and a.events is not None
    ]
    trends = [(_trends(a), _trends(b["heart"])) for a, b in by_modality if "heart" in b]
    return {
        "epochs": len(truth),
        **_slot_scores(by_modality),
        "stage_accuracy": _agreed(stage),
        "position_accuracy": _agreed(place),
        "events": interval_scores(events),
        "trends": interval_scores(trends),
        "leakage": _share(sum(a for a, _ in sentences), sum(b for _, b in sentences)),
        "unread": _share(sum(map(sum, read)), words),
    }


def _body(said):
    return "position_muscle" in said


def _agreed(pairs) -> float:
    """Share of the known answers that were said."""
    known = [(a, b) for a, b in pairs if a is not None]
    return _share(sum(a == b for a, b in known), len(known))


def _trends(facts: Facts) -> tuple[Interval, ...]:
    """The trends of all tracks, each of a kind of its own."""
    return tuple(
        Interval(own.start_s, own.stop_s, f"{track} {own.kind}")
        for track, items in facts.trends.items()
        for own in items
    )


def _slot_scores(epochs: Iterable[tuple[Facts, Mapping[str, Facts]]]) -> dict:
    counts = {name: collections.Counter() for name, slot in SLOTS.items() if slot.printed}
    errors = collections.defaultdict(list)
    for truth, said in epochs:
        numbers = {name: x for own in said.values() for name, x in own.numbers.items()}
        for name, own in counts.items():
            if SLOTS[name].modality not in said:
                continue
            there, told = name in truth.numbers, name in numbers
            own["there"] += there
            own["gated"] += not there
            own["said"] += told
            own["both"] += there and told
            if there and told:
                error = abs(numbers[name] - truth.numbers[name])
                errors[name].append(error)
                own["right"] += error <= TOLERANCES[SLOTS[name].unit] + 1e-9
    total = sum(counts.values(), collections.Counter())
    made_up = total["said"] - total["both"]
    return {
        "slot_f1": _f1(total["right"], total["there"], total["said"]),
        "said_f1": _f1(total["both"], total["there"], total["said"]),
        "hallucination_rate": _share(made_up, total["said"]),
        "gated_said": _share(made_up, total["gated"]),
        "slots": {
            name: {
                "mae": float(np.mean(errors[name])) if errors[name] else math.nan,
                "f1": _f1(own["right"], own["there"], own["said"]),
                "there": own["there"],
                "said": own["said"],
            }
            for name, own in counts.items()
            if own["there"] or own["said"]
        },
    }


def interval_scores(
    epochs: Iterable[tuple[Sequence[Interval], Sequence[Interval]]],
) -> dict[str, float]:
    """Return how intervals that are said agree with those that are there, over all epochs.

    Args:
        epochs: (there, said) of each.

    Returns:
        ``f1_iou30`` and ``f1_iou50`` (pairs whose intersection over union is as much), ``mean_iou``
        of all pairs that overlap, ``onset_mae_s`` and ``offset_mae_s`` of the pairs that reach 0.3,
        ``there`` and ``said``, how many.
    """
    there, said, pairs = 0, 0, []
    for own, told in epochs:
        there, said = there + len(own), said + len(told)
        pairs += matched(own, told)
    overlaps = [iou(*pair) for pair in pairs]
    found = [pair for pair, value in zip(pairs, overlaps) if value >= OVERLAPS[0]]
    return {
        **{
            f"f1_iou{round(100 * least)}": _f1(sum(x >= least for x in overlaps), there, said)
            for least in OVERLAPS
        },
        "mean_iou": _mean(overlaps),
        "onset_mae_s": _mean([abs(a.start_s - b.start_s) for a, b in found]),
        "offset_mae_s": _mean([abs(a.stop_s - b.stop_s) for a, b in found]),
        "there": there,
        "said": said,
    }


def leaked(text: str, modality: str) -> tuple[int, int]:
    """Return how many sentences of a text say a fact of another modality, and of how many."""
    sentences = [own for own in _SENTENCE.split(text.strip()) if own]
    return sum(bool(spoken(parse(own).facts) - {modality}) for own in sentences), len(sentences)


def spoken(facts: Facts) -> set[str]:
    """Return the modalities that facts are of."""
    found = {SLOTS[name].modality for name in facts.numbers}
    found |= {"heart"} if facts.trends else set()
    found |= {"position_muscle"} if facts.position or facts.position_changes else set()
    return found | ({"stage_event"} if facts.stage or facts.events is not None else set())


def unread_words(unread: Sequence[str]) -> int:
    """Return how many words the parser handed back."""
    return sum(len(piece.split()) for piece in unread)


def text_scores(references: Sequence[str], said: Sequence[str]) -> tuple[dict[str, float], list]:
    """Return scores of common words, and which packages are missing for others.

    Our wording is drawn at random, so that a perfect caption in other words scores below 1.

    Returns:
        ``bleu`` and ``chrf`` from 0 to 100 (sacrebleu, of the corpus) and ``rouge_l`` from 0 to 1
        (rouge-score, the mean over captions), as far as these packages are installed.
    """
    found, missing = {}, []
    try:
        import sacrebleu

        found["bleu"] = float(sacrebleu.corpus_bleu(said, [references]).score)
        found["chrf"] = float(sacrebleu.corpus_chrf(said, [references]).score)
    except ImportError:
        missing.append("sacrebleu")
    try:
        from rouge_score import rouge_scorer

        scorer = rouge_scorer.RougeScorer(["rougeL"])
        pairs = zip(references, said, strict=True)
        found["rouge_l"] = _mean([scorer.score(a, b)["rougeL"].fmeasure for a, b in pairs])
    except ImportError:
        missing.append("rouge-score")
    return found, missing


def _f1(hits, there, said) -> float:
    return _share(2 * hits, there + said)


def _share(part, whole) -> float:
    return float(part / whole) if whole else math.nan


def _mean(values) -> float:
    return float(np.mean(values)) if len(values) else math.nan
