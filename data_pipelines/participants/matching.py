"""Rows of tables of participants, and the recordings that they are about."""

import dataclasses
import re
from collections.abc import Iterable, Sequence

from data_pipelines import splits
from data_pipelines.findings import Finding
from data_pipelines.participants.spelling import (
    cased,
    clean,
    is_changed,
    loose,
    one_person,
    stripped,
    written,
)
from data_pipelines.participants.tables import TWO_SUBJECTS, UNKNOWN, Row, SubjectMapError, Table

NAMED = 5  # ours: rows or recordings that a sentence names


@dataclasses.dataclass(frozen=True)
class People:
    """What tables say of recordings.

    Attributes:
        subjects: Recording -> person.
        facts: Recording -> age, sex, site.
        findings: Rows and recordings without a partner, and what was not understood.
        told: A line for each table: how much of it fits.
    """

    subjects: dict[str, str]
    facts: dict[str, dict]
    findings: list[Finding]
    told: list[str]


def match(tables: Sequence[Table], names: Iterable[str]) -> People:
    """Find the recordings that the rows of tables are about.

    What a row says is compared with a recording's path from its end: as written (without the
    suffix), then without regard to case, then without ``sub-``, ``-PSG``, ``_eeg``, then without
    the zeros that numbers begin with. A row also fits all recordings of a person whom the names
    tell (BIDS, NSRR, Sleep-EDF), and all below a folder of its name; a row about a person those
    that begin with the person.

    Args:
        tables: The first that knows a recording has the word; a second may not contradict it.
        names: Recordings by their names in the store: paths without suffix.

    Raises:
        SubjectMapError: A row fits two recordings, or a recording rows of two people.
    """
    names = sorted(names)
    subjects: dict[str, str] = {}
    facts: dict[str, dict] = {}
    findings, told = [], []
    for table in tables:
        rows_of, guessed = _rows_of(table, names)
        people = _one_spelling(table) | _already(table, rows_of, subjects)
        for name, rows in rows_of.items():
            subjects.setdefault(name, people[one_person(rows[0].subject)])
            facts[name] = _agreed(rows) | facts.get(name, {})
        findings += _joined(table, rows_of, subjects)
        findings += _findings(table, rows_of, guessed)
        used = {row.number for rows in rows_of.values() for row in rows}
        told.append(
            f"{table.name}: {len(used)} of {len(table.rows)} rows match {len(rows_of)} of "
            f"{len(names)} recordings"
        )
    findings += _parted(subjects)
    alone = [name for name in names if name not in subjects]
    if tables and alone:
        _join_by_name(subjects, alone)
        some = ", ".join(alone[:NAMED]) + (" ..." if len(alone) > NAMED else "")
        findings.append(
            Finding(
                "person",
                "recordings without a row",
                f"{tables[0].name}: {len(alone)} of {len(names)} recordings match no row, so their "
                f"names alone tell whose they are: {some}",
                count=len(alone),
            )
        )
    return People(subjects, facts, findings, told)


def _already(table, rows_of, subjects):
    """Form of a name -> the person whom the table before calls otherwise.

    Raises:
        SubjectMapError: The table before says that they are two.
    """
    known: dict[str, dict] = {}
    for name, rows in rows_of.items():
        if name in subjects:
            row = rows[0]
            people = known.setdefault(one_person(row.subject), {})
            people.setdefault(one_person(subjects[name]), (row.number, subjects[name]))
    for people in known.values():
        if len(people) > 1:
            numbers = " and ".join(str(number) for number, _ in people.values())
            raise SubjectMapError(
                f"{table.name}: rows {numbers} give recordings one subject that another table of "
                "participants gives two; keep one of the tables"
            )
    return {form: next(iter(people.values()))[1] for form, people in known.items()}


def _joined(table, rows_of, subjects):
    """People whom a table before counts as one, and this table of recordings as several."""
    others: dict[str, set] = {}
    for name, rows in rows_of.items():
        others.setdefault(subjects[name], set()).add(one_person(rows[0].subject))
    count = sum(len(own) > 1 for own in others.values())
    if count and not table.by_person:  # a table of people may well be refined by one of recordings
        yield Finding(
            "person",
            "people whom two tables count in two ways",
            f"{table.name}: {count} people are several here and one in another table of "
            "participants, and were taken as one",
            count=count,
        )


def _parted(subjects):
    """People whom names tell to be one, and tables to be two."""
    people: dict[tuple, set] = {}
    for name, subject in subjects.items():
        person = splits.person_in_name(name.rpartition("/")[2])
        # Data sets beside each other may each have a sub-01.
        group = name.partition("/")[0] if "/" in name and f"{person}".startswith("sub-") else ""
        if person:
            people.setdefault((group, person), set()).add(subject)
    count = sum(len(own) > 1 for own in people.values())
    if count:
        yield Finding(
            "person",
            "people whom a table parts",
            f"the names of recordings tell {count} people whom the table of participants counts as "
            "several, and so it was done",
            count=count,
        )


def _join_by_name(subjects, alone):
    """Give recordings without a row to the person of others that their names tell to be theirs."""
    people: dict[str, set] = {}
    for name, subject in subjects.items():
        people.setdefault(splits.subject_of(name), set()).add(subject)
    for name in alone:
        others = people.get(splits.subject_of(name), ())
        if len(others) == 1:
            subjects[name] = next(iter(others))


def _one_spelling(table):
    """Form that all spellings of a person share -> the spelling that comes first."""
    people: dict[str, str] = {}
    for row in table.rows:
        people.setdefault(one_person(row.subject), row.subject)
    return people


def _agreed(rows):
    """The facts of a recording's rows; what they do not agree on is left out."""
    facts = {}
    for key in ("age", "sex", "site"):
        values = {row.facts[key] for row in rows if key in row.facts}
        if len(values) == 1:
            facts[key] = values.pop()
    return facts


def _findings(table, rows_of, guessed):
    """What a user should know of a table: all but the recordings that no table knows."""

    def about(what, rows, sentence):
        if rows:
            numbers = ", ".join(str(row.number) for row in rows[:NAMED])
            numbers += " ..." if len(rows) > NAMED else ""
            numbers = f"row {numbers}" if len(rows) == 1 else f"rows {numbers}"
            note = f"{table.name}: {len(rows)} of {len(table.rows)} rows {sentence} ({numbers})"
            yield Finding("person", what, note, count=len(rows))

    used = {row.number for rows in rows_of.values() for row in rows}
    unused = [row for row in table.rows if row.number not in used]
    yield from about("rows without a recording", unused, "match no recording")
    yield from about(
        "rows taken for a folder or the beginning of a name",
        guessed,
        "name a folder, or what recordings begin with, and were taken to mean these recordings",
    )
    people = _one_spelling(table)
    other = [row for row in table.rows if people[one_person(row.subject)] != row.subject]
    yield from about(
        "people spelt in two ways", other, "write a person in another way than a row before"
    )
    nobody = [row for row in table.rows if row.subject.lower() in UNKNOWN]
    yield from about("people whose name means unknown", nobody, "may name nobody, as NA does")
    yield from about(
        "names that a spreadsheet may have changed",
        [
            row
            for row in table.rows
            if is_changed(row.subject) or (row.number not in used and is_changed(row.key))
        ],
        "hold a date or a number as spreadsheets make them of names such as 3-1 and 1E5",
    )
    for fact, known in (("age", "years from 0 to 120"), ("sex", "M, F, and words for them")):
        odd = [row for row in table.rows if fact in row.not_understood]
        yield from about(
            f"{fact} not understood", odd, f"say of the {fact} what is not understood; {known} are"
        )
    differ = [rows for rows in rows_of.values() if _agreed(rows).keys() != _said(rows)]
    yield from about(
        "facts that differ",
        list({row.number: row for rows in differ for row in rows}.values()),
        "of one recording differ in age, sex or site, so none is taken",
    )


def _said(rows):
    return {key for row in rows for key in row.facts}


def _rows_of(table, names):
    """Recording -> the rows about it, all of one person; and the rows that fit less closely."""
    # What is written exactly so is not there for rows that come near it.
    cleaned = {name: clean(name) for name in names}
    exact = {text: [] for text in cleaned.values()}
    rank: dict[str, int] = {}
    found: dict[str, list[Row]] = {}
    left = table.rows
    for row in table.rows:
        if row.key in exact:
            exact[row.key].append(row)
    for level, form in enumerate((written, cased, stripped, loose)):
        index: dict[str, list] = {}
        persons: dict[str, list] = {}
        for name in names:
            parts = _parts(cleaned[name], form)
            index.setdefault(parts[-1], []).append((name, parts))
            for person in _persons(name):
                persons.setdefault(form(person), []).append(name)
        left, rows = [], left
        for row in rows:
            parts = _parts(row.key, form)
            fits = [name for name, own in index.get(parts[-1], ()) if _same_end(parts, own)]
            fits = [n for n in fits if rank.get(n, level) == level]
            fits = [n for n in fits if row in exact[cleaned[n]] or not exact[cleaned[n]]]
            # A person may have recordings of one name in several folders.
            ends = {cased(cleaned[n].rpartition("/")[2]) for n in fits}
            if len(fits) > 1 and not (table.by_person and len(ends) == 1):
                raise SubjectMapError(
                    f"{table.name}: row {row.number} fits {len(fits)} recordings; write the folder "
                    "too, as in FOLDER/RECORDING"
                )
            if not fits and len(parts) == 1:
                fits = [n for n in persons.get(parts[0], ()) if rank.get(n, level) == level]
            for name in fits:
                rank[name] = level
                found.setdefault(name, []).append(row)
            if not fits:
                left.append(row)
    guessed = _by_beginning(table, names, left, found)
    for rows in found.values():
        other = [row for row in rows if one_person(row.subject) != one_person(rows[0].subject)]
        if other:
            numbers = rows[0].number, other[0].number
            raise SubjectMapError(f"{table.name}: {TWO_SUBJECTS.format(*numbers)}")
    return found, guessed


def _by_beginning(table, names, left, found):
    """Add recordings in a folder of a row's name, or (of a person's) that begin with it.

    Returns:
        the rows that were taken so.
    """
    rows = {}
    for row in table.rows if table.by_person else left:
        rows.setdefault(tuple(_parts(row.key, loose)), row)
    folders: dict[tuple, set] = {}
    fits: dict[str, tuple] = {}
    for name in names:
        if name in found:
            continue
        *parents, stem = _parts(clean(name), loose)
        known = splits.person_in_name(stem) is not None
        for stop in range(0 if known else len(parents), 0, -1):
            keys = [tuple(parents[start:stop]) for start in range(stop)]
            key = next((key for key in keys if key in rows), None)
            if key is not None:
                folders.setdefault(key, set()).add(tuple(parents[:stop]))
                fits[name] = key
                break
        else:
            ends = [m.start() for m in re.finditer(r"[\W_]", stem)] if table.by_person else []
            keys = [(stem[:end],) for end in reversed(ends)]
            fits[name] = next((key for key in keys if key in rows), None)
    # A number that several folders are called is no person's: visits have such names.
    fits = {n: k for n, k in fits.items() if k is not None and len(folders.get(k, ())) < 2}
    found |= {name: [rows[key]] for name, key in fits.items()}
    return [rows[key] for key in dict.fromkeys(fits.values())]


def _persons(name):
    """The person whom the rule of a cohort sees in a name, in the ways that tables write it."""
    person = splits.person_in_name(name.rpartition("/")[2])
    if person is None:
        return ()
    return {person, person.rpartition("-")[2]} if not person.startswith("sub-") else {person}


def _same_end(parts, others):
    """Whether the shorter of two paths is the end of the longer."""
    count = min(len(parts), len(others))
    return parts[-count:] == others[-count:]


def _parts(text, form):
    return [form(part) for part in text.split("/")]
