"""Prepare many nights in parallel and write them as one store, whatever interrupts it.

Each finished night waits as one file in ``OUTPUT/.work``; when all are done, a TFDS builder writes
the ArrayRecord shards into ``OUTPUT/.work/build``, the folder is renamed after its own checksum,
and the manifest that names it replaces the old one in one step. A run that is killed anywhere
loses at most the nights in hand, and the same command goes on from there to the same bytes.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import errno
import fcntl
import json
import logging
import os
import pathlib
import re
import shutil
import traceback
import typing

import tqdm

from data_pipelines.builders.pending_nights import (
    PendingNight,
    StoredNight,
    file_name,
    write_night,
)
from data_pipelines.builders.sealing import seal
from data_pipelines.files import atomic_write, remove_partials
from data_pipelines.store import FORMAT, KINDS, NightStore, StoreError
from data_pipelines.workers import open_pool

DOUBTFUL = "--strict: "  # what the reason begins with where a night was rejected for its findings


@dataclasses.dataclass(frozen=True)
class StoreUpdate:
    """Result of a run: names of the nights now in the store, and rejects as (recording, reason)."""

    added: list[str]
    kept: list[str]
    rejected: list[tuple[str, str]]


def write_store(
    output,
    *,
    kind: str,
    items: typing.Mapping[str, typing.Any],
    make_night: typing.Callable,
    jobs: int = 1,
    modalities: typing.Sequence[dict] = (),
    provenance: typing.Mapping[str, typing.Any] | None = None,
    recipe: typing.Mapping[str, typing.Any] | None = None,
    beside: typing.Sequence[str] = (),
    left_aside: typing.Sequence[tuple[str, str]] = (),
    run_all: typing.Callable | None = None,
    progress: bool = True,
    strict: bool = False,
) -> StoreUpdate:
    """Prepare ``items`` into the store at ``output``, adding to what it already holds.

    Nights that the store already holds are left as they are; recordings that were rejected are
    tried again when nothing of the same run is left over.

    Args:
        output: Folder of the store; made where missing.
        kind: "signals" (``make_night`` returns :class:`~data_pipelines.store.Night`) or "tokens"
            (``TokenNight``).
        items: Recording name -> whatever ``make_night`` takes; names are unique in a store.
        make_night: Function of one item. A ValueError becomes a line of ``rejects.jsonl``. With
            ``jobs > 1`` it must be picklable, as it runs in fresh processes.
        jobs: Processes; 1 works in this process.
        modalities: For tokens: ``{name, levels, codes, channel_id, signal_type}`` in code order.
        provenance: How the nights are made (JSON). A store is only added to with equal provenance.
        recipe: ``{"name", "version"}`` of what prepares the signals, for the manifest.
        beside: Folders of the store written by the caller, whose files join the checksums.
        left_aside: Files that were not even tried, as (name, reason); they join the rejects.
        run_all: Runs ``run_all(function, list of (name, item))`` elsewhere, such as on a Beam
            runner that sees ``output``; default is a pool of ``jobs`` processes here.
        progress: Show a progress bar on stderr.
        strict: Reject nights with findings (``qc["findings"]``), their sentences as the reason.

    Returns:
        What was added, kept and rejected.

    Raises:
        StoreError: Another run is at work, the store was prepared with other settings, the output
            cannot be written to, the disk is full, or a worker died.
    """
    output = pathlib.Path(output)
    provenance = json.loads(json.dumps(dict(provenance or {}), sort_keys=True))
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; must be one of {KINDS}")
    with _failed_writing_is_clear(output):
        output.mkdir(parents=True, exist_ok=True)
        with _only_run(output):
            old = _existing(output, kind, provenance, recipe)
            kept = [] if old is None else [night.recording for night in old.nights]
            there = set(kept)
            _forget_unfinished(output, old)
            pending = {name: item for name, item in items.items() if name not in there}
            if not pending:
                _forget_work(output)
                return StoreUpdate([], kept, list(left_aside))
            _claim_work(output, kind, provenance, recipe, strict)
            task = _Task(output / ".work", make_night, strict)
            _prepare(task, pending, jobs, run_all, progress)
            nights, rejected = _collect(output / ".work", pending)
            rejected = sorted([*rejected, *left_aside])
            _write_rejects(output, rejected)  # first: the manifest ends the run
            if nights:
                sources = [*nights, *(StoredNight(old, entry) for entry in (old or _NONE).nights)]
                seal(output, kind, sources, list(modalities), provenance, recipe, beside)
            if nights or kept:
                _forget_unfinished(output, NightStore(output))
            _forget_work(output)
    return StoreUpdate([night.facts["recording"] for night in nights], kept, rejected)


_NONE = collections.namedtuple("Nothing", ["nights"])([])


@dataclasses.dataclass(frozen=True)
class _Task:
    """Prepare one night into the work folder; never raises for a bad recording."""

    work: pathlib.Path
    make_night: typing.Callable
    strict: bool = False

    def __call__(self, name_and_item) -> bool:
        name, item = name_and_item
        if self.is_done(name):
            return True
        try:
            night = self.make_night(item)
            if night.recording != name:
                raise StoreError(f"the night of {name!r} calls itself {night.recording!r}")
            findings = night.qc.get("findings", ()) if self.strict else ()
            if findings:
                raise ValueError(DOUBTFUL + "; ".join(f["note"] for f in findings))
            write_night(self.work / "nights" / f"{file_name(name)}.npz", night)
        except OSError as error:
            if _is_disk_full(error):
                raise
            self._reject(name, f"cannot be read: {error.strerror}")
        except ValueError as error:
            self._reject(name, str(error))
        except Exception as error:
            # One odd file must not end a run over thousands. Its own text might quote the file's
            # header, so only the kind and the place are told.
            at = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{pathlib.Path(at.filename).name}:{at.lineno}"
            logging.warning("%s: unexpected %s at %s", name, type(error).__name__, place)
            self._reject(name, f"unexpected {type(error).__name__} at {place}")
        return True

    def is_done(self, name):
        path = self.work / "nights" / f"{file_name(name)}.npz"
        if path.is_file():
            try:
                PendingNight(path).check()
                return True
            except ValueError:
                path.unlink()
        return (self.work / "rejects" / f"{file_name(name)}.json").is_file()

    def _reject(self, name, reason):
        line = json.dumps({"recording": name, "reason": reason}, ensure_ascii=False)
        path = self.work / "rejects" / f"{file_name(name)}.json"
        with atomic_write(path) as file:
            file.write(line.encode("utf-8", "replace"))


def _prepare(task, pending, jobs, run_all, progress):
    if run_all is not None:
        run_all(task, list(pending.items()))
        return
    todo = [(name, item) for name, item in sorted(pending.items())]
    bar = tqdm.tqdm(total=len(todo), desc="nights", unit="night", disable=not progress)
    with bar:
        if jobs <= 1:
            for pair in todo:
                task(pair)
                bar.update()
            return
        with open_pool(min(jobs, len(todo))) as pool:
            futures = [pool.submit(task, pair) for pair in todo]
            try:
                for future in concurrent.futures.as_completed(futures):
                    future.result()
                    bar.update()
            except concurrent.futures.process.BrokenProcessPool:
                raise StoreError(
                    "a worker process died, likely for want of memory; finished nights are kept: "
                    "run the same command again with fewer jobs"
                ) from None
            finally:
                pool.shutdown(cancel_futures=True)


def _collect(work, pending):
    nights, rejected = [], []
    for name in sorted(pending):
        path = work / "nights" / f"{file_name(name)}.npz"
        if path.is_file():
            nights.append(PendingNight(path))
        else:
            line = json.loads((work / "rejects" / f"{file_name(name)}.json").read_text())
            rejected.append((line["recording"], line["reason"]))
    return nights, rejected


def _existing(output, kind, provenance, recipe):
    if not (output / "manifest.json").exists():
        return None
    store = NightStore(output)
    if store.kind != kind:
        raise StoreError(f"{output} holds {store.kind}, not {kind}; choose another folder")
    _check_same(output, store.manifest["provenance"], provenance)
    if store.recipe is not None:  # as those of old have none
        _check_same(output, {"recipe": store.recipe}, {"recipe": recipe})
    return store


def _check_same(output, old, new):
    different = sorted(k for k in {*old, *new} if old.get(k) != new.get(k))
    if different:
        key = different[0]
        raise StoreError(
            f"{output} was prepared with {key}={old.get(key)!r}, this run has {new.get(key)!r}; "
            f"choose another folder (settings that differ: {', '.join(different)})"
        )


def _claim_work(output, kind, provenance, recipe, strict):
    work = output / ".work"
    if strict != (work / "strict").exists():
        # What waits there was accepted or rejected by another measure.
        for folder in ("nights", "rejects"):
            shutil.rmtree(work / folder, ignore_errors=True)
        (work / "strict").touch() if strict else (work / "strict").unlink()
    for folder in ("nights", "rejects"):
        (work / folder).mkdir(parents=True, exist_ok=True)
        remove_partials(work / folder)
    settings = {"kind": kind, "format": FORMAT, "recipe": recipe} | provenance
    file = work / "settings.json"
    if file.is_file():
        _check_same(output, json.loads(file.read_text()), settings)
    with atomic_write(file, "w") as handle:
        handle.write(json.dumps(settings, sort_keys=True))


def _write_rejects(output, rejected):
    lines = [json.dumps({"recording": n, "reason": r}, ensure_ascii=False) for n, r in rejected]
    text = "".join(line + "\n" for line in lines)
    with atomic_write(output / "rejects.jsonl", partial_in=output / ".work") as file:
        file.write(text.encode("utf-8", "replace"))


def _forget_unfinished(output, store):
    """Remove record folders that no manifest names: a run ended between two renames."""
    named = store.manifest["scoring"].split("/")[0] if store else None
    for folder in output.glob("records-*"):
        ours = re.fullmatch(r"records-[0-9a-f]{12}", folder.name) and folder.is_dir()
        if ours and folder.name != named:
            shutil.rmtree(folder)


def _forget_work(output):
    lock = output / ".work" / "lock"
    for path in (output / ".work").iterdir():
        if path != lock:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(output / ".work")


@contextlib.contextmanager
def _only_run(output):
    (output / ".work").mkdir(exist_ok=True)
    with open(output / ".work" / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"{output}: another run is preparing this folder") from None
        yield


@contextlib.contextmanager
def _failed_writing_is_clear(output):
    try:
        yield
    except (OSError, RuntimeError) as error:  # the writer of ArrayRecord raises RuntimeError
        if isinstance(error, FileExistsError | NotADirectoryError | PermissionError):
            name = error.filename or output
            raise StoreError(f"{name}: cannot be written to ({error.strerror})") from None
        if not _is_disk_full(error):
            raise
        raise StoreError(
            f"{output}: no space left on the disk; finished nights are kept in .work: "
            "make room and run the same command again"
        ) from None


def _is_disk_full(error):
    full = (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "errno", None) in full or os.strerror(errno.ENOSPC) in str(error)
