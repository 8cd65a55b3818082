"""Fit laws to the runs of a sweep, and say how to spend a budget.

    python -m launch.fit_laws --sweep=DIR [--budget_flops=1e18 --nights=20000 --hours=8]
    python -m launch.fit_laws --points=runs.csv --output=DIR

Writes ``laws.html`` (readable by itself), its figures as PNG, ``runs.csv`` and ``laws.json`` to
``--output`` (``DIR/laws`` by default). Runs that have not ended are left out, and named. A table of
``--points`` has columns ``params``, ``data`` and ``loss``, and may have ``name``, ``flops`` (by
default 6 x params x data), ``budget`` (runs that share one), ``unique`` (data in one pass over the
corpus), ``modalities`` and, for probes, columns that begin with ``eval/``.
"""

import pathlib
import sys

from absl import app, flags, logging

SWEEP = flags.DEFINE_string("sweep", None, "folder of a sweep")
POINTS = flags.DEFINE_string("points", None, "CSV of runs, in place of a sweep")
OUTPUT = flags.DEFINE_string("output", None, "folder; SWEEP/laws by default")
METRIC = flags.DEFINE_string("metric", "eval/val/loss", "the loss, of the last step")
PROBE = flags.DEFINE_list("probe", [], "metrics to relate to the loss; those of probes by default")
LAW = flags.DEFINE_list("law", [], "of isoflop, parametric, repeated, diversity, probe, holdout")
COUNT = flags.DEFINE_enum("count", "used", ["used", "all"], "parameters: without looked-up tables?")
UNIQUE = flags.DEFINE_float("unique", None, "data in one pass over the runs' corpus, at most")
BUDGET = flags.DEFINE_float("budget_flops", None, "to spend; 10 x the largest run's by default")
NIGHTS = flags.DEFINE_float("nights", None, "of the corpus to train on; no limit by default")
HOURS = flags.DEFINE_float("hours", 8.0, "of a night")
CHANNELS = flags.DEFINE_float("channels", None, "of a night; as many as the runs had by default")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    logging.set_verbosity(logging.INFO)
    if (SWEEP.value is None) == (POINTS.value is None):
        raise app.UsageError("give either --sweep or --points")
    if POINTS.value and not OUTPUT.value:
        raise app.UsageError("--points needs --output")
    from hypnos_jax.laws import report, runs  # after the flags: importing takes seconds

    output = pathlib.Path(OUTPUT.value or pathlib.Path(SWEEP.value) / "laws")
    try:
        if SWEEP.value:
            table = runs.Table.of_sweep(SWEEP.value, METRIC.value, COUNT.value, UNIQUE.value)
        else:
            table = runs.Table.of_csv(POINTS.value)
        said = report.write(
            table,
            output,
            only=LAW.value,
            probes=PROBE.value,
            budget=BUDGET.value,
            nights=NIGHTS.value,
            hours=HOURS.value,
            channels=CHANNELS.value,
        )
    except (ValueError, OSError) as error:
        logging.error("%s: %s", type(error).__name__, error)
        return 1
    print(said)
    print(f"{output}/laws.html")
    return 0


if __name__ == "__main__":
    sys.exit(app.run(main))
