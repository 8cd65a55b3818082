"""Reading a scoring of whatever format, and finding the one that belongs to a recording."""

import pathlib
import re

from data_pipelines.scoring.consensus import of_scorer
from data_pipelines.scoring.edf_annotations import (
    is_edf,
    read_annotations,
    scoring_from_annotations,
)
from data_pipelines.scoring.json_lists import read_json
from data_pipelines.scoring.lists import read_eannot, read_list
from data_pipelines.scoring.placement import check_overlap, shift_of
from data_pipelines.scoring.record import Scoring, ScoringError
from data_pipelines.scoring.tables import (
    is_bids,
    is_noxturnal,
    is_remlogic,
    read_bids,
    read_luna_annot,
    read_noxturnal,
    read_remlogic,
)
from data_pipelines.scoring.text import decode, read_bytes, table_of
from data_pipelines.scoring.vocabulary import stage_of
from data_pipelines.scoring.wfdb_annotations import read_wfdb
from data_pipelines.scoring.xml_files import read_xml
from data_pipelines.scoring.yasa_hypnogram import is_yasa, read_yasa

_SLEEP_EDF = re.compile(r"(SC4|ST7)\d{3}[A-Z][0-9A-Z](-PSG)?", re.IGNORECASE)


def read_scoring(
    path, *, recording=None, code_book: str | None = None, scorer: int | None = None
) -> Scoring:
    """Read stages and events from a scoring file of any format known here.

    Args:
        path: the file.
        recording: the recording it belongs to, as `open_recording` returns it (its `path`,
            `start_of_day_s` and `duration_s` are looked at). Exports with wall-clock times need
            it; with it, a scoring that lies outside the recording is refused.
        code_book: what bare entries of a plain list mean, one of `CODE_BOOKS`.
        scorer: whose stages to take where the file holds several people's, 1 for the first; by
            default those on which they agree.

    Returns:
        stages and events from the start of the recording; not yet cut to its length (`align`).

    Raises:
        ScoringError: the file cannot be read or trusted, or belongs to another recording.
    """
    path = pathlib.Path(path)
    try:
        scoring = _read(path, recording, code_book)
    except OSError as error:
        raise ScoringError(f"{path}: cannot be read ({error.strerror})") from None
    if scorer is not None:
        scoring = of_scorer(scoring, scorer, path)
    check_overlap(path, scoring, recording)
    return scoring


def _read(path, recording, code_book):
    suffix = path.suffix.lower()
    if path.is_file():
        with path.open("rb") as file:
            if is_edf(file.read(8)):
                return _read_edf(path, recording, code_book)
    if suffix in (".st", ".hyp"):
        return read_wfdb(path)
    data = read_bytes(path)
    text = decode(data)
    if text.lstrip()[:1] == "<":
        return read_xml(path, data, recording)
    if suffix == ".json":
        return read_json(path, data, code_book=code_book)
    if suffix == ".annot":
        return read_luna_annot(path, text, recording)
    if suffix == ".eannot":
        return read_eannot(path, text, code_book=code_book)
    rows = table_of(text, path)
    if is_bids(rows):
        return read_bids(path, rows, code_book=code_book)
    if is_noxturnal(rows):
        return read_noxturnal(path, rows, recording)
    if is_remlogic(rows):
        return read_remlogic(path, rows, recording)
    if is_yasa(rows):
        return read_yasa(path, rows)
    return read_list(path, text, code_book=code_book)


def _read_edf(path, recording, code_book):
    annotations = read_annotations(path)
    shift_s, findings = shift_of(path, recording)
    return scoring_from_annotations(
        path,
        annotations,
        source="edf_annotations",
        shift_s=shift_s,
        findings=findings,
        code_book=code_book,
    )


def find_scoring(recording_path, *, code_book: str | None = None) -> pathlib.Path | None:
    """Return the scoring file that belongs to a recording, or None.

    Looked for in this order, beside the recording unless said otherwise (STEM is its name without
    the suffix): STEM-nsrr.xml, STEM-profusion.xml, STEM.xml; the same where NSRR keeps them
    (`annotations-events-nsrr/`, `annotations-events-profusion/` for `edfs/`); STEM.annot,
    STEM.eannot; BIDS events (`_eeg` becomes `_events.tsv`); STEM-Hypnogram.edf, STEM_hypnogram.edf,
    STEM_sleepscoring.edf, and for Sleep-EDF the `*-Hypnogram.edf` with the same first 7, then 6
    letters; WFDB STEM.st, STEM.hyp; STEM_events.csv, STEM.csv, STEM.txt where they are an export
    of Noxturnal or RemLogic; with a `code_book`, STEM.txt, STEM.csv, STEM.json as plain lists; the
    recording itself if it is EDF+ with sleep stages among its annotations.

    Raises:
        ScoringError: two Sleep-EDF hypnograms fit one recording.
    """
    path = pathlib.Path(recording_path)
    folder, stem = path.parent, path.stem
    names = [f"{stem}{end}" for end in ("-nsrr.xml", "-profusion.xml", ".xml", ".XML")]
    candidates = [folder / name for name in names]
    parts = folder.parts
    if "edfs" in parts:
        at = len(parts) - 1 - parts[::-1].index("edfs")
        for kind in ("nsrr", "profusion"):
            beside = pathlib.Path(*parts[:at], f"annotations-events-{kind}", *parts[at + 1 :])
            candidates.append(beside / f"{stem}-{kind}.xml")
    ends = [".annot", ".eannot", "_events.tsv", "-Hypnogram.edf", "_hypnogram.edf"]
    ends += ["-hypnogram.edf", "_Hypnogram.edf", "_sleepscoring.edf", ".st", ".hyp"]
    candidates += [folder / f"{stem}{end}" for end in ends]
    bids = re.sub(r"_(eeg|psg|ieeg)$", "_events.tsv", stem)
    if bids != stem:
        candidates.append(folder / bids)
    candidates.append(folder / f"{path.name}.hyp")
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    if _SLEEP_EDF.fullmatch(stem) and folder.is_dir():
        for letters in (7, 6):
            found = sorted(folder.glob(f"{stem[:letters]}*-Hypnogram.edf"))
            if len(found) > 1:
                raise ScoringError(
                    f"{path}: two hypnograms fit it: {found[0].name}, {found[1].name}"
                )
            if found:
                return found[0]
    for end in ("_events.csv", ".csv", ".txt", ".json"):
        candidate = folder / f"{stem}{end}"
        if candidate.is_file() and (code_book is not None or _is_export(candidate)):
            return candidate
    if path.suffix.lower() in (".edf", ".bdf", ".rec") and path.is_file():
        try:
            annotations = read_annotations(path)
        except (ScoringError, OSError):
            return None
        if any(stage_of(text) is not None for _, _, text in annotations):
            return path
    return None


def _is_export(path) -> bool:
    """Whether a file says by its columns that it is an export of events."""
    if path.suffix == ".json":
        return False
    try:
        with path.open("rb") as file:
            rows = table_of(decode(file.read(2**16)), path)
    except (ScoringError, OSError):
        return False
    return is_bids(rows) or is_noxturnal(rows) or is_remlogic(rows) or is_yasa(rows)
