"""Linear probes on frozen features: folds by subject, scores, and how sure one may be of them.

A probe is imputation by the training mean, standardisation and logistic regression, all fitted on
training subjects alone. Intervals are percentiles of the score over subjects drawn with
replacement: what another set of sleepers might have given, not another training run.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Sequence

import numpy as np

FOLDS = 5
FEWEST_TEST_SUBJECTS = 10
FEWEST_FOR_INTERVAL = 5
BLOCKS, GAP = 10, 4
LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Examples:
    """Labelled examples of a task, recording by recording.

    Attributes:
        recordings, subjects, splits: of each recording, [R].
        labels: of each recording, int [N]; negative is left out.
        features: name of a feature set -> of each recording, float [N, F].
        classes: names of the labels 0, 1, ...
    """

    recordings: list[str]
    subjects: list[str]
    splits: list[str]
    labels: list[np.ndarray]
    features: dict[str, list[np.ndarray]]
    classes: tuple[str, ...]

    def of(self, name: str, subjects: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the labelled examples of some subjects: features [N, F] and labels [N]."""
        chosen = [i for i, subject in enumerate(self.subjects) if subject in set(subjects)]
        labels = np.concatenate([self.labels[i] for i in chosen])
        features = np.concatenate([self.features[name][i] for i in chosen])
        return features[labels >= 0], labels[labels >= 0]


def split_subjects(
    examples: Examples, *, fewest_test: int = FEWEST_TEST_SUBJECTS, seed: int = 0
) -> tuple[list[tuple[list[str], list[str]]], str]:
    """Deal the subjects to (training, test) pairs, no subject in both.

    With ``fewest_test`` labelled test subjects or more, and training subjects beside them: the
    store's own split (its validation subjects train the probe, which selects nothing on them).
    Otherwise folds over all subjects, so that each is tested once.

    Returns:
        The pairs, none where there are fewer than two subjects, and the protocol in words.
    """
    labelled = {}
    for subject, split, labels in zip(examples.subjects, examples.splits, examples.labels):
        if (labels >= 0).any():
            labelled[subject] = split
    subjects = sorted(labelled)
    test = [subject for subject in subjects if labelled[subject] == "test"]
    train = [subject for subject in subjects if labelled[subject] != "test"]
    if len(test) >= fewest_test and train:
        return [(train, test)], f"the store's split: {len(train)} subjects train, {len(test)} test"
    if len(subjects) < 2:
        return [], f"{len(subjects)} labelled subjects: a probe needs two or more"
    count = min(FOLDS, len(subjects))
    order = np.random.default_rng(seed).permutation(subjects).tolist()
    # Dealt in the order of their labels, so that folds are alike: where they are not, features that
    # tell nothing score below chance, because training shares then oppose the test's.
    level = {}
    for subject, labels in zip(examples.subjects, examples.labels):
        level.setdefault(subject, []).append(labels[labels >= 0])
    order.sort(key=lambda subject: np.mean(np.concatenate(level[subject])))
    pairs = []
    for fold in range(count):
        held = order[fold::count]
        pairs.append((sorted(set(order) - set(held)), sorted(held)))
    words = f"{count}-fold cross-validation by subject over {len(subjects)} subjects"
    return pairs, f"{words} ({len(test)} test subjects are too few)"


def in_blocks(examples: Examples, *, count: int = BLOCKS, gap: int = GAP) -> Examples:
    """Cut recordings into runs of epochs that stand in for subjects, where there is one subject.

    Only recordings with two classes or more are used. Between two runs ``gap`` examples are left
    out, because neighbours look alike; still, a person is then compared with themselves.

    Args:
        examples: the task.
        count: runs per recording.
        gap: examples without a label at the end of each run but the last.
    """
    out = Examples([], [], [], [], {name: [] for name in examples.features}, examples.classes)
    for i, labels in enumerate(examples.labels):
        if len(np.unique(labels[labels >= 0])) < 2:
            continue
        edges = np.linspace(0, len(labels), count + 1).round().astype(int)
        for k, (low, high) in enumerate(zip(edges, edges[1:])):
            own = labels[low:high].copy()
            if k + 1 < count:
                own[max(0, len(own) - gap) :] = -1
            name = f"{examples.recordings[i]}, part {k + 1} of {count}"
            out.recordings.append(name)
            out.subjects.append(name)
            out.splits.append("train")
            out.labels.append(own)
            for key, rows in examples.features.items():
                out.features[key].append(rows[i][low:high])
    return out


def nested_subsets(
    subjects: Sequence[str], fractions: Sequence[float], seed: int
) -> dict[float, list[str]]:
    """Return fraction -> subjects; each smaller subset lies within the larger ones.

    Of one order of the subjects the first ``ceil(fraction n)`` are taken, one at least.
    """
    order = np.random.default_rng(seed).permutation(sorted(subjects)).tolist()
    return {f: order[: max(1, math.ceil(round(f * len(order), 9)))] for f in sorted(fractions)}


def class_counts(examples: Examples, subjects: Sequence[str]) -> np.ndarray:
    """Return how many labelled examples of each class some subjects have, [classes]."""
    own = [y[y >= 0] for y, name in zip(examples.labels, examples.subjects) if name in subjects]
    return np.bincount(np.concatenate(own), minlength=len(examples.classes))


def few_of_each(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Return the places of at most ``shots`` examples of each class, in order.

    Of one order of the examples the first are taken: fewer lie within more.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    each = [order[labels[order] == label][:shots] for label in np.unique(labels)]
    return np.sort(np.concatenate(each))


def fit_predict(
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    classes: int,
    *,
    strength: float,
    scale_by: np.ndarray | None = None,
) -> np.ndarray:
    """Fit a probe and return the probabilities of test examples, float64 [N, classes].

    Args:
        train_x, train_y: [N, F] (NaN is missing) and [N]. With F = 0, or one class alone, the
            training shares of the classes are predicted.
        test_x: [N, F].
        classes: how many labels there are; those that training lacks have probability 0.
        strength: of the L2 penalty: sklearn's C is its inverse.
        scale_by: [K, F], whose means and deviations standardise; those of ``train_x`` by default.
    """
    return fit_path(train_x, train_y, test_x, classes, [strength], scale_by=scale_by)[strength]


def fit_path(
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    classes: int,
    strengths: Sequence[float],
    *,
    scale_by: np.ndarray | None = None,
    precision: type = np.float64,
) -> dict[float, np.ndarray]:
    """Return strength -> ``fit_predict``, each fit beginning from that of the next stronger one.

    Args:
        train_x, train_y, test_x, classes: as of ``fit_predict``.
        strengths: of the penalty.
        scale_by: as of ``fit_predict``.
        precision: of the products; ``np.float32`` takes half of the time.
    """
    present = np.unique(train_y)
    if train_x.shape[1] == 0 or len(present) < 2:
        shares = np.bincount(train_y, minlength=classes) / len(train_y)
        return dict.fromkeys(strengths, np.tile(shares, (len(test_x), 1)))
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    scale = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler())
    model, found = LogisticRegression(max_iter=5000, warm_start=True), {}
    # Threads cost such small products more than they give.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        scale.fit(np.asarray(train_x if scale_by is None else scale_by, np.float64))
        x = scale.transform(np.asarray(train_x, np.float64)).astype(precision)
        asked = scale.transform(np.asarray(test_x, np.float64)).astype(precision)
        for strength in sorted(strengths, reverse=True):
            model.set_params(C=1 / strength).fit(x, train_y)
            found[strength] = np.zeros((len(test_x), classes))
            found[strength][:, present] = model.predict_proba(asked)
    return found


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Test predictions of all folds, recording by recording.

    Attributes:
        recordings, subjects: of each recording, [R].
        labels: of each recording, int [N].
        probabilities: of each recording, float [N, classes].
    """

    recordings: list[str]
    subjects: list[str]
    labels: list[np.ndarray]
    probabilities: list[np.ndarray]


def cross_predict(
    examples: Examples,
    name: str,
    pairs: Sequence[tuple[list[str], list[str]]],
    *,
    strength: float,
    fraction: float = 1.0,
    shots: int = 0,
    seed: int = 0,
) -> Predictions:
    """Predict every test recording by a probe that has not seen its subject.

    Args:
        examples: the task.
        name: the feature set; "" for none, which predicts the training shares.
        pairs: from ``split_subjects``.
        strength: see ``fit_predict``.
        fraction: of the training subjects that are used.
        shots: examples of each class whose labels are used, drawn among those of all these
            subjects; the others only standardise. 0 for all.
        seed: which subjects and examples.
    """
    found = Predictions([], [], [], [])
    classes = len(examples.classes)
    if not name:
        empty = [np.zeros((len(labels), 0)) for labels in examples.labels]
        examples = dataclasses.replace(examples, features={"": empty})
    for train, test in pairs:
        train = nested_subsets(train, [fraction], seed)[fraction]
        train_x, train_y = examples.of(name, train)
        scale_by = train_x
        if shots:
            few = few_of_each(train_y, shots, seed)
            train_x, train_y = train_x[few], train_y[few]
        held = [
            i
            for i, subject in enumerate(examples.subjects)
            if subject in test and (examples.labels[i] >= 0).any()
        ]
        labels = [examples.labels[i][examples.labels[i] >= 0] for i in held]
        x = [examples.features[name][i][examples.labels[i] >= 0] for i in held]
        # One fit for all test recordings of the fold.
        p = fit_predict(
            train_x, train_y, np.concatenate(x), classes, strength=strength, scale_by=scale_by
        )
        found.recordings.extend(examples.recordings[i] for i in held)
        found.subjects.extend(examples.subjects[i] for i in held)
        found.labels.extend(labels)
        found.probabilities.extend(np.split(p, np.cumsum([len(y) for y in labels])[:-1]))
    if not name and found.labels:
        # Shares that differ from fold to fold would rank the folds, and backwards.
        mean = np.concatenate(found.probabilities).mean(axis=0)
        found.probabilities[:] = [np.tile(mean, (len(y), 1)) for y in found.labels]
    return found


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return counts [classes, classes]: rows are the truth, columns the prediction."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def agreement(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Return Cohen's kappa, macro F1, balanced accuracy and accuracy of confusion counts.

    Args:
        counts: [..., classes, classes]. Classes that are neither true nor predicted do not enter
            macro F1; those never true do not enter balanced accuracy.

    Returns:
        name -> [...]; kappa is NaN where chance agreement is 1.
    """
    counts = counts.astype(np.float64)
    total = counts.sum((-1, -2))
    hit = np.diagonal(counts, axis1=-2, axis2=-1)
    true, said = counts.sum(-1), counts.sum(-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        accuracy = hit.sum(-1) / total
        chance = (true * said).sum(-1) / total**2
        kappa = np.where(chance < 1, (accuracy - chance) / (1 - chance), np.nan)
        f1 = np.where(true + said > 0, 2 * hit / (true + said), np.nan)
        recall = np.where(true > 0, hit / true, np.nan)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            return {
                "kappa": kappa,
                "macro_f1": np.nanmean(f1, axis=-1),
                "balanced_accuracy": np.nanmean(recall, axis=-1),
                "accuracy": accuracy,
            }


def ranking(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Return the areas under the ROC and the precision-recall curve (average precision).

    Args:
        labels: [N], 0 or 1.
        scores: [N], higher for 1.
        weights: [W, N], how often each example counts; one result per row.

    Returns:
        name -> [W]; NaN where one of the classes has no weight.
    """
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # of each run of ties
    ordered, truth = weights[:, order], labels[order].astype(np.float64)
    hits = np.cumsum(ordered * truth, axis=1)[:, last]
    alarms = np.cumsum(ordered * (1 - truth), axis=1)[:, last]
    positives, negatives = hits[:, -1:], alarms[:, -1:]
    step = np.diff(hits, axis=1, prepend=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        after = negatives - alarms
        ties = np.diff(alarms, axis=1, prepend=0)
        auroc = (step * (after + 0.5 * ties)).sum(1) / (positives * negatives)[:, 0]
        precision = np.where(hits + alarms > 0, hits / (hits + alarms), 0)
        auprc = (step * precision).sum(1) / positives[:, 0]
    wrong = (positives * negatives)[:, 0] == 0
    return {"auroc": np.where(wrong, np.nan, auroc), "auprc": np.where(wrong, np.nan, auprc)}


def score(
    found: Predictions, classes: int, *, ranked: bool, draws: int = 1000, seed: int = 0
) -> dict:
    """Score test predictions, pooled and per recording, with intervals over subjects.

    Args:
        found: the predictions.
        classes: how many labels there are.
        ranked: a binary task scored by ranking; else one scored by agreement.
        draws: bootstrap samples of the subjects.
        seed: of the draws.

    Returns:
        ``metrics`` {name: {value, low, high}}; low and high are None with fewer than five subjects.
        ``confusion`` [classes][classes] at the likeliest class; ``per_recording`` [{recording,
        subject, examples, kappa}] for tasks scored by agreement.
    """
    names = sorted(set(found.subjects))
    index = np.array([names.index(subject) for subject in found.subjects])
    drawn = np.random.default_rng(seed).multinomial(
        len(names), np.full(len(names), 1 / len(names)), size=draws
    )
    guesses = [p.argmax(1) for p in found.probabilities]
    pairs = zip(found.labels, guesses)
    counts = np.stack([confusion(truth, guess, classes) for truth, guess in pairs])
    out = {"confusion": counts.sum(0).tolist(), "subjects": len(names), "per_recording": []}
    if ranked:
        sizes = [len(truth) for truth in found.labels]
        labels = np.concatenate(found.labels)
        scores = np.concatenate([p[:, 1] for p in found.probabilities])
        owner = np.repeat(index, sizes)
        value = ranking(labels, scores, np.ones((1, len(labels))))
        block = max(1, 4_000_000 // len(labels))
        parts = [
            ranking(labels, scores, drawn[k : k + block][:, owner]) for k in range(0, draws, block)
        ]
        spread = {name: np.concatenate([part[name] for part in parts]) for name in value}
        out["curve"] = roc_points(labels, scores)
    else:
        value = agreement(counts.sum(0)[None])
        by_subject = np.zeros((len(names), classes, classes))
        np.add.at(by_subject, index, counts)
        spread = agreement(np.einsum("ds,sij->dij", drawn, by_subject))
        own = agreement(counts)
        for i, recording in enumerate(found.recordings):
            kappa = float(own["kappa"][i])
            out["per_recording"].append(
                {
                    "recording": recording,
                    "subject": found.subjects[i],
                    "examples": int(counts[i].sum()),
                    "kappa": None if math.isnan(kappa) else kappa,
                    "accuracy": float(own["accuracy"][i]),
                }
            )
    out["metrics"] = {
        name: {"value": _number(x[0])}
        | dict(zip(("low", "high"), interval(spread[name], len(names))))
        for name, x in value.items()
    }
    return out


def interval(spread: np.ndarray, subjects: int) -> tuple[float | None, float | None]:
    """Return the percentile interval of bootstrap values, or Nones where it would mean nothing."""
    spread = spread[np.isfinite(spread)]
    if subjects < FEWEST_FOR_INTERVAL or len(spread) < 2:
        return None, None
    low, high = np.quantile(spread, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def roc_points(labels: np.ndarray, scores: np.ndarray, count: int = 200) -> list[list[float]]:
    """Return about ``count`` points (false alarms, hits) of the ROC curve, both shares."""
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    truth = labels[order]
    hits, alarms = np.cumsum(truth)[last], np.cumsum(1 - truth)[last]
    hits, alarms = np.append(0, hits), np.append(0, alarms)
    if not hits[-1] or not alarms[-1]:
        return []
    keep = np.unique(np.linspace(0, len(hits) - 1, count).round().astype(int))
    return np.stack([alarms[keep] / alarms[-1], hits[keep] / hits[-1]], axis=1).tolist()


def _number(x) -> float | None:
    return float(x) if np.isfinite(x) else None
