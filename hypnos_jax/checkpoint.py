"""Checkpoints that can be trusted: Orbax writes them, a checksum manifest written last seals them.

``workdir/checkpoints/<step>/`` holds the checkpointables ``params``, ``opt_state``,
``collections``, ``ema`` (if kept) and ``meta`` (the resolved config, the position in the data and
in ``metrics.jsonl``), and ``sha256.json``: size and SHA-256 of every other file. Orbax loads a file
with a flipped bit without a word, hence the manifest; a step without one was cut off while saving.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
import pathlib
import shutil

import jax
import numpy as np
from absl import logging
from orbax.checkpoint import v1 as ocp

from hypnos_jax.state import TrainState

MANIFEST = "sha256.json"


def quiet() -> None:
    """Keep Orbax's progress, a dozen lines a save, out of the log; its errors stay."""

    def ours(record) -> bool:
        return record.levelname in ("ERROR", "CRITICAL") or "orbax" not in record.pathname

    logging.get_absl_logger().addFilter(ours)


class CheckpointError(ValueError):
    """There is no checkpoint that can be loaded, or the one asked for is damaged."""


class Checkpoints:
    """The checkpoints of one run: saves without blocking, keeps the newest, resumes.

    Args:
        workdir: the run's folder.
        every: steps between saves.
        keep: how many of the newest stay.
        keep_every: also keep every step divisible by this; 0 for none.
    """

    def __init__(
        self, workdir: pathlib.Path, *, every: int = 1000, keep: int = 3, keep_every: int = 0
    ):
        self.every = every
        policies = ocp.training.preservation_policies
        kept = [policies.LatestN(keep)] + ([policies.EveryNSteps(keep_every)] if keep_every else [])
        self.root = pathlib.Path(workdir).resolve() / "checkpoints"
        self._sealer = concurrent.futures.ThreadPoolExecutor(1, "seal checkpoint")
        self._sealing: concurrent.futures.Future | None = None
        if jax.process_index() == 0:
            _set_bad_steps_aside(self.root)
        self._checkpointer = ocp.training.Checkpointer(
            self.root,
            preservation_policy=policies.AnyPreservationPolicy(kept),
            cleanup_tmp_directories=True,
        )

    def due(self, step: int) -> bool:
        """Whether to save after this many updates."""
        return step > 0 and step % self.every == 0

    def save(self, step: int, state: TrainState, meta: dict) -> None:
        """Start saving; returns once the device arrays may be overwritten.

        Args:
            step: updates made so far; the folder's name.
            state: the train state.
            meta: JSON values.
        """
        self.wait()
        parts = {"params": state.params, "opt_state": state.opt_state}
        if state.collections:
            parts["collections"] = state.collections
        if state.ema is not None:
            parts["ema"] = state.ema
        parts["meta"] = {"json": json.dumps(meta)}
        response = self._checkpointer.save_checkpointables_async(
            step, parts, force=True, overwrite=True
        )

        def seal():
            response.result()
            if jax.process_index() == 0:
                _seal(self.root / str(step))

        self._sealing = self._sealer.submit(seal)

    def wait(self) -> None:
        """Wait until the last save is complete and sealed; raises what kept it from that."""
        sealing, self._sealing = self._sealing, None
        if sealing is not None:
            sealing.result()

    def close(self) -> None:
        """Finish the last save."""
        try:
            self.wait()
        finally:
            self._sealer.shutdown()
            self._checkpointer.close()

    def restore(self, abstract: TrainState) -> tuple[TrainState, dict] | None:
        """Return the newest good state and its meta, or None where there is none.

        Args:
            abstract: shapes with their shardings, from ``state.create``; the mesh and the number
                of processes may differ from those that saved.
        """
        steps = good_steps(self.root.parent)
        if not steps:
            return None
        folder = self.root / str(steps[-1])
        wanted = {"params": abstract.params, "opt_state": abstract.opt_state}
        if abstract.collections:
            wanted["collections"] = abstract.collections
        if abstract.ema is not None:
            wanted["ema"] = abstract.ema
        loaded = _load(folder, wanted)
        step = jax.make_array_from_callback(
            (), abstract.step.sharding, lambda _: np.int32(steps[-1])
        )
        state = TrainState(
            step=step,
            params=loaded["params"],
            opt_state=loaded["opt_state"],
            collections=loaded.get("collections", {}),
            ema=loaded.get("ema"),
        )
        return state, _load_meta(folder)


def good_steps(workdir: str | os.PathLike) -> list[int]:
    """Return the steps of a run whose files all have their checksum, oldest first.

    Only the newest is read in full where it is good, and so on backwards: older steps that are
    listed have a manifest, and are verified when they are the newest left.
    """
    root = pathlib.Path(workdir) / "checkpoints"
    steps = sorted(int(p.parent.name) for p in root.glob(f"[0-9]*/{MANIFEST}"))
    while steps:
        fault = damage(root / str(steps[-1]))
        if fault is None:
            break
        logging.error(
            "checkpoint %s is damaged: %s; going back a step", root / str(steps[-1]), fault
        )
        steps.pop()
    return steps


def damage(folder: pathlib.Path) -> str | None:
    """Return what is wrong with a checkpoint's files, or None."""
    if not (folder / MANIFEST).is_file():
        return f"{MANIFEST} is missing: saving was cut off"
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except ValueError as error:
        return f"{MANIFEST} is not JSON: {error}"
    for name, (size, digest) in manifest.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
        if _sha256(path) != digest:
            return f"{name} does not have its checksum"
    return None


def restore_variables(
    workdir: str | os.PathLike, step: int | None = None
) -> tuple[dict, int, dict]:
    """Load what evaluation and export need: the config and the variables, not the optimizer.

    Args:
        workdir: a run's folder.
        step: which checkpoint; the newest good one by default.

    Returns:
        The config as a dict, the step, and the variables (``params``, averaged where the run keeps
        an average, and every other collection) as numpy arrays.

    Raises:
        CheckpointError: no good checkpoint, or the one asked for is missing or damaged.
    """
    root = pathlib.Path(workdir).resolve() / "checkpoints"
    if step is None:
        steps = good_steps(workdir)
        if not steps:
            raise CheckpointError(
                f"{workdir} holds no complete checkpoint (checkpoints/<step>/{MANIFEST}); is it"
                " the workdir of a training run that saved?"
            )
        step = steps[-1]
    else:
        fault = damage(root / str(step))
        if fault:
            raise CheckpointError(f"checkpoint {root / str(step)} cannot be trusted: {fault}")
    folder = root / str(step)
    has = {path.name for path in folder.iterdir()}
    params = "ema" if "ema" in has else "params"
    names = [params] + (["collections"] if "collections" in has else [])
    shapes = ocp.checkpointables_metadata(folder).metadata
    # numpy in the wanted tree: the file's own sharding would name devices that are not here
    wanted = {
        name: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), shapes[name])
        for name in names
    }
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), wanted)
    loaded = jax.device_get(_load(folder, wanted))
    variables = {"params": loaded[params], **loaded.get("collections", {})}
    return _load_meta(folder)["config"], step, variables


def _load(folder: pathlib.Path, wanted: dict) -> dict:
    try:
        return ocp.load_checkpointables(folder, wanted)
    except Exception as error:
        causes, cause = [], error
        while cause is not None:
            causes.append(f"{type(cause).__name__}: {str(cause)[:500]}")
            cause = cause.__cause__
        raise CheckpointError(
            f"{folder} is complete but does not fit this program or config: " + " <- ".join(causes)
        ) from error


def _load_meta(folder: pathlib.Path) -> dict:
    return json.loads(_load(folder, {"meta": None})["meta"]["json"])


def _seal(folder: pathlib.Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    manifest = {
        str(path.relative_to(folder)): [path.stat().st_size, _sha256(path)] for path in files
    }
    partial = folder / (MANIFEST + ".tmp")
    with open(partial, "w") as file:
        json.dump(manifest, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(folder / MANIFEST)


def _sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _set_bad_steps_aside(root: pathlib.Path) -> None:
    """Make the newest good step the newest: a resumed run will save the later ones again."""
    good = good_steps(root.parent)
    newest = good[-1] if good else -1
    for path in sorted(root.glob("[0-9]*")):
        if not path.name.isdigit() or int(path.name) <= newest:
            continue
        if (path / MANIFEST).exists():
            aside = root.parent / "damaged_checkpoints"
            aside.mkdir(exist_ok=True)
            shutil.rmtree(aside / path.name, ignore_errors=True)
            path.rename(aside / path.name)
        else:
            shutil.rmtree(path)
