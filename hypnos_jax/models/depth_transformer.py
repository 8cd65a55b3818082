"""The K codes of one modality in one second, level by level: the depth transformer of Hypnos.

The input at level k is the condition (the backbone's output and a vector of the modality) plus the
sum of the embeddings of the codes at the levels below, as in RQ-Transformer (arXiv 2203.01941), not
the previous code alone as in Moshi. One network serves all modalities and levels; each group of
modalities has its own code tables and heads. Source: Hypnos, arXiv 2606.09605, as released. Ours:
timing levels come after those of the tokenizer, with a table and heads of their own.

Shapes: B batch, M modalities, G those of a group, S seconds, K levels, V codes, D width.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypnos_jax.models.code_axis import CodeAxis
from hypnos_jax.nn.cross_entropy import cross_entropy, head_logits, surprise
from hypnos_jax.nn.linear import kernel_init, zeros_init
from hypnos_jax.nn.transformer import Transformer

CODE_TABLES = ("own", "backbone", "projected")


class DepthTransformer(nn.Module):
    """Score or draw the codes of each second, given the backbone's output.

    Attributes:
        modalities: see ``CodeAxis``.
        context_dim: width of the backbone's output; projected where it is not ``dim``.
        dim, layers, heads, ffn, ffn_dim, dropout: of the layers (no rotary positions, no
            LayerScale).
        code_tables: ``"own"``; ``"backbone"``, the same as the backbone's, which must be as wide;
            ``"projected"``, the backbone's times a learnt matrix per group.
        tie_heads: use the code tables as the heads' matrices; where they are projected, the
            backbone's, after a learnt projection of the layers' output to their width.
        chunk: seconds whose logits are alive at once.
        dtype: of the matrix products.
    """

    modalities: tuple[dict[str, Any], ...]
    context_dim: int
    dim: int
    layers: int
    heads: int
    ffn: str = "swiglu"
    ffn_dim: int | None = None
    dropout: float = 0.0
    code_tables: str = "own"
    tie_heads: bool = False
    chunk: int = 64
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.codes = CodeAxis(self.modalities)
        sizes = {name: (table.levels, table.codes) for name, table in self.codes.tables.items()}
        deepest = max(table.own.stop for table in self.codes.tables.values())
        if self.dim != self.context_dim:
            self.condition = nn.Dense(
                self.dim,
                dtype=self.dtype,
                kernel_init=kernel_init("embed", None),
                bias_init=zeros_init(None),
            )
        self.places = self.param(
            "modality_embedding",
            kernel_init("modality", "embed"),
            (len(self.modalities), self.dim),
        )
        self.level_places = self.param(
            "level_embedding", kernel_init("levels", "embed"), (deepest, self.dim)
        )
        names = kernel_init("levels", "vocab", "embed")
        if self.code_tables not in CODE_TABLES:
            raise ValueError(f"depth_tables={self.code_tables!r} is not one of {CODE_TABLES}")
        if self.code_tables == "backbone" and self.dim != self.context_dim:
            raise ValueError(
                f"depth_tables='backbone' needs depth_dim={self.dim} to be dim={self.context_dim};"
                " use 'projected' or 'own'"
            )
        if self.code_tables == "own":
            # The last level's is never read, unless tied: kept so that sizes are those released.
            self.tables = {
                t: self.param(f"{t}_code_embedding", names, (*size, self.dim))
                for t, size in sizes.items()
            }
        if self.code_tables == "projected":
            self.projections = self._matrices("code_projection", (self.context_dim, self.dim))
            if self.tie_heads:
                self.unprojections = self._matrices("head_projection", (self.dim, self.context_dim))
        if not self.tie_heads:
            names = kernel_init("levels", "embed", "vocab")
            self.kernels = {
                t: self.param(f"{t}_head_kernel", names, (levels, self.dim, codes))
                for t, (levels, codes) in sizes.items()
            }
        self.biases = {
            t: self.param(f"{t}_head_bias", zeros_init("levels", "vocab"), size)
            for t, size in sizes.items()
        }
        layer = {
            "dim": self.dim,
            "heads": self.heads,
            "ffn": self.ffn,
            "ffn_dim": self.ffn_dim,
            "layer_scale": None,
            "rope": False,
            "dropout": self.dropout,
            "dtype": self.dtype,
        }
        self.stack = Transformer(self.layers, layer)

    def _matrices(self, name, shape):
        init = kernel_init("embed", None)
        return {g: self.param(f"{g}_{name}", init, shape) for g in self.codes.groups}

    def logits(
        self,
        context: jax.Array,
        codes: jax.Array,
        tables: dict[str, jax.Array] | None = None,
        *,
        train: bool = False,
    ) -> dict[str, jax.Array]:
        """Return each table's logits, given the true codes of the lower levels.

        Args:
            context: float32 [B, M, S, context_dim].
            codes: int32 [B, S, sumK].
            tables: name of ``CodeAxis.tables`` -> [K, V, context_dim], the backbone's; not read
                where ``code_tables`` is ``"own"``.
            train: draw dropout.

        Returns:
            name of the table -> float32 [B, G, S, K, V]; a level depends on codes of lower levels
            alone.
        """
        logits = {}
        for name, (x, kernel) in self._heads(context, codes, tables, train).items():
            flat = head_logits(x.reshape(len(x), -1, x.shape[-1]), kernel, self.biases[name])
            logits[name] = jnp.moveaxis(flat.reshape(*x.shape[:-1], -1), 0, -2)
        return logits

    def _heads(self, context, codes, tables, train):
        """What each table's logits are the product of: [K, B, G, S, D] and float32 [K, D, V]."""
        place = self.condition(context) if self.dim != self.context_dim else context
        place = place.astype(jnp.float32) + self.places[None, :, None]
        deepest = self.level_places.shape[0]
        tables = self.tables if self.code_tables == "own" else tables
        parts = {}
        for group in self.codes.groups:
            lower = [0.0]
            for name in self.codes.tables_of(group):
                own, table = self.codes.members(codes, name), tables[name]
                for level in range(len(table)):
                    embedded = jnp.take(table[level], own[..., level], axis=0, mode="fill")
                    lower.append(lower[-1] + embedded)
            lower = [jnp.zeros_like(lower[-1]), *lower[1:-1]]  # the last level is below none
            x = jnp.stack(lower, axis=-2)
            if self.code_tables == "projected":
                x = self._project(x, self.projections[group])
            parts[group] = jnp.pad(x, [(0, 0)] * 3 + [(0, deepest - len(lower)), (0, 0)])
        x = self.codes.streams(parts) + place[..., None, :] + self.level_places[None, None, None]
        x = self.stack(x, train=train)
        return {name: self._head(name, x, table) for name, table in tables.items()}

    def _project(self, x, matrix):
        product = x.astype(self.dtype) @ matrix.astype(self.dtype)
        return product.astype(jnp.float32)

    def _head(self, name, x, table):
        own = self.codes.tables[name]
        x = jnp.stack([x[:, i, :, own.own] for i in self.codes.groups[own.group]], axis=1)
        # Levels first, as the product over each level's own matrix wants them.
        x, kernel = jnp.moveaxis(x, -2, 0), None if self.tie_heads else self.kernels[name]
        if self.tie_heads:
            kernel = jnp.swapaxes(table, 1, 2)
            if self.code_tables == "projected":
                x = self._project(x, self.unprojections[own.group])
        return x.astype(self.dtype), kernel

    def score(
        self,
        context: jax.Array,
        codes: jax.Array,
        weight: jax.Array,
        tables: dict[str, jax.Array] | None = None,
        *,
        train: bool = False,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return what the codes cost, without keeping more than ``chunk`` seconds of logits.

        ``total = sum over seconds and modalities of weight * (mean over levels of nll)``

        The gradient of a chunk is taken right after its forward pass and only scaled later, which
        a sum allows: nothing is kept or computed twice for the backward pass.

        Args:
            context: float32 [B, M, S, context_dim].
            codes: int32 [B, S, sumK], each in [0, V) of its group; another gives NaN.
            weight: float32 [B, S, M]; constant, and what it is 0 for is not looked at.
            tables: as for ``logits``.
            train: draw dropout.

        Returns:
            ``total``, float32 scalar, the one that has a gradient; and float32 [B, S, sumK] each:
            ``nll`` (nats), ``hit`` (1 where the likeliest code is the right one), ``max_logit``
            (largest absolute logit), ``log_partition``.
        """
        key = self.make_rng("dropout") if train and self.dropout else jax.random.key(0)
        module, params = self.clone(parent=None), self.variables["params"]
        if self.is_initializing():
            self.logits(context[:, :, :1], codes[:, :1], tables)
            params = self.variables["params"]
        length = codes.shape[1]

        def cost(learnt, context, codes, weight, key):
            params, tables = learnt
            return module.apply(
                {"params": params},
                context,
                codes,
                weight,
                tables,
                train,
                rngs={"dropout": key},
                method="_cost",
            )

        given = self._pieces(codes, 1), self._pieces(weight, 1)
        pieces = (*given, jax.random.split(key, len(given[0])))
        learnt = (params, None if self.code_tables == "own" else tables)
        total, scores = _sum_with_gradient(cost, learnt, self._pieces(context, 2), pieces)
        return total, {name: _joined(x)[:, :length] for name, x in scores.items()}

    def _pieces(self, x, axis):
        """The axis of seconds cut into ``chunk`` each, zeros behind; pieces first."""
        chunk = min(self.chunk, x.shape[axis])
        count = -(-x.shape[axis] // chunk)
        pads = [(0, 0)] * x.ndim
        pads[axis] = (0, count * chunk - x.shape[axis])
        x = jnp.pad(x, pads)
        x = x.reshape(*x.shape[:axis], count, chunk, *x.shape[axis + 1 :])
        return jnp.moveaxis(x, axis, 0)

    def surprise(
        self,
        context: jax.Array,
        codes: jax.Array,
        tables: dict[str, jax.Array] | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Return how unexpected codes were, ``chunk`` seconds of logits at a time.

        Args:
            context, codes, tables: as for ``score``.

        Returns:
            float32 [B, S, sumK] each, in nats: the negative log likelihood of each code given the
            context and the true codes of the lower levels, and the entropy of that prediction.
        """
        module, params = self.clone(parent=None), self.variables["params"]

        def one(piece):
            return module.apply({"params": params}, *piece, tables, method="_surprise")

        found = jax.lax.map(one, (self._pieces(context, 2), self._pieces(codes, 1)))
        return tuple(_joined(x)[:, : codes.shape[1]] for x in found)

    def _surprise(self, context, codes, tables):
        parts = {}, {}
        for group, (x, kernel) in self._heads(context, codes, tables, False).items():
            target = jnp.moveaxis(self.codes.members(codes, group), -1, 0)
            flat = x.reshape(len(x), -1, x.shape[-1]), target.reshape(len(x), -1)
            found = surprise(flat[0], kernel, self.biases[group], flat[1])
            for part, values in zip(parts, found):
                part[group] = jnp.moveaxis(values.reshape(target.shape), 0, -1)
        return tuple(self.codes.axis(part) for part in parts)

    def _cost(self, context, codes, weight, tables, train):
        scores = {"nll": {}, "hit": {}, "max_logit": {}, "log_partition": {}}
        for name, (x, kernel) in self._heads(context, codes, tables, train).items():
            target = jnp.moveaxis(self.codes.members(codes, name), -1, 0)
            flat = x.reshape(len(x), -1, x.shape[-1]), target.reshape(len(x), -1)
            nll, others = cross_entropy(flat[0], kernel, self.biases[name], flat[1])
            for kind, score in {"nll": nll, **others}.items():
                scores[kind][name] = jnp.moveaxis(score.reshape(target.shape), 0, -1)
        scores = {kind: self.codes.axis(parts) for kind, parts in scores.items()}
        total = 0.0
        for i, columns in enumerate(self.codes.columns):
            own = weight[..., i]
            nll = scores["nll"][..., columns].mean(-1)
            total += jnp.sum(jnp.where(own > 0, nll, 0.0) * own)
        return total, scores

    def draw(
        self,
        context: jax.Array,
        key: jax.Array,
        tables: dict[str, jax.Array] | None = None,
        *,
        temperature: float = 0.7,
        top_p: float = 0.95,
    ) -> jax.Array:
        """Draw the codes of one second, level by level.

        Args:
            context: float32 [B, M, context_dim].
            key: of the draws.
            tables: as for ``logits``.
            temperature: divides the logits; 0 takes the likeliest code.
            top_p: draw among the likeliest codes that together reach this probability.

        Returns:
            int32 [B, sumK].
        """
        codes = jnp.zeros((context.shape[0], 1, self.codes.width), jnp.int32)
        for level in range(self.level_places.shape[0]):
            parts = {}
            every = self.logits(context[:, :, None], codes, tables)
            for i, (name, logits) in enumerate(every.items()):
                own, at = self.codes.members(codes, name), level - self.codes.tables[name].first
                if 0 <= at < own.shape[-1]:
                    each = jax.random.fold_in(jax.random.fold_in(key, level), i)
                    drawn = draw_code(logits[..., at, :], each, temperature, top_p)
                    own = own.at[..., at].set(drawn)
                parts[name] = own
            codes = self.codes.axis(parts)
        return codes[:, 0]


def _joined(x):
    """[B, S, ...] of pieces [n, B, S / n, ...]."""
    return jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:])


def _sum_with_gradient(cost, params, xs, pieces):
    """Sum ``cost(params, x, *piece) -> (scalar, scores)`` over pieces, one after the other.

    Returns:
        The sum, and the scores of all pieces stacked, which have no gradient.
    """

    def forward(params, xs, pieces):
        def step(total, inputs):
            part, scores = cost(params, *inputs)
            return total + part, scores

        return jax.lax.scan(step, jnp.float32(0), (xs, *pieces))

    def forward_with_gradient(params, xs, pieces):
        def step(carry, inputs):
            x, *piece = inputs
            (part, scores), (grads, dx) = jax.value_and_grad(cost, (0, 1), has_aux=True)(
                params, x, *piece
            )
            total, grads_before = carry
            return (total + part, jax.tree.map(jnp.add, grads_before, grads)), (scores, dx)

        start = (jnp.float32(0), jax.tree.map(jnp.zeros_like, params))
        (total, grads), (scores, dxs) = jax.lax.scan(step, start, (xs, *pieces))
        return (total, scores), (grads, dxs)

    def backward(gradients, cotangents):
        return *jax.tree.map(lambda x: cotangents[0] * x, gradients), None

    function = jax.custom_vjp(forward)
    function.defvjp(forward_with_gradient, backward)
    return function(params, xs, pieces)


def draw_code(logits: jax.Array, key: jax.Array, temperature: float, top_p: float) -> jax.Array:
    """Draw from the nucleus of softmax(logits / temperature); the likeliest at temperature 0.

    Args:
        logits: float32 [..., V].

    Returns:
        int32 [...].
    """
    if temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits / temperature
    ordered = -jnp.sort(-logits, axis=-1)
    before = jnp.cumsum(jax.nn.softmax(ordered, axis=-1), axis=-1) - jax.nn.softmax(ordered, -1)
    least = jnp.min(jnp.where(before < top_p, ordered, jnp.inf), axis=-1, keepdims=True)
    kept = jnp.where(logits >= least, logits, -jnp.inf)
    return jax.random.categorical(key, kept, axis=-1).astype(jnp.int32)
