"""Windows of all modalities of a night as tokens: what token models are trained on."""

import numpy as np

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
from data_pipelines.store import DamagedRecordError, NightStore

TOKEN_S = 1


def open_source(
    store: NightStore,
    *,
    split: str,
    seed: int,
    window_s: int = 512,
    modalities: tuple[str, ...] = (),
    nights: int = 0,
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
        nights: of the training split, so many alone; 0 takes all.
        max_damaged: share of the nights that may be damaged and left out; one always may, unless
            this is 0.
        threads: readers.

    Raises:
        PipelineError: the store holds signals, lacks a modality, or has no night in that split.
    """
    require_kind(store, "tokens", "token_windows")
    recipe_of_store(store)  # that of the signals, which must be known here
    names = [modality["name"] for modality in store.modalities]
    unknown = [name for name in modalities if name not in names]
    if unknown:
        raise PipelineError(f"{store.path} has no modality {unknown[0]!r}; it has {names}")
    keep = [i for i, name in enumerate(names) if name in (modalities or names)]
    levels = [modality["levels"] for modality in store.modalities]
    firsts = np.cumsum([0, *levels])
    columns = np.concatenate([np.arange(firsts[i], firsts[i + 1]) for i in keep])
    channel_ids = np.array([store.modalities[i]["channel_id"] for i in keep], np.int32)
    entries = keep_some(store.select(split), nights if split == "train" else 0, store)
    if not entries:
        raise EmptySplitError(f"{store.path} has no night in split {split!r}: {contents(store)}")

    damage = DamagePolicy(store, len(entries), max_damaged)
    present = np.stack([store.present(night)[keep] for night in entries])
    # A slice takes all without a copy.
    levels_kept, modalities_kept = (columns, keep) if modalities else (slice(None), slice(None))

    def read(chosen: np.ndarray, starts: np.ndarray) -> Batch:
        codes = np.zeros((len(chosen), window_s, store.code_width), np.int32)
        valid = np.zeros((len(chosen), window_s, len(names)), bool)
        tracks = np.zeros((*valid.shape, 2), np.float32)
        for row, (night, start) in enumerate(zip(chosen.tolist(), starts.tolist())):
            fields = {"codes": codes[row], "valid": valid[row], "tracks": tracks[row]}
            try:
                store.fill(entries[night], None, start, **fields)
            except DamagedRecordError as error:
                damage.leave_out(error)
        valid = valid[:, :, modalities_kept] & present[chosen, None]
        return {
            "codes": codes[:, :, levels_kept],
            "present": present[chosen],
            "channel_ids": np.tile(channel_ids, (len(chosen), 1)),
            "valid": valid,
            "tracks": tracks[:, :, modalities_kept],
            "weight": valid.any(axis=(1, 2)).astype(np.float32),
        }

    kept = [
        {
            "name": names[i],
            "levels": levels[i],
            "codes": store.modalities[i]["codes"],
            "channel_id": store.modalities[i]["channel_id"],
            "group": store.modalities[i]["signal_type"],
        }
        for i in keep
    ]
    description = {"modalities": kept, "window_s": window_s}
    seconds = [night.duration_s for night in entries]
    return Source(store, seconds, window_s, read, description, seed=seed, threads=threads)


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
