"""Speed of pairs of modalities from the disk, beside a copy of as many bytes and a train step.

    python benchmarks/modality_feed.py
    python benchmarks/modality_feed.py --config=configs/sleep2vec/pretrain.py:xs --step_rows=4

Batches of ``--rows`` windows of 120 tokens of two modalities, from nights of noise in a temporary
folder (they are then in the page cache) or from ``--store``, in the order of training. MB are the
samples that a batch holds; what a modality of a low rate leaves empty is not counted. Of each kind:

- pairs of two modalities of 128 Hz, of one and one of 4 Hz, of two of 4 Hz, and all in turn;
- copy: as many bytes copied by as many threads from one array in memory into fresh ones, which is
  the least that making a batch takes.

With ``--config`` one train step of ``--step_rows`` windows is timed in the same run, by the clock
and in CPU seconds, and the time of a batch of ``--rows`` is set beside that of as many windows
(scaled: a step's operations grow as its rows, and so nearly does its time).
"""

import concurrent.futures
import json
import pathlib
import resource
import statistics
import tempfile
import time

import numpy as np
from absl import app, flags, logging

from data_pipelines import pipeline, store
from data_pipelines.builders import night_builder
from data_pipelines.recipes.sleep2vec import MODALITIES, NINE, NORMALISATION, VERSION

ROWS = flags.DEFINE_integer("rows", 320, "Windows of a batch.")
STORE = flags.DEFINE_string("store", None, "A store of modalities, in place of noise.")
NIGHTS = flags.DEFINE_integer("nights", 12, "Nights of noise, of 4 h.")
BATCHES = flags.DEFINE_integer("batches", 6, "Batches of each kind.")
THREADS = flags.DEFINE_integer("threads", None, "Readers; those of training by default.")
CONFIG = flags.DEFINE_string("config", None, "Config whose train step is timed.")
STEP_ROWS = flags.DEFINE_integer("step_rows", 4, "Windows of the timed step.")

HOURS = 4
KINDS = {
    "128 Hz and 128 Hz": ("eeg", "ecg", "eog", "emg"),
    "4 Hz and 4 Hz": ("ibi", "resp", "spo2", "belt", "airflow"),
    "all pairs in turn": NINE,
}


def write_noise(folder):
    """Write nights of noise."""

    def make(name):
        rng, seconds = np.random.default_rng(int(name)), HOURS * 3600
        valid, tracks = np.ones(seconds, bool), np.zeros((seconds, 2), np.float32)
        channels = {
            key: store.ChannelSignal(
                key,
                MODALITIES[key].rate_hz,
                rng.standard_normal(seconds * MODALITIES[key].rate_hz, np.float32),
                valid,
                tracks,
            )
            for key in NINE
        }
        stages = np.zeros(seconds // 30, np.int8)
        return store.Night(name, name, "train", channels, stages)

    night_builder.write_store(
        folder,
        kind="signals",
        items={str(i): str(i) for i in range(NIGHTS.value)},
        make_night=make,
        provenance={"modalities": VERSION, "normalisation": NORMALISATION},
        progress=False,
    )


def cpu_s():
    """CPU seconds of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def frames_of(source):
    """Samples a token of each modality."""
    return [modality["frames"] for modality in source.describe()["modalities"]]


def read(source, first=0):
    """Seconds, CPU seconds and samples' MB of a batch, over ``--batches`` of them."""
    rows, frames = ROWS.value, frames_of(source)
    feed = source.batches(rows, 0, rows, first)
    # Until what is prefetched was made once, every array is of fresh memory.
    for _ in range(2 * pipeline.PREFETCHED_BATCHES):
        next(feed)
    held, then, cpu_then = 0, time.perf_counter(), cpu_s()
    for _ in range(BATCHES.value):
        batch = next(feed)
        width = sum(frames[m] for m in batch["pair"][0])
        held += 2 * width * rows * batch["signal_a"].shape[1]
    wall, cpu = time.perf_counter() - then, cpu_s() - cpu_then
    feed.close()
    return wall / BATCHES.value, cpu / BATCHES.value, held / 1e6 / BATCHES.value


def copy(megabytes):
    """Seconds and CPU seconds to copy so many MB into fresh arrays by as many threads."""
    threads = THREADS.value or pipeline.READERS
    source = np.ones(int(megabytes * 1e6) // 2 // threads, np.int16)
    jobs = threads * BATCHES.value
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _: source.copy().size, range(threads)))
        then, cpu_then = time.perf_counter(), cpu_s()
        list(pool.map(lambda _: source.copy().size, range(jobs)))
        return tuple(x / BATCHES.value for x in (time.perf_counter() - then, cpu_s() - cpu_then))


def train_step(source):
    """Seconds, CPU seconds and operations of a train step of a window."""
    import importlib.util

    import flax.linen as nn
    import jax

    from hypnos_jax import config as configs
    from hypnos_jax import sharding
    from hypnos_jax.cost import flops
    from hypnos_jax.step import make_plan

    path, _, argument = CONFIG.value.partition(":")
    spec = importlib.util.spec_from_file_location("config_file", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = configs.resolve(module.get_config(argument or "smoke"))
    config["train"]["batch_size"] = STEP_ROWS.value
    config = configs.fill(config, source.describe())
    mesh, rows = sharding.make_mesh(), STEP_ROWS.value
    with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
        objective = configs.make_objective(config)
        batch = sharding.put_batch(
            source.rows(0, rows, 0, rows), sharding.batch_sharding(mesh), rows
        )
        plan = make_plan(config, objective, mesh, batch)
        traced = plan.trace()
        operations = sum(flops.matrix_flops(traced.jaxpr).values())
        compiled, state, walls, cpus = traced.lower().compile(), plan.make(), [], []
        for _ in range(4):
            then, cpu_then = time.perf_counter(), cpu_s()
            state, values = compiled(state, batch)
            jax.block_until_ready(values)
            walls.append(time.perf_counter() - then)
            cpus.append(cpu_s() - cpu_then)
    return tuple(x / rows for x in (statistics.median(walls[1:]), min(cpus[1:]), operations))


def measure(path):
    """Print a line of each kind, and the step."""
    options = {"path": path, "split": "train", "seed": 0, "threads": THREADS.value}
    found = {}
    for kind, names in KINDS.items():
        source = pipeline.load("modality_pairs", modalities=names, **options)
        for step in range(-(-len(source.pairs) // 2)):  # each record is compared with its hash once
            source.rows(step, 64, 0, 64)
        wall, cpu, held = read(source)
        copy_wall, copy_cpu = copy(held)
        found[kind] = wall, cpu
        line = {
            "pairs": kind,
            "mb_of_samples": round(held, 1),
            "batch_s": round(wall, 3),
            "batch_cpu_s": round(cpu, 3),
            "mb_per_s": round(held / wall),
            "mb_per_cpu_s": round(held / cpu),
            "copy_mb_per_s": round(held / copy_wall),
            "copy_mb_per_cpu_s": round(held / copy_cpu),
            "share_of_copy_per_cpu_s": round(copy_cpu / cpu, 2),
        }
        print(json.dumps(line), flush=True)
    if CONFIG.value:
        wall, cpu, operations = train_step(source)
        rows = ROWS.value
        line = {
            "config": CONFIG.value,
            "step_s_of_rows": round(rows * wall, 1),
            "step_cpu_s_of_rows": round(rows * cpu, 1),
            "gflop_a_window": round(operations / 1e9, 1),
            "batch_cpu_share_of_step": round(found["all pairs in turn"][1] / (rows * cpu), 4),
            "tflop_per_s_that_one_cpu_feeds": round(
                rows * operations / found["all pairs in turn"][1] / 1e12, 2
            ),
        }
        print(json.dumps(line), flush=True)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    logging.set_verbosity(logging.WARNING)
    if STORE.value:
        measure(pathlib.Path(STORE.value))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_noise(pathlib.Path(folder) / "store")
        measure(pathlib.Path(folder) / "store")


if __name__ == "__main__":
    app.run(main)
