"""The picture of ``answers_table``: accuracy above what always saying one class gets, and what a
question is judged by.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from data_pipelines.labels import EVENT_LABELS
from hypnos_jax.reports.figures import BLUE, GREEN, METRICS, ORANGE, new_figure, save_figure
from hypnos_jax.tasks import find_task

COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#D55E00")
MARKERS = "os^Dv"
LEAK_LABEL = "LEAK: trained on the people of the test"


def draw_table(rows: Sequence, path: str | os.PathLike, *, title: str = "") -> None:
    """Draw rows of ``answers_table`` as a PNG: a column a question; channels, then rules, along it.

    Above, accuracy, on grey bars as high as always saying the most frequent class would be; below,
    Cohen's kappa, or for events the area under the precision-recall curve on bars of the
    prevalence, which is what guessing gets. Lines are intervals over people. Runs that were trained
    on the people of the test are crosses.

    Args:
        rows: ``answers_table.Row``.
        path: the file; replaced whole.
        title: above it.
    """
    questions = {}
    for row in rows:
        questions.setdefault(_question(row.setting.task), []).append(row)
    kinds = sorted({(row.setting.weights, row.setting.trained) for row in rows})
    shares = sorted({row.setting.share for row in rows})
    places = {question: _places(own) for question, own in questions.items()}
    widths = [1.2 + 0.62 * len(own) for own in places.values()]
    size = (1.2 + sum(widths), 8.4)
    figure, axes = new_figure(2, len(questions), size, width_ratios=widths)
    for column, (question, own) in enumerate(questions.items()):
        for axis, metric, guess in (
            (axes[column], "accuracy", "majority_accuracy"),
            (axes[len(questions) + column], judged_by(own[0].setting.task), "prevalence"),
        ):
            _panel(axis, own, places[question], metric, guess, kinds, shares)
            axis.set_title(f"{places[question][0][0]}: {METRICS[metric]}", fontsize=10)
    axes[0].set_ylabel("accuracy\n(grey: always the most frequent class)")
    axes[len(questions)].set_ylabel("kappa or AUPRC\n(grey: what guessing gets)")
    handles = _legend(rows, kinds, shares)
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=9)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    save_figure(figure, path)


def judged_by(task: str) -> str:
    """Return the metric that tells most of a task: no share of a class makes it high."""
    return "kappa" if find_task(task).kind == "classes" else "auprc"


def _question(task: str) -> tuple | str:
    """What is asked, whatever the rule for its labels."""
    return EVENT_LABELS[task].kinds if task in EVENT_LABELS else task


def _places(rows) -> list[tuple]:
    """Places along the axis, (task, channels): first the task with most rows, then other rules."""
    tasks = [row.setting.task for row in rows]
    order = sorted(set(tasks), key=lambda task: (-tasks.count(task), task))
    found = {(row.setting.task, row.setting.channels) for row in rows}
    return sorted(found, key=lambda place: (order.index(place[0]), len(place[1]), place[1]))


def _panel(axis, rows, places, metric, guess, kinds, shares) -> None:
    top = 0.0
    for x, place in enumerate(places):
        own = [row for row in rows if (row.setting.task, row.setting.channels) == place]
        guesses = [row.metrics[guess]["value"] for row in own if guess in row.metrics]
        if guesses:
            level = float(np.mean(guesses))
            axis.bar(x, level, 0.96, color="#e4e4e4", edgecolor="#777777", linewidth=0.6)
            axis.text(x, 0, f"{level:.2f}", fontsize=7, ha="center", va="bottom", color="#444444")
            top = max(top, level)
        for row in own:
            if metric in row.metrics:
                top = max(top, _point(axis, x, row, metric, kinds, shares))
    base = places[0][0]
    axis.set_xticks(range(len(places)), [_name(*place, base) for place in places], fontsize=8)
    axis.set_xlim(-0.55, len(places) - 0.45)
    low = min(0.0, axis.get_ylim()[0]) if metric == "kappa" else 0.0
    axis.set_ylim(low, 1.02 if metric == "accuracy" else min(1.02, 1.1 * top + 0.02))
    axis.grid(axis="y", alpha=0.3)
    axis.set_axisbelow(True)


def _name(task: str, channels: Sequence[str], base: str) -> str:
    """Channels, one below the other, or the rule where it is another."""
    if task != base:
        return "rule:\n" + task.removeprefix(base).strip("_").replace("_", "\n")
    return "\n".join(name.split("_", 1)[-1] for name in channels)


def _point(axis, x, row, metric, kinds, shares) -> float:
    """One row's value with its interval, beside others of its place; returns the highest end."""
    found, said = row.metrics[metric], row.setting
    kind, share = kinds.index((said.weights, said.trained)), shares.index(said.share)
    count = len(kinds) * len(shares)
    x += 0.84 * ((kind * len(shares) + share + 0.5) / count - 0.5)
    colour, leak = COLOURS[kind % len(COLOURS)], said.trained_on != "train"
    high = found["value"]
    if found["low"] is not None:
        high = max(high, found["high"])
        axis.plot([x, x], [found["low"], found["high"]], color=colour, linewidth=1.2, alpha=0.6)
    marker = "X" if leak else MARKERS[share % len(MARKERS)]
    filled = colour if share == len(shares) - 1 or leak else "white"
    how = {"color": colour, "markerfacecolor": filled, "markersize": 10 if leak else 5.5}
    if leak:
        how["markeredgecolor"] = "black"
    axis.plot(x, found["value"], marker, **how)
    return high


def _legend(rows, kinds, shares) -> list:
    from matplotlib.lines import Line2D

    mark = {"color": "black", "linewidth": 0}
    handles = [
        Line2D([], [], color=COLOURS[i % len(COLOURS)], linewidth=4, label=f"{weights}, {trained}")
        for i, (weights, trained) in enumerate(kinds)
    ]
    for i, share in enumerate(shares):
        filled = "black" if i == len(shares) - 1 else "white"
        label = f"{100 * share:g} % of the labels" if share <= 1 else f"{share:g} windows"
        own = {"marker": MARKERS[i % len(MARKERS)], "markerfacecolor": filled, "label": label}
        handles.append(Line2D([], [], **mark, **own))
    if any(row.setting.trained_on != "train" for row in rows):
        handles.append(Line2D([], [], **mark, marker="X", markersize=10, label=LEAK_LABEL))
    return handles
