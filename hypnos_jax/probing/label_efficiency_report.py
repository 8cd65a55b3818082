"""Label efficiency as a table and a picture: scores and paired differences by number of people."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from hypnos_jax.reports.figures import (
    BLUE,
    GREEN,
    GREY,
    METRICS,
    ORANGE,
    new_figure,
    save_figure,
)

COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#8C6D31")
MARKS = "os^Dv<>P"


def write_table(report: Mapping) -> str:
    """Return the report of ``label_efficiency.summarise`` in Markdown, with its ``title``,
    ``notes`` and, where there are some, ``goals``."""
    sizes, people = report["sizes"], report["people"]
    lines = [f"## {report['title']}", ""]
    lines += [f"- {note}" for note in report["notes"]]
    draws = ", ".join(f"{len(report['draws'][str(size)])} of {size}" for size in sizes)
    lines += [
        f"- Draws of labelled people: {draws}. Validation: {people['validation']} people. Test:"
        f" {people['test']} people, {report['epochs']} epochs. In brackets: 95 %, over test people"
        " and draws.",
    ]
    costs = {name: found.get("flops") for name, found in report["methods"].items()}
    if told := [f"{name} {flops:.3g}" for name, flops in costs.items() if flops]:
        lines.append(f"- Floating-point operations of training, a seed: {', '.join(told)}.")
    for metric in report["metrics"]:
        head = [METRICS[metric], "seeds", *(_people(size) for size in sizes)]
        rows = [head, ["---"] * len(head)]
        for name, found in report["methods"].items():
            cells = [_cell(found["sizes"].get(str(size), {}).get(metric)) for size in sizes]
            rows.append([name, str(found["seeds"]), *cells])
        lines += ["", *("| " + " | ".join(row) + " |" for row in rows)]
    head = [f"difference of {METRICS[report['metric']]}", *(_people(size) for size in sizes)]
    rows, own = [head, ["---"] * len(head)], {}
    for row in report["differences"]:
        if row["metric"] == report["metric"]:
            own.setdefault((row["first"], row["second"]), {})[row["size"]] = row
    for (first, second), found in own.items():
        rows.append([f"{first} − {second}", *(_difference(found.get(size)) for size in sizes)])
    if own:
        lines += ["", *("| " + " | ".join(row) + " |" for row in rows)]
        lines += ["", "k/n: draws in which the difference is above 0."]
    if report.get("goals"):
        lines += ["", *(f"- {goal}" for goal in report["goals"])]
    return "\n".join(lines) + "\n"


def _people(size: int) -> str:
    return f"{size} {'person' if size == 1 else 'people'}"


def _cell(found) -> str:
    if not found:
        return ""
    if found["low"] is None:
        return f"{found['value']:.3f}"
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def _difference(found) -> str:
    if not found:
        return ""
    text = f"{found['value']:+.3f}"
    if found["low"] is not None:
        text += f" ({found['low']:+.3f} to {found['high']:+.3f})"
    return f"{text}, {found['positive']}/{found['draws']}"


def draw(report: Mapping, path: str | os.PathLike) -> None:
    """Draw the curves and the paired differences as a PNG.

    Left: the score of each method by number of labelled people. Right: the differences, a point a
    draw, with the mean and its interval.

    Args:
        report: as of ``write_table``.
        path: the file; replaced whole.
    """
    metric, sizes = report["metric"], report["sizes"]
    figure, axes = new_figure(1, 2, (13, 5.6))
    places = np.arange(len(sizes))
    for i, (name, found) in enumerate(report["methods"].items()):
        colour = GREY if "untrained" in name else COLOURS[i % len(COLOURS)]
        here = [k for k, size in enumerate(sizes) if str(size) in found["sizes"]]
        rows = [found["sizes"][str(sizes[k])][metric] for k in here]
        style = {"color": colour, "marker": MARKS[i % len(MARKS)], "markersize": 5}
        shift = 0.04 * (i - len(report["methods"]) / 2)
        axes[0].plot(places[here] + shift, [r["value"] for r in rows], label=name, **style)
        for k, row in zip(here, rows):
            if row["low"] is not None:
                ends = [row["low"], row["high"]]
                axes[0].plot([k + shift] * 2, ends, color=colour, linewidth=0.8, alpha=0.6)
    axes[0].set_xticks(places, [_people(size) for size in sizes])
    axes[0].set_ylabel(METRICS[metric])
    axes[0].grid(axis="y", alpha=0.3)
    axes[0].legend(fontsize=8, loc="lower right")

    rows = [row for row in report["differences"] if row["metric"] == metric]
    pairs = list(dict.fromkeys((row["first"], row["second"]) for row in rows))
    for i, pair in enumerate(pairs):
        colour = COLOURS[i % len(COLOURS)]
        for row in (row for row in rows if (row["first"], row["second"]) == pair):
            place = sizes.index(row["size"]) + 0.8 * ((i + 0.5) / len(pairs) - 0.5)
            each = _by_draw(report, *pair, row["size"], metric)
            axes[1].plot([place] * len(each), each, ".", color=colour, markersize=4, alpha=0.45)
            first = row is next(r for r in rows if (r["first"], r["second"]) == pair)
            label = f"{pair[0]} − {pair[1]}" if first else None
            axes[1].plot(place, row["value"], MARKS[i % len(MARKS)], color=colour, label=label)
            if row["low"] is not None:
                axes[1].plot([place] * 2, [row["low"], row["high"]], color=colour, linewidth=1.4)
    axes[1].axhline(0, color="black", linewidth=0.8)
    axes[1].set_xticks(places, [_people(size) for size in sizes])
    axes[1].set_ylabel(f"difference of {METRICS[metric]}")
    axes[1].grid(axis="y", alpha=0.3)
    if pairs:
        axes[1].legend(fontsize=8, loc="best")
    figure.suptitle(
        f"{report['title']}\n(lines: 95 % over test people and draws of labelled people; dots:"
        " draws)",
        fontsize=10,
        x=0.01,
        ha="left",
    )
    save_figure(figure, path)


def _by_draw(report, first, second, size, metric):
    own = [report["methods"][n]["sizes"][str(size)][metric]["by_draw"] for n in (first, second)]
    return np.subtract(*own)
