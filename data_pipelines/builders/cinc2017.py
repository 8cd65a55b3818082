"""Builder of the PhysioNet/CinC Challenge 2017: single-lead ECGs of a hand-held recorder.

Labels: the rhythm of the whole record as ``REFERENCE.csv`` spells it, N normal, A atrial
fibrillation, O other, ~ too noisy. Nobody's identity is known, so each record counts as a person.
"""

import csv
import pathlib

from data_pipelines.builders.recording_night import Pending

RHYTHMS = ("N", "A", "O", "~")


def find_recordings(folder) -> dict[str, Pending]:
    """List the records that ``REFERENCE.csv`` names; a record without a file is rejected later.

    Raises:
        ValueError: There is no ``REFERENCE.csv``, or one of its lines is not ``record,rhythm``.
    """
    folder = pathlib.Path(folder)
    reference = folder / "REFERENCE.csv"
    if not reference.is_file():
        raise ValueError(f"{reference} is missing: it names the records and their rhythms")
    found = {}
    with open(reference, newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.reader(file), 1):
            if not row:
                continue
            if len(row) != 2 or row[1] not in RHYTHMS or not row[0].isalnum():
                raise ValueError(f"{reference}:{number}: {row}; must be record,{'|'.join(RHYTHMS)}")
            name = row[0]
            found[name] = Pending(
                name=name,
                path=folder / f"{name}.hea",
                scoring=False,
                subject=f"cinc2017-{name}",
                labels={"rhythm": row[1]},
            )
    return found
