"""Pre-LayerNorm transformer layers, as the tokenizers and the RQ-Transformer use them.

An array's last name tells what it is (``kernel``, ``bias``, ``scale``, ``embedding``), and its axes
carry logical names. Parameters are float32; ``dtype`` is that of the matrix products. Norms,
softmax and the residual stream stay float32: branches start at a hundredth of their size, which a
bfloat16 sum would round away.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

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
from hypnos_jax.nn.multi_head_attention import MultiHeadAttention
from hypnos_jax.sharding import keep_rows


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


class RmsNorm(nn.Module):
    """``x / sqrt(mean(x^2) + epsilon)`` with a learnt scale, in float32 (arXiv 1910.07467)."""

    dtype: jnp.dtype = jnp.float32
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        ones = nn.with_logical_partitioning(nn.initializers.ones, ("embed",))
        norm = nn.RMSNorm(self.epsilon, scale_init=ones, name="norm")
        return norm(x.astype(jnp.float32)).astype(self.dtype)


class Linear(nn.Module):
    """A linear layer whose input and output may be zero-padded to a given width.

    Attributes:
        names: logical axes of the kernel.
        inputs, outputs: of the parameters.
        width: columns computed; those beyond ``outputs`` are 0. As many by default.
        bias: add one.
        lora: keyword arguments of ``LowRank``, of an addition; None for none.
        initialiser: of the kernel.
        fan_in_bias: begin the bias as ``fan_in_bias_init`` has it, and not at 0.
    """

    names: tuple[str, str]
    inputs: int
    outputs: int
    width: int | None = None
    bias: bool = False
    dtype: jnp.dtype = jnp.float32
    lora: Mapping[str, Any] | None = None
    initialiser: Callable = INIT
    fan_in_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Return [..., width] of ``x`` [..., inputs or more]; what is beyond ``inputs`` is 0.

        ``train`` draws the dropout of the low-rank addition, and nothing else.
        """
        rows, columns = x.shape[-1] - self.inputs, (self.width or self.outputs) - self.outputs
        init = kernel_init(*self.names, init=self.initialiser)
        kernel = self.param("kernel", init, (self.inputs, self.outputs))
        y = linear(x, jnp.pad(kernel.astype(self.dtype), [(0, rows), (0, columns)]))
        if self.lora:
            low = LowRank(self.outputs, dtype=self.dtype, **self.lora)
            nn.share_scope(self, low)
            added = low(x[..., : self.inputs], train=train)
            y += jnp.pad(added, [(0, 0)] * (added.ndim - 1) + [(0, columns)])
        if not self.bias:
            return y
        init = zeros_init(self.names[1])
        if self.fan_in_bias:
            init = fan_in_bias_init(self.inputs, self.names[1])
        bias = self.param("bias", init, (self.outputs,))
        return add_bias(y, jnp.pad(bias, (0, columns)))


class FeedForward(nn.Module):
    """The position-wise network: exact (erf) GELU or ReLU with biases, or SwiGLU without.

    Attributes:
        kind: ``"gelu"`` or ``"relu"``, hidden 4 D; or ``"swiglu"``, hidden int(2/3 * 4 D), of the
            same size.
        hidden: width instead of the above.
        lora, lora_on: as ``TransformerLayer`` has them.
        initialiser: of the kernels.
        out_initialiser: of the last one, where it is another.
        fan_in_bias: see ``Linear``.
        dropout: rate on the hidden layer.
    """

    kind: str = "gelu"
    hidden: int | None = None
    dtype: jnp.dtype = jnp.float32
    lora: Mapping[str, Any] | None = None
    lora_on: tuple[str, ...] = ()
    initialiser: Callable = INIT
    out_initialiser: Callable | None = None
    fan_in_bias: bool = False
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Return [..., D] of ``x`` [..., D]; ``train`` draws dropout."""
        if self.kind not in ("gelu", "relu", "swiglu"):
            raise ValueError(f"ffn={self.kind!r} is not known; use 'gelu', 'relu' or 'swiglu'")
        dim, bias = x.shape[-1], self.kind != "swiglu"
        hidden = self.hidden or (4 * dim if bias else int(2 / 3 * 4 * dim))
        # SwiGLU's 1365 of 512 would keep a GPU's matrix units from aligned reads: 4x slower.
        width = hidden if hidden % 8 == 0 else -(-hidden // 64) * 64

        def layer(name, names, *sizes):
            lora = self.lora if name in self.lora_on else None
            initialiser = (self.out_initialiser if name == "down" else None) or self.initialiser
            own = {"dtype": self.dtype, "lora": lora, "initialiser": initialiser}
            made = Linear(names, *sizes, bias, **own, fan_in_bias=self.fan_in_bias, name=name)
            return functools.partial(made, train=train)

        def up(name):
            return layer(name, ("embed", "mlp"), dim, hidden, width)

        down = layer("down", ("mlp", "embed"), hidden, dim, None)
        x = x.astype(self.dtype)
        if self.kind == "gelu":
            x = jax.nn.gelu(up("up")(x), approximate=False)
        elif self.kind == "relu":
            x = jax.nn.relu(up("up")(x))
        else:
            x = jax.nn.silu(up("gate")(x)) * up("up")(x)
        return down(Dropout(self.dropout)(x, train=train) if self.dropout else x)


class TransformerLayer(nn.Module):
    """Attention and a position-wise network, each normalised before and added to the stream.

    ``x += scale * attention(norm(x)); x += scale * ffn(norm(x))``

    Attributes:
        dim: D.
        heads: H.
        window: positions seen, self included (causal only); None sees the whole past.
        causal: False for attention in both directions, under the call's mask.
        ffn: see ``FeedForward``; None for attention alone.
        ffn_dim: hidden width; ``FeedForward``'s by default.
        qk_norm, rope, xsa, kernel, bias, cache_length: see ``MultiHeadAttention``.
        layer_scale: start value of the learnt scales of both branches; None for none.
        dropout: rate on the branches' outputs.
        inner_dropout: rate on the attention's weights and on the hidden layer.
        epsilon: of the LayerNorms.
        lora: keyword arguments of ``LowRank``; None for none.
        lora_on: what gets such an addition: ``"qkv"`` and ``"out"`` of the attention, ``"up"`` and
            ``"down"`` (and ``"gate"``) of the position-wise network.
        initialiser: of all kernels.
        attention_out, ffn_up, ffn_down: initialisers of these kernels, where they are others.
        fan_in_bias: of the position-wise network; see ``Linear``.
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
    bias: bool = False
    epsilon: float = 1e-5
    lora: Mapping[str, Any] | None = None
    lora_on: tuple[str, ...] = ("out",)
    initialiser: Callable = INIT
    attention_out: Callable | None = None
    ffn_up: Callable | None = None
    ffn_down: Callable | None = None
    fan_in_bias: bool = False
    inner_dropout: float = 0.0
    cache_length: int | None = None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array | None = None,
        *,
        memory: jax.Array | None = None,
        place: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Return the stream after this layer.

        Args:
            x: [..., S, D].
            mask: bool, broadcastable to [..., S, S] with as many axes; for ``causal=False``.
            memory: [..., T, any width], what the attention looks at, normalised; x by default.
            place: of x in a cache; see ``MultiHeadAttention``.
            train: draw dropout, from the stream ``"dropout"``.

        Returns:
            [..., S, D] of x's dtype.

        Raises:
            ValueError: x is not ``dim`` wide, or ``heads`` does not divide it.
        """
        if x.shape[-1] != self.dim:
            raise ValueError(f"a layer of dim={self.dim} was given {x.shape}")
        x = keep_rows(x)
        attention = MultiHeadAttention(
            self.heads,
            causal=self.causal,
            window=self.window,
            rope=self.rope,
            qk_norm=self.qk_norm,
            xsa=self.xsa,
            kernel=self.kernel,
            bias=self.bias,
            lora=self.lora,
            lora_on=tuple(name for name in self.lora_on if name in ("qkv", "out")),
            initialiser=self.initialiser,
            out_initialiser=self.attention_out,
            dropout=self.inner_dropout,
            cache_length=self.cache_length,
            dtype=self.dtype,
            name="attention",
        )
        if memory is not None:
            memory = self._norm("memory_norm")(memory)
        y = self._norm("attention_norm")(x)
        y = attention(y, mask, memory=memory, place=place, train=train)
        x = keep_rows(x + self._branch(y, "attention_scale", train).astype(x.dtype))
        if self.ffn is None:
            return x
        ffn = FeedForward(
            self.ffn,
            self.ffn_dim,
            self.dtype,
            self.lora,
            self.lora_on,
            self.ffn_up or self.initialiser,
            self.ffn_down,
            self.fan_in_bias,
            self.inner_dropout,
            name="ffn",
        )
        y = ffn(self._norm("ffn_norm")(x), train=train)
        return keep_rows(x + self._branch(y, "ffn_scale", train).astype(x.dtype))

    def _norm(self, name):
        return LayerNorm(self.dtype, self.epsilon, name=name)

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
        layer: keyword arguments of ``TransformerLayer``.
        last: further ones, of the last layer alone.
        norm: have the final LayerNorm.
        remat: what of a layer is recomputed in the backward pass; see ``rematerialised``.
    """

    depth: int
    layer: Mapping[str, Any]
    last: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    norm: bool = True
    remat: str = "none"

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array | None = None, *, train: bool = False
    ) -> jax.Array:
        """Return [..., S, D] float32 of ``x`` [..., S, D]; see ``TransformerLayer``."""

        def call(module, x, mask):
            return module(x, mask, train=train)

        for i in range(self.depth):
            own = {**self.layer, **(self.last if i == self.depth - 1 else {})}
            layer = TransformerLayer(**own, name=f"layer_{i}")
            x = rematerialised(call, self.remat)(layer, x, mask)
        if not self.norm:
            return x
        return LayerNorm(epsilon=self.layer.get("epsilon", 1e-5), name="final_norm")(x)
