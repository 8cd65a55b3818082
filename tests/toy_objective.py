"""A small objective with a mutable collection, dropout and normalising ``weigh``, and its data.

Its collection is a ledger: how often the parameters were trained on each slot of the data.
"""

import time
import types

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from data_pipelines import pipeline
from hypnos_jax import batch, plugins
from hypnos_jax.objectives import Loss


class ToyRegression(nn.Module):
    """Linear regression with dropout, a ledger of what it was trained on, and a row normaliser."""

    width: int = 8
    slots: int = 40
    dropout: float = 0.1
    title = "a toy"
    token_s = 1.0
    causal = True
    embed_data = "toy"
    modalities = ()
    rng_streams = ("dropout",)
    couples_batch = False

    def weigh(self, batch):
        return {**batch, "count": batch["weight"].sum()}

    @nn.compact
    def __call__(self, batch, *, train):
        assert batch["count"].ndim == 0
        seen = self.variable("seen", "rows", lambda: jnp.zeros((), jnp.float32))
        ledger = self.variable("seen", "slots", lambda: jnp.zeros(self.slots, jnp.int32))
        if train and not self.is_initializing():
            seen.value = seen.value + batch["weight"].sum()
            ledger.value = ledger.value.at[batch["slot"]].add(1)
        init = nn.initializers.lecun_normal()
        kernel = self.param(
            "kernel", nn.with_logical_partitioning(init, ("embed", "mlp")), (4, self.width)
        )
        out = self.param("out", nn.with_logical_partitioning(init, ("mlp", None)), (self.width, 1))
        bias = self.param("bias", nn.initializers.zeros, (1,))
        hidden = nn.tanh(batch["x"] @ kernel)
        hidden = nn.Dropout(self.dropout, deterministic=not train)(hidden)
        error = (hidden @ out)[:, 0] + bias[0] - batch["y"]
        weight = batch["weight"]
        total = (weight * error**2).sum()
        share = (weight / batch["count"]).sum()
        return Loss(
            total,
            weight.sum(),
            {
                "error": ((weight * abs(error)).sum(), weight.sum()),
                "share": (share, weight.sum()),
                "absent": (jnp.zeros(()), jnp.zeros(())),
            },
        )

    def embed(self, batch):
        return {"x": batch["x"]}


class ToySource(pipeline.Source):
    """Rows drawn from a fixed linear law."""

    def __init__(self, store, *, split, seed, rows=40, poison=-1, delay_s=0.0):
        law = np.array([1.0, -2.0, 0.5, 0.0], np.float32)

        def read(slots, starts):
            time.sleep(delay_s * len(slots))
            rows = [np.random.default_rng([*at, len(split)]) for at in zip(slots, starts)]
            x = np.stack([rng.normal(size=4) for rng in rows]).astype(np.float32)
            y = (x @ law).astype(np.float32)
            if split == "train":
                y[slots == poison] = np.finfo(np.float32).max
            ones = np.ones(len(slots), np.float32)
            valid, slots = np.ones((len(slots), 1), bool), slots.astype(np.int32)
            return {"x": x, "y": y, "valid": valid, "weight": ones, "slot": slots}

        about = {"width": 8, "path": store}
        super().__init__(None, [13] * rows, 10, read, about, seed=seed, threads=2)

    def describe(self):
        return dict(self._description)


def install(monkeypatch=None):
    """Make the toy known by name: for one test, or for this whole process."""
    put = monkeypatch.setattr if monkeypatch else setattr
    load = plugins.load
    put(
        plugins, "load", lambda folder, name: ToyRegression if name == "toy" else load(folder, name)
    )
    put(batch, "NightStore", lambda path: path)
    put(pipeline, "source_names", lambda: ["toy"])
    put(pipeline, "find_source", lambda name: types.SimpleNamespace(open_source=ToySource))


def toy_config():
    return {
        "seed": 3,
        "objective": {"name": "toy", "width": ()},
        "data": {"name": "toy", "path": "toy", "fill": (("objective.width", "width"),)},
        "optim": {"learning_rate": 0.05, "warmup_steps": 3, "weight_decay": 0.1, "ema_decay": 0.9},
        "train": {"steps": 12, "batch_size": 8},
        "mesh": {"data": 4, "fsdp": 2, "tensor": 1},
        "checkpoints": {"every": 4, "keep": 2},
        "logs": {"every": 4, "compile_cache": "", "mfu": False},
        "evals": {"validation": {"type": "mean_loss", "every": 5, "limit": 3}},
    }
