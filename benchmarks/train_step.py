"""How fast a training step runs, as a share of this machine's matrix products.

    python benchmarks/train_step.py --config=configs/hypnos/rq_transformer.py:small

Random tokens of the paper's eight modalities (8 levels of 2048 codes) or random signals; the step,
its sharding and its optimizer are those of ``hypnos_jax.train``. The matmul rate is measured in the
same run, before and after, in the dtype of most of the step's products, and so is what is counted:
``hypnos_jax.flops``. On a CPU both are taken per second of the process's CPU time too, as the
machine may have other work. Prints one JSON object.
"""

import json
import resource
import statistics
import sys
import time

import flax.linen as nn
import jax
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from data_pipelines.channels import CHANNELS, HYPNOS
from hypnos_jax import batch as batches
from hypnos_jax import config as configs
from hypnos_jax import flops, sharding, train
from hypnos_jax import state as states

CONFIG = config_flags.DEFINE_config_file("config", None, "FILE:ARGUMENT")
ROWS = flags.DEFINE_integer("rows", 1, "rows of the batch")
WINDOW_S = flags.DEFINE_integer("window_s", 0, "seconds of a row; the config's by default")
DTYPE = flags.DEFINE_string("dtype", None, "dtype of the products; the config's by default")
STEPS = flags.DEFINE_integer("steps", 3, "timed steps, after two that are not")
LEVELS = flags.DEFINE_integer("levels", 8, "levels of a random token store")
CODES = flags.DEFINE_integer("codes", 2048, "codes per level")


def random_batch(config: dict, rows: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return a batch as the config's source would give it, of noise."""
    data = config["data"]
    if data["name"] == "signal_crops":
        seconds, rate = data["crop_s"], config["objective"]["rate_hz"]
        return {
            "signal": rng.normal(size=(rows, seconds * rate)).astype(np.float32),
            "valid": np.ones((rows, seconds), bool),
            "channel_id": np.zeros(rows, np.int32),
            "weight": np.ones(rows, np.float32),
        }
    seconds, modalities = data["window_s"], config["objective"]["model"]["modalities"]
    count, levels = len(modalities), sum(m["levels"] for m in modalities)
    return {
        "codes": rng.integers(CODES.value, size=(rows, seconds, levels)).astype(np.int32),
        "present": np.ones((rows, count), bool),
        "channel_ids": np.tile(np.arange(count, dtype=np.int32), (rows, 1)),
        "valid": np.ones((rows, seconds, count), bool),
        "tracks": np.zeros((rows, seconds, count, 2), np.float32),
        "weight": np.ones(rows, np.float32),
    }


def main(argv):
    del argv
    config = configs.resolve(CONFIG.value)
    if WINDOW_S.value:
        key = "crop_s" if config["data"]["name"] == "signal_crops" else "window_s"
        config["data"][key] = WINDOW_S.value
    if DTYPE.value:
        config["objective"]["model"]["dtype"] = DTYPE.value
    modalities = [
        {
            "name": name,
            "levels": LEVELS.value,
            "codes": CODES.value,
            "channel_id": CHANNELS[name].id,
            "group": CHANNELS[name].signal_type,
        }
        for name in HYPNOS
    ]
    config = configs.fill(config, {"modalities": modalities})
    objective = configs.make_objective(config)
    mesh = sharding.make_mesh()
    rows = ROWS.value
    place = sharding.batch_sharding(mesh)
    local = random_batch(config, rows, np.random.default_rng(0))
    schedule, make_optimizer, ema_decay = train.plan_optimizer(config["optim"], 100)
    with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
        batch = sharding.put_batch(local, place, rows)
        init = states.init_function(objective, batch)
        make, abstract, tx = states.create(lambda: init(0), make_optimizer, mesh, ema=ema_decay > 0)
        step = train.make_train_step(objective, tx, schedule, seed=0, ema_decay=ema_decay)
        out = (jax.tree.map(lambda x: x.sharding, abstract), sharding.replicated(mesh))
        traced = jax.jit(step, donate_argnums=0, out_shardings=out).trace(abstract, batch)
        counts = flops.matrix_flops(traced.jaxpr)
        dtype = max(counts, key=counts.get)
        before = flops.matmul_rate(mesh, dtype)
        per_cpu_s = flops.matmul_rate(mesh, dtype, clock=time.process_time)
        then = time.perf_counter()
        compiled = traced.lower().compile()
        compile_s = time.perf_counter() - then
        state, times, cpu_times = make(), [], []
        for _ in range(STEPS.value + 2):
            then, cpu_then = time.perf_counter(), time.process_time()
            state, values = compiled(state, batch)
            jax.block_until_ready(values)
            times.append(time.perf_counter() - then)
            cpu_times.append(time.process_time() - cpu_then)
        after = flops.matmul_rate(mesh, dtype)
        per_cpu_s = max(per_cpu_s, flops.matmul_rate(mesh, dtype, clock=time.process_time))
    step_s = statistics.median(times[2:])
    rate, peak = sum(counts.values()) / step_s, max(before, after)
    signal_s = batches.channel_seconds(local)
    print(
        json.dumps(
            {
                "parameters": sum(x.size for x in jax.tree.leaves(abstract.params)),
                "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
                "jax": jax.__version__,
                "channel_seconds": signal_s,
                "step_gflop": {name: round(count / 1e9, 2) for name, count in counts.items()},
                "step_s": round(step_s, 4),
                "steps_s_all": [round(x, 4) for x in times],
                "compile_s": round(compile_s, 1),
                "gflop_per_s": round(rate / 1e9, 2),
                "matmul_gflop_per_s": [round(before / 1e9, 2), round(after / 1e9, 2)],
                "matmul_dtype": dtype,
                "share_of_matmul": round(rate / peak, 4),
                "step_cpu_s": round(statistics.median(cpu_times[2:]), 4),
                "share_of_matmul_per_cpu_s": round(
                    sum(counts.values()) / statistics.median(cpu_times[2:]) / per_cpu_s, 4
                ),
                "channel_seconds_per_s": round(signal_s / step_s, 1),
                "loss": round(float(values["loss"]), 4),
                "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    flags.mark_flags_as_required(["config"])
    sys.exit(app.run(main))
