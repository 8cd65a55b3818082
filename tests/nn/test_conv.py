"""Convolutions against loops, and what an encoder's output may depend on."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypnos_jax.nn.conv import Conv, ConvTranspose, SeanetDecoder, SeanetEncoder


def built(module, x, seed=0):
    y, variables = jax.jit(module.init_with_output)(jax.random.key(seed), x)
    return nn.unbox(variables), np.asarray(y)


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(7, 1, 1), (3, 1, 4), (8, 4, 1)])
def test_conv_is_the_sum_over_the_past(kernel, stride, dilation):
    x = np.random.default_rng(0).normal(size=(2, 24, 3)).astype(np.float32)
    conv = Conv(5, kernel, stride=stride, dilation=dilation)
    variables, y = built(conv, x)
    weights = np.asarray(variables["params"]["kernel"])
    assert y.shape == (2, 24 // stride, 5)
    for j in range(y.shape[1]):
        expected = np.zeros((2, 5))
        for i in range(kernel):
            at = j * stride - (kernel - 1 - i) * dilation
            if at >= 0:
                expected += x[:, at] @ weights[i]
        np.testing.assert_allclose(y[:, j], expected, atol=1e-5)


@pytest.mark.parametrize("overlap", [1, 2, 3])
def test_transposed_conv_overlaps_frames(overlap):
    x = np.random.default_rng(0).normal(size=(2, 6, 3)).astype(np.float32)
    variables, y = built(ConvTranspose(5, 4, overlap), x)
    weights = np.asarray(variables["params"]["kernel"])  # [overlap strides, C, features]
    expected = np.zeros((2, (6 + overlap) * 4, 5))
    for j in range(6):
        for i in range(overlap * 4):
            expected[:, j * 4 + i] += x[:, j] @ weights[i]
    np.testing.assert_allclose(y, expected[:, : 6 * 4], atol=1e-5)


def test_weight_norm_starts_at_the_kernel_and_scales_by_its_gain():
    x = np.random.default_rng(0).normal(size=(1, 16, 3)).astype(np.float32)
    variables, y = built(Conv(5, 3, norm="weight"), x)
    _, plain = built(Conv(5, 3), x)
    np.testing.assert_allclose(y, plain, atol=1e-5)
    variables["params"]["gain"] = variables["params"]["gain"] * 3
    doubled = Conv(5, 3, norm="weight").apply(variables, x)
    np.testing.assert_allclose(doubled, 3 * plain, atol=1e-4)


@pytest.mark.parametrize(
    ("norm", "units", "padding", "overlap"),
    [("weight", 1, "zero", 2), pytest.param("rms", 2, "edge", 3, marks=pytest.mark.slow)],
)
def test_an_encoder_sees_its_past_and_nothing_ahead(norm, units, padding, overlap):
    encoder = SeanetEncoder(
        4, 2, (4, 2), units, 2, overlap, last_kernel=5, norm=norm, padding=padding
    )
    length = 8 * 20
    x = np.random.default_rng(0).normal(size=(1, length, 1)).astype(np.float32)
    variables, _ = built(encoder, x)
    last = lambda x: encoder.apply(variables, x)[0, -1] @ jnp.arange(1.0, 5.0)
    seen = np.flatnonzero(np.asarray(jax.grad(last)(x))[0, :, 0])
    now = length - 8  # output j sees samples up to j * hop
    assert seen.max() == now
    assert now - seen.min() <= encoder.past
    assert now - seen.min() > encoder.past - 8  # and the bound is not a loose one


def test_a_decoder_looks_back_only():
    decoder = SeanetDecoder(1, 2, (4, 2), norm="layer")
    x = np.random.default_rng(0).normal(size=(1, 9, 4)).astype(np.float32)
    variables, y = built(decoder, x)
    assert y.shape == (1, 72, 1)
    changed = x.copy()
    changed[:, 5] += 1
    y, z = map(np.asarray, map(jax.jit(decoder.apply), [variables] * 2, [x, changed]))
    np.testing.assert_array_equal(z[:, :40], y[:, :40])
    assert not np.allclose(z[:, 40:48], y[:, 40:48])


def test_wrong_options_are_named():
    x = jnp.zeros((1, 10, 1))
    for module, words in (
        (Conv(1, 8, stride=4), "stride=4"),
        (Conv(1, 3, norm="batch"), "norm='batch'"),
        (Conv(1, 3, padding="wrap"), "padding='wrap'"),
        (SeanetEncoder(4, 2, (2,), activation="selu"), "activation='selu'"),
    ):
        with pytest.raises(ValueError, match=words):
            module.init(jax.random.key(0), x)
