"""Gradients of a loss that couples the rows of a batch, from micro-batches: gradient caching
(Gao et al. 2021, arXiv 2101.06983).

A contrastive loss needs the representations of the whole batch at once, and its memory is taken by
the activations of the network below them. So there are two passes over the micro-batches. The first
keeps representations alone. Between them the loss of the whole batch gives its gradient with
respect to the representations. The second represents each micro-batch again and pulls its part of
that gradient back to the parameters. One forward pass more, and the activations of one micro-batch.

The gradient is that of the whole batch exactly, for the masks and the dropout that were drawn: a
micro-batch draws the same in both passes. Those of another ``accumulate`` are other draws.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from hypnos_jax.sharding import keep_rows


def gradients(
    represent: Callable,
    contrast: Callable,
    params: dict,
    collections: dict,
    rngs: Callable,
    batch: dict,
    micro_batches: dict,
) -> tuple[dict, tuple]:
    """Return the gradient of the whole batch, and what ``contrast`` returns beside the loss.

    Collections that ``represent`` changes pass from one micro-batch to the next, in order, and then
    to ``contrast``, which changes its own once.

    Args:
        represent: (params, collections, keys, micro-batch) -> (representations, collections), the
            representations being floating-point arrays with rows first.
        contrast: (params, collections, keys, representations, batch) -> (loss, (metrics,
            collections)).
        params: parameters, also of ``contrast``.
        collections: all other collections.
        rngs: number of a draw -> keys. Micro-batches have the first numbers, ``contrast`` the next.
        batch: the whole batch.
        micro_batches: its ``step.cut``, [pieces, B / pieces, ...].
    """
    pieces = len(jax.tree.leaves(micro_batches)[0])
    numbers = jnp.arange(pieces, dtype=jnp.int32)

    def first_pass(collections, given):
        number, micro_batch = given
        representations, collections = represent(params, collections, rngs(number), micro_batch)
        return collections, representations

    seen, cut = jax.lax.scan(first_pass, collections, (numbers, micro_batches))
    # The inverse of ``step.cut``: every row back in its place.
    whole = jax.tree.map(lambda x: keep_rows(x.swapaxes(0, 1).reshape(-1, *x.shape[2:])), cut)
    middle = jax.grad(contrast, argnums=(0, 3), has_aux=True)
    keys = rngs(jnp.full((), pieces, jnp.int32))
    (grads, cached), aux = middle(params, seen, keys, whole, batch)
    cached = jax.tree.map(lambda x: x.reshape(-1, pieces, *x.shape[1:]).swapaxes(0, 1), cached)

    def second_pass(carry, given):
        collections, grads = carry
        number, micro_batch, cached = given
        _, pull_back, collections = jax.vjp(
            lambda params: represent(params, collections, rngs(number), micro_batch),
            params,
            has_aux=True,
        )
        return (collections, jax.tree.map(jnp.add, grads, *pull_back(cached))), None

    given = (numbers, micro_batches, cached)
    (_, grads), _ = jax.lax.scan(second_pass, (collections, grads), given)
    return grads, aux
