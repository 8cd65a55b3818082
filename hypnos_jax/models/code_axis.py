"""The code axis: the codes of all modalities side by side, and which of them share tables."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class CodeAxis:
    """The last axis of ``codes`` [..., sumK]: the levels of each modality, one after the other.

    Shapes: M modalities, G the members of a group, K levels, V codes per level.

    Attributes:
        modalities: one mapping each, in the order of the axis: ``name``, ``levels`` K, ``codes`` V,
            ``channel_id``, and ``group``, the signal type whose code tables it uses.

    Raises:
        ValueError: there are no modalities, two have one name, or a group's members differ in size.
    """

    modalities: tuple[Mapping, ...]

    def __post_init__(self):
        if not self.modalities:
            raise ValueError(
                "modalities=() is empty; give a dict per modality (name, levels, codes, channel_id,"
                " group), or leave it to the token store (config.data.fill)"
            )
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"modalities has one name twice: {self.names}")
        for group, members in self.groups.items():
            first = self.modalities[members[0]]
            for other in (self.modalities[i] for i in members):
                if (other["levels"], other["codes"]) != (first["levels"], first["codes"]):
                    raise ValueError(
                        f"modalities {first['name']} and {other['name']} share the group"
                        f" {group!r} but have {first['levels']} x {first['codes']} and"
                        f" {other['levels']} x {other['codes']} levels x codes; a group has one"
                        " tokenizer and so one size"
                    )

    @property
    def names(self) -> list[str]:
        """The modalities' names in order."""
        return [modality["name"] for modality in self.modalities]

    @functools.cached_property
    def groups(self) -> dict[str, list[int]]:
        """Each group's members, as places among the modalities."""
        groups = {}
        for i, modality in enumerate(self.modalities):
            groups.setdefault(modality["group"], []).append(i)
        return groups

    @functools.cached_property
    def columns(self) -> list[slice]:
        """Each modality's part of the axis."""
        ends = [0]
        for modality in self.modalities:
            ends.append(ends[-1] + modality["levels"])
        return [slice(a, b) for a, b in zip(ends, ends[1:])]

    @functools.cached_property
    def level_groups(self) -> dict[str, list[tuple[int, ...]]]:
        """Names of groups of levels -> each modality's columns of the axis; ``"all"`` is first."""
        return {"all": [tuple(range(own.start, own.stop)) for own in self.columns]}

    @property
    def width(self) -> int:
        """sumK."""
        return self.columns[-1].stop

    def size(self, group: str) -> tuple[int, int]:
        """K and V of a group."""
        first = self.modalities[self.groups[group][0]]
        return first["levels"], first["codes"]

    def members(self, x: jax.Array, group: str) -> jax.Array:
        """Return a group's part of ``x`` [B, S, sumK] as [B, G, S, K]."""
        return jnp.stack([x[..., self.columns[i]] for i in self.groups[group]], axis=1)

    def axis(self, parts: Mapping[str, jax.Array]) -> jax.Array:
        """Return [B, S, sumK] of each group's [B, G, S, K]: the inverse of ``members``."""
        columns = {}
        for group, part in parts.items():
            for place, i in enumerate(self.groups[group]):
                columns[i] = part[:, place]
        return jnp.concatenate([columns[i] for i in range(len(columns))], axis=-1)

    def streams(self, parts: Mapping[str, jax.Array]) -> jax.Array:
        """Return [B, M, ...] of each group's [B, G, ...]."""
        x = jnp.concatenate([parts[group] for group in self.groups], axis=1)
        order = [i for members in self.groups.values() for i in members]
        if order == sorted(order):
            return x
        return jnp.take(x, jnp.asarray([order.index(i) for i in range(len(order))]), axis=1)

    def check(self, codes: jax.Array, present: jax.Array) -> None:
        """Check a batch's shapes against the axis.

        Raises:
            ValueError: ``codes`` is not sumK wide, or ``present`` not M.
        """
        if codes.shape[-1] != self.width or present.shape[-1] != len(self.modalities):
            sizes = ", ".join(f"{m['name']} {m['levels']} x {m['codes']}" for m in self.modalities)
            raise ValueError(
                f"codes {codes.shape} and present {present.shape} do not fit a model of"
                f" {len(self.modalities)} modalities with {self.width} levels in all ({sizes}"
                " codes); use tokens of the tokenizers that it was made for, or train one on these"
            )
