"""Measure all nights of a store that have no facts yet, in processes, whatever interrupts it."""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import dataclasses
from collections.abc import Callable

import numpy as np

from data_pipelines.captions import side_file
from data_pipelines.captions.facts import SLOTS
from data_pipelines.captions.measures import night_facts
from data_pipelines.files import remove_partials
from data_pipelines.store import NightStore, StoreError
from data_pipelines.workers import open_pool


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a run did: names of nights, and (name, reason) of those that could not be measured."""

    added: list[str]
    kept: list[str]
    damaged: list[tuple[str, str]]


def measure_store(
    store: NightStore,
    *,
    jobs: int = 1,
    micro_events: str | None = None,
    finished: Callable[[str], None] = lambda name: None,
) -> Summary:
    """Write the facts of every night that has none of this version.

    A night that cannot be read is left out. Facts of nights that the store holds no more are
    removed.

    Args:
        store: of nights of signals, by a recipe with the rows of ``sleeplm``.
        jobs: processes; 1 works in this one.
        micro_events: find spindles and slow waves too, by this (``micro_events.version()``). Nights
            that were measured without them, or by another version, are measured anew.
        finished: called with each night's name.

    Raises:
        StoreError: the store has no signals, or rows of another recipe.
        OSError: a file cannot be written.
    """
    if store.kind != "signals" or (store.recipe or {}).get("name") != "sleeplm":
        raise StoreError(
            f"{store.path} holds no nights to measure: prepare the recordings by python -m"
            " launch.prepare_nights --recipe=sleeplm --channels=twelve"
        )
    facts = side_file.FactsFile(store)
    if facts.folder.is_dir():
        remove_partials(facts.folder)
        facts.remove_others()
    kept = [
        night.recording for night in store.nights if facts.has(night, micro_events=micro_events)
    ]
    there = set(kept)
    todo = [i for i, night in enumerate(store.nights) if night.recording not in there]
    added, damaged = [], []

    def note(index, reason):
        name = store.nights[index].recording
        if reason is None:
            added.append(name)
        else:
            damaged.append((name, reason))
        finished(name)

    if jobs <= 1 or len(todo) < 2:
        for index in todo:
            note(index, _measure(store, index, micro_events))
        return Summary(added, kept, damaged)
    with open_pool(min(jobs, len(todo))) as pool:
        futures = {pool.submit(_measure, store, index, micro_events): index for index in todo}
        try:
            for future in concurrent.futures.as_completed(futures):
                note(futures[future], future.result())
        except concurrent.futures.process.BrokenProcessPool:
            raise StoreError(
                "a worker process died, likely for want of memory; finished nights are kept: run"
                " the same command again with fewer jobs"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)
    return Summary(sorted(added), kept, sorted(damaged))


def _measure(store, index, micro_events) -> str | None:
    """Write the facts of one night; the reason where it cannot be read."""
    night = store.nights[index]
    try:
        facts = night_facts(store, night, with_micro_events=micro_events is not None)
        side_file.write(store, night, facts, micro_events=micro_events)
    except StoreError as error:
        return str(error)
    return None


@dataclasses.dataclass(frozen=True)
class Gated:
    """How often a number is not there.

    Attributes:
        nights: that have its channels.
        share: of their epochs in which a gate took it; 1 where no night has them.
    """

    nights: int
    share: float


def gated(store: NightStore) -> dict[str, Gated]:
    """Return slot -> how often it is not there, over all nights that have facts."""
    facts = side_file.FactsFile(store)
    counts = {name: np.zeros(3, int) for name in SLOTS}  # nights, epochs, gated
    for night in store.nights:
        if not facts.has(night):
            continue
        for name, column in facts.night(night).numbers.items():
            counts[name] += 1, len(column), int(np.isnan(column).sum())
    return {
        name: Gated(int(nights), float(lost / epochs) if epochs else 1.0)
        for name, (nights, epochs, lost) in counts.items()
    }
