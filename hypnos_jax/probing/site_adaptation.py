"""Adapting the heads of a model to the scored nights of another site.

Of the site's people those of ``train`` adapt, those of ``validation`` choose how, and those of
``test`` are judged, before and after. So are the test people of an older store, where one is
given: what a site wins, the others should not lose unseen.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import scipy

from data_pipelines.files import atomic_write
from data_pipelines.store import NightStore
from hypnos_jax.export import card
from hypnos_jax.export.model import ModelError
from hypnos_jax.export.write import export
from hypnos_jax.heads.head import Head, load_heads, probabilities, write_head
from hypnos_jax.inference.embed import open_embedder
from hypnos_jax.probing import head_fitting
from hypnos_jax.probing.head_fitting import Labelled, calibrated, judge, log_loss, two_columns

STRENGTHS = (10.0, 100.0, 1000.0)  # of the pull towards the numbers that the head had
WAYS = ("unchanged", "calibration", "statistics", "numbers")
RESULT = "calibration.json"


@dataclasses.dataclass(frozen=True)
class Adapted:
    """What a number of the site's nights made of a head.

    Attributes:
        task: of the head.
        nights, people: that it was adapted on.
        way: which of ``WAYS`` was chosen on the site's validation people.
        before, after: of ``judge`` on the site's test people, of the head as it was and adapted.
        old_before, old_after: the same on the older store's test people; None without one.
        head: the adapted head.
    """

    task: str
    nights: int
    people: int
    way: str
    before: dict
    after: dict
    old_before: dict | None
    old_after: dict | None
    head: Head


def adapt(
    head: Head,
    train: Sequence[Labelled],
    validation: Sequence[Labelled],
    *,
    risk: float,
    ways: Sequence[str] = WAYS,
) -> tuple[Head, str]:
    """Return the head that serves the validation nights best, and which of ``WAYS`` made it.

    Args:
        head: as it was.
        train, validation: nights of the site.
        risk: see ``head_fitting.calibrated``.
        ways: to choose from. ``unchanged``; ``calibration``: another temperature, threshold and
            confidence alone; ``statistics``: features are standardised as those of the site;
            ``numbers``: the last layer is fitted again, pulled towards what it was.
    """
    made = {"unchanged": [head]}
    if "calibration" in ways:
        made["calibration"] = [calibrated(head, train, risk)]
    if "statistics" in ways:
        made["statistics"] = [calibrated(_with_statistics(head, train), train, risk)]
    if "numbers" in ways:
        fitted = (_with_numbers(head, train, strength) for strength in STRENGTHS)
        made["numbers"] = [calibrated(own, train, risk) for own in fitted]
    rows = [(log_loss(own, validation), way, own) for way, every in made.items() for own in every]
    _, way, best = min(rows, key=lambda row: row[0])
    return best, way


def _with_statistics(head, nights):
    """The head on features that are standardised by the site's own cells."""
    blank = dataclasses.replace(head, mean=np.float32(0), scale=np.float32(1))
    rows = np.concatenate([head_fitting.around(cells, blank.spans) for _, cells, _ in nights])
    known = np.isfinite(rows)
    count = known.sum(0)
    mean = np.where(known, rows, 0).sum(0, dtype=np.float64) / np.maximum(count, 1)
    spread = np.where(known, rows - mean, 0).astype(np.float64)
    scale = np.sqrt((spread**2).sum(0) / np.maximum(count, 1))
    # What the site never has stays as it was.
    mean = np.where(count > 1, mean, head.mean).astype("f4")
    scale = np.where((count > 1) & (scale > 1e-6), scale, head.scale).astype("f4")
    return dataclasses.replace(head, mean=mean, scale=scale)


def _with_numbers(head, nights, strength):
    """The head whose last layer is fitted again, with a squared penalty on what changes."""
    x, y = [], []
    for _, cells, truth in nights:
        rows = head.features(cells)
        for weights, biases in head.layers[:-1]:
            rows = np.maximum(rows @ weights + biases, 0)
        x.append(rows[truth >= 0])
        y.append(truth[truth >= 0])
    x, y = np.concatenate(x).astype(np.float64), np.concatenate(y).astype(int)
    x = np.concatenate([x, np.ones((len(x), 1))], 1)
    before = np.concatenate([head.layers[-1][0], head.layers[-1][1][None]]).astype(np.float64)
    truth = np.eye(max(before.shape[1], 2))[y]

    def cost(flat):
        weights = flat.reshape(before.shape)
        rows = two_columns(probabilities(x @ weights).astype(np.float64))
        own = -np.log(np.maximum((rows * truth).sum(1), 1e-9)).sum()
        slope = x.T @ (rows - truth)[:, -before.shape[1] :]
        change = weights - before
        total = own + strength / 2 * (change**2).sum()
        return total, (slope + strength * change).ravel()

    found = scipy.optimize.minimize(
        cost, before.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 200}
    )
    numbers = found.x.reshape(before.shape).astype(np.float32)
    return dataclasses.replace(head, layers=(*head.layers[:-1], (numbers[:-1], numbers[-1])))


def adapt_model(
    model: str | os.PathLike,
    nights: str | os.PathLike,
    output: str | os.PathLike,
    *,
    used: Sequence[int] = (5, 20, 100),
    old: str | os.PathLike | None = None,
    ways: Sequence[str] = WAYS,
    embeddings: str | os.PathLike,
) -> list[Adapted]:
    """Adapt all heads of an export to a site, and write the export with those of the most nights.

    Args:
        model: an export with heads.
        nights: store of the site's scored nights, with people of all three splits.
        output: folder of the new export, which is not there yet.
        used: numbers of training nights to try; more than there are means all.
        old: store of scored nights of before, whose test people are judged too.
        ways: see ``adapt``.
        embeddings: folder in which embeddings are kept.

    Returns:
        For each head and number of nights what came of it; ``calibration.json`` has the same.

    Raises:
        ModelError: no heads, or ``output`` is there.
        ValueError: the site's nights have too few people or labels.
    """
    output, heads = pathlib.Path(output), load_heads(model)
    if not heads:
        raise ModelError(f"{model} has no heads: fit them with launch.fit_head first")
    if output.exists() and any(output.iterdir()):
        raise ModelError(f"{output} is there; give a new folder")
    embedder = open_embedder(model)
    token_s = embedder.model.config["embedding"]["token_s"]
    sites = [_split(path, embedder, embeddings) for path in (nights, old) if path]
    found, last = [], {}
    for task, head in heads.items():
        own, *before = (
            head_fitting.labelled(task, made, store, head.names, token_s) for store, made in sites
        )
        for split in ("train", "validation", "test"):
            if not own[split]:
                raise ValueError(
                    f"{nights}: no person of the split {split!r} has labels of {task}; a site needs"
                    " people to adapt on, to choose by and to be judged (train, validation, test)"
                )
        risk = head.facts.get("risk", head_fitting.RISK)
        was = judge(head, own["test"])
        old_was = judge(head, before[0]["test"]) if before and before[0]["test"] else None
        for count in sorted({min(n, len(own["train"])) for n in used}):
            train = own["train"][:count]
            made, way = adapt(head, train, own["validation"], risk=risk, ways=ways)
            people = len({entry.subject for entry, _, _ in train})
            now = judge(made, own["test"])
            old_now = judge(made, before[0]["test"]) if old_was else None
            told = {"nights": count, "people": people, "way": way}
            facts = {**head.facts, "adapted": told, "test": now}
            made = dataclasses.replace(made, facts=facts)
            found.append(Adapted(task, count, people, way, was, now, old_was, old_now, made))
            last[task] = made
    export(model, output)
    for made in last.values():
        write_head(output, made)
    card.rewrite(output)
    with atomic_write(output / RESULT, "w") as file:
        file.write(to_json(found))
    return found


def _split(path, embedder, embeddings):
    store = NightStore(path)
    kept = pathlib.Path(embeddings) / pathlib.Path(path).resolve().name
    made, _ = head_fitting.embed_store(embedder, store, kept)
    return store, made


def to_json(found: Sequence[Adapted]) -> str:
    """Return rows of ``table`` with intervals, as JSON."""
    rows = []
    for row in found:
        parts = ("before", "after", "old_before", "old_after")
        told = {name: getattr(row, name) and getattr(row, name)["metrics"] for name in parts}
        own = {"task": row.task, "nights": row.nights, "people": row.people, "way": row.way}
        rows.append(own | told)
    return json.dumps(rows, indent=1) + "\n"


def table(found: Sequence[Adapted]) -> str:
    """Return what came of the site's nights, as a Markdown table."""
    lines = [
        "| head | nights (people) | chosen | measure | site before | site after | old before |"
        " old after |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        name = "auroc" if row.head.kind == "binary" else "kappa"

        def shown(part, name=name):
            value = part and part["metrics"][name]["value"]
            return "-" if value is None else f"{value:.3f}"

        cells = (row.before, row.after, row.old_before, row.old_after)
        lines.append(
            f"| {row.task} | {row.nights} ({row.people}) | {row.way} | {name} | "
            + " | ".join(map(shown, cells))
            + " |"
        )
    return "\n".join(lines)
