"""Frozen features of several models on the same nights: staging by a linear probe, site by site.

Features are by 30-s epoch, modalities side by side. One probe a model
(``hypnos_jax.probing.probe``) is fitted on the training and validation people of the sites that
training saw, and read on test people of these sites, and on sites that nothing was trained on.
Beside the models: their networks with random weights, and hand-crafted features. Where a method has
several seeds, its score is their mean; intervals are over test people drawn with replacement, the
same people for all methods, so that differences have intervals too.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
import re
import time
from collections.abc import Mapping, Sequence

import numpy as np
from absl import logging

from data_pipelines.builders.night_builder import write_store
from data_pipelines.recipes.hypnos import EIGHT
from data_pipelines.store import Night, NightEntry, NightStore, sha256
from hypnos_jax.export.model import LoadedModel, load_model
from hypnos_jax.probing import hand_features as features
from hypnos_jax.probing import probe, small_network
from hypnos_jax.probing.comparison_report import SITES, draw, make_report, write_table
from hypnos_jax.probing.frozen_features import night_features, random_features
from hypnos_jax.runtime.files import write_json

SPLITS = ("train", "validation", "test")
CLASSES = 5
STRENGTH = 100.0  # ours: of the probes' penalty; hundreds of features meet thousands of epochs
DRAWS = 1000
# The modalities that are channels of Hypnos too; the others come at 4 Hz, too slow for it.
AS_CHANNELS = {"eeg": "eeg_c3", "eog": "eog_e1", "emg": "emg_chin", "ecg": "ecg"}
HAND = "hand-made features"
TRAINED, MAJORITY = "small CNN, trained on the labels", "most frequent stage"

Features = dict[str, np.ndarray]  # recording -> [E, D]


def compare(
    models: Mapping[str, Sequence[str | os.PathLike]],
    stores: Sequence[NightStore],
    folder: pathlib.Path,
    *,
    unseen: Sequence[str] = (),
    title: str = "",
    small_cnn: bool = False,
) -> str:
    """Judge models; return the table, and write ``comparison.md``, ``.json`` and ``.png``.

    A result of each method and seed is kept in ``folder/results``; it is made again when the model
    or the nights are others.

    Args:
        models: name -> models of one kind, one for each seed: runs or exports of any family.
        stores: the same nights in the forms that the models read, such as modalities and tokens;
            stages and people are those of the first.
        folder: gets everything.
        unseen: names of the sites that nothing was trained on.
        title: of the comparison.
        small_cnn: train ``small_network`` on the same labels, and say the most frequent stage, as
            two more rows.

    Raises:
        ModelError: a path without a model.
        ValueError: a model that reads none of the stores; no night that all stores have; no test
            people.
    """
    begin = time.monotonic()
    results = Results(folder / "results", stores, unseen)
    methods, untrained = {}, {}
    for name, paths in models.items():
        for seed, path in enumerate(paths):
            model = load_model(path)
            found = results.of_model(f"{name} {seed}", model)
            methods.setdefault(name, []).append(found | {"retrieval": read_retrieval(path)})
            method, rows = untrained.setdefault(network(model), (f"{name}, untrained", []))
            if seed == len(rows):  # two methods that train one network share its row
                rows.append(results.of_model(f"{method} {seed}", model, random_seed=seed))
    methods |= dict(untrained.values())
    hand = results.of_hand()
    methods |= {HAND: [hand]} if hand else {}
    if small_cnn:
        methods |= {TRAINED: [results.of_trained()], MAJORITY: [results.of_majority()]}
    scores = judge(stores[0], methods, unseen)
    report = make_report(stores[0], methods, scores, title, unseen)
    report["seconds"] = time.monotonic() - begin
    write_json(folder / "comparison.json", report)
    draw(report, folder / "comparison.png")
    table = write_table(report)
    (folder / "comparison.md").write_text(table)
    return table


def network(model: LoadedModel) -> str:
    """Return what models have in common whose networks and data have the same form, as JSON."""
    objective, data = model.config["objective"], model.config["data"]
    return json.dumps([objective["name"], objective.get("model"), data], sort_keys=True)


class Results:
    """One file a method and seed, made again only when what it is of has changed."""

    def __init__(self, folder: pathlib.Path, stores: Sequence[NightStore], unseen: Sequence[str]):
        """Take the folder of the files, the nights, and the unseen sites.

        Raises:
            ValueError: no night is in all stores.
        """
        self.folder, self.stores, self.unseen = folder, stores, unseen
        recordings = [{night.recording for night in store.nights} for store in stores]
        self.shared = set.intersection(*recordings)
        if not self.shared:
            raise ValueError(f"no recording is in all of {[str(store.path) for store in stores]}")
        self._of = [*(sha256(store.path / "manifest.json") for store in stores), *unseen]
        folder.mkdir(parents=True, exist_ok=True)

    def of_model(self, name: str, model: LoadedModel, random_seed: int | None = None) -> dict:
        """Return the result of a model, or of its network with random weights.

        Raises:
            ValueError: it reads none of the stores.
        """

        def features() -> tuple[NightStore, Features]:
            reasons = []
            for store in self.stores:
                try:
                    if random_seed is None:
                        return store, night_features(model, store)
                    return store, random_features(model, store, random_seed)
                except ValueError as error:
                    reasons.append(f"{store.path}: {error}")
            raise ValueError(f"{name} reads none of the stores: {'; '.join(reasons)}")

        of = model.checksum if random_seed is None else [network(model), random_seed]
        return self._make(name, [of], features)

    def of_hand(self) -> dict | None:
        """Return the result of hand-crafted features of the store with most of their channels."""

        def count(store):
            return len({row["name"] for row in store.manifest.get("channels", [])} & set(EIGHT))

        store = max(self.stores, key=count)
        if not count(store):
            return None
        return self._make(HAND, [str(store.path)], lambda: (store, hand_features(store)))

    def of_trained(self) -> dict:
        """Return the result of ``small_network``, trained as the probes are, from scratch.

        Raises:
            ValueError: no store has channels of EEG.
        """
        own = [x for x in self.stores if x.kind == "signals" and small_network.channels_of(x)]
        if not own:
            raise ValueError("a small CNN needs a store of signals with EEG among --nights")
        store = max(own, key=lambda x: len(small_network.channels_of(x)))

        def counts():
            nights = [night for night in store.nights if night.recording in self.shared]
            seen = [x for x in nights if not self._unseen(x)]
            parts = [[x for x in seen if x.split == split] for split in SPLITS[:2]]
            tested = [x for x in nights if x.split == "test" or self._unseen(x)]
            said, told = small_network.train_and_answer(store, *parts, tested)
            labels = stage_examples(self.stores[0], {"said": said})
            rows = zip(labels.recordings, labels.labels, labels.features["said"])
            return {r: confusion_of(y, x.argmax(1)) for r, y, x in rows}, told

        return self._keep(TRAINED, [str(store.path)], store, counts)

    def of_majority(self) -> dict:
        """Return the result of always saying the stage that the probes' people have most."""
        store = self.stores[0]

        def counts():
            nights = [(x, store.stages(x)) for x in store.nights if x.recording in self.shared]
            learnt = [y[y >= 0] for x, y in nights if x.split != "test" and not self._unseen(x)]
            most = np.bincount(np.concatenate(learnt), minlength=CLASSES).argmax()
            return {x.recording: confusion_of(y, np.full(len(y), most)) for x, y in nights}, {}

        return self._keep(MAJORITY, [], store, counts)

    def _unseen(self, night):
        return night.metadata.get("site") in self.unseen

    def _make(self, name: str, of: list, features) -> dict:
        def counts():
            store, own = features()
            own = {recording: own[recording] for recording in own if recording in self.shared}
            told = {"store": store.path.name, "width": next(iter(own.values())).shape[-1]}
            return stage_counts(self.stores[0], own, self.unseen), told

        return self._keep(name, of, None, counts)

    def _keep(self, name: str, of: list, store: NightStore | None, counts) -> dict:
        path = self.folder / f"{re.sub('[^A-Za-z0-9]+', '-', name)}.json"
        of = [*self._of, *of]
        if path.is_file() and (found := json.loads(path.read_text()))["of"] == of:
            return found
        begin = time.monotonic()
        rows, told = counts()
        found = {"of": of, "store": store.path.name if store else "", "width": 0}
        found |= told | {"counts": rows}
        write_json(path, found | {"seconds": time.monotonic() - begin})
        logging.info("%s: %.0f s", name, time.monotonic() - begin)
        return found


def read_retrieval(path: str | os.PathLike) -> dict[str, dict[str, float]]:
    """Return where -> metrics of a run's evaluators ``retrieval_seen`` and ``retrieval_unseen``.

    They are of type ``retrieval``; ``launch.evaluate`` runs them. Nothing where it has not.
    """
    file = pathlib.Path(path) / "evaluation.json"
    results = json.loads(file.read_text())["results"] if file.is_file() else {}
    found = {}
    for where in SITES:
        start = f"eval/retrieval_{where}/"
        own = {key.removeprefix(start): v for key, v in results.items() if key.startswith(start)}
        found |= {where: own} if own else {}
    return found


def write_channels(store: NightStore, folder: pathlib.Path) -> None:
    """Write the same nights as channels of Hypnos: EEG, EOG, chin and ECG under other names.

    Their scale is that of the modalities: robust z-scores of a night, where Hypnos has rolling
    ones.
    """
    there = {row["name"] for row in store.manifest["channels"]}
    kept = {name: channel for name, channel in AS_CHANNELS.items() if name in there}
    write_store(
        folder,
        kind="signals",
        items={night.recording: night for night in store.nights},
        make_night=functools.partial(_as_channels, store, kept),
        provenance={"channels_of": str(store.path.name), "channels": list(kept.values())},
        progress=False,
    )


def _as_channels(store, kept, entry: NightEntry) -> Night:
    channels = {
        channel: dataclasses.replace(store.channel(entry, name), name=channel)
        for name, channel in kept.items()
        if name in entry.channels
    }
    return Night(
        recording=entry.recording,
        subject=entry.subject,
        split=entry.split,
        channels=channels,
        stages=store.stages(entry),
        events=store.events(entry),
        metadata=entry.metadata,
    )


def hand_features(store: NightStore) -> Features:
    """Return hand-crafted features of a store of channels: band power and RR irregularity."""
    return {night.recording: features.epoch_features(store, night)[0] for night in store.nights}


def stage_examples(store: NightStore, sets: Mapping[str, Features]) -> probe.Examples:
    """Return the epochs with their stages, of the nights that all sets have.

    Args:
        store: the nights' stages and people.
        sets: name -> features.
    """
    nights = [night for night in store.nights if all(night.recording in x for x in sets.values())]
    labels, any_set = [], next(iter(sets.values()))
    for night in nights:
        own = np.full(len(any_set[night.recording]), -1)
        stages = store.stages(night)[: len(own)]
        own[: len(stages)] = stages
        labels.append(own)
    return probe.Examples(
        recordings=[night.recording for night in nights],
        subjects=[night.subject for night in nights],
        splits=[night.split for night in nights],
        labels=labels,
        features={name: [own[night.recording] for night in nights] for name, own in sets.items()},
        classes=("W", "N1", "N2", "N3", "R"),
    )


def confusion_of(truth: np.ndarray, said: np.ndarray) -> list:
    """Return the confusion counts [5][5] of the labelled epochs."""
    known = truth >= 0
    return probe.confusion(truth[known], said[known], CLASSES).tolist()


def stage_counts(store: NightStore, own: Features, unseen: Sequence[str]) -> dict[str, list]:
    """Return test recording -> confusion counts [5][5] of a probe.

    Args:
        store: the nights' stages and people.
        own: features of the nights.
        unseen: sites that the probe is not fitted on; all of their nights are tested.

    Raises:
        ValueError: no people to fit the probe on, or to test it on.
    """
    examples = stage_examples(store, {"own": own})
    test = {
        night.subject
        for night in store.nights
        if night.split == "test" or night.metadata.get("site") in unseen
    }
    train = sorted({night.subject for night in store.nights} - test)
    if not train or not test:
        raise ValueError(f"{store.path}: {len(train)} people to fit on and {len(test)} to test on")
    found = probe.cross_predict(examples, "own", [(train, sorted(test))], strength=STRENGTH)
    return {
        recording: probe.confusion(truth, said.argmax(1), CLASSES).tolist()
        for recording, truth, said in zip(found.recordings, found.labels, found.probabilities)
    }


def judge(
    store: NightStore, methods: Mapping[str, Sequence[dict]], unseen: Sequence[str]
) -> dict[str, dict]:
    """Return method -> ``{"seen": score, "unseen": score}``, and the same of differences.

    Args:
        store: the nights' people.
        methods: name -> a result a seed, each with ``"counts"`` of ``stage_counts``.
        unseen: names of the sites that nothing was trained on.

    Returns:
        A score is ``{"kappa", "low", "high", "accuracy", "macro_f1", "seeds": [kappa of each],
        "subjects"}``. "A minus B" has kappas alone, for each pair of methods in order.
    """
    entries = {night.recording: night for night in store.nights}
    first, *others = [result["counts"] for seeds in methods.values() for result in seeds]
    tested = [r for r in first if all(r in counts for counts in others)]
    outside = {name: night.metadata.get("site") in unseen for name, night in entries.items()}
    out = {name: {} for name in methods}
    for where in SITES:
        here = [recording for recording in tested if outside[recording] == (where == "unseen")]
        people = sorted({entries[r].subject for r in here})
        if not people:
            continue
        index = [people.index(entries[r].subject) for r in here]
        shares = np.full(len(people), 1 / len(people))
        drawn = np.random.default_rng(0).multinomial(len(people), shares, size=DRAWS)
        spreads = {}
        for name, seeds in methods.items():
            values, spread = [], []
            for result in seeds:
                counts = np.zeros((len(people), CLASSES, CLASSES))
                np.add.at(counts, index, np.array([result["counts"][r] for r in here]))
                values.append(probe.agreement(counts.sum(0)))
                spread.append(probe.agreement(np.einsum("ds,sij->dij", drawn, counts))["kappa"])
            spreads[name] = np.mean(spread, axis=0)
            low, high = probe.interval(spreads[name], len(people))
            mean = {k: float(np.mean([v[k] for v in values])) for k in values[0]}
            own = [float(v["kappa"]) for v in values]
            out[name][where] = mean | {
                "low": low,
                "high": high,
                "seeds": own,
                "subjects": len(people),
            }
        names = list(methods)
        for i, first in enumerate(names):
            for second in names[i + 1 :]:
                low, high = probe.interval(spreads[first] - spreads[second], len(people))
                kappa = out[first][where]["kappa"] - out[second][where]["kappa"]
                pair = out.setdefault(f"{first} minus {second}", {})
                pair[where] = {"kappa": kappa, "low": low, "high": high}
    return out
