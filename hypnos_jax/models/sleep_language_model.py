"""Signals and words of an epoch in one space, and captions of it: SleepLM, as in its code.

Xu et al. 2026, arXiv 2602.23605 (another paper is also called SleepLM). A signal tower
(``models/signal_tower.py``) gives an epoch an embedding and a memory, a text encoder gives a
caption an embedding; a decoder (``models/text_towers.py``) writes captions from the memory.

Shapes: B epochs, C channels, S samples, X words, N memory tokens, D width, Z of the embeddings.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypnos_jax.models.modality_towers import dequantized
from hypnos_jax.models.signal_tower import SAMPLES, SignalDecoder, SignalTower
from hypnos_jax.models.text_towers import CaptionDecoder, TextEncoder
from hypnos_jax.nn.in_turn import in_turn


class SleepLanguageModel(nn.Module):
    """The three towers, and what rebuilds the signals from the memory.

    Attributes:
        modalities: ``{name, rate_hz, frames}`` each: the channels in their order. Frames that are
            fewer than S are repeated to it.
        width, heads: of all towers.
        patch: samples of a patch.
        conv_dim: width of a patch before its projection.
        blocks, ffn_ratio, start: of the signal tower; see ``SignalTower``.
        memory_tokens: N.
        embed_dim: Z.
        text_layers, decoder_layers: of the text encoder, and of the decoder.
        vocab_size: ids; 0 is no word.
        context: X.
        conditions: what captions may be asked to speak of.
        prefix: conditions of one caption.
        reconstruct: have the part that rebuilds the signals.
        dropout: rate in the signal tower and in what rebuilds the signals.
        mask_absent: nothing looks at channels that are absent. False is the released model, to
            which they are channels of zeros.
        legacy_mask: see ``TextEncoder``.
        at_once: epochs that ``encode_tokens`` takes at a time, out of training.
        remat: see ``nn.transformer.rematerialised``.
        dtype: of the products; parameters, norms, softmax and costs are float32.
    """

    modalities: tuple[dict[str, Any], ...]
    width: int = 768
    heads: int = 12
    patch: int = 16
    conv_dim: int = 256
    blocks: int = 3
    ffn_ratio: float = 3.0
    start: str = "released"
    memory_tokens: int = 32
    embed_dim: int = 512
    text_layers: int = 12
    decoder_layers: int = 12
    vocab_size: int = 49408
    context: int = 256
    conditions: int = 5
    prefix: int = 2
    reconstruct: bool = True
    dropout: float = 0.1
    mask_absent: bool = True
    legacy_mask: bool = False
    at_once: int = 64
    remat: str = "none"
    dtype: str = "float32"

    title = "signals and words of an epoch in one space (SleepLM, Xu et al. 2026, arXiv 2602.23605)"
    causal = True
    fused = True
    seen = "a row has seen its own epoch of all channels, and nothing else"
    couples_batch = False

    def setup(self):
        shared = {
            "width": self.width,
            "heads": self.heads,
            "remat": self.remat,
            "dtype": jnp.dtype(self.dtype),
        }
        self.signals = SignalTower(
            len(self.modalities),
            patch=self.patch,
            conv_dim=self.conv_dim,
            blocks=self.blocks,
            ffn_ratio=self.ffn_ratio,
            start=self.start,
            memory_tokens=self.memory_tokens,
            embed_dim=self.embed_dim,
            dropout=self.dropout,
            **shared,
        )
        self.text = TextEncoder(
            self.vocab_size,
            self.context,
            layers=self.text_layers,
            embed_dim=self.embed_dim,
            legacy_mask=self.legacy_mask,
            **shared,
        )
        self.decoder = CaptionDecoder(
            self.vocab_size,
            self.context,
            layers=self.decoder_layers,
            conditions=self.conditions,
            prefix=self.prefix,
            **shared,
        )
        if self.reconstruct:
            self.signal_decoder = SignalDecoder(
                len(self.modalities), dropout=self.dropout, **shared
            )
        self.logit_scale = self.param("logit_scale", lambda _: jnp.float32(math.log(1 / 0.07)))

    def encode_signals(
        self, signals: jax.Array, mask: jax.Array | None = None, *, train: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """Return embeddings [B, Z] of length 1 and memories [B, N, D], float32.

        Args:
            signals: float32 [B, C, S]; channels that are absent are 0.
            mask: bool [B, C], the channels that may be looked at; None for all, as released.
            train: draw dropout, from the stream ``"dropout"``.
        """
        embedding, memory = self.signals(signals, mask, train=train)
        return _unit(embedding), memory

    def encode_text(self, ids: jax.Array, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Return embeddings [B, Z] of length 1 and the words' states [B, X, D], float32.

        Args:
            ids: int32 [B, X], 0 behind the last word.
            train: nothing is drawn here.
        """
        del train
        embedding, hidden = self.text(ids)
        return _unit(embedding), hidden

    def decode_hidden(
        self, hidden: jax.Array, memory: jax.Array, conditions: jax.Array
    ) -> jax.Array:
        """Return what the decoder makes of the first words, float32 [B, S, D].

        Args:
            hidden: states of the first S words, of ``encode_text``.
            memory: of ``encode_signals``.
            conditions: int32 [B, P]; -1 for none.
        """
        return self.decoder(hidden, memory, conditions)

    def caption_cost(self, hidden: jax.Array, labels: jax.Array) -> tuple[jax.Array, ...]:
        """Return the sum of each row's costs (nats), and how many were likeliest, float32 [B] each.

        Args:
            hidden: of ``decode_hidden``, [B, S, D].
            labels: int32 [B, S], the word after each; 0 for none.
        """
        return self.decoder.cost(hidden, labels)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Return float32 [..., V] of ``hidden`` [..., D] of ``decode_hidden``."""
        return self.decoder.logits(hidden)

    def extend_caption(
        self,
        ids: jax.Array,
        memory: jax.Array,
        conditions: jax.Array | None = None,
        place: jax.Array | int = 0,
    ) -> jax.Array:
        """Return what the decoder makes of further words, float32 [B, S, D], and move the cache.

        Called with the collection ``"cache"`` mutable; results are those of ``encode_text`` and
        ``decode_hidden`` on all words, whatever the mask: words see no place without a word.

        Args:
            ids: int32 [B, S], all of them words.
            memory: of ``encode_signals``, the same in each call.
            conditions: int32 [B, P] with the first words, and None later.
            place: int32 scalar, of the first of these words.
        """
        place = jnp.asarray(place, jnp.int32)
        return self.decoder.extend(self.text.extend(ids, place), memory, conditions, place)

    def reconstruct_signals(self, memory: jax.Array, *, train: bool = False) -> jax.Array:
        """Return float32 [B, C, S] of memories [B, N, D]; ``train`` draws dropout."""
        return self.signal_decoder(memory, train=train)

    def whole(self) -> None:
        """Pass one epoch of zeros through all parts, so that all parameters are made."""
        ids = jnp.zeros((1, self.context), jnp.int32)
        _, memory = self.encode_signals(jnp.zeros((1, len(self.modalities), SAMPLES)))
        hidden = self.encode_text(ids)[1]
        made = self.decode_hidden(hidden, memory, jnp.zeros((1, self.prefix), jnp.int32))
        self.caption_cost(made, ids)
        if self.reconstruct:
            self.reconstruct_signals(memory)

    def epoch_signals(
        self, batch: dict[str, jax.Array], kept: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Return the signals of a batch's epochs, float32 [B, L, C, S], and where they are signal.

        Args:
            batch: of nights; see ``hypnos_jax.batch``. ``signal/<name>`` is int16 [B, L, frames].
            kept: bool [B, L, C], what of it may be used; all by default.

        Returns:
            The signals, 0 where not valid, and bool [B, L, C].

        Raises:
            ValueError: S is no multiple of a channel's frames.
        """
        valid = batch["valid"] & batch["present"][:, None]
        valid = valid if kept is None else valid & kept
        signals = []
        for i, row in enumerate(self.modalities):
            if SAMPLES % row["frames"]:
                raise ValueError(
                    f"modality {row['name']!r} has {row['frames']} frames an epoch, which are not"
                    f" to be repeated to {SAMPLES}"
                )
            x = dequantized(batch[f"signal/{row['name']}"], batch["scale"][:, i])
            signals.append(jnp.repeat(x, SAMPLES // row["frames"], axis=-1))
        return jnp.where(valid[..., None], jnp.stack(signals, axis=2), 0.0), valid

    def encode_tokens(
        self, batch: dict[str, jax.Array], kept: jax.Array | None = None, *, train: bool = False
    ) -> tuple[jax.Array, jax.Array, None]:
        """Return an embedding for each epoch, float32 [B, L, 1, Z]; see ``hypnos_jax.models``."""
        signals, valid = self.epoch_signals(batch, kept)
        rows, there = (x.reshape(-1, *x.shape[2:]) for x in (signals, valid))

        def call(module, rows, there):
            mask = there if module.mask_absent else None
            return module.encode_signals(rows, mask, train=train)[0]

        if train or rows.shape[0] <= self.at_once or self.is_initializing():
            found = call(self, rows, there)
        else:
            found = in_turn(call, self, (rows, there), self.at_once)
        return found.reshape(*valid.shape[:2], 1, -1), valid.any(2, keepdims=True), None


def _unit(x):
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x**2, -1, keepdims=True), 1e-24))
