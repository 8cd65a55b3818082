"""Say the exact commands of a sweep's runs, one a line, for a shell."""

from __future__ import annotations

import pathlib
import shlex
from collections.abc import Iterable

from hypnos_jax.jobs.sweeps import PlannedRun, workdir_of


def commands(run: PlannedRun, workdir: str, evaluate: bool) -> list[str]:
    """Return a run's commands as a shell reads them, from the project's folder."""
    words = [run.train(workdir), *([run.evaluate(workdir)] if evaluate else [])]
    return [shlex.join(["python", *line]) for line in words]


def start(runs: Iterable[PlannedRun], folder: pathlib.Path, *, evaluate: bool) -> int:
    """Print all commands; return the exit code."""
    for run in runs:
        print("\n".join(commands(run, str(workdir_of(folder, run)), evaluate)))
    return 0
