"""Evenness of the use of a tokenizer's codes on a split."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


class CodebookUsage:
    """Per level of the residual quantiser: how many codes are used, and how evenly.

    ``entropy_bits`` is that of the codes' true marginal distribution over the split's valid
    seconds, at most log2 V; ``trained_entropy_bits`` the same over all assignments of the training;
    ``used`` the share of codes that occur at all. ``perplexity`` is exp of
    the entropy of the codebooks' running counts, of at most V; the replacement of dead codes
    flatters it, which is why both are given.
    """

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
            context: ``hypnos_jax.evaluate.Context`` of an objective with ``usage(batch)``.
            split: which nights.
            batch_size: rows per batch; the training's by default.
            limit: at most this many batches; all by default.
        """
        self.usage = context.functions("usage")
        self.batches = lambda: context.batches(split, batch_size, limit)

    def run(self, variables: dict, step: int) -> Iterator[tuple[str, float]]:
        """Yield the metrics of each level from 0 and their means; nothing without valid seconds."""
        counts = 0.0
        for batch in self.batches():
            usage = self.usage(variables, batch)
            counts = counts + np.asarray(usage["counts"], np.float64)
        if not np.sum(counts):
            return
        results = {
            "entropy_bits": np.array([entropy_bits(row) for row in counts]),
            "trained_entropy_bits": np.array([entropy_bits(row) for row in usage["trained"]]),
            "used": (counts > 0).mean(1),
            "perplexity": np.asarray(usage["perplexity"]),
        }
        for name, values in results.items():
            yield name, float(values.mean())
            for level, value in enumerate(values):
                yield f"{name}/level_{level}", float(value)


def entropy_bits(counts: np.ndarray) -> float:
    """Return the entropy of the shares of ``counts`` [V], in bits; 0 of no counts."""
    counts = np.asarray(counts, np.float64)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())
