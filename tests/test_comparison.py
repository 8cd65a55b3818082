"""The comparison's arithmetic on planted counts, and its features from a tiny store."""

import numpy as np
import pytest

from data_pipelines.store import NightStore
from data_pipelines.synthetic.shortcuts import write_shortcut_cohort
from hypnos_jax import comparison


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Nights of three sites, C held out."""
    folder = tmp_path_factory.mktemp("nights")
    names = ("eeg", "ecg", "ibi")
    write_shortcut_cohort(folder, 24, 0, hours=0.1, names=names, progress=False)
    return NightStore(folder)


def planted(store, quality, seed=0):
    """Features that tell the stage with noise; of the unseen site they are noise alone."""
    rng = np.random.default_rng(seed)
    out = {}
    for night in store.nights:
        stages = store.stages(night)
        told = quality * np.eye(5)[stages] * (night.metadata["site"] != "C")
        out[night.recording] = told + rng.normal(size=(len(stages), 5))
    return out


def test_a_probe_is_read_on_both_kinds_of_sites(store):
    good = [
        {"counts": comparison.stage_counts(store, planted(store, 9.0, seed), ["C"])}
        for seed in range(2)
    ]
    noise = {"counts": comparison.stage_counts(store, planted(store, 0.0), ["C"])}
    tested = [night for night in store.nights if night.recording in noise["counts"]]
    assert {night.split for night in tested} == {"test"}
    assert sum(night.metadata["site"] == "C" for night in tested) > 5
    found = comparison.judge(store, {"good": good, "noise": [noise]}, ["C"])
    assert found["good"]["seen"]["kappa"] > 0.9
    assert len(found["good"]["seen"]["seeds"]) == 2
    assert abs(found["noise"]["unseen"]["kappa"]) < 0.2
    unseen = found["good"]["unseen"]
    assert unseen["low"] <= unseen["kappa"] <= unseen["high"]
    difference = found["good minus noise"]["seen"]
    assert difference["kappa"] == pytest.approx(
        found["good"]["seen"]["kappa"] - found["noise"]["seen"]["kappa"]
    )
    report = {
        "title": "planted",
        "methods": {
            name: {"count": 1, "staging": found[name], "retrieval": {}}
            for name in ("good", "noise")
        },
        "differences": {"good minus noise": found["good minus noise"]},
        "notes": ["planted"],
    }
    table = comparison.write_table(report)
    assert "| good | 1 |" in table
    assert "kappa of good minus noise: seen +" in table


def test_retrieval_is_averaged_over_seeds():
    one = lambda accuracy: {"retrieval": {"seen": {"accuracy": accuracy, "chance": 0.02}}}
    found = comparison.mean_retrieval([one(0.2), one(0.4), {"counts": {}}])
    assert found["seen"]["accuracy"] == pytest.approx(0.3)
    assert found["seen"]["seeds"] == [0.2, 0.4]
    assert "unseen" not in found


def test_modalities_become_channels_of_hypnos_with_hand_made_features(store, tmp_path):
    comparison.write_channels(store, tmp_path / "channels")
    channels = NightStore(tmp_path / "channels")
    night, own = store.nights[0], channels.nights[0]
    assert set(own.channels) == {"eeg_c3", "ecg"}
    assert (own.recording, own.subject, own.split) == (night.recording, night.subject, night.split)
    np.testing.assert_array_equal(channels.stages(own), store.stages(night))
    np.testing.assert_allclose(
        channels.signal(own, "eeg_c3", 0, 60), store.signal(night, "eeg", 0, 60), atol=1e-2
    )
    found = comparison.hand_features(channels)
    assert found[night.recording].shape[0] == night.duration_s // 30
