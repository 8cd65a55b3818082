"""Probes: planted signals are found, absent ones are not, nothing leaks, intervals cover."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypnos_jax.probing.probe import (
    Examples,
    Predictions,
    agreement,
    confusion,
    cross_predict,
    few_of_each,
    fit_predict,
    in_blocks,
    nested_subsets,
    ranking,
    score,
    split_subjects,
)

metrics = pytest.importorskip("sklearn.metrics")


def make_examples(subjects=12, epochs=80, classes=3, signal=2.0, seed=0, splits=None, own=0.0):
    """Gaussian clusters; ``own`` shifts each subject's features by its own direction."""
    rng = np.random.default_rng(seed)
    centres = signal * rng.standard_normal((classes, 6))
    names = [f"s{i}" for i in range(subjects)]
    labels = [rng.integers(-1, classes, epochs) for _ in names]
    features = [
        centres[y] + rng.standard_normal((epochs, 6)) + own * rng.standard_normal((1, 6))
        for y in labels
    ]
    splits = splits or ["train"] * subjects
    return Examples(
        [f"r{i}" for i in range(subjects)],
        names,
        splits,
        labels,
        {"planted": features},
        tuple("abcdef"[:classes]),
    )


def kappa(examples, name="planted", **options):
    pairs, _ = split_subjects(examples)
    found = cross_predict(examples, name, pairs, strength=1.0, **options)
    return score(found, len(examples.classes), ranked=False, draws=200)


def test_a_planted_signal_is_found():
    found = kappa(make_examples())
    assert found["metrics"]["kappa"]["value"] > 0.8
    assert found["metrics"]["kappa"]["low"] < found["metrics"]["kappa"]["value"]
    assert len(found["per_recording"]) == 12
    assert np.sum(found["confusion"]) == sum(row["examples"] for row in found["per_recording"])


def test_without_a_signal_kappa_is_about_zero():
    found = kappa(make_examples(signal=0.0, epochs=200))["metrics"]["kappa"]
    assert abs(found["value"]) < 0.06
    assert found["low"] < 0.02
    assert found["high"] > -0.02


def test_what_only_marks_the_subject_is_no_signal():
    """Labels that are constant per subject and random features that mark it: leaks would show."""
    rng = np.random.default_rng(0)
    labels = [np.full(50, i % 2) for i in range(20)]
    features = [
        5 * rng.standard_normal((1, 8)) + 0.1 * rng.standard_normal((50, 8)) for _ in labels
    ]
    names = [f"s{i}" for i in range(20)]
    examples = Examples(names, names, ["train"] * 20, labels, {"planted": features}, ("a", "b"))
    pairs, _ = split_subjects(examples)
    found = cross_predict(examples, "planted", pairs, strength=1.0)
    value = score(found, 2, ranked=True, draws=50)["metrics"]["auroc"]["value"]
    assert 0.1 < value < 0.9


def test_no_features_predict_the_most_frequent_class():
    examples = make_examples()
    found = kappa(examples, "")
    assert found["metrics"]["kappa"]["value"] == pytest.approx(0, abs=0.03)
    assert np.count_nonzero(np.sum(found["confusion"], axis=0)) == 1
    pairs, _ = split_subjects(make_examples(classes=2))
    chance = cross_predict(make_examples(classes=2), "", pairs, strength=1.0)
    assert score(chance, 2, ranked=True, draws=9)["metrics"]["auroc"]["value"] == 0.5


def test_every_subject_is_tested_once_and_never_trained_on():
    pairs, words = split_subjects(make_examples(subjects=13))
    assert "5-fold" in words
    tested = [subject for _, test in pairs for subject in test]
    assert sorted(tested) == sorted(f"s{i}" for i in range(13))
    assert all(not set(train) & set(test) for train, test in pairs)


def test_the_stores_split_is_used_where_it_is_large_enough():
    splits = ["train"] * 8 + ["validation"] * 2 + ["test"] * 10
    pairs, words = split_subjects(make_examples(subjects=20, splits=splits))
    assert "the store's split" in words
    ((train, test),) = pairs
    assert test == sorted(f"s{i}" for i in range(10, 20))
    assert len(train) == 10
    assert split_subjects(make_examples(subjects=1))[0] == []


def test_several_recordings_of_a_subject_stay_together():
    examples = make_examples(subjects=12)
    subjects = [f"p{i // 2}" for i in range(12)]
    examples = Examples(**{**vars(examples), "subjects": subjects})
    for train, test in split_subjects(examples)[0]:
        assert not set(train) & set(test)


@given(
    st.integers(1, 300),
    st.lists(st.floats(0.001, 1), min_size=1, max_size=5, unique=True),
    st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_label_efficiency_subsets_are_nested(count, fractions, seed):
    subjects = [f"s{i}" for i in range(count)]
    subsets = nested_subsets(subjects, fractions, seed)
    ordered = [subsets[f] for f in sorted(fractions)]
    assert all(1 <= len(x) <= count for x in ordered)
    assert all(set(a) <= set(b) for a, b in zip(ordered, ordered[1:]))
    assert nested_subsets(subjects, [1.0], seed)[1.0] != [] and len(ordered) == len(fractions)
    assert len(nested_subsets(subjects, [1.0], seed)[1.0]) == count
    assert (
        nested_subsets(subjects, [0.01], seed)[0.01]
        == nested_subsets(subjects, fractions + [0.01], seed)[0.01]
    )


@given(st.integers(1, 12), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_few_of_each_class_are_nested(shots, seed):
    labels = np.random.default_rng(seed).integers(0, 4, 30)
    few, more = few_of_each(labels, shots, seed), few_of_each(labels, shots + 1, seed)
    counts = np.bincount(labels, minlength=4)
    np.testing.assert_array_equal(np.bincount(labels[few], minlength=4), np.minimum(counts, shots))
    assert set(few) <= set(more)


def test_fewer_labels_are_worse():
    examples = make_examples(subjects=30, epochs=20, signal=0.7, own=1.0)
    values = [
        np.mean(
            [kappa(examples, fraction=f, seed=s)["metrics"]["kappa"]["value"] for s in range(3)]
        )
        for f in (0.01, 1.0)
    ]
    assert values[0] < values[1] - 0.05


def test_missing_and_empty_features_are_imputed():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 200)
    x = np.stack([y + 0.1 * rng.standard_normal(200), np.full(200, np.nan)], axis=1)
    x[::7, 0] = np.nan
    p = fit_predict(x[:100], y[:100], x[100:], 3, strength=1.0)
    assert np.isfinite(p).all()
    np.testing.assert_allclose(p.sum(1), 1)
    assert (p[:, 2] == 0).all()
    there = np.isfinite(x[100:, 0])
    assert (p[there, :2].argmax(1) == y[100:][there]).mean() > 0.95


def test_agreement_is_sklearns():
    rng = np.random.default_rng(1)
    for _ in range(5):
        truth, guess = rng.integers(0, 4, 50), rng.integers(0, 5, 50)
        found = agreement(confusion(truth, guess, 5)[None])
        assert found["kappa"][0] == pytest.approx(metrics.cohen_kappa_score(truth, guess))
        assert found["macro_f1"][0] == pytest.approx(
            metrics.f1_score(truth, guess, average="macro")
        )
        recalls = metrics.recall_score(truth, guess, average=None, labels=np.unique(truth))
        assert found["balanced_accuracy"][0] == pytest.approx(recalls.mean())


def test_ranking_is_sklearns_with_ties_and_weights():
    rng = np.random.default_rng(2)
    labels, scores = rng.integers(0, 2, 80), rng.integers(0, 9, 80) / 9
    weights = rng.integers(0, 4, (3, 80))
    found = ranking(labels, scores, weights)
    for row, w in enumerate(weights):
        use = w > 0
        args = (labels[use], scores[use])
        assert found["auroc"][row] == pytest.approx(
            metrics.roc_auc_score(*args, sample_weight=w[use])
        )
        expected = metrics.average_precision_score(*args, sample_weight=w[use])
        assert found["auprc"][row] == pytest.approx(expected)
    assert np.isnan(ranking(np.ones(3, int), scores[:3], np.ones((1, 3)))["auroc"]).all()


def test_intervals_cover_the_truth():
    """Over repeated cohorts, the interval of a classifier's accuracy holds its expectation."""
    rng = np.random.default_rng(0)
    covered = 0
    for cohort in range(60):
        labels, probabilities = [], []
        for _ in range(25):
            skill = np.clip(0.7 + 0.15 * rng.standard_normal(), 0, 1)
            truth = rng.integers(0, 2, 60)
            right = rng.random(60) < skill
            guess = np.where(right, truth, 1 - truth)
            labels.append(truth)
            probabilities.append(np.eye(2)[guess])
        names = [f"s{i}" for i in range(25)]
        found = score(
            Predictions(names, names, labels, probabilities),
            2,
            ranked=False,
            draws=300,
            seed=cohort,
        )
        own = found["metrics"]["accuracy"]
        covered += own["low"] <= 0.7 <= own["high"]
    assert covered >= 48  # 80 % at the least; nominal 95 %


def test_few_subjects_have_no_interval():
    found = kappa(make_examples(subjects=4))["metrics"]["kappa"]
    assert found["low"] is None
    assert found["value"] > 0.5


def test_one_night_is_cut_into_parts_with_gaps():
    one = make_examples(subjects=2, epochs=100)
    one.labels[1][:] = 0
    parts = in_blocks(one, count=5, gap=3)
    assert len(parts.subjects) == len(set(parts.subjects)) == 5
    assert np.array_equal(np.concatenate(parts.features["planted"]), one.features["planted"][0])
    for k, labels in enumerate(parts.labels):
        assert (labels[-3:] == -1).all() or k == 4
        assert np.array_equal(labels[:17], one.labels[0][20 * k : 20 * k + 17])
    found = kappa(parts)["metrics"]["kappa"]
    assert found["value"] > 0.5
