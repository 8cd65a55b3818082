"""The tables of a folder of arrays: which nights there are, of whom, and what their series are.

``index.csv`` has a row a night, ``series.toml`` declares the series, ``events.csv`` may list
events of all nights. docs/arrays.md describes them; :mod:`data_pipelines.builders.arrays` reads the
nights' files.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import io
import math
import pathlib
import tomllib

from data_pipelines.files import walk
from data_pipelines.findings import Finding
from data_pipelines.recipes import Recipe, RecipeError
from data_pipelines.recipes.arrays import recipe_of_rows, series_of
from data_pipelines.scoring import EVENT_KINDS, STAGES, Event
from data_pipelines.scoring.text import decode, number_of
from data_pipelines.scoring.words.unknown_words import printable
from data_pipelines.scoring.words.vocabulary import event_of
from data_pipelines.splits import SPLITS, split_of
from data_pipelines.store import SEXES

INDEX, DECLARED, EVENTS = "index.csv", "series.toml", "events.csv"
SUFFIXES = (".npz", ".parquet")
COLUMNS = ("file", "night", "subject", "split", "site", "age", "sex", "events_scored")
EVENT_COLUMNS = ("night", "kind", "onset_s", "duration_s")
MAX_BYTES = 256 * 2**20  # ours: of a table


class ArraysError(ValueError):
    """A folder, or a night of it, that cannot be read as it is; says which file, line and key."""


@dataclasses.dataclass(frozen=True)
class ArrayNight:
    """A row of the index.

    Attributes:
        name: Of the recording in the store.
        path: The file.
        subject: The person.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        metadata: Age, sex, site, outcomes, and which events somebody looked for.
        events: Of ``events.csv``, by onset.
    """

    name: str
    path: pathlib.Path
    subject: str
    split: str
    metadata: dict
    events: tuple[Event, ...] = ()


@dataclasses.dataclass(frozen=True)
class Declaration:
    """What ``series.toml`` says.

    Attributes:
        recipe: The series as a recipe.
        stage_codes: Code as text -> stage, -1 for none; {} where the file has no such table.
        events_scored: Kinds of events that somebody looked for in every night.
    """

    recipe: Recipe
    stage_codes: dict[str, int]
    events_scored: tuple[str, ...]


def read_declaration(folder) -> Declaration:
    """Read ``series.toml``.

    Raises:
        ArraysError: It is missing, is no TOML, or a key of it is unknown or wrong.
    """
    path = pathlib.Path(folder) / DECLARED
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArraysError(
            f"{path}: cannot be read ({error.strerror}); it declares the series, see docs/arrays.md"
        ) from None
    except ValueError as error:  # no TOML, or no UTF-8
        raise ArraysError(f"{path}: {error}") from None
    if unknown := sorted(set(told) - {"series", "stages", "events"}):
        raise ArraysError(f"{path}: {unknown[0]!r}: no such table; series, stages, events are")
    for key in ("series", "stages", "events"):
        _is_table(path, key, told.get(key, {}))
    for name, row in told.get("series", {}).items():
        _is_table(path, f"series.{name}", row)
    if not told.get("series"):
        raise ArraysError(f"{path}: no table [series.NAME], which declares a series")
    try:
        rows = [series_of(_stepped(name, row)) for name, row in told["series"].items()]
        recipe = recipe_of_rows(rows)
    except RecipeError as error:
        raise ArraysError(f"{path}: series.{error}") from None
    return Declaration(recipe, _codes(path, told), _scored(path, told))


def _is_table(path, key, value):
    if not isinstance(value, dict):
        raise ArraysError(f"{path}: {key}: must be a table")


def _stepped(name, row):
    """``rate_hz`` in place of ``step_s``, for series of several values a second."""
    row = {"name": name} | row
    if "rate_hz" in row:
        rate_hz = row.pop("rate_hz")
        if "step_s" in row:
            raise RecipeError(f"{name}: give step_s or rate_hz, not both")
        if isinstance(rate_hz, bool) or not isinstance(rate_hz, int | float) or not rate_hz > 0:
            raise RecipeError(f"{name}.rate_hz={rate_hz!r}: must be a number above 0")
        row["step_s"] = 1 / rate_hz
    return row


def _codes(path, told):
    table = told.get("stages", {})
    if unknown := sorted(set(table) - {"codes"}):
        raise ArraysError(f"{path}: stages.{unknown[0]}: no such key; there is codes")
    stages = {name: code for code, name in enumerate(STAGES)} | {"none": -1}
    codes = table.get("codes", {})
    _is_table(path, "stages.codes", codes)
    for code, stage in codes.items():
        if stage not in stages:
            raise ArraysError(f"{path}: stages.codes.{code}={stage!r}: is one of {[*stages]}")
    return {code: stages[stage] for code, stage in codes.items()}


def _scored(path, told):
    table = told.get("events", {})
    if unknown := sorted(set(table) - {"scored"}):
        raise ArraysError(f"{path}: events.{unknown[0]}: no such key; there is scored")
    words = table.get("scored", [])
    if not isinstance(words, list):
        raise ArraysError(f"{path}: events.scored: must be a list of kinds")
    return _kinds(words, f"{path}: events.scored")


def _kinds(words, where):
    known = ("apnea", *EVENT_KINDS)
    for word in words:
        if word not in known:
            raise ArraysError(f"{where}: {word!r} is none of {', '.join(known)}")
    return tuple(words)


def find_nights(
    folder, declaration: Declaration | None = None, findings: list[Finding] | None = None
) -> tuple[dict[str, ArrayNight], list[tuple[str, str]]]:
    """Read the index of a folder, and its events.

    Args:
        folder: With ``index.csv``.
        declaration: What its ``series.toml`` says; read where it is not given.
        findings: Where to add what was not understood or not used.

    Returns:
        name -> what to read, and rows that cannot be used as ``(night or line, reason)``.

    Raises:
        ArraysError: A table cannot be read, or lacks a column.
    """
    folder = pathlib.Path(folder)
    declaration = declaration or read_declaration(folder)
    findings = [] if findings is None else findings
    columns, rows = _table(folder / INDEX, ("file", "subject"))
    outcomes = _outcomes(columns, rows, findings)
    found, left, splits, odd = {}, [], {}, collections.Counter()
    for line, row in rows:
        try:
            night = _night(folder, row, outcomes, declaration, odd)
            if night.name in found:
                raise ArraysError(f"a second night called {night.name!r}")
            if splits.setdefault(night.subject, night.split) != night.split:
                raise ArraysError(
                    f"split {night.split!r}, and another night of the same person is in"
                    f" {splits[night.subject]!r}"
                )
        except ArraysError as error:
            name = row.get("night") or row["file"] or f"line {line}"
            left.append((name, f"{INDEX}, line {line}: {error}"))
            continue
        found[night.name] = night
    for column, count in sorted(odd.items()):
        note = f"{INDEX}: {column} says something that is not understood in {count} rows"
        findings.append(Finding("person", f"{column} not understood", note, count))
    _tell_files(folder, found, left, findings)
    return _with_events(folder, found, left, findings), left


def _night(folder, row, outcomes, declaration, odd):
    if not row["file"]:
        raise ArraysError("no file")
    path = pathlib.Path(row["file"])
    if path.suffix.lower() not in SUFFIXES:
        raise ArraysError(f"file={row['file']!r}: ends in one of {', '.join(SUFFIXES)}")
    if not row["subject"]:
        raise ArraysError("no subject; each person's nights are kept in one split")
    split = row.get("split") or split_of(row["subject"])
    split = {"val": "validation"}.get(split.lower(), split.lower())
    if split not in SPLITS:
        raise ArraysError(f"split={row['split']!r}: is one of {', '.join(SPLITS)}, or empty")
    # Where files lie is nobody's business who is given the store.
    name = path.with_suffix("").name if path.is_absolute() else path.with_suffix("").as_posix()
    metadata: dict = {}
    age, sex = number_of(row.get("age", "")), SEXES.get(row.get("sex", "").lower())
    if age is not None and 0 <= age <= 120:
        metadata["age"] = age
    elif row.get("age"):
        odd["age"] += 1
    if sex is not None:
        metadata["sex"] = "male" if sex else "female"
    elif row.get("sex"):
        odd["sex"] += 1
    if row.get("site"):
        metadata["site"] = row["site"]
    told = {key: number_of(row[key]) for key in outcomes if row[key]}
    if told:
        metadata["outcomes"] = told
    scored = declaration.events_scored
    if row.get("events_scored"):
        words = [word.strip() for word in row["events_scored"].split(";")]
        scored = () if words == ["none"] else _kinds(words, "events_scored")
    if scored:
        metadata["events_scored"] = [*scored]
    return ArrayNight(row.get("night") or name, folder / path, row["subject"], split, metadata)


def _outcomes(columns, rows, findings):
    """Names of the further columns that hold numbers alone; others are told, and not read."""
    found = []
    for column in (name for name in columns if name not in COLUMNS):
        texts = {row[column] for _, row in rows} - {""}
        values = [number_of(text) for text in texts]
        if values and all(value is not None and math.isfinite(value) for value in values):
            found.append(column)
        else:
            note = f"{INDEX}: column {column!r} holds no numbers, or more than these: not read"
            findings.append(Finding("index_row", f"column {column}", note))
    return found


def _tell_files(folder, found, left, findings):
    there = {night.path.resolve() for night in found.values()}
    there |= {(folder / name).resolve() for name, _ in left}
    others = [
        path
        for path in walk(folder).paths
        if path.suffix.lower() in SUFFIXES and path.resolve() not in there
    ]
    if others and not left:  # a row that was left may be of any of them
        some = ", ".join(path.name for path in others[:5]) + (" ..." if others[5:] else "")
        note = f"{INDEX}: {len(others)} files of arrays have no row, and were not read: {some}"
        findings.append(Finding("index_row", "files without a row", note, len(others)))


def _with_events(folder, found, left, findings):
    path = folder / EVENTS
    if not path.is_file():
        return found
    _, rows = _table(path, EVENT_COLUMNS)
    events, unknown, nowhere = collections.defaultdict(list), collections.Counter(), 0
    for line, row in rows:
        name = row["night"]
        if name not in found:
            nowhere += 1
            continue
        try:
            event = _event(row, line)
        except ArraysError as error:
            left.append((name, str(error)))
            del found[name]
            continue
        if event is None:
            unknown[printable(row["kind"])] += 1
        else:
            events[name].append(event)
    for word, count in unknown.items():
        note = f"{EVENTS}: {count} rows of the kind {word!r}, which is not known, were left out"
        findings.append(Finding("unknown_event", word, note, count))
    if nowhere:
        note = f"{EVENTS}: {nowhere} rows are of nights that are not read"
        findings.append(Finding("index_row", "events of other nights", note, nowhere))
    return {
        name: dataclasses.replace(
            night, events=tuple(sorted(events[name], key=lambda x: (x.onset_s, x.kind)))
        )
        for name, night in found.items()
    }


def _event(row, line):
    """The event of a row; None where its kind is not known."""
    times = {key: number_of(row[key]) for key in ("onset_s", "duration_s")}
    for key, value in times.items():
        least = 0 if key == "duration_s" else -86400
        if value is None or not least <= value <= 14 * 86400:
            raise ArraysError(f"{EVENTS}, line {line}: {key}={row[key]!r}: must be seconds")
    kind = (row["kind"], "") if row["kind"] in EVENT_KINDS else event_of(row["kind"])
    return None if kind is None else Event(kind[0], times["onset_s"], times["duration_s"], kind[1])


def _table(path, needed):
    """Columns and (line, row) of a table; a row is column -> text."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ArraysError(f"{path}: more than {MAX_BYTES // 2**20} MiB")
        text = decode(path.read_bytes()).replace("\0", "")
    except OSError as error:
        raise ArraysError(f"{path}: cannot be read ({error.strerror})") from None
    first = text.splitlines()[0] if text.strip() else ""
    delimiter = max(",;\t", key=first.count)
    try:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        rows = [(lines.line_num, [field.strip() for field in row]) for row in lines]
    except csv.Error as error:
        raise ArraysError(f"{path}: cannot be read as a table ({error})") from None
    rows = [(line, row) for line, row in rows if any(row)]
    columns = rows[0][1] if rows else []
    if missing := [column for column in needed if column not in columns]:
        raise ArraysError(f"{path}: no column {missing[0]!r}; needed are {', '.join(needed)}")
    if len(set(columns)) < len(columns):
        raise ArraysError(f"{path}: two columns have one name")
    for line, row in rows[1:]:
        if len(row) > len(columns) and any(row[len(columns) :]):
            raise ArraysError(
                f"{path}, line {line}: more fields than the first line; put what holds a"
                f" {delimiter!r} into quotes"
            )
    wide = ((line, row + [""] * (len(columns) - len(row))) for line, row in rows[1:])
    return columns, [(line, dict(zip(columns, row))) for line, row in wide]
