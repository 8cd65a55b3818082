"""Begin a run from the weights of others: subtrees of their variables, all of each or none."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence

import flax.traverse_util
import jax
import numpy as np
from absl import logging

from hypnos_jax import config as configs
from hypnos_jax import param_paths
from hypnos_jax.export.model import LoadedModel, load_model
from hypnos_jax.state import TrainState


class WarmStartError(ValueError):
    """Weights that do not fit what is to begin from them; the message names the arrays."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """Arrays to begin from.

    Attributes:
        arrays: path here, the collection's name first -> array.
        provenance: ``{"source", "checksum", "step", "copied"}``, JSON values; a list of such where
            the config lists several sources.
    """

    arrays: dict[str, np.ndarray]
    provenance: dict | list[dict]


def choose(
    shapes: TrainState,
    source: str | os.PathLike | LoadedModel | Sequence[dict],
    subtrees: Sequence[tuple[str, str]] = (),
    fresh: Sequence[str] = (),
) -> Weights:
    """Return the weights that a run is to begin from, of one other model or of several.

    Of a run its best checkpoint, like everything else that uses a run: a warm start wants the best
    model, and the end of a run on a small corpus may be far from it; what goes on training is the
    same ``--workdir``, not a warm start. An entry's ``step`` says otherwise. Averaged weights where
    the source keeps them. Every variable below a claimed path is taken,
    parameters and other collections alike; one that the source lacks, or has in another shape, is
    an error, and so is one that two sources claim.

    Args:
        shapes: the run's state, or its shapes.
        source: whatever ``export.load_model`` takes: a run's workdir, an export, published weights;
            or a list of ``{"source", "subtrees", "fresh", "optional", "step"}``, or its JSON text.
            ``subtrees`` and ``fresh`` below are the defaults of each; an optional one is left
            unread where nothing here lies below its paths. ``step``: see
            ``checkpoint_choice.choose``.
        subtrees: (path there, path here) pairs, without the collection's name, such as
            ``(("towers", "towers"),)``; () for everything here.
        fresh: patterns (see ``hypnos_jax.param_paths``) of parameters that may be new here, such as
            ``"*/lora_?"``.

    Raises:
        WarmStartError: nothing here lies below a claimed path, not all of it is there, or two
            sources claim an array.
        ConfigError: an entry of the list has an unknown key, or no source.
        ModelError: a source is no model.
    """
    if isinstance(source, str) and source.lstrip().startswith("["):
        try:
            source = json.loads(source)
        except ValueError as error:
            raise WarmStartError(f"config.train.init_from={source}: no JSON: {error}") from error
    if not isinstance(source, list | tuple):
        return _choose(shapes, source, subtrees, fresh)
    arrays, owner, provenance = {}, {}, []
    for i, entry in enumerate(source):
        entry = {"subtrees": subtrees, "fresh": fresh, **entry}
        own = configs.call(_choose, entry, f"config.train.init_from[{i}]", shapes=shapes)
        if both := sorted(own.arrays.keys() & arrays.keys()):
            raise WarmStartError(
                f"config.train.init_from: {owner[both[0]]} and {entry['source']} both claim"
                f" {both[0]} ({len(both)} arrays); give them other subtrees"
            )
        arrays |= own.arrays
        owner |= dict.fromkeys(own.arrays, entry["source"])
        provenance += [own.provenance] if own.arrays else []
    return Weights(arrays, provenance)


def _choose(
    shapes: TrainState,
    source: str | os.PathLike | LoadedModel,
    subtrees: Sequence[tuple[str, str]],
    fresh: Sequence[str],
    optional: bool = False,
    step: int | str | None = None,
) -> Weights:
    """The weights of one source; see ``choose``."""
    own = {"params": shapes.params, **shapes.collections}
    own = flax.traverse_util.flatten_dict(own, sep="/")
    wanted = any(_renamed(name, here, there) for name in own for there, here in subtrees)
    if optional and not wanted:
        return Weights({}, {})
    model = load_model(source, step=step)
    theirs = flax.traverse_util.flatten_dict(model.variables, sep="/")
    new = set()
    if fresh:
        marked = param_paths.matching(shapes.params, fresh, "config.train.init_fresh")
        pairs = zip(param_paths.names(shapes.params), jax.tree.leaves(marked))
        new = {f"params/{name}" for name, is_new in pairs if is_new}
    chosen, wrong = {}, []
    for there, here in subtrees or (("", ""),):
        claimed = {name: _renamed(name, here, there) for name in own if name not in new}
        claimed = {name: other for name, other in claimed.items() if other}
        if not claimed:
            raise WarmStartError(
                f"config.train.init_subtrees: nothing lies below {here!r}; there are {_tops(own)}"
            )
        for name, other in claimed.items():
            if other not in theirs:
                wrong.append(f"{other} is not there")
            elif theirs[other].shape != own[name].shape:
                found = f"{list(theirs[other].shape)} there, {list(own[name].shape)} here"
                wrong.append(f"{other} is {found}")
            else:
                chosen[name] = theirs[other]
    if wrong:
        raise WarmStartError(
            f"config.train.init_from={source}: {len(chosen)} of {len(chosen) + len(wrong)} arrays"
            f" fit. {'; '.join(wrong[:8])}{' ...' if len(wrong) > 8 else ''}. There are"
            f" {_tops(theirs)}. Name other config.train.init_subtrees, or say what may be new with"
            " init_fresh"
        )
    count = len(chosen)
    told = f" ({model.taken})" if model.taken else ""
    logging.info("begins from %s%s: %d of %d arrays", source, told, count, count)
    provenance = {"source": str(source), "checksum": model.checksum, "step": model.step}
    return Weights(chosen, {**provenance, "copied": count})


def begin_from(state: TrainState, weights: Weights) -> TrainState:
    """Return a fresh state with the weights in it, in its averages too, placed as they were."""
    given = weights.arrays
    collections = {name: _with(tree, given, f"{name}/") for name, tree in state.collections.items()}
    return state.replace(
        params=_with(state.params, given, "params/"),
        collections=collections,
        ema=None if state.ema is None else _with(state.ema, given, ""),
    )


def _renamed(name: str, here: str, there: str) -> str:
    """The source's name of an array below ``here``, or "" for another."""
    collection, _, path = name.partition("/")
    if here and path != here and not path.startswith(f"{here}/"):
        return ""
    rest = path[len(here) :].lstrip("/")
    return "/".join(part for part in (collection, there, rest) if part)


def _with(tree: dict, chosen: dict[str, np.ndarray], prefix: str) -> dict:
    """The tree with the chosen arrays, each placed as the one that it replaces."""

    def one(path, leaf):
        name = prefix + jax.tree_util.keystr(path, simple=True, separator="/")
        if name not in chosen:
            return leaf
        whole = np.asarray(chosen[name]).astype(leaf.dtype)
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda at: whole[at])

    return jax.tree_util.tree_map_with_path(one, tree)


def _tops(flat: dict) -> list[str]:
    """The first two parts of every path, each once."""
    return sorted({"/".join(name.split("/")[:2]) for name in flat})
