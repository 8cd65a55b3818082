"""Time that a stream takes for a second of signal, as a share of that second, and its memory.

    python benchmarks/stream.py --size=base --seconds=3600

A random model of the paper's eight modalities with its five tokenizers; noise at 256 Hz (belts 32
Hz), pushed a second at a time. The first minute's backlog and all compilation come before the
timed seconds. Prints one JSON object.
"""

import functools
import json
import os
import tempfile
import time

import flax.linen as nn
import jax
import numpy as np
import tqdm
from absl import app, flags

from configs.hypnos import rq_transformer, rvq_tokenizer
from data_pipelines.recipes.hypnos import EIGHT, ROWS
from hypnos_jax import config as configs
from hypnos_jax.export.model import make_model
from hypnos_jax.inference.embed import Embedder, Stream
from hypnos_jax.inference.tokenizer import Tokenizer

SIZE = flags.DEFINE_string("size", "small", "of the model and its tokenizers: base, small, tiny")
SECONDS = flags.DEFINE_integer("seconds", 600, "timed seconds", 1)
MODALITIES = flags.DEFINE_list("modalities", list(EIGHT), "those present")


def random_model(config: dict, batch: dict):
    """Return a model of the config with random weights, without compiling its initialisation."""
    objective = configs.make_objective(config)
    keys = {name: jax.random.key(0) for name in ("params", *objective.rng_streams)}
    shapes = jax.eval_shape(lambda: nn.unbox(objective.init(keys, batch, train=True)))
    rng = np.random.default_rng(0)

    def one(path, shape):
        if shape.dtype != np.float32 or path[-1].key in ("counts", "scale", "gain"):
            return np.ones(shape.shape, shape.dtype)
        return 0.05 * rng.standard_normal(shape.shape, dtype=np.float32)

    return make_model(config, jax.tree.map_with_path(one, shapes), step=0)


@functools.cache
def tokenizer_of(signal_type: str, rate_hz: int) -> Tokenizer:
    """Return a random tokenizer."""
    config = configs.resolve(rvq_tokenizer.get_config(f"{SIZE.value},{signal_type}"))
    batch = {
        "signal": np.zeros((1, 32 * rate_hz), np.float32),
        "valid": np.ones((1, 32), bool),
        "channel_id": np.zeros(1, np.int32),
        "weight": np.ones(1, np.float32),
    }
    return Tokenizer(random_model(config, batch))


class RandomEmbedder(Embedder):
    """An embedder whose tokenizers lie in no folder."""

    def tokenizer(self, name):
        return tokenizer_of(ROWS[name].signal_type, ROWS[name].rate_hz)


def embedder() -> Embedder:
    """Return a random model of tokens whose sizes are those of the tokenizers."""
    config = configs.resolve(rq_transformer.get_config(SIZE.value))
    modalities = []
    for name in EIGHT:
        group = ROWS[name].signal_type
        sizes = configs.resolve(rvq_tokenizer.get_config(f"{SIZE.value},{group}"))
        sizes = sizes["objective"]["model"]
        row = {"name": name, "levels": sizes["levels"], "codes": sizes["codes"]}
        modalities.append({**row, "channel_id": ROWS[name].id, "group": group})
    config = configs.fill(config, {"modalities": modalities})
    width = sum(row["levels"] for row in modalities)
    batch = {
        "codes": np.zeros((1, 2, width), np.int32),
        "present": np.ones((1, len(modalities)), bool),
        "channel_ids": np.zeros((1, len(modalities)), np.int32),
        "valid": np.ones((1, 2, len(modalities)), bool),
        "tracks": np.zeros((1, 2, len(modalities), 2), np.float32),
        "weight": np.ones(1, np.float32),
    }
    return RandomEmbedder(random_model(config, batch))


def resident_mb() -> float:
    """Return what this process holds in memory now."""
    with open("/proc/self/status") as file:
        kilobytes = next(line.split()[1] for line in file if line.startswith("VmRSS"))
    return round(int(kilobytes) / 1024, 1)


def main(argv):
    del argv
    model = embedder()
    rates = {name: 2 * ROWS[name].rate_hz for name in MODALITIES.value}
    rates |= {name: 32 for name in rates if ROWS[name].signal_type == "resp"}
    rng = np.random.default_rng(0)
    stream = Stream(model, rates, mains_hz=50)
    backlog_s, times, memory, cpu_before = None, [], [], 0.0
    with tqdm.tqdm(total=SECONDS.value, unit="s") as bar:
        while len(times) < SECONDS.value:
            block = {name: 30 * rng.standard_normal(rate) for name, rate in rates.items()}
            before = time.perf_counter()
            rows = stream.push(block)
            took = time.perf_counter() - before
            if len(rows) > 1:
                backlog_s = took
                cpu_before = time.process_time()
            elif backlog_s is not None:
                times.append(took)
                bar.update()
                if len(times) % max(1, SECONDS.value // 10) == 0:
                    memory.append(resident_mb())
    cpu_s = (time.process_time() - cpu_before) / len(times)
    network, _ = model.network
    quantiles = np.quantile(times, [0.5, 0.99])
    with tempfile.TemporaryDirectory() as folder:
        stream.save(f"{folder}/state.npz")
        state_mb = os.path.getsize(f"{folder}/state.npz") / 2**20
    print(
        json.dumps(
            {
                "parameters": sum(x.size for x in jax.tree.leaves(model.model.variables["params"])),
                "layers": network.layers,
                "modalities": len(rates),
                "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
                "seconds": len(times),
                "share_of_real_time": {
                    "p50": round(quantiles[0], 4),
                    "p99": round(quantiles[1], 4),
                    "max": round(max(times), 4),
                },
                "cpu_s_per_second": round(cpu_s, 4),
                "backlog_of_60_s_with_compilation_s": round(backlog_s, 1),
                "state_mb": round(state_mb, 1),
                "resident_mb": memory,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    app.run(main)
