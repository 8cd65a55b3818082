"""Progress of a run, read from its folder, for those who start and watch runs; imports no jax."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib

from hypnos_jax.judgement import FINISHED
from hypnos_jax.runtime import seals

TAIL_BYTES = 16384


@dataclasses.dataclass(frozen=True)
class Progress:
    """The point that a run has reached.

    Attributes:
        step: of the newest line of its metrics; 0 for none.
        loss: of that line; None for none.
        step_s: seconds of a step, the median of the last lines; None for none.
    """

    step: int = 0
    loss: float | None = None
    step_s: float | None = None


def newest_step(workdir: str | os.PathLike) -> int:
    """Return the newest step that a folder holds a sealed checkpoint of; -1 for none."""
    sealed = seals.sealed_steps(pathlib.Path(workdir) / "checkpoints")
    return int(sealed[-1].name) if sealed else -1


def last_step(workdir: str | os.PathLike, steps: int) -> int:
    """Return the step with which a run ends.

    Args:
        workdir: the run's folder.
        steps: of its config; the answer, but for a run that is over before
            (``config.train.stop_after``).
    """
    try:
        return over_at((pathlib.Path(workdir) / FINISHED).read_bytes(), steps)
    except OSError:
        return steps


def over_at(finished: bytes | None, steps: int) -> int:
    """Return ``last_step`` by what is in ``finished.json``, None for no such file."""
    try:
        return min(int(json.loads(finished or b"")["step"]), steps)
    except (ValueError, KeyError, TypeError):
        return steps


def read_progress(workdir: str | os.PathLike) -> Progress:
    """Return where a run is, by the end of its ``metrics.jsonl``."""
    lines = []
    for text in tail(pathlib.Path(workdir) / "metrics.jsonl").splitlines():
        try:
            line = json.loads(text)
        except ValueError:  # cut off at the beginning, or being written
            continue
        if isinstance(line, dict) and "loss" in line:
            lines.append(line)
    if not lines:
        return Progress()
    times = sorted(line["step_s"] for line in lines if line.get("step_s"))
    return Progress(lines[-1]["step"], lines[-1]["loss"], times[len(times) // 2] if times else None)


def tail(path: str | os.PathLike, count: int = TAIL_BYTES) -> str:
    """Return the end of a text file, at most so many bytes; "" where it is not there."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - count, 0))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
