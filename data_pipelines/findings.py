"""Findings: what reading a recording did not understand, or had to decide.

A night that is read wrongly in silence is worse than one that is refused. Whatever a reader left
out, guessed or corrected becomes a finding: a sentence in the night's notes, and a row that the
summary at the end of a run counts.
"""

import collections
import dataclasses
import re
from collections.abc import Iterable, Mapping

KINDS = {
    "no_scoring": "nights without scoring",
    "unread_file": "files beside a recording that were not read",
    "unknown_stage": "words that look like stages and are not known",
    "unknown_event": "words that look like events and are not known",
    "unread_annotation": "annotations that could not be read",
    "several_scorers": "scorings by several people that differ",
    "stage_marks": "stages whose durations were not taken as written",
    "scoring_trimmed": "scoring outside the recording left out",
    "scoring_length": "scoring shorter or longer than the recording",
    "scoring_shifted": "scoring moved to where the clocks put it",
    "time_axis": "time axes with gaps, jumps or a start that is not known",
    "inferred_channel": "channels bound by inference",
    "foreign_montage": "recordings whose electrodes are named by another system",
    "refused_channel": "channels without contact, or that are not what their labels say",
    "repaired_unit": "channels whose unit or polarity was corrected",
    "position_code": "codes of body positions that the site's table does not know",
    "person": "people without a night, nights without a person",
    "index_row": "rows, columns and files of an index that were not used",
    "linked_folder": "folders and recordings that are links",
}
"""Kinds of findings, with the heading of each in a summary; the worst first."""

SHOWN = 5  # ours: words of a kind that a summary shows, nights that it names


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that a user should look at.

    Attributes:
        kind: One of `KINDS`.
        what: What it is about: a word, a label, a channel, the name of a file. A summary counts
            by it. Never free text of a scorer, which may name a person.
        note: A sentence about this recording, without its folder.
        count: How often it was met in this recording.
        seconds: How much of the night it concerns, where that is known.
    """

    kind: str
    what: str
    note: str
    count: int = 1
    seconds: float | None = None

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"kind of finding {self.kind!r} is not one of {', '.join(KINDS)}")

    def to_json(self) -> dict:
        """As a dictionary for a manifest; what is not known is left out."""
        return {key: x for key, x in dataclasses.asdict(self).items() if x is not None}


def worst(findings: Iterable[Mapping]) -> Mapping:
    """Return the worst of some findings, as :meth:`Finding.to_json` gives them."""
    return min(findings, key=lambda finding: _place(finding["kind"]))


def summarise(
    of_recordings: Mapping[str, Iterable[Mapping]], of_run: Iterable[Mapping] = ()
) -> list[dict]:
    """Count findings by kind and by what they are about.

    Args:
        of_recordings: Recording -> its findings, as :meth:`Finding.to_json` gives them.
        of_run: Those that are about no single recording.

    Returns:
        A dictionary a kind that was met, the worst first: ``kind``, ``heading``, ``recordings``
        (in how many), ``count``, ``seconds`` (or None) and ``what``, the commonest first, each
        with ``what``, ``recordings``, ``count`` and ``seconds``.
    """
    tallies: dict[str, dict[str, _Tally]] = collections.defaultdict(
        lambda: collections.defaultdict(_Tally)
    )
    rows = [(None, finding) for finding in of_run]
    rows += [(name, finding) for name, own in of_recordings.items() for finding in own]
    for name, finding in rows:
        tallies[finding["kind"]][_what(name, finding)].add(name, finding)
    summary = []
    for kind in sorted(tallies, key=_place):
        by_what = sorted(tallies[kind].items(), key=lambda item: (-item[1].count, item[0]))
        total = _Tally()
        for _, tally in by_what:
            total.join(tally)
        row = {"kind": kind, "heading": KINDS.get(kind, kind), **total.to_json()}
        summary.append(row | {"what": [{"what": w, **tally.to_json()} for w, tally in by_what]})
    return summary


def lines_of(summary: Iterable[Mapping], unit: str = "nights") -> list[str]:
    """Return the lines of a summary for a terminal, two a kind.

    Args:
        summary: As :func:`summarise` returns it.
        unit: What the recordings are called, in the plural.
    """
    lines = []
    for row in summary:
        places = [_number(row["recordings"], unit)] if row["recordings"] else []
        places += [_duration(row["seconds"])] if row["seconds"] else []
        lines.append(f"  {row['heading']}" + (f": {', '.join(places)}" if places else ""))
        words = []
        for word in row["what"][:SHOWN]:
            long = f" ({_duration(word['seconds'])})" if word["seconds"] else ""
            what = "words not shown, as they may be names" if word["what"] == "…" else word["what"]
            words.append(f"{what}: {word['count']}{long}")
        if len(row["what"]) > SHOWN:
            words.append(f"and {len(row['what']) - SHOWN} more")
        lines.append(f"      {'; '.join(words)}")
    return lines


def lines_of_run(findings: Iterable[Finding]) -> list[str]:
    """Return lines for a terminal of findings that are about no single recording."""
    lines = []
    for kind, heading in KINDS.items():
        notes = [f"      {finding.note}" for finding in findings if finding.kind == kind]
        lines += [f"  {heading}", *notes] if notes else []
    return lines


class _Tally:
    """How often a thing was met, in which recordings, and how much of them it concerns."""

    def __init__(self):
        self.names, self.count, self.seconds = set(), 0, None

    def add(self, name, finding):
        self.names |= set() if name is None else {name}
        self.count += finding.get("count", 1)
        if finding.get("seconds") is not None:
            self.seconds = (self.seconds or 0) + finding["seconds"]

    def join(self, other):
        self.names |= other.names
        self.count += other.count
        if other.seconds is not None:
            self.seconds = (self.seconds or 0) + other.seconds

    def to_json(self):
        return {"recordings": len(self.names), "count": self.count, "seconds": self.seconds}


def _place(kind):
    """Where a kind stands; one of another version of the program comes last."""
    kinds = list(KINDS)
    return kinds.index(kind) if kind in KINDS else len(kinds)


def _what(name, finding):
    """What a finding is about; files beside their recordings are one thing if they end alike."""
    what = finding["what"]
    if name is None or finding["kind"] != "unread_file":
        return what
    stem = name.rpartition("/")[2]
    for start in (stem, re.sub(r"[-_](eeg|psg|ieeg)$", "", stem, flags=re.IGNORECASE)):
        if what.startswith(start):
            return f"*{what.removeprefix(start)}"
    return what


def _number(count, unit):
    return f"{count} {unit.removesuffix('s') if count == 1 else unit}"


def _duration(seconds):
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
