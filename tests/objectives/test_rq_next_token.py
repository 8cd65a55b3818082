"""The next-token loss: its mean, what is left out of it, and that it can be learnt."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hypnos_jax import plugins, sharding
from hypnos_jax.objectives.rq_next_token import RqNextToken

MODALITIES = (
    {"name": "eeg_c3", "levels": 2, "codes": 16, "channel_id": 0, "group": "eeg"},
    {"name": "eeg_c4", "levels": 2, "codes": 16, "channel_id": 1, "group": "eeg"},
    {"name": "ecg", "levels": 3, "codes": 8, "channel_id": 5, "group": "ecg"},
)
MODEL = {
    "modalities": MODALITIES,
    "dim": 16,
    "layers": 2,
    "heads": 2,
    "local_window": 4,
    "wide_window": 8,
    "wide_every": 2,
    "depth_dim": 16,
    "depth_layers": 1,
    "depth_heads": 2,
    "masking": "none",
}
ROWS, S = 8, 12


def batch_of(codes=(16, 16, 16, 16, 8, 8, 8), rows=ROWS, seconds=S):
    rng = np.random.default_rng(0)
    batch = {
        "codes": jnp.asarray(rng.integers(0, codes, (rows, seconds, len(codes))), jnp.int32),
        "present": jnp.ones((rows, 3), bool),
        "channel_ids": jnp.asarray(np.tile(np.array([[0, 1, 5]], np.int32), (rows, 1))),
        "valid": jnp.asarray(rng.random((rows, seconds, 3)) < 0.8),
        "tracks": jnp.zeros((rows, seconds, 3, 2)),
        "weight": jnp.asarray([1.0] * (rows - 2) + [0.0, 1.0]),
    }
    batch["present"] = batch["present"].at[1, 2].set(False).at[3, 0].set(False)
    return batch


def objective(**model):
    return RqNextToken({**MODEL, **model})


@functools.cache
def variables():
    shapes = nn.unbox(jax.eval_shape(objective().init, jax.random.key(0), batch_of()))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: jnp.asarray(0.2 * rng.normal(size=x.shape), x.dtype), shapes)


@functools.cache
def loss_function(weights=()):
    return jax.jit(RqNextToken(MODEL, weights).apply)


def value(batch, weights=()):
    loss = loss_function(weights)(variables(), batch)
    return float(loss.total / loss.weight)


def expected(batch, weights=(1, 1, 1)):
    """The mean over modalities of the mean over seconds of the mean over levels, in numpy."""
    run = jax.jit(nn.apply(lambda m, b: m.network(b), objective()))
    nll = np.asarray(run(variables(), batch)[1]["nll"])
    terms, kept = [], []
    for i, columns in enumerate([slice(0, 2), slice(2, 4), slice(4, 7)]):
        each = [
            nll[b, s, columns].mean()
            for b in range(ROWS)
            for s in range(S)
            if batch["weight"][b] > 0 and batch["present"][b, i] and batch["valid"][b, s, i]
        ]
        if each:
            terms.append(np.mean(each))
            kept.append(weights[i])
    return np.average(terms, weights=kept)


def test_the_loss_is_the_documented_mean():
    batch = batch_of()
    assert value(batch) == pytest.approx(expected(batch), rel=1e-5)
    weights = (("ecg", 3.0), ("eeg_c3", 0.5))
    assert value(batch, weights) == pytest.approx(expected(batch, (0.5, 1, 3)), rel=1e-5)
    batch["present"] = batch["present"].at[:, 1].set(False)
    assert value(batch) == pytest.approx(expected(batch), rel=1e-5)


def test_micro_batches_add_up_to_the_whole():
    batch = objective().weigh(batch_of())
    whole = loss_function()(variables(), batch)
    parts = [
        loss_function()(variables(), {k: v[i : i + 4] for k, v in batch.items()}) for i in (0, 4)
    ]
    added = jax.tree.map(lambda *x: sum(x), *parts)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), added, whole)


def test_padding_absent_channels_and_invalid_seconds_count_for_nothing():
    batch = batch_of()
    codes = np.array(batch["codes"])
    codes[-2] = 5  # weight 0
    codes[1, :, 4:] = 5  # ecg is absent in row 1
    other = {**batch, "codes": jnp.asarray(codes)}
    one, two = (loss_function()(variables(), b) for b in (batch, other))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), one, two)
    # A code that no table has spoils only its own row, and not at all where it does not count.
    codes[-2] = 99
    assert np.isfinite(value({**batch, "codes": jnp.asarray(codes)}))
    codes[0] = 99
    assert np.isnan(value({**batch, "codes": jnp.asarray(codes)}))


def test_a_batch_of_padding_has_no_weight():
    batch = {**batch_of(), "weight": jnp.zeros(ROWS)}
    loss = loss_function()(variables(), batch)
    assert float(loss.total) == float(loss.weight) == 0
    assert all(float(weight) == 0 for _, weight in loss.metrics.values())


def test_metrics_are_per_modality_and_per_level():
    batch = batch_of()
    loss = loss_function()(variables(), batch)
    means = {name: float(total / weight) for name, (total, weight) in loss.metrics.items()}
    by_modality = [means[f"loss/{name}"] for name in ("eeg_c3", "eeg_c4", "ecg")]
    assert np.mean(by_modality) == pytest.approx(value(batch), rel=1e-5)
    assert set(means) == {
        *(f"{key}/{name}" for key in ("loss", "accuracy") for name in objective().names()),
        *(f"{key}/level_{k}" for key in ("loss", "accuracy") for k in range(3)),
        "max_logit",
        "log_partition",
    }
    seconds = {name: float(weight) for name, (_, weight) in loss.metrics.items()}
    assert seconds["loss/level_2"] == seconds["loss/ecg"]  # the ecg alone has three levels
    counted = np.asarray(batch["valid"] & batch["present"][:, None])[[0, 1, 2, 3, 4, 5, 7]]
    assert seconds["loss/ecg"] == counted[..., 2].sum()
    assert seconds["loss/level_0"] == counted.sum()
    assert means["max_logit"] > 0


def test_the_untrained_model_pays_the_logarithm_of_the_codes():
    modality = {"name": "ecg", "levels": 2, "codes": 2048, "channel_id": 0, "group": "ecg"}
    module = objective(modalities=(modality,))
    batch = batch_of((2048, 2048), rows=2)
    batch |= {key: batch[key][..., :1] for key in ("present", "valid", "channel_ids")}
    batch |= {"weight": jnp.ones(2), "present": jnp.ones((2, 1), bool)}
    loss, _ = jax.jit(module.init_with_output)(jax.random.key(0), batch)
    assert float(loss.total / loss.weight) == pytest.approx(7.62, abs=0.02)


def test_absent_modalities_give_their_tables_no_gradient():
    batch = batch_of()
    batch["present"] = jnp.ones((ROWS, 3), bool).at[:, 2].set(False)
    loss = lambda v: loss_function()(v, batch).total
    gradients = jax.jit(jax.grad(loss))(variables())["params"]["network"]
    flat = {"/".join(k.key for k in p): np.abs(x).max() for p, x in leaves(gradients)}
    ecg = {name: value for name, value in flat.items() if "ecg_" in name}
    assert len(ecg) == 5
    assert not any(ecg.values())
    assert all(value > 0 for name, value in flat.items() if "eeg_" in name)
    assert (np.asarray(gradients["channel_embedding"])[5] == 0).all()


def leaves(tree):
    return jax.tree_util.tree_leaves_with_path(tree)


def test_every_parameter_learns_from_a_full_batch():
    batch = {**batch_of(), "present": jnp.ones((ROWS, 3), bool)}
    gradients = jax.jit(jax.grad(lambda v: loss_function()(v, batch).total))(variables())
    dead = [jax.tree_util.keystr(path) for path, x in leaves(gradients) if not np.abs(x).max() > 0]
    assert not dead


@pytest.mark.slow
def test_one_batch_is_learnt_by_heart():
    module = objective(dim=32, depth_dim=32, masking="crp")
    # Random codes: the only way to predict them is to remember them.
    batch = {**batch_of(rows=2), "weight": jnp.ones(2), "valid": jnp.ones((2, S, 3), bool)}
    batch["present"] = jnp.ones((2, 3), bool)
    params = nn.unbox(jax.jit(module.init)(jax.random.key(0), batch))["params"]
    tx = optax.adam(optax.cosine_decay_schedule(2e-2, 250))

    def mean(params, key):
        loss = module.apply({"params": params}, batch, train=True, rngs={"crp": key})
        return loss.total / loss.weight

    def step(carry, key):
        params, state = carry
        value, gradient = jax.value_and_grad(mean)(params, key)
        updates, state = tx.update(gradient, state)
        return (optax.apply_updates(params, updates), state), value

    keys = jax.random.split(jax.random.key(1), 250)
    run = jax.jit(lambda params: jax.lax.scan(step, (params, tx.init(params)), keys)[1])
    losses = np.asarray(run(params))
    assert losses[0] == pytest.approx((2 * np.log(16) + np.log(8)) / 3, abs=0.1)
    assert losses[-1] < 0.1


def test_embeddings_have_one_row_per_second_and_the_asked_lag():
    batch = batch_of()
    at = lambda lag: RqNextToken(MODEL, embed_lag=lag)
    run = lambda lag: jax.jit(functools.partial(at(lag).apply, method="embed"))(variables(), batch)
    lagged, fresh = run(True), run(False)
    assert lagged.rows.shape == fresh.rows.shape == (ROWS, S, 3, 16)
    np.testing.assert_allclose(fresh.rows[:, :-1], lagged.rows[:, 1:], atol=1e-5)
    ecg = objective().names().index("ecg")
    assert (np.asarray(lagged.rows)[1, :, ecg] == 0).all()
    assert not np.asarray(lagged.valid)[1, :, ecg].any()
    assert objective().reach == 3 + 7


def test_amplitude_tracks_of_seconds_seen_matter_where_they_are_valid():
    module = objective(use_tracks=True)
    batch = {**batch_of(), "present": jnp.ones((ROWS, 3), bool)}
    shapes = nn.unbox(jax.eval_shape(module.init, jax.random.key(0), batch))
    ones = jax.tree.map(lambda x: 0.1 * jnp.sin(jnp.arange(x.size)).reshape(x.shape), shapes)
    run = jax.jit(functools.partial(module.apply, method="embed"))
    second = int(np.argmax(np.asarray(batch["valid"])[0, :, 0]))
    loud = {**batch, "tracks": batch["tracks"].at[0, second, 0].set(3.0)}
    before, after = (run(ones, x).rows[0, :, 0] for x in (batch, loud))
    np.testing.assert_array_equal(before[: second + 1], after[: second + 1])
    assert (np.asarray(before != after)[second + 1]).any()
    quiet = {**loud, "valid": batch["valid"].at[0, second, 0].set(False)}
    np.testing.assert_allclose(run(ones, quiet).rows[0, :, 0], before, atol=1e-6)


def test_a_mesh_of_eight_devices_gives_the_loss_of_one():
    batch = batch_of()
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    boxed = jax.eval_shape(objective().init, jax.random.key(0), batch)
    places = sharding.state_shardings(mesh, boxed)  # refuses a name that RULES lacks
    spread = {str(place.spec) for place in jax.tree.leaves(places)}
    assert len(spread) > 3
    whole = variables()  # made without the mesh
    with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
        there = jax.device_put(whole, places)
        rows = jax.device_put(batch, sharding.batch_sharding(mesh))
        loss = jax.jit(objective().apply)(there, rows)
    assert float(loss.total / loss.weight) == pytest.approx(value(batch), rel=1e-5)


def test_the_folder_lists_it_and_wrong_weights_are_named():
    assert plugins.load("objectives", "rq_next_token") is RqNextToken
    with pytest.raises(ValueError, match="'eeg_f3'"):
        RqNextToken(MODEL, (("eeg_f3", 2.0),)).weigh(batch_of())
