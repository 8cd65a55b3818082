"""Write a simulated cohort: ``python -m launch.synthesize --output=DIR --nights=N --seed=S``.

EDF+ recordings with scoring beside them from five invented laboratories, and participants.csv.
With ``--kind=modalities``, a store of sleep2vec's modalities from several sites whose devices and
ages every signal shows, to see what losses make of such shortcuts; no recordings. The same command
again resumes; the same seed gives the same bytes. What the nights are and are not is said in
``data_pipelines/synthetic``.
"""

import sys

import tqdm
from absl import app, flags, logging

OUTPUT = flags.DEFINE_string("output", None, "folder to write into")
NIGHTS = flags.DEFINE_integer("nights", None, "number of recordings", lower_bound=1)
SEED = flags.DEFINE_integer("seed", None, "same seed, same cohort", lower_bound=0)
HOURS = flags.DEFINE_float(
    "hours",
    8.0,
    "length of a recording (0.06 to 24); with --labels, if given, of a stretch of each",
)
LABELS = flags.DEFINE_string("labels", None, "folder of scoring files to follow, in turn")
CODE_BOOK = flags.DEFINE_string("code_book", None, "what bare entries in --labels mean")
JOBS = flags.DEFINE_integer("jobs", 1, "processes", lower_bound=1)
KIND = flags.DEFINE_enum("kind", "recordings", ["recordings", "modalities"], "what to write")
SITES = flags.DEFINE_integer("sites", 3, "modalities: sites, A, B, ...", lower_bound=1)
HOLD_OUT = flags.DEFINE_bool("hold_out", True, "modalities: the last site is all in the test split")
SHORTCUT = flags.DEFINE_float("shortcut", 1.0, "modalities: strength of site and age", 0.0)


def write_recordings():
    """Write EDF+ files."""
    from data_pipelines.synthetic import write_cohort

    with tqdm.tqdm(total=NIGHTS.value, desc="nights", unit="night") as bar:
        write_cohort(
            OUTPUT.value,
            NIGHTS.value,
            SEED.value,
            HOURS.value,
            LABELS.value,
            code_book=CODE_BOOK.value,
            stretch=LABELS.value is not None and flags.FLAGS["hours"].present > 0,
            jobs=JOBS.value,
            finished=lambda name: bar.update(),
        )


def write_modalities():
    """Write a store."""
    from data_pipelines.synthetic.shortcuts import write_shortcut_cohort

    if LABELS.value is not None:
        raise ValueError("--labels: simulated modalities follow no scoring files")
    write_shortcut_cohort(
        OUTPUT.value,
        NIGHTS.value,
        SEED.value,
        sites=SITES.value,
        hold_out=HOLD_OUT.value,
        hours=HOURS.value,
        shortcut=SHORTCUT.value,
        jobs=JOBS.value,
    )


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    try:
        {"recordings": write_recordings, "modalities": write_modalities}[KIND.value]()
    except (ValueError, OSError) as error:
        logging.error("%s: %s", type(error).__name__, error)
        return 1
    return 0


if __name__ == "__main__":
    flags.mark_flags_as_required(["output", "nights", "seed"])
    sys.exit(app.run(main))
