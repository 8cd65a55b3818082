"""The picture of ``answers_table``: accuracy above what always saying one class gets, and what a
task is judged by.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from hypnos_jax.reports.figures import BLUE, GREEN, GREY, METRICS, ORANGE, new_figure, save_figure
from hypnos_jax.tasks import find_task

COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#D55E00")
MARKERS = "os^Dv"


def draw_table(rows: Sequence, path: str | os.PathLike, *, title: str = "") -> None:
    """Draw rows of ``answers_table`` as a PNG: a column a task, channels along it.

    Above, accuracy, with a line where always saying the most frequent class would be; below,
    Cohen's kappa, or for events the area under the precision-recall curve with the prevalence,
    which is what guessing gets. Bars are intervals over people. Runs that were trained on the
    people of the test are crosses.

    Args:
        rows: ``answers_table.Row``.
        path: the file; replaced whole.
        title: above it.
    """
    tasks = list(dict.fromkeys(row.setting.task for row in rows))
    channels = sorted({row.setting.channels for row in rows}, key=lambda own: (len(own), own))
    kinds = sorted({(row.setting.weights, row.setting.trained) for row in rows})
    shares = sorted({row.setting.share for row in rows})
    width = max(3.2, 0.55 + 0.75 * len(channels))
    figure, axes = new_figure(2, len(tasks), (1.8 + width * len(tasks), 8.2), sharey="row")
    axes = axes.reshape(2, -1)
    for column, task in enumerate(tasks):
        own = [row for row in rows if row.setting.task == task]
        judged = "kappa" if find_task(task).kind == "classes" else "auprc"
        for axis, metric, guess in (
            (axes[0, column], "accuracy", "majority_accuracy"),
            (axes[1, column], judged, "prevalence"),
        ):
            guesses = [row.metrics[guess]["value"] for row in own if guess in row.metrics]
            level = np.mean(guesses) if guesses else 0.0
            axis.axhspan(-1, level, color=GREY, alpha=0.18, linewidth=0)
            axis.axhline(level, color="black", linewidth=1, linestyle="--")
            axis.text(
                len(channels) - 0.5, level, f" {level:.2f}", fontsize=8, va="bottom", ha="right"
            )
            for row in own:
                _point(axis, row, metric, channels, kinds, shares)
            axis.set_xlim(-0.5, len(channels) - 0.5)
            axis.set_ylim(0 if metric != "kappa" else -0.1, 1.02)
            names = ["\n".join(name.split("_", 1)[-1] for name in names) for names in channels]
            axis.set_xticks(range(len(channels)), names, fontsize=8)
            for edge in range(1, len(channels)):
                axis.axvline(edge - 0.5, color=GREY, linewidth=0.4)
            axis.grid(axis="y", alpha=0.3)
            axis.set_title(f"{task}: {METRICS[metric]}", fontsize=9)
    axes[0, 0].set_ylabel("accuracy\n(grey: always the most frequent class)")
    axes[1, 0].set_ylabel("kappa, or AUPRC\n(grey: what guessing gets)")
    figure.legend(handles=_legend(rows, kinds, shares), loc="outside lower center", ncols=4)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    save_figure(figure, path)


def _point(axis, row, metric, channels, kinds, shares) -> None:
    """One row's value with its interval, beside the others of the same channels."""
    found, said = row.metrics.get(metric), row.setting
    if not found:
        return
    kind, share = kinds.index((said.weights, said.trained)), shares.index(said.share)
    places = len(kinds) * len(shares)
    x = channels.index(said.channels) + 0.8 * ((kind * len(shares) + share + 0.5) / places - 0.5)
    colour, leak = COLOURS[kind % len(COLOURS)], said.trained_on != "train"
    marker = "x" if leak else MARKERS[share % len(MARKERS)]
    if found["low"] is not None:
        axis.plot([x, x], [found["low"], found["high"]], color=colour, linewidth=1, alpha=0.6)
    filled = colour if share == len(shares) - 1 or leak else "white"
    axis.plot(
        x, found["value"], marker, color=colour, markerfacecolor=filled, markersize=9 if leak else 6
    )


def _legend(rows, kinds, shares) -> list:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=COLOURS[i % len(COLOURS)], linewidth=4, label=f"{weights}, {trained}")
        for i, (weights, trained) in enumerate(kinds)
    ]
    for i, share in enumerate(shares):
        filled = "black" if i == len(shares) - 1 else "white"
        label = f"{100 * share:g} % of the labels" if share <= 1 else f"{share:g} windows"
        handles.append(
            Line2D(
                [],
                [],
                color="black",
                marker=MARKERS[i % len(MARKERS)],
                markerfacecolor=filled,
                linewidth=0,
                label=label,
            )
        )
    if any(row.setting.trained_on != "train" for row in rows):
        leak = {"color": "black", "marker": "x", "markersize": 9, "linewidth": 0}
        handles.append(Line2D([], [], label="LEAK: trained on the people of the test", **leak))
    return handles
