"""Reading a scoring of whatever format."""

import errno
import pathlib

from data_pipelines.scoring.consensus import of_scorer
from data_pipelines.scoring.domino import is_domino, read_domino
from data_pipelines.scoring.edf_annotations import (
    is_edf,
    read_annotations,
    scoring_from_annotations,
)
from data_pipelines.scoring.event_tables import (
    columns_of,
    has_recording_onsets,
    heading_at,
    is_bids,
    read_event_table,
)
from data_pipelines.scoring.json_lists import read_json
from data_pipelines.scoring.lists import read_eannot, read_list
from data_pipelines.scoring.placement import check_overlap, shift_of
from data_pipelines.scoring.record import Scoring, ScoringError
from data_pipelines.scoring.respiratory_list import is_respiratory_list, read_respiratory_list
from data_pipelines.scoring.tables import (
    is_noxturnal,
    is_remlogic,
    read_luna_annot,
    read_noxturnal,
    read_remlogic,
)
from data_pipelines.scoring.text import decode, read_bytes, table_of
from data_pipelines.scoring.wfdb_annotations import read_wfdb
from data_pipelines.scoring.xml_files import read_xml


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
    return check_overlap(path, scoring, recording)


HEAD_BYTES = 2**16


def head_of(path) -> bytes:
    """Return the beginning of a file, by which its format is told.

    Raises:
        OSError: It cannot be read, or is a link that leads nowhere, or a pipe.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise OSError(errno.ENOENT, "it is no file, or a link that leads nowhere")
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def format_of(path, head: bytes) -> str:
    """Return the format that a file's name and beginning say: `edf`, `xml`, ...; else `list`."""
    suffix = pathlib.Path(path).suffix.lower()
    if is_edf(head[:8]):
        return "edf"
    if suffix in (".st", ".hyp"):
        return "wfdb"
    text = decode(head)
    if text.lstrip()[:1] == "<":
        return "xml"
    if suffix in (".json", ".annot", ".eannot"):
        return suffix[1:]
    if is_domino(text):
        return "domino"
    if is_respiratory_list(text):
        return "respiratory"
    rows = table_of(text, path)
    at = heading_at(rows)
    if is_bids(rows) or (at is not None and has_recording_onsets(rows)):
        return "table"
    if is_remlogic(rows):
        return "remlogic"
    # Noxturnal's rows have a start and an end; its heading may be of any language.
    if is_noxturnal(rows) and (at is None or columns_of(rows[at]).end is not None):
        return "noxturnal"
    return "list" if at is None else "table"


def _read(path, recording, code_book):
    kind = ""
    if path.is_file():
        kind = format_of(path, head_of(path))
    if kind == "edf":
        return _read_edf(path, recording, code_book)
    if kind == "wfdb":
        return read_wfdb(path)
    data = read_bytes(path)
    text = decode(data)
    if kind == "xml":
        return read_xml(path, data, recording)
    if kind == "json":
        return read_json(path, data, code_book=code_book)
    if kind == "annot":
        return read_luna_annot(path, text, recording)
    if kind == "eannot":
        return read_eannot(path, text, code_book=code_book)
    if kind == "domino":
        return read_domino(path, text, recording)
    if kind == "respiratory":
        return read_respiratory_list(path, text, recording)
    if kind == "list":
        return read_list(path, text, code_book=code_book, recording=recording)
    rows = table_of(text, path)
    if kind == "noxturnal":
        return read_noxturnal(path, rows, recording)
    if kind == "remlogic":
        return read_remlogic(path, rows, recording)
    return read_event_table(path, rows, recording, code_book=code_book)


def _read_edf(path, recording, code_book):
    annotations, unread = read_annotations(path)
    shift_s, findings = shift_of(path, recording)
    return scoring_from_annotations(
        path,
        annotations,
        source="edf_annotations",
        shift_s=shift_s,
        findings=[*unread, *findings],
        code_book=code_book,
    )
