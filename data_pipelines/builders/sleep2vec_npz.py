"""Builder of nights in the layout of sleep2vec's repository: NPZ files and an index.

The index is a CSV file with ``path``, ``split`` (train, val, test, external) and ``duration`` (s),
and where known ``age``, ``sex``, ``source`` (the cohort), ``session_id``, ``patient_id``, columns
``<key>_mask`` (1: the file has that signal) and diseases (any other column of 0, 1 and nothing).

A file holds a flat array per signal under the official keys, ``duration``, and where scored
``stage5`` (an entry an epoch), ``ah_event`` (an entry a second) and ``arousal_event`` (a row a
second: RES, SPONT, Limb, PLM). Signals are taken as they are; nothing in a file is ever executed.
"""

from __future__ import annotations

import csv
import dataclasses
import math
import pathlib
import zipfile

import numpy as np

from data_pipelines.labels import AROUSAL_CAUSES
from data_pipelines.recipes.sleep2vec import ROWS, TOKEN_S, Modality
from data_pipelines.scoring import Event
from data_pipelines.signals.causal import amplitude_tracks
from data_pipelines.store import SEXES, ChannelSignal, Night

SPLITS = {
    "train": "train",
    "val": "validation",
    "validation": "validation",
    "test": "test",
    "external": "test",  # a cohort that was never trained on; the index's own word is kept beside
}
COLUMNS = ("path", "split", "duration")
FACTS = ("age", "sex", "source", "session_id", "patient_id")
LABELS = ("stage5", "ah_event", "arousal_event")
MASK = "_mask"
LONGEST_S = 3 * 86400


class NpzError(ValueError):
    """A night that cannot be taken as it is; says which file and key."""


@dataclasses.dataclass(frozen=True)
class NpzNight:
    """A row of the index.

    Attributes:
        name: Of the recording in the store.
        path: The file.
        split: Of ours.
        duration_s: As the index says.
        subject: The person.
        has: Key -> whether the index says that the file has it; a key that is not there is unknown.
        metadata: Age, sex, site, outcomes.
    """

    name: str
    path: pathlib.Path
    split: str
    duration_s: float
    subject: str
    has: dict[str, bool]
    metadata: dict


@dataclasses.dataclass(frozen=True)
class ReadNpz:
    """Make the night of one row; picklable.

    Attributes:
        modalities: Names of those to take where a file has them.
    """

    modalities: tuple[str, ...]

    def subject_of(self, item: NpzNight) -> str:
        """Return whose night it is."""
        return item.subject

    def __call__(self, item: NpzNight) -> Night:
        """Read and check a file.

        Raises:
            NpzError: It cannot be read; a key is missing, holds what is no signal, or is of another
                length than the others.
        """
        try:
            with (
                zipfile.ZipFile(item.path) as archive,
                np.load(item.path, allow_pickle=False) as at,
            ):
                sizes = {name[:-4]: archive.getinfo(name).file_size for name in archive.namelist()}
                return self._night(item, _File(item.path.name, at, sizes))
        except NpzError:
            raise
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            reason = error.strerror if isinstance(error, OSError) else type(error).__name__
            raise NpzError(
                f"{item.path.name}: not an NPZ file that can be read ({reason})"
            ) from None

    def _night(self, item, file):
        arrays = {}
        for name in self.modalities:
            modality = ROWS[name]
            said = [item.has[key] for key in modality.keys if key in item.has]
            key = next((key for key in modality.keys if key in file.sizes), None)
            if key is None and any(said):
                raise NpzError(f"{file.name}: no {modality.keys[0]!r}, which the index says it has")
            if key is not None and (any(said) or not said):
                arrays[name] = key, file.signal(key, modality)
        if not arrays:
            keys = [ROWS[name].keys[0] for name in self.modalities]
            raise NpzError(f"{file.name}: none of {', '.join(keys)}")
        tokens = _tokens(file.name, arrays, item.duration_s)
        stages = file.stages(tokens)
        events, scored = file.events(tokens)
        metadata = dict(item.metadata) | {"scoring": "sleep2vec_npz", "events_scored": scored}
        scalars = file.scalars()
        if scalars:
            metadata["scalars"] = scalars
        return Night(
            recording=item.name,
            subject=item.subject,
            split=item.split,
            channels={
                name: _channel(ROWS[name], samples, tokens) for name, (_, samples) in arrays.items()
            },
            stages=stages,
            events=events,
            metadata=metadata,
            qc={"keys": {name: key for name, (key, _) in arrays.items()}},
        )


class _File:
    """An open NPZ file; its name, its arrays, and their sizes in bytes by key."""

    def __init__(self, name, arrays, sizes):
        self.name, self._arrays, self.sizes = name, arrays, sizes

    def _read(self, key, most_bytes):
        if self.sizes[key] > most_bytes + 4096:
            raise NpzError(f"{self.name}: {key!r} is longer than {LONGEST_S / 86400:g} days")
        try:
            return self._arrays[key]
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            objects = "pickle" in str(error)
            reason = "Python objects, which are never loaded" if objects else "damaged data"
            raise NpzError(f"{self.name}: {key!r} holds {reason}") from None

    def _numbers(self, key, most_bytes):
        array = self._read(key, most_bytes)
        if array.dtype.kind not in "fiub":
            raise NpzError(f"{self.name}: {key!r} is of type {array.dtype}, not numbers")
        return array

    def signal(self, key: str, modality: Modality) -> np.ndarray:
        """Float32 ``[T]``."""
        array = self._numbers(key, LONGEST_S * modality.rate_hz * 8)
        if array.ndim != 1 or array.dtype.kind == "b":
            raise NpzError(
                f"{self.name}: {key!r} is {array.dtype} of shape {array.shape}, not a flat signal"
            )
        wrong = np.flatnonzero(~np.isfinite(array))
        if len(wrong):
            at = int(wrong[0])
            raise NpzError(
                f"{self.name}: {key!r} is {array[at]} at sample {at} and {len(wrong) - 1} others"
            )
        return array.astype(np.float32)

    def _integers(self, key, shape, low, high):
        """Whole numbers; shape[0] is how many, give or take one token."""
        array = self._numbers(key, LONGEST_S * 32)
        if array.ndim != len(shape) or array.shape[1:] != shape[1:]:
            raise NpzError(f"{self.name}: {key!r} has shape {array.shape}, not {shape}")
        if not (np.isin(array, np.arange(low, high + 1))).all():
            raise NpzError(f"{self.name}: {key!r} has values other than {low} to {high}")
        return array.astype(np.int8)

    def stages(self, tokens: int) -> np.ndarray:
        """Int8 ``[tokens]``; -1 where there are none."""
        out = np.full(tokens, -1, np.int8)
        if "stage5" in self.sizes:
            found = self._integers("stage5", (tokens,), -1, 4)
            if abs(len(found) - tokens) > 1:
                raise NpzError(f"{self.name}: 'stage5' has {len(found)} epochs, signals {tokens}")
            out[: len(found)] = found[:tokens]
        return out

    def events(self, tokens: int) -> tuple[list[Event], list[str]]:
        """The events, and which kinds of them somebody scored."""
        events, scored, seconds = [], [], tokens * TOKEN_S
        for key, shape, kind in (
            ("ah_event", (seconds,), "apnea"),
            ("arousal_event", (seconds, len(AROUSAL_CAUSES)), "arousal"),
        ):
            if key not in self.sizes:
                continue
            found = self._integers(key, shape, 0, 1)
            if abs(len(found) - seconds) > 2 * TOKEN_S:
                raise NpzError(f"{self.name}: {key!r} has {len(found)} s, signals {seconds} s")
            scored.append(kind)
            columns = found[:seconds].reshape(-1, *shape[1:] or (1,)).T
            for column, value in zip(columns, AROUSAL_CAUSES if kind == "arousal" else ("",)):
                change = np.flatnonzero(np.diff(column, prepend=0, append=0)).reshape(-1, 2)
                name = "arousal" if kind == "arousal" else "apnea_hypopnea"
                events += [Event(name, float(a), float(b - a), value) for a, b in change]
        return sorted(events, key=lambda event: (event.onset_s, event.kind, event.value)), scored

    def scalars(self) -> dict[str, float]:
        """Single numbers beside the signals, such as ``ahi`` and ``tst``."""
        known = {key for modality in ROWS.values() for key in modality.keys}
        found = {}
        for key in sorted(set(self.sizes) - known - {*LABELS, "duration"}):
            if self.sizes[key] > 4096:
                continue
            array = self._read(key, 4096)
            if array.size == 1 and array.dtype.kind in "fiu" and np.isfinite(array).all():
                found[key] = float(array.reshape(()))
        return found


def find_nights(index) -> tuple[dict[str, NpzNight], list]:
    """Read the index.

    Returns:
        name -> what to read, and rows that cannot be used as ``(path as written, reason)``.

    Raises:
        NpzError: The index cannot be read, or lacks a column.
    """
    index = pathlib.Path(index)
    try:
        with open(index, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), [name.strip() for name in reader.fieldnames or ()]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise NpzError(f"{index}: cannot be read as a CSV file ({error})") from None
    missing = [column for column in COLUMNS if column not in columns]
    if missing:
        raise NpzError(f"{index}: no column {missing[0]!r}; needed are {', '.join(COLUMNS)}")
    # A row too short has None, one too long a list under None.
    rows = [{name: (row.get(name) or "").strip() for name in columns} for row in rows]
    diseases = _diseases(columns, rows)
    found, left, splits = {}, [], {}
    for number, row in enumerate(rows, 2):
        try:
            night = _row(index, row, columns, diseases)
            if night.name in found:
                raise NpzError(f"line {number}: a second night called {night.name!r}")
            if splits.setdefault(night.subject, night.split) != night.split:
                raise NpzError(
                    f"line {number}: split {night.split!r}, and another night of the same person"
                    f" is in {splits[night.subject]!r}"
                )
        except NpzError as error:
            left.append((row["path"] or f"line {number}", f"{index.name}: {error}"))
            continue
        found[night.name] = night
    return found, left


def _row(index, row, columns, diseases):
    if not row["path"]:
        raise NpzError("a row without a path")
    if row["split"].lower() not in SPLITS:
        raise NpzError(f"split={row['split']!r}; must be one of {', '.join(SPLITS)}")
    duration_s = _number(row["duration"])
    if duration_s is None or not 0 < duration_s <= LONGEST_S:
        raise NpzError(f"duration={row['duration']!r}; must be seconds")
    path = pathlib.Path(row["path"])
    # Where files lie is nobody's business who is given the store.
    name = path.with_suffix("").name if path.is_absolute() else path.with_suffix("").as_posix()
    site = row.get("source") if "source" in columns else index.stem
    person = row.get("patient_id") or name
    metadata: dict = {"index_split": row["split"].lower()}
    age, sex = _number(row.get("age", "")), SEXES.get(row.get("sex", "").lower())
    if age is not None and age >= 0:
        metadata["age"] = age
    if sex is not None:
        metadata["sex"] = "male" if sex else "female"
    if site:
        metadata["site"] = site
    if row.get("session_id"):
        metadata["session"] = row["session_id"]
    outcomes = {key: _number(row[key]) for key in diseases}
    if diseases:
        metadata["outcomes"] = {key: int(x) for key, x in outcomes.items() if x is not None}
    return NpzNight(
        name=name,
        path=index.parent / path,
        split=SPLITS[row["split"].lower()],
        duration_s=duration_s,
        subject=f"{site}-{person}" if site and row.get("patient_id") else person,
        has={
            column.removesuffix(MASK): _number(row[column]) == 1
            for column in columns
            if column.endswith(MASK) and _number(row[column]) is not None
        },
        metadata=metadata,
    )


def _diseases(columns, rows):
    """Columns of 0, 1 and nothing that are none of the others."""
    known = {*COLUMNS, *FACTS}
    others = [name for name in columns if name not in known and not name.endswith(MASK)]
    found = []
    for name in others:
        said = {row[name] for row in rows} - {"", "nan", "NaN", "NA"}
        if said and {_number(text) for text in said} <= {0, 1}:
            found.append(name)
    return found


def _number(text):
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _tokens(name, arrays, duration_s):
    """Whole tokens that all signals have; they may differ by one, and from the duration."""
    counts = {key: len(x) // ROWS[m].frames for m, (key, x) in arrays.items()}
    least = min(counts.values())
    expected = int(duration_s // TOKEN_S)
    for m, (key, samples) in arrays.items():
        if abs(counts[key] - expected) > 1:
            raise NpzError(
                f"{name}: {key!r} has {len(samples)} samples for {duration_s:g} s, which is"
                f" {len(samples) / duration_s:.4g} Hz; must be {ROWS[m].rate_hz} Hz"
            )
    longest = max(counts, key=counts.get)
    if counts[longest] - least > 1:
        shortest = min(counts, key=counts.get)
        raise NpzError(
            f"{name}: {longest!r} has {counts[longest]} tokens and {shortest!r} {least}; they may"
            " differ by one"
        )
    if least == 0:
        raise NpzError(f"{name}: shorter than a token of {TOKEN_S} s")
    return least


def _channel(modality, samples, tokens):
    seconds = tokens * TOKEN_S
    samples = samples[: seconds * modality.rate_hz]
    valid = np.ones(seconds, bool)
    tracks, _ = amplitude_tracks(samples.reshape(seconds, -1).astype(np.float64), valid)
    return ChannelSignal(modality.name, modality.rate_hz, samples, valid, tracks)
