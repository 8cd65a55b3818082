"""Many rows through a network, so many at a time: memory of a few, results of all."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp


def in_turn(
    call: Callable, module: nn.Module, rows: tuple[jax.Array, ...], at_once: int
) -> jax.Array:
    """Return ``call(module, *rows)``, in pieces of at most ``at_once`` rows.

    Args:
        call: (module, [N, ...] each) -> [N, ...], a row being a function of its own row alone. It
            reads parameters and batch statistics, and changes nothing.
        module: of the parameters.
        rows: arrays [R, ...].
        at_once: most of N.
    """
    total = rows[0].shape[0]
    pieces = -(-total // at_once)
    count = -(-total // pieces)
    short = pieces * count - total

    def cut(x):
        x = jnp.pad(x, [(0, short)] + [(0, 0)] * (x.ndim - 1))
        # Every device keeps its own rows: a piece takes rows i, i + pieces, ...
        return x.reshape(count, pieces, *x.shape[1:]).swapaxes(0, 1)

    over = nn.scan(
        lambda module, _, given: (None, call(module, *given)),
        variable_broadcast=("params", "batch_stats"),
        split_rngs={"dropout": True},
    )
    _, found = over(module, None, tuple(cut(x) for x in rows))
    return found.swapaxes(0, 1).reshape(pieces * count, *found.shape[2:])[:total]
