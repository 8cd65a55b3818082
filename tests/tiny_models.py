"""Tiny untrained models of tokens and of signals, as runs' folders and exports, made in seconds."""

import functools
import json

import flax.linen as nn
import flax.traverse_util
import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from hypnos_jax import checkpoint, plugins, state
from hypnos_jax.config import frozen
from hypnos_jax.export.programs import programs_of

MODALITIES = [
    {"name": "eeg_c3", "levels": 2, "codes": 16, "channel_id": 0, "group": "eeg"},
    {"name": "eeg_c4", "levels": 2, "codes": 16, "channel_id": 1, "group": "eeg"},
    {"name": "ecg", "levels": 2, "codes": 16, "channel_id": 5, "group": "ecg"},
    {"name": "resp_abd", "levels": 2, "codes": 16, "channel_id": 6, "group": "resp"},
]


def rq_config(path="", modalities=MODALITIES, **model):
    """The resolved config of an RQ-Transformer of one block of 8 s and one of 16 s."""
    sizes = {"dim": 16, "layers": 2, "heads": 2, "local_window": 8, "wide_window": 16}
    depth = {"wide_every": 2, "depth_dim": 8, "depth_layers": 1, "depth_heads": 2}
    model = {"modalities": modalities, **sizes, **depth, **model}
    return {
        "seed": 0,
        "objective": {"name": "rq_next_token", "model": model},
        "data": {"name": "token_windows", "path": str(path), "window_s": 64},
        "optim": {},
        "train": {"steps": 1, "batch_size": 2},
        "mesh": {"data": 1},
        "checkpoints": {},
        "logs": {},
        "evals": {},
    }


def token_batch(rows=2, seconds=8, modalities=MODALITIES):
    """Zeros in the shapes of a batch of token windows."""
    count, width = len(modalities), sum(m["levels"] for m in modalities)
    return {
        "codes": jnp.zeros((rows, seconds, width), jnp.int32),
        "present": jnp.ones((rows, count), bool),
        "channel_ids": jnp.zeros((rows, count), jnp.int32),
        "valid": jnp.ones((rows, seconds, count), bool),
        "tracks": jnp.zeros((rows, seconds, count, 2)),
        "weight": jnp.ones(rows),
    }


def rvq_config(signal_type, rate_hz=128, ratios=(4, 4, 4, 2)):
    """The resolved config of a tokenizer of 2 x 16 codes."""
    sizes = {"filters": 2, "dim": 8, "layers": 1, "heads": 2, "window": 4, "ffn_dim": 16}
    model = {"ratios": ratios, **sizes, "codebook_dim": 6, "levels": 2, "codes": 16}
    own = {"signal_type": signal_type, "rate_hz": rate_hz, "model": model}
    data = {"name": "signal_crops", "path": "", "signal_type": signal_type, "crop_s": 16}
    return {
        **rq_config(),
        "objective": {"name": "rvq_reconstruction", "stft_windows_s": (0.5,), **own},
        "data": data,
    }


def signal_batch(rate_hz=128, rows=1, seconds=4):
    """Zeros in the shapes of a batch of signal crops."""
    return {
        "signal": jnp.zeros((rows, seconds * rate_hz)),
        "valid": jnp.ones((rows, seconds), bool),
        "channel_id": jnp.zeros(rows, jnp.int32),
        "weight": jnp.ones(rows),
    }


def write_tokenizers(folder, signal_types=("eeg", "ecg", "resp")):
    """A run's folder per signal type, as ``launch.train`` leaves them."""
    for seed, name in enumerate(signal_types):
        rate_hz, ratios = (32, (4, 4, 2)) if name == "resp" else (128, (4, 4, 4, 2))
        config = rvq_config(name, rate_hz, ratios)
        variables = random_variables(config, signal_batch(rate_hz), seed)
        write_run(folder / name, config, variables)


def make_objective(config):
    arguments = dict(config["objective"])
    return plugins.load("objectives", arguments.pop("name"))(**frozen(arguments))


def random_variables(config, batch, seed=0):
    """Random variables in the objective's shapes; compiling its own initialisation takes longer."""
    rows = {name: (x.shape, x.dtype) for name, x in batch.items()}
    shapes = _shapes(json.dumps(config["objective"]), tuple(rows.items()))
    rng = np.random.default_rng(seed)

    # About what training begins from: with norms and biases at random all signals look alike.
    centre = {"scale": 1.0, "gain": 1.0, "counts": 1.0}
    spread = {"scale": 0.1, "gain": 0.1, "counts": 0.0, "bias": 0.03}

    def one(path, shape):
        if shape.dtype != jnp.float32:
            return np.ones(shape.shape, shape.dtype)
        name = path[-1].key
        values = rng.normal(centre.get(name, 0.0), spread.get(name, 0.3), shape.shape)
        return values.astype(np.float32)

    return jax.tree.map_with_path(one, shapes)


@functools.cache  # tracing the initialisation takes a second
def _shapes(objective, rows):
    objective = make_objective({"objective": json.loads(objective)})
    keys = {name: jax.random.key(0) for name in ("params", *objective.rng_streams)}
    batch = {name: jnp.zeros(*row) for name, row in rows}
    return jax.eval_shape(lambda: nn.unbox(objective.init(keys, batch, train=True)))


def write_run(workdir, config, variables, step=3):
    """A run's folder with one checkpoint."""
    params = variables["params"]
    collections = {name: tree for name, tree in variables.items() if name != "params"}
    opt_state = (jnp.zeros(()),)
    whole = state.TrainState(jnp.int32(step), jnp.int32(0), params, opt_state, collections, None)
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "config.json").write_text(json.dumps(config))
    keep = checkpoint.Checkpoints(workdir)
    keep.save(step, jax.tree.map(jnp.asarray, whole), {"config": config})
    keep.close()


def reread_program(model, name):
    """A program of a model after its way through bytes, as a function of named arrays."""
    tensors = flax.traverse_util.flatten_dict(model.variables, sep="/")
    data = programs_of(model.objective, model.config)[name].serialize(tensors)
    read = jax.export.deserialize(bytearray(data))
    return lambda **inputs: jax.device_get(read.call(tensors, inputs))
