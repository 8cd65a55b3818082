"""Heads of an export: fitted on a store of scored nights, and written with what they are worth."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

import tqdm
from absl import logging

from data_pipelines.store import NightStore
from hypnos_jax.export import card
from hypnos_jax.export.model import ModelError, is_export, load_model
from hypnos_jax.export.write import export
from hypnos_jax.heads.guard import FEWEST_PEOPLE, Guard, scoring_reason, write_guard
from hypnos_jax.heads.head import Head, load_heads, write_head
from hypnos_jax.heads.measures import measure
from hypnos_jax.inference.embed import open_embedder
from hypnos_jax.probing import head_fitting


def fit_heads(
    model: str | os.PathLike,
    nights: str | os.PathLike,
    output: str | os.PathLike,
    *,
    tasks: Sequence[str],
    context: bool = False,
    risk: float = head_fitting.RISK,
    embeddings: str | os.PathLike,
    overwrite: bool = False,
) -> str:
    """Fit heads and write them into an export.

    Args:
        model: what ``load_model`` takes.
        nights: store of scored nights that the model reads.
        output: the export that gets the heads; made of the model where it is not there.
        tasks: names in ``head_fitting.TASKS``.
        context, risk: see ``head_fitting.fit_head``.
        embeddings: folder in which embeddings of the nights are kept.
        overwrite: replace heads of the same tasks.

    Returns:
        A table of how good they are, for a terminal.

    Raises:
        ModelError: no model; ``output`` is another model's export, or has such a head already.
        ValueError: a task without labels; see ``head_fitting.fit_head``.
    """
    output, store = pathlib.Path(output), NightStore(nights)
    loaded = load_model(model)
    for task in tasks:
        head_fitting.cell_of(task, loaded.objective.token_s)
    if output.exists() and is_export(output):
        if load_model(output).checksum != loaded.checksum:
            raise ModelError(f"{output} is an export of another model; give a new folder")
        there = sorted(set(load_heads(output)) & set(tasks))
        if there and not overwrite:
            raise ModelError(f"{output} has a head of {there[0]}; --overwrite replaces it")
    else:
        export(model, output)
        if is_export(pathlib.Path(model)):
            for head in load_heads(model).values():
                write_head(output, head)
    embedder = open_embedder(loaded)
    made, left = head_fitting.embed_store(embedder, store, embeddings)
    if store.closed:
        logging.info("%s: the test nights are locked; validation people are told", nights)
    for name, reason in left:
        logging.warning("left out %s: %s", name, reason)
    if not made:
        raise ValueError(f"{nights}: none of its nights can be embedded")
    found = []
    for task in tasks:
        logging.info("fitting %s on %d nights", task, len(made))
        head = head_fitting.fit_head(
            task,
            made,
            store,
            model=loaded.checksum,
            names=head_fitting.names_of(embedder, made),
            token_s=loaded.objective.token_s,
            context=context,
            risk=risk,
        )
        head.facts["left_out"] = len(left)
        if task == "stage5":
            head.facts["scorings_in_doubt"] = _doubt(head, made, store, loaded.objective.token_s)
        write_head(output, head)
        found.append(head)
    guard = _guard(made, store, loaded)
    if guard is not None:
        write_guard(output, guard)
    card.rewrite(output)
    return table(found)


def _doubt(head, nights, store, token_s) -> int:
    """Warn of nights whose scoring does not fit their signals, and return how many there are."""
    count = 0
    split = head_fitting.labelled(head.task, nights, store, head.names, token_s)
    for entry, cells, truth in (row for rows in split.values() for row in rows):
        reason = scoring_reason(head(cells), truth)
        if reason is not None:
            logging.warning("%s: %s; look at it, or leave it out", entry.recording, reason.note)
            count += 1
    return count


def _guard(nights, store, loaded) -> Guard | None:
    """Fit the guard on the nights that heads were fitted and chosen on."""
    own = [night for night in nights if night.entry.split != "test"]
    people = [night.entry.subject for night in own]
    if len(set(people)) < FEWEST_PEOPLE:
        logging.warning("no guard: %d people are too few to tell what is usual", len(set(people)))
        return None
    token_s, measures = loaded.objective.token_s, []
    names = [row["name"] for row in loaded.config["modalities"]] if store.kind == "signals" else []
    for night in tqdm.tqdm(own, desc="guard", unit="night"):
        there = [name for name in names if name in night.entry.channels]
        channels = {name: store.channel(night.entry, name) for name in there}
        measures.append(measure(channels, night.modalities, token_s))
    rates = {name: float(store.rate_hz(name)) for name in names if _stored(store, name)}
    return Guard.fit(measures, people, rates=rates, model=loaded.checksum)


def _stored(store, name) -> bool:
    return any(name in night.channels for night in store.nights)


def table(heads: Sequence[Head]) -> str:
    """Return how good heads are on the people that were kept aside, for a terminal."""
    lines = ["task      people  measure                        certain  wrong there"]
    for head in heads:
        split = "test" if "test" in head.facts else "validation"
        told = head.facts[split]
        name = "auroc" if head.kind == "binary" else "kappa"
        value = told["metrics"][name]
        spread = ""
        if value.get("low") is not None:
            spread = f" ({value['low']:.2f} to {value['high']:.2f})"
        wrong = told["risk_where_certain"]
        lines.append(
            f"{head.task:<9} {told['people']:>6}  {name} {_number(value['value'])}{spread:<18}"
            f"  {told['certain']:>6.0%}  {_number(wrong)}" + " (validation)" * (split != "test")
        )
    return "\n".join(lines)


def _number(value) -> str:
    return "-" if value is None else f"{value:.3f}"
