"""A trained model written as an export, or as one file in a published format."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import os
import pathlib
import shutil
import zipfile
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from absl import logging

from data_pipelines.signals.timing import tokenizer_levels
from hypnos_jax.export import card
from hypnos_jax.export.model import (
    CONFIG,
    FORMAT,
    TOKENIZERS,
    WEIGHTS,
    LoadedModel,
    ModelError,
    flat_tensors,
    is_export,
    load_model,
    signal_types,
    with_tokenizers,
)
from hypnos_jax.export.programs import SUFFIX, NoProgramError, programs_of, versions
from hypnos_jax.interop import formats

READER = "flatbuffers.zip"


def export(
    workdir: str | os.PathLike,
    output: str | os.PathLike,
    *,
    tokenizers: str | os.PathLike | None = None,
    step: int | str | None = None,
    programs: bool = True,
    licence: str | None = None,
) -> LoadedModel:
    """Write a model as safetensors and JSON; an earlier export at ``output`` is replaced whole.

    Args:
        workdir: folder of a run, or another export.
        output: folder to write.
        tokenizers: folder with a run or an export per signal type, for a model of tokens; by
            default those beside the tokens that it was trained on.
        step: which checkpoint of a run; see ``checkpoint_choice.choose``: the best by default.
        programs: also write what runs without this package; takes seconds.
        licence: of the weights, for the card; by default that of the export given, else none.

    Raises:
        ModelError: no model there; ``output`` holds something that is no export; or a tokenizer
            that the model needs is missing.
    """
    output = pathlib.Path(output)
    if output.exists() and not is_export(output) and any(output.iterdir()):
        raise ModelError(f"{output} exists and is no export; give a new folder")
    model, missing = _whole(workdir, tokenizers, step)
    licence = licence or model.config.get("licence")
    model = dataclasses.replace(model, config={**model.config, "licence": licence})
    if missing and (model.tokenizers or tokenizers is not None):
        raise ModelError(
            f"no tokenizer for {missing} among {sorted(model.tokenizers)} in"
            f" {tokenizers or 'the folder of the tokens'}"
        )
    if missing:
        logging.warning("%s: its tokens carry no tokenizers; the export embeds tokens only", output)
    needed = signal_types(model)
    partial = output.with_name(f".{output.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        missing = {}
        for name in needed if model.tokenizers else ():
            own = _write(load_model(model.tokenizers[name]), partial / TOKENIZERS / name, programs)
            reasons = own.get("programs_missing", {})
            missing |= {f"{TOKENIZERS}/{name}: {key}": why for key, why in reasons.items()}
        config = _write(model, partial, programs, missing)
        if any(partial.rglob(f"*{SUFFIX}")):
            _write_reader(partial / READER)
        run = None
        if not isinstance(workdir, LoadedModel):
            run = card.read_run(workdir, model.step)
        card.write(partial, config, run, name=output.name)
        _replace(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return dataclasses.replace(load_model(output), taken=model.taken)


def export_published(
    workdir: str | os.PathLike,
    output: str | os.PathLike,
    name: str,
    *,
    tokenizers: str | os.PathLike | None = None,
    step: int | str | None = None,
) -> LoadedModel:
    """Write a model, with its tokenizers if any, as one file in a published format.

    Args:
        workdir: folder of a run or of an export, or another such file.
        output: file to write; one of the same format is replaced.
        name: the format, one of ``formats.NAMES``.
        tokenizers, step: as for ``export``.

    Returns:
        The model as it is read back.

    Raises:
        ModelError: no model there, or one that the format cannot represent; a tokenizer is missing;
            ``output`` is something else.
    """
    output, form = pathlib.Path(output), formats.find(name)
    if output.exists() and not form.recognises(output):
        raise ModelError(f"{output} exists and is no file of {name}; give a new file")
    model, missing = _whole(workdir, tokenizers, step)
    needed, objective = signal_types(model), model.config["objective"]["name"]
    if objective not in form.OBJECTIVES:
        raise ModelError(
            f"the model is of {objective}; a file of {name} is of a model of"
            f" {' or '.join(form.OBJECTIVES)}"
        )
    if missing:
        raise ModelError(f"the model has no tokenizer of {missing}; give their folder (tokenizers)")

    def part(model):
        recipe = (model.config.get("recipe") or {}).get("name")
        return formats.Part(model.config["objective"], model.variables, recipe)

    parts = {group: part(load_model(model.tokenizers[group])) for group in needed}
    try:
        form.write(output, part(model), parts)
    except formats.FormatError as error:
        raise ModelError(f"{output} cannot be written: {error}") from error
    return dataclasses.replace(load_model(output), taken=model.taken)


def _whole(workdir, tokenizers, step) -> tuple[LoadedModel, list[str]]:
    """Load a model with the tokenizers given, and tell which it lacks.

    Raises:
        ModelError: a tokenizer makes other codes than the model reads.
    """
    model = load_model(workdir, step=step)
    if tokenizers is not None:
        whole = with_tokenizers(model, pathlib.Path(tokenizers))
        model = dataclasses.replace(whole, taken=model.taken)
    for row in model.config["modalities"]:
        if row.get("group") in model.tokenizers:
            own = load_model(model.tokenizers[row["group"]]).config["objective"]["model"]
            levels = tokenizer_levels(row)
            read = {"levels": levels, "codes": row["codes"]}
            made = {key: own.get(key, size) for key, size in read.items()}
            if levels and made != read:
                raise ModelError(
                    f"the {row['group']} tokenizer makes {made}; the model takes {levels} x"
                    f" {row['codes']} levels x codes of {row['name']}"
                )
    return model, [name for name in signal_types(model) if name not in model.tokenizers]


def _write(
    model: LoadedModel, folder: pathlib.Path, programs: bool, missing: dict | None = None
) -> dict[str, Any]:
    """Write tensors, programs and config, and return the config.

    ``missing`` are programs that are already known not to be there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {key: value for key, value in model.config.items() if not key.startswith("programs")}
    if programs:
        config |= _write_programs(model, folder, missing or {})
    # ascontiguousarray alone would give a scalar an axis.
    tensors = {
        name: np.ascontiguousarray(x).reshape(x.shape)
        for name, x in flat_tensors(model.variables).items()
    }
    try:
        safetensors.numpy.save_file(tensors, folder / WEIGHTS, metadata={"format": FORMAT})
    except safetensors.SafetensorError as error:
        raise OSError(f"{folder / WEIGHTS} cannot be written: {error}") from error
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n")
    for path in filter(pathlib.Path.is_file, folder.iterdir()):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    return config


def _write_programs(model: LoadedModel, folder: pathlib.Path, missing: dict) -> dict[str, Any]:
    """Write the model's programs, and return what the config says of them.

    A model without is an export all the same: why it has none stands in ``programs_missing``.
    """
    tensors, rows, missing = flat_tensors(model.variables), {}, dict(missing)
    try:
        found = programs_of(model.objective, model.config)
    except NoProgramError as error:
        found, missing = {}, {**missing, "all": str(error)}
    for name, program in found.items():
        try:
            data = program.serialize(tensors)
        except NoProgramError as error:
            missing[name] = str(error)
            continue
        file = f"{name}{SUFFIX}"
        (folder / file).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        rows[name] = {"file": file, "sha256": digest, **program.describe()}
    for name, why in missing.items():
        logging.warning("no program %r for use without hypnos_jax: %s", name, why)
    return {"programs": rows, "programs_missing": missing, "programs_by": versions()}


def _write_reader(path: pathlib.Path) -> None:
    """Write the package flatbuffers (pure Python, Apache-2.0) but for a format of its own.

    ``jax.export`` reads programs with it, and JAX does not install it.
    """
    found = importlib.util.find_spec("flatbuffers")  # there, or no program could be written
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(pathlib.Path(found.origin).parent.glob("*.py")):
            if file.name != "flexbuffers.py":
                archive.write(file, f"flatbuffers/{file.name}")


def _replace(partial: pathlib.Path, output: pathlib.Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    if not output.exists():
        partial.rename(output)
        return
    old = output.with_name(f".{output.name}.old-{os.getpid()}")
    output.rename(old)
    try:
        partial.rename(output)
    except OSError:
        old.rename(output)
        raise
    shutil.rmtree(old)
