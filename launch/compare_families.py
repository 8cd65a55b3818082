"""Put families of models in one table: ``python -m launch.compare_families --models=JSON``.

``configs/pipelines/compare_families.py`` writes the command. ``--models`` is a JSON list, an entry
a trained model: ``{"name", "budget", "seed", "path", "nights", "stages"}`` (its family, the FLOPs
that were to be spent, its run or export, the store that it reads, the runs that came before and
count too), and ``"task"`` and ``"share"`` where it was trained with labels.

Writes ``comparison.html`` (all in one page), ``comparison.md``, ``comparison.json`` and pictures.
What each model scored is kept in ``--output``, so that the same command goes on where it was. Exit
codes: 0 done, 1 an error.
"""

import json
import pathlib
import sys

from absl import app, flags, logging

MODELS = flags.DEFINE_string("models", None, "JSON list of the models")
NIGHTS = flags.DEFINE_string("nights", None, "store of the nights as channels, with their labels")
OUTPUT = flags.DEFINE_string("output", None, "folder for the comparison")
SHARES = flags.DEFINE_list("shares", ["0.01", "0.1", "1"], "of the training people, labelled")
DRAWS = flags.DEFINE_integer("draws", 4, "of labelled people, for each share below 1", 1)
UNTRAINED = flags.DEFINE_integer("untrained", 3, "seeds of each network with random weights", 0)
NOTES = flags.DEFINE_multi_string("note", [], "a sentence for the page; may be repeated")
TITLE = flags.DEFINE_string("title", "Families of models at equal compute", "of the page")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    logging.set_verbosity(logging.INFO)
    from data_pipelines.store import NightStore  # after the flags: imports start jax
    from hypnos_jax import checkpoint
    from hypnos_jax.probing import family_report, family_study
    from hypnos_jax.runtime import compile_cache
    from hypnos_jax.runtime.files import write_json

    checkpoint.quiet()
    compile_cache.keep()
    folder = pathlib.Path(OUTPUT.value)
    try:
        entries = [
            family_study.Entry(**{**row, "stages": tuple(row.get("stages", ()))})
            for row in json.loads(MODELS.value)
        ]
        found = family_study.study(
            entries,
            NightStore(NIGHTS.value),
            folder,
            shares=[float(share) for share in SHARES.value],
            draws=DRAWS.value,
            untrained=UNTRAINED.value,
        )
        report = family_report.summarise(found)
        write_json(folder / "comparison.json", report)
        table = family_report.write(report, folder, TITLE.value, NOTES.value)
    except (ValueError, TypeError, OSError) as error:
        logging.error("%s: %s", type(error).__name__, error)
        return 1
    print(f"{table}\n{folder / 'comparison.html'}")
    return 0


if __name__ == "__main__":
    flags.mark_flags_as_required(["models", "nights", "output"])
    sys.exit(app.run(main))
