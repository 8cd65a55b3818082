"""A question in words about stages and events, said again as captions would say it.

A model of captions is best asked in the words it was trained on. A question that names stages and
events alone ("oxygen desaturation without arousal in REM") becomes several captions of made-up
facts, whose embeddings are averaged; a caption that names no arousal is that of an epoch without
one. The scheme is ours. Any other text is for the model as it stands.
"""

from __future__ import annotations

import dataclasses

from data_pipelines.captions import phrases
from data_pipelines.captions.facts import STAGES, Facts, Interval
from data_pipelines.captions.grammar import Caption, render
from data_pipelines.captions.prompts import BREATHING, TIMES_S, WORDINGS

LONGEST = 1000  # characters of a question that is read so
# Words for any of several kinds of events.
_GROUPS = {
    "apnea": tuple(kind for kind in BREATHING if kind.endswith("Apnea")),
    "respiratory event": BREATHING,
}
_SPELT = {"apnea": ("apnea", "apneas", "apnoea", "apnoeas")}
_SPELT["respiratory event"] = ("respiratory event", "respiratory events")
_WITH = ("with", "but", ".", ";")  # after which a "no" is over
_JOINTS = (*("and", "or", "with", "but", "any", "epoch", "epochs"), *".,;:?!")


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked for.

    Attributes:
        stage: one of ``STAGES``; None for any.
        wanted: events that are there, each a tuple of kinds of which one is enough.
        unwanted: kinds of events that are not there.
        nothing: whether no event at all is there.
    """

    stage: str | None = None
    wanted: tuple[tuple[str, ...], ...] = ()
    unwanted: tuple[str, ...] = ()
    nothing: bool = False

    def __str__(self) -> str:
        parts = [f"stage {self.stage}"] if self.stage else []
        parts += [" or ".join(kinds) for kinds in self.wanted]
        parts += [f"no {kind}" for kind in self.unwanted]
        parts += ["no event"] if self.nothing else []
        return ", ".join(parts)

    def captions(self) -> tuple[Caption, ...]:
        """Return captions that say what is asked for, in several words, stages and times."""
        asleep = STAGES[1:] if self.wanted or self.unwanted else STAGES
        stages = (self.stage,) if self.stage else asleep
        # Who asks for a stage alone says nothing of events.
        silent = not (self.wanted or self.unwanted or self.nothing)
        found = []
        for i in range(WORDINGS):
            events = [
                Interval(*TIMES_S[(i + place) % len(TIMES_S)], kinds[i % len(kinds)])
                for place, kinds in enumerate(self.wanted)
            ]
            said = None if silent else tuple(sorted(events))
            facts = Facts(stage=stages[i % len(stages)], events=said)
            found.append(render(facts, "stage_event", recording="question", epoch=i))
        return tuple(found)

    def agrees(self, facts: Facts) -> bool | None:
        """Return whether an epoch is what is asked for; None where it is not scored."""
        if self.stage and facts.stage is None:
            return None
        if self.stage and facts.stage != self.stage:
            return False
        if not (self.wanted or self.unwanted or self.nothing):
            return True
        if facts.events is None:
            return None
        kinds = {event.kind for event in facts.events}
        if self.nothing and kinds:
            return False
        return all(kinds & set(own) for own in self.wanted) and not kinds & set(self.unwanted)


def read_question(text: str) -> Question | None:
    """Return what a text asks for; None where it is of more than one stage and events.

    Nothing raises; a text of more than 1,000 characters is not read.
    """
    words = phrases.tokens(text.lower()) if len(text) <= LONGEST else []
    stages: dict[str, None] = {}
    wanted: dict[tuple[str, ...], None] = {}
    unwanted: dict[str, None] = {}
    nothing = no = False
    place = 0
    while place < len(words):
        kind, value, length = _next(words, place)
        word = words[place]
        place += length
        if kind is None:
            return None
        if kind == phrases.NO:
            no = True
        elif kind == phrases.OCCURRENCE and no:
            nothing = True
        elif kind == phrases.EVENT and no:
            unwanted |= dict.fromkeys(value)
        elif kind == phrases.EVENT:
            either = words[place - length - 1 : place - length] == ["or"] and wanted
            before = wanted.popitem()[0] if either else ()
            wanted[(*before, *value)] = None
        elif kind == phrases.STAGE:
            stages[value[0]] = None
        elif word in _WITH:
            no = False
    contradicts = any(set(own) <= set(unwanted) for own in wanted) or (nothing and wanted)
    if len(stages) > 1 or contradicts or not (stages or wanted or unwanted or nothing):
        return None
    return Question(next(iter(stages), None), tuple(wanted), tuple(unwanted), nothing)


def _next(words, place):
    """The kind, the values and the length of the phrase at a place; None where it means else."""
    for length in range(min(_LONGEST.get(words[place], 0), len(words) - place), 0, -1):
        found = _KNOWN.get(tuple(words[place : place + length]))
        if found:
            return (*found, length)
    return None, (), 1


def _known():
    kinds = (phrases.NO, phrases.OCCURRENCE, phrases.EVENT, phrases.STAGE, phrases.FILLER)
    known = {(word,): (phrases.FILLER, ()) for word in _JOINTS}
    for words, symbols in phrases.PHRASES.items():
        kind, value = symbols[0]
        if kind in kinds and len(symbols) == 1 and not words[0].isdecimal():
            known[words] = (kind, (value,))
    for name, spelt in _SPELT.items():
        known |= {tuple(text.split()): (phrases.EVENT, _GROUPS[name]) for text in spelt}
    return known


_KNOWN = _known()
_LONGEST: dict[str, int] = {}
for _words in _KNOWN:
    _LONGEST[_words[0]] = max(_LONGEST.get(_words[0], 0), len(_words))
