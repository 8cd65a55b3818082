"""The training state: what is carried from step to step, and how it is first made on a mesh."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from hypnos_jax import sharding
from hypnos_jax.objectives import Weighs


@flax.struct.dataclass
class TrainState:
    """One pytree with everything a step reads and writes.

    Attributes:
        step: int32 scalar, batches seen so far.
        not_finite: int32 scalar, how many batches in a row, up to the last, gave a loss or gradient
            that is not finite, and so no update.
        params: the objective's parameters, float32.
        opt_state: optax's state.
        collections: every other variable collection by name (EMA codebooks), carried unread.
        ema: running averages, by name of collection: of ``params``, and of those collections that
            the objective says are ``averaged``; or None.
    """

    step: jax.Array
    not_finite: jax.Array
    params: dict
    opt_state: optax.OptState
    collections: dict
    ema: dict | None

    def variables(self) -> dict:
        """The variables to evaluate with: the averaged parameters where they are kept."""
        return {"params": self.params, **self.collections, **(self.ema or {})}


def not_finite(state: TrainState) -> list[str]:
    """Return the names of the arrays of which this process holds values that are not finite."""

    def wrong(x):
        return not all(np.isfinite(np.asarray(shard.data)).all() for shard in x.addressable_shards)

    leaves = jax.tree_util.tree_leaves_with_path(state)
    leaves = [(path, x) for path, x in leaves if jnp.issubdtype(x.dtype, jnp.inexact)]
    return [jax.tree_util.keystr(p, simple=True, separator="/") for p, x in leaves if wrong(x)]


def rngs(streams: tuple[str, ...], seed: int, *counts) -> dict[str, jax.Array]:
    """Return one key per stream: a pure function of the seed and of each of ``counts``."""
    key = jax.random.key(seed)
    for count in counts:
        key = jax.random.fold_in(key, count)
    return {name: jax.random.fold_in(key, i) for i, name in enumerate(sorted(streams))}


def init_function(objective: nn.Module, batch: dict) -> Callable[[int], dict]:
    """Return a function from a seed to the objective's variables, boxes kept.

    Args:
        objective: the Linen module.
        batch: a batch or its shapes; only shapes and dtypes are used.
    """

    def init(seed: int) -> dict:
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), batch)
        if isinstance(objective, Weighs):
            zeros = objective.weigh(zeros)
        keys = rngs((*streams(objective), "params"), seed)
        return objective.init(keys, zeros, train=True)

    return init


def streams(objective: nn.Module) -> tuple[str, ...]:
    """Names of the random streams that the objective draws from when training."""
    return tuple(getattr(objective, "rng_streams", ()))


def averaged(objective: nn.Module) -> tuple[str, ...]:
    """Names of the collections to average, where averages are kept."""
    return ("params", *getattr(objective, "averaged", ()))


def matrices(boxed_params) -> dict:
    """Return True for each parameter that is a matrix: one whose name ends in ``kernel``.

    Embeddings, biases, norms and scales have other names; weight decay leaves them alone, however
    many axes they have.
    """

    def one(path, leaf):
        return jax.tree_util.keystr(path, simple=True, separator="/").endswith("kernel")

    return jax.tree_util.tree_map_with_path(
        one, boxed_params, is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned)
    )


def jit_once(function: Callable, **options) -> Callable:
    """Return ``jax.jit(function)`` for a program that runs once, such as an initialisation.

    On a CPU its compilation would take longer than a training step's, so it is left unoptimised.
    """
    if jax.default_backend() == "cpu":
        options["compiler_options"] = {"xla_backend_optimization_level": 0}
    return jax.jit(function, **options)


def create(
    init: Callable[[], dict],
    make_optimizer: Callable[[dict], optax.GradientTransformation],
    mesh: jax.sharding.Mesh,
    *,
    averaged: tuple[str, ...] = (),
) -> tuple[Callable[[], TrainState], TrainState, optax.GradientTransformation]:
    """Plan a train state on a mesh without making it.

    Args:
        init: makes the variables, boxes kept (``init_function`` with a seed).
        make_optimizer: tree of bools (which parameters are matrices) -> optimizer.
        mesh: from ``sharding.make_mesh``.
        averaged: collections of which running averages are kept where they are, ``"params"`` among
            them.

    Returns:
        ``make`` (returns a fresh state, born sharded), the state's shapes with their shardings
        (to restore into), and the optimizer.
    """
    boxed = jax.eval_shape(init)
    averaged = tuple(name for name in averaged if name in boxed)
    tx = make_optimizer(matrices(boxed["params"]))
    placed = sharding.state_shardings(mesh, boxed)

    def make() -> TrainState:
        variables = nn.unbox(init())
        params = variables.pop("params")
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            not_finite=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=tx.init(params),
            collections=dict(variables),
            ema={
                name: jax.tree.map(jnp.copy, {"params": params, **variables}[name])
                for name in averaged
            }
            or None,
        )

    shapes = jax.eval_shape(make)
    whole = sharding.replicated(mesh)
    # jit alone would put the moments on one device: zeros depend on no input.
    # By shapes: the mesh's devices may be ones that cannot compute here
    # (hypnos_jax/cost/compile_ahead.py).
    opt = optax.tree_map_params(
        lambda params: jax.eval_shape(tx.init, params),
        lambda moment, place: moment if _is_masked(moment) else place,
        shapes.opt_state,
        placed["params"],
        transform_non_params=lambda _: whole,
        is_leaf=_is_masked,
    )
    collections = {name: placed[name] for name in shapes.collections}
    ema = {name: placed[name] for name in averaged} or None
    shardings = TrainState(whole, whole, placed["params"], opt, collections, ema)
    abstract = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, shardings
    )
    return jit_once(make, out_shardings=shardings), abstract, tx


def _is_masked(leaf) -> bool:
    """Whether this stands where a parameter that is not trained would have a moment."""
    return isinstance(leaf, optax.MaskedNode)
