"""Next-token prediction over the epochs of a night: the RQ-Transformer of Hypnos on quantised epochs.

    python -m launch.train --config=configs/night/next_epoch.py:smoke --workdir=DIR \\
        --config.data.path=MODALITIES

It reads what ``pretrain.py`` reads; the sizes are alike. All numbers are ours where
``configs/hypnos/rq_transformer.py`` does not say that they are released.
"""  # noqa: E501

import ml_collections

from configs import common
from configs.night.pretrain import RUNS

# Width, layers, heads, (width, layers, heads) of the depth transformer, windows in tokens.
SIZES = {
    "test": (16, 2, 2, (8, 1, 2), (4, 8)),
    "smoke": (16, 2, 2, (8, 1, 2), (4, 8)),
    "demo": (64, 3, 4, (32, 1, 4), (32, 120)),
    "s": (256, 6, 8, (128, 2, 4), (60, 240)),
    "m": (512, 8, 8, (256, 2, 4), (60, 240)),
}


def get_config(size: str = "smoke") -> ml_collections.ConfigDict:
    """Return the config of one size.

    Args:
        size: ``test``, ``smoke``, ``demo``, ``s`` or ``m``.

    Raises:
        ValueError: another size.
    """
    if size not in SIZES:
        raise ValueError(f"no size {size!r}; use one of {sorted(SIZES)}")
    dim, layers, heads, depth, windows = SIZES[size]
    window, batch, steps, rate = RUNS[size]
    accelerator = size in ("s", "m")
    every = 1000 if accelerator else max(steps // 5, 1)

    config = ml_collections.ConfigDict()
    config.seed = 0
    config.objective = {
        "name": "epoch_next_token",
        "model": {
            "modalities": (),  # those of the store, by data.fill
            "dim": dim,
            "layers": layers,
            "heads": heads,
            "local_window": windows[0],
            "wide_window": windows[1],
            "wide_every": 3 if layers == 3 else 2,
            "modality_every": 1,
            "depth_dim": depth[0],
            "depth_layers": depth[1],
            "depth_heads": depth[2],
            "dropout": 0.1,
            "layer_scale": 0.01,  # released
            "attention": "auto",
            "chunk": 64,
            "remat": "cheap" if accelerator else "none",
            "dtype": "bfloat16" if accelerator else "float32",
        },
        "levels": 2 if size in ("test", "smoke") else 4,
        "codes": 16 if size in ("test", "smoke") else 64,
        "decay": 0.99,
        "bands": 8 if size in ("test", "smoke") else 16,
    }
    config.data = {
        "name": "modality_nights",
        "path": "",
        "window_tokens": window,
        "step_tokens": max(window // 4, 1),
        "modalities": (),  # all of the store
        "max_damaged": 0.01,  # share of the records
        "fill": (("objective.model.modalities", "modalities"),),
    }
    config.optim = common.optim(
        learning_rate=rate,
        warmup_steps=max(1, round(0.1 * steps)),
        from_zero=True,
        b1=0.9,
        b2=0.99,
        weight_decay=0.01,
        ema_decay=0.999 if accelerator else 0.0,
        ema_schedule="warmup",
        freeze=(),
        multipliers=(),
    )
    config.train = common.train(
        steps=steps, batch_size=batch, init_from="", init_subtrees=(), init_fresh=()
    )
    config.mesh = common.mesh()
    config.checkpoints = common.checkpoints(
        every=every,
        best_metric="eval/val/loss",
        best="lowest",
    )
    config.logs = common.logs(every=100 if accelerator else 10)
    config.watchdog = common.watchdog()
    config.evals = {
        "val": {"type": "mean_loss", "every": every, "split": "validation", "limit": 16},
        "probe": {  # python -m launch.evaluate
            "type": "linear_probe",
            "every": "job",
            "tasks": ("staging",),
            "pooling": "side_by_side",  # of the modalities
            "fractions": (1.0,),  # of the training people
            "batch_size": 32,  # windows at once
            "strength": 100.0,  # of the probe's penalty
        },
    }
    return config.lock()
