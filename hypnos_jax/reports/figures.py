"""Pictures of what was found: a matrix of numbers, and the answers of one task."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from data_pipelines.files import atomic_write

# Okabe and Ito's colours, told apart by colour-blind readers too.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#999999"
LONGEST = 40  # bars in one picture


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


def draw_answers(report: dict, path: str | os.PathLike) -> None:
    """Draw the results of ``evaluators/downstream.py`` as a PNG.

    Left, the answers themselves; right, the task's measure under every condition.

    Args:
        report: what ``downstream_<split>.json`` holds.
        path: the file; replaced whole.
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
    _answers(axes[0], report)
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


def _answers(axis, report):
    shown = report["shown"]
    if "confusion" in shown:
        counts = np.array(shown["confusion"], float)
        total = counts.sum(1, keepdims=True)
        share = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
        axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for i, j in np.ndindex(*share.shape):
            colour = "white" if share[i, j] > 0.6 else "black"
            text = f"{share[i, j]:.0%}\n{int(counts[i, j])}"
            axis.text(j, i, text, ha="center", va="center", color=colour, fontsize=8)
        places = range(len(shown["classes"]))
        axis.set_xticks(places, shown["classes"])
        axis.set_yticks(places, shown["classes"])
        axis.set(xlabel="answered", ylabel="scored")
    elif "roc" in shown:
        axis.plot([0, 1], [0, 1], color="black", linewidth=0.6, linestyle=":")
        for name, points in shown["roc"].items():
            if points:
                axis.plot(*np.array(points).T, label=name)
        axis.set(xlabel="false alarms (share of negatives)", ylabel="hits (share of positives)")
        axis.set_aspect("equal")
        axis.legend(fontsize=8, frameon=False, loc="lower right")
    elif shown.get("points"):
        true, said = np.array(shown["points"]).T
        ends = [min(true.min(), said.min()), max(true.max(), said.max())]
        axis.plot(ends, ends, color="black", linewidth=0.6, linestyle=":")
        axis.plot(true, said, ".", color=BLUE, alpha=0.7)
        axis.set(xlabel=f"true {shown['of']}", ylabel=f"answered {shown['of']}")
    else:
        axis.set_axis_off()


def new_figure(rows: int, columns: int, size: tuple[float, float]):
    """Return a figure of ``size`` inches and its axes, row by row, without a window system."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False).ravel()


def save_figure(figure, path: str | os.PathLike) -> None:
    """Write a PNG whole or not at all."""
    with atomic_write(path) as file:
        figure.savefig(file, dpi=110, format="png")
