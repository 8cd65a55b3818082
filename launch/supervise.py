"""Run a training until it is done: ``python -m launch.supervise -- python -m launch.train ...``.

Starts the command (``--processes=N``: N of them on this machine, which find each other) and starts
it again when it broke off: stopped from outside and saved (75), stuck (76), crashed. When one of
several processes ends badly, the others are ended: their state cannot be saved. SIGINT and SIGTERM
are passed on; after one of them nothing is started again, and after the second SIGINT everything
ends at once.

An error of config or data (1) ends it, unless the attempt had saved a step: what was wrong stays
wrong. So do more than ``--restarts`` attempts in a row that saved nothing new. What was saved is
looked for in the folder that the command names with ``--workdir``. Exit codes: the training's own.
On Linux the processes get SIGTERM when the supervisor is gone (SIGKILL), so that they save and end.
"""

import functools
import os
import pathlib
import signal
import subprocess
import sys
import time

from absl import app, flags, logging

from hypnos_jax.jobs.progress import newest_step
from hypnos_jax.runtime.exit_codes import DONE, FAILED, STOPPED_EARLY
from hypnos_jax.runtime.ports import free_port
from launch.children import end_with_parent

PROCESSES = flags.DEFINE_integer("processes", 1, "processes on this machine", lower_bound=1)
RESTARTS = flags.DEFINE_integer("restarts", 5, "attempts in a row that save nothing", lower_bound=0)
BACKOFF_S = flags.DEFINE_float("backoff_s", 5.0, "before a restart; doubles, to 5 minutes", 0.0)

GRACE_S = 15.0  # for the others to say what they know when one has ended badly
LONGEST_BACKOFF_S = 300.0
LOOK_S = 0.1


class Supervisor:
    """Attempts at one command; ``run`` returns the exit code of the last."""

    def __init__(self, command: list[str], processes: int, restarts: int, backoff_s: float):
        self.command, self.processes = command, processes
        self.restarts, self.backoff_s = restarts, backoff_s
        self.workdir = workdir_of(command)
        self.running: list[subprocess.Popen] = []
        self.first_bad: int | None = None
        self.signals: list[int] = []

    def hear(self, number: int, frame) -> None:
        """Remember a signal, which ``wait`` passes on; nothing is started after it."""
        self.signals.append(number)

    def run(self) -> int:
        """Attempt until it is done, an error, or too many attempts saved nothing."""
        in_vain = 0
        while True:
            before = self.newest_step()
            code = self.attempt()
            saved = self.newest_step() > before
            in_vain = 0 if saved else in_vain + 1
            if code == DONE or self.signals:
                return code
            if code == FAILED and not saved:
                logging.error("an error before anything was saved: not started again")
                return code
            if in_vain > self.restarts:
                logging.error("%d attempts in a row saved nothing: giving up", in_vain)
                return code
            wait_s = min(self.backoff_s * 2 ** max(in_vain - 1, 0), LONGEST_BACKOFF_S)
            logging.warning("ended with code %d; again in %.0f s", code, wait_s)
            end = time.monotonic() + wait_s
            while time.monotonic() < end and not self.signals:
                time.sleep(LOOK_S)
            if self.signals:
                return code

    def attempt(self) -> int:
        """Run all processes to their end; return the exit code that tells most."""
        extra = [[]]
        if self.processes > 1:
            address = f"127.0.0.1:{free_port()}"
            extra = [
                [f"--coordinator={address}", f"--processes={self.processes}", f"--process={i}"]
                for i in range(self.processes)
            ]
        # Sessions of their own: the terminal's Ctrl-C would reach them twice.
        begin = functools.partial(end_with_parent, os.getpid())
        self.running = [
            subprocess.Popen([*self.command, *flags_], start_new_session=True, preexec_fn=begin)
            for flags_ in extra
        ]
        try:
            self.wait()
        finally:
            for process in self.running:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        if self.first_bad is not None:
            return self.first_bad if self.first_bad > 0 else 128 - self.first_bad
        codes = [process.returncode for process in self.running]
        return STOPPED_EARLY if STOPPED_EARLY in codes else DONE

    def wait(self) -> None:
        """Wait until all have ended, or a while after one has ended badly; pass signals on."""
        end = self.first_bad = None
        passed, running = 0, True
        while running:
            # Here and not in the handler, which does not know of processes that are being started.
            for number in self.signals[passed:]:
                passed += 1
                for process in self.running:
                    process.send_signal(number)
            codes = [process.poll() for process in self.running]
            running = None in codes
            bad = [code for code in codes if code not in (None, DONE, STOPPED_EARLY)]
            if bad and self.first_bad is None:
                # The first is the cause. Of several, least likely those that jax aborts for it.
                self.first_bad = min(bad, key=lambda code: (code == -signal.SIGABRT, code))
                end = time.monotonic() + GRACE_S
            if self.signals.count(signal.SIGINT) > 1 and end is None:
                end = time.monotonic() + 1.0
            if end is not None and time.monotonic() > end:
                return
            if running:
                time.sleep(LOOK_S)

    def newest_step(self) -> int:
        """The newest saved step of the run; -1 for none."""
        return -1 if self.workdir is None else newest_step(self.workdir)


def workdir_of(command: list[str]) -> pathlib.Path | None:
    """Return the folder that a command names with ``--workdir=DIR`` or ``--workdir DIR``."""
    for word, following in zip(command, [*command[1:], ""]):
        name, equals, value = word.partition("=")
        if name in ("--workdir", "-workdir"):
            return pathlib.Path(value if equals else following)
    return None


def main(argv):
    command = argv[1:]
    if not command:
        raise app.UsageError("no command: give it after --, as -- python -m launch.train ...")
    logging.set_verbosity(logging.INFO)
    supervisor = Supervisor(command, PROCESSES.value, RESTARTS.value, BACKOFF_S.value)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, supervisor.hear)
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(app.run(main))
