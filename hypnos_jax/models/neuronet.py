"""A masked autoencoder over the frames of an epoch: NeuroNet, arXiv 2404.17585, as in its code.

An epoch of one channel is cut into short frames that overlap; a convolutional network makes a token
of each, and a transformer sees the tokens of one epoch at a time. Nothing crosses from one channel,
or from one epoch, to another. SynthSleepNet (arXiv 2502.17481) has one such network a type of
channel, with squeeze-and-excitation and wider (its stage 1).

Shapes: N epochs, S samples, T frames, F features of a frame, D width of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from hypnos_jax.models.modality_towers import dequantized
from hypnos_jax.nn.batch_norm import BatchNorm
from hypnos_jax.nn.linear import INIT, XAVIER
from hypnos_jax.nn.masking import TokenMask, positions, token_mask
from hypnos_jax.nn.multiscale_resnet import MultiscaleResnet, features
from hypnos_jax.nn.transformer import Linear, Transformer
from hypnos_jax.sharding import keep_rows

EPSILON = 1e-6  # of every LayerNorm
POOLINGS = ("mean", "cls")


class NeuronetEncoder(nn.Module):
    """Epochs of one channel to tokens: a CLS token, and one for each frame.

    Attributes:
        rate_hz: samples a second.
        samples: S.
        window_s, step_s: length of a frame, and seconds between starts, in whole samples.
        stem, widths, squeeze, kernels: of the frame network; see ``MultiscaleResnet``.
        dim, depth, heads: of the transformer.
        train_positions: learn the table of positions, which begins as sines.
        lora: keyword arguments of ``LowRank`` for the attention's outputs; None for none.
        frame_lora: the same for the frame network's linear layers.
        frozen_statistics: of the frame network; see ``MultiscaleResnet``.
        remat: see ``nn.transformer.rematerialised``.
        dtype: of the products.
    """

    rate_hz: int = 100
    samples: int = 3000
    window_s: float = 4.0
    step_s: float = 1.0
    stem: int = 64
    widths: tuple[int, ...] = (64, 128, 128, 256)
    squeeze: int = 16
    kernels: tuple[int, ...] = (3, 5, 7)
    dim: int = 768
    depth: int = 4
    heads: int = 8
    train_positions: bool = False
    lora: Mapping[str, Any] | None = None
    frame_lora: Mapping[str, Any] | None = None
    frozen_statistics: bool = False
    remat: str = "none"
    dtype: str = "float32"

    def setup(self):
        dtype = jnp.dtype(self.dtype)
        self.frame_network = MultiscaleResnet(
            self.stem,
            self.widths,
            self.squeeze,
            self.kernels,
            self.frame_lora,
            self.frozen_statistics,
            dtype,
        )
        self.patch_embed = _linear(self.feature_width, self.dim, dtype)
        self.cls = self.param("cls", nn.with_logical_partitioning(INIT, ("embed",)), (self.dim,))
        table = np.pad(positions(self.frame_count, self.dim), ((1, 0), (0, 0)))  # 0 for CLS
        self.positions = table_of_positions(self, table) if self.train_positions else table
        self.transformer = Transformer(
            self.depth,
            {**vit_layer(self.dim, self.heads, dtype), "lora": self.lora},
            remat=self.remat,
        )

    @property
    def feature_width(self) -> int:
        """F."""
        return features(self._samples(self.window_s), self.widths[-1], self.kernels)

    @property
    def frame_count(self) -> int:
        """T.

        Raises:
            ValueError: an epoch is shorter than a frame.
        """
        window, step = self._samples(self.window_s), self._samples(self.step_s)
        if self.samples < window:
            raise ValueError(
                f"model.encoder.window_s={self.window_s:g}: an epoch has {self.samples} samples at"
                f" {self.rate_hz} Hz"
            )
        return (self.samples - window) // step + 1

    @nn.nowrap
    def frames(self, signal: jax.Array) -> jax.Array:
        """Return [N, T, samples of a frame] of ``signal`` [N, S]."""
        window, step = self._samples(self.window_s), self._samples(self.step_s)
        count = self.frame_count
        if window % step:
            places = np.arange(count)[:, None] * step + np.arange(window)
            return jnp.take(signal, places, axis=1)
        # Slices of whole steps side by side, which cost less than a gather.
        parts = window // step
        cut = signal[:, : (count + parts - 1) * step].reshape(signal.shape[0], -1, step)
        return jnp.concatenate([cut[:, i : i + count] for i in range(parts)], axis=-1)

    def features(self, signal: jax.Array, counted: jax.Array, *, train: bool = False) -> jax.Array:
        """Return what the frame network makes of each frame, float32 [N, T, F].

        Args:
            signal: [N, S].
            counted: bool [N], what enters the statistics of the batch.
            train: of the batch norms, and of LoRA's dropout.
        """
        return self.frame_network(self.frames(signal), counted, train=train)

    def encode(
        self, frames: jax.Array, mask: TokenMask | None = None, *, train: bool = False
    ) -> jax.Array:
        """Return tokens of frames' features [N, T, F]: float32 [N, 1 + T, D], the CLS token first.

        Args:
            frames: from ``features``.
            mask: only its visible tokens are seen and returned, [N, 1 + K, D].
            train: draw LoRA's dropout.
        """
        rows, table = frames.shape[0], jnp.asarray(self.positions)
        x = self.patch_embed(frames.astype(self.dtype)).astype(jnp.float32) + table[None, 1:]
        x = x if mask is None else mask.take(x)
        first = jnp.broadcast_to((self.cls + table[0])[None, None], (rows, 1, self.dim))
        x = keep_rows(jnp.concatenate([first, x], axis=1))
        return self.transformer(x, train=train)

    def __call__(self, signal: jax.Array, counted: jax.Array, *, train: bool = False) -> jax.Array:
        """Return all tokens of epochs [N, S], float32 [N, 1 + T, D]."""
        return self.encode(self.features(signal, counted, train=train), train=train)

    def _samples(self, seconds):
        return int(seconds * self.rate_hz)


class Projector(nn.Module):
    """``Linear(ELU(BN(Linear(x))))``: what a contrast compares.

    Attributes:
        hidden, out: widths.
        dtype: of the products.
    """

    hidden: int
    out: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, counted: jax.Array, *, train: bool = False) -> jax.Array:
        """Return float32 [N, Z] of ``x`` [N, D]; see ``BatchNorm``."""
        x = _linear(x.shape[-1], self.hidden, self.dtype, name="hidden")(x.astype(self.dtype))
        x = BatchNorm(name="norm")(keep_rows(x)[:, None], counted[:, None], train=train)[:, 0]
        out = _linear(self.hidden, self.out, self.dtype, ("mlp", "embed"), name="out")
        return keep_rows(out(jax.nn.elu(x).astype(self.dtype))).astype(jnp.float32)


class Decoder(nn.Module):
    """Hidden tokens from visible ones: mask tokens, positions, a transformer and a linear layer.

    Attributes:
        dim, depth, heads: of the transformer.
        out: width of what is predicted.
        train_positions: see ``NeuronetEncoder``.
        dtype: of the products.
    """

    dim: int
    depth: int
    heads: int
    out: int
    train_positions: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, tokens: jax.Array, mask: TokenMask) -> jax.Array:
        """Return float32 [N, T, out] of the visible ``tokens`` [N, K, any width]."""
        x = _linear(tokens.shape[-1], self.dim, self.dtype, name="embed")(tokens.astype(self.dtype))
        filler = self.param(
            "mask_token", nn.with_logical_partitioning(INIT, ("embed",)), (self.dim,)
        )
        x = mask.fill(x.astype(jnp.float32), filler)
        table = positions(x.shape[1], self.dim)
        if self.train_positions:
            table = table_of_positions(self, table)
        layer = vit_layer(self.dim, self.heads, jnp.dtype(self.dtype))
        x = Transformer(self.depth, layer, name="transformer")(keep_rows(x + table[None]))
        out = _linear(self.dim, self.out, self.dtype, ("mlp", "embed"), name="predict")
        return keep_rows(out(x.astype(self.dtype))).astype(jnp.float32)


class Neuronet(nn.Module):
    """The encoder with what it is pretrained by; and the backbone of single channels.

    Attributes:
        modalities: ``{name, rate_hz, frames}`` each: channels of one type, ``frames`` being S.
        encoder: keyword arguments of ``NeuronetEncoder`` but for those of the epoch and the whole.
        mask_rate: share of the frames that is hidden.
        decoder_dim, decoder_depth, decoder_heads: of the decoder.
        projection: widths of the projector's two layers.
        pooling: what stands for an epoch: the ``"mean"`` of its frames, or its ``"cls"`` token.
        remat, dtype: of the whole.
    """

    modalities: tuple[dict[str, Any], ...]
    encoder: Mapping[str, Any]
    mask_rate: float = 0.8
    decoder_dim: int = 256
    decoder_depth: int = 3
    decoder_heads: int = 8
    projection: tuple[int, int] = (1024, 512)
    pooling: str = "mean"
    remat: str = "none"
    dtype: str = "float32"

    title = (
        "a masked autoencoder over the frames of an epoch of one channel (NeuroNet, arXiv"
        " 2404.17585)"
    )
    causal = True
    couples_batch = True  # batch norms
    seen = "a row has seen its own epoch of its own channel, and nothing else"

    def setup(self):
        if self.pooling not in POOLINGS:
            raise ValueError(f"model.pooling={self.pooling!r}; it is one of {POOLINGS}")
        self.network = NeuronetEncoder(
            **{**self.encoder, **common_shape(self.modalities)},
            remat=self.remat,
            dtype=self.dtype,
            name="encoder",
        )
        self.decoder = Decoder(
            self.decoder_dim,
            self.decoder_depth,
            self.decoder_heads,
            self.network.feature_width,
            self.network.train_positions,
            self.dtype,
        )
        self.projector = Projector(*self.projection, self.dtype)

    def features(self, signal: jax.Array, counted: jax.Array, *, train: bool = False) -> jax.Array:
        """Return the frames' features; see ``NeuronetEncoder``."""
        return self.network.features(signal, counted, train=train)

    def autoencode(
        self, frames: jax.Array, noise: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, TokenMask, jax.Array]:
        """Hide frames, and predict all from those that are left.

        Args:
            frames: features, float32 [N, T, F].
            noise: float32 [N, T], uniform on [0, 1).
            train: see the encoder.

        Returns:
            The predictions, float32 [N, T, F]; what was hidden; the CLS tokens, float32 [N, D].
        """
        mask = token_mask(noise, self.mask_rate)
        tokens = self.network.encode(frames, mask, train=train)
        return self.decoder(tokens[:, 1:], mask), mask, tokens[:, 0]

    def project(self, x: jax.Array, counted: jax.Array, *, train: bool = False) -> jax.Array:
        """Return what is compared, float32 [N, Z] of CLS tokens [N, D]."""
        return self.projector(x, counted, train=train)

    def encode_tokens(
        self, batch: dict[str, jax.Array], kept: jax.Array | None = None, *, train: bool = False
    ) -> tuple[jax.Array, jax.Array, None]:
        """Return a row for each epoch of each channel; see ``hypnos_jax.models``."""
        signals, valid = night_signals(batch, self.modalities, kept)
        rows = signals.reshape(-1, signals.shape[-1])
        tokens = self.network(rows, valid.reshape(-1), train=train)
        found = tokens[:, 0] if self.pooling == "cls" else tokens[:, 1:].mean(1)
        return found.reshape(*valid.shape, -1), valid, None


def night_signals(
    batch: dict[str, jax.Array], modalities, kept: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Return the signals of a batch of nights side by side, and where they hold signal.

    Args:
        batch: ``signal/<name>`` int16 [B, L, S] of each channel, ``scale`` float32 [B, M],
            ``valid`` bool [B, L, M] and ``present`` bool [B, M].
        modalities: the channels.
        kept: bool [B, L, M], what of it may be used; all by default.

    Returns:
        float32 [B, L, M, S], 0 where not valid, and bool [B, L, M].
    """
    valid = batch["valid"] & batch["present"][:, None]
    valid = valid if kept is None else valid & kept
    signals = [
        dequantized(batch[f"signal/{row['name']}"], batch["scale"][:, i])
        for i, row in enumerate(modalities)
    ]
    return jnp.where(valid[..., None], jnp.stack(signals, axis=2), 0.0), valid


def common_shape(modalities) -> dict[str, int]:
    """Return ``rate_hz`` and ``samples`` of the epochs that one network reads.

    Raises:
        ValueError: there are none, or they have several rates.
    """
    rates = {(row["rate_hz"], row["frames"]) for row in modalities}
    if len(rates) != 1:
        raise ValueError(
            f"model.modalities={[dict(row) for row in modalities]}: one network reads channels of"
            " one rate; name them in config.data.modalities"
        )
    return dict(zip(("rate_hz", "samples"), rates.pop()))


def table_of_positions(module: nn.Module, table: np.ndarray) -> jax.Array:
    """Return the learnt table ``positions`` of a module, which begins as ``table`` [any, D]."""
    start = nn.with_logical_partitioning(lambda *_: jnp.asarray(table), (None, "embed"))
    return module.param("positions", start)


def vit_layer(dim: int, heads: int, dtype: jnp.dtype) -> dict[str, Any]:
    """Return keyword arguments of ``TransformerLayer``: a block of ViT, as timm has it."""
    return {
        "dim": dim,
        "heads": heads,
        "causal": False,
        "rope": False,
        "bias": True,
        "layer_scale": None,
        "epsilon": EPSILON,
        "initialiser": XAVIER,
        "dtype": dtype,
    }


def _linear(inputs, outputs, dtype, names=("embed", "mlp"), name=None):
    dtype = jnp.dtype(dtype)
    return Linear(names, inputs, outputs, bias=True, dtype=dtype, initialiser=XAVIER, name=name)
