"""Describe one recording in words: ``python -m launch.describe --input=FILE --output=DIR``.

Writes ``epochs.csv`` (or ``.parquet``) with a row per epoch of 30 s: captions, the facts they are
made of, and flags; ``epochs.json``, the same as one document; and ``night.html``, a page with the
night's numbers, its hypnogram and the captions. Stages and events are those of a scoring beside the
recording, or of ``--scoring``. No file names the recording, its person or its date.

With ``--model`` a model's captions stand beside those of the facts, and where they differ from what
was measured or scored they are marked: they are guesses. ``--noconstrained`` lets it write freely;
by default a model that has the words of our grammar is kept to its sentences.

Exit codes: 0 done; 1 where the recording or its scoring cannot be read.
"""

import importlib.util
import pathlib
import sys

from absl import app, flags

INPUT = flags.DEFINE_string("input", None, "A recording: EDF, BDF, or the header of a WFDB record.")
OUTPUT = flags.DEFINE_string("output", None, "Folder to write into; made where missing.")
SCORING = flags.DEFINE_string("scoring", None, "Its scoring; by default one is looked for beside.")
FORMAT = flags.DEFINE_enum("format", "csv", ["csv", "parquet"], "Of the table.")
MAINS_HZ = flags.DEFINE_enum("mains_hz", None, ["50", "60"], "Mains frequency; default: inferred.")
ALIASES = flags.DEFINE_string("aliases", None, "JSON or TOML file of further channel labels.")
COHORT = flags.DEFINE_string("cohort", None, "Cohort whose generic labels (EEG, EMG) these are.")
MODEL = flags.DEFINE_string("model", None, "An export or a run whose captions stand beside.")
CONSTRAINED = flags.DEFINE_bool("constrained", None, "Keep the model's captions to the grammar.")
MICRO_EVENTS = flags.DEFINE_bool("micro_events", False, "Find spindles and slow waves, by YASA.")
CODE_BOOK = flags.DEFINE_string("code_book", None, "What plain lists of stages mean.")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {argv[1:]}")
    if FORMAT.value == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise app.UsageError("--format=parquet needs pyarrow: pip install pyarrow")
    if CONSTRAINED.value is not None and MODEL.value is None:
        raise app.UsageError("--constrained is about captions of a --model, and none is given")
    sys.stdout.reconfigure(errors="backslashreplace")
    try:
        describe(pathlib.Path(INPUT.value), pathlib.Path(OUTPUT.value))
    except (ValueError, OSError) as error:
        print(f"describe: {error}", file=sys.stderr)
        return 1
    return 0


def describe(path: pathlib.Path, output: pathlib.Path) -> None:
    """Prepare the recording, measure it, and write the three files."""
    from data_pipelines import scoring
    from data_pipelines.builders.recording_night import Pending, PrepareRecording
    from data_pipelines.captions import epoch_table, micro_events
    from data_pipelines.captions.measures import facts_of
    from data_pipelines.captions.night_summary import summarise
    from data_pipelines.channels import resolve
    from data_pipelines.recipes import sleeplm
    from hypnos_jax.reports.night_page import write_page

    if CODE_BOOK.value is not None:
        scoring.code_book_of(CODE_BOOK.value, "--code_book")
    prepare = PrepareRecording(
        sleeplm.RECIPE,
        sleeplm.TWELVE,
        mains_hz=int(MAINS_HZ.value) if MAINS_HZ.value else None,
        aliases=resolve.load_aliases(ALIASES.value) if ALIASES.value else None,
        code_book=CODE_BOOK.value,
    )
    of_scoring = pathlib.Path(SCORING.value) if SCORING.value else None
    night = prepare(Pending(path.stem, path, scoring=of_scoring, cohort=COHORT.value))
    found_by = micro_events.version() if MICRO_EVENTS.value else None
    facts = facts_of(night, with_micro_events=found_by is not None)
    if not facts.epochs:
        raise ValueError(f"{path.name} is shorter than an epoch of 30 s")
    rows = epoch_table.rows_of(facts, night.recording)
    generated = []
    if MODEL.value is not None:
        rows, generated = with_captions(rows, night)
    summary = summarise(night, facts)
    scored = None
    if "scoring" in night.metadata:
        looked = night.metadata["events_scored"]
        scored = scoring.Scoring(night.stages, night.events, night.metadata["scoring"], looked)
    missing = [name for name in sleeplm.TWELVE if name not in night.channels]
    notes = [f"Channels that the recording lacks, or that cannot be used: {', '.join(missing)}."]
    notes = notes if missing else []
    notes += [] if scored else ["No scoring was found: stages and events are not said."]
    if MICRO_EVENTS.value:
        told = f"Spindles and slow waves are those of {found_by}, in N1 to N3 as scored."
        notes += [told if found_by else f"{micro_events.MISSING}."]
    differ = sum(flag.startswith("caption differs") for row in rows for flag in row.flags)
    notes += [f"{differ} captions, read back, differ from their facts."] if differ else []
    notes += generated
    output.mkdir(parents=True, exist_ok=True)
    epoch_table.write_table(output / f"epochs.{FORMAT.value}", rows, FORMAT.value)
    epoch_table.write_json(output / "epochs.json", rows, summary)
    write_page(output / "night.html", rows, summary, scored, notes=notes)
    for note in (*notes, *night.qc["notes"]):
        print(f"note: {note}")
    share = 100 * epoch_table.share_of_numbers(facts)
    print(
        f"{output}: {facts.epochs} epochs described with {share:.0f} % of the numbers that captions"
        f" can say (epochs.{FORMAT.value}, epochs.json, night.html)"
    )


def with_captions(rows, night):
    """The rows with the model's captions, and sentences about them."""
    from data_pipelines.captions import epoch_table
    from hypnos_jax import checkpoint
    from hypnos_jax.inference.captioner import Captioner  # imports start jax
    from hypnos_jax.runtime import compile_cache

    checkpoint.quiet()
    compile_cache.keep()
    captioner = Captioner(MODEL.value, constrained=CONSTRAINED.value)
    rows = epoch_table.with_generated(rows, captioner.write(night.channels))
    written = [row for row in rows if row.generated]
    differ = sum(bool(row.differences) for row in written)
    return rows, [
        f"A model wrote captions of {len(written)} epochs,"
        f" {'kept to the grammar' if captioner.constrained else 'freely'}; in {differ} they differ"
        " from what was measured or scored, and are marked."
    ]


if __name__ == "__main__":
    flags.mark_flags_as_required(["input", "output"])
    sys.exit(app.run(main))
