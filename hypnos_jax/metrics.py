"""Metrics on disk: ``metrics.jsonl``, one JSON object a line, and TensorBoard beside it.

A train step's line: ``{"step": 12, "loss": ..., <the objective's metrics>, "learning_rate",
"grad_norm", "channel_seconds", "step_s", "data_s", "channel_seconds_per_s", "compiled", "mfu"}``,
after a save also ``save_s``, and for a batch that was not trained on because its loss or gradient
is not finite, ``skipped``: how many it makes in a row. ``step`` counts batches from 1, and the loss
is that of the parameters before this update. An evaluation's line:
``{"step": 12, "eval/<name>/<metric>": ...}``, of the parameters after update 12. Each train step
has exactly one line, however often the run was stopped: a resumed run first cuts the file back to
what it held when its checkpoint was saved. What eval jobs find is therefore in files of its own,
``evaluations/<evaluator>/<step>.json``; ``read_run`` returns both.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import time

import numpy as np
from absl import logging

from hypnos_jax.config import ConfigError
from hypnos_jax.runtime import compile_cache, distributed, storage

EVALUATIONS = "evaluations"  # folder of a workdir: what eval jobs found
# Timing fields of a step's line: they may differ between equal runs, and no other field may.
TIMES = frozenset({"step_s", "data_s", "save_s", "channel_seconds_per_s", "mfu", "compiled"})


class Writer:
    """Appends metrics to a run's files; on processes other than the first it writes nothing."""

    def __init__(
        self, workdir: pathlib.Path, *, step: int = 0, offset: int = 0, tensorboard: bool = True
    ):
        """Open the files.

        Args:
            workdir: the run's folder.
            step: what the run resumes from; TensorBoard forgets what came after.
            offset: bytes of ``metrics.jsonl`` to keep (``Writer.offset`` at the checkpoint).
            tensorboard: also write TensorBoard's event files, to ``workdir/tensorboard``.
        """
        self.file = self.board = None
        if not distributed.is_first():
            return
        path = workdir / "metrics.jsonl"
        path.touch()
        if path.stat().st_size < offset:
            logging.error(
                "%s has %d bytes, %d when step %d was saved: lines are lost",
                path,
                path.stat().st_size,
                offset,
                step,
            )
        os.truncate(path, min(offset, path.stat().st_size))
        self.file = path.open("a")
        if tensorboard:
            self.board = TensorBoardWriter(workdir / "tensorboard", purge_step=step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Append one object; a value that is not finite is written as null."""
        if self.file is None:
            return
        finite = {k: v if abs(v) < float("inf") else None for k, v in values.items()}
        try:
            self.file.write(json.dumps({"step": step, **finite}) + "\n")
            self.file.flush()
            if self.board is not None:
                self.board.write(step, values)
        except OSError as error:  # a full disk; the resumed run cuts the line off and repeats it
            raise OSError(error.errno, error.strerror, self.file.name) from error

    def offset(self) -> int:
        """Bytes of ``metrics.jsonl`` so far, all of them safe on the disk."""
        if self.file is None:
            return 0
        os.fsync(self.file.fileno())
        return os.fstat(self.file.fileno()).st_size

    def close(self) -> None:
        """Flush and close both."""
        with contextlib.suppress(OSError):  # a full disk, and writing has raised already
            if self.file is not None:
                self.file.close()
            if self.board is not None:
                self.board.close()


class TensorBoardWriter:
    """Appends scalars to a TensorBoard event file, in the caller's thread.

    tensorboardX's own SummaryWriter writes in another thread: when the disk is full that thread
    dies, and the training loop waits for ever to hand it the next value.
    """

    def __init__(self, folder: pathlib.Path, *, purge_step: int):
        """Open a new file; TensorBoard forgets what older ones hold from ``purge_step`` on."""
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        self.events = EventsWriter(str(folder / "events"))
        self._append(step=purge_step, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, values: dict[str, float]) -> None:
        """Append the values of one step."""
        from tensorboardX.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=name, simple_value=x) for name, x in values.items()]
        self._append(step=step, summary=Summary(value=scalars))

    def _append(self, **fields) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self.events.write_event(Event(wall_time=time.time(), **fields))
        self.events.flush()

    def close(self) -> None:
        """Close the file."""
        self.events.close()


def read(path: str | os.PathLike) -> list[dict]:
    """Return the objects of a ``metrics.jsonl``."""
    return [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]


def read_run(workdir: str | os.PathLike) -> list[dict]:
    """Return a run's metrics, the trainer's and those of eval jobs, in the order of their steps.

    The run may be in progress.

    Args:
        workdir: the run's folder, or its URL; nothing is returned where it has no metrics.

    Returns:
        Objects as in ``metrics.jsonl``: an evaluation's are ``{"step", "eval/<name>/<metric>"}``.
    """
    folder = storage.open_folder(workdir)
    content = folder.read("metrics.jsonl") or b""
    whole, _, _ = content.decode().rpartition("\n")  # the last line may be half written
    found = [json.loads(line) for line in whole.splitlines()]
    for name in folder.glob(f"{EVALUATIONS}/*/*.json"):
        result = read_result(folder.read(name) or b"")
        if result is None:
            logging.warning("%s/%s is not a result", folder, name)
        elif result["results"]:
            found.append({"step": result["step"], **result["results"]})
    return sorted(found, key=lambda line: line["step"])  # stable


def read_result(content: bytes) -> dict | None:
    """Return what an eval job wrote, or None where a disk has lost it."""
    try:
        result = json.loads(content)
        int(result["step"]), result["results"].items()
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return result


def words(values: dict[str, float]) -> str:
    """Return ``name value`` pairs for a log line."""
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())


class Clock:
    """Rates of a training run: step time, throughput, share of the devices' matmul rate.

    ``mfu`` is the step's matrix products and convolutions (recomputed ones too) per second, over
    the rate of a large matrix product of the same dtype measured on the same devices. ``data_s`` is
    how long the loop waited for a batch, while the device worked on the step before. ``compiled``
    counts the programs that the process has compiled: it must stand still. ``save_s``,
    where something was added to it since the last step, is how long saving held up the loop;
    ``step_s`` is without it.
    """

    def __init__(self, step_flops: float, peak_flops_per_s: float | None, *, steps: int):
        """Start the clock.

        Args:
            step_flops: floating-point operations of one step, all devices.
            peak_flops_per_s: of all devices; None leaves ``mfu`` out.
            steps: of the whole run, for the time left.
        """
        self.step_flops, self.peak, self.steps = step_flops, peak_flops_per_s, steps
        self.recent = collections.deque(maxlen=50)
        self.save_s = self.data_s = 0.0
        self.restart()

    def restart(self) -> None:
        """Leave out the time since the last read: an evaluation or a save."""
        self.then = time.perf_counter()

    def read(self, channel_seconds: float) -> dict[str, float]:
        """Return the rates of the step that has just been waited for.

        Args:
            channel_seconds: seconds of signal in its batch, each channel counted for itself.
        """
        now = time.perf_counter()
        step_s, self.then = now - self.then, now
        self.recent.append(step_s)
        rates = {"channel_seconds": channel_seconds, "step_s": step_s}
        rates["channel_seconds_per_s"] = channel_seconds / step_s
        rates |= {"data_s": self.data_s, "compiled": compile_cache.compiled()}
        if self.peak:
            rates["mfu"] = self.step_flops / step_s / self.peak
        if self.save_s:
            rates["save_s"], self.save_s = self.save_s, 0.0
        return rates

    def line(self, step: int, values: dict[str, float]) -> str:
        """Return the progress line: where, how fast, how long yet, the loss."""
        step_s = float(np.median(self.recent))
        left = int(step_s * (self.steps - step))
        return (
            f"step {step}/{self.steps}  loss {values['loss']:.4f}  {1 / step_s:.2f} steps/s"
            f"  {values['channel_seconds_per_s']:.0f} channel-seconds/s"
            f"  {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"
        )


@dataclasses.dataclass(frozen=True)
class LogOptions:
    """``config.logs``: what a run says.

    Attributes:
        every: steps between progress lines.
        tensorboard: also write TensorBoard's event files.
        mfu: measure the devices' matmul rate at the start and report each step's share of it.
        compile_cache: folder of compiled programs, kept between runs; "" for none.
        profile: first and last step that jax.profiler traces, into ``workdir/profile`` (open it
            with TensorBoard's profile plug-in or Perfetto), of several processes into a folder
            each; () for none.
    """

    every: int = 10
    tensorboard: bool = True
    mfu: bool = True
    compile_cache: str = compile_cache.FOLDER
    profile: tuple[int, ...] = ()

    def __post_init__(self):
        if len(self.profile) not in (0, 2) or list(self.profile) != sorted(self.profile):
            raise ConfigError(
                f"config.logs.profile={self.profile} is not () or (first step, last step)"
            )
