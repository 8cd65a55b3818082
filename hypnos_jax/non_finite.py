"""Batches whose loss or gradient is not finite: kept for inspection, and the end of a run."""

from __future__ import annotations

import contextlib
import pathlib

import jax
import numpy as np

from hypnos_jax import state as states
from hypnos_jax.checkpoint import Checkpoints
from hypnos_jax.state import TrainState

NOT_FINITE_BATCHES = 10  # ours: the newest of each process, kept for inspection


class NonFiniteError(ValueError):
    """A loss or gradient that is not finite; its batch and the state before it were saved."""


def save_batch(workdir: pathlib.Path, step: int, local: dict) -> None:
    """Save this process's rows of a batch whose loss or gradient is not finite, for inspection."""
    folder = workdir / "not_finite"
    folder.mkdir(exist_ok=True)
    process = jax.process_index()
    np.savez_compressed(folder / f"batch_of_step_{step}_process_{process}.npz", **local)
    files = sorted(folder.glob(f"*_process_{process}.npz"), key=lambda path: path.stat().st_mtime)
    for path in files[:-NOT_FINITE_BATCHES]:
        path.unlink()


def stop(workdir: pathlib.Path, step: int, state: TrainState, values: dict, meta: dict) -> None:
    """Save the state that met a batch of which loss or gradient is not finite, and raise.

    Args:
        workdir: the run's; the state goes to its ``not_finite``, which is laid out like a workdir.
        step: of the batch, counted from 1.
        state: as before the step (see ``make_train_step``).
        values: the step's metrics.
        meta: as for ``Checkpoints.save``.
    """
    folder, wrong = workdir / "not_finite", states.not_finite(state)
    with contextlib.closing(Checkpoints(folder)) as keep:
        keep.save(step - 1, state, meta)
    if wrong:
        raise NonFiniteError(
            f"step {step}: the state before it was not finite already ({', '.join(wrong[:5])}),"
            f" which no step leaves behind; it is in {folder}/checkpoints/{step - 1}. Is the device"
            f" broken? Remove the newest of {workdir}/checkpoints, and resume"
        )
    raise NonFiniteError(
        f"step {step}: loss={values['loss']}, grad_norm={values['grad_norm']}, or statistics that"
        f" are not finite. The batch is in {folder}, and in its checkpoints/{step - 1} the state"
        " that met it; the run's own checkpoints are from before. To pass over such batches, allow"
        " some in a row: --config.train.skip_not_finite=3"
    )
