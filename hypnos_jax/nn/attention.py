"""Attention cores: dense, windowed by blocks, and rotary positions. No parameters live here.

Shapes: ``...`` any leading axes, S positions, H heads, E width of one head.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from hypnos_jax.nn.backend import platform
from hypnos_jax.sharding import on_own_rows_and_heads

KERNELS = ("auto", "blocks", "cudnn", "splash")
FEW = 16  # positions up to which a GPU is better off without matrix products


def rotary(
    x: jax.Array, *, first: int = 0, theta: float = 10_000.0, rates: jax.Array | None = None
) -> jax.Array:
    """Rotate interleaved pairs (even, odd) of ``x`` by angles that grow with the position.

    Pair ``i`` turns by ``position * theta ** (-2 i / E)``, so that a product of two rotated vectors
    depends on the distance of their positions alone. RoFormer, arXiv 2104.09864.

    Args:
        x: [..., S, H, E].
        first: position of x's first row.
        theta: base of the wavelengths.
        rates: float32 [E / 2], radians a position of each pair, such as learnt ones, in place of
            theta's.

    Returns:
        [..., S, H, E] of x's dtype; angles and the rotation are float32.

    Raises:
        ValueError: E is odd.
    """
    length, width = x.shape[-3], x.shape[-1]
    if width % 2:
        raise ValueError(
            f"rotary positions turn pairs, but the head width is {width}; make it even"
        )
    places, of = np.arange(first, first + length)[:, None], jnp
    if rates is None:
        # In float64 on the host: a product in float32 is off by thousandths after some hours.
        rates, of = theta ** (-np.arange(0, width, 2, dtype=np.float64) / width), np
    angles = places * rates[None]
    shape = (1,) * (x.ndim - 3) + (length, 1, width // 2)
    cos, sin = (jnp.asarray(turn(angles), jnp.float32).reshape(shape) for turn in (of.cos, of.sin))
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], width // 2, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    turned = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array | None = None,
    drop: Callable | None = None,
) -> jax.Array:
    """Return ``softmax(q k^T / sqrt(E)) v`` with all scores in memory.

    Args:
        q: [..., S, H, E].
        k, v: [..., T, H, E].
        mask: bool, broadcastable to [..., S, T] with as many axes; True where a query may look.
            A query that may look nowhere would get the mean of v: always allow something.
        drop: applied to the weights [..., H, S, T], such as a dropout.

    Returns:
        [..., S, H, E] of q's dtype; scores and softmax are float32.
    """
    if drop is None and platform() == "gpu" and max(q.shape[-3], k.shape[-3]) <= FEW:
        return _attend_few(q, k, v, mask)
    scores = jnp.einsum("...qhe,...khe->...hqk", q, k, preferred_element_type=jnp.float32)
    scores *= q.shape[-1] ** -0.5
    if mask is not None:
        scores = jnp.where(jnp.expand_dims(mask, -3), scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    if drop is not None:
        weights = drop(weights)
    return jnp.einsum("...hqk,...khe->...qhe", weights, v)


def _attend_few(q, k, v, mask):
    """As ``attend``, by sums that XLA fuses: a million products of 8 x 8 do not fill a GPU."""
    q, k, v32 = (x.astype(jnp.float32) for x in (q, k, v))
    scores = jnp.sum(q[..., :, None, :, :] * k[..., None, :, :, :], -1) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = jnp.where(mask[..., None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-2).astype(v.dtype).astype(jnp.float32)
    return jnp.sum(weights[..., None] * v32[..., None, :, :, :], -3).astype(v.dtype)


def attend_window(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    window: int | None,
    seen: jax.Array | None = None,
    kernel: str = "auto",
    block: int = 64,
) -> jax.Array:
    """Return causal attention in which each position sees itself and ``window - 1`` before it.

    The sequence is cut into blocks; a block of queries meets its own block of keys and the few
    before it that the window reaches, so memory grows with S x (window + block), never S x S.

    Args:
        q: [..., S, H, E].
        k, v: [..., S, H, E]; with ``seen`` longer, what came before in front.
        window: positions seen, self included; None sees the whole past, with S x S scores.
        seen: int32 scalar, how many of the rows in front are real; the rest are not looked at.
        kernel: ``"blocks"``, matrix products that XLA compiles anywhere; ``"cudnn"``, cuDNN's fused
            attention (NVIDIA GPUs, bfloat16 or float16); ``"splash"``, JAX's Pallas kernel for
            TPUs; ``"auto"``, cuDNN's where it can be had and blocks elsewhere. With ``seen``,
            always blocks.
        block: queries per block; shorter windows use blocks of their own length.

    Returns:
        [..., S, H, E] of q's dtype.

    Raises:
        ValueError: the window sees nothing, or the kernel is not known.
    """
    if kernel not in KERNELS:
        raise ValueError(f"attention={kernel!r} is not known; use one of {KERNELS}")
    if kernel == "auto":
        half = q.dtype in (jnp.bfloat16, jnp.float16)
        kernel = "cudnn" if platform() == "gpu" and half and q.shape[-3] > FEW else "blocks"
    if kernel != "blocks" and seen is None and (window is None or window > 0):
        fused = _attend_cudnn if kernel == "cudnn" else _attend_splash
        rows = (x.reshape(-1, *x.shape[-3:]) for x in (q, k, v))
        return fused(*rows, window).reshape(q.shape)
    length, front = q.shape[-3], k.shape[-3] - q.shape[-3]
    if window is not None and window < 1:
        raise ValueError(f"window={window} sees nothing; 1 is the position itself")
    if window is None or length <= min(block, window):
        query, key = np.arange(length)[:, None], np.arange(-front, length)[None]
        return attend(q, k, v, _within(query, key, window, seen, q.ndim - 3))

    block = min(block, window)
    blocks = -(-length // block)
    before = -(-(window - 1) // block)  # blocks of keys before the query's own
    end = blocks * block - length

    def cut(x, front):
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [(front, end), (0, 0), (0, 0)])
        return x.reshape(*x.shape[:-3], x.shape[-3] // block, block, *x.shape[-2:])

    def reach(x):
        x = cut(x, before * block - front)
        slabs = [x[..., i : i + blocks, :, :, :] for i in range(before + 1)]
        return jnp.concatenate(slabs, axis=-3)

    query = np.arange(blocks * block).reshape(blocks, block, 1)
    start = (np.arange(blocks) - before) * block
    key = start[:, None, None] + np.arange((before + 1) * block)
    out = attend(cut(q, 0), reach(k), reach(v), _within(query, key, window, seen, q.ndim - 3))
    return out.reshape(*q.shape[:-3], blocks * block, *q.shape[-2:])[..., :length, :, :]


def _attend_cudnn(q, k, v, window):
    """Causal attention [N, S, H, E] by cuDNN, which keeps no scores for the backward pass."""
    reach = None if window is None else (window - 1, 0)
    return jax.nn.dot_product_attention(
        q, k, v, is_causal=True, local_window_size=reach, implementation="cudnn"
    )


def _attend_splash(q, k, v, window):
    """Causal attention [N, S, H, E] by the Pallas kernel for TPUs; interpreted elsewhere."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    length, width = q.shape[-3], q.shape[-1]
    lanes = 128  # of a TPU: what lengths and heads are padded to
    end = -length % lanes
    whole = length + end
    q = q * jnp.asarray(width**-0.5, q.dtype)
    q, k, v = (
        jnp.pad(jnp.swapaxes(x, 1, 2), [(0, 0), (0, 0), (0, end), (0, -width % lanes)])
        for x in (q, k, v)
    )
    square = (whole, whole)
    one = masks.CausalMask(square)
    if window is not None:
        one = masks.LocalMask(square, (window - 1, 0), 0)
    block = max(size for size in (128, 256, 512) if whole % size == 0)
    parts = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
    sizes = splash.BlockSizes(**{f"block_{part}": block for part in parts})

    def local(q, k, v):
        kernel = splash.make_splash_mha(
            masks.MultiHeadMask([one] * q.shape[1]),
            block_sizes=sizes,
            head_shards=1,
            q_seq_shards=1,
            interpret=platform() != "tpu",
        )
        return jax.vmap(kernel)(q, k, v)

    out = on_own_rows_and_heads(local)(q, k, v)
    return jnp.swapaxes(out[:, :, :length, :width], 1, 2).astype(v.dtype)


def _within(query, key, window, seen, leading):
    """Which positions may look at which, with ``leading`` axes of 1 in front."""
    mask = key <= query
    if window is not None:
        mask &= key > query - window
    mask = jnp.asarray(mask)
    mask &= jnp.asarray(key) >= (0 if seen is None else -seen)
    return mask.reshape((1,) * leading + mask.shape)
