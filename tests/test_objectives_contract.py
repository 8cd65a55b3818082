"""The contract that the trainer counts on, asked of every file in ``hypnos_jax/objectives``.

Each objective is met through the config that trains it, at its smallest, on synthetic data.
"""

import functools
import importlib.util
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hypnos_jax import config as configs
from hypnos_jax import sharding, state
from hypnos_jax.batch import batch_spec, load_source
from hypnos_jax.step import cut, make_train_step

ROOT = pathlib.Path(__file__).parent.parent
OBJECTIVES = sorted(
    path.stem for path in (ROOT / "hypnos_jax/objectives").glob("*.py") if path.stem != "__init__"
)
ROWS, STEPS = 8, 20
# Less of each kind of data than even :smoke takes, so that many programs compile quickly.
LESS = {
    "token_windows": {"data.modalities": ["eeg_c3", "eeg_c4", "ecg"], "data.window_s": 24},
    "modality_pairs": {"data.modalities": ["ibi", "eeg", "spo2"], "data.window_tokens": 8},
    # codes must die, and be replaced, within a few steps
    "signal_crops": {"data.crop_s": 6, "objective.model.decay": 0.5},
    "modality_nights": {"data.modalities": ["ibi", "spo2", "belt"], "data.window_tokens": 8},
}
# A tokenizer at 1e-3 without warm-up is chaotic: a change of 1e-7 of its first parameters, on one
# device, moves losses by 4e-4 within 20 steps while every code stays the same; at 1e-4 by 2e-7.
RATES = {"signal_crops": 1e-4}


def config_files():
    found = (ROOT / "configs").rglob("*.py")
    return sorted(path for path in found if "def get_config(" in path.read_text())


def load_config(path, arg):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return configs.resolve(module.get_config(arg))


@functools.cache
def smallest_config(name):
    """The ``:smoke`` config that trains an objective."""
    for path in config_files():
        config = load_config(path, "smoke")
        if config["objective"]["name"] == name:
            return config
    pytest.fail(f"no config under configs/ has a :smoke that trains {name}")


class Subject:
    """An objective with a batch of its data and variables that have seen some steps."""

    def __init__(self, name, folder):
        config = smallest_config(name)
        config = configs.change(config, LESS[config["data"]["name"]])
        source = load_source(config, folder, split="train")
        self.config = configs.fill(config, source.describe())
        self.objective = configs.make_objective(self.config)
        batches = source.batches(ROWS, 0, ROWS, 0)
        self.batches = [next(batches) for _ in range(STEPS)]
        batches.close()
        self.spec = batch_spec(source, ROWS)
        self.init = state.init_function(self.objective, self.spec)
        one_device = sharding.make_mesh(data=1, devices=jax.devices()[:1])
        trained, self.metrics = self.trained(one_device)
        self.variables = jax.device_get(trained.variables())

    def trained(self, mesh):
        """Train a step on each batch; return the state and each step's metrics."""
        with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
            schedule = optax.constant_schedule(RATES.get(self.config["data"]["name"], 1e-3))
            make, abstract, tx = state.create(
                lambda: self.init(0),
                lambda matrices: optax.adamw(schedule),
                mesh,
                averaged=state.averaged(self.objective),
            )
            averaging = optax.constant_schedule(0.9)
            step = make_train_step(self.objective, tx, schedule, seed=0, averaging=averaging)
            shardings = jax.tree.map(lambda x: x.sharding, abstract)
            step = jax.jit(step, out_shardings=(shardings, sharding.replicated(mesh)))
            now, metrics = make(), []
            for batch in self.batches:
                batch = sharding.put_batch(batch, sharding.batch_sharding(mesh), ROWS)
                now, values = step(now, batch)
                metrics.append(jax.device_get(values))
            return now, metrics

    def weigh(self, batch):
        batch = jax.tree.map(jnp.asarray, batch)
        return self.objective.weigh(batch) if hasattr(self.objective, "weigh") else batch

    def loss(self, batch, *, train=False, weigh=True):
        """Return a batch's Loss and the gradient of its sum; training draws a fixed step's keys."""
        batch = self.weigh(batch) if weigh else batch
        params, rest = self.variables["params"], {**self.variables, "params": None}
        grads, loss = self._loss(params, rest, batch, train)
        return loss, jax.device_get(grads)

    @functools.cached_property
    def _loss(self):
        def total(params, rest, batch, train):
            rngs = state.rngs(state.streams(self.objective), 0, 0) if train else None
            variables = {**rest, "params": params}
            mutable = [name for name in rest if name != "params"] if train else []
            loss, _ = self.objective.apply(
                variables, batch, train=train, rngs=rngs, mutable=mutable
            )
            return loss.total, loss

        return jax.jit(jax.grad(total, has_aux=True), static_argnums=3)


@pytest.fixture(scope="module", params=OBJECTIVES)
def subject(request, tmp_path_factory):
    return Subject(request.param, tmp_path_factory.mktemp(request.param))


def assert_close(ours, theirs, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), ours, theirs)


def assert_same_gradient(ours, theirs):
    assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(optax.global_norm(theirs)))


@pytest.mark.parametrize("training", [False, True])
def test_the_loss_is_finite(subject, training):
    loss, _ = subject.loss(subject.batches[0], train=training)
    for value in jax.tree.leaves(loss):
        assert value.dtype == jnp.float32
        assert value.shape == ()
        assert np.isfinite(value)
    assert loss.weight > 0
    assert "loss" not in loss.metrics


def with_padding(batch, contents):
    """The batch with the second half of its rows weighted 0, holding those of ``contents``."""
    half = ROWS // 2
    padded = {name: np.concatenate([x[:half], contents[name][half:]]) for name, x in batch.items()}
    padded["weight"][half:] = 0
    return padded


@pytest.mark.parametrize("training", [False, True])
def test_rows_of_weight_zero_change_nothing(subject, training):
    first, other = subject.batches[:2]
    empty = {name: np.zeros_like(value) for name, value in other.items()}
    alone = {name: value[: ROWS // 2] for name, value in first.items()}
    plain, gradient = subject.loss(with_padding(first, first), train=training)
    others = [with_padding(first, other), with_padding(first, empty)]
    for batch in others + ([] if training else [alone]):
        loss, grads = subject.loss(batch, train=training)
        assert_close(loss, plain)
        assert_same_gradient(grads, gradient)


def test_a_batch_of_padding_weighs_nothing(subject):
    empty = {name: np.zeros_like(value) for name, value in subject.batches[0].items()}
    loss, grads = subject.loss(empty)
    assert loss.weight == 0
    assert loss.total == 0
    assert all(np.isfinite(grad).all() for grad in jax.tree.leaves(grads))


def test_every_parameter_gets_a_gradient(subject):
    found = [subject.loss(batch, train=True)[1] for batch in subject.batches]
    moved = jax.tree.map(lambda *grads: sum(map(np.abs, grads)), *found)
    still = [
        jax.tree_util.keystr(path)
        for path, value in jax.tree_util.tree_leaves_with_path(moved)
        if not value.any()
    ]
    assert not still


def test_embeddings_have_a_vector_per_second(subject):
    batch = subject.batches[0]
    embed = jax.jit(lambda variables: subject.objective.apply(variables, batch, method="embed"))
    found = embed(subject.variables)
    assert found
    for value in found.values():
        assert value.shape[:2] == batch["valid"].shape[:2]
        assert value.ndim == 3
        assert np.isfinite(value).all()


def test_the_sums_add_up_over_micro_batches(subject):
    if getattr(subject.objective, "couples_batch", False):
        pytest.skip("rows are each other's negatives")
    batch = subject.weigh(subject.batches[0])
    whole, gradient = subject.loss(batch, weigh=False)
    pieces = cut(batch, 2)
    parts = [subject.loss(jax.tree.map(lambda x, i=i: x[i], pieces), weigh=False) for i in range(2)]
    loss, grads = jax.tree.map(lambda *values: sum(values), *parts)
    assert_close(loss.total / loss.weight, whole.total / whole.weight)
    for name, (total, weight) in whole.metrics.items():
        assert_close(loss.metrics[name][0] / loss.metrics[name][1], total / weight, rtol=1e-4)
    assert_same_gradient(grads, gradient)


MESHES = [(8, 1, 1), (1, 8, 1), (1, 1, 8), (1, 4, 2), (2, 1, 4)]


@pytest.mark.parametrize(
    "data, fsdp, tensor",
    [(2, 2, 2), *(pytest.param(*shape, marks=pytest.mark.slow) for shape in MESHES)],
)
def test_a_mesh_of_eight_trains_as_one_device_does(subject, data, fsdp, tensor):
    mesh = sharding.make_mesh(data=data, fsdp=fsdp, tensor=tensor)
    trained, metrics = subject.trained(mesh)
    for i, (ours, theirs) in enumerate(zip(metrics, subject.metrics, strict=True)):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        if i < 4:
            assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    if "vq" in trained.collections:
        ours, theirs = (
            variables["vq"]["tokenizer"]["quantizer"]
            for variables in (trained.collections, subject.variables)
        )
        assert np.all(ours["initialised"])  # by k-means over the whole batch, level by level
        # Every assignment so far, but for near ties that rounding may decide.
        assert np.abs(ours["usage"] - theirs["usage"]).sum() <= 0.01 * theirs["usage"].sum()
    if fsdp * tensor > 1:
        moments, books = trained.opt_state, trained.collections
        for kind in (trained.params, trained.ema, moments, books):
            arrays = [x for x in jax.tree.leaves(kind) if x.ndim]
            held = sum(x.addressable_shards[0].data.size for x in arrays)
            # The tensor axis takes matrices of transformers, not convolutions.
            assert held <= (0.6 if fsdp > 1 else 0.9) * sum(x.size for x in arrays)


def test_parameters_and_moments_are_spread_over_the_mesh(subject):
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    plan = state.create(lambda: subject.init(0), lambda matrices: optax.adamw(1e-3), mesh)[1]
    specs = jax.tree.map(lambda x: x.sharding.spec, plan.params)
    whole = sum(x.size for x in jax.tree.leaves(plan.params))
    held = [x.size / _ways(x.sharding) for x in jax.tree.leaves(plan.params)]
    assert sum(held) < 0.6 * whole
    for moments in (plan.opt_state[0].mu, plan.opt_state[0].nu):
        assert jax.tree.map(lambda x: x.sharding.spec, moments) == specs


def _ways(place):
    """How many pieces a sharding cuts an array into."""
    return np.prod([place.mesh.shape[axis] for axis in place.spec if axis])
