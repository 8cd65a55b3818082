"""Random masks of tokens for masked prediction (MAE, arXiv 2111.06377), and its table of positions.

Shapes: N rows, T tokens, K of them visible, D features.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np


@flax.struct.dataclass
class TokenMask:
    """Which tokens of each row may be seen.

    Attributes:
        visible: int32 [N, K], their places, in an order that says nothing.
        restore: int32 [N, T], where each token is among the visible ones and then the hidden ones.
        hidden: bool [N, T].
    """

    visible: jax.Array
    restore: jax.Array
    hidden: jax.Array

    def take(self, tokens: jax.Array) -> jax.Array:
        """Return the visible tokens, [N, K, D] of [N, T, D]."""
        return jnp.take_along_axis(tokens, self.visible[..., None], axis=1)

    def fill(self, tokens: jax.Array, filler: jax.Array) -> jax.Array:
        """Return [N, T, D] in the order of time: visible ``tokens`` [N, K, D], else ``filler`` [D].

        Fewer than K tokens may be given: then the filler stands for the last of them too.
        """
        missing = self.restore.shape[1] - tokens.shape[1]
        rest = jnp.broadcast_to(filler.astype(tokens.dtype), (len(tokens), missing, filler.size))
        whole = jnp.concatenate([tokens, rest], axis=1)
        return jnp.take_along_axis(whole, self.restore[..., None], axis=1)


def token_mask(noise: jax.Array, rate: float) -> TokenMask:
    """Hide the tokens with the most noise.

    Args:
        noise: float32 [N, T], uniform on [0, 1).
        rate: share that is hidden; ``int(T (1 - rate))`` tokens stay visible, in Python's
            arithmetic, as the official code has it: 5 of 27 at 0.8, 16 at 0.4.
    """
    tokens = noise.shape[1]
    order = jnp.argsort(noise, axis=1)
    restore = jnp.argsort(order, axis=1)
    kept = int(tokens * (1 - rate))
    return TokenMask(order[:, :kept], restore, restore >= kept)


def positions(tokens: int, dim: int) -> np.ndarray:
    """Return the table of sines, float32 [T, D], of MAE's code on a grid of T x 1.

    The first half is of the grid's second side, which has one place, and so constant.

    Raises:
        ValueError: D is no multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"positions of width {dim}: it must be a multiple of 4")
    rates = 1 / 10000 ** (np.arange(dim // 4) / (dim // 4))
    angles = np.stack([np.zeros(tokens), np.arange(tokens)])[..., None] * rates
    parts = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)
    return np.concatenate(list(parts), axis=-1).astype(np.float32)
