"""Recordings read and prepared by worker processes, while this process works on the one before.

Worker processes read and filter recordings (NumPy alone); the model runs in this process, so that
one process holds the accelerator and its memory. A bounded number of prepared nights waits.
"""

from __future__ import annotations

import collections
import concurrent.futures
import functools
import itertools
import multiprocessing
import pathlib
import traceback
from collections.abc import Callable, Iterator

from data_pipelines.recordings.base import RecordingError

AHEAD = 2  # ours: prepared nights that may wait beyond those in hand, 120 MB each for 8 h


def unchanged(night):
    """Return a stored night, which needs no preparation."""
    return night


def prepared(prepare: Callable, items: dict, jobs: int) -> Iterator[tuple[str, Callable]]:
    """Yield name -> a function that returns the prepared item, or raises what preparing raised."""
    if jobs == 1 or len(items) < 2 or prepare is unchanged:
        for name, item in items.items():
            yield name, functools.partial(attempt, prepare, item)
        return
    # spawn: a fork would copy this process's jax threads and their locks.
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(min(jobs, len(items)), mp_context=context)
    with pool:
        waiting = collections.deque()
        rest = iter(items.items())
        try:
            for name, item in itertools.chain(rest, [(None, None)]):
                if name is not None:
                    waiting.append((name, pool.submit(attempt, prepare, item)))
                while waiting and (name is None or len(waiting) >= jobs + AHEAD):
                    first, future = waiting.popleft()
                    yield first, future.result
        finally:
            pool.shutdown(cancel_futures=True)


def attempt(call: Callable, item):
    """Return ``call(item)``; any error becomes the one that means: reject this recording.

    Raises:
        RecordingError: whatever went wrong, without a word of the file's own.
    """
    try:
        return call(item)
    except RecordingError:
        raise
    except OSError as error:
        raise RecordingError(f"cannot be read: {error.strerror or type(error).__name__}") from None
    except ValueError as error:
        raise RecordingError(str(error)) from None
    except Exception as error:
        # One odd file must not end a run over thousands. Its own text might quote the file's
        # header, so only the kind and the place are told.
        at = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{pathlib.Path(at.filename).name}:{at.lineno}"
        raise RecordingError(f"unexpected {type(error).__name__} at {place}") from None
