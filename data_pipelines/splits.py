"""Subjects to splits, and recordings to subjects.

All nights of a person fall into one split, whatever is added or taken away later: the split is a
pure function of the subject's name (and a salt), not of who else is in the folder.
"""

import csv
import hashlib
import os
import pathlib
import re
from collections.abc import Iterable, Sequence

import numpy as np

from data_pipelines.shuffle import mix, permute

SPLITS = ("train", "validation", "test")
WORDS = {**{name: name for name in SPLITS}, "val": "validation", "valid": "validation"}
WORDS |= {"dev": "validation", "training": "train", "testing": "test"}


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


def read_splits(path: str | os.PathLike, fold: str | None = None) -> dict[str, str]:
    """Read a published split: a CSV or TSV file of ``recording,split`` or ``recording,fold``.

    Args:
        path: the file. The suffix of a recording's name may stand or not.
        fold: of a list of folds, the one that is tested; the next one in their order (the first
            after the last) is for validation, and the others for training.

    Returns:
        Recording -> ``train``, ``validation`` or ``test``.

    Raises:
        ValueError: the file lacks a column, has an unknown word or a recording twice, or a fold is
            asked for and there is none of this name.
    """
    text = pathlib.Path(path).read_text(encoding="utf-8-sig")
    mark = "\t" if "\t" in text.partition("\n")[0] else ","
    rows = list(csv.DictReader(text.splitlines(), delimiter=mark))
    column = "split" if fold is None else "fold"
    if not rows or not {"recording", column} <= set(rows[0]):
        hint = "; --fold=NAME takes a list of folds" if rows and "fold" in rows[0] else ""
        raise ValueError(f"{path}: expected the columns recording,{column}{hint}")
    told = [(clean_recording(row["recording"]), (row[column] or "").strip()) for row in rows]
    named = WORDS
    if fold is not None:
        folds = sorted({word for _, word in told}, key=lambda word: (len(word), word))
        if fold not in folds or len(folds) < 3:
            raise ValueError(f"{path}: no fold {fold!r} among three or more; there are {folds}")
        named = dict.fromkeys(folds, "train")
        named[folds[(folds.index(fold) + 1) % len(folds)]] = "validation"
        named[fold] = "test"
    found: dict[str, str] = {}
    for number, (name, word) in enumerate(told, 2):
        word = word if fold is not None else word.lower()
        if not name or word not in named:
            raise ValueError(f"{path}: line {number}: {name!r}, {word!r}; known are {[*named]}")
        if found.setdefault(name, named[word]) != named[word]:
            raise ValueError(f"{path}: line {number}: {name!r} is in two splits")
    return found


def clean_recording(name: str) -> str:
    """Return a recording's name as lists and stores share it: without folders and file suffix."""
    return _SUFFIX.sub("", name.strip().replace("\\", "/").rpartition("/")[2])


def few_people(people: Iterable[str], count: int, seed: int) -> list[str]:
    """Return a number of people, chosen by a seed; 0 and more than there are return all, sorted.

    For one seed and the same people, a smaller choice is the beginning of a larger one.

    Raises:
        ValueError: less than none.
    """
    if count < 0:
        raise ValueError(f"{count} people: must be 0 or more")
    names = sorted(set(people))
    if not 0 < count < len(names):
        return names
    key = np.repeat(mix(mix(seed) + np.uint64(2)), len(names))
    return [names[place] for place in permute(np.arange(len(names)), len(names), key)[:count]]


_SUFFIX = re.compile(r"\.(edf|bdf|rec|hea|mat|npz|h5|parquet|xml)$", re.I)

# Cohorts whose file names say which person several nights are of.
_SUBJECT_RULES = (
    # Sleep-EDF cassette and telemetry: SC4ssN, ST7ssN (N the night, then two letters).
    re.compile(r"(?P<upper>SC4\d\d|ST7\d\d)[0-9][A-Z][0-9A-Z](-PSG)?", re.I),
    # MIT-BIH Polysomnographic Database: slp01a and slp01b are one person's night in two parts.
    re.compile(r"(?P<lower>slp\d\d)[a-z]?", re.I),
    # NSRR: visit, then the person (shhs1-200001).
    re.compile(r"(?P<cohort>shhs)[12]-(?P<subject>\d+)", re.I),
    # (mros-visit1-aa0001, sof-visit-8-00001, chat-baseline-300001, abc-month09-900001).
    re.compile(
        r"(?P<cohort>[a-z]+)-(baseline|followup|nonrandomized|visit-?\d+|month\d+)-"
        r"(?P<subject>[a-z0-9]+)(-nsrr)?",
        re.I,
    ),
    re.compile(r"(?P<cohort>homepap-lab|homepap-home)-(full-|split-)?(?P<subject>\d+)", re.I),
    # BIDS: sub-<label>[_ses-<label>]_task-...
    re.compile(r"sub-(?P<bids>[0-9A-Za-z]+)(_.*)?", re.I),
)


def person_in_name(stem: str) -> str | None:
    """Return the person whom a file's name tells by the rule of its cohort; None where none does.

    Args:
        stem: the file's name without folder and suffix.
    """
    for rule in _SUBJECT_RULES:
        match = rule.fullmatch(stem)
        if match:
            parts = match.groupdict()
            if "upper" in parts:
                return parts["upper"].upper()
            if "lower" in parts:
                return parts["lower"].lower()
            if "bids" in parts:
                return f"sub-{parts['bids']}"
            return f"{parts['cohort'].lower()}-{parts['subject']}"
    return None


def subject_of(recording: str) -> str:
    """Return the person that a recording is of where no table tells: by its name.

    By the rule of a cohort whose file names tell the person (Sleep-EDF, slpdb, NSRR visits, BIDS),
    else the recording's own name.

    Args:
        recording: name of the recording: its file's stem, after folders if it has any.
    """
    # A name may begin with folders; the cohorts' rules are about the file's own name.
    return person_in_name(recording.rpartition("/")[2]) or recording
