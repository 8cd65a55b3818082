"""The words that scoring files use for stages and events, and the code books of bare numbers.

The words are tables here, one row a word, with its source: adding a language or a vendor is
adding rows. `stages.csv` and `events.csv` hold words as files write them; `tokens.csv` says what a
single token means in other languages and spellings, so that `Apnée centrale`, `Zentrale Apnoe` and
`CentralApnea` are one row. `code_books.csv` holds the meaning of bare entries.

A word is compared whole, token by token, never by substring: `R` is not in `RERA`. The order of its
tokens is free. What is in no table is no word: free text of a scorer never passes.
"""

import csv
import dataclasses
import functools
import pathlib
import re
import unicodedata
from collections.abc import Iterator

from data_pipelines.scoring.record import EVENT_KINDS, STAGES, ScoringError

WORDS = pathlib.Path(__file__).parent
"""Folder of the tables."""

_SEPARATORS = re.compile(r"(?:[^\w?+&]|_)+")
_CAMEL = re.compile(r"(?<=[a-zß-öø-ÿ])(?=[A-ZÀ-ÖØ-Þ])|(?<=[A-Z])(?=[A-Z][a-z])")
_LETTERS_AND_DIGITS = re.compile(r"(?<=[^\W\d_]{3})(?=\d)|(?<=\d)(?=[^\W\d_]{3})")
# Letters that Unicode does not take apart into a letter and an accent.
_LETTERS = str.maketrans({"ø": "o", "ł": "l", "æ": "ae", "œ": "oe", "đ": "d", "ı": "i", "ð": "d"})
_STAGE_CODES = {name: code for code, name in enumerate(STAGES)} | {"none": -1}
_CHARACTERS = 200  # longer texts are sentences

Key = tuple[str, ...]


def normalise(text: str) -> str:
    """Return `text` without accents, case and punctuation: `A. Centrale` is `a centrale`."""
    text = unicodedata.normalize("NFKD", text).casefold().translate(_LETTERS)
    text = "".join(letter for letter in text if not unicodedata.combining(letter))
    return _SEPARATORS.sub(" ", text).strip()


def tokens_of(text: str) -> list[str]:
    """Return the normalised tokens of a text; `stage2` is two of them, `n2` is one."""
    return _LETTERS_AND_DIGITS.sub(" ", normalise(text)).split()


def read_rows(path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """Return (where it stands, the row) for each row of a table of words.

    Raises:
        ValueError: other columns than these, another number of fields, or an empty first field or
            source; the message names the file and the row.
    """
    with pathlib.Path(path).open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        heading = next(rows, [])
        if tuple(heading) != columns:
            raise ValueError(f"{path}: columns {heading}; expected {', '.join(columns)}")
        for row in rows:
            where = f"{path}, row {rows.line_num}"
            if len(row) != len(columns):
                raise ValueError(f"{where}: {len(row)} fields; expected {len(columns)}")
            fields = dict(zip(columns, (field.strip() for field in row)))
            if not fields[columns[0]] or fields.get("source") == "":
                raise ValueError(f"{where}: {columns[0]} and source must not be empty")
            yield where, fields


def add_word(table: dict, key, meaning, where: str) -> None:
    """Put a word into a table.

    Raises:
        ValueError: the word is there with another meaning.
    """
    if table.setdefault(key, meaning) != meaning:
        raise ValueError(f"{where}: contradicts another row, which says {table[key]!r}")


def load_tokens(path=WORDS / "tokens.csv") -> dict[str, list[str]]:
    """Return token -> the tokens that it stands for; none for articles and prepositions."""
    table: dict[str, list[str]] = {}
    for where, row in read_rows(path, ("token", "means", "language", "source")):
        add_word(table, normalise(row["token"]), row["means"].split(), where)
    return table


_TOKENS = load_tokens()


def english_of(token: str) -> list[str]:
    """Return the tokens that a normalised token stands for: itself, where no row says more."""
    return _TOKENS.get(token, [token])


def _key(tokens: list[str]) -> Key:
    """Return what a word is looked up by: its tokens in English, in the order of the alphabet."""
    english = [part for token in tokens for part in english_of(token)]
    joined: list[str] = []
    for token in english:
        # `S 2` is `s2`; `2 s` is not.
        if joined and joined[-1] in ("n", "s") and token in ("0", "1", "2", "3", "4"):
            token = joined.pop() + token
        joined.append(token)
    return tuple(sorted(joined))


def keys_of(text: str) -> list[Key]:
    """Return what a text of a file may be looked up by.

    As it stands; without the code behind a bar, as NSRR has it (`Stage 2 sleep|2`); from UTF-8 that
    was decoded as Latin-1; and each with CamelCase taken apart (`NonREM2`). What follows `@@`, the
    channel that EDF+ links an annotation to (standard texts, 3.3), is left off.
    """
    text = text.partition("@@")[0]
    if len(text) > _CHARACTERS:
        return []
    forms = [text, text.partition("|")[0]]
    for encoding in ("cp1252", "latin-1"):
        try:
            forms.append(text.encode(encoding).decode("utf-8"))
        except UnicodeError:
            continue
    forms += [_CAMEL.sub(" ", form) for form in forms]
    keys = [_key(tokens_of(form)) for form in dict.fromkeys(forms)]
    return [key for key in dict.fromkeys(keys) if key]


def load_stages(path=WORDS / "stages.csv") -> dict[Key, int]:
    """Return what stands for a stage: key -> stage code, -1 for `none`.

    Raises:
        ValueError: a row is damaged, has an unknown meaning, or contradicts another.
    """
    table: dict[Key, int] = {}
    for where, row in read_rows(path, ("word", "stage", "language", "source")):
        if row["stage"] not in _STAGE_CODES:
            raise ValueError(
                f"{where}: stage {row['stage']!r} is none of {', '.join(_STAGE_CODES)}"
            )
        add_word(table, _key(tokens_of(row["word"])), _STAGE_CODES[row["stage"]], where)
    return table


def load_events(path=WORDS / "events.csv") -> dict[Key, tuple[str, str]]:
    """Return what stands for an event: key -> (kind, value).

    The kind is one of `EVENT_KINDS`, or `none` for words that are known and not kept; of these, the
    value `artifact` says that an epoch may be called so instead of a stage, `unsaid` that the
    word does not say what happened (`Event`), `breathing` that it is of breathing (Cheyne-Stokes).

    Raises:
        ValueError: a row is damaged, has an unknown meaning, or contradicts another.
    """
    table: dict[Key, tuple[str, str]] = {}
    for where, row in read_rows(path, ("word", "kind", "value", "language", "source")):
        if row["kind"] not in (*EVENT_KINDS, "none"):
            raise ValueError(f"{where}: kind {row['kind']!r} is none of {', '.join(EVENT_KINDS)}")
        add_word(table, _key(tokens_of(row["word"])), (row["kind"], row["value"]), where)
    return table


STAGE_WORDS = load_stages()
EVENT_WORDS = load_events()
TOKENS = frozenset(_TOKENS).union(*STAGE_WORDS, *EVENT_WORDS)
"""Every token that stands in a table: none of them names a person."""

# Tokens that may be there or not, one group after the other.
_STAGE_EXTRAS = ({"sleep"}, {"sleep", "stage"})
_EVENT_EXTRAS = (
    {"event", "episode", "body", "position", "respiratory", "eeg"},
    {"event", "episode", "body", "position", "respiratory", "eeg", "autonomic"},
    {"event", "episode", "body", "respiratory", "left", "right", "bilateral", "both", "side"},
)


def _find(table, text, extras):
    for key in keys_of(text):
        for extra in (set(), *extras):
            found = table.get(tuple(token for token in key if token not in extra))
            if found is not None:
                return found
    return None


@functools.lru_cache(maxsize=8192)
def stage_of(text: str) -> int | None:
    """Return the stage code that `text` names (-1: named as unscored), None if it names none.

    A text may name one twice, as in `Wake (W)`.
    """
    twice = re.fullmatch(r"([^()]{1,40})\(([^()]{1,40})\)", text.strip())
    stages = {_find(STAGE_WORDS, part, _STAGE_EXTRAS) for part in (twice.groups() if twice else ())}
    return stages.pop() if len(stages) == 1 else _find(STAGE_WORDS, text, _STAGE_EXTRAS)


@functools.lru_cache(maxsize=8192)
def _event(text: str) -> tuple[str, str] | None:
    return _find(EVENT_WORDS, text, _EVENT_EXTRAS)


def event_of(text: str) -> tuple[str, str] | None:
    """Return (kind, value) of the event that `text` names, None if it names none kept here."""
    found = _event(text)
    return None if found is None or found[0] == "none" else found


def is_known(text: str) -> bool:
    """Whether `text` is in the tables, be it only as a word of no stage and no event kept here."""
    return stage_of(text) is not None or _event(text) is not None


def is_artifact(text: str) -> bool:
    """Whether `text` says that there is an artefact, in an event or in place of a stage."""
    return _event(text) == ("none", "artifact")


def says_what(text: str) -> bool:
    """Whether `text` is more than a word such as `Event`, which may be an apnea."""
    return _event(text) != ("none", "unsaid")


def is_breathing(text: str) -> bool:
    """Whether `text` is a word for disordered breathing that is neither apnea nor hypopnea."""
    return _event(text) == ("none", "breathing")


@dataclasses.dataclass(frozen=True)
class CodeBook:
    """Meaning of the entries of a plain list.

    Attributes:
        stages: entry as written -> stage code.
        step_s: seconds that one entry stands for, where the list has one entry per step.
        about: where this coding is used.
    """

    stages: dict[str, int]
    step_s: float
    about: str


def load_code_books(
    books=WORDS / "books.csv", entries=WORDS / "code_books.csv"
) -> dict[str, CodeBook]:
    """Return the code books by name.

    Raises:
        ValueError: a row is damaged, has an unknown meaning, or contradicts another.
    """
    found: dict[str, CodeBook] = {}
    for where, row in read_rows(books, ("book", "step_s", "about", "source")):
        book = CodeBook({}, float(row["step_s"]), row["about"])
        add_word(found, row["book"], book, where)
    for where, row in read_rows(entries, ("book", "entry", "stage")):
        if row["book"] not in found or row["stage"] not in _STAGE_CODES:
            raise ValueError(f"{where}: no such book in {books}, or no such stage")
        add_word(found[row["book"]].stages, row["entry"], _STAGE_CODES[row["stage"]], where)
    return found


CODE_BOOKS = load_code_books()
"""The codings of bare entries by name. They contradict each other: 1 is N1, N3 or R."""


def code_book_of(name: str | None, path) -> CodeBook:
    """Return the code book called `name`, which may end in `@<seconds>` for another step.

    Raises:
        ScoringError: no name was given, or none of `CODE_BOOKS` has it; the message lists them.
    """
    if isinstance(name, str):
        stem, _, step = name.partition("@")
        book = CODE_BOOKS.get(stem)
        if book and not step:
            return book
        if book and re.fullmatch(r"\d{1,4}(\.\d{1,6})?", step) and 0 < float(step) <= 3600:
            return dataclasses.replace(book, step_s=float(step))
    choices = "; ".join(f"{key} ({book.about})" for key, book in CODE_BOOKS.items())
    said = "bare entries mean nothing without one" if name is None else f"there is no {name!r}"
    raise ScoringError(
        f"{path}: name the code book of this list ({said}). Choices, each with @<seconds> for "
        f"another step than its own: {choices}"
    )
