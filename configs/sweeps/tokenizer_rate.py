"""Tokenizer rate: how well a tokenizer follows its signal, over levels K and codes of a codebook.

    python -m launch.sweep --sweep=configs/sweeps/tokenizer_rate.py:smoke --output=DIR --jobs=2 \\
        [--set=data.path=NIGHTS]

A second of a channel becomes K codes of log2(codes) bits: the rate is K log2(codes) bit/s, and what
it buys is in ``eval/val/snr_db`` and ``eval/val/loss``; ``eval/val/perplexity`` says how many of
the codes are in use. ``SIZE,SIGNAL`` trains the tokenizers of another signal type (``eeg`` by
default; ``eog emg ecg resp``).

Sizes: ``full`` for accelerators (5 x 4), ``cpu`` (4 x 3), ``smoke`` (2 x 2).
"""

from configs.grids import axis, product

CONFIG = "configs/hypnos/rvq_tokenizer.py"

# Config, levels, codes, steps.
SIZES = {
    "smoke": ("test", (1, 2), (8, 16), 16),
    "cpu": ("demo", (1, 2, 4, 8), (32, 128, 512), 1000),
    "full": ("small", (1, 2, 4, 8, 16), (256, 1024, 2048, 4096), 30_000),
}
SIGNALS = ("eeg", "eog", "emg", "ecg", "resp")


def get_sweep(size: str = "full") -> list[dict]:
    """Return levels x codes.

    Args:
        size: ``full``, ``cpu`` or ``smoke``, and ``,SIGNAL`` after it.

    Raises:
        ValueError: another size or signal type.
    """
    size, _, signal = size.partition(",")
    signal = signal or "eeg"
    if size not in SIZES or signal not in SIGNALS:
        raise ValueError(f"no size {size!r} of {signal!r}; use {sorted(SIZES)} and {SIGNALS}")
    config, levels, codes, steps = SIZES[size]
    shared = {
        "config": f"{CONFIG}:{config},{signal}",
        "stem": signal,
        "train.steps": steps,
        "budget.warmup_share": 0.05,
        "budget.checkpoints": 2 if size == "smoke" else 4,
    }
    return product(
        [shared],
        axis("objective.model.levels", *levels, stem="k"),
        axis("objective.model.codes", *codes, stem="v"),
    )
