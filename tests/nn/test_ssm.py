"""State spaces: worked numbers, the recurrence as a loop, and reference implementations."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypnos_jax import sharding
from hypnos_jax.nn.ssm import Mamba1, Mamba2, selective_scan, ssd, ssd_scan

DIM, TINY = 8, {"d_state": 3, "head_dim": 4}
LAYERS = {"mamba2": Mamba2(**TINY, chunk=4), "mamba1": Mamba1(d_state=3, chunk=4)}
# Worked by hand, in float64, for both layers.
DT = np.array([[0, 0.5], [-1, 0], [0.5, -0.5], [1, 0.2]])
DT_BIAS = np.array([0.1, -0.2])
X = np.array([[1, -0.5], [0.5, 1], [-1, 2], [2, 0.5]])
B = np.array([[1, 0.5], [0, 1], [-1, 0.5], [0.5, 0.5]])
C = np.array([[1, 1], [0.5, -1], [1, 0], [0, 2]])
MAMBA2_Y = np.array(
    [[2.116595, -0.890766], [0.329423, -0.098139], [0.225017, 0.135969], [4.592592, 0.917279]]
)


def drawn(module, x, seed=0):
    """Variables in which nothing is 0, 1 or the same twice."""
    variables = nn.unbox(jax.jit(module.init)(jax.random.key(seed), x))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda v: v + 0.1 * rng.standard_normal(v.shape, np.float32), variables)


def stream(length, rows=2, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, length, DIM), np.float32)


_prepared = {}


def prepared(kind):
    """Variables, the outputs of the whole, and a step with the cache."""
    if kind not in _prepared:
        module, x = LAYERS[kind], stream(11)
        variables = drawn(module, x)
        step = jax.jit(lambda v, x: module.apply(v, x, mutable=["cache"]))
        _prepared[kind] = variables, jax.jit(module.apply)(variables, x), step
    return _prepared[kind]


def softplus(x):
    return np.log1p(np.exp(x))


def silu(x):
    return x / (1 + np.exp(-x))


def loop(x, dt, a, b, c, state):
    """The recurrence of both, in float64: a state [..., N] of what x has at a position."""
    out = []
    for t in range(x.shape[1]):
        shape = (len(x),) + (1,) * (x.ndim - 2) + (-1,)
        step = dt[:, t].reshape(dt[:, t].shape + (1,) * (state.ndim - dt.ndim + 1))
        state = np.exp(step * a) * state + step * x[:, t, ..., None] * b[:, t].reshape(shape)
        out.append((state * c[:, t].reshape(shape)).sum(-1))
    return np.stack(out, 1), state


def worked(way, a, length):
    """Outputs and the last state of the worked example's first positions, in float64."""
    with jax.enable_x64(True):
        given = X[None], softplus(DT + DT_BIAS)[None], B[None], C[None]
        x, dt, b, c = (jnp.asarray(v[:, :length]) for v in given)
        y, state = jax.jit(way)(x, dt, jnp.asarray(a), b, c)
    return np.asarray(y)[0] + np.array([1, 0.5]) * X[:length], state[0]


@pytest.mark.parametrize("chunk", [1, 3])
def test_mamba2_gives_the_worked_numbers(chunk):
    def way(x, *given):
        y, state = ssd(x[..., None], *given, chunk=chunk)
        return y[..., 0], state[:, :, 0]

    y, state = worked(way, [-1.0, -2.0], 4)
    np.testing.assert_allclose(y, MAMBA2_Y, atol=1e-6)
    np.testing.assert_allclose(state, [[1.693271, 1.296296], [-0.042721, 0.333639]], atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 3])
def test_mamba1_gives_the_worked_numbers(chunk):
    a = [[-1.0, -2.0], [-0.5, -1.5]]
    y, state = worked(lambda *given: selective_scan(*given, chunk=chunk), a, 3)
    want = [[2.116595, -0.890766], [0.405910, -0.169435], [0.225017, -0.065297]]
    np.testing.assert_allclose(y, want, atol=1e-6)
    np.testing.assert_allclose(state, [[1.225017, -0.473705], [-1.065297, 0.682323]], atol=1e-6)


def problem(kind, length, dtype=np.float64):
    """Inputs of a recurrence, and a state before it."""
    rng = np.random.default_rng(length)
    x = rng.standard_normal((2, length, 3, 2) if kind == "mamba2" else (2, length, 3))
    a = -np.exp(rng.standard_normal(3 if kind == "mamba2" else (3, 4)))
    b, c = rng.standard_normal((2, 2, length, 4))
    dt = softplus(rng.standard_normal((2, length, 3)))
    state = rng.standard_normal((*x[:, 0].shape, 4))
    return tuple(v.astype(dtype) for v in (x, dt, a, b, c, state))


def ways(kind):
    """Functions that are to be the same."""
    if kind == "mamba1":
        return [lambda *v, q=q: selective_scan(*v[:5], state=v[5], chunk=q) for q in (1, 5)]
    scan = lambda *v: ssd_scan(*v[:5], state=v[5])
    return [scan, lambda *v: ssd(*v[:5], state=v[5], chunk=5)]


@pytest.mark.parametrize("kind", ["mamba2", "mamba1"])
def test_every_way_of_computing_it_is_the_loop_with_the_same_gradients(kind):
    """13 positions: no multiple of the chunks. In float64 to 1e-12, in float32 to 1e-5."""
    given = problem(kind, 13)
    a = given[2][:, None, None] if kind == "mamba2" else given[2]
    want, last = loop(*given[:2], a, *given[3:])

    def outputs_and_gradients(way, dtype):
        inputs = tuple(jnp.asarray(v, dtype) for v in given)
        weights = jnp.asarray(np.cos(np.arange(want.size)).reshape(want.shape), dtype)

        def cost(*inputs):
            y, state = way(*inputs)
            return (y * weights).sum() + (state**2).sum(), (y, state)

        return jax.jit(jax.grad(cost, argnums=range(6), has_aux=True))(*inputs)

    with jax.enable_x64(True):
        found = [outputs_and_gradients(way, jnp.float64) for way in ways(kind)]
        for gradients, (y, state) in found:
            np.testing.assert_allclose(y, want, rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(state, last, rtol=1e-12, atol=1e-12)
            for one, other in zip(gradients, found[0][0]):
                np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)
    way = ways(kind)[1]
    gradients, (y, state) = outputs_and_gradients(way, jnp.float32)
    assert y.dtype == state.dtype == jnp.float32
    for one, other in zip((y, state, *gradients), (want, last, *found[0][0])):
        np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max())


def test_a_long_step_gives_no_number_that_is_not_finite():
    """exp of what lies above the diagonal would be exp(4000)."""
    x, dt, a, b, c, _ = problem("mamba2", 5, np.float32)
    run = jax.jit(jax.value_and_grad(lambda dt: ssd(x, dt, a, b, c)[0].sum()))
    y, gradient = run(dt + 1000.0)
    assert np.isfinite(y)
    assert np.isfinite(gradient).all()


def test_mamba2_has_the_sizes_of_the_official_layer():
    def sizes(module, dim):
        x = jax.ShapeDtypeStruct((1, 2, dim), jnp.float32)
        return nn.unbox(jax.eval_shape(module.init, jax.random.key(0), x))["params"]

    shapes = {name: v.shape for name, v in sizes(Mamba2(), 512).items()}
    assert shapes == {
        "in_proj_kernel": (512, 2096),
        "conv_kernel": (4, 1056),
        "conv_bias": (1056,),
        "dt_bias": (16,),
        "A_log": (16,),
        "D": (16,),
        "norm_scale": (1024,),
        "out_proj_kernel": (1024, 512),
    }
    assert sum(v.size for v in sizes(Mamba2(), 512).values()) == 1_603_792
    # Of D 256, inner 512, N 16 and rank 16, by the official layer's formula.
    one = 256 * 1024 + 512 * 4 + 512 + 512 * 48 + 16 * 512 + 512 + 512 * 16 + 512 + 512 * 256
    assert sum(v.size for v in sizes(Mamba1(), 256).values()) == one


@pytest.mark.parametrize("module", [Mamba2(head_dim=8), Mamba1()])
def test_it_begins_as_the_official_layers_do(module):
    init = jax.jit(module.init)
    p = nn.unbox(init(jax.random.key(0), np.zeros((1, 1, 256), np.float32)))["params"]
    dt = softplus(np.float64(p["dt_bias"]))
    assert 1e-3 * 0.99 < dt.min() < 2e-3
    assert 0.05 < dt.max() < 0.1 * 1.01
    assert np.log(dt).mean() == pytest.approx(np.log(1e-2), abs=0.4)
    rates = np.exp(p["A_log"])
    if isinstance(module, Mamba1):
        np.testing.assert_allclose(rates, np.tile(np.arange(1, 17.0), (512, 1)), rtol=1e-5)
        assert 0.24 < np.abs(p["dt_proj_kernel"]).max() <= 0.25
    else:
        assert 1 <= rates.min() < 2.5
        assert 14.5 < rates.max() <= 16
    assert np.all(p["D"] == 1)
    assert 0.062 < np.abs(p["in_proj_kernel"]).max() <= 1 / 16
    assert 0.48 < np.abs(p["conv_kernel"]).max() <= 0.5


def layer_by_hand(p, x, module):
    """Mamba-2 of one row [L, D], in float64."""
    p = {name: np.float64(v) for name, v in p.items()}
    n, inner = module.d_state, module.expand * x.shape[1]
    z, mixed, dt = np.split(x @ p["in_proj_kernel"], [inner, 2 * inner + 2 * n], 1)
    padded = np.concatenate([np.zeros((module.d_conv - 1, mixed.shape[1])), mixed])
    taps = [padded[i : i + len(x)] * p["conv_kernel"][i] for i in range(module.d_conv)]
    inside, b, c = np.split(silu(sum(taps) + p["conv_bias"]), [inner, inner + n], 1)
    heads = inside.reshape(1, len(x), -1, module.head_dim)
    state = np.zeros((*heads[:, 0].shape, n))
    a = -np.exp(p["A_log"])[:, None, None]
    y, _ = loop(heads, softplus(dt + p["dt_bias"])[None], a, b[None], c[None], state)
    y = (y + p["D"][:, None] * heads)[0].reshape(len(x), inner)
    return gated_norm(y, z, p["norm_scale"]) @ p["out_proj_kernel"]


def gated_norm(y, z, scale):
    gated = y * silu(z)
    return gated / np.sqrt((gated**2).mean(1, keepdims=True) + 1e-5) * scale


def test_mamba2_is_the_loop_with_its_gate_before_the_norm():
    z = np.array([[0, 1], [1, -1], [2, 0.5], [-0.5, 1.5]])
    want = [[0, -2.828360], [1.405557, 0.308085], [1.406134, 0.300231], [-0.863273, 2.240303]]
    np.testing.assert_allclose(gated_norm(MAMBA2_Y, z, [1, 2]), want, atol=2e-6)
    variables, whole, _ = prepared("mamba2")
    for row, y in zip(stream(11), whole):
        want = layer_by_hand(variables["params"], np.float64(row), LAYERS["mamba2"])
        np.testing.assert_allclose(y, want, atol=1e-5)


# From the reference's names to ours; its matrices map rows [..., D].
NAMES = {
    "in_proj.weight": ("in_proj_kernel", lambda w: w.T),
    "conv1d.weight": ("conv_kernel", lambda w: w[:, 0].T),
    "conv1d.bias": ("conv_bias", lambda w: w),
    "dt_bias": ("dt_bias", lambda w: w),
    "A_log": ("A_log", lambda w: w),
    "D": ("D", lambda w: w),
    "norm.weight": ("norm_scale", lambda w: w),
    "out_proj.weight": ("out_proj_kernel", lambda w: w.T),
}


@pytest.mark.parametrize("chunk", [None, 8])
def test_mamba2_is_the_reference_with_its_gradients(parity, chunk):
    facts, arrays = parity.json("mamba2_small"), parity.arrays("mamba2_small")
    weights = parity.weights(facts["entries"])
    params = {ours: to(weights[name]) for name, (ours, to) in NAMES.items()}
    module = Mamba2(d_state=8, head_dim=8, chunk=chunk)

    @jax.jit
    def run(params, x):
        def cost(params, x):
            y = module.apply({"params": params}, x)
            return (y * arrays["cotangent"]).sum(), y

        return jax.grad(cost, argnums=(0, 1), has_aux=True)(params, x)

    (gradients, by_x), y = run(params, arrays["x"])

    def close(found, want):
        np.testing.assert_allclose(found, want, atol=1e-5 * np.abs(want).max())

    close(y, arrays["y"])
    close(by_x, arrays["grad/x"])
    for name, (ours, to) in NAMES.items():
        close(gradients[ours], to(arrays[f"grad/{name}"]))


def pieces_are_the_whole(kind, cuts):
    module, x = LAYERS[kind], stream(11)
    variables, whole, step = prepared(kind)
    cache, rows = {}, []
    for first, last in zip([0, *sorted(cuts)], [*sorted(cuts), 11]):
        y, cache = step({**variables, **cache}, x[:, first:last])
        rows.append(y)
    np.testing.assert_allclose(np.concatenate(rows, 1), whole, atol=2e-6)
    assert cache["cache"]["past"].shape[1] == module.d_conv - 1


@pytest.mark.parametrize("kind", LAYERS)
def test_pieces_with_the_cache_are_the_whole(kind):
    pieces_are_the_whole(kind, range(1, 11))
    pieces_are_the_whole(kind, [1, 6])


@pytest.mark.slow
@pytest.mark.parametrize("kind", LAYERS)
@settings(max_examples=30, deadline=None)
@given(cuts=st.sets(st.integers(1, 10), max_size=6))
def test_any_pieces_with_the_cache_are_the_whole(kind, cuts):
    pieces_are_the_whole(kind, cuts)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(length=st.integers(1, 12), chunk=st.integers(1, 14))
def test_any_chunk_of_any_length_is_the_scan(length, chunk):
    for kind in ("mamba2", "mamba1"):
        x, dt, a, b, c, state = problem(kind, length)
        y, last = loop(x, dt, a[:, None, None] if kind == "mamba2" else a, b, c, state)
        way = ssd if kind == "mamba2" else selective_scan
        with jax.enable_x64(True):
            given = (jnp.asarray(v) for v in (x, dt, a, b, c))
            found = way(*given, chunk=chunk, state=jnp.asarray(state))
        np.testing.assert_allclose(found[0], y, atol=1e-12)
        np.testing.assert_allclose(found[1], last, atol=1e-12)


@pytest.mark.parametrize("kind", LAYERS)
def test_nothing_of_what_is_not_valid_is_seen(kind):
    """What fills holes, and what follows the end, changes nothing."""
    module, x = LAYERS[kind], stream(11)
    variables, whole, _ = prepared(kind)
    apply = jax.jit(module.apply)
    valid = np.ones((2, 11), bool)
    valid[0, [2, 3, 6]] = valid[1, 5:] = False
    y = apply(variables, x, valid)
    junk = np.where(valid[..., None], x, np.nan)
    np.testing.assert_array_equal(apply(variables, junk, valid), y)
    assert not np.asarray(y)[~valid].any()
    # So a row that ends early is as it would be alone.
    np.testing.assert_allclose(y[1, :5], whole[1, :5], atol=1e-6)
    np.testing.assert_allclose(y[0, :2], whole[0, :2], atol=1e-6)
    assert np.abs(y[0, 4] - whole[0, 4]).max() > 1e-3


def test_the_state_stays_over_a_hole():
    x, dt, a, b, c, state = problem("mamba2", 6, np.float32)
    dt[:, 2:5] = 0
    y, last = jax.jit(lambda *v: ssd(*v[:5], chunk=4, state=v[5]))(x, dt, a, b, c, state)
    kept = [0, 1, 5]
    given = x[:, kept], dt[:, kept], a[:, None, None], b[:, kept], c[:, kept], state
    want, state = loop(*given)
    np.testing.assert_allclose(last, state, atol=1e-5)
    np.testing.assert_allclose(y[:, kept], want, atol=1e-5)


@pytest.mark.parametrize("kind", ["mamba2", pytest.param("mamba1", marks=pytest.mark.slow)])
def test_bfloat16_is_close_and_keeps_states_in_float32(kind):
    module, x = LAYERS[kind].clone(dtype=jnp.bfloat16), stream(11)
    variables, whole, _ = prepared(kind)

    @jax.jit
    def run(variables, x):
        def cost(x):
            y, cache = module.apply(variables, x, mutable=["cache"])
            return y.astype(jnp.float32).sum(), (y, cache)

        return jax.grad(cost, has_aux=True)(x)

    gradient, (y, cache) = run(variables, x)
    assert y.dtype == jnp.bfloat16
    assert cache["cache"]["state"].dtype == jnp.float32
    np.testing.assert_allclose(y.astype(np.float32), whole, atol=0.03 * np.abs(whole).max())
    assert np.isfinite(gradient).all()


def test_a_head_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"context\.head_dim .*expand=2 x 8 = 16; .* as 16"):
        Mamba2().init(jax.random.key(0), stream(2))


@pytest.mark.slow
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2), (1, 4, 2), (1, 1, 8)])
def test_a_mesh_of_eight_is_one_device(kind, shape):
    module, x = LAYERS[kind], stream(11, rows=8)
    variables = drawn(module, x)

    def cost(variables, x):
        return (module.apply(variables, x) ** 2).sum()

    value, gradients = jax.jit(jax.value_and_grad(cost))(variables, x)
    mesh = sharding.make_mesh(**dict(zip(sharding.MESH_AXES, shape)))
    with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
        boxed = jax.eval_shape(module.init, jax.random.key(0), x)
        placed = jax.device_put(variables, sharding.state_shardings(mesh, boxed))
        rows = jax.device_put(x, sharding.batch_sharding(mesh))
        found, others = jax.jit(jax.value_and_grad(cost))(placed, rows)
    assert found == pytest.approx(value, rel=1e-5)
    for one, other in zip(jax.tree.leaves(others), jax.tree.leaves(gradients)):
        np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max())


def test_mamba2_is_the_layer_of_mamba2_jax():
    """Another port to JAX, with its own chunks: the same weights, outputs and states."""
    theirs = pytest.importorskip("mamba2_jax.modeling")
    nnx = pytest.importorskip("flax.nnx")
    sizes = {"hidden_size": 16, "state_size": 8, "head_dim": 8, "chunk_size": 4}
    layer = theirs.Mamba2Mixer(theirs.Mamba2Config(**sizes), 0, rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).standard_normal((2, 11, 16), np.float32)
    params = {
        "in_proj_kernel": layer.in_proj.kernel[...],
        "conv_kernel": layer.conv1d.conv.kernel[...][:, 0],
        "conv_bias": layer.conv1d.conv.bias[...] + 0.1,
        "dt_bias": layer.dt_bias[...],
        "A_log": layer.A_log[...],
        "D": layer.D[...] + 0.3,
        "norm_scale": layer.norm.weight[...] * 1.5,
        "out_proj_kernel": layer.out_proj.kernel[...],
    }
    layer.conv1d.conv.bias[...] = params["conv_bias"]
    layer.D[...] = params["D"]
    layer.norm.weight[...] = params["norm_scale"]
    with jax.numpy_rank_promotion("allow"):
        want, past, state = layer(x)
    module = Mamba2(d_state=8, head_dim=8, chunk=3)
    found, kept = module.apply({"params": params}, x, mutable=["cache"])
    np.testing.assert_allclose(found, want, atol=1e-5)
    np.testing.assert_allclose(kept["cache"]["state"], state, atol=1e-5)
    np.testing.assert_allclose(kept["cache"]["past"], np.moveaxis(past, 1, 2), atol=1e-6)
