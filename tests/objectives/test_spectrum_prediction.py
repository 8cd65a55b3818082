"""Towers that predict spectra: what is asked, what may be seen, and that it is learnt."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.sleep2vec import reconstruct
from data_pipelines.sources import modality_nights
from data_pipelines.store import NightStore
from data_pipelines.synthetic import write_tiny_modalities
from hypnos_jax import config as configs
from hypnos_jax import state
from hypnos_jax.batch import batch_spec
from hypnos_jax.objectives.spectrum_prediction import log_powers

ROWS = 4


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "nights"
    write_tiny_modalities(path, seed=1)
    options = {"window_tokens": 10, "modalities": ["ibi", "spo2"]}
    return modality_nights.open_source(NightStore(path), split="train", seed=0, **options)


def test_powers_are_those_of_the_bands_a_tone_lies_in():
    time = np.arange(1280) / 128
    tone = log_powers(jnp.asarray(np.sin(2 * np.pi * 16 * time), jnp.float32), 8)
    noise = np.random.default_rng(0).standard_normal((200, 1280)).astype(np.float32)
    # 16 of 64 Hz is three quarters of the way from 0.1 Hz to 64 Hz on a logarithmic axis.
    assert int(tone.argmax()) == 6
    np.testing.assert_allclose(np.exp(log_powers(noise, 8)).mean(0), 1, atol=0.15)
    # A louder device only adds a number, which the window's mean takes away.
    gained = log_powers(300 * noise, 8) - log_powers(100 * noise, 8)
    np.testing.assert_allclose(gained, 2 * np.log(3), atol=1e-2)


@pytest.mark.parametrize("kind", ["masked", "denoising"])
def test_hidden_tokens_or_all_are_asked_and_padding_is_not(source, kind):
    config = configs.resolve(reconstruct.get_config(f"test,{kind}"))
    objective = configs.make_objective(configs.fill(config, source.describe()))
    batch = source.examples(0, ROWS)
    batch["valid"], batch["present"] = np.ones_like(batch["valid"]), np.ones((ROWS, 2), bool)
    init = state.init_function(objective, batch_spec(source, ROWS))
    variables = nn.unbox(state.jit_once(lambda: init(0))())

    @jax.jit
    def loss(batch):
        found = objective.apply(variables, batch)
        return found.total, found.weight

    total, weight = loss(batch)
    assert np.isfinite(total)
    assert weight == ROWS * 2 * 10 * (0.5 if kind == "masked" else 1)
    padded = {**batch, "weight": np.array([1, 1, 0, 0], np.float32)}
    assert loss(padded)[1] == weight / 2
    other = {**padded, "signal/ibi": np.array(batch["signal/ibi"])}
    other["signal/ibi"][2:] = 7
    assert loss(other)[0] == pytest.approx(float(loss(padded)[0]), rel=1e-5)


def test_nothing_to_predict_is_refused(source):
    config = configs.resolve(reconstruct.get_config("test,masked"))
    config = configs.change(config, {"objective.model.mask_rate": 0.0})
    objective = configs.make_objective(configs.fill(config, source.describe()))
    with pytest.raises(ValueError, match="objective.noise=0 and objective.model.mask_rate=0"):
        objective.init(jax.random.key(0), source.examples(0, 1))
