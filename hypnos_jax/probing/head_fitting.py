"""Fitting heads on the frozen embeddings of a store's scored nights.

People of the split ``train`` fit the numbers; those of ``validation`` alone choose the penalty, the
temperature, the threshold and the confidence; those of ``test`` are only judged.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
import warnings
import zipfile
from collections.abc import Sequence

import numpy as np
import tqdm

from data_pipelines import labels
from data_pipelines.files import archive_comment, atomic_write
from data_pipelines.recordings.base import RecordingError
from data_pipelines.store import EPOCH_S, NightEntry, NightStore
from hypnos_jax.heads.cells import around, cells_of, silenced
from hypnos_jax.heads.head import Head, probabilities
from hypnos_jax.inference.embed import Embedder, WindowEmbedder
from hypnos_jax.probing import probe
from hypnos_jax.tasks import STAGES

EVENT_CELL_S = 5  # ours; of models whose rows are no longer than this
SPANS = (3, 9, 31)  # ours: cells around each that a head with context reads the means of
HIDDEN = 64
STRENGTHS = (1.0, 100.0, 10_000.0)  # of the L2 penalty
MOST_CELLS = 40_000  # that numbers are fitted on, of any length of store
DROPPED = 0.1  # share of training cells in which a modality is missing, each for itself
RISK = 0.1
KEPT = 2  # version of the kept embeddings


@dataclasses.dataclass(frozen=True)
class HeadTask:
    """What a head is asked.

    Attributes:
        classes: names of its outputs.
        kinds: of the events; none for stages.
        asleep: only cells of sleep are fitted and judged.
    """

    classes: tuple[str, ...]
    kinds: tuple[str, ...] = ()
    asleep: bool = True

    def labels(self, store: NightStore, night: NightEntry, cell_s: float) -> np.ndarray:
        """Return int8 [N] of the whole cells of a night; -1 is unknown."""
        stages = labels.stages(store, night)
        if not self.kinds:
            return stages
        found = labels.events(store, night, self.kinds, "midpoint", round(cell_s))
        at = np.minimum(np.arange(len(found)) * cell_s // EPOCH_S, len(stages) - 1).astype(int)
        asleep = stages[at] > 0 if len(stages) else np.zeros(len(found), bool)
        return np.where(asleep | (not self.asleep), found, np.int8(labels.UNKNOWN))


TASKS = {
    "stage5": HeadTask(STAGES),
    "apnea": HeadTask(("apnea or hypopnea",), labels.BREATHING),
    "arousal": HeadTask(("arousal",), labels.AROUSALS),
}


@dataclasses.dataclass
class Night:
    """A night that heads are fitted on: its entry, and what was made of it."""

    entry: NightEntry
    modalities: dict[str, np.ndarray]


def cell_of(task: str, token_s: float) -> float:
    """Return how many seconds a cell of a task's head has, for rows of ``token_s`` seconds.

    Raises:
        ValueError: there is no such task.
    """
    if task not in TASKS:
        raise ValueError(f"--task={task}: there is no such head; there are {sorted(TASKS)}")
    short = TASKS[task].kinds and token_s <= EVENT_CELL_S and EVENT_CELL_S % token_s == 0
    return float(EVENT_CELL_S if short else EPOCH_S)


def embed_store(
    embedder: Embedder | WindowEmbedder,
    store: NightStore,
    kept: str | os.PathLike,
    *,
    splits: Sequence[str] = ("train", "validation", "test"),
    progress: bool = True,
) -> tuple[list[Night], list[tuple[str, str]]]:
    """Embed the nights of a store, and keep them in a folder for the next time.

    Args:
        embedder: of ``open_embedder``.
        store: of nights that the model reads.
        kept: folder of embeddings; those of the same model and store are not made again.
        splits: of the nights wanted; a locked one is left out.
        progress: show a progress bar on stderr.

    Returns:
        The nights, and (recording, reason) of those that cannot be embedded.
    """
    kept = pathlib.Path(kept)
    kept.mkdir(parents=True, exist_ok=True)
    readable = set(splits) - set(store.closed)
    entries = [night for night in store.nights if night.split in readable]
    manifest = hashlib.sha256((store.path / "manifest.json").read_bytes()).hexdigest()
    comment = f"{KEPT} {embedder.checksum} {manifest}"
    nights, left = [], []
    for entry in tqdm.tqdm(entries, desc="embed", unit="night", disable=not progress):
        # Names of recordings may have folders, and are not to be read off the kept files.
        path = kept / f"{hashlib.sha256(entry.recording.encode()).hexdigest()[:24]}.npz"
        rows = _read_kept(path, comment)
        if rows is None:
            try:
                rows = embedder.embed_night(store, entry).modalities
                rows = silenced(rows, _valid(store, entry), embedder.model.objective.token_s)
            except RecordingError as error:
                left.append((entry.recording, str(error)))
                continue
            with atomic_write(path, "w+b") as file:
                np.savez(file, **rows)
                with zipfile.ZipFile(file, "a") as archive:
                    archive.comment = comment.encode()
        nights.append(Night(entry, rows))
    return nights, left


def _valid(store, entry) -> dict[str, np.ndarray]:
    """Where the signals of a night are; of tokens, whose rows are silent by themselves, nothing."""
    if store.kind != "signals":
        return {}
    return {name: store.valid(entry, name, 0, entry.duration_s) for name in entry.channels}


def _read_kept(path, comment):
    if archive_comment(path) != comment:
        return None
    try:
        with np.load(path) as file:
            return dict(file)
    except (OSError, ValueError, zipfile.BadZipFile):
        return None


def fit_head(
    task: str,
    nights: Sequence[Night],
    store: NightStore,
    *,
    model: str,
    names: Sequence[str],
    token_s: float,
    context: bool = False,
    risk: float = RISK,
    seed: int = 0,
) -> Head:
    """Fit, calibrate and judge a head.

    Args:
        task: a name in ``TASKS``.
        nights: embedded nights of the store.
        store: theirs, with the scoring.
        model: checksum of the model.
        names: modalities of the embeddings, in order.
        token_s: seconds of their rows.
        context: read the cells around each, with a hidden layer; else a linear head.
        risk: share of wrong answers that is accepted among those that are not ``uncertain``.
        seed: of everything that is drawn.

    Raises:
        ValueError: no task of this name; or the nights of ``train`` or ``validation`` have no
            labels of it, or of one class alone.
    """
    split = labelled(task, nights, store, names, token_s)
    asked = TASKS[task]
    for name in ("train", "validation"):
        found = np.unique(np.concatenate([t[t >= 0] for _, _, t in split[name]] or [[]]))
        if len(found) < 2:
            raise ValueError(
                f"--task={task}: the nights of the split {name!r} have"
                f" {'labels of one class alone' if len(found) else 'no labels of it'}; give a store"
                " with scored nights of more people (a few for each split)"
            )
    head = Head(
        task=task,
        kind="binary" if asked.kinds else "classes",
        classes=asked.classes,
        names=tuple(names),
        cell_s=cell_of(task, token_s),
        spans=SPANS if context else (),
        mean=np.zeros(0),
        scale=np.ones(0),
        layers=(),
        model=model,
    )
    head, strength = _fit(head, split["train"], split["validation"], context, seed)
    head = calibrated(head, split["validation"], risk)
    facts = {
        "kind": "context" if context else "linear",
        "strength": strength,
        "risk": risk,
        "labels": "midpoint of the cell in an event" if asked.kinds else "stage of the epoch",
        "counted": "cells of sleep" if asked.kinds and asked.asleep else "all scored cells",
        "fitted": _counted(split["train"]),
        "chosen_on": _counted(split["validation"]),
        "store": hashlib.sha256((store.path / "manifest.json").read_bytes()).hexdigest(),
        "validation": judge(head, split["validation"]),
    }
    if split["test"]:
        facts |= {"judged_on": _counted(split["test"]), "test": judge(head, split["test"])}
        facts["sites"] = by_site(head, split["test"])
    return dataclasses.replace(head, facts=facts)


Labelled = tuple[NightEntry, np.ndarray, np.ndarray]  # a night, its cells [N, F], labels int8 [N]


def labelled(
    task: str, nights: Sequence[Night], store: NightStore, names: Sequence[str], token_s: float
) -> dict[str, list[Labelled]]:
    """Return split -> its nights that have labels of a task, with the cells of their embeddings."""
    cell_s = cell_of(task, token_s)
    split = {"train": [], "validation": [], "test": []}
    for night in nights:
        cells = cells_of(night.modalities, names, token_s, cell_s)
        truth = TASKS[task].labels(store, night.entry, cell_s)
        count = min(len(cells), len(truth))
        # A cell without any signal says nothing of its label.
        seen = np.isfinite(cells[:count]).any(1)
        truth = np.where(seen, truth[:count], np.int8(labels.UNKNOWN))
        if (truth >= 0).any():
            split[night.entry.split].append((night.entry, cells[:count], truth))
    return split


def _fit(head, train, validation, context, seed):
    """Fit for each penalty, and keep the one whose validation log loss is least."""
    rng = np.random.default_rng(seed)
    blank = dataclasses.replace(head, mean=np.float32(0), scale=np.float32(1))
    x, y = [], []
    for _, cells, truth in train:
        rows = _with_holes(cells, len(head.names), rng)
        x.append(around(rows, head.spans)[truth >= 0])
        y.append(truth[truth >= 0])
    x, y = np.concatenate(x), np.concatenate(y).astype(np.int64)
    if len(y) > MOST_CELLS:
        kept = np.sort(rng.permutation(len(y))[:MOST_CELLS])
        x, y = x[kept], y[kept]
    known = np.isfinite(x)
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, x, 0).sum(0, dtype=np.float64) / count
    spread = np.sqrt((np.where(known, x - mean, 0) ** 2).sum(0, dtype=np.float64) / count)
    scale = np.where(spread > 1e-6, spread, 1)
    x = np.nan_to_num((x - mean) / scale).astype(np.float32)
    head = dataclasses.replace(blank, mean=mean.astype("f4"), scale=scale.astype("f4"))
    found = []
    for strength in STRENGTHS:
        made = dataclasses.replace(head, layers=_layers(x, y, head, strength, context, seed))
        found.append((log_loss(made, validation), strength, made))
    _, strength, best = min(found, key=lambda row: row[0])
    return best, strength


def _with_holes(cells, count, rng):
    """Leave out modalities here and there, so that a head has met nights that lack one."""
    holes = rng.random((len(cells), count)) < (DROPPED if count > 1 else 0)
    rows = cells.reshape(len(cells), count, -1).copy()
    rows[holes] = np.nan
    return rows.reshape(len(cells), -1)


def _layers(x, y, head, strength, context, seed):
    """Numbers of the layers: logistic regression, or one hidden layer."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier

    if context:
        network = MLPClassifier(
            (HIDDEN,), alpha=strength / len(y), early_stopping=True, max_iter=60, random_state=seed
        ).fit(x, y)
        layers = [*zip(network.coefs_, network.intercepts_)]
        present = network.classes_
    else:
        with warnings.catch_warnings():  # an early end is one more penalty, chosen by validation
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = LogisticRegression(C=1 / strength, max_iter=300).fit(x, y)
        layers, present = [(model.coef_.T, model.intercept_)], model.classes_
    weights, biases = layers[-1]
    if head.kind == "classes":
        if weights.shape[1] == 1:  # two classes have one output: the second against the first
            weights, biases = np.concatenate([-weights, weights], 1) / 2, np.append(-biases, biases)
        # What training lacks gets no probability.
        every = np.zeros((len(weights), len(head.classes)), np.float32)
        never = np.full(len(head.classes), -1e4, np.float32)
        every[:, present], never[present] = weights, biases
        layers[-1] = (every, never)
    return tuple((w.astype(np.float32), b.astype(np.float32)) for w, b in layers)


def log_loss(head: Head, nights: Sequence[Labelled], temperature: float | None = None) -> float:
    """Return the mean negative log probability of the labelled cells' own classes."""
    total = count = 0
    for logits, truth in _logits(head, nights):
        rows = two_columns(probabilities(logits, temperature or head.temperature))
        total -= np.log(np.maximum(rows[np.arange(len(truth)), truth], 1e-7)).sum()
        count += len(truth)
    return float(total / max(count, 1))


def _logits(head, nights):
    for _, cells, truth in nights:
        known = truth >= 0
        if known.any():
            yield head.logits(cells)[known], truth[known].astype(int)


def two_columns(rows: np.ndarray) -> np.ndarray:
    """Return probabilities [N, C] with a column for no event, where there is one for events."""
    return np.concatenate([1 - rows, rows], 1) if rows.shape[1] == 1 else rows


def calibrated(head: Head, validation: Sequence[Labelled], risk: float) -> Head:
    """Choose temperature, threshold and confidence on validation nights alone."""
    pairs = [*_logits(head, validation)]
    logits, truth = (np.concatenate(parts) for parts in zip(*pairs))
    grid = np.exp(np.linspace(np.log(0.25), np.log(8), 61))

    def loss(temperature):
        rows = two_columns(probabilities(logits, temperature))
        return -np.log(np.maximum(rows[np.arange(len(truth)), truth], 1e-7)).mean()

    temperature = float(min(grid, key=loss))
    rows = two_columns(probabilities(logits, temperature))
    threshold = best_threshold(rows[:, 1], truth) if head.kind == "binary" else 0.5
    said = (rows[:, 1] >= threshold) if head.kind == "binary" else rows.argmax(1)
    confidence = confidence_of(rows.max(1), said == truth, risk)
    return dataclasses.replace(
        head, temperature=temperature, threshold=threshold, confidence=confidence
    )


def best_threshold(probability: np.ndarray, truth: np.ndarray) -> float:
    """Return the threshold with the highest F1 of the events' cells."""
    grid = np.unique(np.quantile(probability, np.linspace(0, 1, 201)))
    hits = np.array([(truth[probability >= t] == 1).sum() for t in grid])
    said = np.array([(probability >= t).sum() for t in grid])
    return float(grid[np.argmax(2 * hits / np.maximum(said + (truth == 1).sum(), 1))])


def confidence_of(confidence: np.ndarray, right: np.ndarray, risk: float) -> float:
    """Return the confidence from which on the share of wrong answers is at most ``risk``.

    1.01, which nothing reaches, where no answers are that good.
    """
    order = np.argsort(-confidence, kind="stable")
    wrong = np.cumsum(~right[order]) / np.arange(1, len(order) + 1)
    good = np.flatnonzero(wrong <= risk)
    return float(confidence[order[good[-1]]]) if len(good) else 1.01


def risk_coverage(confidence: np.ndarray, right: np.ndarray, points: int = 20) -> list[dict]:
    """Return the share of wrong answers among the surest: [{coverage, risk, confidence}]."""
    order = np.argsort(-confidence, kind="stable")
    wrong = np.cumsum(~right[order]) / np.arange(1, len(order) + 1)
    places = np.unique(np.linspace(0, len(order) - 1, points + 1).round().astype(int)[1:])
    return [
        {
            "coverage": float((i + 1) / len(order)),
            "risk": float(wrong[i]),
            "confidence": float(confidence[order[i]]),
        }
        for i in places
    ]


def judge(head: Head, nights: Sequence[Labelled], draws: int = 500) -> dict:
    """Return how good a head is on nights: ``probe.score``, calibration, risk and coverage."""
    found = probe.Predictions([], [], [], [])
    for entry, cells, truth in nights:
        rows = two_columns(head(cells))
        known = (truth >= 0) & np.isfinite(rows).all(1)
        if known.any():
            found.recordings.append(entry.recording)
            found.subjects.append(entry.subject)
            found.labels.append(truth[known].astype(int))
            found.probabilities.append(rows[known])
    classes = max(len(head.classes), 2)
    scored = probe.score(found, classes, ranked=head.kind == "binary", draws=draws)
    truth, rows = np.concatenate(found.labels), np.concatenate(found.probabilities)
    said = (rows[:, 1] >= head.threshold) if head.kind == "binary" else rows.argmax(1)
    out = {"metrics": scored["metrics"], "people": scored["subjects"], "cells": len(truth)}
    if head.kind == "binary":
        both = ((said == 1) & (truth == 1)).sum()
        out["metrics"]["f1"] = {"value": float(2 * both / max((said == 1).sum() + truth.sum(), 1))}
        out["share"] = float(truth.mean())
    sure = rows.max(1) if head.kind == "classes" else np.where(said, rows[:, 1], rows[:, 0])
    out["calibration_error"] = calibration_error(sure, said == truth)
    out["risk_coverage"] = risk_coverage(rows.max(1), said == truth)
    certain = rows.max(1) >= head.confidence
    out["certain"] = float(certain.mean())
    out["risk_where_certain"] = float((said != truth)[certain].mean()) if certain.any() else None
    return out


def calibration_error(sure: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """Return the expected calibration error: mean gap of confidence and accuracy, in equal bins."""
    place = np.minimum((sure * bins).astype(int), bins - 1)
    gaps = [
        abs(sure[place == k].mean() - right[place == k].mean()) * (place == k).mean()
        for k in np.unique(place)
    ]
    return float(np.sum(gaps))


def by_site(head: Head, nights: Sequence[Labelled]) -> dict[str, dict]:
    """Return site -> {people, and the first metric's value} of nights that tell their site."""
    sites = {}
    for row in nights:
        site = str(row[0].metadata.get("site") or "")
        if site:
            sites.setdefault(site, []).append(row)
    first = "auroc" if head.kind == "binary" else "kappa"
    found = {}
    for site, own in sorted(sites.items()):
        told = judge(head, own, draws=2)
        found[site] = {"people": told["people"], first: told["metrics"][first]["value"]}
    return found


def _counted(nights: Sequence[Labelled]) -> dict:
    sites = sorted({str(entry.metadata.get("site") or "") for entry, _, _ in nights} - {""})
    return {
        "nights": len(nights),
        "people": len({entry.subject for entry, _, _ in nights}),
        "hours": round(sum(entry.duration_s for entry, _, _ in nights) / 3600, 2),
        "cells": int(sum((truth >= 0).sum() for _, _, truth in nights)),
        **({"sites": sites} if sites else {}),
    }


def names_of(embedder: Embedder | WindowEmbedder, nights: Sequence[Night]) -> list[str]:
    """Return the modalities that heads read: the model's that any night has, or the fused one."""
    there = {name for night in nights for name in night.modalities}
    every = [name for name in embedder.names() if name in there]
    return every or sorted(there)
