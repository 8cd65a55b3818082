"""Families of models side by side: the same nights, budgets, questions, labels and sensors.

Each model is frozen and read by the linear probes of ``ridge``. Questions by epoch are those of
``hypnos_jax.tasks``; questions by night are the age of the sleeper and the site of the recording,
which ought not to be readable. Each is asked with shares of the training people labelled, several
draws of them, and with sensors missing in fitting and judging alike. Penalties of questions by
epoch are chosen on validation people, and test people are judged; questions by night have one
penalty, and people of both splits are judged. Beside the models stand their networks with random
weights, hand-made features, and networks that were trained with labels.

Intervals are over judged people, drawn with replacement, the same for all methods.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch

import numpy as np
from absl import logging

from data_pipelines.store import NightStore, sha256
from hypnos_jax.export.model import LoadedModel, load_model
from hypnos_jax.probing import hand_features, probe, ridge
from hypnos_jax.probing.comparison import HAND, network
from hypnos_jax.probing.frozen_features import subset_features
from hypnos_jax.runtime.files import write_json
from hypnos_jax.tasks import find_probe_task

EPOCH_TASKS = ("staging", "apnea", "arousal")
NIGHT_TASKS = ("age", "site")
METRICS = {
    "staging": "Cohen's kappa",
    "apnea": "AUROC",
    "arousal": "AUROC",
    "age": "share of the mean's error that is gone",
    "site": "accuracy",
}
# Sensors: patterns of what is there, and of what is not.
SUBSETS = {"all": ("*", ""), "EEG alone": ("eeg*", ""), "no EEG": ("*", "eeg*")}
STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
NIGHT_STRENGTH = 10.0
NIGHT_COMPONENTS = 32
RESAMPLED = 200
UNTRAINED = "{}, untrained"

Rows = Mapping[str, np.ndarray]  # recording -> [E, F]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A trained model of the table.

    Attributes:
        name: of the family.
        budget: FLOPs that were to be spent, of all stages.
        seed: of the run.
        path: a run or an export.
        nights: the store that it reads.
        stages: runs that came before and count too: tokenizers, encoders.
        task, share: of a network that was trained with labels: the question, and the share of the
            people whose labels it had; its ``evaluation.json`` has the answer.
    """

    name: str
    budget: float
    seed: int
    path: str
    nights: str
    stages: tuple[str, ...] = ()
    task: str = ""
    share: float = 1.0

    @functools.cached_property
    def spent(self) -> float:
        """FLOPs of all stages, as counted."""
        return sum(flops_of(path) for path in (*self.stages, self.path))


def flops_of(path: str) -> float:
    """Return what a run was counted to cost: FLOPs of a step times steps.

    Raises:
        FileNotFoundError: the run did not begin.
    """
    folder = pathlib.Path(path)
    cost = json.loads((folder / "cost.json").read_text())
    steps = json.loads((folder / "config.json").read_text())["train"]["steps"]
    return cost["flops_per_step"] * steps


def chosen(names: Sequence[str], subset: str) -> list[str]:
    """Return the names of a subset of sensors."""
    there, gone = SUBSETS[subset]
    return [name for name in names if fnmatch(name, there) and not fnmatch(name, gone or "-")]


class Judge:
    """Questions about some nights, and scores of rows on them."""

    def __init__(self, store: NightStore, *, shares: Sequence[float], draws: int):
        """Take the nights with their labels.

        Args:
            store: of signals, with stages, events and people.
            shares: of the training people that are labelled.
            draws: of each share below 1.
        """
        self.store, self.nights = store, {night.recording: night for night in store.nights}
        people = sorted({n.subject for n in store.nights if n.split == "train"})
        self.labelled = {
            share: [
                set(probe.nested_subsets(people, [share], seed)[share])
                for seed in range(draws if share < 1 else 1)
            ]
            for share in shares
        }
        self.counts = {share: len(found[0]) for share, found in self.labelled.items()}

    @functools.cached_property
    def labels(self) -> dict[str, dict[str, np.ndarray]]:
        """Task -> recording -> labels: int [E], or a number of the night."""
        found = {}
        for task in EPOCH_TASKS:
            of = find_probe_task(task).labels
            found[task] = {n.recording: of(self.store, n).astype(int) for n in self.store.nights}
        sites = sorted({n.metadata.get("site", "") for n in self.store.nights})
        found["age"] = {
            n.recording: np.array([n.metadata.get("age", np.nan)], float) for n in self.store.nights
        }
        found["site"] = {
            n.recording: np.array([sites.index(n.metadata.get("site", ""))])
            for n in self.store.nights
        }
        return found

    @property
    def most_frequent_site(self) -> float:
        """Accuracy of always saying the site that most judged nights are of."""
        judged = [n for n in self.store.nights if n.split != "train"]
        counts = np.bincount([self.labels["site"][n.recording][0] for n in judged])
        return float(counts.max() / max(counts.sum(), 1))

    def score(self, rows: Rows) -> dict[str, dict[str, dict]]:
        """Return task -> share -> ``{"value", "by_draw", "spread", "people"}`` of rows."""
        train = [r for r in rows if self.nights[r].split == "train"]
        found = {}
        components = ridge.Components(np.concatenate([rows[r] for r in train]))
        epochs = {r: components(x) for r, x in rows.items()}
        for task in EPOCH_TASKS:
            own = {}
            for r, x in epochs.items():
                y = self.labels[task][r][: len(x)]
                own[r] = x[: len(y)][y >= 0], y[y >= 0]
            found[task] = self._ask(task, own, by_night=False)
        whole = {r: night_row(x) for r, x in rows.items()}
        components = ridge.Components(np.concatenate([whole[r] for r in train]), NIGHT_COMPONENTS)
        nights = {r: components(x) for r, x in whole.items()}
        for task in NIGHT_TASKS:
            own = {r: (x, self.labels[task][r]) for r, x in nights.items()}
            own = {r: pair for r, pair in own.items() if np.isfinite(pair[1]).all()}
            found[task] = self._ask(task, own, by_night=True)
        return found

    def _ask(self, task, own, *, by_night) -> dict[str, dict]:
        """Fit and judge a question for every share; ``own``: recording -> (x [N, D], y [N])."""
        split = {r: self.nights[r].split for r in own}
        judged = ("validation", "test") if by_night else ("test",)
        asked = [r for r in own if split[r] in judged and len(own[r][1])]
        choosing = [r for r in own if split[r] == "validation" and len(own[r][1])]
        known = np.concatenate([own[r][1] for r in own])
        if task != "age" and len(np.unique(known)) < 2 or not asked:
            return {}
        size = int(known.max()) + 1 if task != "age" else 0
        strengths = (NIGHT_STRENGTH,) if by_night else STRENGTHS
        out = {}
        for share, draws in self.labelled.items():
            solutions, levels = [], []
            for people in draws:
                there = [r for r in own if split[r] == "train" and self.nights[r].subject in people]
                x = np.concatenate([own[r][0] for r in there])
                y = np.concatenate([own[r][1] for r in there])
                target = np.eye(size)[y] if size else y[:, None]
                solutions.append(ridge.fit(x, target, strengths))
                levels.append(float(target.mean()))

            def scores(recordings, place, weights, fits=solutions, levels=levels):
                x = np.concatenate([own[r][0] for r in recordings])
                y = np.concatenate([own[r][1] for r in recordings])
                owner = self._owner(recordings, [len(own[r][1]) for r in recordings])
                return np.stack(
                    [
                        _measure(
                            task, y, ridge.predict(fit[place], x), owner, weights(owner), level
                        )
                        for fit, level in zip(fits, levels)
                    ]
                )

            place = 0
            if len(strengths) > 1 and choosing:
                means = [np.nanmean(scores(choosing, i, _once)) for i in range(len(strengths))]
                place = int(np.nanargmax(means)) if np.isfinite(means).any() else 0
            values = scores(asked, place, _resampled)
            out[f"{share:g}"] = {
                "value": float(np.nanmean(values[:, 0])),
                "by_draw": values[:, 0].tolist(),
                "spread": np.nanmean(values[:, 1:], 0).tolist(),
                "people": len({self.nights[r].subject for r in asked}),
            }
        return out

    def _owner(self, recordings, lengths) -> np.ndarray:
        people = sorted({self.nights[r].subject for r in recordings})
        return np.concatenate(
            [np.full(n, people.index(self.nights[r].subject)) for r, n in zip(recordings, lengths)]
        )


def night_row(rows: np.ndarray) -> np.ndarray:
    """Return [1, 2 F]: mean and spread over a night's epochs [E, F], NaN where none is known."""
    known = np.isfinite(rows)
    count = np.where(known.any(0), known.sum(0), np.nan)
    mean = np.where(known, rows, 0.0).sum(0) / count
    spread = np.sqrt(np.where(known, (rows - mean) ** 2, 0.0).sum(0) / count)
    return np.concatenate([mean, spread])[None]


def _once(owner: np.ndarray) -> np.ndarray:
    """Weights of people: once each."""
    return np.ones((1, int(owner.max()) + 1))


def _resampled(owner: np.ndarray) -> np.ndarray:
    """Weights of people: once each, then so many draws with replacement."""
    count = int(owner.max()) + 1
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLED)
    return np.concatenate([np.ones((1, count)), drawn])


def _measure(task, truth, said, owner, weights, level) -> np.ndarray:
    """Metric of answers for each row of weights of people: [W]."""
    if task == "age":
        each = np.stack([np.abs(truth - said[:, 0]), np.abs(truth - level)])
        errors = np.stack([np.bincount(owner, x, weights.shape[1]) for x in each])
        with np.errstate(invalid="ignore", divide="ignore"):
            return 1 - (weights @ errors[0]) / (weights @ errors[1])
    if METRICS[task] == "AUROC":
        return probe.ranking(truth, said[:, 1] - said[:, 0], weights[:, owner])["auroc"]
    size = said.shape[1]
    cells = (owner * size + truth) * size + said.argmax(1)
    counts = np.bincount(cells, minlength=weights.shape[1] * size**2).reshape(-1, size, size)
    found = probe.agreement(np.einsum("wp,pij->wij", weights, counts))
    return found["accuracy" if task == "site" else "kappa"]


def study(
    entries: Sequence[Entry],
    signals: NightStore,
    folder: pathlib.Path,
    *,
    shares: Sequence[float] = (0.01, 0.1, 1.0),
    draws: int = 4,
    untrained: int = 3,
) -> dict:
    """Judge all models; return what was found, as JSON values.

    What each model scored is kept in ``folder/judged``, and made again only when the model or the
    nights are others.

    Args:
        entries: models; those with a ``task`` are read from their ``evaluation.json``.
        signals: the nights as channels, with labels and people, for the hand-made features.
        folder: gets everything.
        shares: of the training people that are labelled.
        draws: of each share below 1.
        untrained: seeds of each network with random weights.

    Raises:
        ModelError: a path without a model.
        FileNotFoundError: a model that was not evaluated, or has no costs.
    """
    judge = Judge(signals, shares=shares, draws=draws)
    of = [sha256(signals.path / "manifest.json"), list(shares), draws]
    kept = Kept(folder / "judged", of)
    rows, networks = [], {}
    for entry in (e for e in entries if not e.task):
        model, store = load_model(entry.path), NightStore(entry.nights)
        name = f"{entry.name} {entry.budget:g} {entry.seed}"
        scored = kept.get(name, model.checksum, lambda m=model, s=store: _of_model(judge, m, s))
        rows.append(_row(entry, scored) | {"parameters": _parameters(entry.path)})
        networks.setdefault(network(model), (entry, model, store))
    for known, (entry, model, store) in networks.items():
        for seed in range(untrained):
            label = UNTRAINED.format(entry.name)
            scored = kept.get(
                f"{label} {seed}",
                [known, seed],
                lambda m=model, s=store, seed=seed: _of_model(judge, m, s, 1000 + seed),
            )
            rows.append({"name": label, "budget": 0.0, "seed": seed, "spent": 0.0} | scored)
    scored = kept.get(HAND, "", lambda: _of_hand(judge, signals))
    rows.append({"name": HAND, "budget": 0.0, "seed": 0, "spent": 0.0} | scored)
    labelled = [_supervised(entry) for entry in entries if entry.task]
    return {
        "rows": rows,
        "labelled": labelled,
        "people": {f"{share:g}": count for share, count in judge.counts.items()},
        "nights": counts_of(signals),
        "most_frequent_site": judge.most_frequent_site,
        "judge_seconds": kept.seconds,
    }


def _row(entry, scored) -> dict:
    same = {"name": entry.name, "budget": entry.budget, "seed": entry.seed, "spent": entry.spent}
    first = sum(flops_of(path) for path in entry.stages)
    return same | {"first_stages": first / max(entry.spent, 1.0)} | scored


def _parameters(path: str) -> int:
    return json.loads((pathlib.Path(path) / "cost.json").read_text())["parameters"]


def _of_model(judge: Judge, model: LoadedModel, store: NightStore, seed=None) -> dict:
    """Scores of a model's rows with each subset of its sensors; with random weights of all."""
    names = [row["name"] for row in model.objective.modalities]
    subsets = {subset: chosen(names, subset) for subset in (SUBSETS if seed is None else ("all",))}
    subsets = {subset: own for subset, own in subsets.items() if own}
    found = subset_features(model, store, subsets, seed)
    return {"scores": {subset: judge.score(own) for subset, own in found.items()}}


def _of_hand(judge: Judge, store: NightStore) -> dict:
    """The same of hand-made features: a subset has the columns of its channels."""
    made = {n.recording: hand_features.epoch_features(store, n) for n in store.nights}
    columns = next(iter(made.values()))[1]
    scores = {}
    for subset in SUBSETS:
        kept = set(chosen([name.split("/")[0] for name in columns], subset))
        places = [i for i, name in enumerate(columns) if name.split("/")[0] in kept]
        scores[subset] = judge.score({r: x[:, places] for r, (x, _) in made.items()})
    return {"scores": scores}


def _supervised(entry: Entry) -> dict:
    """What a network that was trained with labels answered on test people."""
    results = json.loads((pathlib.Path(entry.path) / "evaluation.json").read_text())["results"]
    metric = "kappa" if METRICS[entry.task] == "Cohen's kappa" else "auroc"
    row = dataclasses.asdict(entry) | {"spent": entry.spent}
    return row | {"value": results.get(f"eval/test/{metric}")}


def counts_of(store: NightStore) -> dict:
    return {
        split: {
            "nights": sum(n.split == split for n in store.nights),
            "people": len({n.subject for n in store.nights if n.split == split}),
        }
        for split in ("train", "validation", "test")
    }


class Kept:
    """Scores in files, one a model, made again only when what they are of has changed."""

    def __init__(self, folder: pathlib.Path, of: list):
        """Take the folder, and what all scores are of, as JSON values."""
        self.folder, self._of, self.seconds = folder, of, 0.0
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, name: str, identity, make: Callable[[], dict]) -> dict:
        """Return what is kept under a name if it is of the same, or else make and keep it."""
        path = self.folder / f"{re.sub('[^A-Za-z0-9]+', '-', name)}.json"
        of = json.loads(json.dumps([*self._of, identity]))
        if path.is_file() and (found := json.loads(path.read_text()))["of"] == of:
            self.seconds += found["seconds"]
            return found["made"]
        begin = time.monotonic()
        made = make()
        seconds = time.monotonic() - begin
        write_json(path, {"of": of, "made": made, "seconds": seconds})
        self.seconds += seconds
        logging.info("%s: %.0f s", name, seconds)
        return made
