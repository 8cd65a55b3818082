"""IsoFLOP: the RQ-Transformer at several sizes for each of several budgets of compute.

    python -m launch.sweep --sweep=configs/sweeps/isoflop.py:smoke --output=DIR --jobs=2 \\
        [--set=data.path=TOKENS]

``smoke`` takes minutes on two cores without any data; ``cpu`` (20 runs) under an hour with
token nights of 4 x 128 codes; ``gpu`` (22) some minutes on one accelerator with a few hundred
hours of nights, several runs at a time; ``full`` (30) is for pods and thousands of nights. Each
budget has the sizes among which its best is to be expected; where the best turns out to be at an
edge, the fit says so. Budgets, widths and all that follows from them are ours.
"""

from configs.grids import chain, product

CONFIG = "configs/hypnos/rq_transformer.py"
ON_ONE_GPU = {
    "objective.model.dtype": "bfloat16",
    "objective.model.chunk": 256,
    "evals.val.limit": 512,
}

# size -> config, window (s), {budget (FLOPs): (rows, widths)}
PLANS = {
    "smoke": ("test", 64, dict.fromkeys((1e10, 2e10, 4e10), (2, (8, 12, 16, 24)))),
    "cpu": (
        "demo",
        256,
        {
            1e11: (1, (8, 12, 16, 24, 32)),
            2e11: (1, (8, 12, 16, 24, 32)),
            4e11: (1, (12, 16, 24, 32, 48)),
            8e11: (1, (12, 16, 24, 32, 48)),
        },
    ),
    "gpu": (
        "demo",
        256,
        {
            6e12: (2, (24, 32, 48, 64, 96)),
            2.4e13: (2, (32, 48, 64, 96, 128, 192)),
            1e14: (4, (48, 64, 96, 128, 192, 256)),
            4e14: (8, (64, 96, 128, 192, 256)),
        },
    ),
    "full": (
        "tiny",
        2048,
        {
            1e17: (64, (128, 192, 256, 384, 512)),
            3e17: (64, (192, 256, 384, 512, 768)),
            1e18: (64, (256, 384, 512, 768, 1024)),
            3e18: (128, (256, 384, 512, 768, 1024)),
            1e19: (128, (384, 512, 768, 1024, 1536)),
            3e19: (256, (512, 768, 1024, 1536, 2048)),
        },
    ),
}


def model(dim: int) -> dict:
    """Return what of the config follows from the width."""
    depth_dim = max(8, dim // 2)
    layers = [(48, 2), (96, 3), (192, 4), (384, 6), (768, 8), (1536, 12)]
    return {
        "stem": f"d{dim}",
        "objective.model.dim": dim,
        "objective.model.layers": next((n for below, n in layers if dim < below), 16),
        "objective.model.heads": max(1, dim // (16 if dim < 256 else 64)),
        "objective.model.modality_every": 1,
        "objective.model.depth_dim": depth_dim,
        "objective.model.depth_layers": 1 if dim < 128 else 2 if dim < 512 else 4,
        "objective.model.depth_heads": max(1, depth_dim // (16 if dim < 256 else 64)),
        # Smaller models take larger steps: 3e-3 at width 96 is that of ``demo``.
        "optim.learning_rate": round(3e-3 * (96 / dim) ** 0.5, 5),
    }


def get_sweep(size: str = "full") -> list[dict]:
    """Return sizes for each budget.

    Args:
        size: ``smoke``, ``cpu``, ``gpu`` or ``full``.

    Raises:
        ValueError: another size.
    """
    if size not in PLANS:
        raise ValueError(f"no size {size!r}; use one of {sorted(PLANS)}")
    base, window_s, budgets = PLANS[size]
    same = {
        "config": f"{CONFIG}:{base}",
        "data.window_s": window_s,
        "budget.warmup_share": 0.1,
        "budget.checkpoints": 2,
        "evals.val.limit": 256,
    }
    if size == "gpu":  # small models: what is kept for the backward pass fits
        same |= ON_ONE_GPU
    if size == "full":  # each run sees a night but a few times, if at all
        same |= {"objective.model.dropout": 0.0, "evals.val.limit": 64}
    runs = (
        product(
            [{**same, "train.batch_size": rows}],
            [{"budget.flops": flops, "stem": f"c{flops:g}"}],
            map(model, widths),
        )
        for flops, (rows, widths) in budgets.items()
    )
    return chain(*runs)
