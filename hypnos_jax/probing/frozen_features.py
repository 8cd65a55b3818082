"""Frozen features of any model: what its ``embed`` makes of whole nights, pooled for a probe.

A model of tokens reads a night piece by piece with a cache; any other reads the windows that the
source of its ``embed`` cuts. Both come out as rows [L, M, D] every ``token_s`` seconds.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping, Sequence

import flax.linen as nn
import jax
import numpy as np

from data_pipelines import pipeline
from data_pipelines.store import NightEntry, NightStore
from hypnos_jax import batch as batches
from hypnos_jax import evaluate, sharding
from hypnos_jax import state as states
from hypnos_jax.export.model import LoadedModel
from hypnos_jax.inference.embedding import mean_over_modalities, valid_epoch_means
from hypnos_jax.inference.read_window import read_window
from hypnos_jax.inference.surprise import by_epoch, columns, statistics
from hypnos_jax.models.token_chunks import CHUNK_S, carry, embed_tokens
from hypnos_jax.objectives import EmbedsInPieces, TellsSurprise

SPLITS = ("train", "validation", "test")
POOLINGS = ("mean", "side_by_side")
BATCH_SIZE = 32  # ours: windows at once

Rows = tuple[np.ndarray, np.ndarray]  # float32 [L, M, D], bool [L, M]


def embed_nights(
    context: evaluate.Context,
    variables: dict,
    *,
    names: Sequence[str] | None = None,
    only: set[str] | None = None,
    splits: Sequence[str] = SPLITS,
    batch_size: int = BATCH_SIZE,
    chunk_s: int = CHUNK_S,
) -> Iterator[tuple[NightEntry, Rows]]:
    """Yield every night of the data with its rows.

    Args:
        context: of the model, on a store that it reads.
        variables: of the objective.
        names: modalities to use; all by default.
        only: names of the recordings wanted; all by default.
        splits: of the nights wanted.
        batch_size: windows at once.
        chunk_s: seconds of tokens at once.

    Raises:
        ValueError: the model reads no whole nights, or not of such a store.
    """
    every = [row["name"] for row in context.attribute("modalities")]
    used = np.isin(every, every if names is None else names)
    if context.can(EmbedsInPieces):
        wanted = {
            night.recording
            for night in context.store.nights
            if night.split in splits and (only is None or night.recording in only)
        }
        options = {"chunk_s": chunk_s, "surprise": False}
        store = context.store
        for night, rows, _ in _in_pieces(context, variables, store, every, used, wanted, **options):
            yield night, rows
        return
    source = pipeline.find_source(context.attribute("embed_data"))
    if "whole_nights" not in vars(source):
        raise ValueError(
            f"the model embeds batches of {context.attribute('embed_data')}, not whole nights:"
            " nothing can be probed"
        )
    whole = context.on(source.whole_nights(context.config["data"]))
    embed, token_s = context.functions("embed"), context.attribute("token_s")
    nights, found = whole.store.nights, {}
    for split in splits:
        for batch in whole.batches(split, batch_size):
            batch = {**batch, "present": batch["present"] & used[None]}
            facts = context.fetch({name: batch[name] for name in ("night", "start", "weight")})
            places = [
                i
                for i in np.flatnonzero(facts["weight"] > 0)
                if only is None or nights[facts["night"][i]].recording in only
            ]
            if not places:
                continue
            out = jax.device_get(embed(variables, batch))
            for i in places:
                night, start = nights[facts["night"][i]], int(facts["start"][i])
                length = int(night.duration_s / token_s)
                if night.recording not in found:
                    empty = np.zeros((length, *out.rows.shape[2:]), np.float32)
                    found[night.recording] = empty, np.zeros(empty.shape[:2], bool)
                rows, valid = found[night.recording]
                rows[start : start + out.rows.shape[1]] = out.rows[i, : length - start]
                valid[start : start + out.rows.shape[1]] = out.valid[i, : length - start]
    for night in nights:
        if night.recording in found:
            yield night, found.pop(night.recording)


def embed_with_surprise(
    context: evaluate.Context,
    variables: dict,
    *,
    store: NightStore | None = None,
    names: Sequence[str] | None = None,
    only: set[str] | None = None,
    chunk_s: int = CHUNK_S,
) -> Iterator[tuple[NightEntry, Rows, np.ndarray]]:
    """Yield every night of a store of tokens with its rows and how unexpected its tokens were.

    Args:
        context, variables, names, only, chunk_s: as of ``embed_nights``.
        store: of the model's tokens; that of the data by default.

    Yields:
        the night, its rows, and float32 [L, M, C] in the order of ``surprise.column_names``.

    Raises:
        ValueError: the model has no likelihood of tokens, or reads no such store.
    """
    if not (context.can(EmbedsInPieces) and context.can(TellsSurprise)):
        raise ValueError("the model has no likelihood of tokens: it cannot tell their surprise")
    every = [row["name"] for row in context.attribute("modalities")]
    used = np.isin(every, every if names is None else names)
    store = store or context.store
    nights = {night.recording for night in store.nights}
    wanted = nights if only is None else nights & only
    options = {"chunk_s": chunk_s, "surprise": True}
    yield from _in_pieces(context, variables, store, every, used, wanted, **options)


def _in_pieces(context, variables, store, every, used, wanted, *, chunk_s, surprise):
    """Nights of tokens; every process does all of them on one device of its own."""
    if store.kind != "tokens":
        raise ValueError(f"{store.path} holds {store.kind}, and the model reads tokens")
    missing = set(every) - {row["name"] for row in store.modalities}
    if missing:
        raise ValueError(f"{store.path} has no tokens of {sorted(missing)}")
    modalities = context.attribute("modalities")
    lag, reach = context.attribute("embed_lag"), context.attribute("reach")
    kept = () if reach is None else ("cache",)
    with context.on_one_device(variables) as (local, here):
        apply = local.functions("embed_next", mutable=kept)
        advance = carry(lambda own, cache, *given: apply({**own, **cache}, *given), here)
        tell = local.functions("surprise") if surprise else None

        def step(batch, cache, after=None):
            found, cache = advance(batch, cache)
            if after is None:
                return found, cache
            return (found, tell(here, after, found.rows)), cache

        for night in store.nights:
            if night.recording not in wanted:
                continue
            context.heartbeat()

            def read(start, stop, night=night):
                window = read_window(store, night, modalities, start, stop)
                return {**window, "present": window["present"] & used}

            options = {"lag": lag, "reach": reach, "chunk_s": chunk_s, "coming": surprise}
            pieces, told = list(embed_tokens(step, read, night.duration_s, **options)), None
            if surprise:
                pieces, told = zip(*pieces)
                told = np.concatenate([columns(piece) for piece in told])
            rows = np.concatenate([piece.rows for piece in pieces])
            yield night, (rows, np.concatenate([piece.valid for piece in pieces])), told


def pooled(rows: Rows, token_s: float, *, by_record: bool, pooling: str) -> np.ndarray:
    """Return float32 [E, F], features of each 30-s epoch, or [1, F], of the whole recording.

    Args:
        rows: of a night.
        token_s: seconds from row to row.
        by_record: one row for the recording.
        pooling: ``"mean"`` over the modalities that are valid; or ``"side_by_side"``, NaN where no
            modality is.
    """
    values, valid = rows
    if by_record:
        weights = valid[..., None].astype(np.float32)
        values = (values * weights).sum(0, keepdims=True) / np.maximum(weights.sum(0), 1)
        valid = valid.any(0, keepdims=True)
    else:
        values, valid = valid_epoch_means(values, valid, token_s)
    if pooling == "mean":
        return mean_over_modalities(values, valid)
    flat = values.reshape(len(values), -1)
    return np.where(valid.any(1, keepdims=True), flat, np.nan)


def surprise_statistics(values: np.ndarray, *, by_record: bool) -> np.ndarray:
    """Return float32 [E, F], statistics of each 30-s epoch, or [1, F], of the whole recording.

    Args:
        values: of ``embed_with_surprise``, float32 [S, M, C], a row a second.
        by_record: one row for the recording.
    """
    flat = values.reshape(len(values), -1)
    return statistics(flat[None] if by_record else by_epoch(flat))


def subset_features(
    model: LoadedModel,
    store: NightStore,
    subsets: Mapping[str, Sequence[str]],
    seed: int | None = None,
) -> dict[str, dict[str, np.ndarray]]:
    """Return name of a subset -> recording -> float32 [E, F] by 30-s epoch, on one device.

    Args:
        model: of any family.
        store: of nights that it reads.
        subsets: name -> names of the modalities that the model is given; the others are absent.
        seed: of random weights in place of the model's own; None for its own.

    Raises:
        ValueError: the model does not read such a store.
    """
    data = {k: v for k, v in model.config["data"].items() if k != "manifest_sha256"}
    objective = model.objective
    config = {"data": {**data, "path": str(store.path)}, "seed": 0, "train": {}}
    mesh = sharding.make_mesh(data=1, devices=jax.local_devices()[:1])
    with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
        spec = batches.batch_spec(batches.load_source(config, store.path, split="train"), 1)
        init = states.init_function(objective, spec)
        context = evaluate.Context(config, objective, init, mesh, pathlib.Path(store.path))
        variables = jax.device_put(model.variables) if seed is None else context.init(seed)
        how = {"by_record": False, "pooling": "side_by_side"}
        return {
            subset: {
                night.recording: pooled(rows, objective.token_s, **how)
                for night, rows in embed_nights(context, variables, names=names)
            }
            for subset, names in subsets.items()
        }


def night_features(model: LoadedModel, store: NightStore) -> dict[str, np.ndarray]:
    """Return recording -> float32 [E, F] by 30-s epoch, modalities side by side.

    Args:
        model: of any family.
        store: of nights that it reads.

    Raises:
        ValueError: the model does not read such a store.
    """
    return subset_features(model, store, {"": _names(model)})[""]


def random_features(model: LoadedModel, store: NightStore, seed: int) -> dict[str, np.ndarray]:
    """Return ``night_features`` of the model's network with random weights of a seed."""
    return subset_features(model, store, {"": _names(model)}, seed)[""]


def _names(model):
    return [row["name"] for row in model.objective.modalities]
