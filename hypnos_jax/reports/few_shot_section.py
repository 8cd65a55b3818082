"""The report's section on probes of a few labelled examples of each class."""

from __future__ import annotations

import pathlib

from hypnos_jax.reports import sections
from hypnos_jax.reports.figures import METRICS, NAMES, draw_few_shot

NAME = "few_shot"


def write(workdir: pathlib.Path, report: dict, draws: int) -> None:
    """Write the section and its picture.

    Args:
        workdir: of the evaluator.
        report: of ``evaluators/linear_probe.py``, with ``few_shot``.
        draws: of the labelled examples.
    """
    picture = f"figures/{report['step']}_{NAME}.png"
    draw_few_shot(report, workdir / picture)
    head, rows, fewer = ["task", "features", "metric"], [], []
    for task, found in report["tasks"].items():
        metric = "auroc" if found["ranked"] else "kappa"
        for name, points in found["few_shot"].items():
            whole = found["sets"][name]["metrics"][metric]["value"]
            told = [_cell(point) for point in points]
            rows.append([task, NAMES.get(name, name), METRICS[metric], *told, _number(whole)])
        points = next(iter(found["few_shot"].values()))
        head = [*head[:3], *(str(point["shots"]) for point in points), "all"]
        short = [p for p in points if p["examples"] < p["shots"] * len(found["classes"])]
        fewer += [
            f"{task}: some classes have fewer than {p['shots']} labelled examples, and give all;"
            f" {p['examples']:g} in total."
            for p in short
        ]
    says = [
        "Logistic regression on the labels of so many examples of each class, drawn"
        f" {draws} times among those of all training people; the test people are others. Mean, and"
        " 95 % of the draws. Features are standardised by all examples of the training people,"
        " which needs no label."
    ]
    sections.write_section(
        workdir,
        NAME,
        step=report["step"],
        title="Few labelled examples",
        says=[*says, *fewer],
        parts=[
            sections.part("By labelled examples of each class", rows=[head, *rows], picture=picture)
        ],
    )


def _cell(point) -> str:
    if point["low"] is None:
        return _number(point["mean"])
    return f"{point['mean']:.2f} ({point['low']:.2f} to {point['high']:.2f})"


def _number(value) -> str:
    return "-" if value is None else f"{value:.2f}"
