"""The comparison of models as a table and a picture: staging, and contrastive accuracy."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from data_pipelines.store import NightStore
from hypnos_jax.reports.figures import GREEN, GREY, ORANGE, new_figure, save_figure

SITES = ("seen", "unseen")


def make_report(
    store: NightStore,
    methods: dict[str, list[dict]],
    scores: dict[str, dict],
    title: str = "",
    unseen: Sequence[str] = (),
) -> dict:
    """Return all that was found, and how to read it: what ``comparison.json`` holds.

    Args:
        store: the nights.
        methods: name -> a result for each seed; the others are subtracted from the first.
        scores: of ``comparison.judge``.
        title: of the report.
        unseen: names of the sites that nothing was trained on.
    """
    first = next(iter(methods))
    people = {where: row["subjects"] for where, row in scores[first].items()}
    told = [f"{count} of {where} sites" for where, count in people.items()]
    told = f"{', '.join(told)} (unseen: {', '.join(unseen)})" if unseen else people["seen"]
    notes = [
        f"Test people: {told}. Intervals: bootstrap over test people, of the mean over seeds.",
        "Read from: "
        + "; ".join(f"{name}: {x[0]['store']}, {x[0]['width']} wide" for name, x in methods.items())
        + ".",
    ]
    synthetic = store.manifest.get("provenance", {}).get("synthetic")
    if synthetic:
        notes.insert(0, f"{len(store.nights)} simulated nights: {synthetic}.")
    if any(result.get("retrieval") for results in methods.values() for result in results):
        notes.append(
            "Contrastive accuracy: recall at 1 of the same token in another modality, among N"
            " windows of test nights at the same place, mean over pairs and both directions."
        )
    pairs = [f"{first} minus {name}" for name in methods]
    return {
        "title": title or f"{len(store.nights)} nights",
        "methods": {
            name: {
                "count": len(found),
                "staging": scores[name],
                "retrieval": mean_retrieval(found),
            }
            for name, found in methods.items()
        },
        "differences": {pair: scores[pair] for pair in pairs if pair in scores},
        "notes": notes,
    }


def mean_retrieval(results: Sequence[dict]) -> dict[str, dict]:
    """Return where -> the mean over seeds of what ``evaluators/retrieval.py`` found, if it did."""
    found = {}
    for where in SITES:
        own = [r["retrieval"][where] for r in results if r.get("retrieval", {}).get(where)]
        if own:
            found[where] = {key: float(np.mean([row[key] for row in own])) for key in own[0]}
            found[where]["seeds"] = [row["accuracy"] for row in own]
    return found


def write_table(report: dict) -> str:
    """Return the comparison as a table in Markdown; columns without a value are left out."""
    columns = [
        ("staging", "staging{}: kappa (95 %)", _kappa),
        ("retrieval", "contrastive accuracy{}", _times),
    ]
    methods = report["methods"]
    several = any("unseen" in found["staging"] for found in methods.values())
    names = ["features", "seeds"]
    rows = {name: [name, str(found["count"])] for name, found in methods.items()}
    for key, head, write in columns:
        for where in SITES:
            if any(where in found[key] for found in methods.values()):
                names.append(head.format(f", {where} sites" if several else ""))
                for name, found in methods.items():
                    rows[name].append(write(found[key].get(where)))
    rows = [names, ["---"] * len(names), *rows.values()]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", *(f"- {line}" for line in report["notes"])]
    for name, found in report["differences"].items():
        both = "; ".join(
            f"{where} {_kappa(found[where], '+.3f')}" for where in SITES if where in found
        )
        lines.append(f"- kappa of {name}: {both}")
    return "\n".join(lines) + "\n"


def _kappa(found, form=".3f") -> str:
    if not found:
        return ""
    text = format(found["kappa"], form)
    if found["low"] is None:
        return text
    return f"{text} ({found['low']:{form}} to {found['high']:{form}})"


def _times(found) -> str:
    if not found:
        return ""
    times = found["accuracy"] / found["chance"]
    return f"{found['accuracy']:.3f} = {times:.1f} x chance, N = {found['windows']:.0f}"


def draw(report: dict, path: str | os.PathLike) -> None:
    """Draw the comparison as a PNG: staging with intervals, and contrastive accuracy.

    Args:
        report: what ``comparison.json`` holds.
        path: the file; replaced whole.
    """
    names = list(report["methods"])
    retrieval = any(found["retrieval"] for found in report["methods"].values())
    size = (12 if retrieval else 6.5, 1.8 + 0.62 * len(names))
    figure, axes = new_figure(1, 2 if retrieval else 1, size)
    places = np.arange(len(names))[::-1]
    for i, (where, colour) in enumerate(zip(SITES, (ORANGE, GREEN))):
        for place, name in zip(places + 0.19 - 0.38 * i, names):
            found = report["methods"][name]["staging"].get(where)
            label = f"{where} sites" if name == names[0] else None
            if found:
                axes[0].barh(place, found["kappa"], 0.36, color=colour, label=label)
                axes[0].plot(found["seeds"], [place] * len(found["seeds"]), "k.", markersize=3)
                if found["low"] is not None:
                    ends = [found["low"], found["high"]]
                    axes[0].plot(ends, [place] * 2, color="black", linewidth=1)
            found = report["methods"][name]["retrieval"].get(where)
            if found:
                axes[1].barh(place, found["accuracy"], 0.36, color=colour, label=label)
                axes[1].plot(found["seeds"], [place] * len(found["seeds"]), "k.", markersize=3)
                ten = 10 * found["chance"]
                axes[1].plot([ten] * 2, [place - 0.18, place + 0.18], color="black", linewidth=2)
    for axis in axes:
        axis.set_yticks(places, names, fontsize=9)
        axis.set_ylim(-0.6, len(names) - 0.4)
        axis.axvline(0, color=GREY, linewidth=0.8)
    axes[0].set_xlabel("staging from frozen features, Cohen's kappa\n(line: 95 %; dots: seeds)")
    if retrieval:
        axes[1].set_xlabel(
            "contrastive accuracy, mean over pairs\n(thick line: 10 x chance; dots: seeds)"
        )
        axes[1].set_xlim(0, 1)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    figure.suptitle(report["title"], fontsize=10, x=0.01, ha="left")
    save_figure(figure, path)
