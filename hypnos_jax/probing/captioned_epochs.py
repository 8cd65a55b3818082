"""Epochs with their facts and their embeddings, and embeddings of texts, of a model of both."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from data_pipelines.captions.facts import Facts
from data_pipelines.captions.grammar import Caption, render
from data_pipelines.captions.side_file import FactsFile
from data_pipelines.store import NightEntry
from hypnos_jax import evaluate
from hypnos_jax.probing import probe

QUERY = ("stage_event", "brain")  # what is said of an epoch that is sought by default


@dataclasses.dataclass(frozen=True)
class Epochs:
    """Some epochs of a store.

    Attributes:
        nights: of each epoch.
        start: of each epoch, its number within its night, int [N].
        facts: of each epoch.
        rows: their embeddings, float32 [N, Z], of length 1.
    """

    nights: list[NightEntry]
    start: np.ndarray
    facts: list[Facts]
    rows: np.ndarray

    def captions(self, modalities: Sequence[str] = QUERY) -> list[Caption]:
        """Return what the grammar says of each epoch: captions of modalities, one after another."""
        return [
            Caption(
                tuple(
                    clause
                    for name in modalities
                    for clause in render(
                        facts, name, recording=night.recording, epoch=int(start)
                    ).clauses
                )
            )
            for night, start, facts in zip(self.nights, self.start, self.facts, strict=True)
        ]

    def predictions(self, labels: np.ndarray, scores: np.ndarray) -> probe.Predictions:
        """Return labels [N] (negative: left out) and scores [N, classes], night by night."""
        found = probe.Predictions([], [], [], [])
        for name in dict.fromkeys(night.recording for night in self.nights):
            own = [
                i
                for i, night in enumerate(self.nights)
                if night.recording == name and labels[i] >= 0
            ]
            if own:
                found.recordings.append(name)
                found.subjects.append(self.nights[own[0]].subject)
                found.labels.append(labels[own])
                found.probabilities.append(scores[own])
        return found


def epoch_batches(
    context: evaluate.Context, variables: dict, split: str, batch_size: int, count: int | None
) -> Iterator[tuple[dict, np.ndarray, Epochs]]:
    """Yield batches of a split, which of their rows are epochs with signal, and these epochs.

    Args:
        context: of the model.
        variables: of the objective.
        split: which nights.
        batch_size: epochs at once.
        count: about how many epochs, spread evenly over the nights; None for all, in order.
    """
    store, embed = context.store, context.functions("embed")
    facts = FactsFile(store)
    limit = None if count is None else -(-count // batch_size)
    for batch in context.batches(split, batch_size, limit):
        out = jax.device_get(embed(variables, batch))
        told = context.fetch({name: batch[name] for name in ("night", "start", "weight")})
        keep = np.flatnonzero((told["weight"] > 0) & out.valid[:, 0, 0])
        nights = [store.nights[i] for i in told["night"][keep]]
        start = told["start"][keep]
        found = [facts.facts(night, int(at)) for night, at in zip(nights, start)]
        yield batch, keep, Epochs(nights, start, found, out.rows[keep, 0, 0])


def read_epochs(
    context: evaluate.Context, variables: dict, split: str, *, batch_size: int, count: int | None
) -> Epochs | None:
    """Return about so many epochs of a split, as ``epoch_batches``; None where it has none."""
    parts = [epochs for _, _, epochs in epoch_batches(context, variables, split, batch_size, count)]
    return joined(parts) if any(part.nights for part in parts) else None


def joined(parts: Sequence[Epochs]) -> Epochs:
    """Return the epochs of all parts."""
    return Epochs(
        [night for part in parts for night in part.nights],
        np.concatenate([part.start for part in parts]),
        [facts for part in parts for facts in part.facts],
        np.concatenate([part.rows for part in parts]),
    )


def embed_texts(
    context: evaluate.Context,
    variables: dict,
    split: str,
    texts: Sequence[Caption | str],
    *,
    batch_size: int,
) -> np.ndarray:
    """Return embeddings of texts, float32 [N, Z], of length 1, by the tokenizer of the data."""
    ids, embed = context.source(split).encode(texts), context.functions("embed_text")
    rows = []
    for first in range(0, len(ids), batch_size):
        own = ids[first : first + batch_size]
        whole = np.pad(own, ((0, batch_size - len(own)), (0, 0)))  # one shape to compile
        rows.append(np.asarray(jax.device_get(embed(variables, whole)))[: len(own)])
        context.heartbeat()
    return np.concatenate(rows)


def embed_prompts(
    context: evaluate.Context,
    variables: dict,
    split: str,
    classes: Sequence[Sequence[str]],
    *,
    batch_size: int,
) -> np.ndarray:
    """Return the mean embeddings of the prompts of classes, float32 [classes, Z], of length 1."""
    flat = [text for own in classes for text in own]
    rows = embed_texts(context, variables, split, flat, batch_size=batch_size)
    ends = np.cumsum([len(own) for own in classes])[:-1]
    means = np.stack([part.mean(0) for part in np.split(rows, ends)])
    return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
