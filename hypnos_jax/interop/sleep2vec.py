"""Towers in the format of the official sleep2vec code: its state dict -> our variables, and back.

Names, layouts and what is derived are facts of that code (github.com/JinZr/sleep2vec at 77c49e3).
Sizes are read off the shapes. Every tensor must find its place: a checkpoint that lacks one, or has
one more, is refused by its name.
"""

from __future__ import annotations

import os
import types
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.recipes.sleep2vec import ROWS, TOKEN_S
from hypnos_jax.config import frozen
from hypnos_jax.interop.formats import Part
from hypnos_jax.interop.hypnos_names import Entry
from hypnos_jax.interop.state_dict import (
    StateDictError,
    fill,
    has_tensor,
    read_tensors,
    shape_of,
    write_tensors,
)
from hypnos_jax.models.modality_towers import ModalityTowers

KEYS = {name: modality.keys[0] for name, modality in ROWS.items()}
NAMES = {key: name for name, key in KEYS.items()}
POSITIONS = 1536  # rows of the table of angles
OBJECTIVES = ("dash_infonce",)
PREFIXES = ("ema_model.", "model.", "")  # of training checkpoints, preferred first
COUNTERS = ("proj_head.bn1.num_batches_tracked", "proj_head.bn2.num_batches_tracked")
WORDS, ANGLES = (
    "encoder.embeddings.word_embeddings.weight",
    "encoder.encoder.embed_positions.weight",
)
LAYER = "encoder.encoder.layer."
CLS = "cls_embedding.cls_token"  # of the ``_cls`` configurations


def recognises(path: str | os.PathLike) -> bool:
    """Return whether a file is a checkpoint in this format, as far as its name and head tell."""
    return has_tensor(path, "tokenizer_mapping.")


def read(path: str | os.PathLike) -> tuple[Part, dict[str, Part]]:
    """Return a checkpoint as a model; there are no tokenizers beside it.

    Args:
        path: ``.safetensors``, or a file of PyTorch, of which only weights are read. Averaged
            weights are taken where a training checkpoint has them.

    Raises:
        StateDictError: it cannot be read, or a tensor is missing, left over or of a wrong shape.
    """
    tensors = read_tensors(path).tensors
    for prefix in PREFIXES:
        own = {n.removeprefix(prefix): x for n, x in tensors.items() if n.startswith(prefix)}
        if any(name.startswith("tokenizer_mapping.") for name in own):
            break
    else:
        raise StateDictError(f"{path} has no tensor tokenizer_mapping.*: not towers of sleep2vec")
    strangers = [name for name in tensors if prefix and not name.startswith(PREFIXES[:2])]
    if strangers:
        raise StateDictError(f"{path} has a tensor {strangers[0]!r} beside the model's")
    try:
        model = _arguments(own)
        return Part({"name": OBJECTIVES[0], "model": model}, _variables(model, own)), {}
    except StateDictError as error:
        raise StateDictError(f"{path}: {error}") from None


def write(
    path: str | os.PathLike, part: Part, tokenizers: Mapping[str, Part] = types.MappingProxyType({})
) -> None:
    """Write towers as the official code's state dict, in a safetensors file.

    Args:
        path: the file; replaced whole.
        part: of ``DashInfonce``, with ``params`` and ``batch_stats``.
        tokenizers: none; the towers have their own.

    Raises:
        StateDictError: something that the official model does not have.
    """
    model, variables = part.objective["model"], part.variables
    for name, value in (("lora_rank", 0), ("projection_depth", 2)):
        if model.get(name, value) != value:
            raise StateDictError(f"model.{name}={model[name]}: the official format has {value}")
    flat = _flat({name: tree["towers"] for name, tree in variables.items()})
    tensors = {}
    for entry in entries(model):
        tensors[entry.theirs] = entry.give(np.asarray(flat[entry.ours]))
    write_tensors(path, tensors | derived(model), {})


def entries(model: Mapping[str, Any]) -> list[Entry]:
    """Return which tensor is which variable (``params/...`` under the towers).

    Raises:
        StateDictError: a modality that the official code does not have.
    """
    found = []

    def dense(ours, theirs, *, bias=True):
        found.append(Entry(f"params/{ours}/kernel", f"{theirs}.weight", axes=(1, 0)))
        if bias:
            found.append(Entry(f"params/{ours}/bias", f"{theirs}.bias"))

    def norm(ours, theirs, at=()):
        for a, b in (("scale", "weight"), ("bias", "bias")):
            found.append(Entry(f"params/{ours}/{a}", f"{theirs}.{b}", at))

    for i, row in enumerate(model["modalities"]):
        if row["name"] not in KEYS:
            raise StateDictError(f"modality {row['name']!r} is none of {list(KEYS)}")
        key, ours = KEYS[row["name"]], f"tokenizer_{row['name']}"
        theirs = f"tokenizer_mapping.{key}"
        for a, b in (("hidden", "hidden"), ("out", "output"), ("residual", "residual")):
            dense(f"{ours}/{a}", f"{theirs}.{b}_layer")
        norm(f"{ours}/norm/norm", f"{theirs}.norm")
        found.append(Entry("params/mask_embedding", f"mask_embed.{key}", (i,)))
    dense("input", "embedding_projection")
    if model.get("cls"):
        found.append(Entry("params/cls_embedding", CLS))
    found.append(
        Entry("params/trunk/type_embedding", "encoder.embeddings.token_type_embeddings.weight")
    )
    norm("trunk/input_norm/norm", "encoder.embeddings.LayerNorm")
    dim, ours = model["dim"], "trunk/layers/layer"
    for i in range(model["layers"]):
        theirs = f"{LAYER}{i}"
        for j, name in enumerate(("query", "key", "value")):
            place, at = f"{theirs}.attention.self.{name}", (i, slice(None), j)
            found.append(
                Entry(
                    f"params/{ours}/attention/qkv_kernel",
                    f"{place}.weight",
                    at,
                    axes=(1, 0),
                    shape=(dim, dim),
                )
            )
            found.append(
                Entry(f"params/{ours}/attention/qkv_bias", f"{place}.bias", (i, j), shape=(dim,))
            )
        place, own = f"{theirs}.attention.output", f"params/{ours}/attention"
        found.append(
            Entry(f"{own}/out_kernel", f"{place}.dense.weight", (i,), axes=(1, 0), shape=(dim, dim))
        )
        found.append(Entry(f"{own}/out_bias", f"{place}.dense.bias", (i,)))
        norm(f"{ours}/attention_norm/norm", f"{place}.LayerNorm", (i,))
        for a, b in (("up", "intermediate.dense"), ("down", "output.dense")):
            place = f"params/{ours}/ffn/{a}"
            found.append(Entry(f"{place}/kernel", f"{theirs}.{b}.weight", (i,), axes=(1, 0)))
            found.append(Entry(f"{place}/bias", f"{theirs}.{b}.bias", (i,)))
        norm(f"{ours}/ffn_norm/norm", f"{theirs}.output.LayerNorm", (i,))
    for i in (0, 1):
        dense(f"head/linear_{i}", f"proj_head.fc{i + 1}", bias=False)
        norm(f"head/norm_{i}", f"proj_head.bn{i + 1}")
        for a in ("mean", "var"):
            place = f"proj_head.bn{i + 1}.running_{a}"
            found.append(Entry(f"batch_stats/head/norm_{i}/{a}", place))
    return found


def derived(model: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the official model's tensors that hold nothing learnt: angles, counters, words."""
    width = model["dim"] // model["heads"]
    angles = np.arange(POSITIONS)[:, None] / 10_000.0 ** (2 * np.arange(width // 2) / width)[None]
    table = np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
    words = np.zeros((1, model["dim"]), np.float32)
    return {ANGLES: table, WORDS: words} | {name: np.zeros((), np.int64) for name in COUNTERS}


def _arguments(tensors) -> dict[str, Any]:
    """Keyword arguments of ``ModalityTowers``, from the shapes."""

    keys = {name.split(".")[1] for name in tensors if name.startswith("tokenizer_mapping.")}
    unknown = sorted(keys - set(NAMES))
    if unknown:
        raise StateDictError(f"it has a tokenizer of {unknown[0]!r}; known are {list(NAMES)}")
    modalities = []
    for name, key in KEYS.items():
        if key in keys:
            frames = shape_of(tensors, f"tokenizer_mapping.{key}.hidden_layer.weight", 2)[1]
            modalities.append({"name": name, "rate_hz": frames // TOKEN_S, "frames": frames})
    layers = {name[len(LAYER) :].split(".")[0] for name in tensors if name.startswith(LAYER)}
    dim, token_dim = shape_of(tensors, "embedding_projection.weight", 2)
    head_dim = shape_of(tensors, ANGLES, 2)[1]
    if head_dim < 2 or head_dim % 2 or dim % head_dim:
        raise StateDictError(f"tensor {ANGLES!r} has {head_dim} columns, for a width of {dim}")
    return {
        "modalities": modalities,
        "dim": dim,
        "layers": len(layers),
        "heads": dim // head_dim,
        "ffn_dim": shape_of(tensors, f"{LAYER}0.intermediate.dense.weight", 2)[0],
        "token_dim": token_dim,
        "cls": CLS in tensors,
        "projection_dim": shape_of(tensors, "proj_head.fc1.weight", 2)[0],
        "out_dim": shape_of(tensors, "proj_head.fc2.weight", 2)[0],
    }


def _variables(model, tensors) -> dict[str, Any]:
    """Variables of ``DashInfonce``."""
    fixed = derived(model)
    tables = {ANGLES: fixed.pop(ANGLES)}
    flat = fill(tensors, entries(model), tables, list(fixed), variable_shapes(model))
    trees = flax.traverse_util.unflatten_dict(flat, sep="/")
    return {name: {"towers": tree} for name, tree in trees.items()}


def variable_shapes(model: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return path -> shape of the variables of towers."""
    towers = ModalityTowers(**frozen(dict(model)))
    frames = max(row["frames"] for row in model["modalities"])

    def everything(towers, signal, valid):
        return towers.project(towers.encode(signal, jnp.int32(0), valid)[0], valid)

    made = jax.eval_shape(
        lambda: towers.init(
            jax.random.key(0), jnp.zeros((1, 2, frames)), jnp.ones((1, 2), bool), method=everything
        )
    )
    return {name: x.shape for name, x in _flat(nn.unbox(made)).items()}


def _flat(tree) -> dict[str, Any]:
    return flax.traverse_util.flatten_dict(dict(tree), sep="/")
