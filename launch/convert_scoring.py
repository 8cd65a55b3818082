r"""Write a scoring in another form: BIDS events, Luna, NSRR's XML, EDF+, or YASA's CSV.

    python -m launch.convert_scoring --input=night-nsrr.xml --output=night_events.tsv
    python -m launch.convert_scoring --input=export.txt --recording=night.edf --output=night.annot
    python -m launch.convert_scoring --input=stages.csv --code_book=dreams --output=stages.edf

Reads any scoring that ``prepare_nights`` reads (docs/formats.md lists them) and says on the
terminal how it was read, what a user should look at, and what the new form does not hold. The
recording is needed where the scoring has clock times. No name and no date is written.
"""

import collections
import pathlib
import sys

from absl import app, flags

from data_pipelines import scoring
from data_pipelines.recordings.base import RecordingError
from data_pipelines.recordings.opening import open_recording
from data_pipelines.scoring import writing
from data_pipelines.scoring.times.clock import edf_start

_INPUT = flags.DEFINE_string("input", None, "Scoring to read.", required=True)
_OUTPUT = flags.DEFINE_string(
    "output", None, "File to write; its suffix says the form.", required=True
)
_RECORDING = flags.DEFINE_string("recording", None, "Recording that the scoring belongs to.")
_CODE_BOOK = flags.DEFINE_string("code_book", None, "What bare entries of a list mean.")
_SCORER = flags.DEFINE_integer(
    "scorer", None, "Whose stages, 1 for the first, where the file holds several people's.", 1
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the output where it exists.")


def describe(scored: scoring.Scoring) -> list[str]:
    """What was read, in lines for a terminal; the findings last."""
    counts = collections.Counter(
        "unscored" if stage < 0 else scoring.STAGES[stage] for stage in scored.stages.tolist()
    )
    stages = ", ".join(f"{name} {counts[name]}" for name in (*scoring.STAGES, "unscored"))
    lines = [f"  {len(scored.stages)} epochs of {scoring.EPOCH_S} s: {stages}"]
    kinds = collections.Counter(event.kind for event in scored.events)
    events = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
    looked = {True: "all were looked for", False: "nobody looked for them"}.get(
        scored.events_scored, f"looked for: {scored.events_scored}"
    )
    lines.append(f"  {len(scored.events)} events" + f": {events}" * bool(events) + f" ({looked})")
    lines += [f"  note: {note}" for note in scored.notes]
    return lines + [f"  LOOK AT: {finding.note}" for finding in scored.findings]


def _refuse_to_lose(source, recording, output) -> None:
    """Raise a ScoringError where writing would destroy what was read, or a recording."""
    for other in (source, recording):
        if other is not None and output.exists() and other.exists() and output.samefile(other):
            raise scoring.ScoringError(f"{output}: is what is read; name another file as output")
    if not output.exists():
        return
    if not _OVERWRITE.value:
        raise scoring.ScoringError(f"{output}: is there; --overwrite replaces it")
    if output.suffix.lower() == ".edf":
        try:
            signals = open_recording(output).labels
        except RecordingError:
            signals = []
        if signals:
            raise scoring.ScoringError(f"{output}: holds signals; a recording is never replaced")


def convert(source: pathlib.Path, output: pathlib.Path) -> None:
    """Read, say what was read, write, and say what was not written."""
    form = writing.form_of(output)
    path = None if _RECORDING.value is None else pathlib.Path(_RECORDING.value)
    _refuse_to_lose(source, path, output)
    recording = None if path is None else open_recording(path)
    scored = scoring.read_scoring(
        source, recording=recording, code_book=_CODE_BOOK.value, scorer=_SCORER.value
    )
    start = duration_s = None
    if recording is not None:
        start = None if recording.start_is_filler else recording.start_of_day_s
        duration_s = recording.duration_s
    elif edf_start(source) is not None:
        began = edf_start(source)
        start = began.hour * 3600 + began.minute * 60 + began.second
    print(f"{source}: read as {scored.source}", *describe(scored), sep="\n")
    told = writing.write_scoring(
        output, scored, start_of_day_s=start, duration_s=duration_s, replace=_OVERWRITE.value
    )
    if start is None and output.suffix.lower() == ".edf":
        told.append("its header says 00:00:00, as the recording's start is not known (--recording)")
    print(f"{output}: written as {form.name}", *(f"  NOT HELD: {line}" for line in told), sep="\n")


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    try:
        convert(pathlib.Path(_INPUT.value), pathlib.Path(_OUTPUT.value))
    except (scoring.ScoringError, RecordingError, OSError) as error:
        print(f"convert_scoring: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    app.run(main)
