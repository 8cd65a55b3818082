"""Hypnos: the multi-modal RQ-Transformer over token nights (arXiv 2606.09605).

    python -m launch.train --config=configs/hypnos/rq_transformer.py:smoke --workdir=DIR \\
        --config.data.path=TOKENS

Sizes by one dial. ``smoke`` makes its own tiny token store where no path is given and takes under a
minute on a CPU (validation loss from 4.2 = ln 64 to about 3.7 nats); ``demo`` is for a dozen
one-hour nights on two cores, about two minutes; ``tiny``, ``small`` and ``base`` are for
accelerators: 58, 150 and 330 M parameters with eight modalities of 8 x 2048 codes, or 48, 129 and
301 M where chin and belts have 4 levels. ``large`` (1.25 B parameters) and ``xl`` (5.2 B) are ours
alone, for pods (docs/scaling.md): heads and hidden layers of multiples of 128, which a TPU wants,
and a mesh that shards parameters is yours to give (``--config.mesh.fsdp=16``).

``SIZE,timing`` reads the timing levels of the token store beside its tokenizers' codes (ours; see
docs/learning.md), and ``SIZE,timing_alone`` nothing but these.

The released configuration is not public. Known of it are the width of ``base`` (768), the windows
(64 and 256 s), QK-norm, LayerScale and the initialisation; every other number here is ours.
"""

import ml_collections

from configs import common

# The one dial. Ours, but for base: D 768, windows 64/256.
#          dim  layers heads  modality  depth           windows (s)
#                             every     dim lay. heads  local wide
SIZES = {
    "test": (32, 2, 2, 1, (16, 2, 2), (8, 16)),
    "smoke": (32, 2, 2, 1, (16, 2, 2), (8, 16)),
    "demo": (96, 4, 4, 2, (48, 1, 4), (64, 256)),
    "tiny": (256, 4, 4, 2, (192, 2, 4), (64, 256)),
    "small": (512, 8, 8, 2, (384, 4, 8), (64, 256)),
    "base": (768, 12, 12, 1, (512, 4, 8), (64, 256)),
    "large": (1536, 16, 12, 1, (1024, 4, 8), (64, 256)),
    "xl": (3072, 20, 24, 1, (1536, 6, 12), (64, 256)),
}

# Window (s), rows of the global batch, steps, warm-up steps, peak learning rate, dropout. Ours.
RUNS = {
    "test": (64, 4, 20, 5, 3e-3, 0.0),
    "smoke": (64, 4, 40, 10, 3e-3, 0.0),
    "demo": (512, 2, 80, 8, 3e-3, 0.0),
    "tiny": (2048, 64, 50_000, 2000, 1e-3, 0.1),
    "small": (2048, 64, 50_000, 2000, 6e-4, 0.1),
    "base": (2048, 64, 100_000, 2000, 3e-4, 0.1),
    "large": (2048, 256, 50_000, 2000, 2e-4, 0.1),
    "xl": (2048, 512, 50_000, 2000, 1.5e-4, 0.1),
}

# What follows the size -> which levels of the token store are read.
LEVELS = {"": "", "timing": "beside", "timing_alone": "alone"}


def get_config(size: str = "smoke") -> ml_collections.ConfigDict:
    """Return the config of one size.

    Args:
        size: ``test``, ``smoke``, ``demo``, ``tiny``, ``small``, ``base``, ``large`` or ``xl``; and
            which levels, as in ``small,timing``.

    Raises:
        ValueError: another size, or other levels.
    """
    size, _, levels = size.partition(",")
    if size not in SIZES or levels not in LEVELS:
        raise ValueError(
            f"no size {size!r} with levels {levels!r}; use one of {sorted(SIZES)}, alone or with"
            f" {', '.join(name for name in LEVELS if name)}"
        )
    dim, layers, heads, modality_every, depth, windows = SIZES[size]
    window_s, batch, steps, warmup, rate, dropout = RUNS[size]
    accelerator = size not in ("test", "smoke", "demo")

    config = ml_collections.ConfigDict()
    config.seed = 0
    config.objective = {
        "name": "rq_next_token",
        "model": {
            "modalities": (),  # those of the token store, by data.fill
            "dim": dim,
            "layers": layers,
            "heads": heads,
            "ffn": "swiglu",
            "qk_norm": True,  # on in the released library's test fixture
            "xsa": False,
            "local_window": windows[0],  # s, itself included; released: 64
            "wide_window": windows[1],  # s; released: 256
            "wide_every": 4 if layers >= 4 else 2,
            "modality_every": modality_every,
            "modality_start": 0,
            "modality_ffn": True,
            "depth_dim": depth[0],
            "depth_layers": depth[1],
            "depth_heads": depth[2],
            "depth_tables": "own",  # or "backbone" (of equal width), "projected"
            "tie_heads": False,
            "dropout": dropout,
            "layer_scale": 0.01,  # released
            "masking": "crp",
            "crp_alpha": 1.0,
            "drop_rate": 0.5,  # of masking="bernoulli"
            "use_tracks": False,  # as published: blind to absolute amplitude
            "attention": "auto",  # cuDNN's on GPUs in bfloat16, blocks elsewhere
            "chunk": 256 if accelerator else 64,  # s whose logits are alive at once
            "remat": "cheap" if accelerator else "none",
            "unroll": 1,
            "dtype": "bfloat16" if accelerator else "float32",
        },
        "modality_weights": (),  # equal, as released
        "embed_lag": True,  # as released: row t has not seen second t
    }
    config.data = {
        "name": "token_windows",
        "path": "",
        "window_s": window_s,
        "modalities": (),  # all of the store
        "timing": LEVELS[levels],  # none as published
        "nights": 0,  # of the training split, so many alone; 0: all
        "phases": 0,  # of the grids of tokenize_nights --shifts, so many alone; 0: all
        "max_damaged": 0.01,  # share of the nights
        "fill": (("objective.model.modalities", "modalities"),),
    }
    config.optim = common.optim(
        learning_rate=rate,
        warmup_steps=warmup,
        b1=0.9,
        b2=0.95,
        weight_decay=0.1,
        ema_decay=0.0,  # 0.9999 for averaged weights
    )
    config.train = common.train(
        steps=steps,
        batch_size=batch,
        stop_after=5 if size == "demo" else 0,  # a dozen hours are memorised in some 500 steps
    )
    config.mesh = common.mesh()
    config.checkpoints = common.checkpoints(
        every=1000 if accelerator else max(steps // 2, 1),
        best_metric="eval/val/loss",
        best="lowest",
    )
    config.logs = common.logs(every=100 if accelerator else 10)
    config.watchdog = common.watchdog()
    config.evals = {
        "val": {
            "type": "mean_loss",
            "every": 1000 if accelerator else common.validation_every(size, steps),
            "split": "validation",
            "limit": 64 if accelerator else 8,  # batches
        },
        # Of jobs: python -m launch.evaluate [--follow]
        "nll": {
            "type": "mean_loss",
            "every": "job",
            "split": "validation",
            "limit": 512 if accelerator else 16,  # batches
        },
        "probe": {
            "type": "linear_probe",
            "every": "job",
            "nights": "",  # the signal nights that the tokens were made of, for their features
        },
    }
    return config.lock()
