"""Judgement of a run by its validation metric: the best so far, and for how long it has been worse.

The metric is ``config.checkpoints.best_metric``, whatever the family; a run that names none is not
judged. What is known here is saved with each checkpoint, so that a resumed run judges as one that
nobody disturbed.
"""

from __future__ import annotations

import dataclasses
import math

FINISHED = "finished.json"  # of a workdir whose run is over: the step, and the judgement
# Ours. Evaluations in a row that are worse than the best by MARGIN of it, until a run is said to
# memorise: one or two may be chance.
RISEN = 3
MARGIN = 0.02


def sign_of(best: str) -> int:
    """Return what a metric is multiplied with, so that less is better.

    Args:
        best: ``"lowest"`` or ``"highest"``.
    """
    return {"lowest": 1, "highest": -1}[best]


@dataclasses.dataclass
class Judgement:
    """How a run stands.

    Attributes:
        metric: ``eval/<name>/<metric>``; "" for a run that is not judged.
        best: ``"lowest"`` or ``"highest"``.
        at: step of the best value; None before the first evaluation.
        value: the best.
        last_at, last: step and value of the last evaluation; the value is None where it was not
            finite.
        since: evaluations since the best.
        risen: evaluations in a row, up to the last, that were clearly worse than the best.
        warned: whether the run was said to memorise.
    """

    metric: str = ""
    best: str = "lowest"
    at: int | None = None
    value: float | None = None
    last_at: int | None = None
    last: float | None = None
    since: int = 0
    risen: int = 0
    warned: bool = False

    @classmethod
    def resumed(cls, saved: dict | None, metric: str, best: str) -> Judgement:
        """Return what ``dataclasses.asdict`` gave of a run, or a new one where the run was judged
        by another metric or not at all."""
        if saved and (saved["metric"], saved["best"]) == (metric, best):
            return cls(**saved)
        return cls(metric, best)

    def add(self, step: int, values: dict[str, float]) -> bool:
        """Take what evaluations found at a step; return whether it is a new best.

        A step without the metric, or one that was taken before, changes nothing.
        """
        if self.metric not in values or step == self.last_at:
            return False
        value, sign = values[self.metric], sign_of(self.best)
        finite = math.isfinite(value)
        self.last_at, self.last = step, value if finite else None
        if finite and (self.value is None or sign * (value - self.value) < 0):
            self.at, self.value, self.since, self.risen = step, value, 0, 0
            return True
        if self.value is None:
            return False
        worse = not finite or sign * (value - self.value) > MARGIN * abs(self.value)
        self.since, self.risen = self.since + 1, self.risen + 1 if worse else 0
        return False

    def over(self, stop_after: int) -> bool:
        """Whether so many evaluations have brought no new best; never where it is 0."""
        return 0 < stop_after <= self.since

    def warning(self, passes: float) -> str:
        """Return what to say of a run that memorises, once; "" where there is nothing to say.

        Args:
            passes: over the training data so far.
        """
        if self.warned or self.risen < RISEN:
            return ""
        self.warned = True
        return (
            f"{self.metric} has been worse than its best for {self.risen} evaluations:"
            f" {_number(self.last)} at step {self.last_at}, {_number(self.value)} at step"
            f" {self.at}, after {passes:.1f} passes over the training data. The model memorises"
            " them: more nights help, or fewer steps, config.train.stop_after, dropout,"
            " augmentation (docs/training.md)"
        )

    def summary(self, step: int, passes: float) -> str:
        """Return one sentence on the whole run.

        Args:
            step: its last.
            passes: over the training data.
        """
        if not self.metric:
            judged = "config.checkpoints.best_metric names nothing to judge it by"
        elif self.value is None:
            judged = f"no evaluation found a {self.metric}"
        elif self.at == self.last_at:
            judged = f"{self.metric} was best in its last evaluation, {_number(self.value)} at step"
            judged += f" {self.at}"
        else:
            judged = (
                f"{self.metric} was best at step {self.at}, {_number(self.value)}, and is worse in"
                f" the last evaluation, {_number(self.last)} at step {self.last_at}"
            )
        return f"{step} steps, {passes:.1f} passes over the training data: {judged}"


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"
