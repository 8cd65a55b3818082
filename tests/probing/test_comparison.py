"""The comparison's arithmetic on planted counts, and its features from a tiny store."""

import json

import numpy as np
import pytest
from tiny_models import MODALITIES, random_variables, rq_config, token_batch, write_run

from data_pipelines.builders.night_builder import write_store
from data_pipelines.store import NightStore, TokenNight
from data_pipelines.synthetic.shortcuts import write_shortcut_cohort
from hypnos_jax.export.model import load_model
from hypnos_jax.inference.embed import read_window
from hypnos_jax.probing import comparison, comparison_report
from hypnos_jax.probing.frozen_features import night_features


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
    table = comparison_report.write_table(report)
    assert "| good | 1 |" in table and "contrastive" not in table
    assert "kappa of good minus noise: seen +" in table


@pytest.fixture
def models(tmp_path):
    """Folders of two untrained runs of one network, the second with evaluations of retrieval."""
    config = rq_config(tmp_path / "none", MODALITIES[:1])
    for seed in range(2):
        variables = random_variables(config, token_batch(modalities=MODALITIES[:1]), seed)
        write_run(tmp_path / f"run{seed}", config, variables)
    results = {f"eval/retrieval_seen/{k}": 0.25 for k in ("accuracy", "chance", "windows")}
    evaluation = {"step": 3, "results": {**results, "eval/val/loss": 1.0}}
    (tmp_path / "run1" / "evaluation.json").write_text(json.dumps(evaluation))
    return [tmp_path / f"run{seed}" for seed in range(2)]


def test_models_are_compared_with_their_untrained_networks_and_kept(
    store, models, tmp_path, monkeypatch
):
    calls = []

    def made(quality):
        def features(model, store, seed=0):
            calls.append((quality, seed))
            return planted(store, quality, seed + 7 * len(calls))

        return features

    monkeypatch.setattr(comparison, "night_features", made(9.0))
    monkeypatch.setattr(comparison, "random_features", made(0.0))
    given = {"both": models[:1], "again": models}
    out = tmp_path / "out"
    table = comparison.compare(given, [store], out, unseen=["C"], title="planted")
    assert calls == [(9.0, 0), (0.0, 0), (9.0, 0), (9.0, 0), (0.0, 1)]
    report = json.loads((out / "comparison.json").read_text())
    assert list(report["methods"]) == ["both", "again", "both, untrained", comparison.HAND]
    assert [found["count"] for found in report["methods"].values()] == [1, 2, 2, 1]
    assert report["methods"]["again"]["staging"]["seen"]["kappa"] > 0.9
    assert abs(report["methods"]["both, untrained"]["staging"]["seen"]["kappa"]) < 0.3
    assert report["methods"]["again"]["retrieval"]["seen"]["accuracy"] == 0.25
    assert "both minus both, untrained" in report["differences"]
    assert "0.250 = 1.0 x chance, N = 0" in table and "unseen: C" in table
    assert (out / "comparison.md").read_text() == table
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert comparison.compare(given, [store], out, unseen=["C"], title="planted") == table
    assert len(calls) == 5  # nothing was made again
    table = comparison.compare({"both": models[:1]}, [store], out)
    assert "| staging: kappa (95 %) |" in table and "sites" not in table.splitlines()[0]
    assert len(calls) == 7  # with another question all was


def test_a_model_that_reads_none_of_the_stores_is_named(store, models, tmp_path):
    with pytest.raises(ValueError, match=r"m 0 reads none of the stores: .* a store of tokens"):
        comparison.compare({"m": models[:1]}, [store], tmp_path / "out")


def test_retrieval_is_averaged_over_seeds():
    one = lambda accuracy: {"retrieval": {"seen": {"accuracy": accuracy, "chance": 0.02}}}
    found = comparison_report.mean_retrieval([one(0.2), one(0.4), {"counts": {}}])
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


def test_contexts_of_hypnos_are_averaged_by_epoch_side_by_side(tmp_path):
    seconds = 90
    own = [
        {"name": "eeg_c3", "levels": 2, "codes": 16, "channel_id": 0, "group": "eeg"},
        {"name": "ecg", "levels": 2, "codes": 16, "channel_id": 5, "group": "ecg"},
    ]

    def night(index):
        codes = np.random.default_rng(index).integers(0, 16, (seconds, 4)).astype(np.uint16)
        there = np.array([True, True])
        valid, tracks = np.ones((seconds, 2), bool), np.zeros((seconds, 2, 2), np.float32)
        stages = np.zeros(3, np.int8)
        return TokenNight(f"n{index}", f"s{index}", "train", codes, there, valid, tracks, stages)

    rows = [
        {**{k: v for k, v in m.items() if k != "group"}, "signal_type": m["group"]} for m in own
    ]
    items = {f"n{i}": i for i in range(2)}
    write_store(
        tmp_path / "tokens",
        kind="tokens",
        items=items,
        make_night=night,
        modalities=rows,
        progress=False,
    )
    config = rq_config(tmp_path / "tokens", own)
    write_run(tmp_path / "run", config, random_variables(config, token_batch(modalities=own)))
    model, store = load_model(tmp_path / "run"), NightStore(tmp_path / "tokens")
    found = night_features(model, store)
    assert {name: x.shape for name, x in found.items()} == {"n0": (3, 32), "n1": (3, 32)}
    window = read_window(store, store.nights[1], own, 0, seconds)
    whole = {name: np.asarray(x)[None] for name, x in window.items()}
    rows = model.objective.apply(model.variables, whole, method="embed").rows
    expected = np.asarray(rows)[0].reshape(3, 30, 32).mean(1)
    np.testing.assert_allclose(found["n1"], expected, atol=1e-4)
