"""Embed a folder of recordings: prepared in parallel, embedded one after the other, resumable."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Sequence

import tqdm

from data_pipelines.builders import arrays, arrays_folder, folder
from data_pipelines.builders.recording_night import Pending
from data_pipelines.files import archive_comment, atomic_write
from data_pipelines.recipes import recipe_of_model
from data_pipelines.recordings.base import RecordingError
from data_pipelines.store import NightStore
from hypnos_jax.inference.embed import open_embedder
from hypnos_jax.inference.prepared import prepared, unchanged
from hypnos_jax.models.token_chunks import CHUNK_S


@dataclasses.dataclass(frozen=True)
class Summary:
    """Names of the recordings embedded and of those that were, and rejects as (name, reason)."""

    added: list[str]
    kept: list[str]
    rejected: list[tuple[str, str]]


def embed_folder(
    model,
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    modalities: Sequence[str] | None = None,
    mains_hz: int | None = None,
    aliases: dict[str, list] | None = None,
    cohort: str | None = None,
    jobs: int = 1,
    chunk_s: int = CHUNK_S,
    dtype: str | None = None,
    surprise: bool = False,
    progress: bool = True,
) -> Summary:
    """Embed every recording of a folder into ``output/<recording>.npz``.

    Args:
        model: what ``export.load_model`` takes, or what ``open_embedder`` returns.
        source: a recording, a folder of recordings or of arrays (docs/arrays.md), or a store of
            nights or of tokens.
        output: folder; files of the same model in it with the modalities asked for are kept.
        modalities: only these; all by default.
        mains_hz: 50 or 60; None infers it from each recording's spectrum.
        aliases: further channel labels, as ``channels.load_aliases`` returns them.
        cohort: whose generic labels these are.
        jobs: processes that read and prepare.
        chunk_s, dtype, surprise: see ``Embedder``.
        progress: show a progress bar on stderr.

    Raises:
        ModelError: no model, or one that does not fit the recordings' tokens.
        ValueError: an unknown modality, or nothing to embed.
    """
    embedder = open_embedder(model, chunk_s=chunk_s, dtype=dtype, surprise=surprise)
    output = pathlib.Path(output)
    names = tuple(embedder.names(modalities))
    items, prepare, embed = _plan(pathlib.Path(source), names, mains_hz, aliases, cohort, embedder)
    if not items:
        raise ValueError(f"{source} holds no recordings ({', '.join(folder.SUFFIXES)})")
    output.mkdir(parents=True, exist_ok=True)
    settings = {
        "model": embedder.checksum,
        "dtype": embedder.dtype,
        "modalities": names,
        "mains_hz": mains_hz,
        **({"surprise": True} if surprise else {}),
    }
    comment = json.dumps({**settings, "aliases": aliases, "cohort": cohort}, sort_keys=True)
    done = {name for name in items if archive_comment(output / f"{name}.npz") == comment}
    todo = {name: item for name, item in items.items() if name not in done}
    added, rejected = [], []
    with tqdm.tqdm(total=len(todo), desc="embed", unit="night", disable=not progress) as bar:
        for name, made in prepared(prepare, todo, jobs):
            try:
                path = output / f"{name}.npz"
                path.parent.mkdir(parents=True, exist_ok=True)
                dataclasses.replace(embed(made()), recording=name).save(path, comment=comment)
                added.append(name)
            except RecordingError as error:
                rejected.append((name, str(error)))
            bar.update()
    _write_rejects(output / "rejects.jsonl", rejected)
    return Summary(added, sorted(done), rejected)


def _plan(source, names, mains_hz, aliases, cohort, embedder):
    """What there is, how a worker prepares one item, and how the model embeds what it made."""
    if (source / "manifest.json").is_file():
        store = NightStore(source)
        items = {night.recording: night for night in store.nights}
        return items, unchanged, functools.partial(embedder.embed_night, store, names=names)
    if (source / arrays_folder.DECLARED).is_file():
        items, _ = arrays_folder.find_nights(source)
        # The model's own series: another declaration would be another scaling.
        recipe = recipe_of_model(embedder.model.config)
        prepare = arrays.reader_of(recipe, names, source)
        return items, prepare, lambda night: embedder.embed_signals(night.channels)
    if source.is_file():
        items = {source.stem: Pending(name=source.stem, path=source, scoring=False, cohort=cohort)}
    else:
        found, _ = folder.find_recordings(source, cohort=cohort)
        items = {name: dataclasses.replace(item, scoring=False) for name, item in found.items()}
    prepare = embedder.prepare(names, mains_hz=mains_hz, aliases=aliases)
    return items, prepare, lambda night: embedder.embed_signals(night.channels)


def _write_rejects(path: pathlib.Path, rejected: list[tuple[str, str]]) -> None:
    with atomic_write(path, "w") as file:
        for name, reason in rejected:
            line = {"recording": name, "reason": reason}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
