"""Scores of whole records: worked areas, nobody in training and test, gains over untrained."""

import numpy as np
import pytest

from hypnos_jax.probing.record_scores import Draws, Records, cross_scores

pytest.importorskip("sklearn")


def some(count=40, a_person=1):
    labels = np.arange(count // a_person) % 4 == 0
    subjects = [f"s{i // a_person}" for i in range(count)]
    labels = np.repeat(labels, a_person).astype(int)
    return Records([f"r{i}" for i in range(count)], subjects, labels)


def test_areas_of_worked_scores():
    records = Records(["a", "b", "c", "d"], ["a", "b", "c", "d"], np.array([0, 0, 1, 1]))
    draws = Draws(records, 50)
    assert draws.row(np.array([1.0, 2.0, 3.0, 4.0]))["value"] == 1
    assert draws.row(np.array([1.0, 3.0, 2.0, 4.0]))["value"] == 0.75
    assert draws.row(np.array([2.0, 2.0, 2.0, 2.0]))["value"] == 0.5


def test_a_gain_is_over_the_mean_of_the_others_and_paired():
    records = some()
    rng = np.random.default_rng(0)
    good = records.labels + 0.3 * rng.standard_normal(40)
    others = [rng.standard_normal(40) for _ in range(3)]
    row = Draws(records, 200).row(good, others)
    assert row["gain"]["value"] == pytest.approx(row["value"] - np.mean(row["untrained"]))
    assert row["gain"]["low"] < row["gain"]["value"] < row["gain"]["high"]
    same = Draws(records, 200).row(good, [good, good])["gain"]
    assert (same["value"], same["low"], same["high"]) == (0, 0, 0)


def test_a_feature_of_the_label_is_found_and_noise_is_not():
    records, rng = some(80), np.random.default_rng(1)
    noise = rng.standard_normal((80, 30))
    told = np.hstack([noise, records.labels[:, None] + 0.2 * rng.standard_normal((80, 1))])
    told[3, 5] = np.nan
    draws = Draws(records, 10)
    assert draws.row(cross_scores(told, records, folds=5, shuffles=2))["value"] > 0.9
    assert draws.row(cross_scores(noise, records, folds=5, shuffles=2))["value"] < 0.75


def test_a_person_is_not_recognised_across_folds():
    """Features that name the person, whose records would otherwise tell on each other."""
    records = some(80, a_person=4)
    names = np.eye(20)[np.repeat(np.arange(20), 4)]
    assert Draws(records, 10).row(cross_scores(names, records, folds=5, shuffles=4))["value"] < 0.6


def test_one_person_of_a_class_is_too_few():
    records = Records(["a", "b", "c"], ["a", "b", "c"], np.array([0, 0, 1]))
    with pytest.raises(ValueError, match="fewer than two people"):
        cross_scores(np.zeros((3, 2)), records, folds=5, shuffles=1)
