"""Losses against plain loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypnos_jax import losses

RATE, SECONDS = 16, 6


def signals(seed=0, rows=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(2, rows, SECONDS * RATE)).astype(np.float32)


def mask():
    valid = np.ones((3, SECONDS), bool)
    valid[0, 2] = False
    valid[1] = False
    return valid


def loop_magnitude(x, window):
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    hann /= np.sqrt(np.sum(hann**2))
    frames = []
    for start in range(0, len(x) - window + 1, window // 4):
        frames.append(np.abs(np.fft.rfft(x[start : start + window] * hann)))
    return np.array(frames)


def test_time_l1():
    (x, y), valid = signals(), mask()
    found = np.asarray(losses.time_l1(x, y, valid))
    for row in range(3):
        errors = [
            abs(float(x[row, i]) - float(y[row, i]))
            for i in range(SECONDS * RATE)
            if valid[row, i // RATE]
        ]
        assert found[row] == pytest.approx(np.mean(errors) if errors else 0.0, abs=1e-6)


def test_stft_distance():
    (x, y), valid, windows, floor = signals(), mask(), (8, 32), 0.2
    distance = functools.partial(losses.stft_distance, windows=windows, floor=floor)
    found = np.asarray(jax.jit(distance)(x, y, valid))
    for row in range(3):
        total = 0.0
        for window in windows:
            a, b = loop_magnitude(x[row], window), loop_magnitude(y[row], window)
            terms = []
            for frame in range(len(a)):
                start = frame * window // 4
                if not all(valid[row, i // RATE] for i in range(start, start + window)):
                    continue
                for p, q in zip(a[frame], b[frame]):
                    terms.append(abs(np.log(max(p, floor)) - np.log(max(q, floor))) + (p - q) ** 2)
            total += np.mean(terms) if terms else 0.0
        assert found[row] == pytest.approx(total / len(windows), rel=1e-4, abs=1e-6)


def test_white_noise_has_unit_power_in_every_bin():
    noise = np.random.default_rng(0).normal(size=(4, 20_000)).astype(np.float32)
    magnitude = jax.jit(losses.stft_magnitude, static_argnums=1)(noise, 32)
    power = (np.asarray(magnitude) ** 2).mean((0, 1))
    np.testing.assert_allclose(power, 1.0, atol=0.1)


def test_invalid_seconds_have_no_say():
    (x, y), valid = signals(), mask()
    wild = x.copy()
    wild[~np.repeat(valid, RATE, axis=1)] = np.nan
    options = {"windows": (8, 32), "floor": 0.01}
    for loss in (losses.time_l1, functools.partial(losses.stft_distance, **options)):
        pull = lambda x, loss=loss: jax.vjp(lambda x: loss(x, y, valid), x)
        run = jax.jit(lambda x, pull=pull: (pull(x)[0], *pull(x)[1](jnp.ones(3))))
        found, grad = run(x)
        np.testing.assert_allclose(run(np.nan_to_num(wild, nan=5.0))[0], found)
        assert np.isfinite(grad).all() and not np.asarray(grad)[1].any()
    assert np.isfinite(losses.time_l1(wild, y, valid)).all()


def test_equal_signals_are_at_no_distance_and_silence_has_a_gradient():
    x, valid = jnp.zeros((1, SECONDS * RATE)), jnp.ones((1, SECONDS), bool)
    distance = lambda y: losses.stft_distance(y, x, valid, windows=(8,), floor=0.01)[0]
    value, gradient = jax.jit(jax.value_and_grad(distance))(x)
    assert value == 0
    assert np.isfinite(gradient).all()


def test_windows_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="window of 128 samples"):
        losses.stft_magnitude(jnp.zeros((1, 96)), 128)
    with pytest.raises(ValueError, match="5 seconds"):
        losses.time_l1(jnp.zeros((1, 96)), jnp.zeros((1, 96)), jnp.ones((1, 5), bool))
