"""Sleep scoring as recorded by people and their programs, read into one form."""

from data_pipelines.scoring.consensus import consensus
from data_pipelines.scoring.files import read_scoring
from data_pipelines.scoring.formats.edf_annotations import write_edf_annotations
from data_pipelines.scoring.formats.json_lists import read_consensus
from data_pipelines.scoring.record import (
    EPOCH_S,
    EVENT_KINDS,
    STAGES,
    Event,
    Scoring,
    ScoringError,
)
from data_pipelines.scoring.search.beside import find_scoring, read_beside
from data_pipelines.scoring.times.placement import align
from data_pipelines.scoring.words.vocabulary import CODE_BOOKS, code_book_of

__all__ = [
    "CODE_BOOKS",
    "EPOCH_S",
    "EVENT_KINDS",
    "STAGES",
    "Event",
    "Scoring",
    "ScoringError",
    "align",
    "code_book_of",
    "consensus",
    "find_scoring",
    "read_beside",
    "read_consensus",
    "read_scoring",
    "write_edf_annotations",
]
