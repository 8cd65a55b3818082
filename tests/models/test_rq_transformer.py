"""Promises of the RQ-Transformer: causality, absence, groups, streaming, levels, sizes."""

import collections
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxpr_shapes import largest

from configs.hypnos.rq_transformer import get_config
from hypnos_jax.models.depth_transformer import draw_code
from hypnos_jax.models.rq_transformer import RqTransformer, chinese_restaurant

MODALITIES = (
    {"name": "eeg_c3", "levels": 3, "codes": 12, "channel_id": 0, "group": "eeg"},
    {"name": "ecg", "levels": 2, "codes": 8, "channel_id": 5, "group": "ecg"},
    {"name": "eeg_c4", "levels": 3, "codes": 12, "channel_id": 1, "group": "eeg"},
    {"name": "resp_abd", "levels": 2, "codes": 8, "channel_id": 6, "group": "resp"},
)
SMALL = {
    "modalities": MODALITIES,
    "dim": 16,
    "layers": 4,
    "heads": 2,
    "local_window": 3,
    "wide_window": 5,
    "wide_every": 2,
    "modality_every": 2,
    "depth_dim": 12,
    "depth_layers": 1,
    "depth_heads": 2,
    "chunk": 8,
    "layer_scale": 0.5,  # so that what may flow does flow
}
S = 24
CODES = np.repeat([12, 8, 12, 8], [3, 2, 3, 2])


def batch_of(rows=2, seconds=S, seed=0):
    rng = np.random.default_rng(seed)
    ids = np.tile(np.array([[0, 5, 1, 6]], np.int32), (rows, 1))
    return {
        "codes": jnp.asarray(rng.integers(0, CODES, (rows, seconds, 10)), jnp.int32),
        "present": jnp.ones((rows, 4), bool),
        "channel_ids": jnp.asarray(ids),
        "valid": jnp.ones((rows, seconds, 4), bool),
        "tracks": jnp.asarray(rng.normal(size=(rows, seconds, 4, 2)), jnp.float32),
        "weight": jnp.ones(rows),
    }


@functools.cache
def variables_of(**options):
    """Parameters of no particular size, so that everything that may matter does."""
    model = RqTransformer(**{**SMALL, **options})
    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), batch_of()))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype), shapes)


@functools.cache
def function(method, **options):
    model = RqTransformer(**{**SMALL, **options})
    return jax.jit(functools.partial(model.apply, method=method))


def context(batch, variables=None):
    return np.asarray(function("context")(variables or variables_of(), batch))


@functools.cache
def influence(train, masking="crp"):
    """Gradients of the context's seconds 9 and 20 with respect to every second's tracks."""
    model = RqTransformer(**SMALL, use_tracks=True, masking=masking)

    def outputs(variables, tracks, key):
        batch = {**batch_of(rows=4), "tracks": tracks}
        run = lambda m: m._run(m._shifted(batch, S - 1), *m._mask(batch["present"], train))
        x = nn.apply(run, model)(variables, rngs={"crp": key})
        return x[:, :, jnp.array([9, 20])].sum((0, 3))  # rows do not mix: [M, 2]

    variables = variables_of(use_tracks=True)

    @jax.jit
    def jacobian(tracks):
        # One cotangent after the other: exact zeros are asked for, batched ones may round.
        _, pull = jax.vjp(lambda tracks: outputs(variables, tracks, jax.random.key(3)), tracks)
        return jax.lax.map(lambda one: pull(one)[0], jnp.eye(8).reshape(8, 4, 2))

    gradients = np.abs(np.asarray(jacobian(batch_of(rows=4)["tracks"])))
    return gradients.reshape(4, 2, *gradients.shape[1:]).max(-1)  # [M out, 2, B, S, M in]


def test_gradients_to_the_future_are_exactly_zero():
    reach = influence(False).max((0, 2, 4))  # [2, S]
    assert (reach[0, 9:] == 0).all()
    assert (reach[1, 20:] == 0).all()
    assert (reach[0, 1:9] > 0).all()
    model = RqTransformer(**SMALL)
    assert model.reach == 2 * (2 + 4)
    assert (reach[1, : 20 - 1 - model.reach] == 0).all()
    assert (reach[1, 20 - 1 - model.reach : 20] > 0).all()


def test_every_present_modality_is_seen_at_evaluation():
    assert (influence(False).max((1, 3)) > 0).all()


def test_groups_in_training_are_closed():
    joined = influence(True).max((1, 3)).swapaxes(0, 1) > 0  # [B, M out, M in]
    partitions = set()
    for together in joined:
        assert (together == together.T).all()
        assert together.diagonal().all()
        assert ((together.astype(int) @ together > 0) == together).all()  # transitive
        partitions.add(together.tobytes())
    assert len(partitions) > 1  # drawn per row


def test_isolated_modalities_see_only_themselves():
    seen = influence(False, "isolate").max((1, 2, 3)) > 0
    np.testing.assert_array_equal(seen, np.eye(4, dtype=bool))


@pytest.mark.parametrize("second", [0, 7, S - 1])
def test_codes_from_a_second_on_leave_its_context_unchanged(second):
    batch = batch_of()
    codes = batch["codes"].at[:, second:].set(0)
    before, after = context(batch), context({**batch, "codes": codes})
    np.testing.assert_array_equal(before[:, :, : second + 1], after[:, :, : second + 1])
    if second + 1 < S:
        assert (before[:, :, second + 1] != after[:, :, second + 1]).any()


def test_absent_modalities_change_nothing_and_return_zeros():
    batch = batch_of()
    batch["present"] = batch["present"].at[:, 1].set(False)
    other = {**batch, "codes": batch["codes"].at[..., 3:5].set(7)}
    other["channel_ids"] = other["channel_ids"].at[:, 1].set(0)
    np.testing.assert_array_equal(context(batch), context(other))
    assert (context(batch)[:, 1] == 0).all()
    assert (context(batch)[:, 0] != context(batch_of())[:, 0]).any()


def test_permuted_modalities_permute_the_outputs():
    batch, variables = batch_of(), variables_of()
    order = np.array([2, 0, 3, 1])
    model = RqTransformer(**{**SMALL, "modalities": tuple(MODALITIES[i] for i in order)})
    starts = np.array([0, 3, 5, 8, 10])
    columns = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in order])
    permuted = {
        "codes": batch["codes"][..., columns],
        "present": batch["present"][:, order],
        "channel_ids": batch["channel_ids"][:, order],
    }

    def move(path, x):
        name = path[-1].key
        if name == "position_embedding":  # [periods, M, D]
            return x[:, order]
        return x[order] if name == "modality_embedding" else x

    moved = jax.tree_util.tree_map_with_path(move, variables)
    apply = lambda method: jax.jit(functools.partial(model.apply, method=method))
    got = apply("context")(moved, permuted)
    np.testing.assert_allclose(got, context(batch)[:, order], atol=1e-5)
    nll = np.asarray(apply("__call__")(moved, permuted)[1]["nll"])
    want = np.asarray(function("__call__")(variables, batch)[1]["nll"])
    np.testing.assert_allclose(nll, want[..., columns], atol=1e-5)


def test_the_full_forward_has_the_same_context():
    batch, variables = batch_of(), variables_of()
    keep = lambda module, _: module.name == "backbone"
    forward = functools.partial(RqTransformer(**SMALL).apply, capture_intermediates=keep)
    _, captured = jax.jit(forward)(variables, batch)
    (full,) = captured["intermediates"]["backbone"]["__call__"]
    np.testing.assert_allclose(full, context(batch), atol=1e-5)


def test_without_lag_each_row_has_seen_its_own_second():
    batch = batch_of()
    without = functools.partial(RqTransformer(**SMALL).apply, lag=False, method="context")
    seen = jax.jit(without)(variables_of(), batch)
    np.testing.assert_allclose(seen[:, :, :-1], context(batch)[:, :, 1:], atol=1e-5)
    assert seen.shape == context(batch).shape


def test_a_chunk_with_its_reach_before_it_equals_a_single_pass():
    batch = batch_of()
    early = RqTransformer(**SMALL).reach + 1
    begin = 20
    chunk = {**batch, "codes": batch["codes"][:, begin - early :]}
    got = function("context")(variables_of(), chunk)
    np.testing.assert_allclose(got[:, :, early:], context(batch)[:, :, begin:], atol=1e-4)


@pytest.mark.parametrize(
    "pieces", [(1,) * 6, pytest.param((5, 1, 15, 3), marks=pytest.mark.slow), (24,)]
)
@pytest.mark.parametrize("use_tracks", [False, True])
def test_seconds_in_pieces_equal_the_full_pass(pieces, use_tracks):
    """Row i of ``advance`` has seen second i; at the start BOS stands for a second before all."""
    batch, variables = batch_of(), variables_of(use_tracks=use_tracks)
    model = RqTransformer(**SMALL, use_tracks=use_tracks)
    advance = jax.jit(functools.partial(model.apply, mutable=["cache"], method="advance"))
    shifted = {
        name: jnp.pad(batch[name], [(0, 0), (1, 0)] + [(0, 0)] * (batch[name].ndim - 2))
        for name in ("codes", "tracks", "valid")
    }
    cache, rows, at = {}, [], 0
    for length in pieces:
        piece = {name: x[:, at : at + length] for name, x in shifted.items()}
        x, cache = advance({**variables, **cache}, {**batch, **piece}, first=at == 0)
        rows.append(x)
        at += length
    got = np.concatenate(rows, axis=2)
    whole = function("context", use_tracks=use_tracks)(variables, batch)
    np.testing.assert_allclose(got, whole[:, :, :at], atol=1e-5)


def test_a_model_without_windows_has_no_stream():
    model = RqTransformer(**{**SMALL, "local_window": None, "wide_every": 0})
    with pytest.raises(ValueError, match="window=None"):
        model.apply(variables_of(), batch_of(), mutable=["cache"], method="advance")


def depth_logits(model, batch):
    return model.depth.logits(model.context(batch), batch["codes"])


def test_a_level_depends_on_the_levels_below_alone():
    batch, variables = batch_of(), variables_of()
    logits = jax.jit(nn.apply(depth_logits, RqTransformer(**SMALL)))
    before = logits(variables, batch)["eeg"]  # [B, 2, S, 3, V]
    assert before.shape == (2, 2, S, 3, 12)
    codes = batch["codes"].at[:, -1, 1].set((batch["codes"][:, -1, 1] + 1) % 12)
    after = logits(variables, {**batch, "codes": codes})["eeg"]
    # level 1 of eeg_c3 in the last second: only its own level 2 changes
    same = np.asarray(before == after).all((0, 4))  # [members, S, K]
    expected = np.ones((2, S, 3), bool)
    expected[0, -1, 2] = False
    np.testing.assert_array_equal(same, expected)


@pytest.mark.parametrize("tie_heads", [False, True])
@pytest.mark.parametrize("tables", ["backbone", "projected"])
def test_shared_code_tables_are_own_ones_of_these_values(tables, tie_heads):
    options = {"tie_heads": tie_heads, "depth_dim": 16 if tables == "backbone" else 12}
    shared = variables_of(**options, depth_tables=tables)["params"]
    depth = dict(shared["depth"])
    for group in ("eeg", "ecg", "resp"):
        table = shared[f"{group}_code_embedding"]
        depth[f"{group}_code_embedding"] = table
        if tables == "projected":
            table_of = depth.pop(f"{group}_code_projection")
            depth[f"{group}_code_embedding"] = table @ table_of
            if tie_heads:
                head = depth.pop(f"{group}_head_projection") @ jnp.swapaxes(table, 1, 2)
                depth[f"{group}_head_kernel"] = head
    own = {"params": {**shared, "depth": depth}}
    options["tie_heads"] = tie_heads and tables == "backbone"
    _, same = function("__call__", **options, depth_tables="own")(own, batch_of())
    options["tie_heads"] = tie_heads
    _, found = function("__call__", **options, depth_tables=tables)({"params": shared}, batch_of())
    np.testing.assert_allclose(found["nll"], same["nll"], atol=1e-4)


def test_sharing_that_cannot_be_is_named():
    with pytest.raises(ValueError, match="depth_dim=12 to be dim=16"):
        variables_of(depth_tables="backbone")
    with pytest.raises(ValueError, match="depth_tables='all'"):
        variables_of(depth_tables="all")
    with pytest.raises(ValueError, match="channel_rows=6"):
        variables_of(channel_rows=6)
    assert "channel_embedding" not in variables_of(channel_rows=0)["params"]


def test_codes_drawn_at_temperature_zero_are_the_likeliest_under_teacher_forcing():
    batch, variables = batch_of(), variables_of()
    draw = functools.partial(RqTransformer(**SMALL).apply, temperature=0.0, method="draw")
    drawn = jax.jit(draw)(variables, context(batch)[:, :, -1], jax.random.key(0))
    assert (np.asarray(drawn) < CODES).all()
    batch["codes"] = batch["codes"].at[:, -1].set(drawn)
    hit = np.asarray(function("__call__")(variables, batch)[1]["hit"])
    assert (hit[:, -1] == 1).all()
    assert hit.mean() < 1


def test_drawn_codes_follow_the_nucleus():
    probabilities = np.array([0.5, 0.3, 0.15, 0.05])
    logits = jnp.tile(jnp.log(jnp.asarray(probabilities))[None], (20_000, 1))
    share = lambda **o: np.bincount(draw_code(logits, jax.random.key(0), **o), minlength=4) / 20_000
    np.testing.assert_allclose(share(temperature=1.0, top_p=1.0), probabilities, atol=0.02)
    np.testing.assert_allclose(share(temperature=1.0, top_p=0.7), [5 / 8, 3 / 8, 0, 0], atol=0.02)
    sharp = probabilities**2 / (probabilities**2).sum()
    np.testing.assert_allclose(share(temperature=0.5, top_p=1.0), sharp, atol=0.02)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_partitions_follow_the_chinese_restaurant_law(alpha):
    labels = np.asarray(chinese_restaurant(jax.random.key(0), 40_000, 8, alpha))
    groups = np.array([len(set(row)) for row in labels.tolist()])
    expected = sum(alpha / (alpha + i) for i in range(8))  # 2.7 at alpha 1
    assert groups.mean() == pytest.approx(expected, abs=0.03)
    alone = np.prod([i / (alpha + i) for i in range(1, 8)])  # all at one table: 1/8 at alpha 1
    assert (groups == 1).mean() == pytest.approx(alone, abs=0.01)
    together = (labels[:, :, None] == labels[:, None]).mean(0)
    np.testing.assert_allclose(together[~np.eye(8, dtype=bool)], 1 / (1 + alpha), atol=0.015)


def test_partitions_of_three_have_their_exact_probabilities():
    labels = np.asarray(chinese_restaurant(jax.random.key(1), 40_000, 3, 1.0))
    counts = collections.Counter(map(tuple, labels.tolist()))
    got = [counts[key] / 40_000 for key in [(0, 0, 0), (0, 0, 2), (0, 1, 0), (0, 1, 1), (0, 1, 2)]]
    np.testing.assert_allclose(got, [1 / 3, 1 / 6, 1 / 6, 1 / 6, 1 / 6], atol=0.01)


@pytest.mark.parametrize("masking", ["subset", "bernoulli"])
def test_dropped_modalities_leave_at_least_one(masking):
    batch = batch_of(rows=64, seconds=2)
    batch["present"] = batch["present"].at[:, 0].set(False)
    options = {"masking": masking, "drop_rate": 0.8}
    model = RqTransformer(**{**SMALL, **options})
    masks = lambda m, train: m._mask(batch["present"], train)[0]
    run = nn.apply(masks, model)
    kept = np.asarray(run(variables_of(), True, rngs={"crp": jax.random.key(0)}))
    assert (kept.sum(1) >= 1).all()
    assert not kept[:, 0].any()
    assert len({row.tobytes() for row in kept}) > 1
    np.testing.assert_array_equal(run(variables_of(), False), batch["present"])


OTHER_TABLES = {"depth_tables": "projected", "tie_heads": True}


@pytest.mark.parametrize("shared", [{}, pytest.param(OTHER_TABLES, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_ways_to_compute_give_the_same_loss_and_gradient(shared):
    batch, variables = batch_of(), variables_of(**shared)

    weight = jnp.asarray(np.random.default_rng(0).uniform(size=(2, S, 4)), jnp.float32)

    def loss(**options):
        model = RqTransformer(**{**SMALL, **shared, **options})
        total = lambda v: 0.1 * model.apply(v, batch, weight)[0]
        return jax.jit(jax.value_and_grad(total))(variables)

    def plain(model, weight):
        logits = model.depth.logits(model.context(batch), batch["codes"], model.tables)
        total = 0.0
        for group, members in model.codes.groups.items():
            right = jax.nn.one_hot(
                model.codes.members(batch["codes"], group), logits[group].shape[-1]
            )
            nll = -jnp.sum(jax.nn.log_softmax(logits[group]) * right, -1).mean(-1)
            total += sum(jnp.sum(nll[:, i] * weight[..., m]) for i, m in enumerate(members))
        return 0.1 * total

    same = functools.partial(np.testing.assert_allclose, atol=1e-5)
    once = loss(chunk=100)
    jax.tree.map(same, loss(remat="cheap", unroll=2, chunk=5), once)
    by_hand = jax.value_and_grad(
        lambda v: nn.apply(plain, RqTransformer(**SMALL, **shared))(v, weight)
    )
    jax.tree.map(same, jax.jit(by_hand)(variables), once)


def test_bfloat16_products_stay_near_float32():
    batch, variables = batch_of(), variables_of()
    _, low = function("__call__", dtype="bfloat16")(variables, batch)
    _, high = function("__call__")(variables, batch)
    assert low["nll"].dtype == jnp.float32
    np.testing.assert_allclose(low["nll"].mean(), high["nll"].mean(), rtol=1e-2)
    assert function("context", dtype="bfloat16")(variables, batch).dtype == jnp.float32


def test_logits_of_a_long_window_never_live_at_once():
    codes, levels, seconds = 512, 4, 1024
    modality = {"name": "ecg", "levels": levels, "codes": codes, "channel_id": 0, "group": "ecg"}
    model = RqTransformer(**{**SMALL, "modalities": (modality,), "layers": 2, "chunk": 32})
    batch = {
        "codes": jax.ShapeDtypeStruct((2, seconds, levels), jnp.int32),
        "present": jax.ShapeDtypeStruct((2, 1), bool),
        "channel_ids": jax.ShapeDtypeStruct((2, 1), jnp.int32),
    }
    variables = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), batch))
    loss = jax.grad(lambda v, b: model.apply(v, b)[0])
    assert largest(loss, variables, batch) <= 2 * 32 * levels * codes  # one chunk's logits


NAMES = ("eeg_c3", "eeg_c4", "eog_e1", "eog_e2", "emg_chin", "ecg", "resp_abd", "resp_thx")


@pytest.mark.parametrize(
    ("size", "options", "shallow", "millions"),
    [
        ("base", {}, {}, 330),
        ("base", {"ffn": "gelu"}, {}, 330),
        ("base", {"modality_ffn": False}, {}, 273),
        ("base", {"modality_every": 2}, {}, 287),
        ("base", {"modality_every": 2, "layers": 16}, {}, 330),
        ("base", {}, {"emg", "resp"}, 301),  # 300.6
        ("small", {}, {"emg", "resp"}, 129),
        ("tiny", {}, {"emg", "resp"}, 48),
    ],
)
def test_sizes_have_the_parameters_that_the_formula_gives(size, options, shallow, millions):
    group = lambda name: name.split("_")[0]
    modalities = tuple(
        {
            "name": name,
            "levels": 4 if group(name) in shallow else 8,
            "codes": 2048,
            "channel_id": i,
            "group": group(name),
        }
        for i, name in enumerate(NAMES)
    )
    config = get_config(size).objective.model.to_dict()
    model = RqTransformer(**{**config, "modalities": modalities, **options})
    batch = {
        "codes": jnp.zeros((1, 8, sum(m["levels"] for m in modalities)), jnp.int32),
        "present": jnp.ones((1, 8), bool),
        "channel_ids": jnp.zeros((1, 8), jnp.int32),
    }
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch)
    count = sum(np.prod(x.shape) for x in jax.tree.leaves(shapes))
    assert round(count / 1e6) == millions


def test_what_does_not_fit_is_named():
    batch = batch_of()
    model = RqTransformer(**SMALL)
    with pytest.raises(ValueError, match=r"4 modalities with 10 levels .*ecg 2 x 8"):
        model.apply(variables_of(), {**batch, "codes": batch["codes"][..., :9]})
    for modalities, message in [
        ((), "empty"),
        ((MODALITIES[0], MODALITIES[0]), "one name twice"),
        ((MODALITIES[0], {**MODALITIES[2], "codes": 16}), "3 x 12 and 3 x 16"),
    ]:
        with pytest.raises(ValueError, match=message):
            RqTransformer(**{**SMALL, "modalities": modalities}).init(jax.random.key(0), batch)
    with pytest.raises(ValueError, match="masking='crb'"):
        RqTransformer(**SMALL, masking="crb").init(jax.random.key(0), batch)


def test_a_code_outside_the_table_is_loud():
    batch = batch_of()
    batch["codes"] = batch["codes"].at[0, 3, 0].set(12)
    total, scores = function("__call__")(variables_of(), batch)
    nll = np.asarray(scores["nll"])
    assert np.isnan(total) and np.isnan(nll[0]).any()
    assert np.isfinite(nll[1]).all()
