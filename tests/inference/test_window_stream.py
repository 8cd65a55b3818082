"""A fused model with a context, window by window and token by token."""

import flax.linen as nn
import jax
import numpy as np
import pytest
import toy_models
from tiny_models import reread_program

from data_pipelines.store import ChannelSignal
from hypnos_jax import state
from hypnos_jax.export.model import ModelError, make_model
from hypnos_jax.inference.embed import open_embedder

ROWS = (
    {"name": "ibi", "rate_hz": 4, "frames": 120},
    {"name": "spo2", "rate_hz": 4, "frames": 120},
)
PAST_MEAN = {"name": "past_mean", "width": 6}
MAMBA = {"name": "mamba_context", "d_state": 4, "head_dim": 4}
WINDOW = 20


@pytest.fixture(autouse=True)
def known_toys(monkeypatch):
    toy_models.know(monkeypatch)


def model_of(context=PAST_MEAN, head="mlp", task="stage5"):
    """A fine-tuned model with random weights, read by 20 tokens at a time."""
    backbone = {"name": "pieces", "modalities": [dict(row) for row in ROWS]}
    objective = {"name": "finetune", "backbone": backbone, "context": context}
    config = {
        "objective": {**objective, "task": task, "head": head},
        "data": {"name": "modality_nights", "window_tokens": WINDOW},
    }
    model = make_model(config, {"params": {}}, 0)
    shapes = jax.eval_shape(lambda: nn.unbox(state.init_function(model.objective, night(2))(0)))
    rng = np.random.default_rng(0)
    # Variances are above 0; all else is anything.
    draw = lambda path, x: np.abs(rng.normal(0.5, 0.3, x.shape)).astype(np.float32) + 0.1
    return make_model(config, jax.tree.map_with_path(draw, shapes), 0)


def night(tokens, seed=0):
    """A batch of one window that is a whole night, float32; the second modality has a hole."""
    rng = np.random.default_rng(seed)
    batch = {
        f"signal/{row['name']}": rng.normal(size=(1, tokens, 120)).astype(np.float32)
        for row in ROWS
    }
    valid = np.ones((1, tokens, 2), bool)
    valid[:, 3:5, 1] = valid[:, 4:6, 0] = False  # nothing at all in token 4
    return batch | {
        "valid": valid,
        "present": np.ones((1, 2), bool),
        "scale": np.ones((1, 2), np.float32),
        "weight": np.ones(1, np.float32),
        "stage": np.zeros((1, tokens), np.int32),
        "sex": np.zeros(1, np.int32),
    }


def pieces_of(batch, start, stop, names=("ibi", "spo2")):
    """What ``push`` takes of a night."""
    signals = {name: batch[f"signal/{name}"][0, start:stop].ravel() for name in names}
    places = {row["name"]: i for i, row in enumerate(ROWS)}
    return signals, {name: batch["valid"][0, start:stop, places[name]] for name in names}


def recording(batch):
    """The same night as channels."""
    seconds = 30 * batch["valid"].shape[1]
    return {
        row["name"]: ChannelSignal(
            row["name"],
            row["rate_hz"],
            batch[f"signal/{row['name']}"].ravel(),
            np.repeat(batch["valid"][0, :, i], 30),
            np.zeros((seconds, 2), np.float32),
        )
        for i, row in enumerate(ROWS)
    }


@pytest.mark.parametrize("context", [PAST_MEAN, MAMBA], ids=lambda own: own["name"])
def test_a_night_token_by_token_is_the_night_in_one_window(context, tmp_path):
    model, batch, tokens = model_of(context), night(45), 45
    apply = lambda method: jax.jit(
        lambda v, b: model.objective.apply(v, b, method=method)
    )(model.variables, batch)  # fmt: skip
    whole, answers = apply("embed"), nn.softmax(apply("predict")["output"])
    embedder = open_embedder(model)
    stream, found = embedder.stream(), []
    for start, stop in ((0, 1), (1, 8), (8, 30)):
        found.append(stream.push(*pieces_of(batch, start, stop)))
    stream.save(tmp_path / "night.npz")
    stream = embedder.stream()
    stream.restore(tmp_path / "night.npz")
    assert stream.seen == 30
    found.append(stream.push(*pieces_of(batch, 30, tokens)))
    rows, valid, told = (
        np.concatenate([getattr(x, name) for x in found]) for name in ("rows", "valid", "answers")
    )
    np.testing.assert_array_equal(valid, whole.valid[0])
    assert not valid[4]
    np.testing.assert_allclose(rows, whole.rows[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(told[valid[:, 0]], answers[0][valid[:, 0]], atol=1e-5)
    assert np.abs(np.diff(rows[valid[:, 0]], axis=0)).max() > 1e-3


def test_a_sensor_that_is_not_there_is_as_one_that_holds_no_signal():
    model, batch = model_of(), night(12)
    embedder = open_embedder(model)
    alone = embedder.stream(["ibi"])
    ours = alone.push(*pieces_of(batch, 0, 12, ["ibi"]))
    both = embedder.stream()
    signals, valid = pieces_of(batch, 0, 12)
    signals["spo2"][:] = np.nan  # lost
    theirs = both.push(signals, valid)
    np.testing.assert_array_equal(ours.rows, theirs.rows)
    np.testing.assert_array_equal(ours.valid, theirs.valid)
    with pytest.raises(ValueError, match="the night has no modality 'spo2'; it has"):
        alone.push(*pieces_of(batch, 0, 1))
    with pytest.raises(ValueError, match="give whole tokens of 120 samples"):
        alone.push({"ibi": np.zeros(90)})
    with pytest.raises(ValueError, match="give equally many, of one or more"):
        both.push({"ibi": np.zeros(120), "spo2": np.zeros(240)})
    assert alone.seen == 12


@pytest.fixture(scope="module")
def embedder():
    with pytest.MonkeyPatch.context() as patch:
        toy_models.know(patch)
        return open_embedder(model_of(MAMBA))


@pytest.fixture(scope="module")
def embed(embedder):
    """``embed`` of a window, as it is."""
    apply = embedder.model.objective.apply
    return jax.jit(lambda batch: apply(embedder.model.variables, batch, method="embed"))


@pytest.mark.parametrize("tokens", [1, 2 * WINDOW + 5, 1535])
def test_nights_of_any_length_are_embedded_window_by_window(embedder, embed, tokens):
    batch = night(tokens, seed=tokens)
    signals, wanted = recording(batch), [True, tokens != 1535]
    if not all(wanted):  # and any subset of the modalities
        del signals["spo2"]
    found = embedder.embed_signals(signals)
    assert list(found.modalities) == ["fused"]
    rows = found.modalities["fused"]
    assert found.epochs.shape == rows.shape == (tokens, 8)
    batch["present"][0] = wanted
    for start in {0, (tokens - 1) // WINDOW * WINDOW}:
        window = {name: x for name, x in batch.items() if name != "stage"}
        here = [name for name, x in window.items() if x.ndim == 3]
        for name in here:
            part = window[name][:, start : start + WINDOW]
            window[name] = np.pad(part, [(0, 0), (0, WINDOW - part.shape[1]), (0, 0)])
        own = embed(window).rows[0, : tokens - start, 0]
        np.testing.assert_allclose(rows[start : start + WINDOW], own, atol=2e-3, rtol=1e-3)


def test_its_program_gives_what_the_embedder_gives(embedder):
    pytest.importorskip("flatbuffers")
    tokens = WINDOW + 3
    batch = night(tokens)
    ours = embedder.embed_signals(recording(batch)).modalities["fused"]
    inputs = {name: x for name, x in batch.items() if name.startswith("signal/")}
    found = reread_program(embedder.model, "embed")(**inputs, valid=batch["valid"])
    np.testing.assert_allclose(found["rows"][0, :, 0], ours, atol=2e-3, rtol=1e-3)
    np.testing.assert_array_equal(found["valid"], batch["valid"].any(2, keepdims=True))


def test_a_model_that_looks_ahead_cannot_be_streamed(tmp_path):
    both_ways = open_embedder(model_of({**MAMBA, "bidirectional": True}))
    with pytest.raises(ModelError, match="Finetune is not causal.*those after it too"):
        both_ways.stream()
    by_night = open_embedder(model_of(task="sex")).stream()
    assert by_night.push(*pieces_of(night(2), 0, 2)).answers is None
    by_night.save(tmp_path / "other.npz")
    with pytest.raises(ValueError, match="holds no such night of this model: it is of"):
        open_embedder(model_of()).stream().restore(tmp_path / "other.npz")
    (tmp_path / "half.npz").write_bytes((tmp_path / "other.npz").read_bytes()[:300])
    with pytest.raises(ValueError, match="half.npz holds no such night"):
        by_night.restore(tmp_path / "half.npz")
