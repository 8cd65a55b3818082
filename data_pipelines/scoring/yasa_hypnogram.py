"""The hypnogram of YASA as pandas writes it: a row an epoch of 30 s, with the name of its stage.

Source: YASA's class `Hypnogram` (0.7 and later): index `Epoch`, column `Stage`.
"""

from data_pipelines.scoring.lists import runs_of
from data_pipelines.scoring.record import EPOCH_S, Scoring, ScoringError, make_scoring

HEADING = ["Epoch", "Stage"]
STAGES = {"WAKE": 0, "N1": 1, "N2": 2, "N3": 3, "REM": 4, "ART": -1, "UNS": -1}


def is_yasa(rows: list[list[str]]) -> bool:
    """Whether a table is a hypnogram of YASA with names of stages; numbers need a code book."""
    return len(rows) > 1 and rows[0][:2] == HEADING and rows[1][1:2] != [] and rows[1][1] in STAGES


def read_yasa(path, rows: list[list[str]]) -> Scoring:
    """Read a hypnogram of YASA.

    Raises:
        ScoringError: a row has another stage, or epochs are missing.
    """
    stages = []
    for epoch, row in enumerate(rows[1:]):
        if len(row) != 2 or row[0] != str(epoch):
            raise ScoringError(f"{path}: row {epoch + 2} is not `{epoch}` and a stage")
        if row[1] not in STAGES:
            raise ScoringError(
                f"{path}: row {epoch + 2} has none of the stages {', '.join(STAGES)}"
            )
        stages.append(STAGES[row[1]])
    runs = runs_of(stages, float(EPOCH_S))
    return make_scoring(path, "yasa_csv", runs=runs, events_scored=False)
