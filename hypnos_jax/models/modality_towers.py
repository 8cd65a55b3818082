"""One small tower a modality under one shared trunk: sleep2vec, arXiv 2602.13857, as in its code.

A night is cut into tokens of 30 s. Each modality has a tokenizer of its own; one RoFormer sees the
tokens of one modality at a time; a projection head, shared too, gives what is compared. There is no
attention across modalities anywhere.

Shapes: B windows, L tokens, F samples a token, D width of tokens, H of the trunk, Z of what is
compared.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypnos_jax.nn.batch_norm import BatchNorm
from hypnos_jax.nn.dropout import Dropout
from hypnos_jax.nn.roformer import Roformer
from hypnos_jax.nn.transformer import LayerNorm, Linear
from hypnos_jax.sharding import keep_rows


class MlpTokenizer(nn.Module):
    """``norm(dropout(W2 silu(W1 x + b1) + b2) + Wr x + br)``: the official code's "sundial" MLP.

    Attributes:
        inputs: F.
        dim: D; the hidden layer has 2 D.
        dropout: rate.
        dtype: of the matrix products.
    """

    inputs: int
    dim: int
    dropout: float = 0.1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, signal: jax.Array, *, train: bool = False) -> jax.Array:
        """Return float32 [B, L, D] of ``signal`` [B, L, F or more]."""
        x = signal[..., : self.inputs].astype(self.dtype)
        names = ("embed", "mlp")
        hidden = Linear(
            names, self.inputs, 2 * self.dim, bias=True, dtype=self.dtype, name="hidden"
        )
        out = Linear(names[::-1], 2 * self.dim, self.dim, bias=True, dtype=self.dtype, name="out")
        past = Linear(names, self.inputs, self.dim, bias=True, dtype=self.dtype, name="residual")
        y = keep_rows(out(jax.nn.silu(hidden(x)))).astype(jnp.float32)
        y = Dropout(self.dropout)(y, train=train)
        return LayerNorm(name="norm")(y + keep_rows(past(x)).astype(jnp.float32))


class ProjectionHead(nn.Module):
    """Linear, batch norm, ReLU, linear, batch norm; as in the code, two linear layers.

    The paper's notes speak of three; ``depth=3`` puts another linear, batch norm and ReLU first.

    Attributes:
        hidden, out: widths.
        depth: linear layers.
        groups: of the batch norms; see ``BatchNorm``.
        dtype: of the matrix products.
    """

    hidden: int
    out: int
    depth: int = 2
    groups: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, counted: jax.Array, *, train: bool = False) -> jax.Array:
        """Return float32 [B, L, Z] of ``x`` [B, L, H]; only directions are meant to be compared.

        Args:
            x: what the trunk gave.
            counted: bool [B, L]: what enters the statistics.
            train: see ``BatchNorm``.
        """
        for i in range(self.depth):
            last = i == self.depth - 1
            names = ("mlp", "embed") if last else ("embed", "mlp")
            width = self.out if last else self.hidden
            linear = Linear(names, x.shape[-1], width, dtype=self.dtype, name=f"linear_{i}")
            x = keep_rows(linear(x.astype(self.dtype)))
            x = BatchNorm(self.groups, name=f"norm_{i}")(x, counted, train=train)
            x = x if last else jax.nn.relu(x)
        return x


class ModalityTowers(nn.Module):
    """Tokenizers of each modality, the trunk that they share, and the projection.

    Attributes:
        modalities: ``{name, rate_hz, frames}`` each, ``frames`` being F.
        dim: H, of the trunk.
        layers, heads, ffn_dim: of the trunk.
        token_dim: D; H by default.
        cls: put a learnt vector before the tokens.
        mask_rate: share of a window's tokens that the modality's mask vector replaces in
            training, ``int(rate * tokens)`` of them.
        projection_dim, out_dim: of the head.
        projection_depth: its linear layers; see ``ProjectionHead``.
        groups: of its batch norms.
        dropout: rate in tokenizers and trunk.
        lora_rank, lora_alpha, lora_dropout: of the trunk; see ``nn.lora``.
        remat: of the trunk; see ``nn.transformer.rematerialised``.
        unroll: layers of the trunk unrolled per step of the scan over them.
        dtype: of the matrix products, ``"float32"`` or ``"bfloat16"``; all else is float32.
    """

    modalities: tuple[dict[str, Any], ...]
    dim: int
    layers: int
    heads: int
    ffn_dim: int
    token_dim: int | None = None
    cls: bool = False
    mask_rate: float = 0.15
    projection_dim: int = 768
    out_dim: int = 128
    projection_depth: int = 2
    groups: int = 1
    dropout: float = 0.1
    lora_rank: int = 0
    lora_alpha: float = 16.0
    lora_dropout: float = 0.05
    remat: str = "none"
    unroll: int = 1
    dtype: str = "float32"

    title = "contrastive towers of sleep signals (sleep2vec, arXiv 2602.13857)"
    causal = False

    def setup(self):
        dtype, width = jnp.dtype(self.dtype), self.token_dim or self.dim
        self.tokenizers = [
            MlpTokenizer(m["frames"], width, self.dropout, dtype, name=f"tokenizer_{m['name']}")
            for m in self.modalities
        ]
        if self.mask_rate:
            self.mask_embedding = self.param(
                "mask_embedding",
                nn.with_logical_partitioning(nn.initializers.ones, ("modality", "embed")),
                (len(self.modalities), width),
            )
        self.input = Linear(("embed", "mlp"), width, self.dim, bias=True, dtype=dtype)
        if self.cls:
            self.cls_embedding = self.param(
                "cls_embedding",
                nn.with_logical_partitioning(nn.initializers.normal(1.0), ("embed",)),
                (self.dim,),
            )
        self.trunk = Roformer(
            self.layers,
            self.heads,
            self.ffn_dim,
            self.dropout,
            self.lora_rank,
            self.lora_alpha,
            self.lora_dropout,
            self.remat,
            self.unroll,
            dtype,
        )
        self.head = ProjectionHead(
            self.projection_dim, self.out_dim, self.projection_depth, self.groups, dtype
        )

    @nn.nowrap
    def index(self, name: str) -> int:
        """Return the place of a modality.

        Raises:
            ValueError: there is no such modality.
        """
        names = [m["name"] for m in self.modalities]
        if name not in names:
            raise ValueError(f"the towers have no modality {name!r}; they have {names}")
        return names.index(name)

    def tokenize(
        self, signal: jax.Array, modality: int | jax.Array, *, train: bool = False
    ) -> jax.Array:
        """Return tokens, float32 [B, L, D].

        Args:
            signal: [B, L, F or more]; what is beyond the modality's own F is not read.
            modality: which; a traced number runs only its own tokenizer all the same.
            train: draw dropout.
        """
        if isinstance(modality, int):
            return self.tokenizers[modality](signal, train=train)
        if self.is_initializing():  # the others' parameters too
            for tokenizer in self.tokenizers:
                tokenizer(signal[:1, :1], train=False)

        def branch(i):
            return lambda towers, signal: towers.tokenizers[i](signal, train=train)

        branches = [branch(i) for i in range(len(self.modalities))]
        return nn.switch(modality, branches, self, signal)

    def mask(self, tokens: jax.Array, modality: int | jax.Array, valid: jax.Array) -> jax.Array:
        """Return tokens [B, L, D] of which the modality's mask vector replaces a share.

        Args:
            tokens: of one modality.
            modality: which.
            valid: bool [B, L]: of which the share is taken; see ``masked_tokens``. Drawn from the
                stream ``"mask"``.
        """
        if not self.mask_rate:
            return tokens
        drawn = masked_tokens(self.make_rng("mask"), valid, self.mask_rate)
        return self.hide(tokens, modality, drawn)

    def hide(self, tokens: jax.Array, modality: int | jax.Array, hidden: jax.Array) -> jax.Array:
        """Return tokens [B, L, D], the modality's mask vector where ``hidden``, bool [B, L]."""
        return jnp.where(hidden[..., None], self.mask_embedding[modality][None, None], tokens)

    def encode(
        self,
        signal: jax.Array,
        modality: int | jax.Array,
        valid: jax.Array,
        *,
        train: bool = False,
    ) -> tuple[jax.Array, jax.Array | None]:
        """Return what the trunk makes of one modality.

        Args:
            signal: float32 [B, L, F or more].
            modality: which.
            valid: bool [B, L]: tokens that hold signal, and may be looked at.
            train: draw dropout, from the stream ``"dropout"``.

        Returns:
            float32 [B, L, H], and of the CLS position [B, H] where there is one.
        """
        return self.contextualize(self.tokenize(signal, modality, train=train), valid, train=train)

    def contextualize(
        self, tokens: jax.Array, valid: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, jax.Array | None]:
        """Return what the trunk makes of tokens [B, L, D]; see ``encode``."""
        x = keep_rows(self.input(tokens.astype(jnp.dtype(self.dtype)))).astype(jnp.float32)
        if not self.cls:
            return self.trunk(x, valid, train=train), None
        first = jnp.broadcast_to(self.cls_embedding[None, None], (x.shape[0], 1, self.dim))
        x = jnp.concatenate([first, x], axis=1)
        valid = jnp.pad(valid, ((0, 0), (1, 0)), constant_values=True)
        x = self.trunk(x, valid, train=train)
        return x[:, 1:], x[:, 0]

    def encode_tokens(
        self, batch: dict[str, jax.Array], kept: jax.Array | None = None, *, train: bool = False
    ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """Return what the trunk makes of every modality of a batch; see ``hypnos_jax.models``.

        Args:
            batch: ``signal/<name>`` int16 [B, L, F] of each modality, ``scale`` float32 [B, M],
                ``present`` bool [B, M] and ``valid`` bool [B, L, M].
            kept: bool [B, L, M]: what of the signal may be used; all by default.
            train: draw dropout, from the stream ``"dropout"``.
        """
        valid = batch["valid"] & batch["present"][:, None]
        if kept is not None:
            valid = valid & kept
        tokens = []
        for i, modality in enumerate(self.modalities):
            signal = dequantized(batch[f"signal/{modality['name']}"], batch["scale"][:, i])
            signal = jnp.where(valid[..., i, None], signal, 0.0)
            tokens.append(self.tokenize(signal, i, train=train))
        hidden, cls = self.side_by_side(jnp.stack(tokens, 1), valid, train=train)
        return hidden, valid, cls

    def side_by_side(
        self, tokens: jax.Array, valid: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, jax.Array | None]:
        """Return what the trunk makes of all modalities' tokens, each by itself.

        Args:
            tokens: float32 [B, M, L, D].
            valid: bool [B, L, M]: what may be looked at.
            train: see ``encode``.

        Returns:
            float32 [B, L, M, H], and of the CLS positions [B, M, H] where there are some.
        """
        # All modalities as rows of one batch, a window's beside each other: one trunk to compile.
        rows, count, length = tokens.shape[:3]
        hidden, cls = self.contextualize(
            tokens.reshape(rows * count, length, -1),
            valid.swapaxes(1, 2).reshape(rows * count, length),
            train=train,
        )
        hidden = hidden.reshape(rows, count, length, -1).swapaxes(1, 2)
        return hidden, None if cls is None else cls.reshape(rows, count, -1)

    def project(self, hidden: jax.Array, counted: jax.Array, *, train: bool = False) -> jax.Array:
        """Return float32 [B, L, Z] of ``hidden`` [B, L, H]; see ``ProjectionHead``."""
        return self.head(hidden, counted, train=train)


def dequantized(signal: jax.Array, scale: jax.Array) -> jax.Array:
    """Return float32 of stored int16 [B, L, F] and their scale [B]."""
    return signal.astype(jnp.float32) * scale[:, None, None]


def masked_tokens(key: jax.Array, valid: jax.Array, rate: float) -> jax.Array:
    """Return bool [B, L]: exactly ``int(rate * n)`` of each row's n valid tokens, at random.

    Args:
        key: of the draw.
        valid: bool [B, L].
        rate: share.
    """
    drawn = jnp.where(valid, jax.random.uniform(key, valid.shape), 2.0)
    place = jnp.argsort(jnp.argsort(drawn, axis=1), axis=1)
    # In integers: 0.15 * 120 is below 18 in float32.
    counts = jnp.asarray([int(rate * n) for n in range(valid.shape[1] + 1)], jnp.int32)
    return place < counts[valid.sum(1)][:, None]
