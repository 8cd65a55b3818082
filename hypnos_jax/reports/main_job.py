"""The report of a main job: one HTML file that needs no other, one picture, one table as text.

Everything is read from the files that the commands left: the store's manifest and rejects, each
run's ``config.json``, ``metrics.jsonl`` and pictures, ``probe.json``, the embeddings.
"""

from __future__ import annotations

import base64
import datetime
import html
import io
import json
import os
import pathlib
import platform
from collections.abc import Iterable, Sequence
from importlib import metadata

import numpy as np

from hypnos_jax import metrics
from hypnos_jax.reports.figures import COLOURS, METRICS, NAMES

MOST_NIGHTS = 60  # rows of the table of recordings
PACKAGES = ("hypnos_jax", "jax", "jaxlib", "flax", "numpy", "scipy", "scikit-learn")
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1080px; margin: 2em auto;
  padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.25em; margin-top: 2em; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; margin: 1em 0; font-size: 13px; }
th, td { padding: 3px 9px; text-align: left; border-bottom: 1px solid #e3e3e3;
  vertical-align: top; }
th { background: #f4f4f4; } td.n { text-align: right; font-variant-numeric: tabular-nums; }
img { max-width: 100%; } pre { background: #f6f6f6; padding: 8px; overflow-x: auto; }
.note { color: #555; } .scroll { overflow-x: auto; }
"""


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
    picture = draw_summary(runs, model, probe)
    write_whole(folder / "report.png", picture)
    parts = [
        f"<p class=note>{text(datetime.datetime.now().astimezone().strftime('%Y-%m-%d %H:%M %Z'))},"
        f" {text(versions())}</p>",
        _results(probe, rows, probed),
        _figure("Training and results", picture),
        _recordings(manifest, folder / "nights" / "rejects.jsonl"),
        _tokenizers(runs),
        _model(model),
        _embeddings(folder / "embeddings"),
        _time(seconds),
    ]
    page = (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        f"<title>{text(title or 'hypnos_jax report')}</title><style>{STYLE}</style>"
        f"<h1>{text(title or 'hypnos_jax report')}</h1>{''.join(parts)}</html>\n"
    )
    write_whole(folder / "report.html", page.encode())
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


def draw_summary(runs: dict[str, pathlib.Path], model: pathlib.Path, probe: dict | None) -> bytes:
    """Return a PNG: the tokenizers' losses, the model's loss, the first metric of every task."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 1.4])
    for name, run in runs.items():
        steps, losses = curve(run, "loss")
        left.plot(steps, losses, label=name, linewidth=1.2)
    _finish(left, "tokenizers: training loss", bool(runs))
    steps, losses = curve(model, "loss")
    middle.plot(steps, losses, linewidth=1, alpha=0.8, label="training", color="#0072B2")
    for key in sorted({k for line in lines(model) for k in line if k.endswith("/loss")}):
        if key.startswith("eval/"):
            middle.plot(*curve(model, key), "o-", label=key.split("/")[1], color="#D55E00")
    _finish(middle, "RQ-Transformer: nats per code", len(steps) > 0)
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
    file = io.BytesIO()
    figure.savefig(file, dpi=110, format="png")
    return file.getvalue()


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


def _results(probe, rows, probed):
    if probe is None:
        return "<h2>Results</h2><p>No probe was run.</p>"
    out = ["<h2>Results</h2>", table(rows), f"<p class=note>{text(probe['protocol'])}</p><ul>"]
    for task, found in probe["tasks"].items():
        out.append(
            f"<li><b>{text(task)}</b>: {found['subjects']} subjects, {found['recordings']}"
            f" recordings; {text(found['how'])}. Examples: "
            + ", ".join(f"{text(c)} {n}" for c, n in zip(found["classes"], found["counts"]))
            + "</li>"
        )
    out += [f"<li><b>{text(k)}</b>: left out, {text(v)}</li>" for k, v in probe["left_out"].items()]
    out.append("</ul>")
    picture = probed / "figures" / f"{probe['step']}_probe.png"
    if picture.is_file():
        out.append(_figure("Probes", picture.read_bytes()))
    for task, found in probe["tasks"].items():
        own = found["sets"]["embedding"]["per_recording"]
        if own:
            head = ["recording", "subject", "examples", "kappa", "accuracy"]
            body = [
                [x["recording"], x["subject"], x["examples"], x["kappa"], x["accuracy"]]
                for x in own[:MOST_NIGHTS]
            ]
            out.append(f"<h3>{text(task)} by recording, embedding</h3>" + table([head, *body]))
    return "".join(out)


def _recordings(manifest, rejects):
    if manifest is None:
        return ""
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
    out = [f"<h2>Recordings</h2><p>{words}</p><div class=scroll>{table(rows)}</div>"]
    try:
        rejected = [json.loads(line) for line in rejects.read_text().splitlines()]
    except (OSError, ValueError):
        rejected = []
    if rejected:
        body = [[x["recording"], x["reason"]] for x in rejected[:MOST_NIGHTS]]
        out.append(f"<p>{len(rejected)} rejected:</p>" + table([["recording", "reason"], *body]))
    return "".join(out)


def _tokenizers(runs):
    if not runs:
        return ""
    found = {name: evaluated(run) for name, run in runs.items()}
    keys = sorted({key for own in found.values() for key in own})
    rows = [["metric", *runs]]
    rows += [[key.removeprefix("eval/"), *(own.get(key) for own in found.values())] for key in keys]
    out = ["<h2>Tokenizers</h2>", table(rows) if keys else "<p>Not evaluated.</p>"]
    for name, run in runs.items():
        for picture in newest_pictures(run / "figures"):
            out.append(_figure(f"{name}: {picture.stem.split('_', 1)[-1]}", picture.read_bytes()))
    return "".join(out)


def _model(model):
    if not model.is_dir():
        return ""
    config = read_json(model / "config.json") or {}
    found = {k: v for k, v in evaluated(model).items() if not k.startswith("eval/probe/")}
    rows = [["metric", "value"], *([k.removeprefix("eval/"), v] for k, v in sorted(found.items()))]
    shape = json.dumps(config.get("objective", {}), indent=1)
    return (
        "<h2>RQ-Transformer</h2>"
        + (table(rows) if found else "<p>Not evaluated.</p>")
        + f"<details><summary>objective</summary><pre>{text(shape)}</pre></details>"
    )


def _embeddings(folder):
    files = sorted(folder.rglob("*.npz")) if folder.is_dir() else []
    if not files:
        return ""
    rows = [["file", "seconds", "epochs", "width", "modalities"]]
    for path in files[:MOST_NIGHTS]:
        with np.load(path, allow_pickle=False) as file:
            own = [name for name in file.files if name not in ("epochs", "times_s", "model")]
            shape, checksum = file["epochs"].shape, str(file["model"])
            name = path.relative_to(folder).as_posix()
            rows.append([name, len(file["times_s"]), *shape, ", ".join(own)])
    return (
        f"<h2>Embeddings</h2><p>{len(files)} recordings, model {text(checksum[:16])}...</p>"
        + table(rows)
    )


def _time(seconds):
    if not seconds:
        return ""
    rows = [["step", "seconds"], *([k, f"{v:.0f}"] for k, v in seconds.items())]
    return "<h2>Time</h2>" + table(rows)


def newest_pictures(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the picture of the newest step of each name ``<step>_<name>.png``."""
    found = {}
    for path in folder.glob("*_*.png") if folder.is_dir() else ():
        step, name = path.stem.split("_", 1)
        if step.isdigit() and int(step) >= found.get(name, (-1, None))[0]:
            found[name] = (int(step), path)
    return [path for _, (_, path) in sorted(found.items())]


def _figure(caption, png):
    data = base64.b64encode(png).decode()
    return f"<p><img alt='{text(caption)}' src='data:image/png;base64,{data}'></p>"


def table(rows: Iterable[Sequence]) -> str:
    """Return an HTML table of a header and rows; numbers are set right, all text is escaped."""
    head, *body = rows
    out = ["<table><tr>", *(f"<th>{text(x)}</th>" for x in head), "</tr>"]
    for row in body:
        out.append("<tr>")
        for x in row:
            kind = " class=n" if isinstance(x, int | float) else ""
            shown = number(x) if x is None or isinstance(x, float) else x
            out.append(f"<td{kind}>{text(shown)}</td>")
        out.append("</tr>")
    return "".join([*out, "</table>"])


def number(x: float | None) -> str:
    """Return a number in few digits, ``-`` for none."""
    if x is None:
        return "-"
    return f"{x:.3f}" if abs(x) < 100 else f"{x:,.0f}"


def text(x) -> str:
    """Return anything as text that HTML shows as it is."""
    return html.escape(str(x), quote=True)


def versions() -> str:
    """Return the versions of this program, of what it stands on, and the machine's kind."""
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    found.append(f"Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    return ", ".join(found)


def read_json(path: pathlib.Path):
    """Return a JSON file's value, or None where there is none."""
    return json.loads(path.read_text()) if path.is_file() else None


def write_whole(path: pathlib.Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    partial.write_bytes(data)
    partial.replace(path)
