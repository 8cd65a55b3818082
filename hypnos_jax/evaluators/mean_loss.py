"""The objective's loss and metrics, averaged over a split's examples."""

from __future__ import annotations

from collections.abc import Iterator

import jax


class MeanLoss:
    """Sums and weights over every batch of a split, divided once at the end."""

    def __init__(
        self,
        context,
        *,
        split: str = "validation",
        batch_size: int | None = None,
        limit: int | None = None,
    ):
        """Plan the evaluation.

        Args:
            context: ``hypnos_jax.evaluate.Context``.
            split: which nights.
            batch_size: rows per batch; the training's by default.
            limit: at most this many batches; all by default.
        """
        self.loss = context.functions("__call__")
        self.batches = lambda: context.batches(split, batch_size, limit)

    def run(self, variables: dict, step: int) -> Iterator[tuple[str, float]]:
        """Yield ``loss`` and each metric of the objective's ``Loss``."""
        sums: dict[str, list[float]] = {}
        for batch in self.batches():
            loss = jax.device_get(self.loss(variables, batch))  # once, not number by number
            for name, (total, weight) in {
                "loss": (loss.total, loss.weight),
                **loss.metrics,
            }.items():
                pair = sums.setdefault(name, [0.0, 0.0])
                pair[0] += float(total)
                pair[1] += float(weight)
        for name, (total, weight) in sums.items():
            if weight > 0:
                yield name, total / weight
