"""The algebra of sweeps: a grid is a list of flat dicts, each the overrides of one run.

    product(axis("optim.learning_rate", 1e-3, 3e-3), axis("train.batch_size", 32, 64))    # 4 runs

Keys are dotted keys of a config, or those that ``launch.sweep`` reserves. ``stem``, what a run is
called by, is the one key that dicts may share when they are merged: its parts are joined by ``-``.
"""

from collections.abc import Callable, Iterable

Grid = list[dict]

STEM = "stem"


def axis(key: str, *values, stem: str = "") -> Grid:
    """Return a run for each value of one key, called by ``stem`` and the value where it is given.

    >>> axis("optim.learning_rate", 1e-3, 3e-3, stem="lr")[0]
    {'optim.learning_rate': 0.001, 'stem': 'lr0.001'}
    """
    return [{key: value} | ({STEM: f"{stem}{value:g}"} if stem else {}) for value in values]


def product(*grids: Iterable[dict]) -> Grid:
    """Return every combination of one run from each grid, the last grid varying fastest.

    Raises:
        ValueError: two grids set the same key.
    """
    out = [{}]
    for grid in map(list, grids):
        out = [_merged(left, right) for left in out for right in grid]
    return out


def zipped(*grids: Iterable[dict]) -> Grid:
    """Return the first runs of all grids as one run, then the second ones, and so on.

    Raises:
        ValueError: the grids are not equally long, or two set the same key.
    """
    grids = [list(grid) for grid in grids]
    if len({len(grid) for grid in grids}) > 1:
        raise ValueError(f"zipped grids of {[len(grid) for grid in grids]} runs: not equally long")
    return [product(*([run] for run in runs))[0] for runs in zip(*grids)]


def chain(*grids: Iterable[dict]) -> Grid:
    """Return the runs of the first grid, then those of the second, and so on."""
    return [dict(run) for grid in grids for run in grid]


def where(condition: Callable[[dict], bool], grid: Iterable[dict]) -> Grid:
    """Return the runs for which the condition holds."""
    return [dict(run) for run in grid if condition(run)]


def _merged(left: dict, right: dict) -> dict:
    shared = (left.keys() & right.keys()) - {STEM}
    if shared:
        raise ValueError(f"two grids set {sorted(shared)}: a run would have only one of the values")
    both = {**left, **right}
    if STEM in left and STEM in right:
        both[STEM] = f"{left[STEM]}-{right[STEM]}"
    return both
