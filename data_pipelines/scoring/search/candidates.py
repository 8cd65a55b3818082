"""Files that may be the scoring of a recording: what their names say, and what stands in them."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator

from data_pipelines.recordings.base import RecordingError
from data_pipelines.recordings.edf import EdfRecording
from data_pipelines.scoring.files import format_of, head_of
from data_pipelines.scoring.formats import domino
from data_pipelines.scoring.formats.edf_annotations import has_stages, read_annotations
from data_pipelines.scoring.formats.event_tables import columns_of, heading_at
from data_pipelines.scoring.formats.lists import looks_like_list
from data_pipelines.scoring.record import ScoringError
from data_pipelines.scoring.search.names import (
    Listing,
    is_alone,
    is_sidecar,
    mentions_scoring,
    own_files,
    says_scoring,
    words_of,
)
from data_pipelines.scoring.text import decode, number_of, table_of
from data_pipelines.scoring.words.unknown_words import looks_like
from data_pipelines.scoring.words.vocabulary import code_book_of, event_of, stage_of

# What a name has beside the recording's, where that alone says the format; the first one first.
ENDS = (
    *("-nsrr.xml", "-profusion.xml", ".xml", ".rml", ".annot", ".eannot"),
    *("_hypnogram.tsv", "_events.tsv", "-hypnogram.edf", "_hypnogram.edf", "_sleepscoring.edf"),
    *("_hypno.edf", "-hypno.edf", "hypno.edf", " hypnogram.edf"),
    *(".st", ".hyp", ".edf.hyp", ".bdf.hyp", ".rec.hyp"),
)
XML_ENDS = ("-nsrr.xml", "-profusion.xml", ".xml", ".rml")
TEXTS = (".csv", ".txt", ".tsv", ".json", ".xml", ".rml", ".annot", ".eannot")
# Formats of programs for scoring that are not read; they are told by name.
VENDORS = (".sco", ".sta", ".stg", ".esedb", ".hypno", ".ebs")
SHEETS = (".xls", ".xlsx", ".ods", ".rtf")
BINARY = (".mat", ".hyp", ".st")
# Signals, pictures and papers that lie beside recordings; other suffixes are told.
NO_SCORING = (
    *(".edf", ".bdf", ".rec", ".hea", ".dat", ".vhdr", ".eeg", ".set", ".fdt", ".fif", ".gdf"),
    *(".png", ".jpg", ".jpeg", ".svg", ".mp4", ".avi", ".wmv", ".asf", ".wav", ".mp3"),
    *(".pdf", ".doc", ".docx", ".md", ".log", ".md5", ".sha256", ".lock", ".tmp", ".bak", ".zip"),
)
EVENT_LIST = "it is a list of events"
NO_LIST = "it is JSON, and no list of stages"
# Ranks of names that do not say the format; of the last, none is read.
_STAGES, _SCORER_NUMBER, _EVENTS, _NAME_ALONE, _OWN_NAME, LATER = 40, 41, 42, 43, 60, 100


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A file that may be a recording's scoring.

    Attributes:
        path: The file.
        rest: What its name has beside the recording's, None where it has a name of its own.
        rank: The lower, the more its name says.
    """

    path: pathlib.Path
    rest: str | None
    rank: tuple

    @property
    def said(self) -> bool:
        """Whether its name alone says the format."""
        return self.rank[0] < len(ENDS)


def candidates_of(path: pathlib.Path, names: Listing) -> list[Candidate]:
    """Return the files that may be the recording's scoring, by rank; of rank 100 none is read."""
    found = [
        Candidate(names.folder / name, rest, (*_rank(name, rest), name != path.stem + rest, name))
        for name, rest in own_files(path, names).items()
        if not is_sidecar(os.path.splitext(name)[0])
    ]
    taken = {candidate.path.name for candidate in found}
    for name, fewer in _inherited(path.stem, names):
        if name not in taken:
            end = "_" + name.rpartition("_")[2]
            found.append(Candidate(names.folder / name, end, (*_rank(name, end[:-4]), fewer, name)))
    if is_alone(path, names):
        for name in names.all():
            words = words_of(os.path.splitext(name)[0])
            suffix = os.path.splitext(name)[1].lower()
            if (
                name in taken
                or name == path.name
                or suffix not in (*TEXTS, *VENDORS, *SHEETS, ".edf")
            ):
                continue
            if says_scoring(words):
                found.append(Candidate(names.folder / name, None, (_OWN_NAME, len(words), name)))
            elif mentions_scoring(words):
                found.append(Candidate(names.folder / name, None, (LATER, len(words), name)))
    return sorted(found, key=lambda candidate: candidate.rank)


def _rank(name: str, rest: str) -> tuple[int, int]:
    """Return how much a name says: its end in `ENDS`, then stages, a scorer, events, nothing."""
    suffix = os.path.splitext(name)[1].lower()
    end = (rest + suffix).casefold()
    if end in ENDS:
        return ENDS.index(end), 0
    if rest.casefold() in (".edf", ".bdf", ".rec"):
        rest = ""
    words = words_of(rest)
    order = (*TEXTS, ".edf", ".bdf").index(suffix) if suffix in (*TEXTS, ".edf", ".bdf") else 99
    if order == 99:
        return LATER, 0
    if says_scoring(words):
        return (_STAGES if mentions_scoring(words) else _EVENTS), 10 * len(words) + order
    if words and suffix in TEXTS and all(x.isdigit() and len(x) < 3 for x in words):
        return _SCORER_NUMBER, 100 * int(words[0]) + order
    if not rest and suffix in TEXTS:
        return _NAME_ALONE, order
    return LATER, 0


def _inherited(stem: str, names: Listing) -> Iterator[tuple[str, int]]:
    """Yield the BIDS tables that a recording shares with others made at the same time.

    Their names leave out entities such as `acq`; one that leaves out the session, the task or the
    run would be another recording's as well.
    """
    own = dict(_entities(stem))
    if "sub" not in own:
        return
    for folded, written in names.names.items():
        if not folded.startswith(f"sub-{own['sub']}_".casefold()) or not folded.endswith(".tsv"):
            continue
        said, end = dict(_entities(folded)), folded[:-4].rpartition("_")[2]
        left_out = set(own) - set(said)
        if (
            end in ("events", "hypnogram", "stages", "sleepstages", "scoring", "annotations")
            and said.items() <= own.items()
            and not left_out & {"ses", "task", "run", "split"}
        ):
            yield written[0], len(left_out)


def _entities(stem: str) -> list[tuple[str, str]]:
    parts = [part.partition("-") for part in stem.casefold().split("_") if "-" in part]
    return [(key, value.partition(".")[0]) for key, _, value in parts]


def has_own_stages(path, code_book: str | None) -> bool:
    """Whether a stage is among the annotations of an EDF+ file."""
    codes = code_book_of(code_book, path).stages if code_book is not None else {}
    try:
        annotations, _ = read_annotations(path)
        return has_stages(annotations) or any(text.strip() in codes for _, _, text in annotations)
    except (ScoringError, OSError):
        return False


def reason_not_read(candidate: Candidate, code_book: str | None) -> str | None:
    """Return why a file is not read as scoring, None if it is."""
    path = candidate.path
    suffix = path.suffix.lower()
    if not candidate.said and suffix not in (*TEXTS, ".edf", ".bdf"):
        return f"{suffix or 'a file of no suffix'} is not read here"
    try:
        return _reason_within(candidate, code_book)
    except (ScoringError, RecordingError) as error:
        return str(error).removeprefix(f"{path}: ")
    except OSError as error:
        return f"it cannot be read ({error.strerror})"


def _reason_within(candidate, code_book) -> str | None:
    path = candidate.path
    head = head_of(path)
    if not head and candidate.said:
        return None
    text = decode(head)
    kind = format_of(path, head)
    if kind == "edf":
        if candidate.said or (not EdfRecording(path).labels and has_own_stages(path, code_book)):
            return None
        return "it is a recording, or no sleep stage is among its annotations"
    if kind == "xml":
        roots = ("PSGAnnotation", "ScoredEvent", "CMPStudyConfig", "PatientStudy")
        return None if any(root in text for root in roots) else "it is XML of another kind"
    if kind in ("wfdb", "annot", "eannot", "noxturnal", "remlogic"):
        return None
    if kind == "json":
        return _json_reason(path, text, code_book)
    if kind == "domino":
        if domino.is_event_list(text):
            return EVENT_LIST
        words = [line.rpartition(";")[2] for line in text.splitlines()]
        known = any(stage_of(word) is not None for word in words)
        return None if known else "no known stage is in this export of Domino"
    if kind == "respiratory":
        return EVENT_LIST
    if kind == "table":
        return _table_reason(candidate, text, code_book)
    return looks_like_list(text, code_book, path)


def _table_reason(candidate, text, code_book):
    rows = table_of(text, candidate.path)
    at = heading_at(rows)
    if at is None:
        return "none of its columns is known to hold stages"
    place = columns_of(rows[at]).text
    texts = [row[place] for row in rows[at + 1 :] if len(row) > place]
    if any(stage_of(text) is not None or looks_like(text) == "stage" for text in texts):
        return None
    numbers = any(number_of(text) is not None for text in texts)
    if any(event_of(text) for text in texts):
        return None if numbers and code_book else EVENT_LIST
    if candidate.said:
        return None if numbers else "none of its words is known for a stage or an event"
    return looks_like_list("\n".join(texts[:5000]), code_book, candidate.path)


def _json_reason(path, text, code_book):
    if text.lstrip()[:1] != "[":
        return NO_LIST
    try:
        content = json.loads(decode(path.read_bytes())) if path.stat().st_size < 2**22 else None
    except (ValueError, RecursionError):
        content = None
    flat = content or []
    if flat and all(isinstance(x, list) for x in flat):
        flat = [entry for entries in flat for entry in entries]
    if not flat or not all(type(entry) in (int, str) for entry in flat):
        return NO_LIST
    return looks_like_list("\n".join(map(str, flat)), code_book, path)
