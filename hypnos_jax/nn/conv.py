"""Causal convolutions over time, and the SEANet encoder and decoder made of them.

Shapes: B batch, T samples, C channels; channels come last, which is what CPU and accelerators
convolve fastest. Nothing here looks ahead: output j of a convolution with stride r sees inputs up
to j * r. So a signal may come in pieces: applied with the collection ``"cache"`` mutable, each
module keeps there what its next call needs of this one's input. The first piece has 1 + n * r
samples and gives n + 1 outputs, a later one n * r and n, for any n.

SEANet: arXiv 2009.02095; with these details SoundStream (2107.03312), EnCodec (2210.13438), Mimi
(2410.00037). Left padding is kernel - 1 as in Hypnos (2606.09605), where Mimi pads kernel - stride.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypnos_jax.sharding import keep_rows

ACTIVATIONS = {
    "elu": jax.nn.elu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "leaky": jax.nn.leaky_relu,
    "linear": lambda x: x,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}
PADDINGS = {"zero": "constant", "reflect": "reflect", "edge": "edge"}
NORMS = ("none", "layer", "rms", "weight")
KERNEL_NAMES = ("kernel", "channels", "embed")


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """Return the activation of this name; ``"gelu"`` is exact, ``"leaky"`` has a slope of 0.01.

    Raises:
        ValueError: another name.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"activation={name!r} is not known; use one of {sorted(ACTIVATIONS)}")
    return ACTIVATIONS[name]


class Conv(nn.Module):
    """Causal convolution, padded on the left alone, and its norm.

    ``y_j = bias + sum_i kernel_i x_(j stride - (kernel - 1 - i) dilation)``

    Attributes:
        features: channels of the output.
        kernel: taps.
        stride: must divide T.
        dilation: distance between taps, in samples.
        norm: ``"none"``; ``"layer"`` or ``"rms"``, over the channels of the output; ``"weight"``,
            the kernel as a learnt gain times a direction (arXiv 1602.07868), per output channel.
        padding: what stands before the first sample: ``"zero"``, ``"edge"`` (the first sample) or
            ``"reflect"`` (the samples to come, mirrored: the first outputs see the future, and a
            first piece must be longer than the padding).
        dtype: of the products and the output; parameters and norms are float32.
    """

    features: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    norm: str = "none"
    padding: str = "zero"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return [B, ceil(T / stride), features] of ``x`` [B, T, C].

        Raises:
            ValueError: T is not whole strides, or for a signal's start one more; an unknown norm
                or padding.
        """
        later = self.has_variable("cache", "past")
        if x.shape[1] % self.stride not in ((0,) if later else (0, 1 % self.stride)):
            raise ValueError(f"stride={self.stride} does not divide the length of {x.shape}")
        if self.padding not in PADDINGS:
            raise ValueError(f"padding={self.padding!r} is not one of {sorted(PADDINGS)}")
        shape = (self.kernel, x.shape[-1], self.features)
        kernel = _kernel(self, shape, kept=2, norm=self.norm).astype(self.dtype)
        past = (self.kernel - 1) * self.dilation
        x = _after(self, x.astype(self.dtype), past, past - self.stride + 1, self.padding)
        y = jax.lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(self.stride,),
            padding="VALID",
            rhs_dilation=(self.dilation,),
            dimension_numbers=("NWC", "WIO", "NWC"),
        )
        return _finish(self, y, self.features, self.norm, self.dtype)


class ConvTranspose(nn.Module):
    """Causal transposed convolution with a kernel of whole strides, and its norm.

    ``y_(j stride + i) = bias + sum_n x_(j-n) kernel_(i + n stride)``: a convolution over inputs
    whose outputs are laid out in time, so no zeros are ever multiplied.

    Attributes:
        features: channels of the output.
        stride: outputs per input.
        overlap: strides that the kernel is long.
        norm: as ``Conv``; the gain of ``"weight"`` is per input channel.
        dtype: as ``Conv``.
    """

    features: int
    stride: int
    overlap: int = 2
    norm: str = "none"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return [B, T * stride, features] of ``x`` [B, T, C]."""
        rows, length, channels = x.shape
        shape = (self.overlap * self.stride, channels, self.features)
        kernel = _kernel(self, shape, kept=1, norm=self.norm).astype(self.dtype)
        # Taps as a convolution orders them: the older input first.
        taps = kernel.reshape(self.overlap, self.stride, channels, self.features)[::-1]
        taps = jnp.moveaxis(taps, 1, 2).reshape(self.overlap, channels, -1)
        x = _after(self, x.astype(self.dtype), self.overlap - 1, self.overlap - 1, "zero")
        y = jax.lax.conv_general_dilated(
            x, taps, (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")
        )
        y = y.reshape(rows, length * self.stride, self.features)
        return _finish(self, y, self.features, self.norm, self.dtype)


def _after(module: nn.Module, x: jax.Array, past: int, keep: int, padding: str) -> jax.Array:
    """Put before x what came before: ``past`` samples of padding, or the ``keep`` of the cache."""
    if module.has_variable("cache", "past"):
        x = jnp.concatenate([module.get_variable("cache", "past"), x], axis=1)
    else:
        x = jnp.pad(x, ((0, 0), (past, 0), (0, 0)), mode=PADDINGS[padding])
    # Also where nothing is kept: that there was a piece before says to pad no more.
    if past and module.is_mutable_collection("cache") and not module.is_initializing():
        module.put_variable("cache", "past", x[:, x.shape[1] - keep :])
    return x


def _kernel(module: nn.Module, shape, *, kept: int, norm: str) -> jax.Array:
    """The module's float32 kernel; under weight norm, axis ``kept`` has a gain each."""
    if norm not in NORMS:
        raise ValueError(f"norm={norm!r} is not one of {NORMS}")
    init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
    kernel = module.param("kernel", nn.with_logical_partitioning(init, KERNEL_NAMES), shape)
    if norm != "weight":
        return kernel
    others = tuple(axis for axis in range(3) if axis != kept)
    length = jnp.sqrt(jnp.sum(kernel**2, others, keepdims=True) + 1e-12)
    gain = module.param(
        "gain",
        nn.with_logical_partitioning(lambda _: length.reshape(-1), (KERNEL_NAMES[kept],)),
    )
    return kernel * (gain.reshape(length.shape) / length)


def _finish(module: nn.Module, y, features: int, norm: str, dtype) -> jax.Array:
    zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("embed",))
    bias = module.param("bias", zeros, (features,))
    y = keep_rows(y + bias.astype(dtype)[None, None])
    if norm in ("layer", "rms"):
        ones = nn.with_logical_partitioning(nn.initializers.ones, ("embed",))
        # The fast variance, E[x^2] - E[x]^2, cancels: few channels, far from zero.
        rest = {"use_fast_variance": False, "scale_init": ones, "parent": module, "name": "norm"}
        if norm == "layer":
            layer = nn.LayerNorm(1e-5, bias_init=zeros, **rest)
        else:
            layer = nn.RMSNorm(1e-5, **rest)
        y = layer(y.astype(jnp.float32)).astype(dtype)
    return y


class ResidualUnit(nn.Module):
    """``x + conv1(act(conv3(act(x))))`` with half the channels in between.

    Attributes:
        dilation: of the three-tap convolution.
        activation, norm, padding, dtype: as ``Conv``.
    """

    dilation: int = 1
    activation: str = "elu"
    norm: str = "weight"
    padding: str = "zero"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return [B, T, C] of ``x`` [B, T, C]."""
        act, width = activation(self.activation), x.shape[-1]
        rest = {"norm": self.norm, "padding": self.padding, "dtype": self.dtype}
        y = Conv(max(width // 2, 1), 3, dilation=self.dilation, **rest, name="narrow")(act(x))
        return x + Conv(width, 1, **rest, name="widen")(act(y))


class SeanetEncoder(nn.Module):
    """Samples to one vector per ``prod(ratios)`` samples.

    A convolution; per ratio: residual units, activation, strided convolution that doubles the
    channels; a last convolution, without an activation before it.

    Attributes:
        dim: D, width of the output.
        filters: channels after the first convolution.
        ratios: strides, first to last.
        units: residual units per stage; unit j dilates by ``dilation_base ** j``.
        dilation_base: see ``units``.
        overlap: strides that a strided kernel is long.
        kernel, last_kernel: taps of the first and the last convolution.
        activation, norm, padding, dtype: as ``Conv``.
    """

    dim: int
    filters: int
    ratios: tuple[int, ...]
    units: int = 1
    dilation_base: int = 1
    overlap: int = 2
    kernel: int = 7
    last_kernel: int = 7
    activation: str = "elu"
    norm: str = "weight"
    padding: str = "zero"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return [B, ceil(T / hop), D] of ``x`` [B, T, C]; output j sees samples <= j * hop."""
        rest = {"norm": self.norm, "padding": self.padding, "dtype": self.dtype}
        act = activation(self.activation)
        x = Conv(self.filters, self.kernel, **rest, name="first")(x)
        for i, ratio in enumerate(self.ratios):
            for j in range(self.units):
                dilation = self.dilation_base**j
                x = ResidualUnit(dilation, self.activation, **rest, name=f"stage_{i}_unit_{j}")(x)
            width = self.filters * 2 ** (i + 1)
            down = Conv(width, self.overlap * ratio, ratio, **rest, name=f"stage_{i}_down")
            x = down(act(x))
        return Conv(self.dim, self.last_kernel, **rest, name="last")(x)

    @property
    def past(self) -> int:
        """Samples before ``j * hop`` that output j depends on."""
        past, step = self.kernel - 1, 1
        for ratio in self.ratios:
            past += step * 2 * sum(self.dilation_base**j for j in range(self.units))
            past += step * (self.overlap * ratio - 1)
            step *= ratio
        return past + step * (self.last_kernel - 1)


class SeanetDecoder(nn.Module):
    """One vector to ``prod(ratios)`` samples: the encoder mirrored.

    Attributes: as ``SeanetEncoder``, with the same ``ratios`` in the same order; ``channels`` is
    that of the output.
    """

    channels: int
    filters: int
    ratios: tuple[int, ...]
    units: int = 1
    dilation_base: int = 1
    overlap: int = 2
    kernel: int = 7
    activation: str = "elu"
    norm: str = "weight"
    padding: str = "zero"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return [B, S * prod(ratios), channels] of ``x`` [B, S, D]."""
        rest = {"norm": self.norm, "padding": self.padding, "dtype": self.dtype}
        act = activation(self.activation)
        x = Conv(self.filters * 2 ** len(self.ratios), self.kernel, **rest, name="first")(x)
        for i, ratio in reversed(list(enumerate(self.ratios))):
            width, name = self.filters * 2**i, f"stage_{i}_up"
            up = ConvTranspose(width, ratio, self.overlap, self.norm, self.dtype, name=name)
            x = up(act(x))
            for j in range(self.units):
                dilation = self.dilation_base**j
                x = ResidualUnit(dilation, self.activation, **rest, name=f"stage_{i}_unit_{j}")(x)
        # The last convolution carries no norm: its output is the signal, of any size.
        rest["norm"] = "none"
        return Conv(self.channels, self.kernel, **rest, name="last")(x)
