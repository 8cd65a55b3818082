"""Signals and words of sleep, by contrast, captioning and reconstruction: SleepLM.

Xu et al. 2026, arXiv 2602.23605. Neither the loss nor the training is public: form and weights are
those of CoCa (arXiv 2205.01917) as OpenCLIP has it, and a mean squared error.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypnos_jax import losses
from hypnos_jax.models.sleep_language_model import SleepLanguageModel
from hypnos_jax.objectives import Embedding, Loss

LARGEST_SCALE = 100.0  # of cosines, as CLIP has it
BRAIN = ("eeg", "eog")  # types of channels of which one at least stays
CODES = ("position",)  # signals that are codes: not reconstructed, nor made louder


class SleepLanguage(nn.Module):
    """Let epochs and captions find each other, write the captions, and draw the signals again.

    ``loss = contrast_weight contrast + caption_weight caption + reconstruction_weight
    reconstruction``. The contrast is over the whole batch; the caption's is a mean over all its
    tokens, not over rows; the reconstruction's over all samples of the channels that are there.

    Differs from the official model: channels that are missing are not looked at, nor drawn again
    (``model.mask_absent``), and pads are hidden exactly (``model.legacy_mask``).

    Attributes:
        model: keyword arguments of ``SleepLanguageModel``.
        contrast_weight, caption_weight, reconstruction_weight: of the parts; 0 leaves one out.
        pairing: ``"softmax"`` (CLIP, the default) or ``"sigmoid"`` (SigLIP).
        multi_positive: epochs of equal stage and kinds of events are right answers too.
        single_text: the caption is the text of the contrast, whose pass through the text encoder
            serves both; as the official forward pass has it.
        channel_dropout: probability that a channel of a training row is left out; of the EEG and
            EOG that are there, one stays.
        jitter: of the amplitude of each channel in training, as a share.
    """

    model: dict[str, Any]
    contrast_weight: float = 1.0
    caption_weight: float = 2.0
    reconstruction_weight: float = 1.0
    pairing: str = "softmax"
    multi_positive: bool = False
    single_text: bool = False
    channel_dropout: float = 0.0
    jitter: float = 0.0

    token_s = 30.0
    causal = True
    embed_data = "modality_nights"
    fused = True
    title = (
        "a sleep-language model (SleepLM, Xu et al. 2026, arXiv 2602.23605): signals and captions"
    )
    seen = "a row has seen its own epoch of 30 s, and nothing before or after it"
    rng_streams = ("dropout", "channels")
    couples_batch = True

    def setup(self):
        if self.pairing not in ("softmax", "sigmoid"):
            raise ValueError(
                f"config.objective.pairing={self.pairing!r}; it is 'softmax' or 'sigmoid'"
            )
        self.network = SleepLanguageModel(**self.model)
        if self.pairing == "sigmoid":
            self.bias = self.param("bias", nn.initializers.constant(-10.0), ())

    def __call__(self, batch: dict[str, jax.Array], *, train: bool = False) -> Loss:
        """Return the loss and its parts; see ``represent`` and ``contrast``.

        Args:
            batch: of ``captioned_epochs``.
            train: draw dropout, channels and amplitudes.

        Returns:
            Metrics: ``contrast``, ``accuracy`` (how often an epoch and its text are each other's
            nearest), ``scale`` (of cosines); ``caption`` (nats a token), ``token_accuracy``;
            ``reconstruction`` (squared error of standardised signals: 1 is what zeros get).
        """
        return self.contrast(self.represent(batch, train=train), batch, train=train)

    def represent(self, batch: dict[str, jax.Array], *, train: bool = False) -> dict:
        """Return what the loss needs of each row; most memory is taken here.

        Returns:
            ``signal`` and ``text`` float32 [B, Z]; and float32 [B] each, sums over the row:
            ``caption`` (nats), ``hits`` (tokens that were the likeliest), ``reconstruction``
            (squared errors).
        """
        signals, there = self._seen(batch)
        if train:
            signals, there = self._augmented(signals, there)
        mask = there if self.network.mask_absent else None
        shown = jnp.where(there[..., None], signals, 0.0)
        embedding, memory = self.network.encode_signals(shown, mask, train=train)
        text, hidden = self._texts(batch, train)
        ids = batch["caption"]
        conditions = jnp.stack([batch["condition"], jnp.full_like(batch["condition"], -1)], 1)
        hidden = self.network.decode_hidden(hidden[:, :-1], memory, conditions)
        nll, hits = self.network.caption_cost(hidden, ids[:, 1:])
        error = jnp.zeros(len(ids), jnp.float32)
        if self.reconstruction_weight:
            drawn = self.network.reconstruct_signals(memory, train=train)
            squares = jnp.square(drawn - signals).sum(-1)
            error = jnp.where(self._drawn(there), squares, 0.0).sum(-1)
        return {
            "signal": embedding,
            "text": text,
            "caption": nll,
            "hits": hits,
            "reconstruction": error,
            # In training channels are left out by a draw, which the row alone knows.
            "samples": self._drawn(there).sum(-1).astype(jnp.float32) * signals.shape[-1],
        }

    def contrast(self, rows: dict, batch: dict[str, jax.Array], *, train: bool = False) -> Loss:
        """Return the call's loss, from what ``represent`` returns of all rows of the batch."""
        del train
        counted = batch["weight"] > 0
        scale = jnp.minimum(jnp.exp(self.network.logit_scale), LARGEST_SCALE)
        alike = None
        if self.multi_positive:
            alike = batch["meaning"][:, None] == batch["meaning"][None]
        pair = rows["signal"], rows["text"], counted
        cost, hits = losses.pairing(*pair, scale=scale, alike=alike)
        if self.pairing == "sigmoid":
            cost = losses.sigmoid_pairing(*pair, scale=scale, bias=self.bias, alike=alike)
        tokens = (batch["caption"][:, 1:] != 0).sum(1).astype(jnp.float32)

        def total(values):
            return jnp.where(counted, values, 0.0).sum()

        count, words, samples = (total(x) for x in (jnp.ones_like(tokens), tokens, rows["samples"]))
        parts = {
            "contrast": (total(cost), count),
            "caption": (total(rows["caption"]), words),
            "reconstruction": (total(rows["reconstruction"]), samples),
        }
        weights = (self.contrast_weight, self.caption_weight, self.reconstruction_weight)
        loss = sum(
            weight * value / jnp.maximum(number, 1.0)
            for weight, (value, number) in zip(weights, parts.values())
        )
        metrics = {
            **parts,
            "accuracy": (total(hits), count),
            "token_accuracy": (total(rows["hits"]), words),
            "scale": (scale * count, count),
        }
        return Loss(loss * count, count, metrics)

    def _seen(self, batch):
        """Signals of epochs [B, C, T] as they were standardised, and which channels are there."""
        signals, valid = self.network.epoch_signals(batch)
        there = valid[:, 0] & (batch["weight"] > 0)[:, None]
        return signals[:, 0], there

    def _augmented(self, signals, there):
        kinds = [row["name"].partition("_")[0] for row in self.modalities]
        drawn = jax.random.uniform(self.make_rng("channels"), (2, *there.shape))  # one is compiled
        if self.channel_dropout:
            brain = there & jnp.asarray([kind in BRAIN for kind in kinds])[None]
            first = jnp.where(brain, drawn[0], -1.0)  # the last of them that would go stays
            there &= (drawn[0] >= self.channel_dropout) | (
                brain & (first == first.max(1, keepdims=True))
            )
        if self.jitter:
            codes = jnp.asarray([kind in CODES for kind in kinds])[None]
            louder = jnp.where(codes, 1.0, 1.0 + self.jitter * (2.0 * drawn[1] - 1.0))
            signals *= louder[..., None]
        return signals, there

    def _drawn(self, there):
        """Which channels are drawn again, bool [B, C]."""
        codes = jnp.asarray([row["name"] in CODES for row in self.modalities])[None]
        return there & ~codes

    def _texts(self, batch, train):
        """Embedding of the text of the contrast, and hidden states of the caption's."""
        if self.single_text:
            return self.network.encode_text(batch["caption"], train=train)
        both = jnp.stack(
            [batch["query"], batch["caption"]], 1
        )  # row by row: none leaves its device
        text, hidden = self.network.encode_text(both.reshape(-1, both.shape[2]), train=train)
        return text[::2], hidden[1::2]

    @property
    def modalities(self) -> list[dict]:
        """The rows of what is read."""
        return self.model["modalities"]

    def embed(self, batch: dict[str, jax.Array]) -> Embedding:
        """Return the embedding that texts are compared with, float32 [B, L, 1, Z] of length 1.

        Args:
            batch: of ``modality_nights``.
        """
        rows, valid, _ = self.network.encode_tokens(batch)
        return Embedding(jnp.where(valid[..., None], rows, 0.0), valid)

    def embed_text(self, ids: jax.Array) -> jax.Array:
        """Return embeddings of texts, float32 [B, Z] of length 1, of token ids int32 [B, X]."""
        return self.network.encode_text(ids)[0]

    def remember(self, batch: dict[str, jax.Array]) -> jax.Array:
        """Return what captions are written from, float32 [B, N, D]; see ``WritesCaptions``."""
        signals, there = self._seen(batch)
        mask = there if self.network.mask_absent else None
        return self.network.encode_signals(jnp.where(there[..., None], signals, 0.0), mask)[1]

    @property
    def caption_network(self) -> SleepLanguageModel:
        """The network by itself; see ``WritesCaptions``."""
        return SleepLanguageModel(**self.model)

    def continue_caption(
        self,
        ids: jax.Array,
        memory: jax.Array,
        condition: jax.Array | None,
        place: jax.Array | int,
    ) -> jax.Array:
        """Return scores of the next word, float32 [B, V]; see ``WritesCaptions``."""
        conditions = None
        if condition is not None:
            none = jnp.full((ids.shape[0], self.network.prefix - 1), -1, jnp.int32)
            conditions = jnp.concatenate([condition[:, None], none], 1)
        hidden = self.network.extend_caption(ids[:, None], memory, conditions, place)
        return self.network.logits(hidden[:, 0])
