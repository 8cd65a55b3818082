"""Answers while a night goes on: a head of an export on the rows of a stream, cell by cell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from hypnos_jax.export.model import ModelError
from hypnos_jax.heads.cells import cells_of
from hypnos_jax.heads.head import Head
from hypnos_jax.inference.stream import StreamRow


class LiveAnswers:
    """Probabilities of a head, as soon as the last row of a cell is there.

    They are those of ``score_recording`` on the same embedding: a linear head looks at its cell
    alone. Rows come from ``Stream.push`` (``push``), or from any stream as arrays by modality
    (``push_arrays``), zeros where there was no signal.
    """

    def __init__(self, head: Head, token_s: float):
        """Begin a night.

        Args:
            head: a linear one.
            token_s: seconds of a row of the stream.

        Raises:
            ModelError: the head looks at cells that are still to come.
        """
        if head.spans:
            raise ModelError(
                f"the head of {head.task} reads the cells after each, too: a stream needs a linear"
                " head (launch.fit_head --kind=linear)"
            )
        self._head, self._token_s = head, token_s
        self._rows: dict[str, list[np.ndarray]] = {}

    def push(self, rows: Iterable[StreamRow]) -> np.ndarray:
        """Return float32 [N, C] of the cells that these seconds complete; often none."""
        rows = list(rows)
        names = rows[0].modalities if rows else ()
        own = {
            name: np.stack([row.modalities[name] * row.valid[name] for row in rows])
            for name in names
        }
        return self.push_arrays(own)

    def push_arrays(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the same of rows [n, D] by modality."""
        size = round(self._head.cell_s / self._token_s)
        for name, own in rows.items():
            self._rows.setdefault(name, []).extend(own)
        there = min((len(x) for x in self._rows.values()), default=0) // size * size
        if not there:
            return np.zeros((0, len(self._head.classes)), np.float32)
        # As embeddings are kept, so that the answers are those of a file.
        done = {name: np.stack(x[:there]).astype(np.float16) for name, x in self._rows.items()}
        self._rows = {name: x[there:] for name, x in self._rows.items()}
        return self._head(cells_of(done, self._head.names, self._token_s, self._head.cell_s))
