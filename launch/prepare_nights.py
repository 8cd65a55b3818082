"""Prepare recordings into a store of nights: ``python -m launch.prepare_nights --help``.

Run again after an interruption, the same command goes on where it was; with further recordings in
the folder, it adds them.

A ``participants.csv`` or ``participants.tsv`` in the input folder says who the recordings are of
(columns recording,subject) and may tell age, sex and site; ``--subjects`` takes its place.

The run ends with a summary of what was left out, guessed or corrected.
"""

import dataclasses
import pathlib
import sys

from absl import app, flags, logging

from data_pipelines import findings, participants, recipes, scoring, splits, store
from data_pipelines.builders import (
    arrays,
    arrays_folder,
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

BUILDERS = ("folder", "sleep_edf", "cinc2017", "nsrr", "sleep2vec_npz", "arrays")
INDEXED = ("sleep2vec_npz", "arrays")  # an index of theirs says whose nights these are

FLAGS = flags.FLAGS
INPUT = flags.DEFINE_string(
    "input",
    "",
    "Folder of recordings or of arrays, or the index.csv of sleep2vec_npz. Without it, sleep_edf"
    " downloads its own.",
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
SPLIT_LIST = flags.DEFINE_string(
    "split_list",
    None,
    "CSV or TSV file of recording,split, such as a published one, or of recording,fold with --fold;"
    " recordings that it lacks are left out. By default the person's name decides.",
)
FOLD = flags.DEFINE_string("fold", None, "Of a list of folds, the one that is tested.")
STRICT = flags.DEFINE_bool(
    "strict",
    False,
    "Reject every night with something to look at (exit code 1; others are kept); end before any"
    " work where participants, links or nights of the store have it.",
)
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


def find_items(found: list[findings.Finding]) -> tuple[dict[str, recording_night.Pending], list]:
    """What there is to prepare, and what was left aside, by the flags; findings are added."""
    if BUILDER.value == "sleep_edf":
        source = INPUT.value or sleep_edf.download(OUTPUT.value, limit=LIMIT.value)
        return folder.find_recordings(source, cohort="sleep_edf", findings=found)
    if not INPUT.value:
        raise ValueError(f"--builder={BUILDER.value} needs --input=DIR")
    if BUILDER.value == "sleep2vec_npz":
        return sleep2vec_npz.find_nights(INPUT.value)
    if BUILDER.value == "arrays":
        return arrays_folder.find_nights(INPUT.value, findings=found)
    if BUILDER.value == "cinc2017":
        return cinc2017.find_recordings(INPUT.value), []
    if BUILDER.value == "nsrr":
        return nsrr.find_recordings(INPUT.value, cohort=COHORT.value, findings=found), []
    return folder.find_recordings(INPUT.value, cohort=COHORT.value, findings=found)


def read_tables() -> list[participants.Table]:
    """``--subjects``, or the tables of participants in the input folder."""
    if BUILDER.value in INDEXED:
        if SUBJECTS.value:
            raise ValueError(
                f"--subjects: the index.csv of {BUILDER.value} says whose nights these are"
            )
        return []
    if SUBJECTS.value:
        return [participants.read_table(SUBJECTS.value)]
    if not INPUT.value or not pathlib.Path(INPUT.value).is_dir():
        return []
    return [participants.read_table(path) for path in participants.find_tables(INPUT.value)]


def with_people(items: dict[str, recording_night.Pending], people: participants.People):
    """Give recordings the person and the facts that the tables of participants say."""
    return {
        name: dataclasses.replace(
            item,
            subject=people.subjects.get(name, item.subject),
            metadata=people.facts.get(name, {}) | item.metadata,
        )
        for name, item in items.items()
    }


def with_splits(items: dict[str, recording_night.Pending], make_night):
    """The recordings of ``--split_list`` with its splits, and the others, with the reason.

    Raises:
        ValueError: The list is wrong, fits no recording or two, or parts a person's nights.
    """
    if BUILDER.value in INDEXED:
        raise ValueError(f"--split_list: the index.csv of {BUILDER.value} says the splits")
    listed = splits.read_splits(SPLIT_LIST.value, FOLD.value)
    found, left, of_person, named = {}, [], {}, {}
    for name, item in items.items():
        key = splits.clean_recording(name)
        if key not in listed:
            left.append((name, f"not in {pathlib.Path(SPLIT_LIST.value).name}"))
            continue
        if named.setdefault(key, name) != name:
            raise ValueError(f"--split_list: {key!r} could be {named[key]} or {name}")
        person, split = make_night.subject_of(item), listed[key]
        if of_person.setdefault(person, split) != split:
            raise ValueError(
                f"--split_list: nights of {person} are in {of_person[person]} and in {split}; a"
                " person's nights belong in one split"
            )
        found[name] = dataclasses.replace(item, split=split)
    if not found:
        raise ValueError(f"--split_list: none of the {len(items)} recordings is in it")
    logging.info("split list: %d of its %d recordings are here", len(found), len(listed))
    return found, left


def check_store(items, make_night):
    """Refuse to add to a store whose nights count as other people's: splits would overlap."""
    if not (pathlib.Path(OUTPUT.value) / "manifest.json").is_file():
        return
    nights = store.NightStore(OUTPUT.value).nights
    for night in nights:
        item = items.get(night.recording)
        if item is not None and make_night.subject_of(item) != night.subject:
            raise ValueError(
                f"{OUTPUT.value}: {night.recording} was prepared as a night of {night.subject}, "
                f"and is now one of {make_night.subject_of(item)}; choose another folder"
            )
        if item is not None and getattr(item, "split", None) not in (None, night.split):
            raise ValueError(
                f"{OUTPUT.value}: {night.recording} was prepared for {night.split}, and is now for"
                f" {item.split}; choose another folder"
            )
    doubtful = [night for night in nights if night.qc.get("findings")]
    if STRICT.value and doubtful:
        raise ValueError(
            f"--strict: {OUTPUT.value} holds {len(doubtful)} nights with something to look at; "
            "choose another folder"
        )


def choose():
    """The recipe, names of its rows, the function that makes a night, and how, for the store."""
    if MODALITIES.value is not None and (FLAGS["channels"].present or FLAGS["recipe"].present):
        raise ValueError(
            "--channels and --modalities: give one; --modalities means --recipe=sleep2vec"
        )
    if BUILDER.value == "arrays":
        if not INPUT.value or MODALITIES.value is not None or FLAGS["recipe"].present:
            raise ValueError("--builder=arrays needs --input=DIR; its series.toml is the recipe")
        told = arrays_folder.read_declaration(INPUT.value)
        names = told.recipe.wanted(CHANNELS.value)
        rows = tuple(told.recipe.rows[name] for name in names)
        facts = {"stage_codes": told.stage_codes}
        return told.recipe, names, arrays.ReadArrays(rows, told.stage_codes), facts
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
    if CODE_BOOK.value is not None:
        scoring.code_book_of(CODE_BOOK.value, "--code_book")
    how = {
        "mains_hz": int(MAINS_HZ.value) if MAINS_HZ.value else None,
        "aliases": resolve.load_aliases(ALIASES.value) if ALIASES.value else None,
        "code_book": CODE_BOOK.value,
        "scorer": SCORER.value,
    }
    provenance = {name: how[name] for name in ("mains_hz", "aliases", "code_book", "scorer")}
    provenance |= {"cohort": COHORT.value, **recipe.provenance}
    return recipe, names, recording_night.PrepareRecording(recipe, names, **how), provenance


def print_summary(of_run: list[findings.Finding]):
    """Say what of the store's nights, and of this run, a user should look at."""
    nights = []
    if (pathlib.Path(OUTPUT.value) / "manifest.json").is_file():
        nights = store.NightStore(OUTPUT.value).nights
    of_nights = {night.recording: night.qc.get("findings", ()) for night in nights}
    doubtful = {name: own for name, own in of_nights.items() if own}
    if not (doubtful or of_run):
        print("nothing to look at")
        return
    where = f" ({len(doubtful)} of the store's {len(nights)} nights; manifest.json says it of each,"
    print("to look at" + (f"{where} under qc.notes):" if doubtful else ":"))
    lines = findings.lines_of(findings.summarise(of_nights)) + findings.lines_of_run(of_run)
    print("\n".join(lines))
    if len(doubtful) <= findings.SHOWN:
        for name, own in sorted(doubtful.items()):
            print(f"  {name}: {findings.worst(own)['note']}")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {argv[1:]}")
    # A terminal may lack letters that names of files and words of a scoring have.
    sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if COHORT.value is not None and COHORT.value not in table.COHORTS:
            known = ", ".join(sorted(table.COHORTS))
            raise ValueError(f"--cohort={COHORT.value} is not one of {known}")
        recipe, names, make_night, provenance = choose()
        tables, of_run = read_tables(), []
        items, doubles = find_items(of_run)
        if not items:
            suffixes = arrays_folder.SUFFIXES if BUILDER.value == "arrays" else folder.SUFFIXES
            raise ValueError(f"--input={INPUT.value}: no recordings ({', '.join(suffixes)})")
        if BUILDER.value == "arrays":  # by the nights a global scaling is measured
            recipe = arrays.measured(make_night.rows, items, pathlib.Path(OUTPUT.value))
            make_night = dataclasses.replace(make_night, rows=tuple(recipe.rows.values()))
        if tables:
            people = participants.match(tables, items)
            for line in people.told:
                logging.info("people: %s", line)
            # Other tables are not missed where one is read.
            others = (folder.TABLES_BELOW, folder.TABLES_NEARLY)
            of_run = [x for x in of_run if x.what not in others] + people.findings
            items = with_people(items, people)
        elif BUILDER.value in ("folder", "nsrr"):
            persons = len({make_night.subject_of(item) for item in items.values()})
            logging.info(
                "people: no table of participants; by their names, the %d recordings are of %d",
                len(items),
                persons,
            )
        if STRICT.value and of_run:
            notes = "\n  ".join(finding.note for finding in of_run)
            raise ValueError(f"--strict: there is something to look at\n  {notes}")
        if FOLD.value is not None and SPLIT_LIST.value is None:
            raise ValueError("--fold is a fold of --split_list=FILE")
        if SPLIT_LIST.value is not None:
            items, others_left = with_splits(items, make_night)
            doubles = [*doubles, *others_left]
        check_store(items, make_night)
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
            strict=STRICT.value,
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
    print_summary(of_run)
    if STRICT.value and any(
        reason.startswith(night_builder.DOUBTFUL) for _, reason in summary.rejected
    ):
        return 1
    return 0 if summary.added or summary.kept else 1


if __name__ == "__main__":
    app.run(main)
