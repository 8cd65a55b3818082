"""Run a sweep of trainings, each with a job that evaluates it, here or on a cluster.

    python -m launch.sweep --sweep=configs/sweeps/isoflop.py:smoke --output=DIR --jobs=2 \\
        [--set=data.path=TOKENS]

A sweep is a file with ``get_sweep(size)`` that returns a dict of overrides for each run
(``hypnos_jax/jobs/sweeps.py`` says which keys; ``configs/grids.py`` combines them). ``--set``
changes or adds to all of them, repeatedly. Everything is checked before anything starts, each key
of each run; where no data are given, the runs share tiny synthetic ones. ``DIR/sweep.json`` then
has every run with its overrides and its cost, and ``DIR/runs/<name>/`` is a run's workdir; its name
is the same for the same settings, wherever the data lie. Every backend starts the same two commands
for a run, ``python -m launch.train --config=... --workdir=... --config.KEY=VALUE...`` and ``python
-m launch.evaluate --workdir=... --follow``:

``local``   ``--jobs`` runs at a time on this machine, until all are done. A failed run is reported
            with the end of its log (``train.log``, ``evaluate.log`` in its workdir) and holds up no
            other. Ctrl-C or SIGTERM: all save and end; a second Ctrl-C ends them at once. They end,
            saved, as well when this process is killed. The same command goes on: what is done is
            skipped, what was begun is resumed, what failed is tried again. They share a GPU: each
            takes the memory that it needs, unless ``XLA_PYTHON_CLIENT_PREALLOCATE`` is set.
``slurm``   an array of trainings, at most ``--jobs`` at a time, and a job each that evaluates once
            its training has begun, by submitit (``pip install -e '.[slurm]'``); preempted or out of
            time they save and requeue. ``--slurm`` has submitit's parameters, repeatedly:
            ``--slurm=slurm_partition=gpu --slurm=gpus_per_node=1 --slurm=timeout_min=720``.
``jobset``  a Kubernetes JobSet each for a TPU slice, written to ``DIR/jobsets`` for ``kubectl``;
            evaluations of models that are not small want ``--eval_tpu=v5e:1x1``.
            ``--seen`` and ``--set=data.path`` are places as the pods see them; what here is in
            ``--data_here`` is read for what the runs will find in ``data.path``.
``print``   the commands, one a line, for a shell.

``--dry_run`` starts nothing: ``local`` says where each run is, ``slurm`` writes what it would
submit. Exit codes: 0 all done (or submitted, written, said), 1 an error of sweep, config or data,
or a run failed, 75 stopped by a signal and saved, or not all done.
"""

import pathlib
import signal
import sys

from absl import app, flags, logging

from hypnos_jax.jobs import sweeps
from launch.children import is_held, take_lock
from launch.overrides import settings

SWEEP = flags.DEFINE_string("sweep", None, "FILE or FILE:SIZE")
OUTPUT = flags.DEFINE_string("output", None, "folder of the sweep")
BACKEND = flags.DEFINE_enum(
    "backend", "local", ["local", "slurm", "jobset", "print"], "where the runs are started"
)
SET = flags.DEFINE_multi_string("set", [], "KEY=VALUE of all runs, such as data.path=TOKENS")
JOBS = flags.DEFINE_integer("jobs", 1, "local, slurm: runs at a time", lower_bound=1)
EVAL_JOBS = flags.DEFINE_bool("eval_jobs", True, "a job that evaluates beside each training")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "start nothing")

SLURM = flags.DEFINE_multi_string(
    "slurm", [], "slurm: KEY=VALUE of submitit; devices are not for the jobs that evaluate"
)
SLURM_EVAL = flags.DEFINE_multi_string("slurm_eval", [], "slurm: for the jobs that evaluate")

TPU = flags.DEFINE_string("tpu", "v5e:2x4", "jobset: slice of a run")
EVAL_TPU = flags.DEFINE_string("eval_tpu", "", "jobset: slice of a job that evaluates, v5e:1x1")
EVAL_CPUS = flags.DEFINE_integer("eval_cpus", 4, "jobset: of a job that evaluates without", 1)
EVAL_MEMORY = flags.DEFINE_string("eval_memory", "16Gi", "jobset: of a job that evaluates without")
IMAGE = flags.DEFINE_string(
    "image", None, "jobset: begins in this project's folder, with it and jax[tpu] installed"
)
CLAIM = flags.DEFINE_string("claim", None, "jobset: PersistentVolumeClaim for workdirs and data")
MOUNT = flags.DEFINE_string("mount", "/shared", "jobset: where the pods see it")
SEEN = flags.DEFINE_string("seen", None, "jobset: the sweep's folder as pods see it; MOUNT/name")
DATA_HERE = flags.DEFINE_string("data_here", "", "what the runs find in data.path, as seen here")
QUEUE = flags.DEFINE_string("queue", "", "jobset: of Kueue")
NAMESPACE = flags.DEFINE_string("namespace", "", "jobset: of Kubernetes")
MAX_RESTARTS = flags.DEFINE_integer("max_restarts", 20, "jobset: of a run", 0)


def run_local(runs: list, folder: pathlib.Path) -> int:
    """PlannedRun them on this machine."""
    from launch.backends import local

    options = {"jobs": JOBS.value, "evaluate": EVAL_JOBS.value}
    if DRY_RUN.value:
        pool = local.Local(runs, folder, held=is_held(folder), **options)
        pool.table.tell(local.ALL)
        return 0
    with take_lock(folder) as lock:
        pool = local.Local(runs, folder, **options)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, pool.hear)
        return pool.run(lock)


def write_jobsets(runs: list, folder: pathlib.Path, seen: str) -> int:
    """Write a manifest for each."""
    from launch.backends import jobset

    missing = [f"--{flag.name}" for flag in (IMAGE, CLAIM) if not flag.value]
    if missing:
        raise ValueError(f"--backend=jobset needs {' and '.join(missing)}")
    return jobset.start(
        runs,
        folder,
        seen,
        image=IMAGE.value,
        tpu=TPU.value,
        claim=CLAIM.value,
        mount=MOUNT.value,
        queue=QUEUE.value,
        namespace=NAMESPACE.value,
        max_restarts=MAX_RESTARTS.value,
        evaluate=EVAL_JOBS.value,
        evaluate_tpu=EVAL_TPU.value,
        evaluate_cpus=EVAL_CPUS.value,
        evaluate_memory=EVAL_MEMORY.value,
    )


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    logging.set_verbosity(logging.INFO)
    folder = pathlib.Path(OUTPUT.value).absolute()
    try:
        given = settings("set", SET.value)
        name, dicts = sweeps.load_sweep(SWEEP.value)
        sweeps.check_folder(folder, name)
        seen = str(folder)
        if BACKEND.value == "jobset":
            seen = SEEN.value or f"{MOUNT.value}/{folder.name}"
        places = {"folder": folder, "data_here": DATA_HERE.value, "seen": seen}
        runs = sweeps.expand(name, dicts, given=given, jobs=JOBS.value, **places)
        folder.mkdir(parents=True, exist_ok=True)
        sweeps.write_sweep(folder, name, given, runs)
        if BACKEND.value == "print":
            from launch.backends import print as backend

            return backend.start(runs, folder, evaluate=EVAL_JOBS.value)
        if BACKEND.value == "slurm":
            from launch.backends import slurm

            return slurm.start(
                runs,
                folder,
                dry_run=DRY_RUN.value,
                evaluate=EVAL_JOBS.value,
                jobs=JOBS.value,
                parameters=settings("slurm", SLURM.value),
                evaluate_parameters=settings("slurm_eval", SLURM_EVAL.value),
            )
        if BACKEND.value == "jobset":
            return write_jobsets(runs, folder, seen)
        return run_local(runs, folder)
    except (ValueError, OSError) as error:
        logging.error("%s: %s", type(error).__name__, error)
        return 1
    except KeyboardInterrupt:  # before anything was started
        return 130


if __name__ == "__main__":
    flags.mark_flags_as_required(["sweep", "output"])
    sys.exit(app.run(main))
