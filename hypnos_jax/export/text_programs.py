"""Programs of models of texts: texts to embeddings, and captions word by word.

``caption_start`` takes an epoch's signals, what to speak of and the first word, and gives scores of
the second word and a cache; ``caption_step`` takes a further word and the cache, and gives scores
of the next word and the cache as it is then.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp

from data_pipelines import pipeline
from hypnos_jax.export.program import Array, Program

CACHE = "cache/"  # with what names of arrays of the cache begin


def embed_text(objective: nn.Module, variables: dict[str, Any], context: int) -> Program:
    """Return the program of an objective that ``EmbedsText``.

    Args:
        objective: the module.
        variables: shapes of its variables.
        context: token ids of a text.
    """

    def call(variables, inputs):
        return {"rows": objective.apply(variables, inputs["ids"], method="embed_text")}

    one = {"ids": jax.ShapeDtypeStruct((1, context), jnp.int32)}
    width = jax.eval_shape(call, variables, one)["rows"].shape[1]
    what = "token ids of texts: start, words, end, and 0 behind them"
    return Program(
        call,
        {"ids": Array(("B", context), "int32", what)},
        {"rows": Array(("B", width), "float32", "of length 1, to compare with rows of embed")},
    )


def captions(
    objective: nn.Module, variables: dict[str, Any], modalities: list[dict]
) -> dict[str, Program]:
    """Return ``caption_start`` and ``caption_step`` of an objective that ``WritesCaptions``.

    Args:
        objective: the module.
        variables: shapes of its variables.
        modalities: rows {name, rate_hz, frames} of what it reads.
    """
    shapes = pipeline.find_source(objective.embed_data).embed_shapes(modalities)

    def start(variables, inputs):
        # A batch of windows of one token.
        rows = inputs["ids"].shape[0]
        batch = {
            name: inputs[name][:, None] if "T" in shape else jnp.ones((rows, *shape), dtype)
            for name, (dtype, *shape) in shapes.items()
        }
        memory = objective.apply(variables, batch, method="remember")
        return write(variables, inputs["ids"], memory, inputs["condition"], jnp.int32(0))

    def step(variables, inputs):
        kept = {name: x for name, x in inputs.items() if name.startswith(CACHE)}
        cache = flax.traverse_util.unflatten_dict(kept, sep="/")
        # The cache has what is looked at of the memory, so that the memory itself is not.
        ids = inputs["ids"]
        memory = jnp.zeros((ids.shape[0], *remembered[1:]), jnp.float32)
        return write({**variables, **cache}, ids, memory, None, inputs["place"])

    def write(variables, *words):
        scores, cache = objective.apply(
            variables, *words, method="continue_caption", mutable=["cache"]
        )
        return {"scores": scores, **flax.traverse_util.flatten_dict(dict(cache), sep="/")}

    word = Array(("B",), "int32", "a word; the first is the tokenizer's start")
    begin = {
        **{
            name: Array(("B", *shape[1:]), dtype, "an epoch, prepared")
            for name, (dtype, *shape) in shapes.items()
            if "T" in shape
        },
        "condition": Array(
            ("B",), "int32", "what to speak of: the place of a modality of captions"
        ),
        "ids": word,
    }
    one = {
        name: jax.ShapeDtypeStruct((1, *row.shape[1:]), row.dtype) for name, row in begin.items()
    }
    windows = {
        name: jax.ShapeDtypeStruct((1, *(1 if n == "T" else n for n in shape)), dtype)
        for name, (dtype, *shape) in shapes.items()
    }
    remembered = jax.eval_shape(
        lambda own, batch: objective.apply(own, batch, method="remember"), variables, windows
    ).shape
    made = jax.eval_shape(start, variables, one)
    scores = Array(("B", made.pop("scores").shape[1]), "float32", "of the next word")
    cache = {
        name: Array(("B", *x.shape[1:]), str(x.dtype), "of the epoch and the words so far")
        for name, x in made.items()
    }
    place = Array((), "int32", "how many words came before")
    return {
        "caption_start": Program(start, begin, {"scores": scores, **cache}),
        "caption_step": Program(
            step, {"ids": word, "place": place, **cache}, {"scores": scores, **cache}
        ),
    }
