"""The night encoder and its objective: what is hidden stays so, what is missing may be missing."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hypnos_jax.models.night_encoder import NightEncoder, log_band_powers
from hypnos_jax.objectives.channel_prediction import ChannelPrediction, spans

ROWS, TOKENS = 4, 12
MODALITIES = tuple({"name": n, "rate_hz": 1, "frames": 5} for n in ("eeg", "eog", "emg"))
MODEL = {"modalities": MODALITIES, "dim": 16, "layers": 1, "heads": 2, "ffn_dim": 16}


def nights(seed=0):
    rng = np.random.default_rng(seed)
    valid = np.ones((ROWS, TOKENS, 3), bool)
    valid[0, 8:] = False
    valid[1, :, 2] = False
    shared = rng.normal(size=(ROWS, TOKENS, 5))
    return {
        **{
            f"signal/{m['name']}": (100 * (shared + 0.3 * rng.normal(size=shared.shape))).astype(
                np.int16
            )
            for m in MODALITIES
        },
        "scale": np.full((ROWS, 3), 0.01, np.float32),
        "present": valid.any(1),
        "valid": valid,
        "weight": np.array([1, 1, 1, 0], np.float32),
    }


@pytest.fixture(scope="module")
def objective():
    return ChannelPrediction(MODEL, span_tokens=3, contrast_tokens=8, contrast_dim=4)


@pytest.fixture(scope="module")
def variables(objective):
    return jax.jit(objective.init)(jax.random.key(0), nights())


def test_the_loss_counts_windows_and_its_parts_add_up(objective, variables):
    loss = jax.jit(objective.apply)
    first = loss(variables, nights())
    mean = {name: float(x / w) for name, (x, w) in first.metrics.items()}
    assert float(first.weight) == 3
    total = mean["prediction"] + 0.1 * mean["contrast"]
    assert float(first.total) / 3 == pytest.approx(total, rel=1e-5)
    assert 0 < mean["contrast"] < 20 and 0 <= mean["accuracy"] <= 1
    assert 0.1 < mean["mean_predictor"] < 1
    # A row of padding may hold anything.
    other = nights()
    other["signal/eeg"][3] += 500
    again = loss(variables, other)
    assert float(again.total) == pytest.approx(float(first.total), rel=1e-6)
    # Where nobody knows anything, nothing counts.
    empty = loss(variables, {**nights(), "weight": np.zeros(ROWS, np.float32)})
    assert float(empty.weight) == 0 and np.isfinite(float(empty.total))


@pytest.mark.slow
def test_masks_alone_have_no_contrast_and_learn():
    objective = ChannelPrediction(MODEL, span_tokens=3, contrast_weight=0.0, noise=0.0)
    batch = nights()
    variables = jax.jit(objective.init)(jax.random.key(0), batch)
    assert not any("view" in name for name in variables["params"])

    @jax.jit
    def step(params, memory):
        keys = dict(zip(("dropout", "mask", "noise"), jax.random.split(jax.random.key(1), 3)))
        value = lambda p: (lambda x: x.total / x.weight)(
            objective.apply({"params": p}, batch, train=True, rngs=keys)
        )
        loss, grads = jax.value_and_grad(value)(params)
        updates, memory = tx.update(grads, memory)
        return loss, optax.apply_updates(params, updates), memory

    params, found, tx = nn.unbox(variables["params"]), [], optax.adam(1e-2)
    memory = tx.init(params)
    for _ in range(40):
        loss, params, memory = step(params, memory)
        found.append(float(loss))
    assert found[-1] < 0.8 * found[0]


def test_what_is_hidden_or_missing_changes_nothing(objective, variables):
    network = NightEncoder(**MODEL)
    own = {"params": variables["params"]["network"]}
    encode = jax.jit(lambda batch, kept: network.apply(own, batch, kept, method="encode_tokens"))
    batch, kept = nights(), np.ones((ROWS, TOKENS, 3), bool)
    kept[2, 4:7, 0] = False
    rows, valid, _ = encode(batch, kept)
    assert rows.shape == (ROWS, TOKENS, 1, 16) and valid.sum() == 8 + 3 * TOKENS
    other = {**batch, "signal/eeg": batch["signal/eeg"].copy()}
    other["signal/eeg"][2, 4:7] = 7
    other["signal/emg"] = batch["signal/emg"].copy()
    other["signal/emg"][1] = 9  # not valid
    np.testing.assert_array_equal(encode(other, kept)[0], rows)
    other["signal/eeg"][2, 3] = 90
    assert np.abs(encode(other, kept)[0] - rows).max() > 1e-3


def test_spans_hide_about_their_share_of_each_modality_for_itself():
    hidden = np.asarray(spans(jax.random.key(0), (64, 120, 3), 0.45, 8))
    assert hidden.mean() == pytest.approx(0.45, abs=0.03)
    assert (hidden[..., 0] != hidden[..., 1]).mean() > 0.3
    edges = hidden[:, [0, -1]].mean()
    assert edges == pytest.approx(0.45, abs=0.1)


def test_a_waveform_is_read_as_log_powers_of_its_bands():
    t = np.arange(30 * 64) / 64
    tones = np.stack([np.sin(2 * np.pi * hz * t) for hz in (1.0, 10.0, 25.0)])
    powers = np.asarray(log_band_powers(jnp.asarray(tones, jnp.float32), 64, 12))
    assert powers.shape == (3, 12)
    best = powers.argmax(1)
    assert best[0] < best[1] < best[2] and best[2] >= 10
    np.testing.assert_allclose(
        log_band_powers(2 * jnp.asarray(tones, jnp.float32), 64, 12).max(1) - powers.max(1),
        np.log(4),
        atol=1e-2,
    )


def test_an_even_number_of_neighbours_is_refused():
    model = NightEncoder(**MODEL, neighbours=4)
    with pytest.raises(ValueError, match="neighbours=4"):
        model.init(jax.random.key(0), nights(), method="encode_tokens")
