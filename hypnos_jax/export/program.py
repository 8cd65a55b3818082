"""A function of a model's tensors and named arrays, which ``jax.export`` writes.

It is run without this package; see ``hypnos_jax.export.programs``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.traverse_util
import jax
from jax import export

PLATFORMS = ("cpu", "cuda", "tpu")

Tensors = dict[str, jax.Array]
Variables = dict[str, Any]


class NoProgramError(ValueError):
    """A model that cannot be exported with ``jax.export``."""


@dataclasses.dataclass(frozen=True)
class Array:
    """An input or output: its shape, a name standing for any size, its dtype, what it holds."""

    shape: tuple[int | str, ...]
    dtype: str
    what: str


@dataclasses.dataclass(frozen=True)
class Program:
    """A function of a model's variables and named arrays, to named arrays."""

    call: Callable[[Variables, Tensors], Tensors]
    inputs: dict[str, Array]
    outputs: dict[str, Array]

    def describe(self) -> dict[str, Any]:
        """Return ``inputs`` and ``outputs`` for JSON: name -> {shape, dtype, what}."""
        return {
            kind: {name: dataclasses.asdict(row) for name, row in arrays.items()}
            for kind, arrays in (("inputs", self.inputs), ("outputs", self.outputs))
        }

    def serialize(self, tensors: dict[str, Any]) -> bytes:
        """Return what ``jax.export.deserialize`` reads.

        Args:
            tensors: name -> array or shape, as ``model.safetensors`` has them.

        Raises:
            NoProgramError: JAX cannot express or write it.
        """
        scope = export.SymbolicScope()

        def spec(row):
            shape = ", ".join(map(str, row.shape))
            return jax.ShapeDtypeStruct(export.symbolic_shape(shape, scope=scope), row.dtype)

        def embed(tensors, inputs):
            return self.call(flax.traverse_util.unflatten_dict(tensors, sep="/"), inputs)

        given = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in tensors.items()}
        inputs = {name: spec(row) for name, row in self.inputs.items()}
        try:
            return bytes(
                export.export(jax.jit(embed), platforms=PLATFORMS)(given, inputs).serialize()
            )
        except (ValueError, TypeError, NotImplementedError, ImportError) as error:
            raise NoProgramError(f"{type(error).__name__}: {error}") from error
