"""Stages in JSON: a list of codes, a list per scorer, or a file per scorer (Dreem)."""

import dataclasses
import json
import pathlib

import numpy as np

from data_pipelines.scoring.consensus import consensus
from data_pipelines.scoring.formats.lists import book_of_entries, runs_of, stage_of_entry
from data_pipelines.scoring.record import (
    Scoring,
    ScoringError,
    epochs_from_runs,
    make_scoring,
)
from data_pipelines.scoring.scorers import padded
from data_pipelines.scoring.text import decode, read_bytes
from data_pipelines.scoring.words.vocabulary import code_book_of


def _content(path, data: bytes):
    try:
        return json.loads(decode(data))
    except (ValueError, RecursionError):
        raise ScoringError(f"{path}: not JSON") from None


def _stages(path, entries, book) -> list[int]:
    if not isinstance(entries, list) or not all(type(entry) in (int, str) for entry in entries):
        raise ScoringError(f"{path}: expected a list of stage codes, or a list per scorer")
    return [
        stage_of_entry(str(entry), book, path, f"entry {place}")
        for place, entry in enumerate(entries)
    ]


def read_json(path, data: bytes, *, code_book: str | None) -> Scoring:
    """Read a JSON list of codes or names (one scorer), or a list of such lists (their consensus).

    Raises:
        ScoringError: another structure, no code book named, or an entry is not in it.
    """
    content = _content(path, data)
    several = isinstance(content, list) and content and all(isinstance(x, list) for x in content)
    flat = [entry for entries in content for entry in entries] if several else content
    flat = flat if isinstance(flat, list) else []
    book = book_of_entries([str(entry) for entry in flat], code_book, path)
    if several:
        return _consensus(path, [_stages(path, entries, book) for entries in content], book)
    runs = runs_of(_stages(path, content, book), book.step_s)
    return make_scoring(path, "json", runs=runs, events_scored=False)


def _consensus(path, scorers, book) -> Scoring:
    runs = runs_of(consensus(scorers, path), book.step_s)
    agreed = make_scoring(path, "json_consensus", runs=runs, events_scored=False)
    people = [epochs_from_runs(runs_of(stages, book.step_s)) for stages in scorers]
    if len(people) < 2:
        return agreed
    people = padded(people)
    rows = np.array(people)
    differ = int((rows != rows[0]).any(0).sum())
    note = f"the consensus of {len(people)} scorers, who differ in {differ} epochs"
    return dataclasses.replace(agreed, scorers=people, notes=(*agreed.notes, note))


def read_consensus(paths, *, code_book: str = "dod") -> Scoring:
    """Read one night's files by several scorers and return their consensus.

    Args:
        paths: one JSON file per scorer, as the Dreem Open Datasets have them
            (`scorer_1/<night>.json` ... `scorer_5/<night>.json`).
        code_book: coding of the files.

    Raises:
        ScoringError: no file, or one that cannot be read, or files of different lengths.
    """
    paths = [pathlib.Path(path) for path in paths]
    if not paths:
        raise ScoringError("a consensus needs the file of at least one scorer")
    book = code_book_of(code_book, paths[0])
    scorers = [_stages(path, _content(path, read_bytes(path)), book) for path in paths]
    return _consensus(paths[0], scorers, book)
