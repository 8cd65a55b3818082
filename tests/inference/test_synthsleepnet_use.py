"""SynthSleepNet fine-tuned, as it is used: channels, lengths, holes, streams, programs, stores."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.base import clone
from tiny_models import random_variables, reread_program, write_run

from configs.synthsleepnet import finetune
from data_pipelines.recordings.base import RecordingError
from data_pipelines.sources import modality_nights
from data_pipelines.store import ChannelSignal, NightStore
from data_pipelines.synthetic import write_tiny_modalities
from hypnos_jax import config as configs
from hypnos_jax.export.model import ModelError, make_model
from hypnos_jax.inference.embed import open_embedder
from hypnos_jax.inference.estimator import SleepEmbedder

NAMES = ("eeg_c4", "eog_e1")
WINDOW, FRAMES = 20, 3000


def resolved(**changes):
    """The config of fine-tuning on two channels, windows of 20 epochs."""
    rows = [{"name": name, "rate_hz": 100, "frames": FRAMES} for name in NAMES]
    config = configs.resolve(finetune.get_config("test,context,stage5,c4_eog"))
    described = {"modalities": rows}
    return configs.change(configs.fill(config, described), {"data.window_tokens": WINDOW} | changes)


def night(epochs, seed=0):
    """A batch of one window that is a whole night, float32, of slow waves that come and go."""
    rng = np.random.default_rng(seed)
    size = rng.uniform(0.2, 2.0, (1, epochs, 1))
    batch = {
        f"signal/{name}": (size * rng.normal(size=(1, epochs, FRAMES))).astype(np.float32)
        for name in NAMES
    }
    return batch | {
        "valid": np.ones((1, epochs, len(NAMES)), bool),
        "present": np.ones((1, len(NAMES)), bool),
        "scale": np.ones((1, len(NAMES)), np.float32),
        "weight": np.ones(1, np.float32),
        "stage": np.zeros((1, epochs), np.int32),
    }


def signals_of(batch, names=NAMES):
    """The same night as channels of a recording."""
    found = {}
    for name in names:
        samples = batch[f"signal/{name}"].ravel()
        valid = np.repeat(batch["valid"][0, :, NAMES.index(name)], 30)
        found[name] = ChannelSignal(name, 100, samples, valid, np.zeros((len(valid), 2)))
    return found


def model_of(config):
    """A model with random weights."""
    variables = random_variables(config, night(2))
    # Variances are above 0.
    statistics = jax.tree.map(lambda x: np.abs(x) + 0.1, variables["batch_stats"])
    return make_model(config, variables | {"batch_stats": statistics}, 0)


@pytest.fixture(scope="module")
def model():
    return model_of(resolved())


@pytest.fixture(scope="module")
def embedder(model):
    return open_embedder(model)


def fused(embedder, batch, names=NAMES):
    return embedder.embed_signals(signals_of(batch, names)).modalities["fused"]


def test_any_subset_of_the_channels_is_embedded_and_none_is_refused(embedder):
    batch = night(3)
    subsets = [x for n in (1, 2) for x in itertools.combinations(NAMES, n)]
    rows = [fused(embedder, batch, names) for names in subsets]
    assert all(x.shape == rows[0].shape and np.isfinite(x).all() for x in rows)
    for one, other in itertools.combinations(rows, 2):
        assert np.abs(one - other).max() > 1e-2
    with pytest.raises(RecordingError, match="night7: none of the model's modalities"):
        embedder.embed_signals({}, recording="night7")


@pytest.mark.parametrize(
    "epochs", [1, 19, 20, 21, pytest.param(1535, marks=pytest.mark.slow)]
)  # fmt: skip
def test_nights_of_any_length_are_embedded(embedder, epochs):
    found = embedder.embed_signals(signals_of(night(epochs)))
    assert found.modalities["fused"].shape == found.epochs.shape == (epochs, 16)
    assert np.isfinite(found.epochs).all()
    assert found.times_s[-1] == 30 * (epochs - 1)
    # Windows are embedded for themselves, the last as if it were a night of its own.
    start = (epochs - 1) // WINDOW * WINDOW
    last = {k: v[:, start:] if v.ndim == 3 else v for k, v in night(epochs).items()}
    np.testing.assert_allclose(found.epochs[start:], fused(embedder, last), atol=2e-3)


def test_a_night_with_a_hole_goes_on_behind_it(embedder):
    whole, holed = night(12), night(12)
    holed["valid"][:, 4:7] = False
    before, after = fused(embedder, whole), fused(embedder, holed)
    np.testing.assert_allclose(after[:4], before[:4], atol=2e-3)
    assert not after[4:7].any()
    assert np.abs(after[7:]).max() > 0.1
    assert np.abs(after[7:] - before[7:]).max() > 1e-3  # the context was told less


def test_a_stream_is_the_whole_night_in_one_window(model, embedder):
    batch = night(45)
    batch["valid"][:, 9:11] = batch["valid"][:, 20:25, 1] = False
    long = make_model(resolved(**{"data.window_tokens": 45}), model.variables, 0)
    whole = fused(open_embedder(long), batch)
    stream, found = embedder.stream(), []
    for start, stop in ((0, 1), (1, 21), (21, 45)):
        samples = {name: batch[f"signal/{name}"][0, start:stop].ravel() for name in NAMES}
        valid = {n: batch["valid"][0, start:stop, i] for i, n in enumerate(NAMES)}
        found.append(stream.push(samples, valid))
    rows, answers = (np.concatenate([getattr(x, n) for x in found]) for n in ("rows", "answers"))
    np.testing.assert_allclose(rows[:, 0], whole, atol=2e-3, rtol=2e-3)
    assert answers.shape == (45, 5)
    np.testing.assert_allclose(answers.sum(1), 1.0, rtol=1e-5)
    assert np.abs(whole[20:] - fused(embedder, batch)[20:]).max() > 1e-3  # windows begin anew


@pytest.mark.slow
def test_its_program_gives_what_the_embedder_gives(model, embedder):
    pytest.importorskip("flatbuffers")
    batch = night(WINDOW + 3)
    batch["valid"][:, 5:9, 1] = False
    inputs = {name: x for name, x in batch.items() if name.startswith("signal/")}
    found = reread_program(model, "embed")(**inputs, valid=batch["valid"])
    np.testing.assert_allclose(found["rows"][0, :, 0], fused(embedder, batch), atol=2e-3, rtol=2e-3)


def test_one_row_is_a_batch(model, embedder):
    nights = [night(2, seed) for seed in range(3)]
    both = {name: np.concatenate([x[name] for x in nights]) for name in nights[0]}
    apply = jax.jit(lambda b: model.objective.apply(model.variables, b, method="embed").rows)
    for one, rows in zip(nights, apply(both)):
        np.testing.assert_allclose(rows[:, 0], fused(embedder, one), atol=2e-3, rtol=2e-3)


@pytest.mark.slow
def test_it_is_a_transformer_of_scikit_learn(model, tmp_path):
    config = model.config | {"optim": {}, "train": {}, "evals": {}}
    write_run(tmp_path / "run", config, jax.tree.map(jnp.asarray, model.variables))
    rng, rate_hz = np.random.default_rng(0), 128
    voltages = 30 * rng.standard_normal((2, 2, 95 * rate_hz))
    options = {"channels": ["C4-M1", "E1-M2"], "sfreq_hz": rate_hz, "unit": "epoch"}
    fitted = clone(SleepEmbedder(tmp_path / "run", **options)).fit(voltages)
    rows, places, times_s = fitted.rows(voltages)
    assert rows.shape == (6, 16)
    np.testing.assert_array_equal(places, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(times_s[:3], [0, 30, 60])
    assert np.isfinite(rows).all()


def test_stores_of_another_recipe_are_refused_with_the_command(embedder, tmp_path):
    write_tiny_modalities(tmp_path / "store", nights=3, tokens=2, recipe="synthsleepnet_epochwise")
    store = NightStore(tmp_path / "store")
    with pytest.raises(ModelError, match="prepare_nights --recipe=synthsleepnet$"):
        embedder.embed_night(store, store.nights[0])
    with pytest.raises(ValueError, match="prepare_nights .*--recipe=synthsleepnet"):
        modality_nights.open_source(store, split="train", seed=0, recipe="synthsleepnet")


@pytest.mark.slow
def test_whole_nights_in_both_directions_are_a_matter_of_the_config(model):
    both_ways = {"data.window_tokens": 1535, "data.step_tokens": 0}
    both_ways["objective.context.bidirectional"] = True
    config = resolved(**both_ways)
    night_long = model_of(config)
    whole, cut = night(6), night(6)
    cut["signal/eog_e1"][:, 5:] = cut["signal/eeg_c4"][:, 5:] = 0.0
    apply = jax.jit(lambda b: night_long.objective.apply(night_long.variables, b, method="embed"))
    # The last epoch is heard of in the first.
    assert np.abs(apply(whole).rows[0, 0] - apply(cut).rows[0, 0]).max() > 1e-6
    with pytest.raises(ModelError, match="not causal"):
        open_embedder(night_long).stream()
