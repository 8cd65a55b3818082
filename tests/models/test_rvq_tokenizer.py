"""The tokenizer's alignment of tokens and seconds, and what its options change."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypnos_jax.models.rvq_tokenizer import RvqTokenizer

HOP, SECONDS = 8, 12
SMALL = {
    "ratios": (4, 2),
    "filters": 2,
    "dim": 8,
    "layers": 1,
    "heads": 2,
    "window": 4,
    "codebook_dim": 6,
    "levels": 2,
    "codes": 16,
}


def signal(seed=0, rows=1, seconds=SECONDS):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, seconds * HOP)).astype(np.float32)


@functools.cache
def made(**options):
    """A tokenizer whose codebooks have started, and its variables."""
    tokenizer = RvqTokenizer(**SMALL, **options)

    @jax.jit
    def make():
        keys = {"params": jax.random.key(0), "vq": jax.random.key(1), "bypass": jax.random.key(2)}
        variables = nn.unbox(tokenizer.init(keys, signal(), train=True))
        # LayerScale starts at 0.01: enlarge it, or the transformers hardly count.
        scale = lambda path, x: x * 50 if "_scale" in jax.tree_util.keystr(path) else x
        variables["params"] = jax.tree_util.tree_map_with_path(scale, variables["params"])
        for i in range(2):
            x = signal(i, 8)
            _, new = tokenizer.apply(variables, x, train=True, rngs={**keys}, mutable=["vq"])
            variables = {**variables, **new}
        return variables

    return tokenizer, make()


def run(tokenizer, variables, x, method):
    return np.asarray(compiled(tokenizer, method)(variables, x))


@functools.cache
def compiled(tokenizer, method):
    return jax.jit(functools.partial(tokenizer.apply, method=method))


@pytest.mark.parametrize("strict", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_token_sees_its_second_and_no_later_one(strict):
    tokenizer, variables = made()
    tokenizer = tokenizer.clone(strict_causal=strict)
    x = signal()
    z = run(tokenizer, variables, x, "latents")
    codes = run(tokenizer, variables, x, "encode")
    assert z.shape == (1, SECONDS, 6) and codes.shape == (1, SECONDS, 2)
    t = 5
    first, rest, own = x.copy(), x.copy(), x.copy()
    first[:, (t + 1) * HOP] += 1
    rest[:, (t + 1) * HOP + 1 :] += 1
    own[:, (t + 1) * HOP - 1] += 1
    same = lambda a: np.array_equal(a[:, : t + 1], z[:, : t + 1])
    assert same(run(tokenizer, variables, rest, "latents"))
    assert same(run(tokenizer, variables, first, "latents")) == strict
    assert not same(run(tokenizer, variables, own, "latents"))
    np.testing.assert_array_equal(
        run(tokenizer, variables, rest, "encode")[:, : t + 1], codes[:, : t + 1]
    )


def test_a_token_depends_on_no_more_than_its_reach():
    tokenizer, variables = made()
    seconds = tokenizer.reach + 6
    last = lambda x: jnp.sum(tokenizer.apply(variables, x, method="latents")[0, -1] ** 2)
    grad = np.asarray(jax.jit(jax.grad(last))(signal(seconds=seconds)))[0].reshape(seconds, HOP)
    seen = np.flatnonzero(grad.any(1))
    assert seen.max() == seconds - 1
    assert seconds - 1 - seen.min() <= tokenizer.reach
    assert seconds - 1 - seen.min() > tokenizer.reach - 2


@pytest.mark.parametrize(
    ("options", "pieces"),
    [
        ({}, (1,) * SECONDS),
        ({"strict_causal": False, "padding": "edge"}, (4, 1, 7)),
        pytest.param(
            {"units": 2, "dilation_base": 3, "overlap": 1, "last_kernel": 5},
            (5, 7),
            marks=pytest.mark.slow,
        ),
    ],
)
@pytest.mark.slow
def test_seconds_in_pieces_equal_the_whole_signal(options, pieces):
    tokenizer, variables = made(**options)
    x = signal(rows=2)
    z = run(tokenizer, variables, x, "latents")
    codes = run(tokenizer, variables, x, "encode")
    sound = run(tokenizer, variables, codes, "decode")
    ends = (1, 0) if options.get("strict_causal", True) else (0, 1)
    samples = np.pad(x, ((0, 0), ends))
    found = {"latents_next": [], "encode_next": [], "decode": []}
    for method, parts in found.items():
        apply = jax.jit(functools.partial(tokenizer.apply, mutable=["cache"], method=method))
        cache, at = {}, 0
        for length in pieces:
            first, stop = at * HOP + (at > 0), (at + length) * HOP + 1
            piece = codes[:, at : at + length] if method == "decode" else samples[:, first:stop]
            part, cache = apply({**variables, **cache}, piece)
            parts.append(part)
            at += length
    got = {name: np.concatenate(parts, axis=1) for name, parts in found.items()}
    np.testing.assert_allclose(got["latents_next"], z, atol=1e-5)
    np.testing.assert_array_equal(got["encode_next"], codes)
    np.testing.assert_allclose(got["decode"], sound, atol=1e-5)


def test_a_second_of_sound_depends_on_no_later_codes():
    tokenizer, variables = made()
    codes = np.random.default_rng(0).integers(0, 16, (1, SECONDS, 2))
    y = run(tokenizer, variables, codes, "decode")
    assert y.shape == (1, SECONDS * HOP)
    other = codes.copy()
    other[:, 7:] = (other[:, 7:] + 1) % 16
    z = run(tokenizer, variables, other, "decode")
    np.testing.assert_array_equal(z[:, : 7 * HOP], y[:, : 7 * HOP])
    assert not np.allclose(z[:, 7 * HOP :], y[:, 7 * HOP :])


def test_the_forward_pass_is_encode_then_decode():
    tokenizer, variables = made()
    x = signal(3)
    y, quantized, latents = jax.jit(tokenizer.apply)(variables, x)
    codes = run(tokenizer, variables, x, "encode")
    np.testing.assert_array_equal(codes, quantized.codes)
    np.testing.assert_allclose(run(tokenizer, variables, codes, "decode"), y, atol=1e-5)
    np.testing.assert_array_equal(run(tokenizer, variables, x, "latents"), latents)


def test_bypass_decodes_the_vectors_before_quantisation():
    tokenizer, variables = made()
    tokenizer = tokenizer.clone(bypass=1.0)
    rngs = {"vq": jax.random.key(0), "bypass": jax.random.key(1)}
    x = signal(3)
    train = functools.partial(tokenizer.apply, train=True, rngs=rngs, mutable=["vq"])
    (y, quantized, latents), new = jax.jit(train)(variables, x)
    np.testing.assert_allclose(y, run(tokenizer, variables, latents, "synthesize"), atol=1e-6)
    assert float(quantized.commitment.max()) > 0
    assert int(new["vq"]["quantizer"]["step"]) == int(variables["vq"]["quantizer"]["step"]) + 1


def test_bfloat16_stays_near_float32():
    tokenizer, variables = made()
    half = tokenizer.clone(dtype="bfloat16")
    x = signal(3)
    z, near = (run(t, variables, x, "latents") for t in (tokenizer, half))
    assert near.dtype == np.float32
    np.testing.assert_allclose(near, z, atol=0.05 * np.abs(z).max())


def test_wrong_lengths_and_options_are_named():
    tokenizer, variables = made()
    with pytest.raises(ValueError, match="97 samples"):
        tokenizer.apply(variables, np.zeros((1, 97), np.float32), method="latents")
    with pytest.raises(ValueError, match="reflect"):
        RvqTokenizer(**SMALL, padding="reflect").init(jax.random.key(0), signal())
