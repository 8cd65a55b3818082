"""Commands of this project that a longer job consists of, printed before they run."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time


class StepError(RuntimeError):
    """A command of the job failed."""


def command(name: str, *arguments: str) -> float:
    """Print and run ``python -m launch.<name> ...``; return the seconds it took.

    Raises:
        StepError: it did not succeed.
    """
    words = ["-m", f"launch.{name}", *arguments]
    print(f"\n$ python {shlex.join(words)}", flush=True)
    begin = time.monotonic()
    code = subprocess.run([sys.executable, *words]).returncode
    if code:
        raise StepError(f"launch.{name} ended with exit code {code}; the same command resumes")
    return time.monotonic() - begin
