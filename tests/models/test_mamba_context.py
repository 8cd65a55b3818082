"""State-space layers over the tokens of a night, as a context."""

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypnos_jax import plugins, sharding, state
from hypnos_jax.models.mamba_context import MambaContext
from hypnos_jax.nn.batch_norm import BatchNorm
from hypnos_jax.nn.ssm import Mamba2

ROWS, LENGTH, DIM = 3, 10, 8
TINY = {"d_state": 3, "head_dim": 4}
VALID = np.ones((ROWS, LENGTH), bool)
VALID[1, 6:] = False
VALID[2, 3] = False


def tokens(length=LENGTH, rows=ROWS):
    return np.random.default_rng(0).standard_normal((rows, length, DIM), np.float32)


def drawn(module, x=None, valid=VALID):
    x = tokens() if x is None else x
    variables = nn.unbox(jax.jit(module.init)(jax.random.key(0), x, valid))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda v: v + rng.uniform(0, 0.2, v.shape).astype(v.dtype), variables)


def test_by_default_it_is_the_layer_added_to_the_normalised_tokens():
    assert plugins.load("models", "mamba_context") is MambaContext
    module, x = MambaContext(**TINY), tokens()
    variables = drawn(module)
    y, updated = jax.jit(lambda v: module.apply(v, x, VALID, train=True, mutable=["batch_stats"]))(
        variables
    )
    part = {name: v["batch_norm"] for name, v in variables.items()}
    norm = jax.jit(lambda v: BatchNorm().apply(v, x, VALID, train=True, mutable=["batch_stats"]))
    s, stats = norm(part)
    layer = {"params": variables["params"]["layer_0"]}
    want = s + jax.jit(Mamba2(**TINY).apply)(layer, s, VALID)
    np.testing.assert_allclose(y, want, atol=1e-5)
    kept = updated["batch_stats"]["batch_norm"]
    np.testing.assert_allclose(kept["mean"], stats["batch_stats"]["mean"], rtol=1e-6)
    assert module.causal


def test_neuronets_context_changes_the_width_and_adds_nothing():
    options = {"kind": "mamba1", "residual": False, "batch_norm": False, "embed": (6, 4)}
    module = MambaContext(**options)
    shapes = jax.eval_shape(module.init, jax.random.key(0), tokens(), VALID)
    params = flax.traverse_util.flatten_dict(nn.unbox(shapes)["params"], sep="/")
    assert {name: v.shape for name, v in params.items() if not name.startswith("layer")} == {
        "embed_0/kernel": (DIM, 6),
        "embed_0/bias": (6,),
        "embed_norm_0/scale": (6,),
        "embed_norm_0/bias": (6,),
        "embed_1/kernel": (6, 4),
        "embed_1/bias": (4,),
    }
    assert jax.eval_shape(module.apply, shapes, tokens(), VALID).shape == (ROWS, LENGTH, 4)
    variables = drawn(module)
    silent = variables["params"]["layer_0"]["out_proj_kernel"]
    variables["params"]["layer_0"]["out_proj_kernel"] = 0 * silent
    assert not np.asarray(jax.jit(module.apply)(variables, tokens(), VALID)).any()


def test_decay_takes_the_matrices_and_the_taps_alone():
    module = MambaContext(**TINY, pre_norm=True, embed=(8, 8))
    shapes = jax.eval_shape(module.init, jax.random.key(0), tokens(), VALID)["params"]
    decayed = flax.traverse_util.flatten_dict(state.matrices(shapes), sep="/")
    assert {name for name, yes in decayed.items() if yes} == {
        "embed_0/kernel",
        "embed_1/kernel",
        "layer_0/in_proj_kernel",
        "layer_0/conv_kernel",
        "layer_0/out_proj_kernel",
    }


STACKED = {**TINY, "layers": 2, "pre_norm": True, "chunk": 4}


@pytest.fixture(scope="module")
def stacked():
    """Two layers, their variables, and a jitted application."""
    module = MambaContext(**STACKED)
    return module, drawn(module), jax.jit(module.apply)


def test_a_night_an_epoch_at_a_time_is_the_whole_night(stacked):
    module, variables, apply = stacked
    x = tokens()
    whole = apply(variables, x, VALID)
    step = jax.jit(lambda v, x, valid: module.apply(v, x, valid, mutable=["cache"]))
    cache, rows = {}, []
    for t in range(LENGTH):
        y, cache = step({**variables, **cache}, x[:, t : t + 1], VALID[:, t : t + 1])
        rows.append(y)
    np.testing.assert_allclose(np.concatenate(rows, 1), whole, atol=1e-5)


def test_a_row_is_the_same_alone_and_whatever_pads_it(stacked):
    module, variables, apply = stacked
    x = tokens()
    y = apply(variables, x, VALID)
    other = np.where(VALID[..., None], x, 7.0)
    np.testing.assert_allclose(apply(variables, other, VALID)[VALID], y[VALID], atol=1e-6)
    one = np.repeat(VALID[1:2], ROWS, 0)
    alike = apply(variables, np.repeat(x[1:2], ROWS, 0), one)
    np.testing.assert_allclose(alike[2, :6], y[1, :6], atol=1e-6)
    short = jax.jit(module.apply)(variables, x[1:2, :1], VALID[1:2, :1])  # one row of one token
    np.testing.assert_allclose(short[0, 0], y[1, 0], atol=1e-5)


def test_both_directions_see_all_of_the_night_and_nothing_of_what_pads_it():
    module, x = MambaContext(**TINY, bidirectional=True), tokens()
    assert not module.causal
    variables = drawn(module)
    apply = jax.jit(module.apply)
    y = apply(variables, x, VALID)
    part = {name: v["batch_norm"] for name, v in variables.items()}
    s = jax.jit(BatchNorm().apply)(part, x, VALID)
    layer = jax.jit(Mamba2(**TINY).apply)
    there = layer({"params": variables["params"]["layer_0"]}, s, VALID)
    back = {"params": variables["params"]["layer_0_back"]}
    # Backwards the night's end comes first: here without what pads it.
    end = 6
    night = layer(back, s[1:2, :end][:, ::-1], VALID[1:2, :end])[0, ::-1]
    np.testing.assert_allclose(y[1, :end], s[1, :end] + there[1, :end] + night, atol=1e-5)
    other = np.where(VALID[..., None], x, 7.0)
    np.testing.assert_allclose(apply(variables, other, VALID)[VALID], y[VALID], atol=1e-6)
    later = x.copy()
    later[0, -1] += 1
    assert np.abs(apply(variables, later, VALID)[0, 0] - y[0, 0]).max() > 1e-5
    with pytest.raises(ValueError, match=r"context\.bidirectional=True .* cannot come in pieces"):
        module.apply(variables, x, VALID, mutable=["cache"])


def test_dropout_is_drawn_in_training_and_remat_changes_nothing(stacked):
    _, variables, apply = stacked
    x = tokens()
    dropping = MambaContext(**STACKED, dropout=0.5, batch_norm=True, remat="all")
    np.testing.assert_allclose(
        jax.jit(dropping.apply)(variables, x, VALID), apply(variables, x, VALID), atol=1e-6
    )

    @jax.jit
    def run(key):
        return dropping.apply(
            variables, x, VALID, train=True, rngs={"dropout": key}, mutable=["batch_stats"]
        )[0]

    assert np.abs(run(jax.random.key(0)) - run(jax.random.key(1))).max() > 0.01


@pytest.mark.parametrize(
    "options, message",
    [
        ({"head_dim": 64}, r"context\.head_dim"),
        ({"kind": "lstm"}, r"context\.kind='lstm' .*mamba1"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(MambaContext(**options).init, jax.random.key(0), tokens(), VALID)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_long_night_takes_a_step(dtype):
    x, valid = tokens(10_000, 1), np.ones((1, 10_000), bool)
    module = MambaContext(**TINY, dtype=dtype)
    variables = drawn(module, x, valid)

    def cost(params):
        y, _ = module.apply(
            {**variables, "params": params}, x, valid, train=True, mutable=["batch_stats"]
        )
        return (y**2).mean()

    value, gradients = jax.jit(jax.value_and_grad(cost))(variables["params"])
    assert np.isfinite(value)
    assert jax.tree.all(jax.tree.map(lambda v: bool(jnp.isfinite(v).all()), gradients))


@pytest.mark.slow
def test_a_mesh_of_eight_is_one_device():
    module, x, valid = MambaContext(**STACKED), tokens(rows=8), np.ones((8, LENGTH), bool)
    variables = drawn(module, x, valid)

    def cost(params):
        y, stats = module.apply(
            {**variables, "params": params}, x, valid, train=True, mutable=["batch_stats"]
        )
        return (y**2).sum(), stats

    (value, stats), gradients = jax.jit(jax.value_and_grad(cost, has_aux=True))(variables["params"])
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
        boxed = jax.eval_shape(module.init, jax.random.key(0), x, valid)
        placed = jax.device_put(variables, sharding.state_shardings(mesh, boxed))
        x = jax.device_put(x, sharding.batch_sharding(mesh))
        variables = placed
        (found, same), others = jax.jit(jax.value_and_grad(cost, has_aux=True))(placed["params"])
    assert found == pytest.approx(value, rel=1e-5)
    for one, other in zip(jax.tree.leaves((others, same)), jax.tree.leaves((gradients, stats))):
        np.testing.assert_allclose(one, other, atol=2e-5 * max(np.abs(other).max(), 1e-3))
