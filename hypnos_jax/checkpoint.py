"""Checkpoints that can be trusted: Orbax writes them, a manifest written last seals them.

``workdir/checkpoints/<step>/`` holds the checkpointables ``params``, ``opt_state``,
``collections``, ``ema`` (if kept) and ``meta`` (the resolved config, the position in the data and
in ``metrics.jsonl``), and ``sha256.json``: the step, the metrics it is judged by, size and SHA-256
of every other file, and a SHA-256 of all that. Orbax loads a file with a flipped bit without a
word, hence the manifest. A step without one was cut off while saving, or is being removed.

Older steps are removed after the new one is sealed, so that at every moment a good one is there.
"""

from __future__ import annotations

import concurrent.futures
import fcntl
import json
import os
import pathlib
import shutil
from collections.abc import Sequence

import jax
import numpy as np
from absl import logging
from orbax.checkpoint import v1 as ocp

from hypnos_jax.checkpoint_choice import choose, judged, reason
from hypnos_jax.metrics import EVALUATIONS
from hypnos_jax.runtime import distributed, orbax_files
from hypnos_jax.runtime.save_timer import SaveTimer
from hypnos_jax.runtime.seals import (
    MANIFEST,
    CheckpointError,
    damage,
    good_steps,
    seal_of,
    sealed_steps,
    write_seal,
)
from hypnos_jax.state import TrainState

CHOOSE_S = 1800.0  # ours: the newest checkpoint is read in full, and where it is damaged more


def quiet() -> None:
    """Keep Orbax's progress, a dozen lines a save, out of the log; its errors stay."""

    def ours(record) -> bool:
        return record.levelname in ("ERROR", "CRITICAL") or "orbax" not in record.pathname

    logging.get_absl_logger().addFilter(ours)


class Checkpoints:
    """The checkpoints of one run: saves without blocking, keeps some, resumes.

    With several processes the first one's clock and its view of the disk decide for all.

    Args:
        workdir: the run's folder, which all processes see.
        jobs: names of the evaluators that eval jobs run (``hypnos_jax/jobs/eval_job.py``).
        every: steps between saves.
        every_s: seconds after which to save, whatever the step; 0 for never.
        keep: how many of the newest stay.
        keep_every: also keep every step divisible by this; 0 for none.
        keep_for_jobs: how many older steps also stay until an eval job has evaluated them by all of
            ``jobs``, the newest of them; 0 for none.
        keep_best: also keep so many of the best by ``best_metric``, among the steps that were
            evaluated where they were saved.
        best_metric: a metric of an evaluation, ``eval/<name>/<metric>``.
        best: ``"lowest"`` or ``"highest"``.

    Raises:
        ValueError: a policy that keeps nothing or has no metric to judge by.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        jobs: Sequence[str] = (),
        every: int = 1000,
        every_s: float = 0.0,
        keep: int = 3,
        keep_every: int = 0,
        keep_for_jobs: int = 0,
        keep_best: int = 0,
        best_metric: str = "",
        best: str = "lowest",
    ):
        if every < 1 or keep < 1:
            raise ValueError(f"config.checkpoints.every={every}, keep={keep}: both are at least 1")
        if keep_for_jobs < 0:
            raise ValueError(f"config.checkpoints.keep_for_jobs={keep_for_jobs} is negative")
        if best not in ("lowest", "highest"):
            raise ValueError(f"config.checkpoints.best={best!r}; it is 'lowest' or 'highest'")
        if keep_best and not best_metric.startswith("eval/"):
            raise ValueError(
                f"config.checkpoints.keep_best={keep_best} needs a best_metric such as"
                f" 'eval/val/loss', not {best_metric!r}"
            )
        self.root = pathlib.Path(workdir).resolve() / "checkpoints"
        self.every, self.keep, self.keep_every = every, keep, keep_every
        self.jobs, self.keep_for_jobs = tuple(jobs), keep_for_jobs
        self.keep_best, self.best_metric, self.best = keep_best, best_metric, best
        self._alarm = SaveTimer(every_s)
        self._sealer = concurrent.futures.ThreadPoolExecutor(1, "seal checkpoint")
        self._sealing: concurrent.futures.Future | None = None
        self._lock, self._told = None, False

    def due(self, step: int) -> bool:
        """Whether to save after this many updates; call it once at each step, on every process.

        Raises:
            CheckpointError: the last save failed.
        """
        if self._sealing is not None and self._sealing.done():
            self.wait()
        return (self._alarm.due(step) or step % self.every == 0) and step > 0

    def save(
        self, step: int, state: TrainState, meta: dict, metrics: dict[str, float] | None = None
    ) -> None:
        """Start saving; returns once the device arrays may be overwritten.

        Args:
            step: updates made so far; the folder's name.
            state: the train state.
            meta: JSON values.
            metrics: what evaluation found at this step, for ``best_metric``.

        Raises:
            CheckpointError: the save before failed.
        """
        self.wait()
        self._alarm.restart()
        parts = {"params": state.params, "opt_state": state.opt_state}
        if state.collections:
            parts["collections"] = state.collections
        if state.ema is not None:
            parts["ema"] = state.ema
        parts["meta"] = {"json": json.dumps(meta)}
        folder = self.root / str(step)
        response = ocp.save_checkpointables_async(folder, parts, overwrite=True)

        def seal():
            try:
                response.result()
                if distributed.is_first():
                    write_seal(folder, step, metrics or {})
                    self._prune()
            except Exception as error:
                if distributed.is_first():  # a disk that is full has better uses
                    for path in self.root.glob(f"{step}*"):
                        if path.name.split(".")[0] == folder.name:
                            shutil.rmtree(path, ignore_errors=True)
                raise CheckpointError(
                    f"checkpoint {folder} was not saved: {orbax_files.causes(error)}. Earlier ones"
                    " are as they were; the same command resumes from the newest"
                ) from error

        self._sealing = self._sealer.submit(seal)

    def judge(self, step: int, metrics: dict[str, float]) -> None:
        """Add what evaluation found to a checkpoint that was saved before it was evaluated."""
        self.wait()
        if distributed.is_first():
            write_seal(self.root / str(step), step, metrics)

    def best_kept(self) -> int | None:
        """Return the step that is best among those that are there, None where none was judged."""
        steps = [int(folder.name) for folder in sealed_steps(self.root)]
        return next(iter(judged(self.root, steps, self.best_metric, self.best)), None)

    def wait(self) -> None:
        """Wait until the last save is complete and sealed.

        Raises:
            CheckpointError: it failed; names the folder and the reason.
        """
        sealing, self._sealing = self._sealing, None
        if sealing is not None:
            sealing.result()

    def close(self) -> None:
        """Finish the last save, and let others train in the folder."""
        try:
            self.wait()
        finally:
            self._sealer.shutdown()
            if self._lock is not None:
                self._lock.close()

    def restore(self, abstract: TrainState) -> tuple[TrainState, dict] | None:
        """Return the newest good state and its meta, or None where nothing was ever saved.

        Args:
            abstract: shapes with their shardings, from ``state.create``; the mesh and the number
                of processes may differ from those that saved.

        Raises:
            CheckpointError: all checkpoints are damaged, another run is at work in the folder, or
                the processes do not see the same files.
        """
        chosen, seal = distributed.once(
            "the checkpoint to resume from", self._choose, timeout_s=CHOOSE_S
        )
        if chosen is None:
            return None
        folder = self.root / str(chosen)
        _require_seen_by_all(folder, seal)
        wanted = {"params": abstract.params, "opt_state": abstract.opt_state}
        if abstract.collections:
            wanted["collections"] = abstract.collections
        if abstract.ema is not None:
            wanted["ema"] = abstract.ema
        loaded, meta = orbax_files.load(folder, wanted), orbax_files.load_meta(folder)

        def scalar(like, value: int):
            return jax.make_array_from_callback((), like.sharding, lambda _: np.int32(value))

        state = TrainState(
            step=scalar(abstract.step, chosen),
            not_finite=scalar(abstract.not_finite, meta.get("not_finite", 0)),
            params=loaded["params"],
            opt_state=loaded["opt_state"],
            collections=loaded.get("collections", {}),
            ema=loaded.get("ema"),
        )
        return state, meta

    def _choose(self) -> tuple[int | None, str | None]:
        """Return the newest good step and its seal, after making it the newest: a resumed run will
        save the later ones again."""
        self.root.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.root / "lock", "w")  # noqa: SIM115, held until close
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(f"{self.root.parent}: another run is at work there") from None
        good, sealed = good_steps(self.root.parent), sealed_steps(self.root)
        if sealed and not good:
            raise CheckpointError(
                f"{self.root}: every checkpoint is damaged (the newest: {damage(sealed[-1])});"
                " nothing was changed. Bring back a copy, or begin again in another --workdir"
            )
        for folder in sealed[len(good) :]:
            aside = self.root.parent / "damaged_checkpoints" / folder.name
            logging.error("checkpoint %s is kept as %s", folder, aside)
            aside.parent.mkdir(exist_ok=True)
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
        for path in self.root.iterdir():
            if path.is_dir() and not (path / MANIFEST).exists():  # cut off
                shutil.rmtree(path)
        return (good[-1], seal_of(self.root / str(good[-1]))) if good else (None, None)

    def _prune(self) -> None:
        folders = {int(folder.name): folder for folder in sealed_steps(self.root)}
        kept = set(sorted(folders)[-self.keep :])
        if self.keep_every:
            kept |= {step for step in folders if step % self.keep_every == 0}
        if self.keep_best:
            kept |= set(judged(self.root, folders, self.best_metric, self.best)[: self.keep_best])
        if self.jobs and self.keep_for_jobs:
            older = [step for step in sorted(folders.keys() - kept) if self._awaits_jobs(step)]
            kept |= set(older[-self.keep_for_jobs :])
            if older[: -self.keep_for_jobs] and not self._told:
                self._told = True  # a run without any job would say it at every save
                logging.warning(
                    "checkpoint %d is removed before an eval job evaluated it (launch.evaluate"
                    " --follow), and so will be later ones; a config.checkpoints.keep_for_jobs"
                    " above %d would have kept it, 0 expects no job",
                    older[0],
                    self.keep_for_jobs,
                )
        for step in folders.keys() - kept:
            (folders[step] / MANIFEST).unlink()  # first: what is cut off here is no checkpoint
            shutil.rmtree(folders[step], ignore_errors=True)  # what stays goes at the next start

    def _awaits_jobs(self, step: int) -> bool:
        results = self.root.parent / EVALUATIONS
        return not all((results / name / f"{step}.json").exists() for name in self.jobs)


def restore_variables(
    workdir: str | os.PathLike, step: int | str | None = None
) -> tuple[dict, int, dict]:
    """Load what evaluation and export need: the config and the variables, not the optimizer.

    The run may be in progress. The log says which checkpoint is taken, and why.

    Args:
        workdir: a run's folder.
        step: which checkpoint; see ``checkpoint_choice.choose``.

    Returns:
        The config as a dict, the step, and the variables (``params``, averaged where the run keeps
        an average, and every other collection) as numpy arrays.

    Raises:
        CheckpointError: no good checkpoint, or the one asked for is missing or damaged.
    """
    root = pathlib.Path(workdir).resolve() / "checkpoints"
    while True:
        chosen = choose(workdir, step)
        folder = root / str(chosen)
        fault = damage(folder) if isinstance(step, int) else None
        if fault:
            raise CheckpointError(f"checkpoint {folder} cannot be trusted: {fault}")
        try:
            loaded = load_variables(folder)
            logging.info("%s: taking %s", workdir, reason(workdir, chosen, step))
            return loaded
        except CheckpointError:
            if (folder / MANIFEST).exists() or isinstance(step, int):
                raise
            # A run in progress removed it meanwhile, so there is a newer or better one.


def load_variables(folder: pathlib.Path) -> tuple[dict, int, dict]:
    """Load what ``restore_variables`` returns from a checkpoint that was verified.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        has = {path.name for path in folder.iterdir()}
        shapes = ocp.checkpointables_metadata(folder).metadata
    except Exception as error:
        raise CheckpointError(f"{folder} cannot be read: {orbax_files.causes(error)}") from error
    names = ["ema" if "ema" in has else "params"]
    names += ["collections"] if "collections" in has else []
    # numpy in the wanted tree: the file's own sharding would name devices that are not here
    wanted = {
        name: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), shapes[name])
        for name in names
    }
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), wanted)
    loaded = jax.device_get(orbax_files.load(folder, wanted))
    own = loaded["ema"] if "ema" in has else {"params": loaded["params"]}
    variables = {**loaded.get("collections", {}), **own}
    return orbax_files.load_meta(folder)["config"], int(folder.name), variables


def _require_seen_by_all(folder: pathlib.Path, seal: str) -> None:
    """Make sure that every process sees the manifest that the first one chose."""
    try:
        same = seal_of(folder) == seal
    except OSError:
        same = False
    everyone = distributed.gather("whether the checkpoint is seen", same)
    if not all(everyone):
        missing = [process for process, same in enumerate(everyone) if not same]
        raise CheckpointError(
            f"{distributed.processes_named(missing)} cannot see {folder}, which process 0 chose to"
            " resume from; --workdir must be one folder that all processes share"
        )
