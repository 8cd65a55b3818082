"""A night encoder: each channel's hidden spans predicted, with a little contrast between channels.

    python -m launch.train --config=configs/night/pretrain.py:smoke --workdir=DIR \\
        --config.data.path=MODALITIES

It reads any store of modalities with tokens of 30 s: series such as band powers
(``launch.prepare_nights --builder=arrays``), or waveforms, of which it takes log powers in bands.
The argument is ``size`` or ``size,loss``; the loss is ``hybrid`` by default, or ``masked``, without
the contrast. All numbers are ours. ``test`` and ``smoke`` run in seconds on a CPU (smoke without
any data too); ``demo`` learns from a hundred nights of band powers in a minute or two of two cores;
``s`` and ``m`` are for thousands of nights.
"""

import ml_collections

from configs import common

LOSSES = {"hybrid": 0.1, "masked": 0.0}  # weight of the contrast

# Width, layers, heads, hidden width of the position-wise network, bands of a waveform.
SIZES = {
    "test": (16, 1, 2, 32, 8),
    "smoke": (16, 2, 2, 32, 8),
    "demo": (64, 3, 4, 128, 16),
    "s": (256, 6, 8, 1024, 24),
    "m": (512, 8, 8, 2048, 32),
}

# Tokens of a window, rows of the global batch, steps, peak learning rate.
RUNS = {
    "test": (8, 4, 20, 2e-3),
    "smoke": (10, 8, 40, 2e-3),
    "demo": (120, 16, 250, 2e-3),
    "s": (240, 256, 20_000, 5e-4),
    "m": (240, 512, 40_000, 3e-4),
}


def get_config(arg: str = "smoke") -> ml_collections.ConfigDict:
    """Return the config of one size and loss.

    Args:
        arg: ``"size"`` or ``"size,loss"``.

    Raises:
        ValueError: an unknown size or loss.
    """
    size, _, loss = arg.partition(",")
    loss = loss or "hybrid"
    if size not in SIZES:
        raise ValueError(f"no size {size!r}; use one of {sorted(SIZES)}")
    if loss not in LOSSES:
        raise ValueError(f"no loss {loss!r}; use one of {sorted(LOSSES)}")
    window, batch, steps, rate = RUNS[size]
    accelerator = size in ("s", "m")
    every = 1000 if accelerator else max(steps // 5, 1)

    config = ml_collections.ConfigDict()
    config.seed = 0
    config.objective = {
        "name": "channel_prediction",
        "model": network(size) | {"modalities": ()},  # those of the store, by data.fill
        "mask_rate": 0.45,
        "span_tokens": 8,  # 4 min
        "noise": 0.1,  # of values that are standardised
        "contrast_weight": LOSSES[loss],
        "temperature": 0.1,
        "contrast_tokens": 512,
        "contrast_dim": 32,
    }
    config.data = {
        "name": "modality_nights",
        "path": "",
        "window_tokens": window,
        "step_tokens": max(window // 4, 1),  # windows of training overlap: other beginnings
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
        best_metric="eval/val/prediction",
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
            "fractions": (1.0,),  # of the training people
            "batch_size": 32,  # windows at once
            "strength": 100.0,  # of the probe's penalty
        },
    }
    return config.lock()


def network(size: str) -> dict:
    """Return the keyword arguments of ``NightEncoder`` of a size, without the modalities."""
    dim, layers, heads, ffn_dim, bands = SIZES[size]
    accelerator = size in ("s", "m")
    return {
        "dim": dim,
        "layers": layers,
        "heads": heads,
        "ffn_dim": ffn_dim,
        "bands": bands,
        "neighbours": 7,
        "dropout": 0.1,
        "remat": "cheap" if accelerator else "none",
        "dtype": "bfloat16" if accelerator else "float32",
    }
