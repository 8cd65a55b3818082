"""The table of families as a page: curves by labels, what a larger budget changed, sensors, costs.

``summarise`` makes of a ``family_study.study`` what the page, the table in Markdown and the
pictures are made of: cells of a method at a budget, and paired differences.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np

from data_pipelines.files import atomic_write
from hypnos_jax.probing import probe
from hypnos_jax.probing.comparison import HAND
from hypnos_jax.probing.family_study import EPOCH_TASKS, METRICS, NIGHT_TASKS, SUBSETS, UNTRAINED
from hypnos_jax.reports.figures import GREY, new_figure, save_figure
from hypnos_jax.reports.page import render

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8C564B")
CHANCE = {"staging": 0.0, "apnea": 0.5, "arousal": 0.5, "age": 0.0}


def cell(rows: Sequence[dict], task: str, subset: str, share: str) -> dict | None:
    """Return ``{"value", "low", "high", "seeds", "spread", "people"}``, the mean over the rows."""
    found = [row["scores"].get(subset, {}).get(task, {}).get(share) for row in rows]
    found = [one for one in found if one and np.isfinite(one["value"])]
    if not found:
        return None
    spread = np.mean([one["spread"] for one in found], axis=0)
    people = min(one["people"] for one in found)
    low, high = probe.interval(spread, people)
    seeds = [one["value"] for one in found]
    own = {"value": float(np.mean(seeds)), "low": low, "high": high, "seeds": seeds}
    return own | {"spread": spread.tolist(), "people": people}


def summarise(found: dict) -> dict:
    """Return the study's methods by name and budget, and differences, as JSON values.

    Args:
        found: of ``family_study.study``.

    Returns:
        ``methods``: rows ``{"name", "budget", "seeds", "spent", "first_stages", "parameters",
        "cells": {task: {subset: {share: cell}}}}``; a budget of 0 is for what is not trained.
        ``differences``: of each trained method at its budget from its untrained network and from
        hand-made features, and from itself at the smaller budget, all sensors.
    """
    shares, methods = list(found["people"]), []
    groups = {}
    for row in found["rows"]:
        groups.setdefault((row["name"], row["budget"]), []).append(row)
    for (name, budget), rows in groups.items():
        cells = {
            task: {
                subset: {share: one for share in shares if (one := cell(rows, task, subset, share))}
                for subset in SUBSETS
            }
            for task in METRICS
        }
        costs = {
            key: float(np.mean([row[key] for row in rows]))
            for key in ("spent", "first_stages", "parameters")
            if key in rows[0]
        }
        methods.append(
            {"name": name, "budget": budget, "seeds": len(rows), **costs, "cells": cells}
        )
    differences = []
    trained = [m for m in methods if m["budget"]]
    small = min((m["budget"] for m in trained), default=0.0)
    for method in trained:
        rivals = [(untrained_of(method["name"], methods), "untrained"), (_hand(methods), HAND)]
        if method["budget"] > small:
            same = [m for m in trained if m["name"] == method["name"] and m["budget"] == small]
            rivals += [(one, "smaller budget") for one in same]
        for rival, label in rivals:
            differences += _differences(method, rival, label, shares) if rival else []
    return found | {"methods": methods, "differences": differences}


def untrained_of(name: str, methods: Sequence[dict]) -> dict | None:
    """Return the untrained networks of a method, or of the one whose network it shares."""
    there = {m["name"]: m for m in methods if not m["budget"]}
    own = there.get(UNTRAINED.format(name))
    # Two methods with one network share its row: it bears the first's name.
    order = [m["name"] for m in methods if m["budget"]]
    before = [there.get(UNTRAINED.format(other)) for other in order[: order.index(name)]]
    return own or next((m for m in reversed(before) if m), None)


def _hand(methods):
    return next((m for m in methods if m["name"] == HAND), None)


def _differences(method, rival, label, shares) -> list[dict]:
    out = []
    for task in METRICS:
        for share in shares:
            pair = [m["cells"][task]["all"].get(share) for m in (method, rival)]
            if not all(pair) or len(pair[0]["spread"]) != len(pair[1]["spread"]):
                continue
            spread = np.subtract(*[one["spread"] for one in pair])
            low, high = probe.interval(spread, min(one["people"] for one in pair))
            out.append(
                {
                    "name": method["name"],
                    "budget": method["budget"],
                    "from": label,
                    "task": task,
                    "share": share,
                    "value": pair[0]["value"] - pair[1]["value"],
                    "low": low,
                    "high": high,
                }
            )
    return out


def write(report: dict, folder: pathlib.Path, title: str, notes: Sequence[str] = ()) -> str:
    """Write ``comparison.html``, its pictures and ``comparison.md``; return the Markdown.

    Args:
        report: of ``summarise``.
        folder: gets them.
        title: of the page.
        notes: further sentences above the pictures.
    """
    pictures = {
        "labels.png": ("What labels buy, at the larger budget", draw_labels),
        "budgets.png": ("What the larger budget changed, all labels", draw_budgets),
        "sensors.png": ("With sensors missing, all labels, at the larger budget", draw_sensors),
        "nights.png": ("Age and site of a night, all labels", draw_nights),
    }
    for name, (_, draw) in pictures.items():
        draw(report, folder / name)
    tables = {
        "Questions by epoch": table_of(report, EPOCH_TASKS),
        "Questions by night (site ought not to be readable)": table_of(report, NIGHT_TASKS),
        "Trained with labels, at the same cost": labelled_table(report),
        "Differences, all labels (95 %)": difference_table(report),
        "Costs": cost_table(report),
    }
    tables = {name: rows for name, rows in tables.items() if len(rows) > 1}
    says = [*sentences(report), *notes]
    page = render(
        "families.html",
        title=title,
        says=says,
        pictures=[(caption, folder / name) for name, (caption, _) in pictures.items()],
        tables=tables,
    )
    lines = [f"- {line}" for line in says]
    for name, rows in tables.items():
        rows = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
        lines += ["", f"**{name}**", "", *("| " + " | ".join(map(str, r)) + " |" for r in rows)]
    text = "\n".join(lines) + "\n"
    for name, content in (("comparison.md", text), ("comparison.html", page)):
        with atomic_write(folder / name, "w") as file:
            file.write(content)
    return text


def sentences(report: dict) -> list[str]:
    """Return how the numbers were found, in sentences."""
    nights, people = report["nights"], report["people"]
    labelled = ", ".join(f"{100 * float(s):g} % = {n} people" for s, n in people.items())
    return [
        f"{nights['train']['nights']} nights of {nights['train']['people']} people train;"
        f" {nights['test']['nights']} nights of {nights['test']['people']} people are judged, and"
        " on questions by night also those of"
        f" {nights['validation']['people']} validation people, who otherwise choose the penalty.",
        f"Labels: {labelled}; what is shown is the mean over draws of labelled people and seeds.",
        "Linear probes of frozen rows, modalities side by side: ridge regression on principal"
        " components. Intervals: 95 %, judged people drawn with replacement; other seeds and other"
        " draws of labelled people are not in them.",
        "Cost: matrix products of training, forward and backward, as counted in each model, all"
        " stages. Not in it: making tokens of the nights, embedding, probing.",
        "Pretraining has seen the signals of the training nights alone.",
    ]


def _shown(one, form=".2f") -> str:
    if not one:
        return ""
    text = format(one["value"], form)
    return text if one["low"] is None else f"{text} ({one['low']:{form}} to {one['high']:{form}})"


def _budget(method) -> str:
    return f"{method['budget']:.1e}" if method["budget"] else "none"


def table_of(report: dict, tasks: Sequence[str]) -> list[list[str]]:
    """Return the rows of a table: a method at a budget, and tasks at shares of the labels."""
    shares = list(report["people"])
    percent = [f"{100 * float(share):g} %" for share in shares]
    head = ["rows", "FLOPs", "seeds", *(f"{t}, {p}" for t in tasks for p in percent)]
    rows = [head]
    for method in report["methods"]:
        cells = [_shown(method["cells"][t]["all"].get(s)) for t in tasks for s in shares]
        if any(cells):
            rows.append([method["name"], _budget(method), str(method["seeds"]), *cells])
    return rows


def labelled_table(report: dict) -> list[list[str]]:
    """Return the answers of networks trained with labels: seeds side by side."""
    groups = {}
    for row in report["labelled"]:
        key = (row["name"], row["budget"], row["task"], row["share"])
        groups.setdefault(key, []).append(row["value"])
    rows = [["network", "FLOPs", "question", "share of the labels", "each seed"]]
    for (name, budget, task, share), values in groups.items():
        shown = ", ".join("-" if v is None else f"{v:.2f}" for v in values)
        rows.append([name, f"{budget:.1e}", task, f"{100 * share:g} %", shown])
    return rows


def difference_table(report: dict) -> list[list[str]]:
    """Return differences at the largest share of the labels."""
    share = max(report["people"], key=float)
    kept = [d for d in report["differences"] if d["share"] == share and d["task"] in EPOCH_TASKS]
    groups = {}
    for d in kept:
        groups.setdefault((d["name"], d["budget"], d["from"]), {})[d["task"]] = d
    rows = [["rows", "FLOPs", "minus", *EPOCH_TASKS]]
    for (name, budget, label), found in groups.items():
        cells = [_shown(found.get(task), "+.2f") for task in EPOCH_TASKS]
        rows.append([name, f"{budget:.1e}", label, *cells])
    return rows


def cost_table(report: dict) -> list[list[str]]:
    """Return what each method was to cost and did."""
    rows = [["model", "budget, FLOPs", "spent", "of it first stages", "parameters of the last"]]
    for m in report["methods"]:
        if m["budget"]:
            spent, first = f"{m['spent']:.2e}", f"{100 * m['first_stages']:.0f} %"
            rows.append([m["name"], _budget(m), spent, first, f"{m['parameters']:,.0f}"])
    return rows


def _trained(report) -> dict[str, list[dict]]:
    """Name -> its methods from the smallest budget to the largest."""
    found = {}
    for method in sorted(report["methods"], key=lambda m: m["budget"]):
        if method["budget"]:
            found.setdefault(method["name"], []).append(method)
    order = [m["name"] for m in report["methods"] if m["budget"]]
    return {name: found[name] for name in dict.fromkeys(order)}


def _baselines(axis, report, task, subset, xs, shares) -> None:
    """Draw untrained networks as a band, and hand-made features as a dashed line."""
    cells = [
        [m["cells"][task][subset].get(s) for s in shares]
        for m in report["methods"]
        if not m["budget"] and m["name"] != HAND
    ]
    cells = [row for row in cells if all(row)]
    if cells:
        values = [[v for row in cells for v in row[i]["seeds"]] for i in range(len(shares))]
        low, high = (f(values, axis=1) for f in (np.min, np.max))
        axis.fill_between(xs, low, high, color=GREY, alpha=0.35, label="untrained networks, all")
    hand = _hand(report["methods"])
    row = [hand["cells"][task][subset].get(s) for s in shares] if hand else [None]
    if all(row):
        axis.plot(xs, [one["value"] for one in row], "k--", label=HAND)


def draw_labels(report: dict, path: pathlib.Path) -> None:
    """Draw the metric over the number of labelled people, a panel a question by epoch."""
    shares = list(report["people"])
    people = [report["people"][share] for share in shares]
    figure, axes = new_figure(1, len(EPOCH_TASKS), (13, 4.6))
    for axis, task in zip(axes, EPOCH_TASKS):
        _baselines(axis, report, task, "all", people, shares)
        for (name, found), colour in zip(_trained(report).items(), COLOURS):
            row = [found[-1]["cells"][task]["all"].get(share) for share in shares]
            if all(row):
                values = [one["value"] for one in row]
                axis.plot(people, values, "o-", color=colour, markersize=4, label=name)
        top = max((row["budget"] for row in report["labelled"]), default=0)
        own = {}
        for row in report["labelled"]:
            if row["task"] == task and row["budget"] == top and row["value"] is not None:
                own.setdefault(row["share"], []).append(row["value"])
        if own:
            at = [people[[float(s) for s in shares].index(share)] for share in sorted(own)]
            values = [np.mean(own[share]) for share in sorted(own)]
            axis.plot(at, values, "kx:", label="towers trained with labels")
        axis.set_xscale("log")
        axis.set_xticks(people, [str(n) for n in people])
        axis.minorticks_off()
        axis.set_xlabel("labelled people")
        axis.set_ylabel(METRICS[task])
        axis.set_title(task, fontsize=10, loc="left")
        axis.axhline(CHANCE[task], color=GREY, linewidth=0.8)
    found = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        found |= dict(zip(labels, handles))
    figure.legend(found.values(), found, loc="outside lower center", ncols=5, fontsize=9)
    save_figure(figure, path)


def draw_budgets(report: dict, path: pathlib.Path) -> None:
    """Draw each method from its smaller to its larger budget, with its untrained network."""
    share, trained = max(report["people"], key=float), _trained(report)
    figure, axes = new_figure(1, len(EPOCH_TASKS), (13, 1.6 + 0.42 * len(trained)), sharey=True)
    places = np.arange(len(trained))[::-1]
    for axis, task in zip(axes, EPOCH_TASKS):
        for place, (name, found), colour in zip(places, trained.items(), COLOURS):
            values = [m["cells"][task]["all"].get(share) for m in found]
            values = [one["value"] for one in values if one]
            axis.plot(values, [place] * len(values), "-", color=colour)
            axis.plot(values[:1], [place] * len(values[:1]), "o", color=colour, fillstyle="none")
            axis.plot(values[1:], [place] * len(values[1:]), "o", color=colour)
            random = untrained_of(name, report["methods"])
            own = random and random["cells"][task]["all"].get(share)
            if own:
                axis.plot(own["seeds"], [place] * len(own["seeds"]), "|", color=GREY, markersize=12)
        hand = _hand(report["methods"])
        own = hand and hand["cells"][task]["all"].get(share)
        if own:
            axis.axvline(own["value"], color="black", linestyle="--", linewidth=1)
        axis.set_yticks(places, list(trained), fontsize=9)
        axis.set_xlabel(METRICS[task])
        axis.set_title(task, fontsize=10, loc="left")
    words = "open: smaller budget; filled: larger; grey: untrained, seeds; dashed: hand-made"
    figure.supxlabel(words, fontsize=9)
    save_figure(figure, path)


def draw_sensors(report: dict, path: pathlib.Path) -> None:
    """Draw each method with each subset of its sensors."""
    share, trained = max(report["people"], key=float), _trained(report)
    names = [*trained, HAND]
    figure, axes = new_figure(1, len(EPOCH_TASKS), (13, 1.6 + 0.5 * len(names)), sharey=True)
    places, marks = np.arange(len(names))[::-1], ("o", "^", "s")
    for axis, task in zip(axes, EPOCH_TASKS):
        for subset, mark, colour in zip(SUBSETS, marks, COLOURS):
            for place, name in zip(places, names):
                method = trained[name][-1] if name in trained else _hand(report["methods"])
                own = method and method["cells"][task][subset].get(share)
                if own:
                    label = subset if place == places[0] else None
                    axis.plot(own["value"], place, mark, color=colour, label=label)
        axis.set_yticks(places, names, fontsize=9)
        axis.axvline(CHANCE[task], color=GREY, linewidth=0.8)
        axis.set_xlabel(METRICS[task])
        axis.set_title(task, fontsize=10, loc="left")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    save_figure(figure, path)


def draw_nights(report: dict, path: pathlib.Path) -> None:
    """Draw how well age and site are read, both budgets, with intervals."""
    share = max(report["people"], key=float)
    methods = [m for m in report["methods"] if m["cells"]["site"]["all"].get(share)]
    names = [f"{m['name']}, {_budget(m)}" if m["budget"] else m["name"] for m in methods]
    figure, axes = new_figure(1, 2, (12, 1.4 + 0.32 * len(names)), sharey=True)
    places = np.arange(len(names))[::-1]
    for axis, task in zip(axes, NIGHT_TASKS):
        for place, method in zip(places, methods):
            own = method["cells"][task]["all"].get(share)
            if own:
                colour = COLOURS[0] if method["budget"] else GREY
                axis.barh(place, own["value"], 0.6, color=colour)
                if own["low"] is not None:
                    axis.plot([own["low"], own["high"]], [place] * 2, "k-", linewidth=1)
        axis.set_yticks(places, names, fontsize=8)
        axis.set_xlabel(METRICS[task])
        axis.set_title(task, fontsize=10, loc="left")
    axes[0].set_xlim(-1, 1)
    axes[0].axvline(0, color=GREY, linewidth=0.8)
    axes[1].set_xlim(0, 1)
    axes[1].axvline(report["most_frequent_site"], color="black", linestyle=":")
    figure.supxlabel("dotted: always the most frequent site", fontsize=9)
    save_figure(figure, path)
