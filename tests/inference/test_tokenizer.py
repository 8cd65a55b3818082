"""Chunks equal a single pass; models that do not fit are named."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import tiny_models

from hypnos_jax.export.model import LoadedModel
from hypnos_jax.inference.tokenizer import Tokenizer, TokenizerError, encode_signal, load_tokenizers

RATE = 8


@functools.cache
def model(**options):
    """A tokenizer of 8 samples a second with random weights and codebooks, reach of 13 s."""
    config = tiny_models.rvq_config("resp", RATE, (4, 2))
    config["objective"]["model"] |= options
    config["objective"] |= {"stft_windows_s": (1.0,)}
    variables = tiny_models.random_variables(config, tiny_models.signal_batch(RATE))
    objective = tiny_models.make_objective(config)
    # Codewords amid the vectors that they meet, so that codes differ from second to second.
    found = np.asarray(single_pass(objective, "latents")(variables, signals(16, 1)))[0]
    codebooks = variables["vq"]["tokenizer"]["quantizer"]
    codebooks["counts"] = np.ones_like(codebooks["counts"])
    codebooks["sums"] = np.stack([found, (found - found[::-1]) / 4])
    return LoadedModel(objective, variables, config, "0123", 3, {})


def single_pass(objective, method):
    return jax.jit(functools.partial(objective.apply, method=method))


def signals(seconds, channels=2):
    rng = np.random.default_rng(seconds)
    return rng.normal(size=(channels, seconds * RATE)).astype(np.float32)


@pytest.mark.parametrize("strict", [True, False])
def test_chunks_equal_a_single_pass(strict):
    loaded = model(strict_causal=strict)
    tokenizer = Tokenizer(loaded)
    x = signals(600)
    whole = single_pass(loaded.objective, "encode")(loaded.variables, x)
    assert len(np.unique(whole)) > 8  # not a constant that anything would equal
    for chunk_s in (64, 1024):
        codes = tokenizer.encode(x, chunk_s=chunk_s)
        assert codes.dtype == np.uint16 and codes.shape == (2, 600, 2)
        np.testing.assert_array_equal(codes, whole)
    latents = single_pass(loaded.objective, "latents")(loaded.variables, x)
    np.testing.assert_allclose(tokenizer.latents(x, chunk_s=64), latents, atol=1e-5)


@pytest.mark.parametrize("seconds", [1, 100])
def test_any_length_and_number_of_channels(seconds):
    loaded = model()
    x = signals(seconds, channels=3)
    codes = Tokenizer(loaded).encode(x, chunk_s=64)
    assert codes.shape == (3, seconds, 2)
    np.testing.assert_array_equal(encode_signal(loaded, x[1], chunk_s=64), codes[1])
    whole = single_pass(loaded.objective, "encode")(loaded.variables, x)
    np.testing.assert_array_equal(codes, whole)


def test_wrong_models_and_signals_are_named(tmp_path):
    with pytest.raises(TokenizerError, match="17 samples"):
        Tokenizer(model()).encode(np.zeros((1, 17), np.float32))
    slow = model()
    slow = dataclasses.replace(slow, objective=slow.objective.clone(rate_hz=16))
    with pytest.raises(TokenizerError, match=r"tokens of 0\.5 s"):
        Tokenizer(slow)
    backbone = tiny_models.make_objective(tiny_models.rq_config())
    with pytest.raises(TokenizerError, match="RqNextToken is no tokenizer"):
        Tokenizer(dataclasses.replace(slow, objective=backbone))
    with pytest.raises(TokenizerError, match="not a folder"):
        load_tokenizers(tmp_path / "none")
    with pytest.raises(TokenizerError, match="no tokenizer"):
        load_tokenizers(tmp_path)


def test_two_tokenizers_of_a_type_are_one_too_many(tmp_path):
    tiny_models.write_tokenizers(tmp_path, ("resp",))
    (tmp_path / "resp").rename(tmp_path / "belts")
    tiny_models.write_tokenizers(tmp_path, ("resp",))
    with pytest.raises(TokenizerError, match=r"belts.*resp.*both"):
        load_tokenizers(tmp_path)
