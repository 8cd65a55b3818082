"""What a model of signals and words computes of texts and captions, as programs of named arrays.

A caption is written word by word: ``caption_start`` takes an epoch's signals, what to speak of and
the first word, and returns scores of the second word and a cache; ``caption_step`` takes a further
word and the cache, and returns scores of the next word and the cache as it is then.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp

from hypnos_jax.program import Array, Program

CACHE = "cache/"  # with what names of arrays of the cache begin


def text_program(module: nn.Module, context: int, width: int) -> Program:
    """Return the program of a module's ``embed_text``: token ids to embeddings.

    Args:
        module: with the method ``embed_text``.
        context: token ids of a text.
        width: of an embedding.
    """

    def call(variables, inputs):
        return {"rows": module.apply(variables, inputs["ids"], method="embed_text")}

    what = "token ids of texts: start, words, end, and 0 behind them"
    return Program(
        call,
        {"ids": Array(("B", context), "int32", what)},
        {"rows": Array(("B", width), "float32", "of length 1, to compare with rows of embed")},
    )


def caption_programs(module: nn.Module, variables: dict[str, Any]) -> dict[str, Program]:
    """Return ``caption_start`` and ``caption_step``.

    Args:
        module: with a ``SleepLanguageModel`` as ``network``, whose arguments are ``model``.
        variables: shapes of its variables.
    """
    options = module.model
    modalities, prefix = options["modalities"], options.get("prefix", 2)
    vocab = variables["params"]["network"]["decoder"]["head_kernel"].shape[1]

    def start(owner, inputs):
        own = owner.network
        rows = inputs["ids"].shape[0]
        # As a batch of windows of one epoch; its samples are in standard units already.
        batch = {
            name: x[:, None]
            for name, x in inputs.items()
            if name == "valid" or name.startswith("signal/")
        }
        batch |= {
            "present": jnp.ones((rows, len(modalities)), bool),
            "scale": jnp.ones((rows, len(modalities)), jnp.float32),
        }
        signals, there = own.epoch_signals(batch)
        _, memory = own.encode_signals(signals[:, 0], there[:, 0] if own.mask_absent else None)
        conditions = jnp.full((rows, prefix), -1, jnp.int32).at[:, 0].set(inputs["condition"])
        hidden = own.extend_caption(inputs["ids"][:, None], memory, conditions, 0)
        return own.logits(hidden[:, 0])

    def step(owner, inputs):
        own = owner.network
        # The cache has keys and values of the memory, so the memory itself is not looked at.
        memory = jnp.zeros((inputs["ids"].shape[0], 1, own.width), jnp.float32)
        hidden = own.extend_caption(inputs["ids"][:, None], memory, None, inputs["place"])
        return own.logits(hidden[:, 0])

    def call_start(variables, inputs):
        logits, cache = module.apply(variables, inputs, method=start, mutable=["cache"])
        return {"logits": logits, **_named(cache)}

    def call_step(variables, inputs):
        kept = {name: x for name, x in inputs.items() if name.startswith(CACHE)}
        cache = flax.traverse_util.unflatten_dict(kept, sep="/")
        logits, cache = module.apply({**variables, **cache}, inputs, method=step, mutable=["cache"])
        return {"logits": logits, **_named(cache)}

    ids = Array(("B",), "int32", "a word; the first is the tokenizer's start")
    begin = {
        **{
            f"signal/{row['name']}": Array(
                ("B", row["frames"]), "float32", f"an epoch of 30 s at {row['rate_hz']} Hz"
            )
            for row in modalities
        },
        "valid": Array(("B", len(modalities)), "bool", "channels that hold signal"),
        "condition": Array(("B",), "int32", "what to speak of, a place in the model's conditions"),
        "ids": ids,
    }
    logits = Array(("B", vocab), "float32", "scores of the next word")
    one = {
        name: jax.ShapeDtypeStruct((1, *row.shape[1:]), row.dtype) for name, row in begin.items()
    }
    shapes = jax.eval_shape(call_start, variables, one)
    cache = {
        name: Array(("B", *x.shape[1:]), str(x.dtype), "of the words so far, and the epoch")
        for name, x in shapes.items()
        if name.startswith(CACHE)
    }
    place = Array((), "int32", "how many words came before")
    return {
        "caption_start": Program(call_start, begin, {"logits": logits, **cache}),
        "caption_step": Program(
            call_step, {"ids": ids, "place": place, **cache}, {"logits": logits, **cache}
        ),
    }


def _named(cache):
    return flax.traverse_util.flatten_dict(dict(cache), sep="/")
