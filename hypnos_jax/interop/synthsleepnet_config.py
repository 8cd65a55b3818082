"""Parameters of official NeuroNet and SynthSleepNet checkpoints -> our arguments, and back.

Sizes are read off the tensors' shapes. The rest is among what the official code saves beside the
tensors, here called facts: of NeuroNet ``model_parameter``, of SynthSleepNet ``ch_names``,
``unimodal_parameter``, ``multimodal_parameter`` and ``lora_parameter``; of both ``hyperparameter``.
Ours are ``recipe`` and ``legacy_slice``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from data_pipelines.recipes import RecipeError, find_recipe
from hypnos_jax.interop.state_dict import StateDictError, is_table, shape_of
from hypnos_jax.interop.synthsleepnet_names import ADAPTER, backbone
from hypnos_jax.models.neuronet import Neuronet, NeuronetEncoder
from hypnos_jax.models.synthsleepnet import Synthsleepnet
from hypnos_jax.nn.masking import positions
from hypnos_jax.nn.multiscale_resnet import features

Tensors = Mapping[str, np.ndarray]
Facts = Mapping[str, Any]

USED = (
    *("model_name", "model_parameter", "ch_names", "unimodal_parameter", "multimodal_parameter"),
    *("lora_parameter", "hyperparameter", "recipe", "legacy_slice"),
)
RECIPE = "synthsleepnet"  # of the channels of a file that names none
# Our rows -> the official names of channels.
CHANNELS = {
    "eeg_c4": "EEG_C4",
    "eeg_c3": "EEG_C3",
    "eog_e1": "EOG_Left",
    "eog_e2": "EOG_Right",
    "ecg": "ECG",
    "emg_chin": "EMG_Chin",
}
ROWS = {channel: name for name, channel in CHANNELS.items()}
EEG = ["EEG_C4", "EEG_C3"]  # what a NeuroNet is taken to read that names no channels
RATE_HZ, EPOCH_S = 100, 30
SAMPLES = RATE_HZ * EPOCH_S
KERNELS = (3, 5, 7)
# Stem, widths and squeeze of the two frame networks that the official classes have.
PLAIN = (32, (32, 32, 48, 64), 0)
SQUEEZED = (64, (64, 128, 128, 256), 16)
FRAMES_S = ((4.0, 1.0), (3.0, 0.375))  # windows and steps of the official configs, in seconds
HEADS, ALPHA, DROPOUT = 8, 16.0, 0.05  # of the official configs


def is_multimodal(tensors: Tensors) -> bool:
    """Return whether tensors are those of SynthSleepNet's second stage."""
    return any(name.startswith("backbone_networks.") for name in tensors)


def neuronet_arguments(tensors: Tensors, facts: Facts) -> dict[str, Any]:
    """Return keyword arguments of ``Neuronet``.

    Raises:
        StateDictError: a tensor of the wrong shape, or channels or frames that are not known.
    """
    given, run = _section(facts, "model_parameter"), _section(facts, "hyperparameter")
    names = run.get("ch_names")
    if names is None:
        logging.warning("the file names no channels: it is taken as a model of %s", EEG)
    encoder = _encoder(tensors, "", "autoencoder.", given)
    dim = shape_of(tensors, "autoencoder.decoder_embed.weight", 2)[0]
    place = "autoencoder.decoder_pos_embed"
    table = positions(shape_of(tensors, place, 3)[1], dim)[None]
    encoder["train_positions"] |= not is_table(tensors[place], table)
    return {
        "modalities": _rows(EEG if names is None else names, facts),
        "encoder": encoder,
        "mask_rate": float(run.get("mask_ratio", Neuronet.mask_rate)),
        "decoder_dim": dim,
        "decoder_depth": _count(tensors, "autoencoder.decoder_block."),
        "decoder_heads": _heads(given, "decoder_heads"),
        "projection": [shape_of(tensors, f"projectors.{i}.weight", 2)[0] for i in (0, 3)],
    }


def synthsleepnet_arguments(tensors: Tensors, facts: Facts) -> dict[str, Any]:
    """Return keyword arguments of ``Synthsleepnet``; errors as ``neuronet_arguments``."""
    there = {name.split(".")[1] for name in tensors if name.startswith("backbone_networks.")}
    unknown = sorted(there - set(ROWS))
    if unknown:
        raise StateDictError(f"it has an encoder of {unknown[0]!r}; known are {list(ROWS)}")
    names = facts.get("ch_names") or [name for name in ROWS if name in there]
    if sorted(names) != sorted(there):
        raise StateDictError(f"its ch_names are {names}; it has encoders of {sorted(there)}")
    if "recipe" not in facts and there & set(EEG):
        logging.warning(
            "channels are taken by their names; where the official parser made them of SHHS,"
            " EEG_C4 is C3-A2 (its 'EEG(sec)') and EEG_C3 is C4-A1 (its 'EEG')"
        )
    own, given = (_section(facts, f"{name}_parameter") for name in ("unimodal", "multimodal"))
    lora = _section(facts, "lora_parameter")
    encoders = [_encoder(tensors, *2 * [backbone(name)], own) for name in names]
    encoder = dict(encoders[0])
    encoder["train_positions"] = any(found["train_positions"] for found in encoders)
    rank = f"{backbone(names[0])}encoder_block.0.attn.proj.lora_A.{ADAPTER}.weight"
    return {
        "modalities": _rows(names, facts),
        "encoder": encoder,
        "share": "type" if _equal_by_type(tensors, names) else "channel",
        "lora": {
            "rank": shape_of(tensors, rank, 2)[0],
            "alpha": float(lora.get("lora_alpha", ALPHA)),
            "dropout": float(lora.get("lora_dropout", DROPOUT)),
            "stabilised": True,
            "start": "gaussian",
        },
        "dim": shape_of(tensors, f"backbone_embedded.{names[0]}.0.weight", 2)[0],
        "depth": _count(tensors, "multimodal_encoder_block."),
        "heads": _heads(given, "encoder_heads"),
        "mask_rate": float(
            _section(facts, "hyperparameter").get("mask_ratio", Synthsleepnet.mask_rate)
        ),
        "decoder_dim": shape_of(tensors, "decoder_embed.weight", 2)[0],
        "decoder_depth": _count(tensors, f"multimodal_decoder_block_dict.{names[0]}."),
        "decoder_heads": _heads(given, "decoder_heads"),
        "projection": [shape_of(tensors, f"fusion_projector.{i}.weight", 2)[0] for i in (0, 3)],
        "legacy_slice": bool(facts.get("legacy_slice", True)),
    }


def neuronet_facts(network: Neuronet, temperature: float) -> dict[str, Any]:
    """Return what the official code saves beside a NeuroNet's tensors.

    Raises:
        StateDictError: the official class does not have such a network.
    """
    encoder = _checked(network, (PLAIN, SQUEEZED))
    _only("model.pooling", network.pooling, "mean")
    parameters = {**_unimodal(encoder), **_decoder(network), "temperature": temperature}
    channels = [CHANNELS.get(row["name"], row["name"]) for row in network.modalities]
    return {
        "model_name": "NeuroNet",
        "model_parameter": parameters,
        "hyperparameter": {"ch_names": channels, "mask_ratio": network.mask_rate},
    }


def synthsleepnet_facts(network: Synthsleepnet, temperature: float) -> dict[str, Any]:
    """Return what the official code saves beside SynthSleepNet's; errors as above."""
    encoder = _checked(network, (SQUEEZED,))
    _only("model.tuning", network.tuning or None, None)
    lora = dict(network.lora or {})
    _only("model.lora.stabilised", lora.get("stabilised", False), True)
    for row in network.modalities:
        if row["name"] not in CHANNELS:
            raise StateDictError(f"modality {row['name']!r} is none of {list(CHANNELS)}")
    return {
        "model_name": "SleepFoundationModal",
        "ch_names": [CHANNELS[row["name"]] for row in network.modalities],
        "lora_parameter": {
            "lora_r": lora.get("rank", 8),
            "lora_alpha": lora.get("alpha", 16.0),
            "lora_dropout": lora.get("dropout", 0.0),
        },
        "unimodal_parameter": _unimodal(encoder),
        "multimodal_parameter": {
            "backbone_embed_dim": encoder.dim,
            "num_backbone_frames": encoder.frame_count,
            "encoder_embed_dim": network.dim,
            "encoder_heads": network.heads,
            "encoder_depths": network.depth,
            **_decoder(network),
            "temperature": temperature,
        },
        "hyperparameter": {"mask_ratio": network.mask_rate},
        "legacy_slice": network.legacy_slice,
    }


def _encoder(tensors, theirs, transformer, given):
    """Keyword arguments of ``NeuronetEncoder``; the names are those of ``encoder_entries``."""
    network = f"{theirs}frame_backbone.model"
    blocks = [f"{network}.layer3x3_{i}.0" for i in (1, 2, 3, 4)]
    widths = [shape_of(tensors, f"{block}.conv1.weight", 3)[0] for block in blocks]
    narrow = f"{blocks[0]}.se.fc.0.weight"
    dim, width = shape_of(tensors, f"{transformer}patch_embed.weight", 2)
    rows = shape_of(tensors, f"{transformer}pos_embed", 3)[1]
    window_s, step_s = _frames(width, rows - 1, widths[-1], given)
    table = np.pad(positions(rows - 1, dim), ((1, 0), (0, 0)))[None]
    return {
        "window_s": window_s,
        "step_s": step_s,
        "stem": shape_of(tensors, f"{network}.conv1.weight", 3)[0],
        "widths": widths,
        "squeeze": widths[0] // shape_of(tensors, narrow, 2)[0] if narrow in tensors else 0,
        "dim": dim,
        "depth": _count(tensors, f"{transformer}encoder_block."),
        "heads": _heads(given, "encoder_heads"),
        "train_positions": not is_table(tensors[f"{transformer}pos_embed"], table),
    }


def _frames(width, count, channels, given):
    """Seconds of a frame and from one to the next, that give so many features and frames."""
    for name, known in (("fs", RATE_HZ), ("second", EPOCH_S)):
        if given.get(name, known) != known:
            raise StateDictError(f"its {name} is {given[name]}; known is {known}")
    told = (
        [(float(given["time_window"]), float(given["time_step"]))] if "time_step" in given else ()
    )
    for window_s, step_s in told or FRAMES_S:
        window, step = int(window_s * RATE_HZ), int(step_s * RATE_HZ)
        made = features(window, channels, KERNELS), (SAMPLES - window) // step + 1
        if made == (width, count):
            return window_s, step_s
    raise StateDictError(
        f"its {count} frames of {width} features are not those of windows and steps of"
        f" {list(told or FRAMES_S)} s; time_window and time_step of its parameters would tell"
    )


def _equal_by_type(tensors, names):
    """Whether channels of each type have the same encoder, low-rank additions apart."""
    first = {}
    for channel in names:
        leader = first.setdefault(ROWS[channel].split("_")[0], channel)
        start = backbone(leader)
        for name in [name for name in tensors if name.startswith(start) and ".lora_" not in name]:
            other = tensors.get(backbone(channel) + name.removeprefix(start))
            counts = name.endswith("num_batches_tracked")
            if other is not None and not counts and not np.array_equal(tensors[name], other):
                return False
    return True


def _rows(channels, facts):
    recipe = facts.get("recipe", RECIPE)
    try:
        made = find_recipe(recipe).rows
    except RecipeError as error:
        raise StateDictError(f"its recipe: {error}") from None
    rows = []
    for channel in channels:
        name = ROWS.get(channel, channel)
        if name not in made or made[name].rate_hz != RATE_HZ:
            raise StateDictError(
                f"its channel {channel!r} is none of {list(ROWS)}, nor of the recipe {recipe}"
            )
        rows.append({"name": name, "rate_hz": RATE_HZ, "frames": SAMPLES})
    return rows


def _heads(given, name):
    if name not in given:
        logging.warning("the file does not say %s, which no shape tells: taken as %d", name, HEADS)
    return int(given.get(name, HEADS))


def _section(facts, name):
    found = facts.get(name) or {}
    if not isinstance(found, Mapping):
        raise StateDictError(f"its {name} is no table of parameters")
    return found


def _count(tensors, start):
    return len({name[len(start) :].split(".")[0] for name in tensors if name.startswith(start)})


def _checked(network, known):
    """The encoder's attributes, where the official class has such ones."""
    for row in network.modalities:
        _only(f"modality {row['name']!r}", (row["rate_hz"], row["frames"]), (RATE_HZ, SAMPLES))
    encoder = NeuronetEncoder(**network.encoder, parent=None)
    _only("model.encoder.kernels", tuple(encoder.kernels), KERNELS)
    frame_network = (encoder.stem, tuple(encoder.widths), encoder.squeeze)
    if frame_network not in known:
        raise StateDictError(
            "model.encoder: stem, widths and squeeze of its frame network are"
            f" {frame_network}; the official format has {' or '.join(map(str, known))}"
        )
    return encoder


def _only(name, value, known):
    if value != known:
        raise StateDictError(f"{name}={value}: the official format has {known}")


def _unimodal(encoder):
    return {
        "fs": RATE_HZ,
        "second": EPOCH_S,
        "time_window": encoder.window_s,
        "time_step": encoder.step_s,
        "encoder_embed_dim": encoder.dim,
        "encoder_heads": encoder.heads,
        "encoder_depths": encoder.depth,
    }


def _decoder(network):
    return {
        "decoder_embed_dim": network.decoder_dim,
        "decoder_heads": network.decoder_heads,
        "decoder_depths": network.decoder_depth,
        "projection_hidden": list(network.projection),
    }
