"""Linear probes of the frozen embeddings of any model, beside honest baselines.

Tasks, each where the nights have labels for it: sleep staging, apnea or hypopnea and arousal by
30-s epoch of sleep, rhythm by record. Beside the embedding: the same backbone with random weights,
the tokenizers' codewords before the backbone, hand-crafted baseline features
(``hypnos_jax.probing.hand_features``), and no features at all; with ``surprise`` also statistics of
how unexpected the tokens were, alone, beside the embedding, and of random weights. With ``shots``,
probes of a few labelled epochs of each class too. Protocol: ``hypnos_jax.probing.probe``. Results
go to ``workdir/probe.json`` and, as pictures, to ``workdir/figures/<step>_probe.png`` and
``<step>_few_shot.png``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from absl import logging

from data_pipelines.recipes.hypnos import EIGHT
from data_pipelines.signals.timing import tokenizer_levels
from data_pipelines.store import NightStore
from hypnos_jax.export.model import TOKENIZERS, load_model
from hypnos_jax.inference.embedding import epoch_means
from hypnos_jax.models.token_chunks import CHUNK_S
from hypnos_jax.objectives import TellsSurprise
from hypnos_jax.probing import hand_features, probe
from hypnos_jax.probing.frozen_features import (
    BATCH_SIZE,
    POOLINGS,
    embed_nights,
    embed_with_surprise,
    pooled,
    surprise_statistics,
)
from hypnos_jax.reports import few_shot_section
from hypnos_jax.reports.figures import draw_probe
from hypnos_jax.runtime import distributed
from hypnos_jax.runtime.files import write_json
from hypnos_jax.tasks import PROBED, find_probe_task

SURPRISE, WITH_SURPRISE, RANDOM_SURPRISE = (
    "surprise",
    "embedding_and_surprise",
    "random_surprise",
)
EMBEDDING, RANDOM, LATENTS, HAND, NOTHING = (
    "embedding",
    "random_backbone",
    "token_latents",
    "hand_features",
    "no_features",
)


class LinearProbe:
    """Probes of the embeddings of the nights of ``config.data``."""

    def __init__(
        self,
        context,
        *,
        nights: str = "",
        tasks: Sequence[str] = (),
        fractions: Sequence[float] = (0.01, 0.1, 1.0),
        repeats: int = 3,
        shots: Sequence[int] = (),
        shot_draws: int = 10,
        strength: float = 1.0,
        fewest_test_subjects: int = probe.FEWEST_TEST_SUBJECTS,
        fewest_test_records: int = 50,
        pooling: str = "mean",
        surprise: bool = False,
        batch_size: int = BATCH_SIZE,
        chunk_s: int = CHUNK_S,
        draws: int = 1000,
    ):
        """Plan the probe.

        Args:
            context: ``hypnos_jax.evaluate.Context``.
            nights: the store of signals of the same nights, for the hand-crafted features; by
                default the data themselves, where they hold channels that these are made of.
            tasks: names in ``hypnos_jax.tasks.PROBE_TASKS``; those of ``PROBED`` that the store has
                labels for by default.
            fractions: of the training subjects, for the label-efficiency curve.
            repeats: draws of each fraction.
            shots: labelled epochs (or records) of each class, such as ``(1, 3, 10, 30, 100)``: a
                probe for each, on so few, drawn among those of all training subjects.
            shot_draws: draws of each of these.
            strength: of the probe's L2 penalty.
            fewest_test_subjects: fewer of them, and folds over all subjects replace the split.
            fewest_test_records: the same where a recording is a single example.
            pooling: of modalities, ``"mean"`` or ``"side_by_side"``; see
                ``frozen_features.pooled``.
            surprise: probe the surprise of tokens too; of models that predict them.
            batch_size: windows that are embedded at once.
            chunk_s: seconds of tokens that are embedded at once.
            draws: bootstrap samples.

        Raises:
            ValueError: an unknown task or pooling; shots or draws below 1; a model that cannot tell
                ``surprise``.
        """
        if min((*shots, shot_draws)) < 1:
            raise ValueError(
                f"linear_probe: shots={tuple(shots)} and shot_draws={shot_draws} are 1 or more"
            )
        if pooling not in POOLINGS:
            raise ValueError(f"linear_probe: pooling={pooling!r}; it is one of {POOLINGS}")
        if surprise and not context.can(TellsSurprise):
            raise ValueError("linear_probe: surprise=True wants a model that predicts tokens")
        self.context, self.nights, self.surprise = context, nights, surprise
        self.tasks = [find_probe_task(name) for name in tasks or PROBED]
        self.fractions, self.repeats, self.strength = sorted(fractions), repeats, strength
        self.shots, self.shot_draws = sorted(shots), shot_draws
        self.fewest = {False: fewest_test_subjects, True: fewest_test_records}
        self.chunk_s, self.draws = chunk_s, draws
        self.pooling, self.batch_size = pooling, batch_size
        # What does not depend on the model's variables is found once for all checkpoints of a job.
        self._baselines: dict[bool, tuple[dict, dict]] = {}
        self._judged: dict[tuple[str, str], tuple[dict, list, list]] = {}

    def run(self, variables: dict, step: int) -> Iterator[tuple[str, float]]:
        """Yield ``<task>/<feature set>/<metric>``, with ``_low`` and ``_high`` of the first metric
        where there is an interval, and ``..._<n>_shot`` of it; write and draw everything.

        Raises:
            ValueError: the model reads no whole nights, or ``nights`` are others.
        """
        store = self.context.store
        signals = self._signals(store)
        report = {"step": step, "pooling": self.pooling, "strength": self.strength}
        report["protocol"], report["tasks"], report["left_out"] = PROTOCOL, {}, {}
        for by_record in (False, True):
            labelled = {}
            names = self._names(by_record)
            for task in (task for task in self.tasks if task.by_record == by_record):
                labels, reason = self._labels(task, store, names)
                if reason:
                    report["left_out"][task.name] = reason
                else:
                    labelled[task] = labels
            nights = [n for n in store.nights if any(n.recording in x for x in labelled.values())]
            if not nights:
                continue
            sets, reasons = self._features(variables, by_record, store, nights, names, signals)
            for task, labels in labelled.items():
                keep = [i for i, night in enumerate(nights) if night.recording in labels]
                examples = probe.Examples(
                    recordings=[nights[i].recording for i in keep],
                    subjects=[nights[i].subject for i in keep],
                    splits=[nights[i].split for i in keep],
                    labels=[labels[nights[i].recording] for i in keep],
                    features={name: [rows[i] for i in keep] for name, rows in sets.items()},
                    classes=task.classes,
                )
                report["tasks"][task.name] = self._judge(task, examples) | {"not_run": reasons}
        if distributed.is_first():
            self._write(report)
        for name, reason in report["left_out"].items():
            logging.info("linear_probe leaves out %s: %s", name, reason)
        for task, found in report["tasks"].items():
            for name, own in found["sets"].items():
                for metric, values in own["metrics"].items():
                    if values["value"] is not None:
                        yield f"{task}/{name}/{metric}", values["value"]
                first = "auroc" if found["ranked"] else "kappa"
                for end in ("low", "high"):
                    if own["metrics"][first][end] is not None:
                        yield f"{task}/{name}/{first}_{end}", own["metrics"][first][end]
            for name, rows in found["few_shot"].items():
                for row in rows:
                    if row["mean"] is not None:
                        yield f"{task}/{name}/{first}_{row['shots']}_shot", row["mean"]

    def _write(self, report):
        write_json(self.context.workdir / "probe.json", report)
        if report["tasks"]:
            figures = self.context.workdir / "figures"
            figures.mkdir(exist_ok=True)
            draw_probe(report, figures / f"{report['step']}_probe.png")
            if self.shots:
                few_shot_section.write(self.context.workdir, report, self.shot_draws)

    def _signals(self, store):
        """The store of signals for the hand-crafted features, or None; it must hold every night."""
        if not self.nights:
            has = {row["name"] for row in store.manifest.get("channels", ())}
            return store if has & set(EIGHT) else None
        signals = NightStore(self.nights)
        there = {night.recording for night in signals.nights}
        missing = [night.recording for night in store.nights if night.recording not in there]
        if signals.kind != "signals" or missing:
            raise ValueError(
                f"linear_probe.nights={self.nights} is not the store of signals of these nights:"
                f" it holds {signals.kind}" + (f", without {missing[0]}" if missing else "")
            )
        return signals

    def _names(self, by_record):
        """The modalities that are embedded: the ECG alone for the rhythm of a record."""
        names = [row["name"] for row in self.context.attribute("modalities")]
        return ["ecg"] if by_record and "ecg" in names else names

    def _labels(self, task, store, names):
        """Recording -> labels of a task, and why there are not enough."""
        nights = [night for night in store.nights if set(names) & set(night.channels)]
        found = {night.recording: task.labels(store, night) for night in nights}
        found = {name: labels for name, labels in found.items() if (labels >= 0).any()}
        subjects = {night.subject for night in nights if night.recording in found}
        if len(subjects) < (2 if task.by_record else 1):
            return {}, f"{len(subjects)} subjects have labels"
        seen = np.unique(np.concatenate(list(found.values())))
        if len(seen[seen >= 0]) < 2:
            return {}, "all labels are of one class"
        return found, ""

    def _features(self, variables, by_record, store, nights, names, signals):
        """Feature set -> per night [N, F]; and why a set was not run."""
        embedded = self._embed(by_record, nights, names, variables, EMBEDDING, SURPRISE)
        if self.surprise:
            both = zip(*embedded.values())
            embedded[WITH_SURPRISE] = [np.concatenate(pair, axis=1) for pair in both]
        if by_record not in self._baselines:
            given = (by_record, store, nights, names, signals)
            self._baselines[by_record] = self._baselines_of(*given)
        sets, reasons = self._baselines[by_record]
        return {**embedded, **sets}, reasons

    def _baselines_of(self, by_record, store, nights, names, signals):
        sets, reasons = {}, {}
        fresh = self.context.init(self.context.config.get("seed", 0) + 1)
        sets |= self._embed(by_record, nights, names, fresh, RANDOM, RANDOM_SURPRISE)
        folder = store.path / TOKENIZERS
        if store.kind != "tokens":
            reasons[LATENTS] = "the model reads no tokens"
        elif folder.is_dir():
            dequantize = {p.name: _dequantizer(p) for p in sorted(folder.iterdir()) if p.is_dir()}
            sets[LATENTS] = [_latents(by_record, store, n, names, dequantize) for n in nights]
        else:
            reasons[LATENTS] = f"{store.path} carries no tokenizers"
        if signals is not None:
            sets[HAND] = _hand_made(by_record, signals, nights)
        else:
            reasons[HAND] = "no store of channels was given (option nights)"
        return sets, reasons

    def _embed(self, by_record, nights, names, variables, embedding, surprise):
        """Feature set -> of each of the nights [N, F], by the names given: pooled rows, and
        statistics of the surprise where that is asked for."""
        only = {night.recording for night in nights}
        options = {"names": names, "only": only, "chunk_s": self.chunk_s}
        how = {"by_record": by_record, "pooling": self.pooling}
        token_s, rows, told = self.context.attribute("token_s"), {}, {}
        if self.surprise:
            for night, own, values in embed_with_surprise(self.context, variables, **options):
                rows[night.recording] = pooled(own, token_s, **how)
                told[night.recording] = surprise_statistics(values, by_record=by_record)
        else:
            found = embed_nights(self.context, variables, batch_size=self.batch_size, **options)
            rows = {night.recording: pooled(own, token_s, **how) for night, own in found}
        sets = {embedding: rows, surprise: told} if told else {embedding: rows}
        return {name: [own[night.recording] for night in nights] for name, own in sets.items()}

    def _judge(self, task, examples):
        """Probe every feature set, all subjects and fractions of them."""
        draws, people, recordings = (
            self.draws,
            len(set(examples.subjects)),
            len(examples.recordings),
        )
        telling = {
            subject
            for subject, labels in zip(examples.subjects, examples.labels)
            if len(np.unique(labels[labels >= 0])) > 1
        }
        if task.by_record or len(telling) > 1:
            pairs, words = probe.split_subjects(examples, fewest_test=self.fewest[task.by_record])
        else:
            # One person's night: an honest score needs another's, so this one is named for it.
            examples, draws = probe.in_blocks(examples), 1
            pairs, _ = probe.split_subjects(examples, fewest_test=len(examples.subjects) + 1)
            words = (
                f"{len(pairs)} folds over {len(examples.subjects)} parts of the night of the only"
                " subject with several classes: within a person, which flatters every row"
            )
        out = {
            "classes": list(task.classes),
            "ranked": task.ranked,
            "how": words,
            "subjects": people,
            "recordings": recordings,
            "counts": np.bincount(
                np.concatenate([y[y >= 0] for y in examples.labels]), minlength=len(task.classes)
            ).tolist(),
            "sets": {},
            "label_efficiency": {},
            "few_shot": {},
        }
        size, metric = len(task.classes), "auroc" if task.ranked else "kappa"
        scored = functools.partial(probe.score, classes=size, ranked=task.ranked)
        for name in [*examples.features, NOTHING]:
            self.context.heartbeat()
            if (task.name, name) in self._judged:
                score, curve, few = self._judged[task.name, name]
                out["sets"][name] = score
                out["label_efficiency"] |= {name: curve} if curve else {}
                out["few_shot"] |= {name: few} if few else {}
                continue
            own = "" if name == NOTHING else name
            cross = functools.partial(
                probe.cross_predict, examples, own, pairs, strength=self.strength
            )
            out["sets"][name] = scored(cross(), draws=draws)
            curve, before = [], None
            for fraction in self.fractions if name != NOTHING else ():
                taken = [
                    len(probe.nested_subsets(train, [fraction], 0)[fraction]) for train, _ in pairs
                ]
                if fraction == 1.0:
                    values = [out["sets"][name]["metrics"][metric]["value"]]
                elif taken == before:
                    values = curve[-1]["values"]
                else:
                    found = (
                        scored(cross(fraction=fraction, seed=seed), draws=1)
                        for seed in range(self.repeats)
                    )
                    values = [one["metrics"][metric]["value"] for one in found]
                before = taken
                row = {"fraction": fraction, "subjects": float(np.mean(taken)), "values": values}
                curve.append(row)
            out["label_efficiency"] |= {name: curve} if curve else {}
            whole = out["sets"][name]["metrics"][metric]["value"]
            judge = functools.partial(scored, draws=1)
            few = self._few_shot(examples, pairs, cross, judge, metric, whole) if own else []
            out["few_shot"] |= {name: few} if few else {}
            if name not in (EMBEDDING, SURPRISE, WITH_SURPRISE):
                self._judged[task.name, name] = out["sets"][name], curve, few
        return out

    def _few_shot(self, examples, pairs, cross, judge, metric, whole) -> list[dict]:
        """The score by labelled examples of each class: ``{shots, examples, values, mean, low,
        high}``, the last two 95 % of the draws."""
        rows = []
        counts = [probe.class_counts(examples, train) for train, _ in pairs]
        for shots in self.shots:
            self.context.heartbeat()
            few = [int(np.minimum(own, shots).sum()) for own in counts]
            if all(shots >= own.max() for own in counts):
                values = [whole]  # there are no more
            else:
                found = (judge(cross(shots=shots, seed=seed)) for seed in range(self.shot_draws))
                values = [one["metrics"][metric]["value"] for one in found]
            told = [value for value in values if value is not None]
            low, high = np.quantile(told, [0.025, 0.975]).tolist() if told[1:] else (None, None)
            mean = float(np.mean(told)) if told else None
            row = {"shots": shots, "examples": float(np.mean(few)), "values": values}
            rows.append(row | {"mean": mean, "low": low, "high": high})
        return rows


PROTOCOL = (
    "Logistic regression on standardised features of frozen models; no subject is in training and"
    " test of the probe. The models were pretrained without labels on the store's training nights:"
    " where folds over all subjects are used, pretraining has seen most of the tested nights'"
    " signals, though no label. Intervals: 95 %, bootstrap over test subjects."
)


def _pool(by_record, rows):
    """[S, D] -> [E, D] for tasks by epoch, [1, D] for tasks by record."""
    return rows.mean(axis=0, keepdims=True) if by_record else epoch_means(rows)


def _hand_made(by_record, signals, nights):
    entries = {night.recording: night for night in signals.nights}
    compute = hand_features.record_features if by_record else hand_features.epoch_features
    rows = [compute(signals, entries[night.recording])[0] for night in nights]
    return [x[None] for x in rows] if by_record else rows


def _dequantizer(folder):
    model = load_model(folder)
    apply = functools.partial(model.objective.apply, method="dequantize")
    return functools.partial(jax.jit(apply), jax.device_put(model.variables))


def _latents(by_record, store, night, names, dequantize):
    """Sums of codewords, averaged over the channels of a signal type, types side by side."""
    firsts = np.cumsum([0, *(row["levels"] for row in store.modalities)])
    length = -(-night.duration_s // CHUNK_S) * CHUNK_S  # few shapes to compile
    codes = store.codes(night, 0, length).astype(np.int32)
    parts = []
    for signal_type in dict.fromkeys(row["signal_type"] for row in store.modalities):
        if signal_type not in dequantize:
            continue
        latents = []
        for i, row in enumerate(store.modalities):
            if row["signal_type"] != signal_type or row["name"] not in names:
                continue
            columns = codes[None, :, firsts[i] : firsts[i] + tokenizer_levels(row)]
            latent = np.asarray(dequantize[signal_type](columns))[0, : night.duration_s]
            absent = row["name"] not in night.channels
            latents.append(np.full_like(latent, np.nan) if absent else latent)
        if latents:
            present = [x for x in latents if np.isfinite(x).all()]
            parts.append(_pool(by_record, np.mean(present or latents[:1], axis=0)))
    return np.concatenate(parts, axis=1)
