"""Words that a file uses for stages and events and that are not known here: told, never passed on.

`Unknown` gathers them while a file is read. Each becomes a finding in a form that can name nobody:
what is no root of a known word, no single digit or letter and no short code is an ellipsis.
"""

import collections
import functools
import re

from data_pipelines.findings import Finding
from data_pipelines.scoring.record import EVENT_KINDS, Event
from data_pipelines.scoring.words.vocabulary import (
    TOKENS,
    WORDS,
    add_word,
    english_of,
    is_breathing,
    is_known,
    normalise,
    read_rows,
    says_what,
    tokens_of,
)

_LIKE = ("stage", "sleep", "breathing", "arousal", "rera", "desaturation", "leg_movement", "event")
_LONGEST_STAGE = 4
"""A text of more tokens than this is a sentence about a stage, not the name of one."""

_WORDS_TOLD = 20
_SHORTEST_S, _LONGEST_S = 2.0, 300.0
_SURE = {*EVENT_KINDS, "sleep", "wake", "rem", "nrem", "apnea", "obstructive", "central", "mixed"}
"""Tokens of the tables, in English, that name nobody."""

_OFTEN = 5
_LONGEST_NAME = 3
"""A text of so many tokens that stands `_OFTEN` times without duration may be an event's name."""
NOT_SCORED = {"position", "lights_off", "lights_on"}
_SCORED = re.compile(r"events[ _](not[ _])?scored:?([a-z_, ]*)", re.IGNORECASE)
_CODE = re.compile(r"(?:sn|sr|nr|[nsr])\d|[^\W\d_]|\d")


def load_roots(path=WORDS / "roots.csv") -> dict[str, str]:
    """Return root -> what a word with it looks like, one of `_LIKE`.

    Raises:
        ValueError: a row is damaged, has an unknown meaning, or contradicts another.
    """
    table: dict[str, str] = {}
    for where, row in read_rows(path, ("root", "like", "source")):
        if row["like"] not in _LIKE:
            raise ValueError(f"{where}: {row['like']!r} is none of {', '.join(_LIKE)}")
        add_word(table, normalise(row["root"]), row["like"], where)
    return table


_ROOTS = load_roots()
# Short roots are whole tokens: `rem` is not in `remark`. Characters of Chinese and Japanese are
# words by themselves. `Schlafapnoe` is an apnea.
_INNER = sorted(
    (root for root in _ROOTS if len(root) > 3 or not root.isascii()),
    key=lambda root: (_ROOTS[root] in ("stage", "sleep"), -len(root)),
)


def _root(token: str) -> str | None:
    if token in _ROOTS:
        return token
    return next((root for root in _INNER if root in token), None)


def looks_like(text: str) -> str | None:
    """Return what a word that is in no table looks like: `stage`, `event` or None."""
    kind = _kind(text)
    return kind and ("stage" if kind in ("stage", "sleep") else "event")


def is_stage_name(text: str) -> bool:
    """Whether a word that is in no table can be nothing but a stage: `Stage 5`, not `asleep`."""
    return _kind(text) == "stage"


@functools.lru_cache(maxsize=8192)
def _kind(text: str) -> str | None:
    tokens = tokens_of(text.partition("@@")[0][:200])
    roots = [_root(token) for token in tokens]
    kinds = [_ROOTS[root] for root in roots if root]
    for kind in ("breathing", "rera", "arousal", "desaturation", "leg_movement", "event"):
        if kind in kinds:
            return kind
    if len(tokens) > _LONGEST_STAGE:
        return None
    alone = len(tokens) == 1 and _CODE.fullmatch(tokens[0]) and len(tokens[0]) > 1
    only = "sleep" in kinds and all(
        root or _CODE.fullmatch(token) for token, root in zip(tokens, roots)
    )
    return "stage" if "stage" in kinds or alone else "sleep" if only else None


def _may_name(token: str, root: str | None) -> bool:
    """Whether a token of the tables may be a person's name as well."""
    if _CODE.fullmatch(token) or _ROOTS.get(root, "sleep") != "sleep":
        return False
    return not _SURE & set(english_of(token))


@functools.lru_cache(maxsize=8192)
def printable(text: str) -> str:
    """Return a text with an ellipsis for whatever might name a person.

    Kept are tokens of the tables, the root of those that hold one, single letters, single digits
    and codes such as `N5`. Beside a token that is none of these, a name perhaps, only those are
    kept that are no names: `Leger`, `Lage` and `Deep` are.
    """
    parts: list[str] = []
    words = re.findall(r"[^\W_]+", text.partition("@@")[0][:200])
    plain = all(_root(x) or x in TOKENS or _CODE.fullmatch(x) for x in tokens_of(" ".join(words)))
    for word in words:
        for token in tokens_of(word):
            root = _root(token)
            if not plain and _may_name(token, root):
                root = None
            elif token in TOKENS or root == token or _CODE.fullmatch(token):
                parts.append(word if tokens_of(word) == [token] else token)
                continue
            if root:
                parts.append(f"{root}…")
            elif not parts or parts[-1] != "…":
                parts.append("…")
    return " ".join(parts[:8]) or "…"


def scored_of(text: str) -> bool | tuple[str, ...] | None:
    """Return what a row of our own writing says of the events, None if a text is no such row.

    `Events scored`, `Events not scored`, or `Events scored: arousal, leg_movement` for these alone.
    """
    match = _SCORED.fullmatch(text.strip())
    if match is None:
        return None
    named = {kind.strip() for kind in match[2].split(",")}
    kinds = tuple(sorted(named & {*EVENT_KINDS, "apnea"}))
    return kinds or not match[1]


class Unknown:
    """The words of one file that are not known."""

    def __init__(self):
        self._stages: dict[tuple[str, bool], list[float]] = collections.defaultdict(list)
        self._events: dict[str, int] = collections.Counter()
        self._missed: dict[str, int] = collections.Counter()
        self._timed = 0
        self._breathing = 0
        self._moments: dict[str, int] = collections.Counter()
        self._said: bool | tuple[str, ...] | None = None
        self.others = 0
        """Texts that look like neither; words that are known and not kept are among them."""

    def stage(self, text: str, seconds: float, *, sure: bool = True) -> None:
        """Add a word for a stage and how much of the night it leaves unscored, in s.

        Not `sure` is one that stands where stages stand and does not look like a word for one.
        """
        self._stages[printable(text), sure].append(seconds)

    def event(self, text: str, kind: str = "breathing", *, times: int = 2) -> None:
        """Add a word for an event; `kind` is what it may be, `times` how much it weighs."""
        self._events[printable(text)] += 1
        self._missed[kind] += times

    def add(self, text: str, duration_s: float | None, *, breathing: bool = False) -> None:
        """Add a text that is no word for a stage; `breathing` if the file says that it is of it."""
        said = scored_of(text)
        if said is not None:
            self._said = said
            return
        if is_known(text) and (says_what(text) or not duration_s):
            self.others += 1
            self._breathing += bool(duration_s) and is_breathing(text)
            return
        kind = "breathing" if breathing else _kind(text)
        if kind not in (None, "stage", "sleep"):
            # A note that speaks of an apnea is no event: those last, or come again and again.
            weight = 2 if duration_s else int(kind != "event")
            self.event(text, "breathing" if kind == "event" else kind, times=weight)
            return
        self.others += 1
        if _SHORTEST_S < (duration_s or 0.0) <= _LONGEST_S:
            self._timed += 1
        elif not duration_s and len(tokens_of(text)) <= _LONGEST_NAME:
            self._moments[text] += 1

    def events_scored(self, events: list[Event], *, empty=False) -> bool | tuple[str, ...]:
        """Return for which events somebody looked and was understood.

        True: for all kinds. False: for none, or nothing of it was understood; lights and positions
        say nothing. Else the kinds that were understood, `apnea` for all of breathing: where words
        for breathing were not, or where no apnea stands but disordered breathing of another kind,
        or texts with durations, or texts that come again and again, the night does not count as
        free of apneas. A row that says it is believed (`scored_of`).
        `empty` is for formats whose files all come from people who look for events: one without any
        is a night without any.
        """
        if self._said is not None:
            return self._said
        met = {event.kind for event in events} - NOT_SCORED
        breathing = {kind for kind in met if kind.startswith(("apnea", "hypopnea"))}
        missed = {kind for kind, times in self._missed.items() if times > 1}
        if (self._timed or self._breathing or self._often()) and not breathing:
            missed.add("breathing")
        if not met or not missed:
            return bool(met) or (empty and not missed)
        kinds = (met - breathing) | ({"apnea"} if breathing else set())
        kinds -= missed | ({"apnea"} if "breathing" in missed else set())
        return tuple(sorted(kinds)) or False

    def _often(self) -> int:
        """How many texts without durations come again and again, as events do."""
        return sum(count for count in self._moments.values() if count >= _OFTEN)

    def findings(self) -> list[Finding]:
        """Return a finding for each word, the commonest first."""
        found = []
        for (word, sure), spans in sorted(self._stages.items(), key=lambda item: -len(item[1])):
            seconds = round(sum(spans), 3)
            what = "stages of a word" if sure else "texts on the grid of the stages, of a word"
            note = f"{len(spans)} {what} that is not known, {word!r}: {seconds:g} s unscored"
            found.append(Finding("unknown_stage", word, note, len(spans), seconds))
        for word, count in sorted(self._events.items(), key=lambda item: -item[1]):
            found.append(
                Finding(
                    "unknown_event",
                    word,
                    f"{count} events of a word that is not known, {word!r}: left out",
                    count,
                )
            )
        for count, how in ((self._timed, "with durations"), (self._often(), "of a few texts")):
            if count:
                note = f"{count} annotations {how} that are not known, events perhaps: left out"
                found.append(Finding("unknown_event", "…", note, count))
        return found[:_WORDS_TOLD]

    def notes(self) -> list[str]:
        """Return how many other texts were left out."""
        text = f"{self.others} annotations that are neither a stage nor an event left out"
        return [text] * bool(self.others)
