"""Records told apart by a frozen model: its rows, its surprise with and without labels.

Beside the trained network stand the same network with random weights of several seeds, hand-made
features of the beats, and one hand-made number. The labelled records are in a store of their own:
pretraining has seen none of them. Records of ``test`` are only judged, by probes of all others.

Feature sets: ``mean`` and ``mean_and_sd`` of the rows over time, ``surprise`` (statistics of it),
``mean_and_surprise``; by one number and no label ``surprise_mean``, the mean negative log
likelihood of all levels, and ``timing_surprise_mean`` and so on of further groups of levels.
Protocol: ``hypnos_jax.probing.record_scores``. Results go to ``workdir/record_probe.json`` and
``workdir/figures/<step>_record_probe.png``.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator, Mapping

import numpy as np
from absl import logging

from data_pipelines.signals.heartbeats import find_r_peaks, irregularity, rhythm_features
from data_pipelines.store import NightStore
from hypnos_jax.inference.surprise import column_names, statistics
from hypnos_jax.probing.frozen_features import embed_with_surprise
from hypnos_jax.probing.record_scores import Draws, Records, cross_scores, test_scores
from hypnos_jax.reports.figures import draw_records
from hypnos_jax.runtime import distributed
from hypnos_jax.runtime.files import write_json
from hypnos_jax.tasks import find_probe_task

HAND, ONE_NUMBER = "rr_features", "rr_irregularity"


class RecordProbe:
    """What whole labelled records are, by frozen features and by surprise alone."""

    def __init__(
        self,
        context,
        *,
        tokens: str,
        signals: str = "",
        test: str = "",
        test_signals: str = "",
        task: str = "rhythm",
        untrained: int = 4,
        skip_s: int = 3,
        folds: int = 5,
        shuffles: int = 4,
        draws: int = 1000,
        beside: Mapping[str, str] | None = None,
    ):
        """Plan the probe.

        Args:
            context: ``hypnos_jax.evaluate.Context``.
            tokens: the store of the labelled records, as the model's tokens.
            signals: the store of their signals, for hand-made features; none without.
            test: a store of tokens of further labelled records, only judged; none without.
            test_signals: the store of their signals.
            task: name in ``hypnos_jax.tasks.PROBE_TASKS``, of two classes by record.
            untrained: seeds of random weights that stand beside.
            skip_s: seconds at the start of a record that are not used: little came before them.
            folds, shuffles: of cross-validation.
            draws: bootstrap samples of the people.
            beside: name -> ``record_probe.json`` of another model, for the picture.

        Raises:
            ValueError: a task of another kind, no tokens, or a model without a likelihood of them.
        """
        self.task = find_probe_task(task)
        if not self.task.by_record or len(self.task.classes) != 2:
            raise ValueError(f"record_probe: task={task!r} is not one of two classes by record")
        if not tokens:
            raise ValueError("record_probe: tokens is empty; give the store of labelled records")
        self.context, self.stores = context, {"": (tokens, signals)}
        if test:
            self.stores["test"] = (test, test_signals)
        self.untrained, self.skip_s, self.draws = untrained, skip_s, draws
        self.folds, self.shuffles, self.beside = folds, shuffles, dict(beside or {})

    def run(self, variables: dict, step: int) -> Iterator[tuple[str, float]]:
        """Yield ``<feature set>/auroc`` with ``_low`` and ``_high``, ``/untrained`` (their mean)
        and ``/gain``; of test records the same below ``test/``. Write and draw everything.

        Raises:
            ValueError: the records lack labels of a class, or are no tokens of the tokenizers that
                made the training data; or a person of the records is in the training data, or one
                of ``test`` among the others.
        """
        records, stores, sets = {}, {}, {}
        for which, (tokens, _) in self.stores.items():
            stores[which] = NightStore(tokens)
            self._check_tokens(stores[which])
            records[which] = self._records(stores[which])
            self._check_people(tokens, records)
        seed = self.context.config.get("seed", 0) + 1
        weights = [variables, *(self.context.init(seed + i) for i in range(self.untrained))]
        for which, (_, signals) in self.stores.items():
            of = stores[which], records[which]
            sets[which] = [self._features(own, *of) for own in weights]
            for own in sets[which][:1]:
                own |= self._hand_made(signals, records[which]) if signals else {}
        report = {"step": step, "task": self.task.name, "classes": list(self.task.classes)}
        report |= {"untrained": self.untrained, "beside": self._beside()}
        for which, own in records.items():
            report[which or "records"] = {
                "records": len(own.names),
                "people": len(set(own.subjects)),
                "counts": np.bincount(own.labels, minlength=2).tolist(),
                "sets": self._judge(which, records, sets),
            }
        if distributed.is_first():
            write_json(self.context.workdir / "record_probe.json", report)
            figures = self.context.workdir / "figures"
            figures.mkdir(exist_ok=True)
            draw_records(report, figures / f"{step}_record_probe.png")
        for which in records:
            for name, row in report[which or "records"]["sets"].items():
                head = f"{which}/{name}" if which else name
                for end in ("value", "low", "high"):
                    if row[end] is not None:
                        yield f"{head}/auroc" + ("" if end == "value" else f"_{end}"), row[end]
                if "gain" in row:
                    yield f"{head}/untrained", float(np.mean(row["untrained"]))
                    yield f"{head}/gain", row["gain"]["value"]

    def _check_tokens(self, store):
        made, trained = (
            own.manifest["provenance"].get("tokenizers", {}) for own in (store, self.context.store)
        )
        if store.kind != "tokens" or made != trained:
            raise ValueError(
                f"record_probe: {store.path} holds no tokens of the tokenizers that made"
                f" {self.context.store.path}"
            )

    def _check_people(self, tokens, records):
        """Nobody is judged whom the model was trained on, nor in ``test`` whom a probe was."""
        *others, (which, judged) = records.items()
        trained = {night.subject for night in self.context.store.nights if night.split != "test"}
        known = trained.union(*(own.subjects for _, own in others))
        both = sorted(known & set(judged.subjects))
        if both:
            raise ValueError(
                f"record_probe: {len(both)} people of {tokens}, such as {both[0]}, are in the"
                f" training data{' or in the records that are not only judged' if which else ''}"
            )

    def _beside(self):
        rows = {}
        for name, path in self.beside.items():
            report = json.loads(pathlib.Path(path).read_text())
            rows[name] = {k: report[k]["sets"] for k in ("records", "test") if k in report}
        return rows

    def _records(self, store):
        names, subjects, labels = [], [], []
        for night in store.nights:
            (label,) = self.task.labels(store, night)
            if label >= 0:
                names.append(night.recording)
                subjects.append(night.subject)
                labels.append(label)
        left = len(store.nights) - len(names)
        if left:
            logging.info(
                "record_probe: %d of %s have no label of %s", left, store.path, self.task.name
            )
        if len(set(labels)) < 2:
            raise ValueError(f"record_probe: the records of {store.path} are not of both classes")
        return Records(names, subjects, np.array(labels))

    def _features(self, variables, store, records):
        """Feature set -> [N, F], or [N] of one number."""
        columns = column_names(self.context.attribute("level_groups"))
        found, of = {}, {"store": store, "only": set(records.names)}
        for night, (rows, valid), told in embed_with_surprise(self.context, variables, **of):
            rows, told = rows[self.skip_s :], told[self.skip_s :]
            rows = np.where(valid[self.skip_s :, :, None], rows, np.nan).reshape(len(rows), -1)
            own = {"mean": np.nanmean(rows, 0)}
            own["mean_and_sd"] = np.concatenate([own["mean"], np.nanstd(rows, 0)])
            own["surprise"] = statistics(told.reshape(len(told), -1))
            own["mean_and_surprise"] = np.concatenate([own["mean"], own["surprise"]])
            for i, column in enumerate(columns):
                if column.endswith("nll"):
                    own[column.replace("nll", "surprise_mean")] = np.nanmean(told[..., i])
            found[night.recording] = own
        first = found[records.names[0]]
        return {name: np.stack([found[one][name] for one in records.names]) for name in first}

    def _hand_made(self, signals, records):
        store = NightStore(signals)
        nights = {night.recording: night for night in store.nights}
        features, numbers = [], []
        for name in records.names:
            signal = store.signal(nights[name], "ecg", 0, nights[name].duration_s)
            peaks = find_r_peaks(signal, store.rate_hz("ecg"))
            features.append(rhythm_features(peaks))
            numbers.append(irregularity(peaks))
        return {HAND: np.stack(features), ONE_NUMBER: np.array(numbers)}

    def _judge(self, which, records, sets):
        """Feature set -> AUROC of the trained network beside the untrained ones."""
        draws, rows = Draws(records[which], self.draws), {}
        for name in sets[which][0]:
            self.context.heartbeat()
            scores = [
                self._score(name, own[name], base.get(name), which, records)
                for own, base in zip(sets[which], sets[""])
                if name in own
            ]
            rows[name] = draws.row(scores[0], scores[1:])
        return rows

    def _score(self, name, features, base, which, records):
        if features.ndim == 1:  # one number; a record without any is taken for the middle
            return np.where(np.isfinite(features), features, np.nanmedian(features))
        if which:
            return test_scores(base, records[""].labels, features)
        return cross_scores(features, records[""], folds=self.folds, shuffles=self.shuffles)
