"""Metrics of answers, task by task: scikit-learn's measures, and the few that it lacks.

Which measures, and how events and the apnea-hypopnea index (AHI) are read off probabilities of
every second, follow sleep2vec's code (arXiv 2602.13857); the rule that chooses the threshold is
ours. What cannot be computed, such as an area under a curve of one class, is NaN.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from hypnos_jax.probing import probe

JOIN_S, LEAST_S, LEAST_IOU = 3, 10, 0.5
LEAST_TST_S = 2 * 3600
SEVERITY = (5, 15, 30)  # events an hour: mild, moderate, severe from here on
THRESHOLDS = np.arange(1, 100) / 100


def of_classes(target: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> dict:
    """Return measures of agreement.

    Args:
        target, predicted: int [N].
        names: of the classes; each gets an ``f1_<name>``.

    Returns:
        ``accuracy kappa macro_f1 weighted_f1 macro_sensitivity macro_specificity f1_...``, and
        ``majority_accuracy``, that of always saying the most frequent class. Means are over classes
        that occur in ``target`` or ``predicted``; sensitivity over those in ``target``.
    """
    from sklearn import metrics

    labels = list(range(len(names)))
    counts = metrics.confusion_matrix(target, predicted, labels=labels).astype(np.float64)
    true, said, hit = counts.sum(1), counts.sum(0), np.diagonal(counts)
    seen = true + said > 0
    options = {"labels": labels, "average": None, "zero_division": np.nan}
    f1 = metrics.f1_score(target, predicted, **options)
    negatives = len(target) - true
    with np.errstate(invalid="ignore", divide="ignore"):
        specificity = (negatives - (said - hit)) / negatives
        sensitivity = hit / true
    # kappa is 0/0 where one class is all there is
    one = len(np.unique(np.concatenate([target, predicted]))) < 2
    return {
        "accuracy": float(metrics.accuracy_score(target, predicted)),
        "majority_accuracy": float(true.max() / true.sum()),
        "kappa": math.nan if one else float(metrics.cohen_kappa_score(target, predicted)),
        "macro_f1": float(np.mean(f1[seen])),
        "weighted_f1": float(np.sum((f1 * true)[true > 0]) / true.sum()),
        "macro_sensitivity": float(np.mean(sensitivity[true > 0])),
        "macro_specificity": math.nan if one else float(np.mean(specificity[seen])),
        **{f"f1_{name}": float(value) for name, value in zip(names, f1)},
    }


def of_binary(target: np.ndarray, probability: np.ndarray) -> dict:
    """Return measures of probabilities [N] of what is 1 in ``target`` [N].

    Returns:
        Of answers at 0.5: ``accuracy``, beside ``majority_accuracy``, that of always saying what is
        more frequent; ``kappa macro_f1 f1 sensitivity specificity``. Of probabilities: ``auroc
        auprc brier ece``. ``prevalence``: the share of 1, also under its former name ``positives``.
    """
    from sklearn import metrics

    both, share = 0 < target.sum() < len(target), float(np.mean(target))
    counts = probe.confusion((target > 0.5).astype(int), (probability > 0.5).astype(int), 2)
    true, hit = counts.sum(1), counts[1, 1]
    agreement = {name: float(value) for name, value in probe.agreement(counts).items()}
    return {
        **{name: agreement[name] for name in ("accuracy", "kappa", "macro_f1")},
        "majority_accuracy": float(true.max() / true.sum()),
        "f1": _share(2 * hit, true[1] + counts[:, 1].sum()),
        "sensitivity": _share(hit, true[1]),
        "specificity": _share(counts[0, 0], true[0]),
        "auroc": float(metrics.roc_auc_score(target, probability)) if both else math.nan,
        "auprc": float(metrics.average_precision_score(target, probability)) if both else math.nan,
        "brier": float(np.mean((probability - target) ** 2)),
        "ece": calibration_error(target, probability),
        "prevalence": share,
        "positives": share,
    }


def _share(part, whole) -> float:
    return float(part / whole) if whole else math.nan


def calibration_error(target: np.ndarray, probability: np.ndarray, bins: int = 10) -> float:
    """Return the expected calibration error: bins of equal width, each weighted by its examples."""
    place = np.minimum((probability * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    gap = np.abs(
        np.bincount(place, probability, minlength=bins) - np.bincount(place, target, minlength=bins)
    )
    return float(gap.sum() / max(count.sum(), 1))


def of_numbers(target: np.ndarray, estimate: np.ndarray) -> dict:
    """Return ``mse``, ``mae`` and Pearson's correlation of [N] and [N]."""
    error = estimate - target
    return {
        "mse": float(np.mean(error**2)),
        "mae": float(np.mean(np.abs(error))),
        "pearson": pearson(target, estimate),
    }


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Return the correlation of [N] and [N], NaN where one of them does not vary."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(np.corrcoef(x, y)[0, 1])


def c_index(risk: np.ndarray, time: np.ndarray, event: np.ndarray) -> float:
    """Return Harrell's C: of pairs whose order is known, the share that the risk puts in order.

    A pair is known where the earlier time is an event's; equal risks count half. NaN where no pair
    is known.

    Args:
        risk, time: [N].
        event: bool [N].
    """
    known = event[:, None] & (time[:, None] < time[None])  # i before j
    if not known.any():
        return math.nan
    ahead = (risk[:, None] > risk[None]) + 0.5 * (risk[:, None] == risk[None])
    return float(ahead[known].mean())


def icc(x: np.ndarray, y: np.ndarray) -> float:
    """Return ICC(2,1), absolute agreement of two raters [N] and [N] (Shrout and Fleiss, 1979)."""
    ratings = np.stack([x, y], 1).astype(np.float64)
    n, k = ratings.shape
    if n < 2:
        return math.nan
    grand, rows, columns = ratings.mean(), ratings.mean(1), ratings.mean(0)
    between = k * np.sum((rows - grand) ** 2) / (n - 1)
    raters = n * np.sum((columns - grand) ** 2) / (k - 1)
    rest = ratings - rows[:, None] - columns[None] + grand
    error = np.sum(rest**2) / ((n - 1) * (k - 1))
    below = between + (k - 1) * error + k * (raters - error) / n
    return float((between - error) / below) if below else math.nan


@dataclasses.dataclass(frozen=True)
class BreathingNight:
    """A night's breathing, second by second.

    Attributes:
        probability: float [S], of an apnea or hypopnea.
        truth: bool [S].
        sleep: bool [S].
        scored: bool [S]: seconds that are not count as without event.
    """

    probability: np.ndarray
    truth: np.ndarray
    sleep: np.ndarray
    scored: np.ndarray

    def said(self, threshold: float) -> np.ndarray:
        """Return the seconds called an event, bool [S]."""
        return (self.probability >= threshold) & self.scored


def runs(positive: np.ndarray) -> np.ndarray:
    """Return the half-open intervals of consecutive True, int [R, 2]."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], positive.astype(np.int8), [0]])))
    return edges.reshape(-1, 2)


def events_of(positive: np.ndarray, sleep: np.ndarray) -> np.ndarray:
    """Return events, int [R, 2]: runs no more than 3 s apart joined, those that touch sleep, 10 s
    or longer."""
    events = runs(positive)
    if len(events):
        apart = np.flatnonzero(events[1:, 0] - events[:-1, 1] > JOIN_S)
        first, last = np.concatenate([[0], apart + 1]), np.concatenate([apart, [len(events) - 1]])
        events = np.stack([events[first, 0], events[last, 1]], 1)
    keep = _touching(events, sleep) & (events[:, 1] - events[:, 0] >= LEAST_S)
    return events[keep]


def _touching(events, sleep):
    asleep = np.concatenate([[0], np.cumsum(sleep)])
    return asleep[events[:, 1]] > asleep[events[:, 0]]


def matched(true: np.ndarray, said: np.ndarray) -> int:
    """Return how many events [R, 2] overlap one of the others by more than half of their union.

    More than half of a union can be shared with one event only, so pairs are one to one.
    """
    if not len(true) or not len(said):
        return 0
    low = np.maximum(true[:, None, 0], said[None, :, 0])
    high = np.minimum(true[:, None, 1], said[None, :, 1])
    shared = np.maximum(high - low, 0)
    union = np.diff(true) + np.diff(said)[:, 0] - shared
    return int((shared > LEAST_IOU * union).sum())


def night_ahi(positive: np.ndarray, sleep: np.ndarray) -> float:
    """Return events an hour of sleep: runs that touch sleep, none joined, none too short."""
    return float(_touching(runs(positive), sleep).sum() * 3600 / sleep.sum())


def of_events(nights: Sequence[BreathingNight], threshold: float) -> dict:
    """Return ``event_precision``, ``event_recall`` and ``event_f1`` over all nights."""
    hits = true = said = 0
    for night in nights:
        own = events_of(night.truth & night.scored, night.sleep)
        called = events_of(night.said(threshold), night.sleep)
        hits, true, said = hits + matched(own, called), true + len(own), said + len(called)
    return {
        "event_precision": hits / said if said else math.nan,
        "event_recall": hits / true if true else math.nan,
        "event_f1": 2 * hits / (true + said) if true + said else math.nan,
    }


def of_breathing(
    nights: Sequence[BreathingNight], threshold: float, *, least_tst_s: float = LEAST_TST_S
) -> dict:
    """Return event measures, and how the nights' AHI agree.

    Args:
        nights: at least one.
        threshold: of the probability.
        least_tst_s: nights of less sleep have no AHI.

    Returns:
        ``event_...``; ``ahi_mae ahi_pearson ahi_icc``, ``severity_accuracy severity_kappa`` (none,
        mild, moderate, severe), ``ahi_nights``.
    """
    long = [night for night in nights if night.sleep.sum() >= least_tst_s and night.sleep.any()]
    true = np.array([night_ahi(night.truth & night.scored, night.sleep) for night in long])
    said = np.array([night_ahi(night.said(threshold), night.sleep) for night in long])
    found = {**of_events(nights, threshold), "ahi_nights": float(len(long))}
    if not long:
        names = ("ahi_mae", "ahi_pearson", "ahi_icc", "severity_accuracy", "severity_kappa")
        return found | dict.fromkeys(names, math.nan)
    grades = [np.searchsorted(SEVERITY, x, side="right") for x in (true, said)]
    levels = of_classes(*grades, ("none", "mild", "moderate", "severe"))
    return found | {
        "ahi_mae": float(np.mean(np.abs(true - said))),
        "ahi_pearson": pearson(true, said),
        "ahi_icc": icc(true, said),
        "severity_accuracy": levels["accuracy"],
        "severity_kappa": levels["kappa"],
    }


def choose_threshold(nights: Sequence[BreathingNight]) -> float:
    """Return the threshold of 0.01, 0.02, ... 0.99 with the highest event F1; 0.5 if none has any.

    Ours: the code chooses one on its validation nights, by a rule that we could not read.
    """
    scores = np.array([of_events(nights, threshold)["event_f1"] for threshold in THRESHOLDS])
    if not np.nan_to_num(scores).any():
        return 0.5
    best = np.flatnonzero(scores == np.nanmax(scores))
    return float(THRESHOLDS[best[len(best) // 2]])  # the middle of a plateau
