"""One file, one trainable thing. The contract that the trainer holds an objective to:

- A file ``objectives/rq_next_token.py`` defines one Linen module ``RqNextToken`` (the file's name
  in CamelCase); ``hypnos_jax.plugins.load("objectives", "rq_next_token")`` returns the class.
- ``__call__(batch, *, train) -> Loss``: sums and their weights, never means, so that padding,
  absent channels and gradient accumulation stay exact.
- ``embed(batch) -> {name: array}``: the features that probes and export read.
- ``embed_next(batch, first) -> {name: array}`` (of models of tokens): the same of a night that
  comes in pieces, with the collection ``"cache"`` mutable.
- ``predict(batch, kept) -> {"output", "target", "counted"}`` (of models that answer a task): what
  ``evaluators/downstream.py`` asks, ``kept`` being the signal that may be used.
- ``weigh(batch) -> batch`` (optional): sees the *global* batch once, before it is cut into
  micro-batches, and may add arrays to it: the place for a normaliser that couples rows.
- ``reads`` (optional): ``"modalities"`` where recordings are embedded by ``embed_modalities``.
- ``averaged`` (optional): collections that are averaged with the parameters, where those are.
- ``title``: what the model is, in words that begin with "a" and end without a full stop, for the
  card of its exports.
- ``rng_streams``: names of the random streams that ``__call__`` draws from when training.
- ``couples_batch``: True where rows are each other's negatives; the trainer then accumulates
  gradients only where the objective is a ``ContrastsInPieces``.

Everything learnt (temperatures, heads, decoders) is its parameters; anything else that changes
while training (EMA codebooks) is another variable collection, which the trainer carries unread.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import flax.struct
import jax


@flax.struct.dataclass
class Loss:
    """A loss as sums, so that it adds up over rows, micro-batches and devices.

    Attributes:
        total: float32 scalar, the sum whose gradient is taken.
        weight: float32 scalar, what to divide ``total`` by; 0 where every row is padding.
        metrics: name -> (sum, weight), float32 scalars; each metric brings its own weight.
    """

    total: jax.Array
    weight: jax.Array
    metrics: dict[str, tuple[jax.Array, jax.Array]]


@runtime_checkable
class ContrastsInPieces(Protocol):
    """An objective with ``couples_batch`` whose gradients can be accumulated over micro-batches.

    ``__call__(batch, train=train)`` equals ``contrast(represent(batch, train=train), batch,
    train=train)``. See ``hypnos_jax/gradient_cache.py``.
    """

    def represent(self, batch: dict[str, jax.Array], *, train: bool) -> Any:
        """Return a pytree of floating-point arrays, rows first.

        A row depends on its own row of the batch alone. It is called twice for each micro-batch,
        with the same keys and collections; most of the memory should be taken here.
        """

    def contrast(self, representations: Any, batch: dict[str, jax.Array], *, train: bool) -> Loss:
        """Return the loss of all rows from the representations of all rows.

        Whatever has statistics over the batch, such as a projection with batch norm, belongs here.
        """
