"""The RQ-Transformer of Hypnos: a stream of seconds per modality, and the codes of each second.

A temporal backbone runs over the seconds of every modality with shared weights; modality attention
joins the streams within a second; a small depth transformer predicts the K codes of one modality in
one second, level by level. Source: Hypnos, arXiv 2606.09605, as its released library has it; sizes
are ours wherever configs/hypnos/rq_transformer.py says so.

Shapes: B batch, M modalities, S seconds, K levels, V codes per level, D width. The code axis is the
levels of all modalities one after the other, in the order of ``modalities``.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypnos_jax.models.code_axis import CodeAxis
from hypnos_jax.models.depth_transformer import DepthTransformer
from hypnos_jax.nn.linear import kernel_init
from hypnos_jax.nn.transformer import LayerNorm, TransformerLayer, rematerialised
from hypnos_jax.sharding import keep_rows

MASKING = ("crp", "none", "isolate", "subset", "bernoulli")


def chinese_restaurant(key: jax.Array, rows: int, modalities: int, alpha: float) -> jax.Array:
    """Draw a partition of the modalities for each row from a Chinese restaurant process.

    Modality i joins one of the i before it with probability 1 / (alpha + i) each, and else founds a
    group: alpha / (alpha + i). The expected number of groups is sum_i alpha / (alpha + i).

    Returns:
        int32 [rows, modalities]: equal labels are one group.
    """
    draws = jax.random.uniform(key, (rows, modalities))
    labels = [jnp.zeros(rows, jnp.int32)]
    for i in range(1, modalities):
        friend = jnp.floor(draws[:, i] * (alpha + i)).astype(jnp.int32)  # i or more: a new group
        seated = jnp.stack(labels, axis=1)
        joined = jnp.take_along_axis(seated, jnp.clip(friend, 0, i - 1)[:, None], axis=1)[:, 0]
        labels.append(jnp.where(friend < i, joined, i))
    return jnp.stack(labels, axis=1)


class ModalityLayer(nn.Module):
    """Attention among the modalities of the same second, in both directions.

    A learnt vector per modality is added to the stream itself at the entry.

    Attributes:
        layer: the keyword arguments of the ``TransformerLayer`` inside.
    """

    layer: dict[str, Any]

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, *, train: bool) -> jax.Array:
        """Return [B, M, S, D] of ``x`` [B, M, S, D] under ``mask`` bool [B, 1, M, M]."""
        shape = (x.shape[1], x.shape[-1])
        place = self.param("position_embedding", kernel_init("modality", "embed"), shape)
        x = jnp.swapaxes(x + place[None, :, None], 1, 2)
        x = TransformerLayer(causal=False, rope=False, **self.layer, name="layer")(
            x, mask, train=train
        )
        return jnp.swapaxes(x, 1, 2)


class Period(nn.Module):
    """The shortest run of blocks that repeats through the backbone; what is scanned over.

    Attributes:
        blocks: for each block, its window (s) and whether a modality layer follows.
        temporal: the keyword arguments of the temporal layers alone.
        layer: the keyword arguments common to all layers.
        modality_ffn: give the modality layers a position-wise network.
        remat: what of a layer is recomputed in the backward pass; see ``rematerialised``.
        train: draw dropout.
    """

    blocks: tuple[tuple[int, bool], ...]
    temporal: dict[str, Any]
    layer: dict[str, Any]
    modality_ffn: bool
    remat: str
    train: bool

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> tuple[jax.Array, None]:
        """Return [B, M, S, D] of ``x`` [B, M, S, D], and None as scan wants it."""

        def call(module, x, *args):
            return module(x, *args, train=self.train)

        run = rematerialised(call, self.remat)

        joint = dict(self.layer)
        if not self.modality_ffn:
            joint["ffn"] = None
        for i, (window, meets) in enumerate(self.blocks):
            layer = TransformerLayer(
                window=window, **self.layer, **self.temporal, name=f"block_{i}"
            )
            x = run(layer, x)
            if meets:
                x = run(ModalityLayer(joint, name=f"modality_{i}"), x, mask)
        return x, None


class Backbone(nn.Module):
    """The temporal and modality layers, scanned over their shortest period, and a final norm.

    Attributes:
        blocks: for each block, its window (s) and whether a modality layer follows.
        temporal, layer, modality_ffn, remat: see ``Period``.
        unroll: periods unrolled per step of the scan.
    """

    blocks: tuple[tuple[int, bool], ...]
    temporal: dict[str, Any]
    layer: dict[str, Any]
    modality_ffn: bool
    remat: str
    unroll: int

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, *, train: bool) -> jax.Array:
        """Return [B, M, S, D] of ``x`` [B, M, S, D] under ``mask`` bool [B, 1, M, M]."""
        count = len(self.blocks)
        period = next(
            n
            for n in range(1, count + 1)
            if count % n == 0 and self.blocks == self.blocks[:n] * (count // n)
        )
        stack = nn.scan(
            Period,
            variable_axes={"params": 0, "cache": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=nn.broadcast,
            length=count // period,
            unroll=min(self.unroll, count // period),
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        x, _ = stack(
            self.blocks[:period],
            self.temporal,
            self.layer,
            self.modality_ffn,
            self.remat,
            train,
            name="layers",
        )(x, mask)
        return LayerNorm(name="final_norm")(x)


class RqTransformer(nn.Module):
    """Predict the next second's codes of every modality from the past of all of them.

    Attributes:
        modalities: one dict each, in the order of the code axis: ``name``, ``levels`` K, ``codes``
            V, ``channel_id`` (row of the channel table), ``group`` (signal type: one set of code
            tables and heads; its modalities must agree on K and V); with timing levels also
            ``timing`` and ``timing_codes``, see ``CodeAxis``.
        dim, layers, heads: D, number of temporal blocks, H.
        channel_rows: rows of the channel table; 0 for none, and by default as many as are used.
        ffn, ffn_dim: ``"swiglu"`` or ``"gelu"`` and its hidden width, by default as
            ``nn.transformer.FeedForward`` has it; ``depth_ffn_dim``: of the depth transformer.
        qk_norm, xsa: of the temporal layers; see ``MultiHeadAttention``.
        local_window, wide_window: seconds that a block sees, itself included; None for all.
        wide_every: each n-th block is wide; 0 for none.
        modality_every, modality_start: modality attention follows block i (from 0) when i >= start
            and i - start + 1 is a multiple of every; 0 for never.
        modality_ffn: give the modality layers a position-wise network.
        depth_dim, depth_layers, depth_heads: of the depth transformer.
        depth_tables, tie_heads: which tables the depth transformer has for codes and heads; see
            ``code_tables`` of ``DepthTransformer``.
        dropout: on the branches of all layers.
        layer_scale: start of the backbone's LayerScale.
        masking: ``"crp"`` restricts modality attention in training to groups drawn per row; all
            present modalities are predicted still. Ablations: ``"none"``; ``"isolate"``, no
            modality sees another, in training and after; ``"subset"``, only the group of a random
            present modality stays present; ``"bernoulli"``, each modality is dropped with
            ``drop_rate`` and one survivor is rescued. Nothing is drawn at evaluation.
        crp_alpha: concentration of the process; large for many small groups.
        use_tracks: add the amplitude tracks of the seconds seen to the input (off as published).
        chunk: seconds whose logits are alive at once.
        attention: of the temporal layers; see ``nn.attention.attend_window``.
        remat: what of the backbone's layers is recomputed in the backward pass; see
            ``nn.transformer.rematerialised``.
        unroll: periods unrolled per step of the scan over layers.
        dtype: of the matrix products, ``"float32"`` or ``"bfloat16"``; all else is float32.
    """

    modalities: tuple[dict[str, Any], ...]
    dim: int
    layers: int
    heads: int
    channel_rows: int | None = None
    ffn: str = "swiglu"
    ffn_dim: int | None = None
    qk_norm: bool = True
    xsa: bool = False
    local_window: int | None = 64
    wide_window: int | None = 256
    wide_every: int = 4
    modality_every: int = 1
    modality_start: int = 0
    modality_ffn: bool = True
    depth_dim: int = 512
    depth_layers: int = 4
    depth_heads: int = 8
    depth_ffn_dim: int | None = None
    depth_tables: str = "own"
    tie_heads: bool = False
    dropout: float = 0.0
    layer_scale: float = 0.01
    masking: str = "crp"
    crp_alpha: float = 1.0
    drop_rate: float = 0.5
    use_tracks: bool = False
    attention: str = "auto"
    chunk: int = 64
    remat: str = "none"
    unroll: int = 1
    dtype: str = "float32"

    def setup(self):
        self.codes = CodeAxis(self.modalities)
        if self.masking not in MASKING:
            raise ValueError(f"masking={self.masking!r} is not known; use one of {MASKING}")
        dtype = jnp.dtype(self.dtype)
        groups = self.codes.groups
        used = 1 + max(modality["channel_id"] for modality in self.modalities)
        rows = used if self.channel_rows is None else self.channel_rows
        if 0 < rows < used:
            raise ValueError(f"channel_rows={rows} has no row for the channel_id {used - 1}")
        if rows:
            self.channels = self.param(
                "channel_embedding", kernel_init("channels", "embed"), (rows, self.dim)
            )
        self.bos = {
            g: self.param(f"{g}_bos_embedding", kernel_init("embed"), (self.dim,)) for g in groups
        }
        names = kernel_init("levels", "vocab", "embed")
        self.tables = {
            name: self.param(f"{name}_code_embedding", names, (t.levels, t.codes, self.dim))
            for name, t in self.codes.tables.items()
        }
        if self.use_tracks:
            names = kernel_init(None, "embed")
            self.track_kernels = {
                g: self.param(f"{g}_track_kernel", names, (2, self.dim)) for g in groups
            }
        layer = {
            "dim": self.dim,
            "heads": self.heads,
            "ffn": self.ffn,
            "ffn_dim": self.ffn_dim,
            "layer_scale": self.layer_scale,
            "dropout": self.dropout,
            "dtype": dtype,
        }
        self.backbone = Backbone(
            self._blocks(),
            {"qk_norm": self.qk_norm, "xsa": self.xsa, "kernel": self.attention},
            layer,
            self.modality_ffn,
            self.remat,
            self.unroll,
        )
        self.depth = DepthTransformer(
            self.modalities,
            self.dim,
            self.depth_dim,
            self.depth_layers,
            self.depth_heads,
            self.ffn,
            self.depth_ffn_dim,
            self.dropout,
            self.depth_tables,
            self.tie_heads,
            self.chunk,
            dtype,
        )

    def _blocks(self):
        return tuple(
            (
                self.wide_window
                if self.wide_every and (i + 1) % self.wide_every == 0
                else self.local_window,
                bool(self.modality_every)
                and i >= self.modality_start
                and (i - self.modality_start + 1) % self.modality_every == 0,
            )
            for i in range(self.layers)
        )

    @property
    def reach(self) -> int | None:
        """How many seconds back a second's output looks: the sum of (window - 1) over the blocks.

        Row t of the context depends on the codes of the seconds t - reach - 1 to t - 1. A chunk
        that begins ``reach + 1`` seconds early therefore gives the rows of a single pass. None
        where a block sees the whole past.
        """
        windows = [window for window, _ in self._blocks()]
        return None if None in windows else sum(window - 1 for window in windows)

    def __call__(
        self,
        batch: dict[str, jax.Array],
        weight: jax.Array | None = None,
        *,
        train: bool = False,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Score every code of a batch given the past, and the lower levels of its own second.

        Args:
            batch: ``codes`` int32 [B, S, sumK], each in [0, V) of its group (another gives NaN);
                ``present`` bool [B, M]; ``channel_ids`` int32 [B, M]; with ``use_tracks`` also
                ``tracks`` float32 [B, S, M, 2] and ``valid`` bool [B, S, M].
            weight: float32 [B, S, M], what each second and modality counts for in ``total``; 1 by
                default. Modalities that are absent count nothing.
            train: draw dropout (stream ``"dropout"``) and the masking (stream ``"crp"``).

        Returns:
            ``total`` float32, the sum of weight times the mean over levels of ``nll``: the one
            that has a gradient. And scores, float32 [B, S, sumK] each: ``nll`` (nats), ``hit`` (1
            where the likeliest code is the right one), ``max_logit`` (largest absolute logit),
            ``log_partition``; and ``present`` bool [B, M], those predicted.

        Raises:
            ValueError: the batch's M or sumK is not the model's.
        """
        self.codes.check(batch["codes"], batch["present"])
        present, groups = self._mask(batch["present"], train)
        batch = {**batch, "present": present}
        x = self._shifted(batch, batch["codes"].shape[1] - 1)
        context = self._run(x, present, groups, train=train)
        if weight is None:
            weight = jnp.ones((*batch["codes"].shape[:2], present.shape[1]))
        weight = weight * present[:, None]
        total, scores = self.depth.score(context, batch["codes"], weight, self.tables, train=train)
        return total, {**scores, "present": present}

    def context(self, batch: dict[str, jax.Array], *, lag: bool = True) -> jax.Array:
        """Return the backbone's output alone, float32 [B, M, S, D]; zeros where absent.

        Args:
            batch: as in ``__call__``.
            lag: row t has seen the seconds before t (as released); False: second t as well.
        """
        self.codes.check(batch["codes"], batch["present"])
        present, groups = self._mask(batch["present"], False)
        x = self._shifted(batch, batch["codes"].shape[1] - lag)
        x = self._run(x, present, groups)
        return x if lag else x[:, :, 1:]

    def advance(self, batch: dict[str, jax.Array], *, first: jax.Array | bool = False) -> jax.Array:
        """Return the context after each of some seconds, given the cache of the seconds before.

        Apply with ``mutable=["cache"]`` and hand the cache on. A night in pieces of any lengths
        gives ``context``'s rows in constant memory, and one program serves all pieces of a length.

        Args:
            batch: as in ``__call__``, of the next S seconds.
            first: this is the start: in place of the first second, which is not read, stands BOS.

        Returns:
            float32 [B, M, S, D]: row i has seen second i of the batch and all before it.

        Raises:
            ValueError: a window is None, so that no cache can hold what it sees.
        """
        self.codes.check(batch["codes"], batch["present"])
        present, groups = self._mask(batch["present"], False)
        x = self._shifted({**batch, "present": present}, batch["codes"].shape[1])
        head = jnp.where(first, x[:, :, :1], x[:, :, 1:2])
        return self._run(jnp.concatenate([head, x[:, :, 2:]], axis=2), present, groups)

    def surprise(self, context: jax.Array, codes: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return how unexpected codes were; see ``DepthTransformer.surprise``.

        Args:
            context: float32 [B, M, S, D], each second's of the seconds before it alone.
            codes: int32 [B, S, sumK].
        """
        return self.depth.surprise(context, codes, self.tables)

    def draw(self, context: jax.Array, key: jax.Array, **options) -> jax.Array:
        """Draw one second's codes int32 [B, sumK]; see ``DepthTransformer.draw``."""
        return self.depth.draw(context, key, self.tables, **options)

    def _mask(self, present, train):
        """Which modalities are present, and which groups they may meet in, both [B, M]."""
        rows, count = present.shape
        together = jnp.zeros((rows, count), jnp.int32)
        if self.masking == "isolate":
            return present, together + jnp.arange(count)[None]
        if not train or self.masking == "none":
            return present, together
        key, other = jax.random.split(self.make_rng("crp"))
        if self.masking == "bernoulli":
            kept = present & jax.random.bernoulli(key, 1 - self.drop_rate, present.shape)
            rescued = jax.nn.one_hot(_one_of(other, present), count, dtype=bool) & present
            return jnp.where(kept.any(1, keepdims=True), kept, rescued), together
        groups = chinese_restaurant(key, rows, count, self.crp_alpha)
        if self.masking == "subset":
            chosen = jnp.take_along_axis(groups, _one_of(other, present)[:, None], axis=1)
            return present & (groups == chosen), together
        return present, groups

    def _shifted(self, batch, seen):
        """The streams: BOS, then the first ``seen`` seconds; [B, M, 1 + seen, D]."""
        codes, present = batch["codes"], batch["present"]
        streams = {}
        for group, members in self.codes.groups.items():
            here = jnp.stack([present[:, i] for i in members], axis=1)
            x = 0.0
            for name in self.codes.tables_of(group):
                own, table = self.codes.members(codes[:, :seen], name), self.tables[name]
                own = jnp.where(here[..., None, None], own, 0)
                for level in range(len(table)):
                    x += jnp.take(table[level], own[..., level], axis=0, mode="fill")
            if self.use_tracks:
                x += self._amplitude(batch, group, seen)
            bos = jnp.broadcast_to(self.bos[group], (*x.shape[:2], 1, self.dim))
            streams[group] = jnp.concatenate([bos, x], axis=2)
        x = self.codes.streams(streams)
        if self.channel_rows != 0:
            x += jnp.take(self.channels, batch["channel_ids"], axis=0, mode="fill")[:, :, None]
        return keep_rows(x * present[:, :, None, None])

    def _amplitude(self, batch, group, seen):
        members = jnp.asarray(self.codes.groups[group])
        tracks = jnp.take(batch["tracks"][:, :seen], members, axis=2)
        # The mean may be hundreds of microvolts of offset, the other is a logarithm already.
        tracks = jnp.stack([jnp.arcsinh(tracks[..., 0]), tracks[..., 1]], axis=-1)
        valid = jnp.take(batch["valid"][:, :seen], members, axis=2)
        x = jnp.where(valid[..., None], tracks, 0.0) @ self.track_kernels[group]
        return x.swapaxes(1, 2)

    def _run(self, x, present, groups, *, train=False):
        both = present[:, :, None] & present[:, None]
        # The diagonal always: who may look nowhere would get the mean of everything.
        mask = both & (groups[:, :, None] == groups[:, None])
        mask |= jnp.eye(len(self.modalities), dtype=bool)[None]
        x = self.backbone(x, mask[:, None], train=train)
        return x * present[:, :, None, None]


def _one_of(key, present):
    """A random present modality of each row, int32 [B]."""
    return jnp.argmax(jnp.where(present, jax.random.uniform(key, present.shape), -1.0), axis=1)
