"""Traces of some train steps by jax.profiler."""

from __future__ import annotations

import pathlib

import jax
from absl import logging


class Trace:
    """A trace of some steps by ``jax.profiler``, of the whole process."""

    def __init__(self, folder: pathlib.Path, steps: tuple[int, ...]):
        """Trace from the first to the last of ``steps``; () for none."""
        self.folder, self.steps, self.running = folder, steps, False

    def begin(self, step: int) -> None:
        """Start before the first step."""
        if self.steps and step == self.steps[0]:
            jax.profiler.start_trace(self.folder)
            self.running = True

    def end(self, step: int, values: dict) -> None:
        """Wait for the last step, and stop."""
        if self.running and step == self.steps[1]:
            jax.block_until_ready(values)
            self.close()

    def close(self) -> None:
        """Write what was traced."""
        if self.running:
            self.running = False
            jax.profiler.stop_trace()
            logging.info("the trace of steps %s to %s is in %s", *self.steps, self.folder)
