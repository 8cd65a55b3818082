"""Find an objective, model or evaluator by its file's name: the folder listing is the registry."""

from __future__ import annotations

from data_pipelines import plugins

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
        name: a file's name without ``.py``, such as ``"rq_next_token"`` (class ``RqNextToken``); or
            the dotted name of a module elsewhere that the user allowed (``HYPNOS_JAX_PLUGINS``, see
            ``data_pipelines/plugins.py``), whose class is named by its last part.

    Raises:
        ValueError: no such file, or a module that nobody allowed.
    """
    module = plugins.find(f"hypnos_jax.{folder}", name)
    last = name.rpartition(".")[2]
    return getattr(module, "".join(word.capitalize() for word in last.split("_")))


def require(folder: str, name: str) -> None:
    """Make sure that a name may be loaded, without importing what it needs; errors as ``load``."""
    plugins.require(f"hypnos_jax.{folder}", name)


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
