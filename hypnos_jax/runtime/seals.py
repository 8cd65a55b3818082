"""Sealed checkpoints: a manifest, written last, with the size and SHA-256 of every file of a step.

``workdir/checkpoints/<step>/sha256.json`` holds the step, the metrics it is judged by, the files,
and a SHA-256 of all that. A step without one was cut off while it was saved, or is being removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib

from absl import logging

MANIFEST = "sha256.json"


class CheckpointError(ValueError):
    """No checkpoint can be loaded, the one asked for is damaged, or a save failed."""


def saved(workdir: str | os.PathLike) -> bool:
    """Whether a run has ever saved a whole checkpoint, good or damaged by now."""
    return bool(sealed_steps(pathlib.Path(workdir) / "checkpoints"))


def good_steps(workdir: str | os.PathLike) -> list[int]:
    """Return the steps of a run whose files are as they were saved, oldest first.

    Only the newest is read in full where it is good, and so on backwards: older steps that are
    listed have a manifest, and are verified when they are the newest left.
    """
    root = pathlib.Path(workdir) / "checkpoints"
    folders = sealed_steps(root)
    while folders:
        fault = damage(folders[-1])
        if fault is None:
            break
        if not (folders[-1] / MANIFEST).exists():  # a run in progress has just removed it
            folders = sealed_steps(root)
            continue
        logging.error("checkpoint %s is damaged: %s; going back a step", folders[-1], fault)
        folders.pop()
    return [int(folder.name) for folder in folders]


def damage(folder: pathlib.Path) -> str | None:
    """Return what is wrong with a checkpoint's files, or None."""
    if not (folder / MANIFEST).is_file():
        return f"{MANIFEST} is missing: saving was cut off"
    try:
        manifest = read_manifest(folder)
        if str(manifest["step"]) != folder.name:
            return f"{MANIFEST} is that of step {manifest['step']}"
        found = {str(path.relative_to(folder)) for path in _files(folder)}
        for name in sorted(found ^ manifest["files"].keys()):
            return f"{name} " + ("is not in the manifest" if name in found else "is missing")
        for name, (size, digest) in manifest["files"].items():
            path = folder / name
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size} bytes instead of {size}"
            if _sha256(path) != digest:
                return f"{name} does not have its checksum"
    except OSError as error:
        return f"it cannot be read: {error}"
    except CheckpointError as error:
        return str(error)
    return None


def write_seal(folder: pathlib.Path, step: int, metrics: dict[str, float]) -> None:
    """Write the manifest of a step whose files are complete; each is synced to the disk first."""
    files = {}
    for path in _files(folder):
        files[str(path.relative_to(folder))] = [path.stat().st_size, _sha256(path, sync=True)]
    content = {"step": step, "metrics": metrics, "files": files}
    # Beside: nothing but what it lists is in the folder. One name: what a kill leaves is replaced.
    partial = folder.with_name("seal.partial")
    with open(partial, "w") as file:
        json.dump({**content, "sha256": _digest(content)}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(folder / MANIFEST)


def read_manifest(folder: pathlib.Path) -> dict:
    """Return a manifest that is as it was written.

    Raises:
        CheckpointError: it is not.
    """
    try:
        content = json.loads((folder / MANIFEST).read_text())
        digest = content.pop("sha256")
        whole = _digest(content) == digest
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{MANIFEST} is damaged: {error!r}") from error
    if not whole:
        raise CheckpointError(f"{MANIFEST} does not have its own checksum")
    return content


def metrics_of(folder: pathlib.Path) -> dict[str, float]:
    """Return the metrics that a step is judged by, none where its manifest cannot be read."""
    try:
        return read_manifest(folder)["metrics"]
    except (CheckpointError, OSError):
        return {}


def _digest(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def seal_of(folder: pathlib.Path) -> str:
    """Return the SHA-256 of a checkpoint's manifest file: what the checkpoint is known by."""
    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()


def sealed_steps(root: pathlib.Path) -> list[pathlib.Path]:
    """Return the folders of steps that have a manifest, oldest first."""
    found = (path.parent for path in root.glob(f"[0-9]*/{MANIFEST}"))
    found = [path for path in found if path.name.isdecimal() and str(int(path.name)) == path.name]
    return sorted(found, key=lambda path: int(path.name))


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(p for p in folder.rglob("*") if not p.is_dir() and p != folder / MANIFEST)


def _sha256(path: pathlib.Path, sync: bool = False) -> str:
    with open(path, "rb") as file:
        if sync:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
