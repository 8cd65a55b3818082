"""Models in the format of the official SleepLM code (Xu et al. 2026), read and written.

The released checkpoint has no part that rebuilds the signals (``signal_decoder.*``); its model is
then one without. Sizes are read off the shapes. Names and layouts: ``sleeplm_names``.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import types
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import numpy as np
from absl import logging

from data_pipelines.recipes.sleeplm import RECIPE
from hypnos_jax.config import frozen
from hypnos_jax.interop.formats import Part
from hypnos_jax.interop.sleeplm_names import (
    FREQS,
    copies,
    cut,
    entries,
    frequencies,
    joined,
)
from hypnos_jax.interop.state_dict import (
    StateDictError,
    fill,
    has_tensor,
    read_tensors,
    shape_of,
    write_tensors,
)
from hypnos_jax.models.signal_tower import SAMPLES
from hypnos_jax.models.sleep_language_model import SleepLanguageModel

OBJECTIVES = ("sleep_language",)
PREFIX = "module."  # of checkpoints that were saved by several processes
SETS = {len(rows): rows for rows in RECIPE.sets.values()}
SIZES = {
    "patch": ("biosignals.patching.conv_patching.weight", 3, 2),
    "conv_dim": ("biosignals.patching.conv_patching.weight", 3, 0),
    "width": ("biosignals.embed_projection.weight", 2, 0),
    "memory_tokens": ("biosignals.decoder_pooler.query_tokens", 3, 1),
    "embed_dim": ("biosignals.proj_to_embed.weight", 2, 0),
    "vocab_size": ("text.token_embedding.weight", 2, 0),
    "conditions": ("channel_embeddings", 2, 0),
}


def recognises(path: str | os.PathLike) -> bool:
    """Return whether a file is a checkpoint in this format, as far as its head tells."""
    return has_tensor(path, "biosignals.patching.conv_patching")


def read(path: str | os.PathLike) -> tuple[Part, dict[str, Part]]:
    """Return a checkpoint as a model; there are no tokenizers beside it.

    Args:
        path: ``.safetensors``, or a file of PyTorch, of which only weights are read.

    Raises:
        StateDictError: it cannot be read, or a tensor is missing, left over, of a wrong shape or
            not finite.
    """
    tensors = {n.removeprefix(PREFIX): x for n, x in read_tensors(path).tensors.items()}
    try:
        model = _arguments(tensors)
        for name in copies(model):
            if not np.array_equal(tensors.get(name, tensors[FREQS]), tensors[FREQS]):
                raise StateDictError(
                    f"tensor {name!r} is not {FREQS!r}, which all blocks of the official code share"
                )
        flat = fill(
            cut(tensors),
            list(entries(model)),
            frequencies(model),
            copies(model),
            variable_shapes(model),
        )
    except StateDictError as error:
        raise StateDictError(f"{path}: {error}") from None
    logging.info("%s: %d of %d tensors matched", path, len(tensors), len(tensors))
    if not model["reconstruct"]:
        logging.warning(
            "%s has no signal_decoder: the model that is read does not rebuild signals", path
        )
    variables = flax.traverse_util.unflatten_dict(flat, sep="/")
    text = {"tokenizer": "clip", "context": model["context"]}
    return Part({"name": OBJECTIVES[0], "model": model}, variables, RECIPE.name, text), {}


def write(
    path: str | os.PathLike, part: Part, tokenizers: Mapping[str, Part] = types.MappingProxyType({})
) -> None:
    """Write a model as the official code's state dict, in a safetensors file.

    Args:
        path: the file; replaced whole.
        part: with ``params``.
        tokenizers: none; the model reads signals.
    """
    model = _all_arguments(part.objective["model"])
    flat = flax.traverse_util.flatten_dict(dict(part.variables), sep="/")
    tensors = {e.theirs: e.give(np.asarray(flat[e.ours])) for e in entries(model)}
    tensors |= frequencies(model) | dict.fromkeys(copies(model), tensors[FREQS])
    write_tensors(path, joined(tensors), {})


def variable_shapes(model: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return path -> shape of the variables that the objective has."""
    return _traced(json.dumps(model, sort_keys=True))


@functools.lru_cache(maxsize=4)  # a model of many layers takes seconds
def _traced(model):
    network = SleepLanguageModel(**frozen(json.loads(model)), parent=None)
    made = jax.eval_shape(lambda: nn.unbox(network.init(jax.random.key(0), method="whole")))
    return {
        f"params/network/{'/'.join(path)}": x.shape
        for path, x in flax.traverse_util.flatten_dict(made["params"]).items()
    }


def _all_arguments(model) -> dict[str, Any]:
    """All keyword arguments of the network, defaults too."""
    network = SleepLanguageModel(**frozen(dict(model)), parent=None)
    skip = ("parent", "name")
    return {
        f.name: getattr(network, f.name) for f in dataclasses.fields(network) if f.name not in skip
    }


def _arguments(tensors) -> dict[str, Any]:
    """Keyword arguments of the network, from the shapes."""
    model = {key: shape_of(tensors, name, axes)[i] for key, (name, axes, i) in SIZES.items()}
    width = model["width"]
    (rates,) = shape_of(tensors, FREQS, 1)
    if not rates or width % (2 * rates):
        raise StateDictError(f"tensor {FREQS!r} has {rates} values, for a width of {width}")
    channels = shape_of(tensors, "biosignals.channel_id_embed.weight", 2)[0]
    if channels not in SETS:
        raise StateDictError(f"it reads {channels} channels; known are {sorted(SETS)}")
    gate = "biosignals.transformer_blocks.0.channel_mlp.gate_proj.w1.weight"
    out = "signal_decoder.to_signal.2.weight"
    reconstruct = any(name.startswith("signal_decoder.") for name in tensors)
    if reconstruct and shape_of(tensors, out, 2)[0] != channels * SAMPLES:
        raise StateDictError(f"tensor {out!r} does not give {channels} channels of {SAMPLES}")
    return model | {
        "modalities": [
            {
                "name": name,
                "rate_hz": RECIPE.rows[name].rate_hz,
                "frames": RECIPE.rows[name].rate_hz * RECIPE.token_s,
            }
            for name in SETS[channels]
        ],
        "heads": width // (2 * rates),
        "blocks": _count(tensors, "biosignals.transformer_blocks."),
        "ffn_ratio": shape_of(tensors, gate, 2)[0] / width,
        "text_layers": _count(tensors, "text.transformer.resblocks."),
        "decoder_layers": _count(tensors, "text_decoder.resblocks."),
        "context": shape_of(tensors, "text.positional_embedding", 2)[0] - 1,
        "reconstruct": reconstruct,
        "mask_absent": False,
        "legacy_mask": True,
    }


def _count(tensors, start):
    return len({name[len(start) :].split(".")[0] for name in tensors if name.startswith(start)})
