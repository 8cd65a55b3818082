"""From a ConfigDict to the one resolved config that a run, its checkpoints and exports carry.

Sections, in order: ``seed``, ``objective`` {name, ...its attributes}, ``data`` {name, path, fill,
...the source's options}, ``optim``, ``train``, ``mesh``, ``checkpoints``, ``logs``, ``watchdog``,
``evals`` {name: {type, every, ...the evaluator's options}}. A section's keys are the keyword
arguments of what it configures (``optim``: the three functions of ``optim.py``), so that an unknown
key is found by asking the function; ``call`` says which key is meant.

``data.fill`` is a tuple of pairs (dotted key, what the data call it), for a config that leaves to
the data what they know: ``(("objective.model.modalities", "modalities"),)`` writes the token
store's modalities into the objective's model where the config has them empty.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import json
import pathlib
import subprocess
from collections.abc import Callable

import ml_collections

from data_pipelines.files import atomic_write
from hypnos_jax import __version__, plugins

SECTIONS = (
    "seed",
    "objective",
    "data",
    "optim",
    "train",
    "mesh",
    "checkpoints",
    "logs",
    "watchdog",
    "evals",
)
# Sections and keys that may differ when a run is resumed.
RESUMABLE_KEYS = (
    "data.path",
    "data.max_damaged",
    "train.steps",
    "train.skip_not_finite",
    "train.stop_after",
    "mesh",
    "checkpoints",
    "logs",
    "watchdog",
    "evals",
)


class ConfigError(ValueError):
    """A config that cannot be used; the message names the key."""


def nearest(name: str, known) -> str:
    """Return a hint: the known name closest to ``name``, or all of them."""
    close = difflib.get_close_matches(name, list(known), 1, 0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {sorted(known)}"


def call(function: Callable, options: dict, where: str, **given):
    """Return ``function(**given, **options)``, after naming any option that it does not take.

    Args:
        function: a function or a class (a Linen module too).
        options: from the config.
        where: the options' place in the config, such as ``"config.optim"``.
        given: arguments that the program supplies.

    Raises:
        ConfigError: an unknown or missing option, with the nearest known one.
    """
    known = set(inspect.signature(function).parameters) - {"parent", "self"} - set(given)
    for name in options:
        if name not in known:
            raise ConfigError(f"unknown key {where}.{name}: {nearest(name, known)}")
    for name, parameter in inspect.signature(function).parameters.items():
        missing = parameter.default is parameter.empty and name not in {*options, *given}
        if missing and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            raise ConfigError(f"{where}.{name} is missing")
    return function(**given, **options)


def split(options: dict, functions: tuple[Callable, ...], where: str) -> list[dict]:
    """Deal a section's keys to the functions that share it.

    Returns:
        the options of each.

    Raises:
        ConfigError: a key that none takes.
    """
    known = [set(inspect.signature(function).parameters) for function in functions]
    for name in options:
        if not any(name in names for names in known):
            raise ConfigError(f"unknown key {where}.{name}: {nearest(name, set.union(*known))}")
    return [{k: v for k, v in options.items() if k in names} for names in known]


def resolve(config: ml_collections.ConfigDict | dict) -> dict:
    """Return the config as plain JSON values with every section, in order.

    Args:
        config: from a ``get_config``, or a dict.

    Raises:
        ConfigError: an unknown or missing section.
    """
    if isinstance(config, ml_collections.ConfigDict):
        config = config.to_dict()
    config = _current(json.loads(json.dumps(config)))
    for section in config:
        if section not in SECTIONS:
            raise ConfigError(f"unknown key config.{section}: {nearest(section, SECTIONS)}")
    for section in ("objective", "data", "train"):
        if section not in config:
            raise ConfigError(f"config.{section} is missing")
    return {name: config.get(name, 0 if name == "seed" else {}) for name in SECTIONS}


def _current(config: dict) -> dict:
    """The config with its objective's arguments, and their places in data.fill, as called now."""
    old = config.get("objective", {})
    new = plugins.current(old)
    if new is old:
        return config
    before, after = (f"objective.{plugins.network_key(x)}." for x in (old, new))
    pairs = config.get("data", {}).get("fill", ())
    rest = [[key.replace(before, after), source] for key, source in pairs]
    return {**config, "objective": new, "data": {**config.get("data", {}), "fill": rest}}


def fill(config: dict, description: dict) -> dict:
    """Return a resolved config with what ``data.fill`` leaves to the data.

    Args:
        config: from ``resolve``.
        description: ``Source.describe()``.

    Raises:
        ConfigError: a key that is not there, or something that the data do not describe.
    """
    config = json.loads(json.dumps(config))
    for key, source in config["data"].get("fill", ()):
        *parents, last = key.split(".")
        try:
            place = functools.reduce(lambda node, name: node[name], parents, config)
            empty = place[last] in ("", None, 0, [], {})
        except (KeyError, TypeError) as error:
            raise ConfigError(f"config.data.fill names {key!r}, which is not there") from error
        if empty:
            if source not in description:
                raise ConfigError(
                    f"config.{key} is empty and the data do not say it: they describe"
                    f" {sorted(description)}, not {source!r}"
                )
            place[last] = json.loads(json.dumps(description[source]))
    return config


def change(config: dict, changes: dict) -> dict:
    """Return a config with some values replaced or added, by dotted key."""
    config = json.loads(json.dumps(config))
    for key, value in changes.items():
        *parents, last = key.split(".")
        node = functools.reduce(lambda node, name: node.setdefault(name, {}), parents, config)
        node[last] = value
    return resolve(config)


def frozen(value):
    """Return a JSON value with lists as tuples, as Linen attributes want them (hashable)."""
    if isinstance(value, dict):
        return {name: frozen(item) for name, item in value.items()}
    return tuple(frozen(item) for item in value) if isinstance(value, list | tuple) else value


def make_objective(config: dict):
    """Return the Linen module that ``config.objective`` names, with its attributes.

    Raises:
        ConfigError: no name, or an attribute that the objective does not have.
        ValueError: no such objective.
    """
    options = dict(plugins.current(config["objective"]))
    if "name" not in options:
        raise ConfigError("config.objective.name is missing")
    cls = plugins.load("objectives", options.pop("name"))
    return call(cls, frozen(options), "config.objective")


def flat(config: dict, prefix: str = "") -> dict:
    """Return dotted key -> value; lists are values."""
    out = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            out |= flat(value, f"{prefix}{name}.")
        else:
            out[prefix + name] = value
    return out


def agree_with_workdir(config: dict, description: dict, workdir: pathlib.Path) -> None:
    """Write ``config.json`` and ``data.json``, or check that a restart continues the same run.

    Args:
        config: resolved and filled.
        description: ``Source.describe()``; the data may have moved, but not changed.
        workdir: the run's folder.

    Raises:
        ConfigError: the folder holds a run with another config or other data; names what differs.
    """
    path = workdir / "config.json"
    if path.exists():
        try:
            old = flat(_current(json.loads(path.read_text())))
        except ValueError as error:
            raise ConfigError(f"{path} is not a config: {error}") from error
        new = flat(config)
        differing = [
            f"config.{key}: {old.get(key, 'absent')!r} there, {new.get(key, 'absent')!r} here"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key) and not key.startswith(RESUMABLE_KEYS)
        ]
        if differing:
            raise ConfigError(
                f"{workdir} holds a run with another config; use another --workdir, or make these"
                " agree:\n  " + "\n  ".join(differing)
            )
    data = workdir / "data.json"
    description = json.loads(json.dumps(description))
    # Runs of before recipes were described go on.
    recipe = {name: description[name] for name in ("recipe",) if name in description}
    if data.exists() and description != recipe | json.loads(data.read_text()):
        raise ConfigError(
            f"{workdir} holds a run on other data: {data} does not describe"
            f" config.data.path={config['data'].get('path')!r}. Use another --workdir"
        )
    for file, content in ((data, description), (path, config)):
        with atomic_write(file, "w") as partial:
            partial.write(json.dumps(content, indent=1) + "\n")


@functools.cache
def code_version() -> str:
    """Return this checkout's commit (``+`` where files were changed since), or the version."""
    root = pathlib.Path(__file__).parent.parent
    git = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=12"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, timeout=10)
        commit = done.stdout.strip() if done.returncode == 0 else ""
    except (OSError, subprocess.SubprocessError):
        commit = ""
    return __version__ + (f"-{commit}" if commit else "")
