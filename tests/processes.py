"""Processes of one program, for tests: a failing or hanging one fails the test in seconds.

Normally a Python process that raises waits at its end for the others, and they for it. Here each
starts with a hook that ends it at once and with a deadline after which it shows its stacks; the
first that ends badly ends the others.
"""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

from hypnos_jax.runtime.ports import free_port

TESTS = pathlib.Path(__file__).parent
ROOT = TESTS.parent

PRELUDE = """
import faulthandler, json, os, sys, traceback
def die(kind, error, trace):
    traceback.print_exception(kind, error, trace); sys.stderr.flush(); sys.stdout.flush()
    os._exit(1)
sys.excepthook = die
faulthandler.dump_traceback_later({deadline_s}, exit=True)
import jax
jax.config.update("jax_num_cpu_devices", {devices})
if {count} > 1:
    jax.distributed.initialize("127.0.0.1:{port}", {count}, {index},
        initialization_timeout=60, heartbeat_timeout_seconds=20)
def report(value):
    with open({result!r}, "w") as file: json.dump(value, file)
"""


class Failed(AssertionError):
    """A process ended badly; the message has the ends of all logs."""


class Group:
    """Processes that were started together, with a log each."""

    def __init__(
        self, commands: list[list[str]], folder: pathlib.Path, environments: list[dict[str, str]]
    ):
        """Start them.

        Args:
            commands: one a process.
            folder: gets ``process_<i>.log``.
            environments: further variables of each.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.logs = [folder / f"process_{i}.log" for i in range(len(commands))]
        path = f"{ROOT}{os.pathsep}{TESTS}"
        inherited = {k: v for k, v in os.environ.items() if k != "JAX_COORDINATOR_ADDRESS"}
        self.all = []
        for command, log, own in zip(commands, self.logs, environments, strict=True):
            with log.open("a") as file:  # a pipe would fill up
                self.all.append(
                    subprocess.Popen(
                        command,
                        cwd=ROOT,
                        env=inherited | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": path} | own,
                        stdout=file,
                        stderr=file,
                    )
                )

    def wait(self, seconds: float = 120, codes: tuple[int, ...] = (0,)) -> list[int]:
        """Wait until all have ended; return their exit codes.

        Args:
            seconds: for all of them.
            codes: the good ones; any other ends the rest.

        Raises:
            Failed: one ended badly, or not in time.
        """
        end = time.monotonic() + seconds
        while None in (found := [process.poll() for process in self.all]):
            if not set(found) <= {None, *codes} or time.monotonic() > end:
                time.sleep(0.5)  # for the words of those that are ending
                self.kill()
                break
            time.sleep(0.05)
        found = [process.returncode for process in self.all]
        if any(code not in codes for code in found):
            raise Failed(f"exit codes {found}\n{self.words()}")
        return found

    def wait_for(self, condition, seconds: float = 120) -> None:
        """Wait until ``condition()`` holds while all are running; else ``Failed``."""
        end = time.monotonic() + seconds
        while not condition():
            codes = [process.poll() for process in self.all]
            if any(code is not None for code in codes) or time.monotonic() > end:
                self.kill()
                raise Failed(f"waited in vain; exit codes {codes}\n{self.words()}")
            time.sleep(0.02)

    def words(self) -> str:
        """The ends of all logs."""
        return "\n".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in self.logs)

    def kill(self) -> None:
        """End those that are left."""
        for process in self.all:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
        for process in self.all:
            process.wait()

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *error) -> None:
        self.kill()


def run(
    body: str, count: int, folder: pathlib.Path, *, devices: int = 1, deadline_s: float = 120
) -> list:
    """Run a piece of Python in processes that jax has joined; return what each reported.

    Args:
        body: Python; may call ``report(JSON value)`` once.
        count: how many processes.
        folder: for logs and reports.
        devices: fake devices of each.
        deadline_s: seconds until a process that still runs shows its stacks and ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    results = [folder / f"result_{i}.json" for i in range(count)]
    commands = [
        [
            sys.executable,
            "-c",
            PRELUDE.format(
                deadline_s=deadline_s,
                devices=devices,
                count=count,
                index=i,
                port=port,
                result=str(result),
            )
            + body,
        ]
        for i, result in enumerate(results)
    ]
    with Group(commands, folder, [{}] * count) as group:
        group.wait(deadline_s + 10)
    return [json.loads(r.read_text()) if r.exists() else None for r in results]


TRAIN = """
import json, os, sys
from hypnos_jax.runtime import preemption
coordinator, count, index, config, workdir = sys.argv[1:]
preemption.listen()
from absl import logging
logging.set_verbosity(logging.INFO)
from hypnos_jax import checkpoint
from hypnos_jax.runtime import distributed
checkpoint.quiet()
exec(os.environ["BEFORE"])
from hypnos_jax.train import train
try:
    distributed.initialize(coordinator or None, *(map(int, (count, index)) if coordinator else ()))
    code = train(json.loads(config), workdir)
except ValueError as error:
    logging.error("%s: %s", type(error).__name__, error)
    distributed.fail(error)
distributed.shutdown()
sys.exit(code)
"""


def start_training(
    configs: list[dict], workdir: pathlib.Path, *, devices: int = 1, before: str = ""
) -> Group:
    """Start a training in as many processes as there are configs (each process its own).

    Args:
        configs: of each process, in order.
        workdir: of the run.
        devices: fake devices of each process.
        before: Python that runs before the training, with ``index`` the process's number.
    """
    count = len(configs)
    coordinator = f"127.0.0.1:{free_port()}" if count > 1 else ""
    commands = [
        [sys.executable, "-c", TRAIN, coordinator, str(count), str(i)]
        + [json.dumps(config), str(workdir)]
        for i, config in enumerate(configs)
    ]
    folder = workdir.with_name(workdir.name + "_logs")
    environment = {"JAX_NUM_CPU_DEVICES": str(devices), "BEFORE": before}
    return Group(commands, folder, [environment] * count)


def start_toy(configs: list[dict], workdir: pathlib.Path, *, before: str = "", **given) -> Group:
    """Start the toy's training; see ``start_training``."""
    install = "import toy_objective\ntoy_objective.install()\n"
    return start_training(configs, workdir, before=install + before, **given)
