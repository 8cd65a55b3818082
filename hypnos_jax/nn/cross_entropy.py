"""Linear heads and their cross-entropy in one, with a gradient that moves little memory."""

from __future__ import annotations

import jax
import jax.numpy as jnp

Scores = dict[str, jax.Array]


@jax.custom_vjp
def cross_entropy(
    x: jax.Array, kernel: jax.Array, bias: jax.Array, target: jax.Array
) -> tuple[jax.Array, Scores]:
    """Score targets under ``softmax(x @ kernel + bias)``, a head for each of K levels.

    Differentiated by XLA's own rules this costs more than its products: the right logit's gradient
    is a scatter, and that of the kernel transposes the logits, its wider side.

    Args:
        x: [K, N, D], in the dtype of the products.
        kernel: float32 [K, D, V].
        bias: float32 [K, V].
        target: int32 [K, N], each in [0, V); another gives NaN.

    Returns:
        ``nll`` float32 [K, N] (nats), the one that has a gradient; and float32 [K, N] each:
        ``hit`` (1 where the likeliest code is the right one), ``max_logit`` (largest absolute
        logit), ``log_partition``.
    """
    return _forward(x, kernel, bias, target)[0]


def head_logits(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """Return ``x @ kernel + bias``, float32 [K, N, V]; arguments as of ``cross_entropy``."""
    return _product(x, kernel.astype(x.dtype), 2, 1) + bias[:, None]


def surprise(
    x: jax.Array, kernel: jax.Array, bias: jax.Array, target: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return what targets cost and what they were bound to cost on average, without a gradient.

    Args:
        x, kernel, bias, target: as of ``cross_entropy``.

    Returns:
        float32 [K, N] each: the negative log likelihood of ``target``, and the entropy of
        ``softmax(x @ kernel + bias)`` (nats).
    """
    log_shares = jax.nn.log_softmax(head_logits(x, kernel, bias))
    right = jnp.take_along_axis(log_shares, target[..., None], axis=-1, mode="fill")[..., 0]
    shares = jnp.exp(log_shares)
    # A code that cannot come, of logit -inf, adds nothing.
    return -right, -jnp.where(shares > 0, shares * log_shares, 0.0).sum(-1)


def chunked_cross_entropy(
    x: jax.Array, kernel: jax.Array, target: jax.Array, chunk: int = 32
) -> tuple[jax.Array, jax.Array]:
    """Score targets of sequences under ``softmax(x @ kernel)``, so many places at a time.

    The logits of a chunk are computed again in the backward pass, and never kept.

    Args:
        x: [B, S, D], in the dtype of the products.
        kernel: float32 [D, V].
        target: int32 [B, S], each in [0, V).
        chunk: places of all rows at a time.

    Returns:
        float32 [B, S] each: the cost (nats), which has a gradient, and 1 where the likeliest code
        is the right one.
    """
    rows, length, dim = x.shape
    chunk = min(chunk, length)
    end = -length % chunk

    def cut(x):
        x = jnp.pad(x, [(0, 0), (0, end)] + [(0, 0)] * (x.ndim - 2))
        return x.reshape(rows, -1, chunk, *x.shape[2:]).swapaxes(0, 1)

    @jax.checkpoint
    def one(given):
        x, target = (part.reshape(1, rows * chunk, *part.shape[2:]) for part in given)
        zeros = jnp.zeros((1, kernel.shape[1]), jnp.float32)
        nll, scores = cross_entropy(x, kernel[None], zeros, target)
        return nll.reshape(rows, chunk), scores["hit"].reshape(rows, chunk)

    parts = jax.lax.map(one, (cut(x), cut(target)))
    return tuple(part.swapaxes(0, 1).reshape(rows, -1)[:, :length] for part in parts)


def _product(x, y, over_x, over_y):
    axes = (((over_x,), (over_y,)), ((0,), (0,)))
    return jax.lax.dot_general(x, y, axes, preferred_element_type=jnp.float32)


def _forward(x, kernel, bias, target):
    logits = head_logits(x, kernel, bias)
    partition = jax.nn.logsumexp(logits, axis=-1)
    right = jnp.take_along_axis(logits, target[..., None], axis=-1, mode="fill")[..., 0]
    scores = {
        "hit": (right >= logits.max(axis=-1)).astype(jnp.float32),
        "max_logit": jnp.abs(logits).max(-1),
        "log_partition": partition,
    }
    return (partition - right, scores), (x, kernel, target, logits, partition)


def _backward(kept, cotangents):
    x, kernel, target, logits, partition = kept
    by_nll = cotangents[0][..., None]
    codes = jnp.arange(logits.shape[-1], dtype=target.dtype)[None, None]
    right = (codes == target[..., None]).astype(jnp.float32)
    by_logits = (jnp.exp(logits - partition[..., None]) - right) * by_nll
    by_bias = by_logits.sum(1)
    by_logits = by_logits.astype(x.dtype)
    by_x = _product(by_logits, kernel.astype(x.dtype), 2, 2).astype(x.dtype)
    # x first: it is the narrower side, and XLA transposes the first.
    return by_x, _product(x, by_logits, 1, 1), by_bias, None


cross_entropy.defvjp(_forward, _backward)
