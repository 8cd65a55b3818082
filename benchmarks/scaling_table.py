"""Train steps compiled ahead of time for pods; a table and, with --figure, a picture.

    nice -n 15 python benchmarks/scaling_table.py --results=scaling.jsonl [--figure=scaling.png]

Every case is a ``launch.compile_ahead`` in a process of its own, appended to --results as it ends:
started again, the command goes on with what is missing. One row (a window of 2048 s of eight
modalities) a chip: the work grows with the chips, and efficiency is the share of the time that a
step spends on arithmetic at the chips' peak, by the model of ``hypnos_jax/cost/compile_ahead.py``.
"""

import itertools
import json
import math
import operator
import pathlib
import subprocess
import sys

from absl import app, flags

RESULTS = flags.DEFINE_string("results", None, "JSON lines of what was compiled so far")
FIGURE = flags.DEFINE_string("figure", None, "PNG of efficiency against chips")
SIZES = flags.DEFINE_list("sizes", ["base", "large", "xl"], "of configs/hypnos/rq_transformer.py")
EFFORT = flags.DEFINE_float("effort", -1.0, "of the compiler; see launch.compile_ahead")
REMAT = flags.DEFINE_string("remat", "all", "what of a layer is recomputed")
CHUNK = flags.DEFINE_integer("chunk", 512, "seconds whose logits are alive at once")

PLACES = flags.DEFINE_list(
    "places",
    ["v5e:4x4", "v5e:8x8", "v5e:16x16", "v6e:16x16", "v5p:4x4x4", "v5p:8x8x8", "v5p:16x16x16"],
    "slices, such as can be had",
)

# Chips that share the parameters at least: few, so that gathering is cheap, but the state must fit.
SHARDS = {"base": 16, "large": 16, "xl": 64}


def cases():
    """Yield what tells one compilation from another."""
    for topology in PLACES.value:
        for size in SIZES.value:
            yield {
                "size": size,
                "topology": topology,
                "fsdp": shards(topology, SHARDS[size]),
                "rows": chips(topology),
                "remat": REMAT.value,
                "chunk": CHUNK.value,
                "effort": EFFORT.value,
            }


def sides(topology: str) -> list[int]:
    return [int(side) for side in topology.split(":")[1].split("x")]


def chips(topology: str) -> int:
    return math.prod(sides(topology))


def shards(topology: str, least: int) -> int:
    """Return the smallest product of sides, which are what a mesh axis takes, that is enough."""
    products = itertools.accumulate(sides(topology), operator.mul)
    return next((product for product in products if product >= least), chips(topology))


def compile_case(case: dict, path: pathlib.Path) -> None:
    partial = path.with_suffix(".one")
    partial.unlink(missing_ok=True)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "launch.compile_ahead"),
            f"--config=configs/hypnos/rq_transformer.py:{case['size']}",
            f"--topology={case['topology']}",
            f"--mesh=fsdp={case['fsdp']}",
            f"--config.train.batch_size={case['rows']}",
            f"--config.objective.model.chunk={case['chunk']}",
            f"--config.objective.model.remat={case['remat']}",
            f"--effort={case['effort']}",
            "--programs=train",
            f"--json={partial}",
        ],
        capture_output=True,
        text=True,
    )
    if not partial.exists():
        print(f"{case}: {done.stderr[-2000:]}", file=sys.stderr)
        return
    report = json.loads(partial.read_text())
    with path.open("a") as file:
        file.write(json.dumps({"case": case, "report": report}) + "\n")
    partial.unlink()


def read(path: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def efficiency(report: dict) -> float:
    """Share of a step that is arithmetic at the peak."""
    slowest = max(report["compute_s"], report["memory_s"], report["network_s"])
    return report["compute_s"] / slowest


def table(rows: list[dict]) -> list[str]:
    """Return the results as lines of a markdown table."""
    lines = [
        "| size | slice | chips | mesh | GiB a chip, of | fits | network a step, GiB: gathered,"
        " reduced | compute, memory, network, ms | efficiency |",
        "|---|---|---|---|---|---|---|---|---|",
    ]

    def by_size(row):
        report = row["report"]
        return report["parameters"], report["topology"][:3], report["chips"]

    for row in sorted(rows, key=by_size):
        report = row["report"]
        moved = {"all-gather": 0.0, "reduce": 0.0}
        for each in report["collectives"]:
            kind = "all-gather" if each["kind"] == "all-gather" else "reduce"
            moved[kind] += each["bytes"] * each["count"] / 2**30
        mesh = ", ".join(f"{k} {v}" for k, v in report["mesh"].items() if v > 1)
        cells = [row["case"]["size"], report["topology"], str(report["chips"]), mesh]
        cells.append(f"{report['total'] / 2**30:.1f} of {report['memory'] / 2**30:.1f}")
        if report["traffic"]:
            times = [report[f"{name}_s"] * 1000 for name in ("compute", "memory", "network")]
            cells += ["yes" if report["fits"] else "**no**"]
            cells += [f"{moved['all-gather']:.1f}, {moved['reduce']:.1f}"]
            cells += [", ".join(f"{time:.0f}" for time in times), f"{efficiency(report):.2f}"]
        else:
            cells += ["**no**", "", f"{report['compute_s'] * 1000:.0f}", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def draw(rows: list[dict], path: str) -> None:
    """Draw efficiency, and memory a chip, of each size and kind of chip against their number."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    lines, chips_of = {}, {}
    for row in rows:
        report, kind = row["report"], row["report"]["topology"].split(":")[0]
        line = lines.setdefault((row["case"]["size"], kind), [])
        line.append((report["chips"], report))
        chips_of[kind] = report["memory"] / 2**30
    kinds = dict(zip(sorted(chips_of), "os^D"))
    sizes = sorted({size for size, _ in lines})
    for (size, kind), line in sorted(lines.items()):
        line.sort(key=lambda point: point[0])
        i = sizes.index(size)  # hollow and of different sizes: points fall on each other
        style = {"marker": kinds[kind], "color": f"C{i}", "label": f"{size}, {kind}"}
        style |= {"fillstyle": "none", "markersize": 5 + 3 * i}
        fitting = [(chips, efficiency(report)) for chips, report in line if report["fits"]]
        if fitting:
            left.plot(*zip(*fitting), **style)
        memory = [(chips, report["total"] / 2**30) for chips, report in line]
        right.plot(*zip(*memory), **style)
    for kind, gib in chips_of.items():
        right.axhline(gib, color="grey", linestyle=":")
        right.text(4800, gib, f"{gib:g} of {kind}", ha="right", va="bottom", fontsize="small")
    left.set(ylabel="predicted efficiency", ylim=(0, 1.05))
    right.set(ylabel="GiB a chip", yscale="log", ylim=(4, 130))
    right.set_yticks(ticks := [4, 8, 16, 32, 64, 128], map(str, ticks), minor=False)
    for axes in (left, right):
        axes.set(xscale="log", xlabel="chips", xlim=(13, 5000))
        axes.set_xticks(ticks := [16, 64, 256, 1024, 4096], map(str, ticks))
        axes.minorticks_off()
    left.legend(fontsize="small", loc="upper right")
    figure.savefig(path, dpi=120)


def main(_):
    path = pathlib.Path(RESULTS.value)
    there = [row["case"] for row in read(path)]
    for case in cases():
        if case not in there:
            compile_case(case, path)
    print(*table(read(path)), sep="\n")
    if FIGURE.value:
        draw(read(path), FIGURE.value)


if __name__ == "__main__":
    flags.mark_flags_as_required(["results"])
    sys.exit(app.run(main))
