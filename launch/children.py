"""Processes that a command starts: they end with it, and hold the lock of its folder until then."""

import ctypes
import fcntl
import os
import pathlib
import signal
import sys
import time

import psutil
from absl import logging

PR_SET_PDEATHSIG = 1  # linux/prctl.h
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
LOOK_S = 0.2
LOCK_WAIT_S = 600.0  # ours: for what a killed launcher has started to save and end: a compilation


class LockedError(ValueError):
    """Another launcher is at work in this folder."""


def end_with_parent(parent: int) -> None:
    """In a child that was just forked: have it asked to save and end when its parent is gone."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # gone before that
            os.kill(os.getpid(), signal.SIGTERM)


def take_lock(folder: pathlib.Path):
    """Return the folder's lock file, open and locked.

    Processes that get it by ``pass_fds`` hold the lock too, after their launcher was killed.

    Raises:
        LockedError: another launcher is at work here, or processes of one that was killed do not
            end.
    """
    lock = (folder / "lock").open("a+")
    end, told = time.monotonic() + LOCK_WAIT_S, False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip()
            if owner.isdecimal() and _lives(int(owner)):
                raise LockedError(
                    f"{folder} is in use by process {owner}; one launcher at a time in a folder"
                ) from None
            if time.monotonic() > end:
                raise LockedError(
                    f"{folder}: processes of a launcher that was killed have not ended within"
                    f" {LOCK_WAIT_S:g} s; end them, or use another --output"
                ) from None
            if not told:
                logging.info("waiting for the processes of a killed launcher to save and end")
                told = True
            time.sleep(LOOK_S)
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock


def _lives(number: int) -> bool:
    """Whether there is such a process, and its parent has not just not heard of its end."""
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_held(folder: pathlib.Path) -> bool:
    """Whether a launcher, or what one has started, is at work in a folder."""
    if not (folder / "lock").exists():
        return False
    with (folder / "lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
