"""sleep2vec: towers fine-tuned on one task (arXiv 2602.13857).

    python -m launch.train --config=configs/sleep2vec/finetune.py:dense,stage5 --workdir=DIR \\
        --config.data.path=MODALITIES --config.train.init_from=PRETRAINED
    python -m launch.evaluate --workdir=DIR

The argument is ``size`` or ``size,task``; the task is ``stage5`` by default. Sizes are those of
``pretrain.py``, whose runs, exports or published weights ``init_from`` names; without it the
towers begin at random (and their tokenizers had better not be frozen). Optimizer, schedule,
batch and head stand here as the official code has them where nothing else is said.

A part of the labels: ``--config.data.few_shot=1280`` windows of training, or a share below 1;
smaller parts lie within larger ones. Whole nights: ``--config.data.window_tokens=1535``. Some sites
alone: ``--config.data.sites='("shhs",)'``, and the others too with
``launch.evaluate --set=data.sites=[]``. Low-rank additions in place of the trunk (LoRA)::

    --config.objective.backbone.lora_rank=8 --config.optim.freeze='("towers", "!*/lora_?")' \\
    --config.train.init_fresh='("*/lora_?",)'
"""

import ml_collections

from configs import common

# Task -> metric that chooses checkpoints, whether high or low is good, and fusion.
TASKS = {
    "stage5": ("accuracy", "highest", "gated_scalar"),
    "stage4": ("accuracy", "highest", "gated_scalar"),
    "stage3": ("accuracy", "highest", "gated_scalar"),
    "ahi": ("ahi_pearson", "highest", "gated_scalar"),
    "arousal": ("auprc", "highest", "gated_scalar"),  # ours
    "apnea": ("auprc", "highest", "gated_scalar"),  # apnea or hypopnea by epoch of sleep; ours
    "age": ("mae", "lowest", "mean"),
    "sex": ("accuracy", "highest", "gated_scalar"),
    "binary": ("auroc", "highest", "gated_scalar"),  # ours
    "multilabel": ("auroc", "highest", "gated_scalar"),  # ours
    "survival": ("c_index", "highest", "gated_scalar"),  # ours
}

# Width, layers, heads, hidden width of the position-wise network; as in pretrain.py.
SIZES = {
    "test": (16, 2, 2, 32),
    "smoke": (32, 2, 2, 64),
    "demo": (64, 2, 4, 256),
    "xs": (256, 4, 4, 1024),
    "s": (384, 6, 6, 1536),
    "m": (512, 8, 8, 2048),
    "dense": (768, 12, 16, 3072),
    "large": (1024, 16, 16, 3072),
}

# Tokens of a window, rows of the global batch, steps, peak learning rate.
RUNS = {
    "test": (12, 4, 20, 1e-3),
    "smoke": (16, 8, 40, 2e-3),
    "demo": (30, 16, 300, 1e-3),
    # 1280 windows, 30 epochs
    "xs": (120, 12, 3200, 1e-4),
    "s": (120, 12, 3200, 3e-5),
    "m": (120, 12, 3200, 3e-5),
    "dense": (120, 12, 3200, 1e-5),  # the code's examples; its default is 1e-6
    "large": (120, 12, 3200, 1e-5),
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
    dim, layers, heads, ffn_dim = SIZES[size]
    window, batch, steps, rate = RUNS[size]
    metric, best, fusion = TASKS[task]
    accelerator = size not in ("test", "smoke", "demo")
    official = size in ("dense", "large")

    config = ml_collections.ConfigDict()
    config.seed = 4523 if official else 0
    config.objective = {
        "name": "finetune",
        "backbone": {
            "name": "modality_towers",
            "modalities": (),  # those of the data, by data.fill
            "dim": dim,
            "layers": layers,
            "heads": heads,
            "ffn_dim": ffn_dim,
            "token_dim": 768 if official else dim,
            "cls": False,  # as pretrained
            "mask_rate": 0.0,
            "dropout": 0.1,
            "lora_rank": 0,  # the code's is 8, where it is used
            "lora_alpha": 16.0,
            "lora_dropout": 0.05,
            "remat": "cheap" if accelerator else "none",
            "dtype": "bfloat16" if accelerator else "float32",
        },
        "task": task,
        "outcomes": (),  # those of the data, by data.fill
        "survival": (),
        "fusion": fusion,
        "pooling": "mean",  # of tasks by night; "attention", or "cls" where the model has one
        "head_dropout": 0.1,
        "modality_dropout": 0.0,  # 0.3 for models that will miss sensors (ours)
        "class_weights": (),  # equal
        "target_mean": 0.0,  # of the training nights' age, by data.fill
        "target_sd": 0.0 if task == "age" else 1.0,
        "context": None,  # over the tokens of a window: {"name": "transformer_context", ...}
    }
    config.data = {
        "name": "modality_nights",
        "path": "",
        "window_tokens": window,
        "modalities": (),  # all of the store
        "sites": (),  # all
        "labels": (),  # all outcomes
        "few_shot": 1280.0 if official else 0.0,  # training windows, or a share; 0: all
        "few_shot_seed": 0,
        "flip": 0.0,  # share of the waves whose sign is changed in training, such as 0.5
        "gain": 0.0,  # of waves that vary in size in training, such as 0.2
        "max_damaged": 0.01,  # share of the records
        "fill": (
            ("objective.backbone.modalities", "modalities"),
            ("objective.outcomes", "outcomes"),
            ("objective.survival", "survival"),
        )
        + (
            (("objective.target_mean", "age_mean"), ("objective.target_sd", "age_sd"))
            if task == "age"
            else ()
        ),
    }
    if task == "apnea":
        config.data.events = (task,)
    config.optim = common.optim(
        learning_rate=rate,
        warmup_steps=max(1, round(0.03 * steps)),
        from_zero=True,
        b1=0.9,
        b2=0.95,
        weight_decay=1e-5,
        ema_decay=0.996 if accelerator else 0.9,  # ours; the code's momentum for pretraining
        ema_schedule="warmup",
        freeze=("towers/tokenizer_*",),
        multipliers=(),
    )
    config.train = common.train(
        steps=steps,
        batch_size=batch,
        stop_after=5 if size == "demo" else 0,
        init_from="",  # a pretraining run, an export, published weights
        init_subtrees=(("towers", "towers"),),
        init_fresh=(),
    )
    config.mesh = common.mesh()
    config.checkpoints = common.checkpoints(
        every=max(steps // 30, 1) if accelerator else max(steps // 2, 1),
        best_metric=f"eval/val/{metric}",
        best=best,
    )
    config.logs = common.logs(every=100 if accelerator else 10)
    config.watchdog = common.watchdog()
    config.evals = {
        "val": {
            "type": "downstream",
            "every": max(steps // 30, 1) if accelerator else common.validation_every(size, steps),
            "split": "validation",
            "limit": 1000 if accelerator else 8,  # batches
        },
        "test": {
            "type": "downstream",
            "every": "job",  # python -m launch.evaluate
            "split": "test",
            "subsets": ("single", "leave_one_out"),
            "most_subsets": 20,  # of each number of modalities that is added to these
            "holes": (0.1, 0.3, 0.5),  # of the tokens
            "least_tst_h": 2.0,
            # of the test people, for an interval; too many outputs a token where it is 0
            "draws": 0 if task in ("ahi", "arousal") else 200,
        },
    }
    return config.lock()
