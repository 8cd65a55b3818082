"""Windows of all modalities of a night as tokens: what token models are trained on."""

import numpy as np
from absl import logging

from data_pipelines.channels.table import CHANNELS
from data_pipelines.pipeline import (
    Batch,
    DamagePolicy,
    EmptySplitError,
    PipelineError,
    Source,
    contents,
    keep_some,
    require_kind,
)
from data_pipelines.recipes import find_recipe, recipe_of_store
from data_pipelines.shuffle import mix
from data_pipelines.signals.timing import tokenizer_levels
from data_pipelines.store import PHASES, DamagedRecordError, NightEntry, NightStore, sha256

TOKEN_S = 1
TIMING = ("", "beside", "alone")


def open_source(
    store: NightStore,
    *,
    split: str,
    seed: int,
    window_s: int = 512,
    modalities: tuple[str, ...] = (),
    timing: str = "",
    nights: int = 0,
    phases: int = 0,
    max_damaged: float = 0.01,
    threads: int | None = None,
) -> Source:
    """Windows of all modalities of a night as tokens.

    Examples: ``codes`` int32 [S, sumK], ``present`` bool [M], ``channel_ids`` int32 [M], ``valid``
    bool [S, M] (False where the night is over), ``tracks`` float32 [S, M, 2], ``weight`` float32.

    Args:
        store: a store of tokens.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        seed: of order and crops.
        window_s: seconds of a window.
        modalities: only these, in the store's order; all by default.
        timing: what is read of the store's timing levels: ``""``, nothing, the tokenizers' codes
            alone; ``"beside"``, both; ``"alone"``, the timing levels and no others, of those
            modalities that have some.
        nights: of the training split, so many alone; 0 takes all.
        phases: of the grids of a second on which the nights were tokenized
            (``tokenize_nights --shifts``), so many alone; 0 takes all. Each visit of a training
            window draws one; other splits are read on the first.
        max_damaged: share of the nights that may be damaged and left out; one always may, unless
            this is 0.
        threads: readers.

    Raises:
        PipelineError: the store holds signals, lacks a modality or what ``timing`` asks for, or
            has no night in that split.
    """
    require_kind(store, "tokens", "token_windows")
    recipe_of_store(store)  # that of the signals, which must be known here
    names = [modality["name"] for modality in store.modalities]
    unknown = [name for name in modalities if name not in names]
    if unknown:
        raise PipelineError(f"{store.path} has no modality {unknown[0]!r}; it has {names}")
    kept = _kept(store, modalities, timing)
    keep = [names.index(row["name"]) for row in kept]
    columns = store.columns(kept)
    channel_ids = np.array([row["channel_id"] for row in kept], np.int32)
    entries = keep_some(store.select(split), nights if split == "train" else 0, store)
    if not entries:
        raise EmptySplitError(f"{store.path} has no night in split {split!r}: {contents(store)}")

    grids = [(store, dict(enumerate(entries)))]
    if split == "train":
        grids += [(grid, _same_nights(grid, entries)) for grid in _shifted(store, phases)]
    damage = [DamagePolicy(grid, len(entries), max_damaged) for grid, _ in grids]
    present = np.stack([store.present(night)[keep] for night in entries])
    # A slice takes all without a copy.
    whole = len(columns) == store.code_width
    levels_kept, modalities_kept = (slice(None), slice(None)) if whole else (columns, keep)

    def draw_grid(numbers: np.ndarray) -> np.ndarray:
        keys = mix(mix(seed + 2) + numbers.astype(np.uint64))
        return (keys % np.uint64(len(grids))).astype(int)

    def read(chosen: np.ndarray, starts: np.ndarray, numbers: np.ndarray | None = None) -> Batch:
        codes = np.zeros((len(chosen), window_s, store.code_width), np.int32)
        valid = np.zeros((len(chosen), window_s, len(names)), bool)
        tracks = np.zeros((*valid.shape, 2), np.float32)
        drawn = np.zeros(len(chosen), int) if numbers is None else draw_grid(numbers)
        for row, (night, start) in enumerate(zip(chosen.tolist(), starts.tolist())):
            which = int(drawn[row])
            grid, nights_there = grids[which]
            if night not in nights_there:
                which, (grid, nights_there) = 0, grids[0]
            fields = {"codes": codes[row], "valid": valid[row], "tracks": tracks[row]}
            try:
                grid.fill(nights_there[night], None, start, **fields)
            except DamagedRecordError as error:
                damage[which].leave_out(error)
        valid = valid[:, :, modalities_kept] & present[chosen, None]
        return {
            "codes": codes[:, :, levels_kept],
            "present": present[chosen],
            "channel_ids": np.tile(channel_ids, (len(chosen), 1)),
            "valid": valid,
            "tracks": tracks[:, :, modalities_kept],
            "weight": valid.any(axis=(1, 2)).astype(np.float32),
        }

    description = {"modalities": kept, "window_s": window_s}
    if len(grids) > 1:
        description["phases"] = {
            grid.path.name: sha256(grid.path / "manifest.json") for grid, _ in grids[1:]
        }
    seconds = [night.duration_s for night in entries]
    return Source(
        store,
        seconds,
        window_s,
        read,
        description,
        seed=seed,
        threads=threads,
        read_training=read if len(grids) > 1 else None,
    )


def _shifted(store: NightStore, count: int) -> list[NightStore]:
    """The stores of the same nights on shifted grids; ``count`` is with the first, 0 for all."""
    found = sorted(
        (store.path / PHASES).glob("*/manifest.json"), key=lambda p: float(p.parent.name)
    )
    if not 0 <= count <= len(found) + 1:
        raise PipelineError(
            f"config.data.phases={count}: {store.path} has {len(found) + 1}; tokenize its nights"
            f" with --shifts={count} for more"
        )
    grids = [NightStore(path.parent) for path in found[: count - 1 if count else None]]
    for grid in grids:
        theirs = {**grid.manifest["provenance"]}
        theirs.pop("shift_s", None)
        if (grid.modalities, theirs) != (store.modalities, store.manifest["provenance"]):
            raise PipelineError(
                f"{grid.path} holds tokens of other tokenizers or nights than {store.path}: delete"
                " it, or tokenize the nights again"
            )
    return grids


def _same_nights(grid: NightStore, entries: list) -> dict[int, NightEntry]:
    """Number of a night -> its entry on another grid; those that are missing there are told."""
    there = {night.recording: night for night in grid.nights}
    found = {
        i: there[night.recording] for i, night in enumerate(entries) if night.recording in there
    }
    if len(found) < len(entries):
        logging.warning(
            "%s: %d of %d nights of training are not there, and read on the first grid alone",
            grid.path,
            len(entries) - len(found),
            len(entries),
        )
    return found


def _kept(store, modalities, timing):
    """The rows of a model that reads these modalities and levels of a store."""
    if timing not in TIMING:
        raise PipelineError(f"config.data.timing is {timing!r}; use one of {TIMING}")
    kept = []
    for stored in store.modalities:
        whole, plain = stored["levels"], tokenizer_levels(stored)
        count = {"": plain, "beside": whole, "alone": whole - plain}[timing]
        if not count or (modalities and stored["name"] not in modalities):
            continue
        row = {
            "name": stored["name"],
            "levels": count,
            "codes": stored["codes"],
            "channel_id": stored["channel_id"],
            "group": stored["signal_type"],
        }
        if timing and plain < whole:
            row |= {key: x for key, x in stored.items() if key.startswith("timing")}
        kept.append(row)
    missing = set(modalities) - {row["name"] for row in kept}
    if missing or not kept or (timing and not any("timing" in row for row in kept)):
        what = "no code of a tokenizer" if not timing else "no timing level"
        of = f" of {sorted(missing)}" if missing else ""
        raise PipelineError(
            f"{store.path} has {what}{of}, which config.data.timing={timing!r} reads; write them"
            " with launch.tokenize_nights (--tokenizers, --timing)"
        )
    return kept


def shapes(data: dict, objective: dict) -> dict[str, tuple]:
    """Return name -> (dtype, shape of a row) of the batches of a config."""
    seconds, modalities = data["window_s"], objective["model"]["modalities"]
    count, levels = len(modalities), sum(m["levels"] for m in modalities)
    return {
        "codes": (np.int32, seconds, levels),
        "present": (np.bool_, count),
        "channel_ids": (np.int32, count),
        "valid": (np.bool_, seconds, count),
        "tracks": (np.float32, seconds, count, 2),
        "weight": (np.float32,),
    }


def describe_paper(levels: int = 8, codes: int = 2048, recipe: str = "hypnos") -> dict:
    """Return what a token store of a recipe's own choice of channels would describe.

    Args:
        levels, codes: of every modality.
        recipe: of the signals.
    """
    found = find_recipe(recipe)
    modalities = [
        {
            "name": name,
            "levels": levels,
            "codes": codes,
            "channel_id": found.rows[name].id,
            "group": CHANNELS[name].signal_type,
        }
        for name in found.wanted()
    ]
    return {"modalities": modalities}


def write_tiny(folder, seed: int) -> None:
    """Write a tiny store of tokens that can be learnt."""
    from data_pipelines.synthetic import write_tiny_tokens  # only where no data are given

    write_tiny_tokens(folder, seed=seed)


def tiny() -> dict:
    """Return the options by which least of the tiny store is read."""
    return {"modalities": ("eeg_c3", "eeg_c4", "ecg"), "window_s": 24}
