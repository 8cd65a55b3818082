"""Several people's stages in one file, kept apart."""

from collections.abc import Sequence

import numpy as np

from data_pipelines.findings import Finding

Run = tuple[float, float, int]
"""(onset_s, duration_s, stage code)."""

MAX_SCORERS = 6
"""More stages than this at one time are durations gone wrong, not people."""

_ROUNDING_S = 2.0
_NO_CHANCE = 10
# Places of W, N1, N2, N3, R by the alphabet: N1 ... R, W; REM, S0 ... S4; and by their codes.
_ORDERS = ((4, 0, 1, 2, 3), (1, 2, 3, 4, 0), (0, 1, 2, 3, 4))


def layers(runs: Sequence[Run]) -> list[list[Run]]:
    """Return runs in as few layers as they need so that none overlaps another of its own.

    Where one person's stages stand beside another's, each layer is one person's: at every time
    both have a run, and the file has them in the same order. An overlap of at most 2 s, and half of
    the shorter run, is rounding. At most `MAX_SCORERS + 1` layers are made.
    """
    found: list[list[Run]] = []
    for run in sorted(runs, key=lambda run: run[0]):
        for layer in found:
            onset, length, _ = layer[-1]
            slack = min(_ROUNDING_S, min(length, run[1]) / 2)
            if run[0] >= onset + length - slack:
                layer.append(run)
                break
        else:
            if len(found) <= MAX_SCORERS:
                found.append([run])
            else:
                found[-1].append(run)
    return found


def padded(stages: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Return several scorers' stages with as many epochs each, -1 where one has none."""
    count = max(map(len, stages), default=0)
    return tuple(np.append(row, np.full(count - len(row), -1)).astype(np.int8) for row in stages)


def agreed(scorers: Sequence[np.ndarray]) -> np.ndarray:
    """Return the stages, int8 `[E]`: -1 where two of those who scored an epoch differ."""
    high = np.max(scorers, axis=0)
    low = np.min([np.where(row < 0, high, row) for row in scorers], axis=0)
    return np.where(low == high, high, -1).astype(np.int8)


def are_sorted(scorers: Sequence[np.ndarray], apart: Sequence[Sequence[Run]]) -> bool:
    """Whether runs of one time stand in an order of their own, so that it tells no person.

    Some programs sort annotations by onset and then by text, others (mne is one) by onset and then
    by duration. Ten in such an order are no chance.

    Args:
        scorers: the stages of each layer.
        apart: the layers.
    """
    lengths = [{onset: length for onset, length, _ in layer} for layer in apart[:2]]
    longer = np.array([lengths[0][at] - lengths[1][at] for at in lengths[0] if at in lengths[1]])
    longer = longer[np.abs(longer) > _ROUNDING_S]
    if len(longer) >= _NO_CHANCE and ((longer > 0).all() or (longer < 0).all()):
        return True
    for order in _ORDERS:
        rank = np.array([*order, -1])  # the last one for -1
        ranks = np.array([rank[row] for row in scorers])
        both = (ranks >= 0).all(0) & (ranks.min(0) < ranks.max(0))
        steps = np.diff(ranks[:, both], axis=0)
        if both.sum() >= _NO_CHANCE and ((steps >= 0).all() or (steps <= 0).all()):
            return True
    return False


def differing(scorers: Sequence[np.ndarray], stages: np.ndarray) -> list[Finding]:
    """Return the finding that several scorers' stages differ, or none."""
    lost = int(((np.max(scorers, axis=0) >= 0) & (stages < 0)).sum())
    if not lost:
        return []
    note = (
        f"{len(scorers)} scorings of the same epochs differ in {lost} epochs, which are unscored;"
        " --scorer=1 takes the first"
    )
    return [Finding("several_scorers", f"{len(scorers)} scorers", note, lost, lost * 30.0)]


def letters_of(stages: np.ndarray) -> str:
    """Return stages as a letter an epoch, `W123R`, or `-` where there is none."""
    return "".join("W123R"[stage] if stage >= 0 else "-" for stage in stages)
