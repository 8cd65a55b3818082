"""Multi-head attention with its parameters: within a sequence, or from one to another."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypnos_jax.nn.attention import attend, attend_window, rotary
from hypnos_jax.nn.dropout import Dropout
from hypnos_jax.nn.linear import INIT, add_bias, kernel_init, linear, zeros_init
from hypnos_jax.nn.lora import LowRank

RMS_EPS = float(jnp.finfo(jnp.float32).eps)  # of the norms of q and k, as released


class MultiHeadAttention(nn.Module):
    """Multi-head attention, ``softmax(q k^T / sqrt(E)) v`` for each head.

    Self-attention has the parameters ``qkv_kernel`` [D, 3, H, E] and ``out_kernel`` [H, E, D];
    cross-attention has ``q_kernel`` and ``kv_kernel`` in place of the first.

    Applied with the collection ``"cache"`` mutable, causal attention keeps there the keys and
    values that may be looked back at, so that a sequence may come in pieces of any length.

    Attributes:
        heads: H; must divide D.
        causal: each position sees itself and the past; else whatever the call's mask allows.
        window: of causal attention: positions a query sees, self included; None sees all.
        cache_length: positions that a cache holds where ``window`` is None; those still earlier
            are forgotten.
        rope: rotary positions (theta 10000).
        qk_norm: RMS-normalise each head of q and k, with a learnt scale, before the rotation.
        bias: add one to every projection.
        xsa: exclusive self-attention: remove from each head's output its component along the
            position's own value.
        dropout: rate on the attention weights.
        lora: keyword arguments of ``LowRank``, of additions to projections; None for none.
        lora_on: those projections: ``"qkv"`` (or ``"q"`` and ``"kv"``) and ``"out"``. The arrays
            of ``"qkv"`` are beside its kernel, the others' below the projection's name.
        initialiser: of the projections' kernels.
        kernel: of causal attention; see ``attend_window``.
        dtype: of the matrix products.
    """

    heads: int
    causal: bool = False
    window: int | None = None
    cache_length: int | None = None
    rope: bool = False
    qk_norm: bool = False
    bias: bool = False
    xsa: bool = False
    dropout: float = 0.0
    lora: Mapping[str, Any] | None = None
    lora_on: tuple[str, ...] = ("qkv",)
    initialiser: Callable = INIT
    kernel: str = "auto"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array | None = None,
        *,
        memory: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Return [..., S, D] of ``x`` [..., S, D].

        Args:
            x: what asks.
            mask: bool, broadcastable to [..., S, T] with as many axes; True where a query may
                look. One that may look nowhere gets the mean of all values.
            memory: [..., T, any width], another sequence to look at; x itself by default.
            train: draw dropout, from the stream ``"dropout"``.

        Raises:
            ValueError: ``heads`` does not divide D, or options that exclude each other.
        """
        dim, cross = x.shape[-1], memory is not None
        self._check(dim, mask, cross)
        head, names = (self.heads, dim // self.heads), ("heads", "head_dim")
        if cross:
            q = self._project("q", x, head, ("embed", *names), train)
            k, v = self._split("kv", memory, 2, head, names, train)
        else:
            q, k, v = self._split("qkv", x, 3, head, names, train)
        if self.qk_norm:
            q, k = self._rms(q, "q_scale"), self._rms(k, "k_scale")
        if self.causal:
            out = self._attend_past(q, k, v)
        else:
            if self.rope:
                q, k = rotary(q), rotary(k)
            drop = functools.partial(Dropout(self.dropout), train=train) if self.dropout else None
            out = attend(q, k, v, mask, drop)
        if self.xsa:
            own = v.astype(jnp.float32)
            own *= jax.lax.rsqrt(jnp.sum(own**2, -1, keepdims=True) + 1e-12)
            along = jnp.sum(out.astype(jnp.float32) * own, -1, keepdims=True)
            out = (out - along * own).astype(self.dtype)
        return self._project("out", out, (dim,), (*names, "embed"), train)

    def _check(self, dim, mask, cross):
        if dim % self.heads:
            raise ValueError(f"heads={self.heads} does not divide the width {dim}")
        if self.causal and (mask is not None or self.dropout):
            raise ValueError("causal=True takes neither a mask nor dropout of its weights")
        if cross and (self.causal or self.rope or self.xsa):
            raise ValueError("another sequence can be looked at without causal, rope and xsa alone")
        known = {"q", "kv", "out"} if cross else {"qkv", "out"}
        if self.lora and not set(self.lora_on) <= known:
            raise ValueError(f"lora_on={self.lora_on}: the projections are {sorted(known)}")

    def _split(self, name, x, maps, head, names, train):
        """Several projections of x side by side, each [..., S, H, E]."""
        parts = self._project(name, x, (maps, *head), ("embed", None, *names), train)
        return (jnp.squeeze(part, -3) for part in jnp.split(parts, maps, -3))

    def _project(self, name, x, outputs, names, train):
        """Project x, whose axes beyond the positions are the kernel's first; [..., *outputs]."""
        inputs = x.shape[x.ndim - (len(names) - len(outputs)) :]
        init = kernel_init(*names, init=self.initialiser, inputs=len(inputs))
        kernel = self.param(f"{name}_kernel", init, (*inputs, *outputs))
        x = x.reshape(*x.shape[: x.ndim - len(inputs)], -1).astype(self.dtype)
        y = linear(x, kernel.astype(self.dtype).reshape(x.shape[-1], -1))
        bias = None
        if self.bias:
            bias = self.param(f"{name}_bias", zeros_init(*names[len(inputs) :]), outputs)
        if self.lora and name in self.lora_on:
            maps = outputs[0] if name in ("qkv", "kv") else None
            shared = name == "qkv"
            low = LowRank(
                math.prod(outputs) // (maps or 1),
                maps,
                dtype=self.dtype,
                name=None if shared else name,
                **self.lora,
            )
            if shared:
                nn.share_scope(self, low)
            y += low(x, train=train)
        if bias is not None:
            y = add_bias(y, bias.reshape(-1))
        return y.reshape(*x.shape[:-1], *outputs)

    def _attend_past(self, q, k, v):
        """Attend to the past; what the cache holds of it comes first."""
        new, seen = v.shape[-3], None
        if self.is_mutable_collection("cache") and not self.is_initializing():
            keep = self.cache_length if self.window is None else max(self.window, 1) - 1
            if keep is None:
                raise ValueError(
                    "window=None sees the whole past, which no cache can hold; give a window or a"
                    " cache_length"
                )
            shape = (*k.shape[:-3], keep, *k.shape[-2:])
            past = [
                self.variable("cache", name, jnp.zeros, shape, k.dtype)
                for name in ("keys", "values")
            ]
            count = self.variable("cache", "seen", jnp.zeros, (), jnp.int32)
            k, v = (jnp.concatenate([old.value, x], -3) for old, x in zip(past, (k, v)))
            for old, x in zip(past, (k, v)):
                old.value = x[..., x.shape[-3] - keep :, :, :]
            seen = count.value
            count.value = jnp.minimum(seen + new, keep)
        if self.rope:
            # Keys are kept as they were before the rotation: positions count from this piece's
            # start, as only distances matter, and so stay small and exact in any long stream.
            q, k = rotary(q), rotary(k, first=q.shape[-3] - k.shape[-3])
        return attend_window(q, k, v, window=self.window, seen=seen, kernel=self.kernel)

    def _rms(self, x, name):
        ones = nn.with_logical_partitioning(nn.initializers.ones, ("head_dim",))
        scale = self.param(name, ones, (x.shape[-1],))
        y = x.astype(jnp.float32)
        y *= jax.lax.rsqrt(jnp.mean(y**2, -1, keepdims=True) + RMS_EPS)
        return (y * scale.reshape((1,) * (x.ndim - 1) + (-1,))).astype(x.dtype)
