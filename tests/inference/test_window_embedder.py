"""Towers embed recordings and stores as their objective encodes windows."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest
from tiny_models import reread_program

from configs.sleep2vec import pretrain
from data_pipelines import pipeline
from data_pipelines.recordings.base import RecordingError
from data_pipelines.sources import modality_pairs
from data_pipelines.store import NightStore
from data_pipelines.synthetic import write_tiny_modalities
from hypnos_jax import config as configs
from hypnos_jax import state
from hypnos_jax.batch import batch_spec
from hypnos_jax.export.model import ModelError, make_model
from hypnos_jax.inference.embed import embed_recording, open_embedder
from hypnos_jax.inference.embed_folder import embed_folder

WINDOW = 10


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("modalities") / "store"
    write_tiny_modalities(folder, seed=3)
    return NightStore(folder)


@pytest.fixture(scope="module")
def model(store):
    config = configs.resolve(pretrain.get_config("smoke"))
    config = configs.change(config, {"data.window_tokens": WINDOW, "data.path": str(store.path)})
    source = modality_pairs.open_source(store, split="train", seed=0, window_tokens=WINDOW)
    config = configs.fill(config, source.describe())
    objective = configs.make_objective(config)
    init = state.init_function(objective, batch_spec(source, 2))
    variables = nn.unbox(state.jit_once(lambda: init(0))())
    return make_model(config, jax.device_get(variables), step=0)


@pytest.fixture(scope="module")
def embedder(model):
    return open_embedder(model)


def test_a_night_is_embedded_window_by_window(store, model, embedder):
    night = store.nights[0]
    found = embedder.embed_night(store, night)
    assert sorted(found.modalities) == sorted(night.channels)
    tokens = night.duration_s // 30
    assert found.epochs.shape == (tokens, 32)
    np.testing.assert_array_equal(found.times_s, 30 * np.arange(tokens))
    name = "eeg"
    i = embedder.names().index(name)
    signal = store.signal(night, name, 0, WINDOW * 30).reshape(1, WINDOW, -1)
    valid = store.valid(night, name, 0, WINDOW * 30).reshape(1, WINDOW, 30).mean(-1) >= 0.5
    given = (signal, np.ones(1, np.float32), valid, i)
    rows = model.objective.apply(model.variables, *given, method="encode")[0] * valid[0, :, None]
    np.testing.assert_allclose(found.modalities[name][:WINDOW], rows, atol=2e-3)


def test_a_recordings_row_is_of_the_epochs_that_hold_signal(store, embedder):
    night = store.nights[0]
    found = embedder.embed_night(store, night)
    seen = found.epochs.astype(np.float32)
    silent = dataclasses.replace(found, epochs=np.concatenate([found.epochs, 0 * found.epochs]))
    np.testing.assert_allclose(silent.table("recording")[0][0], seen.mean(0), rtol=1e-5, atol=1e-6)
    nothing = dataclasses.replace(found, epochs=0 * found.epochs)
    with pytest.raises(ValueError, match="no epoch of 30 s with signal"):
        nothing.table("recording")


def test_a_modality_is_not_told_of_the_others(store, embedder):
    night = store.nights[0]
    whole, part = embedder.embed_night(store, night), embedder.embed_night(store, night, ["ecg"])
    assert list(part.modalities) == ["ecg"]
    np.testing.assert_array_equal(whole.modalities["ecg"], part.modalities["ecg"])
    np.testing.assert_array_equal(part.epochs, part.modalities["ecg"])
    each = np.stack([x.astype(np.float32) for x in whole.modalities.values()])
    np.testing.assert_allclose(whole.epochs, each.mean(0), atol=2e-3)


def test_its_program_gives_what_the_embedder_gives(store, model, embedder):
    pytest.importorskip("flatbuffers")
    night, name = store.nights[0], "ecg"
    ours = embedder.embed_night(store, night, [name])
    tokens = len(ours.times_s)
    assert tokens % WINDOW
    inputs = {"valid": np.zeros((1, tokens, len(embedder.modalities)), bool)}
    for i, row in enumerate(embedder.modalities):
        inputs[f"signal/{row['name']}"] = np.zeros((1, tokens, row["frames"]), np.float32)
        if row["name"] == name:
            signal = store.signal(night, name, 0, tokens * 30)
            inputs[f"signal/{name}"] = signal.reshape(1, tokens, -1).astype(np.float32)
            valid = store.valid(night, name, 0, tokens * 30).reshape(tokens, 30).mean(-1) >= 0.5
            inputs["valid"][0, :, i] = valid
    found = reread_program(model, "embed")(**inputs)
    np.testing.assert_array_equal(found["valid"], inputs["valid"])
    rows = found["rows"][0, :, embedder.names().index(name)] * valid[:, None]
    np.testing.assert_allclose(rows, ours.modalities[name], atol=2e-3)


def test_real_recordings_are_embedded_by_the_same_functions(test_data, model, tmp_path):
    path = test_data / "nox-a1" / "subject1.edf"
    found = embed_recording(model, path, ["eeg", "resp"])
    assert sorted(found.modalities) == ["eeg", "resp"]
    summary = embed_folder(model, path, tmp_path / "out", modalities=["eeg"], progress=False)
    assert summary.added == ["subject1"]
    with np.load(tmp_path / "out" / "subject1.npz") as saved:
        np.testing.assert_array_equal(saved["eeg"], found.modalities["eeg"])
        assert str(saved["model"]) == model.checksum


def test_what_does_not_fit_is_refused_by_name(store, embedder, model, test_data, tmp_path):
    with pytest.raises(ValueError, match="no modality 'eeg_c3'; it has"):
        embedder.names(["eeg_c3"])
    with pytest.raises(RecordingError, match="none of the model's modalities"):
        embedder.embed_signals({}, recording="empty")
    rows = [dict(row, rate_hz=64) if row["name"] == "ecg" else row for row in embedder.modalities]
    objective = {**model.config["objective"]["model"], "modalities": rows}
    config = {"objective": {"name": "dash_infonce", "model": objective}, "data": {}}
    with pytest.raises(ModelError, match="the model reads 'ecg' at 64 Hz"):
        open_embedder(make_model(config, model.variables, 0))
    pipeline.write_synthetic("signal_crops", tmp_path / "channels", 0)
    other = NightStore(tmp_path / "channels")
    with pytest.raises(ModelError, match="holds signals of the recipe hypnos; the model reads"):
        embedder.embed_night(other, other.nights[0])
