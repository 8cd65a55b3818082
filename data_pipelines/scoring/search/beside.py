"""The scoring beside a recording: finding it, reading it, and telling what was not read."""

import dataclasses
import pathlib

from data_pipelines.findings import Finding
from data_pipelines.scoring.files import head_of, read_scoring
from data_pipelines.scoring.formats import domino
from data_pipelines.scoring.formats.edf_annotations import has_stages
from data_pipelines.scoring.record import EPOCH_S, Scoring, ScoringError
from data_pipelines.scoring.search.candidates import (
    BINARY,
    EVENT_LIST,
    LATER,
    NO_LIST,
    NO_SCORING,
    SHEETS,
    TEXTS,
    VENDORS,
    XML_ENDS,
    Candidate,
    candidates_of,
    has_own_stages,
    reason_not_read,
)
from data_pipelines.scoring.search.elsewhere import scorings_elsewhere
from data_pipelines.scoring.search.names import (
    SLEEP_EDF,
    Listing,
    is_alone,
    listing,
    mentions_scoring,
    own_files,
    pattern_of,
    says_scoring,
    words_of,
)
from data_pipelines.scoring.text import decode


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
    candidates = candidates_of(path, names)
    for candidate in candidates:
        if candidate.rank[0] < len(XML_ENDS) and reason_not_read(candidate, code_book) is None:
            return candidate.path
    found = _nsrr_folders(path)
    if found:
        return found
    own = [x for x in candidates if x.rest is not None and x.rank[0] < LATER]
    for candidate in own:
        if candidate.said and reason_not_read(candidate, code_book) is None:
            return candidate.path
    found = _sleep_edf(path, names)
    if found:
        return found
    for candidate in own:
        if not candidate.said and reason_not_read(candidate, code_book) is None:
            return candidate.path
    if (
        path.suffix.lower() in (".edf", ".bdf", ".rec")
        and path.is_file()
        and has_own_stages(path, code_book)
    ):
        return path
    for candidate in candidates:
        of_the_folder = candidate.rest is None and candidate.rank[0] < LATER
        if of_the_folder and reason_not_read(candidate, code_book) is None:
            return candidate.path
    # Events without stages, where nothing else is there.
    for candidate in own:
        if candidate.said and reason_not_read(candidate, code_book) == EVENT_LIST:
            return candidate.path
    return None


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
    if not SLEEP_EDF.fullmatch(path.stem):
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
    return _with_others(path, found, scored, recording, code_book)


def _with_others(path, found, scored, recording, code_book):
    """Add the events of lists beside a scoring; compare with other scorings of the night."""
    names = listing(path.parent)
    findings = _compare_own(path, found, scored, recording, code_book)
    events, events_scored, notes = list(scored.events), scored.events_scored, []
    for other in _others(path, found, names):
        reason = reason_not_read(other, code_book)
        is_events = reason == EVENT_LIST and _goes_with(other.path, found)
        if not is_events and (reason is not None or other.rank[0] >= LATER):
            continue
        name = other.path.name
        try:
            more = read_scoring(other.path, recording=recording, code_book=code_book)
        except ScoringError as error:
            if "that is known" not in str(error):  # a list of snores, of spindles
                said = str(error).replace(f"{other.path.parent}/", "")
                what = pattern_of(name, other.rest)
                findings.append(Finding("unread_file", what, f"beside {found.name}: {said}"))
            continue
        if (more.stages >= 0).any():
            findings += _compare(path, found, other.path, scored, more)
        elif is_events:
            # What the scoring itself holds may stand in the list once more.
            held = {event.kind for event in scored.events}
            new = [x for x in more.events if x.kind not in held and x not in events]
            if new:
                events += new
                events_scored = _both_scored(events_scored, more.events_scored)
                notes += [f"its events were read from {name}", *more.notes]
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
        for x in candidates_of(path, names)
        if x.path != found and x.rank[0] < LATER and not _is_twin(found, x.path)
    ]
    taken = {x.path for x in others} | {found}
    own = own_files(path, names)
    alone = is_alone(path, names)
    if found.suffix.lower() == ".txt" or found.stem.casefold().endswith("_stage"):
        for name in names.all():
            there = names.folder / name
            if name.lower().endswith(".txt") and there not in taken and (alone or name in own):
                others.append(Candidate(there, own.get(name), (LATER, 0, name)))
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


def _compare_own(path, found, scored: Scoring, recording, code_book) -> list[Finding]:
    """Compare a scoring beside a recording with the stages among its own annotations."""
    if found == path or not has_stages(getattr(recording, "annotations", ())):
        return []
    try:
        return _compare(
            path, found, path, scored, read_scoring(path, recording=recording, code_book=code_book)
        )
    except ScoringError:
        return []


def _compare(
    path, found: pathlib.Path, other: pathlib.Path, scored: Scoring, more: Scoring
) -> list[Finding]:
    count = min(len(scored.stages), len(more.stages))
    a, b = scored.stages[:count], more.stages[:count]
    both = (a >= 0) & (b >= 0)
    differ = int((a != b)[both].sum())
    if not differ:
        return []
    own = own_files(path, listing(path.parent))
    what = " and ".join(sorted({pattern_of(x.name, own.get(x.name)) for x in (found, other)}))
    note = (
        f"{found.name} was read as the scoring; {other.name} scores the same night, differs "
        f"in {differ} of {int(both.sum())} epochs and was not read"
    )
    seconds = float(differ * EPOCH_S)
    return [Finding("several_scorers", what, note, count=differ, seconds=seconds)]


def _unread(path: pathlib.Path, code_book) -> list[Finding]:
    """Return that a recording has no scoring, and which files beside it were not read and why."""
    names = listing(path.parent)
    findings, told = [], []
    for candidate in candidates_of(path, names):
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
    others = [name for name in names.unclaimed if name not in told]
    if others:
        # These names are another's, so they are told as patterns.
        kinds = ", ".join(dict.fromkeys(pattern_of(name, None) for name in others))
        text = f"beside it {len(others)} by name may be scorings, of no recording here: {kinds}"
        findings.append(Finding("unread_file", "scorings by name, of no recording", text))
    findings += scorings_elsewhere(path, names)
    if told:
        note += f"; beside the recording {'lies' if len(told) == 1 else 'lie'} {', '.join(told)}"
    return [
        Finding(
            "no_scoring", "files beside them, none read" if findings else "no file found", note
        ),
        *findings,
    ]


def _unread_reason(path, candidate: Candidate, code_book) -> str | None:
    """Return why a file was not read, None if it does not look like a scoring at all."""
    suffix = candidate.path.suffix.lower()
    if candidate.rank[0] >= LATER and suffix not in (*(*TEXTS, *VENDORS, *SHEETS, *BINARY),):
        # Beside a WFDB header lie its signals and annotations of heartbeats.
        plain = candidate.rest is not None and path.suffix.lower() != ".hea"
        plain = (
            plain and suffix not in NO_SCORING and says_scoring([*words_of(candidate.rest), "hyp"])
        )
        return reason_not_read(candidate, code_book) if plain else None
    if path.suffix.lower() == ".hea" and suffix == ".mat":
        return None  # the recording's signals
    reason = reason_not_read(candidate, code_book)
    rest = candidate.rest
    words = [] if rest is None else words_of(rest)
    says = rest is None or mentions_scoring(words)
    if suffix == ".json" and reason == NO_LIST and not says:
        return reason if mentions_scoring(words_of(decode(head_of(candidate.path)))) else None
    if says or candidate.rank[0] < LATER or suffix in VENDORS:
        return reason or f"its name says more than {path.stem} and words for a scoring"
    if suffix in (*SHEETS, *BINARY):
        return reason if all(word.isdigit() for word in words) else None
    if reason is None:
        return f"its name does not say that it is one; as {path.stem}_hypnogram{suffix} it is read"
    return reason if "bare numbers" in reason or reason == EVENT_LIST else None
