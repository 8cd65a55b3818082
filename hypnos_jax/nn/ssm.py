"""Selective state spaces: the layers Mamba (arXiv 2312.00752) and Mamba-2 (2405.21060).

Shapes: B rows, L positions, D width of the stream, H heads of P channels, N numbers of a channel's
state. Time steps, decays, their sums and states are float32 whatever the dtype of the products.

Nothing looks ahead, so a sequence may come in pieces of any length: applied with the collection
``"cache"`` mutable, a layer goes on from the state and the last inputs of its convolution that the
cache holds, and leaves its own there.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypnos_jax.nn.linear import linear
from hypnos_jax.sharding import keep_rows

NORM_EPS = 1e-5  # of the gated norm, as the official library has it
WHOLE = 128  # positions up to which Mamba-2 takes a sequence as one chunk
CHUNK = 64  # positions of its chunks in a longer one
SCAN_CHUNK = 32  # positions of Mamba-1's chunks


def ssd(
    x: jax.Array,
    dt: jax.Array,
    a: jax.Array,
    b: jax.Array,
    c: jax.Array,
    *,
    chunk: int | None = None,
    state: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Return the outputs and the last state of Mamba-2's recurrence, chunk by chunk.

    ``S_t = exp(dt_t a) S_(t-1) + dt_t x_t b_t^T; y_t = S_t c_t``, for each head. Within a chunk
    this is a product with a lower triangular matrix, like attention without a softmax; only states
    pass from chunk to chunk. Time and memory are linear in L. Products are of x's dtype.

    Args:
        x: [B, L, H, P].
        dt: [B, L, H], 0 or more; where it is 0, the state stays and takes nothing up.
        a: [H], below 0.
        b, c: [B, L, N], shared by the heads.
        chunk: positions of a chunk; all of L up to 128 and else 64 by default. 1 is the recurrence
            itself.
        state: [B, H, P, N] before the first position; 0 by default.

    Returns:
        [B, L, H, P] and [B, H, P, N], float32.
    """
    length, dtype = x.shape[1], x.dtype
    wide = jnp.promote_types(dtype, jnp.float32)
    size = min(chunk or (length if length <= WHOLE else CHUNK), length)
    if size == 1:
        return ssd_scan(x, dt, a, b, c, state=state)

    def product(formula, *arrays):
        arrays = (array.astype(dtype) for array in arrays)
        return jnp.einsum(formula, *arrays, preferred_element_type=wide)

    x, dt, b, c = (_cut(array, size) for array in (x, dt.astype(wide), b, c))
    dt = jnp.moveaxis(dt, 3, 2)  # [B, chunks, H, Q]
    total = jnp.cumsum(dt * a.astype(wide).reshape(1, 1, -1, 1), -1)
    past = jnp.tril(jnp.ones((1, 1, 1, size, size), bool))
    # Masked before exp: above the diagonal it could overflow, and its gradient would be no number.
    decay = jnp.exp(jnp.where(past, total[..., :, None] - total[..., None, :], -jnp.inf))
    alike = product("zkin,zkjn->zkij", c, b)
    weights = alike[:, :, None] * decay * dt[..., None, :]
    y = product("zkhij,zkjhp->zkihp", weights, x)

    end = total[..., -1]
    kept = jnp.moveaxis(jnp.exp(end[..., None] - total) * dt, 2, 3)
    added = product("zkihp,zkin->zkhpn", x * kept[..., None], b)
    if state is None:
        state = jnp.zeros_like(added[:, 0])

    def step(state, chunk):
        added, decay = chunk
        return decay[..., None, None] * state + added, state

    over = (jnp.moveaxis(added, 1, 0), jnp.moveaxis(jnp.exp(end), 1, 0))
    state, before = jax.lax.scan(step, state.astype(wide), over)
    seen = jnp.moveaxis(jnp.exp(total), 2, 3)
    y += seen[..., None] * product("zkin,kzhpn->zkihp", c, before)
    return y.reshape(y.shape[0], -1, *y.shape[3:])[:, :length], state


def ssd_scan(
    x: jax.Array,
    dt: jax.Array,
    a: jax.Array,
    b: jax.Array,
    c: jax.Array,
    *,
    state: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Return what ``ssd`` returns, position by position: one step of a stream, and the measure."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    x, dt, a, b, c = (array.astype(wide) for array in (x, dt, a, b, c))
    if state is None:
        state = jnp.zeros((x.shape[0], *x.shape[2:], b.shape[-1]), wide)

    def step(state, now):
        x, dt, b, c = now
        state *= jnp.exp(dt * a[None])[..., None, None]
        state += (dt[..., None] * x)[..., None] * b[:, None, None]
        return state, jnp.einsum("zhpn,zn->zhp", state, c)

    over = tuple(jnp.moveaxis(array, 1, 0) for array in (x, dt, b, c))
    state, y = jax.lax.scan(step, state.astype(wide), over)
    return jnp.moveaxis(y, 0, 1), state


def selective_scan(
    x: jax.Array,
    dt: jax.Array,
    a: jax.Array,
    b: jax.Array,
    c: jax.Array,
    *,
    chunk: int | None = None,
    state: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Return the outputs and the last state of Mamba-1's recurrence.

    ``h_t = exp(dt_t a) h_(t-1) + dt_t b_t x_t; y_t = sum_n c_t h_t``, for each channel. Positions
    of a chunk are scanned by halves, at once; the backward pass keeps the states between chunks and
    computes those within anew, so that memory does not hold a state for every position.

    Args:
        x, dt: [B, L, D]; where dt is 0, the state stays and takes nothing up.
        a: [D, N], below 0.
        b, c: [B, L, N].
        chunk: positions of a chunk, 32 by default; 1 is the recurrence itself.
        state: [B, D, N] before the first position; 0 by default.

    Returns:
        [B, L, D] and [B, D, N], float32.
    """
    rows, length, width = x.shape
    wide = jnp.promote_types(x.dtype, jnp.float32)
    size = min(chunk or SCAN_CHUNK, length)
    x, dt, b, c = (_cut(array.astype(wide), size) for array in (x, dt, b, c))
    if state is None:
        state = jnp.zeros((rows, width, b.shape[-1]), wide)
    a = a.astype(wide)[None, None]

    def step(state, chunk):
        x, dt, b, c = chunk
        decay = jnp.exp(dt[..., None] * a)
        added = (dt * x)[..., None] * b[:, :, None]
        decay, added = jax.lax.associative_scan(_after, (decay, added), axis=1)
        states = decay * state[:, None] + added
        return states[:, -1], jnp.einsum("zidn,zin->zid", states, c)

    over = tuple(jnp.moveaxis(array, 1, 0) for array in (x, dt, b, c))
    step = jax.checkpoint(step, prevent_cse=False)
    state, y = jax.lax.scan(step, state.astype(wide), over)
    return jnp.moveaxis(y, 0, 1).reshape(rows, -1, width)[:, :length], state


def _after(first, second):
    """One step of a state that stands for two: ``h -> decay h + added``."""
    return first[0] * second[0], second[0] * first[1] + second[1]


def _cut(x, size):
    """[B, chunks, size, ...] of x [B, L, ...], whose last chunk is filled up with zeros."""
    x = jnp.pad(x, [(0, 0), (0, -x.shape[1] % size)] + [(0, 0)] * (x.ndim - 2))
    return x.reshape(x.shape[0], -1, size, *x.shape[2:])


class Mamba2(nn.Module):
    """The layer Mamba-2, with the parameters of the official library and one group.

    ``z, x, b, c, dt = x W_in``; a causal convolution and SiLU over x, b and c; the recurrence
    (``ssd``) with ``softplus(dt + dt_bias)`` and ``a = -exp(A_log)``; plus ``D x``; gated by
    ``silu(z)``; RMS-normalised after the gate; times W_out.

    Attributes:
        d_state: N.
        d_conv: taps of the convolution.
        expand: inner width, in widths of the stream.
        head_dim: P; must divide the inner width.
        chunk: see ``ssd``.
        dtype: of the matrix products.
    """

    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    head_dim: int = 64
    chunk: int | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, valid: jax.Array | None = None) -> jax.Array:
        """Return [B, L, D] of ``x`` [B, L, D].

        Args:
            x: the stream.
            valid: bool [B, L]; where False, nothing enters the state and the output is 0.

        Raises:
            ValueError: ``head_dim`` does not divide the inner width.
        """
        dim, inner = x.shape[-1], self.expand * x.shape[-1]
        if inner % self.head_dim:
            raise ValueError(
                f"head_dim={self.head_dim} (context.head_dim of a config) does not divide the inner"
                f" width, expand={self.expand} x {dim} = {inner}; give it a divisor, such as"
                f" {math.gcd(inner, 64)}"
            )
        heads, mixed = inner // self.head_dim, inner + 2 * self.d_state
        x = _only(x, valid)
        x = _project(self, "in_proj", x, inner + mixed + heads, ("embed", "mlp"))
        z, x, dt = jnp.split(x, [inner, inner + mixed], -1)
        x = _convolve(self, x, self.d_conv)
        x, b, c = jnp.split(x, [inner, inner + self.d_state], -1)

        dt_bias = self.param("dt_bias", _named(_dt_bias_init, "heads"), (heads,))
        a_log = self.param("A_log", _named(_a_log_init, "heads"), (heads,))
        skip = self.param("D", _named(nn.initializers.ones, "heads"), (heads,))
        dt = jax.nn.softplus(dt.astype(jnp.float32) + dt_bias[None, None])
        x = x.reshape(*x.shape[:2], heads, self.head_dim)
        y = _carried(
            self,
            lambda state: ssd(
                x, _only(dt, valid), -jnp.exp(a_log), b, c, chunk=self.chunk, state=state
            ),
            (x.shape[0], heads, self.head_dim, self.d_state),
        )
        y += skip[None, None, :, None] * x.astype(jnp.float32)
        y = y.reshape(*y.shape[:2], inner) * jax.nn.silu(z.astype(jnp.float32))
        y *= jax.lax.rsqrt(jnp.mean(y**2, -1, keepdims=True) + NORM_EPS)
        scale = self.param("norm_scale", _named(nn.initializers.ones, "mlp"), (inner,))
        return _project(self, "out_proj", y * scale[None, None], dim, ("mlp", "embed"))


class Mamba1(nn.Module):
    """The layer Mamba, with the parameters of the official library.

    ``x, z = x W_in``; a causal convolution and SiLU over x; ``dt, b, c = x W_x``, of which dt has a
    low rank, ceil(D / 16); the recurrence (``selective_scan``) with ``softplus(dt W_dt + dt_bias)``
    and ``a = -exp(A_log)``; plus ``D x``; gated by ``silu(z)``; times W_out.

    Attributes:
        d_state: N.
        d_conv: taps of the convolution.
        expand: inner width, in widths of the stream.
        chunk: see ``selective_scan``.
        dtype: of the matrix products.
    """

    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    chunk: int | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, valid: jax.Array | None = None) -> jax.Array:
        """Return [B, L, D] of ``x`` [B, L, D].

        Args:
            x: the stream.
            valid: bool [B, L]; where False, nothing enters the state and the output is 0.
        """
        dim, inner, rank = x.shape[-1], self.expand * x.shape[-1], -(-x.shape[-1] // 16)
        x = _only(x, valid)
        x, z = jnp.split(_project(self, "in_proj", x, 2 * inner, ("embed", "mlp")), 2, -1)
        x = _convolve(self, x, self.d_conv)
        low = _project(self, "x_proj", x, rank + 2 * self.d_state, ("mlp", None))
        dt, b, c = jnp.split(low, [rank, rank + self.d_state], -1)
        dt = _project(self, "dt_proj", dt, inner, (None, "mlp"))

        dt_bias = self.param("dt_bias", _named(_dt_bias_init, "mlp"), (inner,))
        a_log = self.param("A_log", _named(_a_log_range, "mlp", None), (inner, self.d_state))
        skip = self.param("D", _named(nn.initializers.ones, "mlp"), (inner,))
        dt = jax.nn.softplus(dt.astype(jnp.float32) + dt_bias[None, None])
        y = _carried(
            self,
            lambda state: selective_scan(
                x, _only(dt, valid), -jnp.exp(a_log), b, c, chunk=self.chunk, state=state
            ),
            (x.shape[0], inner, self.d_state),
        )
        y += skip[None, None] * x.astype(jnp.float32)
        y *= jax.nn.silu(z.astype(jnp.float32))
        return _project(self, "out_proj", y, dim, ("mlp", "embed"))


def _only(x, valid):
    """What of x [B, L, ...] is valid, and 0 elsewhere."""
    return x if valid is None else jnp.where(valid[..., None], x, 0)


def _project(module, name, x, outputs, names):
    """A product with the parameter ``<name>_kernel``."""
    init = _named(_uniform(x.shape[-1] ** -0.5), *names)
    kernel = module.param(f"{name}_kernel", init, (x.shape[-1], outputs))
    return keep_rows(linear(x.astype(module.dtype), kernel.astype(module.dtype)))


def _convolve(module, x, taps):
    """SiLU of each channel's causal convolution; the last tap is the present's."""
    init, length, width = _uniform(taps**-0.5), x.shape[1], x.shape[-1]
    kernel = module.param("conv_kernel", _named(init, "kernel", "mlp"), (taps, width))
    bias = module.param("conv_bias", _named(init, "mlp"), (width,))
    shape = (x.shape[0], taps - 1, width)
    if _streams(module):
        past = module.variable("cache", "past", jnp.zeros, shape, x.dtype)
        x = jnp.concatenate([past.value, x], 1)
        past.value = x[:, length:]
    else:
        x = jnp.concatenate([jnp.zeros(shape, x.dtype), x], 1)
    # As sums of shifted products, which XLA fuses; a convolution by groups is slow on CPUs.
    y = sum(
        x[:, i : i + length].astype(jnp.float32) * kernel[i].reshape(1, 1, -1) for i in range(taps)
    )
    return jax.nn.silu(y + bias[None, None]).astype(x.dtype)


def _carried(module, recurrence, shape):
    """Outputs of a recurrence that begins where the cache's state ends, if there is a cache."""
    if not _streams(module):
        return recurrence(None)[0]
    state = module.variable("cache", "state", jnp.zeros, shape, jnp.float32)
    y, state.value = recurrence(state.value)
    return y


def _streams(module):
    return module.is_mutable_collection("cache") and not module.is_initializing()


def _named(init, *names):
    return nn.with_logical_partitioning(init, names)


def _uniform(bound) -> Callable:
    """Return the initialiser U(-bound, bound), of linear maps and convolutions in PyTorch."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def _dt_bias_init(key, shape, dtype=jnp.float32):
    """Biases whose softplus is log-uniform from 0.001 to 0.1."""
    low, high = math.log(1e-3), math.log(0.1)
    dt = jnp.exp(jax.random.uniform(key, shape, dtype, low, high))
    return dt + jnp.log(-jnp.expm1(-dt))


def _a_log_init(key, shape, dtype=jnp.float32):
    """Logarithms of rates that are uniform from 1 to 16."""
    return jnp.log(jax.random.uniform(key, shape, dtype, 1.0, 16.0))


def _a_log_range(key, shape, dtype=jnp.float32):
    """Logarithms of 1 to N for each channel."""
    del key
    return jnp.broadcast_to(jnp.log(jnp.arange(1, shape[-1] + 1, dtype=dtype))[None], shape)
