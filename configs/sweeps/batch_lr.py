"""Batch and learning rate: the RQ-Transformer at one size on the same signal.

    python -m launch.sweep --sweep=configs/sweeps/batch_lr.py:smoke --output=DIR --jobs=2 \\
        [--set=data.path=TOKENS]

Every run sees equally much: a larger batch has fewer steps. Where the loss stands still from one
batch to the next larger one, the larger one is free; beyond the critical batch it costs. Run this
before the other sweeps, whose batch and rate are one choice for all their sizes.

Sizes: ``full`` for accelerators (5 x 5), ``cpu`` (3 x 4), ``smoke`` (2 x 2).
"""

from configs.grids import axis, product

CONFIG = "configs/hypnos/rq_transformer.py"

# Config, rows of a batch, learning rates, channel-seconds of a run.
SIZES = {
    "smoke": ("test", (2, 4), (1e-3, 3e-3), 2e4),
    "cpu": ("demo", (2, 4, 8), (1e-3, 2e-3, 4e-3, 8e-3), 1e6),
    "full": ("tiny", (32, 64, 128, 256, 512), (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3), 5e9),
}


def get_sweep(size: str = "full") -> list[dict]:
    """Return batches x learning rates.

    Args:
        size: ``full``, ``cpu`` or ``smoke``.

    Raises:
        ValueError: another size.
    """
    if size not in SIZES:
        raise ValueError(f"no size {size!r}; use one of {sorted(SIZES)}")
    config, batches, rates, amount = SIZES[size]
    shared = {
        "config": f"{CONFIG}:{config}",
        "budget.channel_seconds": amount,
        "budget.warmup_share": 0.1 if size == "smoke" else 0.05,
        "budget.checkpoints": 2 if size == "smoke" else 4,
    }
    return product(
        [shared],
        axis("train.batch_size", *batches, stem="b"),
        axis("optim.learning_rate", *rates, stem="lr"),
    )
