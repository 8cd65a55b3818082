"""Nearest neighbours among the frozen embeddings of epochs: quick enough to choose checkpoints by.

Principal components, then the vote of the nearest epochs of other people. The official code of
SynthSleepNet (arXiv 2502.17481) chooses checkpoints so, with 50 components and 5 neighbours, fitted
on 50 people and scored on the *test* people. Here the validation split is scored unless another is
named.

Results go to ``workdir/knn_<split>.json``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
from absl import logging

from data_pipelines.store import NightEntry
from hypnos_jax.probing import probe, task_metrics
from hypnos_jax.probing.frozen_features import BATCH_SIZE, POOLINGS, SPLITS, embed_nights, pooled
from hypnos_jax.runtime import distributed
from hypnos_jax.runtime.files import write_json
from hypnos_jax.tasks import find_probe_task

MOST_EPOCHS = 50_000  # ours: about 50 nights, as many as the official code fits


class Knn:
    """Labels of epochs told by their nearest neighbours."""

    def __init__(
        self,
        context,
        *,
        tasks: Sequence[str] = ("staging",),
        fit: str = "train",
        score: str = "validation",
        components: int = 50,
        neighbours: int = 5,
        most_epochs: int = MOST_EPOCHS,
        most_scored: int = MOST_EPOCHS,
        seed: int = 0,
        pooling: str = "mean",
        batch_size: int = BATCH_SIZE,
    ):
        """Plan the vote.

        Args:
            context: ``hypnos_jax.evaluate.Context``.
            tasks: names in ``hypnos_jax.tasks.PROBE_TASKS``.
            fit: the split whose people vote.
            score: the split that is scored, another one.
            components: principal components of the embedding that are kept.
            neighbours: that vote.
            most_epochs, most_scored: whole nights are taken, in an order of ``seed``, until they
                have so many labels; beyond that number labels are left out at random.
            seed: of these choices.
            pooling: of modalities, ``"mean"`` or ``"side_by_side"``; see
                ``frozen_features.pooled``.
            batch_size: windows that are embedded at once.

        Raises:
            ValueError: an unknown task, split or pooling, or one split for both.
        """
        if not {fit, score} <= set(SPLITS) or fit == score:
            raise ValueError(f"knn: fit={fit!r}, score={score!r}; they are two of {SPLITS}")
        if pooling not in POOLINGS:
            raise ValueError(f"knn: pooling={pooling!r}; it is one of {POOLINGS}")
        if min(components, neighbours, most_epochs, most_scored) < 1:
            raise ValueError("knn: components, neighbours and numbers of epochs are 1 or more")
        self.context, self.tasks = context, [find_probe_task(name) for name in tasks]
        self.fit, self.score, self.seed, self.pooling = fit, score, seed, pooling
        self.components, self.neighbours = components, neighbours
        self.most = {fit: most_epochs, score: most_scored}
        self.batch_size = batch_size
        self._choices: list[Choice] | None = None

    def run(self, variables: dict, step: int) -> Iterator[tuple[str, float]]:
        """Yield ``<task>/<metric>`` of ``task_metrics.of_classes``, or of tasks that are ranked, of
        ``task_metrics.of_binary``; write everything.

        Raises:
            ValueError: the model reads no whole nights.
        """
        if self._choices is None:
            self._choices = [self._chosen(task) for task in self.tasks]
        report = {"step": step, "fit": self.fit, "score": self.score, "pooling": self.pooling}
        report |= {"components": self.components, "neighbours": self.neighbours}
        report |= {"seed": self.seed, "tasks": {}, "left_out": {}}
        for by_record in (False, True):
            choices = [own for own in self._choices if own.task.by_record == by_record]
            features = self._features(variables, choices, by_record)
            for choice in choices:
                found, reason = self._judge(choice, features)
                kind = "left_out" if reason else "tasks"
                report[kind][choice.task.name] = reason or found
        if distributed.is_first():
            write_json(self.context.workdir / f"knn_{self.score}.json", report)
        for name, reason in report["left_out"].items():
            logging.info("knn leaves out %s: %s", name, reason)
        for name, found in report["tasks"].items():
            for metric, value in found["metrics"].items():
                if math.isfinite(value):
                    yield f"{name}/{metric}", value

    def _chosen(self, task) -> Choice:
        """The nights that a task is asked of, each with its labels, by split."""
        nights, offered = {}, {}
        names = {row["name"] for row in self.context.attribute("modalities")}
        for split, most in self.most.items():
            own = [n for n in self.context.store.select(split) if names & set(n.channels)]
            own.sort(key=lambda night: night.recording)
            order = np.random.default_rng(self.seed).permutation(len(own))
            nights[split], count, offered[split] = [], 0, len(own)
            for night in (own[i] for i in order):
                if count >= most:
                    break
                labels = task.labels(self.context.store, night)
                if known := int((labels >= 0).sum()):
                    nights[split].append((night, labels))
                    count += known
        return Choice(task, nights, offered)

    def _features(self, variables, choices, by_record):
        """Recording -> pooled rows, and where they rest on signal."""
        only = {
            night.recording
            for choice in choices
            for nights in choice.nights.values()
            for night, _ in nights
        }
        if not only:
            return {}
        how = {"only": only, "splits": tuple(self.most), "batch_size": self.batch_size}
        token_s, found = self.context.attribute("token_s"), {}
        for night, rows in embed_nights(self.context, variables, **how):
            flat = pooled(rows, token_s, by_record=by_record, pooling="side_by_side")
            seen = np.isfinite(flat).any(1)
            if self.pooling != "side_by_side":
                flat = pooled(rows, token_s, by_record=by_record, pooling=self.pooling)
            found[night.recording] = flat.astype(np.float32), seen
        return found

    def _judge(self, choice, features):
        """What is found for a task, and why nothing is."""
        task, sets, counts = choice.task, {}, {}
        for split, nights in choice.nights.items():
            parts = [
                (features[night.recording], labels, night)
                for night, labels in nights
                if night.recording in features
            ]
            kept = [(labels >= 0) & seen for (_, seen), labels, _ in parts]
            if not sum(own.sum() for own in kept):
                return None, f"no night of the {split} split has labels and signal"
            x = np.concatenate([x[own] for ((x, _), _, _), own in zip(parts, kept)])
            y = np.concatenate([labels[own] for (_, labels, _), own in zip(parts, kept)])
            places = np.arange(len(y))
            if len(y) > self.most[split]:
                rng = np.random.default_rng(self.seed)
                places = np.sort(rng.permutation(len(y))[: self.most[split]])
            sets[split] = x[places], y[places].astype(int)
            counts[split] = {
                "labels": len(places),
                "nights": len(parts),
                "of_nights": choice.offered[split],
                "subjects": len({night.subject for _, _, night in parts}),
            }
        self.context.heartbeat()
        target = sets[self.score][1]
        probability = self._vote(*sets[self.fit], sets[self.score][0], len(task.classes))
        said = probability.argmax(1)
        if task.ranked:
            metrics = task_metrics.of_binary(target, probability[:, 1])
        else:
            metrics = task_metrics.of_classes(target, said, task.classes)
        confusion = probe.confusion(target, said, len(task.classes)).tolist()
        return {"metrics": metrics, "confusion": confusion, "splits": counts}, ""

    def _vote(self, x, y, asked, classes):
        """Shares of the neighbours by class, float64 [N, classes]."""
        from sklearn.decomposition import PCA
        from sklearn.impute import SimpleImputer
        from sklearn.neighbors import KNeighborsClassifier
        from sklearn.pipeline import make_pipeline

        model = make_pipeline(
            SimpleImputer(keep_empty_features=True),
            PCA(min(self.components, *x.shape), random_state=self.seed),
            KNeighborsClassifier(min(self.neighbours, len(x))),
        )
        with np.errstate(invalid="ignore"):  # of a model whose rows are all alike
            model.fit(x, y)
        shares = np.zeros((len(asked), classes))
        shares[:, np.unique(y)] = model.predict_proba(asked)
        return shares


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a task is asked of.

    Attributes:
        task: a ``hypnos_jax.tasks.ProbeTask``.
        nights: split -> nights with their labels.
        offered: split -> how many nights it has.
    """

    task: object
    nights: dict[str, list[tuple[NightEntry, np.ndarray]]]
    offered: dict[str, int]
