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
from hypnos_jax.nn.backend import platform
from hypnos_jax.sharding import keep_rows

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
    result = jnp.float32 if platform() == "cpu" else None
    return jax.lax.dot_general(x, y, axes, preferred_element_type=result).astype(x.dtype)


def _linear_backward(kept, gradient):
    x, kernel = kept
    if x.shape[-1] <= gradient.shape[-1]:
        by_kernel = _product(x, gradient, 0, 0)
    else:
        by_kernel = _product(gradient, x, 0, 0).T
    return _product(gradient, kernel, 1, 1), by_kernel


def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Return ``x + bias``, [..., F] and [F], in x's dtype; the bias's gradient is a sum in float32.

    Written as a sum over rows it would be one in x's dtype, which for bfloat16 is inexact, and slow
    on CPUs: here it is a product with ones.
    """
    return _add_bias(x, bias.astype(x.dtype))


@jax.custom_vjp
def _add_bias(x, bias):
    return x + bias.reshape((1,) * (x.ndim - 1) + (-1,))


def _add_bias_backward(_, gradient):
    rows = gradient.reshape(-1, gradient.shape[-1])
    ones = jnp.ones((1, len(rows)), rows.dtype)
    total = jax.lax.dot_general(
        ones, rows, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32
    )
    return gradient, total[0].astype(gradient.dtype)


_add_bias.defvjp(lambda x, bias: (_add_bias(x, bias), None), _add_bias_backward)
linear.defvjp(lambda x, kernel: (_product(x, kernel, 1, 0), (x, kernel)), _linear_backward)


class LayerNorm(nn.Module):
    """Layer normalisation in float32 with scale and bias."""

    dtype: jnp.dtype = jnp.float32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        ones = nn.with_logical_partitioning(nn.initializers.ones, ("embed",))
        zeros = zeros_init("embed")
        norm = nn.LayerNorm(self.epsilon, scale_init=ones, bias_init=zeros, name="norm")
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
        kernel: of causal attention; see ``attend_window``.
    """

    heads: int
    window: int | None = None
    causal: bool = True
    qk_norm: bool = False
    rope: bool = True
    xsa: bool = False
    kernel: str = "auto"
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
        q, k, v = (jnp.squeeze(part, -3) for part in jnp.split(qkv, 3, -3))
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
        return attend_window(q, k, v, window=self.window, seen=seen, kernel=self.kernel)

    def _rms(self, x, name):
        ones = nn.with_logical_partitioning(nn.initializers.ones, ("head_dim",))
        scale = self.param(name, ones, (x.shape[-1],))
        y = x.astype(jnp.float32)
        y *= jax.lax.rsqrt(jnp.mean(y**2, -1, keepdims=True) + RMS_EPS)
        return (y * scale.reshape((1,) * (x.ndim - 1) + (-1,))).astype(x.dtype)


class Linear(nn.Module):
    """A matrix product and a bias, if wanted, some of whose axes may be wider than the parameters.

    Attributes:
        names: logical axes of the kernel.
        inputs, outputs: of the parameters.
        width: columns computed; those beyond ``outputs`` are 0. As many by default.
        bias: add one.
    """

    names: tuple[str, str]
    inputs: int
    outputs: int
    width: int | None = None
    bias: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return [..., width] of ``x`` [..., inputs or more]; what is beyond ``inputs`` is 0."""
        rows, columns = x.shape[-1] - self.inputs, (self.width or self.outputs) - self.outputs
        kernel = self.param("kernel", kernel_init(*self.names), (self.inputs, self.outputs))
        y = linear(x, jnp.pad(kernel.astype(self.dtype), [(0, rows), (0, columns)]))
        if not self.bias:
            return y
        bias = self.param("bias", zeros_init(self.names[1]), (self.outputs,))
        return add_bias(y, jnp.pad(bias, (0, columns)))


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
        if self.kind not in ("gelu", "swiglu"):
            raise ValueError(f"ffn={self.kind!r} is not known; use 'gelu' or 'swiglu'")
        dim, bias = x.shape[-1], self.kind == "gelu"
        hidden = self.hidden or (4 * dim if bias else int(2 / 3 * 4 * dim))
        # SwiGLU's 1365 of 512 would keep a GPU's matrix units from aligned reads: 4x slower.
        width = hidden if hidden % 8 == 0 else -(-hidden // 64) * 64
        up = lambda name: Linear(
            ("embed", "mlp"), dim, hidden, width, bias, dtype=self.dtype, name=name
        )
        down = Linear(("mlp", "embed"), hidden, dim, None, bias, dtype=self.dtype, name="down")
        x = x.astype(self.dtype)
        if self.kind == "gelu":
            return down(jax.nn.gelu(up("up")(x), approximate=False))
        return down(jax.nn.silu(up("gate")(x)) * up("up")(x))


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
        qk_norm, rope, xsa, kernel: see ``Attention``.
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
    kernel: str = "auto"
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
        x = keep_rows(x)
        attention = Attention(
            self.heads,
            self.window,
            self.causal,
            self.qk_norm,
            self.rope,
            self.xsa,
            self.kernel,
            self.dtype,
            name="attention",
        )
        y = attention(LayerNorm(self.dtype, name="attention_norm")(x), mask)
        x = keep_rows(x + self._branch(y, "attention_scale", train).astype(x.dtype))
        if self.ffn is None:
            return x
        ffn = FeedForward(self.ffn, self.ffn_dim, self.dtype, name="ffn")
        y = ffn(LayerNorm(self.dtype, name="ffn_norm")(x))
        return keep_rows(x + self._branch(y, "ffn_scale", train).astype(x.dtype))

    def _branch(self, y, name, train):
        y = y.astype(jnp.float32)
        if self.layer_scale is not None:
            init = nn.initializers.constant(self.layer_scale)
            scale = self.param(name, nn.with_logical_partitioning(init, ("embed",)), (self.dim,))
            y *= scale.reshape((1,) * (y.ndim - 1) + (-1,))
        return nn.Dropout(self.dropout, deterministic=not train)(y)


def rematerialised(call: Callable, remat: str) -> Callable:
    """Return a Linen call that keeps less than it computes for the backward pass.

    Args:
        call: ``(module, x, ...) -> y``.
        remat: ``"none"`` keeps all; ``"cheap"`` keeps the results of matrix products over
            parameters and recomputes the rest; ``"all"`` keeps the inputs alone. False and True,
            as older exports have it, mean none and all.

    Raises:
        ValueError: another ``remat``.
    """
    policies = {"all": None, "cheap": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}
    remat = {False: "none", True: "all"}.get(remat, remat)
    if remat == "none":
        return call
    if remat not in policies:
        raise ValueError(f"remat={remat!r} is not known; use 'none', 'cheap' or 'all'")
    return nn.remat(call, prevent_cse=False, policy=policies[remat])


class Transformer(nn.Module):
    """A stack of ``depth`` equal layers and a final LayerNorm.

    Attributes:
        depth: number of layers; 0 leaves the final LayerNorm alone.
        remat: what of a layer is recomputed in the backward pass; see ``rematerialised``.
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
    kernel: str = "auto"
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    remat: str = "none"

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
                self.kernel,
                self.dropout,
                self.dtype,
                name=f"layer_{i}",
            )
            x = rematerialised(lambda module, x: module(x, train=train), self.remat)(layer, x)
        return LayerNorm(name="final_norm")(x)
