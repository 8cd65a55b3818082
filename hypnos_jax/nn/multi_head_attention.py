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
from hypnos_jax.nn.linear import (
    INIT,
    add_bias,
    fan_in_bias_init,
    kernel_init,
    linear,
    zeros_init,
)
from hypnos_jax.nn.lora import LowRank

RMS_EPS = float(jnp.finfo(jnp.float32).eps)  # of the norms of q and k, as released


class MultiHeadAttention(nn.Module):
    """Multi-head attention, ``softmax(q k^T / sqrt(E)) v`` for each head.

    Self-attention has the parameters ``qkv_kernel`` [D, 3, H, E] and ``out_kernel`` [H, E, D];
    cross-attention has ``q_kernel`` and ``kv_kernel`` in place of the first.

    Applied with the collection ``"cache"`` mutable, causal attention keeps there the keys and
    values that may be looked back at, so that a sequence may come in pieces of any length. With a
    ``cache_length``, attention under a mask does the same at the call's ``place``; and
    cross-attention keeps the keys and values of its memory, which is projected once.

    Attributes:
        heads: H; must divide D.
        causal: each position sees itself and the past; else whatever the call's mask allows.
        window: of causal attention: positions a query sees, self included; None sees all.
        cache_length: positions that a cache holds where ``window`` is None; those still earlier
            are forgotten. None keeps nothing under a mask.
        rope: rotary positions (theta 10000).
        qk_norm: RMS-normalise each head of q and k, with a learnt scale, before the rotation.
        bias: add one to every projection; ``"out"`` to the output's alone.
        xsa: exclusive self-attention: remove from each head's output its component along the
            position's own value.
        dropout: rate on the attention weights.
        lora: keyword arguments of ``LowRank``, of additions to projections; None for none.
        lora_on: those projections: ``"qkv"`` (or ``"q"`` and ``"kv"``) and ``"out"``. The arrays
            of ``"qkv"`` are beside its kernel, the others' below the projection's name.
        initialiser: of the projections' kernels.
        out_initialiser: of the output's, where it is another.
        fan_in_bias: begin biases as ``fan_in_bias_init`` has it, and not at 0.
        kernel: of causal attention; see ``attend_window``.
        dtype: of the matrix products.
    """

    heads: int
    causal: bool = False
    window: int | None = None
    cache_length: int | None = None
    rope: bool = False
    qk_norm: bool = False
    bias: bool | str = False
    xsa: bool = False
    dropout: float = 0.0
    lora: Mapping[str, Any] | None = None
    lora_on: tuple[str, ...] = ("qkv",)
    initialiser: Callable = INIT
    out_initialiser: Callable | None = None
    fan_in_bias: bool = False
    kernel: str = "auto"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array | None = None,
        *,
        memory: jax.Array | None = None,
        rates: jax.Array | None = None,
        place: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Return [..., S, D] of ``x`` [..., S, D].

        Args:
            x: what asks.
            mask: bool, broadcastable to [..., S, T] with as many axes; True where a query may
                look. One that may look nowhere gets the mean of all values.
            memory: [..., T, any width], another sequence to look at; x itself by default. Where a
                cache has its keys already, they are taken from there.
            rates: of the rotary positions without ``causal``; see ``attention.rotary``.
            place: int32 scalar, where in the cache x begins: the mask then is of all
                ``cache_length`` positions.
            train: draw dropout, from the stream ``"dropout"``.

        Raises:
            ValueError: ``heads`` does not divide D, or options that exclude each other.
        """
        dim, cross = x.shape[-1], memory is not None
        self._check(dim, mask, cross)
        head, names = (self.heads, dim // self.heads), ("heads", "head_dim")
        cached = bool(self.cache_length) and self.is_mutable_collection("cache")
        cached &= not self.is_initializing()
        if cross:
            q = self._project("q", x, head, ("embed", *names), train)
            k, v = self._memory(memory, head, names, cached, train)
        else:
            q, k, v = self._split("qkv", x, 3, head, names, train)
        if self.qk_norm:
            q, k = self._rms(q, "q_scale"), self._rms(k, "k_scale")
        if self.causal:
            out = self._attend_past(q, k, v)
        else:
            if self.rope:
                q, k = rotary(q, rates=rates), rotary(k, rates=rates)
            if cached and not cross:
                k, v = self._remember(k, v, place)
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
        initialiser = (self.out_initialiser if name == "out" else None) or self.initialiser
        init = kernel_init(*names, init=initialiser, inputs=len(inputs))
        kernel = self.param(f"{name}_kernel", init, (*inputs, *outputs))
        x = x.reshape(*x.shape[: x.ndim - len(inputs)], -1).astype(self.dtype)
        y = linear(x, kernel.astype(self.dtype).reshape(x.shape[-1], -1))
        bias = None
        if self.bias is True or self.bias == name:
            of, axes = x.shape[-1], names[len(inputs) :]
            init = fan_in_bias_init(of, *axes) if self.fan_in_bias else zeros_init(*axes)
            bias = self.param(f"{name}_bias", init, outputs)
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

    def _memory(self, memory, head, names, cached, train):
        """Keys and values of another sequence, taken from the cache where it has them."""
        if cached and self.has_variable("cache", "keys"):
            return [self.get_variable("cache", name) for name in ("keys", "values")]
        made = list(self._split("kv", memory, 2, head, names, train))
        if cached:
            for name, x in zip(("keys", "values"), made):
                self.put_variable("cache", name, x)
        return made

    def _remember(self, k, v, place):
        """Write keys and values into the cache, and return all of it."""
        shape = (*k.shape[:-3], self.cache_length, *k.shape[-2:])
        kept = []
        for name, x in (("keys", k), ("values", v)):
            cache = self.variable("cache", name, jnp.zeros, shape, x.dtype)
            cache.value = jax.lax.dynamic_update_slice_in_dim(cache.value, x, place, x.ndim - 3)
            kept.append(cache.value)
        return kept

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
