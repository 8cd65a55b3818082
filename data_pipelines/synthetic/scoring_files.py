"""Scoring files as different laboratories keep them, for simulated recordings."""

import pathlib

from data_pipelines.files import atomic_write
from data_pipelines.scoring.writing import FORMS

SUFFIXES = {"edf": "-Hypnogram.edf", "nsrr": "-nsrr.xml", "luna": ".annot"}


def write_scoring(recording_path, scoring, form: str, start) -> pathlib.Path:
    """Write a scoring beside a recording; complete or absent.

    Args:
        recording_path: The EDF file it belongs to.
        scoring: Stages and events.
        form: "edf" (annotations in EDF+), "nsrr" (NSRR's XML) or "luna" (Luna's .annot).
        start: Start of the recording.

    Returns:
        The file written.

    Raises:
        ValueError: Another form.
    """
    if form not in SUFFIXES:
        raise ValueError(f"no form of scoring {form!r}; there are {sorted(SUFFIXES)}")
    recording_path = pathlib.Path(recording_path)
    path = recording_path.with_name(recording_path.stem + SUFFIXES[form])
    second = start.hour * 3600 + start.minute * 60 + start.second
    with atomic_write(path) as file:
        file.write(FORMS[path.suffix].content(scoring, second, None))
    return path
