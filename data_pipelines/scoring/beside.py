"""The scoring beside a recording: finding it, reading it, and telling what was not read."""

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Iterator

from data_pipelines.findings import Finding
from data_pipelines.recordings.base import RecordingError
from data_pipelines.recordings.edf import EdfRecording
from data_pipelines.scoring import domino
from data_pipelines.scoring.edf_annotations import has_stages, read_annotations
from data_pipelines.scoring.event_tables import columns_of, heading_at
from data_pipelines.scoring.files import format_of, head_of, read_scoring
from data_pipelines.scoring.lists import looks_like_list
from data_pipelines.scoring.names import (
    Listing,
    is_alone,
    is_sidecar,
    listing,
    mentions_scoring,
    own_files,
    pattern_of,
    says_scoring,
    words_of,
)
from data_pipelines.scoring.record import EPOCH_S, Scoring, ScoringError
from data_pipelines.scoring.text import decode, table_of
from data_pipelines.scoring.vocabulary import code_book_of, event_of, stage_of

_SLEEP_EDF = re.compile(r"(SC4|ST7)\d{3}[A-Z][0-9A-Z](-PSG)?", re.IGNORECASE)
# What a name has beside the recording's, where that alone says the format; the first one first.
_ENDS = (
    *("-nsrr.xml", "-profusion.xml", ".xml", ".rml", ".annot", ".eannot"),
    *("_hypnogram.tsv", "_events.tsv", "-hypnogram.edf", "_hypnogram.edf", "_sleepscoring.edf"),
    *("_hypno.edf", "-hypno.edf", "hypno.edf", " hypnogram.edf", " base.edf", "_base.edf"),
    *(".st", ".hyp", ".edf.hyp", ".bdf.hyp", ".rec.hyp"),
)
_XML_ENDS = ("-nsrr.xml", "-profusion.xml", ".xml", ".rml")
_TEXTS = (".csv", ".txt", ".tsv", ".json", ".xml", ".rml", ".annot", ".eannot")
# Formats of programs for scoring that are not read; they are told by name.
_VENDORS = (".xls", ".xlsx", ".ods", ".rtf", ".sco", ".sta", ".stg", ".esedb", ".hypno", ".ebs")
_EVENT_LIST = "a list of events"
_LATER = 100


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
        return self.rank[0] < len(_ENDS)


def find_scoring(recording_path, *, code_book: str | None = None) -> pathlib.Path | None:
    """Return the scoring file that belongs to a recording, or None.

    Looked for beside the recording, in any case of letters, in this order (STEM is its name
    without the suffix, or without a last `PSG` or `eeg` too): STEM-nsrr.xml, STEM-profusion.xml,
    STEM.xml, STEM.rml; the same where NSRR keeps them (`annotations-events-nsrr/`,
    `annotations-events-profusion/` for `edfs/`); STEM.annot, STEM.eannot; STEM_hypnogram.tsv,
    BIDS events; STEM-Hypnogram.edf and the like, `STEM Base.edf` (MASS); WFDB STEM.st, STEM.hyp;
    for Sleep-EDF the `*-Hypnogram.edf` with the same first 7, then 6 letters. Then files whose
    name has nothing but STEM and words such as hypnogram, stages, scoring or events, or a
    scorer's number, and in which a scoring stands that can be read: lists of bare numbers are
    with a `code_book` alone. Then the recording itself if it is EDF+ with sleep stages among its
    annotations; and for the only recording of a folder, files such as `Hypnogram.txt`.

    Raises:
        ScoringError: two Sleep-EDF hypnograms fit one recording.
    """
    path = pathlib.Path(recording_path)
    names = listing(path.parent)
    candidates = _candidates(path, names)
    for candidate in candidates:
        if candidate.rank[0] < len(_XML_ENDS) and _reason(candidate, code_book) is None:
            return candidate.path
    found = _nsrr_folders(path)
    if found:
        return found
    own = [x for x in candidates if x.rest is not None and x.rank[0] < _LATER]
    for candidate in own:
        if candidate.said and _reason(candidate, code_book) is None:
            return candidate.path
    found = _sleep_edf(path, names)
    if found:
        return found
    for candidate in own:
        if not candidate.said and _reason(candidate, code_book) is None:
            return candidate.path
    if (
        path.suffix.lower() in (".edf", ".bdf", ".rec")
        and path.is_file()
        and _has_stages(path, code_book)
    ):
        return path
    for candidate in candidates:
        if candidate.rest is None and _reason(candidate, code_book) is None:
            return candidate.path
    return None


def _candidates(path: pathlib.Path, names: Listing) -> list[Candidate]:
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
            if name in taken or name == path.name or suffix not in (*_TEXTS, *_VENDORS, ".edf"):
                continue
            if says_scoring(words):
                found.append(Candidate(names.folder / name, None, (60, len(words), name)))
            elif mentions_scoring(words):
                found.append(Candidate(names.folder / name, None, (_LATER, len(words), name)))
    return sorted(found, key=lambda candidate: candidate.rank)


def _rank(name: str, rest: str) -> tuple[int, int]:
    """Return how much a name says: its end in `_ENDS`, then stages, a scorer, events, nothing."""
    suffix = os.path.splitext(name)[1].lower()
    end = (rest + suffix).casefold()
    if end in _ENDS:
        return _ENDS.index(end), 0
    words = words_of(rest)
    order = (*_TEXTS, ".edf", ".bdf").index(suffix) if suffix in (*_TEXTS, ".edf", ".bdf") else 99
    if order == 99:
        return _LATER, 0
    if says_scoring(words):
        return (40 if mentions_scoring(words) else 42), 10 * len(words) + order
    if words and suffix in _TEXTS and all(x.isdigit() and len(x) < 3 for x in words):
        return 41, 100 * int(words[0]) + order
    if not rest and suffix in _TEXTS:
        return 43, order
    return _LATER, 0


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


def _nsrr_folders(path: pathlib.Path) -> pathlib.Path | None:
    parts = path.parent.parts
    if "edfs" not in parts:
        return None
    at = len(parts) - 1 - parts[::-1].index("edfs")
    for kind in ("nsrr", "profusion"):
        folder = pathlib.Path(*parts[:at], f"annotations-events-{kind}", *parts[at + 1 :])
        found = listing(folder).get(f"{path.stem}-{kind}.xml")
        if found:
            return found
    return None


def _sleep_edf(path: pathlib.Path, names: Listing) -> pathlib.Path | None:
    if not _SLEEP_EDF.fullmatch(path.stem):
        return None
    ends = [x for x in names.all() if x.casefold().endswith("-hypnogram.edf")]
    for letters in (7, 6):
        start = path.stem[:letters].casefold()
        found = [name for name in ends if name.casefold().startswith(start)]
        if len(found) > 1:
            raise ScoringError(f"{path}: two hypnograms fit it: {found[0]}, {found[1]}")
        if found:
            return names.folder / found[0]
    return None


def _has_stages(path, code_book) -> bool:
    codes = code_book_of(code_book, path).stages if code_book is not None else {}
    try:
        annotations, _ = read_annotations(path)
        return has_stages(annotations) or any(text.strip() in codes for _, _, text in annotations)
    except (ScoringError, OSError):
        return False


def _reason(candidate: Candidate, code_book: str | None) -> str | None:
    """Return why a file is not read as scoring, None if it is."""
    path = candidate.path
    suffix = path.suffix.lower()
    if not candidate.said and suffix not in (*_TEXTS, ".edf", ".bdf"):
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
        if candidate.said or (not EdfRecording(path).labels and _has_stages(path, code_book)):
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
            return _EVENT_LIST
        words = [line.rpartition(";")[2] for line in text.splitlines()]
        known = any(stage_of(word) is not None for word in words)
        return None if known else "no known stage is in this export of Domino"
    if kind == "respiratory":
        return _EVENT_LIST
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
    if candidate.said or any(stage_of(text) is not None for text in texts):
        return None
    if any(event_of(text) for text in texts):
        return None if code_book is not None and not texts else _EVENT_LIST
    return looks_like_list("\n".join(texts[:5000]), code_book, candidate.path)


def _json_reason(path, text, code_book):
    if text.lstrip()[:1] != "[":
        return "it is JSON, and no list of stages"
    try:
        content = json.loads(decode(path.read_bytes())) if path.stat().st_size < 2**22 else None
    except (ValueError, RecursionError):
        content = None
    flat = content or []
    if flat and all(isinstance(x, list) for x in flat):
        flat = [entry for entries in flat for entry in entries]
    if not flat or not all(type(entry) in (int, str) for entry in flat):
        return "it is JSON, and no list of stages"
    return looks_like_list("\n".join(map(str, flat)), code_book, path)


def read_beside(
    recording_path, *, recording=None, code_book: str | None = None, scorer: int | None = None
) -> tuple[Scoring | None, list[Finding]]:
    """Find and read the scoring of a recording, with the lists of events that belong to it.

    Returns:
        the scoring, or None where there is none; and findings: the files beside a recording
        without scoring that were not read, and other scorings of the same night that differ.

    Raises:
        ScoringError: the scoring cannot be read or trusted, or belongs to another recording.
    """
    path = pathlib.Path(recording_path)
    found = find_scoring(path, code_book=code_book)
    if found is None:
        return None, _unread(path, code_book)
    scored = read_scoring(found, recording=recording, code_book=code_book, scorer=scorer)
    if found == path:
        return scored, []
    return _with_others(path, found, scored, recording, code_book)


def _with_others(path, found, scored, recording, code_book):
    """Add the events of lists beside a scoring; compare with other scorings of the night."""
    names = listing(path.parent)
    findings: list[Finding] = []
    events, events_scored, notes = list(scored.events), scored.events_scored, []
    for other in _others(path, found, names):
        reason = _reason(other, code_book)
        if reason not in (None, _EVENT_LIST):
            continue
        if reason == _EVENT_LIST and not _goes_with(other.path, found):
            continue
        try:
            more = read_scoring(other.path, recording=recording, code_book=code_book)
        except ScoringError:
            continue
        if (more.stages >= 0).any():
            findings += _compare(path, found, other, scored, more)
        elif more.events and not (scored.events and reason is None):
            events += more.events
            events_scored = _both_scored(events_scored, more.events_scored)
            notes += [f"its events were read from {other.path.name}", *more.notes]
            findings += more.findings
    events.sort(key=lambda event: (event.onset_s, event.kind, event.duration_s))
    scored = dataclasses.replace(
        scored,
        events=events,
        events_scored=events_scored,
        notes=(*scored.notes, *dict.fromkeys(notes)),
        findings=(*scored.findings, *findings),
    )
    return scored, []


def _both_scored(first, second):
    """Join what two files say of the events that somebody looked for."""
    if True in (first, second):
        return True
    kinds = {kind for said in (first, second) for kind in said or ()}
    return tuple(sorted(kinds)) or False


def _others(path, found, names: Listing) -> list[Candidate]:
    """Return the files that may hold more of the same night: its own, and Domino's lists."""
    others = [
        x
        for x in _candidates(path, names)
        if x.path != found and x.rank[0] < _LATER and not _is_twin(found, x.path)
    ]
    taken = {x.path for x in others} | {found}
    own = own_files(path, names)
    alone = is_alone(path, names)
    if found.suffix.lower() == ".txt" or found.stem.casefold().endswith("_stage"):
        for name in names.all():
            there = names.folder / name
            if name.lower().endswith(".txt") and there not in taken and (alone or name in own):
                others.append(Candidate(there, own.get(name), (_LATER, 0, name)))
    return others


def _is_twin(found: pathlib.Path, other: pathlib.Path) -> bool:
    """Whether two files are one scoring in NSRR's form and in the program's own."""
    both = found.suffix.lower() == other.suffix.lower() == ".xml"
    return both or {found.suffix.lower(), other.suffix.lower()} == {".annot", ".xml"}


def _goes_with(events: pathlib.Path, stages: pathlib.Path) -> bool:
    """Whether a list of events was exported with a list of stages: same program, same start."""
    ours, theirs = decode(head_of(stages)), decode(head_of(events))
    if not domino.is_domino(theirs):
        return True
    if not domino.is_domino(ours):
        return False
    starts = domino.start_of(ours), domino.start_of(theirs)
    if None in starts:
        return True
    first, second = starts
    return first.date == second.date and abs(first.second_of_day - second.second_of_day) <= 300


def _compare(path, found, other: Candidate, scored: Scoring, more: Scoring) -> list[Finding]:
    count = min(len(scored.stages), len(more.stages))
    a, b = scored.stages[:count], more.stages[:count]
    both = (a >= 0) & (b >= 0)
    differ = int((a != b)[both].sum())
    if not differ:
        return []
    own = own_files(path, listing(path.parent))
    what = " and ".join(sorted({pattern_of(x.name, own.get(x.name)) for x in (found, other.path)}))
    note = (
        f"{found.name} was read as the scoring; {other.path.name} scores the same night, differs "
        f"in {differ} of {int(both.sum())} epochs and was not read"
    )
    seconds = float(differ * EPOCH_S)
    return [Finding("several_scorers", what, note, count=differ, seconds=seconds)]


def _unread(path: pathlib.Path, code_book) -> list[Finding]:
    """Return that a recording has no scoring, and which files beside it were not read and why."""
    names = listing(path.parent)
    findings, told = [], []
    for candidate in _candidates(path, names):
        if len(told) == 20:
            break
        reason = _unread_reason(path, candidate, code_book)
        if reason is None:
            continue
        name = candidate.path.name
        told.append(name)
        what = pattern_of(name, candidate.rest)
        findings.append(Finding("unread_file", what, f"{name} was not read as scoring: {reason}"))
    note = "no scoring was found"
    if told:
        note += f"; beside the recording {'lies' if len(told) == 1 else 'lie'} {', '.join(told)}"
    return [Finding("no_scoring", "unread files" if told else "no file", note), *findings]


def _unread_reason(path, candidate: Candidate, code_book) -> str | None:
    """Return why a file was not read, None if it does not look like a scoring at all."""
    suffix = candidate.path.suffix.lower()
    if candidate.rank[0] >= _LATER and suffix not in (*_TEXTS, *_VENDORS, ".mat", ".hyp", ".st"):
        return None
    if path.suffix.lower() == ".hea" and suffix in (".mat", ".dat"):
        return None
    reason = _reason(candidate, code_book)
    words = words_of(candidate.rest or "") if candidate.rest is not None else []
    if candidate.rank[0] < _LATER or mentions_scoring(words) or candidate.rest is None:
        if suffix == ".json" and reason and "no list" in reason and not mentions_scoring(words):
            return None
        return reason or f"its name says more than {path.stem} and the word hypnogram"
    if suffix in _VENDORS or (suffix in (".mat", ".hyp", ".st") and not candidate.rest):
        return reason or f"{suffix} is not read here"
    if suffix in _TEXTS and reason is None:
        return f"its name says more than the recording's; as {path.stem}_hypnogram{suffix} it is"
    if reason and ("bare numbers" in reason or reason == _EVENT_LIST):
        return reason
    return None
