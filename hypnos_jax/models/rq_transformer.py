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

from hypnos_jax.nn.transformer import (
    LayerNorm,
    Transformer,
    TransformerLayer,
    kernel_init,
    zeros_init,
)

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
        remat: recompute each layer in the backward pass.
        train: draw dropout.
    """

    blocks: tuple[tuple[int, bool], ...]
    temporal: dict[str, Any]
    layer: dict[str, Any]
    modality_ffn: bool
    remat: bool
    train: bool

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> tuple[jax.Array, None]:
        """Return [B, M, S, D] of ``x`` [B, M, S, D], and None as scan wants it."""

        def run(module, x, *args):
            call = lambda module, x, *args: module(x, *args, train=self.train)
            return (nn.remat(call, prevent_cse=False) if self.remat else call)(module, x, *args)

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
    remat: bool
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
            variable_axes={"params": 0},
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
            tables and heads; its modalities must agree on K and V).
        dim, layers, heads: D, number of temporal blocks, H.
        ffn: ``"swiglu"`` or ``"gelu"``.
        qk_norm, xsa: of the temporal layers; see ``nn.transformer.Attention``.
        local_window, wide_window: seconds that a block sees, itself included.
        wide_every: each n-th block is wide; 0 for none.
        modality_every, modality_start: modality attention follows block i (from 0) when i >= start
            and i - start + 1 is a multiple of every; 0 for never.
        modality_ffn: give the modality layers a position-wise network.
        depth_dim, depth_layers, depth_heads: of the depth transformer.
        tie_tables: use the backbone's code tables in the depth transformer (D = depth_dim).
        tie_heads: use the depth tables as the heads' matrices.
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
        remat: recompute blocks in the backward pass.
        unroll: periods unrolled per step of the scan over layers.
        dtype: of the matrix products, ``"float32"`` or ``"bfloat16"``; all else is float32.
    """

    modalities: tuple[dict[str, Any], ...]
    dim: int
    layers: int
    heads: int
    ffn: str = "swiglu"
    qk_norm: bool = True
    xsa: bool = False
    local_window: int = 64
    wide_window: int = 256
    wide_every: int = 4
    modality_every: int = 1
    modality_start: int = 0
    modality_ffn: bool = True
    depth_dim: int = 512
    depth_layers: int = 4
    depth_heads: int = 8
    tie_tables: bool = False
    tie_heads: bool = False
    dropout: float = 0.0
    layer_scale: float = 0.01
    masking: str = "crp"
    crp_alpha: float = 1.0
    drop_rate: float = 0.5
    use_tracks: bool = False
    chunk: int = 64
    remat: bool = False
    unroll: int = 1
    dtype: str = "float32"

    def setup(self):
        self._check()
        dtype = jnp.dtype(self.dtype)
        groups = self.groups
        ids = 1 + max(m["channel_id"] for m in self.modalities)
        vector, table = kernel_init("embed"), kernel_init("levels", "vocab", "embed")
        self.channels = self.param(
            "channel_embedding", kernel_init("channels", "embed"), (ids, self.dim)
        )
        self.bos = {g: self.param(f"{g}_bos_embedding", vector, (self.dim,)) for g in groups}
        self.tables = {
            g: self.param(f"{g}_code_embedding", table, (*self._sizes(g), self.dim)) for g in groups
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
            "layer_scale": self.layer_scale,
            "dropout": self.dropout,
            "dtype": dtype,
        }
        self.backbone = Backbone(
            self._blocks(),
            {"qk_norm": self.qk_norm, "xsa": self.xsa},
            layer,
            self.modality_ffn,
            self.remat,
            self.unroll,
        )

        width = self.depth_dim
        if width != self.dim:
            self.condition = nn.Dense(
                width,
                dtype=dtype,
                kernel_init=kernel_init("embed", None),
                bias_init=zeros_init(None),
            )
        self.depth_places = self.param(
            "depth_modality_embedding",
            kernel_init("modality", "embed"),
            (len(self.modalities), width),
        )
        self.depth_levels = self.param(
            "depth_level_embedding",
            kernel_init("levels", "embed"),
            (max(m["levels"] for m in self.modalities), width),
        )
        self.depth_tables = self.tables
        if not self.tie_tables:
            self.depth_tables = {
                g: self.param(f"{g}_depth_embedding", table, (*self._sizes(g), width))
                for g in groups
            }
        if not self.tie_heads:
            head = kernel_init("levels", "embed", "vocab")
            self.heads_kernels = {
                g: self.param(
                    f"{g}_head_kernel", head, (self._sizes(g)[0], width, self._sizes(g)[1])
                )
                for g in groups
            }
        self.heads_biases = {
            g: self.param(f"{g}_head_bias", zeros_init("levels", "vocab"), self._sizes(g))
            for g in groups
        }
        self.depth = Transformer(
            self.depth_layers,
            width,
            self.depth_heads,
            ffn=self.ffn,
            layer_scale=None,
            rope=False,
            dropout=self.dropout,
            dtype=dtype,
        )

    def _check(self):
        if not self.modalities:
            raise ValueError("modalities=() is empty; give one dict per modality of the code axis")
        for members in self.groups.values():
            first = self.modalities[members[0]]
            for other in (self.modalities[i] for i in members):
                if (other["levels"], other["codes"]) != (first["levels"], first["codes"]):
                    raise ValueError(
                        f"modalities {first['name']} and {other['name']} share the group"
                        f" {first['group']!r} but have {first['levels']} x {first['codes']} and"
                        f" {other['levels']} x {other['codes']} levels x codes; one tokenizer has"
                        " one size"
                    )
        if self.masking not in MASKING:
            raise ValueError(f"masking={self.masking!r} is not known; use one of {MASKING}")
        if self.tie_tables and self.dim != self.depth_dim:
            raise ValueError(
                f"tie_tables needs dim and depth_dim equal, not {self.dim} and {self.depth_dim}"
            )

    @property
    def groups(self) -> dict[str, list[int]]:
        """Each group's modalities, as places in ``modalities``."""
        groups = {}
        for i, modality in enumerate(self.modalities):
            groups.setdefault(modality["group"], []).append(i)
        return groups

    @property
    def columns(self) -> list[slice]:
        """Each modality's part of the code axis."""
        ends = [0]
        for modality in self.modalities:
            ends.append(ends[-1] + modality["levels"])
        return [slice(a, b) for a, b in zip(ends, ends[1:])]

    @property
    def reach(self) -> int:
        """How many seconds back a second's output looks: the sum of (window - 1) over the blocks.

        Row t of the context depends on the codes of the seconds t - reach - 1 to t - 1. A chunk
        that begins ``reach + 1`` seconds early therefore gives the rows of a single pass.
        """
        return sum(window - 1 for window, _ in self._blocks())

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

    def _sizes(self, group):
        first = self.modalities[self.groups[group][0]]
        return first["levels"], first["codes"]

    def _gather(self, x, group):
        """The group's columns of the code axis as [..., members, K]."""
        return jnp.stack([x[..., self.columns[i]] for i in self.groups[group]], axis=-2)

    def _arrange(self, parts, axis):
        """Concatenate the groups' parts along ``axis`` and put it in the order of modalities."""
        order = [i for members in self.groups.values() for i in members]
        x = jnp.concatenate(parts, axis=axis)
        if order == sorted(order):
            return x
        return jnp.take(x, jnp.asarray([order.index(i) for i in range(len(order))]), axis=axis)

    def __call__(self, batch: dict[str, jax.Array], *, train: bool = False) -> dict[str, jax.Array]:
        """Score every code of a batch given the past, and the lower levels of its own second.

        Args:
            batch: ``codes`` int32 [B, S, sumK], each in [0, V) of its group (a code outside gives
                NaN); ``present`` bool [B, M]; ``channel_ids`` int32 [B, M]; with ``use_tracks``
                also ``tracks`` float32 [B, S, M, 2] and ``valid`` bool [B, S, M].
            train: draw dropout (stream ``"dropout"``) and the masking (stream ``"crp"``).

        Returns:
            float32 [B, S, sumK] each: ``nll`` (nats), ``hit`` (1 where the likeliest code is the
            right one), ``max_logit`` (largest absolute logit), ``log_partition``; and ``present``
            bool [B, M], those predicted.

        Raises:
            ValueError: the batch's M or sumK is not the model's.
        """
        self._check_batch(batch)
        present, groups = self._mask(batch["present"], train)
        context = self._run({**batch, "present": present}, groups, train, shift=True)
        return {**self._score(context, batch["codes"], train), "present": present}

    def context(self, batch: dict[str, jax.Array], *, lag: bool = True) -> jax.Array:
        """Return the backbone's output alone, float32 [B, M, S, D]; zeros where absent.

        Args:
            batch: as in ``__call__``.
            lag: row t has seen the seconds before t (as released); False: second t as well.
        """
        self._check_batch(batch)
        present, groups = self._mask(batch["present"], False)
        return self._run({**batch, "present": present}, groups, False, shift=lag)

    def _check_batch(self, batch):
        width, count = self.columns[-1].stop, len(self.modalities)
        if batch["codes"].shape[-1] != width or batch["present"].shape[-1] != count:
            raise ValueError(
                f"codes {batch['codes'].shape} and present {batch['present'].shape} do not fit a"
                f" model of {count} modalities with {width} levels in all:"
                f" {[(m['name'], m['levels']) for m in self.modalities]}; train it on tokens of the"
                " same tokenizers, or set model.modalities to the tokens'"
            )

    def _mask(self, present, train):
        """Which modalities are present, and which groups they may meet in, both [B, M]."""
        rows, count = present.shape
        alone = jnp.broadcast_to(jnp.arange(count)[None], (rows, count))
        together = jnp.zeros((rows, count), jnp.int32)
        if self.masking == "isolate":
            return present, alone
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

    def _run(self, batch, groups, train, shift):
        """Embed, shift by the BOS vector, run the backbone: [B, M, S, D]."""
        codes, present, ids = batch["codes"], batch["present"], batch["channel_ids"]
        rows, length = codes.shape[:2]
        seen = length - 1 if shift else length
        streams = []
        for group, members in self.groups.items():
            own = self._gather(codes[:, :seen], group).swapaxes(1, 2)  # [B, members, seen, K]
            own = jnp.where(present[:, jnp.asarray(members), None, None], own, 0)
            x = sum(
                jnp.take(table, own[..., level], axis=0, mode="fill")
                for level, table in enumerate(self.tables[group])
            )
            if self.use_tracks:
                x += self._amplitude(batch, group, members, seen)
            bos = jnp.broadcast_to(self.bos[group], (rows, len(members), 1, self.dim))
            streams.append(jnp.concatenate([bos, x], axis=2))
        x = self._arrange(streams, 1)
        x += jnp.take(self.channels, ids, axis=0, mode="fill")[:, :, None]
        x *= present[:, :, None, None]
        both = present[:, :, None] & present[:, None]
        # The diagonal always: a row that may look nowhere would spread the mean of everything.
        mask = both & (groups[:, :, None] == groups[:, None])
        mask |= jnp.eye(len(self.modalities), dtype=bool)[None]
        x = self.backbone(x, mask[:, None], train=train)
        if not shift:
            x = x[:, :, 1:]
        return x * present[:, :, None, None]

    def _amplitude(self, batch, group, members, seen):
        # log std as it is; the mean may be hundreds of microvolts of offset, so its logarithm too.
        members = jnp.asarray(members)
        tracks = jnp.take(batch["tracks"][:, :seen], members, axis=2)
        tracks = jnp.stack([jnp.arcsinh(tracks[..., 0]), tracks[..., 1]], axis=-1)
        valid = jnp.take(batch["valid"][:, :seen], members, axis=2)
        x = jnp.where(valid[..., None], tracks, 0.0) @ self.track_kernels[group]
        return x.swapaxes(1, 2)

    def _score(self, context, codes, train):
        """Run the depth transformer over chunks of seconds, so that few logits live at once."""
        rows, length = codes.shape[:2]
        chunk = min(self.chunk, length)
        count = -(-length // chunk)
        end = count * chunk - length
        context = jnp.pad(context, [(0, 0), (0, 0), (0, end), (0, 0)])
        codes = jnp.pad(codes, [(0, 0), (0, end), (0, 0)])
        context = context.reshape(*context.shape[:2], count, chunk, -1)
        codes = codes.reshape(rows, count, chunk, -1)

        def step(module, carry, context, codes):
            return carry, module._score_chunk(context, codes, train)

        scan = nn.scan(
            nn.remat(step, prevent_cse=False),
            variable_broadcast="params",
            split_rngs={"params": False, "dropout": True},
            in_axes=(2, 1),
            out_axes=1,
        )
        _, scores = scan(self, None, context, codes)
        return {name: x.reshape(rows, count * chunk, -1)[:, :length] for name, x in scores.items()}

    def _score_chunk(self, context, codes, train):
        logits = self._logits(context, codes, train)
        scores = {"nll": [], "hit": [], "max_logit": [], "log_partition": []}
        for group in self.groups:
            own, target = logits[group], self._gather(codes, group).swapaxes(1, 2)
            partition = jax.nn.logsumexp(own, axis=-1)
            right = jnp.take_along_axis(own, target[..., None], axis=-1, mode="fill")[..., 0]
            likeliest = jnp.argmax(own, axis=-1)
            scores["nll"].append(partition - right)
            scores["hit"].append((likeliest == target).astype(jnp.float32))
            scores["max_logit"].append(jax.lax.stop_gradient(jnp.abs(own).max(-1)))
            scores["log_partition"].append(jax.lax.stop_gradient(partition))
        return {name: self._code_axis(parts) for name, parts in scores.items()}

    def _code_axis(self, parts):
        """Lay the groups' [B, members, S, K] out as [B, S, sumK]."""
        columns = {}
        for members, part in zip(self.groups.values(), parts):
            for place, i in enumerate(members):
                columns[i] = part[:, place]
        return jnp.concatenate([columns[i] for i in range(len(columns))], axis=-1)

    def _logits(self, context, codes, train):
        """Each group's logits, float32 [B, members, S, K, V], given the true lower levels."""
        places = self._condition(context)  # [B, M, S, Dd]
        deepest = self.depth_levels.shape[0]
        inputs = []
        for group in self.groups:
            own = self._gather(codes, group).swapaxes(1, 2)
            table = self.depth_tables[group]
            lower = [jnp.zeros((*own.shape[:-1], self.depth_dim))]
            for level in range(len(table) - 1):
                embedded = jnp.take(table[level], own[..., level], axis=0, mode="fill")
                lower.append(lower[-1] + embedded)
            x = jnp.stack(lower, axis=-2)
            inputs.append(jnp.pad(x, [(0, 0)] * 3 + [(0, deepest - len(table)), (0, 0)]))
        x = self._arrange(inputs, 1) + places[..., None, :] + self.depth_levels[None, None, None]
        x = self.depth(x, train=train)
        logits = {}
        for group, members in self.groups.items():
            own = jnp.take(x, jnp.asarray(members), axis=1)[..., : self._sizes(group)[0], :]
            logits[group] = self._head(group, own)
        return logits

    def _condition(self, context):
        x = self.condition(context) if self.depth_dim != self.dim else context
        return x.astype(jnp.float32) + self.depth_places[None, :, None]

    def _head(self, group, x):
        dtype = jnp.dtype(self.dtype)
        if self.tie_heads:
            form, kernel = "bmskd,kvd->bmskv", self.depth_tables[group]
        else:
            form, kernel = "bmskd,kdv->bmskv", self.heads_kernels[group]
        logits = jnp.einsum(
            form, x.astype(dtype), kernel.astype(dtype), preferred_element_type=jnp.float32
        )
        return logits + self.heads_biases[group][None, None, None]


def _one_of(key, present):
    """A random present modality of each row, int32 [B]."""
    return jnp.argmax(jnp.where(present, jax.random.uniform(key, present.shape), -1.0), axis=1)
