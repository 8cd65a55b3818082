"""Several scorers of one night: their consensus, and one of them alone."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipelines.scoring.record import STAGES, Scoring, ScoringError


def consensus(stages: Sequence[Sequence[int]], path="consensus") -> np.ndarray:
    """Return what several scorers of one night agree on.

    Every epoch gets the stage with the most votes; of stages with equally many, the one chosen by
    the scorer ranked highest on this night by soft-agreement: the mean over epochs of the share of
    the other scorers' votes for this scorer's stage, relative to the stage with the most of them
    (Guillot et al. 2020, arXiv:1911.03221, section on the consensus; ranked per night here). Equal
    ranks go to the scorer listed first. Unscored epochs (-1) cast no vote; an epoch in which at
    least half of the scorers gave no stage stays -1 (ours).

    Args:
        stages: codes 0..4 or -1, `[scorers, E]`.

    Returns:
        int8 `[E]`.

    Raises:
        ScoringError: the scorers scored different numbers of epochs.
    """
    lengths = sorted({len(row) for row in stages})
    if len(lengths) != 1:
        raise ScoringError(
            f"{path}: scorers of one night give {lengths} epochs; expected one number"
        )
    chosen = np.asarray(stages, np.int64).reshape(len(stages), lengths[0])
    votes = chosen[:, :, None] == np.arange(len(STAGES))
    total = votes.sum(axis=0)
    agreement = np.zeros(len(chosen))
    for scorer, own in enumerate(votes):
        others = total - own
        most = others.max(axis=1, initial=0)
        counted = own.any(axis=1) & (most > 0)
        if counted.any():
            agreement[scorer] = (others[counted] * own[counted]).sum(axis=1).dot(
                1 / most[counted]
            ) / counted.sum()
    weight = np.zeros(len(chosen))
    for rank, scorer in enumerate(np.argsort(-agreement, kind="stable")):
        weight[scorer] = 2.0**-rank
    # Fractions below one vote decide ties alone: the highest ranked scorer outweighs all others.
    score = total + 0.49 * (votes * weight[:, None, None]).sum(axis=0) / max(weight.sum(), 1)
    result = score.argmax(axis=1)
    result[2 * total.sum(axis=1) <= len(chosen)] = -1
    return result.astype(np.int8)


def of_scorer(scoring: Scoring, scorer: int, path) -> Scoring:
    """Return a scoring with the stages of one scorer, 1 for the first of the file.

    A file of one scorer has the first alone. `scorers` stays as it is.

    Raises:
        ScoringError: the file has no such scorer.
    """
    people = scoring.scorers or (scoring.stages,)
    if not 1 <= scorer <= len(people):
        raise ScoringError(f"{path}: holds {len(people)} scorers; number {scorer} is none of them")
    if not scoring.scorers:
        return scoring
    findings = tuple(x for x in scoring.findings if x.kind != "several_scorers")
    note = f"the stages are those of scorer {scorer} of {len(people)}, as asked for"
    return dataclasses.replace(
        scoring, stages=people[scorer - 1], findings=findings, notes=(*scoring.notes, note)
    )
