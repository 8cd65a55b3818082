"""Facts of epochs by other means than a caption decoder: what its captions must beat.

Each rival gives facts, which the grammar renders, so that all are judged by the same parser:
always the same facts; those of the nearest training epoch; those that linear probes read off
frozen embeddings.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence

import numpy as np

from data_pipelines.captions.facts import (
    DIRECTIONS,
    EPOCH_S,
    EVENTS,
    MODALITIES,
    POSITIONS,
    SLOTS,
    STAGES,
    TRACKS,
    Facts,
    Interval,
)
from data_pipelines.captions.grammar import render
from hypnos_jax.probing import probe

FEWEST = 5  # examples of an answer below which no probe is fitted
SHORTEST_S = 0.2  # event or trend that a probe may say
STRENGTHS = np.logspace(-1, 4, 11)  # of the ridge, chosen by leave-one-out error
_PRINTED = tuple(name for name, slot in SLOTS.items() if slot.printed)


def majority(train: Sequence[Facts]) -> Facts:
    """Return the facts that are said of every epoch: medians, the most frequent stage, no event.

    A number is said that most epochs have.
    """
    numbers = {}
    for name in _PRINTED:
        values = [own.numbers[name] for own in train if name in own.numbers]
        if 2 * len(values) > len(train):
            numbers[name] = float(np.median(values))
    stage, position = (
        collections.Counter(x for x in own if x is not None).most_common(1)
        for own in ([f.stage for f in train], [f.position for f in train])
    )
    return Facts(
        numbers,
        position=position[0][0] if position else None,
        stage=stage[0][0] if stage else None,
        events=(),
    )


def nearest(train_x: np.ndarray, train: Sequence[Facts], x: np.ndarray) -> list[Facts]:
    """Return the facts of the nearest training epochs, by standardised features [N, F]."""
    from sklearn.neighbors import NearestNeighbors

    own, asked = _standardised(train_x, x)
    found = NearestNeighbors(n_neighbors=1).fit(own).kneighbors(asked, return_distance=False)
    return [train[i] for i in found[:, 0]]


def probed(train_x: np.ndarray, train: Sequence[Facts], x: np.ndarray) -> list[Facts]:
    """Return facts that linear probes read off features [N, F].

    Logistic regressions say the stage, the position, and which numbers, events and trends there
    are (as many as in training); ridge regressions say numbers, onsets and ends. Of each kind of
    event, and of each direction of a trend, an epoch has one at most.
    """
    own, asked = _standardised(train_x, x)
    numbers = {}
    for name in _PRINTED:
        there = np.array([name in facts.numbers for facts in train])
        if there.sum() < FEWEST:
            continue
        y = np.array([facts.numbers.get(name, 0.0) for facts in train])[there]
        limit = 100.0 if SLOTS[name].unit == "%" else np.inf
        value = np.clip(_ridge(own[there], y, asked), 0.0, limit)
        numbers[name] = np.where(_present(own, there, asked), value, np.nan)
    stage = _class(own, [facts.stage for facts in train], asked, STAGES)
    position = _class(own, [facts.position for facts in train], asked, POSITIONS)
    looked = np.array([facts.events is not None for facts in train])
    known = [facts for facts in train if facts.events is not None]
    events = {
        kind: _intervals(own[looked], [_of_kind(f.events, kind) for f in known], asked)
        for kind in EVENTS
    }
    trends = {
        (track, kind): _intervals(
            own, [_of_kind(f.trends.get(track, ()), kind) for f in train], asked
        )
        for track in TRACKS
        for kind in DIRECTIONS
    }
    return [
        Facts(
            {name: float(own[i]) for name, own in numbers.items() if np.isfinite(own[i])},
            {
                track: tuple(sorted(_at(trends, i, lambda key, t=track: key[0] == t)))
                for track in TRACKS
            },
            position[i],
            stage=stage[i],
            events=tuple(sorted(_at(events, i))) if looked.any() else None,
        )
        for i in range(len(x))
    ]


def captions_of(facts: Facts, modalities: Sequence[str] = MODALITIES) -> dict[str, str]:
    """Return the grammar's captions of facts: modality -> text."""
    return {name: str(render(facts, name, recording="rival", epoch=0)) for name in modalities}


def _standardised(train_x, x):
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scale = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler()).fit(train_x)
    return scale.transform(train_x), scale.transform(x)


def _ridge(train_x, y, x):
    from sklearn.linear_model import RidgeCV

    return RidgeCV(STRENGTHS).fit(train_x, y).predict(x)


def _present(train_x, there, x):
    """Where something is, as often as in training."""
    if min(there.sum(), (~there).sum()) < FEWEST:
        return np.full(len(x), 2 * there.sum() > len(there))
    labels, both = there.astype(int), np.concatenate([train_x, x])
    found = probe.fit_predict(train_x, labels, both, 2, strength=1.0)[:, 1]
    return found[len(there) :] >= np.quantile(found[: len(there)], 1 - there.mean())


def _class(train_x, values, x, names):
    """The likeliest of some names for each row; None where none is known in training."""
    labels = np.array([-1 if value is None else names.index(value) for value in values])
    known = labels >= 0
    if not known.any():
        return [None] * len(x)
    shares = probe.fit_predict(train_x[known], labels[known], x, len(names), strength=1.0)
    return [names[i] for i in shares.argmax(1)]


def _of_kind(intervals, kind):
    return next((own for own in intervals if own.kind == kind), None)


def _intervals(train_x, found, x) -> list[Interval | None]:
    """One interval of a kind, or none, for each row."""
    there = np.array([own is not None for own in found], bool)
    if there.sum() < FEWEST:
        return [None] * len(x)
    kind = next(own.kind for own in found if own)
    times = [
        np.clip(_ridge(train_x[there], np.array([f(o) for o in found if o]), x), 0.0, EPOCH_S)
        for f in (lambda own: own.start_s, lambda own: own.stop_s)
    ]
    is_there = _present(train_x, there, x) & (times[1] - times[0] >= SHORTEST_S)
    return [
        Interval(float(a), float(b), kind) if said else None for a, b, said in zip(*times, is_there)
    ]


def _at(found, row, which=lambda key: True) -> list[Interval]:
    return [rows[row] for key, rows in found.items() if which(key) and rows[row] is not None]
