"""Answers of a fine-tuned model, window by window: a task's measures of them, and what a picture
of them needs.

A task names one of ``MEASURES``. What cannot be computed is NaN. Answers about a night are the mean
over its windows.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from hypnos_jax.probing import probe, task_metrics
from hypnos_jax.tasks import Task

# Over columns of labels.
AVERAGED = (
    "accuracy", "majority_accuracy", "kappa", "macro_f1", "f1", "sensitivity", "specificity",
    "auroc", "auprc", "brier", "ece", "prevalence",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Answer:
    """A window's answers beside its labels.

    Attributes:
        night, start, subject, site: of the window; ``start`` is its first token.
        output, target, counted: of ``predict``, one row.
        facts: the batch's fields that the measure needs, one row of each.
    """

    night: int
    start: int
    subject: int
    site: int
    output: np.ndarray
    target: np.ndarray
    counted: np.ndarray
    facts: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Measure:
    """Measurement of the answers to a task.

    Attributes:
        task: which.
        labels: names of the columns of labels, if it has some.
        least_tst_s: nights of less sleep have no apnea-hypopnea index.
        threshold: of a probability, where the measure needs one: see ``tune``.
        needs: fields of the batch that it reads beside the answers.
        tuned_on: the split whose answers ``tune`` wants, or None.
    """

    task: Task
    labels: Sequence[str] = ()
    least_tst_s: float = task_metrics.LEAST_TST_S
    threshold: float | None = None

    needs: ClassVar[tuple[str, ...]] = ()
    tuned_on: ClassVar[str | None] = None

    def metrics(self, rows: Sequence[Answer]) -> dict[str, float]:
        """Return name -> value; the task's own metric alone, NaN, where no label counts."""
        output, target, counted = self.joined(rows)
        if not counted.any():
            return {self.task.metric: math.nan}
        return self._metrics(rows, output, target, counted)

    def shown(self, rows: Sequence[Answer]) -> dict:
        """Return what a picture of the answers needs, as JSON values."""
        return self._shown(rows, *self.joined(rows))

    def joined(self, rows: Sequence[Answer]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return outputs, targets and what counts of all windows, or of all nights."""
        names = ("output", "target", "counted")
        if not self.task.by_night:
            return tuple(np.concatenate([getattr(row, name) for row in rows]) for name in names)
        nights = list(by_night(row for row in rows if row.counted.any()).values())
        if not nights:
            return np.zeros((0, 1)), np.zeros((0, 1)), np.zeros((0, 1), bool)
        return (
            np.stack([np.mean([row.output for row in night], axis=0) for night in nights]),
            np.stack([night[0].target for night in nights]),
            np.stack([night[0].counted for night in nights]),
        )


class ClassMeasure(Measure):
    """Agreement on one of several classes."""

    def _metrics(self, rows, output, target, counted):
        predicted = output[counted].argmax(-1)
        return task_metrics.of_classes(target[counted], predicted, self.task.classes)

    def _shown(self, rows, output, target, counted):
        predicted = output[counted].argmax(-1)
        found = probe.confusion(target[counted], predicted, len(self.task.classes))
        return {"confusion": found.tolist(), "classes": list(self.task.classes)}


class NumberMeasure(Measure):
    """Errors of a number."""

    def _metrics(self, rows, output, target, counted):
        return task_metrics.of_numbers(target[counted], output[counted])

    def _shown(self, rows, output, target, counted):
        points = np.stack([target[counted], output[counted]], 1).astype(float)
        return {"points": points.tolist(), "of": self.task.name}


class SurvivalMeasure(Measure):
    """The order of survival times, of each column and on the mean."""

    def _metrics(self, rows, output, target, counted):
        found = {}
        for k, name in enumerate(self.labels):
            own = counted[:, k]
            time, event = target[own, k, 0], target[own, k, 1] > 0
            found[f"c_index_{name}"] = task_metrics.c_index(output[own, k], time, event)
        return {"c_index": _mean(found.values()), **found}

    def _shown(self, rows, output, target, counted):
        return {}


class BinaryMeasure(Measure):
    """Probabilities of yes or no: where there are several columns, of each and on the mean."""

    def _metrics(self, rows, output, target, counted):
        probability, columns = sigmoid(output), self._columns(output.shape[-1])
        if not columns:
            return task_metrics.of_binary(target[counted], probability[counted])
        found = {}
        for name, places in columns.items():
            own = counted[..., places]
            if own.any():
                own = target[..., places][own], probability[..., places][own]
                metrics = task_metrics.of_binary(*own)
                found |= {f"{key}_{name}": value for key, value in metrics.items()}
        means = {
            key: _mean(found.get(f"{key}_{name}", math.nan) for name in columns) for key in AVERAGED
        }
        return means | found

    def _shown(self, rows, output, target, counted):
        width = output.shape[-1]
        columns = self._columns(width) or {self.task.name: np.arange(width)}
        curves = {}
        for name, places in columns.items():
            own = counted[..., places]
            curves[name] = probe.roc_points(target[..., places][own], output[..., places][own])
        return {"roc": curves}

    def _columns(self, width) -> dict[str, np.ndarray]:
        """Name -> its outputs; none where the task asks for one thing."""
        names = self.task.columns or (self.labels if len(self.labels) > 1 else ())
        return {name: np.arange(i, width, len(names)) for i, name in enumerate(names)}


class BreathingMeasure(BinaryMeasure):
    """Apneas and hypopneas second by second, as events, and as an index of the night.

    The threshold of an event is chosen on the validation nights.
    """

    needs = ("stage",)
    tuned_on = "validation"

    def tune(self, rows: Sequence[Answer]) -> BreathingMeasure:
        """Return the measure with the best threshold for these answers."""
        threshold = task_metrics.choose_threshold(breathing_nights(rows))
        return dataclasses.replace(self, threshold=threshold)

    def _metrics(self, rows, output, target, counted):
        return super()._metrics(rows, output, target, counted) | task_metrics.of_breathing(
            breathing_nights(rows), self.threshold, least_tst_s=self.least_tst_s
        )

    def _shown(self, rows, output, target, counted):
        nights = [night for night in breathing_nights(rows) if night.sleep.any()]
        points = []
        for night in nights:
            answers = (night.truth & night.scored, night.said(self.threshold))
            points.append([task_metrics.night_ahi(x, night.sleep) for x in answers])
        return {"points": points, "of": "events an hour of sleep"}


MEASURES = {
    "classes": ClassMeasure,
    "numbers": NumberMeasure,
    "survival": SurvivalMeasure,
    "binary": BinaryMeasure,
    "breathing": BreathingMeasure,
}


def counts(rows: Sequence[Answer]) -> dict[str, int]:
    """Return how many labels, nights and subjects count."""
    counting = [row for row in rows if row.counted.any()]
    return {
        "labels": int(sum(row.counted.sum() for row in counting)),
        "nights": len({row.night for row in counting}),
        "subjects": len({row.subject for row in counting}),
    }


def each_once(rows: Sequence[Answer]) -> list[Answer]:
    """Return the answers by token of windows that may overlap, each token's once: from the earliest
    of its windows, which has seen most of what came before it.
    """
    found = []
    for own in by_night(rows).values():
        end = 0
        for row in sorted(own, key=lambda row: row.start):
            skip = max(0, end - row.start)
            end = max(end, row.start + len(row.output))
            if skip < len(row.output):
                parts = {n: getattr(row, n)[skip:] for n in ("output", "target", "counted")}
                facts = {name: x[skip:] for name, x in row.facts.items()}
                found.append(dataclasses.replace(row, start=row.start + skip, facts=facts, **parts))
    return found


def by_night(rows) -> dict[int, list[Answer]]:
    """Return night -> its windows."""
    nights = collections.defaultdict(list)
    for row in rows:
        nights[row.night].append(row)
    return nights


def breathing_nights(rows: Sequence[Answer]) -> list[task_metrics.BreathingNight]:
    """Return whole nights, second by second, of windows with stages and answers by second."""
    found = []
    for own in by_night(rows).values():
        tokens = max(row.start + len(row.output) for row in own)
        shape = (tokens, own[0].output.shape[-1])
        probability, truth = np.zeros(shape), np.zeros(shape, bool)
        scored, sleep = np.zeros_like(truth), np.zeros_like(truth)
        for row in own:
            here = slice(row.start, row.start + len(row.output))
            probability[here] = sigmoid(row.output)
            truth[here], scored[here] = row.target > 0.5, row.counted
            sleep[here] = (row.facts["stage"] > 0)[:, None]
        if scored.any():
            flat = (x.ravel() for x in (probability, truth, sleep, scored))
            found.append(task_metrics.BreathingNight(*flat))
    return found


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Return the probabilities of logits, float64."""
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def _mean(values) -> float:
    values = [value for value in values if math.isfinite(value)]
    return float(np.mean(values)) if values else math.nan
