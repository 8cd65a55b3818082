"""The measures of a task under each condition, with a model whose answers are known."""

import dataclasses
import json
import math
import types

import numpy as np
import pytest

from hypnos_jax.evaluators.downstream import Condition, Downstream, keep
from hypnos_jax.probing.answers import MEASURES, Answer, each_once
from hypnos_jax.tasks import TASKS

NAMES = ("ibi", "eeg", "ecg")
TOKENS = 10


class FakeContext:
    """Six nights of three windows each; the model's answers are made of what it may see.

    With the EEG it is right; of what the others tell, so is it with a share of the tokens.
    """

    def __init__(self, workdir, task="stage5", labels=(), night_s=TOKENS * 30):
        self.workdir, self.task, self.trained = workdir, task, {"data": {}}
        self.given = {"task": task, "labels": labels}
        night = lambda site, split: types.SimpleNamespace(metadata={"site": site}, split=split)
        self.store = types.SimpleNamespace(select=lambda split: [night("a", split)])

    def attribute(self, name, default=None):
        return self.given.get(name, default)

    def source(self, split):
        return self

    def describe(self):
        return {"modalities": [{"name": name} for name in NAMES], "sites": ["a", "b"]}

    def heartbeat(self):
        pass

    def fetch(self, arrays):
        return arrays

    def batches(self, split, rows, limit):
        rng = np.random.default_rng(len(split))
        for night in range(6):
            stage = rng.integers(0, 5, (4, TOKENS)).astype(np.int32)
            stage[2, 5:] = -1
            apnea = np.zeros((4, TOKENS, 30), np.int32)
            apnea[:, 3 : 4 + night, 4:24] = 1
            yield {
                "valid": np.ones((4, TOKENS, 3), bool),
                "stage": stage,
                "apnea": apnea,
                "age": np.full(4, 30 + 5 * night, np.int32),
                "outcomes": np.tile([[night % 2, 1.0 * (night > 3)]], (4, 1)),
                "survival": np.tile([[[1.0 + night, 1.0]]], (4, 1, 1)),
                "night": np.full(4, night),
                "start": TOKENS * np.array([0, 1, 2, 0]),
                "subject": np.full(4, night // 2),
                "site": np.full(4, int(night > 3)),
                "weight": np.array([1.0, 1, 1, 0]),  # the last is padding
            }

    def functions(self, name):
        assert name == "predict"

        def predict(variables, batch, kept):
            task = TASKS[self.task]
            target, counted = (np.array(x) for x in task.target(batch))
            seen = kept[..., 1]  # of the EEG
            if task.by_night:
                share = seen.mean(1)[:, None]
                counted = np.broadcast_to(batch["weight"][:, None] > 0, counted.shape)
                if task.kind == "regression":
                    output = target + 4 * (1 - share)
                elif task.kind == "survival":
                    output = -target[..., 0] * share
                else:
                    output = (2 * target - 1) * share
            elif task.kind == "classes":
                said = np.where(seen, target, (target + 1) % 5)
                output = 5 * np.eye(5)[said]
            else:
                output = np.where(seen[..., None], 4 * target - 2, -2.0)
            counted = counted & (batch["weight"] > 0).reshape(-1, *[1] * (counted.ndim - 1))
            return {"output": output, "target": target, "counted": counted}

        return predict


def evaluate(tmp_path, task="stage5", labels=(), **options):
    found = dict(Downstream(FakeContext(tmp_path, task, labels), **options).run({}, 5))
    split = options.get("split", "test")
    return found, json.loads((tmp_path / f"downstream_{split}.json").read_text())


def test_conditions_show_which_sensor_matters(tmp_path):
    found, report = evaluate(
        tmp_path, subsets=("single", "leave_one_out", 2), holes=(0.3,), draws=20
    )
    assert found["accuracy"] == found["kappa"] == found["f1_N1"] == 1
    assert found["only/eeg/accuracy"] == found["without/ibi/accuracy"] == 1
    assert found["only/ecg/accuracy"] == found["without/eeg/accuracy"] == 0
    assert found["size/2/accuracy"] == pytest.approx(2 / 3)
    assert found["size/2/worst/accuracy"] == 0
    assert found["hole/ibi/0.3/accuracy"] == 1
    assert 0.6 < found["hole/eeg/0.3/accuracy"] < 0.8
    assert report["conditions"]["all"]["labels"] == 6 * 25  # unknown stages and padding left out
    assert report["conditions"]["all"]["nights"] == 6
    assert report["interval"] == {"metric": "accuracy", "low": None, "high": None}  # 3 subjects
    assert {"macro_f1", "kappa", "majority_accuracy"} <= set(report["intervals"])
    assert 0.2 <= found["majority_accuracy"] < 0.5
    assert np.trace(report["shown"]["confusion"]) == 150
    assert (tmp_path / "figures" / "5_downstream_test.png").stat().st_size > 5000


def test_sites_that_training_has_not_seen_are_told_apart(tmp_path):
    found, report = evaluate(tmp_path, split="validation")
    assert found["site/b/accuracy"] == 1
    assert report["sites"]["a"]["seen"]
    assert not report["sites"]["b"]["seen"]
    assert report["sites"]["a"]["nights"] == 4


def test_a_night_is_answered_once(tmp_path):
    found, report = evaluate(tmp_path, "age", subsets=("single",))
    assert found["mae"] == 0
    assert report["conditions"]["all"]["labels"] == 18
    assert len(report["shown"]["points"]) == 6
    assert found["only/ibi/mae"] == pytest.approx(4)
    assert found["pearson"] == pytest.approx(1)


def test_columns_of_outcomes_are_measured_each_and_on_the_mean(tmp_path):
    found, report = evaluate(tmp_path, "multilabel", ("apnea", "stroke"))
    assert found["auroc_apnea"] == found["auroc_stroke"] == found["auroc"] == 1
    assert found["positives_stroke"] == pytest.approx(1 / 3)
    assert set(report["shown"]["roc"]) == {"apnea", "stroke"}


def test_survival_is_ranked(tmp_path):
    found, _ = evaluate(tmp_path, "survival", ("death",), subsets=("single",))
    assert found["c_index"] == found["c_index_death"] == 1
    assert found["only/ibi/c_index"] == 0.5


def test_breathing_is_judged_at_a_threshold_of_the_validation_nights(tmp_path):
    found, report = evaluate(tmp_path, "ahi", least_tst_h=0.01, subsets=("single",))
    assert 0.12 < report["threshold"] < 0.88
    assert found["event_f1"] == 1
    assert found["ahi_mae"] == 0
    assert found["ahi_nights"] == 6
    assert "only/ibi/ahi_pearson" not in found  # nothing is said there: not a number
    assert report["conditions"]["only/ibi"]["metrics"]["ahi_pearson"] is None
    assert len(report["shown"]["points"]) == 6
    few, _ = evaluate(tmp_path, "ahi")
    assert few["ahi_nights"] == 0
    assert "ahi_mae" not in few


def test_arousals_are_measured_by_kind():
    target = np.zeros((2, 30, 4), np.float32)
    target[0, 3:9, 2] = 1
    flat = target.reshape(2, -1)
    row = Answer(0, 0, 0, 0, 8 * flat - 4, flat, np.ones((2, 120), bool))
    found = MEASURES[TASKS["arousal"].measure](TASKS["arousal"]).metrics([row])
    assert found["auprc_limb"] == found["auprc"] == 1
    assert math.isnan(found["auprc_plm"])


def test_tokens_of_windows_that_overlap_count_once():
    truth = np.arange(12) % 5
    window = lambda start, said: Answer(
        3, start, 0, 0, np.eye(5)[said], truth[start : start + 6], np.ones(6, bool),
        {"stage": truth[start : start + 6]},
    )  # fmt: skip
    right = [window(start, truth[start : start + 6]) for start in (0, 6)]
    wrong = window(3, (truth[3:9] + 1) % 5)  # of which 6, 7 and 8 come first
    rows = each_once([right[1], wrong, right[0], dataclasses.replace(right[0], night=4)])
    assert [(row.night, row.start, len(row.output)) for row in rows] == [
        (3, 0, 6), (3, 6, 3), (3, 9, 3), (4, 0, 6),
    ]  # fmt: skip
    np.testing.assert_array_equal(rows[1].facts["stage"], truth[6:9])
    found = MEASURES["classes"](TASKS["stage5"]).metrics(rows[:3])
    assert found["accuracy"] == pytest.approx(9 / 12)


def test_a_hole_is_contiguous_of_one_sensor_and_always_the_same():
    condition = Condition("hole/eeg/0.3", hole=(1, 0.3))
    kept = keep(condition, (4, 10, 3), np.arange(4), np.zeros(4))
    assert kept[..., [0, 2]].all()
    for row in ~kept[..., 1]:
        assert row.sum() == 3
        assert np.ptp(np.flatnonzero(row)) == 2
    again = keep(condition, (2, 10, 3), np.array([3, 1]), np.zeros(2))
    np.testing.assert_array_equal(again, kept[[3, 1]])


def test_a_condition_that_means_nothing_is_refused(tmp_path):
    for options in ({"subsets": ["pairs"]}, {"holes": [1.5]}, {"subsets": [0]}):
        with pytest.raises(ValueError, match="downstream: subsets="):
            Downstream(FakeContext(tmp_path), **options)
