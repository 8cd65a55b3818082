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
- ``couples_batch``: True where rows are each other's negatives; the trainer then refuses gradient
  accumulation.

Everything learnt (temperatures, heads, decoders) is its parameters; anything else that changes
while training (EMA codebooks) is another variable collection, which the trainer carries unread.
"""

from __future__ import annotations

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
