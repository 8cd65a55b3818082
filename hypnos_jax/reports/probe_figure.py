"""One picture of a probe: scores with intervals, label efficiency, confusion or ROC, by task."""

from __future__ import annotations

import os
import pathlib

import numpy as np

NAMES = {
    "embedding": "embedding",
    "random_backbone": "random backbone",
    "token_latents": "token latents",
    "hand_features": "hand-made features",
    "no_features": "no features",
}
# Okabe and Ito's colours, told apart by colour-blind readers too.
COLOURS = {
    "embedding": "#0072B2",
    "random_backbone": "#999999",
    "token_latents": "#E69F00",
    "hand_features": "#009E73",
    "no_features": "#555555",
}
METRICS = {
    "kappa": "Cohen's kappa",
    "macro_f1": "macro F1",
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "auroc": "AUROC",
    "auprc": "AUPRC",
}


def draw_probe(report: dict, path: str | os.PathLike) -> None:
    """Draw the results of ``evaluators/linear_probe.py`` as a PNG.

    Args:
        report: what ``probe.json`` holds, with one task or more.
        path: the file; replaced whole.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tasks = report["tasks"]
    figure = Figure(figsize=(15, 4.6 * len(tasks)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(tasks), 3, squeeze=False, width_ratios=[1.25, 1, 1])
    for row, (name, task) in zip(axes, tasks.items()):
        _bars(row[0], name, task)
        _curve(row[1], task)
        if task["ranked"]:
            _roc(row[2], task)
        else:
            _confusion(row[2], task)
    path = pathlib.Path(path)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    figure.savefig(partial, dpi=110, format="png")
    partial.replace(path)


def _bars(axis, name, task):
    metrics = ("auroc", "auprc") if task["ranked"] else ("kappa", "macro_f1", "balanced_accuracy")
    width = 0.8 / len(task["sets"])
    for i, (own, found) in enumerate(task["sets"].items()):
        for k, metric in enumerate(metrics):
            values = found["metrics"][metric]
            value, low, high = values["value"], values["low"], values["high"]
            if value is None:
                continue
            x = k + (i - (len(task["sets"]) - 1) / 2) * width
            label = NAMES.get(own, own) if k == 0 else None
            axis.bar(x, value, 0.92 * width, color=COLOURS.get(own), label=label)
            if low is not None:
                error = [[max(value - low, 0)], [max(high - value, 0)]]
                axis.errorbar(x, value, error, color="black", linewidth=1, capsize=2)
            top = max(value, high if high is not None else value, 0)
            axis.text(x, top + 0.015, f"{value:.2f}", ha="center", fontsize=8)
    axis.set_xticks(range(len(metrics)), [METRICS[metric] for metric in metrics])
    axis.set_ylim(min(0, axis.get_ylim()[0]), 1.3)
    axis.set_yticks(np.arange(0, 1.01, 0.2))
    axis.axhline(0, color="black", linewidth=0.8)
    axis.legend(ncols=2, fontsize=8, frameon=False, loc="upper center")
    title = f"{name}: {task['subjects']} subjects, {task['recordings']} recordings"
    axis.set_title(f"{title}\n{task['how']}", fontsize=9)


def _curve(axis, task):
    drawn = False
    for own, rows in task["label_efficiency"].items():
        points = [(row["subjects"], [v for v in row["values"] if v is not None]) for row in rows]
        points = [(x, values) for x, values in points if values]
        if not points:
            continue
        drawn = True
        x = [p[0] for p in points]
        axis.plot(
            x,
            [np.mean(p[1]) for p in points],
            marker="o",
            color=COLOURS.get(own),
            label=NAMES.get(own, own),
        )
        low, high = [np.min(p[1]) for p in points], [np.max(p[1]) for p in points]
        axis.fill_between(x, low, high, color=COLOURS.get(own), alpha=0.15, linewidth=0)
    metric = "auroc" if task["ranked"] else "kappa"
    axis.set_ylabel(METRICS[metric])
    axis.set_xlabel("training subjects with labels (band: range over draws)")
    if drawn:
        from matplotlib.ticker import NullFormatter

        ticks = sorted(
            {row["subjects"] for rows in task["label_efficiency"].values() for row in rows}
        )
        axis.set_xscale("log")
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.legend(fontsize=8, frameon=False)
    axis.grid(alpha=0.3)
    axis.set_title("label efficiency", fontsize=9)


def _confusion(axis, task):
    own = next(iter(task["sets"]))
    counts = np.array(task["sets"][own]["confusion"], float)
    total = counts.sum(1, keepdims=True)
    share = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(*share.shape):
        colour = "white" if share[i, j] > 0.6 else "black"
        text = f"{share[i, j]:.0%}\n{int(counts[i, j])}"
        axis.text(j, i, text, ha="center", va="center", color=colour, fontsize=8)
    places = range(len(task["classes"]))
    axis.set_xticks(places, task["classes"])
    axis.set_yticks(places, task["classes"])
    axis.set_xlabel("predicted")
    axis.set_ylabel("scored")
    axis.set_title(f"{NAMES.get(own, own)}: share of each scored class", fontsize=9)


def _roc(axis, task):
    axis.plot([0, 1], [0, 1], color="black", linewidth=0.6, linestyle=":")
    for own, found in task["sets"].items():
        if found.get("curve") and own != "no_features":
            x, y = np.array(found["curve"]).T
            axis.plot(x, y, color=COLOURS.get(own), label=NAMES.get(own, own))
    axis.set_xlabel("false alarms (share of negatives)")
    axis.set_ylabel("hits (share of positives)")
    axis.set_aspect("equal")
    axis.legend(fontsize=8, frameon=False, loc="lower right")
    positives = task["counts"][1] / max(sum(task["counts"]), 1)
    axis.set_title(f"ROC; {positives:.1%} are {task['classes'][1]}", fontsize=9)
