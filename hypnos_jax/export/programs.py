"""Programs of a model: what it computes, for JAX without this package.

A program is a function ``call(tensors, inputs) -> outputs`` of the tensors of ``model.safetensors``
under their names, of named arrays, and to named arrays, serialised by ``jax.export``. It takes any
number of rows and any length of time, and any of ``PLATFORMS``; long inputs pass piece by piece
inside of it, so the results are those of ``Embedder``, ``WindowEmbedder`` and ``Tokenizer``.

What JAX promises (docs.jax.dev, "Compatibility guarantees" of ``jax.export``): a program runs with
versions of jaxlib up to 6 months newer and up to 3 weeks older than the one that wrote it. After
that it is to be written anew, from the tensors: ``launch.export`` of an export does that.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
from jax import export

from data_pipelines import pipeline
from hypnos_jax.export import text_programs
from hypnos_jax.export.program import PLATFORMS, Array, NoProgramError, Program, Tensors
from hypnos_jax.models.rvq_tokenizer import RvqTokenizer
from hypnos_jax.models.token_chunks import ANEW_S, CHUNK_S, OVER_TIME
from hypnos_jax.objectives import EmbedsInPieces, EmbedsText, Tokenizes, WritesCaptions

SUFFIX = ".jaxexport"
ENCODED_S = 64  # ours: seconds that pass a tokenizer at once


def versions() -> dict[str, Any]:
    """Return what wrote the programs, by which their reader is judged."""
    return {
        "jax": jax.__version__,
        "calling_convention": export.maximum_supported_calling_convention_version,
        "platforms": list(PLATFORMS),
    }


def programs_of(objective: nn.Module, config: dict[str, Any]) -> dict[str, Program]:
    """Return a model's programs.

    Args:
        objective: its module.
        config: what ``config.json`` of its export says.

    Returns:
        ``{"encode"}`` for a tokenizer, ``{"embed"}`` for any other model; with ``embed_text`` where
        it embeds texts, and ``caption_start`` and ``caption_step`` where it writes captions.

    Raises:
        NoProgramError: no source cuts single recordings for the model, or it sees what no piece can
            hold.
    """
    if isinstance(objective, Tokenizes):
        return {"encode": _tokenizer(objective)}
    if isinstance(objective, EmbedsInPieces):
        return {"embed": _backbone(objective, config["modalities"])}
    found = {"embed": _windows(objective, config)}
    if isinstance(objective, EmbedsText) and "text" in config:
        context = config["text"]["context"]
        found["embed_text"] = text_programs.embed_text(objective, _variables(config), context)
    if isinstance(objective, WritesCaptions):
        found |= text_programs.captions(objective, _variables(config), config["modalities"])
    return found


def _variables(config):
    """Shapes of the variables that the config of an export names."""
    flat = {
        name: jax.ShapeDtypeStruct(shape, dtype)
        for name, (dtype, shape) in config["tensors"].items()
    }
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def _backbone(objective, modalities) -> Program:
    """Tokens to states. The plain kernel of attention: a fused one runs on one platform alone."""
    objective = objective.clone(model={**objective.model, "attention": "blocks"})
    count, width = len(modalities), sum(row["levels"] for row in modalities)
    tracks = objective.model.get("use_tracks", False)
    ids = jnp.asarray([row["channel_id"] for row in modalities], jnp.int32)
    inputs = {
        "codes": Array(("B", "S", width), "int32", "codes, the levels of all modalities in turn"),
        "present": Array(("B", count), "bool", "modalities that are there"),
    }
    if tracks:
        inputs["valid"] = Array(("B", "S", count), "bool", "seconds that hold signal")
        what = "mean of the unfiltered signal, log of its amplitude"
        inputs["tracks"] = Array(("B", "S", count, 2), "float32", what)
    seen = "the seconds before s" if objective.embed_lag else "second s and those before it"
    what = f"of each second s, having seen {seen}; zeros where absent"
    outputs = {
        "rows": Array(("B", "S", count, objective.model["dim"]), "float32", what),
        "valid": Array(("B", "S", count), "bool", "modalities that are there"),
    }

    def batch(fixed, pieces):
        """A batch as the objective takes it, of what is the same at all times and what is not."""
        rows, length = pieces["codes"].shape[:2]
        rest = {
            "channel_ids": jnp.broadcast_to(ids, (rows, count)),
            "weight": jnp.ones(rows),
            "valid": jnp.ones((rows, length, count), bool),
            "tracks": jnp.zeros((rows, length, count, 2)),
        }
        return {**rest, **fixed, **pieces}

    def anew(variables, inputs):
        """As ``embed_tokens`` of models that see the whole past: 2048 s at a time."""
        fixed = {"present": inputs["present"]}

        def step(_, pieces):
            return None, objective.apply(variables, batch(fixed, pieces), method="embed").rows

        return _over_pieces(step, None, _over_time(inputs), ANEW_S)

    def onward(variables, inputs):
        fixed = {"present": inputs["present"]}
        # BOS stands in place of a second before the first; without lag one row more comes out.
        later = {
            name: jnp.pad(x, [(0, 0), (1, 0)] + [(0, 0)] * (x.ndim - 2))
            for name, x in _over_time(inputs).items()
        }
        if objective.embed_lag:
            later = {name: x[:, :-1] for name, x in later.items()}

        def advance(cache, pieces, first):
            own = {**variables, **cache}
            return objective.apply(
                own, batch(fixed, pieces), first, method="embed_next", mutable=["cache"]
            )

        def step(carry, pieces):
            cache, first = carry
            found, cache = advance(cache, pieces, first)
            return (cache, False), found.rows

        piece = {
            name: jax.ShapeDtypeStruct((x.shape[0], CHUNK_S, *x.shape[2:]), x.dtype)
            for name, x in later.items()
        }
        shapes = jax.eval_shape(advance, {}, piece, True)[1]
        cache = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        rows = _over_pieces(step, (cache, True), later, CHUNK_S)
        return rows if objective.embed_lag else rows[:, 1:]

    run = anew if objective.reach is None else onward

    def call(variables, inputs):
        rows = run(variables, inputs)
        return {"rows": rows, "valid": jnp.broadcast_to(inputs["present"][:, None], rows.shape[:3])}

    return Program(call, inputs, outputs)


def _over_time(inputs):
    return {name: inputs[name] for name in OVER_TIME if name in inputs}


def _tokenizer(objective) -> Program:
    """Signals to codes, in float32 as ``Tokenizer`` has it."""
    network = RvqTokenizer(**{**objective.model, "dtype": "float32"})
    if network.reach is None:
        raise NoProgramError("it looks back without a window: no program serves every length")
    hop = objective.rate_hz
    what = f"{objective.signal_type} at {hop} Hz, preprocessed"
    inputs = {"signal": Array(("B", f"{hop}*S"), "float32", what)}
    outputs = {"codes": Array(("B", "S", network.levels), "int32", "codes of each second")}

    def call(variables, inputs):
        inner = {name: tree["tokenizer"] for name, tree in variables.items()}

        def advance(cache, x):
            return network.apply({**inner, **cache}, x, method="encode_next", mutable=["cache"])

        def step(cache, x):
            codes, cache = advance(cache, x)
            return cache, codes

        signal, piece = inputs["signal"], ENCODED_S * hop
        rows, seconds = signal.shape[0], signal.shape[1] // hop
        # The first piece is one sample longer (see ``RvqTokenizer.latents_next``), so it stands
        # alone; after it there is always another, because a scan over nothing cannot be written.
        count = (seconds + ENCODED_S - 1) // ENCODED_S
        front = int(network.strict_causal)
        end = 1 - front + (1 + count) * piece - seconds * hop
        signal = jnp.pad(signal, ((0, 0), (front, end)))
        first, cache = advance({}, signal[:, : 1 + piece])
        rest = signal[:, 1 + piece :].reshape(rows, count, piece)
        _, later = jax.lax.scan(step, cache, jnp.moveaxis(rest, 1, 0))
        later = jnp.moveaxis(later, 0, 1).reshape(rows, count * ENCODED_S, network.levels)
        return {"codes": jnp.concatenate([first, later], axis=1)[:, :seconds]}

    return Program(call, inputs, outputs)


def _windows(objective, config) -> Program:
    """Windows of what the objective's source cuts from a recording, one after the other."""
    source, modalities = pipeline.find_source(objective.embed_data), config["modalities"]
    if "embed_shapes" not in vars(source):
        raise NoProgramError(f"batches of {objective.embed_data} are not cut from recordings")
    length, shapes = source.window_tokens(config["data"]), source.embed_shapes(modalities)
    rates = {f"signal/{row['name']}": row.get("rate_hz") for row in modalities}
    token = f"tokens of {objective.token_s:g} s"
    inputs = {
        name: Array(
            ("B", *shape), dtype, f"{token} at {rates[name]} Hz" if rates.get(name) else token
        )
        for name, (dtype, *shape) in shapes.items()
        if "T" in shape
    }

    def batch(pieces):
        rows = pieces["valid"].shape[0]
        ones = {
            name: jnp.ones((rows, *shape), dtype)
            for name, (dtype, *shape) in shapes.items()
            if "T" not in shape
        }
        return {**ones, **pieces}

    def call(variables, inputs):
        def step(_, pieces):
            found = objective.apply(variables, batch(pieces), method="embed")
            return None, {"rows": found.rows, "valid": found.valid}

        return _over_pieces(step, None, inputs, length)

    one = {
        name: jax.ShapeDtypeStruct(
            (1, *(length if n == "T" else n for n in row.shape[1:])), row.dtype
        )
        for name, row in inputs.items()
    }
    rows = jax.eval_shape(call, _variables(config), one)["rows"].shape
    seen = getattr(objective, "seen", "") or ("causal" if objective.causal else "")
    what = f"of each token, in windows of {length}; zeros where not valid" + (seen and f"; {seen}")
    outputs = {
        "rows": Array(("B", "T", *rows[2:]), "float32", what),
        "valid": Array(("B", "T", rows[2]), "bool", "rows that rest on signal"),
    }
    return Program(call, inputs, outputs)


def _over_pieces(step, carry, arrays: Tensors, length: int) -> Any:
    """Scan ``step`` over pieces of the second axis, whose size need not be known.

    Args:
        step: (carry, name -> [B, length, ...]) -> carry, tree of [B, length, ...].
        carry: to begin with.
        arrays: name -> [B, S, ...]; zeros are put behind to make whole pieces.
        length: of a piece.

    Returns:
        the tree of [B, S, ...].
    """
    rows, size = next(iter(arrays.values())).shape[:2]
    count = (size + length - 1) // length

    def cut(x):
        x = jnp.pad(x, [(0, 0), (0, count * length - size)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(rows, count, length, *x.shape[2:]), 1, 0)

    _, out = jax.lax.scan(step, carry, {name: cut(x) for name, x in arrays.items()})

    def joined(x):
        x = jnp.moveaxis(x, 0, 1)
        return x.reshape(rows, count * length, *x.shape[3:])[:, :size]

    return jax.tree.map(joined, out)
