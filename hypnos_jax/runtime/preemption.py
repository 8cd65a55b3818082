"""SIGTERM and SIGINT ask a run to save and stop, at a point that all its processes reach.

Any one process may be told. jax's preemption service hears SIGTERM and has all processes agree on
the first poll that none of them has made yet; SIGINT is passed on to it. A second SIGINT ends the
process at once. Signals are heard by a thread of their own, since the main thread may spend minutes
in the compiler.

Nothing here imports jax before it is needed: ``listen`` must be early.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable

from hypnos_jax.runtime.exit_codes import AT_ONCE, STOPPED_EARLY

CLEAN_S = 5.0  # ours

_heard: list[int] = []
_leave: Callable[[], None] | None = None
_listening = _connected = _stop = False
_polls = 0


def listen() -> None:
    """Remember signals from now on, until ``connect`` can pass them on."""
    global _listening
    if _listening or threading.current_thread() is not threading.main_thread():
        return
    _listening = True
    ours, pythons = socket.socketpair()
    pythons.setblocking(False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # heard through the wake-up socket
    signal.set_wakeup_fd(pythons.fileno(), warn_on_full_buffer=False)

    def hear() -> None:
        _ = pythons  # closed otherwise
        while True:
            for number in ours.recv(64):
                _hear(number)

    threading.Thread(target=hear, daemon=True, name="signals").start()


def leave_at_once(clean: Callable[[], None]) -> None:
    """End this process at the first signal, wherever it is, with ``STOPPED_EARLY``.

    For a program that may be killed at any moment, as an eval job may.

    Args:
        clean: called before, in another thread; it has ``CLEAN_S``.
    """
    global _leave
    _leave = clean
    listen()


def _hear(number: int) -> None:
    if number not in (signal.SIGTERM, signal.SIGINT):
        return
    if _leave is not None:
        cleaning = threading.Thread(target=_leave, daemon=True)
        cleaning.start()
        cleaning.join(CLEAN_S)
        os._exit(STOPPED_EARLY)
    if number == signal.SIGINT and signal.SIGINT in _heard:
        os._exit(AT_ONCE)
    _heard.append(number)
    if _connected:
        os.kill(os.getpid(), signal.SIGTERM)


def connect() -> None:
    """Pass on to jax what was heard so far and will be; after ``jax.distributed.initialize``."""
    global _connected
    if not _listening:
        return
    _connected = True
    # From here on SIGTERM comes to jax's own handler.
    if _heard:
        os.kill(os.getpid(), signal.SIGTERM)


def requested() -> bool:
    """Whether to stop here; every process says the same if all poll at the same places.

    Polls are counted and not steps: processes that are told before their first poll would
    otherwise wait for a step that a resumed run has behind it.
    """
    global _polls, _stop
    if _connected and not _stop:
        from jax.experimental import multihost_utils

        _polls += 1
        _stop = multihost_utils.reached_preemption_sync_point(_polls)
    return _stop
