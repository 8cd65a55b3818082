"""``--config=lab/config.py:tiny``."""

import ml_collections

from configs import common

SIZES = {"tiny": (16, 1, 2), "base": (512, 8, 8)}  # width, layers, heads


def get_config(size: str = "tiny") -> ml_collections.ConfigDict:
    """Return the config of a size."""
    dim, layers, heads = SIZES[size]
    config = ml_collections.ConfigDict({"seed": 0})
    model = {"modalities": (), "dim": dim, "layers": layers, "heads": heads, "dtype": "float32"}
    config.objective = {"name": "lab.masked_tokens", "model": model, "mask_rate": 0.5}
    fill = (("objective.model.modalities", "modalities"),)
    config.data = {"name": "lab.token_nights", "path": "", "window_tokens": 24, "fill": fill}
    rates = {"learning_rate": 1e-3, "warmup_steps": 10, "b1": 0.9, "b2": 0.95}
    config.optim = common.optim(**rates, weight_decay=0.05, ema_decay=0.0)
    config.train = common.train(steps=100, batch_size=4)
    config.mesh = common.mesh()
    best = {"best_metric": "eval/val/loss", "best": "lowest"}
    config.checkpoints = common.checkpoints(every=20, keep_best=0, **best)
    config.logs = common.logs(every=10)
    config.watchdog = common.watchdog()
    probe = {"tasks": ("staging",), "fractions": (1.0,), "draws": 50}
    config.evals = {
        "val": {"type": "mean_loss", "every": 50, "split": "validation", "limit": 2},
        "probe": {"type": "linear_probe", "every": "job", **probe},
    }
    return config.lock()
