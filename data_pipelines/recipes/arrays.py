"""Series in place of recordings: rows that a folder of arrays declares, not this file.

A night of series (band powers, beats, counts) is prepared by ``prepare_nights --builder=arrays``;
what the series are is said in the ``series.toml`` of their folder (docs/arrays.md). The recipe's
identity, which manifests and exports carry, has these rows under ``series``, so a store or a model
finds them again without the folder. ``RECIPE`` itself has the rows of an example: the band powers
of three channels, of which trial stores are made.

A token of 30 s holds ``values`` numbers a step, step after step. Stores have whole samples a
second, so a token's numbers stand at its beginning and zeros fill it up (``Series.pack``).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from data_pipelines.recipes import Recipe, RecipeError, Row
from data_pipelines.signals.heartbeats import LONGEST_S, SHORTEST_S
from data_pipelines.store import EPOCH_S

TOKEN_S = EPOCH_S
VERSION = 1
SCALINGS = {"none": "none", "night": "robust_z", "global": "fixed"}
MADE = ("rate", "interval")


@dataclasses.dataclass(frozen=True)
class Series(Row):
    """A series of a folder of arrays.

    Attributes:
        step_s: Seconds from one step to the next.
        values: Numbers of a step.
        columns: Keys of a night's file that hold them, side by side.
        events: Key of the times of irregular events in s, such as beats, of which the series is
            made in place of ``columns``; "" where it is regular.
        shortest_s, longest_s: Of an interval between events; others are gaps.
        clip: Largest absolute value after scaling; 0 is none.
        center, scale: Of each number of a step, where the scaling is ``fixed``.
    """

    step_s: float = 30.0
    values: int = 1
    columns: tuple[str, ...] = ()
    events: str = ""
    shortest_s: float = SHORTEST_S
    longest_s: float = LONGEST_S
    clip: float = 0.0
    center: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    @property
    def steps(self) -> int:
        """Steps of a token."""
        return round(TOKEN_S / self.step_s)

    @property
    def frames(self) -> int:
        """Numbers of a token."""
        return self.steps * self.values


def series_of(declared: Mapping) -> Series:
    """Return the row that a table of ``series.toml`` or of an identity declares.

    Args:
        declared: ``name`` and what docs/arrays.md lists.

    Raises:
        RecipeError: A key that is unknown, or a value that is none of its key; it names the key.
    """
    name = declared.get("name", "")
    known = {field.name for field in dataclasses.fields(Series)} - {"rate_hz", "made_of", "made"}
    known = known - {"band_hz", "id"} | {"make"}
    if unknown := sorted(set(declared) - known):
        raise RecipeError(f"{name}.{unknown[0]}: no such key; there are {', '.join(sorted(known))}")
    own = {"step_s": 30.0, "scaling": "night", "make": "rate"} | dict(declared)
    if not _is_name(name):
        raise RecipeError(f"{name!r}: a series' name has letters a to z, digits and _ alone")
    step_s = _number(name, own, "step_s")
    steps = round(TOKEN_S / step_s) if step_s > 0 else 0
    if not steps or abs(steps * step_s - TOKEN_S) > 1e-6:
        raise RecipeError(
            f"{name}.step_s={own['step_s']}: whole steps must make {TOKEN_S} s, as 30, 10, 1, 0.25"
        )
    events, columns = own.get("events", ""), tuple(own.get("columns", ()))
    if events and columns:
        raise RecipeError(f"{name}: give events or columns, not both")
    if own["make"] not in MADE:
        raise RecipeError(f"{name}.make={own['make']!r}: is one of {', '.join(MADE)}")
    if not events:
        columns = columns or (name,)
    values = own.get("values", max(1, len(columns)))
    if not isinstance(values, int) or values < 1 or (events and values > 1):
        raise RecipeError(f"{name}.values={values!r}: a whole number from 1 on, 1 for events")
    if own["scaling"] not in SCALINGS:
        raise RecipeError(f"{name}.scaling={own['scaling']!r}: is one of {', '.join(SCALINGS)}")
    clip = _number(name, {"clip": 0 if own["scaling"] == "none" else 20} | own, "clip")
    center, scale = (tuple(float(x) for x in own.get(key, ())) for key in ("center", "scale"))
    if {len(center), len(scale)} not in ({0}, {values}) or not all(x > 0 for x in scale):
        raise RecipeError(f"{name}: center and scale have {values} numbers each, scale above 0")
    if center and own["scaling"] != "global":
        raise RecipeError(f"{name}.center: only with scaling = 'global'")
    return Series(
        name=name,
        rate_hz=-(-steps * values // TOKEN_S),
        made_of=(),
        made=own["make"] if events else "array",
        scaling=SCALINGS[own["scaling"]],
        unit=str(own.get("unit", "")),
        step_s=step_s,
        values=values,
        columns=columns,
        events=events,
        shortest_s=_number(name, {"shortest_s": SHORTEST_S} | own, "shortest_s"),
        longest_s=_number(name, {"longest_s": LONGEST_S} | own, "longest_s"),
        clip=clip,
        center=center,
        scale=scale,
    )


def declared_of(row: Series) -> dict:
    """Return what ``series_of`` makes a row of, as JSON values."""
    own = {
        "name": row.name,
        "step_s": row.step_s,
        "values": row.values,
        "scaling": next(word for word, scaling in SCALINGS.items() if scaling == row.scaling),
        "clip": row.clip,
        "unit": row.unit,
    }
    if row.events:
        own |= {"events": row.events, "make": row.made}
        own |= {"shortest_s": row.shortest_s, "longest_s": row.longest_s}
    else:
        own["columns"] = [*row.columns]
    return own | ({"center": [*row.center], "scale": [*row.scale]} if row.center else {})


def recipe_of_rows(rows) -> Recipe:
    """Return the recipe of some series.

    Raises:
        RecipeError: Two of one name.
    """
    by_name = {row.name: row for row in rows}
    if len(by_name) != len(rows):
        raise RecipeError("two series of one name")
    return Recipe(
        name="arrays",
        version=VERSION,
        token_s=TOKEN_S,
        rows=by_name,
        sets={"all": tuple(by_name)},
        make=_make,
        declared={"series": [declared_of(row) for row in rows]},
        of=_of,
    )


def pack(row: Row, tokens: np.ndarray) -> np.ndarray:
    """Return the samples that a store holds of tokens [L, frames]: [L * 30 * rate_hz]."""
    spare = EPOCH_S * row.rate_hz - row.frames
    return np.pad(tokens, ((0, 0), (0, spare))).reshape(-1)


def _of(identity):
    """The recipe of an identity; one without series is the example's."""
    if "series" not in identity:
        return RECIPE
    return recipe_of_rows([series_of(row) for row in identity["series"]])


def _make(rows, recording, quality, mains_hz):
    """Series are made of no recording: the preparing of one asks for their channels first."""
    return {}, {}, {row.name: "series are not made of recordings" for row in rows}


def _is_name(name):
    return isinstance(name, str) and name.isidentifier() and name.isascii() and name.islower()


def _number(name, own, key):
    value = own[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise RecipeError(f"{name}.{key}={value!r}: must be a number from 0 on")
    return float(value)


_power = functools.partial(dict, values=10, step_s=30, unit="log power", clip=5)
RECIPE = recipe_of_rows(
    [series_of(_power(name=name)) for name in ("eeg_fpz_cz", "eeg_pz_oz", "eog")]
)
