"""NeuroNet's and SynthSleepNet's objectives: worked numbers, missing channels, what is frozen."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import start_training

from hypnos_jax import checkpoint, losses, metrics, sharding
from hypnos_jax import config as configs
from hypnos_jax.models.synthsleepnet import Synthsleepnet
from hypnos_jax.nn.lora import LowRank
from hypnos_jax.nn.masking import TokenMask, positions, token_mask
from hypnos_jax.objectives.masked_prediction import MaskedPrediction
from hypnos_jax.train import train

# Rows of the toys of one worked example.
FIRST = jnp.array([[1.0, 0], [0, 1], [1, 1]])
SECOND = jnp.array([[0.8, 0.6], [-0.6, 0.8], [1, -1]])
THIRD = jnp.array([[0.0, 1], [1, 1], [-1, 0.5]])
ALL = jnp.ones(3, bool)
REAL = jnp.array([[[1, 2], [0, 1], [3, -1]], [[0.5, 0.5], [2, 0], [1, 1]]])
PREDICTED = jnp.array([[[1.5, 1], [0, 0], [2, 0]], [[0, 1], [2, 1], [0, 3]]])


@pytest.mark.parametrize(
    "temperature, expected", [(0.5, 1.434887), (0.1, 3.358878), (0.05, 6.366982)]
)
def test_worked_contrast(temperature, expected):
    cost, hits = losses.nt_xent(FIRST, SECOND, ALL, temperature=temperature)
    assert cost.mean() == pytest.approx(expected, abs=1e-6)
    if temperature == 0.5:
        anchors = [1.072819, 1.012238, 2.878940, 1.281558, 0.443712, 1.920057]
        np.testing.assert_allclose(cost, np.reshape(anchors, (2, 3)).mean(0), atol=1e-6)
        assert hits.mean() == 0.5


def test_worked_errors_and_totals():
    mean = lambda hidden: float(losses.hidden_error(PREDICTED, REAL, jnp.array(hidden) > 0).mean())
    first, second = mean([[1, 0, 1], [0, 1, 1]]), mean([[0, 1, 1], [1, 1, 0]])
    assert (first, second) == pytest.approx((1.156250, 0.562500), abs=1e-6)
    own, other = (
        float(losses.nt_xent(FIRST, x, ALL, temperature=0.5)[0].mean()) for x in (SECOND, THIRD)
    )
    assert first + second + own == pytest.approx(3.153637, abs=1e-6)
    assert (first + second) / 2 + own == pytest.approx(2.294262, abs=1e-6)
    assert other == pytest.approx(2.417025, abs=1e-6)
    assert first + (own + other) / 2 == pytest.approx(3.082206, abs=1e-6)


def test_rows_that_do_not_count_or_stand_apart_are_no_negatives():
    cost = functools.partial(losses.nt_xent, temperature=0.5)
    more = [jnp.concatenate([x, 9 * jnp.ones((1, 2))]) for x in (FIRST, SECOND)]
    counted = jnp.array([True, True, True, False])
    found, _ = cost(*more, counted)
    np.testing.assert_allclose(found[:3], cost(FIRST, SECOND, ALL)[0], atol=1e-6)
    assert found[3] == 0
    apart = jnp.zeros((4, 4), bool).at[:3, 3].set(True)  # nobody sees the last
    found, _ = cost(*more, jnp.ones(4, bool), apart=apart)
    np.testing.assert_allclose(found[:3], cost(FIRST, SECOND, ALL)[0], atol=1e-6)


def test_the_table_of_positions():
    want = [
        [0, 0, 1, 1, 0, 0, 1, 1],
        [0, 0, 1, 1, 0.841471, 0.010000, 0.540302, 0.999950],
        [0, 0, 1, 1, 0.909297, 0.019999, -0.416147, 0.999800],
    ]
    np.testing.assert_allclose(positions(3, 8), want, atol=1e-6)
    with pytest.raises(ValueError, match="multiple of 4"):
        positions(3, 6)


@pytest.mark.parametrize("rate, kept", [(0.8, 5), (0.4, 16), (0.0, 27)])
def test_what_is_taken_is_put_back_in_its_place(rate, kept):
    mask = token_mask(jax.random.uniform(jax.random.key(0), (4, 27)), rate)
    tokens = jnp.arange(4 * 27 * 2.0).reshape(4, 27, 2)
    assert mask.take(tokens).shape == (4, kept, 2)
    filler = jnp.array([-1.0, -2.0])
    back = mask.fill(mask.take(tokens), filler)
    want = np.where(mask.hidden[..., None], filler[None, None], tokens)
    np.testing.assert_array_equal(back, want)
    assert (mask.hidden.sum(1) == 27 - kept).all()


def test_adapters_take_turns_and_begin_as_nothing():
    x = jax.random.normal(jax.random.key(0), (6, 4, 5))
    module = LowRank(3, rank=2, alpha=16.0, stabilised=True, adapters=2, start="gaussian")
    variables = nn.unbox(module.init(jax.random.key(1), x))
    assert not np.asarray(module.apply(variables, x)).any()
    a = variables["params"]["lora_a"]
    b = jax.random.normal(jax.random.key(2), variables["params"]["lora_b"].shape)
    found = module.apply({"params": {"lora_a": a, "lora_b": b}}, x)
    for row in range(6):
        want = 16 / np.sqrt(2) * x[row] @ a[row % 2] @ b[row % 2]
        np.testing.assert_allclose(found[row], want, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="adapters=2 do not divide 5 rows"):
        module.apply(variables, x[:5])


CHANNELS = ("eeg_c4", "eeg_c3", "ecg")
ROWS = tuple({"name": name, "rate_hz": 100, "frames": 3000} for name in CHANNELS)
TINY = {
    "modalities": ROWS,
    "encoder": {
        "window_s": 4.0,
        "step_s": 2.0,
        "stem": 2,
        "widths": (2, 2, 2, 4),
        "squeeze": 2,
        "kernels": (3,),
        "dim": 8,
        "depth": 1,
        "heads": 2,
    },
    "lora": {"rank": 2, "alpha": 16.0, "stabilised": True, "start": "gaussian"},
    "dim": 8,
    "depth": 1,
    "heads": 2,
    "decoder_dim": 8,
    "decoder_depth": 1,
    "decoder_heads": 2,
    "projection": (8, 4),
}
FRAMES = 14


@dataclasses.dataclass
class Subject:
    """A tiny objective with a batch and random variables, and what it makes of batches."""

    objective: MaskedPrediction
    variables: dict
    batch: dict
    compiled: Callable

    def answers(self, batch):
        """An embedding, a loss and the tokens, of one program: half of each is the same."""
        return self.compiled(self.variables, batch)


def drawn(path, shape):
    """Random values; compiling their initialisation would take as long as what is tested."""
    rng = np.random.default_rng(list(str(path).encode()))
    values = rng.normal(size=shape.shape).astype(np.float32)
    name = path[-1].key
    if name in ("scale", "var"):
        return 1 + 0.1 * np.abs(values)
    return values / np.sqrt(np.prod(shape.shape[:-1])) if "kernel" in name else 0.1 * values


def batch_of(rows, seed=0):
    rng = np.random.default_rng(seed)
    batch = {
        f"signal/{row['name']}": rng.normal(0, 1000, (rows, 1, 3000)).astype(np.int16)
        for row in ROWS
    }
    return batch | {
        "scale": np.full((rows, 3), 1e-3, np.float32),
        "valid": np.ones((rows, 1, 3), bool),
        "present": np.ones((rows, 3), bool),
        "weight": np.ones(rows, np.float32),
    }


@pytest.fixture(scope="module")
def subject():
    objective, batch = MaskedPrediction(TINY), batch_of(5)
    keys = {name: jax.random.key(i) for i, name in enumerate(("params", "mask", "dropout"))}
    shapes = jax.eval_shape(functools.partial(objective.init, train=True), keys, batch)
    variables = jax.tree.map(jnp.asarray, jax.tree.map_with_path(drawn, nn.unbox(shapes)))
    methods = ("embed", "__call__", "represent")
    compiled = jax.jit(lambda own, x: [objective.apply(own, x, method=name) for name in methods])
    return Subject(objective, variables, batch, compiled)


def test_an_absent_channel_is_not_looked_at(subject):
    gone = {**subject.batch, "present": np.array([[1, 1, 0]] * 5, bool)}
    other = {**gone, "signal/ecg": batch_of(5, seed=9)["signal/ecg"]}
    found, losses, _ = zip(*map(subject.answers, (subject.batch, gone, other)))
    rows, totals = [np.asarray(x.rows) for x in found], [x.total for x in losses]
    np.testing.assert_array_equal(rows[1], rows[2])
    assert np.abs(rows[0] - rows[1]).max() > 1e-4
    assert totals[1] == totals[2] != totals[0]
    # One night without any channel: no row, and nothing of it in the loss of the others.
    none = {**subject.batch, "present": np.array([[1, 1, 1]] * 4 + [[0, 0, 0]], bool)}
    short = {**subject.batch, "weight": np.array([1, 1, 1, 1, 0], np.float32)}
    found, loss, _ = subject.answers(none)
    assert loss.total == pytest.approx(float(subject.answers(short)[1].total), rel=1e-6)
    assert not found.valid[4].any() and not found.rows[4].any() and found.valid[:4].all()


def test_one_row_is_as_good_as_several(subject):
    whole = subject.answers(subject.batch)[0].rows
    apply = jax.jit(functools.partial(subject.objective.apply, method="embed"))
    alone = apply(subject.variables, {name: x[2:3] for name, x in subject.batch.items()}).rows
    np.testing.assert_allclose(alone[0], whole[2], atol=1e-5)
    pieces = subject.objective.clone(model={**TINY, "at_once": 2})
    found = jax.jit(functools.partial(pieces.apply, method="embed"))(
        subject.variables, subject.batch
    )
    np.testing.assert_allclose(found.rows, whole, atol=1e-5)


@pytest.mark.slow
def test_copies_of_an_encoder_are_the_shared_one(subject):
    copies = Synthsleepnet(**{**TINY, "share": "channel"})
    shared = flax.traverse_util.flatten_dict(subject.variables, sep="/")
    own = {}
    for name, x in shared.items():
        head, _, rest = name.partition("encoder_eeg/")
        if not rest:
            own[name.replace("/network/", "/", 1)] = x
            continue
        for i, channel in enumerate(CHANNELS[:2]):
            part = x[i : i + 1] if "/lora_" in name else x
            own[f"{head.replace('/network/', '/')}encoder_{channel}/{rest}"] = part
    own = flax.traverse_util.unflatten_dict(own, sep="/")
    signals, there = jax.random.normal(jax.random.key(0), (2, 3, 3000)), jnp.ones((2, 3), bool)
    together = {name: tree["network"] for name, tree in subject.variables.items()}
    run = lambda module, own: jax.jit(functools.partial(module.apply, method="fuse"))(
        own, signals, there
    )
    np.testing.assert_allclose(run(copies, own), run(Synthsleepnet(**TINY), together), atol=1e-5)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_decoder_reads_its_own_channels_tokens(subject, legacy):
    network = Synthsleepnet(**{**TINY, "legacy_slice": legacy})
    own = {name: tree["network"] for name, tree in subject.variables.items()}
    noise = jax.random.uniform(jax.random.key(0), (1, 3, FRAMES))
    tokens = jax.random.normal(jax.random.key(1), (1, 3, 1 + FRAMES, 8))

    def slices(module, tokens, noise):
        mask = jax.vmap(lambda noise: token_mask(noise, 0.4), 1, 1)(noise)
        kept = jax.vmap(TokenMask.take, 1, 1)(mask, tokens[:, :, 1:])
        fused = kept.reshape(1, -1, 8)
        return module._decode(module._slices(fused, 3), mask)

    of = lambda tokens: network.apply(own, tokens, noise, method=slices)[0].sum((1, 2))
    reach = np.abs(jax.jit(jax.jacobian(of))(tokens)[:, 0]).sum((2, 3))  # [3 decoders, 3 channels]
    if legacy:  # all read what lies in front: the first channel's
        assert (reach[:, 0] > 0).all() and not reach[:, 2].any()
    else:
        assert (np.diag(reach) > 0).all() and not (reach - np.diag(np.diag(reach))).any()


@pytest.mark.parametrize("stop", [False, True])
def test_the_gradient_through_the_targets_can_be_stopped(subject, stop):
    objective = subject.objective.clone(stop_gradient_target=stop, contrast_weight=0.0)
    total = lambda tokens: (
        objective.apply(subject.variables, tokens, subject.batch, method="contrast").total
    )
    tokens = subject.answers(subject.batch)[2]
    grads = np.asarray(jax.jit(jax.grad(total))(tokens))[:, 0, :, 1:]
    # Evaluation draws the same noise each time. A hidden token is a target and nothing else.
    noise = jax.random.uniform(jax.random.key(0), (5, 3, FRAMES))
    hidden = np.asarray(jax.vmap(lambda x: token_mask(x, 0.4).hidden, 1, 1)(noise))
    assert np.abs(grads[~hidden]).max() > 0
    assert (np.abs(grads[hidden]).max() > 0) != stop


def test_channels_are_left_out_in_training(subject):
    objective = subject.objective.clone(modality_dropout=0.9)
    keys = {name: jax.random.key(i) for i, name in enumerate(objective.rng_streams)}
    contrast = functools.partial(objective.apply, method="contrast", mutable=["batch_stats"])
    run = jax.jit(functools.partial(contrast, train=True, rngs=keys))
    tokens = subject.answers(subject.batch)[2]
    pairs = run(subject.variables, tokens, subject.batch)[0].metrics["accuracy"][1]
    assert 5 <= pairs < 15  # of 5 epochs of 3 channels; one of each epoch stays


# Two stages by the trainer, as a user has them


def load(path, arg):
    from test_objectives_contract import load_config

    return load_config(pathlib.Path(__file__).parents[2] / "configs/synthsleepnet" / path, arg)


@pytest.fixture(scope="module")
def stage_one(tmp_path_factory):
    """A run of stage 1 of a few steps on its own tiny store."""
    workdir = tmp_path_factory.mktemp("stage_one")
    changes = {
        "train.steps": 2,
        "train.batch_size": 8,
        "data.modalities": ["eeg_c4", "eeg_c3"],
        "evals": {},
    }
    train(configs.change(load("neuronet.py", "test,eeg"), changes), workdir)
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize("arg", ["test,c4", "test,c4,legacy"])
def test_what_stage_two_begins_from_stays_as_it_was(stage_one, tmp_path, arg):
    encoder = "network/encoder_eeg" if arg == "test,c4" else "network/encoder_eeg_c4"
    source = {"source": str(stage_one), "subtrees": [["network/encoder", encoder]]}
    changes = {"train.steps": 3, "train.init_from": [source], "evals": {}}
    changes["data.path"] = str(stage_one / "synthetic")
    train(configs.change(load("pretrain.py", arg), changes), tmp_path)
    before, after = (
        flax.traverse_util.flatten_dict(checkpoint.restore_variables(folder, None)[2], sep="/")
        for folder in (stage_one, tmp_path)
    )
    same, changed = 0, set()
    for name, x in before.items():
        collection, _, rest = name.partition("/network/encoder/")
        if rest:
            now = np.asarray(after[f"{collection}/{encoder}/{rest}"])
            if np.array_equal(now, x):
                same += 1
            else:
                changed.add(rest)
    assert same > 20
    if arg == "test,c4":
        assert not changed
    else:  # the official fault: linear layers began anew, convolutions did not
        assert {"patch_embed/kernel", "frame_network/out/kernel"} <= changed
        assert not any("conv" in name or name == "cls" for name in changed)
    adapters = [name for name in after if "/lora_b" in name]
    assert adapters and all(np.abs(after[name]).max() > 0 for name in adapters)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2)])
def test_a_mesh_of_eight_fuses_as_one_device_does(shape):
    objective, batch = MaskedPrediction(TINY), batch_of(8)
    keys = {name: jax.random.key(i) for i, name in enumerate(("params", "mask", "dropout"))}
    variables = nn.unbox(objective.init(keys, batch, train=True))
    data, fsdp, tensor = shape
    found = []
    for mesh in (
        sharding.make_mesh(data=1, devices=jax.devices()[:1]),
        sharding.make_mesh(data=data, fsdp=fsdp, tensor=tensor),
    ):
        with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
            placed = sharding.put_batch(batch, sharding.batch_sharding(mesh), 8)
            found.append(jax.device_get(jax.jit(objective.apply)(variables, placed)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), *found)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["one", "two"])
def test_one_device_and_two_processes_on_a_mesh_are_the_same_run(stage_one, tmp_path, stage):
    given = ("neuronet.py", "test,eeg") if stage == "one" else ("pretrain.py", "test,c4_eog")

    def run_of(**mesh):
        changes = {"data.path": str(stage_one / "synthetic"), "train.batch_size": 8, "evals": {}}
        changes |= {"train.steps": 4, "logs.mfu": False, "optim.warmup_steps": 1}
        return configs.change(load(*given), changes | {f"mesh.{k}": n for k, n in mesh.items()})

    with start_training([run_of(data=2, fsdp=2)] * 2, tmp_path / "two", devices=2) as group:
        group.wait(600)
    with start_training([run_of(data=1, fsdp=1)], tmp_path / "alone") as group:
        group.wait(600)
    two, alone = (
        [[row["loss"], row["accuracy"]] for row in metrics.read(tmp_path / name / "metrics.jsonl")]
        for name in ("two", "alone")
    )
    assert len(alone) == 4
    np.testing.assert_allclose(two, alone, rtol=1e-4)
