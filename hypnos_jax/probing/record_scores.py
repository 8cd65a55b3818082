"""Whole records told apart by their features or by one number: cross-validated areas under curves.

A probe is imputation by the mean, standardisation and class-balanced ridge regression, whose
penalty is chosen within the training records: records are few and features many. Each shuffle of
the folds, which are stratified and keep a person together, gives every record one score of a probe
that has not seen its person; scores are averaged over shuffles.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from hypnos_jax.probing.probe import interval, ranking

PENALTIES = np.geomspace(1, 1e5, 11)  # ours; of the ridge, over 100 or so standardised records


@dataclasses.dataclass(frozen=True)
class Records:
    """Labelled records.

    Attributes:
        names, subjects: of each, [N].
        labels: int [N], 0 or 1.
    """

    names: list[str]
    subjects: list[str]
    labels: np.ndarray


def _probe():
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    ridge = RidgeClassifierCV(alphas=PENALTIES, class_weight="balanced")
    return make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler(), ridge)


def cross_scores(
    features: np.ndarray, records: Records, *, folds: int, shuffles: int
) -> np.ndarray:
    """Return float64 [N], each record's score by probes that have not seen its person.

    Args:
        features: [N, F], NaN where one is missing.
        records: of the rows.
        folds: of each shuffle; fewer where a class has fewer people.
        shuffles: over which scores are averaged.

    Raises:
        ValueError: a class has fewer than two people.
    """
    from sklearn.model_selection import StratifiedGroupKFold
    from threadpoolctl import threadpool_limits

    people = [
        {s for s, y in zip(records.subjects, records.labels) if y == label} for label in (0, 1)
    ]
    folds = min(folds, *map(len, people))
    if folds < 2:
        raise ValueError("a class of records has fewer than two people: nothing can be tested")
    scores = np.zeros(len(features))
    with threadpool_limits(1):
        for seed in range(shuffles):
            split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
            for train, test in split.split(features, records.labels, records.subjects):
                probe = _probe().fit(features[train], records.labels[train])
                scores[test] += probe.decision_function(features[test]) / shuffles
    return scores


def test_scores(features: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Return float64 [n] of test records [n, F] by a probe of all others [N, F]."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        return _probe().fit(features, labels).decision_function(test)


class Draws:
    """Bootstrap samples of the people of some records, the same for all scores of them."""

    def __init__(self, records: Records, draws: int, seed: int = 0):
        """Draw so many samples of the people."""
        people = sorted(set(records.subjects))
        share = np.full(len(people), 1 / len(people))
        counts = np.random.default_rng(seed).multinomial(len(people), share, size=draws)
        owner = np.array([people.index(subject) for subject in records.subjects])
        self.labels, self.people = records.labels, len(people)
        self._weights = np.concatenate([np.ones((1, len(owner)), np.int64), counts[:, owner]])

    def auroc(self, scores: np.ndarray) -> np.ndarray:
        """Return float64 [1 + draws]: of the records as they are, then of the samples."""
        return ranking(self.labels, np.asarray(scores, np.float64), self._weights)["auroc"]

    def row(self, trained: np.ndarray, others: Sequence[np.ndarray] = ()) -> dict:
        """Return AUROC with its interval, beside that of others and the gain over their mean.

        Args:
            trained: scores [N], higher for label 1.
            others: scores of the same records, such as of untrained networks.

        Returns:
            ``{"value", "low", "high"}``, and where there are others ``"untrained"`` [values] and
            ``"gain"`` {value, low, high}, paired: over the same samples.
        """
        own = self.auroc(trained)
        found = self._number(own)
        if others:
            every = np.stack([self.auroc(scores) for scores in others])
            found["untrained"] = every[:, 0].tolist()
            found["gain"] = self._number(own - every.mean(0))
        return found

    def _number(self, values):
        low, high = interval(values[1:], self.people)
        return {"value": float(values[0]), "low": low, "high": high}
