"""Tables of participants as people write them, by hand and by spreadsheet."""

import csv
import dataclasses
import io
import pathlib
import re
import unicodedata

from data_pipelines import splits
from data_pipelines.participants.spelling import clean, one_person, unquoted
from data_pipelines.scoring.text import decode, number_of

# Headers, without case, accents, blanks and marks; the first of a list that is there is taken.
RECORDING_COLUMNS = (
    *("recording", "recordings", "recordingid", "recordingname", "recordingfile"),
    *("filename", "file", "edffile", "edffilename", "edf", "psgfile", "filepath", "path"),
    *("dateiname", "datei", "aufnahme", "aufzeichnung", "nomdufichier", "fichier"),
    *("enregistrement", "archivo", "fichero", "grabacion", "registro", "nomefile"),
    *("registrazione", "bestandsnaam", "bestand", "opname", "ficheiro", "arquivo", "gravacao"),
)
PARTICIPANT_COLUMNS = ("participantid", "participant")
SUBJECT_COLUMNS = (
    *("subject", "pid", "subjectid", "subjid", "subj", "subjectcode", "subjectnumber"),
    *("subjectno", "subjectnr", "person", "personid", "patient", "patientid", "patientcode"),
    *("patientnumber", "patientno", "patientnr", *PARTICIPANT_COLUMNS, "participantcode"),
    *("pptid", "nsrrid", "proband", "probandid", "probandenid", "versuchsperson", "vpnr"),
    *("sujet", "sujeto", "paciente", "participante", "soggetto", "paziente", "partecipante"),
    *("proefpersoon", "deelnemer", "sujeito", "id"),
)
FACT_COLUMNS = {
    "age": ("age", "ageyears", "ageinyears", "alter", "edad", "eta", "leeftijd", "idade"),
    "sex": ("sex", "gender", "geschlecht", "sexe", "sexo", "sesso", "geslacht", "genero"),
    "site": ("site", "centre", "center"),
}

NOBODY = frozenset(("", "n/a", "#n/a", "nan"))
UNKNOWN = NOBODY | {"na", "none", "null", "unknown", "-", "--", ".", "?"}
WOMEN = (
    *("female", "woman", "weiblich", "frau", "feminin", "femme", "femenino", "mujer"),
    *("femminile", "femmina", "donna", "vrouwelijk", "vrouw", "feminino", "mulher"),
)
MEN = (
    *("male", "man", "mannlich", "maennlich", "mann", "masculin", "homme", "masculino"),
    *("hombre", "varon", "maschile", "maschio", "uomo", "mannelijk", "homem"),
)
# Letters of a column -> what they mean: male and female, männlich and weiblich, homme and femme,
# hombre and mujer. Dutch M/V is Spanish M/V (mujer, varón) the other way round, so these are known
# where the header is Dutch; M alone in a Spanish column may be masculino or mujer.
LETTERS = {
    "mf": {"m": "M", "f": "F"},
    "mwf": {"m": "M", "w": "F", "f": "F"},
    "hf": {"h": "M", "f": "F"},
    "hm": {"h": "M", "m": "F"},
}
DUTCH, SPANISH = ("geslacht",), ("sexo", "genero")

TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".tab")
SHEET_SUFFIXES = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers", ".sav")
MAX_BYTES = 64 * 2**20
TWO_SUBJECTS = "rows {} and {} give one recording a first and a second subject"


class SubjectMapError(ValueError):
    """A table of participants that cannot be read, or that says two things of one recording."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table of participants.

    Attributes:
        number: Of the row in the file; the header is row 1.
        key: What the row is about: a recording, or a person whom the recordings' names begin with.
        subject: The person.
        facts: ``age`` (float), ``sex`` ("M" or "F"), ``site`` (str), where known.
        not_understood: Names of the facts that say something that is not understood.
    """

    number: int
    key: str
    subject: str
    facts: dict
    not_understood: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of participants; ``by_person`` where it has no column of recordings."""

    name: str
    rows: list[Row]
    by_person: bool = False


def find_tables(folder) -> list[pathlib.Path]:
    """List the files called ``participants`` in a folder, whatever their case.

    Raises:
        SubjectMapError: The only one is a workbook, or the folder cannot be read.
    """
    try:
        paths = [path for path in sorted(pathlib.Path(folder).iterdir()) if not path.is_dir()]
    except OSError as error:
        raise SubjectMapError(f"{folder}: cannot be read ({error.strerror})") from None
    paths = [path for path in paths if path.stem.lower() == "participants"]
    found = [path for path in paths if path.suffix.lower() in TABLE_SUFFIXES]
    sheet = next((path for path in paths if path.suffix.lower() in SHEET_SUFFIXES), None)
    if sheet is not None and not found:
        raise SubjectMapError(f"{sheet}: is a workbook; save the table of participants as CSV")
    return sorted(found, key=lambda path: TABLE_SUFFIXES.index(path.suffix.lower()))


def read_table(path) -> Table:
    """Read a table with the columns ``recording`` and ``subject``, or with ``participant_id``.

    Text is UTF-8, UTF-16 or Windows-1252; fields are separated by commas, semicolons, tabs or
    bars. The columns may be called as `RECORDING_COLUMNS` and `SUBJECT_COLUMNS` say; a table with
    ``participant_id`` and no recordings is about people (BIDS), whose persons ``pid`` may name.
    Age is a number of years from 0 to 120, sex a word; further columns are never read.

    Raises:
        SubjectMapError: The file cannot be read, lacks a column, has an empty field, or gives a
            recording two subjects.
    """
    path = pathlib.Path(path)
    headers, records, keys, by_person = _records(path, _text(path))
    columns = {name: _first(headers, choices) for name, choices in FACT_COLUMNS.items()}
    _check_lengths(path, headers, records, [*keys, *(x for x in columns.values() if x is not None)])
    sex = columns["sex"]
    letters = {} if sex is None else _letters(headers[sex], [_field(x, sex) for _, x in records])
    rows, subjects = [], {}
    for number, record in records:
        key, subject = _field(record, keys[0]), unquoted(_field(record, keys[1]))
        if "\n" in key + subject:
            raise SubjectMapError(
                f"{path}: a field of row {number} holds several lines: a quote is not closed, or "
                "several recordings stand in one row"
            )
        key = clean(key)
        if key.lower() in NOBODY or subject.lower() in NOBODY:
            raise SubjectMapError(f"{path}: row {number} lacks a recording or a subject")
        if keys[0] == keys[1]:
            subject = splits.person_in_name(key) or subject
        first, person = subjects.setdefault(key, (number, subject))
        if one_person(person) != one_person(subject):
            raise SubjectMapError(f"{path}: {TWO_SUBJECTS.format(first, number)}")
        said = {name: _field(record, column) for name, column in columns.items()}
        facts = {"age": _age(said["age"]), "sex": _sex(said["sex"], letters)}
        facts["site"] = said["site"] if said["site"].lower() not in NOBODY else None
        facts = {name: fact for name, fact in facts.items() if fact is not None}
        odd = tuple(n for n, text in said.items() if n not in facts and text.lower() not in UNKNOWN)
        rows.append(Row(number, key, subject, facts, odd))
    return Table(path.name, rows, by_person)


def _text(path):
    try:
        if path.is_symlink() and not path.exists():
            raise SubjectMapError(f"{path}: is a link to a file that is not there (datalad get)")
        if path.stat().st_size > MAX_BYTES:
            raise SubjectMapError(f"{path}: a table of participants of more than 64 MiB")
        return decode(path.read_bytes()).replace("\0", "")
    except OSError as error:
        raise SubjectMapError(f"{path}: cannot be read ({error.strerror})") from None


def _records(path, text):
    """Headers, numbered records, the columns of key and person, and if rows are about people."""
    line = re.match(r"\s*sep=(.)\r?\n", text)  # as spreadsheets write it
    skipped = 0
    if line:
        text, skipped = text[line.end() :], 1
    for delimiter in "\t;,|":
        lines = csv.reader(io.StringIO(text, newline=None), delimiter=delimiter)
        try:
            records = [(n, [x.strip() for x in row]) for n, row in enumerate(lines, 1 + skipped)]
        except csv.Error as error:
            raise SubjectMapError(f"{path}: not a table ({error})") from None
        records = [(number, row) for number, row in records if any(row)]
        headers = [_header(field) for field in records[0][1]] if records else []
        keys, by_person = _keys(path, headers, records[1:])
        if None not in keys:
            return headers, records[1:], keys, by_person
    # The line itself may be a person's row, so it is not repeated.
    raise SubjectMapError(f"{path}: the first line does not name the columns recording,subject")


def _check_lengths(path, headers, records, columns):
    """Refuse rows in which a comma too many has moved the fields that are read.

    Raises:
        SubjectMapError: A row is longer than the header, and a field that is read may be moved.
    """
    longer = [number for number, record in records if any(record[len(headers) :])]
    # A row that begins with another name than a recording's matches none, and that is told.
    if longer and (max(columns) > 1 or len(longer) == len(records) > 1):
        raise SubjectMapError(
            f"{path}: row {longer[0]} has more fields than the first line; put what holds a comma "
            "into quotes"
        )


def _keys(path, headers, records):
    """The columns of what a row is about and of the person, and whether rows are about people."""
    recording = _first(headers, RECORDING_COLUMNS)
    for column in (recording, _first(headers, SUBJECT_COLUMNS)):
        twins = [i for i, x in enumerate(headers) if column is not None and x == headers[column]]
        if any(_field(x, i) != _field(x, column) for _, x in records for i in twins):
            raise SubjectMapError(f"{path}: two columns have one name, and differ")
    people = [headers.index(name) for name in SUBJECT_COLUMNS if name in headers]
    if recording is None:
        key = _first(headers, PARTICIPANT_COLUMNS)
        others = [c for c in people if c != key and headers[c] != "id"]
        return (key, others[0] if others and key is not None else key), True
    if not people:
        return (recording, None), False
    if headers[people[0]] not in SUBJECT_COLUMNS[:2]:
        for other in (column for column in people[1:] if headers[column] != "id"):
            pairs = {(_field(x, people[0]), _field(x, other)) for _, x in records}
            if not len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}):
                raise SubjectMapError(
                    f"{path}: columns {people[0] + 1} and {other + 1} name different people; call "
                    "the right one subject"
                )
    return (recording, people[0]), False


def _header(text):
    text = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in text if letter.isalnum())


def _first(headers, choices):
    return next((headers.index(name) for name in choices if name in headers), None)


def _field(record, column):
    return record[column] if column is not None and column < len(record) else ""


def _age(text):
    years = re.fullmatch(
        r"(.*\d)\s*(y|yr|yrs|years?|jahre?|ans|a[nñ]os|anni|jaar|anos)?", text, re.I
    )
    age = number_of(years[1]) if years else None
    return float(age) if age is not None and 0 <= age <= 120 else None


def _letters(header, values):
    """What single letters mean in a column; the others that it holds tell the language."""
    used = {_word(value) for value in values} & set("mfwhv")
    if header in DUTCH and "h" not in used:
        return {"m": "M", "v": "F", "f": "F"}
    if header in SPANISH and used == {"m"}:
        return {}
    return next((means for letters, means in LETTERS.items() if used <= set(letters)), {})


def _sex(text, letters):
    word = _word(text)
    if len(word) == 1:
        return letters.get(word)
    return "M" if word in MEN else "F" if word in WOMEN else None


def _word(text):
    text = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in text if letter.isalnum())
