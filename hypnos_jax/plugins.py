"""Find an objective, model or evaluator by its file's name: the folder listing is the registry."""

from __future__ import annotations

import importlib
import pathlib

# Former names of objectives, which old runs and exports carry: the name now, what became of
# arguments, and what is said now that was not.
RENAMED = {
    "finetune_towers": (
        "finetune",
        {"model": "backbone"},
        {"backbone": {"name": "modality_towers"}},
    ),
}


def load(folder: str, name: str) -> type:
    """Return the class of ``hypnos_jax/<folder>/<name>.py``: the file's name in CamelCase.

    Args:
        folder: ``"objectives"``, ``"models"`` or ``"evaluators"``.
        name: a file's name without ``.py``, such as ``"rq_next_token"`` (class ``RqNextToken``).

    Raises:
        ValueError: no such file; the message lists those there are.
    """
    require(folder, name)
    module = importlib.import_module(f"hypnos_jax.{folder}.{name}")
    return getattr(module, "".join(word.capitalize() for word in name.split("_")))


def require(folder: str, name: str) -> None:
    """Make sure that there is such a file, without importing what it needs.

    Raises:
        ValueError: no such file; the message lists those there are.
    """
    here = pathlib.Path(__file__).parent / folder
    names = sorted(p.stem for p in here.glob("*.py") if p.stem != "__init__")
    if name not in names:
        raise ValueError(f"no {folder[:-1]} named {name!r}; hypnos_jax/{folder}/ has {names}")


def current(objective: dict) -> dict:
    """Return an objective's name and arguments as they are called now; see ``RENAMED``."""
    if objective.get("name") not in RENAMED:
        return objective
    name, arguments, added = RENAMED[objective["name"]]
    objective = {arguments.get(key, key): value for key, value in objective.items()}
    return {**objective, "name": name} | {
        key: {**values, **objective.get(key, {})} for key, values in added.items()
    }


def network_key(objective: dict) -> str:
    """Return which argument of an objective has its network's arguments."""
    return "backbone" if "backbone" in objective else "model"
