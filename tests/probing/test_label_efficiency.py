"""Draws of labelled people, paired differences and their intervals, on planted rows."""

import numpy as np
import pytest

from hypnos_jax.probing import label_efficiency as labels
from hypnos_jax.probing import label_efficiency_report, probe
from hypnos_jax.probing.context_features import principal_components, with_context, with_night

SPLITS = ["train"] * 6 + ["validation"] * 3 + ["test"] * 6


@pytest.fixture(scope="module")
def examples():
    rng = np.random.default_rng(0)
    people = [f"p{i:02d}" for i in range(len(SPLITS))]
    truth = [rng.integers(-1, 3, 150) for _ in people]
    # Person 0 lacks a class.
    truth[0][truth[0] == 2] = 1
    return probe.Examples([f"{p}-1" for p in people], people, SPLITS, truth, {}, ("a", "b", "c"))


def planted(examples, quality, seed=0):
    rng = np.random.default_rng(seed)
    return {
        name: quality * np.eye(3)[np.maximum(y, 0)] + rng.normal(size=(len(y), 3))
        for name, y in zip(examples.recordings, examples.labels)
    }


def test_methods_get_the_same_draws_and_their_differences_are_paired(examples, tmp_path):
    question = labels.Question(examples)
    draws, passed = labels.draw_people(question, [1, 3, 0], 4)
    assert [draw.size for draw in draws] == [1] * 4 + [3] * 4 + [0]
    assert passed[1] >= 1 and ("p00",) not in {draw.people for draw in draws}
    assert len({draw.people for draw in draws}) == 9
    assert {who for draw in draws for who in draw.people} <= set(question.people("train"))
    good = [labels.probe_frozen(question, planted(examples, 3.0, s), draws) for s in (0, 1)]
    poor = [labels.probe_frozen(question, planted(examples, 0.5, 2), draws)]
    report = labels.summarise(question, {"good": good, "poor": poor}, draws, [("good", "poor")])
    assert report["sizes"] == [1, 3, 6] and report["people"]["test"] == 6
    found = report["methods"]["good"]
    assert found["seeds"] == 2 and found["sizes"]["6"]["kappa"]["value"] > 0.8
    assert found["chosen"]["1"][0]["strength"] in labels.STRENGTHS
    first = report["differences"][0]
    assert (first["size"], first["metric"], first["positive"], first["draws"]) == (1, "kappa", 4, 4)
    each = [report["methods"][n]["sizes"]["1"]["kappa"]["by_draw"] for n in ("good", "poor")]
    assert first["value"] == pytest.approx(np.mean(np.subtract(*each)))
    assert first["low"] < first["value"] < first["high"]
    report |= {"title": "planted", "notes": ["a note"]}
    table = label_efficiency_report.write_table(report)
    assert "| good − poor | +0." in table and "4/4" in table and "- a note" in table
    label_efficiency_report.draw(report, tmp_path / "labels.png")
    assert (tmp_path / "labels.png").read_bytes().startswith(b"\x89PNG")


def test_the_penalty_is_chosen_without_the_test_people(examples):
    question = labels.Question(examples)
    draws, _ = labels.draw_people(question, [1], 2)
    rows = planted(examples, 1.0)
    changed = {
        name: x if who in question.people("train") + question.people("validation") else -x
        for name, who, x in zip(examples.recordings, examples.subjects, rows.values())
    }
    before, after = (labels.probe_frozen(question, x, draws) for x in (rows, changed))
    assert before.chosen == after.chosen
    assert any((before.given[key] != after.given[key]).any() for key in before.given)


def test_a_question_of_yes_and_no_is_ranked():
    rng = np.random.default_rng(1)
    people = [f"p{i:02d}" for i in range(len(SPLITS))]
    truth = [rng.integers(0, 2, 120) for _ in people]
    examples = probe.Examples(people, people, SPLITS, truth, {}, ("none", "event"))
    question = labels.Question(examples, ranked=True)
    rows = {who: y[:, None] + rng.normal(size=(len(y), 2)) for who, y in zip(people, truth)}
    draws, _ = labels.draw_people(question, [2], 3)
    answers = labels.probe_frozen(question, rows, draws)
    report = labels.summarise(question, {"rows": [answers]}, draws, [], resampled=50)
    found = report["methods"]["rows"]["sizes"]["2"]
    assert 0.7 < found["auroc"]["value"] < 0.95 and 0.3 < found["kappa"]["value"] < 0.8
    _, told, owner = question.held("test")
    given = np.round(answers.given[2, draws[0].seed], 1)  # with ties
    weights = np.array([[1] * 6, [2, 0, 1, 1, 0, 3], [1, 0, 0, 0, 0, 0]])
    own = probe.ranking(told, given, weights[:, owner])["auroc"]
    np.testing.assert_allclose(question.score(given, "test", weights)["auroc"], own)
    by_draw = probe.ranking(told, answers.given[2, draws[0].seed], np.ones((1, len(told))))
    assert found["auroc"]["by_draw"][0] == pytest.approx(by_draw["auroc"][0])
    assert found["auroc"]["low"] < found["auroc"]["value"] < found["auroc"]["high"]


def test_an_answer_may_stand_for_several_epochs():
    examples = probe.Examples(["r"], ["p"], ["test"], [np.array([0, 1, 1])], {}, ("a", "b"))
    question = labels.Question(examples, ranked=True, epochs=2)
    rows = np.array([[1, 2], [3, np.nan], [np.nan, 0], [np.nan, 4], [5, 5], [5, 7], [9, 9]])
    found = question.pooled(rows)  # the last epoch is no minute
    np.testing.assert_array_equal(found, [[2, 2], [np.nan, 2], [5, 6]])
    assert labels.Question(examples).pooled(rows) is rows


def test_too_few_draws_with_every_class_are_refused(examples):
    question = labels.Question(examples)
    with pytest.raises(ValueError, match="draws of 1 of 6 people"):
        labels.draw_people(question, [1], 6)
    alone = labels.Question(
        probe.Examples(["r"], ["p"], ["train"], [np.zeros(3, int)], {}, ("a", "b"))
    )
    with pytest.raises(ValueError, match="no person of the split 'validation'"):
        labels.draw_people(alone, [1], 1)


def test_context_knows_the_epochs_around_and_the_time():
    rows = np.arange(40, dtype=np.float32)[:, None].repeat(2, 1)
    rows[5, 0] = np.nan
    found = with_context(rows)
    assert found.shape == (40, 7 * 2 + 3)
    assert found[10, 2:10].tolist() == [8, 8, 9, 9, 11, 11, 12, 12]
    assert found[0, 2:6].tolist() == [0, 0, 0, 0]
    assert found[20, 10] == pytest.approx(20, abs=1e-4)  # triangular, what is known around it
    assert np.isfinite(found[5, 10]) and np.isnan(found[5, 0])
    assert found[39, -2:].tolist() == [1, 1]


def test_a_row_may_know_its_whole_night():
    rows = np.array([[1, 2], [3, np.nan], [np.nan, np.nan]])
    found = with_night(rows)
    np.testing.assert_array_equal(found[:, :2], rows.astype(np.float32))
    np.testing.assert_array_equal(found[:, 2:], [[2, 2, 1, 0]] * 3)
    assert np.isnan(with_night(np.full((2, 1), np.nan))).all()


def test_few_components_keep_what_many_rows_share():
    rng = np.random.default_rng(0)
    shared = {name: rng.normal(size=(200, 1)) for name in "abc"}
    rows = {
        name: 100 * np.arange(1, 7) * (x + 0.05 * rng.normal(size=(200, 6)))
        for name, x in shared.items()
    }
    rows["a"][3, 2] = np.nan
    rows["c"] += 1e6
    found = principal_components(rows, ["a", "b"], 2)
    assert found["b"].shape == (200, 2) and np.isnan(found["a"][3]).all()
    assert abs(np.corrcoef(found["b"][:, 0], shared["b"][:, 0])[0, 1]) > 0.99
    assert np.abs(found["b"].mean(0)).max() < 0.5  # c, which gives no components, is far away
    assert principal_components(rows, ["a", "b"])["a"].shape == (200, 6)
