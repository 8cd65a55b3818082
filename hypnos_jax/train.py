"""Train any objective: the loop around one step for every family.

Read ``train``, then ``hypnos_jax/step.py``. The loop's order is: evaluate, save, draw the batch,
step. A saved step has therefore not yet drawn its batch, and a resumed run is the same run, bit
for bit. The global batch at a step is a pure function of (seed, step), whatever the number of
hosts; so are the random streams.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
from absl import logging

from hypnos_jax import batch as batches
from hypnos_jax import (
    checkpoint,
    checkpoint_choice,
    evaluate,
    judgement,
    metrics,
    non_finite,
    sharding,
    warm_start,
)
from hypnos_jax import config as configs
from hypnos_jax.cost import flops
from hypnos_jax.cost.cost import cost as cost_of_config
from hypnos_jax.nn import backend
from hypnos_jax.runtime import compile_cache, distributed, preemption, profiler, seals, watchdog
from hypnos_jax.runtime.exit_codes import STOPPED_EARLY
from hypnos_jax.runtime.files import write_json
from hypnos_jax.state import TrainState
from hypnos_jax.step import Plan, TrainOptions, check_batch_size, make_plan


def train(config, workdir: str | pathlib.Path) -> int:
    """Run a config to its last step, resuming what ``workdir`` holds.

    Args:
        config: a ConfigDict (``hypnos_jax/config.py`` has its sections).
        workdir: the run's folder; gets ``config.json``, ``metrics.jsonl``, ``checkpoints/``.

    Returns:
        0 when the run is over, by its last step or by ``config.train.stop_after``; the log's last
        sentence and ``finished.json`` then say how it went. ``exit_codes.STOPPED_EARLY`` after a
        signal, and saved (where ``distributed.initialize`` was called).

    Raises:
        ConfigError: an unknown key, or another config than the one ``workdir`` began with.
        NonFiniteError: the loss or the gradient is not finite.
    """
    workdir = pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    config = configs.resolve(config)
    with contextlib.ExitStack() as stack:
        watch = configs.call(watchdog.Watchdog, config["watchdog"], "config.watchdog")
        stack.enter_context(watch)
        run = open_run(config, workdir, watch, stack)
        if preemption.requested():  # nothing is new, and compiling may take minutes
            return STOPPED_EARLY
        if run.is_over:
            run.finish(run.start)
            return 0
        run.compile()
        # Collectives have deadlines of their own, shorter than some compilations.
        startup_s = watch.may_take_s["start-up"]
        distributed.barrier("compiling the train step", timeout_s=startup_s)

        state, options, start = run.state, run.options, run.start
        logging.info(
            "%d steps of %d rows: %.1f passes over %d examples",
            options.steps,
            options.batch_size,
            run.passes(options.steps),
            run.source.num_examples,
        )
        for step in range(start, options.steps + 1):
            watch.enter("step")
            last = step == options.steps or run.judgement.over(options.stop_after)
            stop, due, evaluated = preemption.requested(), run.checkpoints.due(step), {}
            pause = last or stop or due or run.evaluators.due(step, last=last)
            run.log.flush(0 if pause else 1, state)
            offset = run.writer.offset() if pause else 0
            if (step > start or not run.meta["evaluated"]) and not stop:
                watch.enter("evaluation")
                try:
                    last, evaluated, due = run.evaluate(step, state, last=last, due=due)
                except evaluate.Interrupted:
                    # The resumed run evaluates this step, from the beginning.
                    stop = True
                else:
                    offset = run.writer.offset() if pause else 0
            watch.enter("save")
            if step > start and (last or stop or due):
                run.save(step, state, offset, evaluated, stopped=stop)
            elif step == start and evaluated:  # what the run resumed from
                run.checkpoints.judge(step, evaluated)
            if last or stop:
                break
            if pause:
                run.clock.restart()
            watch.enter("data")
            then = time.perf_counter()
            local = next(run.feed)
            run.clock.data_s = time.perf_counter() - then
            watch.enter("step")
            run.trace.begin(step + 1)
            # The device still works on the step before: what follows returns at once, so that
            # the batch is there when its turn comes. Copies that nobody asked for raise.
            batch = sharding.put_batch(local, run.batch_place, options.batch_size)
            with jax.transfer_guard("disallow"):
                state, values = run.train_step(state, batch)
            run.trace.end(step + 1, values)
            run.log.add(step + 1, values, local)
        if not stop:
            watch.enter("save")
            run.finish(step)
    if stop:
        logging.warning(
            "stopped at step %d of %d, saved; the same command resumes", step, options.steps
        )
    return STOPPED_EARLY if stop else 0


@dataclasses.dataclass
class TrainingRun:
    """Everything that the loop uses, opened: data, plan, state, evaluators, files.

    ``compile`` adds what only a run that will step needs.
    """

    config: dict
    workdir: pathlib.Path
    options: TrainOptions
    log_options: metrics.LogOptions
    plan: Plan
    source: Any
    state: TrainState
    meta: dict
    judgement: judgement.Judgement
    checkpoints: checkpoint.Checkpoints
    evaluators: evaluate.Evaluators
    stack: contextlib.ExitStack
    train_step: Callable = None
    feed: Iterator[dict] = None
    writer: metrics.Writer = None
    clock: metrics.Clock = None
    trace: profiler.Trace = None
    log: StepLog = None

    @property
    def start(self) -> int:
        """Updates that were made before."""
        return int(self.state.step)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do of what was begun before."""
        ended = self.start == self.options.steps or self.judgement.over(self.options.stop_after)
        return ended and self.start > 0 and self.meta["evaluated"]

    def passes(self, step: int) -> float:
        """Passes over the training data that so many steps make."""
        return step * self.options.batch_size / self.source.num_examples

    @property
    def batch_place(self) -> jax.sharding.NamedSharding:
        """Where the rows of a batch go."""
        return sharding.batch_sharding(self.plan.mesh)

    def compile(self) -> None:
        """Compile the step once: an input of another shape or sharding then raises."""
        traced = self.plan.trace()
        self.train_step = traced.lower().compile()
        if distributed.is_first():
            self._write_cost(traced)
        logs, close = self.log_options, self.stack.callback
        self.writer = metrics.Writer(
            self.workdir,
            step=self.start,
            offset=self.meta["offset"],
            tensorboard=logs.tensorboard,
        )
        close(self.writer.close)
        speed = flops.speed(traced, self.plan.mesh, logs.mfu)
        self.clock = metrics.Clock(*speed, steps=self.options.steps)
        rows = self.options.batch_size
        lo, hi = sharding.host_rows(self.batch_place, rows)
        self.feed = self.source.batches(rows, lo, hi, self.start)
        close(self.feed.close)
        traces = self.workdir / "profile"
        if jax.process_count() > 1:  # the profiler names files by host
            traces = traces / f"process_{jax.process_index()}"
        self.trace = profiler.Trace(traces, logs.profile)
        close(self.trace.close)
        self.log = StepLog(self)

    def evaluate(
        self, step: int, state, *, last: bool, due: bool
    ) -> tuple[bool, dict[str, float], bool]:
        """Run the evaluators that are due, log what they find, and judge the run by it.

        Args:
            step: updates made.
            state: of the loop.
            last: whether the run ends here.
            due: whether a checkpoint is due.

        Returns:
            Whether the run ends here now, what was found, and whether to save: a new best is saved
            wherever it is met.

        Raises:
            Interrupted: the run was asked to stop; the judgement is as it was.
        """
        found, variables = {}, state.variables()

        def take(values):
            self.writer.write(step, values)
            logging.info("step %d: %s", step, metrics.words(values))
            found.update(values)

        for values in self.evaluators.run(variables, step, last=last):
            take(values)
        if not found:
            return last, found, due
        new = dataclasses.replace(self.judgement)
        # Processes that judged differently would wait for each other. How long others may still
        # evaluate is the watchdog's to say.
        own = found.get(new.metric)
        judged = distributed.broadcast("the run's metric", own, timeout_s=math.inf)
        best = judged is not None and new.add(step, {new.metric: judged})
        if new.over(self.options.stop_after) and not last:
            last = True
            logging.info("step %d: config.train.stop_after ends the run", step)
            for values in self.evaluators.run(variables, step, last=True, only_last=True):
                take(values)
        if warning := new.warning(self.passes(step)):
            logging.warning("step %d: %s", step, warning)
        self.judgement = new
        return last, found, due or (best and self.checkpoints.keep_best > 0)

    def finish(self, step: int) -> None:
        """Wait for the last save, and say how the whole run went."""
        self.checkpoints.wait()
        if not distributed.is_first():
            return
        told, best = self.judgement.summary(step, self.passes(step)), self.checkpoints.best_kept()
        if seals.saved(self.workdir):
            taken = checkpoint_choice.reason(
                self.workdir,
                step if best is None else best,
                measure=(self.checkpoints.best_metric, self.checkpoints.best),
            )
            told += f". Evaluation, export and embedding take {taken}"
        logging.info("%s", told)
        content = {
            "step": step,
            "steps": self.options.steps,
            "passes": self.passes(step),
            "judgement": dataclasses.asdict(self.judgement),
            "best_kept": best,
        }
        write_json(self.workdir / judgement.FINISHED, content)

    def save(self, step: int, state, offset: int, evaluated: dict, *, stopped: bool) -> None:
        """Save a checkpoint; the time that it holds up the loop is measured."""
        then = time.perf_counter()
        meta = {
            "config": self.config,
            "code": configs.code_version(),
            "samples": step * self.options.batch_size,  # drawn so far: the position in the data
            "offset": offset,
            "evaluated": not stopped,
            "not_finite": int(state.not_finite),
            "judgement": dataclasses.asdict(self.judgement),
            "init_from": self.meta.get("init_from"),  # what the run began from
        }
        self.checkpoints.save(step, state, meta, evaluated)
        self.clock.save_s += time.perf_counter() - then

    def _write_cost(self, traced) -> None:
        if backend.platform() == "cpu":
            same = (traced, self.plan.state, self.plan.batch, self.source.token_s)
            cost = flops.step_cost(*same)
        else:  # a trace more, to count what kernels hide
            cost = cost_of_config(self.config)
        cost = {**dataclasses.asdict(cost), "examples_per_epoch": self.source.num_examples}
        write_json(self.workdir / "cost.json", cost)


class StepLog:
    """Metrics of steps that the device may still be working on.

    Reading the newest loss would stall the device, so step k - 1 is written at step k.
    """

    def __init__(self, run: TrainingRun):
        """Begin with none."""
        self._run = run
        self._waiting = collections.deque()  # (step, metrics on the device, the host's batch)

    def add(self, step: int, values: dict, local: dict) -> None:
        """Take a step's metrics, and its batch in case that it is not finite."""
        self._waiting.append((step, values, local))

    def flush(self, keep_back: int, state: TrainState) -> None:
        """Write all but the newest ``keep_back`` steps.

        Args:
            keep_back: steps to leave.
            state: of the loop; what is saved where a step was not finite.

        Raises:
            NonFiniteError: more batches in a row than ``skip_not_finite`` allows were not finite.
        """
        run = self._run
        while len(self._waiting) > keep_back:
            step, values, local = self._waiting.popleft()
            values = {name: float(value) for name, value in jax.device_get(values).items()}
            in_a_row = int(values.pop("not_finite"))
            if in_a_row:
                non_finite.save_batch(run.workdir, step, local)
            if in_a_row > run.options.skip_not_finite:
                non_finite.stop(run.workdir, step, state, values, {"config": run.config})
            values = {name: value for name, value in values.items() if math.isfinite(value)}
            if in_a_row:
                logging.error("step %d is skipped: loss or gradient is not finite", step)
                values |= {"loss": math.nan, "grad_norm": math.nan, "skipped": in_a_row}
            values |= run.clock.read(values.pop("valid") * run.source.token_s)
            run.writer.write(step, values)
            if step % run.log_options.every == 0 or step == run.options.steps:
                logging.info("%s", run.clock.line(step, values))


def open_run(
    config: dict,
    workdir: pathlib.Path,
    watch: watchdog.Watchdog,
    stack: contextlib.ExitStack,
) -> TrainingRun:
    """Open everything of a run but its compiled step; the processes agree on all of it.

    Args:
        config: resolved.
        workdir: the run's folder.
        watch: told where the run is.
        stack: closes what is opened; the mesh and the sharding rules hold until then.

    Raises:
        ConfigError: see ``train``.
    """
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
    source = batches.load_source(config, workdir, split="train")
    config = configs.fill(config, source.describe())
    options = configs.call(TrainOptions, config["train"], "config.train")
    log_options = configs.call(metrics.LogOptions, config["logs"], "config.logs")
    distributed.agree({"data": source.describe()}, timeout_s=startup_s)
    compile_cache.keep(log_options.compile_cache)
    mesh = configs.call(sharding.make_mesh, config["mesh"], "config.mesh")
    objective = configs.make_objective(config)
    check_batch_size(objective, options, mesh)
    stack.enter_context(jax.set_mesh(mesh))
    stack.enter_context(nn.logical_axis_rules(sharding.RULES))
    stack.enter_context(distributed.telling_others())
    plan = make_plan(config, objective, mesh, batches.batch_spec(source, options.batch_size))

    def asked_to_stop() -> bool:
        watch.enter("evaluation")
        return preemption.requested()

    context = evaluate.Context(config, objective, plan.init, mesh, workdir, asked_to_stop)
    evaluators = evaluate.Evaluators(config["evals"], context)
    weights = None
    if options.init_from and not distributed.once(
        "whether there is anything to resume", lambda: seals.saved(workdir)
    ):
        given = (options.init_from, options.init_subtrees, options.init_fresh)
        weights = warm_start.choose(plan.state, *given)
        distributed.agree({"config.train.init_from": weights.provenance}, timeout_s=startup_s)
    # Only a config that could be built is written: a typo does not occupy the folder.
    distributed.once(
        "the run's folder",
        lambda: configs.agree_with_workdir(config, source.describe(), workdir),
    )
    checkpoints = configs.call(
        checkpoint.Checkpoints,
        config["checkpoints"],
        "config.checkpoints",
        workdir=workdir,
        jobs=evaluate.of_jobs(config["evals"]),
    )
    stack.callback(checkpoints.close)
    state, meta = checkpoints.restore(plan.state) or begin(plan, weights)
    if int(state.step) > options.steps:
        raise configs.ConfigError(
            f"config.train.steps={options.steps}, but {workdir} has a checkpoint of step"
            f" {int(state.step)}; give as many steps or more, or another --workdir"
        )
    judged = judgement.Judgement.resumed(
        meta.get("judgement"), checkpoints.best_metric, checkpoints.best
    )
    if int(state.step) < options.steps and not judged.over(options.stop_after):
        distributed.once(
            "the end of the run", lambda: (workdir / judgement.FINISHED).unlink(missing_ok=True)
        )
    if int(state.not_finite) > options.skip_not_finite:  # skipped when more were allowed
        state = state.replace(not_finite=0 * state.not_finite)
    return TrainingRun(
        config=config,
        workdir=workdir,
        options=options,
        log_options=log_options,
        plan=plan,
        source=source,
        state=state,
        meta=meta,
        judgement=judged,
        checkpoints=checkpoints,
        evaluators=evaluators,
        stack=stack,
    )


def begin(plan: Plan, weights: warm_start.Weights | None) -> tuple[TrainState, dict]:
    """Return the state and the ``meta`` of a run that begins, from other weights where given."""
    state, meta = plan.make(), {"offset": 0, "evaluated": True}
    if weights is None:
        return state, meta
    return warm_start.begin_from(state, weights), {**meta, "init_from": weights.provenance}
