"""Entropies of known distributions of codes."""

import numpy as np
import pytest

from hypnos_jax.evaluators.codebook_usage import CodebookUsage


class Context:
    """Two batches with given counts [K, V]."""

    def __init__(self, *counts):
        self.counts = counts

    def functions(self, name):
        assert name == "usage"
        trained, perplexity = np.array([[5, 5, 0, 0], [1, 0, 0, 0]]), np.array([3.5, 2.5])
        return lambda variables, batch: {
            "counts": batch,
            "trained": trained,
            "perplexity": perplexity,
        }

    def batches(self, split, batch_size, limit):
        return iter(self.counts)


def test_entropy_of_pooled_counts():
    first, second = np.array([[4, 0, 0, 0], [1, 1, 0, 0]]), np.array([[0, 4, 0, 0], [0, 0, 1, 1]])
    found = dict(CodebookUsage(Context(first, second)).run({}, 0))
    assert found["entropy_bits/level_0"] == pytest.approx(1.0)
    assert found["entropy_bits/level_1"] == pytest.approx(2.0)
    assert found["entropy_bits"] == pytest.approx(1.5)
    assert found["used/level_0"] == 0.5 and found["used/level_1"] == 1.0
    assert found["perplexity"] == pytest.approx(3.0)
    assert found["trained_entropy_bits/level_0"] == pytest.approx(1.0)
    assert found["trained_entropy_bits/level_1"] == 0.0


def test_nothing_valid_says_nothing():
    assert dict(CodebookUsage(Context(np.zeros((2, 4)))).run({}, 0)) == {}
