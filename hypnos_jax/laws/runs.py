"""Runs that laws are fitted to, from a sweep or a table."""

from __future__ import annotations

import csv as csv_files
import dataclasses
import io
import json
import math
import os
import pathlib

import numpy as np

from hypnos_jax import metrics, plugins
from hypnos_jax.jobs import sweeps
from hypnos_jax.jobs.progress import last_step
from hypnos_jax.laws import fitting
from hypnos_jax.laws.fitting import Points


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A finished run.

    Attributes:
        name: of its folder.
        given: the sweep's overrides.
        parameters, embedding_parameters: as in ``Cost``.
        steps: that it trained.
        data: channel-seconds that it saw.
        flops: of all its steps.
        unique: channel-seconds of one pass over its corpus; infinite where unknown.
        modalities: how many; 0 where unknown.
        loss: the metric asked for, of the last step.
        metrics: every evaluation metric of the last step.
    """

    name: str
    given: dict
    parameters: int
    embedding_parameters: int
    steps: int
    data: float
    flops: float
    unique: float
    modalities: int
    loss: float
    metrics: dict[str, float]


def read_sweep(folder: str | os.PathLike, metric: str) -> tuple[list[FinishedRun], dict[str, str]]:
    """Return a sweep's finished runs, and name -> why it is left out, of the others.

    Args:
        folder: with ``sweep.json`` and ``runs/<name>``.
        metric: the loss, such as ``"eval/val/loss"``.

    Raises:
        ValueError: no sweep is there.
    """
    folder, sweep = pathlib.Path(folder), sweeps.read_sweep(folder)
    if not sweep:
        raise ValueError(f"{folder} holds no sweep: it has no sweep.json")
    runs, left_out = [], {}
    for entry in sweep["runs"]:
        found = _read_run(folder / "runs" / entry["name"], entry, metric)
        if isinstance(found, str):
            left_out[entry["name"]] = found
        else:
            runs.append(found)
    return runs, left_out


def _read_run(workdir: pathlib.Path, entry: dict, metric: str) -> FinishedRun | str:
    """A finished run, or why it is none."""
    try:
        spent = json.loads((workdir / "cost.json").read_text())
        config = json.loads((workdir / "config.json").read_text())
    except (OSError, ValueError):
        return "has not begun"
    lines = metrics.read_run(workdir)
    steps = config["train"]["steps"]
    trained = {line["step"]: line for line in lines if "channel_seconds" in line}
    if steps not in trained:
        at = max(trained, default=0)
        if last_step(workdir, steps) == at:
            return f"was stopped at step {at} of {steps} by config.train.stop_after"
        return f"is at step {at} of {steps}"
    last = {}
    for line in lines:
        if line["step"] == steps:
            last |= {k: v for k, v in line.items() if k.startswith("eval/") and v is not None}
    if metric not in last:
        known = ", ".join(sorted(last)) or "nothing"
        return f"has no {metric} at step {steps}; it has {known}"
    if not last[metric] > 0:
        return f"has {metric} = {last[metric]}, no loss above 0"
    data = sum(line["channel_seconds"] for line in trained.values())
    share = spent.get("examples_per_epoch", math.inf) / (steps * config["train"]["batch_size"])
    older = "embedding_parameters" not in spent
    embedding = spent["looked_up" if older else "embedding_parameters"]
    network = config["objective"].get(plugins.network_key(config["objective"]), {})
    modalities = network.get("modalities", ())
    return FinishedRun(
        name=entry["name"],
        given=entry["given"],
        parameters=spent["parameters"],
        embedding_parameters=embedding,
        steps=steps,
        data=data,
        flops=spent["flops_per_step"] * steps,
        unique=data * share,
        modalities=len(modalities),
        loss=last[metric],
        metrics=last,
    )


@dataclasses.dataclass(frozen=True)
class Table:
    """Runs to fit laws to.

    Attributes:
        what: where they are from, in words.
        metric: the loss's name.
        unit: of data: ``"channel-seconds"``, or the table's own.
        names: of the runs.
        points: their numbers.
        budget: [n], runs of one budget have one number; None where none was given.
        modalities: [n], 0 where unknown.
        others: name -> [n], NaN where a run lacks it: other metrics.
        parameters: [n], all of them, looked-up tables too.
        left_out: name -> why.
    """

    what: str
    metric: str
    unit: str
    names: list[str]
    points: Points
    budget: np.ndarray | None
    modalities: np.ndarray
    others: dict[str, np.ndarray]
    parameters: np.ndarray
    left_out: dict[str, str]

    @classmethod
    def of_sweep(
        cls,
        folder: str | os.PathLike,
        metric: str,
        count: str = "used",
        unique: float | None = None,
    ) -> Table:
        """Read a sweep's finished runs.

        Args:
            folder: of the sweep.
            metric: the loss.
            count: ``"all"`` parameters, or those ``"used"`` in products.
            unique: channel-seconds of one pass over the corpus, for runs that do not say.

        Raises:
            ValueError: no sweep, or no run of it is finished.
        """
        runs, left_out = read_sweep(folder, metric)
        if not runs:
            why = "; ".join(f"{name} {reason}" for name, reason in left_out.items())
            raise ValueError(f"{folder}: no run is finished: {why}")
        keys = sorted({key for run in runs for key in run.metrics if key != metric})
        sizes = [run.parameters for run in runs]
        if count == "used":
            sizes = [run.parameters - run.embedding_parameters for run in runs]
        given = [run.given.get("budget.flops") for run in runs]
        points = Points(
            np.array(sizes, float),
            *(np.array([getattr(run, k) for run in runs]) for k in ("data", "flops", "loss")),
            np.array([min(run.unique, unique or math.inf) for run in runs]),
        )
        return cls(
            what=f"the sweep {pathlib.Path(folder).resolve().name}",
            metric=metric,
            unit="channel-seconds",
            names=[run.name for run in runs],
            points=points,
            budget=None if None in given else np.array(given, float),
            modalities=np.array([run.modalities for run in runs]),
            others={k: np.array([run.metrics.get(k, np.nan) for run in runs]) for k in keys},
            parameters=np.array([run.parameters for run in runs]),
            left_out=left_out,
        )

    @classmethod
    def of_csv(cls, path: str | os.PathLike) -> Table:
        """Read a CSV; see ``launch/fit_laws.py`` for its columns.

        Raises:
            ValueError: a column or a number is missing.
        """
        with open(path, newline="") as file:
            lines = (line for line in file if not line.startswith("#"))
            rows = list(csv_files.DictReader(lines))
        lacking = {"params", "data", "loss"} - set(rows[0] if rows else ())
        if lacking:
            raise ValueError(f"{path} has no column {', '.join(sorted(lacking))}")

        def column(name, default=None):
            if name not in rows[0]:
                return default
            try:
                return np.array([float(row[name] or "nan") for row in rows])
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}, column {name}: {error}") from error

        params, data = column("params"), column("data")
        unique = column("unique", np.full(len(rows), math.inf))
        unique[np.isnan(unique)] = math.inf  # empty, as in our own runs.csv: unknown
        points = Points(params, data, column("flops", 6 * params * data), column("loss"), unique)
        return cls(
            what=f"the table {pathlib.Path(path).name}",
            metric="loss",
            unit="units of data",
            names=[row.get("name") or f"row {i + 1}" for i, row in enumerate(rows)],
            points=points,
            budget=column("budget"),
            modalities=column("modalities", np.zeros(len(rows))),
            others={k: column(k) for k in rows[0] if k.startswith("eval/")},
            parameters=column("parameters", params),
            left_out={},
        )

    def groups(self) -> np.ndarray:
        """Each run's budget, as given or else from its FLOPs."""
        return fitting.budgets(self.points.flops) if self.budget is None else self.budget

    def data(self, amount: float) -> str:
        """An amount of data in words."""
        if self.unit != "channel-seconds":
            return f"{amount:.3g} {self.unit}"
        hours = amount / 3600
        return f"{hours:,.0f} channel-hours" if hours >= 10 else f"{hours:.2g} channel-hours"

    def csv(self) -> str:
        """Return the runs as ``of_csv`` reads them."""
        file = io.StringIO()
        head = ("name", "params", "parameters", "data", "flops", "budget", "unique", "modalities")
        rows = csv_files.writer(file, lineterminator="\n")
        rows.writerow([*head, "loss", *self.others])
        p, groups = self.points, self.groups()
        for i, name in enumerate(self.names):
            numbers = (
                p.params,
                self.parameters,
                p.data,
                p.flops,
                groups,
                p.unique,
                self.modalities,
                p.loss,
            )
            values = [f"{x[i]:.10g}" for x in (*numbers, *self.others.values())]
            rows.writerow([name, *("" if x in ("nan", "inf") else x for x in values)])
        return file.getvalue()


def count(x: float) -> str:
    """A number of parameters, short."""
    for size, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if x >= size:
            return f"{x / size:.3g} {name}"
    return f"{x:.3g}"
