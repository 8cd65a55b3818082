"""Subjects to splits, and recordings to subjects.

All nights of a person fall into one split, whatever is added or taken away later: the split is a
pure function of the subject's name (and a salt), not of who else is in the folder.
"""

import csv
import hashlib
import pathlib
import re
from collections.abc import Sequence

SPLITS = ("train", "validation", "test")
RECORDING_COLUMNS = ("recording", "participant_id")
SUBJECT_COLUMNS = ("subject", "pid")


class SubjectMapError(ValueError):
    """A subject map that cannot be read or contradicts itself."""


def split_of(subject: str, *, fractions: Sequence[float] = (0.8, 0.1, 0.1), salt: str = "") -> str:
    """Return the split of a subject: `train`, `validation` or `test`.

    The first 8 bytes of sha256(salt, subject), as a fraction of 2**64, fall into one of the three
    intervals of `fractions`. The same on every machine and in every version.

    Args:
        subject: the person's name in the data set.
        fractions: shares of train, validation and test; they sum to 1.
        salt: another salt is another split of the same people.

    Raises:
        ValueError: the fractions are not three non-negative numbers that sum to 1.
    """
    fractions = [float(share) for share in fractions]
    if len(fractions) != 3 or min(fractions) < 0 or not abs(sum(fractions) - 1) <= 1e-6:
        raise ValueError(
            f"fractions {fractions} should be three shares (train, validation, test) that sum to 1"
        )
    digest = hashlib.sha256(f"{salt}\0{subject}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < fractions[0]:
        return "train"
    # A share of 0 stays empty: rounding of the sum never lets a subject into it.
    if fractions[2] == 0 or place < fractions[0] + fractions[1]:
        return "validation" if fractions[1] else "train"
    return "test"


# Cohorts whose file names say which person several nights are of.
_SUBJECT_RULES = (
    # Sleep-EDF cassette and telemetry: SC4ssN, ST7ssN (N the night, then two letters).
    re.compile(r"(?P<subject>SC4\d\d|ST7\d\d)[0-9][A-Z][0-9A-Z](-PSG)?"),
    # MIT-BIH Polysomnographic Database: slp01a and slp01b are one person's night in two parts.
    re.compile(r"(?P<subject>slp\d\d)[a-z]?"),
    # NSRR: visit, then the person (shhs1-200001, mros-visit1-aa0001, chat-baseline-300001).
    re.compile(r"(?P<cohort>shhs)[12]-(?P<subject>\d+)", re.I),
    re.compile(r"(?P<cohort>mros)-visit[12]-(?P<subject>[a-z0-9]+)", re.I),
    re.compile(r"(?P<cohort>chat)-(baseline|followup|nonrandomized)-(?P<subject>[a-z0-9]+)", re.I),
    re.compile(r"(?P<cohort>cfs|sof)-visit\d-(?P<subject>[a-z0-9]+)", re.I),
    re.compile(r"(?P<cohort>wsc)-visit\d-(?P<subject>\d+)-nsrr", re.I),
    re.compile(r"(?P<cohort>homepap-lab|homepap-home)-(full-|split-)?(?P<subject>\d+)", re.I),
    # BIDS: sub-<label>[_ses-<label>]_task-...
    re.compile(r"(?P<subject>sub-[0-9A-Za-z]+)(_.*)?"),
)


def subject_of(recording: str, subject_map: dict[str, str] | None = None) -> str:
    """Return the person that a recording is of.

    In this order: what the map says of the recording; the rule of a cohort whose file names tell
    the person (Sleep-EDF, slpdb, NSRR visits, BIDS), and what the map says of that name, as
    BOAS's `participants.tsv` does; the recording's own name.

    Args:
        recording: name of the recording: its file's stem, after folders if it has any.
        subject_map: recording -> subject, as `load_subject_map` returns it.
    """
    # A name may begin with folders; the cohorts' rules are about the file's own name.
    stem = recording.rpartition("/")[2]
    subject = recording
    for rule in _SUBJECT_RULES:
        match = rule.fullmatch(stem)
        if match:
            parts = match.groupdict()
            cohort = parts.get("cohort")
            subject = f"{cohort.lower()}-{parts['subject']}" if cohort else parts["subject"]
            break
    known = subject_map or {}
    return known.get(recording) or known.get(stem) or known.get(subject) or subject


def load_subject_map(path) -> dict[str, str]:
    """Read a CSV or TSV file with the columns `recording` and `subject`.

    The columns may also be called `participant_id` and `pid`, as in BOAS's `participants.tsv`;
    further columns are passed over. A recording is its file's stem, or what the rule of its
    cohort makes of it (`sub-1` for `sub-1_task-Sleep_acq-psg_eeg`).

    Returns:
        recording -> subject.

    Raises:
        SubjectMapError: the file cannot be read, lacks a column, has an empty field, or names two
            subjects for one recording.
    """
    names, rows = _read_table(path)
    recordings = _column(names, RECORDING_COLUMNS)
    # Plain BIDS: a participant is a person, and its id begins the recordings' names.
    people = _column(names, SUBJECT_COLUMNS)
    keys = recordings, recordings if people is None and "participant_id" in names else people
    if None in keys:
        # The line itself may be a person's row, so it is not repeated.
        raise SubjectMapError(f"{path}: the first line does not name the columns recording,subject")
    subjects: dict[str, str] = {}
    for number, row in rows:
        recording, subject = (_field(row, column) for column in keys)
        if not (recording and subject):
            raise SubjectMapError(f"{path}: row {number} lacks a recording or a subject")
        if subjects.setdefault(recording, subject) != subject:
            raise SubjectMapError(f"{path}: row {number} gives {recording!r} a second subject")
    return subjects


def load_participant_facts(path) -> dict[str, dict]:
    """Read age, sex and site of each recording from the columns of a subject map that has them.

    A value that is not understood is passed over: age is a number of years from 0 to 120, sex is
    M, F, male or female; further columns are never read.

    Returns:
        recording -> facts, of ``age`` (float), ``sex`` ("M" or "F") and ``site`` (str).

    Raises:
        SubjectMapError: the file cannot be read or names no recordings.
    """
    names, rows = _read_table(path)
    key = _column(names, RECORDING_COLUMNS)
    if key is None:
        raise SubjectMapError(f"{path}: no column called {' or '.join(RECORDING_COLUMNS)}")
    age, sex, site = (_column(names, (name,)) for name in ("age", "sex", "site"))
    people = {}
    for _, row in rows:
        facts = {}
        text = _field(row, age)
        if re.fullmatch(r"\d{1,3}(\.\d+)?", text, re.ASCII) and float(text) <= 120:
            facts["age"] = float(text)
        letter = {"m": "M", "male": "M", "f": "F", "female": "F"}.get(_field(row, sex).lower())
        if letter:
            facts["sex"] = letter
        if _field(row, site) not in ("", "n/a"):
            facts["site"] = _field(row, site)
        people[_field(row, key)] = facts
    return people


def _read_table(path):
    """Return the names of the columns, and the rows with their numbers."""
    path = pathlib.Path(path)
    try:
        if path.stat().st_size > 64 * 2**20:
            raise SubjectMapError(f"{path}: a subject map of more than 64 MiB")
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SubjectMapError(f"{path}: cannot be read as a UTF-8 text file ({error})") from None
    head = text.partition("\n")[0]
    rows = csv.reader(text.splitlines(), delimiter="\t" if "\t" in head else ",")
    try:
        rows = [[field.strip() for field in row] for row in rows if any(row)]
    except csv.Error as error:
        raise SubjectMapError(f"{path}: not a table ({error})") from None
    return (rows[0] if rows else []), list(enumerate(rows[1:], 2))


def _column(names, choices):
    return next((names.index(name) for name in choices if name in names), None)


def _field(row, column):
    return row[column] if column is not None and column < len(row) else ""
