"""A backbone that answers a question: fine-tuning of any family.

The losses, the fusion and the heads ``"elu"`` are those of sleep2vec's code (arXiv 2602.13857); the
head ``"mlp"`` and what the backbone may do while only the rest is trained, those of SynthSleepNet's
(arXiv 2502.17481).
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from hypnos_jax import losses, plugins
from hypnos_jax.nn.dropout import keep_some
from hypnos_jax.nn.fusion import HEADS, ModalityFusion, Pooling, RegressionHead
from hypnos_jax.objectives import Embedding, Loss
from hypnos_jax.tasks import find_task


class Finetune(nn.Module):
    """Tokens of a backbone, their modalities fused, a context over them, and a head by token or by
    night.

    Losses: cross-entropy; binary cross-entropy of each output; squared error of the standardised
    target; Cox's partial likelihood within the batch. Each a mean over labels that are known, of
    tokens in which a modality holds signal.

    Differs from sleep2vec's code: modalities may be missing, by night or by token; the fusion is
    then over those that are there (and where none is, over all that the night has). And from
    SynthSleepNet's: that cuts a batch into micro-batches, each with batch statistics of its own.
    Here they are the whole batch's, so that one with batch norm is not accumulated.

    Attributes:
        backbone: ``name``, a file of ``hypnos_jax/models`` with ``encode_tokens`` (see there), and
            its keyword arguments; its parameters are below ``towers``. Nothing is masked: give
            ``modality_towers`` a ``mask_rate`` of 0.
        task: one of ``tasks.TASKS``.
        context: what runs over a night's fused tokens before the head: ``name``, a file of
            ``hypnos_jax/models`` that is a context (see there), and its keyword arguments; None for
            nothing.
        train_backbone: False leaves the backbone in the mode of evaluation while the rest is
            trained: no dropout, running statistics. Which parameters move, ``config.optim.freeze``
            says: low-rank additions may learn all the same.
        outcomes, survival: names of the columns of these labels.
        fusion: see ``ModalityFusion``.
        pooling: of night tasks: ``"mean"``, ``"attention"``, or ``"cls"`` where the model has it.
        head: ``"elu"``, ``"mlp"`` or ``"linear"``; see ``nn.fusion.HEADS``. A regression has one of
            its own.
        head_dropout: rate in the head.
        modality_dropout: probability that a modality of a training row is left out; one stays.
        class_weights: of the cross-entropy; of binary tasks those of no and of yes; () for equal
            ones.
        class_shares: of the labels in training, of binary tasks those of no and of yes: the loss
            adds their logarithms to the logits (logit adjustment, arXiv 2007.07314), so that the
            answers favour no class for being frequent; () adds nothing.
        target_mean, target_sd: of a regression's target.
    """

    backbone: dict[str, Any]
    task: str
    outcomes: tuple[str, ...] = ()
    survival: tuple[str, ...] = ()
    fusion: str = "gated_scalar"
    pooling: str = "mean"
    head_dropout: float = 0.1
    modality_dropout: float = 0.0
    class_weights: tuple[float, ...] = ()
    target_mean: float = 0.0
    target_sd: float = 1.0
    context: dict[str, Any] | None = None
    train_backbone: bool = True
    head: str = "elu"
    class_shares: tuple[float, ...] = ()

    rng_streams = ("dropout", "modalities")
    token_s = 30.0
    embed_data = "modality_nights"
    fused = True
    averaged = ("batch_stats",)

    @property
    def title(self) -> str:
        """What the backbone is, on a task."""
        own = getattr(_model(self.backbone, "backbone"), "title", "a model of sleep signals")
        return f"{own}, fine-tuned on a task"

    @property
    def causal(self) -> bool:
        """Whether neither backbone nor context looks at what comes later."""
        return all(getattr(model, "causal", False) for model in self._models())

    @property
    def seen(self) -> str:
        """What a row has seen, in a sentence."""
        if not self.causal:
            seen = "its whole window of tokens, those after it too"
        else:
            seen = "its own token and at most those of its window before it"
        return f"a row has seen {seen}, of all modalities"

    @property
    def couples_batch(self) -> bool:
        """Whether rows enter each other's loss, or batch statistics that it is made of."""
        models = self._models() if self.train_backbone else self._models()[1:]
        coupled = any(getattr(model, "couples_batch", False) for model in models)
        return coupled or self.head == "mlp" or find_task(self.task).couples_batch

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the task's columns, none where it has no columns."""
        columns = {"outcomes": self.outcomes, "survival": self.survival}
        return columns.get(find_task(self.task).field, ())

    def _models(self):
        """Backbone and context, to ask for their attributes."""
        return [_model(self.backbone, "backbone", parent=None)] + (
            [_model(self.context, "context", parent=None)] if self.context is not None else []
        )

    def setup(self):
        task = find_task(self.task)
        head = self._check(task)
        self.towers = _model(self.backbone, "backbone")
        if self.context is not None:
            if task.by_night and self.pooling == "cls":
                raise ValueError("pooling='cls' would leave out the context; use another")
            self.over_night = _model(self.context, "context")
        self.fuse = ModalityFusion(self.fusion)
        self.to_answer = head(task.width(self.labels), self.head_dropout, name="head")
        if task.by_night and self.pooling != "cls":
            self.pool = Pooling(self.pooling)

    def _check(self, task):
        """The class of the head; refuse what means nothing for the task."""
        if self.head not in HEADS:
            raise ValueError(f"objective.head={self.head!r}; it is one of {sorted(HEADS)}")
        regression = task.kind == "regression"
        if regression and self.head != "elu":
            raise ValueError(f"objective.head={self.head!r}: the task {task.name!r} has its own")
        count = {"classes": len(task.classes), "binary": 2}.get(task.kind, 0)
        for name in ("class_weights", "class_shares"):
            given = getattr(self, name)
            if given and len(given) != count:
                raise ValueError(
                    f"objective.{name} has {len(given)} numbers; the task {task.name!r} has"
                    f" {count} classes"
                )
        if self.class_shares and min(self.class_shares) <= 0:
            raise ValueError(f"objective.class_shares={self.class_shares}: all must be above 0")
        return RegressionHead if regression else HEADS[self.head]

    def __call__(self, batch: dict[str, jax.Array], *, train: bool = False) -> Loss:
        """Return the loss and its parts as sums over known labels.

        Args:
            batch: ``signal/<name>`` int16 [B, L, f] of each modality, ``scale`` float32 [B, M],
                ``present`` bool [B, M], ``valid`` bool [B, L, M], ``weight`` float32 [B], and the
                task's field.
            train: draw dropout, of modalities too.

        Returns:
            Metrics: ``accuracy`` of classes and binary outputs; ``mae`` of a regression, in the
            target's unit.
        """
        out, kind = self.predict(batch, train=train), find_task(self.task).kind
        output, target, rows = out["output"], out["target"], batch["weight"].astype(jnp.float32)
        counted = out["counted"]
        if kind == "survival":
            total, weight = losses.cox_partial_likelihood(
                output, target[..., 0], target[..., 1] > 0, counted
            )
            return Loss(total, weight, {})
        each = counted * rows.reshape(-1, *[1] * (counted.ndim - 1))
        weights, metrics = each, {}
        shares = jnp.log(jnp.asarray(self.class_shares, jnp.float32))
        if kind == "classes":
            shifted = output + shares[None, None] if self.class_shares else output
            cost = optax.softmax_cross_entropy_with_integer_labels(shifted, target)
            hit = output.argmax(-1) == target
            if self.class_weights:
                weights = each * jnp.asarray(self.class_weights, jnp.float32)[target]
        elif kind == "binary":
            shifted = output + (shares[1] - shares[0]) if self.class_shares else output
            cost = optax.sigmoid_binary_cross_entropy(shifted, target)
            if self.class_weights:
                weights = each * jnp.where(target > 0.5, *self.class_weights[::-1])
            hit = (output > 0) == (target > 0.5)
        else:
            cost = ((output - target) / self.target_sd) ** 2
            metrics["mae"] = (jnp.sum(jnp.abs(output - target) * each), each.sum())
        if kind != "regression":
            metrics["accuracy"] = (jnp.sum(hit * each), each.sum())
        return Loss(jnp.sum(cost * weights), weights.sum(), metrics)

    def predict(
        self, batch: dict[str, jax.Array], kept: jax.Array | None = None, *, train: bool = False
    ) -> dict[str, jax.Array]:
        """Return the answers beside the labels.

        Args:
            batch: as for the call.
            kept: bool [B, L, M]: what of the signal may be used; all by default. What counts does
                not depend on it.
            train: see the call.

        Returns:
            ``output`` float32, ``target`` and ``counted`` (bool: known, and not padding) as
            ``Task.target`` shapes them. Outputs are logits, log risks, or in the target's unit.
        """
        task = find_task(self.task)
        signal = batch["valid"] & batch["present"][:, None]
        rows = self._fused(batch, signal if kept is None else signal & kept, train)
        there = signal.any((1, 2)) if task.by_night else signal.any(2)
        there &= (batch["weight"] > 0).reshape(-1, *[1] * (there.ndim - 1))
        output = self._answers(rows[1] if task.by_night else rows[0], there, train)
        target, counted = task.target(batch)
        counted &= there.reshape(*there.shape, *[1] * (counted.ndim - there.ndim))
        return {"output": output, "target": target, "counted": counted}

    def answers(self, rows: jax.Array) -> jax.Array:
        """Return ``output`` as of ``predict``, of rows [B, L, 1, H] of ``embed``.

        Raises:
            ValueError: the task has one answer a night.
        """
        if find_task(self.task).by_night:
            raise ValueError(f"the task {self.task!r} is answered by night, not row by row")
        return self._answers(rows[:, :, 0], jnp.ones(rows.shape[:2], bool), False)

    def _answers(self, rows, there, train):
        output = self.to_answer(rows, there, train=train)
        if find_task(self.task).kind == "regression":
            output = output * self.target_sd + self.target_mean
        return output

    @property
    def modalities(self) -> list[dict]:
        """The rows of what is read."""
        return self.backbone["modalities"]

    def embed(self, batch: dict[str, jax.Array]) -> Embedding:
        """Return what the head of a token reads, float32 [B, L, 1, H]."""
        valid = batch["valid"] & batch["present"][:, None]
        rows = self._fused(batch, valid, False)[0]
        there = valid.any(2)
        return Embedding((rows * there[..., None])[:, :, None], there[..., None])

    def embed_onward(self, batch: dict[str, jax.Array]) -> Embedding:
        """Return ``embed``'s rows of the next tokens; see ``ContinuesWindows``.

        Raises:
            ValueError: the model looks at later tokens.
        """
        if not self.causal:
            raise ValueError(f"a {type(self).__name__} that is not causal cannot be streamed")
        return self.embed(batch)

    def _fused(self, batch, kept, train):
        """Modalities fused, in context: [B, L, H], and for night tasks [B, H]."""
        if train and self.modality_dropout:
            left = keep_some(self.make_rng("modalities"), kept.any(1), self.modality_dropout)
            kept = kept & left[:, None]
        learning = train and self.train_backbone
        hidden, valid, cls = self.towers.encode_tokens(batch, kept, train=learning)
        here = valid.any(1)  # [B, M]
        # Where no modality holds signal, what each makes of the tokens around it.
        fused = self.fuse(hidden, jnp.where(valid.any(2, keepdims=True), valid, here[:, None]))
        if self.context is not None:
            # Rows of padding enter no batch statistics.
            counted = valid.any(2) & (batch["weight"] > 0)[:, None]
            fused = self.over_night(fused, counted, train=train)
        if not find_task(self.task).by_night:
            return fused, None
        if self.pooling != "cls":
            return fused, self.pool(fused, valid.any(2))
        if cls is None:
            raise ValueError("pooling='cls' needs backbone.cls=True")
        return fused, self.fuse(cls, here)


def _model(options, where, **more):
    """The module of ``hypnos_jax/models`` that a config names."""
    options = dict(options)
    if "name" not in options:
        raise ValueError(f"objective.{where}.name is missing; it is a file of hypnos_jax/models")
    return plugins.load("models", options.pop("name"))(**options, **more)
