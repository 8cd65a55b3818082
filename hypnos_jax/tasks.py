"""Downstream tasks: what fine-tuned models answer, and what linear probes are asked.

``TASKS`` are those of fine-tuning, as sleep2vec has them (2602.13857), and one for each label of
events of epochs (``labels.EVENT_LABELS``). They take labels from a batch of ``modality_nights``, of
every 30-s token or of the night. ``PROBE_TASKS`` take theirs from
a store, by epoch or by recording. Negative labels are unknown and never count.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import labels
from data_pipelines.store import EPOCH_S, NightEntry, NightStore

STAGES = ("W", "N1", "N2", "N3", "R")
# What metrics of arousals are called by: the causes, two of them shorter.
_SHORT = {"leg_movement": "limb", "periodic_leg_movement": "plm"}
AROUSAL_COLUMNS = tuple(_SHORT.get(cause, cause) for cause in labels.AROUSAL_CAUSES)


@dataclasses.dataclass(frozen=True)
class Task:
    """A question to a fine-tuned model, and where its labels are.

    Attributes:
        name: its name.
        kind: ``"classes"`` (one of several), ``"binary"`` (yes or no, each output for itself),
            ``"regression"`` or ``"survival"``: of the head and the loss.
        field: of the batch, with the labels.
        by_night: one answer a night (else one a token).
        metric, best: what to choose checkpoints by, and ``"highest"`` or ``"lowest"``.
        measure: name in ``hypnos_jax.probing.answers.MEASURES``.
        draw: name in ``hypnos_jax.reports.figures.ANSWERS``; "" draws no answers.
        classes: names of the classes.
        merged: the field's labels 0, 1, ... -> classes.
        columns: names of the outputs, again and again; () where there is one, or the data name
            them.
        outputs: outputs a token or night where ``classes`` do not tell; 0: one a column of labels.
    """

    name: str
    kind: str
    field: str
    by_night: bool
    metric: str
    best: str = "highest"
    measure: str = "binary"
    draw: str = "roc"
    classes: tuple[str, ...] = ()
    merged: tuple[int, ...] = ()
    columns: tuple[str, ...] = ()
    outputs: int = 0

    @property
    def couples_batch(self) -> bool:
        """Whether a night's loss depends on the other nights of its batch, as in Cox's."""
        return self.kind == "survival"

    def width(self, columns: tuple[str, ...]) -> int:
        """Return how many numbers the head gives.

        Args:
            columns: names of the columns of labels, for tasks of columns.

        Raises:
            ValueError: such a task without columns.
        """
        width = len(self.classes) or self.outputs or len(columns)
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
        if self.field not in batch:
            raise ValueError(
                f"task={self.name!r} asks for {self.field!r}, which the batches lack; events are"
                f" named in config.data.events={(self.name,)!r}"
            )
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


def _staging(name: str, classes: tuple[str, ...], merged: tuple[int, ...]) -> Task:
    return Task(
        name, "classes", "stage", False, "accuracy", measure="classes", draw="confusion",
        classes=classes, merged=merged,
    )  # fmt: skip


TASKS = {
    task.name: task
    for task in (
        _staging("stage5", STAGES, (0, 1, 2, 3, 4)),
        _staging("stage4", ("W", "N1+N2", "N3", "R"), (0, 1, 1, 2, 3)),
        _staging("stage3", ("W", "NREM", "R"), (0, 1, 1, 1, 2)),
        Task(
            "ahi", "binary", "apnea", False, "ahi_pearson",
            measure="breathing", draw="points", outputs=EPOCH_S,
        ),
        Task(
            "arousal", "binary", "arousal", False, "auprc",
            columns=AROUSAL_COLUMNS, outputs=EPOCH_S * len(AROUSAL_COLUMNS),
        ),
        Task(
            "age", "regression", "age", True, "mae", "lowest",
            measure="numbers", draw="points", outputs=1,
        ),
        Task("sex", "binary", "sex", True, "accuracy", outputs=1),
        Task("binary", "binary", "outcomes", True, "auroc"),
        Task("multilabel", "binary", "outcomes", True, "auroc"),
        Task("survival", "survival", "survival", True, "c_index", measure="survival", draw=""),
        *(
            Task(name, "binary", f"event/{name}", False, "auprc", outputs=1)
            for name, label in labels.EVENT_LABELS.items()
            if label.kinds != labels.AROUSALS  # which are asked by the second, with their causes
        ),
    )
}  # fmt: skip


def find_task(name: str) -> Task:
    """Return a task of fine-tuning by name.

    Raises:
        ValueError: there is no such task.
    """
    if name not in TASKS:
        raise ValueError(f"no task {name!r}; there are {sorted(TASKS)}")
    return TASKS[name]


@dataclasses.dataclass(frozen=True)
class ProbeTask:
    """A question to a linear probe.

    Attributes:
        name: its name.
        classes: names of the labels 0, 1, ...
        labels: (store, night) -> int8 [N], of the whole epochs or of the recording; -1 is unknown.
        ranked: scored by areas under curves and not by agreement.
        by_record: one label per recording and not per epoch.
    """

    name: str
    classes: tuple[str, ...]
    labels: Callable[[NightStore, NightEntry], np.ndarray]
    ranked: bool = False
    by_record: bool = False


PROBE_TASKS = {
    task.name: task
    for task in (
        ProbeTask("staging", STAGES, labels.stages),
        ProbeTask("rhythm", ("normal", "fibrillation"), labels.rhythm, True, True),
        *(
            ProbeTask(name, ("none", "event"), label.of, ranked=True)
            for name, label in labels.EVENT_LABELS.items()
        ),
    )
}
PROBED = ("staging", "apnea", "arousal", "rhythm")  # where nobody names others


def find_probe_task(name: str) -> ProbeTask:
    """Return a task of probing by name.

    Raises:
        ValueError: there is no such task.
    """
    if name not in PROBE_TASKS:
        raise ValueError(f"no task {name!r} for a probe; there are {sorted(PROBE_TASKS)}")
    return PROBE_TASKS[name]
