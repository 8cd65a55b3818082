"""A store of modalities -> NPZ files and an index in the layout of sleep2vec's repository.

Signals are as the towers see them, with zeros where nothing valid was measured: the layout has no
place to say so.
"""

from __future__ import annotations

import csv
import os
import pathlib
from collections.abc import Callable

import numpy as np

from data_pipelines.files import atomic_write
from data_pipelines.labels import TokenLabels
from data_pipelines.recipes.sleep2vec import TOKEN_S
from data_pipelines.store import SEXES, NightEntry, NightStore, StoreError
from data_pipelines.windows import modalities_of

SPLITS = {"train": "train", "validation": "val", "test": "test"}


def export_npz(
    store: NightStore,
    folder: str | os.PathLike,
    *,
    finished: Callable[[str], None] = lambda name: None,
) -> pathlib.Path:
    """Write a file a night and ``index.csv``.

    Args:
        store: of modalities.
        folder: where; files of the same names are replaced.
        finished: called with each night's name.

    Returns:
        The index.

    Raises:
        PipelineError: the store holds no modalities.
        StoreError: a night's name would leave the folder.
    """
    folder = pathlib.Path(folder)
    modalities = modalities_of(store, (), "export_npz")
    outcomes = sorted({k for night in store.nights for k in night.metadata.get("outcomes") or {}})
    masks = [f"{modality.keys[0]}_mask" for modality in modalities]
    rows = []
    for night in store.nights:
        name = pathlib.PurePosixPath(f"{night.recording}.npz")
        if name.is_absolute() or ".." in name.parts:
            raise StoreError(f"{store.path}: night {night.recording!r} would leave {folder}")
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            np.savez(file, allow_pickle=False, **_arrays(store, night, modalities))
        rows.append(_row(night, name, outcomes, modalities))
        finished(night.recording)
    facts = ("path", "split", "duration", "age", "sex", "source", "session_id", "patient_id")
    with atomic_write(folder / "index.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, [*facts, *outcomes, *masks], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return folder / "index.csv"


def _arrays(store: NightStore, night: NightEntry, modalities) -> dict[str, np.ndarray]:
    labels = TokenLabels.of(store, night)
    seconds = len(labels.stage) * TOKEN_S
    arrays = {
        modality.keys[0]: store.signal(night, modality.name, 0, seconds)
        for modality in modalities
        if modality.name in night.channels
    }
    arrays |= {"stage5": labels.stage.astype(np.int64), "duration": np.float64(seconds)}
    # What is unknown in part has no place here: it is no event.
    if (labels.apnea >= 0).any():
        arrays["ah_event"] = np.maximum(labels.apnea, 0).reshape(-1).astype(np.int64)
    if (labels.arousal >= 0).any():
        arrays["arousal_event"] = np.maximum(labels.arousal, 0).reshape(-1, 4).astype(np.float32)
    scalars = night.metadata.get("scalars") or {}
    return arrays | {key: np.float64(value) for key, value in scalars.items() if key not in arrays}


def _row(night, name, outcomes, modalities):
    facts = night.metadata
    sex = SEXES.get(str(facts.get("sex")).lower())
    site = facts.get("site") or ""
    split = "external" if facts.get("index_split") == "external" else SPLITS[night.split]
    person = night.subject.removeprefix(f"{site}-") if site else night.subject
    told = facts.get("outcomes") or {}
    return {
        "path": str(name),
        "split": split,
        "duration": night.duration_s // TOKEN_S * TOKEN_S,
        "age": facts.get("age", ""),
        "sex": "" if sex is None else ("female", "male")[sex],
        "source": site,
        "session_id": facts.get("session", ""),
        "patient_id": person,
        **{key: told.get(key, "") for key in outcomes},
        **{f"{m.keys[0]}_mask": int(m.name in night.channels) for m in modalities},
    }
