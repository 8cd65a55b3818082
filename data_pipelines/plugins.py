"""Modules found by name: the files of a folder, or those of a package that the user allowed.

Sources, recipes, objectives and evaluators are found this way. A plain name is a file of the
package's folder. A dotted name, such as ``our_lab.recipes.ppg``, is imported only where it lies
under a prefix that :func:`allow` was given, or that the environment variable ``HYPNOS_JAX_PLUGINS``
holds (prefixes separated by commas): a config, a manifest or an export that names a module never
has it imported by that alone.
"""

import importlib
import importlib.util
import os
import pathlib
import types
from collections.abc import Iterable

VARIABLE = "HYPNOS_JAX_PLUGINS"
_allowed: set[str] = set()


def allow(prefixes: Iterable[str]) -> None:
    """Allow modules of these names, and all below them, to be imported by name."""
    _allowed.update(prefixes)


def _prefixes():
    told = os.environ.get(VARIABLE, "").split(",")
    return _allowed | {prefix.strip() for prefix in told if prefix.strip()}


def folders() -> list[pathlib.Path]:
    """Return the folders of the packages that hold what the user allowed; imports none of them."""
    specs = (importlib.util.find_spec(top) for top in {p.partition(".")[0] for p in _prefixes()})
    found = (spec.submodule_search_locations or () for spec in specs if spec is not None)
    return sorted({pathlib.Path(folder) for folders_ in found for folder in folders_})


def names(package: str) -> list[str]:
    """Return the names of the files of a package, such as ``"data_pipelines.sources"``."""
    # The package itself is not imported: some need what is slow to import.
    folder = pathlib.Path(importlib.util.find_spec(package).submodule_search_locations[0])
    return sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")


def require(package: str, name: str) -> None:
    """Make sure that a name may be imported, without importing it.

    Args:
        package: whose files plain names are.
        name: a file's name without ``.py``, or the dotted name of a module elsewhere.

    Raises:
        ValueError: no such file, or a dotted name that nobody allowed.
    """
    kind = package.rpartition(".")[2].removesuffix("s")
    if not isinstance(name, str) or "." not in name:
        if name not in names(package):
            raise ValueError(f"no {kind} named {name!r}; {package} has {names(package)}")
        return
    if not all(part.isidentifier() for part in name.split(".")):
        raise ValueError(f"the {kind} {name!r} is not the dotted name of a module")
    own = name.removeprefix(f"{package}.")
    if own in names(package):
        raise ValueError(f"the {kind} {name!r} is named {own!r} here")
    if not any(name == prefix or name.startswith(f"{prefix}.") for prefix in _prefixes()):
        raise ValueError(
            f"the {kind} {name!r} is a module outside of {package}, and its code is not run unless"
            f" you allow it: set the environment variable {VARIABLE} to"
            f" {name.partition('.')[0]!r} or to the module's whole name"
        )


def find(package: str, name: str) -> types.ModuleType:
    """Import the module of a name; arguments and errors as :func:`require`.

    Raises:
        ValueError: it may not be imported, or a module that may is not there.
    """
    require(package, name)
    path = name if "." in name else f"{package}.{name}"
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is not None and (path == error.name or path.startswith(f"{error.name}.")):
            raise ValueError(f"there is no module {path!r}") from None
        raise
