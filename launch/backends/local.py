"""Runs of a sweep on this machine: some at a time, a process that trains and one that evaluates.

How a run's processes ended is in ``runs/<name>/ended.json``; whether its last step is saved is read
from its checkpoints. The processes hold the sweep's lock with the launcher: after a SIGKILL
of the launcher they are asked to save and end, and the lock is free when the last of them has.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

from hypnos_jax.jobs.progress import Progress, last_step, newest_step, read_progress, tail
from hypnos_jax.jobs.sweeps import (
    DONE,
    FAILED,
    ROOT,
    RUNNING,
    STOPPED,
    WAITING,
    PlannedRun,
    evaluated,
    workdir_of,
)
from hypnos_jax.runtime.exit_codes import STOPPED_EARLY
from hypnos_jax.runtime.files import write_json
from launch.backends.table import RunTable
from launch.children import end_with_parent

ALL = (DONE, RUNNING, STOPPED, FAILED, WAITING)
DONE_CODE, STOPPED_CODES = 0, (STOPPED_EARLY, -signal.SIGTERM)
WORDS = {"train": "training", "evaluate": "evaluation"}
# In a job of Slurm or Open MPI: each run would take itself for that job, and its port.
LAUNCHERS = ("SLURM_", "OMPI_")
LOOK_S = 0.2
IN_VAIN = 3  # times in a row that a run was stopped from outside and had saved nothing new
LAST_LINES = 12


@dataclasses.dataclass
class Job:
    """A run with its processes.

    Attributes:
        run: which.
        workdir: its folder.
        state: ``done``, ``running``, ``stopped``, ``failed`` or ``waiting``.
        codes: exit codes, by ``train`` and ``evaluate``; None while unknown.
        why: of a failed one, in a line.
    """

    run: PlannedRun
    workdir: pathlib.Path
    state: str = WAITING
    codes: dict = dataclasses.field(default_factory=dict)
    why: str = ""
    processes: dict = dataclasses.field(default_factory=dict)
    in_vain: int = 0
    saved: int = -1
    progress: Progress = Progress()


def read_job(run: PlannedRun, folder: pathlib.Path, evaluate: bool, held: bool = False) -> Job:
    """Return a run as its folder tells it.

    Args:
        run: which.
        folder: of the sweep.
        evaluate: whether it is done only when it is evaluated too.
        held: some launcher, or what it started, is at work in the folder.
    """
    workdir = workdir_of(folder, run)
    job = Job(run, workdir, progress=read_progress(workdir))
    job.saved = newest_step(workdir)
    try:
        job.codes = json.loads((workdir / "ended.json").read_text())
    except (OSError, ValueError):
        job.codes, held = {}, False
    trained = job.saved >= last_step(workdir, run.steps)
    kinds = {"train", "evaluate"} if evaluate else {"train"}
    if held and not kinds <= job.codes.keys():
        job.state = RUNNING
        return job
    if trained and (not evaluate or evaluated(folder, run)):
        job.state = DONE
    elif failed := [
        kind
        for kind, code in job.codes.items()
        if code not in (DONE_CODE, *STOPPED_CODES) and not (trained and kind == "train")
    ]:
        job.state = FAILED
        job.why = f"{WORDS[failed[0]]} ended with code {job.codes[failed[0]]}"
    elif workdir.exists() and (job.saved >= 0 or job.codes):
        job.state = STOPPED
    return job


class Local:
    """A pool of runs on this machine."""

    def __init__(
        self,
        runs: list[PlannedRun],
        folder: pathlib.Path,
        *,
        jobs: int,
        evaluate: bool,
        held: bool = False,
    ):
        """Read where every run is.

        Args:
            runs: of the sweep.
            folder: its folder.
            jobs: runs at a time.
            evaluate: start a process that evaluates beside each that trains.
            held: another launcher is at work in the folder.
        """
        self.folder, self.count, self.evaluate = folder, jobs, evaluate
        self.jobs = [read_job(run, folder, evaluate, held) for run in runs]
        self.signals: list[int] = []
        self.table = RunTable(self.jobs)

    def hear(self, number: int, frame) -> None:
        """Remember a signal: nothing is started after it, and what runs is asked to save and end.

        Two of SIGINT end what runs at once.
        """
        self.signals.append(number)

    def run(self, lock) -> int:
        """Run all that is not done; return the exit code.

        Args:
            lock: the sweep's open lock file, which the processes hold too.
        """
        for job in self.jobs:  # those that failed are tried again: the cause may be mended
            if job.state in (STOPPED, FAILED):
                job.state, job.why = WAITING, ""
        passed = 0
        self.table.begin()
        try:
            while True:
                self.reap()
                if not self.signals:
                    self.fill(lock)
                running = [job for job in self.jobs if job.processes]
                if not running:
                    break
                while passed < len(self.signals):
                    passed += 1
                    at_once = self.signals[:passed].count(signal.SIGINT) > 1
                    self.table.say("ending at once" if at_once else "asking all to save and end")
                    for job in running:
                        for process in job.processes.values():
                            process.send_signal(signal.SIGKILL if at_once else signal.SIGTERM)
                self.table.show()
                time.sleep(LOOK_S)
        finally:
            for job in self.jobs:
                for process in job.processes.values():  # none, unless something was raised
                    process.terminate()
            self.table.end()
        states = [job.state for job in self.jobs]
        if FAILED in states:
            return 1
        return 0 if set(states) == {DONE} else STOPPED_EARLY

    def fill(self, lock) -> None:
        """Start what waits, as far as there is room."""
        for job in self.jobs:
            if sum(bool(job.processes) for job in self.jobs) >= self.count:
                return
            if job.state == WAITING:
                self.begin(job, lock)

    def begin(self, job: Job, lock) -> None:
        """Start a run's processes: to train where its last step is not saved, and to evaluate."""
        job.workdir.mkdir(parents=True, exist_ok=True)
        job.state, job.codes, job.saved = RUNNING, {}, newest_step(job.workdir)
        if job.saved < last_step(job.workdir, job.run.steps):
            job.processes["train"] = self.spawn(job, "train", job.run.train(job.workdir), lock)
        else:
            job.codes["train"] = 0
        if self.evaluate:
            words = job.run.evaluate(job.workdir)
            job.processes["evaluate"] = self.spawn(job, "evaluate", words, lock)
        self.note(job)
        self.table.say(f"started {job.run.name}")

    def spawn(self, job: Job, kind: str, words: list[str], lock) -> subprocess.Popen:
        """Start one process, its words in a log of the run's folder."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHERS)}
        environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # there are others
        with (job.workdir / f"{kind}.log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, *words],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[lock.fileno()],
                start_new_session=True,  # the terminal's Ctrl-C would reach it twice
                preexec_fn=functools.partial(end_with_parent, os.getpid()),
            )

    def reap(self) -> None:
        """Take up what has ended."""
        for job in self.jobs:
            for kind, process in list(job.processes.items()):
                code = process.poll()
                if code is None:
                    continue
                del job.processes[kind]
                job.codes[kind] = code
                self.note(job)
                if kind == "train" and code != 0 and "evaluate" in job.processes:
                    job.processes["evaluate"].terminate()  # it would wait for more
            if job.state == RUNNING:
                job.progress = read_progress(job.workdir)
                if not job.processes:
                    self.close(job)

    def close(self, job: Job) -> None:
        """Judge a run whose processes have ended."""
        codes = {"train": job.codes["train"], "evaluate": job.codes.get("evaluate", DONE_CODE)}
        bad = [kind for kind, code in codes.items() if code not in (DONE_CODE, *STOPPED_CODES)]
        saved = newest_step(job.workdir)
        if set(codes.values()) == {DONE_CODE}:
            job.state = DONE
            self.table.say(f"done {job.run.name}")
        elif self.signals:
            job.state = STOPPED
            self.table.say(f"stopped {job.run.name} at step {max(saved, 0)}")
        elif not bad:  # somebody else stopped it
            job.in_vain = 0 if saved > job.saved else job.in_vain + 1
            job.state = WAITING
            self.table.say(f"stopped from outside {job.run.name} at step {max(saved, 0)}")
            if job.in_vain == IN_VAIN:
                self.fail(job, "train", f"stopped {IN_VAIN} times, and nothing saved")
        else:
            self.fail(job, bad[0], f"{WORDS[bad[0]]} ended with code {codes[bad[0]]}")

    def fail(self, job: Job, kind: str, why: str) -> None:
        """Give a run up, and say why, with the end of its log."""
        job.state, job.why = FAILED, why
        log = job.workdir / f"{kind}.log"
        lines = tail(log).splitlines()[-LAST_LINES:]
        self.table.say("\n  ".join([f"failed {job.run.name}: {why}; the end of {log}:", *lines]))

    def note(self, job: Job) -> None:
        """Write a run's exit codes, whole or not at all."""
        write_json(job.workdir / "ended.json", job.codes)
