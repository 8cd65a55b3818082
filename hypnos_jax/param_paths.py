"""Glob patterns over parameter paths, such as ``"towers/trunk"``."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

import jax


def names(tree) -> list[str]:
    """Return the path of every leaf, such as ``"towers/trunk/layers/kernel"``, in order."""
    return [_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def matching(tree, patterns: Sequence[str], where: str):
    """Return True for each leaf that the patterns name, in a tree like ``tree``.

    A pattern is a path, or the beginning of one up to a slash; ``*`` and ``?`` stand for any
    characters, slashes too. One that begins with ``!`` takes back what it names; the last that
    names a leaf decides.

    Args:
        tree: any, of dicts.
        patterns: such as ``("towers", "!*/lora_?")``.
        where: whose patterns, for the error: a config key.

    Raises:
        ValueError: a pattern names nothing.
    """
    paths = names(tree)
    found = [False] * len(paths)
    for pattern in patterns:
        named = [_names(pattern.removeprefix("!"), path) for path in paths]
        if not any(named):
            raise ValueError(f"{where}: {pattern!r} names none of {_some(paths)}")
        keep = not pattern.startswith("!")
        found = [keep if hit else old for hit, old in zip(named, found)]
    return jax.tree.unflatten(jax.tree.structure(tree), found)


def by_collection(patterns: Sequence[str]) -> dict[str, list[str]]:
    """Return the patterns of each collection, without its name: ``"batch_stats:towers/*"`` is one
    of ``"batch_stats"``, and one without a colon is of ``"params"``."""
    out = {}
    for pattern in patterns:
        collection, _, path = pattern.removeprefix("!").rpartition(":")
        sign = "!" if pattern.startswith("!") else ""
        out.setdefault(collection or "params", []).append(sign + path)
    return out


def _names(pattern: str, path: str) -> bool:
    return any(fnmatch.fnmatchcase(path, form) for form in (pattern, f"{pattern}/*"))


def _path(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _some(paths: Sequence[str], count: int = 12) -> str:
    more = f" and {len(paths) - count} more" if len(paths) > count else ""
    return f"{sorted(paths)[:count]}{more}"
