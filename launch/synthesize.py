"""Write a simulated cohort: ``python -m launch.synthesize --output=DIR --nights=N --seed=S``.

EDF+ recordings with scoring beside them from five invented laboratories, and participants.csv.
The same command again resumes; the same seed gives the same bytes. What the nights are and are
not is said in ``data_pipelines/synthetic``.
"""

import sys

import tqdm
from absl import app, flags, logging

OUTPUT = flags.DEFINE_string("output", None, "folder to write into")
NIGHTS = flags.DEFINE_integer("nights", None, "number of recordings", lower_bound=1)
SEED = flags.DEFINE_integer("seed", None, "same seed, same cohort", lower_bound=0)
HOURS = flags.DEFINE_float("hours", 8.0, "length of a recording (0.06 to 24); not with --labels")
LABELS = flags.DEFINE_string("labels", None, "folder of scoring files to follow, in turn")
CODE_BOOK = flags.DEFINE_string("code_book", None, "what bare entries in --labels mean")
JOBS = flags.DEFINE_integer("jobs", 1, "processes", lower_bound=1)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    from data_pipelines.synthetic import write_cohort

    try:
        with tqdm.tqdm(total=NIGHTS.value, desc="nights", unit="night") as bar:
            write_cohort(
                OUTPUT.value,
                NIGHTS.value,
                SEED.value,
                HOURS.value,
                LABELS.value,
                code_book=CODE_BOOK.value,
                jobs=JOBS.value,
                finished=lambda name: bar.update(),
            )
    except (ValueError, OSError) as error:
        logging.error("%s: %s", type(error).__name__, error)
        return 1
    return 0


if __name__ == "__main__":
    flags.mark_flags_as_required(["output", "nights", "seed"])
    sys.exit(app.run(main))
