"""Train any objective: one step for every family, and the loop around it.

Read ``make_train_step`` first, then ``train``. The loop's order is: evaluate, save, draw the batch,
step. A saved step has therefore not yet drawn its batch, and a resumed run is the same run, bit
for bit. The global batch at a step is a pure function of (seed, step), whatever the number of
hosts; so are the random streams.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import math
import pathlib
import time
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging

from hypnos_jax import checkpoint, evaluate, metrics, optim, param_paths, sharding, warm_start
from hypnos_jax import config as configs
from hypnos_jax import state as states
from hypnos_jax.cost import flops, scaling
from hypnos_jax.nn import backend
from hypnos_jax.runtime import compile_cache, distributed, preemption, watchdog
from hypnos_jax.runtime.exit_codes import STOPPED_EARLY
from hypnos_jax.runtime.files import write_json
from hypnos_jax.state import TrainState

NOT_FINITE_BATCHES = 10  # ours: the newest of each process, kept for inspection


class NonFiniteError(ValueError):
    """A loss or gradient that is not finite; its batch and the state before it were saved."""


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
    whole batch: sums and weights add up, and only then is one divided by the other. What couples
    rows is computed by the objective's ``weigh`` on the whole batch before it is cut. Mutable
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
        freeze: patterns of the parameters that no gradient is computed for; the optimizer's.
        skip_not_finite: batches in a row that may be skipped.
    """
    streams = states.streams(objective)

    def sums(params, collections, batch, rngs):
        frozen = param_paths.matching(params, freeze, "config.optim.freeze")
        held = lambda fixed, x: jax.lax.stop_gradient(x) if fixed else x
        params = jax.tree.map(held, frozen, params)
        loss, updated = objective.apply(
            {"params": params, **collections},
            batch,
            train=True,
            rngs=rngs,
            mutable=list(collections),
        )
        pairs = {"loss": (loss.total, loss.weight), **loss.metrics}
        return loss.total, (pairs, dict(updated))

    def micro(carry, micro_batch):
        params, collections, step, i = carry
        rngs = states.rngs(streams, seed, step, i)
        grads, (pairs, collections) = jax.grad(sums, has_aux=True)(
            params, collections, micro_batch, rngs
        )
        return (params, collections, step, i + 1), (grads, pairs)

    def train_step(state: TrainState, batch: dict) -> tuple[TrainState, dict]:
        if hasattr(objective, "weigh"):
            batch = objective.weigh(batch)
        carry = (state.params, state.collections, state.step, jnp.zeros((), jnp.int32))
        if accumulate == 1:
            (_, collections, *_), (grads, pairs) = micro(carry, batch)
        else:
            (_, collections, *_), stacked = jax.lax.scan(micro, carry, cut(batch, accumulate))
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
class Run:
    """``config.train``: how long, and how many rows a step.

    Attributes:
        steps: updates in the whole run.
        batch_size: rows of the global batch, over all devices and micro-batches.
        accumulate: micro-batches per step.
        skip_not_finite: batches in a row that may be skipped, the state unchanged, because their
            loss or gradient is not finite; 0 stops the run at the first.
        init_from: a model to begin from (a run's workdir, an export, published weights); "" for
            none. Read once: what resumes does not need it.
        init_subtrees, init_fresh: what of it goes where, and what may be new; see
            ``warm_start.choose``.
    """

    steps: int
    batch_size: int
    accumulate: int = 1
    skip_not_finite: int = 0
    init_from: str = ""
    init_subtrees: Sequence[tuple[str, str]] = ()
    init_fresh: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Logs:
    """``config.logs``: what a run says.

    Attributes:
        every: steps between progress lines.
        tensorboard: also write TensorBoard's event files.
        mfu: measure the devices' matmul rate at the start and report each step's share of it.
        compile_cache: folder of compiled programs, kept between runs; "" for none.
        profile: first and last step that jax.profiler traces, into ``workdir/profile`` (open it
            with TensorBoard's profile plug-in or Perfetto), of several processes into a folder
            each; () for none.
    """

    every: int = 10
    tensorboard: bool = True
    mfu: bool = True
    compile_cache: str = compile_cache.FOLDER
    profile: tuple[int, ...] = ()

    def __post_init__(self):
        if len(self.profile) not in (0, 2) or list(self.profile) != sorted(self.profile):
            raise configs.ConfigError(
                f"config.logs.profile={self.profile} is not () or (first step, last step)"
            )


def train(config, workdir: str | pathlib.Path) -> int:
    """Run a config to its last step, resuming what ``workdir`` holds.

    Args:
        config: a ConfigDict (``hypnos_jax/config.py`` has its sections).
        workdir: the run's folder; gets ``config.json``, ``metrics.jsonl``, ``checkpoints/``.

    Returns:
        0 when the last step is done; ``exit_codes.STOPPED_EARLY`` after a signal, and saved (where
        ``distributed.initialize`` was called).

    Raises:
        ConfigError: an unknown key, or another config than the one ``workdir`` began with.
        NonFiniteError: the loss or the gradient is not finite.
    """
    workdir = pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    config = configs.resolve(config)
    watch = configs.call(watchdog.Watchdog, config["watchdog"], "config.watchdog")
    with watch:
        return _train(config, workdir, watch)


def _train(config: dict, workdir: pathlib.Path, watch: watchdog.Watchdog) -> int:
    startup_s = watch.may_take_s["start-up"]
    # The data may lie elsewhere on another host, but must be the same.
    data = {key: value for key, value in config["data"].items() if key != "path"}
    distributed.agree(
        {
            "config": {**config, "data": data},
            "code": {"version": configs.code_version(), "sources": distributed.sources()},
            "devices": {"jax": jax.__version__, "all": jax.device_count()},
            "workdir": str(workdir),
        },
        timeout_s=startup_s,
    )
    source = evaluate.load_source(config, workdir, split="train")
    config = configs.fill(config, source.describe())
    run = configs.call(Run, config["train"], "config.train")
    logs = configs.call(Logs, config["logs"], "config.logs")
    distributed.agree({"data": source.describe()}, timeout_s=startup_s)
    compile_cache.keep(logs.compile_cache)
    mesh = configs.call(sharding.make_mesh, config["mesh"], "config.mesh")
    objective = configs.make_objective(config)
    check_batch_size(objective, run, mesh)

    rows, batch_place = run.batch_size, sharding.batch_sharding(mesh)
    lo, hi = sharding.host_rows(batch_place, rows)

    with (
        jax.set_mesh(mesh),
        nn.logical_axis_rules(sharding.RULES),
        contextlib.ExitStack() as stack,
        distributed.telling_others(),
    ):
        plan = make_plan(config, objective, mesh, evaluate.batch_spec(source, rows))

        def asked_to_stop() -> bool:
            watch.enter("evaluation")
            return preemption.requested()

        context = evaluate.Context(config, objective, plan.init, mesh, workdir, asked_to_stop)
        evaluators = evaluate.Evaluators(config["evals"], context)
        weights = None
        if run.init_from and not distributed.once(
            "whether there is anything to resume", lambda: checkpoint.saved(workdir)
        ):
            given = (run.init_from, run.init_subtrees, run.init_fresh)
            weights = warm_start.choose(plan.state, *given)
            distributed.agree({"config.train.init_from": weights.told}, timeout_s=startup_s)
        # Only a config that could be built is written: a typo does not occupy the folder.
        distributed.once(
            "the run's folder",
            lambda: configs.agree_with_workdir(config, source.describe(), workdir),
        )
        keep = configs.call(
            checkpoint.Checkpoints,
            config["checkpoints"],
            "config.checkpoints",
            workdir=workdir,
            jobs=evaluate.of_jobs(config["evals"]),
        )
        stack.callback(keep.close)
        state, meta = keep.restore(plan.state) or begin(plan, weights)
        start = int(state.step)
        if start > run.steps:
            raise configs.ConfigError(
                f"config.train.steps={run.steps}, but {workdir} has a checkpoint of step {start};"
                " give as many steps or more, or another --workdir"
            )
        if int(state.not_finite) > run.skip_not_finite:  # skipped when more were allowed
            state = state.replace(not_finite=0 * state.not_finite)
        if preemption.requested():  # nothing is new, and compiling may take minutes
            return STOPPED_EARLY
        writer = metrics.Writer(
            workdir, step=start, offset=meta["offset"], tensorboard=logs.tensorboard
        )
        stack.callback(writer.close)

        # Compiled once, here: an input of another shape or sharding raises instead of recompiling.
        traced = plan.trace()
        train_step = traced.lower().compile()
        if distributed.is_first():
            on_cpu = backend.platform() == "cpu"  # else a trace more, to count what kernels hide
            same = (traced, plan.state, plan.batch, source.token_s)
            cost = flops.step_cost(*same) if on_cpu else scaling.cost(config)
            cost = {**dataclasses.asdict(cost), "examples_per_epoch": source.num_examples}
            write_json(workdir / "cost.json", cost)
        clock = metrics.Clock(*speed(traced, mesh, logs.mfu), steps=run.steps)
        feed = source.batches(rows, lo, hi, start)
        stack.callback(feed.close)
        traces = workdir / "profile"
        if jax.process_count() > 1:  # the profiler names files by host
            traces = traces / f"process_{jax.process_index()}"
        trace = Trace(traces, logs.profile)
        stack.callback(trace.close)
        waiting = collections.deque()  # (step, metrics still on the device, the host's batch)

        def log(keep_back: int) -> None:
            # Reading the newest loss would stall the device, so step k - 1 is logged at step k.
            while len(waiting) > keep_back:
                step, values, local = waiting.popleft()
                values = {name: float(value) for name, value in jax.device_get(values).items()}
                in_a_row = int(values.pop("not_finite"))
                if in_a_row:
                    save_batch(workdir, step, local)
                if in_a_row > run.skip_not_finite:
                    stop_not_finite(workdir, step, state, values, {"config": config})
                values = {name: value for name, value in values.items() if math.isfinite(value)}
                if in_a_row:
                    logging.error("step %d is skipped: loss or gradient is not finite", step)
                    values |= {"loss": math.nan, "grad_norm": math.nan, "skipped": in_a_row}
                values |= clock.read(values.pop("valid") * source.token_s)
                writer.write(step, values)
                if step % logs.every == 0 or step == run.steps:
                    logging.info("%s", clock.line(step, values))

        # Collectives have deadlines of their own, shorter than some compilations.
        distributed.barrier("compiling the train step", timeout_s=startup_s)
        for step in range(start, run.steps + 1):
            watch.enter("step")
            last = step == run.steps
            stop, due, found = preemption.requested(), keep.due(step), {}
            pause = last or stop or due or evaluators.due(step, last=last)
            log(0 if pause else 1)
            offset = writer.offset() if pause else 0
            if (step > start or not meta["evaluated"]) and not stop:
                watch.enter("evaluation")
                try:
                    for values in evaluators.run(state.variables(), step, last=last):
                        writer.write(step, values)
                        logging.info("step %d: %s", step, metrics.words(values))
                        found |= values
                except evaluate.Interrupted:
                    # The resumed run evaluates this step, from the beginning.
                    stop, found = True, {}
                else:
                    offset = writer.offset() if pause else 0
            watch.enter("save")
            if step > start and (last or stop or due):
                then = time.perf_counter()
                saved = {
                    "config": config,
                    "code": configs.code_version(),
                    "samples": step * rows,  # drawn so far: the position in the data
                    "offset": offset,
                    "evaluated": not stop,
                    "not_finite": int(state.not_finite),
                    "init_from": meta.get("init_from"),  # what the run began from
                }
                keep.save(step, state, saved, found)
                clock.save_s += time.perf_counter() - then
            if last or stop:
                break
            if pause:
                clock.restart()
            watch.enter("data")
            then = time.perf_counter()
            local = next(feed)
            clock.data_s = time.perf_counter() - then
            watch.enter("step")
            trace.begin(step + 1)
            # The device still works on the step before: what follows returns at once, so that
            # the batch is there when its turn comes. Copies that nobody asked for raise.
            batch = sharding.put_batch(local, batch_place, rows)
            with jax.transfer_guard("disallow"):
                state, values = train_step(state, batch)
            trace.end(step + 1, values)
            waiting.append((step + 1, values, local))
    if stop:
        logging.warning(
            "stopped at step %d of %d, saved; the same command resumes", step, run.steps
        )
    return STOPPED_EARLY if stop else 0


class Trace:
    """A trace of some steps by ``jax.profiler``, of the whole process."""

    def __init__(self, folder: pathlib.Path, steps: tuple[int, ...]):
        """Trace from the first to the last of ``steps``; () for none."""
        self.folder, self.steps, self.running = folder, steps, False

    def begin(self, step: int) -> None:
        """Start before the first step."""
        if self.steps and step == self.steps[0]:
            jax.profiler.start_trace(self.folder)
            self.running = True

    def end(self, step: int, values: dict) -> None:
        """Wait for the last step, and stop."""
        if self.running and step == self.steps[1]:
            jax.block_until_ready(values)
            self.close()

    def close(self) -> None:
        """Write what was traced."""
        if self.running:
            self.running = False
            jax.profiler.stop_trace()
            logging.info("the trace of steps %s to %s is in %s", *self.steps, self.folder)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A config's train step on a mesh before anything is computed: to train with, to measure, or to
    compile for devices that are not there.

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
    run = configs.call(Run, config["train"], "config.train")
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
    step = make_train_step(
        objective,
        tx,
        schedule,
        seed=config["seed"],
        accumulate=run.accumulate,
        averaging=averaging,
        freeze=rest.get("freeze", ()),
        skip_not_finite=run.skip_not_finite,
    )
    return Plan(mesh, init, make, state, batch, step)


def begin(plan: Plan, weights: warm_start.Weights | None) -> tuple[TrainState, dict]:
    """Return the state and the ``meta`` of a run that begins, from other weights where given."""
    state, meta = plan.make(), {"offset": 0, "evaluated": True}
    if weights is None:
        return state, meta
    return warm_start.begin_from(state, weights), {**meta, "init_from": weights.told}


def check_batch_size(objective: nn.Module, run: Run, mesh: jax.sharding.Mesh) -> None:
    """Refuse what would silently change the objective, or cannot be cut evenly."""
    if run.accumulate > 1 and getattr(objective, "couples_batch", False):
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


def save_batch(workdir: pathlib.Path, step: int, local: dict) -> None:
    """Save this process's rows of a batch whose loss or gradient is not finite, for inspection."""
    folder = workdir / "not_finite"
    folder.mkdir(exist_ok=True)
    process = jax.process_index()
    np.savez_compressed(folder / f"batch_of_step_{step}_process_{process}.npz", **local)
    files = sorted(folder.glob(f"*_process_{process}.npz"), key=lambda path: path.stat().st_mtime)
    for path in files[:-NOT_FINITE_BATCHES]:
        path.unlink()


def stop_not_finite(
    workdir: pathlib.Path, step: int, state: TrainState, values: dict, meta: dict
) -> None:
    """Save the state that met a batch of which loss or gradient is not finite, and raise.

    Args:
        workdir: the run's; the state goes to its ``not_finite``, which is laid out like a workdir.
        step: of the batch, counted from 1.
        state: as before the step (see ``make_train_step``).
        values: the step's metrics.
        meta: as for ``Checkpoints.save``.
    """
    folder, wrong = workdir / "not_finite", states.not_finite(state)
    with contextlib.closing(checkpoint.Checkpoints(folder)) as keep:
        keep.save(step - 1, state, meta)
    if wrong:
        raise NonFiniteError(
            f"step {step}: the state before it was not finite already ({', '.join(wrong[:5])}),"
            f" which no step leaves behind; it is in {folder}/checkpoints/{step - 1}. Is the device"
            f" broken? Remove the newest of {workdir}/checkpoints, and resume"
        )
    raise NonFiniteError(
        f"step {step}: loss={values['loss']}, grad_norm={values['grad_norm']}, or statistics that"
        f" are not finite. The batch is in {folder}, and in its checkpoints/{step - 1} the state"
        " that met it; the run's own checkpoints are from before. To pass over such batches, allow"
        " some in a row: --config.train.skip_not_finite=3"
    )


def speed(traced, mesh: jax.sharding.Mesh, measure: bool) -> tuple[float, float | None]:
    """Return the step's floating-point operations and the devices' rate in its commonest dtype."""
    counts = flops.matrix_flops(traced.jaxpr) or {"float32": 0.0}
    dtype = max(counts, key=counts.get)
    return sum(counts.values()), flops.matmul_rate(mesh, dtype) if measure else None
