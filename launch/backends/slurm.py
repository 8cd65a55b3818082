"""Runs of a sweep on a Slurm cluster, through submitit: an array that trains, a job each that
evaluates.

The array has a task for each run that is not done; the job that evaluates a run begins when its
task does (``--dependency=after:``), follows its checkpoints, and ends when the task has failed.
When Slurm wants a node back or the time is up, submitit hears of it (SIGUSR2,
``slurm_signal_delay_s`` before the end): the training is asked to save and end, and the job
requeues itself with the same command, which goes on.

What was submitted is in ``DIR/slurm/submitted.json``; a run that Slurm still has is not submitted
again. The workdirs, this checkout and its environment must be at the same place on all nodes.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from hypnos_jax.jobs.progress import tail
from hypnos_jax.jobs.sweeps import ROOT, PlannedRun, evaluated, trained, workdir_of
from hypnos_jax.runtime.exit_codes import STOPPED_EARLY
from hypnos_jax.runtime.files import write_json
from launch.children import end_with_parent

REQUEUES = 1000  # times that a job may run out of its time
LOOK_S = 1.0
KILL_WAIT_S = 300.0  # for Slurm to end a job whose training was stopped, before it begins again
THERE = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "RESIZING"}
SHARED = (  # what a job that evaluates has from one that trains; not its nodes and devices
    "slurm_account",
    "slurm_additional_parameters",
    "slurm_exclude",
    "slurm_partition",
    "slurm_qos",
    "slurm_setup",
    "timeout_min",
)
STAND_IN = """#!/bin/sh
# sbatch of a dry run: submits nothing, and gives numbers as Slurm would
echo x >> "$(dirname "$0")/count"
echo "Submitted batch job $(wc -l < "$(dirname "$0")/count")"
"""


def _begin(parent: int) -> None:
    """In a child that was just forked: end with the job, and leave its warning to submitit.

    Slurm sends the warning to every process of a job; it would end those that do not know it.
    """
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    end_with_parent(parent)


class Command:
    """A command as a job that submitit runs, and asks for what to submit in its place.

    Pickled with the job: plain values alone until it is called.
    """

    def __init__(self, words: list[str], log: str, training: str = ""):
        """Hold what to run.

        Args:
            words: arguments of ``python``.
            log: where its words go.
            training: the file that submitit writes when the job that trains is over, for one that
                evaluates and would wait for more.
        """
        self.words, self.log, self.training, self.process = words, log, training, None

    def __call__(self) -> int:
        """Run it to its end, again where it was stopped from outside and nobody ends this job.

        Raises:
            RuntimeError: it failed; the message has the end of its log. Or the training did.
        """
        pathlib.Path(self.log).parent.mkdir(parents=True, exist_ok=True)
        while True:
            with open(self.log, "a") as log:
                self.process = subprocess.Popen(
                    [sys.executable, *self.words],
                    cwd=ROOT,
                    stdout=log,
                    stderr=log,
                    preexec_fn=functools.partial(_begin, os.getpid()),
                )
            while (code := self.process.poll()) is None:
                if self._training_failed():
                    self.process.terminate()
                    self.process.wait()
                    raise RuntimeError(f"the training failed, as {self.training} tells")
                time.sleep(LOOK_S)
            if code == 0:
                return 0
            if code != STOPPED_EARLY:
                lines = "\n".join(tail(self.log).splitlines()[-12:])
                raise RuntimeError(f"ended with code {code}; the end of {self.log}:\n{lines}")
            time.sleep(KILL_WAIT_S)

    def _training_failed(self) -> bool:
        from submitit.core.utils import pickle_load

        return os.path.exists(self.training) and pickle_load(self.training)[0] == "error"

    def checkpoint(self):
        """Ask what runs to save and end; return what shall be submitted again: the same."""
        from submitit.helpers import DelayedSubmission

        if self.process is not None:
            # This is a signal's handler: what it has interrupted may hold the lock of ``process``,
            # for which it must not wait.
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(self.process.pid, signal.SIGTERM)
                os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(Command(self.words, self.log, self.training))


def submit(
    runs: list[PlannedRun],
    folder: pathlib.Path,
    place: pathlib.Path,
    *,
    evaluate: bool,
    jobs: int,
    parameters: dict,
    evaluate_parameters: dict,
    cluster: str = "slurm",
) -> dict[str, dict]:
    """Submit what is not done; return name -> {"train": job id, "evaluate": job id}.

    Args:
        runs: of the sweep.
        folder: its folder.
        place: for what submitit writes, and ``submitted.json``.
        evaluate: submit a job that evaluates for each that trains.
        jobs: tasks of the array at a time.
        parameters: submitit's, such as ``{"slurm_partition": "gpu", "gpus_per_node": 1}``.
        evaluate_parameters: of the jobs that evaluate, beside what of those is in ``SHARED``.
        cluster: ``"slurm"``, or ``"local"`` to run them here, which the tests do.

    Raises:
        ValueError: submitit is missing, or does not know a parameter; Slurm refuses.
    """
    try:
        import submitit
    except ImportError as error:
        raise ValueError("--backend=slurm needs submitit: pip install -e '.[slurm]'") from error

    given = {
        "timeout_min": 24 * 60,
        "slurm_array_parallelism": jobs,
        **parameters,
    }
    more = given.get("slurm_additional_parameters") or {}
    given["slurm_additional_parameters"] = {"requeue": True, **more}
    shared = {key: given[key] for key in SHARED if key in given}
    submitted = read_submitted(place)
    open_ = [
        run
        for run in runs
        if not trained(folder, run) and not _there(submitit, place, submitted, run, "train")
    ]
    try:
        train = _executor(submitit, place, "train", cluster, given)
        with train.batch(allow_implicit_submissions=True):
            tasks = [train.submit(_command(folder, run, "train")) for run in open_]
        for run, task in zip(open_, tasks, strict=True):
            submitted[run.name] = {"train": task.job_id}
        for run in runs if evaluate else ():
            if evaluated(folder, run) or _there(submitit, place, submitted, run, "evaluate"):
                continue
            own = dict(shared)
            if run in open_:
                own["slurm_dependency"] = f"after:{submitted[run.name]['train']}"
            own |= evaluate_parameters
            judge = _executor(submitit, place, "evaluate", cluster, own)
            known = submitted.setdefault(run.name, {})
            training = _result(submitit, place, known["train"]) if "train" in known else ""
            task = judge.submit(_command(folder, run, "evaluate", training))
            known["evaluate"] = task.job_id
    except (submitit.core.utils.FailedJobError, RuntimeError, NameError, AssertionError) as error:
        raise ValueError(f"submitit: {error}") from error
    finally:
        place.mkdir(exist_ok=True)
        write_json(place / "submitted.json", submitted)
    return submitted


def _executor(submitit, place, kind, cluster, parameters):
    options = {"slurm_max_num_timeout": REQUEUES} if cluster == "slurm" else {}
    executor = submitit.AutoExecutor(place / kind, cluster=cluster, **options)
    executor.update_parameters(name=f"{place.parent.name}-{kind}", **parameters)
    return executor


def _command(folder: pathlib.Path, run: PlannedRun, kind: str, training: str = "") -> Command:
    workdir = workdir_of(folder, run)
    return Command(getattr(run, kind)(workdir), str(workdir / f"{kind}.log"), training)


def _result(submitit, place: pathlib.Path, number: str) -> str:
    return str(submitit.core.utils.JobPaths(place / "train", number, 0).result_pickle)


def _there(submitit, place, submitted, run, kind) -> bool:
    """Whether Slurm still has the job that was submitted, as ``sacct`` tells."""
    number = submitted.get(run.name, {}).get(kind)
    return number is not None and submitit.SlurmJob(place / kind, number).state in THERE


def read_submitted(place: pathlib.Path) -> dict[str, dict]:
    """Return what was submitted before."""
    path = place / "submitted.json"
    return json.loads(path.read_text()) if path.exists() else {}


@contextlib.contextmanager
def stand_in():
    """While a dry run lasts, an ``sbatch`` that submits nothing comes first on the path."""
    before = os.environ["PATH"]
    with tempfile.TemporaryDirectory() as folder:
        for name in ("sbatch", "srun"):
            program = pathlib.Path(folder) / name
            program.write_text(STAND_IN)
            program.chmod(0o755)
        os.environ["PATH"] = f"{folder}{os.pathsep}{before}"
        try:
            yield
        finally:
            os.environ["PATH"] = before


def start(runs: list[PlannedRun], folder: pathlib.Path, *, dry_run: bool, **options) -> int:
    """Submit what is not done, and say which jobs those are; with ``dry_run`` only write them.

    A dry run leaves its files in ``DIR/slurm_dry_run``, and asks Slurm nothing.
    """
    if dry_run:
        place = folder / "slurm_dry_run"
        shutil.rmtree(place, ignore_errors=True)
        with stand_in():
            submitted = submit(runs, folder, place, **options)
        print(f"{len(submitted)} runs would be submitted: {place}/*/*_submission.sh")
        return 0
    submitted = submit(runs, folder, folder / "slurm", **options)
    for run in runs:
        jobs = submitted.get(run.name, {})
        print("  ".join([run.name, *(f"{kind} {number}" for kind, number in jobs.items())]))
    return 0
