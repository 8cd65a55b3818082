"""Models in the published Hypnos format: the package's bundle -> our variables, and back.

A bundle is one safetensors file: the RQ-Transformer's tensors under ``model/``, each tokenizer's
under ``tok/<stem>/``, and as metadata ``config``, JSON with the keyword arguments of the package's
classes and a row per modality. Read for hypnos 0.1.0 (PyPI, MIT; Carter & Tarassenko, arXiv
2606.09605).
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from absl import logging

from data_pipelines.files import atomic_write
from hypnos_jax.config import frozen
from hypnos_jax.interop import hypnos_config
from hypnos_jax.interop.formats import Part
from hypnos_jax.interop.hypnos_config import MODALITY, BundleError
from hypnos_jax.interop.hypnos_names import Entry, backbone_entries, tokenizer_entries
from hypnos_jax.models.rq_transformer import RqTransformer
from hypnos_jax.models.rvq_tokenizer import RvqTokenizer
from hypnos_jax.nn.quantize import SMALLEST_COUNT
from hypnos_jax.runtime.tensor_files import TensorFile, aligned_empty

OBJECTIVES = ("rq_next_token",)
FILE = "hypnos.safetensors"  # the bundle's name in a folder or a hub repository
HUB_ID = re.compile(r"(?:hf://)?([\w.-]+/[\w.-]+)")
TARGET = "hypnos.models.rq_transformer.MultiModalRQTransformer"
TOKENIZER_POSITIONS = 8192  # that the package's tokenizers make rotary tables for
CODEBOOK = ("embedding.weight", "ema_cluster_size", "ema_embed_sum", "usage_count", "initialized")


def recognises(path: str | os.PathLike) -> bool:
    """Return whether a path is a file in this format, as far as its head tells."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return "config" in (file.metadata() or {})
    except (OSError, safetensors.SafetensorError):
        return False


def fetch(hub_id: str) -> pathlib.Path:
    """Return the bundle of a hub repository, ``owner/name``, downloaded once.

    Raises:
        BundleError: it cannot be fetched.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise BundleError(
            f"{hub_id} is no file or folder here; to fetch it as a repository of the Hugging Face"
            " hub: pip install 'hypnos_jax[interop]'"
        ) from None
    try:
        return pathlib.Path(huggingface_hub.hf_hub_download(HUB_ID.fullmatch(hub_id)[1], FILE))
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{hub_id} is no file or folder here, and {FILE} of that repository of the Hugging Face"
            f" hub cannot be fetched: {error}"
        ) from error


def read(path: str | os.PathLike) -> tuple[Part, dict[str, Part]]:
    """Read a bundle.

    Args:
        path: the file.

    Returns:
        The model, and group -> its tokenizer.

    Raises:
        BundleError: no bundle, or a damaged one; a config that cannot be represented here; tensors
            that are missing, left over, or of another shape than the config says.
    """
    try:
        file = TensorFile(path)
        config = _config(path, file.metadata)
        tensors = _Tensors(path, file)
        model, tokenizers = _read(config, tensors)
        tensors.finish()
    except safetensors.SafetensorError as error:
        raise BundleError(f"{path} is damaged or no safetensors file: {error}") from error
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # What no check foresaw of a config that anyone may have written.
        raise BundleError(f"{path}: its config makes no model: {error!r}") from error
    return model, tokenizers


def write(path: str | os.PathLike, model: Part, tokenizers: Mapping[str, Part]) -> None:
    """Write a model that was trained here so that the published package loads it.

    A tokenizer with ``strict_causal`` sees what one of the released alignment sees of the signal a
    sample later. That sample of delay is put into its first strided convolution, whose kernel there
    is room in once all strided kernels are a stride longer (with zeros). Its codes are then the
    same but near the start of a recording, where the layers before it pad another sample.

    Args:
        path: the file; replaced whole.
        model: an RQ-Transformer.
        tokenizers: group -> tokenizer, one for each group of the model.

    Raises:
        BundleError: the package has no such model.
    """
    network = RqTransformer(**frozen(model.objective["model"]), parent=None)
    if not model.objective.get("embed_lag", True):
        logging.warning(
            "embed_lag=False is not kept: the package's rows have not seen their second"
        )
    weights = dict(model.objective.get("modality_weights", ()))
    config = {
        "model_target": TARGET,
        "model_kwargs": hypnos_config.model_arguments(network, weights),
        "modalities": [],
        "tokenizers": {},
    }
    tensors = _model_tensors(network, model.variables["params"]["network"])
    for group, part in tokenizers.items():
        config["tokenizers"][group], own = _tokenizer_tensors(group, part)
        tensors |= {f"tok/{group}/{name}": x for name, x in own.items()}
    for row in network.modalities:
        spec = {k: v for k, v in config["tokenizers"][row["group"]].items() if k in MODALITY}
        config["modalities"].append(hypnos_config.modality(row) | spec)
    # ascontiguousarray alone would give a scalar an axis.
    tensors = {name: np.ascontiguousarray(x).reshape(x.shape) for name, x in tensors.items()}
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        try:
            safetensors.numpy.save_file(tensors, file.name, metadata={"config": json.dumps(config)})
        except safetensors.SafetensorError as error:
            raise OSError(f"{path} cannot be written: {error}") from error


def _model_tensors(network, params):
    if "channel_embedding" in params:
        table = np.asarray(params["channel_embedding"])
        end = hypnos_config.CHANNEL_ROWS - len(table)
        params = {**params, "channel_embedding": np.pad(table, ((0, end), (0, 0)))}
    leaders = {}
    for row in network.modalities:
        leaders.setdefault(row["group"], row["name"])
    tensors = _given(params, backbone_entries(_shapes_of(params), leaders))
    count, positions = len(network.modalities), hypnos_config.MODEL["max_seq_len"]
    prefix = "temporal_transformer"
    tensors[f"{prefix}.modality_attn_mask"] = np.ones((count, count), bool)
    for name, x in rotary_tables(network.dim // network.heads, positions).items():
        tensors[f"{prefix}.rope.{name}"] = x
    return {f"model/{name}": x for name, x in tensors.items()}


def _tokenizer_tensors(group, part):
    """What the config says of a tokenizer, and its tensors."""
    network = RvqTokenizer(**frozen(part.objective["model"]), parent=None)
    params = part.variables["params"]["tokenizer"]
    if network.strict_causal:
        logging.warning(
            "%s: trained with strict_causal=True; in the published form its codes are the same but"
            " within the first %s s of a recording",
            group,
            network.reach,
        )
        params = _delayed(params, network)
        network = network.clone(overlap=network.overlap + 1, strict_causal=False)
    rate_hz, weight = part.objective["rate_hz"], part.objective.get("commitment_weight", 0.25)
    spec = {
        "signal_type": group,
        "num_quantizers": network.levels,
        "codebook_size": network.codes,
        "token_duration_sec": 1.0,
        "sample_rate": rate_hz,
        "tokenizer_kwargs": hypnos_config.tokenizer_arguments(
            network, rate_hz=rate_hz, commitment=weight
        ),
    }
    tensors = _given(params, tokenizer_entries(_shapes_of(params)))
    for side in ("encoder", "decoder") if network.layers else ():
        for name, x in rotary_tables(network.dim // network.heads, TOKENIZER_POSITIONS).items():
            tensors[f"{side}_transformer.rope.{name}"] = x
    state = part.variables["vq"]["tokenizer"]["quantizer"]
    state = {name: np.asarray(x) for name, x in state.items()}
    # In NumPy, whose division is exact to the last bit: see ``_Tensors.codebook``.
    words = state["sums"] / np.maximum(state["counts"], np.float32(SMALLEST_COUNT))[..., None]
    words = words * state["initialised"][:, None, None]
    for k in range(network.levels):
        level = {
            "embedding.weight": words[k],
            "ema_cluster_size": state["counts"][k],
            "ema_embed_sum": state["sums"][k],
            "usage_count": state["usage"][k].astype(np.int64),
            "initialized": state["initialised"][k],
        }
        tensors |= {f"quantizer.quantizers.{k}.{name}": x for name, x in level.items()}
    return spec, tensors


def _delayed(params, network):
    """The parameters with kernels of one stride more, and one sample of delay in the first."""
    params = jax.tree.map(np.asarray, params)
    for i, ratio in enumerate(network.ratios):
        newest = 1 if i == 0 else 0
        for side, name, pad in (
            ("encoder", f"stage_{i}_down", (ratio - newest, newest)),  # oldest tap first
            ("decoder", f"stage_{i}_up", (0, ratio)),
        ):
            conv = params[side][name]
            kernel = np.pad(conv["kernel"], (pad, (0, 0), (0, 0)))
            params[side] = {**params[side], name: {**conv, "kernel": kernel}}
    return params


def _given(params, entries):
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    return {entry.theirs: entry.give(np.asarray(flat[entry.ours])) for entry in entries}


def _shapes_of(params):
    return jax.tree.map(np.shape, params)


def _config(path, metadata):
    try:
        config = json.loads(metadata["config"])
        missing = {"model_target", "model_kwargs", "modalities", "tokenizers"} - set(config)
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"its metadata have no readable config: {error!r}") from None
    if missing:
        raise BundleError(f"its config lacks {sorted(missing)}")
    if str(config["model_target"]).rpartition(".")[2] != "MultiModalRQTransformer":
        raise BundleError(
            f"model_target={config['model_target']!r}; supported: MultiModalRQTransformer"
        )
    if not isinstance(config["tokenizers"], dict):
        raise BundleError("its config's tokenizers are no object")
    return config


def _read(config, tensors):
    rows = hypnos_config.modality_rows(config["modalities"], config["tokenizers"])
    objective = hypnos_config.model_objective(config["model_kwargs"], rows)
    tokenizers, stems = {}, {}
    for row in rows:
        if row["group"] in tokenizers:
            continue
        stem = row["tokenizer"]
        where, spec = f"tokenizers.{stem}", config["tokenizers"][stem]
        if not isinstance(spec, dict) or "tokenizer_kwargs" not in spec:
            raise BundleError(f"{where} lacks tokenizer_kwargs")
        where += ".tokenizer_kwargs"
        own = hypnos_config.tokenizer_objective(where, spec["tokenizer_kwargs"], row["group"], row)
        if stem not in stems:
            stems[stem] = _read_tokenizer(own, tensors, f"tok/{stem}/", where)
        tokenizers[row["group"]] = Part(own, stems[stem])
    for stem in set(config["tokenizers"]) - set(stems):
        tensors.ignore(f"tok/{stem}/")
    return Part(objective, _read_model(objective, tensors, rows)), tokenizers


def _read_model(objective, tensors, rows):
    network = RqTransformer(**frozen(objective["model"]), parent=None)
    params = _shapes(RqTransformer, objective["model"], "model_kwargs")["params"]
    filled = tensors.fill(params, backbone_entries(params, _leaders(rows)), "model/")
    tensors.rotary("model/temporal_transformer.rope", network.dim // network.heads)
    tensors.ignore("model/temporal_transformer.modality_attn_mask")
    return {"params": {"network": filled}}


def _leaders(rows):
    """Group -> the first modality with its signal type, K and V, whose name the tables bear."""
    first, leaders = {}, {}
    for row in rows:
        key = (row["signal_type"], row["num_quantizers"], row["codebook_size"])
        leaders.setdefault(row["group"], first.setdefault(key, row["name"]))
    return leaders


def _read_tokenizer(objective, tensors, prefix, where):
    network = RvqTokenizer(**frozen(objective["model"]), parent=None)
    shapes = _shapes(RvqTokenizer, objective["model"], where)
    params = tensors.fill(shapes["params"], tokenizer_entries(shapes["params"]), prefix)
    for side in ("encoder", "decoder") if network.layers else ():
        tensors.rotary(f"{prefix}{side}_transformer.rope", network.dim // network.heads)
    levels = [
        tensors.codebook(f"{prefix}quantizer.quantizers.{k}.", network.codes, network.codebook_dim)
        for k in range(network.levels)
    ]
    state = {}
    for name, first in levels[0].items():
        state[name] = aligned_empty((len(levels), *first.shape), first.dtype)
        np.stack([level[name] for level in levels], out=state[name])
    state["step"] = np.zeros((), np.int32)
    return {"params": {"tokenizer": params}, "vq": {"tokenizer": {"quantizer": state}}}


def _shapes(network, arguments, where):
    """The shapes of a network's variables."""
    try:
        return _traced(network, json.dumps(arguments))
    except (TypeError, ValueError) as error:
        raise BundleError(f"{where} make no network: {error}") from error


@functools.lru_cache(maxsize=8)  # tokenizers of several signal types are often of one shape
def _traced(network, arguments):
    network = network(**frozen(json.loads(arguments)), parent=None)
    if isinstance(network, RvqTokenizer):
        example = jnp.zeros((1, network.hop))
    else:
        count, width = len(network.modalities), sum(m["levels"] for m in network.modalities)
        example = {
            "codes": jnp.zeros((1, 2, width), jnp.int32),
            "present": jnp.ones((1, count), bool),
            "channel_ids": jnp.zeros((1, count), jnp.int32),
        }
    made = jax.eval_shape(network.init, jax.random.key(0), example)
    return jax.tree.map(lambda x: x.shape, nn.unbox(made))


class _Tensors:
    """The tensors of an open bundle, each to be accounted for."""

    def __init__(self, path, file):
        self.path, self.file = path, file
        self.names = file.names
        self.left = set(self.names)

    def get(self, name, shape):
        """Return a tensor as float32.

        Raises:
            BundleError: it is missing, no floating-point numbers, or of another shape.
        """
        if name not in self.names:
            raise BundleError(f"it has no tensor {name!r}, which its config implies")
        x = self._read(name, shape)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise BundleError(f"tensor {name!r} is {x.dtype}; floating-point numbers are needed")
        return x.astype(np.float32, copy=False)

    def _read(self, name, shape):
        self.left.discard(name)
        try:
            x = self.file.get(name)
        except AttributeError as error:  # how safetensors says it of the types of 8 bits and fewer
            raise BundleError(
                f"tensor {name!r} is of a type that cannot be read: {error}"
            ) from None
        if x.shape != tuple(shape):
            raise BundleError(
                f"tensor {name!r} is {list(x.shape)}; its config implies {list(shape)}"
            )
        return x

    def fill(self, shapes, entries: Iterator[Entry], prefix):
        """Return the variables of these shapes, read from the tensors that the entries name."""
        flat = flax.traverse_util.flatten_dict(shapes, sep="/")
        out = {name: aligned_empty(shape) for name, shape in flat.items()}
        left = set(out)
        for entry in entries:
            left.discard(entry.ours)
            shape = entry.give(out[entry.ours]).shape
            names = [prefix + name for name in (entry.theirs, *entry.others)]
            there = [name for name in names if name in self.names] or names[:1]
            x = self.get(there[0], shape)
            for name in there[1:]:
                if not np.array_equal(self.get(name, shape), x, equal_nan=True):
                    raise BundleError(f"{there[0]!r} and {name!r} differ; its config ties them")
            entry.take(x, out[entry.ours])
        assert not left, left
        return flax.traverse_util.unflatten_dict(out, sep="/")

    def codebook(self, prefix, codes, width):
        """Return one level's part of the quantiser's state.

        Codewords are ``sums / max(counts, 1e-5)`` here; where the file's statistics do not give its
        own codewords exactly, counts of 1 do.
        """
        words = self.get(f"{prefix}embedding.weight", (codes, width))
        counts, sums = np.ones(codes, np.float32), words
        if {f"{prefix}ema_cluster_size", f"{prefix}ema_embed_sum"} <= self.names:
            own = self.get(f"{prefix}ema_cluster_size", (codes,))
            total = self.get(f"{prefix}ema_embed_sum", (codes, width))
            if np.array_equal(total / np.maximum(own, np.float32(SMALLEST_COUNT))[:, None], words):
                counts, sums = own, total
        usage, started = np.zeros(codes, np.float32), True
        if (name := f"{prefix}usage_count") in self.names:
            usage = self._read(name, (codes,)).astype(np.float32)
        if (name := f"{prefix}initialized") in self.names:
            started = bool(self._read(name, ()))
        for name in CODEBOOK:
            self.left.discard(prefix + name)
        # The package quantises by whatever is there, ours by what is initialised.
        started |= bool(words.any())
        return {"counts": counts, "sums": sums, "usage": usage, "initialised": np.bool_(started)}

    def rotary(self, prefix, width):
        """Check the tables of rotary positions, which are not read otherwise.

        Of a bundle saved whole in half precision they are rounded, and the package turns by the
        rounded ones; here they are exact.

        Raises:
            BundleError: they are others than those of theta 10000.
        """
        for name, expected in rotary_tables(width, 2).items():
            name = f"{prefix}.{name}"
            if name in self.names:
                self.left.discard(name)
                x = self.file.get(name).astype(np.float32)
                x = x if name.endswith("freqs") else x[:2]
                if x.shape != expected.shape or not np.allclose(x, expected, atol=1e-2):
                    raise BundleError(f"{name!r} are not rotary positions of theta 10000")

    def ignore(self, prefix):
        """Leave out tensors that nothing here reads."""
        self.left -= {name for name in self.left if name.startswith(prefix)}

    def finish(self):
        """Raise BundleError where a tensor is left over."""
        if self.left:
            raise BundleError(
                f"it has a tensor {min(self.left)!r} that its config does not imply"
                f" ({len(self.left)} of {len(self.names)} are left over)"
            )
        count = len(self.names)
        logging.info("%s: %d of %d tensors matched", self.path, count, count)


def rotary_tables(width: int, length: int) -> dict[str, np.ndarray]:
    """Return the package's buffers of rotary positions, by name."""
    rates = (10_000.0 ** (-np.arange(0, width, 2) / width)).astype(np.float32)
    angles = np.arange(length, dtype=np.float32)[:, None] * rates
    return {"freqs": rates, "cos_cached": np.cos(angles), "sin_cached": np.sin(angles)}
