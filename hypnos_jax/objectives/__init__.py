"""One file, one trainable thing, and the contract that everything else holds it to.

A file ``objectives/rq_next_token.py`` defines one Linen module ``RqNextToken`` (the file's name in
CamelCase); ``hypnos_jax.plugins.load("objectives", "rq_next_token")`` returns the class. Everything
learnt (temperatures, heads, decoders) is its parameters; anything else that changes while training
(EMA codebooks) is another variable collection, which the trainer carries unread.

``Objective`` is what every one has: the trainer, the probe, the embedder of recordings, the
exporter of programs, the model card and the comparison read that and nothing else. The further
protocols are abilities that only some have; what needs one asks for it by ``isinstance`` and
refuses, by name, an objective without it.

Plain attributes that may be left out:

- ``rng_streams``: names of the random streams that ``__call__`` draws from when training.
- ``couples_batch``: True where rows enter each other's loss, as negatives do; the trainer then
  accumulates gradients only of one that ``ContrastsInPieces``.
- ``averaged``: collections that are averaged with the parameters, where those are; a model may be
  without some.
- ``fused``: True where ``embed`` has one row for all modalities, M = 1.
- ``seen``: what a row of ``embed`` has seen, in a sentence, where ``causal`` does not say it all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import flax.struct
import jax

Batch = dict[str, jax.Array]


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


@flax.struct.dataclass
class Embedding:
    """The features of a batch: one row for each token of each modality.

    Attributes:
        rows: float32 [B, L, M, D], a row every ``token_s`` seconds; M is the number of modalities
            that the model reads, in its order, or 1 where it fuses them.
        valid: bool [B, L, M], where a row rests on signal; elsewhere nobody should read it.
    """

    rows: jax.Array
    valid: jax.Array


@flax.struct.dataclass
class Surprise:
    """How unexpected tokens were to a model that predicts them, in nats.

    Of a token with several codes both are sums over the codes of a group of levels, each predicted
    from what came before the token and from the lower levels of the token itself.

    Attributes:
        nll: float32 [B, L, M, G], negative log likelihood of what came; NaN where the token holds
            no signal, or its modality has no level of the group.
        entropy: float32 [B, L, M, G], the mean of ``nll`` under the model's own predictions; NaN
            likewise.
    """

    nll: jax.Array
    entropy: jax.Array


@runtime_checkable
class Objective(Protocol):
    """The contract of every objective, beside being a Linen module.

    Attributes:
        title: what the model is, in words that begin with "a" and end without a full stop.
        token_s: seconds from one row of ``embed`` to the next.
        causal: whether a row depends on nothing that comes after its token.
        embed_data: name of the source (``data_pipelines/sources``) whose batches ``embed`` reads.
        modalities: rows {name, ...} of what it reads, in the order of M; none for a single signal.
    """

    title: str
    token_s: float
    causal: bool
    embed_data: str
    modalities: Sequence[Mapping[str, Any]]

    def __call__(self, batch: Batch, *, train: bool = False) -> Loss:
        """Return sums and their weights, never means: padding and absent channels stay exact."""

    def embed(self, batch: Batch) -> Embedding:
        """Return the features that probes and exports read."""


@runtime_checkable
class Weighs(Protocol):
    """A loss with a normaliser that couples rows."""

    def weigh(self, batch: Batch) -> Batch:
        """Add arrays to the *global* batch, before it is cut into micro-batches."""


@runtime_checkable
class ContrastsInPieces(Protocol):
    """An objective with ``couples_batch`` whose gradients can be accumulated over micro-batches.

    ``__call__(batch, train=train)`` equals ``contrast(represent(batch, train=train), batch,
    train=train)``. See ``hypnos_jax/gradient_cache.py``.
    """

    def represent(self, batch: Batch, *, train: bool) -> Any:
        """Return a pytree of floating-point arrays, rows first.

        A row depends on its own row of the batch alone. It is called twice for each micro-batch,
        with the same keys and collections; most of the memory should be taken here.
        """

    def contrast(self, representations: Any, batch: Batch, *, train: bool) -> Loss:
        """Return the loss of all rows from the representations of all rows.

        Whatever has statistics over the batch, such as a projection with batch norm, belongs here.
        """


@runtime_checkable
class EmbedsInPieces(Protocol):
    """Streaming ``embed``: a model of tokens that continues from the ``"cache"`` collection.

    Attributes:
        reach: the receptive field: seconds of the past that a row depends on; None for all.
        embed_lag: whether row t has seen the seconds before t alone.
    """

    reach: int | None
    embed_lag: bool

    def embed_next(self, batch: Batch, first: jax.Array | bool) -> Embedding:
        """Return ``embed``'s rows of the next tokens; the collection ``"cache"`` is mutable."""


@runtime_checkable
class TellsSurprise(Protocol):
    """A model of tokens in pieces that has a likelihood of each token given what came before it.

    Attributes:
        level_groups: names of the G groups of levels; the first is ``"all"``, all levels together.
    """

    level_groups: Sequence[str]

    def surprise(self, batch: Batch, rows: jax.Array) -> Surprise:
        """Return how unexpected the tokens of a batch were.

        Args:
            batch: the tokens, which may be a part of a longer sequence.
            rows: float32 [B, L, M, D], of ``embed`` or ``embed_next``: row t is of the token before
                token t, and has seen it and what came before it.
        """


@runtime_checkable
class ContinuesWindows(Protocol):
    """Streaming ``embed``: a model of windows that goes on from the collection ``"cache"``, if it
    is ``causal``."""

    def embed_onward(self, batch: Batch) -> Embedding:
        """Return ``embed``'s rows of the next tokens, any number of them.

        The collection ``"cache"`` is mutable, and zeros before the first token. One that is not
        ``causal`` raises ValueError.
        """


@runtime_checkable
class Tokenizes(Protocol):
    """A tokenizer: signals of one type to codes and back, a token a second.

    Attributes:
        signal_type: ``"eeg"``, ``"eog"``, ``"emg"``, ``"ecg"`` or ``"resp"``.
        rate_hz: samples per second.
        reach: the receptive field: seconds of the past that codes depend on; None for all.
    """

    signal_type: str
    rate_hz: int
    reach: int | None

    def encode(self, signal: jax.Array) -> jax.Array:
        """Return the codes, int32 [B, S, K], of ``signal`` [B, T]."""

    def dequantize(self, codes: jax.Array) -> jax.Array:
        """Return the sums of codewords, float32 [B, S, C], of ``codes`` [B, S, K]."""

    def usage(self, batch: Batch) -> dict[str, jax.Array]:
        """Return how the codes are used; see ``evaluators/codebook_usage.py``."""

    def reconstruct(self, batch: Batch) -> jax.Array:
        """Return a batch's signals [B, T] after their way through the codes."""


@runtime_checkable
class AnswersTask(Protocol):
    """A model that answers a task (``hypnos_jax/tasks.py``).

    Attributes:
        task: its name.
        labels: names of the task's columns; none where it has no columns.
    """

    task: str
    labels: tuple[str, ...]

    def predict(self, batch: Batch, kept: jax.Array | None = None) -> dict[str, Any]:
        """Return ``output``, ``target`` and ``counted``; ``kept`` [B, L, M] may be used."""

    def answers(self, rows: jax.Array) -> jax.Array:
        """Return ``output`` of rows of ``embed``, without labels; of tasks by token."""


@runtime_checkable
class Retrieves(Protocol):
    """A model that finds a window of one modality in another."""

    def project(
        self, signal: jax.Array, scale: jax.Array, valid: jax.Array, modality: jax.Array | int
    ) -> jax.Array:
        """Return what is compared, float32 [B, L, Z] of length 1."""


@runtime_checkable
class EmbedsText(Protocol):
    """A model that has texts where its signals are: a ``fused`` one, with rows of length 1.

    Which tokenizer makes the ids is ``text`` of the model's config; see ``export.model``.
    """

    def embed_text(self, ids: jax.Array) -> jax.Array:
        """Return float32 [B, D] of length 1, to be compared with rows of ``embed`` by products.

        Args:
            ids: int32 [B, X], token ids of texts, 0 behind the last.
        """


@runtime_checkable
class WritesCaptions(Protocol):
    """A model that writes texts about its signals, word by word.

    Attributes:
        caption_network: the unbound module that writes (``inference/caption_decoding.py``), whose
            parameters are those below ``network``.
    """

    caption_network: Any

    def remember(self, batch: Batch) -> jax.Array:
        """Return what captions of each row's epoch are written from, float32 [B, N, D]."""

    def continue_caption(
        self,
        ids: jax.Array,
        memory: jax.Array,
        condition: jax.Array | None,
        place: jax.Array | int,
    ) -> jax.Array:
        """Return scores of the next word, float32 [B, V]; the collection ``"cache"`` is mutable.

        Args:
            ids: int32 [B], a word.
            memory: of ``remember``, the same in each call.
            condition: int32 [B], what to speak of, with the first word; None later.
            place: how many words came before.
        """
