"""Run a sweep: ``python -m launch.sweep --sweep=FILE:SIZE --output=DIR``."""

import json
import pathlib
import signal
import sys

from absl import app, flags, logging

from hypnos_jax import sweeps

SWEEP = flags.DEFINE_string("sweep", None, "FILE or FILE:SIZE, configs/sweeps/isoflop.py:smoke")
OUTPUT = flags.DEFINE_string("output", None, "folder of the sweep; the runs are in its runs/")
BACKEND = flags.DEFINE_enum(
    "backend", "local", ["local", "slurm", "jobset", "print"], "where the runs are started"
)
SET = flags.DEFINE_multi_string("set", [], "KEY=VALUE of all runs, such as data.path=TOKENS")
EVAL_JOBS = flags.DEFINE_bool("eval_jobs", True, "an evaluating job beside each training")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "say or write what would be started; start nothing")
JOBS = flags.DEFINE_integer("jobs", 1, "local: runs at a time", lower_bound=1)


def settings(texts: list[str]) -> dict:
    """Return KEY=VALUE texts as a dict; a value is JSON where it can be, else a string.

    Raises:
        ValueError: a text without "=".
    """
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--set={text}: give KEY=VALUE")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def run_local(runs: list, folder: pathlib.Path) -> int:
    """Run them on this machine."""
    from launch.backends import local

    if DRY_RUN.value:
        pool = local.Local(runs, folder, jobs=1, evaluate=EVAL_JOBS.value)
        for job in pool.jobs:
            print("  ".join((job.run.name, *pool.table.cells(job))))
        return 0
    with local.take_lock(folder) as lock:
        pool = local.Local(runs, folder, jobs=JOBS.value, evaluate=EVAL_JOBS.value)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, pool.hear)
        return pool.run(lock)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    logging.set_verbosity(logging.INFO)
    folder = pathlib.Path(OUTPUT.value).absolute()
    try:
        given = settings(SET.value)
        name, dicts = sweeps.load_sweep(SWEEP.value)
        folder.mkdir(parents=True, exist_ok=True)
        runs = sweeps.expand(name, dicts, given=given, folder=folder, jobs=JOBS.value)
        sweeps.write_sweep(folder, name, given, runs)
        if BACKEND.value == "print":
            from launch.backends import print as backend

            return backend.start(runs, folder, evaluate=EVAL_JOBS.value)
        return run_local(runs, folder)
    except (ValueError, OSError) as error:
        logging.error("%s: %s", type(error).__name__, error)
        return 1


if __name__ == "__main__":
    flags.mark_flags_as_required(["sweep", "output"])
    sys.exit(app.run(main))
