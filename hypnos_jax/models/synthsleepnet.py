"""Epochs of several channels fused: SynthSleepNet, arXiv 2502.17481, as in its code.

Each channel's encoder (``models/neuronet.py``, pretrained, frozen but for low-rank additions) makes
tokens of an epoch. They are projected to one width, and told apart by a table of the channel; a
joint transformer sees the tokens of all channels of one epoch. A row is the mean of what it makes
of them. Channels may be absent: nobody then looks at their tokens.

Shapes: R epochs, M channels, S samples, T frames, K of them visible, D width of an encoder's
tokens, H of the fused ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from hypnos_jax.models.neuronet import (
    EPSILON,
    NeuronetEncoder,
    Projector,
    common_shape,
    night_signals,
    vit_layer,
)
from hypnos_jax.nn.batch_norm import BatchNorm
from hypnos_jax.nn.in_turn import in_turn
from hypnos_jax.nn.linear import INIT, XAVIER
from hypnos_jax.nn.masking import TokenMask, positions, token_mask
from hypnos_jax.nn.transformer import LayerNorm, Linear, Transformer, rematerialised
from hypnos_jax.sharding import keep_rows

SHARES = ("type", "channel")


@flax.struct.dataclass
class Prediction:
    """What is predicted of hidden tokens, and what is compared.

    Attributes:
        predicted: float32 [R, M, T, D].
        hidden: bool [R, M, T].
        fused: float32 [R, Z], the projection of the mean of the fused visible tokens.
        channels: float32 [R, M, Z], of the mean of each channel's tokens.
    """

    predicted: jax.Array
    hidden: jax.Array
    fused: jax.Array
    channels: jax.Array


class ChannelEmbedding(nn.Module):
    """Tokens of a channel to the width of the fused ones, told apart by a learnt table.

    Attributes:
        dim: H.
        dtype: of the products.
    """

    dim: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array, counted: jax.Array, *, train: bool = False) -> jax.Array:
        """Return float32 [R, T, H] of ``tokens`` [R, 1 + T, D], whose CLS tokens are left out.

        Args:
            tokens: of one channel.
            counted: bool [R], what enters the statistics, CLS tokens too, as in the official code.
            train: see ``BatchNorm``.
        """
        counted = jnp.broadcast_to(counted[:, None], tokens.shape[:2])
        x = _linear(tokens.shape[-1], self.dim, self.dtype, "hidden")(tokens.astype(self.dtype))
        x = BatchNorm(name="norm")(keep_rows(x), counted, train=train)
        x = _linear(self.dim, self.dim, self.dtype, "out")(jax.nn.elu(x).astype(self.dtype))
        init = nn.with_logical_partitioning(INIT, (None, "embed"))
        table = self.param("table", init, (tokens.shape[1] - 1, self.dim))
        return keep_rows(x[:, 1:]).astype(jnp.float32) + table[None]


class MaskToken(nn.Module):
    """What stands for a hidden token; a module, so that it is there only where there are decoders.

    Attributes:
        dim: its width.
    """

    dim: int

    @nn.compact
    def __call__(self) -> jax.Array:
        """Return [dim]."""
        init = nn.with_logical_partitioning(INIT, ("embed",))
        return self.param("embedding", init, (self.dim,))


class Synthsleepnet(nn.Module):
    """The encoders, the joint transformer, and what they are pretrained by.

    Attributes:
        modalities: ``{name, rate_hz, frames}`` each: the channels, ``frames`` being S. What stands
            before the first ``_`` of a name is the channel's type.
        encoder: keyword arguments of ``NeuronetEncoder`` but for its additions and those of the
            epoch and the whole.
        share: one encoder a ``"type"`` of channel, or, as in the official code, one a
            ``"channel"``. Low-rank additions, tables and decoders are each channel's own.
        lora: keyword arguments of ``LowRank``, of the attention's outputs in the encoders; None for
            none.
        tuning: keyword arguments of ``LowRank``, of the further additions of fine-tuning: to the
            frame networks' linear layers and to the last joint layer's position-wise network.
        frozen_statistics: the encoders' batch norms keep their running statistics; False is the
            official code, which lets them drift.
        dim, depth, heads: of the joint transformer.
        mask_rate: share of each channel's frames that is hidden.
        decoder_dim, decoder_depth, decoder_heads: of the decoders.
        projection: widths of the projectors' two layers.
        legacy_slice: give each decoder the tokens that the official code gives it by mistake: not
            its own channel's, but as many from place m on.
        at_once: epochs that pass the encoders together (with frozen statistics); the others wait.
        remat, dtype: of the whole.
    """

    modalities: tuple[dict[str, Any], ...]
    encoder: Mapping[str, Any]
    share: str = "type"
    lora: Mapping[str, Any] | None = None
    tuning: Mapping[str, Any] | None = None
    frozen_statistics: bool = True
    dim: int = 512
    depth: int = 4
    heads: int = 8
    mask_rate: float = 0.4
    decoder_dim: int = 256
    decoder_depth: int = 3
    decoder_heads: int = 8
    projection: tuple[int, int] = (512, 256)
    legacy_slice: bool = False
    at_once: int = 256
    remat: str = "none"
    dtype: str = "float32"

    title = (
        "channels of an epoch fused by masked prediction and contrast (SynthSleepNet, arXiv"
        " 2502.17481)"
    )
    causal = True
    fused = True
    seen = "a row has seen its own epoch of all channels, and nothing else"

    @property
    def couples_batch(self) -> bool:
        """Whether batch norms let rows of a batch change each other."""
        return not self.frozen_statistics

    def setup(self):
        dtype = jnp.dtype(self.dtype)
        self.encoders = {
            name: NeuronetEncoder(
                **{**self.encoder, **common_shape(self.modalities)},
                lora=self._adapted(self.lora, members),
                frame_lora=self._adapted(self.tuning, members),
                frozen_statistics=self.frozen_statistics,
                remat=self.remat,
                dtype=self.dtype,
                name=f"encoder_{name}",
            )
            for name, members in self.groups().items()
        }
        self.embedding = ChannelEmbedding(self.dim, dtype)
        last = {"lora": self.tuning, "lora_on": ("up", "down")} if self.tuning else {}
        self.joint = Transformer(
            self.depth, vit_layer(self.dim, self.heads, dtype), last, remat=self.remat
        )
        width = next(iter(self.encoders.values())).dim
        self.decoder_embed = _linear(self.dim, self.decoder_dim, dtype)
        self.mask_token = MaskToken(self.decoder_dim)
        layer = vit_layer(self.decoder_dim, self.decoder_heads, dtype)
        self.decoders = Transformer(self.decoder_depth, layer, norm=False, remat=self.remat)
        self.decoder_norm = LayerNorm(epsilon=EPSILON)
        self.predictors = _linear(self.decoder_dim, width, dtype)
        self.fused_projector = Projector(*self.projection, self.dtype)
        self.channel_projectors = Projector(*self.projection, self.dtype)

    @nn.nowrap
    def groups(self) -> dict[str, list[int]]:
        """Return name of an encoder -> the places of the channels that pass it.

        Raises:
            ValueError: no such ``share``.
        """
        if self.share not in SHARES:
            raise ValueError(f"model.share={self.share!r}; it is one of {SHARES}")
        found = {}
        for i, row in enumerate(self.modalities):
            name = row["name"] if self.share == "channel" else row["name"].split("_")[0]
            found.setdefault(name, []).append(i)
        return found

    def unimodal(self, signals: jax.Array, there: jax.Array, *, train: bool = False) -> jax.Array:
        """Return what the encoders make of each channel, float32 [R, M, 1 + T, D].

        Args:
            signals: float32 [R, M, S].
            there: bool [R, M], where they hold signal.
            train: draw LoRA's dropout; move statistics that are not frozen.
        """
        found = [None] * len(self.modalities)
        for name, members in self.groups().items():
            own, counted = (jnp.stack([x[:, i] for i in members], 1) for x in (signals, there))
            tokens = self.encoders[name](
                own.reshape(-1, own.shape[-1]), counted.reshape(-1), train=train
            )
            tokens = tokens.reshape(signals.shape[0], len(members), *tokens.shape[1:])
            for place, i in enumerate(members):
                found[i] = tokens[:, place]
        return keep_rows(jnp.stack(found, axis=1))

    def predict(
        self, tokens: jax.Array, there: jax.Array, noise: jax.Array, *, train: bool = False
    ) -> Prediction:
        """Hide tokens of each channel, fuse those that are left, and predict all.

        Args:
            tokens: of ``unimodal``, float32 [R, M, 1 + T, D].
            there: bool [R, M], what may be looked at.
            noise: float32 [R, M, T], uniform on [0, 1).
            train: of the batch norms.
        """
        hide = jax.vmap(lambda noise: token_mask(noise, self.mask_rate), 1, 1)
        mask = hide(noise)
        embedded = self._embedded(tokens, there, train)
        visible = jax.vmap(TokenMask.take, 1, 1)(mask, embedded)
        rows, count, kept, dim = visible.shape
        fused = self._fuse(visible, there, train)
        return Prediction(
            predicted=self._decode(self._slices(fused, count), mask),
            hidden=mask.hidden,
            fused=self.fused_projector(
                _mean(fused.reshape(rows, count, kept, dim), there), there.any(1), train=train
            ),
            channels=_each(
                lambda module, x, there: module(x, there, train=train),
                self.channel_projectors,
                tokens.mean(2),
                there,
            ),
        )

    def fuse(self, signals: jax.Array, there: jax.Array, *, train: bool = False) -> jax.Array:
        """Return a row for each epoch, float32 [R, H]: the mean of its fused tokens.

        Frozen statistics are those of the channels' embeddings too; see ``unimodal``.
        """
        tokens = self.unimodal(signals, there, train=train)
        embedded = self._embedded(tokens, there, train and not self.frozen_statistics)
        fused = self._fuse(embedded, there, train)
        return _mean(fused.reshape(embedded.shape), there)

    def encode_tokens(
        self, batch: dict[str, jax.Array], kept: jax.Array | None = None, *, train: bool = False
    ) -> tuple[jax.Array, jax.Array, None]:
        """Return a row for each epoch; see ``hypnos_jax.models``."""
        signals, valid = night_signals(batch, self.modalities, kept)
        shape = signals.shape[:2]
        rows, there = (x.reshape(-1, *x.shape[2:]) for x in (signals, valid))
        # Fine-tuning may take gradients of a backbone in evaluation mode: it forgets there too.
        call = rematerialised(
            lambda module, rows, there: module.fuse(rows, there, train=train), self.remat
        )
        count = rows.shape[0]
        few = not isinstance(count, int) or count <= self.at_once  # any number, in a program
        if few or not self.frozen_statistics or self.is_initializing():
            found = call(self, rows, there)
        else:
            found = in_turn(call, self, (rows, there), self.at_once)
        return found.reshape(*shape, 1, -1), valid.any(2, keepdims=True), None

    def _embedded(self, tokens, there, train):
        """[R, M, T, H]."""
        x = _each(
            lambda module, x, there: module(x, there, train=train), self.embedding, tokens, there
        )
        return x + positions(x.shape[2], self.dim)[None, None]

    def _fuse(self, tokens, there, train):
        """What the joint transformer makes of [R, M, any, H], side by side: [R, M any, H]."""
        rows, count, each, dim = tokens.shape
        seen = jnp.repeat(there, each, axis=1)[:, None]
        return self.joint(tokens.reshape(rows, count * each, dim), seen, train=train)

    def _slices(self, fused, count):
        """What each decoder is given of the fused tokens [R, M K, H]: [R, M, K, H]."""
        rows, tokens, dim = fused.shape
        if not self.legacy_slice:
            return fused.reshape(rows, count, tokens // count, dim)
        size = (tokens - 1) // count
        return jnp.stack([fused[:, m : m + size] for m in range(count)], axis=1)

    def _decode(self, pieces, mask):
        x = self.decoder_embed(pieces.astype(self.dtype)).astype(jnp.float32)
        fill = jax.vmap(TokenMask.fill, (1, 1, None), 1)
        x = fill(mask, x, self.mask_token())
        x = keep_rows(x + positions(x.shape[2], self.decoder_dim)[None, None])
        x = self.decoder_norm(_each(lambda module, x: module(x), self.decoders, x))
        x = _each(lambda module, x: module(x), self.predictors, x.astype(self.dtype))
        return x.astype(jnp.float32)

    def _adapted(self, lora, members):
        """The additions of an encoder: each of its channels has its own."""
        return lora and {**lora, "adapters": len(members)}


def _each(call: Callable, module: nn.Module, *arrays: jax.Array) -> jax.Array:
    """Call a module on each channel with variables of its own; channels are the arrays' second
    axis."""
    return nn.vmap(
        call,
        in_axes=1,
        out_axes=1,
        variable_axes={"params": 0, "batch_stats": 0},
        split_rngs={"params": True, "dropout": True},
        metadata_params={nn.PARTITION_NAME: "modality"},
    )(module, *arrays)


def _mean(tokens: jax.Array, there: jax.Array) -> jax.Array:
    """Mean over the tokens of the channels that are there, [R, H] of [R, M, any, H]."""
    weight = there.astype(jnp.float32)[..., None]
    return (tokens.mean(2) * weight).sum(1) / jnp.maximum(weight.sum(1), 1.0)


def _linear(inputs, outputs, dtype, name=None):
    options = {"bias": True, "dtype": jnp.dtype(dtype), "initialiser": XAVIER}
    return Linear(("embed", "mlp"), inputs, outputs, **options, name=name)
