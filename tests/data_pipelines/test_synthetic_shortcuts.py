"""The cohort with shortcuts: sites show in every modality if planted, sleep shows in any case."""

import numpy as np
import pytest

from data_pipelines import pipeline
from data_pipelines.recipes.sleep2vec import NINE
from data_pipelines.recipes.sleep2vec import ROWS as MODALITIES
from data_pipelines.store import NightStore
from data_pipelines.synthetic.shortcuts import write_shortcut_cohort

NIGHTS = 18


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory):
    """The same people with and without shortcuts."""
    folder = tmp_path_factory.mktemp("shortcuts")
    for name, shortcut in (("planted", 1.0), ("plain", 0.0)):
        write_shortcut_cohort(
            folder / name, NIGHTS, 5, hours=0.4, shortcut=shortcut, progress=False
        )
    return {name: NightStore(folder / name) for name in ("planted", "plain")}


def spectra(store, night, name):
    """Log power of each token in 12 bands."""
    modality, tokens = MODALITIES[name], night.duration_s // 30
    signal = store.signal(night, name, 0, tokens * 30).reshape(tokens, modality.frames)
    power = np.abs(np.fft.rfft(signal, axis=1)) ** 2
    edges = np.unique(np.geomspace(1, power.shape[1], 13).astype(int))
    bands = [power[:, a:b].mean(1) for a, b in zip(edges[:-1], edges[1:])]
    return np.log(np.stack(bands, axis=1) + 1e-6)


def told_apart(features, labels, groups):
    """Balanced accuracy of the nearest centroid, each group by the others' centroids."""
    features = (features - features.mean(0)) / features.std(0)
    hits = []
    for group in sorted(set(groups)):
        own = groups == group
        kinds = sorted(set(labels[~own]))
        centroids = np.stack([features[~own & (labels == kind)].mean(0) for kind in kinds])
        for kind in set(labels[own]):
            rows = features[own & (labels == kind)]
            nearest = ((rows[:, None] - centroids) ** 2).sum(-1).argmin(1)
            hits.append((nearest == kinds.index(kind)).mean())
    return np.mean(hits)


def test_the_cohort_is_split_by_people_and_one_site_is_held_out(cohorts):
    store = cohorts["planted"]
    assert len(store.nights) == NIGHTS
    splits = {night.subject: set() for night in store.nights}
    for night in store.nights:
        splits[night.subject].add(night.split)
        assert night.channels == NINE
        assert (night.metadata["site"] != "C") or night.split == "test"
        assert len(store.stages(night)) == 48
    assert all(len(split) == 1 for split in splits.values())
    assert len(splits) < NIGHTS  # some people have two nights
    for site in "AB":
        assert {n.split for n in store.nights if n.metadata["site"] == site} >= {"train"}
    ages = [night.metadata.get("age") for night in store.nights]
    assert None in ages
    source = pipeline.load("modality_nights", path=store.path, split="train", seed=0)
    assert source.describe()["outcomes"] == ["hypertension"]
    assert source.describe()["survival"] == ["death"]
    assert source.describe()["sites"] == ["A", "B", "C"]


def test_every_modality_shows_the_site_where_it_is_planted_and_only_there(cohorts):
    found = {}  # chance is a half
    for kind, store in cohorts.items():
        nights = [night for night in store.nights if night.metadata["site"] != "C"]
        for name in NINE:
            features = np.stack([spectra(store, night, name).mean(0) for night in nights])
            sites = np.array([night.metadata["site"] for night in nights])
            people = np.array([night.subject for night in nights])
            found[kind, name] = told_apart(features, sites, people)
    assert min(found["planted", name] for name in NINE) > 0.9, found
    # Without, ages and chance leave a little.
    assert np.mean([found["plain", name] for name in NINE]) < 0.8, found


def test_sleep_shows_in_brain_and_body(cohorts):
    store = cohorts["plain"]
    people = np.concatenate([[night.subject] * 48 for night in store.nights])
    stages = np.concatenate([store.stages(night) for night in store.nights])
    for name, least in (("eeg", 0.5), ("eog", 0.45), ("emg", 0.25), ("ibi", 0.25)):
        features = np.concatenate([spectra(store, night, name) for night in store.nights])
        assert told_apart(features, stages, people) > least, name


def test_another_night_more_leaves_the_others_as_they_are(tmp_path, cohorts):
    write_shortcut_cohort(tmp_path / "few", 4, 5, hours=0.4, progress=False)
    few, many = NightStore(tmp_path / "few"), cohorts["planted"]
    by_name = {night.recording: night for night in many.nights}
    for night in few.nights:
        other = by_name[night.recording]
        assert (night.split, night.metadata) == (other.split, other.metadata)
        for name in NINE:
            np.testing.assert_array_equal(
                few.signal(night, name, 0, 1440), many.signal(other, name, 0, 1440)
            )


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ValueError, match="sites=11; must be 1 to 10"):
        write_shortcut_cohort(tmp_path, 20, 0, sites=11)
    with pytest.raises(ValueError, match="nights=2 are too few for 3 sites"):
        write_shortcut_cohort(tmp_path, 2, 0)
