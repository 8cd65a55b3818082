"""How well a fine-tuned model answers its task: by condition of its sensors, and by site.

The objective's ``predict(batch, kept)`` answers; ``kept`` hides signal from it, and what counts
stays the same. Conditions: ``all`` modalities; ``only/<name>`` each alone; ``without/<name>`` each
left out; ``size/<n>``, the mean over sets of n modalities, and ``size/<n>/worst``; and
``hole/<name>/<share>``, a sensor gone for a contiguous share of every window. Measures are those of
``hypnos_jax.probing.task_metrics``. Answers about a night are the mean over its windows.

Results go to ``workdir/downstream_<split>.json``, a picture to
``workdir/figures/<step>_downstream_<split>.png``.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from absl import logging

from data_pipelines.pipeline import EmptySplitError
from hypnos_jax.probing import probe, task_metrics
from hypnos_jax.reports.figures import draw_answers
from hypnos_jax.runtime import distributed
from hypnos_jax.runtime.files import write_json
from hypnos_jax.tasks import AROUSALS, TOKEN_S, Task, find_task

SUBSETS = ("single", "leave_one_out")
AVERAGED = ("accuracy", "auroc", "auprc", "brier", "ece")  # over columns of labels


@dataclasses.dataclass(frozen=True)
class Condition:
    """What is hidden from the model.

    Attributes:
        name: its name.
        modalities: those that stay, by place; None for all.
        hole: the modality that goes for a while, and the share of the window; or None.
    """

    name: str
    modalities: tuple[int, ...] | None = None
    hole: tuple[int, float] | None = None


class Downstream:
    """Measures of a task, with the modalities there are and with fewer."""

    def __init__(
        self,
        context,
        *,
        split: str = "test",
        subsets: Sequence[str | int] = (),
        most_subsets: int = 20,
        holes: Sequence[float] = (),
        batch_size: int | None = None,
        limit: int | None = None,
        least_tst_h: float = task_metrics.LEAST_TST_S / 3600,
        draws: int = 0,
    ):
        """Plan the evaluation.

        Args:
            context: ``hypnos_jax.evaluate.Context``.
            split: which nights.
            subsets: ``"single"``, ``"leave_one_out"`` and numbers n of modalities.
            most_subsets: sets of one size that are tried; drawn from a fixed seed where there are
                more.
            holes: shares of a window that a sensor goes for, such as ``(0.1, 0.3, 0.5)``; each
                sensor in turn.
            batch_size, limit: see ``Context.batches``.
            least_tst_h: nights of less sleep have no apnea-hypopnea index.
            draws: bootstrap samples of the subjects, for an interval of the task's own metric.

        Raises:
            ValueError: a subset or a share that means nothing.
        """
        wrong = [x for x in subsets if x not in SUBSETS and not (isinstance(x, int) and x > 0)]
        if wrong or not all(0 < share < 1 for share in holes):
            raise ValueError(
                f"downstream: subsets={list(subsets)}, holes={list(holes)}; subsets are"
                f" {list(SUBSETS)} and numbers of modalities, holes shares between 0 and 1"
            )
        self.context, self.split, self.subsets, self.holes = context, split, subsets, holes
        self.most, self.limit, self.batch_size = most_subsets, limit, batch_size
        self.least_tst_s, self.draws = least_tst_h * 3600, draws
        self.predict = context.functions("predict")

    def run(self, variables: dict, step: int) -> Iterator[tuple[str, float]]:
        """Yield ``<metric>`` with all modalities, ``<condition>/<metric>`` of the task's own metric
        and ``site/<name>/<metric>``; write and draw everything.
        """
        try:
            source = self.context.source(self.split)
        except EmptySplitError as error:
            logging.warning("%s: evaluated on nothing", error)
            return
        description = source.describe()
        names = [row["name"] for row in description["modalities"]]
        task = find_task(self.context.attribute("task"))
        labels = tuple(self.context.attribute("labels", ()))
        conditions = self._conditions(names)
        answers = self._answers(variables, self.split, conditions, task)
        if not answers["all"]:
            return
        threshold = None
        if task.name == "ahi":
            other = answers
            if self.split != "validation":
                other = self._answers(variables, "validation", conditions[:1], task)
            threshold = task_metrics.choose_threshold(breathing_nights(other["all"]))

        def judge(rows):
            return measure(task, labels, rows, threshold, self.least_tst_s)

        report = {
            "step": step,
            "split": self.split,
            "task": task.name,
            "metric": task.metric,
            "modalities": names,
            "threshold": threshold,
            "conditions": {},
            "sites": {},
        }
        for condition in conditions:
            self.context.go_on()
            rows = answers[condition.name]
            report["conditions"][condition.name] = {"metrics": judge(rows)} | counts(rows)
        report["conditions"] |= self._sizes(report["conditions"], task)
        rows = answers["all"]
        seen = self._sites_seen(source)
        sites = description["sites"]
        for place in sorted({row.site for row in rows}):
            own = [row for row in rows if row.site == place]
            found = {"metrics": judge(own), "seen": sites[place] in seen} | counts(own)
            report["sites"][sites[place]] = found
        report["shown"] = shown(task, labels, rows, threshold)
        if self.draws:
            spread = self._spread(rows, judge, task.metric)
            low, high = probe.interval(spread, len({row.subject for row in rows}))
            report["interval"] = {"metric": task.metric, "low": low, "high": high}
        if distributed.is_first():
            write_json(self.context.workdir / f"downstream_{self.split}.json", report)
            figures = self.context.workdir / "figures"
            figures.mkdir(exist_ok=True)
            draw_answers(report, figures / f"{step}_downstream_{self.split}.png")
        for name, value in report["conditions"]["all"]["metrics"].items():
            if math.isfinite(value):
                yield name, value
        for kind, found in (("", report["conditions"]), ("site/", report["sites"])):
            for name, own in found.items():
                value = own["metrics"].get(task.metric, math.nan)
                if name != "all" and math.isfinite(value):
                    yield f"{kind}{name}/{task.metric}", value

    def _conditions(self, names):
        every = range(len(names))
        found = [Condition("all")]
        if len(names) < 2:
            return found + [
                Condition(f"hole/{names[0]}/{share:g}", hole=(0, share)) for share in self.holes
            ]
        for subset in self.subsets:
            if subset == "single":
                found += [Condition(f"only/{names[i]}", (i,)) for i in every]
            elif subset == "leave_one_out":
                rest = lambda i: tuple(j for j in every if j != i)
                found += [Condition(f"without/{names[i]}", rest(i)) for i in every]
            elif subset <= len(names):
                chosen = list(itertools.combinations(every, subset))
                if len(chosen) > self.most:
                    order = np.random.default_rng(0).permutation(len(chosen))
                    chosen = [chosen[i] for i in sorted(order[: self.most])]
                found += [
                    Condition(f"set/{subset}/{'+'.join(names[i] for i in own)}", own)
                    for own in chosen
                ]
        for share in self.holes:
            found += [Condition(f"hole/{names[i]}/{share:g}", hole=(i, share)) for i in every]
        return found

    def _sizes(self, conditions, task):
        """Mean and worst over the sets of a size."""
        sizes = collections.defaultdict(list)
        for name, found in conditions.items():
            if name.startswith("set/"):
                sizes[name.split("/")[1]].append(found)
        out = {}
        for size, found in sizes.items():
            rows = [own["metrics"] for own in found]
            mean = {k: float(np.mean([row[k] for row in rows])) for k in rows[0]}
            worst = max if task.best == "lowest" else min
            lowest = worst(rows, key=lambda row: row[task.metric])
            rest = {key: value for key, value in found[0].items() if key != "metrics"}
            out[f"size/{size}"] = {"metrics": mean, "sets": len(rows)} | rest
            out[f"size/{size}/worst"] = {"metrics": lowest, "sets": len(rows)} | rest
        return out

    def _sites_seen(self, source):
        """Names of the sites that training has nights of."""
        # As it was trained: an evaluation may be told to look at other sites.
        given = self.context.trained["data"].get("sites", ())
        held = source.store.select("train") if source.store is not None else ()
        return set(given) or {str(night.metadata.get("site") or "nan") for night in held}

    def _answers(self, variables, split, conditions, task):
        """Condition -> the answers to every window of a split."""
        found = {condition.name: [] for condition in conditions}
        for batch in self.context.batches(split, self.batch_size, self.limit):
            facts = ("night", "start", "subject", "site", "weight")
            facts += ("stage",) if task.name == "ahi" else ()
            facts = self.context.fetch({name: batch[name] for name in facts})
            shape = batch["valid"].shape
            for condition in conditions:
                kept = keep(condition, shape, facts["night"], facts["start"])
                own = jax.device_get(self.predict(variables, batch, kept))
                for i in np.flatnonzero(facts["weight"] > 0):
                    found[condition.name].append(
                        Answer(
                            *(int(facts[n][i]) for n in ("night", "start", "subject", "site")),
                            *(np.asarray(own[n][i]) for n in ("output", "target", "counted")),
                            facts["stage"][i] if task.name == "ahi" else None,
                        )
                    )
        return found

    def _spread(self, rows, judge, metric):
        """The metric of subjects drawn with replacement, [draws]."""
        own = collections.defaultdict(list)
        for row in rows:
            own[row.subject].append(row)
        people = sorted(own)
        rng = np.random.default_rng(0)
        values = []
        for _ in range(self.draws):
            drawn = rng.integers(0, len(people), len(people))
            # A subject drawn twice is two subjects, whose nights must not be averaged.
            again = [
                dataclasses.replace(row, night=row.night * len(people) + i)
                for i, person in enumerate(drawn)
                for row in own[people[person]]
            ]
            values.append(judge(again).get(metric, math.nan))
        return np.array(values)


@dataclasses.dataclass(frozen=True)
class Answer:
    """A window's answers beside its labels.

    Attributes:
        night, start, subject, site: of the window; ``start`` is its first token.
        output, target, counted: of ``predict``, one row.
        stage: int [L], for measures that ask who sleeps.
    """

    night: int
    start: int
    subject: int
    site: int
    output: np.ndarray
    target: np.ndarray
    counted: np.ndarray
    stage: np.ndarray | None = None


def keep(condition: Condition, shape: Sequence[int], night, start) -> np.ndarray:
    """Return what of the signal the model may use, bool [B, L, M].

    Where a hole lies depends on the window alone: its night and start.
    """
    rows, length, count = shape
    kept = np.ones(shape, bool)
    if condition.modalities is not None:
        kept[:] = np.isin(np.arange(count), condition.modalities)
    if condition.hole is not None:
        modality, share = condition.hole
        size = max(1, round(share * length))
        for row in range(rows):
            rng = np.random.default_rng([int(night[row]), int(start[row]), modality])
            first = rng.integers(0, length - size + 1)
            kept[row, first : first + size, modality] = False
    return kept


def counts(rows: Sequence[Answer]) -> dict:
    """Return how many labels, nights and subjects count."""
    counting = [row for row in rows if row.counted.any()]
    return {
        "labels": int(sum(row.counted.sum() for row in counting)),
        "nights": len({row.night for row in counting}),
        "subjects": len({row.subject for row in counting}),
    }


def measure(
    task: Task,
    labels: Sequence[str],
    rows: Sequence[Answer],
    threshold: float | None = None,
    least_tst_s: float = task_metrics.LEAST_TST_S,
) -> dict[str, float]:
    """Return a task's measures of windows, name -> value; NaN where one cannot be computed.

    Args:
        task: which.
        labels: names of its columns, if it has some.
        rows: the windows.
        threshold, least_tst_s: of breathing events; see ``task_metrics.of_breathing``.
    """
    output, target, counted = joined(task, rows)
    if not counted.any():
        return {task.metric: math.nan}
    if task.kind == "classes":
        predicted = output[counted].argmax(-1)
        return task_metrics.of_classes(target[counted], predicted, task.classes)
    if task.kind == "regression":
        return task_metrics.of_numbers(target[counted], output[counted])
    if task.kind == "survival":
        found = {}
        for k, name in enumerate(labels):
            own = counted[:, k]
            time, event = target[own, k, 0], target[own, k, 1] > 0
            found[f"c_index_{name}"] = task_metrics.c_index(output[own, k], time, event)
        return {"c_index": _mean(found.values()), **found}
    probability = 1 / (1 + np.exp(-output.astype(np.float64)))
    if task.name == "ahi":
        nights = breathing_nights(rows)
        by_second = task_metrics.of_binary(target[counted], probability[counted])
        return by_second | task_metrics.of_breathing(nights, threshold, least_tst_s=least_tst_s)
    columns = columns_of(task, labels, output.shape[-1])
    if not columns:
        return task_metrics.of_binary(target[counted], probability[counted])
    found = {}
    for name, places in columns.items():
        own = counted[..., places]
        if own.any():
            one = task_metrics.of_binary(target[..., places][own], probability[..., places][own])
            found |= {f"{key}_{name}": value for key, value in one.items()}
    means = {
        key: _mean(found.get(f"{key}_{name}", math.nan) for name in columns) for key in AVERAGED
    }
    return means | found


def columns_of(task: Task, labels: Sequence[str], width: int) -> dict[str, np.ndarray]:
    """Return name -> outputs of what a binary task asks for, none where it asks for one thing."""
    if task.name == "arousal":
        return {name: np.arange(i, width, len(AROUSALS)) for i, name in enumerate(AROUSALS)}
    return {name: np.array([i]) for i, name in enumerate(labels)} if len(labels) > 1 else {}


def joined(task: Task, rows: Sequence[Answer]):
    """Outputs, targets and what counts of all windows; of night tasks the nights' means."""
    if not task.by_night:
        names = ("output", "target", "counted")
        return tuple(np.concatenate([getattr(row, name) for row in rows]) for name in names)
    nights = collections.defaultdict(list)
    for row in rows:
        if row.counted.any():
            nights[row.night].append(row)
    if not nights:
        return np.zeros((0, 1)), np.zeros((0, 1)), np.zeros((0, 1), bool)
    own = list(nights.values())
    return (
        np.stack([np.mean([row.output for row in night], axis=0) for night in own]),
        np.stack([night[0].target for night in own]),
        np.stack([night[0].counted for night in own]),
    )


def breathing_nights(rows: Sequence[Answer]) -> list[task_metrics.Night]:
    """Return whole nights, second by second, of windows of the task ``"ahi"``."""
    nights = collections.defaultdict(list)
    for row in rows:
        nights[row.night].append(row)
    found = []
    for own in nights.values():
        tokens = max(row.start + len(row.output) for row in own)
        probability, truth = np.zeros((tokens, TOKEN_S)), np.zeros((tokens, TOKEN_S), bool)
        scored, sleep = np.zeros_like(truth), np.zeros_like(truth)
        for row in own:
            here = slice(row.start, row.start + len(row.output))
            probability[here] = 1 / (1 + np.exp(-row.output.astype(np.float64)))
            truth[here], scored[here] = row.target > 0.5, row.counted
            sleep[here] = (row.stage > 0)[:, None]
        if scored.any():
            flat = (x.ravel() for x in (probability, truth, sleep, scored))
            found.append(task_metrics.Night(*flat))
    return found


def shown(task: Task, labels: Sequence[str], rows: Sequence[Answer], threshold) -> dict:
    """Return what a picture of the answers needs, as JSON values."""
    output, target, counted = joined(task, rows)
    if task.kind == "classes":
        predicted = output[counted].argmax(-1)
        found = probe.confusion(target[counted], predicted, len(task.classes))
        return {"confusion": found.tolist(), "classes": list(task.classes)}
    if task.name == "ahi":
        nights = [night for night in breathing_nights(rows) if night.sleep.any()]
        of = lambda night, x: task_metrics.night_ahi(x, night.sleep)
        points = [[of(n, n.truth & n.scored), of(n, n.said(threshold))] for n in nights]
        return {"points": points, "of": "events an hour of sleep"}
    if task.kind == "regression":
        points = np.stack([target[counted], output[counted]], 1).astype(float)
        return {"points": points.tolist(), "of": task.name}
    if task.kind == "binary":
        columns = columns_of(task, labels, output.shape[-1]) or {
            task.name: np.arange(output.shape[-1])
        }
        curves = {}
        for name, places in columns.items():
            own = counted[..., places]
            curves[name] = probe.roc_points(target[..., places][own], output[..., places][own])
        return {"roc": curves}
    return {}


def _mean(values) -> float:
    values = [value for value in values if math.isfinite(value)]
    return float(np.mean(values)) if values else math.nan
