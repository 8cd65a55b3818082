"""SleepLM's objective: worked numbers, missing channels, pieces, a mesh, processes, its batches."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import start_training
from test_objectives_contract import ROOT, load_config

from data_pipelines.captions.facts import MODALITIES
from data_pipelines.captions.parse import parse
from data_pipelines.captions.vocabulary import closed
from hypnos_jax import checkpoint, gradient_cache, losses, metrics, sharding
from hypnos_jax import config as configs
from hypnos_jax.batch import load_source
from hypnos_jax.objectives.sleep_language import SleepLanguage
from hypnos_jax.train import train

# The worked example of the loss: three pairs, captions of a vocabulary of five.
SIGNALS = jnp.array([[1.0, 2, 0, -1], [0, 1, -1, 2], [2, -1, 1, 0]])
TEXTS = jnp.array([[1.0, 1, 1, -1], [1, 0, -1, 1], [1, -1, 0, 1]])
LABELS = np.array([[2, 3, 4, 0], [3, 4, 0, 0], [1, 2, 3, 4]], np.int32)
ALL = jnp.ones(3, bool)
ALIKE = jnp.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]], bool)
CONTRAST, CAPTION, RECONSTRUCTION = 0.435892, 4.771271, 0.182917


def test_worked_contrasts():
    mean = lambda **more: float(losses.pairing(SIGNALS, TEXTS, ALL, **more)[0].mean())
    assert mean(scale=2.0) == pytest.approx(CONTRAST, abs=1e-6)
    assert mean(scale=1 / 0.07) == pytest.approx(0.003601, abs=1e-6)
    assert mean(scale=2.0, alike=ALIKE) == pytest.approx(0.964811, abs=1e-6)
    sigmoid = losses.sigmoid_pairing(SIGNALS, TEXTS, ALL, scale=10.0, bias=-10.0)
    assert float(sigmoid.mean()) == pytest.approx(2.649608, abs=1e-6)
    # A row that does not count is nobody's negative, and costs nothing.
    more = [jnp.concatenate([x, jnp.ones((1, 4))]) for x in (SIGNALS, TEXTS)]
    counted = jnp.array([True, True, True, False])
    for found, want in (
        (losses.pairing(*more, counted, scale=2.0)[0], CONTRAST),
        (losses.sigmoid_pairing(*more, counted, scale=10.0, bias=-10.0), 2.649608),
    ):
        assert found[3] == 0
        assert float(found.sum()) / 3 == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize(
    "weights, total", [((1.0, 2.0, 1.0), 10.161351), ((1.0, 1.0, 1.0), 5.390080)]
)
def test_worked_totals(weights, total):
    b, k, v = np.ogrid[:3, :4, :5]
    logits = jnp.array((b + 2 * k + 3 * v) % 5 - 0.5 * v)
    nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), LABELS[..., None], 2)[..., 0]
    b, c, i = np.ogrid[:3, :2, :4]
    signal = (b + c + i) % 3 - 1.0
    error = (0.5 * signal + 0.1 * (c + 1) - 0.05 * b - signal) ** 2
    rows = {
        "signal": SIGNALS,
        "text": TEXTS,
        "caption": jnp.where(LABELS != 0, nll, 0.0).sum(1),
        "hits": jnp.zeros(3),
        "reconstruction": jnp.array(error.sum((1, 2))),
        "samples": jnp.full(3, 8.0),
    }
    batch = {"caption": np.pad(LABELS, [(0, 0), (1, 0)]), "weight": np.ones(3, np.float32)}
    names = ("contrast_weight", "caption_weight", "reconstruction_weight")
    objective = SleepLanguage({**TINY, "vocab_size": 5}, **dict(zip(names, weights)))
    variables = {"params": {"network": {"logit_scale": jnp.log(2.0)}}}
    loss = objective.apply(variables, rows, batch, method="contrast")
    assert float(loss.total / loss.weight) == pytest.approx(total, abs=1e-5)
    parts = {name: float(value / weight) for name, (value, weight) in loss.metrics.items()}
    assert parts["contrast"] == pytest.approx(CONTRAST, abs=1e-6)
    assert parts["caption"] == pytest.approx(CAPTION, abs=1e-6)
    assert parts["reconstruction"] == pytest.approx(RECONSTRUCTION, abs=1e-6)


NAMES = ("ecg", "eeg_c3", "position")
FRAMES = (1920, 1920, 30)
TINY = {
    "modalities": tuple(
        {"name": name, "rate_hz": frames // 30, "frames": frames}
        for name, frames in zip(NAMES, FRAMES)
    ),
    "width": 8,
    "heads": 2,
    "patch": 320,
    "conv_dim": 4,
    "blocks": 1,
    "memory_tokens": 2,
    "embed_dim": 8,
    "text_layers": 1,
    "decoder_layers": 1,
    "vocab_size": 12,
    "context": 6,
    "dropout": 0.0,
}


def batch_of(rows, seed=0):
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, 12, (2, rows, 6)).astype(np.int32)
    ids[:, ::2, 4:] = 0
    return {
        **{
            f"signal/{name}": rng.normal(0, 1000, (rows, 1, frames)).astype(np.int16)
            for name, frames in zip(NAMES, FRAMES)
        },
        "scale": np.full((rows, 3), 1e-3, np.float32),
        "valid": np.ones((rows, 1, 3), bool),
        "present": np.ones((rows, 3), bool),
        "caption": ids[0],
        "query": ids[1],
        "condition": np.arange(rows, dtype=np.int32) % 5,
        "meaning": np.arange(rows, dtype=np.int32) // 2,
        "weight": np.ones(rows, np.float32),
    }


@dataclasses.dataclass
class Subject:
    """A tiny objective with a batch, variables of which none is as it began, and its gradient."""

    objective: SleepLanguage
    variables: dict
    batch: dict

    def __post_init__(self):
        def total(params, batch):
            loss = self.objective.apply({"params": params}, batch)
            return loss.total / jnp.maximum(loss.weight, 1), (loss, self.embed(params, batch))

        self._total = jax.jit(jax.value_and_grad(total, has_aux=True))

    def embed(self, params, batch):
        return self.objective.apply({"params": params}, batch, method="embed")

    def run(self, batch):
        """Loss a row, gradient, and embedding."""
        (loss, (_, embedding)), grads = self._total(self.variables["params"], batch)
        return float(loss), jax.device_get(grads), jax.device_get(embedding)


@pytest.fixture(scope="module")
def subject():
    objective, batch = SleepLanguage(TINY), batch_of(4)
    shapes = jax.eval_shape(lambda: nn.unbox(objective.init(jax.random.key(0), batch)))
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(0)
    drawn = [rng.normal(0, 0.5, x.shape).astype(np.float32) for x in leaves]
    return Subject(objective, jax.tree.unflatten(tree, drawn), batch)


def test_an_absent_channel_is_not_looked_at(subject):
    batch = subject.batch
    gone = {**batch, "present": np.array([[1, 0, 1]] * 4, bool)}
    other = {**gone, "signal/eeg_c3": batch_of(4, seed=9)["signal/eeg_c3"]}
    whole, first, second = (subject.run(x) for x in (batch, gone, other))
    np.testing.assert_array_equal(first[2].rows, second[2].rows)
    assert first[0] == second[0] != whole[0]
    assert np.abs(first[2].rows - whole[2].rows).max() > 1e-4
    # An epoch without any channel has no row, and a row of weight 0 is nobody's negative.
    none = {**batch, "present": np.array([[1, 1, 1]] * 3 + [[0, 0, 0]], bool)}
    none["weight"] = np.array([1, 1, 1, 0], np.float32)
    short = {**batch, "weight": none["weight"], "query": batch["query"].copy()}
    short["query"][3] = 5
    found, grads, embedding = subject.run(none)
    assert found == pytest.approx(subject.run(short)[0], rel=1e-6)
    assert not embedding.valid[3].any() and not embedding.rows[3].any()
    np.testing.assert_allclose(np.linalg.norm(embedding.rows[:3, 0, 0], axis=-1), 1, atol=1e-5)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))


def test_a_position_keeps_its_code_and_is_not_drawn_again(subject):
    codes = {**subject.batch, "signal/position": np.full((4, 1, 30), 2000, np.int16)}
    signals, there = jax.jit(functools.partial(subject.objective.apply, method="_seen"))(
        subject.variables, codes
    )
    assert (signals[:, 2] == 2).all()
    drawn = subject.objective.apply(subject.variables, there, method="_drawn")
    np.testing.assert_array_equal(drawn, [[True, True, False]] * 4)


def test_pieces_of_a_batch_have_the_gradient_of_the_whole(subject):
    objective, batch = subject.objective, jax.tree.map(jnp.asarray, subject.batch)
    cut = jax.tree.map(lambda x: x.reshape(-1, 2, *x.shape[1:]).swapaxes(0, 1), batch)

    def represent(params, collections, keys, batch):
        return objective.apply({"params": params}, batch, method="represent"), collections

    def contrast(params, collections, keys, rows, batch):
        loss = objective.apply({"params": params}, rows, batch, method="contrast")
        return loss.total / loss.weight, (loss.metrics, collections)

    grads, _ = jax.jit(
        lambda params: gradient_cache.gradients(
            represent, contrast, params, {}, lambda number: {}, batch, cut
        )
    )(subject.variables["params"])
    want = subject.run(subject.batch)[1]
    largest = max(np.abs(x).max() for x in jax.tree.leaves(want))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5 * largest), grads, want)


def test_words_that_come_later_tell_a_place_nothing(subject):
    """Each place is scored on the words before it alone."""
    objective = subject.objective

    def hidden(module, ids):
        memory, conditions = jnp.ones((2, 2, 8)), jnp.array([[1, -1]] * 2)
        return module.network.decode_hidden(module.network.encode_text(ids)[1], memory, conditions)

    ids = jnp.array([[3, 4, 5, 6, 7, 8], [3, 4, 5, 9, 1, 2]])
    run = jax.jit(functools.partial(objective.apply, method=hidden))
    first, second = np.asarray(run(subject.variables, ids))
    np.testing.assert_allclose(first[:3], second[:3], atol=1e-6)
    assert np.abs(first[3:] - second[3:]).max() > 1e-3


def test_many_epochs_pass_in_pieces(subject):
    run = lambda at_once: jax.jit(
        functools.partial(
            subject.objective.clone(model={**TINY, "at_once": at_once}).apply, method="embed"
        )
    )(subject.variables, subject.batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), run(3), run(64))


def test_channels_are_left_out_in_training(subject):
    objective = subject.objective.clone(channel_dropout=0.9, jitter=0.1)
    signals, there = jnp.ones((50, 3, 4)), jnp.ones((50, 3), bool).at[0, 1].set(False)
    louder, kept = objective.apply(
        subject.variables,
        signals,
        there,
        method="_augmented",
        rngs={"channels": jax.random.key(0)},
    )
    kept, louder = np.asarray(kept), np.asarray(louder)
    assert kept[1:, 1].all() and not kept[0, 1]  # the only one of the brain stays
    assert kept[:, 0].sum() < 15
    assert (louder[:, 2] == 1).all()  # a code
    assert 0.9 <= louder[:, :2].min() < louder[:, :2].max() <= 1.1


def test_a_batch_says_what_it_is_of(tmp_path):
    config = load_config(ROOT / "configs/sleeplm/pretrain.py", "test")
    source = load_source(config, tmp_path, split="train")
    batch, again = (source.examples(0, 24) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, batch, again)
    words, asked = closed(), []
    assert source.describe()["vocabulary"] == words.identity
    for ids, query, place in zip(batch["caption"], batch["query"], batch["condition"]):
        text = words.decode(ids)
        assert words.unknown not in ids and text
        said, sought = parse(text).facts, parse(words.decode(query)).facts
        if MODALITIES[place] != "stage_event":  # a caption says nothing of the scoring
            assert said.stage is None and said.events is None
        # An epoch is sought by its own caption, or by its stage and brain.
        asked.append(np.array_equal(query, ids))
        assert asked[-1] or sought.stage is not None
    assert 0 < sum(asked) < len(asked)
    assert set(batch["condition"].tolist()) == set(range(5))
    later = source.examples(source.num_examples, source.num_examples + 24)
    assert not np.array_equal(np.sort(later["caption"], 0), np.sort(batch["caption"], 0))
    with pytest.raises(ValueError, match="config.data.tokenizer='bpe'"):
        load_source(configs.change(config, {"data.tokenizer": "bpe"}), tmp_path, split="train")


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2)])
def test_a_mesh_of_eight_finds_the_same_loss(subject, shape):
    batch, found = batch_of(8), []
    data, fsdp, tensor = shape
    for mesh in (
        sharding.make_mesh(data=1, devices=jax.devices()[:1]),
        sharding.make_mesh(data=data, fsdp=fsdp, tensor=tensor),
    ):
        with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
            placed = sharding.put_batch(batch, sharding.batch_sharding(mesh), 8)
            run = jax.jit(functools.partial(subject.objective.apply))
            found.append(jax.device_get(run(subject.variables, placed)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), *found)


def run_of(path, **changes):
    """The config of a short run of the tiny store."""
    config = load_config(ROOT / "configs/sleeplm/pretrain.py", "test")
    changes = {"data.path": str(path), "evals": {}, "logs.mfu": False} | changes
    return configs.change(config, {"train.batch_size": 8, "train.steps": 4} | changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("sleep_language")
    train(run_of(""), workdir)
    return workdir


@pytest.mark.slow
def test_a_run_goes_on_where_it_was(run, tmp_path):
    store = run / "synthetic"
    first = run_of(store, **{"checkpoints.every": 2, "train.steps": 4})
    train(configs.change(first, {"train.steps": 4}), tmp_path / "whole")
    whole = checkpoint.restore_variables(tmp_path / "whole", 4)[2]
    alone = [row["loss"] for row in metrics.read(tmp_path / "whole" / "metrics.jsonl")]
    # The first half once more, and the second from its checkpoint.
    for step in (3, 4):
        folder = tmp_path / "whole" / "checkpoints" / str(step)
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        if folder.is_dir():
            folder.rmdir()
    train(first, tmp_path / "whole")
    again = checkpoint.restore_variables(tmp_path / "whole", 4)[2]
    jax.tree.map(np.testing.assert_array_equal, whole, again)
    assert alone[-1] == [r["loss"] for r in metrics.read(tmp_path / "whole" / "metrics.jsonl")][-1]


@pytest.mark.slow
def test_one_device_and_two_processes_on_a_mesh_are_the_same_run(run, tmp_path):
    mesh = lambda data, fsdp: run_of(
        run / "synthetic", **{"mesh.data": data, "mesh.fsdp": fsdp, "optim.warmup_steps": 1}
    )
    with start_training([mesh(2, 2)] * 2, tmp_path / "two", devices=2) as group:
        group.wait(900)
    with start_training([mesh(1, 1)], tmp_path / "alone") as group:
        group.wait(900)
    two, alone = (
        [[row["loss"], row["accuracy"]] for row in metrics.read(tmp_path / name / "metrics.jsonl")]
        for name in ("two", "alone")
    )
    assert len(alone) == 4
    np.testing.assert_allclose(two, alone, rtol=1e-4)
