"""The section of a report on generated captions: the table with rivals, epochs, and a night.

What it shows is what ``evaluators/captions.py`` wrote into ``captions_<split>.json``.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np

from data_pipelines.captions.facts import EPOCH_S, SLOTS, TRACKS, Facts, Interval
from data_pipelines.store import NightStore
from hypnos_jax.reports import sections
from hypnos_jax.reports.language_figures import draw_epoch, draw_night

# Metric of a row -> its name, and whether more is better.
MEASURES = {
    "slot_f1": ("numbers right, F1", True),
    "hallucination_rate": ("gated numbers said", False),
    "stage_accuracy": ("stage accuracy", True),
    "position_accuracy": ("position accuracy", True),
    "event_f1_iou30": ("event F1, IoU 0.3", True),
    "event_f1_iou50": ("event F1, IoU 0.5", True),
    "event_mean_iou": ("mean IoU", True),
    "onset_mae_s": ("onset error, s", False),
    "offset_mae_s": ("end error, s", False),
    "trend_f1_iou50": ("trend F1, IoU 0.5", True),
    "leakage": ("leakage", False),
    "unread": ("unread words", False),
    "bleu": ("BLEU", True),
    "chrf": ("chrF", True),
    "rouge_l": ("ROUGE-L", True),
}
ROWS = {
    "model": "this model",
    "majority": "always the same caption",
    "nearest": "nearest epoch's, hand-made features",
    "probed": "linear probes of its embeddings",
    "facts": "facts by epoch, as captions have them",
}
ONE_TO_BEAT = "probed"
INDICES = {
    "tst_h": "sleep, h",
    "ahi": "AHI",
    "odi": "ODI",
    "arousal_index": "arousal index",
}


def headline(row: dict) -> dict[str, float | None]:
    """Return the measures of a row of ``captions_<split>.json``, by the names of ``MEASURES``."""
    events, trends = row["events"], row["trends"]
    nested = {
        "event_f1_iou30": events["f1_iou30"],
        "event_f1_iou50": events["f1_iou50"],
        "event_mean_iou": events["mean_iou"],
        "onset_mae_s": events["onset_mae_s"],
        "offset_mae_s": events["offset_mae_s"],
        "trend_f1_iou50": trends["f1_iou50"],
    }
    return {name: nested.get(name, row.get(name)) for name in MEASURES}


def not_beaten(rows: dict[str, dict]) -> list[str]:
    """Return the measures in which the model is no better than linear probes of its embeddings.

    Numbers by slot count as one each, by their mean absolute error.
    """
    ours, theirs = rows["model"], rows[ONE_TO_BEAT]
    first, second = headline(ours), headline(theirs)
    found = []
    for name, (title, more) in MEASURES.items():
        a, b = _known(first[name]), _known(second[name])
        if b is not None and (a is None or (a <= b if more else a >= b)) and a != b:
            found.append(title)
    for slot, own in theirs["slots"].items():
        a, b = _known(ours["slots"].get(slot, {}).get("mae")), _known(own["mae"])
        if b is not None and (a is None or a > b):
            found.append(slot)
    return found


def lanes_of(facts: Facts, said: Sequence[Facts]) -> dict[str, list]:
    """Return name -> [there, said] of events and trends, each ``[start, stop]`` in seconds.

    Args:
        facts: of the epoch.
        said: what each of its captions says.
    """
    lanes: dict[str, list] = {}
    for place, own in [(0, facts), *((1, one) for one in said)]:
        for event in own.events or ():
            _into(lanes, event.kind)[place].append([event.start_s, event.stop_s])
        for track in TRACKS:
            for trend in own.trends.get(track, ()):
                name = f"{track.replace('_', ' ')} {trend.kind}"
                _into(lanes, name)[place].append([trend.start_s, trend.stop_s])
    return dict(sorted(lanes.items()))


def shown_night(recording: str, scored: tuple, said: tuple) -> dict:
    """Return what the picture of a night needs, of stages and events that were scored and said."""
    lanes: dict[str, list] = {}
    for place, (_, events) in enumerate((scored, said)):
        for event in events:
            _into(lanes, event.kind)[place].append([event.start_s, event.stop_s])
    stages = [own.tolist() for own, _ in (scored, said)]
    return {"recording": recording, "stages": stages, "lanes": dict(sorted(lanes.items()))}


def _into(lanes, name) -> list:
    return lanes.setdefault(name, [[], []])


def write(workdir: pathlib.Path, report: dict, store: NightStore, channels: Sequence[str]) -> None:
    """Draw the pictures and write the section.

    Args:
        workdir: the evaluator's.
        report: what ``captions_<split>.json`` holds.
        store: with the signals of the epochs that are shown.
        channels: that are drawn, where a night has them.
    """
    (workdir / "figures").mkdir(exist_ok=True)
    name, rows = f"captions_{report['split']}", report["rows"]
    says = [
        f"{report['epochs']} epochs of the {report['split']} nights, captions decoded"
        f" {'by the grammar' if report['constrained'] else 'greedily'} and read back by the parser."
        " A number is right within 5 points of a percentage, 2 bpm, 10 ms, 0.5 s, 1 Hz, or 0.1"
        " where it has no unit.",
    ]
    if ONE_TO_BEAT in rows:
        worse = not_beaten(rows)
        says.append(
            f"Linear probes of the same embeddings, in the grammar's words, are not beaten in:"
            f" {', '.join(worse)}."
            if worse
            else "Linear probes of the same embeddings, in the grammar's words, are beaten in all."
        )
    if report["missing"]:
        says.append(
            f"Not installed, so that their scores are not given: {', '.join(report['missing'])}"
            " (pip install 'hypnos_jax[captions]')."
        )
    parts = [
        sections.part("Captions beside rivals", rows=_table(rows)),
        sections.part("Mean absolute errors of numbers", rows=_slots(rows)),
    ]
    if report["nights"]:
        parts += _nights(workdir, report, name)
    for number, example in enumerate(report["examples"]):
        parts.append(_example(workdir, report, name, number, example, store, channels))
    title = "Captions"
    sections.write_section(workdir, name, step=report["step"], title=title, says=says, parts=parts)


def _table(rows):
    measures = [
        key for key in MEASURES if any(_known(headline(x)[key]) is not None for x in rows.values())
    ]
    table = [["captions of", *(MEASURES[key][0] for key in measures)]]
    for name, row in rows.items():
        own = headline(row)
        table.append([ROWS.get(name, name), *(_known(own[key]) for key in measures)])
    return table


def _slots(rows):
    table = [["number", "unit", "epochs", *(ROWS.get(name, name) for name in rows)]]
    for slot in SLOTS:
        found = {name: row["slots"].get(slot) for name, row in rows.items()}
        if found["model"] and found["model"]["there"]:
            errors = [own and _known(own["mae"]) for own in found.values()]
            table.append([slot, SLOTS[slot].unit, found["model"]["there"], *errors])
    return table


def _nights(workdir, report, name):
    nights = report["nights"]
    table = [
        ["stage and events of", "index", "nights", "ICC (2,1)", "correlation", "error", "bias"]
    ]
    for row, found in nights["agreement"].items():
        for index, own in found.items():
            told = [_known(own[key]) for key in ("icc", "pearson", "mae", "bias")]
            table.append([ROWS.get(row, row), INDICES[index], own["nights"], *told])
    for rule, value in nights["human_icc"].items():
        told = [f"human scorers, {rule} (Kuna et al. 2013)", "AHI", 70, value, None, None, None]
        table.append(told)
    says = [
        "Events of neighbouring epochs that meet within a second are one; those that touch sleep"
        " count, by the hours of sleep that are said. Human scorers: ten, on whole nights of 70"
        " people. An ICC of few or short nights says little.",
    ]
    shown = nights["shown"]
    picture = f"figures/{report['step']}_{name}_night.png"
    draw_night(
        tuple(np.array(own) for own in shown["stages"]),
        _intervals(shown["lanes"]),
        workdir / picture,
        title=f"a night as scored and as said, step {report['step']}",
    )
    return [
        sections.part("Indices of nights", says=says, rows=table),
        sections.part(f"The night {shown['recording']}", picture=picture),
    ]


def _example(workdir, report, name, number, example, store, channels):
    night = next(own for own in store.nights if own.recording == example["recording"])
    signals = [
        (channel, store.signal(night, channel, *_seconds(example["epoch"])))
        for channel in channels
        if channel in night.channels
    ]
    picture = f"figures/{report['step']}_{name}_epoch{number}.png"
    # No name of the recording: it may have letters that no font has.
    title = f"epoch {example['epoch']}, standardised signals"
    draw_epoch(signals, _intervals(example["lanes"]), workdir / picture, title=title)
    rows = [["caption", "of the facts", "generated"]]
    for modality, text in example["reference"].items():
        rows.append([modality, text, example["said"].get(modality, "")])
    title = f"Epoch {example['epoch']} of {example['recording']}"
    return sections.part(title, rows=rows, picture=picture)


def _intervals(lanes):
    return {
        name: tuple([Interval(start, stop, name) for start, stop in own] for own in both)
        for name, both in lanes.items()
    }


def _known(value) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def _seconds(epoch) -> tuple[int, int]:
    return int(epoch * EPOCH_S), int((epoch + 1) * EPOCH_S)
