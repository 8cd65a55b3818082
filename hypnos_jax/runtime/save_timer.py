"""When to save by the clock: at the same step on every process."""

from __future__ import annotations

import math
import time

from hypnos_jax.runtime import distributed


class SaveTimer:
    """Rings some seconds after it was started, at the same step on every process.

    The first process's clock counts. Asking it costs a step of several processes some time, so they
    ask only when about half of the time is over, then half of the rest, and so on.
    """

    def __init__(self, seconds: float):
        """Start it; 0 seconds never ring."""
        self.seconds = seconds
        self.restart()

    def restart(self) -> None:
        """Begin anew."""
        self._start, self._asked, self._ask_at = time.monotonic(), None, 0

    def due(self, step: int) -> bool:
        """Whether it rings at this step."""
        if not self.seconds or step < self._ask_at:
            return False
        now = time.monotonic()
        left, wait = self._start + self.seconds - now, 1
        if self._asked is not None:
            before, then = self._asked
            step_s = max(now - then, 1e-6) / (step - before)
            wait = max(1, int(left / 2 / step_s))
        # Others may still read data: how long they may is the watchdog's to say.
        rings, wait = distributed.broadcast(
            "the clock of saving", [left <= 0, wait], timeout_s=math.inf
        )
        self._asked, self._ask_at = (step, now), step + wait
        return rings
