"""A study of label efficiency: models, their untrained networks, hand-made features, training.

What each method and seed answered is kept in a folder, and made again only when what it is of has
changed; see ``label_efficiency`` for the protocol.
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

from data_pipelines.files import atomic_write
from data_pipelines.store import NightStore, sha256
from hypnos_jax.export.model import load_model
from hypnos_jax.probing import label_efficiency, label_efficiency_report, probe
from hypnos_jax.probing.comparison import network
from hypnos_jax.probing.context_features import (
    inputs_of,
    principal_components,
    with_context,
    with_night,
)
from hypnos_jax.probing.frozen_features import night_features, random_features
from hypnos_jax.probing.label_efficiency import Answers, Question, draw_people, probe_frozen
from hypnos_jax.probing.trained_with_labels import LabelTraining
from hypnos_jax.runtime.files import write_json
from hypnos_jax.tasks import find_probe_task

INPUTS, CONTEXT = "inputs, no network", "inputs with context"
UNTRAINED, FINETUNED, SCRATCH = "{}, untrained", "{}, fine-tuned", "{}, from scratch"
AROUND, JOINED = "{}, with context", "{}, joined"  # to inputs with context


@dataclasses.dataclass(frozen=True)
class Training:
    """How a network is trained with labels.

    Attributes:
        name: of the model among those of the study that it begins from.
        config: of the objective ``finetune``, resolved.
        settings: to choose from; see ``LabelTraining``.
        seeds: of the model that are fine-tuned, and so many times from scratch.
    """

    name: str
    config: dict
    settings: Sequence[dict] = ({},)
    seeds: int = 1


def ask(stores: Sequence[NightStore], task: str, epochs: int = 1) -> Question:
    """Return the question of a task by epoch about the nights of some stores.

    The people of the first store are in its own splits; those of the others are tested alone. Where
    a label stands for several ``epochs``, it is theirs where they agree, and else unknown.

    Raises:
        ValueError: no such task, or one of whole recordings; a recording or a person that two
            stores have.
    """
    found = find_probe_task(task)
    if found.by_record:
        raise ValueError(f"the task {task!r} asks for one label a recording, not one an epoch")
    rows, owner = [], {}
    for number, store in enumerate(stores):
        for night in store.nights:
            for name in (("recording", night.recording), ("person", night.subject)):
                if owner.setdefault(name, number) != number:
                    raise ValueError(
                        f"{store.path} and {stores[owner[name]].path} both have the {name[0]}"
                        f" {name[1]!r}: test people must be others"
                    )
            split = night.split if number == 0 else "test"
            labels = found.labels(store, night).astype(int)
            labels = labels[: len(labels) // epochs * epochs].reshape(-1, epochs)
            labels = np.where((labels == labels[:, :1]).all(1), labels[:, 0], -1)
            rows.append((night.recording, night.subject, split, labels))
    recordings, subjects, splits, labels = (list(x) for x in zip(*rows))
    examples = probe.Examples(recordings, subjects, splits, labels, {}, found.classes)
    return Question(examples, ranked=found.ranked, epochs=epochs)


def study(
    models: Mapping[str, Sequence[str | os.PathLike]],
    stores: Sequence[NightStore],
    folder: pathlib.Path,
    *,
    task: str = "staging",
    epochs: int = 1,
    people: Sequence[int] = (1, 3, 10, 0),
    draws: int = 12,
    untrained: int = 3,
    training: Sequence[Training] = (),
    strengths: Sequence[float] = label_efficiency.STRENGTHS,
    whole_night: bool = False,
    title: str = "",
    notes: Sequence[str] = (),
) -> str:
    """Run the study; return the table, and write ``labels.md``, ``.json`` and ``.png``.

    Args:
        models: name -> runs or exports of one kind, one for each seed.
        stores: nights that all models read; see ``ask``.
        folder: gets everything.
        task: a name in ``tasks.PROBE_TASKS``, of epochs.
        epochs: that an answer stands for, such as 2 where each minute was scored.
        people: numbers of labelled people; 0 is all.
        draws: of each number, but of all one.
        untrained: seeds of each network with random weights.
        training: networks that are trained with the labels, each fine-tuned and from scratch.
        strengths: penalties of probes to choose from.
        whole_night: give every probe its rows' mean and spread in the night, too.
        title: of the table.
        notes: sentences above the table.

    Raises:
        ModelError: a path without a model.
        ValueError: see ``ask`` and ``label_efficiency.draw_people``; a model that reads no such
            store; a training that begins from no model of the study.
    """
    begin = time.monotonic()
    question = ask(stores, task, epochs)
    drawn, passed = draw_people(question, people, draws)
    of = [sha256(store.path / "manifest.json") for store in stores]
    of += [task, epochs, [[d.size, d.seed] for d in drawn], list(strengths)]
    of += ["whole night"] if whole_night else []
    kept = Kept(folder / "answers", of)

    inputs = {n.recording: inputs_of(store, n) for store in stores for n in store.nights}
    around = {name: with_context(x) for name, x in inputs.items()}
    learnt_from = [night.recording for night in stores[0].nights if night.split == "train"]
    methods, random, pairs = {}, {}, []

    def probed(method, name, identity, features):
        """Add a probe of features, which are made only if its answers are not kept."""

        def make():
            rows = features()
            if whole_night:
                rows = {name: with_night(x) for name, x in rows.items()}
            return probe_frozen(question, rows, drawn, strengths=strengths)

        methods.setdefault(method, []).append(kept.get(name, identity, make))

    def frozen(label, seed, identity, features):
        """Add a model's rows as they are, with context, and beside the inputs with context."""

        @functools.cache
        def rows():
            found = {}
            for store in stores:
                found |= features(store)
            return found

        def own_context():
            few = principal_components(rows(), learnt_from)
            return {name: with_context(x) for name, x in few.items()}

        def joined():
            both = ((name, rows()[name], x) for name, x in around.items())
            return {name: np.concatenate([own, x], axis=1) for name, own, x in both}

        for form, make in (("{}", rows), (AROUND, own_context), (JOINED, joined)):
            probed(form.format(label), f"{form.format(label)} {seed}", identity, make)

    for name, paths in models.items():
        for seed, path in enumerate(paths):
            model = load_model(path)
            frozen(name, seed, model.checksum, lambda s, m=model: night_features(m, s))
        known, label = network(model), UNTRAINED.format(name)
        if known not in random:
            random[known] = label
            for seed in range(untrained):
                frozen(
                    label,
                    seed,
                    [known, seed],
                    lambda s, m=model, seed=seed: random_features(m, s, 1000 + seed),
                )
        for form in ("{}", AROUND, JOINED):
            own = form.format(name)
            pairs += [(own, form.format(random[known])), (own, CONTEXT)]
        pairs.append((name, INPUTS))
    probed(INPUTS, INPUTS, "", lambda: inputs)
    probed(CONTEXT, CONTEXT, "", lambda: around)
    for one in training:
        if one.name not in models:
            raise ValueError(f"the training begins from {one.name!r}; there are {[*models]}")
        tuned, scratch = FINETUNED.format(one.name), SCRATCH.format(one.name)
        trained = LabelTraining(question, one.config, stores, one.settings)
        for seed, path in enumerate(models[one.name][: one.seeds]):
            for label, source in ((tuned, str(path)), (scratch, "")):
                identity = [one.config, list(one.settings), seed]
                identity += [load_model(source).checksum] if source else []
                own = kept.get(
                    f"{label} {seed}",
                    identity,
                    lambda t=trained, s=source, n=seed: t.answers(drawn, init_from=s, seed=n),
                )
                methods.setdefault(label, []).append(own)
        pairs += [(tuned, scratch), (one.name, scratch), (tuned, CONTEXT)]
    report = label_efficiency.summarise(question, methods, drawn, pairs)
    more = [
        f"{n} draws of {size} people lacked a class and were passed over."
        for size, n in passed.items()
        if n
    ]
    for name, paths in models.items():
        report["methods"][name]["flops"] = training_flops(paths)
    report |= {"task": task, "title": title or task, "notes": [*notes, *more]}
    report["seconds"] = kept.seconds + time.monotonic() - begin
    write_json(folder / "labels.json", report)
    label_efficiency_report.draw(report, folder / "labels.png")
    table = label_efficiency_report.write_table(report)
    with atomic_write(folder / "labels.md", "w") as file:
        file.write(table)
    return table


def training_flops(paths: Sequence[str | os.PathLike]) -> float | None:
    """Return the mean over runs of what their training computed, as ``cost.json`` counts it.

    None where one is no run that has such a file.
    """
    found = []
    for path in paths:
        file = pathlib.Path(path) / "cost.json"
        if not file.is_file():
            return None
        found.append(json.loads(file.read_text())["flops_per_step"] * load_model(path).step)
    return float(np.mean(found))


class Kept:
    """Answers in files, one a method and seed."""

    def __init__(self, folder: pathlib.Path, of: list):
        """Take the folder, and what all answers are of, as JSON values."""
        self.folder, self._of, self.seconds = folder, of, 0.0
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, name: str, identity, make) -> Answers:
        """Return what is kept under a name if it is of the same, or else make and keep it."""
        path = self.folder / f"{re.sub('[^A-Za-z0-9]+', '-', name)}.npz"
        of = json.dumps([*self._of, identity], sort_keys=True)
        if path.is_file():
            with np.load(path) as file:
                facts = json.loads(str(file["facts"]))
                if facts["of"] == of:
                    self.seconds += facts["seconds"]
                    given = {tuple(key): file[f"given_{i}"] for i, key in enumerate(facts["keys"])}
                    chosen = {int(size): found for size, found in facts["chosen"].items()}
                    return Answers(given, chosen, facts["width"])
        begin = time.monotonic()
        answers = make()
        seconds = time.monotonic() - begin
        facts = {"of": of, "keys": [list(key) for key in answers.given], "seconds": seconds}
        facts |= {"chosen": answers.chosen, "width": answers.width}
        arrays = {f"given_{i}": x for i, x in enumerate(answers.given.values())}
        with atomic_write(path) as file:
            np.savez_compressed(file, facts=np.array(json.dumps(facts)), **arrays)
        logging.info("%s: %.0f s", name, seconds)
        return answers
