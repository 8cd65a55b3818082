"""Speed of a training step, as a share of this machine's matrix products.

    python benchmarks/train_step.py --config=configs/hypnos/rq_transformer.py:small
    python benchmarks/train_step.py --config=configs/hypnos/rq_transformer.py:tiny \\
        --config.objective.model.dtype=float32 --config.objective.model.remat=none \\
        --config.objective.model.dropout=0.0 --window_s=512,1024,2048 --reference_python=PYTHON

Random tokens of the paper's eight modalities (8 levels of 2048 codes) or random signals; the step,
its sharding and its optimizer are those of ``hypnos_jax.train``. The matmul rate is measured in the
same run, before and after, in the dtype of most of the step's products, and so is what is counted:
``hypnos_jax.cost.flops``, without what ``remat`` computes twice. On a CPU both are taken per second
of the process's CPU time too, as the machine may have other work. The reference, where given, is a
step of the same sizes and AdamW in ``hypnos==0.1.0``, without windows, which it cannot train with
on a CPU. Each measurement is a fresh process; prints one JSON object each, and a table.
"""

import json
import resource
import statistics
import subprocess
import sys
import time

import flax.linen as nn
import jax
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from data_pipelines.recipes.hypnos import EIGHT
from data_pipelines.sources import token_windows
from hypnos_jax import batch as batches
from hypnos_jax import config as configs
from hypnos_jax import sharding
from hypnos_jax.cost import flops
from hypnos_jax.step import make_plan

CONFIG = config_flags.DEFINE_config_file("config", None, "FILE:ARGUMENT")
ROWS = flags.DEFINE_integer("rows", 1, "rows of the batch")
WINDOW_S = flags.DEFINE_list("window_s", [], "seconds of a row; the config's by default")
REFERENCE = flags.DEFINE_string("reference_python", None, "Python that has hypnos==0.1.0 and torch")
INSIDE = flags.DEFINE_bool("inside", False, "measure in this process (internal)")
STEPS = flags.DEFINE_integer("steps", 3, "timed steps, after two that are not")
LEVELS = flags.DEFINE_integer("levels", 8, "levels of a random token store")
CODES = flags.DEFINE_integer("codes", 2048, "codes per level")
MODALITIES = flags.DEFINE_integer("modalities", len(EIGHT), "how many of the eight, from the first")


REFERENCE_CODE = """
import json, resource, sys, time, torch
from hypnos.models.rq_transformer import ModalityConfig, MultiModalRQTransformer
torch.manual_seed(0)
options = json.loads(sys.argv[1])
modalities = [
    ModalityConfig(name=m["name"], num_quantizers=m["levels"], codebook_size=m["codes"],
                   signal_type=m["group"])
    for m in options["modalities"]
]
model = MultiModalRQTransformer(
    modality_configs=modalities, embed_dim=options["dim"], temporal_depth=options["layers"],
    temporal_heads=options["heads"], depth_dim=options["depth_dim"],
    depth_depth=options["depth_layers"], depth_heads=options["depth_heads"],
    modality_attn_every_n=options["modality_every"], modality_grouping_alpha=1.0,
    dropout=options["dropout"], qk_norm=True, channel_embeddings=True, swiglu=True, use_cls=False,
    max_seq_len=options["seconds"],
)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
count, levels = len(modalities), sum(m["levels"] for m in options["modalities"])
shape = (options["rows"], options["seconds"], levels)
codes = torch.randint(options["modalities"][0]["codes"], shape)
ids = torch.arange(count)[None].expand(options["rows"], count)
mask = torch.ones(options["rows"], count, dtype=torch.bool)
times = []
for _ in range(options["steps"] + 1):
    then, cpu = time.perf_counter(), time.process_time()
    optimizer.zero_grad()
    loss = model(codes, channel_ids=ids, modality_mask=mask)["loss"]
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    times.append((time.perf_counter() - then, time.process_time() - cpu))
step_s, step_cpu_s = sorted(times[1:])[(len(times) - 1) // 2]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps({"step_s": step_s, "step_cpu_s": step_cpu_s, "peak_rss_gb": peak,
                  "loss": float(loss), "parameters": sum(p.numel() for p in model.parameters())}))
"""


def random_batch(config: dict, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return a batch as the config's source would give it, of noise."""
    shapes = batches.shapes(config)
    batch = {name: np.ones(x.shape, x.dtype) for name, x in shapes.items()}
    if "signal" in batch:
        batch["signal"] = rng.normal(size=batch["signal"].shape).astype(np.float32)
        batch["channel_id"][:] = 0
    else:
        batch["codes"] = rng.integers(CODES.value, size=batch["codes"].shape).astype(np.int32)
        batch["channel_ids"][:] = np.arange(batch["channel_ids"].shape[1])
        batch["tracks"][:] = 0
    return batch


def resolved() -> dict:
    """Return the config to measure."""
    config = configs.resolve(CONFIG.value)
    config["train"]["batch_size"] = ROWS.value
    if WINDOW_S.value:
        key = "crop_s" if config["data"]["name"] == "signal_crops" else "window_s"
        config["data"][key] = int(WINDOW_S.value[0])
    described = token_windows.describe_paper(LEVELS.value, CODES.value)
    described["modalities"] = described["modalities"][: MODALITIES.value]
    return configs.fill(config, described)


def measure() -> dict:
    """Time the step in this process."""
    config = resolved()
    objective = configs.make_objective(config)
    mesh = sharding.make_mesh()
    rows = ROWS.value
    local = random_batch(config, np.random.default_rng(0))
    with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
        batch = sharding.put_batch(local, sharding.batch_sharding(mesh), rows)
        plan = make_plan(config, objective, mesh, batch)
        traced = plan.trace()
        counts = flops.matrix_flops(once(config, mesh, batch).jaxpr)
        dtype = max(counts, key=counts.get)
        before = flops.matmul_rate(mesh, dtype)
        per_cpu_s = flops.matmul_rate(mesh, dtype, clock=time.process_time)
        then = time.perf_counter()
        compiled = traced.lower().compile()
        compile_s = time.perf_counter() - then
        memory = compiled.memory_analysis()
        predicted = memory.argument_size_in_bytes + memory.temp_size_in_bytes
        state, times, cpu_times = plan.make(), [], []
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
    device = jax.devices()[0].memory_stats() or {}  # a CPU has none
    return {
        "parameters": sum(x.size for x in jax.tree.leaves(plan.state.params)),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "jax": jax.__version__,
        "channel_seconds": signal_s,
        "predicted_gb": round(predicted / 2**30, 2),
        "peak_device_gb": round(device.get("peak_bytes_in_use", 0) / 2**30, 2),
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
    }


def once(config: dict, mesh, batch: dict):
    """Return the traced step that computes nothing twice, to count operations by."""
    model = {**config["objective"]["model"], "remat": "none"}
    config = {**config, "objective": {**config["objective"], "model": model}}
    return make_plan(config, configs.make_objective(config), mesh, batch).trace()


def run(arguments: list[str]) -> dict:
    done = subprocess.run(arguments, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{arguments[:3]}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def reference(seconds: int) -> dict:
    """Time the published package's step of the same sizes in a process of its own."""
    model = resolved()["objective"]["model"]
    options = {**model, "seconds": seconds, "rows": ROWS.value, "steps": STEPS.value}
    return run([REFERENCE.value, "-c", REFERENCE_CODE, json.dumps(options)])


def main(_):
    if INSIDE.value:
        print(json.dumps(measure()))
        return
    table = []
    for seconds in WINDOW_S.value or [None]:
        asked = [] if seconds is None else [f"--window_s={seconds}"]
        ours = run([sys.executable, *sys.argv, "--inside", *asked])
        print("ours", json.dumps(ours))
        cells = [f"S {seconds or 'default':>5}", f"{ours['step_s']:.2f} s"]
        cells += [f"{1000 * ours['step_s'] / ours['channel_seconds']:.3f} ms a channel second"]
        cells += [f"{ours['share_of_matmul']:.2f} of matmul", f"{ours['peak_rss_gb']:.1f} GB"]
        if REFERENCE.value:
            theirs = reference(int(seconds or resolved()["data"]["window_s"]))
            print("reference", json.dumps(theirs))
            cells += [f"reference {theirs['step_s']:.2f} s, {theirs['peak_rss_gb']:.1f} GB"]
            cells += [f"{ours['step_s'] / theirs['step_s']:.2f}x its time"]
        table.append("; ".join(cells))
    print(*table, sep="\n")


if __name__ == "__main__":
    flags.mark_flags_as_required(["config"])
    sys.exit(app.run(main))
