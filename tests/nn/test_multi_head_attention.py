"""Attention with its parameters, beside plain loops of numpy; its caches, LoRA and refusals."""

import flax.linen as nn
import flax.traverse_util
import jax
import numpy as np
import pytest

from hypnos_jax.nn.multi_head_attention import MultiHeadAttention
from hypnos_jax.nn.transformer import Linear

DIM, HEADS, ROWS, LENGTH = 8, 2, 2, 6


def inputs(length=LENGTH, dim=DIM, seed=0):
    return np.random.default_rng(seed).normal(size=(ROWS, length, dim)).astype(np.float32)


def drawn(module, *given, **named):
    """Variables of a module, all at random, biases and scales too."""
    shapes = jax.eval_shape(lambda: nn.unbox(module.init(jax.random.key(0), *given, **named)))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: rng.normal(0, 0.5, x.shape).astype(np.float32), shapes)


def turned(x, position):
    """A head's vector [E] after the rotation of its position."""
    out = x.copy()
    for i in range(len(x) // 2):
        angle = position * 10_000.0 ** (-2 * i / len(x))
        even, odd = x[2 * i], x[2 * i + 1]
        out[2 * i] = even * np.cos(angle) - odd * np.sin(angle)
        out[2 * i + 1] = even * np.sin(angle) + odd * np.cos(angle)
    return out


def by_hand(params, x, memory, allowed, *, rope=False, qk_norm=False, lora=None, alpha=16.0):
    """The attention of one row by loops: ``allowed(i, j)`` says whether i may look at j."""
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    flat = {name: np.asarray(value, np.float64) for name, value in flat.items()}

    def project(name, part, row):
        kernel = flat[f"{name}_kernel"]
        out = row @ (kernel if part is None else kernel[:, part]).reshape(len(row), -1)
        if f"{name}_bias" in flat:
            bias = flat[f"{name}_bias"]
            out = out + (bias if part is None else bias[part]).reshape(-1)
        if lora and name in lora:
            prefix = "" if name == "qkv" else f"{name}/"
            a, b = flat[f"{prefix}lora_a"], flat[f"{prefix}lora_b"]
            if part is not None:
                a, b = a[:, part], b[part]
            out = out + row @ a @ b * (alpha / a.shape[-1])
        return out

    def normed(vector, name):
        eps = np.finfo(np.float32).eps
        return vector / np.sqrt(np.mean(vector**2) + eps) * flat[name]

    def heads(vector):
        return vector.reshape(HEADS, -1)

    if memory is None:
        q, k, v = ([heads(project("qkv", part, row)) for row in x] for part in range(3))
    else:
        q = [heads(project("q", None, row)) for row in x]
        k, v = ([heads(project("kv", part, row)) for row in memory] for part in range(2))
    out = []
    for i in range(len(x)):
        one = []
        for h in range(HEADS):
            scores, values = [], []
            for j in range(len(k)):
                if not allowed(i, j):
                    continue
                a, b = q[i][h], k[j][h]
                if qk_norm:
                    a, b = normed(a, "q_scale"), normed(b, "k_scale")
                if rope:
                    a, b = turned(a, i), turned(b, j)
                scores.append(a @ b / np.sqrt(len(a)))
                values.append(v[j][h])
            weights = np.exp(scores - np.max(scores))
            one.append(weights @ np.array(values) / weights.sum())
        row = np.concatenate(one)
        y = row @ flat["out_kernel"].reshape(len(row), -1)
        y = y + flat.get("out_bias", 0.0)
        if lora and "out" in lora:
            a, b = flat["out/lora_a"], flat["out/lora_b"]
            y = y + row @ a @ b * (alpha / a.shape[-1])
        out.append(y)
    return np.array(out)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": True, "rope": True},
        {"causal": True, "qk_norm": True},
        {"causal": True, "window": 3, "rope": True, "bias": True, "qk_norm": True},
        {"lora": {"rank": 3}, "lora_on": ("qkv", "out"), "bias": True},
    ],
)
def test_self_attention_is_the_loop(options):
    module, x = MultiHeadAttention(HEADS, **options), inputs()
    mask = np.random.default_rng(2).random((ROWS, LENGTH, LENGTH)) < 0.6
    mask |= np.eye(LENGTH, dtype=bool)
    causal, window = options.get("causal", False), options.get("window") or LENGTH
    given = () if causal else (mask,)
    variables = drawn(module, x, *given)
    found = jax.jit(module.apply)(variables, x, *given)
    for b in range(ROWS):

        def allowed(i, j, b=b):
            return 0 <= i - j < window if causal else mask[b, i, j]

        own = {key: options[key] for key in ("rope", "qk_norm") if key in options}
        want = by_hand(variables["params"], x[b], None, allowed, lora=options.get("lora_on"), **own)
        np.testing.assert_allclose(found[b], want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options", [{}, {"bias": True, "lora": {"rank": 2}, "lora_on": ("q", "kv")}]
)
def test_cross_attention_is_the_loop(options):
    module, x, memory = MultiHeadAttention(HEADS, **options), inputs(3), inputs(5, 12, seed=4)
    mask = np.array([[True, True, False, True, False], [True] * 5])
    named = {"memory": memory}
    variables = drawn(module, x, mask[:, None], **named)
    assert variables["params"]["kv_kernel"].shape == (12, 2, HEADS, DIM // HEADS)
    found = jax.jit(module.apply)(variables, x, mask[:, None], **named)
    for b in range(ROWS):

        def allowed(i, j, b=b):
            return mask[b, j]

        want = by_hand(variables["params"], x[b], memory[b], allowed, lora=options.get("lora_on"))
        np.testing.assert_allclose(found[b], want, rtol=1e-4, atol=1e-4)
    hidden = memory.copy()
    hidden[0, [2, 4]] = 99.0  # what the mask forbids
    again = jax.jit(module.apply)(variables, x, mask[:, None], memory=hidden)
    np.testing.assert_array_equal(found, again)


@pytest.mark.parametrize("reach", [{"window": 3}, {"cache_length": LENGTH}])
@pytest.mark.parametrize("rope", [False, True])
def test_step_by_step_with_a_cache_is_one_pass(reach, rope):
    module = MultiHeadAttention(HEADS, causal=True, rope=rope, bias=True, **reach)
    x = inputs()
    variables = drawn(module, x)
    whole = jax.jit(module.apply)(variables, x)
    step = jax.jit(lambda v, x: module.apply(v, x, mutable=["cache"]))
    for pieces in ([1] * LENGTH, [4, 2]):
        cache, rows, at = {}, [], 0
        for size in pieces:
            out, cache = step({**variables, **cache}, x[:, at : at + size])
            rows.append(out)
            at += size
        np.testing.assert_allclose(np.concatenate(rows, 1), whole, atol=1e-5)


def test_a_cache_that_is_too_short_forgets_the_earliest():
    """With a cache of n positions a step sees itself and n before it: a window of n + 1."""
    x = inputs()
    short = MultiHeadAttention(HEADS, causal=True, cache_length=2)
    variables = drawn(short, x)
    step = jax.jit(lambda v, x: short.apply(v, x, mutable=["cache"]))
    cache, rows = {}, []
    for t in range(LENGTH):
        out, cache = step({**variables, **cache}, x[:, t : t + 1])
        rows.append(out)
    windowed = MultiHeadAttention(HEADS, causal=True, window=3).apply(variables, x)
    np.testing.assert_allclose(np.concatenate(rows, 1), windowed, atol=1e-5)


@pytest.mark.parametrize("options", [{"rope": True}, {"window": 4}, {"lora": {"rank": 2}}])
def test_the_gradient_to_the_future_is_exactly_zero(options):
    module, x = MultiHeadAttention(HEADS, causal=True, bias=True, **options), inputs()
    variables = drawn(module, x)
    gradient = jax.jit(jax.grad(lambda x: module.apply(variables, x)[:, 2].sum()))(x)
    assert np.all(np.asarray(gradient[:, 3:]) == 0)
    assert np.abs(gradient[:, :3]).max() > 0


def test_lora_begins_as_nothing_and_lies_beside_what_it_adds_to():
    module, x = MultiHeadAttention(HEADS, lora={"rank": 2}, lora_on=("qkv", "out")), inputs()
    params = nn.unbox(module.init(jax.random.key(0), x))["params"]
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    assert {name: x.shape for name, x in flat.items() if "lora" in name} == {
        "lora_a": (DIM, 3, 2),
        "lora_b": (3, 2, DIM),
        "out/lora_a": (DIM, 2),
        "out/lora_b": (2, DIM),
    }
    bare = {name: x for name, x in params.items() if name.endswith("_kernel")}
    plain = MultiHeadAttention(HEADS).apply({"params": bare}, x)
    np.testing.assert_array_equal(module.apply({"params": params}, x), plain)


def test_lora_is_added_to_any_linear_map():
    x = inputs()
    module = Linear(("embed", "mlp"), DIM, 5, 7, bias=True, lora={"rank": 2, "alpha": 3.0})
    variables = drawn(module, x)
    p = variables["params"]
    assert set(p) == {"kernel", "bias", "lora_a", "lora_b"}
    want = x @ p["kernel"] + 1.5 * (x @ p["lora_a"] @ p["lora_b"]) + p["bias"]
    found = np.asarray(module.apply(variables, x))
    np.testing.assert_allclose(found[..., :5], want, atol=1e-5)
    assert not found[..., 5:].any()
    dropping = module.clone(lora={"rank": 2, "alpha": 3.0, "dropout": 0.5})
    one, other = (
        dropping.apply(variables, x, train=True, rngs={"dropout": jax.random.key(i)})
        for i in range(2)
    )
    assert not np.array_equal(one, other)
    np.testing.assert_array_equal(dropping.apply(variables, x), found)


def test_weights_are_dropped_in_training_alone():
    module, x = MultiHeadAttention(HEADS, dropout=0.5), inputs()
    variables = drawn(module, x)
    plain = MultiHeadAttention(HEADS).apply(variables, x)
    np.testing.assert_array_equal(module.apply(variables, x), plain)
    key = {"dropout": jax.random.key(0)}
    assert not np.allclose(module.apply(variables, x, train=True, rngs=key), plain)


@pytest.mark.parametrize(
    "options, named, message",
    [
        ({"causal": True}, {"mask": np.ones((1, 1, 1), bool)}, "neither a mask nor dropout"),
        ({"causal": True, "dropout": 0.1}, {}, "neither a mask nor dropout"),
        ({"rope": True}, {"memory": inputs()}, "without causal, rope and xsa"),
        ({"lora": {"rank": 2}, "lora_on": ("q",)}, {}, "the projections are"),
    ],
)
def test_options_that_exclude_each_other_are_refused(options, named, message):
    with pytest.raises(ValueError, match=message):
        drawn(MultiHeadAttention(HEADS, **options), inputs(), **named)


def test_the_whole_past_needs_a_cache_of_a_length():
    module, x = MultiHeadAttention(HEADS, causal=True), inputs()
    variables = drawn(module, x)
    with pytest.raises(ValueError, match="give a window or a cache_length"):
        module.apply(variables, x, mutable=["cache"])
