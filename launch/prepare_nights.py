"""Prepare recordings into a store of nights: ``python -m launch.prepare_nights --help``.

Run again after an interruption, the same command goes on where it was; with further recordings in
the folder, it adds them.

A ``participants.csv`` or ``participants.tsv`` in the input folder says who the recordings are of
(columns recording,subject) and may tell age, sex and site; ``--subjects`` takes its place.
"""

import dataclasses
import pathlib
import sys

from absl import app, flags, logging

from data_pipelines import recipes, splits, store
from data_pipelines.builders import (
    cinc2017,
    folder,
    night_builder,
    nsrr,
    recording_night,
    sleep2vec_npz,
    sleep_edf,
)
from data_pipelines.channels import resolve, table
from data_pipelines.recipes import sleep2vec

BUILDERS = ("folder", "sleep_edf", "cinc2017", "nsrr", "sleep2vec_npz")

FLAGS = flags.FLAGS
INPUT = flags.DEFINE_string(
    "input",
    "",
    "Folder of recordings, or the index.csv of sleep2vec_npz. Without it, sleep_edf downloads its"
    " own.",
)
OUTPUT = flags.DEFINE_string("output", None, "Folder of the store.", required=True)
BUILDER = flags.DEFINE_enum("builder", "folder", BUILDERS, "How the input is laid out.")
MAINS_HZ = flags.DEFINE_enum("mains_hz", None, ["50", "60"], "Mains frequency; default: inferred.")
JOBS = flags.DEFINE_integer("jobs", 1, "Processes that prepare nights.", lower_bound=1)
RECIPE = flags.DEFINE_string(
    "recipe",
    "hypnos",
    "What is made of the recordings: a file of data_pipelines/recipes, or a module that the"
    " environment variable HYPNOS_JAX_PLUGINS allows.",
)
CHANNELS = flags.DEFINE_string(
    "channels",
    "",
    "Names of the recipe's signals by commas, or one of its sets (hypnos: hypnos, all; sleep2vec:"
    " nine, eleven); by default its first set.",
)
MODALITIES = flags.DEFINE_string("modalities", None, "Short for --recipe=sleep2vec --channels=...")
ALIASES = flags.DEFINE_string("aliases", None, "JSON or TOML file of further channel labels.")
SUBJECTS = flags.DEFINE_string("subjects", None, "CSV or TSV file of recording,subject.")
COHORT = flags.DEFINE_string("cohort", None, "Cohort whose generic labels (EEG, EMG) these are.")
CODE_BOOK = flags.DEFINE_string("code_book", None, "What plain lists of stages mean.")
SCORER = flags.DEFINE_integer(
    "scorer",
    None,
    "Whose stages to take where a scoring holds several people's, 1 for the first; by default those"
    " on which they agree.",
    lower_bound=1,
)
BEAM = flags.DEFINE_string(
    "beam", None, "Prepare on Apache Beam with these options, e.g. '--runner=DirectRunner'."
)
LIMIT = flags.DEFINE_integer("limit", None, "sleep_edf: download that many recordings at most.")


def find_items() -> tuple[dict[str, recording_night.Pending], list]:
    """What there is to prepare, and what was left aside, by the flags."""
    if BUILDER.value == "sleep_edf":
        source = INPUT.value or sleep_edf.download(OUTPUT.value, limit=LIMIT.value)
        return folder.find_recordings(source, cohort="sleep_edf")
    if not INPUT.value:
        raise ValueError(f"--builder={BUILDER.value} needs --input=DIR")
    if BUILDER.value == "sleep2vec_npz":
        return sleep2vec_npz.find_nights(INPUT.value)
    if BUILDER.value == "cinc2017":
        return cinc2017.find_recordings(INPUT.value), []
    if BUILDER.value == "nsrr":
        return nsrr.find_recordings(INPUT.value, cohort=COHORT.value), []
    return folder.find_recordings(INPUT.value, cohort=COHORT.value)


def find_participants() -> pathlib.Path | None:
    """The table of participants in the input folder, unless ``--subjects`` names another."""
    if SUBJECTS.value or not INPUT.value or BUILDER.value == "sleep2vec_npz":
        return None
    paths = (pathlib.Path(INPUT.value) / f"participants.{kind}" for kind in ("csv", "tsv"))
    return next((path for path in paths if path.is_file()), None)


def with_facts(items: dict[str, recording_night.Pending], facts: dict[str, dict]):
    """Add the participants' facts to the metadata of their recordings."""
    keys = {key: key for key in facts}
    return {
        name: dataclasses.replace(
            item, metadata=facts.get(splits.subject_of(name, keys), {}) | item.metadata
        )
        for name, item in items.items()
    }


def check_subjects(items, make_night):
    """Refuse to add to a store whose nights count as other people's: splits would overlap."""
    if not (pathlib.Path(OUTPUT.value) / "manifest.json").is_file():
        return
    for night in store.NightStore(OUTPUT.value).nights:
        item = items.get(night.recording)
        if item is not None and make_night.subject_of(item) != night.subject:
            raise ValueError(
                f"{OUTPUT.value}: {night.recording} was prepared as a night of {night.subject}, "
                f"and is now one of {make_night.subject_of(item)}; choose another folder"
            )


def choose():
    """The recipe, names of its rows, the function that makes a night, and how, for the store."""
    if MODALITIES.value is not None and (FLAGS["channels"].present or FLAGS["recipe"].present):
        raise ValueError(
            "--channels and --modalities: give one; --modalities means --recipe=sleep2vec"
        )
    as_given = BUILDER.value == "sleep2vec_npz"
    text, name = CHANNELS.value, RECIPE.value
    if MODALITIES.value is not None or as_given:
        text, name = MODALITIES.value or "eleven", "sleep2vec"
    recipe = recipes.find_recipe(name)
    if not text and BUILDER.value == "cinc2017":
        text = "ecg"
    names = recipe.wanted(text)
    if as_given:
        facts = {**recipe.provenance, "normalisation": sleep2vec.AS_GIVEN}
        return recipe, names, sleep2vec_npz.ReadNpz(names), facts
    subjects = SUBJECTS.value or find_participants()
    how = {
        "mains_hz": int(MAINS_HZ.value) if MAINS_HZ.value else None,
        "aliases": resolve.load_aliases(ALIASES.value) if ALIASES.value else None,
        "subjects": splits.load_subject_map(subjects) if subjects else None,
        "code_book": CODE_BOOK.value,
        "scorer": SCORER.value,
    }
    provenance = {name: how[name] for name in ("mains_hz", "aliases", "code_book", "scorer")}
    provenance |= {"cohort": COHORT.value, **recipe.provenance}
    return recipe, names, recording_night.PrepareRecording(recipe, names, **how), provenance


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {argv[1:]}")
    try:
        if COHORT.value is not None and COHORT.value not in table.COHORTS:
            known = ", ".join(sorted(table.COHORTS))
            raise ValueError(f"--cohort={COHORT.value} is not one of {known}")
        recipe, names, make_night, provenance = choose()
        items, doubles = find_items()
        if not items:
            raise ValueError(f"--input={INPUT.value}: no recordings ({', '.join(folder.SUFFIXES)})")
        participants = find_participants()
        if participants is not None:
            logging.info("%s says whose recordings these are, and age, sex, site", participants)
            items = with_facts(items, splits.load_participant_facts(participants))
        check_subjects(items, make_night)
        run_all = None
        if BEAM.value is not None:
            from data_pipelines.builders import beam  # an extra

            run_all = beam.runner(BEAM.value)
        summary = night_builder.write_store(
            OUTPUT.value,
            kind="signals",
            items=items,
            make_night=make_night,
            jobs=JOBS.value,
            provenance={"builder": BUILDER.value, "channels": list(names), **provenance},
            recipe=recipe.identity,
            left_aside=doubles,
            run_all=run_all,
        )
    except (ValueError, FileNotFoundError) as error:
        print(f"prepare_nights: {error}", file=sys.stderr)
        return 1
    for name, reason in summary.rejected:
        logging.warning("rejected %s: %s", name, reason)
    print(
        f"{OUTPUT.value}: {len(summary.added)} nights added, {len(summary.kept)} were there, "
        f"{len(summary.rejected)} rejected (rejects.jsonl)"
    )
    return 0 if summary.added or summary.kept else 1


if __name__ == "__main__":
    app.run(main)
