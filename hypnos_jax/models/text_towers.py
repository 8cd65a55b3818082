"""The text side of SleepLM (Xu et al. 2026, arXiv 2602.23605), as in its code: CoCa's two towers.

A causal encoder reads the words, and a vector behind the last one gathers them (CLS). A decoder
goes on from the encoder's states, and looks at the memory of the signals after each layer; vectors
in front of the words, its conditions, say what to speak of. Both keep what they must look back at
in the collection ``"cache"`` where that is mutable, so that words may come one by one.

Shapes: B rows, X words (the context), P conditions, N memory tokens, D width, Z of the embedding.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypnos_jax.nn.cross_entropy import chunked_cross_entropy, head_logits
from hypnos_jax.nn.transformer import LayerNorm, TransformerLayer, rematerialised
from hypnos_jax.sharding import keep_rows

PAD = 0  # id that is no word


def text_layer(width: int, heads: int, layers: int, dtype: jnp.dtype, cache: int) -> dict[str, Any]:
    """Return keyword arguments of ``TransformerLayer``: a layer of CLIP, with its start values."""
    normal = nn.initializers.normal
    shrunk = width**-0.5 * (2 * layers) ** -0.5
    return {
        "dim": width,
        "heads": heads,
        "causal": False,  # under masks that are, and see more
        "rope": False,
        "layer_scale": None,
        "bias": True,
        "fan_in_bias": True,
        "initialiser": normal(width**-0.5),
        "attention_out": normal(shrunk),
        "ffn_up": normal((2 * width) ** -0.5),
        "ffn_down": normal(shrunk),
        "cache_length": cache,
        "dtype": dtype,
    }


class TextEncoder(nn.Module):
    """Words to an embedding, and to a state for each.

    Attributes:
        vocab_size: ids.
        context: X.
        width, heads, layers: of the transformer.
        embed_dim: Z.
        legacy_mask: hide the keys that the official code hides: each where the word before it is
            no word, so that CLS does not see itself and the first place without a word is seen.
            Else those without a word. States of words are the same.
        remat: see ``rematerialised``.
        dtype: of the products.
    """

    vocab_size: int
    context: int
    width: int
    heads: int
    layers: int
    embed_dim: int
    legacy_mask: bool = False
    remat: str = "none"
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        def table(name, scale, names, *shape):
            init = nn.initializers.normal(scale)
            return self.param(name, nn.with_logical_partitioning(init, names), shape)

        self.words = table("words", 0.02, ("vocab", "embed"), self.vocab_size, self.width)
        self.places = table("places", 0.01, (None, "embed"), self.context + 1, self.width)
        self.cls = table("cls", 0.01, ("embed",), self.width)
        self.projection = table(
            "projection", self.width**-0.5, ("embed", "mlp"), self.width, self.embed_dim
        )
        layer = text_layer(self.width, self.heads, self.layers, self.dtype, self.context)
        self.transformer = [TransformerLayer(**layer) for _ in range(self.layers)]
        self.norm = LayerNorm()

    def __call__(self, ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the embedding [B, Z] (of no particular length) and states [B, X, D], float32.

        Args:
            ids: int32 [B, X], 0 behind the last word. Shorter rows would put CLS elsewhere.

        Raises:
            ValueError: another length than ``context``.
        """
        rows, length = ids.shape
        if length != self.context:
            raise ValueError(f"ids are {ids.shape}; pad them with {PAD} to context={self.context}")
        x = jnp.take(self.words, ids, axis=0)
        cls = jnp.broadcast_to(self.cls, (rows, 1, self.width))
        x = keep_rows(jnp.concatenate([x, cls], 1) + self.places[None])
        there, always = ids != PAD, jnp.ones((rows, 1), bool)
        keys = [always, there] if self.legacy_mask else [there, always]
        mask = jnp.concatenate(keys, 1)[:, None] & jnp.tri(length + 1, dtype=bool)[None]
        for layer in self.transformer:
            x = rematerialised(lambda layer, x, mask: layer(x, mask), self.remat)(layer, x, mask)
        return self.norm(x[:, -1]) @ self.projection, x[:, :-1]

    def extend(self, ids: jax.Array, place: jax.Array) -> jax.Array:
        """Return the states [B, S, D] of further words, given those in the cache.

        Args:
            ids: int32 [B, S], all words.
            place: int32 scalar, of the first.
        """
        places = jax.lax.dynamic_slice_in_dim(self.places, place, ids.shape[1])
        x = jnp.take(self.words, ids, axis=0) + places[None]
        mask = (
            jnp.arange(self.context)[None, None]
            <= (place + jnp.arange(ids.shape[1]))[None, :, None]
        )
        for layer in self.transformer:
            x = layer(x, mask, place=place)
        return x


class CaptionLayer(nn.Module):
    """A layer over the words, and one by which they look at the memory.

    Attributes:
        layer: keyword arguments of both ``TransformerLayer``.
    """

    layer: dict[str, Any]

    @nn.compact
    def __call__(
        self, x: jax.Array, memory: jax.Array, mask: jax.Array, place: jax.Array | None = None
    ) -> jax.Array:
        """Return [B, S, D] of ``x`` [B, S, D]; see ``TransformerLayer``."""
        x = TransformerLayer(**self.layer, name="own")(x, mask, place=place)
        return TransformerLayer(**self.layer, name="cross")(x, memory=memory)


class CaptionDecoder(nn.Module):
    """States of words to what comes next, given a memory and conditions.

    Attributes:
        vocab_size: ids.
        context: X.
        width, heads, layers: of the transformer; each layer is followed by one that looks at the
            memory.
        conditions: how many there are.
        prefix: P.
        remat, dtype: of the layers.
    """

    vocab_size: int
    context: int
    width: int
    heads: int
    layers: int
    conditions: int
    prefix: int
    remat: str = "none"
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        def table(name, scale, names, *shape):
            init = nn.initializers.normal(scale)
            return self.param(name, nn.with_logical_partitioning(init, names), shape)

        self.condition_table = table(
            "condition_table", 0.02, (None, "embed"), self.conditions, self.width
        )
        self.no_condition = table("no_condition", 0.02, ("embed",), self.width)
        self.head = table(
            "head_kernel", self.width**-0.5, ("embed", "vocab"), self.width, self.vocab_size
        )
        length = self.prefix + self.context
        layer = text_layer(self.width, self.heads, self.layers, self.dtype, length)
        self.transformer = [CaptionLayer(layer) for _ in range(self.layers)]
        self.norm = LayerNorm()

    def __call__(self, hidden: jax.Array, memory: jax.Array, conditions: jax.Array) -> jax.Array:
        """Return float32 [B, S, D] of the words' states ``hidden`` [B, S, D].

        Args:
            hidden: of the first S words.
            memory: float32 [B, N, D].
            conditions: int32 [B, P]; -1 for none.
        """
        x = keep_rows(jnp.concatenate([self._vectors(conditions), hidden], 1))
        mask = self._mask(0, x.shape[1], x.shape[1])
        for layer in self.transformer:
            call = rematerialised(lambda layer, x, memory, mask: layer(x, memory, mask), self.remat)
            x = call(layer, x, memory, mask)
        return self.norm(x[:, self.prefix :])

    def extend(
        self, hidden: jax.Array, memory: jax.Array, conditions: jax.Array | None, place: jax.Array
    ) -> jax.Array:
        """Return float32 [B, S, D] of further words, given those in the cache.

        Args:
            hidden: their states, [B, S, D].
            memory: as in the first call, whose keys and values the cache keeps.
            conditions: int32 [B, P] with the first words, and None later.
            place: int32 scalar, of the first of these words.
        """
        before = self.prefix
        if conditions is not None:
            hidden, before = jnp.concatenate([self._vectors(conditions), hidden], 1), 0
        mask = self._mask(place + before, hidden.shape[1], self.prefix + self.context)
        for layer in self.transformer:
            hidden = layer(hidden, memory, mask, place + before)
        return self.norm(hidden[:, self.prefix - before :])

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Return float32 [..., V] of what this decoder made, [..., D]."""
        kernel, zeros = self.head[None], jnp.zeros((1, self.vocab_size))
        flat = hidden.reshape(1, -1, self.width).astype(self.dtype)
        return head_logits(flat, kernel, zeros).reshape(*hidden.shape[:-1], -1)

    def cost(self, hidden: jax.Array, labels: jax.Array) -> tuple[jax.Array, ...]:
        """Return the sum of each row's costs (nats), and how many were likeliest, float32 [B] each.

        Args:
            hidden: what this decoder made, [B, S, D].
            labels: int32 [B, S], the words that come next; 0 for none.
        """
        nll, hit = chunked_cross_entropy(hidden.astype(self.dtype), self.head, labels)
        counted = (labels != PAD).astype(jnp.float32)
        return (nll * counted).sum(1), (hit * counted).sum(1)

    def _vectors(self, conditions):
        """Float32 [B, P, D]; whatever is below 0 is none."""
        found = jnp.take(self.condition_table, jnp.maximum(conditions, 0), axis=0)
        return jnp.where((conditions < 0)[..., None], self.no_condition, found)

    def _mask(self, first, rows, length):
        """Conditions see all conditions and no word; words see what came before, and themselves."""
        last = jnp.maximum(first + jnp.arange(rows), self.prefix - 1)
        return jnp.arange(length)[None, None] <= last[None, :, None]
