"""The train step of any objective, and its plan: a config's step on a mesh before anything runs.

``make_train_step`` is the step itself. A ``Plan`` is what the loop trains with, what ``cost``
counts, and what is compiled ahead of time for devices that are absent.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from hypnos_jax import config as configs
from hypnos_jax import gradient_cache, optim, sharding
from hypnos_jax import state as states
from hypnos_jax.objectives import ContrastsInPieces, Weighs
from hypnos_jax.state import TrainState


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """``config.train``: how long, and how many rows a step.

    Attributes:
        steps: updates in the whole run.
        batch_size: rows of the global batch, over all devices and micro-batches.
        accumulate: micro-batches per step.
        skip_not_finite: batches in a row that may be skipped, the state unchanged, because their
            loss or gradient is not finite; 0 stops the run at the first.
        stop_after: evaluations without a new best of ``config.checkpoints.best_metric`` after which
            the run is over, before its last step; 0 for never.
        init_from: a model to begin from (a run's workdir, an export, published weights), or a list
            of ``{"source", "subtrees", "fresh", "optional", "step"}``, one entry for each of
            several, or its JSON text; "" for none. Of a run the best checkpoint is taken.
            Read once: a resumed run does not need it.
        init_subtrees, init_fresh: what of it goes where, and what may be new; see
            ``warm_start.choose``. Also the defaults of a list's entries.
    """

    steps: int
    batch_size: int
    accumulate: int = 1
    skip_not_finite: int = 0
    stop_after: int = 0
    init_from: str | Sequence[dict] = ""
    init_subtrees: Sequence[tuple[str, str]] = ()
    init_fresh: Sequence[str] = ()


def make_train_step(
    objective: nn.Module,
    tx: optax.GradientTransformation,
    schedule: optax.Schedule,
    *,
    seed: int,
    accumulate: int = 1,
    averaging: optax.Schedule | None = None,
    freeze: Sequence[str] = (),
    skip_not_finite: int = 0,
) -> Callable[[TrainState, dict], tuple[TrainState, dict]]:
    """Return the train step, ``(state, global batch) -> (state, metrics)``, not yet jitted.

    Losses are sums with weights, so that ``accumulate`` micro-batches give the gradient of the
    whole batch: sums and weights add up, and only then is one divided by the other. A normaliser
    that couples rows is computed by the objective's ``weigh`` on the whole batch before it is cut;
    a loss whose rows are each other's negatives takes two passes (``gradient_cache``). Mutable
    collections pass from one micro-batch to the next, in order.

    A batch whose loss, gradient or new collections are not finite changes nothing but
    ``state.step``, and after more than ``skip_not_finite`` of them in a row nothing does any more:
    what the loop then finds, a step late, is the state that met the first of them. So a state that
    was finite stays finite: Adam divides a moment of finite gradients by more than ``eps``.

    Args:
        objective: the Linen module (contract: ``hypnos_jax/objectives/__init__.py``).
        tx: the optimizer.
        schedule: step -> learning rate, for the metrics.
        seed: of the random streams.
        accumulate: micro-batches per step.
        averaging: step -> decay of the averages, for a state that keeps them.
        freeze: patterns of parameters that no gradient is computed for (the optimizer's), and of
            arrays in other collections that stay as they are; see ``optim.frozen``.
        skip_not_finite: batches in a row that may be skipped.
    """
    streams = states.streams(objective)

    def sums(params, collections, rngs, *inputs, method=None):
        frozen = optim.frozen({"params": params, **collections}, freeze)
        params = jax.tree.map(
            lambda fixed, x: jax.lax.stop_gradient(x) if fixed else x, frozen.pop("params"), params
        )
        out, updated = objective.apply(
            {"params": params, **collections},
            *inputs,
            train=True,
            rngs=rngs,
            mutable=list(collections),
            method=method,
        )
        collections = jax.tree.map(
            lambda fixed, old, new: old if fixed else new, frozen, collections, dict(updated)
        )
        if method == "represent":
            return out, collections
        return out.total, ({"loss": (out.total, out.weight), **out.metrics}, collections)

    gradients = jax.grad(sums, has_aux=True)
    represent = functools.partial(sums, method="represent")
    contrast = functools.partial(sums, method="contrast")

    def train_step(state: TrainState, batch: dict) -> tuple[TrainState, dict]:
        if isinstance(objective, Weighs):
            batch = objective.weigh(batch)
        rngs = functools.partial(states.rngs, streams, seed, state.step)
        variables = state.params, state.collections
        if accumulate == 1:
            keys = rngs(jnp.zeros((), jnp.int32))
            grads, (pairs, collections) = gradients(*variables, keys, batch)
        elif getattr(objective, "couples_batch", False):
            grads, (pairs, collections) = gradient_cache.gradients(
                represent, contrast, *variables, rngs, batch, cut(batch, accumulate)
            )
        else:

            def micro(carry, micro_batch):
                collections, i = carry
                grads, (pairs, collections) = gradients(
                    state.params, collections, rngs(i), micro_batch
                )
                return (collections, i + 1), (grads, pairs)

            carry = (state.collections, jnp.zeros((), jnp.int32))
            (collections, _), stacked = jax.lax.scan(micro, carry, cut(batch, accumulate))
            grads, pairs = jax.tree.map(lambda x: x.sum(0), stacked)

        def mean(total, weight, empty=0.0):
            return jnp.where(weight > 0, total / jnp.where(weight > 0, weight, 1.0), empty)

        weight = pairs["loss"][1]
        grads = jax.tree.map(lambda g: mean(g, weight), grads)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:
            decay, new = averaging(state.step), {"params": params, **collections}
            new = {name: new[name] for name in ema}
            # exact where nothing changed: what is frozen stays equal to itself
            ema = jax.tree.map(lambda old, new: old + (1.0 - decay) * (new - old), ema, new)
        # A metric that nothing in the batch counts for, such as an absent modality's, is NaN here
        # and left out of the log: a 0 would pass for a perfect loss.
        values = {name: mean(*pair, empty=jnp.nan) for name, pair in pairs.items()}
        values["loss"] = mean(*pairs["loss"])
        values["grad_norm"] = optax.global_norm(grads)
        values["learning_rate"] = schedule(state.step)
        rows = batch["valid"].reshape(len(batch["valid"]), -1).sum(1)
        values["valid"] = (rows * (batch["weight"] > 0)).sum()

        finite = jnp.isfinite(values["loss"]) & jnp.isfinite(values["grad_norm"])
        for leaf in jax.tree.leaves(collections):
            finite &= jnp.isfinite(leaf).all()  # integers are
        stopped = state.not_finite > skip_not_finite
        in_a_row = jnp.where(finite & ~stopped, 0, state.not_finite + 1)
        values["not_finite"] = in_a_row
        updated = TrainState(state.step + 1, in_a_row, params, opt_state, collections, ema)
        unchanged = state.replace(step=state.step + 1, not_finite=in_a_row)
        keep = finite & ~stopped
        return jax.tree.map(lambda a, b: jnp.where(keep, a, b), updated, unchanged), values

    return train_step


def cut(batch: dict, pieces: int) -> dict:
    """Return the batch as ``pieces`` micro-batches [pieces, B / pieces, ...], to scan over.

    Every device keeps its own rows: micro-batch i takes rows i, i + pieces, ... Scalars, which
    ``weigh`` may have added, go to every micro-batch.
    """

    def one(x):
        if x.ndim == 0:
            return jnp.broadcast_to(x, (pieces,))
        return x.reshape(x.shape[0] // pieces, pieces, *x.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(one, batch)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A config's train step on a mesh before anything is computed: to train with, to measure, or to
    compile ahead of time for devices that are absent.

    Attributes:
        mesh: from ``sharding.make_mesh``.
        init: seed -> the objective's variables, boxes kept.
        make: makes a fresh state, born sharded.
        state: the state's shapes with their shardings.
        batch: the global batch's shapes with their shardings.
        step: ``(state, batch) -> (state, metrics)``, not yet jitted.
    """

    mesh: jax.sharding.Mesh
    init: Callable[[int], dict]
    make: Callable[[], TrainState]
    state: TrainState
    batch: dict[str, jax.ShapeDtypeStruct]
    step: Callable[[TrainState, dict], tuple[TrainState, dict]]

    def trace(self):
        """Return the traced step; the state that it is given is overwritten."""
        placed = jax.tree.map(lambda x: x.sharding, self.state)
        out = (placed, sharding.replicated(self.mesh))
        step = jax.jit(self.step, donate_argnums=0, out_shardings=out)
        return step.trace(self.state, self.batch)


def make_plan(config: dict, objective: nn.Module, mesh: jax.sharding.Mesh, batch: dict) -> Plan:
    """Plan the train step of a resolved config; call it and use it under ``jax.set_mesh(mesh)`` and
    ``nn.logical_axis_rules(sharding.RULES)``.

    Args:
        config: resolved.
        objective: ``configs.make_objective(config)``.
        mesh: from ``sharding.make_mesh``.
        batch: shapes and dtypes of the global batch.
    """
    place = sharding.batch_sharding(mesh)
    batch = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place) for name, x in batch.items()
    }
    run = configs.call(TrainOptions, config["train"], "config.train")
    makers = (optim.make_schedule, optim.make_averaging, optim.make_optimizer)
    for_schedule, for_averaging, rest = configs.split(config["optim"], makers, "config.optim")
    schedule = configs.call(optim.make_schedule, for_schedule, "config.optim", steps=run.steps)
    averaging = configs.call(optim.make_averaging, for_averaging, "config.optim", steps=run.steps)
    init = states.init_function(objective, batch)
    make, state, tx = states.create(
        functools.partial(init, config["seed"]),
        lambda matrices: optim.make_optimizer(schedule, matrices, **rest),
        mesh,
        averaged=states.averaged(objective) if averaging else (),
    )
    freeze = rest.get("freeze", ())
    optim.frozen({"params": state.params, **state.collections}, freeze)  # raises before compiling
    step = make_train_step(
        objective,
        tx,
        schedule,
        seed=config["seed"],
        accumulate=run.accumulate,
        averaging=averaging,
        freeze=freeze,
        skip_not_finite=run.skip_not_finite,
    )
    return Plan(mesh, init, make, state, batch, step)


def check_batch_size(objective: nn.Module, run: TrainOptions, mesh: jax.sharding.Mesh) -> None:
    """Refuse what would silently change the objective, or cannot be cut evenly."""
    coupled = getattr(objective, "couples_batch", False)
    if run.accumulate > 1 and coupled and not isinstance(objective, ContrastsInPieces):
        raise configs.ConfigError(
            f"config.train.accumulate={run.accumulate}, but {type(objective).__name__} couples the"
            " rows of a batch: smaller micro-batches would be another objective. Use"
            " accumulate=1 and more devices"
        )
    pieces = run.accumulate * mesh.shape["data"] * mesh.shape["fsdp"]
    if run.batch_size % pieces:
        raise configs.ConfigError(
            f"config.train.batch_size={run.batch_size} is not divisible by accumulate x data x"
            f" fsdp = {pieces}"
        )
