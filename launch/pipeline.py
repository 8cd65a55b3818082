"""Run a pipeline: ``python -m launch.pipeline --pipeline=FILE[:ARGUMENT] --output=DIR``.

A pipeline is a file of ``configs/pipelines`` that returns a list of steps. Each is a command of
this project, printed before it runs. ``--set name=value`` gives the pipeline an option, repeatedly
(a value is JSON where it can be, else a string). ``--dry_run`` prints the steps and runs nothing.

The same command again skips what is done (``launch/steps.py`` says when a step is), and resumes
what was interrupted, by ``kill -9`` of this or of the step too. A step that fails ends the
pipeline. Ctrl-C and SIGTERM ask the step to save and end; a second Ctrl-C ends it at once. Exit
codes: 0 all done, 1 an error of the pipeline, or a step failed, 75 stopped by a signal.
"""

import functools
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

from absl import app, flags, logging

from hypnos_jax.runtime.exit_codes import STOPPED_EARLY
from launch.children import end_with_parent, take_lock
from launch.overrides import settings
from launch.steps import Records, Step, inputs, left_out, load_pipeline, words

PIPELINE = flags.DEFINE_string("pipeline", None, "FILE or FILE:ARGUMENT")
FOLDER = flags.DEFINE_string("output", None, "folder for everything that the pipeline writes")
SET = flags.DEFINE_multi_string("set", [], "NAME=VALUE, an option of the pipeline")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "print the steps, run nothing")

LOOK_S = 0.1


class StepError(RuntimeError):
    """A step failed."""


class Runner:
    """Runs steps, one after another."""

    def __init__(self, steps: list[Step], folder: pathlib.Path):
        """Take the steps and the folder, which is there."""
        self.steps, self.folder, self.records = steps, folder, Records(steps, folder)
        self.signals: list[int] = []

    def hear(self, number: int, frame) -> None:
        """Remember a signal: nothing is started after it, and what runs is asked to save and end.

        Two of SIGINT end what runs at once.
        """
        self.signals.append(number)

    def show(self) -> None:
        """Print all steps and what a run would do of them."""
        for step in self.steps:
            done = self.records.is_done(step)
            if not done:
                self.records.forget(step)
            state = (
                "done" if done else "to do, if there are such channels" if step.needs else "to do"
            )
            print(f"{self._place(step)}: {state}\n$ {self._line(step)}\n")
        left = [step for step in self.steps if not self.records.is_done(step)]
        print(
            f"{len(left)} of {len(self.steps)} steps to do, about {span(self.records.expect(left))}"
        )

    def run(self, lock) -> int:
        """Run all that is not done; return the exit code.

        Args:
            lock: the folder's open lock file, which the steps hold too.

        Raises:
            StepError: a step failed.
        """
        begin = time.monotonic()
        for i, step in enumerate(self.steps):
            if self.records.is_done(step):
                print(f"{self._place(step)}: done ({span(self.records.seconds(step))})", flush=True)
                continue
            why = left_out(step, self.folder)
            if why:
                print(f"{self._place(step)}: left out, {why}", flush=True)
                continue
            rest = [later for later in self.steps[i:] if not self.records.is_done(later)]
            print(
                f"\n{self._place(step)}: {span(time.monotonic() - begin)} so far, about"
                f" {span(self.records.expect(rest))} left\n$ {self._line(step)}",
                flush=True,
            )
            code = self._run_step(step, lock)
            if self.signals or code == STOPPED_EARLY:
                print(f"{self._place(step)}: stopped; the same command goes on", flush=True)
                return STOPPED_EARLY
            if code or not (self.folder / step.output).exists():
                end = f"ended with exit code {code}" if code else f"left no {step.output}"
                raise StepError(
                    f"{self._place(step)} failed: the command\n  {self._line(step)}\n{end}. What it"
                    " printed says why. When the cause is mended, go on from this step by\n  python"
                    f" -m launch.pipeline {shlex.join(sys.argv[1:])}"
                )
        print(f"\n{len(self.steps)} steps, {span(time.monotonic() - begin)} in all")
        return 0

    def _run_step(self, step: Step, lock) -> int:
        self.records.begin(step)
        read, begin, passed = inputs(step, self.folder), time.monotonic(), 0
        process = subprocess.Popen(
            [sys.executable, *words(step, self.folder)],
            pass_fds=[lock.fileno()],
            start_new_session=True,  # the terminal's Ctrl-C would reach it twice
            preexec_fn=functools.partial(end_with_parent, os.getpid()),
        )
        while process.poll() is None:
            while passed < len(self.signals):
                passed += 1
                at_once = self.signals[:passed].count(signal.SIGINT) > 1
                process.send_signal(signal.SIGKILL if at_once else signal.SIGTERM)
            time.sleep(LOOK_S)
        if process.returncode == 0 and (self.folder / step.output).exists():
            self.records.finish(step, time.monotonic() - begin, read)
        return process.returncode

    def _place(self, step: Step) -> str:
        return f"[{self.steps.index(step) + 1}/{len(self.steps)}] {step.name}"

    def _line(self, step: Step) -> str:
        return f"python {shlex.join(words(step, self.folder))}"


def span(seconds: float) -> str:
    """Return a length of time in words: ``45 s``, ``12 min``, ``3.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    logging.set_verbosity(logging.INFO)
    folder = pathlib.Path(FOLDER.value)
    try:
        steps = load_pipeline(PIPELINE.value, settings("set", SET.value))
        if DRY_RUN.value:
            Runner(steps, folder).show()
            return 0
        folder.mkdir(parents=True, exist_ok=True)
        with take_lock(folder) as lock:
            runner = Runner(steps, folder)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, runner.hear)
            return runner.run(lock)
    except StepError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        logging.error("%s: %s", type(error).__name__, error)
        return 1


if __name__ == "__main__":
    flags.mark_flags_as_required(["pipeline", "output"])
    sys.exit(app.run(main))
