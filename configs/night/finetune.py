"""A night encoder trained on one task of epochs, from a pretrained one or from scratch.

    python -m launch.train --config=configs/night/finetune.py:demo,stage5 --workdir=DIR \\
        --config.data.path=MODALITIES --config.train.init_from=PRETRAINED

The argument is ``size`` or ``size,task``; the task is ``stage5`` by default. Sizes are those of
``pretrain.py``. All numbers are ours.
"""

import ml_collections

from configs import common
from configs.night.pretrain import SIZES, network

# Task -> metric that chooses checkpoints.
TASKS = {
    "stage5": "kappa",
    "stage4": "kappa",
    "stage3": "kappa",
    "apnea": "auroc",
    "apnea_unstaged": "auroc",
}

# Tokens of a window, rows of the global batch, steps, peak learning rate.
RUNS = {
    "test": (8, 4, 20, 1e-3),
    "smoke": (10, 8, 40, 1e-3),
    "demo": (120, 8, 160, 1e-3),
    "s": (240, 32, 4000, 2e-4),
    "m": (240, 32, 4000, 1e-4),
}


def get_config(arg: str = "smoke") -> ml_collections.ConfigDict:
    """Return the config of one size and task.

    Args:
        arg: ``"size"`` or ``"size,task"``.

    Raises:
        ValueError: an unknown size or task.
    """
    size, _, task = arg.partition(",")
    task = task or "stage5"
    if size not in SIZES:
        raise ValueError(f"no size {size!r}; use one of {sorted(SIZES)}")
    if task not in TASKS:
        raise ValueError(f"no task {task!r}; use one of {sorted(TASKS)}")
    window, batch, steps, rate = RUNS[size]
    accelerator = size in ("s", "m")
    every = max(steps // 10, 1)

    config = ml_collections.ConfigDict()
    config.seed = 0
    config.objective = {
        "name": "finetune",
        "backbone": {"name": "night_encoder"} | network(size) | {"modalities": ()},
        "task": task,
        "outcomes": (),
        "survival": (),
        "fusion": "gated_scalar",  # the encoder fuses by itself
        "pooling": "mean",
        "head": "linear",
        "head_dropout": 0.0,
        "modality_dropout": 0.1,
        "class_weights": (),  # equal
        "target_mean": 0.0,
        "target_sd": 1.0,
        "context": None,
    }
    config.data = {
        "name": "modality_nights",
        "path": "",
        "window_tokens": window,
        "step_tokens": max(window // 4, 1),
        "modalities": (),  # all of the store
        "events": () if task.startswith("stage") else (task,),
        "few_shot_subjects": 0,  # training people whose labels are used; 0: all
        "few_shot_seed": 0,
        "max_damaged": 0.01,  # share of the records
        "fill": (("objective.backbone.modalities", "modalities"),),
    }
    config.optim = common.optim(
        learning_rate=rate,
        warmup_steps=max(1, round(0.1 * steps)),
        from_zero=True,
        b1=0.9,
        b2=0.99,
        weight_decay=0.01,
        ema_decay=0.99 if accelerator else 0.95,
        ema_schedule="warmup",
        freeze=(),
        multipliers=(),
    )
    config.train = common.train(
        steps=steps,
        batch_size=batch,
        init_from="",  # a pretraining run or an export
        init_subtrees=(("network", "towers"),),
        init_fresh=(),
    )
    config.mesh = common.mesh()
    config.checkpoints = common.checkpoints(
        every=every, keep_best=1, best_metric=f"eval/val/{TASKS[task]}", best="highest"
    )
    config.logs = common.logs(every=100 if accelerator else 10)
    config.watchdog = common.watchdog()
    config.evals = {
        "val": {"type": "downstream", "every": every, "split": "validation"},
        "test": {"type": "downstream", "every": "job", "split": "test", "draws": 200},
    }
    return config.lock()
