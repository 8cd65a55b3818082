"""Multi-scale 1-D residual networks with squeeze-and-excitation: short frames of signal to vectors.

The frame network of NeuroNet (arXiv 2404.17585) and SynthSleepNet (arXiv 2502.17481), as their
official code has it: a stem, three branches of kernels 3, 5 and 7 side by side, and two linear
layers. Convolutions of every kernel are padded by 1, so the wider ones shorten the signal.

Shapes: N signals, T frames of each, S samples a frame, C channels, F features. In blocks N counts
frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypnos_jax.nn.batch_norm import BatchNorm
from hypnos_jax.nn.linear import XAVIER, kernel_init, linear
from hypnos_jax.nn.transformer import Linear
from hypnos_jax.sharding import keep_rows

POOLS = {3: 16, 5: 11, 7: 6}  # kernel of a branch, and width of the average at its end
STRIDES = (1, 1, 2, 2)  # of a branch's blocks
PAD = 1  # of every convolution but the stem's, whatever its kernel
# Uniform within 1 / sqrt(inputs x taps), as PyTorch begins convolutions.
START = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Convolution(nn.Module):
    """A convolution over time without bias.

    Attributes:
        features: channels of the output.
        kernel: taps.
        stride: samples from one output to the next.
        pad: zeros before and after.
        dtype: of the products.
    """

    features: int
    kernel: int
    stride: int = 1
    pad: int = PAD
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return [N, (S + 2 pad - kernel) // stride + 1, features] of ``x`` [N, S, C]."""
        init = kernel_init("kernel", "channels", "embed", init=START, inputs=2)
        kernel = self.param("kernel", init, (self.kernel, x.shape[-1], self.features))
        if self.kernel == 1 and not self.pad:
            # A product: its gradients are faster on CPUs, and compile in a fraction of the time.
            return linear(x[:, :: self.stride].astype(self.dtype), kernel[0].astype(self.dtype))
        return jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            (self.stride,),
            [(self.pad, self.pad)],
            dimension_numbers=("NWC", "WIO", "NWC"),
        )


class ResidualBlock(nn.Module):
    """``ELU(SE(BN(conv(ELU(BN(conv(x)))))) + shortcut(x))``.

    The shortcut is x itself, or a convolution of one tap and BN where stride or width change; it is
    cropped on the right to the length of the other side.

    Attributes:
        features: channels of the output.
        kernel: taps.
        stride: of the first convolution and the shortcut.
        squeeze: how many times narrower the squeeze is; 0 for none.
        dtype: of the products.
    """

    features: int
    kernel: int
    stride: int = 1
    squeeze: int = 16
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, counted: jax.Array, *, train: bool = False) -> jax.Array:
        """Return [N, S', features] of ``x`` [N, S, C]; see ``MultiscaleResnet``."""

        def step(x, name, *shape, pad=PAD):
            x = Convolution(self.features, *shape, pad, self.dtype, name=f"{name}_conv")(x)
            return normalised(x, counted, f"{name}_norm", train)

        y = jax.nn.elu(step(x, "first", self.kernel, self.stride))
        y = step(y, "second", self.kernel, 1)
        if self.squeeze:
            y = y * self._excitation(y)
        if self.stride > 1 or x.shape[-1] != self.features:
            x = step(x, "shortcut", 1, self.stride, pad=0)
        return jax.nn.elu(y + x[:, : y.shape[1]])

    def _excitation(self, y):
        """One number from 0 to 1 a channel, [N, 1, C] (squeeze-and-excitation, 1709.01507)."""
        narrow = self.features // self.squeeze
        mean = y.mean(1, keepdims=True)
        low = Linear(("embed", None), self.features, narrow, initialiser=XAVIER, name="squeeze")
        high = Linear((None, "embed"), narrow, self.features, initialiser=XAVIER, name="excite")
        return jax.nn.sigmoid(high(jax.nn.relu(low(mean))))


class MultiscaleResnet(nn.Module):
    """Frames of signal to features.

    Attributes:
        stem: channels of the stem.
        widths: channels of each branch's four blocks.
        squeeze: see ``ResidualBlock``.
        kernels: of the branches, some of 3, 5 and 7.
        lora: keyword arguments of ``LowRank``, of additions to both linear layers; None for none.
        frozen_statistics: normalise by the running statistics in training too, and leave them.
        dtype: of the products.
    """

    stem: int = 64
    widths: tuple[int, ...] = (64, 128, 128, 256)
    squeeze: int = 16
    kernels: tuple[int, ...] = (3, 5, 7)
    lora: Mapping[str, Any] | None = None
    frozen_statistics: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, frames: jax.Array, counted: jax.Array, *, train: bool = False) -> jax.Array:
        """Return float32 [N, T, F]; F is half of what the branches give (see ``features``).

        Args:
            frames: [N, T, S], of N signals.
            counted: bool [N], what enters the statistics of the batch.
            train: use the batch's statistics, and move the running ones; draw LoRA's dropout.

        Raises:
            ValueError: the frames are too short for a branch.
        """
        rows, count, samples = frames.shape
        width = features(samples, self.widths[-1], self.kernels)
        counted = jnp.repeat(counted, count)
        x = keep_rows(frames.reshape(rows * count, samples))[..., None]
        x = Convolution(self.stem, 7, 2, 3, self.dtype, name="stem_conv")(x)
        moving = train and not self.frozen_statistics
        x = jax.nn.elu(normalised(x, counted, "stem_norm", moving))
        x = _halved(x)
        ends = []
        for kernel in self.kernels:
            y = x
            for i, (features_, stride) in enumerate(zip(self.widths, STRIDES)):
                name = f"branch_{kernel}_block_{i}"
                block = ResidualBlock(
                    features_, kernel, stride, self.squeeze, self.dtype, name=name
                )
                y = block(y, counted, train=moving)
            ends.append(nn.avg_pool(y, (POOLS[kernel],)))
        # Channel by channel, as published weights have it.
        x = jnp.concatenate(ends, axis=1).swapaxes(1, 2).reshape(rows, count, -1)

        def layer(name, x, names):
            options = {"bias": True, "dtype": self.dtype, "lora": self.lora}
            made = Linear(names, x.shape[-1], width, **options, initialiser=XAVIER, name=name)
            return keep_rows(made(x.astype(self.dtype), train=train)).astype(jnp.float32)

        x = jax.nn.elu(layer("hidden", x, ("embed", "mlp")))
        return layer("out", x, ("mlp", "embed"))


def normalised(x: jax.Array, counted: jax.Array, name: str, train: bool) -> jax.Array:
    """Return float32 [N, S, C], batch-normalised over frames and time."""
    counted = jnp.broadcast_to(counted[:, None], x.shape[:2])
    return BatchNorm(name=name)(keep_rows(x), counted, train=train)


def _halved(x):
    """The maximum of every second position and its neighbours, [N, (S + 1) // 2, C].

    Of three slices: the gradient of ``nn.max_pool`` takes several times as long on CPUs.
    """
    lowest = jnp.finfo(x.dtype).min
    x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0)), constant_values=lowest)
    even, odd = x[:, ::2], x[:, 1::2]
    before = jnp.pad(odd[:, :-1], ((0, 0), (1, 0), (0, 0)), constant_values=lowest)
    return jnp.maximum(even, jnp.maximum(before, odd))


def features(samples: int, width: int, kernels: tuple[int, ...]) -> int:
    """Return F of frames of so many samples, where branches end in ``width`` channels.

    Raises:
        ValueError: the frames are too short for a branch, or there is none of such a kernel.
    """
    if unknown := sorted(set(kernels) - set(POOLS)):
        raise ValueError(f"kernels={tuple(kernels)}: {unknown[0]} is none of {sorted(POOLS)}")
    half = (samples - 1) // 2 + 1
    total = 0
    for kernel in kernels:
        length = (half - 1) // 2 + 1
        for stride in STRIDES:
            length = (length + 2 * PAD - kernel) // stride + 1
            length += 2 * PAD - kernel + 1
        if length < POOLS[kernel]:
            raise ValueError(
                f"frames of {samples} samples are too short for the branch of kernel {kernel}; give"
                " longer windows"
            )
        total += length - POOLS[kernel] + 1
    return total * width // 2
