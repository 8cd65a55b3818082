"""Stage rows of a list of annotations -> runs: how long each lasts, and whose it is.

Three ways of writing are met: rows with durations, marks at the changes of stage, and marks at
every epoch; marks have no duration, or one that means nothing (0.1 s, 1 s). A word that is not
known ends the stage before it: a sleeper's stage is not guessed across it.
"""

import collections
import dataclasses
import re

import numpy as np

from data_pipelines.findings import Finding
from data_pipelines.scoring.record import EPOCH_S, ScoringError
from data_pipelines.scoring.scorers import Run
from data_pipelines.scoring.words.unknown_words import Unknown, is_stage_name, looks_like
from data_pipelines.scoring.words.vocabulary import is_artifact, is_known, tokens_of

_STEPS_S = (30, 20)
_SAME_S = 0.05
_LONGEST_TOKEN_S = 5.0
_LONGEST_NAME = 5
"""Tokens; a longer text is no stage's name."""

_SCORER = re.compile(
    r"[\s,;:_(\[-]*\b(?:scorer|rater|reader|expert|annotator|technician|auswerter|scoreur|lecteur|"
    r"evaluador|evaluateur)[\s_#:.-]*([0-9A-Za-z]{1,2})\b[\s)\]:_-]*",
    re.IGNORECASE,
)

_CHANNEL = re.compile(
    r"\b(?:eeg|eog|emg|ecg|ekg|resp\w*|flow|thor\w*|abd\w*|s[pa]o2|chin|leg|tib\w*|nasal|snor\w*|"
    r"mic|pleth|pulse|position|(?:fp|af|ft|fc|tp|cp|po|[fctpoame])(?:z|\d{1,2}))\b",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class Mark:
    """A stage row: onset and duration in s (None or 0: none), stage code, who set it."""

    onset_s: float
    duration_s: float | None
    stage: int
    scorer: str = ""


@dataclasses.dataclass(frozen=True)
class Text:
    """A row that is no known stage and no known event."""

    onset_s: float
    duration_s: float | None
    text: str


def split_scorer(text: str) -> tuple[str, str]:
    """Return a text without the scorer it names, and a key for that scorer.

    `Sleep stage W (scorer 2)`, `Rater1: N2` and `N2@@Expert B` name one. By the standard, what
    follows `@@` is a channel; only where it is not called as channels are is it a scorer.
    """
    words, _, channel = text.partition("@@")
    found = _SCORER.search(words)
    if found:
        words = f"{words[: found.start()]} {words[found.end() :]}"
        return words.strip(), found[1].casefold()
    return words.strip(), "" if _CHANNEL.search(channel) else channel.strip().casefold()


def runs_of_marks(
    path, marks: list[Mark], others: list[Text], unknown: Unknown
) -> tuple[list[list[Run]], list[Finding]]:
    """Return the runs of each person who is told apart by name, and findings.

    Rows without a duration (or with one that is a token) last until the next stage or the next
    unknown word for one, the last of them an epoch; marks of every epoch last one epoch at most.

    A text that is no known word and does not look like a stage may still be one, of a language that
    is not known: among marks without durations it ends the stage before it where it always lies on
    the marks' own grid of 30 or 20 s, never at the same time as a stage, and is short. So does an
    artefact there: some programs have it among the stages.

    Args:
        path: for messages.
        marks: the stage rows, by onset.
        others: rows that are no stage and no event that is known, by onset.
        unknown: gathers the words.

    Raises:
        ScoringError: marks of several people cannot be told apart.
    """
    people = _people(marks)
    token = _are_tokens(marks)
    told = []
    if token:
        marks = [dataclasses.replace(mark, duration_s=None) for mark in marks]
        people = [[dataclasses.replace(m, duration_s=None) for m in rows] for rows in people]
        longest = max(token)
        told.append(
            Finding(
                "stage_marks",
                "short durations",
                f"{len(marks)} stages with a duration of at most {longest:g} s taken as marks:"
                " each lasts until the next",
                len(marks),
            )
        )
    timed = [mark for mark in marks if mark.duration_s]
    ends = _unknown_stages(marks, others, timed, unknown)
    apart = []
    for rows in people:
        apart += _streams(path, rows)
    return [_runs(rows, ends) for rows in apart], told


def _people(marks):
    """Marks by the person who set them: by name where the names' rows lie side by side in time."""
    named = collections.defaultdict(list)
    for mark in marks:
        named[mark.scorer].append(mark)
    if len(named) < 2:
        return [marks]
    spans = sorted((rows[0].onset_s, rows[-1].onset_s) for rows in named.values())
    beside = all(
        min(end, last) - start > 0.5 * min(last - first, end - start)
        for (first, last), (start, end) in zip(spans, spans[1:])
    )
    return [named[key] for key in sorted(named, key=_natural)] if beside else [marks]


def _natural(key: str) -> list:
    """`scorer 2` before `scorer 10`."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", key)]


def _are_tokens(marks) -> list[float]:
    """The durations of marks, where all are far shorter than the way to the next; else none."""
    onsets = np.unique([mark.onset_s for mark in marks])
    # Nothing follows the last one.
    lengths = [mark.duration_s for mark in marks if mark.duration_s and mark.onset_s < onsets[-1]]
    if not lengths or len(onsets) < 2:
        return []
    gaps, longest = np.diff(onsets), max(lengths)
    step = _step(onsets)
    regular = step is not None and 2 * longest < step
    short = longest <= _LONGEST_TOKEN_S and 3 * longest <= gaps.min()
    return lengths if regular or short else []


def _step(onsets) -> int | None:
    """Return the length of the epochs in whose grid all onsets lie, in s."""
    for step in _STEPS_S:
        if all(_on_grid(onset - onsets[0], step) for onset in onsets):
            return step
    return None


def _on_grid(seconds, step) -> bool:
    return abs(seconds - round(seconds / step) * step) <= _SAME_S


def _unknown_stages(marks, others, timed, unknown) -> list[float]:
    """Tell what is not known, and return the onsets at which it ends a stage."""
    stages = [text for text in others if is_stage_name(text.text)]
    rest = [
        text
        for text in others
        if not is_stage_name(text.text)
        and looks_like(text.text) != "event"
        and (not is_known(text.text) or is_artifact(text.text))
    ]
    onsets = [mark.onset_s for mark in marks]
    step = _step(onsets) if onsets else None
    by_name = collections.defaultdict(list)
    for text in rest:
        by_name[text.text].append(text)
    for name, rows in by_name.items():
        if len(tokens_of(name)) > _LONGEST_NAME or not onsets:
            continue
        at_a_stage = any(_nearest(onsets, row.onset_s) <= _SAME_S for row in rows)
        if timed and (len(timed) == len(marks) or any(row.duration_s for row in rows)):
            alike = all(_is_epoch(row, onsets[0], step) for row in rows)
            alike = alike and not _overlap_any(rows, timed)
        elif step is None:
            alike = len(rows) > 1
        else:
            alike = all(_on_grid(row.onset_s - onsets[0], step) for row in rows)
        if alike and not at_a_stage:
            stages += rows
    taken = {id(text) for text in stages if not is_known(text.text)}
    for text in others:
        if id(text) not in taken:
            unknown.add(text.text, text.duration_s)
    ends = sorted(text.onset_s for text in stages)
    edges = np.unique([*onsets, *ends])
    for text in stages:
        if id(text) not in taken:
            continue
        at = int(np.searchsorted(edges, text.onset_s, "right"))
        until = edges[at] - text.onset_s if at < len(edges) else float(EPOCH_S)
        unknown.stage(
            text.text, text.duration_s or float(until), sure=looks_like(text.text) == "stage"
        )
    return ends


def _nearest(onsets, onset) -> float:
    at = int(np.searchsorted(onsets, onset))
    return min(abs(onset - onsets[i]) for i in (at - 1, at) if 0 <= i < len(onsets))


def _is_epoch(row, origin_s, step) -> bool:
    """Whether a row with a duration is whole epochs of the grid."""
    if not row.duration_s or step is None:
        return False
    whole = row.duration_s > step / 2 and _on_grid(row.duration_s, step)
    return whole and _on_grid(row.onset_s - origin_s, step)


def _overlap_any(rows, timed) -> bool:
    """Whether one of some rows with durations lies at the same time as one of others."""
    starts = np.array([mark.onset_s for mark in timed])
    latest = np.maximum.accumulate([mark.onset_s + mark.duration_s for mark in timed])
    onsets = np.array([row.onset_s for row in rows])
    before = np.searchsorted(starts, onsets + [row.duration_s for row in rows] - _SAME_S)
    return bool(((before > 0) & (latest[before - 1] > onsets + _SAME_S)).any())


def _streams(path, rows) -> list[list[Mark]]:
    """Marks without durations, apart where there are several at almost every time."""
    if any(mark.duration_s for mark in rows):
        return [rows]
    at = collections.defaultdict(list)
    for mark in rows:
        at[mark.onset_s].append(mark)
    conflicts = sum(len({mark.stage for mark in group}) > 1 for group in at.values())
    several = sum(len(group) > 1 for group in at.values())
    if not conflicts and several in (0, len(at)):
        return [rows]
    most = max(map(len, at.values()))
    if several >= 0.8 * len(at) and len(at) > 1:
        return [[group[min(k, len(group) - 1)] for group in at.values()] for k in range(most)]
    if several > 0.1 * len(at) + 1:
        raise ScoringError(
            f"{path}: {several} times of {len(at)} have two stages without durations, {conflicts}"
            " two different ones: several people's changes of stage, mixed, cannot be told apart"
        )
    return [
        [
            group[0]
            if len({mark.stage for mark in group}) == 1
            else dataclasses.replace(group[0], stage=-1)
            for group in at.values()
        ]
    ]


def _runs(rows, ends) -> list[Run]:
    onsets = np.array([mark.onset_s for mark in rows])
    edges = np.unique([*onsets, *ends])
    longest = _longest(rows, onsets)
    runs = []
    for mark in rows:
        length = mark.duration_s
        if not length:
            at = int(np.searchsorted(edges, mark.onset_s, "right"))
            length = edges[at] - mark.onset_s if at < len(edges) else float(EPOCH_S)
            length = min(float(length), longest)
        runs.append((mark.onset_s, length, mark.stage))
    return runs


def _longest(rows, onsets) -> float:
    """How long a mark lasts at most: an epoch where there is one at every epoch.

    Marks of changes name another stage each; marks of epochs repeat theirs.
    """
    gaps = np.diff(onsets)
    gaps = gaps[gaps > 0]
    if len(gaps) < 4:
        return float("inf")
    again = np.mean([a.stage == b.stage for a, b in zip(rows, rows[1:])])
    for step in _STEPS_S:
        if again >= 0.3 and np.mean(np.abs(gaps - step) <= _SAME_S) >= 0.8:
            return float(step)
    return float("inf")
