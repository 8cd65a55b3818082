"""Answers of a fine-tuned model to its task: by condition of its sensors, and by site.

The objective's ``predict(batch, kept)`` answers; ``kept`` hides signal from it, and what counts
stays the same. Conditions: ``all`` modalities; ``only/<name>`` each alone; ``without/<name>`` each
left out; ``size/<n>``, the mean over sets of n modalities, and ``size/<n>/worst``; and
``hole/<name>/<share>``, a sensor gone for a contiguous share of every window. How answers are
measured and drawn the task says (``hypnos_jax.tasks``, ``hypnos_jax.probing.answers``).

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
from hypnos_jax.probing.answers import MEASURES, Answer, counts, each_once
from hypnos_jax.reports.figures import draw_answers
from hypnos_jax.runtime import distributed
from hypnos_jax.runtime.files import write_json
from hypnos_jax.tasks import find_task

SUBSETS = ("single", "leave_one_out")


@dataclasses.dataclass(frozen=True)
class Condition:
    """Signals that are hidden from the model.

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
            draws: bootstrap samples of the subjects, for an interval of each metric.

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
        measure = MEASURES[task.measure](task, labels, self.least_tst_s)
        conditions = self._conditions(names)
        answers = self._answers(variables, self.split, conditions, measure.needs)
        if not answers["all"]:
            return
        if measure.tuned_on:
            other = answers
            if self.split != measure.tuned_on:
                few = conditions[:1]
                other = self._answers(variables, measure.tuned_on, few, measure.needs)
            measure = measure.tune(other["all"])

        report = {
            "step": step,
            "split": self.split,
            "task": task.name,
            "metric": task.metric,
            "modalities": names,
            "threshold": measure.threshold,
            "conditions": {},
            "sites": {},
        }
        for condition in conditions:
            self.context.heartbeat()
            rows = answers[condition.name]
            report["conditions"][condition.name] = {"metrics": measure.metrics(rows)} | counts(rows)
        report["conditions"] |= self._sizes(report["conditions"], task)
        rows = answers["all"]
        seen = self._sites_seen(source)
        sites = description["sites"]
        for place in sorted({row.site for row in rows}):
            own = [row for row in rows if row.site == place]
            found = {"metrics": measure.metrics(own), "seen": sites[place] in seen} | counts(own)
            report["sites"][sites[place]] = found
        report["shown"] = measure.shown(rows)
        if self.draws:
            spread = self._spread(rows, measure)
            people = len({row.subject for row in rows})
            ends = {name: probe.interval(own, people) for name, own in spread.items()}
            report["intervals"] = {n: {"low": low, "high": high} for n, (low, high) in ends.items()}
            report["interval"] = {"metric": task.metric} | report["intervals"][task.metric]
        if distributed.is_first():
            write_json(self.context.workdir / f"downstream_{self.split}.json", report)
            figures = self.context.workdir / "figures"
            figures.mkdir(exist_ok=True)
            draw_answers(report, figures / f"{step}_downstream_{self.split}.png", task.draw)
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
                rest = [tuple(j for j in every if j != i) for i in every]
                found += [Condition(f"without/{names[i]}", rest[i]) for i in every]
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

    def _answers(self, variables, split, conditions, needs):
        """Condition -> the answers to every window of a split, with these fields of the batch."""
        found = {condition.name: [] for condition in conditions}
        for batch in self.context.batches(split, self.batch_size, self.limit):
            facts = ("night", "start", "subject", "site", "weight", *needs)
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
                            {name: facts[name][i] for name in needs},
                        )
                    )
        if find_task(self.context.attribute("task")).by_night:
            return found
        return {name: each_once(rows) for name, rows in found.items()}

    def _spread(self, rows, measure):
        """Metric -> its values of subjects drawn with replacement, [draws]."""
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
            values.append(measure.metrics(again))
        names = {measure.task.metric: None} | dict.fromkeys(name for own in values for name in own)
        return {n: np.array([own.get(n, math.nan) for own in values]) for n in names}


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
