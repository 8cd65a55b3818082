"""Measures of tasks: scikit-learn's agree with our own of the probes, the rest with hand values."""

import math

import numpy as np
import pytest
from sklearn import metrics

from hypnos_jax.probing import probe, task_metrics
from hypnos_jax.probing.task_metrics import BreathingNight


def test_classes_agree_with_scikit_learn_and_with_the_probes():
    rng = np.random.default_rng(0)
    target = rng.integers(0, 5, 400)
    predicted = np.where(rng.random(400) < 0.6, target, rng.integers(0, 5, 400))
    found = task_metrics.of_classes(target, predicted, ("W", "N1", "N2", "N3", "R"))
    assert found["kappa"] == pytest.approx(metrics.cohen_kappa_score(target, predicted))
    for name in ("macro", "weighted"):
        expected = metrics.f1_score(target, predicted, average=name)
        assert found[f"{name}_f1"] == pytest.approx(expected)
    assert found["f1_N3"] == pytest.approx(metrics.f1_score(target == 3, predicted == 3))
    recall = metrics.recall_score(target, predicted, average="macro")
    assert found["macro_sensitivity"] == pytest.approx(recall)
    specificity = [metrics.recall_score(target != k, predicted != k) for k in range(5)]
    assert found["macro_specificity"] == pytest.approx(np.mean(specificity))
    ours = probe.agreement(probe.confusion(target, predicted, 5))
    for name in ("accuracy", "kappa", "macro_f1"):
        assert found[name] == pytest.approx(ours[name])


def test_classes_that_do_not_occur_do_not_enter_means():
    found = task_metrics.of_classes(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0]), "abc")
    assert found["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert math.isnan(found["f1_c"])
    alone = task_metrics.of_classes(np.zeros(3, int), np.zeros(3, int), "ab")
    assert alone["accuracy"] == 1
    assert math.isnan(alone["kappa"])


def test_probabilities_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    target = rng.integers(0, 2, 300).astype(float)
    probability = np.clip(0.3 * target + 0.7 * rng.random(300), 0, 1)
    found = task_metrics.of_binary(target, probability)
    assert found["auroc"] == pytest.approx(metrics.roc_auc_score(target, probability))
    assert found["auprc"] == pytest.approx(metrics.average_precision_score(target, probability))
    assert found["brier"] == pytest.approx(metrics.brier_score_loss(target, probability))
    assert math.isnan(task_metrics.of_binary(np.ones(3), np.ones(3))["auroc"])


def test_answers_at_one_half_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    target = (rng.random(300) < 0.1).astype(float)
    probability = np.clip(0.4 * target + 0.6 * rng.random(300), 0, 1)
    said = probability > 0.5
    found = task_metrics.of_binary(target, probability)
    assert found["kappa"] == pytest.approx(metrics.cohen_kappa_score(target, said))
    assert found["f1"] == pytest.approx(metrics.f1_score(target, said))
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(target, said, average="macro"))
    assert found["sensitivity"] == pytest.approx(metrics.recall_score(target, said))
    assert found["specificity"] == pytest.approx(metrics.recall_score(1 - target, ~said))


def test_who_always_says_the_more_frequent_is_found_out():
    target = np.array([1.0] + 19 * [0.0])
    found = task_metrics.of_binary(target, np.full(20, 0.01))
    assert found["accuracy"] == found["majority_accuracy"] == 0.95
    assert found["prevalence"] == found["positives"] == 0.05
    assert found["kappa"] == found["sensitivity"] == found["f1"] == 0
    assert found["specificity"] == 1
    assert found["auroc"] == 0.5
    stages = task_metrics.of_classes(np.array([0, 0, 2, 1, 2, 2]), np.full(6, 2), "abc")
    assert stages["accuracy"] == stages["majority_accuracy"] == 0.5
    assert stages["kappa"] == 0


def test_calibration_by_hand():
    # bin 0.1-0.2: two of 0.15, one true: gap 0.35; bin 0.9-1: 1.0 and 0.9, both true: gap 0.05
    target, probability = np.array([1.0, 0, 1, 1]), np.array([0.15, 0.15, 1.0, 0.9])
    assert task_metrics.calibration_error(target, probability) == pytest.approx(0.5 * 0.40)


def test_concordance_by_hand():
    time, event = np.array([1.0, 2, 3, 4]), np.array([True, False, True, True])
    # known pairs: 0 before 1, 2, 3 and 2 before 3
    assert task_metrics.c_index(np.array([4.0, 9, 2, 1]), time, event) == pytest.approx(3 / 4)
    assert task_metrics.c_index(np.array([1.0, 1, 1, 1]), time, event) == 0.5
    assert task_metrics.c_index(-time, time, event) == 1.0
    assert math.isnan(task_metrics.c_index(time, time, np.zeros(4, bool)))


def test_intraclass_correlation_by_hand():
    # Shrout and Fleiss' table of six subjects, judges 1 and 4; by ANOVA of two raters
    x, y = np.array([9.0, 6, 8, 7, 10, 6]), np.array([8.0, 2, 8, 6, 9, 7])
    mean_rows, mean_columns = (x + y) / 2, np.array([x.mean(), y.mean()])
    grand = mean_rows.mean()
    between = 2 * ((mean_rows - grand) ** 2).sum() / 5
    raters = 6 * ((mean_columns - grand) ** 2).sum()
    total = ((x - grand) ** 2).sum() + ((y - grand) ** 2).sum()
    error = (total - 5 * between - raters) / 5
    expected = (between - error) / (between + error + 2 * (raters - error) / 6)
    assert task_metrics.icc(x, y) == pytest.approx(expected)
    assert task_metrics.icc(x, x) == pytest.approx(1)
    assert task_metrics.icc(x, x + 5) < 0.5  # agreement, not consistency


def seconds(length, *spans):
    out = np.zeros(length, bool)
    for low, high in spans:
        out[low:high] = True
    return out


def test_events_are_joined_kept_in_sleep_and_long_enough():
    positive = seconds(200, (10, 16), (19, 24), (40, 49), (60, 75), (79, 90), (150, 170))
    sleep = seconds(200, (0, 120))
    found = task_metrics.events_of(positive, sleep)
    # 3 s apart joined; 9 s dropped; 4 s apart not joined; the last one awake
    np.testing.assert_array_equal(found, [[10, 24], [60, 75], [79, 90]])
    assert not len(task_metrics.events_of(seconds(20), sleep[:20]))
    assert task_metrics.night_ahi(positive, sleep) == pytest.approx(5 * 3600 / 120)


def test_an_event_is_found_by_more_than_half_of_the_union():
    true = np.array([[0, 20], [50, 70]])
    assert task_metrics.matched(true, np.array([[0, 11], [60, 80]])) == 1
    assert task_metrics.matched(true, np.array([[0, 10]])) == 0  # half is not more
    assert task_metrics.matched(true, np.zeros((0, 2), int)) == 0


def breathing(seed, events, hours=3, noise=0.05):
    """A night with events of 20 s whose probability is 0.6 but for noise."""
    rng = np.random.default_rng(seed)
    truth = np.zeros(hours * 3600, bool)
    for start in np.linspace(100, hours * 3600 - 200, events).astype(int):
        truth[start : start + 20] = True
    probability = np.where(truth, 0.6, 0.2) + rng.normal(0, noise, len(truth))
    yes = np.ones(len(truth), bool)
    return BreathingNight(np.clip(probability, 0, 1), truth, yes, yes)


def test_a_planted_index_is_read_off_at_the_threshold_chosen_on_validation():
    threshold = task_metrics.choose_threshold([breathing(9, 20), breathing(8, 60)])
    assert 0.3 < threshold < 0.5
    nights = [breathing(seed, count) for seed, count in enumerate((3, 20, 50, 120))]
    found = task_metrics.of_breathing(nights, threshold)
    assert found["event_f1"] == pytest.approx(1, abs=0.02)
    assert found["ahi_mae"] < 0.5
    assert found["ahi_icc"] > 0.99
    assert found["severity_accuracy"] == 1
    assert found["ahi_nights"] == 4
    assert task_metrics.of_breathing(nights, 0.99)["event_recall"] == 0
    short = task_metrics.of_breathing([breathing(0, 5, hours=1)], threshold)
    assert short["ahi_nights"] == 0
    assert math.isnan(short["ahi_pearson"])
    assert task_metrics.choose_threshold([breathing(0, 0, noise=0.0)]) == 0.5
