"""IsoFLOP: the RQ-Transformer at several sizes for each of several budgets of compute.

    python -m launch.sweep --sweep=configs/sweeps/isoflop.py:smoke --output=DIR --jobs=2 \\
        [--set=data.path=TOKENS]
"""

from configs.grids import axis, product

CONFIG = "configs/hypnos/rq_transformer.py"

# All else equal: heads of 32 (16 in the smallest), the depth transformer at half the width.
#       dim  layers  depth_dim  depth_layers
LADDERS = {
    "smoke": [(16, 2), (24, 2), (32, 2)],
}
BUDGETS = {
    "smoke": (1e10, 2e10),
}


def get_sweep(size: str = "full") -> list[dict]:
    """Return budgets x sizes."""
    if size not in LADDERS:
        raise ValueError(f"no size {size!r}; use one of {sorted(LADDERS)}")
    models = [
        {
            "stem": f"d{dim}-l{layers}",
            "objective.model.dim": dim,
            "objective.model.layers": layers,
            "objective.model.depth_dim": dim // 2,
        }
        for dim, layers in LADDERS[size]
    ]
    base = {"config": f"{CONFIG}:test", "budget.warmup_share": 0.1, "budget.checkpoints": 2}
    return product([base], axis("budget.flops", *BUDGETS[size], stem="c"), models)
