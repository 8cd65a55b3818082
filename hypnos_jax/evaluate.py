"""Evaluate checkpoints: the same evaluators in the training loop and as a job of their own.

``config.evals`` maps a name to ``{"type": <file in evaluators/>, "every": when, ...options}``;
``every`` is a number of steps, ``"final"`` (the last step, and the job) or ``"job"`` (only
``launch.evaluate``). An evaluator is a class ``(context, **options)`` with
``run(variables, step) -> iterator of (metric, float)``; it sees the ``Context`` and nothing else
of the trainer. Numbers and "final" ones are part of the job too.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator

import flax.linen as nn
import jax
from absl import logging

from data_pipelines import pipeline
from data_pipelines.store import NightStore
from hypnos_jax import batch as batches
from hypnos_jax import checkpoint, distributed, plugins, sharding
from hypnos_jax import config as configs
from hypnos_jax import state as states


class Interrupted(Exception):
    """The run was asked to stop; what was evaluated so far is not a result."""


class Context:
    """What an evaluator may use.

    Attributes:
        workdir: the run's folder; pictures go to ``workdir/figures``.
        config: the resolved config.
    """

    def __init__(
        self,
        config: dict,
        objective: nn.Module,
        init: Callable[[int], dict],
        mesh: jax.sharding.Mesh,
        workdir: pathlib.Path,
        stop: Callable[[], bool] = lambda: False,
    ):
        self.config, self.workdir, self._stop = config, pathlib.Path(workdir), stop
        self._objective, self._init, self._mesh = objective, init, mesh
        self._jitted, self._sources, self._alone, self._whole = {}, {}, None, None

    def functions(self, name: str, mutable: tuple[str, ...] | None = None) -> Callable:
        """Return a jitted function ``(variables, batch, ...) -> result`` of an objective's method.

        The result is whole on every process.

        Args:
            name: ``"__call__"`` (which returns the ``Loss``, not training), ``"embed"``, or a
                method that one family has.
            mutable: collections that the function returns beside the result; None for the result
                alone.
        """
        if (name, mutable) not in self._jitted:
            if not hasattr(self._objective, name):
                raise configs.ConfigError(f"{type(self._objective).__name__} has no {name!r}")
            options = {"train": False} if name == "__call__" else {}
            options["mutable"] = False if mutable is None else list(mutable)

            def apply(variables, batch, *given):
                if name == "__call__" and hasattr(self._objective, "weigh"):
                    batch = self._objective.weigh(batch)
                return self._objective.apply(variables, batch, *given, method=name, **options)

            whole = sharding.replicated(self._mesh)
            self._jitted[name, mutable] = jax.jit(apply, out_shardings=whole)
        return self._jitted[name, mutable]

    def fetch(self, arrays: dict) -> dict:
        """Return arrays that are spread over the devices, whole on every process, as numpy."""
        if self._whole is None:
            whole = sharding.replicated(self._mesh)
            self._whole = jax.jit(lambda x: x, out_shardings=whole)
        return jax.device_get(self._whole(arrays))

    @contextlib.contextmanager
    def alone(self, variables: dict) -> Iterator[tuple[Context, dict]]:
        """Give this context and the variables on one device of this process.

        For work of which every process does all: each gets the same, and process 0 writes it.
        """
        whole = jax.jit(lambda x: x, out_shardings=sharding.replicated(self._mesh))(variables)
        if self._alone is None:
            mesh = sharding.make_mesh(data=1, devices=jax.local_devices()[:1])
            own = (self.config, self._objective, self._init, mesh, self.workdir, self._stop)
            self._alone = Context(*own)
        place = sharding.replicated(self._alone._mesh)
        with jax.set_mesh(self._alone._mesh):
            here = jax.tree.map(lambda x: jax.device_put(x.addressable_data(0), place), whole)
            yield self._alone, here

    def go_on(self) -> None:
        """Say that the evaluation goes on: every few seconds, and as often on every process.

        ``batches`` does so by itself.

        Raises:
            Interrupted: the run was asked to stop; let it pass.
        """
        if self._stop():
            raise Interrupted

    def attribute(self, name: str, default=None):
        """Return a plain attribute or property of the objective, such as ``reach``."""
        return getattr(self._objective, name, default)

    def init(self, seed: int) -> dict:
        """Return freshly initialised variables: the baseline of every probe."""
        return states.jit_once(lambda: nn.unbox(self._init(seed)))()

    def source(self, split: str) -> pipeline.Source:
        """Return the data of one split (``"train"``, ``"validation"``, ``"test"``)."""
        if split not in self._sources:
            self._sources[split] = load_source(self.config, self.workdir, split=split)
        return self._sources[split]

    @property
    def store(self):
        """The ``NightStore`` behind the data."""
        return self.source("train").store

    def batches(
        self, split: str, batch_size: int | None = None, limit: int | None = None
    ) -> Iterator[dict]:
        """Yield a split's examples in order, each once, as batches on the devices.

        A split that holds nothing yields nothing, with a warning: small cohorts have such splits.

        Args:
            split: which nights.
            batch_size: rows; rounded up to what the mesh divides. The training's by default.
            limit: at most this many batches.
        """
        place = sharding.batch_sharding(self._mesh)
        shards = self._mesh.shape["data"] * self._mesh.shape["fsdp"]
        rows = -(-(batch_size or self.config["train"]["batch_size"]) // shards) * shards
        lo, hi = sharding.host_rows(place, rows)
        try:
            source = self.source(split)
        except pipeline.EmptySplitError as error:
            logging.warning("%s: evaluated on nothing", error)  # a run need not end for it
            return
        for batch in source.evaluation_batches(rows, limit):
            self.go_on()
            yield sharding.put_batch({k: v[lo:hi] for k, v in batch.items()}, place, rows)


class Evaluators:
    """The evaluators of one config, and when each is due."""

    def __init__(self, evals: dict, context: Context):
        """Build every evaluator.

        Raises:
            ConfigError: an unknown type, option or ``every``.
        """
        self.all = {}
        for name, options in evals.items():
            options, where = dict(options), f"config.evals.{name}"
            kind, every = options.pop("type", name), options.pop("every", "final")
            if every not in ("final", "job") and not (isinstance(every, int) and every > 0):
                raise configs.ConfigError(
                    f"{where}.every={every!r}; give a number of steps, 'final' or 'job'"
                )
            evaluator = configs.call(
                plugins.load("evaluators", kind), options, where, context=context
            )
            self.all[name] = (every, evaluator)

    def due(self, step: int, *, last: bool) -> bool:
        """Whether any evaluator of the loop runs after this many updates."""
        return any(_due(every, step, last) for every, _ in self.all.values())

    def run(self, variables: dict, step: int, *, last: bool) -> Iterator[dict[str, float]]:
        """Yield ``{"eval/<name>/<metric>": value}`` of each evaluator that is due."""
        for name, (every, evaluator) in self.all.items():
            if _due(every, step, last):
                yield results(name, evaluator, variables, step)


def _due(every: int | str, step: int, last: bool) -> bool:
    if every == "job" or step == 0:
        return False
    return last or (every != "final" and step % every == 0)


def results(name: str, evaluator, variables: dict, step: int) -> dict[str, float]:
    """Run one evaluator; return ``{"eval/<name>/<metric>": value}``."""
    return {f"eval/{name}/{key}": float(value) for key, value in evaluator.run(variables, step)}


def load_source(config: dict, workdir: pathlib.Path, *, split: str) -> pipeline.Source:
    """Open ``config.data`` for one split.

    Without a path the data are a tiny synthetic store, written into the workdir once.

    Raises:
        ConfigError: no name, or an option that the source does not have.
        PipelineError: the store does not fit.
        StoreError: the path is not a store.
    """
    options = {key: value for key, value in config["data"].items() if key != "fill"}
    name, path = options.pop("name", ""), options.pop("path", "")
    if name not in pipeline.source_names():
        raise configs.ConfigError(
            f"config.data.name={name!r}: {configs.nearest(name, pipeline.source_names())}"
        )
    if not path:
        path = pathlib.Path(workdir) / "synthetic"
        distributed.once(
            "the synthetic store",
            lambda: path.exists() or pipeline.write_synthetic(name, path, config["seed"]),
        )
    store = NightStore(path)
    return configs.call(
        pipeline.find_source(name).open_source,
        options,
        "config.data",
        store=store,
        split=split,
        seed=config["seed"],
    )


def evaluate(
    workdir: str | os.PathLike, *, step: int | None = None, changes: dict | None = None
) -> dict[str, float]:
    """Evaluate a run's checkpoint with every evaluator of its config, whatever its ``every``.

    Args:
        workdir: the run's folder; gets ``evaluation.json``.
        step: which checkpoint; the newest good one by default.
        changes: dotted config key -> value, such as ``{"evals.probe.nights": PATH}``.

    Returns:
        ``eval/<name>/<metric>`` -> value.

    Raises:
        CheckpointError: no checkpoint that can be trusted.
        ConfigError: an evaluator or option that does not exist.
    """
    workdir = pathlib.Path(workdir)
    config, step, variables = checkpoint.restore_variables(workdir, step)
    config = configs.change(config, changes or {})
    objective = configs.make_objective(config)
    mesh = sharding.make_mesh(data=1, devices=jax.local_devices()[:1])
    with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
        spec = batch_spec(load_source(config, workdir, split="train"), 1)
        init = states.init_function(objective, spec)
        context = Context(config, objective, init, mesh, workdir)
        evaluators = Evaluators(config["evals"], context)
        variables = jax.device_put(variables, sharding.replicated(mesh))
        found = {}
        for name, (_, evaluator) in evaluators.all.items():
            logging.info("evaluating %s at step %d", name, step)
            found |= results(name, evaluator, variables, step)
    partial = workdir / "evaluation.json.tmp"
    partial.write_text(json.dumps({"step": step, "results": found}, indent=1) + "\n")
    os.replace(partial, workdir / "evaluation.json")
    return found


def batch_spec(source: pipeline.Source, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of a batch of so many rows, from one example of the data.

    Raises:
        BatchError: the example does not keep the batch contract.
    """
    example = source.examples(0, 1)
    batches.check_batch(example, 1)
    return {
        name: jax.ShapeDtypeStruct((rows, *value.shape[1:]), value.dtype)
        for name, value in example.items()
    }
