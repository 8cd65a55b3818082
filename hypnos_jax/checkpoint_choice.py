"""Choice of a checkpoint among those of a run: the best by validation, the newest, or a step.

What a checkpoint is judged by stands in its seal (``runtime/seals.py``): the metrics that were
found where it was saved.
"""

from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Iterable

from absl import logging

from hypnos_jax.judgement import sign_of
from hypnos_jax.runtime import orbax_files
from hypnos_jax.runtime.seals import (
    MANIFEST,
    CheckpointError,
    damage,
    good_steps,
    metrics_of,
    sealed_steps,
)


def choose(workdir: str | os.PathLike, step: int | str | None = None) -> int:
    """Return which checkpoint of a run is to be taken.

    Args:
        workdir: the run's folder; it may be in progress.
        step: so many updates; ``"newest"``; ``"best"`` for the good one with the best
            ``config.checkpoints.best_metric``, the newest where none was evaluated. By default the
            best too, and the newest where the run names no such metric.

    Raises:
        CheckpointError: no good checkpoint, or none is best as the run names no ``best_metric``.
    """
    if isinstance(step, int):
        return step
    root = pathlib.Path(workdir).resolve() / "checkpoints"
    while True:
        steps = good_steps(workdir)
        if not steps:
            raise CheckpointError(
                f"{workdir} holds no complete checkpoint (checkpoints/<step>/{MANIFEST}); is it the"
                " workdir of a training run that saved?"
            )
        newest = root / str(steps[-1])
        try:
            metric, best = _measure(newest)
            break
        except CheckpointError:
            if (newest / MANIFEST).exists():
                raise
            # A run in progress removed it meanwhile, so there is a newer one.
    if step == "newest" or not (metric or step):
        return steps[-1]
    if not metric:
        raise CheckpointError(
            f"{workdir}: config.checkpoints.best_metric does not say what is best"
        )
    for one in judged(root, steps, metric, best):
        fault = None if one == steps[-1] else damage(root / str(one))
        if fault is None:
            return one
        if (root / str(one) / MANIFEST).exists():
            logging.error("checkpoint %s is damaged: %s; the next best is taken", one, fault)
    return steps[-1]


def reason(
    workdir: str | os.PathLike,
    step: int,
    asked: int | str | None = None,
    measure: tuple[str, str] | None = None,
) -> str:
    """Return in words why a checkpoint was chosen.

    Args:
        workdir: the run's folder.
        step: what ``choose`` returned.
        asked: its argument.
        measure: ``best_metric`` and ``best`` of the run's config, where they are known; else they
            are read from the checkpoint, in which Orbax waits for all processes of a run.
    """
    if isinstance(asked, int) or asked == "newest":
        return f"step {step}, as asked" if asked != "newest" else f"the newest, step {step}"
    root = pathlib.Path(workdir).resolve() / "checkpoints"
    try:
        metric, best = measure or _measure(root / str(step))
    except CheckpointError:  # a run in progress has removed it since
        return f"step {step}"
    if not metric:
        return f"the newest, step {step}: config.checkpoints.best_metric names nothing to judge by"
    steps = [int(folder.name) for folder in sealed_steps(root)]
    found, order = _value(root, step, metric), judged(root, steps, metric, best)
    if not order:
        return f"the newest, step {step}: no checkpoint has a {metric} yet"
    words = f"the best, step {step}: its {metric}, {found:.4g}, is the {best} of {len(order)} kept"
    if order[0] != step:
        words = f"step {step}, {metric} {found:.4g}: what is better is damaged"
    if steps[-1] == step:
        return words
    newest = _value(root, steps[-1], metric)
    also = f", {newest:.4g}" if math.isfinite(newest) else ""
    return f"{words}; the newest is step {steps[-1]}{also}"


def _value(root: pathlib.Path, step: int, metric: str) -> float:
    value = metrics_of(root / str(step)).get(metric)
    return math.nan if value is None else value


def _measure(folder: pathlib.Path) -> tuple[str, str]:
    """The metric by which a run is judged ("" for none), and which value of it is best."""
    options = orbax_files.load_meta(folder)["config"].get("checkpoints", {})
    return options.get("best_metric", ""), options.get("best", "lowest")


def judged(root: pathlib.Path, steps: Iterable[int], metric: str, best: str) -> list[int]:
    """Return those of some steps that have a metric, the best first.

    Args:
        root: the run's folder of checkpoints.
        steps: some.
        metric, best: as in ``config.checkpoints``.
    """
    found = {step: _value(root, step, metric) for step in sorted(steps)}
    found = {step: value for step, value in found.items() if math.isfinite(value)}
    return sorted(found, key=lambda step: sign_of(best) * found[step])
