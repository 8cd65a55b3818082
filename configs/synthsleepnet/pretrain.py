"""Stage 2: channels fused by masked prediction and contrast (SynthSleepNet, arXiv 2502.17481).

    python -m launch.train --config=configs/synthsleepnet/pretrain.py:smoke --workdir=DIR \\
        --config.data.path=NIGHTS --config.train.init_from='[
        {"source": EEG, "subtrees": [["network/encoder", "network/encoder_eeg"]]},
        {"source": ECG, "subtrees": [["network/encoder", "network/encoder_ecg"]]}]'

The argument is ``size``, ``size,channels`` or ``size,channels,legacy``. Channels are ``c4``,
``c4_eog``, ``c4_eog_ecg`` (the official default), ``four`` (one of each type) or ``six`` (default).
Sizes are those of ``neuronet.py``, whose runs ``init_from`` names, one for each type of channel:
``configs/pipelines/synthsleepnet.py`` writes it so. Without it encoders begin, and stay, at random.
Optimizer, schedule, batch, masks and loss stand here as the official code has them where nothing
else is said.

``legacy`` is the official code with its two faults, by which the published numbers may have come:
all linear layers and LayerNorms of the pretrained encoders begin anew before they are frozen, and
decoders are given other channels' tokens. It also has one copy of an encoder a channel, targets
through which the gradient flows, and batch norms that drift.
"""

import ml_collections

from configs import common
from configs.synthsleepnet import neuronet

CHANNELS = {
    "c4": ("eeg_c4",),
    "c4_eog": ("eeg_c4", "eog_e1"),
    "c4_eog_ecg": ("eeg_c4", "eog_e1", "ecg"),
    "four": ("eeg_c4", "eog_e1", "emg_chin", "ecg"),
    "six": ("eeg_c4", "eeg_c3", "eog_e1", "eog_e2", "ecg", "emg_chin"),
}
# Width, layers, heads of the joint transformer; width and layers of the decoders; projectors.
SIZES = {
    "test": (16, 1, 2, 8, 1, (16, 8)),
    "smoke": (32, 2, 2, 16, 1, (32, 16)),
    "demo": (64, 2, 4, 32, 1, (64, 32)),
    "small": (256, 4, 8, 128, 2, (256, 128)),
    "base": (512, 4, 8, 256, 3, (512, 256)),
}
# Epochs of a batch, steps, peak learning rate.
RUNS = {
    "test": (8, 20, 1e-3),
    "smoke": (8, 40, 1e-3),
    "demo": (32, 300, 1e-3),
    "small": (256, 50_000, 2e-4),
    "base": (256, 2_000_000, 1e-4),  # 100 passes over 5,163 nights of about 1,000 epochs
}
# What of the encoders the official code lets begin anew by mistake.
REINITIALISED = (
    *("qkv_kernel", "qkv_bias", "out_kernel", "out_bias", "norm/scale", "norm/bias"),
    *("up/kernel", "up/bias", "down/kernel", "down/bias", "patch_embed/kernel", "patch_embed/bias"),
    *("frame_network/hidden/kernel", "frame_network/hidden/bias"),
    *("frame_network/out/kernel", "frame_network/out/bias", "squeeze/kernel", "excite/kernel"),
)


def get_config(arg: str = "smoke") -> ml_collections.ConfigDict:
    """Return the config of one size and choice of channels.

    Args:
        arg: ``"size"``, ``"size,channels"`` or ``"size,channels,legacy"``.

    Raises:
        ValueError: an unknown size or choice, or a third part that is not ``legacy``.
    """
    size, channels, legacy, *rest = (*arg.split(","), "", "")
    channels = channels or "six"
    if size not in SIZES:
        raise ValueError(f"no size {size!r}; use one of {sorted(SIZES)}")
    if channels not in CHANNELS:
        raise ValueError(f"no channels {channels!r}; use one of {sorted(CHANNELS)}")
    if legacy not in ("", "legacy") or any(rest):
        raise ValueError(f"{arg!r}: the third part is 'legacy', or nothing")
    legacy = bool(legacy)
    dim, depth, heads, decoder_dim, decoder_depth, projection = SIZES[size]
    batch, steps, rate = RUNS[size]
    accelerator = size not in ("test", "smoke", "demo")

    config = ml_collections.ConfigDict()
    config.seed = 777 if accelerator else 0
    config.objective = {
        "name": "masked_prediction",
        "model": {
            "modalities": (),  # those of the data, by data.fill
            "encoder": neuronet.encoder(size),
            "share": "channel" if legacy else "type",
            "lora": {
                "rank": 4,
                "alpha": 16.0,
                "dropout": 0.05,
                "stabilised": True,
                "start": "xavier" if legacy else "gaussian",
            },
            "frozen_statistics": not legacy,  # of the encoders' batch norms
            "dim": dim,
            "depth": depth,
            "heads": heads,
            "mask_rate": 0.4,
            "decoder_dim": decoder_dim,
            "decoder_depth": decoder_depth,
            "decoder_heads": heads,
            "projection": projection,
            "legacy_slice": legacy,
            "at_once": 256,
            "remat": "cheap" if accelerator else "none",
            "dtype": "bfloat16" if accelerator else "float32",  # the official code's is float32
        },
        "temperature": 0.1,
        "contrast_weight": 1.0,
        "stop_gradient_target": not legacy,  # ours
        "modality_dropout": 0.0 if legacy else 0.3,  # ours
    }
    config.data = {
        "name": "modality_nights",
        "path": "",
        "recipe": "synthsleepnet",
        "window_tokens": 1,  # epochs of a row
        "modalities": CHANNELS[channels],
        "flip": 0.0,  # share of the waves whose sign is changed, such as 0.5
        "gain": 0.0,  # of waves that vary in size, such as 0.2
        "max_damaged": 0.01,  # share of the records
        "fill": (("objective.model.modalities", "modalities"),),
    }
    encoders = "network/encoder_*"
    config.optim = common.optim(
        learning_rate=rate,
        warmup_steps=0 if accelerator else 5,
        b1=0.9,
        b2=0.999,
        weight_decay=0.01,  # of matrices; the official code's of everything
        ema_decay=0.0,
        freeze=(encoders, "!*/lora_?"),
    )
    config.optim.end_scale = 0.0
    config.optim.clip_norm = 2.0
    anew = tuple(f"{encoders}/{name}" for name in REINITIALISED) if legacy else ()
    config.train = common.train(
        steps=steps,
        batch_size=batch,
        init_from="",  # runs of stage 1; see above
        init_subtrees=(),
        init_fresh=("*/lora_?", *anew),
    )
    config.mesh = common.mesh()
    config.checkpoints = common.checkpoints(
        every=max(steps // 50, 1) if accelerator else max(steps // 2, 1),
        best_metric="eval/val/loss",
        best="lowest",
    )
    config.logs = common.logs(every=100 if accelerator else 10)
    config.watchdog = common.watchdog()
    config.evals = {
        "val": {
            "type": "mean_loss",
            "every": max(steps // 50, 1) if accelerator else common.validation_every(size, steps),
            "split": "validation",
            "limit": 100 if accelerator else 8,  # batches
        },
        # python -m launch.evaluate
        "probe": {
            "type": "linear_probe",
            "every": "job",
            "tasks": ("staging", "apnea_only", "hypopnea_only"),  # where nights have such labels
            "fractions": (0.01, 0.05, 1.0),  # of the people of training
        },
        "knn": {"type": "knn", "every": "job"},
    }
    return config.lock()
