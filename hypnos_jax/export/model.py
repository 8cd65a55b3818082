"""A trained model as plain files, and loading it back: from an export, a run's folder, a bundle.

An export is a folder::

    model.safetensors           every variable under its path: ``params/...``, ``vq/...``
    config.json                 the objective's name and keyword arguments, the table of channels,
                                step, checksum, where it was trained; see ``describe``
    tokenizers/<signal type>/   for models of tokens: an export of each tokenizer they came from
    *.jaxexport                 what it computes, as programs that JAX alone runs: ``programs`` of
                                the config says their inputs; see ``hypnos_jax.export.programs``
    flatbuffers.zip             the package that ``jax.export`` reads them with
    README.md, run.json         its card, and the run that it is of; see ``hypnos_jax.export.card``

The first two are readable anywhere: ``plugins.load("objectives", name)(**arguments)`` rebuilds the
module and the tensors are its variables. The checksum is over the objective, every tensor's name,
type, shape and bytes, and the checksums of the tokenizers; a run's folder and its export share it.

A model may also be one file in the format of a published implementation; see
``hypnos_jax.interop.formats``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any

import flax.linen as nn
import flax.traverse_util
import numpy as np
import safetensors
import safetensors.numpy

import hypnos_jax
from data_pipelines.captions import tokenizers as text_tokenizers
from data_pipelines.recipes import find_recipe, recipe_of_model
from data_pipelines.recipes.hypnos import ROWS
from data_pipelines.signals.timing import tokenizer_levels
from hypnos_jax import checkpoint, checkpoint_choice, plugins
from hypnos_jax.config import frozen
from hypnos_jax.interop import formats, hypnos
from hypnos_jax.objectives import EmbedsText
from hypnos_jax.runtime import seals
from hypnos_jax.runtime.tensor_files import TensorFile

FORMAT = "hypnos_jax.model/1"
WEIGHTS, CONFIG, TOKENIZERS = "model.safetensors", "config.json", "tokenizers"
KEYS = {"objective", "modalities", "channels", "step", "tensors", "tokenizers", "checksum"}


class ModelError(ValueError):
    """A folder that holds no model, or one that is not what its config says."""


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model ready to apply: ``objective.apply(variables, batch, method="embed")``.

    Attributes:
        objective: the Linen module.
        variables: collection -> nested dict of numpy arrays.
        config: what ``config.json`` of an export holds.
        checksum: SHA-256 over objective, variables and tokenizers, as hexadecimal digits.
        step: updates it was trained for.
        tokenizers: signal type -> the tokenizer that a model of tokens needs: its folder, or, from
            a bundle, itself; ``load_model`` takes either.
        taken: which checkpoint of a run it is, and why; "" for what is no run.
    """

    objective: nn.Module
    variables: dict[str, Any]
    config: dict[str, Any]
    checksum: str
    step: int
    tokenizers: dict[str, pathlib.Path | LoadedModel]
    taken: str = ""


def load_model(
    path: str | os.PathLike | LoadedModel, *, step: int | str | None = None
) -> LoadedModel:
    """Load a model from the folder of a training run (its best checkpoint), or an export.

    Args:
        path: ``workdir`` of ``launch.train`` or ``output`` of ``launch.export``; or a published
            model: the file, a folder with ``hypnos.safetensors``, or ``owner/name``, a repository
            of the Hugging Face hub that holds it. A loaded model is returned as it is.
        step: which checkpoint of a run; see ``checkpoint_choice.choose``: the best by default.

    Raises:
        ModelError: none of these; a step that is not there, or of what is no run; a tensor that is
            missing, of another shape than its config says, or changed; or a published model that
            cannot be represented here.
    """
    if isinstance(path, LoadedModel):
        return path
    name, path = str(path), pathlib.Path(path)
    if step is not None and not (path / "checkpoints").is_dir():
        raise ModelError(f"{path} is no run's workdir, so it has no step {step} to choose")
    if path.is_file():
        return _from_published(path)
    # A path with a folder that exists is a mistyped one, not a repository.
    if not path.exists() and not path.parent.exists() and hypnos.HUB_ID.fullmatch(name):
        return _from_published(name)
    if not path.is_dir():
        raise ModelError(f"{path} is not a folder; give a run's workdir or an export's folder")
    if (path / "checkpoints").is_dir():
        return _from_run(path, step)
    if (path / WEIGHTS).exists() or is_export(path):
        return _from_export(path)
    if (path / hypnos.FILE).is_file():
        return _from_published(path / hypnos.FILE)
    raise ModelError(
        f"{path} holds no model: neither checkpoints/ (a run's workdir) nor {WEIGHTS} (an export)"
        f" nor {hypnos.FILE} (a bundle)"
    )


def signal_types(model: LoadedModel) -> list[str]:
    """Return the signal types whose tokens the model reads; none for a model of signals.

    Timing levels need no tokenizer: a modality that has these alone does not count.
    """
    return _groups(model.config["modalities"])


def _groups(modalities: list[dict]) -> list[str]:
    """Signal types of modalities that are read as tokens; those read as signals have none."""
    return sorted({row["group"] for row in modalities if "group" in row and tokenizer_levels(row)})


def describe(
    config: dict,
    objective: nn.Module,
    step: int,
    store: pathlib.Path,
    recipe: dict | None = None,
    vocabulary: str | None = None,
) -> dict[str, Any]:
    """Return what an export says of a run's model, but for its tensors.

    Args:
        config: the run's resolved config.
        objective: the module that it names.
        step: updates made.
        store: folder of the data.
        recipe: {name, version} of the data's; by default that of ``config.data.recipe``, or else of
            models that read such rows.
        vocabulary: identity of the tokenizer of the data's texts; by default of the one that is
            here.

    Returns:
        ``objective`` {name, ...keyword arguments}; ``modalities`` {name, levels, codes, channel_id,
        group} in the order of the code axis (and what ``signals.timing.describe`` says of timing
        levels), or {name, rate_hz, frames} for towers, or none for a model of one signal;
        ``channels`` {name, channel_id, signal_type, unit, rate_hz, preprocess} of all that it may
        read, none for towers, whose modalities are made of several; ``recipe``
        {name, version} of what prepares recordings for it (``data_pipelines.recipes``); ``title``
        and ``embedding`` {token_s, causal, fused, seen}, of the objective; ``text`` {tokenizer,
        context, identity} of a model that embeds texts (``captions.tokenizers``); ``data`` {name,
        manifest_sha256, ...}; ``seed``, ``step``, ``hypnos_jax``; and of ``make_model`` ``tensors``
        {name: [type, shape]}, ``tokenizers`` {signal type: checksum}, ``checksum``.
    """
    data = {k: v for k, v in config["data"].items() if k not in ("path", "fill")}
    if recipe is None and data.get("recipe"):
        recipe = find_recipe(data["recipe"]).identity
    # As JSON has them: what is read back is equal.
    modalities = json.loads(json.dumps([dict(row) for row in objective.modalities]))
    names = [row["name"] for row in modalities if "group" in row] or [
        channel.name for channel in ROWS.values() if channel.signal_type == data.get("signal_type")
    ]
    return {
        "format": FORMAT,
        "objective": config["objective"],
        "modalities": modalities,
        "channels": [_channel_row(ROWS[name]) for name in names if name in ROWS],
        "recipe": recipe or recipe_of_model({"modalities": modalities}).identity,
        "title": objective.title,
        "embedding": {
            "token_s": objective.token_s,
            "causal": objective.causal,
            "fused": getattr(objective, "fused", False),
            "seen": getattr(objective, "seen", ""),
        },
        **_text(objective, data, vocabulary),
        "data": {**data, "manifest_sha256": _manifest_digest(store)},
        "seed": config.get("seed", 0),
        "step": step,
        "hypnos_jax": hypnos_jax.__version__,
    }


def _text(objective, data, vocabulary) -> dict[str, Any]:
    """What turns texts into what the model reads, where it reads texts."""
    if not isinstance(objective, EmbedsText) or "tokenizer" not in data:
        return {}
    return {
        "text": text_tokenizers.describe(data["tokenizer"], data["context"], vocabulary),
    }


def checksum(objective: dict, tensors: dict[str, np.ndarray], tokenizers: dict[str, str]) -> str:
    """Return SHA-256 over the objective, the tokenizers' checksums and every tensor by name."""
    digest = hashlib.sha256(json.dumps([objective, tokenizers], sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = np.ascontiguousarray(tensors[name])
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(tensor.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _channel_row(channel) -> dict:
    return {
        "name": channel.name,
        "channel_id": channel.id,
        "signal_type": channel.signal_type,
        "unit": channel.unit,
        "rate_hz": channel.rate_hz,
        "preprocess": channel.preprocess,
    }


def _manifest_digest(store: pathlib.Path) -> str | None:
    """The data's manifest as it is now, or None where the run's data are no longer there."""
    path = store / "manifest.json"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def make_model(
    config: dict,
    variables: dict,
    step: int,
    store: str | os.PathLike | None = None,
    tokenizers: dict[str, LoadedModel] | None = None,
    recipe: dict | None = None,
    vocabulary: str | None = None,
) -> LoadedModel:
    """Return the model that a run's config and variables are.

    Args:
        config: the run's resolved config.
        variables: collection -> nested dict of arrays.
        step: updates made.
        store: folder of the data it was trained on; ``config.data.path`` by default.
        tokenizers: signal type -> tokenizer; by default those in the store.
        recipe, vocabulary: as for ``describe``.

    Raises:
        ModelError: the config's objective cannot be built, or the tokenizer of its texts is another
            one here.
    """
    store = pathlib.Path(store or config["data"].get("path") or "/no/store")
    objective = _objective(config["objective"], "the config")
    description = describe(config, objective, step, store, recipe, vocabulary)
    tensors = flat_tensors(variables)
    description["tensors"] = _table(tensors)
    if tokenizers is None:
        tokenizers = _find_tokenizers(store / TOKENIZERS)
    return _seal(description, tensors, tokenizers, "the config")


def _from_published(path: str | pathlib.Path) -> LoadedModel:
    try:
        path = hypnos.fetch(path) if isinstance(path, str) else path
        part, parts = formats.recognise(path).read(path)
    except formats.FormatError as error:
        raise ModelError(str(error)) from error
    tokenizers = {}
    for name, own in parts.items():
        config = {"objective": own.objective, "data": {"name": "published", "signal_type": name}}
        tokenizers[name] = make_model(config, own.variables, 0, tokenizers={})
    data = {"name": "published"} | ({"recipe": part.recipe} if part.recipe else {}) | part.text
    config = {"objective": part.objective, "data": data}
    return make_model(config, part.variables, 0, tokenizers=tokenizers)


def _from_run(workdir: pathlib.Path, asked: int | str | None) -> LoadedModel:
    try:
        config, step, variables = checkpoint.restore_variables(workdir, asked)
    except seals.CheckpointError as error:
        raise ModelError(str(error)) from error
    # A run that was given no data wrote its own into its folder.
    store = config["data"].get("path") or workdir / "synthetic"
    told = workdir / "data.json"
    told = json.loads(told.read_text()) if told.is_file() else {}
    own = {key: told.get(key) for key in ("recipe", "vocabulary")}
    model = make_model(config, variables, step, store, **own)
    return dataclasses.replace(model, taken=checkpoint_choice.reason(workdir, step, asked))


def _from_export(folder: pathlib.Path) -> LoadedModel:
    config = _read_config(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise ModelError(f"{path} is missing")
    tensors = {}
    try:
        file = TensorFile(path)
        for name, (dtype, shape) in config["tensors"].items():
            if name not in file.names:
                raise ModelError(f"{path} has no tensor {name!r}")
            tensor = file.get(name)
            if [str(tensor.dtype), list(tensor.shape)] != [dtype, shape]:
                raise ModelError(
                    f"{path}: tensor {name!r} is {tensor.dtype} {list(tensor.shape)};"
                    f" {CONFIG} says {dtype} {shape}"
                )
            tensors[name] = tensor
    except safetensors.SafetensorError as error:
        raise ModelError(f"{path} is damaged: {error}") from error
    unknown = sorted(file.names - set(tensors))
    if unknown:
        raise ModelError(f"{path} has a tensor {unknown[0]!r} that {CONFIG} does not name")
    found = checksum(config["objective"], tensors, config["tokenizers"])
    if found != config["checksum"]:
        raise ModelError(
            f"{path} or its {CONFIG} was changed: checksum {found[:12]}...,"
            f" {CONFIG} says {str(config['checksum'])[:12]}..."
        )
    folders = {}
    for name, digest in config["tokenizers"].items():
        folders[name] = folder / TOKENIZERS / name
        if _checksum_of(folders[name]) != digest:
            raise ModelError(f"{folders[name]} is not the tokenizer that the model was trained on")
    return _assemble(config, tensors, folders, folder)


def _seal(description: dict, tensors: dict, tokenizers: dict, source) -> LoadedModel:
    """Add those of the tokenizers that it needs and the checksum, and make the model."""
    wanted = _groups(description["modalities"])
    own = {name: tokenizers[name] for name in wanted if name in tokenizers}
    digests = {name: _checksum_of(tokenizer) for name, tokenizer in own.items()}
    digest = checksum(description["objective"], tensors, digests)
    description = {**description, "tokenizers": digests, "checksum": digest}
    return _assemble(description, tensors, own, source)


def _find_tokenizers(beside: pathlib.Path) -> dict[str, pathlib.Path]:
    """Return signal type -> the run or export of its tokenizer, whatever the folder's name.

    Raises:
        ModelError: two of one signal type.
    """
    found = {}
    for folder in sorted(beside.iterdir()) if beside.is_dir() else ():
        try:
            objective = json.loads((folder / CONFIG).read_text())["objective"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if "signal_type" not in objective or folder.name.startswith("."):
            continue
        other = found.setdefault(objective["signal_type"], folder)
        if other != folder:
            raise ModelError(
                f"{other} and {folder} are both tokenizers of {objective['signal_type']}; leave one"
            )
    return found


def with_tokenizers(model: LoadedModel, folder: pathlib.Path) -> LoadedModel:
    if not folder.is_dir():
        raise ModelError(f"{folder} is not a folder of tokenizers")
    return _seal(model.config, flat_tensors(model.variables), _find_tokenizers(folder), folder)


def _checksum_of(folder: pathlib.Path | LoadedModel) -> str:
    if isinstance(folder, pathlib.Path) and is_export(folder):
        return _read_config(folder)["checksum"]  # its tensors are checked when it is loaded
    return load_model(folder).checksum


def _read_config(folder: pathlib.Path) -> dict:
    path = folder / CONFIG
    if not path.is_file():
        raise ModelError(f"{path} is missing")
    try:
        config = json.loads(path.read_text())
        form = config["format"]
        missing = KEYS - set(config)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is not the config of an export: {error!r}") from None
    if form != FORMAT:
        raise ModelError(f"{path} has format {form!r}; this version reads {FORMAT!r}")
    if missing:
        raise ModelError(f"{path} lacks {sorted(missing)}")
    return config


def _assemble(config: dict, tensors: dict, tokenizers: dict, source) -> LoadedModel:
    if "text" in config:
        try:
            text_tokenizers.check(config["text"])
        except (text_tokenizers.TokenizerError, KeyError, TypeError) as error:
            raise ModelError(f"{source}: {error}") from error
    return LoadedModel(
        objective=_objective(config["objective"], source),
        variables=flax.traverse_util.unflatten_dict(tensors, sep="/"),
        config=config,
        checksum=config["checksum"],
        step=config["step"],
        tokenizers=dict(sorted(tokenizers.items())),
    )


def _objective(section: dict, source) -> nn.Module:
    """The module that ``config.objective`` names.

    Raises:
        ModelError: it cannot be built.
    """
    arguments = dict(plugins.current(section))
    try:
        return plugins.load("objectives", arguments.pop("name"))(**frozen(arguments))
    except (TypeError, KeyError, ValueError) as error:
        raise ModelError(f"{source}: its objective cannot be built: {error}") from error


def flat_tensors(variables: dict) -> dict[str, np.ndarray]:
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    return {name: np.asarray(tensor) for name, tensor in flat.items()}


def _table(tensors: dict) -> dict[str, list]:
    return {name: [str(x.dtype), list(x.shape)] for name, x in sorted(tensors.items())}


def is_export(folder: pathlib.Path) -> bool:
    try:
        return json.loads((folder / CONFIG).read_text())["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        return False
