"""Windowed attention and the layers built on it: equal to the dense definition, causal, lean."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxpr_shapes import largest

from hypnos_jax import sharding
from hypnos_jax.nn import attention
from hypnos_jax.nn.attention import attend, attend_window, rotary
from hypnos_jax.nn.transformer import FeedForward, Transformer, TransformerLayer


def qkv(length, lead=(2,), heads=2, width=4):
    keys = jax.random.split(jax.random.key(0), 3)
    return [jax.random.normal(key, (*lead, length, heads, width)) for key in keys]


def dense_window(q, k, v, window):
    distance = np.arange(q.shape[-3])[:, None] - np.arange(q.shape[-3])
    mask = (distance >= 0) & (distance < window)
    return attend(q, k, v, jnp.asarray(mask.reshape((1,) * (q.ndim - 3) + mask.shape)))


@pytest.mark.parametrize("length", [1, 7, 16, 33])
@pytest.mark.parametrize(("window", "block"), [(1, 8), (5, 8), (8, 8), (9, 4), (12, 5), (40, 8)])
def test_blocks_equal_dense_masked_attention(length, window, block):
    both = lambda *x: (attend_window(*x, window=window, block=block), dense_window(*x, window))
    got, want = jax.jit(both)(*qkv(length))
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_window_gradients_equal_dense_ones():
    got = jax.grad(lambda *x: jnp.sum(attend_window(*x, window=6, block=4) ** 2), (0, 1, 2))
    want = jax.grad(lambda *x: jnp.sum(dense_window(*x, 6) ** 2), (0, 1, 2))
    for a, b in zip(*jax.jit(lambda *x: (got(*x), want(*x)))(*qkv(21, lead=(2, 3)))):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("window", [6, None])
def test_the_kernel_for_tpus_equals_blocks(window):
    """Interpreted: its wiring, not its speed."""

    def values(kernel):
        value, pull = jax.vjp(lambda *x: attend_window(*x, window=window, kernel=kernel), *qkv(21))
        return value, pull(2 * value)

    got, want = jax.jit(lambda: (values("splash"), values("blocks")))()
    np.testing.assert_allclose(got[0], want[0], atol=1e-5)
    for a, b in zip(got[1], want[1]):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_the_kernel_for_tpus_is_cut_over_a_mesh():
    q, k, v = qkv(9, lead=(4,))
    want = attend_window(q, k, v, window=3)
    with jax.set_mesh(sharding.make_mesh(data=2, fsdp=2, tensor=2)):
        call = jax.jit(lambda *x: attend_window(*x, window=3, kernel="splash"))
        np.testing.assert_allclose(call(q, k, v), want, atol=1e-5)
        text = call.lower(q, k, v).compile().as_text()
    # what each device computes: one row of four, one head of two, 9 padded to 128 positions
    assert "f32[1,1,128,128]" in text
    assert "f32[4,2,128,128]" not in text


def test_a_kernel_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="attention='flash' is not known.*'blocks'"):
        attend_window(*qkv(5), window=2, kernel="flash")


def test_attention_among_few_is_the_same_on_a_gpu(monkeypatch):
    q, k, v = qkv(8)
    mask = jnp.asarray(np.tril(np.ones((1, 8, 8), bool)))
    want = [attend(q, k, v), attend(q, k, v, mask)]
    monkeypatch.setattr(attention, "platform", lambda: "gpu")
    for a, b in zip([attend(q, k, v), attend(q, k, v, mask)], want):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("kind", ["gelu", "swiglu"])
def test_an_odd_hidden_width_is_computed_wider_and_changes_nothing(kind):
    x = jax.random.normal(jax.random.key(0), (3, 4))
    variables = FeedForward(kind, 11).init(jax.random.key(1), x)
    params = jax.tree.map(jnp.asarray, nn.unbox(variables)["params"])
    assert {p["kernel"].shape for p in params.values()} == {(4, 11), (11, 4)}
    biased = lambda name: x @ params[name]["kernel"]  # biases start as zeros
    if kind == "gelu":
        hidden = jax.nn.gelu(biased("up"), approximate=False)
    else:
        hidden = jax.nn.silu(biased("gate")) * biased("up")
    want = hidden @ params["down"]["kernel"]
    np.testing.assert_allclose(FeedForward(kind, 11).apply(variables, x), want, atol=1e-6)


def test_no_square_score_matrix_is_formed():
    length, window = 4096, 64
    q, k, v = (jax.ShapeDtypeStruct((1, length, 2, 8), jnp.float32) for _ in range(3))
    loss = lambda q, k, v: attend_window(q, k, v, window=window).sum()
    # batch 1, heads 2; S x S would be 2 x 4096^2
    assert largest(jax.grad(loss, (0, 1, 2)), q, k, v) <= 2 * length * (window + 64)
    memory = jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, k, v).compile().memory_analysis()
    assert memory.temp_size_in_bytes < length * length * 4


def test_rotary_products_depend_on_distance_alone():
    q, k, _ = qkv(1, lead=(), heads=1, width=8)
    at = lambda x, position: rotary(x, first=position)
    product = lambda i, j: float(jnp.sum(at(q, i) * at(k, j)))
    assert product(5, 3) == pytest.approx(product(1002, 1000), abs=1e-4)
    # The pair (1, 0) of frequency 1, turned by one radian.
    x = jnp.zeros((2, 1, 4)).at[:, :, 0].set(1.0)
    np.testing.assert_allclose(rotary(x)[1, 0, :2], [np.cos(1), np.sin(1)], atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [pytest.param({}, marks=pytest.mark.slow), {"ffn": "swiglu", "qk_norm": True, "xsa": True}],
)
def test_the_future_has_exactly_no_influence(options):
    model = Transformer(2, {"dim": 16, "heads": 2, "window": 4, **options})
    x = jax.random.normal(jax.random.key(1), (1, 12, 16))
    variables = jax.jit(model.init)(jax.random.key(0), x)
    jacobian = jax.jit(jax.jacobian(lambda x: model.apply(variables, x)[0].sum(-1)))(x)[:, 0]
    reach = np.abs(np.asarray(jacobian)).max(-1)  # [12 outputs, 12 inputs]
    distance = np.arange(12)[:, None] - np.arange(12)
    assert (reach[distance < 0] == 0).all()
    assert (reach[distance > 2 * 3] == 0).all()  # two layers see 3 seconds back each
    assert (reach[(distance >= 0) & (distance <= 6)] > 0).all()


def test_exclusive_attention_is_orthogonal_to_the_own_value():
    layer = TransformerLayer(8, 1, xsa=True, ffn=None, layer_scale=None, window=1)
    x = jax.random.normal(jax.random.key(1), (1, 3, 8))
    y, _ = jax.jit(layer.init_with_output)(jax.random.key(0), x)
    # A window of 1 sees only the own value, of which nothing is left.
    np.testing.assert_allclose(y, x, atol=1e-6)


def test_bfloat16_products_keep_float32_parameters_and_stream():
    layer = {"dim": 16, "heads": 2, "window": 4}
    model = Transformer(2, {**layer, "dtype": jnp.bfloat16}, remat="all")
    x = jax.random.normal(jax.random.key(1), (2, 9, 16))
    y, variables = jax.jit(model.init_with_output)(jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    exact = jax.jit(Transformer(2, layer).apply)(variables, x)
    assert y.dtype == exact.dtype == jnp.float32
    np.testing.assert_allclose(y, exact, atol=2e-2)


def test_wrong_sizes_are_named():
    x = jnp.zeros((1, 4, 6))
    with pytest.raises(ValueError, match="heads=4 does not divide the width 6"):
        TransformerLayer(6, 4).init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="dim=8"):
        TransformerLayer(8, 4).init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="swiglu"):
        TransformerLayer(6, 3, ffn="tanh").init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="window=0"):
        TransformerLayer(6, 3, window=0).init(jax.random.key(0), x)
