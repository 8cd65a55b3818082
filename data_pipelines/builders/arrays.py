"""Builder of nights that are series, not recordings: band powers, beats, counts of a watch.

A folder has an index, a declaration of its series (:mod:`data_pipelines.builders.arrays_folder`)
and an NPZ or Parquet file a night; docs/arrays.md describes them. Nothing in a file is executed.
"""

from __future__ import annotations

import collections
import dataclasses
import pathlib
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines.builders.arrays_folder import (
    ArrayNight,
    ArraysError,
    read_declaration,
)
from data_pipelines.findings import Finding
from data_pipelines.recipes import Recipe
from data_pipelines.recipes.arrays import Series, pack, recipe_of_rows
from data_pipelines.scoring.words.unknown_words import printable
from data_pipelines.scoring.words.vocabulary import stage_of
from data_pipelines.store import EPOCH_S, ChannelSignal, Night, NightStore

STAGES_KEY = "stages"
PARQUET = ".parquet"
LONGEST_S = 14 * 86400
LARGEST = 2**32  # ours: bytes of an array of a file
IQR_OF_NORMAL = 1.349  # interquartile range of a normal distribution in standard deviations
NIGHTS_OF_SCALE = 200  # ours: training nights by which a global scaling is measured
CODES = {"0": 0, "1": 1, "2": 2, "3": 3, "4": 4, "-1": -1}  # as stores count; R is 4


@dataclasses.dataclass(frozen=True)
class ReadArrays:
    """Make the night of a row of the index; picklable.

    Attributes:
        rows: The series to take where a file has them.
        stage_codes: Code as text -> stage; {} is ``CODES`` and the words of scorings.
    """

    rows: tuple[Series, ...]
    stage_codes: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def subject_of(self, item: ArrayNight) -> str:
        """Return whose night it is."""
        return item.subject

    def __call__(self, item: ArrayNight) -> Night:
        """Read, check and scale.

        Raises:
            ArraysError: It cannot be read, holds none of the series, or one of another length or
                shape than declared.
        """
        arrays, keys = _read(item.path, self.rows)
        series, used = _series(item.path.name, arrays, self.rows)
        if not series:
            wanted = dict.fromkeys(key for row in self.rows for key in _keys(row))
            raise ArraysError(f"{item.path.name}: none of {', '.join(wanted)}")
        stages, findings = _stages(item.path.name, arrays, self.stage_codes)
        seconds = {row.name: len(x) * row.step_s for row, x in series.items()}
        ragged = item.path.suffix.lower() == PARQUET  # whose columns end where nulls begin
        tokens = _tokens(item.path.name, seconds, stages, ragged)
        channels, told = {}, {"missing": {}, "scaling": {}, "refused": {}}
        for row, values in series.items():
            values = values[: tokens * row.steps]
            values = np.pad(
                values, ((0, tokens * row.steps - len(values)), (0, 0)), constant_values=np.nan
            )
            there = ~np.isnan(values).any(axis=1)
            if not there.any():
                told["refused"][row.name] = "no value in the whole night"
                continue
            told["missing"][row.name] = round(1 - float(there.mean()), 4)
            center, scale = scaling_of(row, values[there])
            told["scaling"][row.name] = [center.tolist(), scale.tolist()]
            channels[row.name] = _channel(row, values, there, center, scale)
        if not channels:
            raise ArraysError(f"{item.path.name}: no series has any value")
        others = sorted(keys - used - {STAGES_KEY})
        notes = [f"not declared, so not read: {', '.join(others[:20])}"] if others else []
        epochs = np.full(tokens, -1, np.int8)
        epochs[: len(stages)] = stages[:tokens]
        scored_share = round(float(np.mean(epochs >= 0)), 4)
        told |= {"notes": [*notes, *(x.note for x in findings)], "scored_share": scored_share}
        return Night(
            recording=item.name,
            subject=item.subject,
            split=item.split,
            channels=channels,
            stages=epochs,
            events=list(item.events),
            metadata=dict(item.metadata) | ({"scoring": "arrays"} if len(stages) else {}),
            qc=told | {"findings": [finding.to_json() for finding in findings]},
        )


def reader_of(recipe: Recipe, names: Sequence[str], folder) -> ReadArrays:
    """Return what makes the nights of a folder by the recipe of a model.

    Args:
        recipe: Of series; its scaling is taken, whatever the folder declares.
        names: Of its rows, to take where a file has them.
        folder: With ``series.toml``, whose series must hold as many numbers at the same steps.

    Raises:
        ArraysError: The recipe is of no series, or the folder declares a series otherwise.
    """
    told = read_declaration(folder)
    rows = [recipe.rows[name] for name in names]
    for row in rows:
        if not isinstance(row, Series):
            raise ArraysError(
                f"{folder} holds series, and the model reads {row.name} as the recipe"
                f" {recipe.name} makes it of recordings"
            )
        own = told.recipe.rows.get(row.name)
        if own is not None and (own.values, own.step_s) != (row.values, row.step_s):
            raise ArraysError(
                f"{folder}: series.{row.name} has values={own.values} and step_s={own.step_s:g};"
                f" the model reads values={row.values} and step_s={row.step_s:g}"
            )
    return ReadArrays(tuple(rows), told.stage_codes)


def measured(
    rows: Sequence[Series], items: Mapping[str, ArrayNight], store: pathlib.Path
) -> Recipe:
    """Return the recipe of some series, with the constants of a global scaling.

    The constants are those of the store where it is there, so that nights can be added; else they
    are measured in training nights alone.

    Args:
        rows: The series.
        items: The nights of the folder.
        store: Folder of the store to make.

    Raises:
        ArraysError: No training night has a series of global scaling.
    """
    wanted = [row for row in rows if row.scaling == "fixed" and not row.center]
    known = {}
    if wanted and (store / "manifest.json").is_file():
        old = (NightStore(store).recipe or {}).get("series", [])
        constants = {row["name"]: row for row in old if row.get("center")}
        for row in (row for row in wanted if row.name in constants):
            own = {key: tuple(constants[row.name][key]) for key in ("center", "scale")}
            known[row.name] = dataclasses.replace(row, **own)
    elif wanted:
        known = _measured(items, wanted)
    return recipe_of_rows([known.get(row.name, row) for row in rows])


def _measured(items, rows):
    nights = sorted((x for x in items.values() if x.split == "train"), key=lambda x: x.name)
    nights = nights[:: -(-len(nights) // NIGHTS_OF_SCALE) or 1]
    found = collections.defaultdict(list)
    for night in nights:
        try:
            series, _ = _series(night.path.name, _read(night.path, rows)[0], rows)
        except ArraysError:
            continue  # it becomes a reject, with its reason, when it is prepared
        for row, values in series.items():
            found[row.name].append(values[~np.isnan(values).any(axis=1)])
    if lacking := [row.name for row in rows if not sum(map(len, found[row.name]))]:
        raise ArraysError(
            f"series.{lacking[0]}.scaling='global': no night of the training split has the series"
        )
    known = {}
    for row in rows:
        center, scale = _robust(np.concatenate(found[row.name]))
        center, scale = (tuple(float(f"{x:.6g}") for x in part) for part in (center, scale))
        known[row.name] = dataclasses.replace(row, center=center, scale=scale)
    return known


def scaling_of(row: Series, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return centre and scale of each number of a step, of a night's values [T, D] without gaps."""
    if row.scaling == "robust_z":
        return _robust(values)
    if row.center:
        return np.array(row.center), np.array(row.scale)
    return np.zeros(row.values), np.ones(row.values)


def _robust(values):
    low, center, high = np.quantile(values, (0.25, 0.5, 0.75), axis=0)
    scale = (high - low) / IQR_OF_NORMAL
    spread = values.std(axis=0)  # of counts that are mostly zero, the quartiles are equal
    scale = np.where(scale > 0, scale, np.where(spread > 0, spread, 1.0))
    return center, scale


def _channel(row, values, there, center, scale):
    """A token is valid where half its steps or more have values; missing steps are 0."""
    scaled = np.where(there[:, None], (values - center) / scale, 0.0)
    if row.clip:
        scaled = np.clip(scaled, -row.clip, row.clip)
    valid = 2 * there.reshape(-1, row.steps).sum(axis=1) >= row.steps
    tokens = np.where(valid[:, None], scaled.reshape(len(valid), row.frames), 0.0)
    seconds = np.repeat(valid, EPOCH_S)
    samples = pack(row, tokens).astype(np.float32)
    return ChannelSignal(
        row.name, row.rate_hz, samples, seconds, np.zeros((len(seconds), 2), np.float32)
    )


def _tokens(name, seconds, stages, ragged):
    """Whole tokens of a night; its series, and its stages, may differ by two unless ragged."""
    if len(stages):
        seconds = {STAGES_KEY: len(stages) * EPOCH_S, **seconds}
    longest = max(seconds, key=seconds.get)
    shortest = min(seconds, key=seconds.get)
    if seconds[longest] - seconds[shortest] > 2 * EPOCH_S and not ragged:
        raise ArraysError(
            f"{name}: {longest!r} lasts {seconds[longest]:g} s and {shortest!r}"
            f" {seconds[shortest]:g} s; give the right step_s, or fill what is missing with NaN"
        )
    tokens = int(seconds[longest] / EPOCH_S + 1e-6)
    if not 0 < tokens * EPOCH_S <= LONGEST_S:
        raise ArraysError(f"{name}: {seconds[longest]:g} s; a night has from 30 s to 14 days")
    return tokens


def _keys(row):
    return (row.events,) if row.events else row.columns


def _series(name, arrays, rows):
    """Row -> float64 [T, D] of the series that a file has, and the keys that they are of."""
    found, used = {}, set()
    regular = [row for row in rows if not row.events]
    for row in regular:
        keys = [key for key in row.columns if key in arrays]
        if not keys:
            continue
        if lacking := [key for key in row.columns if key not in arrays]:
            raise ArraysError(f"{name}: no {lacking[0]!r}, and there is {keys[0]!r}")
        parts = [_numbers(name, key, arrays[key], row.step_s) for key in keys]
        lengths = {len(part) for part in parts}
        if len(lengths) > 1:
            raise ArraysError(f"{name}: {', '.join(keys)} differ in length: {sorted(lengths)}")
        values = np.concatenate(parts, axis=1)
        if values.shape[1] != row.values:
            raise ArraysError(
                f"{name}: {', '.join(keys)}: {values.shape[1]} numbers a step;"
                f" series.toml says {row.name}.values={row.values}"
            )
        found[row], used = values, used | set(keys)
    length_s = max((len(x) * row.step_s for row, x in found.items()), default=0.0)
    if not length_s and STAGES_KEY in arrays:
        length_s = len(np.atleast_1d(arrays[STAGES_KEY])) * EPOCH_S
    for row in (row for row in rows if row.events and row.events in arrays):
        times = _times(name, row.events, arrays[row.events])
        used.add(row.events)
        end_s = length_s or (float(times[-1]) if len(times) else 0.0)
        steps = int(end_s / row.step_s + 1e-6)
        found[row] = from_events(times, row, steps)[:, None]
    return found, used


def from_events(times: np.ndarray, row: Series, steps: int) -> np.ndarray:
    """Return the mean interval between events in each step, or their rate a minute, [steps].

    Intervals outside ``shortest_s`` to ``longest_s`` are gaps; a step less than half of which
    is covered by intervals is NaN.

    Args:
        times: [N] seconds, ascending.
        row: What is made.
        steps: How many.
    """
    if len(times) < 2:
        return np.full(steps, np.nan)
    gaps = np.diff(times)
    counted = np.where((gaps >= row.shortest_s) & (gaps <= row.longest_s), gaps, 0.0)
    value = gaps if row.made == "interval" else 60 / np.maximum(gaps, 1e-9)
    edges = np.arange(steps + 1) * row.step_s
    sums = [np.interp(edges, times, np.append(0, np.cumsum(x))) for x in (counted, counted * value)]
    covered, total = (np.diff(x) for x in sums)
    return np.where(2 * covered >= row.step_s, total / np.maximum(covered, 1e-9), np.nan)


def _numbers(name, key, array, step_s):
    """Float64 [T, D] of an array of numbers; NaN is what is missing."""
    if array.dtype.kind not in "fiub":
        raise ArraysError(f"{name}: {key!r} is of type {array.dtype}, not numbers")
    if array.ndim not in (1, 2):
        raise ArraysError(f"{name}: {key!r} has the shape {array.shape}; must be [T] or [T, D]")
    if len(array) * step_s > LONGEST_S:
        raise ArraysError(f"{name}: {key!r} is longer than {LONGEST_S // 86400} days")
    values = (array if array.ndim == 2 else array[:, None]).astype(np.float64)
    if wrong := np.flatnonzero(np.isinf(values).any(axis=1)).tolist():
        raise ArraysError(f"{name}: {key!r} is infinite at step {wrong[0]}; what is missing is NaN")
    return values


def _times(name, key, array):
    times = _numbers(name, key, array, 0.0)
    if times.shape[1] != 1:
        raise ArraysError(f"{name}: {key!r} has the shape {array.shape}; times are [N]")
    times = times[~np.isnan(times[:, 0]), 0]
    if back := np.flatnonzero(np.diff(times) < 0).tolist():
        raise ArraysError(f"{name}: {key!r} goes back after event {back[0]}; times ascend")
    if len(times) and not -LONGEST_S <= times[0] <= times[-1] <= LONGEST_S:
        raise ArraysError(f"{name}: {key!r} reaches {times[-1]:g}; must be seconds of the night")
    return times


def _stages(name, arrays, codes):
    """Int8 [E] and findings; E = 0 where a file has none."""
    if STAGES_KEY not in arrays:
        return np.zeros(0, np.int8), []
    array = arrays[STAGES_KEY]
    if array.ndim != 1 or array.dtype.kind not in "iufUSb":
        raise ArraysError(
            f"{name}: {STAGES_KEY!r} is {array.dtype} of shape {array.shape}; must be a code or a"
            " word an epoch"
        )
    if array.dtype.kind == "f":  # whole numbers with NaN for what is not scored
        last = len(array) - np.argmax(~np.isnan(array[::-1])) if not np.isnan(array).all() else 0
        array = array[:last]
        texts = ["-1" if np.isnan(x) else f"{x:g}" for x in array]
    elif array.dtype.kind == "S":
        texts = [x.decode("utf-8", "replace") for x in array]
    else:
        texts = [str(x) for x in array.tolist()]
    book, unknown = dict(codes) or CODES, collections.Counter()
    known = {}
    for text in set(texts):
        stage = book.get(text)
        if stage is None and not codes:
            stage = stage_of(text)
        if stage is None and (text == "-1" or not text):
            stage = -1
        known[text] = stage
    stages = np.array([-1 if known[x] is None else known[x] for x in texts], np.int8)
    for text in (x for x in texts if known[x] is None):
        unknown[text] += 1
    findings = []
    for text, count in unknown.most_common():
        word = text if _is_number(text) else printable(text)
        note = f"{STAGES_KEY}: {count} epochs of the code {word!r}, which is not known: unscored"
        findings.append(Finding("unknown_stage", word, note, count, float(count * EPOCH_S)))
    return stages, findings


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read(path, rows):
    """Key -> array of what is read of a file, and all its keys."""
    wanted = {key for row in rows for key in _keys(row)} | {STAGES_KEY}
    if path.suffix.lower() == PARQUET:
        return _read_parquet(path, wanted)
    try:
        with np.load(path, allow_pickle=False) as file:
            for info in file.zip.infolist():
                if info.filename.removesuffix(".npy") in wanted and info.file_size > LARGEST:
                    raise ArraysError(f"{path.name}: {info.filename} has {info.file_size} bytes")
            return {key: file[key] for key in file.files if key in wanted}, {*file.files}
    except ArraysError:
        raise
    except (OSError, ValueError, EOFError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        reason = "Python objects, which are never loaded" if "pickle" in str(error) else ""
        reason = reason or getattr(error, "strerror", None) or type(error).__name__
        raise ArraysError(f"{path.name}: not an NPZ file that can be read ({reason})") from None


def _read_parquet(path, wanted):
    try:
        import pyarrow as pa  # an extra
        import pyarrow.parquet
    except ImportError:
        raise ArraysError(f"{path.name}: Parquet needs pip install hypnos_jax[arrays]") from None
    try:
        keys = set(pyarrow.parquet.read_schema(path).names)
        table = pyarrow.parquet.read_table(path, columns=sorted(keys & wanted))
        found = {name: _of_column(table[name].combine_chunks()) for name in table.column_names}
        return found, keys
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ArraysError(
            f"{path.name}: not a Parquet file that can be read ({type(error).__name__})"
        ) from None


def _of_column(column):
    """A column as an array without the nulls at its end; lists become [T, D], other nulls NaN."""
    import pyarrow as pa

    there = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
    column = column.slice(0, int(there[-1]) + 1 if len(there) else 0)
    if pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
        rows = column.to_pylist()
        width = max((len(row) for row in rows if row is not None), default=0)
        blank = [np.nan] * width
        return np.array([blank if row is None else row for row in rows], np.float64)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return np.array([x or "" for x in column.to_pylist()], np.str_)
    return column.to_numpy(zero_copy_only=False)
