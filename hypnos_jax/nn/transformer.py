"""Pre-LayerNorm transformer layers, as the tokenizers and the RQ-Transformer use them.

An array's last name tells what it is (``kernel``, ``bias``, ``scale``, ``embedding``), and its axes
carry logical names. Parameters are float32; ``dtype`` is that of the matrix products. Norms,
softmax and the residual stream stay float32: branches start at a hundredth of their size, which a
bfloat16 sum would round away.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypnos_jax.nn.attention import attend, attend_window, rotary

INIT = nn.initializers.normal(0.02)
RMS_EPS = float(jnp.finfo(jnp.float32).eps)  # of the norms of q and k, as released


def kernel_init(*names: str | None) -> Callable:
    """Return the initialiser of a matrix, Normal(0, 0.02), whose axes bear these logical names."""
    return nn.with_logical_partitioning(INIT, names)


def zeros_init(*names: str | None) -> Callable:
    """Return the initialiser of a bias whose axes bear these logical names."""
    return nn.with_logical_partitioning(nn.initializers.zeros, names)


@jax.custom_vjp
def linear(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return ``x @ kernel``, [..., F] of [..., D] and [D, F], in their dtype.

    Two things make it fast on CPUs. Results are asked for in float32: a CPU that multiplies
    bfloat16 does so only then. And the kernel's gradient is a product over the rows of x and of the
    output's gradient, one of which XLA transposes, recomputing what led to it in the order of the
    transpose, which may take longer than the product: here the narrower one.
    """
    return _product(x, kernel, 1, 0)


def _product(x, y, over_x, over_y):
    x = x.reshape(-1, x.shape[-1]) if over_x == 0 else x
    y = y.reshape(-1, y.shape[-1])
    axes = (((x.ndim - 1 if over_x else 0,), (over_y,)), ((), ()))
    result = jnp.float32 if jax.default_backend() == "cpu" else None
    return jax.lax.dot_general(x, y, axes, preferred_element_type=result).astype(x.dtype)


def _linear_backward(kept, gradient):
    x, kernel = kept
    if x.shape[-1] <= gradient.shape[-1]:
        by_kernel = _product(x, gradient, 0, 0)
    else:
        by_kernel = _product(gradient, x, 0, 0).T
    return _product(gradient, kernel, 1, 1), by_kernel


linear.defvjp(lambda x, kernel: (_product(x, kernel, 1, 0), (x, kernel)), _linear_backward)


class LayerNorm(nn.Module):
    """Layer normalisation in float32, epsilon 1e-5, with scale and bias."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        ones = nn.with_logical_partitioning(nn.initializers.ones, ("embed",))
        norm = nn.LayerNorm(1e-5, scale_init=ones, bias_init=zeros_init("embed"), name="norm")
        return norm(x.astype(jnp.float32)).astype(self.dtype)


class Attention(nn.Module):
    """Multi-head self-attention with bias-free projections.

    Applied with the collection ``"cache"`` mutable, causal attention keeps there the keys and
    values that its window reaches back to, so that a sequence may come in pieces of any length.

    Attributes:
        heads: H; must divide D.
        window: positions a query sees, self included; None sees all.
        causal: False for attention in both directions, under the mask given to the call.
        qk_norm: RMS-normalise each head of q and k, with a learnt scale, before the rotation.
        rope: rotary positions (theta 10000).
        xsa: exclusive self-attention: remove from each head's output its component along the
            position's own value.
    """

    heads: int
    window: int | None = None
    causal: bool = True
    qk_norm: bool = False
    rope: bool = True
    xsa: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        dim = x.shape[-1]
        if dim % self.heads:
            raise ValueError(f"heads={self.heads} does not divide the width {dim}")
        shape = (dim, 3, self.heads, dim // self.heads)
        names = ("embed", None, "heads", "head_dim")
        kernel = self.param("qkv_kernel", kernel_init(*names), shape).astype(self.dtype)
        qkv = linear(x.astype(self.dtype), kernel.reshape(dim, -1))
        qkv = qkv.reshape(*x.shape[:-1], *shape[1:])
        q, k, v = (qkv[..., i, :, :] for i in range(3))
        if self.qk_norm:
            q, k = self._rms(q, "q_scale"), self._rms(k, "k_scale")
        if self.causal:
            out = self._attend_past(q, k, v)
        else:
            if self.rope:
                q, k = rotary(q), rotary(k)
            out = attend(q, k, v, mask)
        if self.xsa:
            own = v.astype(jnp.float32)
            own *= jax.lax.rsqrt(jnp.sum(own**2, -1, keepdims=True) + 1e-12)
            along = jnp.sum(out.astype(jnp.float32) * own, -1, keepdims=True)
            out = (out - along * own).astype(self.dtype)
        kernel = self.param(
            "out_kernel", kernel_init("heads", "head_dim", "embed"), (*shape[2:], dim)
        ).astype(self.dtype)
        return linear(out.reshape(x.shape), kernel.reshape(dim, dim))

    def _attend_past(self, q, k, v):
        """Attend to the past; what the cache holds of it comes first."""
        own, seen = v, None
        if self.is_mutable_collection("cache") and not self.is_initializing():
            keep = (self.window or 1) - 1
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
            count.value = jnp.minimum(seen + own.shape[-3], keep)
        if self.rope:
            # Keys are kept as they were before the rotation: positions count from this piece's
            # start, as only distances matter, and so stay small and exact in any long stream.
            q, k = rotary(q), rotary(k, first=q.shape[-3] - k.shape[-3])
        return attend_window(q, k, v, window=self.window, seen=seen)

    def _rms(self, x, name):
        ones = nn.with_logical_partitioning(nn.initializers.ones, ("head_dim",))
        scale = self.param(name, ones, (x.shape[-1],))
        y = x.astype(jnp.float32)
        y *= jax.lax.rsqrt(jnp.mean(y**2, -1, keepdims=True) + RMS_EPS)
        return (y * scale.reshape((1,) * (x.ndim - 1) + (-1,))).astype(x.dtype)


class FeedForward(nn.Module):
    """The position-wise network: exact (erf) GELU with biases, or SwiGLU without.

    Attributes:
        kind: ``"gelu"``, hidden 4 D; or ``"swiglu"``, hidden int(2/3 * 4 D), of the same size.
        hidden: width instead of the above.
    """

    kind: str = "gelu"
    hidden: int | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dim = x.shape[-1]
        x = x.astype(self.dtype)
        if self.kind == "gelu":
            hidden = self.hidden or 4 * dim
            x = jax.nn.gelu(self._linear(x, hidden, "up", ("embed", "mlp"), True), False)
            return self._linear(x, dim, "down", ("mlp", "embed"), True)
        if self.kind == "swiglu":
            hidden = self.hidden or int(2 / 3 * 4 * dim)
            gate = jax.nn.silu(self._linear(x, hidden, "gate", ("embed", "mlp"), False))
            x = gate * self._linear(x, hidden, "up", ("embed", "mlp"), False)
            return self._linear(x, dim, "down", ("mlp", "embed"), False)
        raise ValueError(f"ffn={self.kind!r} is not known; use 'gelu' or 'swiglu'")

    def _linear(self, x, width, name, names, bias):
        return nn.Dense(
            width,
            use_bias=bias,
            dtype=self.dtype,
            kernel_init=kernel_init(*names),
            bias_init=zeros_init(names[1]),
            dot_general=lambda x, kernel, *_, **__: linear(x, kernel),
            name=name,
        )(x)


class TransformerLayer(nn.Module):
    """Attention and a position-wise network, each normalised before and added to the stream.

    ``x += scale * attention(norm(x)); x += scale * ffn(norm(x))``

    Attributes:
        dim: D.
        heads: H.
        window: positions seen, self included (causal only); None sees the whole past.
        causal: False for attention in both directions, under the call's mask.
        ffn: ``"gelu"``, ``"swiglu"``, or None for attention alone.
        ffn_dim: hidden width; 4 D for gelu and int(2/3 * 4 D) for swiglu by default.
        qk_norm, rope, xsa: see ``Attention``.
        layer_scale: start value of the learnt scales of both branches; None for none.
        dropout: rate on the branches' outputs, and nowhere else.
        dtype: of the matrix products.
    """

    dim: int
    heads: int
    window: int | None = None
    causal: bool = True
    ffn: str | None = "gelu"
    ffn_dim: int | None = None
    qk_norm: bool = False
    layer_scale: float | None = 0.01
    rope: bool = True
    xsa: bool = False
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array | None = None,
        *,
        train: bool = False,
    ) -> jax.Array:
        """Return the stream after this layer.

        Args:
            x: [..., S, D].
            mask: bool, broadcastable to [..., S, S] with as many axes; for ``causal=False``.
            train: draw dropout, from the stream ``"dropout"``.

        Returns:
            [..., S, D] of x's dtype.

        Raises:
            ValueError: x is not ``dim`` wide, or ``heads`` does not divide it.
        """
        if x.shape[-1] != self.dim:
            raise ValueError(f"a layer of dim={self.dim} was given {x.shape}")
        attention = Attention(
            self.heads,
            self.window,
            self.causal,
            self.qk_norm,
            self.rope,
            self.xsa,
            self.dtype,
            name="attention",
        )
        y = attention(LayerNorm(self.dtype, name="attention_norm")(x), mask)
        x = x + self._branch(y, "attention_scale", train).astype(x.dtype)
        if self.ffn is None:
            return x
        ffn = FeedForward(self.ffn, self.ffn_dim, self.dtype, name="ffn")
        y = ffn(LayerNorm(self.dtype, name="ffn_norm")(x))
        return x + self._branch(y, "ffn_scale", train).astype(x.dtype)

    def _branch(self, y, name, train):
        y = y.astype(jnp.float32)
        if self.layer_scale is not None:
            init = nn.initializers.constant(self.layer_scale)
            scale = self.param(name, nn.with_logical_partitioning(init, ("embed",)), (self.dim,))
            y *= scale.reshape((1,) * (y.ndim - 1) + (-1,))
        return nn.Dropout(self.dropout, deterministic=not train)(y)


class Transformer(nn.Module):
    """A stack of ``depth`` equal layers and a final LayerNorm.

    Attributes:
        depth: number of layers; 0 leaves the final LayerNorm alone.
        remat: recompute each layer's inside in the backward pass instead of keeping it.
        others: see ``TransformerLayer``.
    """

    depth: int
    dim: int
    heads: int
    window: int | None = None
    causal: bool = True
    ffn: str | None = "gelu"
    ffn_dim: int | None = None
    qk_norm: bool = False
    layer_scale: float | None = 0.01
    rope: bool = True
    xsa: bool = False
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Return [..., S, D] float32 of ``x`` [..., S, D]."""
        for i in range(self.depth):
            layer = TransformerLayer(
                self.dim,
                self.heads,
                self.window,
                self.causal,
                self.ffn,
                self.ffn_dim,
                self.qk_norm,
                self.layer_scale,
                self.rope,
                self.xsa,
                self.dropout,
                self.dtype,
                name=f"layer_{i}",
            )
            if self.remat:
                x = nn.remat(lambda module, x: module(x, train=train))(layer, x)
            else:
                x = layer(x, train=train)
        return LayerNorm(name="final_norm")(x)
