"""LoRA, arXiv 2106.09685: a learnt low-rank addition to a linear map."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypnos_jax.nn.dropout import Dropout
from hypnos_jax.nn.linear import linear


class LowRank(nn.Module):
    """``(alpha / rank) dropout(x) A B``, to be added to ``x W``; B starts at 0.

    ``nn.share_scope`` puts ``lora_a`` and ``lora_b`` beside the map's own kernel.

    Attributes:
        features: outputs F of each map.
        maps: N maps of the same input, side by side; None for one, without an axis for it.
        rank, alpha: of the addition.
        dropout: rate on its input.
        stabilised: scale by ``alpha / sqrt(rank)`` instead (rsLoRA, arXiv 2312.03732).
        adapters: K additions of which the rows take turns: row i of x has that of i modulo K. Then
            both arrays have an axis for it, the first. None for one addition.
        start: how A begins: ``"he"`` (uniform), ``"gaussian"`` (Normal(0, 1 / rank^2), as PEFT has
            it), or ``"xavier"`` (uniform, and B too, which then begins as something).
        dtype: of the matrix products.
    """

    features: int
    maps: int | None = None
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    stabilised: bool = False
    adapters: int | None = None
    start: str = "he"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Return [..., N F] of ``x`` [..., D].

        Raises:
            ValueError: no such ``start``, or rows that are no multiple of ``adapters``.
        """
        if self.start not in ("he", "gaussian", "xavier"):
            raise ValueError(f"LoRA start={self.start!r}; it is 'he', 'gaussian' or 'xavier'")
        several = () if self.adapters is None else (self.adapters,)
        maps = () if self.maps is None else (self.maps,)
        own, free = ("modality",) * len(several), (None,) * len(maps)
        axes = {"in_axis": len(several), "out_axis": -1, "batch_axis": range(len(several))}
        begin = {
            "he": nn.initializers.he_uniform(**axes),
            "gaussian": nn.initializers.normal(1 / self.rank),
            "xavier": nn.initializers.xavier_uniform(**axes),
        }[self.start]
        down = self.param(
            "lora_a",
            nn.with_logical_partitioning(begin, (*own, "embed", *free, None)),
            (*several, x.shape[-1], *maps, self.rank),
        )
        end = nn.initializers.zeros
        if self.start == "xavier":
            before = range(len(several) + len(maps))
            end = nn.initializers.xavier_uniform(-2, -1, batch_axis=before)
        up = self.param(
            "lora_b",
            nn.with_logical_partitioning(end, (*own, *free, None, "embed")),
            (*several, *maps, self.rank, self.features),
        )
        x = Dropout(self.dropout, name="lora_dropout")(x.astype(self.dtype), train=train)
        down, up = down.astype(self.dtype), up.astype(self.dtype)
        added = self._one(x, down, up) if self.adapters is None else self._each(x, down, up)
        return added * (self.alpha / (self.rank**0.5 if self.stabilised else self.rank))

    def _one(self, x, down, up):
        low = linear(x, down.reshape(x.shape[-1], -1))
        low = low.reshape(*x.shape[:-1], self.maps or 1, self.rank)
        added = jnp.einsum("...nr,nrf->...nf", low, up.reshape(-1, self.rank, self.features))
        return added.reshape(*x.shape[:-1], -1)

    def _each(self, x, down, up):
        if x.shape[0] % self.adapters:
            raise ValueError(f"adapters={self.adapters} do not divide {x.shape[0]} rows")
        rows = x.reshape(-1, self.adapters, *x.shape[1:])
        down = down.reshape(self.adapters, x.shape[-1], -1, self.rank)
        low = jnp.einsum("bk...d,kdnr->bk...nr", rows, down)
        up = up.reshape(self.adapters, -1, self.rank, self.features)
        added = jnp.einsum("bk...nr,knrf->bk...nf", low, up)
        return added.reshape(*x.shape[:-1], -1)
