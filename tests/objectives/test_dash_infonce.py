"""The contrastive objective: what counts, options, and the same run on one device and on many."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import start_training

from configs.sleep2vec import pretrain
from data_pipelines.sources import modality_pairs
from data_pipelines.store import NightStore
from data_pipelines.synthetic import write_tiny_modalities
from hypnos_jax import config as configs
from hypnos_jax import gradient_cache, metrics, sharding, state, train
from hypnos_jax.batch import batch_spec
from hypnos_jax.step import cut, make_plan

ROWS, TOKENS = 8, 10
FEW = ["ibi", "eeg", "spo2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "nights"
    write_tiny_modalities(path, seed=1)
    return path


@pytest.fixture(scope="module")
def source(folder):
    options = {"window_tokens": TOKENS, "modalities": FEW, "min_tokens": 5}
    return modality_pairs.open_source(NightStore(folder), split="train", seed=0, **options)


@pytest.fixture(scope="module")
def batch(source):
    found = source.examples(0, ROWS)
    return {**found, "valid": np.ones_like(found["valid"])}


def config_of(source, **changes):
    config = configs.fill(configs.resolve(pretrain.get_config("test")), source.describe())
    return configs.change(
        config, {f"objective.{k.replace('__', '.')}": v for k, v in changes.items()}
    )


@pytest.fixture(scope="module")
def variables(source):
    objective = configs.make_objective(config_of(source, model__cls=True))
    init = state.init_function(objective, batch_spec(source, ROWS))
    return nn.unbox(state.jit_once(lambda: init(0))())


@functools.cache
def program(source, train, **changes):
    objective = configs.make_objective(config_of(source, model__cls=True, **changes))
    rngs = state.rngs(objective.rng_streams, 0, 0) if train else None
    options = {"train": train, "rngs": rngs, "mutable": ["batch_stats"]}
    return jax.jit(functools.partial(objective.apply, **options))


def loss_of(source, variables, batch, *, train=False, **changes):
    apply = program(source, train, **changes)
    found, updated = apply(variables, jax.tree.map(jnp.asarray, batch))
    return found, updated["batch_stats"]


def mean(loss):
    return float(loss.total / loss.weight)


def test_without_facts_the_weights_change_nothing(source, variables, batch):
    unknown = np.full(ROWS, -1, np.int32)
    apart = np.arange(ROWS, dtype=np.int32)
    blank = {**batch, "age": unknown, "sex": unknown, "site": 0 * apart, "night": apart}
    dash, _ = loss_of(source, variables, blank)
    plain, _ = loss_of(source, variables, batch, weighting="none", hard_scale=0.0)
    assert mean(dash) == pytest.approx(mean(plain), abs=2e-6)
    known, _ = loss_of(source, variables, {**batch, "night": apart})
    assert abs(mean(known) - mean(plain)) > 1e-4


def test_history_is_the_night_or_the_subject(source, variables, batch):
    apart, one = np.arange(ROWS, dtype=np.int32), np.zeros(ROWS, np.int32)
    facts = {**batch, "night": apart, "subject": one}
    swapped = {**batch, "night": one, "subject": apart}
    night, _ = loss_of(source, variables, facts)
    subject, _ = loss_of(source, variables, swapped, history="subject")
    assert mean(night) == mean(subject)
    assert mean(loss_of(source, variables, facts, history="subject")[0]) != mean(night)


def test_absent_tokens_count_only_as_released(source, variables, batch):
    valid = batch["valid"].copy()
    valid[2, 6:, 1] = False
    changed = {**batch, "valid": valid}
    ours, _ = loss_of(source, variables, changed)
    assert float(ours.weight) == ROWS * TOKENS - 4
    noisy = {**changed, "signal_b": changed["signal_b"].copy()}
    noisy["signal_b"][2, 6:] = 7
    noise, _ = loss_of(source, variables, noisy, train=False)
    assert mean(noise) == pytest.approx(mean(ours), rel=1e-6)
    theirs, _ = loss_of(source, variables, changed, as_released=True)
    assert float(theirs.weight) == ROWS * (TOKENS + 1)  # the CLS position too


def test_groups_are_contrasted_each_for_itself(source, variables, batch):
    options = {"groups": 2, "model__groups": 2}
    found, stats = loss_of(source, variables, batch, train=False, **options)
    halves = [
        loss_of(source, variables, {k: v[rows] for k, v in batch.items()})[0]
        for rows in (slice(0, 4), slice(4, 8))
    ]
    assert mean(found) == pytest.approx(np.mean([mean(half) for half in halves]), rel=1e-5)
    assert float(found.metrics["chance"][0] / found.weight) == pytest.approx(0.25)
    del stats
    with pytest.raises(ValueError, match="groups=3 do not divide 8 rows"):
        loss_of(source, variables, batch, groups=3)


def test_training_moves_the_running_statistics_by_both_modalities(source, variables, batch):
    before = variables["batch_stats"]["towers"]["head"]["norm_0"]
    _, after = loss_of(source, variables, batch, train=True)
    after = after["towers"]["head"]["norm_0"]
    assert np.abs(after["mean"] - before["mean"]).max() > 0
    # Twice a tenth of the way from 1: once for each modality.
    assert (np.asarray(after["var"]) > 0.81 - 1e-6).all()


@pytest.mark.slow
def test_the_average_holds_the_statistics_too(source, batch):
    optim = {"optim.ema_decay": 0.996, "optim.ema_schedule": "cosine"}
    config = configs.change(config_of(source), optim)
    objective, spec = configs.make_objective(config), batch_spec(source, ROWS)
    mesh = sharding.make_mesh(data=1, devices=jax.devices()[:1])
    with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
        plan = make_plan(config, objective, mesh, spec)
        before = jax.device_get(plan.make())
        batch = sharding.put_batch(batch, sharding.batch_sharding(mesh), ROWS)
        after, _ = jax.jit(plan.step)(plan.make(), batch)
    new, old = (x.collections["batch_stats"] for x in (after, before))
    # At step 0 the average keeps 0.996 of what it was.
    expected = jax.tree.map(lambda a, b: b + 0.004 * (a - b), new, old)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        after.ema["batch_stats"],
        expected,
    )
    assert after.variables()["batch_stats"] is after.ema["batch_stats"]
    assert np.abs(new["towers"]["head"]["norm_0"]["var"] - 1).max() > 0.05


def compiled(source, mesh, rows=ROWS, **changes):
    """The plan of a step without dropout and masks, and its program."""
    calm = {"objective.model.dropout": 0.0, "objective.model.mask_rate": 0.0}
    calm |= {"optim.from_zero": False, "optim.ema_decay": 0.9, "train.batch_size": rows}
    config = configs.change(config_of(source), {**calm, **changes})
    with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
        plan = make_plan(config, configs.make_objective(config), mesh, batch_spec(source, rows))
        return plan, plan.trace().lower().compile()


def steps_of(source, batch, *, steps=1, devices=1, **changes):
    """The state before and after some steps on one batch, and the last metrics."""
    mesh = sharding.make_mesh(data=devices, devices=jax.devices()[:devices])
    plan, step = compiled(source, mesh, **changes)
    with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
        after = plan.make()
        before = jax.device_get(after)
    batch = sharding.put_batch(batch, sharding.batch_sharding(mesh), ROWS)
    for _ in range(steps):
        after, values = step(after, batch)
    return before, jax.device_get(after), jax.device_get(values)


@pytest.mark.slow
@pytest.mark.parametrize(
    "devices, changes",
    [
        (1, {}),
        (2, {"objective.weighting": "none", "objective.hard_scale": 0.0}),
    ],
)
def test_micro_batches_train_as_the_whole_batch_does(source, batch, devices, changes):
    weight = batch["weight"].copy()
    weight[[3, 6]] = 0  # padding
    padded = {**batch, "weight": weight}
    # Adam's first update is a sign: with a large epsilon it is the gradient.
    changes = {**changes, "optim.eps": 1.0, "optim.learning_rate": 1.0}
    before, whole, expected = steps_of(source, padded, **changes)
    changes["train.accumulate"] = 4
    _, pieces, found = steps_of(source, padded, devices=devices, **changes)
    for name in ("loss", "accuracy", "chance", "grad_norm", "valid"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, pieces.params, whole.params)
    jax.tree.map(close, pieces.collections, whole.collections)
    pairs = [state.params["towers"]["trunk"] for state in (before, pieces)]
    assert max(jax.tree.leaves(jax.tree.map(lambda a, b: abs(a - b).max(), *pairs))) > 1e-3


@pytest.mark.slow
def test_micro_batches_draw_the_same_masks_in_both_passes(source, batch):
    noisy = {"objective.model.dropout": 0.5, "objective.model.mask_rate": 0.5}
    config = configs.change(config_of(source), noisy)
    objective = configs.make_objective(config)
    variables = nn.unbox(state.init_function(objective, batch_spec(source, ROWS))(0))
    rngs = lambda i: state.rngs(objective.rng_streams, 0, i)
    pieces = cut(jax.tree.map(jnp.asarray, batch), 2)
    stats = {"batch_stats": variables["batch_stats"]}

    def apply(params, collections, keys, *inputs, method):
        out, new = objective.apply(
            {"params": params, **collections}, *inputs,
            train=True, rngs=keys, mutable=["batch_stats"], method=method,
        )  # fmt: skip
        return (out, new) if method == "represent" else (out.total, (out.weight, new))

    def direct(params):
        """The loss of the same draws, all activations kept."""
        parts = [
            apply(params, stats, rngs(i), jax.tree.map(lambda x, i=i: x[i], pieces),
                  method="represent")[0]
            for i in range(2)
        ]  # fmt: skip
        whole = jnp.stack(parts, 1).reshape(ROWS, *parts[0].shape[1:])
        return apply(params, stats, rngs(2), whole, batch, method="contrast")[0]

    both = [functools.partial(apply, method=name) for name in ("represent", "contrast")]
    cached = lambda params: gradient_cache.gradients(*both, params, stats, rngs, batch, pieces)[0]
    ours, theirs = (jax.jit(f)(variables["params"]) for f in (cached, jax.grad(direct)))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    jax.tree.map(close, ours, theirs)


@pytest.mark.slow
def test_micro_batches_take_less_memory(source):
    def temporary(accumulate):
        mesh = sharding.make_mesh(data=1, devices=jax.devices()[:1])
        step = compiled(source, mesh, rows=64, **{"train.accumulate": accumulate})[1]
        return step.memory_analysis().temp_size_in_bytes

    assert temporary(8) < 0.6 * temporary(1)


@pytest.mark.slow
def test_frozen_statistics_stay_bit_for_bit(source, batch):
    freeze = {"optim.freeze": ["batch_stats:towers/head/norm_0"], "train.accumulate": 2}
    before, after, _ = steps_of(source, batch, steps=20, **freeze)
    old, new = (x.collections["batch_stats"]["towers"]["head"] for x in (before, after))
    jax.tree.map(np.testing.assert_array_equal, new["norm_0"], old["norm_0"])
    average = after.ema["batch_stats"]["towers"]["head"]["norm_0"]
    jax.tree.map(np.testing.assert_array_equal, average, old["norm_0"])
    assert np.abs(new["norm_1"]["mean"] - old["norm_1"]["mean"]).max() > 0


def test_unknown_options_are_refused(source, variables, batch):
    with pytest.raises(ValueError, match="weighting='demography'"):
        loss_of(source, variables, batch, weighting="demography")
    with pytest.raises(ValueError, match="missing='zero'"):
        loss_of(source, variables, batch, missing="zero")


@pytest.mark.slow
def test_one_device_and_two_processes_on_a_mesh_are_the_same_run(source, folder, tmp_path):
    def run_of(**mesh):
        changes = {"data.path": str(folder), "data.modalities": FEW, "logs.mfu": False}
        changes |= {"data.min_tokens": 5, "train.steps": 6, "optim.warmup_steps": 1}
        changes |= {f"mesh.{name}": size for name, size in mesh.items()}
        return configs.change(config_of(source), {**changes, "evals": {}})

    def losses(workdir):
        rows = metrics.read(workdir / "metrics.jsonl")
        return [[row["loss"], row["accuracy"]] for row in rows]

    config = run_of(data=2, fsdp=2, tensor=2)
    with start_training([config] * 2, tmp_path / "two", devices=4) as group:
        group.wait(240)
    with start_training([run_of(data=1, fsdp=1, tensor=1)], tmp_path / "one") as group:
        group.wait(240)
    one = losses(tmp_path / "one")
    assert len(one) == 6
    np.testing.assert_allclose(losses(tmp_path / "two"), one, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("loss", pretrain.LOSSES)
def test_windows_find_themselves_far_above_chance(tmp_path, loss):
    config = configs.resolve(pretrain.get_config(f"demo,{loss}"))
    changes = {"train.batch_size": 64, "train.steps": 300, "data.window_tokens": 10}
    changes |= {"data.min_tokens": 10, "logs.mfu": False, "evals": {}}
    changes["data.modalities"] = ["ibi", "resp", "spo2", "belt"]  # of 4 Hz: quick
    write_tiny_modalities(tmp_path / "nights", seed=5, nights=40)
    changes["data.path"] = str(tmp_path / "nights")
    assert train.train(configs.change(config, changes), tmp_path / "run") == 0
    rows = metrics.read(tmp_path / "run/metrics.jsonl")[-30:]
    accuracy, chance = (np.mean([row[name] for row in rows]) for name in ("accuracy", "chance"))
    assert chance == pytest.approx(1 / 64, rel=0.05)
    assert accuracy > 10 * chance
