"""The table of the runs of a sweep, for a terminal or a log."""

from __future__ import annotations

import collections
import sys
import time

from hypnos_jax.jobs.sweeps import DONE, FAILED, RUNNING, STOPPED, WAITING

SHOW_S = 0.5  # a terminal
TELL_S = 60.0  # a log
ROWS = 20  # of a terminal; runs that run or have failed come first
ORDER = (RUNNING, FAILED, STOPPED, WAITING, DONE)


class RunTable:
    """A live table where stdout is a terminal, else a line whenever something happens."""

    def __init__(self, jobs: list):
        """Tell of jobs, which change.

        Args:
            jobs: ``launch.backends.local.Job``.
        """
        self.jobs, self.live, self.last = jobs, None, 0.0
        self.began, self.done_before = time.monotonic(), 0.0

    def begin(self) -> None:
        """Begin to show."""
        self.began, self.done_before = time.monotonic(), self.work()
        if sys.stdout.isatty():
            from rich.live import Live

            self.live = Live(self.render(), auto_refresh=False)
            self.live.start()
        else:
            self.tell()

    def end(self) -> None:
        """Show how it ended."""
        if self.live is not None:
            self.live.update(self.render(), refresh=True)
            self.live.stop()
        else:
            self.tell()

    def say(self, text: str) -> None:
        """Say that something happened."""
        if self.live is not None:
            self.live.console.print(text, markup=False, highlight=False)
        else:
            print(text, flush=True)

    def show(self) -> None:
        """Show the present, not too often."""
        now = time.monotonic()
        if now - self.last < (TELL_S if self.live is None else SHOW_S):
            return
        self.last = now
        if self.live is not None:
            self.live.update(self.render(), refresh=True)
        else:
            self.tell()

    def tell(self, states: tuple[str, ...] = (RUNNING,)) -> None:
        """Print the counts, and where those are that run, or are in other states."""
        print(self.counts(), flush=True)
        for job in self.jobs:
            if job.state in states:
                words = [word for word in (job.run.name, *self.cells(job)) if word]
                print("  " + "  ".join(words), flush=True)
        self.last = time.monotonic()

    def counts(self) -> str:
        """``3 done, 2 running, 5 waiting; 0:12:30 left``."""
        found = collections.Counter(job.state for job in self.jobs)
        words = ", ".join(
            f"{found[state]} {state}" for state in (DONE, *ORDER[:-1]) if found[state]
        )
        left = self.left_s()
        return words if left is None else f"{words}; {clock(left)} left"

    def work(self, of_all: bool = False) -> float:
        """FLOPs done so far, or of all; those of a failed run do not count."""
        return sum(
            job.run.cost["flops_per_step"]
            * (job.run.steps if of_all else min(job.progress.step, job.run.steps))
            for job in self.jobs
            if job.state != FAILED
        )

    def left_s(self) -> float | None:
        """Seconds that all will take at the rate so far; None where all is done, or nothing."""
        done, whole = self.work(), self.work(of_all=True)
        rate = (done - self.done_before) / max(time.monotonic() - self.began, 1e-3)
        return (whole - done) / rate if rate > 0 and whole > done else None

    def cells(self, job) -> tuple[str, str, str, str]:
        """State, step, loss, time left of a run."""
        at, steps = job.progress, job.run.steps
        left = ""
        if job.state == RUNNING and at.step_s:
            left = clock(at.step_s * (steps - at.step))
        loss = "" if at.loss is None else f"{at.loss:.4f}"
        state = f"{job.state}: {job.why}" if job.why else job.state
        return state, f"{at.step}/{steps}", loss, left

    def render(self):
        """Return the table."""
        from rich.table import Table

        drawn = Table(title=self.counts(), title_justify="left", box=None)
        drawn.add_column("run", no_wrap=True)
        for name in ("state", "step", "loss", "left"):
            drawn.add_column(name, justify="left" if name == "state" else "right")
        jobs = sorted(self.jobs, key=lambda job: ORDER.index(job.state))
        for job in jobs[:ROWS]:
            drawn.add_row(job.run.name, *self.cells(job))
        if len(jobs) > ROWS:
            drawn.add_row(f"and {len(jobs) - ROWS} more", "", "", "", "")
        return drawn


def clock(seconds: float) -> str:
    """``1:02:03``."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
