"""Findings: what reading a recording did not understand, or had to decide.

A night that is read wrongly in silence is worse than one that is refused. Whatever a reader left
out, guessed or corrected becomes a finding: a sentence in the night's notes, and a row that the
summary at the end of a run counts.
"""

import dataclasses

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
    "person": "people without a night, nights without a person",
    "linked_folder": "folders that are links",
}
"""Kinds of findings, with the heading of each in a summary; the worst first."""


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
