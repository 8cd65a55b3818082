"""Expiring leases that let several eval jobs split a run's checkpoints.

A lease only saves work. It may fail to exclude another job (a machine that slept, a file system
that shows old content), and so nothing rests on it: what jobs write is created once, by whoever is
first. It is a file with its holder's name and a heartbeat, a counter that the holder moves on.
Others take it over when its process is gone, where they can see that, or when the counter has stood
still for long by their own clock: clocks of two machines are never compared.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import socket
import threading
import time
import uuid

import psutil
from absl import logging

from hypnos_jax.runtime.storage import LocalFolder, RemoteFolder

EXPIRE_S = 150.0  # ours: more than network file systems keep old content for, by default 60 s


class Leases:
    """The leases of one process in a folder.

    Attributes:
        job: this process, ``"host/pid"``.
    """

    def __init__(
        self, folder: LocalFolder | RemoteFolder, where: str, *, expire_s: float = EXPIRE_S
    ):
        """Begin with none.

        Args:
            folder: which all jobs see.
            where: the leases' place in it.
            expire_s: how long a counter may stand still.
        """
        self._folder, self._where, self._expire_s = folder, where, expire_s
        self._me = {**this_process(), "token": uuid.uuid4().hex}
        self.job = f"{socket.gethostname()}/{os.getpid()}"
        self._held, self._beats = None, 0
        self._lock, self._end = threading.Lock(), threading.Event()
        self._seen: dict[str, tuple[bytes, float]] = {}
        threading.Thread(target=self._beat, daemon=True, name="leases").start()

    def take(self, what: str) -> bool:
        """Take a lease on something, where no living job holds one; one thing at a time."""
        name = f"{self._where}/{what}.lease"
        with self._lock:
            mine = self._content()
            if not self._folder.create(name, mine):
                content = self._folder.read(name)
                if content is None or not self._is_left(name, content):
                    return False
                self._folder.replace(name, mine)  # two may, one after the other: the last holds it
                if self._folder.read(name) != mine:
                    return False
            self._held = name
        return True

    def release(self) -> None:
        """Give up what is held."""
        with self._lock:
            name, self._held = self._held, None
            if name is not None and self._is_mine(name):
                self._folder.remove(name)

    def close(self) -> None:
        """Give up what is held, and count no longer."""
        self._end.set()
        self.release()

    def _content(self) -> bytes:
        self._beats += 1
        return json.dumps({"job": self.job, **self._me, "beats": self._beats}).encode()

    def _is_mine(self, name) -> bool:
        try:
            return json.loads(self._folder.read(name) or b"{}").get("token") == self._me["token"]
        except ValueError:
            return False

    def _is_left(self, name, content) -> bool:
        """Whether the holder of a lease is gone."""
        before, since = self._seen.get(name, (None, 0.0))
        if content != before:
            since = time.monotonic()
            self._seen[name] = (content, since)
        try:
            holder = json.loads(content)
            if is_gone(holder):
                return True
        except (ValueError, KeyError, TypeError):
            pass  # not written by a job of this version: wait
        return time.monotonic() - since > self._expire_s

    def _beat(self):
        while not self._end.wait(self._expire_s / 6):
            with self._lock:
                try:
                    if self._held is not None and self._is_mine(self._held):
                        self._folder.replace(self._held, self._content())
                except Exception as error:  # a full disk, a network: the work itself will tell
                    logging.warning("%s: cannot renew a lease: %s", self._folder, error)


def this_process() -> dict:
    """Return what tells this process from all others of all machines."""
    place = [socket.gethostname()]
    with contextlib.suppress(OSError):  # of Linux; machines and containers may share a name
        place.append(pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        place.append(os.readlink("/proc/self/ns/pid"))
    return {"place": place, "pid": os.getpid(), "began": psutil.Process().create_time()}


def is_gone(process: dict) -> bool:
    """Whether a process, as of ``this_process``, has ended; False where that cannot be seen.

    Raises:
        KeyError, TypeError: it is not such a description.
    """
    if process["place"] != this_process()["place"]:
        return False
    try:
        found = psutil.Process(process["pid"])
        same = abs(found.create_time() - process["began"]) < 5  # the clock may have been set
        return not same or found.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False
