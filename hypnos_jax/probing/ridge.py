"""Linear probes in closed form: ridge regression on principal components, all penalties at once.

For tables of many models, tasks, sensors and shares of labels, where a fit by iterations would take
hours. Labels that are classes are regressed as columns of zeros and ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

COMPONENTS = 128  # ours: what of wide rows is kept


class Components:
    """Rows standardised and turned to their principal components; missing numbers are the mean."""

    def __init__(self, rows: np.ndarray, count: int = COMPONENTS):
        """Fit to rows, float [N, F], no label being looked at."""
        known = np.isfinite(rows)
        number = np.maximum(known.sum(0), 1)
        self._mean = np.where(known, rows, 0.0).sum(0) / number
        centred = np.where(known, rows - self._mean, 0.0)
        self._scale = np.maximum(np.sqrt((centred**2).sum(0) / number), 1e-6)
        rows = centred / self._scale
        _, axes = np.linalg.eigh(rows.T @ rows)
        self._axes = axes[:, ::-1][:, :count]

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return float64 [N, count] of rows [N, F]."""
        centred = np.where(np.isfinite(rows), rows - self._mean, 0.0)
        return (centred / self._scale) @ self._axes


def fit(x: np.ndarray, y: np.ndarray, strengths: Sequence[float]) -> list[np.ndarray]:
    """Return a solution for each penalty, float64 [D + 1, K]; the last row is the intercept.

    Args:
        x: [N, D].
        y: [N, K].
        strengths: penalties, as multiples of N.
    """
    centre, level = x.mean(0), y.mean(0)
    values, axes = np.linalg.eigh((x - centre).T @ (x - centre) / len(x))
    target = axes.T @ ((x - centre).T @ (y - level) / len(x))
    found = []
    for strength in strengths:
        weights = axes @ (target / (np.maximum(values, 0.0) + strength)[:, None])
        found.append(np.concatenate([weights, (level - centre @ weights)[None]]))
    return found


def predict(solution: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return [N, K] of x [N, D]."""
    return x @ solution[:-1] + solution[-1]
