"""A picture of agreement: Bland-Altman plots, and how sure against how often right."""

from __future__ import annotations

import os

import numpy as np

from hypnos_jax.reports.figures import BLUE, GREEN, GREY, ORANGE, new_figure, save_figure

COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#D55E00")
MARKS = "o^sDvP"  # colour is not all that tells them apart
SHOWN = ("TST", "SE", "WASO", "SOL", "AHI (flow_only)")


def draw_agreement(result: dict, path: str | os.PathLike) -> None:
    """Draw what ``agreement_report.report`` found, a PNG.

    Args:
        result: its JSON.
        path: the file; replaced whole.
    """
    differences = [x for x in result["differences"] if x["rows"]]
    names = [name for name in SHOWN if any(name in x["values"] for x in differences)]
    sure = result["confidence"]
    count = len(names) + 2 * bool(sure)
    columns = min(3, max(count, 1))
    rows = -(-max(count, 1) // columns)
    figure, axes = new_figure(rows, columns, (4.2 * columns, 3.6 * rows))
    for axis, name in zip(axes, names):
        _differences(axis, name, differences)
    if sure:
        _calibration(axes[len(names)], sure)
        _risk(axes[len(names) + 1], sure)
    for axis in axes[count:]:
        axis.set_axis_off()
    if not count:
        axes[0].text(0.5, 0.5, "nothing to draw; see the tables", ha="center")
    save_figure(figure, path)


def _differences(axis, name, differences):
    unit = ""
    for place, x in enumerate(differences):
        if name not in x["values"]:
            continue
        true, said = np.array(x["values"][name])
        row = next(row for row in x["rows"] if row["statistic"] == name)
        unit, colour = row["unit"], COLOURS[place % len(COLOURS)]
        label = x["who"] if len(differences) > 1 else f"{x['who']} - {x['truth']}"
        mark = MARKS[place % len(MARKS)]
        axis.scatter((true + said) / 2, said - true, 14, colour, mark, label=label, alpha=0.7)
        axis.axhline(row["bias"], color=colour, lw=1.2)
        if len(differences) == 1:
            for limit in (row["loa_low"], row["loa_high"]):
                axis.axhline(limit, color=colour, lw=1, ls="--")
    axis.axhline(0, color=GREY, lw=0.8)
    axis.set_title(name, fontsize=10)
    axis.set_xlabel(f"mean of both, {unit}")
    axis.set_ylabel(f"difference, {unit}")
    axis.legend(fontsize=7)


def _calibration(axis, sure):
    axis.plot([0, 1], [0, 1], color=GREY, lw=0.8)
    said, right = ([x[key] for x in sure["bins"]] for key in ("said", "right"))
    axis.plot(said, right, "o-", color=BLUE)
    axis.set_title(f"calibration, error {sure['ece']:.3f}", fontsize=10)
    axis.set_xlabel("probability of the stage said")
    axis.set_ylabel("share right")


def _risk(axis, sure):
    shares = [float(share) for share in sure["risk"]]
    axis.plot(shares, [*sure["risk"].values()], "o-", color=BLUE, label="the surest epochs")
    marked = sure["marked"]
    if marked["risk"] is not None:
        axis.plot(
            [marked["coverage"]], [marked["risk"]], "D", color=ORANGE, label="not marked uncertain"
        )
    axis.set_ylim(bottom=0)
    axis.set_title("risk and coverage", fontsize=10)
    axis.set_xlabel("share of epochs answered")
    axis.set_ylabel("wrong among them")
    axis.legend(fontsize=8)
