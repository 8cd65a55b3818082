"""A backbone fine-tuned: how modalities are fused, what counts, and each task's loss."""

import importlib.util
import json
import pathlib
import types

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
import toy_models

from hypnos_jax import (
    checkpoint,
    config,
    evaluate,
    losses,
    optim,
    sharding,
    state,
    step,
    train,
    warm_start,
)
from hypnos_jax.export.model import load_model
from hypnos_jax.export.write import export
from hypnos_jax.interop import sleep2vec
from hypnos_jax.interop.formats import Part
from hypnos_jax.nn.dropout import keep_some
from hypnos_jax.nn.fusion import ModalityFusion, Pooling
from hypnos_jax.objectives import ContinuesWindows, EmbedsInPieces
from hypnos_jax.objectives.dash_infonce import DashInfonce
from hypnos_jax.objectives.finetune import Finetune
from hypnos_jax.tasks import TASKS

MODALITIES = (
    {"name": "ibi", "rate_hz": 4, "frames": 12},
    {"name": "eeg", "rate_hz": 128, "frames": 20},
    {"name": "emg", "rate_hz": 128, "frames": 20},
)
MODEL = {
    "name": "modality_towers",
    "modalities": MODALITIES,
    "dim": 8,
    "layers": 1,
    "heads": 2,
    "ffn_dim": 16,
    "mask_rate": 0.0,
}
LABELS = ("apnea", "stroke")
# Tasks of events of epochs are all of one kind: one of them stands for all.
OF_EVENTS = {name for name, task in TASKS.items() if task.field.startswith("event/")}
ROWS, TOKENS = 4, 5


def fake_batch(seed=0, modalities=MODALITIES):
    """A batch as ``modality_nights`` makes them."""
    rng = np.random.default_rng(seed)
    whole = lambda high, *shape: rng.integers(0, high, shape).astype(np.int32)
    signals = {
        f"signal/{m['name']}": rng.integers(-9, 9, (ROWS, TOKENS, m["frames"])).astype(np.int16)
        for m in modalities
    }
    return signals | {
        "scale": np.full((ROWS, len(modalities)), 0.1, np.float32),
        "present": np.ones((ROWS, len(modalities)), bool),
        "valid": np.ones((ROWS, TOKENS, len(modalities)), bool),
        "event/apnea_only": np.tile(np.int32([0, 1, 0, 0, 1]), (ROWS, 1)),
        "stage": whole(5, ROWS, TOKENS),
        "apnea": whole(2, ROWS, TOKENS, 30),
        "arousal": whole(2, ROWS, TOKENS, 30, 4),
        "age": np.array([30, 40, 50, 60], np.int32),
        "sex": np.array([0, 1, 1, 0], np.int32),
        "outcomes": whole(2, ROWS, 2).astype(np.float32),
        "survival": np.array(
            [[[5, 1], [4, 1]], [[3, 0], [4, 1]], [[5, 1], [9, 0]], [[8, 1], [2, 0]]], np.float32
        ),
        "weight": np.ones(ROWS, np.float32),
    }  # fmt: skip


def towers(task="stage5", **options):
    backbone = {**MODEL, **options.pop("backbone", {})}
    labels = {"outcomes": LABELS, "survival": LABELS}
    return Finetune(backbone=backbone, task=task, **labels, **options)


def shapes_of(objective, batch):
    return jax.eval_shape(lambda: nn.unbox(state.init_function(objective, batch)(0)))


def variables_of(objective, batch, seed=0):
    """Random variables; compiling their initialisation would take longer than all else here."""
    shapes = shapes_of(objective, batch)
    rng = np.random.default_rng(seed)
    draw = lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32)
    norms = lambda path: 1.0 * (path[-1].key == "scale")
    return jax.tree.map_with_path(lambda path, x: draw(x) + norms(path), shapes)


def predict(objective, variables, batch, kept=None):
    return jax.jit(lambda v, b: objective.apply(v, b, kept, method="predict"))(variables, batch)


def test_fusion_begins_as_the_mean_of_what_is_there_and_learns_weights():
    x = jnp.arange(24.0).reshape(2, 3, 4)
    there = jnp.array([[True, True, True], [True, False, True]])
    gated = ModalityFusion("gated_scalar")
    variables = nn.unbox(gated.init(jax.random.key(0), x, there))
    np.testing.assert_array_equal(variables["params"]["gates"], np.zeros(3))
    expected = np.stack([x[0].mean(0), x[1, [0, 2]].mean(0)])
    np.testing.assert_allclose(gated.apply(variables, x, there), expected, rtol=1e-6)
    np.testing.assert_allclose(ModalityFusion("mean").apply({}, x, there), expected, rtol=1e-6)
    gates = {"params": {"gates": jnp.log(jnp.array([1.0, 5.0, 3.0]))}}
    by_hand = np.stack([(x[0, 0] + 5 * x[0, 1] + 3 * x[0, 2]) / 9, (x[1, 0] + 3 * x[1, 2]) / 4])
    np.testing.assert_allclose(gated.apply(gates, x, there), by_hand, rtol=1e-6)
    side_by_side = ModalityFusion("concat").apply({}, x, there)
    np.testing.assert_array_equal(side_by_side[1], [12, 13, 14, 15, 0, 0, 0, 0, 20, 21, 22, 23])


@pytest.mark.parametrize("kind", ["gated_scalar", "mean", "concat"])
def test_a_single_modality_passes_without_parameters(kind):
    x = jnp.arange(8.0).reshape(2, 1, 4)
    out, variables = ModalityFusion(kind).init_with_output(
        jax.random.key(0), x, jnp.array([[True], [False]])
    )
    np.testing.assert_array_equal(out, x[:, 0])
    assert not variables


def test_pooling_is_over_the_steps_that_are_there():
    x = jnp.arange(12.0).reshape(1, 3, 4)
    there = jnp.array([[True, False, True]])
    np.testing.assert_allclose(Pooling("mean").apply({}, x, there)[0], x[0, [0, 2]].mean(0))
    attention = Pooling("attention")
    variables = nn.unbox(attention.init(jax.random.key(0), x, there))
    out = lambda x: attention.apply(variables, x, there)
    np.testing.assert_array_equal(out(x), out(x.at[:, 1].set(99.0)))
    assert not np.allclose(out(x), out(x.at[:, 2].set(99.0)))
    assert not np.any(attention.apply(variables, x, jnp.zeros_like(there)))


def test_signals_that_are_not_there_tell_nothing():
    objective, batch = towers(), fake_batch()
    batch["present"][0, 1] = False
    batch["valid"][1, 2:4, 0] = False
    variables = variables_of(objective, batch)
    before = predict(objective, variables, batch)
    other = {name: x.copy() for name, x in batch.items()}
    other["signal/eeg"][0] = 77
    other["signal/ibi"][1, 2:4] = 77
    after = predict(objective, variables, other)
    np.testing.assert_array_equal(before["output"], after["output"])
    other["signal/ibi"][1, 1] = 77
    assert not np.array_equal(before["output"], predict(objective, variables, other)["output"])


def test_what_an_evaluation_hides_counts_all_the_same():
    objective, batch = towers(), fake_batch()
    batch["valid"][0, 0] = False
    batch["stage"][1, 1] = -1
    variables = variables_of(objective, batch)
    kept = np.ones_like(batch["valid"])
    kept[:, 2:4] = False  # a hole in every sensor
    whole, hidden = (predict(objective, variables, batch, k) for k in (None, kept))
    expected = np.ones((ROWS, TOKENS), bool)
    expected[0, 0] = expected[1, 1] = False
    np.testing.assert_array_equal(whole["counted"], expected)
    np.testing.assert_array_equal(hidden["counted"], expected)
    assert np.isfinite(hidden["output"]).all()
    assert not np.allclose(whole["output"], hidden["output"])


@pytest.mark.parametrize("task", sorted({*TASKS} - OF_EVENTS | {"apnea_only"}))
def test_each_task_counts_its_known_labels(task):
    objective, batch = towers(task, target_mean=45.0, target_sd=11.0), fake_batch()
    variables = variables_of(objective, batch)
    loss = jax.jit(lambda v, b: objective.apply(v, b, train=False))
    found = loss(variables, batch)
    assert np.isfinite(found.total)
    assert found.total > 0
    field = TASKS[task].field
    sizes = {"age": 4, "sex": 4, "stage": 20, "apnea": 600, "arousal": 2400, "outcomes": 8}
    sizes["event/apnea_only"] = 20
    assert found.weight == sizes.get(field, 2)  # survival: labels with an event
    unknown = {**batch, field: np.full_like(batch[field], -1)}
    empty = loss(variables, unknown)
    assert empty.total == empty.weight == 0
    half = {name: x.copy() for name, x in batch.items()}
    half[field][2:] = -1
    changed = {name: x.copy() for name, x in half.items()}
    for m in MODALITIES:
        changed[f"signal/{m['name']}"][2:] = 5
    assert loss(variables, half).total == pytest.approx(float(loss(variables, changed).total))
    assert objective.couples_batch == (task == "survival")


def test_classes_are_merged_as_the_task_says():
    stages = {"stage": np.array([[0, 1, 2, 3, 4, -1]], np.int32)}
    for task, expected in (("stage4", [0, 1, 1, 2, 3]), ("stage3", [0, 1, 1, 1, 2])):
        target, known = TASKS[task].target(stages)
        np.testing.assert_array_equal(target[0, :5], expected)
        np.testing.assert_array_equal(known[0], [True] * 5 + [False])


def test_class_weights_weigh_the_mean():
    batch = fake_batch()
    plain, weighted = towers(), towers(class_weights=(2.0, 0.0, 0.0, 0.0, 0.0))
    variables = variables_of(plain, batch)
    out = predict(plain, variables, batch)
    cost = -jax.nn.log_softmax(out["output"])[..., 0][batch["stage"] == 0]
    found = weighted.apply(variables, batch)
    assert float(found.total / found.weight) == pytest.approx(float(cost.mean()), rel=1e-5)


def test_an_age_is_told_in_years():
    batch = fake_batch()
    objective = towers("age", target_mean=45.0, target_sd=11.0, fusion="mean")
    variables = variables_of(objective, batch)
    output = predict(objective, variables, batch)["output"][:, 0]
    loss = objective.apply(variables, batch)
    error = np.abs(output - batch["age"])
    assert float(loss.metrics["mae"][0] / loss.metrics["mae"][1]) == pytest.approx(error.mean())
    assert float(loss.total / loss.weight) == pytest.approx(((error / 11) ** 2).mean(), rel=1e-5)


def test_a_night_is_read_off_the_cls_position_where_asked():
    batch = fake_batch()
    objective = towers("sex", pooling="cls", backbone={"cls": True})
    variables = variables_of(objective, batch)
    assert "pool" not in variables["params"]
    assert predict(objective, variables, batch)["output"].shape == (ROWS, 1)
    with pytest.raises(ValueError, match="pooling='cls' needs backbone.cls=True"):
        variables_of(towers("sex", pooling="cls"), batch)


def test_a_context_lets_tokens_see_one_another():
    """Of a backbone that sees one token at a time."""
    context = {"name": "transformer_context", "layers": 1, "heads": 2, "ffn_dim": 8}
    batch = fake_batch()
    batch["valid"][:, 4] = False
    ours = Finetune(backbone=PIECES, task="stage5", context=context)
    variables = variables_of(ours, batch)
    assert set(variables["params"]) == {"towers", "head", "over_night"}
    before = predict(ours, variables, batch)["output"]
    other = {name: x.copy() for name, x in batch.items()}
    other["signal/eeg"][:, 0] = 77
    after = predict(ours, variables, other)["output"]
    assert (np.abs(before - after).max((0, 2)) > 1e-6).all()
    # what holds no signal tells nothing
    other = {name: x.copy() for name, x in batch.items()}
    other["signal/eeg"][:, 4] = 77
    np.testing.assert_array_equal(before[:, :4], predict(ours, variables, other)["output"][:, :4])
    with pytest.raises(ValueError, match="pooling='cls' would leave out the context"):
        variables_of(towers("sex", pooling="cls", context=context), batch)


PIECES = {"name": "pieces", "modalities": MODALITIES}


@pytest.fixture(autouse=True)
def known_toys(monkeypatch):
    toy_models.know(monkeypatch)


@pytest.mark.parametrize("task", ["stage5", "sex"])
def test_any_backbone_gets_a_head(task):
    objective, batch = Finetune(backbone=PIECES, task=task), fake_batch()
    variables = variables_of(objective, batch)
    assert set(variables["params"]["towers"]) == {m["name"] for m in MODALITIES}
    loss, grads = jax.value_and_grad(
        lambda v: objective.apply(v, batch).total / objective.apply(v, batch).weight
    )(variables)
    assert np.isfinite(loss)
    assert np.abs(grads["params"]["towers"]["eeg"]).max() > 0
    hidden = predict(objective, variables, batch, np.zeros_like(batch["valid"]))
    assert hidden["counted"].all()  # what an evaluation hides counts all the same


def test_the_official_head_has_statistics_of_what_counts():
    """SynthSleepNet's: 199,429 weights where it reads 512 numbers and tells 5 classes."""
    wide = {"head": "mlp", "backbone": {**PIECES, "width": 512}, "head_dropout": 0.5}
    objective, batch = Finetune(task="stage5", **wide), fake_batch()
    batch["weight"][3] = 0
    batch["valid"][0, 4] = False
    variables = variables_of(objective, batch)
    own = variables["params"]["head"]
    assert sum(x.size for x in jax.tree.leaves(own)) == 199_429
    assert state.averaged(objective) == ("params", "batch_stats")

    @jax.jit
    def learn(batch):
        def total(variables):
            rngs = state.rngs(state.streams(objective), 0, 0)
            mutable = ["batch_stats"]
            loss, new = objective.apply(variables, batch, train=True, rngs=rngs, mutable=mutable)
            return loss.total, (loss.weight, new)

        return jax.value_and_grad(total, has_aux=True)(variables)

    (loss, (weight, new)), grads = found = learn(batch)
    assert weight == 3 * TOKENS - 1
    moved = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), new, {"batch_stats": variables["batch_stats"]}
    )
    assert min(jax.tree.leaves(moved)) > 0
    other = {name: x.copy() for name, x in batch.items()}
    for m in MODALITIES:
        other[f"signal/{m['name']}"][3] = 90
        other[f"signal/{m['name']}"][0, 4] = 90
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, learn(other))
    # one token that counts has no variance: nothing moves, and nothing breaks
    batch["valid"][:] = False
    batch["valid"][1, 2] = True
    (loss, (weight, new)), grads = learn(batch)
    assert weight == 1
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((loss, grads)))
    jax.tree.map(np.testing.assert_array_equal, new["batch_stats"], variables["batch_stats"])


def test_answers_in_evaluation_do_not_depend_on_the_batch():
    batch = fake_batch()
    objective = Finetune(task="stage5", head="mlp", backbone=PIECES, context=WIDE)
    variables = variables_of(objective, batch)
    assert variables["params"]["head"]["hidden_0"]["kernel"].shape == (12, 256)
    whole = predict(objective, variables, batch)["output"]
    one = predict(objective, variables, {name: x[:1] for name, x in batch.items()})["output"]
    np.testing.assert_allclose(whole[:1], one, atol=1e-5)
    rows = objective.apply(variables, batch, method="embed").rows
    assert rows.shape == (ROWS, TOKENS, 1, 12)
    answers = objective.apply(variables, rows, method="answers")
    np.testing.assert_allclose(answers, whole, atol=1e-5)


WIDE = {"name": "past_mean", "width": 12}


def test_what_is_made_of_the_parts_says_so():
    blind = {"name": "transformer_context", "layers": 1, "heads": 2, "ffn_dim": 8}
    make = lambda **options: Finetune(**{"backbone": PIECES, "task": "stage5", **options})
    assert make().title == "linear maps of signals, fine-tuned on a task"
    assert towers().title.startswith("contrastive towers of sleep signals (sleep2vec, arXiv 2602")
    assert [make().causal, make(context=WIDE).causal] == [True, True]
    assert [towers().causal, make(context=blind).causal] == [False, False]
    assert "those of its window before it" in make(context=WIDE).seen
    assert "those after it too" in make(context=blind).seen
    assert isinstance(make(), ContinuesWindows)
    assert not isinstance(make(), EmbedsInPieces)
    with pytest.raises(ValueError, match="a Finetune that is not causal cannot be streamed"):
        make(context=blind).apply({}, fake_batch(), method="embed_onward")


def test_batch_norm_is_not_accumulated(monkeypatch):
    mesh = sharding.make_mesh(data=1, devices=jax.devices()[:1])
    twice = step.TrainOptions(steps=1, batch_size=4, accumulate=2)
    make = lambda **options: Finetune(backbone=PIECES, task="stage5", context=WIDE, **options)
    step.check_batch_size(make(head="linear"), twice, mesh)
    with pytest.raises(config.ConfigError, match="Finetune couples the rows of a batch"):
        step.check_batch_size(make(head="mlp"), twice, mesh)
    monkeypatch.setattr(toy_models.Pieces, "couples_batch", True, raising=False)
    assert make().couples_batch
    assert not make(train_backbone=False).couples_batch  # it has its running statistics
    monkeypatch.setattr(toy_models.PastMean, "couples_batch", True, raising=False)
    assert make(train_backbone=False).couples_batch


def test_a_backbone_at_rest_draws_no_dropout():
    batch = fake_batch()
    backbone = {**PIECES, "dropout": 0.5}
    awake, resting = (
        Finetune(backbone=backbone, task="stage5", head_dropout=0.0, train_backbone=on)
        for on in (True, False)
    )
    variables = variables_of(awake, batch)
    rngs = state.rngs(state.streams(awake), 0, 0)

    def loss(objective, variables):
        return objective.apply(variables, batch, train=True, rngs=rngs).total

    plain = awake.apply(variables, batch).total
    still, grads = jax.value_and_grad(lambda v: loss(resting, v))(variables)
    assert float(still) == pytest.approx(float(plain), rel=1e-6)
    assert float(loss(awake, variables)) != pytest.approx(float(plain), rel=1e-4)
    assert np.abs(grads["params"]["towers"]["eeg"]).max() > 0  # what is frozen, the optimizer says


@pytest.mark.parametrize("task, own", [("sex", (1.0, 3.0)), ("stage3", (1.0, 2.0, 5.0))])
def test_rare_answers_may_weigh_more_or_be_expected_less(task, own):
    batch = fake_batch()
    make = lambda **options: Finetune(backbone=PIECES, task=task, **options)
    variables = variables_of(make(), batch)
    found = make().apply(variables, batch, method="predict")
    output, target = np.asarray(found["output"]), np.asarray(found["target"])
    if task == "sex":
        output, target = np.concatenate([0 * output, output], 1), target[:, 0].astype(int)

    def cost(logits):
        return -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), target[..., None], -1)

    def mean(**options):
        loss = make(**options).apply(variables, batch)
        return float(loss.total / loss.weight)

    weights = np.asarray(own)[target]
    expected = (cost(output)[..., 0] * weights).sum() / weights.sum()
    assert mean(class_weights=own) == pytest.approx(expected, rel=1e-5)
    assert mean(class_shares=own) == pytest.approx(cost(output + np.log(own)).mean(), rel=1e-5)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"head": "cnn"}, r"objective.head='cnn'; it is one of \['elu', 'linear', 'mlp'\]"),
        ({"head": "mlp", "task": "age"}, "objective.head='mlp': the task 'age' has its own"),
        ({"class_weights": (1.0, 2.0)}, "class_weights has 2 numbers.*'stage5' has 5 classes"),
        ({"class_shares": (1.0, 0.0), "task": "sex"}, "class_shares=.*must be above 0"),
    ],
)
def test_a_head_that_means_nothing_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        shapes_of(Finetune(**{"backbone": PIECES, "task": "stage5", **options}), fake_batch())


@pytest.mark.parametrize(
    "backbone, message",
    [
        ({"width": 6}, "objective.backbone.name is missing"),
        ({"name": "modality_tower"}, "no model named 'modality_tower'.*'modality_towers'"),
    ],
)
def test_a_backbone_that_is_not_there_is_named(backbone, message):
    with pytest.raises(ValueError, match=message):
        variables_of(Finetune(backbone=backbone, task="stage5"), fake_batch())


def former_config():
    """A run's config as it was when the objective was called finetune_towers."""
    arguments = {key: value for key, value in MODEL.items() if key != "name"}
    return {
        "seed": 0,
        "objective": {"name": "finetune_towers", "model": arguments, "task": "stage5"},
        "data": {
            "name": "modality_nights",
            "window_tokens": TOKENS,
            "fill": [["objective.model.modalities", "modalities"]],
        },
        "train": {"steps": 1, "batch_size": ROWS},
    }


def test_runs_and_exports_of_the_former_name_open(tmp_path):
    batch = fake_batch()
    variables = variables_of(towers(), batch)
    want = predict(towers(), variables, batch)["output"]
    tiny_models.write_run(tmp_path / "run", former_config(), variables)
    export(tmp_path / "run", tmp_path / "export", programs=False)
    for folder in (tmp_path / "run", tmp_path / "export"):
        loaded = load_model(folder)
        assert loaded.config["objective"]["name"] == "finetune_towers"  # checksums are of it
        assert [row["name"] for row in loaded.config["modalities"]] == ["ibi", "eeg", "emg"]
        assert isinstance(loaded.objective, Finetune)
        found = predict(loaded.objective, loaded.variables, batch)["output"]
        np.testing.assert_array_equal(found, want)


def test_a_run_of_the_former_name_goes_on_under_the_new_one(tmp_path):
    old = {name: former_config().get(name, {}) for name in config.SECTIONS}
    (tmp_path / "config.json").write_text(json.dumps(old))
    now = config.resolve(old)
    assert now["objective"]["name"] == "finetune"
    assert now["objective"]["backbone"]["name"] == "modality_towers"
    assert now["data"]["fill"] == [["objective.backbone.modalities", "modalities"]]
    assert isinstance(config.make_objective(old), Finetune)
    now["data"]["path"] = "elsewhere"
    config.agree_with_workdir(now, {"modalities": []}, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == now
    now["objective"]["backbone"]["dim"] = 16
    with pytest.raises(config.ConfigError, match="config.objective.backbone.dim: 8 there, 16 here"):
        config.agree_with_workdir(now, {"modalities": []}, tmp_path)


def test_modalities_dropped_in_training_leave_one():
    there = jnp.array([[True, True, False]] * 2000)
    kept = keep_some(jax.random.key(0), there, 0.3) & there
    counts = kept.sum(1)
    assert counts.min() == 1
    assert float(kept[:, 0].mean()) == pytest.approx(0.7 + 0.3 * 0.3 / 2, abs=0.03)
    alone = keep_some(jax.random.key(1), jnp.array([[False, True, False]] * 50), 0.99)
    assert alone[:, 1].all()


def test_cox_is_the_partial_likelihood_of_breslow():
    rng = np.random.default_rng(0)
    risk = rng.normal(size=(9, 3)).astype(np.float32)
    time = rng.integers(1, 5, (9, 3)).astype(np.float32)  # with ties
    event, counted = rng.random((9, 3)) < 0.6, rng.random((9, 3)) < 0.8
    event[:, 2] = False
    expected = []
    for k in range(2):
        costs = []
        for i in np.flatnonzero(event[:, k] & counted[:, k]):
            at_risk = counted[:, k] & (time[:, k] >= time[i, k])
            costs.append(np.log(np.exp(risk[at_risk, k]).sum()) - risk[i, k])
        expected.append(np.mean(costs))
    total, weight = losses.cox_partial_likelihood(risk, time, jnp.array(event), jnp.array(counted))
    assert weight == 2
    assert float(total) == pytest.approx(sum(expected), rel=1e-5)
    # by hand: two at risk when the first has the event, alike
    yes = jnp.ones((2, 1), bool)
    two = losses.cox_partial_likelihood(jnp.zeros((2, 1)), jnp.array([[1.0], [2.0]]), yes, yes)
    assert float(two[0]) == pytest.approx(np.log(2) / 2)


def test_lora_leaves_the_rest_of_the_trunk_frozen():
    objective = towers(backbone={"lora_rank": 2})
    batch = fake_batch()
    params = variables_of(objective, batch)["params"]
    freeze = ("towers", "!*/lora_?")
    tx = optim.make_optimizer(lambda _: 0.1, state.matrices(params), freeze=freeze)
    ones = jax.tree.map(jnp.ones_like, params)
    moved = flax.traverse_util.flatten_dict(tx.update(ones, tx.init(params), params)[0], sep="/")
    trained = {name for name, x in moved.items() if np.any(x)}
    assert any(name.endswith("lora_a") for name in trained)
    assert any(name.endswith("lora_b") for name in trained)
    assert all(name.startswith(("head", "fuse")) or "/lora_" in name for name in trained)


def pretraining(modalities):
    """Towers to be pretrained, and their variables' shapes."""
    widest = max(m["frames"] for m in modalities)
    people = ("age", "sex", "site", "night", "subject")
    pairs = {
        "signal_a": np.zeros((ROWS, TOKENS, widest), np.int16),
        "signal_b": np.zeros((ROWS, TOKENS, widest), np.int16),
        "scale": np.ones((ROWS, 2), np.float32),
        "valid": np.ones((ROWS, TOKENS, 2), bool),
        "pair": np.tile(np.array([[0, 1]], np.int32), (ROWS, 1)),
        **dict.fromkeys(people, np.zeros(ROWS, np.int32)),
        "weight": np.ones(ROWS, np.float32),
    }
    head = {"mask_rate": 0.15, "projection_dim": 8, "out_dim": 4}
    arguments = {key: value for key, value in MODEL.items() if key != "name"}
    objective = DashInfonce(model={**arguments, **head, "modalities": modalities})
    return objective, shapes_of(objective, pairs)


def test_pretrained_towers_fill_those_to_be_fine_tuned():
    """Every array below "towers" has its like among what pretraining leaves behind."""
    there, here = (
        flax.traverse_util.flatten_dict(shapes, sep="/")
        for shapes in (pretraining(MODALITIES)[1], shapes_of(towers(), fake_batch()))
    )
    claimed = {name: x.shape for name, x in here.items() if name.startswith("params/towers/")}
    assert len(claimed) > 20
    assert claimed == {name: there[name].shape for name in claimed}


def test_published_towers_are_begun_from(tmp_path):
    """A checkpoint in the official format, of which fine-tuning reads one modality of two."""
    two = tuple({"name": name, "rate_hz": 4, "frames": 120} for name in ("ibi", "spo2"))
    objective, shapes = pretraining(two)
    rng = np.random.default_rng(0)
    made = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    path = tmp_path / "towers.safetensors"
    sleep2vec.write(path, Part({"name": "dash_infonce", "model": objective.model}, made))
    tuned = towers(backbone={"modalities": two[1:]})
    own = shapes_of(tuned, fake_batch(modalities=two[1:]))
    like = types.SimpleNamespace(params=own["params"], collections={})
    found = warm_start.choose(like, path, [("towers", "towers")])
    assert found.provenance["copied"] == len(jax.tree.leaves(own["params"]["towers"]))
    kernel = made["params"]["towers"]["tokenizer_spo2"]["hidden"]["kernel"]
    name = "params/towers/tokenizer_spo2/hidden/kernel"
    np.testing.assert_array_equal(found.arrays[name], kernel)
    other = shapes_of(towers(), fake_batch())
    like = types.SimpleNamespace(params=other["params"], collections={})
    with pytest.raises(warm_start.WarmStartError, match="tokenizer_eeg.*is not there"):
        warm_start.choose(like, path, [("towers", "towers")])


def configs_of(name):
    path = pathlib.Path(__file__).parents[2] / "configs" / "sleep2vec" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_configs_choose_checkpoints_as_the_tasks_say():
    module = configs_of("finetune")
    assert {name: own[:2] for name, own in module.TASKS.items()} == {
        name: (task.metric, task.best)
        for name, task in TASKS.items()
        if name not in OF_EVENTS or name == "apnea"
    }


@pytest.mark.slow
def test_pretraining_fine_tuning_and_evaluation_go_through(tmp_path):
    """On the tiny store: the tokenizers stay as pretrained, and every condition is measured."""
    few = {"train.steps": 4, "mesh.data": 1, "checkpoints.every": 2, "logs.mfu": False}
    resolve = lambda name, arg, **more: config.change(
        config.resolve(configs_of(name).get_config(arg)), {**few, **more}
    )
    mesh = {"mesh.data": 8, "train.batch_size": 8}
    before, after = tmp_path / "before", tmp_path / "after"
    assert train.train(resolve("pretrain", "test", evals={}, **mesh), before) == 0
    tuned = resolve("finetune", "test,stage5", **mesh, **{"train.init_from": str(before)})
    tuned["data"]["path"] = str(before / "synthetic")
    tuned["evals"]["val"]["every"] = 2
    assert train.train(tuned, after) == 0
    there, here = (checkpoint.restore_variables(x)[2]["params"]["towers"] for x in (before, after))
    jax.tree.map(np.testing.assert_array_equal, here["tokenizer_eeg"], there["tokenizer_eeg"])
    assert not np.array_equal(here["input"]["kernel"], there["input"]["kernel"])
    found = evaluate.evaluate(after, changes={"evals.test.draws": 2})
    assert "eval/test/without/eeg/accuracy" in found
    report = json.loads((after / "downstream_test.json").read_text())
    assert {"only/eeg", "hole/ibi/0.3"} <= set(report["conditions"])
    assert set(report["sites"]) <= {"A", "B", "nan"}
