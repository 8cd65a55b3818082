"""Model x data: the RQ-Transformer at several sizes, each on several amounts of data.

    python -m launch.sweep --sweep=configs/sweeps/model_data.py:smoke --output=DIR --jobs=2 \\
        [--set=data.path=TOKENS]
    python -m launch.fit_laws --sweep=DIR

The amount is the signal that a run sees, in channel-seconds (3600: one channel for an hour), seen
once or more than once. ``SIZE,repeated`` adds nights as a third axis, ``data.nights``: the same
signal out of fewer nights, for the law of repeated data. A run on n nights has the first n of the
training split, so that fewer are a part of more. Models are those of ``isoflop.py``.

Sizes: ``full`` for pods (6 x 5), ``gpu`` (2 x 2, minutes on one accelerator), ``cpu`` for token
nights of 4 x 128 codes (4 x 4), ``smoke`` (2 x 2).
"""

from configs.grids import axis, chain, product
from configs.sweeps import isoflop

# Config, window (s), rows, widths; signal of a run in channel-seconds; nights beside all of them.
PLANS = {
    "smoke": ("test", 64, 2, (8, 16), (2e4, 4e4), (1, 3)),
    "cpu": ("demo", 256, 1, (12, 16, 24, 32), (2e5, 4e5, 8e5, 1.6e6), (8, 32, 128)),
    "gpu": ("demo", 256, 2, (48, 96), (4e6, 1.6e7), (8, 32, 128)),
    "full": (
        "tiny",
        2048,
        64,
        (128, 256, 384, 512, 768, 1024),
        (3e8, 1e9, 3e9, 1e10, 3e10),
        (200, 1000, 5000),
    ),
}


def get_sweep(size: str = "full") -> list[dict]:
    """Return sizes x amounts, or with ``,repeated`` x nights too.

    Args:
        size: ``full``, ``cpu``, ``gpu`` or ``smoke``, and ``,repeated`` after it.

    Raises:
        ValueError: another size.
    """
    size, _, kind = size.partition(",")
    if size not in PLANS or kind not in ("", "repeated"):
        raise ValueError(f"no size {size!r} {kind!r}; use one of {sorted(PLANS)}, or ,repeated")
    config, window_s, rows, widths, amounts, nights = PLANS[size]
    shared = {
        "config": f"{isoflop.CONFIG}:{config}",
        "data.window_s": window_s,
        "train.batch_size": rows,
        "objective.model.dropout": 0.0,
        "budget.warmup_share": 0.1,
        "budget.checkpoints": 2,
        "evals.val.limit": 64 if size == "full" else 256,
    }
    if size == "gpu":
        shared |= isoflop.ON_ONE_GPU
    data = axis("budget.channel_seconds", *amounts, stem="s")
    grid = product([shared], data, map(isoflop.model, widths))
    if not kind:
        return grid
    # The whole split is the grid itself.
    return chain(grid, product(grid, axis("data.nights", *nights, stem="n")))
