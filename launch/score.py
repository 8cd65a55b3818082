"""Score recordings: ``python -m launch.score --model=MODEL --input=FILE|DIR --output=DIR``.

``MODEL`` is an export with heads (``launch.fit_head``). Of each recording ``--output`` gets
``<recording>_events.tsv`` (BIDS, with probabilities), ``.annot`` (Luna), ``_annotations.edf``
(EDF+), ``_summary.json`` (how far to trust it, sleep, oxygen, indices with their rules) and
``_scored.npz`` (all of it, for ``launch.report`` and Python); ``cohort.csv`` and, where pyarrow is
installed, ``cohort.parquet`` have a row a recording, of those too that could not be read, with the
reason. The same command goes on after an interruption.

Research use only: nothing here is a medical device. Exit codes: 0 done, also when some recordings
were rejected; 1 when all were, or an error.
"""

import sys

from absl import app, flags, logging

MODEL = flags.DEFINE_string("model", None, "an export with heads")
INPUT = flags.DEFINE_string("input", None, "a recording, or a folder of recordings")
OUTPUT = flags.DEFINE_string("output", None, "folder for the scores")
MAINS_HZ = flags.DEFINE_enum("mains_hz", None, ["50", "60"], "mains frequency; default: inferred")
ALIASES = flags.DEFINE_string("aliases", None, "JSON or TOML file of further channel labels")
COHORT = flags.DEFINE_string("cohort", None, "cohort whose generic labels (EEG, EMG) these are")
JOBS = flags.DEFINE_integer("jobs", 1, "processes that read and prepare recordings", 1)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    from data_pipelines.channels import resolve
    from hypnos_jax import checkpoint
    from hypnos_jax.inference.score_folder import score_folder  # after the flags: starts jax
    from hypnos_jax.runtime import compile_cache

    checkpoint.quiet()
    compile_cache.keep()
    try:
        summary = score_folder(
            MODEL.value,
            INPUT.value,
            OUTPUT.value,
            mains_hz=int(MAINS_HZ.value) if MAINS_HZ.value else None,
            aliases=resolve.load_aliases(ALIASES.value) if ALIASES.value else None,
            cohort=COHORT.value,
            jobs=JOBS.value,
        )
    except (ValueError, OSError) as error:
        print(f"score: {error}", file=sys.stderr)
        return 1
    for name, reason in summary.rejected:
        logging.warning("rejected %s: %s", name, reason)
    print(
        f"{OUTPUT.value}: {len(summary.added)} recordings scored, {len(summary.kept)} were there,"
        f" {len(summary.rejected)} rejected (cohort.csv)"
    )
    return 0 if summary.added or summary.kept else 1


if __name__ == "__main__":
    flags.mark_flags_as_required(["model", "input", "output"])
    sys.exit(app.run(main))
