"""Stage 3: a question answered from fused channels (SynthSleepNet, arXiv 2502.17481).

    python -m launch.train --config=configs/synthsleepnet/finetune.py:demo,context,stage5 \\
        --workdir=DIR --config.data.path=NIGHTS --config.train.init_from=PRETRAINED
    python -m launch.evaluate --workdir=DIR

The argument is ``size``, ``size,protocol``, ``size,protocol,task`` or
``size,protocol,task,channels``. Protocols: ``probe``, a head of three layers on a frozen model,
epoch by epoch (the paper's linear probing); ``context`` (default), low-rank additions, a Mamba-2
over 20 epochs and that head. The task is ``stage5`` by default, or one of apneas and hypopneas by
epoch, such as ``apnea_only`` (rules: docs/data.md). Channels are those of ``pretrain.py``, whose
run ``init_from`` names, or one type of ``neuronet.py``, such as ``eeg``, and its run: stage 3 right
after stage 1.
Optimizer, batch, head and context stand here as the official code has them where nothing else is
said; it chose checkpoints by the test people, here by the validation split.

A part of the labels: ``--config.data.few_shot=0.05`` of the windows of training, or so many people
(``few_shot_subjects``); ``few_shot_seed`` draws others. Whole nights in one window, forwards and
backwards: ``--config.data.window_tokens=1535 --config.data.step_tokens=0
--config.objective.context.bidirectional=true``.
"""

import ml_collections

from configs import common
from configs.synthsleepnet import neuronet, pretrain

SIZES = tuple(pretrain.SIZES)
PROTOCOLS = ("context", "probe")
_EVENTS = ("", "_midpoint", "_more_than_10s", "_official")
TASKS = ("stage5", *(f"{kind}_only{rule}" for kind in ("apnea", "hypopnea") for rule in _EVENTS))
# Size -> epochs of a window, between starts, windows of a batch, steps, peak learning rate.
RUNS = {
    "context": {
        "test": (4, 2, 4, 20, 1e-3),
        "smoke": (20, 10, 4, 40, 2e-3),
        "demo": (20, 10, 8, 200, 2e-3),
        "small": (20, 10, 128, 1200, 2.5e-4),
        "base": (20, 10, 128, 1200, 2.5e-4),  # 30 passes over 50 nights of about 1,000 epochs
    },
    "probe": {
        "test": (1, 0, 8, 20, 1e-3),
        "smoke": (1, 0, 32, 40, 2e-3),
        "demo": (1, 0, 64, 300, 2e-3),
        "small": (1, 0, 512, 10_000, 2e-4),
        "base": (1, 0, 512, 10_000, 2e-4),  # 100 passes over 50 nights
    },
}


def get_config(arg: str = "smoke") -> ml_collections.ConfigDict:
    """Return the config of one size, protocol, task and choice of channels.

    Args:
        arg: up to four parts, by commas; see above.

    Raises:
        ValueError: an unknown part, or too many.
    """
    size, protocol, task, channels, *rest = (*arg.split(","), "", "", "")
    protocol, task, channels = protocol or "context", task or "stage5", channels or "six"
    for value, known, what in (
        (size, SIZES, "size"),
        (protocol, PROTOCOLS, "protocol"),
        (task, TASKS, "task"),
        (channels, {**pretrain.CHANNELS, **neuronet.TYPES}, "channels"),
    ):
        if value not in known:
            raise ValueError(f"no {what} {value!r}; use one of {sorted(known)}")
    if any(rest):
        raise ValueError(f"{arg!r} has more than size, protocol, task and channels")
    window, step, batch, steps, rate = RUNS[protocol][size]
    context, accelerator = protocol == "context", size not in ("test", "smoke", "demo")
    alone = channels in neuronet.TYPES
    stage = neuronet if alone else pretrain
    before = stage.get_config(f"{size},{channels}").objective.model
    events = () if task == "stage5" else (task,)

    config = ml_collections.ConfigDict()
    config.seed = 777 if accelerator else 0
    kept = ("share", "frozen_statistics", "dim", "depth", "heads", "at_once")
    additions = {"rank": 4, "alpha": 8.0, "dropout": 0.0, "stabilised": True, "start": "gaussian"}
    additions = additions if context else None
    encoder = neuronet.encoder(size)
    if alone:
        backbone = {
            "name": "neuronet",
            "encoder": {**encoder, "frame_lora": additions, "frozen_statistics": True},
        }
    else:
        backbone = {
            "name": "synthsleepnet",
            "encoder": encoder,
            "lora": {**before.lora, "dropout": 0.0},
            "tuning": additions,
            **{name: before[name] for name in kept},
        }
    config.objective = {
        "name": "finetune",
        "backbone": {
            **backbone,
            "modalities": (),  # those of the data, by data.fill
            "remat": "all" if context and accelerator else "none",
            "dtype": before.dtype,
        },
        "train_backbone": False,  # in evaluation mode; its low-rank additions are trained
        "task": task,
        "fusion": "mean",  # of channels that are not fused already
        "head": "mlp",
        "head_dropout": 0.5,
        "modality_dropout": 0.0,
        "class_weights": (),  # equal
        "context": {
            "name": "mamba_context",
            "kind": "mamba2",
            "layers": 1,
            "d_state": 16,
            "d_conv": 4,
            "expand": 2,
            "head_dim": 64 if accelerator else 8,
            "bidirectional": False,
            "residual": True,
            "dtype": before.dtype,
        }
        if context
        else None,
    }
    config.data = {
        "name": "modality_nights",
        "path": "",
        "recipe": "synthsleepnet",
        "window_tokens": window,
        "step_tokens": step,
        "modalities": stage.TYPES[channels] if alone else stage.CHANNELS[channels],
        "sites": (),  # all
        "events": events,
        "few_shot": 0.0,  # windows of training, or a share of them; 0: all
        "few_shot_subjects": 0,
        "few_shot_seed": 0,
        "flip": 0.0,  # share of the waves whose sign is changed in training, such as 0.5
        "gain": 0.0,  # of waves that vary in size in training, such as 0.2
        "trained_on": "train",  # another split is a leak; see the source
        "max_damaged": 0.01,  # share of the records
        "fill": (("objective.backbone.modalities", "modalities"),),
    }
    # The low-rank additions of stage 2 go on being trained, as they are in the official code.
    freeze = ("towers", "!towers/*/lora_?") if context else ("towers",)
    config.optim = common.optim(
        learning_rate=rate,
        warmup_steps=0 if accelerator else 5,
        b1=0.9,
        b2=0.999,
        weight_decay=0.01,  # of matrices; the official code's of everything
        ema_decay=0.0,
        freeze=freeze,
    )
    config.optim.decay = "constant"
    config.optim.clip_norm = 2.0
    config.train = common.train(
        steps=steps,
        batch_size=batch,
        stop_after=5 if size == "demo" else 0,
        init_from="",  # a run of stage 2
        init_subtrees=(("network", "towers"),),
        init_fresh=("*/lora_?",) if context else (),
    )
    config.mesh = common.mesh()
    every = max(steps // 10, 1) if accelerator else common.validation_every(size, steps)
    metric = "auprc" if events else "macro_f1"
    config.checkpoints = common.checkpoints(
        every=every, best_metric=f"eval/val/{metric}", best="highest"
    )
    config.logs = common.logs(every=100 if accelerator else 10)
    config.watchdog = common.watchdog()
    config.evals = {
        "val": {
            "type": "downstream",
            "every": every,
            "split": "validation",
            "limit": 1000 if accelerator else 8,  # batches
        },
        "test": {
            "type": "downstream",
            "every": "job",  # python -m launch.evaluate
            "split": "test",
            "draws": 200,  # of the test people, for intervals
        },
    }
    return config.lock()
