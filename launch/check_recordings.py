r"""Say of each recording how its labels resolve, why the others do not, and whether to trust them.

    python -m launch.check_recordings night.edf /folder/of/recordings
    python -m launch.check_recordings --cohort=shhs shhs1-200001.edf
    python -m launch.check_recordings --aliases=our_labels.toml night.edf
    python -m launch.check_recordings --format=json /folder/of/recordings
    python -m launch.check_recordings --figure=PICTURES /folder/of/recordings

Reads headers, scoring, tables of participants and a few minutes of each channel; writes nothing
but, with ``--figure``, a picture of each recording.
Ends with a summary of what would be left out, guessed or corrected. The exit code is 1 where any
file cannot be read; the other files are still checked.
"""

import collections
import dataclasses
import importlib.util
import json
import pathlib
import sys

import numpy as np
from absl import app, flags

from data_pipelines import findings, participants, recipes, scoring
from data_pipelines.builders import folder, recording_night
from data_pipelines.channels import resolve
from data_pipelines.channels.quality import RecordingQuality, check_quality
from data_pipelines.channels.table import COHORTS
from data_pipelines.recordings.base import Recording, RecordingError
from data_pipelines.recordings.opening import open_recording
from hypnos_jax.reports import recording_figure

_ALIASES = flags.DEFINE_string(
    "aliases", None, "JSON or TOML file of canonical channel -> list of this site's labels."
)
_COHORT = flags.DEFINE_enum(
    "cohort", None, sorted(COHORTS), "Cohort whose generic labels (EEG, EMG ...) are documented."
)
_MAINS_HZ = flags.DEFINE_integer("mains_hz", None, "50 or 60; by default seen in the spectrum.")
_CODE_BOOK = flags.DEFINE_string("code_book", None, "What plain lists of stages mean.")
_SCORER = flags.DEFINE_integer(
    "scorer", None, "Whose stages to take where a file holds several people's, 1 for the first."
)
_FORMAT = flags.DEFINE_enum("format", "text", ["text", "json"], "For people, or one JSON document.")
_FIGURE = flags.DEFINE_string(
    "figure",
    None,
    "Folder to draw a page of each recording into (PNG): pieces of the channels, their spectra, the"
    " hypnogram on the recording's time axis.",
)
_STRICT = flags.DEFINE_bool("strict", False, "Exit code 1 where there is anything to look at.")


@dataclasses.dataclass(frozen=True)
class Report:
    """What was seen of one recording.

    Attributes:
        recording: Open.
        resolution, quality: Of its channels.
        stages: int8, an epoch each, -1 unscored, on the axis of the recording; None where the file
            holds no signals.
        events: :class:`scoring.Event` in order of onset.
        source: Of which kind the scoring is, or None.
        events_scored: As of :class:`scoring.Scoring`.
        notes: What nobody needs to look at.
        findings: What a user should look at.
    """

    recording: Recording
    resolution: resolve.Resolution
    quality: RecordingQuality
    stages: np.ndarray | None
    events: list[scoring.Event]
    source: str | None
    events_scored: bool | tuple[str, ...]
    notes: list[str]
    findings: list[findings.Finding]

    def to_json(self) -> dict:
        """As a dictionary for a program."""
        return {
            "path": str(self.recording.path),
            "duration_s": self.recording.duration_s,
            "start_of_day_s": self.recording.start_of_day_s,
            "labels": list(self.recording.labels),
            "mains_hz": self.quality.mains_hz,
            "channels": {name: x.to_json() for name, x in self.quality.channels.items()},
            "not_used": [list(pair) for pair in _not_used(self)],
            "scoring": self.source
            and {
                "source": self.source,
                "stages": _counts(self.stages),
                "events": dict(collections.Counter(event.kind for event in self.events)),
            },
            "notes": self.notes,
            "findings": [finding.to_json() for finding in self.findings],
        }


def check(path: pathlib.Path, reader: recording_night.PrepareRecording, cohort, mains_hz) -> Report:
    """Open a recording, check its channels, read its scoring.

    Raises:
        RecordingError: It cannot be read.
    """
    recording = open_recording(path)
    resolution = resolve.resolve(
        recording.labels,
        aliases=reader.aliases,
        cohort=cohort,
        unreadable=recording.unreadable,
    )
    quality = check_quality(recording, resolution, mains_hz=mains_hz)
    found, notes = [*quality.findings], [*quality.notes]
    stages, events, source, events_scored = None, [], None, False
    if recording.labels:
        try:
            pending = recording_night.Pending(name=recording.name, path=path)
            stages, events, facts = reader.scoring_of(pending, recording)
            source, events_scored = facts.get("scoring"), facts.get("events_scored", False)
            found += facts["findings"]
            notes += facts["notes"]
        except scoring.ScoringError as error:
            # Where the folder lies is said by the recording's own line.
            reason = str(error).replace(f"{path.parent}/", "")
            found.append(findings.Finding("no_scoring", "scoring that is refused", reason))
    return Report(
        recording, resolution, quality, stages, events, source, events_scored, notes, found
    )


def check_people(path: pathlib.Path, recordings: list[pathlib.Path]) -> list[findings.Finding]:
    """What the tables of participants in a folder do not say of its recordings.

    Raises:
        SubjectMapError: A table cannot be read, or contradicts itself.
    """
    tables = [participants.read_table(table) for table in participants.find_tables(path)]
    names = {folder.name_of(r, path) for r in recordings if not folder.is_scoring(r)}
    return participants.match(tables, names).findings


def find_recordings(path: pathlib.Path) -> tuple[list[pathlib.Path], list[findings.Finding]]:
    """The file itself, or every recording below the folder, sorted; and what was found of links."""
    if not path.is_dir():
        return [path], []
    found = []
    # In a folder, a record is found by its header, not by its signal files too.
    paths, _ = folder.recordings_below(path, folder.SUFFIXES, found)
    return [p for p in paths if p.is_file() or not p.exists()], found


def describe(report: Report) -> str:
    """The report on one recording, as text for a terminal."""
    recording, quality = report.recording, report.quality
    lines = [f"{recording.path}", f"  {_extent(recording)}"]
    lines += [f"  scoring: {_scored(report)}"] if report.source else []
    lines += [f"  look at: {finding.note}" for finding in report.findings]
    lines += [f"  note: {note}" for note in report.notes]
    if quality.channels:
        rows = [("CHANNEL", "FROM", "RATE", "AMPLITUDE", "QUALITY")]
        for name, channel in quality.channels.items():
            binding = channel.binding
            source = binding.label if binding.reference is None else f"{binding.label} - "
            source += binding.reference_label or ""
            amplitude = "-" if channel.amplitude is None else f"{channel.amplitude:.3g}"
            rows.append(
                (
                    name,
                    source,
                    f"{channel.rate_hz:g} Hz",
                    f"{amplitude} {channel.unit}".strip(),
                    "; ".join((channel.status, *_how(binding), *channel.notes)),
                )
            )
        lines += _table(rows)
    elif recording.labels:
        lines.append("  none of its labels is a known channel")
    unused = _not_used(report)
    if unused:
        rows = [("NOT USED", "BECAUSE"), *unused]
        lines += ["", *_table(rows)]
    return "\n".join(lines) + "\n"


def draw(report: Report, pages: recording_figure.Pages) -> pathlib.Path:
    """Draw the page of a recording and return its file."""
    scored = None
    if report.source is not None:
        scored = scoring.Scoring(report.stages, report.events, report.source, report.events_scored)
    return pages.draw(
        report.recording,
        report.quality,
        scored=scored,
        findings=report.findings,
        notes=report.notes,
    )


def _not_used(report: Report) -> list[tuple[str, str]]:
    """The labels of no channel, with the reasons."""
    taken = [channel.binding for channel in report.quality.channels.values()]
    used = {b.label for b in taken} | {b.reference_label for b in taken}
    return [(label, reason) for label, reason in report.resolution.unused if label not in used]


def _counts(stages: np.ndarray) -> dict[str, int]:
    """Epochs of each stage."""
    names = dict(enumerate(scoring.STAGES)) | {-1: "unscored"}
    return {name: int((stages == stage).sum()) for stage, name in names.items()}


def _scored(report: Report) -> str:
    """What the scoring holds, in a line."""
    stages = ", ".join(f"{name} {count}" for name, count in _counts(report.stages).items())
    return f"{report.source}, epochs: {stages}; {len(report.events)} events"


def _how(binding: resolve.Binding) -> list[str]:
    """How the channel comes about, where the columns do not already say it."""
    plain = binding.reference is not None or binding.how == "as labelled"
    return [] if plain else [binding.how]


def _extent(recording: Recording) -> str:
    minutes, seconds = divmod(round(recording.duration_s), 60)
    text = (
        f"{minutes // 60} h {minutes % 60:02d} min {seconds:02d} s, {len(recording.labels)} labels"
    )
    if recording.start_of_day_s is not None:
        clock = int(recording.start_of_day_s)
        text += f", from {clock // 3600:02d}:{clock // 60 % 60:02d}:{clock % 60:02d}"
    if not recording.labels:
        text += f", {len(recording.annotations)} annotations (scoring, not signals)"
    return text


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    """Columns as wide as their contents; the last one runs free."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    return [
        "  " + "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths)), row[-1]]).rstrip()
        for row in rows
    ]


def main(argv: list[str]) -> None:
    if len(argv) < 2:
        raise app.UsageError("name at least one recording or folder")
    # A terminal may lack letters that names of files and words of a scoring have.
    sys.stdout.reconfigure(errors="backslashreplace")
    if _MAINS_HZ.value not in (None, 50, 60):
        raise app.UsageError(f"--mains_hz={_MAINS_HZ.value}: the mains frequency is 50 or 60 Hz")
    try:
        aliases = None if _ALIASES.value is None else resolve.load_aliases(_ALIASES.value)
        if _CODE_BOOK.value is not None:
            scoring.code_book_of(_CODE_BOOK.value, "--code_book")
    except (resolve.AliasError, scoring.ScoringError) as error:
        raise app.UsageError(str(error)) from None
    as_json = _FORMAT.value == "json"
    reader = recording_night.PrepareRecording(
        recipes.find_recipe("hypnos"),
        (),
        aliases=aliases,
        code_book=_CODE_BOOK.value,
        scorer=_SCORER.value,
    )
    if _FIGURE.value is not None and importlib.util.find_spec("matplotlib") is None:
        raise app.UsageError("--figure needs matplotlib, which the extra `probe` installs")
    pages = None if _FIGURE.value is None else recording_figure.Pages(_FIGURE.value)
    recordings, errors, of_run, checked, unknown = [], [], [], 0, 0
    of_recordings = collections.defaultdict(list)

    def cannot(path, reason):
        errors.append({"path": str(path), "reason": reason.strip()})
        if not as_json:
            print(reason, file=sys.stderr, flush=True)

    for argument in map(pathlib.Path, argv[1:]):
        paths, found = find_recordings(argument)
        of_run += found
        if not paths:
            cannot(argument, f"{argument}: no recording in this folder")
        try:
            of_run += check_people(argument, paths) if argument.is_dir() else []
        except participants.SubjectMapError as error:
            cannot(argument, f"CANNOT BE READ  {error}\n")
        for path in paths:
            try:
                report = check(path, reader, _COHORT.value, _MAINS_HZ.value)
                checked += 1
                unknown += bool(report.recording.labels and not report.quality.channels)
                of_recordings[path.with_suffix("").as_posix()] += (
                    finding.to_json() for finding in report.findings
                )
                if as_json:
                    recordings.append(report.to_json())
                else:
                    print(describe(report), flush=True)
            except RecordingError as error:
                cannot(path, f"CANNOT BE READ  {error}\n")
                continue
            if pages is None or not report.recording.labels:
                continue
            try:
                print(f"  drawn: {draw(report, pages)}\n", file=sys.stderr, flush=True)
            except Exception as error:  # whatever is odd about one must not stop the others
                cannot(path, f"CANNOT BE DRAWN  {path}: {error!r}\n")
    summary = findings.summarise(of_recordings, [finding.to_json() for finding in of_run])
    if as_json:
        document = {
            "recordings": recordings,
            "errors": errors,
            "findings": [finding.to_json() for finding in of_run],
            "summary": summary,
        }
        json.dump(document, sys.stdout, indent=1, allow_nan=False)
        print()
    else:
        print(f"{checked} checked, {len(errors)} could not be read")
        if unknown:
            print(f"recordings without any known channel: {unknown}")
        print("to look at:" if summary else "nothing to look at")
        lines = findings.lines_of(findings.summarise(of_recordings), "recordings")
        print("\n".join([*lines, *findings.lines_of_run(of_run)]))
    sys.exit(1 if errors or (_STRICT.value and summary) else 0)


if __name__ == "__main__":
    app.run(main)
