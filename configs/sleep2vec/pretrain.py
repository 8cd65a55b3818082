"""sleep2vec: contrastive towers of all modalities of a night (arXiv 2602.13857).

    python -m launch.train --config=configs/sleep2vec/pretrain.py:smoke --workdir=DIR \\
        --config.data.path=MODALITIES

The argument is ``size`` or ``size,loss``; the loss is ``dash`` by default, or ``info_nce``. Sizes:
``test`` and ``smoke`` run in seconds on a CPU, most of them compilation (smoke without any data
too); ``demo`` learns from synthetic nights in minutes; ``xs``, ``s`` and ``m`` are ours; ``dense``
and ``large`` are those of the official code. Its optimizer, schedule, batch, masks and loss
constants stand here as it has them where nothing else is said; the paper model reads nine
modalities.

Another sensor joins in two stages, after the official code: its own parts first, then all, the
trunk slowest. The mask vectors are one array, so they begin anew (ours)::

    --config.train.init_from=PRETRAINED --config.train.init_subtrees='(("towers", "towers"),)'
    --config.train.init_fresh='("towers/tokenizer_ppg", "towers/mask_embedding")'
    --config.optim.freeze='("*", "!towers/tokenizer_ppg", "!towers/mask_embedding")'

    --config.train.init_from=STAGE_1
    --config.optim.multipliers='(("*", 0.5), ("towers/trunk", 0.1), ("towers/tokenizer_ppg", 1.0))'
"""

import ml_collections

from configs import common

LOSSES = ("dash", "info_nce")

# Width, layers, heads, hidden width of the position-wise network, of the projection, compared.
SIZES = {
    "test": (16, 2, 2, 32, 16, 8),
    "smoke": (32, 2, 2, 64, 32, 16),
    "demo": (64, 2, 4, 256, 64, 32),
    "xs": (256, 4, 4, 1024, 768, 128),
    "s": (384, 6, 6, 1536, 768, 128),
    "m": (512, 8, 8, 2048, 768, 128),
    "dense": (768, 12, 16, 3072, 768, 128),
    "large": (1024, 16, 16, 3072, 768, 128),
}

# Tokens of a window, rows of the global batch, steps, peak learning rate.
RUNS = {
    "test": (10, 8, 20, 1e-3),
    "smoke": (10, 16, 40, 2e-3),
    "demo": (30, 64, 400, 2e-3),
    "xs": (120, 640, 65_000, 2e-4),
    "s": (120, 640, 65_000, 1e-4),
    "m": (120, 640, 65_000, 1e-4),
    "dense": (120, 640, 65_000, 5e-5),
    "large": (120, 640, 65_000, 5e-5),
}


def get_config(arg: str = "smoke") -> ml_collections.ConfigDict:
    """Return the config of one size and loss.

    Args:
        arg: ``"size"`` or ``"size,loss"``.

    Raises:
        ValueError: an unknown size or loss.
    """
    size, _, loss = arg.partition(",")
    loss = loss or "dash"
    if size not in SIZES:
        raise ValueError(f"no size {size!r}; use one of {sorted(SIZES)}")
    if loss not in LOSSES:
        raise ValueError(f"no loss {loss!r}; use one of {LOSSES}")
    dim, layers, heads, ffn_dim, projection_dim, out_dim = SIZES[size]
    window, batch, steps, rate = RUNS[size]
    accelerator = size not in ("test", "smoke", "demo")
    official = size in ("dense", "large")

    config = ml_collections.ConfigDict()
    config.seed = 12345 if official else 0
    config.objective = {
        "name": "dash_infonce",
        "model": {
            "modalities": (),  # those of the store, by data.fill
            "dim": dim,
            "layers": layers,
            "heads": heads,
            "ffn_dim": ffn_dim,
            "token_dim": 768 if official else dim,
            "cls": False,  # the paper has one; the code's default is none
            "mask_rate": 0.15,
            "projection_dim": projection_dim,
            "out_dim": out_dim,
            "projection_depth": 2,  # the code; the paper is said to have 3
            "groups": 1,  # the statistics of the head are the whole batch's
            "dropout": 0.1,
            "lora_rank": 0,
            "lora_alpha": 16.0,
            "lora_dropout": 0.05,
            "remat": "cheap" if accelerator else "none",
            "unroll": 1,
            "dtype": "bfloat16" if accelerator else "float32",
        },
        "temperature": 0.2,
        "weighting": "dash" if loss == "dash" else "none",
        "hard_scale": 0.1 if loss == "dash" else 0.0,
        "pos_margin": 0.0,
        "sigma_age": 20.0,  # years
        "alpha_sex": 0.8,
        "site_same": 1.3,
        "site_different": 0.8,
        "missing": "remove",  # as the code does; "neutral" is ours
        "form": "code",
        "history": "night",
        "groups": 1,  # negatives are the whole batch's; the code's are each device's own
        "as_released": False,
    }
    config.data = {
        "name": "modality_pairs",
        "path": "",
        "window_tokens": window,
        "modalities": (),  # all of the store
        "min_tokens": min(30, window),  # ours; the code keeps every last window
        "sites": (),  # all
        "nights": 0,  # of the training split, so many alone; 0: all
        "pair_weights": (),  # equal
        "flip": 0.0,  # share of the waves whose sign is changed, such as 0.5
        "gain": 0.0,  # of waves that vary in size, such as 0.2
        "max_damaged": 0.01,  # share of the records
        "fill": (("objective.model.modalities", "modalities"),),
    }
    config.optim = common.optim(
        learning_rate=rate,
        warmup_steps=max(1, round(0.03 * steps)),
        from_zero=True,
        b1=0.9,
        b2=0.95,
        weight_decay=0.01,
        # Over some hundred steps the official schedule would leave averages near their beginning.
        ema_decay=0.996 if accelerator else 0.98,
        ema_schedule="cosine" if accelerator else "warmup",
        freeze=(),
        multipliers=(),
    )
    config.train = common.train(
        steps=steps,  # 65,000: about 120 epochs of 350,000 windows
        batch_size=batch,
        init_from="",  # another run of towers, an export, published weights
        init_subtrees=(),  # all of it
        init_fresh=(),  # patterns of what may be new, such as another sensor's tokenizer
    )
    config.mesh = common.mesh()
    config.checkpoints = common.checkpoints(
        every=1000 if accelerator else max(steps // 2, 1),
        best_metric="eval/val/accuracy",
        best="highest",
    )
    config.logs = common.logs(every=100 if accelerator else 10)
    config.watchdog = common.watchdog()
    config.evals = {
        "val": {
            "type": "mean_loss",
            "every": 1000 if accelerator else common.validation_every(size, steps),
            "split": "validation",
            "limit": 72 if accelerator else 8,  # batches, spread over the pairs
        },
        # Of jobs: python -m launch.evaluate [--follow]
        "retrieval": {
            "type": "retrieval",
            "every": "job",
            "split": "validation",
            "windows": 128,  # of each pair; N of the accuracy
            "pairs": (),  # all; or (("eeg", "ecg"),), for runs on different modalities
        },
        "probe": {
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
