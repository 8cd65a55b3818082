"""Growth of costs with the work: what should be linear, and what should not grow at all.

    python benchmarks/growth.py --output=DIR
    python benchmarks/growth.py --output=DIR --parts=seconds,nights

Writes ``growth.json`` (a measurement is made once: an interrupted command goes on), ``growth.png``
and ``growth.md``. The parts:

- seconds, modalities, rows, layers: one step of a small RQ-Transformer with the windows of the
  published one (64 and 256 s), its time and peak memory, by ``benchmarks/train_step.py``;
- nights: opening a store of token nights and drawing the first batch, time and memory;
- parameters: a checkpoint: what saving holds up, all of saving, and restoring;
- processes: the time of a step when a second process brings as many rows again (weak scaling; on
  one machine the two share its cores).

Each measurement is a process of its own. Slopes are of log cost over log work, between the two
largest: 1 is linear, 0 is constant.
"""

import json
import math
import pathlib
import shutil
import subprocess
import sys
import tempfile

from absl import app, flags, logging

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUTPUT = flags.DEFINE_string("output", None, "folder of the results")
PARTS = flags.DEFINE_list("parts", [], "which parts; all by default")

SMALL = ["--config=configs/hypnos/rq_transformer.py:demo", "--codes=512", "--steps=2", "--inside"]
LAYERS = "--config.objective.model.layers="
# part -> (unit, the work, arguments of a measurement)
WORK = {
    "seconds": ("s of a row, 2 modalities", [1024, 2048, 4096, 8192, 16384, 32768]),
    "modalities": ("modalities, 2048 s", [1, 2, 4, 8]),
    "rows": ("rows of 1024 s, 2 modalities", [1, 2, 4, 8]),
    "layers": ("layers, 2048 s, 2 modalities", [2, 4, 8, 16]),
    "nights": ("token nights of 8 h", [1, 100, 1000, 20_000]),
    "parameters": ("million parameters", [1, 4, 16, 64, 256]),
    "processes": ("processes, 2 rows of 512 s each", [1, 2]),
}

NIGHTS = """
import json, os, pathlib, sys, time
from data_pipelines import pipeline
from data_pipelines.store import NightStore
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
before, then = resident(), time.perf_counter()
store = NightStore(pathlib.Path(sys.argv[1]))
open_source = pipeline.find_source("token_windows").open_source
source = open_source(store, split="train", seed=0, window_s=512)
feed = source.batches(8, 0, 8, 0)
next(feed)
first_s, then = time.perf_counter() - then, time.perf_counter()
for _ in range(200):
    next(feed)
batch_s = (time.perf_counter() - then) / 200
feed.close()
manifest = (pathlib.Path(sys.argv[1]) / "manifest.json").stat().st_size
print(json.dumps({"first batch, s": first_s, "a batch, ms": 1000 * batch_s,
                  "memory, MB": (resident() - before) / 1e6, "manifest, MB": manifest / 1e6}))
"""

CHECKPOINT = """
import json, pathlib, sys, time
import jax, jax.numpy as jnp
from hypnos_jax import checkpoint, sharding
from hypnos_jax.state import TrainState
checkpoint.quiet()
place = sharding.replicated(sharding.make_mesh())
put = lambda x: jax.device_put(x, place)
params = {f"kernel_{i}": put(jnp.ones((2**18,))) for i in range(4 * int(sys.argv[2]))}
zero = put(jnp.int32(0))
moments = {"mu": params, "nu": jax.tree.map(jnp.copy, params)}
state = TrainState(zero, zero, params, moments, {}, None)
keep = checkpoint.Checkpoints(pathlib.Path(sys.argv[1]))
then = time.perf_counter()
keep.save(1, state, {"offset": 0})
held_s = time.perf_counter() - then
keep.wait()
saved_s, then = time.perf_counter() - then, time.perf_counter()
shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), state)
jax.block_until_ready(keep.restore(shapes)[0])
print(json.dumps({"training held up, s": held_s, "saved and sealed, s": saved_s,
                  "verified and restored, s": time.perf_counter() - then}))
"""


def run(arguments: list[str]) -> str:
    """Run a command in the repository's root and return what it printed."""
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)[:500]}\n{done.stderr[-3000:]}")
    return done.stdout


def step(part: str, work: int) -> dict[str, float]:
    """Measure one training step."""
    options = {"seconds": 2048, "modalities": 2, "rows": 1, "layers": 4, part: work}
    if part == "rows":
        options["seconds"] = 1024
    arguments = [f"--window_s={options['seconds']}", f"--modalities={options['modalities']}"]
    arguments += [f"--rows={options['rows']}", f"{LAYERS}{options['layers']}"]
    found = json.loads(
        run([sys.executable, "benchmarks/train_step.py", *SMALL, *arguments]).splitlines()[-1]
    )
    return {
        "step, s": found["step_s"],
        "CPU, s": found["step_cpu_s"],
        "memory, GB": found["peak_rss_gb"],
        "memory of the program, GB": found["predicted_gb"],
        "loss": found["loss"],
    }


def nights(work: int, folder: pathlib.Path) -> dict[str, float]:
    """Measure a store of so many token nights: one night's record under many names."""
    from data_pipelines import synthetic

    modalities = synthetic.tiny_modalities(levels=8, codes=2048)
    synthetic.write_tiny_tokens(folder / "tokens", 0, modalities, nights=8, duration_s=8 * 3600)
    path = folder / "tokens" / "manifest.json"
    manifest = json.loads(path.read_text())
    row = next(night for night in manifest["nights"] if night["split"] == "train")
    manifest["nights"] = [row | {"recording": f"night-{n}"} for n in range(work)]
    path.write_text(json.dumps(manifest))
    return json.loads(run([sys.executable, "-c", NIGHTS, str(path.parent)]).splitlines()[-1])


def parameters(work: int, folder: pathlib.Path) -> dict[str, float]:
    """Measure saving and restoring so many million parameters and their two moments."""
    found = run([sys.executable, "-c", CHECKPOINT, str(folder), str(work)])
    return json.loads(found.splitlines()[-1])


def processes(work: int, folder: pathlib.Path) -> dict[str, float]:
    """Measure the step of a run of so many processes."""
    command = [sys.executable, "-m", "launch.train", f"--workdir={folder / 'run'}"]
    command += ["--config=configs/hypnos/rq_transformer.py:demo", "--config.train.steps=12"]
    command += [f"--config.train.batch_size={2 * work}", "--config.logs.mfu=False"]
    run([sys.executable, "-m", "launch.supervise", f"--processes={work}", "--", *command])
    lines = [json.loads(x) for x in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    times = sorted(line["step_s"] for line in lines if "step_s" in line)
    return {"step, s": times[len(times) // 2]}


def measure(part: str, work: int) -> dict[str, float]:
    """Return name of a cost -> value, for so much work."""
    if part in ("seconds", "modalities", "rows", "layers"):
        return step(part, work)
    folder = pathlib.Path(tempfile.mkdtemp())
    try:
        return {"nights": nights, "parameters": parameters, "processes": processes}[part](
            work, folder
        )
    finally:
        shutil.rmtree(folder)


def slope(works: list[int], costs: list[float]) -> float:
    """Return the exponent between the two largest."""
    return math.log(costs[-1] / costs[-2]) / math.log(works[-1] / works[-2])


def table(results: dict) -> str:
    """Return Markdown: a table a part."""
    lines = []
    for part, found in results.items():
        costs = list(next(iter(found.values())))
        lines += ["", f"| {WORK[part][0]} | " + " | ".join(costs) + " |", "|---" * (len(costs) + 1)]
        lines[-1] += "|"
        for work, values in found.items():
            lines.append(f"| {work} | " + " | ".join(f"{values[c]:.3g}" for c in costs) + " |")
        works = [int(work) for work in found]
        if len(works) > 1:
            each = (slope(works, [v[c] for v in found.values()]) for c in costs)
            lines.append("| exponent | " + " | ".join(f"{x:.2f}" for x in each) + " |")
    return "\n".join(lines[1:]) + "\n"


def draw(results: dict, path: pathlib.Path) -> None:
    """Draw each part's costs over its work, with a line of exponent 1."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    rows = -(-len(results) // 3)
    figure, axes = pyplot.subplots(rows, 3, figsize=(13, 3.6 * rows), squeeze=False)
    for axis in axes.flat[len(results) :]:
        axis.remove()
    for axis, (part, found) in zip(axes.flat, results.items()):
        works = [int(work) for work in found]
        for cost in next(iter(found.values())):
            if cost not in ("loss", "CPU, s", "memory of the program, GB"):
                costs = [values[cost] for values in found.values()]
                axis.plot(works, costs, "o-", label=cost)
        ends = [works[0], works[-1]]
        last = next(iter(found[str(works[-1])].values()))
        axis.plot(ends, [last * x / works[-1] for x in ends], ":", color="0.6", label="linear")
        axis.set(xscale="log", yscale="log", xlabel=WORK[part][0])
        axis.set_xticks(works, [f"{work:,}" for work in works], fontsize=8)
        axis.xaxis.set_minor_locator(ticker.NullLocator())
        axis.tick_params(which="minor", labelsize=6)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(_):
    logging.set_verbosity(logging.INFO)
    folder = pathlib.Path(OUTPUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "growth.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for part in PARTS.value or WORK:
        if part not in WORK:
            raise app.UsageError(f"--parts={part} is not one of {sorted(WORK)}")
        for work in WORK[part][1]:
            if str(work) not in results.setdefault(part, {}):
                results[part][str(work)] = measure(part, work)
                logging.info("%s %d: %s", part, work, results[part][str(work)])
                path.write_text(json.dumps(results, indent=1))
    results = {part: results[part] for part in WORK if part in results}
    (folder / "growth.md").write_text(table(results))
    draw(results, folder / "growth.png")
    print(table(results))


if __name__ == "__main__":
    flags.mark_flags_as_required(["output"])
    sys.exit(app.run(main))
