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

from data_pipelines import pipeline
from data_pipelines.store import EPOCH_S
from hypnos_jax import config as configs
from hypnos_jax import sharding, state
from hypnos_jax.batch import batch_spec, load_source
from hypnos_jax.export.model import make_model
from hypnos_jax.export.programs import programs_of
from hypnos_jax.inference.embed import open_embedder
from hypnos_jax.objectives import Embedding, EmbedsText, Objective, Tokenizes, WritesCaptions
from hypnos_jax.probing.frozen_features import night_features
from hypnos_jax.step import cut, make_train_step

ROOT = pathlib.Path(__file__).parent.parent
OBJECTIVES = sorted(
    path.stem for path in (ROOT / "hypnos_jax/objectives").glob("*.py") if path.stem != "__init__"
)
# With files of their own under tests/objectives: the whole suite asks the contract of them too.
TESTED = {
    *("dash_infonce", "finetune", "masked_autoencoding", "masked_prediction", "rq_next_token"),
    *("sleep_language", "channel_prediction", "epoch_next_token", "spectrum_prediction"),
}
ROWS, STEPS = 8, 20
# At 1e-3 without warm-up a tokenizer is chaotic: a change of 1e-7 of its first parameters, on one
# device, moves losses by 4e-4 within 20 steps while every code stays the same; at 1e-4 by 2e-7.
RATE = 1e-4


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
        # Even less than :smoke takes, so that many programs compile quickly.
        data = config["data"]
        tiny = pipeline.find_source(data["name"]).tiny(**pipeline.recipe_option(data))
        less = {f"data.{key}": value for key, value in tiny.items()}
        if "decay" in config["objective"].get("model", {}):
            # codes must die, and be replaced, within a few steps
            less["objective.model.decay"] = 0.5
        if "stft_windows_s" in config["objective"]:
            less["objective.stft_windows_s"] = (0.5, 2.0)  # each is a transform to compile
        config = configs.change(config, less)
        source = load_source(config, folder, split="train")
        self.folder, self.store = folder, source.store
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
            schedule = optax.constant_schedule(RATE)
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

    def embed_batch(self):
        """A batch of the data that ``embed`` reads: those it is trained on, or whole nights."""
        name, data = self.objective.embed_data, self.config["data"]
        if name == data["name"]:
            return self.batches[0]
        whole = pipeline.find_source(name).whole_nights({**data, "path": str(self.store.path)})
        source = load_source({"data": whole, "seed": 0}, self.folder, split="train")
        return source.examples(0, 2)

    @functools.cached_property
    def embed_shape(self):
        """[B, L, M, D] of what ``embed`` returns."""
        batch, objective = self.embed_batch(), self.objective
        embed = lambda own: objective.apply(own, batch, method="embed").rows
        return jax.eval_shape(embed, self.variables).shape

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


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.slow if name in TESTED else ()) for name in OBJECTIVES
    ],
)
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
@pytest.mark.slow
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


def test_it_has_what_everything_reads(subject):
    objective = subject.objective
    assert isinstance(objective, Objective)
    assert objective.title[0].islower()
    assert not objective.title.endswith(".")
    assert isinstance(objective.causal, bool)
    assert objective.token_s == pipeline.find_source(objective.embed_data).TOKEN_S
    assert EPOCH_S % objective.token_s == 0
    assert all(row["name"] for row in objective.modalities)


def test_embeddings_have_a_row_per_token_and_modality(subject):
    objective = subject.objective
    batch = subject.embed_batch()
    found = jax.jit(lambda own: objective.apply(own, batch, method="embed"))(subject.variables)
    assert isinstance(found, Embedding)
    fused = getattr(objective, "fused", False)
    count = 1 if fused else len(objective.modalities) or 1
    assert found.rows.shape[:3] == (*batch["valid"].shape[:2], count)
    assert found.rows.ndim == 4
    assert found.rows.dtype == jnp.float32
    assert np.isfinite(found.rows).all()
    assert found.valid.shape == found.rows.shape[:3]
    assert found.valid.dtype == jnp.bool_
    assert found.valid.any()


def found_or_refused(subject, make):
    """What is made of an objective, or None where it is refused by its name or its data's."""
    try:
        return make()
    except ValueError as error:
        names = (type(subject.objective).__name__, subject.objective.embed_data)
        assert any(name in str(error) for name in names), error
        return None


def test_it_is_probed_embedded_and_exported_or_refused_by_name(subject):
    objective, night = subject.objective, subject.store.nights[0]
    model = make_model(subject.config, subject.variables, 0, subject.store.path, tokenizers={})
    width = subject.embed_shape[-1]

    features = found_or_refused(subject, lambda: night_features(model, subject.store))
    embedder = found_or_refused(subject, lambda: open_embedder(model))
    programs = found_or_refused(subject, lambda: programs_of(objective, model.config))
    assert (features is None) == (embedder is None)
    if isinstance(objective, Tokenizes):  # it has codes to give, not rows
        assert set(programs) == {"encode"}
        return
    texts = {"embed_text"} if isinstance(objective, EmbedsText) else set()
    if isinstance(objective, WritesCaptions):
        texts |= {"caption_start", "caption_step"}
    assert set(programs) == {"embed", *texts}
    assert programs["embed"].outputs["rows"].shape[2:] == subject.embed_shape[2:]
    assert set(features) == {night.recording for night in subject.store.nights}
    assert features[night.recording].shape == (
        night.duration_s // EPOCH_S,
        width * subject.embed_shape[2],
    )
    found = embedder.embed_night(subject.store, night)
    assert len(found.times_s) == night.duration_s // objective.token_s
    assert found.epochs.shape == (night.duration_s // EPOCH_S, width)


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


def quantizers(tree):
    """Yield the state of each residual quantiser of a collection."""
    if "usage" in tree:
        yield tree
        return
    for name in sorted(tree):
        yield from quantizers(tree[name])


MESHES = [(8, 1, 1), (1, 8, 1), (1, 1, 8), (1, 4, 2), (2, 1, 4)]


@pytest.mark.parametrize(
    "data, fsdp, tensor",
    [(2, 2, 2), *(pytest.param(*shape, marks=pytest.mark.slow) for shape in MESHES)],
)
@pytest.mark.slow
def test_a_mesh_of_eight_trains_as_one_device_does(subject, data, fsdp, tensor):
    mesh = sharding.make_mesh(data=data, fsdp=fsdp, tensor=tensor)
    trained, metrics = subject.trained(mesh)
    for i, (ours, theirs) in enumerate(zip(metrics, subject.metrics, strict=True)):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        if i < 4:
            assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    if "vq" in trained.collections:
        for ours, theirs in zip(
            quantizers(trained.collections["vq"]), quantizers(subject.variables["vq"]), strict=True
        ):
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
