"""The table of families on planted rows: what is read, by whom it is judged, what the page says."""

import json

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from data_pipelines.store import NightStore
from data_pipelines.synthetic import write_tiny_modalities
from hypnos_jax.probing import family_report, family_study, ridge

SHARES = (0.1, 1.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Nights of two sites, whose labels are all known."""
    folder = tmp_path_factory.mktemp("nights") / "nights"
    write_tiny_modalities(folder, nights=40, tokens=40, names=("ibi",))
    return NightStore(folder)


def rows_of(store, told, seed=0, noise=1.0):
    """Rows that hold some labels, and noise beside them."""
    rng, judge = np.random.default_rng(seed), family_study.Judge(store, shares=(1.0,), draws=1)
    out = {}
    for night in store.nights:
        own = [rng.normal(scale=noise, size=(night.duration_s // 30, 6))]
        for task in told:
            labels = judge.labels[task][night.recording]
            own.append(np.resize(np.eye(max(5, labels.max() + 1))[labels], (len(own[0]), 5)))
        out[night.recording] = np.concatenate(own, 1)
    return out


def test_a_closed_form_is_that_of_the_library():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 4)), rng.normal(size=(30, 2))
    for strength, found in zip((0.1, 10.0), ridge.fit(x, y, (0.1, 10.0))):
        theirs = Ridge(alpha=strength * len(x)).fit(x, y)
        np.testing.assert_allclose(ridge.predict(found, x), theirs.predict(x), atol=1e-8)


def test_missing_numbers_are_the_mean_of_their_column():
    rows = np.array([[1.0, 5.0], [3.0, np.nan], [5.0, 7.0]])
    found = ridge.Components(rows, 2)
    np.testing.assert_allclose(found(np.array([[3.0, np.nan]])), found(np.array([[3.0, 6.0]])))


def test_what_rows_hold_is_read_and_nothing_else_is(store):
    judge = family_study.Judge(store, shares=SHARES, draws=2)
    train = {night.subject for night in store.nights if night.split == "train"}
    assert judge.counts == {0.1: int(np.ceil(0.1 * len(train))), 1.0: len(train)}
    scores = judge.score(rows_of(store, ("staging",)))
    assert scores["staging"]["1"]["value"] > 0.95
    assert len(scores["staging"]["0.1"]["by_draw"]) == 2
    assert abs(scores["apnea"]["1"]["value"] - 0.5) < 0.2
    assert scores["age"]["1"]["value"] < 0.3
    site = judge.score(rows_of(store, ("site",)))
    assert site["site"]["1"]["value"] > 0.8
    assert abs(site["staging"]["1"]["value"]) < 0.2


def test_test_people_change_no_fit(store, monkeypatch):
    judge, rows = family_study.Judge(store, shares=(1.0,), draws=1), rows_of(store, ("staging",))
    fits, fit = [], ridge.fit
    monkeypatch.setattr(ridge, "fit", lambda *a: fits.append(fit(*a)) or fits[-1])
    judge.score(rows)
    first = list(fits)
    fits.clear()
    for night in store.nights:
        if night.split == "test":
            rows[night.recording] = rows[night.recording] + 100.0
            for labels in judge.labels.values():
                labels[night.recording] = labels[night.recording][::-1]
    judge.score(rows)
    assert len(fits) == len(first) > 3
    for ours, theirs in zip(fits, first):
        np.testing.assert_array_equal(ours, theirs)


def test_sensors_are_chosen_by_name():
    names = ["eeg_c3", "eog_e1", "eeg", "ibi"]
    assert family_study.chosen(names, "all") == names
    assert family_study.chosen(names, "EEG alone") == ["eeg_c3", "eeg"]
    assert family_study.chosen(names, "no EEG") == ["eog_e1", "ibi"]


def test_the_page_has_curves_differences_and_costs(store, tmp_path):
    judge = family_study.Judge(store, shares=SHARES, draws=2)
    rows = []
    for name, budget, told in (
        ("one", 1e9, ()),
        ("one", 4e9, ("staging",)),
        ("one, untrained", 0.0, ()),
        (family_study.HAND, 0.0, ("staging", "site")),
    ):
        scores = judge.score(rows_of(store, told, seed=len(rows)))
        costs = {"spent": budget, "first_stages": 0.3, "parameters": 1000} if budget else {}
        row = {"name": name, "budget": budget, "seed": 0, **costs}
        rows.append(row | {"scores": dict.fromkeys(family_study.SUBSETS, scores)})
    supervised = {"name": "net", "budget": 4e9, "task": "staging", "share": 1.0, "value": 0.4}
    found = {
        "rows": rows,
        "labelled": [supervised],
        "people": {f"{share:g}": count for share, count in judge.counts.items()},
        "nights": family_study.counts_of(store),
        "most_frequent_site": judge.most_frequent_site,
        "judge_seconds": 1.0,
    }
    report = family_report.summarise(json.loads(json.dumps(found)))
    text = family_report.write(report, tmp_path, "Planted", ["A note of ours."])
    gained = [d for d in report["differences"] if d["task"] == "staging" and d["share"] == "1"]
    assert {d["from"]: d["value"] > 0.8 for d in gained if d["budget"] == 4e9} == {
        "untrained": True,
        family_study.HAND: False,
        "smaller budget": True,
    }
    assert (
        "| one | 4.0e+09 | 1 | " in text and "| one | 4.0e+09 | 4.00e+09 | 30 % | 1,000 |" in text
    )
    assert "| net | 4.0e+09 | staging | 100 % | 0.40 |" in text
    page = (tmp_path / "comparison.html").read_text()
    assert page.count("data:image/png") == 4 and "Planted" in page and "A note of ours." in page
