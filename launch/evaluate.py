"""Evaluate a model, or follow a run: ``python -m launch.evaluate --workdir=DIR [--follow]``.

Without ``--follow``: every evaluator of the run's config, those of eval jobs (``every: "job"``)
too, at its best checkpoint by ``config.checkpoints.best_metric``, at the newest where nothing was
judged by it or ``--newest`` says so, or at ``--step``; what was taken and why is printed. A table
and ``DIR/evaluation.json`` come of it. ``DIR`` may be an export too, which gets nothing unless
``--output`` says so. ``--set`` changes or adds to the config, repeatedly:
``--set=evals.probe.nights=PATH`` (a value is JSON where it can be, else a string).

With ``--follow``: an eval job. It runs the evaluators with ``every: "job"`` on every checkpoint of
a run, once, as they appear, and ends with the run; ``DIR`` may be a URL that fsspec reaches.
Several may share a run, and any may be killed and started again. Results go to
``DIR/evaluations/<evaluator>/<step>.json``. Exit codes: 0 the run's last step is evaluated, 75
stopped by a signal, 1 an error, or nothing new for ``--patience_s``.
"""

import sys

from absl import app, flags, logging

from hypnos_jax.runtime import preemption
from launch import checkpoint_flags
from launch.overrides import settings

WORKDIR = flags.DEFINE_string("workdir", None, "folder of a training run, or of an export")
SET = flags.DEFINE_multi_string("set", [], "KEY=VALUE of the config, such as evals.val.limit=4")
OUTPUT = flags.DEFINE_string("output", None, "folder for evaluation.json; the run's by default")
FOLLOW = flags.DEFINE_bool("follow", False, "evaluate every checkpoint of a run as it appears")
PATIENCE_S = flags.DEFINE_float("patience_s", 0, "how long nothing new may come; 0: for ever", 0)
POLL_S = flags.DEFINE_float("poll_s", 5, "between two looks at the folder", 0.01)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    step = checkpoint_flags.asked()
    if FOLLOW.value and (step is not None or OUTPUT.value):
        raise app.UsageError("--follow takes none of --step, --best, --newest and --output")
    logging.set_verbosity(logging.INFO)
    try:
        changes = settings("set", SET.value)
    except ValueError as error:
        raise app.UsageError(str(error)) from error
    if FOLLOW.value:
        return _follow(changes)
    from hypnos_jax import checkpoint
    from hypnos_jax.evaluate import evaluate
    from hypnos_jax.runtime import compile_cache  # after the flags: importing takes seconds

    checkpoint.quiet()
    compile_cache.keep()
    try:
        results = evaluate(
            WORKDIR.value,
            step=step,
            changes=changes,
            output=OUTPUT.value or None,
        )
    except (ValueError, OSError) as error:
        logging.error("%s: %s", type(error).__name__, error)
        return 1
    width = max(map(len, results), default=0)
    for name, value in results.items():
        print(f"{name:<{width}}  {value:.6g}")
    return 0


def _follow(changes):
    jobs = []

    def leave():
        logging.warning("stopped by a signal; the same command goes on")
        for job in jobs:
            job.close()

    preemption.leave_at_once(leave)  # before the imports, which take seconds
    from hypnos_jax import checkpoint
    from hypnos_jax.jobs.eval_job import EvalJob
    from hypnos_jax.runtime import compile_cache

    checkpoint.quiet()
    compile_cache.keep()
    try:
        patience = {"patience_s": PATIENCE_S.value, "poll_s": POLL_S.value}
        job = EvalJob(WORKDIR.value, changes=changes, **patience)
        jobs.append(job)
        try:
            job.run()
        finally:
            job.close()
    except (ValueError, OSError) as error:
        logging.error("%s: %s", type(error).__name__, error)
        return 1
    return 0


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdir"])
    sys.exit(app.run(main))
