"""Evaluate a run's newest good checkpoint: ``python -m launch.evaluate --workdir=DIR``.

Runs every evaluator of the run's config, those for the job alone (``every: "job"``) too; prints a
table and writes ``DIR/evaluation.json``. ``--set`` changes or adds to the config, repeatedly:
``--set=evals.probe.nights=PATH`` (a value is JSON where it can be, else a string).
"""

import json
import sys

from absl import app, flags, logging

WORKDIR = flags.DEFINE_string("workdir", None, "folder of a training run")
STEP = flags.DEFINE_integer("step", None, "checkpoint to evaluate; the newest good one by default")
SET = flags.DEFINE_multi_string("set", [], "KEY=VALUE of the config, such as evals.val.limit=4")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    logging.set_verbosity(logging.INFO)
    from hypnos_jax import checkpoint, compile_cache  # after the flags: importing takes seconds
    from hypnos_jax.evaluate import evaluate

    checkpoint.quiet()
    compile_cache.keep()
    changes = {}
    for text in SET.value:
        key, equals, value = text.partition("=")
        if not equals:
            raise app.UsageError(f"--set={text}: give KEY=VALUE")
        try:
            changes[key] = json.loads(value)
        except ValueError:
            changes[key] = value
    try:
        results = evaluate(WORKDIR.value, step=STEP.value, changes=changes)
    except (ValueError, OSError) as error:
        logging.error("%s: %s", type(error).__name__, error)
        return 1
    width = max(map(len, results), default=0)
    for name, value in results.items():
        print(f"{name:<{width}}  {value:.6g}")
    return 0


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdir"])
    sys.exit(app.run(main))
