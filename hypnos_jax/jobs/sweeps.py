"""Sweeps: from a list of override dicts to named runs, their commands, and where each of them is.

A sweep is a file with ``get_sweep(size)``, which returns a run for each flat dict: ``config``
("FILE:ARGUMENT" of ``launch.train``), dotted keys of that config, and these, which a config cannot
know and which are replaced here:

    budget.flops             -> train.steps: matrix FLOPs of the whole run, over those of a step
    budget.channel_seconds   -> train.steps: signal of the whole run, over that of a full batch
    budget.warmup_share      -> optim.warmup_steps: share of the steps
    budget.checkpoints       -> checkpoints.every, and ``every`` of the evaluators that run in the
                                loop by a number of steps: so many times in the run
    stem                     what the run is called by, before the hash of all the rest

What a run costs is asked once, when it is first seen, and kept in ``sweep.json``: a run that goes
on has the steps that it began with, also where a later version would count another way.

Nothing here imports jax before a cost is asked for, and that happens in a process of its own: a
launcher must neither hold an accelerator nor be slow to say that all is done.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import math
import os
import pathlib
import re
import types
from collections.abc import Iterable

from absl import flags
from ml_collections import config_flags

from data_pipelines.files import atomic_write
from hypnos_jax.config import ConfigError, flat, nearest, resolve
from hypnos_jax.jobs.progress import last_step, newest_step
from hypnos_jax.jobs.sweep_costs import add_costs, naming, synthetic_path

ROOT = pathlib.Path(__file__).parents[2]  # commands run here, where ``configs`` is found
STEM, CONFIG, PREFIX = "stem", "config", "budget."
# What a budget is spent in, by its name in a cost.
UNITS = {"budget.flops": "flops_per_step", "budget.channel_seconds": "channel_seconds_per_step"}
BUDGETS = (*UNITS, "budget.warmup_share", "budget.checkpoints")
# Where data and devices are, and what is said meanwhile, does not make another run.
PATHS = re.compile(r"data\.path|evals\.\w+\.nights")
PLACES = re.compile(PATHS.pattern + r"|(mesh|logs|watchdog)(\..*)?")
HASH_DIGITS = 8
STEM_LENGTH = 30  # with the hash within what Kubernetes allows a job's pods
DONE, RUNNING, STOPPED, FAILED, WAITING = "done", "running", "stopped", "failed", "waiting"


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """A run of a sweep.

    Attributes:
        name: readable stem and hash; its folder.
        given: the run's dict, and what was set for all runs, as they were given.
        config: "FILE:ARGUMENT" of ``launch.train``.
        overrides: dotted key -> value, budgets resolved.
        steps: of the whole run.
        cost: what ``cost.cost`` said.
    """

    name: str
    given: dict
    config: str
    overrides: dict
    steps: int
    cost: dict

    def train(self, workdir: str | os.PathLike) -> list[str]:
        """Return the arguments of ``python`` that train it."""
        overrides = [override(key, value) for key, value in self.overrides.items()]
        where = [f"--config={self.config}", f"--workdir={workdir}"]
        return ["-m", "launch.train", *where, *overrides]

    @staticmethod
    def evaluate(workdir: str | os.PathLike) -> list[str]:
        """Return the arguments of ``python`` that evaluate its checkpoints as they come."""
        return ["-m", "launch.evaluate", f"--workdir={workdir}", "--follow"]


# --- names


def canonical(value):
    """Return a JSON value by which equal things look equal: tuples, whole numbers, order of keys.

    Raises:
        ConfigError: something that JSON does not have.
    """
    if isinstance(value, dict):
        return {str(key): canonical(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise ConfigError(f"{value!r} is a {type(value).__name__}; a sweep holds plain values")


def name_of(given: dict) -> str:
    """Return a run's name, a valid name of a host too: ``c1e15-d64-3fa94c01``.

    The same for the same settings in any order; places (``data.path``, ``mesh``, ...) do not count.
    """
    counts = {k: v for k, v in given.items() if k != STEM and not PLACES.fullmatch(k)}
    counts = canonical(counts)
    text = json.dumps(counts, separators=(",", ":"), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]
    stem = given.get(STEM) or "-".join(
        f"{key.rpartition('.')[2]}{value}" for key, value in sorted(counts.items()) if key != CONFIG
    )
    stem = re.sub(r"[^a-z0-9]+", "-", stem.lower().replace("+", "")).strip("-")
    if not stem[:1].isalpha():
        stem = f"run-{stem}"
    return f"{stem[:STEM_LENGTH].strip('-')}-{digest}"


# --- files


def load_sweep(text: str) -> tuple[str, list[dict]]:
    """Return a sweep's name and its runs' dicts.

    Args:
        text: ``"FILE"`` or ``"FILE:SIZE"``.

    Raises:
        ConfigError: no such file, no such size, or not a list of flat dicts.
    """
    file, _, size = text.partition(":")
    path = _find(file)
    if path is None:
        raise ConfigError(f"--sweep={text}: there is no file {file}")
    get_sweep = getattr(_import(path), "get_sweep", None)
    if get_sweep is None:
        raise ConfigError(f"--sweep={text}: {file} has no get_sweep(size)")
    try:
        runs = get_sweep(size) if size else get_sweep()
    except ValueError as error:
        raise ConfigError(f"--sweep={text}: {error}") from error
    name = _relative(path) + (f":{size}" if size else "")
    if not isinstance(runs, list) or not runs:
        raise ConfigError(f"{name} returned {type(runs).__name__}; give a list of runs, not empty")
    for number, run in enumerate(runs):
        where = f"{name}, run {number}"
        if not isinstance(run, dict) or any(isinstance(value, dict) for value in run.values()):
            raise ConfigError(f"{where} is not a flat dict of dotted keys: {run!r}")
        if not isinstance(run.get(CONFIG), str):
            raise ConfigError(f"{where} has no 'config': give FILE:ARGUMENT of launch.train")
    return name, runs


def _find(file: str) -> pathlib.Path | None:
    """A file as named from here, or from the project."""
    for path in (pathlib.Path(file), ROOT / file):
        if path.is_file():
            return path.resolve()
    return None


def _relative(path: pathlib.Path) -> str:
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def _import(path: pathlib.Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- configs


def override(key: str, value) -> str:
    """Return an override as a flag of ``launch.train``."""
    if isinstance(value, list | tuple):
        value = repr(_tuples(value))
    return f"--config.{key}={value}"


def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def read_config(config: str, overrides: dict) -> dict:
    """Return a resolved config as ``launch.train`` would get it from these flags.

    Args:
        config: "FILE:ARGUMENT".
        overrides: dotted key -> value.

    Raises:
        ConfigError: no such file or argument, a key that the config does not have, or a value that
            does not fit; names the key.
    """
    file, _, argument = config.partition(":")
    path = _find(file)
    if path is None:
        raise ConfigError(f"config={config!r}: there is no file {file}")
    try:
        known = flat(_parsed(path, argument, ()))
    except (flags.Error, ValueError, OSError) as error:
        raise ConfigError(f"config={config!r}: {error}") from error
    for key in overrides:
        if key not in known:
            within = [name for name in known if name.startswith(f"{key}.")]
            hint = f"it is a section: {within}" if within else nearest(key, known)
            raise ConfigError(f"{key} is no key of {config}: {hint}")
    wrong = (flags.Error, ValueError, TypeError)
    texts = {key: override(key, value) for key, value in overrides.items()}
    try:
        return _parsed(path, argument, texts.values())
    except wrong as error:
        for key, text in texts.items():  # which of them?
            try:
                _parsed(path, argument, [text])
            except wrong as cause:
                raise ConfigError(
                    f"{key}={overrides[key]!r} does not fit {config}, which has {known[key]!r}:"
                    f" {cause}"
                ) from cause
        raise ConfigError(f"{config}: {error}") from error


def _parsed(path: pathlib.Path, argument: str, overrides: Iterable[str]) -> dict:
    """The config that ``launch.train`` would read from these flags."""
    argv = ["sweep", f"--config={path}" + (f":{argument}" if argument else ""), *overrides]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    values(argv)
    return resolve(values.config)


def check_budgets(given: dict) -> None:
    """Refuse what no cost could make a budget of.

    Raises:
        ConfigError: an unknown ``budget.`` key, a value that is not above 0, or two that say how
            many steps.
    """
    for key, value in given.items():
        if not key.startswith(PREFIX):
            continue
        if key not in BUDGETS:
            raise ConfigError(f"unknown key {key}: {nearest(key, BUDGETS)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise ConfigError(f"{key}={value!r} is no number above 0")
    there = [key for key in (*UNITS, "train.steps") if key in given]
    if len(there) > 1:
        raise ConfigError(f"{' and '.join(there)} are given: each says how many steps")


def steps_of(given: dict, cost: dict) -> int | None:
    """Return the steps of a run's budget; None where it has none.

    Raises:
        ConfigError: less than a step.
    """
    for key, unit in UNITS.items():
        if key in given:
            steps = round(given[key] / cost[unit])
            if steps < 1:
                raise ConfigError(
                    f"{key}={given[key]:g} is less than half a step, which takes {cost[unit]:g}"
                )
            return steps
    return None


def resolved(given: dict, config: dict, cost: dict) -> dict:
    """Return a run's overrides with the budgets replaced.

    Args:
        given: the run's dict.
        config: resolved, without the budgets.
        cost: of that config.
    """
    overrides = {k: v for k, v in given.items() if k not in (CONFIG, STEM, *BUDGETS)}
    steps = steps_of(given, cost)
    if steps is not None:
        overrides["train.steps"] = steps
        if config["train"].get("stop_after"):
            overrides.setdefault("train.stop_after", 0)  # a budget is spent whole
    steps = steps or config["train"]["steps"]
    derived = {}
    if "budget.warmup_share" in given:
        derived["optim.warmup_steps"] = max(1, round(given["budget.warmup_share"] * steps))
    if "budget.checkpoints" in given:
        every = max(1, math.ceil(steps / given["budget.checkpoints"]))
        derived["checkpoints.every"] = every
        for name, options in config["evals"].items():
            if isinstance(options.get("every"), int):
                derived[f"evals.{name}.every"] = every
    for key in derived.keys() & overrides.keys():
        raise ConfigError(f"{key} is given, and a budget says it too")
    return overrides | derived


# --- the whole


def expand(
    name: str,
    runs: list[dict],
    *,
    given: dict,
    folder: pathlib.Path,
    data_here: str = "",
    seen: str | os.PathLike = "",
    jobs: int = 1,
) -> list[PlannedRun]:
    """Return the named runs of a sweep, every key of every run checked.

    Args:
        name: of the sweep, for errors.
        runs: from ``load_sweep``.
        given: dotted key -> value of all runs; takes precedence.
        folder: of the sweep; its ``sweep.json`` is read, and synthetic data are written there.
        data_here: where this process finds what the runs find in ``data.path``; there by default.
        seen: ``folder`` as the runs see it; the same by default.
        jobs: processes that count costs.

    Raises:
        ConfigError: names sweep, run and key.
    """
    known = {row["name"]: row for row in read_sweep(folder).get("runs", ())}
    given = {k: os.path.abspath(v) if _is_path_here(k, v) else v for k, v in given.items()}
    entries = []
    for number, run in enumerate(runs):
        whole = {**run, **given}
        if given.keys() & {"train.steps", *UNITS}:  # a set number of steps replaces the run's
            whole = {k: v for k, v in whole.items() if k in given or k not in UNITS}
        config_file, colon, argument = whole[CONFIG].partition(":")
        if path := _find(config_file):  # named alike from wherever
            whole[CONFIG] = _relative(path) + colon + argument
        with naming(f"{name}, run {number}"):
            called = name_of(whole)
            check_budgets(whole)
            same = [other for other in entries if other["name"] == called]
            if same:
                raise ConfigError(f"it is the same as run {same[0]['number']}: {canonical(whole)}")
            plain = {k: v for k, v in whole.items() if k not in (CONFIG, STEM, *BUDGETS)}
            config = read_config(whole[CONFIG], plain)
        entries.append({"number": number, "name": called, "given": whole, "config": config})
    add_costs(entries, known, folder, data_here, jobs, name)
    out = []
    for entry in entries:
        given_, config = entry["given"], entry["config"]
        with naming(f"{name}, run {entry['number']} ({entry['name']})"):
            if entry["name"] in known:
                old = known[entry["name"]]["overrides"]
                kept = {k: v for k, v in old.items() if not PLACES.fullmatch(k)}
                places = {k: v for k, v in given_.items() if PLACES.fullmatch(k)}
                overrides = kept | places
            else:
                overrides = resolved(given_, config, entry["cost"])
            if not given_.get("data.path") and not config["data"].get("path"):
                overrides["data.path"] = synthetic_path(seen or folder, config)
            steps = read_config(given_[CONFIG], overrides)["train"]["steps"]
        out.append(
            PlannedRun(entry["name"], given_, given_[CONFIG], overrides, steps, entry["cost"])
        )
    return out


def _is_path_here(key: str, value) -> bool:
    return bool(PATHS.fullmatch(key)) and isinstance(value, str) and os.path.exists(value)


def read_sweep(folder: str | os.PathLike) -> dict:
    """Return what ``sweep.json`` of a folder says; empty where there is none.

    Raises:
        ConfigError: it is not JSON.
    """
    path = pathlib.Path(folder) / "sweep.json"
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ConfigError(f"{path} is not the file of a sweep: {error}") from error


def check_folder(folder: pathlib.Path, name: str) -> None:
    """Refuse the folder of another sweep.

    Raises:
        ConfigError: ``sweep.json`` there is another's.
    """
    there = read_sweep(folder).get("sweep", name)
    if there != name:
        raise ConfigError(f"{folder} holds the sweep {there}, not {name}; use another --output")


def write_sweep(folder: pathlib.Path, name: str, given: dict, runs: Iterable[PlannedRun]) -> None:
    """Write ``sweep.json``, whole or not at all."""
    content = {"sweep": name, "set": given, "runs": [dataclasses.asdict(run) for run in runs]}
    with atomic_write(folder / "sweep.json", "w") as file:
        file.write(json.dumps(content, indent=1) + "\n")


def workdir_of(folder: str | os.PathLike, run: PlannedRun) -> pathlib.Path:
    """Return a run's folder."""
    return pathlib.Path(folder) / "runs" / run.name


def trained(folder: pathlib.Path, run: PlannedRun) -> bool:
    """Whether a run's last step is saved."""
    workdir = workdir_of(folder, run)
    return newest_step(workdir) >= last_step(workdir, run.steps)


def evaluated(folder: str | os.PathLike, run: PlannedRun) -> bool:
    """Whether a run's last step is evaluated by all that a job evaluates."""
    workdir = workdir_of(folder, run)
    try:
        evals = json.loads((workdir / "config.json").read_text())["evals"]
    except (OSError, ValueError, KeyError):
        return False
    jobs = [name for name, options in evals.items() if options.get("every") == "job"]
    last = last_step(workdir, run.steps)
    return all((workdir / "evaluations" / name / f"{last}.json").exists() for name in jobs)
