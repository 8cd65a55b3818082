"""The code axis: the codes of all modalities side by side, and which of them share tables."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class LevelTable:
    """Successive levels of a group that share one table and one kind of head.

    Attributes:
        group: whose modalities have them.
        first: the first of them among the group's levels.
        levels, codes: how many, and V.
    """

    group: str
    first: int
    levels: int
    codes: int

    @property
    def own(self) -> slice:
        """Its part of the group's levels."""
        return slice(self.first, self.first + self.levels)


@dataclasses.dataclass(frozen=True)
class CodeAxis:
    """The last axis of ``codes`` [..., sumK]: the levels of each modality, one after the other.

    The last levels of a modality may be timing levels, whose codes no tokenizer makes
    (``data_pipelines.signals.timing``) and which have a table of their own.

    Shapes: M modalities, G the members of a group, K levels, V codes per level.

    Attributes:
        modalities: one mapping each, in the order of the axis: ``name``, ``levels`` K (all of
            them), ``codes`` V of the tokenizer's, ``channel_id``, and ``group``, the signal type
            whose code tables it uses. With timing levels also ``timing``, their names, and
            ``timing_codes``, their V.

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
                if _size(other) != _size(first):
                    raise ValueError(
                        f"modalities {first['name']} and {other['name']} share the group"
                        f" {group!r} but have {_size(first)} and {_size(other)} levels x codes; a"
                        " group has one tokenizer and so one size"
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
        groups = {"all": self.columns, "timing": self.timing}
        found = {
            name: [tuple(range(own.start, own.stop)) for own in parts]
            for name, parts in groups.items()
        }
        return {name: parts for name, parts in found.items() if any(parts)}

    @property
    def width(self) -> int:
        """sumK."""
        return self.columns[-1].stop

    @functools.cached_property
    def tables(self) -> dict[str, LevelTable]:
        """Name -> levels that share a table: the tokenizer's under the group's own name."""
        tables = {}
        for group, members in self.groups.items():
            row = self.modalities[members[0]]
            timing = len(row.get("timing", ()))
            first = row["levels"] - timing
            if first:
                tables[group] = LevelTable(group, 0, first, row["codes"])
            if timing:
                tables[f"{group}_timing"] = LevelTable(group, first, timing, row["timing_codes"])
        return tables

    def tables_of(self, group: str) -> dict[str, LevelTable]:
        """Those of ``tables`` that a group has, in the order of its levels."""
        return {name: table for name, table in self.tables.items() if table.group == group}

    @functools.cached_property
    def timing(self) -> list[slice]:
        """Each modality's timing levels on the axis; an empty slice where it has none."""
        return [
            slice(own.stop - len(row.get("timing", ())), own.stop)
            for row, own in zip(self.modalities, self.columns)
        ]

    def members(self, x: jax.Array, table: str) -> jax.Array:
        """Return a table's part of ``x`` [B, S, sumK] as [B, G, S, its levels]."""
        own = self.tables[table]
        parts = [x[..., self.columns[i]][..., own.own] for i in self.groups[own.group]]
        return jnp.stack(parts, axis=1)

    def axis(self, parts: Mapping[str, jax.Array]) -> jax.Array:
        """Return [B, S, sumK] of each table's [B, G, S, its levels]: the inverse of ``members``."""
        columns = []
        for i, row in enumerate(self.modalities):
            place = self.groups[row["group"]].index(i)
            columns += [parts[name][:, place] for name in self.tables_of(row["group"])]
        return jnp.concatenate(columns, axis=-1)

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
            sizes = ", ".join(f"{row['name']} {_size(row)}" for row in self.modalities)
            raise ValueError(
                f"codes {codes.shape} and present {present.shape} do not fit a model of"
                f" {len(self.modalities)} modalities with {self.width} levels in all ({sizes}"
                " codes); use tokens of the tokenizers that it was made for, or train one on these"
            )


def _size(modality):
    """A modality's levels x codes in words, such as ``8 x 2048`` or ``8 x 2048 + 3 x 41``."""
    timing = len(modality.get("timing", ()))
    blocks = [(modality["levels"] - timing, modality["codes"])]
    if timing:
        blocks.append((timing, modality["timing_codes"]))
    return " + ".join(f"{levels} x {codes}" for levels, codes in blocks if levels)
