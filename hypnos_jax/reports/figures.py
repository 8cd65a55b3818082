"""Pictures of results: a matrix of numbers, the answers of one task, and linear probes."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from data_pipelines.files import atomic_write

# Okabe and Ito's colours, told apart by colour-blind readers too.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#999999"
LONGEST = 40  # bars in one picture
NAMES = {
    "embedding": "embedding",
    "random_backbone": "random backbone",
    "token_latents": "token latents",
    "hand_features": "hand-made features",
    "no_features": "no features",
    "surprise": "surprise",
    "embedding_and_surprise": "embedding and surprise",
    "random_surprise": "surprise, random weights",
}
COLOURS = {
    "embedding": BLUE,
    "random_backbone": GREY,
    "token_latents": ORANGE,
    "hand_features": GREEN,
    "no_features": "#555555",
    "surprise": "#56B4E9",
    "embedding_and_surprise": "#CC79A7",
    "random_surprise": "#BBBBBB",
}
METRICS = {
    "kappa": "Cohen's kappa",
    "macro_f1": "macro F1",
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "auroc": "AUROC",
    "auprc": "AUPRC",
}


def draw_matrix(
    values: np.ndarray,
    names: Sequence[str],
    path: str | os.PathLike,
    *,
    title: str,
    rows: str,
    columns: str,
    low: float = 0.0,
) -> None:
    """Draw a square matrix of shares as a heat map, a PNG.

    Args:
        values: [M, M] from 0 to 1; NaN is left white.
        names: of rows and columns.
        path: the file; replaced whole.
        title: above it.
        rows, columns: what they are.
        low: where the colours begin: what a guess would get.
    """
    figure, axes = new_figure(
        1, 1, (max(5.5, 1.6 + 0.72 * len(names)), max(4.6, 1.7 + 0.62 * len(names)))
    )
    axis = axes[0]
    high = max(np.nanmax(values), low + 1e-6)
    image = axis.imshow(values, cmap="viridis", vmin=low, vmax=high)
    for i, j in np.argwhere(np.isfinite(values)):
        dark = values[i, j] < low + 0.6 * (high - low)
        colour = "white" if dark else "black"
        text = f"{values[i, j]:.2f}".replace("0.", ".", 1)
        axis.text(j, i, text, ha="center", va="center", fontsize=8, color=colour)
    places = range(len(names))
    axis.set_xticks(places, names, rotation=45, ha="right", fontsize=9)
    axis.set_yticks(places, names, fontsize=9)
    axis.set_ylabel(rows)
    axis.set_xlabel(columns)
    axis.set_title(title, fontsize=10, loc="left")
    figure.colorbar(image, shrink=0.7)
    save_figure(figure, path)


def draw_answers(report: dict, path: str | os.PathLike, draw: str) -> None:
    """Draw the results of ``evaluators/downstream.py`` as a PNG.

    Left, the answers themselves; right, the task's measure under every condition.

    Args:
        report: what ``downstream_<split>.json`` holds.
        path: the file; replaced whole.
        draw: name in ``ANSWERS``; "" leaves the left side empty.
    """
    metric = report["metric"]
    bars = [("all", report["conditions"]["all"]["metrics"].get(metric), BLUE)]
    for name, found in report["sites"].items():
        seen = "seen" if found["seen"] else "unseen"
        bars.append((f"{seen} site {name}", found["metrics"].get(metric), BLUE))
    for kind, colour in (("only", ORANGE), ("without", ORANGE), ("size", GREEN), ("hole", GREY)):
        for name, found in report["conditions"].items():
            if name.split("/")[0] == kind:
                bars.append((name, found["metrics"].get(metric), colour))
    bars = [bar for bar in bars if bar[1] is not None and np.isfinite(bar[1])][:LONGEST]
    figure, axes = new_figure(1, 2, (12, max(4.2, 1.2 + 0.27 * len(bars))))
    if draw:
        ANSWERS[draw](axes[0], report["shown"])
    else:
        axes[0].set_axis_off()
    axis, places = axes[1], np.arange(len(bars))[::-1]
    axis.barh(places, [bar[1] for bar in bars], color=[bar[2] for bar in bars])
    for place, (_, value, _) in zip(places, bars):
        axis.text(max(value, 0), place, f" {value:.3g}", va="center", fontsize=8)
    axis.set_yticks(places, [bar[0] for bar in bars], fontsize=8)
    axis.margins(x=0.15)
    axis.set_xlabel(metric)
    axis.set_title("under each condition, and by site", fontsize=9)
    nights = report["conditions"]["all"]["nights"]
    title = f"{report['task']}, {report['split']} nights: {nights}, step {report['step']}"
    figure.suptitle(title, fontsize=11)
    save_figure(figure, path)


def _answered_classes(axis, shown):
    confusion_panel(axis, shown["confusion"], shown["classes"])
    axis.set(xlabel="answered", ylabel="scored")


def _answered_ranking(axis, shown):
    roc_panel(axis, {name: (points, None) for name, points in shown["roc"].items() if points})


def _answered_numbers(axis, shown):
    if not shown["points"]:
        axis.set_axis_off()
        return
    true, said = np.array(shown["points"]).T
    ends = [min(true.min(), said.min()), max(true.max(), said.max())]
    axis.plot(ends, ends, color="black", linewidth=0.6, linestyle=":")
    axis.plot(true, said, ".", color=BLUE, alpha=0.7)
    axis.set(xlabel=f"true {shown['of']}", ylabel=f"answered {shown['of']}")


# How answers are drawn: (axes, what the measure shows).
ANSWERS = {
    "confusion": _answered_classes,
    "roc": _answered_ranking,
    "points": _answered_numbers,
}


def draw_probe(report: dict, path: str | os.PathLike) -> None:
    """Draw the results of ``evaluators/linear_probe.py`` as a PNG.

    One row a task: scores with intervals, label efficiency, confusion or ROC.

    Args:
        report: what ``probe.json`` holds, with one task or more.
        path: the file; replaced whole.
    """
    tasks = report["tasks"]
    size = (15, 4.6 * len(tasks))
    figure, axes = new_figure(len(tasks), 3, size, width_ratios=[1.25, 1, 1])
    for row, (name, task) in zip(axes.reshape(-1, 3), tasks.items()):
        _bars(row[0], name, task)
        _curve(row[1], task)
        axis, classes = row[2], task["classes"]
        if task["ranked"]:
            found = {own: x.get("curve") for own, x in task["sets"].items() if own != "no_features"}
            curves = {NAMES.get(k, k): (x, COLOURS.get(k)) for k, x in found.items() if x}
            roc_panel(axis, curves)
            positives = task["counts"][1] / max(sum(task["counts"]), 1)
            axis.set_title(f"ROC; {positives:.1%} are {classes[1]}", fontsize=9)
        else:
            own = next(iter(task["sets"]))
            confusion_panel(axis, task["sets"][own]["confusion"], classes)
            axis.set(xlabel="predicted", ylabel="scored")
            axis.set_title(f"{NAMES.get(own, own)}: share of each scored class", fontsize=9)
    save_figure(figure, path)


def draw_few_shot(report: dict, path: str | os.PathLike) -> None:
    """Draw the scores of probes by how many examples of each class have labels.

    Args:
        report: what ``probe.json`` holds, with ``few_shot`` of one task or more.
        path: the file; replaced whole.
    """
    tasks = {name: task for name, task in report["tasks"].items() if task["few_shot"]}
    figure, axes = new_figure(1, len(tasks), (5 * len(tasks), 4.2))
    for axis, (name, task) in zip(axes, tasks.items()):
        metric = "auroc" if task["ranked"] else "kappa"
        for own, rows in task["few_shot"].items():
            colour = COLOURS.get(own)
            rows = [row for row in rows if row["mean"] is not None]
            x, mean = [row["shots"] for row in rows], [row["mean"] for row in rows]
            axis.plot(x, mean, marker="o", color=colour, label=NAMES.get(own, own))
            ends = [
                [row["mean"] if row[end] is None else row[end] for row in rows]
                for end in ("low", "high")
            ]
            axis.fill_between(x, *ends, color=colour, alpha=0.15, linewidth=0)
            whole = task["sets"][own]["metrics"][metric]["value"]
            if whole is not None:
                axis.axhline(whole, color=colour, linewidth=0.8, linestyle=":")
        _log_ticks(axis, {row["shots"] for rows in task["few_shot"].values() for row in rows})
        axis.set_xlabel(
            "labelled examples of each class\n(band: 95 % of draws; dotted: all labels)"
        )
        axis.set_ylabel(METRICS[metric])
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, frameon=False)
        axis.set_title(name, fontsize=9)
    save_figure(figure, path)


def _log_ticks(axis, values):
    from matplotlib.ticker import NullFormatter

    ticks = sorted(values)
    axis.set_xscale("log")
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.xaxis.set_minor_formatter(NullFormatter())


def draw_records(report: dict, path: str | os.PathLike) -> None:
    """Draw the results of ``evaluators/record_probe.py`` as a PNG.

    Args:
        report: what ``record_probe.json`` holds.
        path: the file; replaced whole.
    """
    parts = [part for part in ("records", "test") if part in report]
    height = 1.6 + 0.42 * len(report["records"]["sets"])
    figure, axes = new_figure(1, len(parts), (9 * len(parts), height))
    for axis, part in zip(np.ravel(axes), parts):
        sets, beside = report[part]["sets"], report["beside"]
        places = np.arange(len(sets))[::-1]
        for place, (name, row) in zip(places, sets.items()):
            alone = "untrained" not in row  # hand-made
            label = {0: "hand-made"}.get(place) if alone else {len(sets) - 1: "trained"}.get(place)
            low, high = (
                row[end] if row[end] is not None else row["value"] for end in ("low", "high")
            )
            axis.plot([low, high], [place] * 2, color=GREEN if alone else BLUE)
            axis.plot(row["value"], place, "o", color=GREEN if alone else BLUE, label=label)
            axis.text(1.01, place, f"{row['value']:.3f}", va="center", fontsize=8)
            for values in [row.get("untrained", [])]:
                label = "untrained, a seed each" if place == len(sets) - 1 else None
                axis.plot(values, [place] * len(values), "|", color=GREY, markersize=9, label=label)
            for other, colour in zip(beside, (ORANGE, "#CC79A7")):
                own = beside[other].get(part, {}).get(name)
                if own and not alone:
                    label = other if place == len(sets) - 1 else None
                    axis.plot(own["value"], place - 0.22, "D", color=colour, ms=4, label=label)
        axis.axvline(0.5, color="black", linewidth=0.6, linestyle=":")
        axis.set_yticks(places, [name.replace("_", " ") for name in sets])
        axis.set(xlim=(0.3, 1.0), xlabel="AUROC, 95 % interval over people")
        normal, other = report[part]["counts"]
        title = f"{other} records of {report['classes'][1]}, {normal} {report['classes'][0]}"
        axis.set_title(title + (", only judged" if part == "test" else ""), fontsize=10)
        axis.legend(fontsize=8, frameon=False, loc="lower left")
    save_figure(figure, path)


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
        curves = task["label_efficiency"].values()
        _log_ticks(axis, {row["subjects"] for rows in curves for row in rows})
        axis.legend(fontsize=8, frameon=False)
    axis.grid(alpha=0.3)
    axis.set_title("label efficiency", fontsize=9)


def confusion_panel(axis, counts: Sequence[Sequence[int]], classes: Sequence[str]) -> None:
    """Draw counts [scored][answered] and their shares of each row on axes."""
    counts = np.array(counts, float)
    total = counts.sum(1, keepdims=True)
    share = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(*share.shape):
        colour = "white" if share[i, j] > 0.6 else "black"
        text = f"{share[i, j]:.0%}\n{int(counts[i, j])}"
        axis.text(j, i, text, ha="center", va="center", color=colour, fontsize=8)
    axis.set_xticks(range(len(classes)), classes)
    axis.set_yticks(range(len(classes)), classes)


def roc_panel(axis, curves: dict[str, tuple]) -> None:
    """Draw name -> ([[false alarms, hits], ...], colour or None) on axes."""
    axis.plot([0, 1], [0, 1], color="black", linewidth=0.6, linestyle=":")
    for name, (points, colour) in curves.items():
        axis.plot(*np.array(points).T, color=colour, label=name)
    axis.set(xlabel="false alarms (share of negatives)", ylabel="hits (share of positives)")
    axis.set_aspect("equal")
    axis.legend(fontsize=8, frameon=False, loc="lower right")


def new_figure(rows: int, columns: int, size: tuple[float, float], **options):
    """Return a figure of ``size`` inches and its axes, row by row, without a window system.

    ``options`` are as of ``Figure.subplots``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options).ravel()


def save_figure(figure, path: str | os.PathLike) -> None:
    """Write a PNG whole or not at all."""
    with atomic_write(path) as file:
        figure.savefig(file, dpi=110, format="png")
