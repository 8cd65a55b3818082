"""Metrics on disk: ``metrics.jsonl``, one JSON object a line, and TensorBoard beside it.

A train step's line: ``{"step": 12, "loss": ..., <the objective's metrics>, "learning_rate",
"grad_norm", "step_s", "channel_seconds_per_s", "mfu"}``; ``step`` counts updates from 1, and the
loss is that of the parameters before this update. An evaluation's line:
``{"step": 12, "eval/<name>/<metric>": ...}``, of the parameters after update 12. Each train step
has exactly one line, however often the run was stopped: a resumed run first cuts the file back to
what it held when its checkpoint was saved.
"""

from __future__ import annotations

import json
import os
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np


class Writer:
    """Appends metrics to a run's files; on processes other than the first it writes nothing."""

    def __init__(self, workdir: pathlib.Path, *, offset: int = 0, tensorboard: bool = True):
        """Open the files.

        Args:
            workdir: the run's folder.
            offset: bytes of ``metrics.jsonl`` to keep (``Writer.offset`` at the checkpoint).
            tensorboard: also write TensorBoard's event files, to ``workdir/tensorboard``.
        """
        self.file = self.board = None
        if jax.process_index() != 0:
            return
        path = workdir / "metrics.jsonl"
        path.touch()
        os.truncate(path, min(offset, path.stat().st_size))
        self.file = path.open("a")  # noqa: SIM115 (closed by close)
        if tensorboard:
            from tensorboardX import SummaryWriter

            self.board = SummaryWriter(str(workdir / "tensorboard"))

    def write(self, step: int, values: dict[str, float]) -> None:
        """Append one object; a value that is not finite is written as null."""
        if self.file is None:
            return
        finite = {k: v if abs(v) < float("inf") else None for k, v in values.items()}
        self.file.write(json.dumps({"step": step, **finite}) + "\n")
        self.file.flush()
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)

    def offset(self) -> int:
        """Bytes of ``metrics.jsonl`` so far, all of them safe on the disk."""
        if self.file is None:
            return 0
        os.fsync(self.file.fileno())
        return os.fstat(self.file.fileno()).st_size

    def close(self) -> None:
        """Flush and close both."""
        if self.file is not None:
            self.file.close()
        if self.board is not None:
            self.board.close()


def read(path: str | os.PathLike) -> list[dict]:
    """Return the objects of a ``metrics.jsonl``."""
    return [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]


def words(values: dict[str, float]) -> str:
    """Return ``name value`` pairs for a log line."""
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())


class Clock:
    """Rates of a training run: step time, throughput, share of the devices' matmul rate.

    ``mfu`` divides the floating-point operations that XLA counts in the compiled step by the step's
    time and by a matrix product's rate measured on the same devices. XLA counts the body of a
    loop once however often it runs, so scanned layers and micro-batches make it too low.
    """

    def __init__(self, compiled, mesh: jax.sharding.Mesh, *, steps: int, measure: bool = True):
        """Count the step's operations and, if asked, measure the matmul rate (under a second).

        Args:
            compiled: the compiled train step.
            mesh: its devices.
            steps: of the whole run, for the time left.
            measure: report ``mfu``.
        """
        self.steps = steps
        self.flops = operations(compiled) * mesh.size
        self.rate = matmul_rate(mesh) if measure else None
        self.recent = []
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
        self.recent = [*self.recent[-49:], step_s]
        rates = {"step_s": step_s, "channel_seconds_per_s": channel_seconds / step_s}
        if self.rate and self.flops:
            rates["mfu"] = self.flops / step_s / self.rate
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


def operations(compiled) -> float:
    """Return the floating-point operations per device that XLA counts; 0 where it does not say."""
    cost = compiled.cost_analysis()
    cost = cost[0] if isinstance(cost, list | tuple) else cost
    return float((cost or {}).get("flops", 0.0))


def matmul_rate(mesh: jax.sharding.Mesh, *, size: int = 1024, dtype=jnp.float32) -> float:
    """Return the FLOP/s of a [size, size] matrix product, all devices of the mesh together."""
    whole = (mesh.size, size, size)
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(mesh.axis_names))
    x = jax.jit(lambda: jnp.ones(whole, dtype), out_shardings=place)()
    product = jax.jit(lambda x: x @ x * jnp.asarray(1 / size, dtype), out_shardings=place)
    product(x).block_until_ready()
    best = float("inf")
    for _ in range(5):
        then = time.perf_counter()
        product(x).block_until_ready()
        best = min(best, time.perf_counter() - then)
    return 2.0 * mesh.size * size**3 / best
