"""Models in the format of the official NeuroNet and SynthSleepNet code, read and written.

Three kinds of checkpoint: NeuroNet of its own repository (github.com/dlcjfgmlnasa/NeuroNet at
0113750), the NeuroNet of SynthSleepNet's repository (stage 1), and SynthSleepNet (stage 2;
github.com/dlcjfgmlnasa/SynthSleepNet at d5a673a). Names, layouts and what lies beside the tensors
are facts of that code.

The official code has a copy of the encoder for each channel. Where the copies of the channels of
each type are equal, low-rank additions apart, they are read as one encoder (``share="type"``).
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
import jax.numpy as jnp
import numpy as np
from absl import logging

from hypnos_jax.config import frozen
from hypnos_jax.interop import synthsleepnet_config
from hypnos_jax.interop.formats import Part
from hypnos_jax.interop.hypnos_names import Entry
from hypnos_jax.interop.state_dict import (
    StateDictError,
    fill,
    has_tensor,
    read_tensors,
    write_tensors,
)
from hypnos_jax.interop.synthsleepnet_names import (
    backbone,
    neuronet_entries,
    synthsleepnet_entries,
)
from hypnos_jax.interop.torch_file import is_torch_file, mentions
from hypnos_jax.models.neuronet import Neuronet, NeuronetEncoder
from hypnos_jax.models.synthsleepnet import Synthsleepnet
from hypnos_jax.nn.masking import positions

OBJECTIVES = ("masked_autoencoding", "masked_prediction")
STATES = ("model_state", "multimodal_model_state")  # keys of the tensors in files of PyTorch
TUNED = "temporal_context_length"  # what fine-tuned models alone say
TEMPERATURES = {"masked_autoencoding": 0.05, "masked_prediction": 0.1}


@dataclasses.dataclass(frozen=True)
class Layout:
    """The official tensors of a model of ours.

    Attributes:
        entries: which tensor is which variable.
        tables: sines, by name.
        unused: what no output depends on, by name: counters, statistics and tokens that the
            official code has and does not use.
    """

    entries: list[Entry]
    tables: dict[str, np.ndarray]
    unused: dict[str, np.ndarray]


def recognises(path: str | os.PathLike) -> bool:
    """Return whether a file is a checkpoint in this format, as far as its head tells."""
    return has_tensor(path, "frame_backbone.model.conv1")


def read(path: str | os.PathLike) -> tuple[Part, dict[str, Part]]:
    """Return a checkpoint as a model; there are no tokenizers beside it.

    Args:
        path: ``.safetensors``, or a file of PyTorch, of which only weights, numbers and text are
            read.

    Raises:
        StateDictError: it cannot be read; a tensor is missing, left over, of a wrong shape or not
            finite; or it is a fine-tuned model.
    """
    tuned = is_torch_file(path) and mentions(path, TUNED)
    found = None if tuned else read_tensors(path, STATES)
    # The official code adapts the frame networks in fine-tuning alone.
    if tuned or any(".lora_A." in name and ".feature_layer." in name for name in found.tensors):
        raise StateDictError(
            f"{path} is a fine-tuned model (stage 3), of which context and head are not read; give"
            " the file of stage 2 that it was made of (pretrain_ckpt_path of its parameters), and"
            " fine-tune that with configs/synthsleepnet/finetune.py"
        )
    tensors, facts = found.tensors, found.facts
    unused = sorted(set(facts) - set(synthsleepnet_config.USED))
    if unused:
        logging.info("%s: not read beside the weights: %s", path, ", ".join(unused))
    try:
        part = _read(tensors, facts)
    except StateDictError as error:
        raise StateDictError(f"{path}: {error}") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # What no check foresaw of parameters that anyone may have written.
        raise StateDictError(f"{path}: its parameters make no model: {error!r}") from error
    logging.info("%s: %d of %d tensors matched", path, len(tensors), len(tensors))
    return part, {}


def write(
    path: str | os.PathLike, part: Part, tokenizers: Mapping[str, Part] = types.MappingProxyType({})
) -> None:
    """Write a model as the official code's state dict, in a safetensors file.

    What the official code saves beside the tensors stands in the file's metadata, as JSON under
    ``facts``.

    Args:
        path: the file; replaced whole.
        part: of stage 1 or 2, with ``params`` and ``batch_stats``.
        tokenizers: none; the models read signals.

    Raises:
        StateDictError: something that the official model does not have.
    """
    name, model = part.objective["name"], part.objective["model"]
    temperature = part.objective.get("temperature", TEMPERATURES[name])
    if name == "masked_autoencoding":
        network = Neuronet(**frozen(model), parent=None)
        facts = synthsleepnet_config.neuronet_facts(network, temperature)
    else:
        network = Synthsleepnet(**frozen(model), parent=None)
        facts = synthsleepnet_config.synthsleepnet_facts(network, temperature)
    own = layout(model, multimodal=name == "masked_prediction")
    flat = flax.traverse_util.flatten_dict(dict(part.variables), sep="/")
    tensors = {entry.theirs: entry.give(np.asarray(flat[entry.ours])) for entry in own.entries}
    facts["recipe"] = part.recipe or synthsleepnet_config.RECIPE
    write_tensors(path, tensors | own.tables | own.unused, facts)


def layout(model: Mapping[str, Any], *, multimodal: bool) -> Layout:
    """Return the official tensors of a model, given the keyword arguments of its network."""
    encoder = NeuronetEncoder(**frozen(dict(model["encoder"])), parent=None)
    count, dim, decoder_dim = encoder.frame_count, encoder.dim, model.get("decoder_dim", 256)
    own_table = np.pad(positions(count, dim), ((1, 0), (0, 0)))[None]
    decoder_table = positions(count, decoder_dim)[None]
    if multimodal:
        network = Synthsleepnet(**frozen(dict(model)), parent=None)
        channels = {
            row["name"]: synthsleepnet_config.CHANNELS[row["name"]] for row in network.modalities
        }
        entries = list(synthsleepnet_entries(model, channels, network.groups()))
        tables = {
            "multimodal_encoder_pos_embed": positions(count, network.dim)[None],
            "multimodal_decoder_pos_embed": decoder_table,
        }
        unused = {"cls_token": np.zeros((1, 1, network.dim), np.float32)}
        learnt = {f"{backbone(name)}pos_embed": own_table for name in channels.values()}
    else:
        entries, tables = list(neuronet_entries(model)), {}
        width = Neuronet(**frozen(dict(model)), parent=None).projection[1]
        unused = {
            "projectors_bn.running_mean": np.zeros(width, np.float32),
            "projectors_bn.running_var": np.ones(width, np.float32),
            "projectors_bn.num_batches_tracked": np.zeros((), np.int64),
        }
        learnt = {
            "autoencoder.pos_embed": own_table,
            "autoencoder.decoder_pos_embed": decoder_table,
        }
    tables |= {} if encoder.train_positions else learnt
    for entry in entries:
        if entry.theirs.endswith("running_mean"):
            counter = entry.theirs.removesuffix("running_mean") + "num_batches_tracked"
            unused[counter] = np.zeros((), np.int64)
    return Layout(entries, tables, unused)


def variable_shapes(model: Mapping[str, Any], *, multimodal: bool) -> dict[str, tuple[int, ...]]:
    """Return path -> shape of the variables that the objective has."""
    return _traced(multimodal, json.dumps(model, sort_keys=True))


@functools.lru_cache(maxsize=8)  # a model of many layers takes seconds
def _traced(multimodal, model):
    model = frozen(json.loads(model))
    encoder = NeuronetEncoder(**model["encoder"], parent=None)
    network = (Synthsleepnet if multimodal else Neuronet)(**model, parent=None)
    rows = (2, len(network.modalities)) if multimodal else (2,)

    def everything(network, signals, noise):
        there = jnp.ones(signals.shape[:-1], bool)
        if multimodal:
            return network.predict(network.unimodal(signals, there), there, noise)
        frames = network.features(signals, there)
        return network.project(network.autoencode(frames, noise)[2], there)

    signals = jnp.zeros((*rows, synthsleepnet_config.SAMPLES))
    noise = jnp.zeros((*rows, encoder.frame_count))
    made = jax.eval_shape(
        lambda: network.init(jax.random.key(0), signals, noise, method=everything)
    )
    return {
        "/".join((collection, "network", *path)): x.shape
        for collection, tree in nn.unbox(made).items()
        for path, x in flax.traverse_util.flatten_dict(tree).items()
    }


def _read(tensors, facts):
    multimodal = synthsleepnet_config.is_multimodal(tensors)
    if multimodal:
        model = synthsleepnet_config.synthsleepnet_arguments(tensors, facts)
    else:
        model = synthsleepnet_config.neuronet_arguments(tensors, facts)
    own = layout(model, multimodal=multimodal)
    shapes = variable_shapes(model, multimodal=multimodal)
    flat = fill(tensors, own.entries, own.tables, list(own.unused), shapes)
    name = OBJECTIVES[multimodal]
    given = facts.get("multimodal_parameter" if multimodal else "model_parameter") or {}
    temperature = float(given.get("temperature", TEMPERATURES[name]))
    return Part(
        {"name": name, "model": model, "temperature": temperature},
        flax.traverse_util.unflatten_dict(flat, sep="/"),
        facts.get("recipe", synthsleepnet_config.RECIPE),
    )
