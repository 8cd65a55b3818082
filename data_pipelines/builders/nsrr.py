"""Builder of National Sleep Research Resource cohorts, laid out as NSRR ships them::

    polysomnography/edfs/**/*.edf
    polysomnography/annotations-events-nsrr/**/*-nsrr.xml
    datasets/*.csv                                          (age and sex, where there)

Of the tables only age and sex are read. Columns and codings are those of the harmonised tables,
and of the cohorts' own where no harmonised one is there.
"""

import csv
import dataclasses
import math
import pathlib
import re

from data_pipelines.builders.folder import recordings_below
from data_pipelines.builders.recording_night import Pending
from data_pipelines.channels.table import COHORTS
from data_pipelines.findings import Finding

ID_COLUMNS = ("nsrrid", "nsrr_id", "mesaid", "wsc_id", "obf_pptid", "pptid", "study_pat_id", "id")
VISIT_COLUMNS = ("visitnumber", "visit", "wsc_vst", "visitcode")
AGE_COLUMNS = ("nsrr_age", "age_s1", "age_s2", "sleepage5c", "vsage1", "ageyear_at_meas", "age")
# Column -> what its values mean; a column or value that is not here is not guessed at.
SEX_COLUMNS = {
    "nsrr_sex": {"male": "M", "female": "F"},
    "gender": {"1": "M", "2": "F", "male": "M", "female": "F", "m": "M", "f": "F"},
    "gender1": {"1": "M", "0": "F"},
    "male": {"1": "M", "0": "F"},
    "sex": {"male": "M", "female": "F", "m": "M", "f": "F"},
}
# The visit as file names tell it: shhs2-200001, mros-visit1-aa0001.
_VISIT = re.compile(r"(?:visit|shhs)(\d)")


def find_recordings(
    folder, *, cohort: str | None = None, findings: list[Finding] | None = None
) -> dict[str, Pending]:
    """List the recordings below ``polysomnography/edfs`` with age and sex from ``datasets``.

    Args:
        folder: The cohort's folder.
        cohort: Its name, for labels that mean a channel in that cohort alone; by default the
            folder's own name, where it is a cohort known to have such labels.
        findings: Where to add recordings that no table knows, and what was found about links.

    Raises:
        ValueError: There is no ``polysomnography/edfs``, two files have one name, or a table of
            ``datasets`` is not a CSV file.
    """
    folder = pathlib.Path(folder)
    edfs = folder / "polysomnography" / "edfs"
    if not edfs.is_dir():
        raise ValueError(f"{edfs} is missing; an NSRR cohort has polysomnography/edfs")
    if cohort is None and folder.resolve().name.lower() in COHORTS:
        cohort = folder.resolve().name.lower()
    people = _people(folder / "datasets")
    paths, _ = recordings_below(edfs, (".edf", ".rec"), findings)
    found, alone = {}, []
    for path in paths:
        if path.stem in found:
            raise ValueError(f"{path} and {found[path.stem].path} are both called {path.stem}")
        facts = _facts(path.stem.lower(), people)
        if facts is None:
            alone.append(path.stem)
            facts = {}
        if cohort is not None:
            facts["cohort"] = cohort
        found[path.stem] = Pending(name=path.stem, path=path, cohort=cohort, metadata=facts)
    if people and alone and findings is not None:
        some = ", ".join(alone[:5]) + (" ..." if len(alone) > 5 else "")
        findings.append(
            Finding(
                "person",
                "recordings without a row",
                f"{len(alone)} of {len(found)} recordings match no row of the tables in datasets, "
                f"so age and sex are not known: {some}",
                count=len(alone),
            )
        )
    return found


@dataclasses.dataclass
class _Person:
    """Age and sex by visit; visit "" holds what is said without one."""

    age: dict[str, float] = dataclasses.field(default_factory=dict)
    sex: dict[str, str] = dataclasses.field(default_factory=dict)


def _people(folder):
    people: dict[str, _Person] = {}
    # Harmonised tables first; what they say is not overwritten by the cohort's own coding.
    paths = sorted(folder.glob("*.csv"), key=lambda path: ("harmonized" not in path.name, path))
    for path in paths:
        if "dictionary" in path.name or "variables" in path.name:
            continue
        try:
            with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
                _read_table(csv.DictReader(file), people)
        except csv.Error as error:
            raise ValueError(f"{path}: not a CSV table ({error})") from None
    return people


def _read_table(rows, people):
    by_name = {(name or "").strip().lower(): name for name in rows.fieldnames or ()}

    def column(names):
        return next((by_name[name] for name in names if name in by_name), None)

    key, visit, age = column(ID_COLUMNS), column(VISIT_COLUMNS), column(AGE_COLUMNS)
    sex_name = next((name for name in SEX_COLUMNS if name in by_name), None)
    if key is None:
        return
    for row in rows:
        person = people.setdefault(_key(row[key] or ""), _Person())
        when = (row[visit] or "").strip().lower() if visit else ""
        years = _years(row[age]) if age else None
        if years is not None:
            person.age.setdefault(when, years)
        if sex_name is not None:
            value = (row[by_name[sex_name]] or "").strip().lower()
            sex = SEX_COLUMNS[sex_name].get(value.removesuffix(".0"))
            if sex is not None:
                person.sex.setdefault(when, sex)


def _facts(stem, people):
    """Age and sex by the tables; None where no row is about the person."""
    parts = [_key(part) for part in stem.split("-")]
    # The person's number stands last in most names and is the longest part that a table knows.
    known = [part for part in parts if part in people]
    if not known:
        return None
    person = people[max(known, key=len)]
    match = _VISIT.search(stem)
    visit = match.group(1) if match else ""
    facts = {}
    age = person.age.get(visit, person.age.get("") if len(person.age) == 1 or visit else None)
    if age is None and len(set(person.age.values())) == 1:
        age = next(iter(person.age.values()))
    if age is not None:
        facts["age"] = age
    if len(set(person.sex.values())) == 1:
        facts["sex"] = next(iter(person.sex.values()))
    return facts


def _key(text):
    """Numbers lose their leading zeros (mesa-sleep-0001 is mesaid 1); letters lose their case."""
    text = text.strip().lower()
    return text.lstrip("0") or "0" if text.isdigit() else text


def _years(text):
    try:
        years = float(text)
    except (TypeError, ValueError):
        return None
    return years if math.isfinite(years) and 0 <= years <= 120 else None
