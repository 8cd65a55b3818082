"""Evaluate checkpoints: the same evaluators in the training loop and as a job of their own.

``config.evals`` maps a name to ``{"type": <file in evaluators/>, "every": when, ...options}``;
``every`` is a number of steps, ``"final"`` (the last step) or ``"job"``: never in the training,
which does not even import it, but by a job that follows the checkpoints (``jobs/eval_job.py``).
``evaluate`` runs them all on one checkpoint, or on an exported model. An evaluator is a class
``(context, **options)`` with ``run(variables, step) -> iterator of (metric, float)``; it sees the
``Context`` and nothing else of the trainer.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator

import flax.linen as nn
import jax
from absl import logging

from data_pipelines import pipeline
from hypnos_jax import batch as batches
from hypnos_jax import checkpoint, checkpoint_choice, plugins, sharding
from hypnos_jax import config as configs
from hypnos_jax import state as states
from hypnos_jax.export.model import load_model
from hypnos_jax.objectives import Weighs
from hypnos_jax.runtime.files import write_json

RUN = "run.json"  # of an export: {"config": the run's resolved config, ...}


class Interrupted(Exception):
    """The run was asked to stop; what was evaluated so far is not a result."""


class Context:
    """The model, data and devices that an evaluator may use.

    Attributes:
        workdir: where an evaluator writes; the run's folder, or of a job's result a folder of its
            own, another at each step. Pictures go to ``workdir/figures``.
        config: the resolved config.
        trained: the config that the model was trained with, where ``config`` may differ.
    """

    def __init__(
        self,
        config: dict,
        objective: nn.Module,
        init: Callable[[int], dict],
        mesh: jax.sharding.Mesh,
        workdir: pathlib.Path,
        stop: Callable[[], bool] = lambda: False,
        trained: dict | None = None,
    ):
        self.config, self.workdir, self._stop = config, pathlib.Path(workdir), stop
        self.trained = config if trained is None else trained
        self._home = self.workdir  # of synthetic data
        self._objective, self._init, self._mesh = objective, init, mesh
        self._jitted, self._sources, self._one_device, self._whole = {}, {}, None, None

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
                if name == "__call__" and isinstance(self._objective, Weighs):
                    batch = self._objective.weigh(batch)
                return self._objective.apply(variables, batch, *given, method=name, **options)

            whole = sharding.replicated(self._mesh)
            self._jitted[name, mutable] = jax.jit(apply, out_shardings=whole)
        return self._jitted[name, mutable]

    def fetch(self, arrays: dict) -> dict:
        """Return arrays that are spread over the devices, whole on every process, as numpy."""
        return jax.device_get(self._gather(arrays))

    def _gather(self, arrays: dict) -> dict:
        if self._whole is None:
            whole = sharding.replicated(self._mesh)
            self._whole = jax.jit(lambda x: x, out_shardings=whole)
        return self._whole(arrays)

    def on(self, data: dict) -> Context:
        """Return this context on other data, with the programs that are compiled already.

        Args:
            data: what ``config.data`` would be.
        """
        other = copy.copy(self)
        other.config, other._sources, other._one_device = {**self.config, "data": data}, {}, None
        return other

    @contextlib.contextmanager
    def on_one_device(self, variables: dict) -> Iterator[tuple[Context, dict]]:
        """Give this context and the variables on one device of this process.

        For work of which every process does all: each gets the same, and process 0 writes it.
        """
        whole = self._gather(variables)
        if self._one_device is None:
            mesh = sharding.make_mesh(data=1, devices=jax.local_devices()[:1])
            self._one_device = Context(
                self.config, self._objective, self._init, mesh, self.workdir, self._stop
            )
        place = sharding.replicated(self._one_device._mesh)
        with jax.set_mesh(self._one_device._mesh):
            here = jax.tree.map(lambda x: jax.device_put(x.addressable_data(0), place), whole)
            yield self._one_device, here

    def heartbeat(self) -> None:
        """Give a heartbeat: reset the watchdog. Call it every few seconds, equally often on all
        processes; ``batches`` does so by itself.

        Raises:
            Interrupted: the run was asked to stop; do not catch it.
        """
        if self._stop():
            raise Interrupted

    def can(self, ability: type) -> bool:
        """Whether the objective has an ability: a protocol of ``hypnos_jax.objectives``."""
        return isinstance(self._objective, ability)

    def attribute(self, name: str, default=None):
        """Return a plain attribute or property of the objective, such as ``reach``."""
        return getattr(self._objective, name, default)

    def init(self, seed: int) -> dict:
        """Return freshly initialised variables: the baseline of every probe."""
        if ("init", seed) not in self._jitted:
            self._jitted["init", seed] = states.jit_once(lambda: nn.unbox(self._init(seed)))
        return self._jitted["init", seed]()

    def source(self, split: str) -> pipeline.Source:
        """Return the data of one split (``"train"``, ``"validation"``, ``"test"``)."""
        if split not in self._sources:
            self._sources[split] = batches.load_source(self.config, self._home, split=split)
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
        batch_size = batch_size or self.config["train"].get("batch_size")
        if not batch_size:
            raise configs.ConfigError("config.train.batch_size is missing; give a number of rows")
        rows = -(-batch_size // shards) * shards
        lo, hi = sharding.host_rows(place, rows)
        try:
            source = self.source(split)
        except pipeline.EmptySplitError as error:
            logging.warning("%s: evaluated on nothing", error)  # a run need not end for it
            return
        for batch in source.evaluation_batches(rows, limit):
            self.heartbeat()
            yield sharding.put_batch({k: v[lo:hi] for k, v in batch.items()}, place, rows)


class Evaluators:
    """Some of the evaluators of one config, and when each is due."""

    def __init__(self, evals: dict, context: Context, *, jobs: bool | None = False):
        """Build evaluators.

        Args:
            evals: all that the config has.
            context: what they may use.
            jobs: whether those of an eval job are built, or the others, or (None) all. Of the rest
                it is only made sure that there are such types: what they import may be missing.

        Raises:
            ConfigError: an unknown option or ``every``.
            ValueError: an unknown type.
        """
        self.all = {}
        for name, options in evals.items():
            options, where = dict(options), f"config.evals.{name}"
            kind, every = options.pop("type", name), options.pop("every", "final")
            if every not in ("final", "job") and not (isinstance(every, int) and every > 0):
                raise configs.ConfigError(
                    f"{where}.every={every!r}; give a number of steps, 'final' or 'job'"
                )
            if jobs is not None and jobs != (every == "job"):
                plugins.require("evaluators", kind)
                continue
            evaluator = configs.call(
                plugins.load("evaluators", kind), options, where, context=context
            )
            self.all[name] = (every, evaluator)

    def due(self, step: int, *, last: bool) -> bool:
        """Whether any evaluator of the loop runs after this many updates."""
        return any(_due(every, step, last) for every, _ in self.all.values())

    def run(
        self, variables: dict, step: int, *, last: bool, only_last: bool = False
    ) -> Iterator[dict[str, float]]:
        """Yield ``{"eval/<name>/<metric>": value}`` of each evaluator that is due.

        Args:
            variables: of the model.
            step: updates made.
            last: whether the run ends with this step.
            only_last: leave out those that are due at this step of any run.
        """
        for name, (every, evaluator) in self.all.items():
            if _due(every, step, last) and not (only_last and _due(every, step, False)):
                yield results(name, evaluator, variables, step)


def of_jobs(evals: dict) -> list[str]:
    """Return the names of the evaluators that eval jobs run."""
    return [name for name, options in evals.items() if options.get("every") == "job"]


def _due(every: int | str, step: int, last: bool) -> bool:
    if every == "job" or step == 0:
        return False
    return last or (every != "final" and step % every == 0)


def results(name: str, evaluator, variables: dict, step: int) -> dict[str, float]:
    """Run one evaluator; return ``{"eval/<name>/<metric>": value}``."""
    return {f"eval/{name}/{key}": float(value) for key, value in evaluator.run(variables, step)}


class Evaluation:
    """Evaluators of one config on one device of this process: prepared, and compiled, once for all
    of a run's checkpoints.

    Attributes:
        names: of the evaluators.
    """

    def __init__(
        self, config: dict, home: pathlib.Path, *, trained: dict, jobs: bool | None = None
    ):
        """Open the data and build the evaluators.

        Args:
            config: resolved and filled.
            home: the run's folder, or what stands for it; where data without a path are.
            trained: the config as the model was trained with it.
            jobs: see ``Evaluators``.

        Raises:
            ConfigError, ValueError, StoreError: the config does not fit the program or the data.
        """
        objective = configs.make_objective(config)
        self._mesh = sharding.make_mesh(data=1, devices=jax.local_devices()[:1])
        with self._scope():
            spec = batches.batch_spec(batches.load_source(config, home, split="train"), 1)
            init = states.init_function(objective, spec)
            self._context = Context(config, objective, init, self._mesh, home, trained=trained)
            self._all = Evaluators(config["evals"], self._context, jobs=jobs).all
        self.names = list(self._all)

    @contextlib.contextmanager
    def _scope(self):
        with jax.set_mesh(self._mesh), nn.logical_axis_rules(sharding.RULES):
            yield

    def place(self, variables: dict) -> dict:
        """Return a checkpoint's variables on the device."""
        return jax.device_put(variables, sharding.replicated(self._mesh))

    def results(
        self, name: str, variables: dict, step: int, output: pathlib.Path
    ) -> dict[str, float]:
        """Run one evaluator; return ``{"eval/<name>/<metric>": value}``.

        Args:
            name: one of ``names``.
            variables: from ``place``.
            step: updates made.
            output: folder for what it writes beside.
        """
        self._context.workdir = output
        with self._scope():
            return results(name, self._all[name][1], variables, step)


def evaluate(
    workdir: str | os.PathLike,
    *,
    step: int | str | None = None,
    changes: dict | None = None,
    output: str | os.PathLike | None = None,
) -> dict[str, float]:
    """Evaluate a model with every evaluator of its config, whatever its ``every``.

    Args:
        workdir: a run's folder, or any other model that ``export.load_model`` takes.
        step: which checkpoint of a run; see ``checkpoint_choice.choose``: the best by default.
        changes: dotted config key -> value, such as ``{"evals.probe.nights": PATH}``.
        output: folder that gets ``evaluation.json`` and what evaluators write; the run's by
            default, none for another model.

    Returns:
        ``eval/<name>/<metric>`` -> value.

    Raises:
        CheckpointError: no checkpoint that can be trusted.
        ConfigError: an evaluator or option that does not exist, or one that is missing.
        ModelError: no model there.
    """
    if "://" in os.fspath(workdir):
        raise configs.ConfigError(f"{workdir}: a run behind a URL can be followed (--follow) alone")
    workdir = pathlib.Path(workdir)
    with contextlib.ExitStack() as stack:
        if _is_other_model(workdir):
            trained, step, variables = _load_export(workdir, step)
            taken = ""
            home = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            trained, found_step, variables = checkpoint.restore_variables(workdir, step)
            step, taken = found_step, checkpoint_choice.reason(workdir, found_step, step)
            home, output = workdir, output or workdir
        config = configs.change(trained, changes or {})
        if home != workdir:
            _require_for_export(config, workdir)
        written = home if output is None else pathlib.Path(output)
        written.mkdir(parents=True, exist_ok=True)
        whole = Evaluation(config, home, trained=trained)
        placed, found = whole.place(variables), {}
        for name in whole.names:
            logging.info("evaluating %s at step %d", name, step)
            found |= whole.results(name, placed, step, written)
        if output is not None:
            write_json(
                written / "evaluation.json", {"step": step, "taken": taken, "results": found}
            )
    return found


def _is_other_model(path: pathlib.Path) -> bool:
    """Whether there is a model, and no run."""
    there = path.is_file() or any(path.glob("*.safetensors"))
    return there and not (path / "checkpoints").is_dir()


def _load_export(path: pathlib.Path, step: int | str | None) -> tuple[dict, int, dict]:
    """Return a config, the step, and the variables of an exported or published model."""
    model = load_model(path, step=step)
    run = path / RUN
    if run.is_file():
        try:
            return json.loads(run.read_text())["config"], model.step, model.variables
        except (ValueError, KeyError, TypeError) as error:
            raise configs.ConfigError(f"{run} does not hold a run's config: {error!r}") from error
    data = {k: v for k, v in model.config.get("data", {}).items() if k != "manifest_sha256"}
    config = {"objective": model.config["objective"], "data": data, "train": {}}
    config["seed"] = model.config.get("seed", 0)
    return configs.resolve(config), model.step, model.variables


def _require_for_export(config: dict, path: pathlib.Path) -> None:
    """Say what an export without its run's config, or far from its data, leaves open."""
    examples = {
        "data.path": "data.path=NIGHTS",
        "evals": """'evals.val={"type": "mean_loss"}'""",
    }
    missing = [] if config["data"].get("path") else ["data.path"]
    missing += [] if config["evals"] else ["evals"]
    if missing:
        told = " and ".join(f"config.{key} (--set={examples[key]})" for key in missing)
        raise configs.ConfigError(f"{path} does not say all that an evaluation needs: give {told}")
