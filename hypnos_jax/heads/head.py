"""Heads: answers to one question from frozen embeddings, kept within an export.

``<export>/heads/<task>/`` has ``head.json``, what the head is, on whom it was fitted and how good
it was there, and ``head.safetensors``, its numbers. A head belongs to one model: it has the model's
checksum, and another model refuses it. The model's own checksum does not depend on heads.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from data_pipelines.files import atomic_write
from hypnos_jax.export.model import CONFIG, ModelError
from hypnos_jax.heads.cells import around

FORMAT, HEADS = "hypnos_jax.head/1", "heads"
KINDS = ("classes", "binary")


@dataclasses.dataclass(frozen=True)
class Head:
    """A small network from cells of embeddings to probabilities.

    Attributes:
        task: its name, such as ``stage5``.
        kind: ``"classes"``, one of several, or ``"binary"``, whether there is an event.
        classes: names of the outputs; of a binary head that of the event.
        names: M modalities in the order of the features.
        cell_s: seconds of a cell.
        spans: odd numbers of cells around each that are read too; none of a linear head.
        mean, scale: float32 [F], which standardise the features; what is missing is the mean.
        layers: (weights [in, out], biases [out]) in order, with a ReLU between them.
        temperature: the logits are divided by it.
        threshold: of a binary head, the probability from which on a cell is in an event.
        confidence: the largest probability below which a cell is uncertain.
        model: checksum of the model whose embeddings it reads.
        facts: how it was fitted and judged; JSON, without names of people or recordings.
    """

    task: str
    kind: str
    classes: tuple[str, ...]
    names: tuple[str, ...]
    cell_s: float
    spans: tuple[int, ...]
    mean: np.ndarray
    scale: np.ndarray
    layers: tuple[tuple[np.ndarray, np.ndarray], ...]
    model: str
    temperature: float = 1.0
    threshold: float = 0.5
    confidence: float = 0.0
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    def digest(self) -> str:
        """Return SHA-256 over all that its answers depend on."""
        arrays = [self.mean, self.scale, *(x for layer in self.layers for x in layer)]
        rest = (self.names, self.cell_s, self.spans, self.temperature, self.threshold)
        found = hashlib.sha256(json.dumps([*rest, self.confidence]).encode())
        for x in arrays:
            found.update(np.ascontiguousarray(x, np.float32).tobytes())
        return found.hexdigest()

    def features(self, cells: np.ndarray) -> np.ndarray:
        """Return the standardised features float32 [N, F] of a night's cells [N, M D], in order."""
        cells = around(cells, self.spans)
        return np.nan_to_num((cells - self.mean) / self.scale).astype(np.float32)

    def logits(self, cells: np.ndarray) -> np.ndarray:
        """Return float32 [N, C] before the temperature; of a binary head [N, 1]."""
        x = self.features(cells)
        for number, (weights, biases) in enumerate(self.layers):
            x = x @ weights + biases
            x = np.maximum(x, 0) if number + 1 < len(self.layers) else x
        return x

    def __call__(self, cells: np.ndarray) -> np.ndarray:
        """Return probabilities float32 [N, C] of a night's cells [N, M D].

        Cells without any signal are NaN. A binary head has one column.
        """
        found = probabilities(self.logits(cells), self.temperature)
        return np.where(np.isfinite(cells).any(1)[:, None], found, np.float32(np.nan))


def probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return softmax of logits [N, C] / temperature, or of one column the logistic function."""
    logits = logits.astype(np.float64) / temperature
    if logits.shape[1] == 1:
        return (1 / (1 + np.exp(-np.clip(logits, -60, 60)))).astype(np.float32)
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return (shares / shares.sum(1, keepdims=True)).astype(np.float32)


def write_head(export: str | os.PathLike, head: Head) -> None:
    """Write a head into an export; one of the same task is replaced.

    Raises:
        ModelError: the export is of another model.
    """
    folder = pathlib.Path(export) / HEADS / head.task
    _check_model(export, head.model, folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"mean": head.mean, "scale": head.scale}
    for number, (weights, biases) in enumerate(head.layers):
        tensors |= {f"layers/{number}/weights": weights, f"layers/{number}/biases": biases}
    tensors = {name: np.ascontiguousarray(x, np.float32) for name, x in tensors.items()}
    content = safetensors.numpy.save(tensors)
    rest = {
        field.name: getattr(head, field.name)
        for field in dataclasses.fields(head)
        if field.name not in ("mean", "scale", "layers")
    }
    told = {"format": FORMAT, **rest, "sha256": hashlib.sha256(content).hexdigest()}
    with atomic_write(folder / "head.safetensors", "wb") as file:
        file.write(content)
    with atomic_write(folder / "head.json", "w") as file:
        file.write(json.dumps(told, indent=1) + "\n")


def load_heads(export: str | os.PathLike) -> dict[str, Head]:
    """Return task -> head of all heads of an export, by name.

    Raises:
        ModelError: a head is damaged, or of another model; the message names the file.
    """
    folders = sorted((pathlib.Path(export) / HEADS).glob("*/head.json"))
    return {head.task: head for head in (_load(export, path.parent) for path in folders)}


def _load(export, folder: pathlib.Path) -> Head:
    try:
        told = json.loads((folder / "head.json").read_text())
        content = (folder / "head.safetensors").read_bytes()
        if told.pop("format") != FORMAT:
            raise ValueError(f"format is not {FORMAT}")
        if hashlib.sha256(content).hexdigest() != told.pop("sha256"):
            raise ValueError("its head.safetensors was changed")
        tensors = safetensors.numpy.load(content)
        count = sum(name.endswith("/weights") for name in tensors)
        layers = tuple(
            (tensors[f"layers/{k}/weights"], tensors[f"layers/{k}/biases"]) for k in range(count)
        )
        lists = {name: tuple(told.pop(name)) for name in ("classes", "names", "spans")}
        head = Head(**told, **lists, mean=tensors["mean"], scale=tensors["scale"], layers=layers)
    except (OSError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise ModelError(f"{folder} holds no head that can be read: {error}") from error
    _check_model(export, head.model, folder)
    return head


def _check_model(export, checksum: str, folder) -> None:
    path = pathlib.Path(export) / CONFIG
    own = json.loads(path.read_text())["checksum"] if path.is_file() else ""
    if own != checksum:
        raise ModelError(
            f"{folder} is a head of the model {checksum[:12]}..., and {export} is"
            f" {f'the model {own[:12]}...' if own else 'no export'}: fit a head of its own"
            " (launch.fit_head)"
        )
