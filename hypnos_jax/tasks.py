"""What fine-tuned towers can be asked: one table of tasks, as sleep2vec has them (2602.13857).

A task takes its labels from a batch of ``modality_nights``, of every 30-s token or of the night.
Negative labels are unknown and never count.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

TOKEN_S = 30
AROUSALS = ("respiratory", "spontaneous", "limb", "plm")


@dataclasses.dataclass(frozen=True)
class Task:
    """A question and where its labels are.

    Attributes:
        name: its name.
        kind: ``"classes"`` (one of several), ``"binary"`` (yes or no, each output for itself),
            ``"regression"`` or ``"survival"``.
        field: of the batch, with the labels.
        by_night: one answer a night (else one a token).
        metric, best: what to choose checkpoints by, and ``"highest"`` or ``"lowest"``.
        classes: names of the classes.
        merged: the field's labels 0, 1, ... -> classes.
        outputs: outputs a token or night where ``classes`` do not tell; 0: one a column of labels.
    """

    name: str
    kind: str
    field: str
    by_night: bool
    metric: str
    best: str = "highest"
    classes: tuple[str, ...] = ()
    merged: tuple[int, ...] = ()
    outputs: int = 0

    @property
    def couples_batch(self) -> bool:
        """Whether a night's loss depends on the others of its batch: whom it could outlive."""
        return self.kind == "survival"

    def width(self, labels: tuple[str, ...]) -> int:
        """Return how many numbers the head gives.

        Args:
            labels: names of the columns, for tasks of columns.

        Raises:
            ValueError: such a task without columns.
        """
        width = len(self.classes) or self.outputs or len(labels)
        if not width:
            raise ValueError(
                f"task={self.name!r} asks for columns of labels, and the data name none"
                f" ({self.field})"
            )
        return width

    def target(self, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Return labels and which of them are known.

        Returns:
            classes: int32 [B, L]; binary: float32 [B, L, outputs] or [B, outputs]; regression:
            float32 [B, 1]; survival: float32 [B, outputs, 2], time and event. The second is bool of
            the same shape, but for the last axis of survival.
        """
        found = batch[self.field]
        if self.kind == "classes":
            merged = jnp.asarray(self.merged, jnp.int32)
            return merged[jnp.maximum(found, 0)], found >= 0
        found = found.astype(jnp.float32)
        if self.kind == "survival":
            return found, (found >= 0).all(-1)
        axes = 1 if self.by_night else 2
        found = found.reshape(*found.shape[:axes], -1)
        return jnp.maximum(found, 0), found >= 0


STAGES = ("W", "N1", "N2", "N3", "R")
TASKS = {
    task.name: task
    for task in (
        Task("stage5", "classes", "stage", False, "accuracy", "highest", STAGES, (0, 1, 2, 3, 4)),
        Task(
            "stage4", "classes", "stage", False, "accuracy", "highest",
            ("W", "N1+N2", "N3", "R"), (0, 1, 1, 2, 3),
        ),
        Task(
            "stage3", "classes", "stage", False, "accuracy", "highest",
            ("W", "NREM", "R"), (0, 1, 1, 1, 2),
        ),
        Task("ahi", "binary", "apnea", False, "ahi_pearson", outputs=TOKEN_S),
        Task("arousal", "binary", "arousal", False, "auprc", outputs=TOKEN_S * len(AROUSALS)),
        Task("age", "regression", "age", True, "mae", "lowest", outputs=1),
        Task("sex", "binary", "sex", True, "accuracy", outputs=1),
        Task("binary", "binary", "outcomes", True, "auroc"),
        Task("multilabel", "binary", "outcomes", True, "auroc"),
        Task("survival", "survival", "survival", True, "c_index"),
    )
}  # fmt: skip


def find_task(name: str) -> Task:
    """Return a task by name.

    Raises:
        ValueError: there is no such task.
    """
    if name not in TASKS:
        raise ValueError(f"no task {name!r}; there are {sorted(TASKS)}")
    return TASKS[name]
