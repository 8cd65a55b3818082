"""The report of a main job: one HTML file that needs no other, one picture, one table as text.

Everything is read from the files that the commands left: the store's manifest and rejects, each
run's ``config.json``, ``metrics.jsonl`` and pictures, ``probe.json``, the model's sections, the
embeddings.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from data_pipelines.files import atomic_write
from hypnos_jax import metrics
from hypnos_jax.reports.figures import COLOURS, METRICS, NAMES, new_figure, save_figure
from hypnos_jax.reports.page import number, read_json, render
from hypnos_jax.reports.sections import read_sections

MOST_NIGHTS = 60  # rows of the table of recordings


def write_report(
    folder: str | os.PathLike, *, title: str = "", seconds: dict[str, float] | None = None
) -> str:
    """Write ``folder/report.html`` and ``folder/report.png``; return the results as text.

    Args:
        folder: of a main job; of ``nights tokenizers tokens model embeddings`` in it, what is
            missing is left out.
        title: of the report.
        seconds: step -> what it took.

    Raises:
        ValueError: nothing of a main job is there.
    """
    folder = pathlib.Path(folder)
    runs = {p.name: p for p in sorted(folder.glob("tokenizers/*")) if (p / "config.json").is_file()}
    model = folder / "model"
    manifest = read_json(folder / "nights" / "manifest.json")
    if manifest is None and not runs and not model.is_dir():
        raise ValueError(f"{folder} holds neither nights, nor tokenizers, nor a model")
    probed, probe = newest_probe(model)
    rows = probe_rows(probe)
    draw_summary(runs, model, probe, folder / "report.png")
    picture = probed / "figures" / f"{probe['step']}_probe.png" if probe else None
    page = render(
        "main_job.html",
        title=title or "hypnos_jax report",
        probe=probe,
        probe_rows=rows,
        probe_picture=picture if picture and picture.is_file() else None,
        by_recording=_by_recording(probe),
        summary=folder / "report.png",
        nights=_recordings(manifest, folder / "nights" / "rejects.jsonl"),
        tokenizers=_tokenizers(runs),
        model=_model(model),
        sections=read_sections(model),
        embeddings=_embeddings(folder / "embeddings"),
        seconds=_time(seconds),
    )
    with atomic_write(folder / "report.html", "w") as file:
        file.write(page)
    return text_table(rows, probe)


def probe_rows(probe: dict | None) -> list[list[str]]:
    """Return a header and one row per task and feature set, with intervals, as words."""
    header = ["task", "features", "metric", "value", "95 % interval", "second metric", "value"]
    rows = [header]
    for task, found in (probe or {}).get("tasks", {}).items():
        first, second = ("auroc", "auprc") if found["ranked"] else ("kappa", "macro_f1")
        for name, own in found["sets"].items():
            value = own["metrics"][first]
            low, high = value["low"], value["high"]
            rows.append(
                [
                    task,
                    NAMES.get(name, name),
                    METRICS[first],
                    number(value["value"]),
                    "-" if low is None else f"{low:.3f} to {high:.3f}",
                    METRICS[second],
                    number(own["metrics"][second]["value"]),
                ]
            )
        for name, reason in found["not_run"].items():
            rows.append([task, NAMES.get(name, name), "not run", "-", "-", reason, "-"])
    return rows


def text_table(rows: Sequence[Sequence[str]], probe: dict | None) -> str:
    """Return rows as aligned text, with each task's protocol below."""
    if len(rows) < 2:
        lines = ["No probe was run, or nothing had labels."]
    else:
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(f"{x:<{w}}" for x, w in zip(row, widths)).rstrip() for row in rows]
        lines.insert(1, "  ".join("-" * w for w in widths))
    for task, found in (probe or {}).get("tasks", {}).items():
        counts = f"{found['subjects']} subjects, {found['recordings']} recordings"
        lines.append(f"{task}: {counts}; {found['how']}")
    for task, reason in (probe or {}).get("left_out", {}).items():
        lines.append(f"{task}: left out, {reason}")
    return "\n".join(lines)


def draw_summary(
    runs: dict[str, pathlib.Path], model: pathlib.Path, probe: dict | None, path: pathlib.Path
) -> None:
    """Draw the tokenizers' losses, the model's, and the first metric of every task as a PNG."""
    figure, (left, middle, right) = new_figure(1, 3, (15, 4.6), width_ratios=[1, 1, 1.4])
    for name, run in runs.items():
        steps, losses = curve(run, "loss")
        left.plot(steps, losses, label=name, linewidth=1.2)
    _finish(left, "tokenizers: training loss", bool(runs))
    steps, losses = curve(model, "loss")
    middle.plot(steps, losses, linewidth=1, alpha=0.8, label="training", color="#0072B2")
    for key in sorted({k for line in lines(model) for k in line if k.endswith("/loss")}):
        if key.startswith("eval/"):
            middle.plot(*curve(model, key), "o-", label=key.split("/")[1], color="#D55E00")
    _finish(middle, "model: loss", len(steps) > 0)
    tasks = (probe or {}).get("tasks", {})
    for k, found in enumerate(tasks.values()):
        metric = "auroc" if found["ranked"] else "kappa"
        width = 0.8 / len(found["sets"])
        for i, (name, own) in enumerate(found["sets"].items()):
            value = own["metrics"][metric]
            if value["value"] is None:
                continue
            x = k + (i - (len(found["sets"]) - 1) / 2) * width
            label = NAMES.get(name, name) if k == 0 else None
            right.bar(x, value["value"], 0.92 * width, color=COLOURS.get(name), label=label)
            top = value["value"]
            if value["low"] is not None:
                error = [[max(top - value["low"], 0)], [max(value["high"] - top, 0)]]
                right.errorbar(x, top, error, color="black", linewidth=1, capsize=2)
                top = max(top, value["high"])
            right.text(x, max(top, 0) + 0.02, f"{value['value']:.2f}", ha="center", fontsize=7)
    right.set_xticks(
        range(len(tasks)),
        [f"{name}\n({'AUROC' if x['ranked'] else 'kappa'})" for name, x in tasks.items()],
    )
    right.axhline(0, color="black", linewidth=0.8)
    if tasks:
        right.set_ylim(min(0, right.get_ylim()[0]), 1.35)
        right.legend(fontsize=8, frameon=False, ncols=2, loc="upper center")
    right.set_title("linear probes of frozen features", fontsize=10)
    save_figure(figure, path)


def lines(workdir: pathlib.Path) -> list[dict]:
    """Return a run's lines of metrics, none where it has none."""
    return metrics.read_run(workdir)


def curve(workdir: pathlib.Path, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps and values of one metric."""
    found = [(line["step"], line[key]) for line in lines(workdir) if key in line]
    steps, values = zip(*found) if found else ((), ())
    return np.array(steps), np.array(values)


def evaluated(workdir: pathlib.Path) -> dict[str, float]:
    """Return the newest value of every evaluation metric of a run, its job's included."""
    out = {}
    for line in lines(workdir):
        out |= {k: v for k, v in line.items() if k.startswith("eval/")}
    return out | (read_json(workdir / "evaluation.json") or {}).get("results", {})


def _finish(axis, title, drawn):
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("step")
    axis.grid(alpha=0.3)
    if drawn:
        axis.legend(fontsize=8, frameon=False)


def newest_probe(workdir: pathlib.Path) -> tuple[pathlib.Path, dict | None]:
    """Return a run's newest probe, by ``launch.evaluate`` or an eval job, and its folder."""
    folders = [workdir, *workdir.glob(f"{metrics.EVALUATIONS}/*/[0-9]*/")]
    found = [(path, read_json(path / "probe.json")) for path in folders]
    found = [(path, probe) for path, probe in found if probe is not None]
    return max(found, key=lambda pair: pair[1]["step"], default=(workdir, None))


def _by_recording(probe):
    """Task -> rows of the embedding's results by recording."""
    head = ["recording", "subject", "examples", "kappa", "accuracy"]
    found = {}
    for task, own in (probe or {}).get("tasks", {}).items():
        rows = own["sets"]["embedding"]["per_recording"][:MOST_NIGHTS]
        if rows:
            found[task] = [head, *([row[key] for key in head] for row in rows)]
    return found


def _recordings(manifest, rejects):
    if manifest is None:
        return None
    nights = manifest["nights"]
    head = ["recording", "subject", "split", "hours", "channels", "mains Hz", "scored", "remarks"]
    rows = [head]
    for night in nights[:MOST_NIGHTS]:
        qc = night.get("qc", {})
        remarks = [f"{k} refused: {v}" for k, v in qc.get("refused", {}).items()]
        remarks += [str(note) for note in qc.get("notes", [])]
        for name, facts in qc.get("channels", {}).items():
            remarks += [f"{name}: {note}" for note in facts.get("notes", [])]
            if facts.get("valid_share", 1) < 0.9:
                remarks.append(f"{name}: {facts['valid_share']:.0%} valid")
            if facts.get("clipped_share", 0) > 0.01:
                remarks.append(f"{name}: {facts['clipped_share']:.0%} clipped")
        mains = f"{qc.get('mains_hz', '-')} ({qc.get('mains_from', '-')})"
        scored = qc.get("scored_share")
        rows.append(
            [
                night["recording"],
                night["subject"],
                night["split"],
                f"{night['duration_s'] / 3600:.2f}",
                ", ".join(night["channels"]),
                mains,
                "-" if scored is None else f"{scored:.0%}",
                "; ".join(remarks),
            ]
        )
    hours = sum(night["duration_s"] for night in nights) / 3600
    words = f"{len(nights)} recordings, {hours:.1f} h"
    if len(nights) > MOST_NIGHTS:
        words += f"; the first {MOST_NIGHTS} are listed"
    try:
        rejected = [json.loads(line) for line in rejects.read_text().splitlines()]
    except (OSError, ValueError):
        rejected = []
    body = [[x["recording"], x["reason"]] for x in rejected[:MOST_NIGHTS]]
    return {
        "words": words,
        "rows": rows,
        "rejected": len(rejected),
        "rejects": [["recording", "reason"], *body],
    }


def _tokenizers(runs):
    if not runs:
        return None
    found = {name: evaluated(run) for name, run in runs.items()}
    keys = sorted({key for own in found.values() for key in own})
    rows = [["metric", *runs]]
    rows += [[key.removeprefix("eval/"), *(own.get(key) for own in found.values())] for key in keys]
    pictures = [
        (f"{name}: {path.stem.split('_', 1)[-1]}", path)
        for name, run in runs.items()
        for path in newest_pictures(run / "figures")
    ]
    return {"rows": rows, "pictures": pictures}


def _model(model):
    if not model.is_dir():
        return None
    config = read_json(model / "config.json") or {}
    found = {k: v for k, v in evaluated(model).items() if not k.startswith("eval/probe/")}
    rows = [["metric", "value"], *([k.removeprefix("eval/"), v] for k, v in sorted(found.items()))]
    return {"rows": rows, "objective": json.dumps(config.get("objective", {}), indent=1)}


def _embeddings(folder):
    files = sorted(folder.rglob("*.npz")) if folder.is_dir() else []
    if not files:
        return None
    rows = [["file", "seconds", "epochs", "width", "modalities"]]
    for path in files[:MOST_NIGHTS]:
        with np.load(path, allow_pickle=False) as file:
            own = [name for name in file.files if name not in ("epochs", "times_s", "model")]
            own = [name for name in own if not name.startswith("surprise")]
            shape, checksum = file["epochs"].shape, str(file["model"])
            name = path.relative_to(folder).as_posix()
            rows.append([name, len(file["times_s"]), *shape, ", ".join(own)])
    return {"count": len(files), "model": checksum, "rows": rows}


def _time(seconds):
    return seconds and [["step", "seconds"], *([k, f"{v:.0f}"] for k, v in seconds.items())]


def newest_pictures(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the picture of the newest step of each name ``<step>_<name>.png``."""
    found = {}
    for path in folder.glob("*_*.png") if folder.is_dir() else ():
        step, name = path.stem.split("_", 1)
        if step.isdigit() and int(step) >= found.get(name, (-1, None))[0]:
            found[name] = (int(step), path)
    return [path for _, (_, path) in sorted(found.items())]
