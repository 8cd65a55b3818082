r"""Say of each recording how its labels resolve, why the others do not, and whether to trust them.

    python -m launch.check_recordings night.edf /folder/of/recordings
    python -m launch.check_recordings --cohort=shhs shhs1-200001.edf
    python -m launch.check_recordings --aliases=our_labels.toml night.edf
    python -m launch.check_recordings --figure=PICTURES /folder/of/recordings

Reads headers and a few minutes of each channel; writes nothing but, with ``--figure``, a picture of
each recording. The exit code is 1 where any file
cannot be read; the other files are still checked.
"""

import importlib.util
import pathlib
import sys

from absl import app, flags

from data_pipelines import scoring
from data_pipelines.channels import resolve
from data_pipelines.channels.quality import RecordingQuality, check_quality
from data_pipelines.channels.table import COHORTS
from data_pipelines.recordings.base import Recording, RecordingError
from data_pipelines.recordings.opening import SUFFIXES, open_recording
from hypnos_jax.reports import recording_figure

_ALIASES = flags.DEFINE_string(
    "aliases", None, "JSON or TOML file of canonical channel -> list of this site's labels."
)
_COHORT = flags.DEFINE_enum(
    "cohort", None, sorted(COHORTS), "Cohort whose generic labels (EEG, EMG ...) are documented."
)
_MAINS_HZ = flags.DEFINE_integer("mains_hz", None, "50 or 60; by default seen in the spectrum.")
_FIGURE = flags.DEFINE_string(
    "figure",
    None,
    "Folder to draw a page of each recording into (PNG): pieces of the channels, their spectra, the"
    " hypnogram on the recording's time axis.",
)

# In a folder, a record is found by its header, not by its signal files too.
_FOLDER_SUFFIXES = set(SUFFIXES) - {".dat", ".mat"}


def find_recordings(path: pathlib.Path) -> list[pathlib.Path]:
    """The file itself, or every recording below the folder, sorted."""
    if not path.is_dir():
        return [path]
    found = (p for p in path.rglob("*") if p.suffix.lower() in _FOLDER_SUFFIXES and p.is_file())
    return sorted(found)


def describe(
    recording: Recording, resolution: resolve.Resolution, quality: RecordingQuality
) -> str:
    """The report on one recording, as text for a terminal."""
    lines = [f"{recording.path}", f"  {_extent(recording)}"]
    lines += [f"  note: {note}" for note in quality.notes]
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
    taken = [channel.binding for channel in quality.channels.values()]
    used = {b.label for b in taken} | {b.reference_label for b in taken}
    unused = [(label, reason) for label, reason in resolution.unused if label not in used]
    if unused:
        rows = [("NOT USED", "BECAUSE"), *unused]
        lines += ["", *_table(rows)]
    return "\n".join(lines) + "\n"


def draw(pages: recording_figure.Pages, recording: Recording, quality: RecordingQuality) -> bool:
    """Draw the page of a recording and say where it is; whether that went well."""
    if not recording.labels:
        return True
    scored, told = None, []
    try:
        path = scoring.find_scoring(recording.path)
        if path is not None:
            scored = scoring.read_scoring(path, recording=recording)
    except scoring.ScoringError as error:
        why = str(error).replace(f"{recording.path.parent}/", "")
        told.append(f"the scoring is not drawn: {why}")
    try:
        print(f"  drawn: {pages.draw(recording, quality, scored=scored, told=told)}\n", flush=True)
    except Exception as error:  # whatever is odd about one recording must not stop the others
        print(f"CANNOT BE DRAWN  {recording.path}: {error!r}\n", file=sys.stderr, flush=True)
        return False
    return True


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
    if _MAINS_HZ.value not in (None, 50, 60):
        raise app.UsageError(f"--mains_hz={_MAINS_HZ.value}: the mains frequency is 50 or 60 Hz")
    try:
        aliases = None if _ALIASES.value is None else resolve.load_aliases(_ALIASES.value)
    except resolve.AliasError as error:
        raise app.UsageError(str(error)) from None
    if _FIGURE.value is not None and importlib.util.find_spec("matplotlib") is None:
        raise app.UsageError("--figure needs matplotlib, which the extra `probe` installs")
    pages = None if _FIGURE.value is None else recording_figure.Pages(_FIGURE.value)
    checked = unread = undrawn = 0
    for argument in argv[1:]:
        paths = find_recordings(pathlib.Path(argument))
        if not paths:
            print(f"{argument}: no recording in this folder", file=sys.stderr)
            unread += 1
        for path in paths:
            try:
                recording = open_recording(path)
                resolution = resolve.resolve(
                    recording.labels,
                    aliases=aliases,
                    cohort=_COHORT.value,
                    unreadable=recording.unreadable,
                )
                quality = check_quality(recording, resolution, mains_hz=_MAINS_HZ.value)
                print(describe(recording, resolution, quality), flush=True)
                checked += 1
                if pages is not None:
                    undrawn += not draw(pages, recording, quality)
            except RecordingError as error:
                print(f"CANNOT BE READ  {error}\n", file=sys.stderr, flush=True)
                unread += 1
    print(f"{checked} checked, {unread} could not be read")
    if undrawn:
        print(f"{undrawn} could not be drawn")
    sys.exit(1 if unread or undrawn else 0)


if __name__ == "__main__":
    app.run(main)
