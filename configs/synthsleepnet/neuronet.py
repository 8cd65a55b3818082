"""Stage 1: a masked autoencoder of one type of channel (NeuroNet, arXiv 2404.17585).

    python -m launch.train --config=configs/synthsleepnet/neuronet.py:smoke,eeg --workdir=DIR \\
        --config.data.path=NIGHTS

The argument is ``size`` or ``size,type``; the type is ``eeg`` by default, or ``eog``, ``ecg`` or
``emg``. Its channels are pooled: one model reads C4 and C3. Sizes: ``test`` and ``smoke`` take a
minute or two on a CPU, most of it compilation (smoke without any data too); ``demo`` learns on two
cores; ``small`` is ours; ``t`` and ``b`` are NeuroNet-T and -B; ``base`` is the first stage of
SynthSleepNet. Optimizer, schedule, batch, masks and loss stand here as the official code has them
where nothing else is said.

Nights of Sleep-EDF are prepared by the recipe ``sleep_edfx``, and read by::

    --config.data.recipe=sleep_edfx --config.data.modalities='("eeg_fpz_cz", "eeg_pz_oz")'
"""

import ml_collections

from configs import common

TYPES = {
    "eeg": ("eeg_c4", "eeg_c3"),
    "eog": ("eog_e1", "eog_e2"),
    "ecg": ("ecg",),
    "emg": ("emg_chin",),
}
_FOUR = {"window_s": 4.0, "step_s": 1.0}
# One branch of three: a third of the arrays, which is what most of the compilation goes to.
_ONE = {**_FOUR, "kernels": (3,)}
_THREE = {"window_s": 3.0, "step_s": 0.375, "stem": 32, "widths": (32, 32, 48, 64), "squeeze": 0}
# Keyword arguments of NeuronetEncoder.
ENCODERS = {
    "test": {**_ONE, "stem": 4, "widths": (4, 4, 4, 8), "squeeze": 2, "dim": 16, "depth": 1},
    "smoke": {**_ONE, "stem": 8, "widths": (8, 8, 8, 16), "squeeze": 4, "dim": 32, "depth": 1},
    "demo": {**_ONE, "stem": 8, "widths": (8, 16, 16, 32), "squeeze": 4, "dim": 64, "depth": 2},
    "small": {**_FOUR, "stem": 32, "widths": (32, 32, 48, 64), "squeeze": 16, "dim": 256},
    "t": {**_THREE, "dim": 512},
    "b": {**_THREE, "dim": 768},
    "base": {**_FOUR, "stem": 64, "widths": (64, 128, 128, 256), "squeeze": 16, "dim": 768},
}
SIZES = tuple(ENCODERS)
HEADS = {"test": 2, "smoke": 2, "demo": 4}  # else 8
# Width and layers of the decoder; widths of the projector.
DECODERS = {
    "test": (8, 1, (16, 8)),
    "smoke": (16, 1, (32, 16)),
    "demo": (32, 2, (64, 32)),
    "small": (128, 2, (256, 128)),
    "t": (192, 1, (1024, 512)),
    "b": (256, 3, (1024, 512)),
    "base": (256, 3, (1024, 512)),
}
# Epochs (times its channels) of a batch, steps, peak learning rate.
RUNS = {
    "test": (8, 20, 1e-3),
    "smoke": (16, 40, 1e-3),
    "demo": (32, 400, 1e-3),
    "small": (256, 50_000, 2e-4),
    "t": (256, 30_000, 1e-5),
    "b": (256, 30_000, 1e-5),
    "base": (256, 400_000, 1e-4),  # 20 passes over 5,163 nights of about 1,000 epochs
}


def encoder(size: str) -> dict:
    """Return the keyword arguments of an encoder of one size."""
    return {"depth": 4, **ENCODERS[size], "heads": HEADS.get(size, 8), "train_positions": False}


def get_config(arg: str = "smoke") -> ml_collections.ConfigDict:
    """Return the config of one size and type of channel.

    Args:
        arg: ``"size"`` or ``"size,type"``.

    Raises:
        ValueError: an unknown size or type.
    """
    size, _, kind = arg.partition(",")
    kind = kind or "eeg"
    if size not in ENCODERS:
        raise ValueError(f"no size {size!r}; use one of {sorted(ENCODERS)}")
    if kind not in TYPES:
        raise ValueError(f"no type of channel {kind!r}; use one of {sorted(TYPES)}")
    decoder_dim, decoder_depth, projection = DECODERS[size]
    batch, steps, rate = RUNS[size]
    accelerator = size not in ("test", "smoke", "demo")

    config = ml_collections.ConfigDict()
    config.seed = 777 if accelerator else 0
    config.objective = {
        "name": "masked_autoencoding",
        "model": {
            "modalities": (),  # those of the data, by data.fill
            "encoder": encoder(size),
            "mask_rate": 0.8,
            "decoder_dim": decoder_dim,
            "decoder_depth": decoder_depth,
            "decoder_heads": HEADS.get(size, 8),
            "projection": projection,
            "pooling": "mean",
            "remat": "cheap" if accelerator else "none",
            "dtype": "bfloat16" if accelerator else "float32",  # the official code's is float32
        },
        "temperature": 0.05,
        "contrast_weight": 1.0,
        "reduction": "sum",  # of both reconstructions; "mean" in the authors' later paper
        "stop_gradient_target": False,
    }
    config.data = {
        "name": "modality_nights",
        "path": "",
        "recipe": "synthsleepnet",
        "window_tokens": 1,  # epochs of a row
        "modalities": TYPES[kind],
        "flip": 0.0,  # share of the waves whose sign is changed, such as 0.5
        "gain": 0.0,  # of waves that vary in size, such as 0.2
        "max_damaged": 0.01,  # share of the records
        "fill": (("objective.model.modalities", "modalities"),),
    }
    config.optim = common.optim(
        learning_rate=rate,
        warmup_steps=0 if accelerator else 5,
        b1=0.9,
        b2=0.999,
        weight_decay=0.01,  # of matrices; the official code's of everything
        ema_decay=0.0,
    )
    config.optim.end_scale = 0.0
    config.optim.clip_norm = 2.0  # the official code's for all but EEG, where it has none
    config.train = common.train(
        steps=steps, batch_size=max(batch // len(TYPES[kind]), 2), init_from=""
    )
    config.mesh = common.mesh()
    config.checkpoints = common.checkpoints(
        every=max(steps // 20, 1) if accelerator else max(steps // 2, 1),
        best_metric="eval/val/loss",
        best="lowest",
    )
    config.logs = common.logs(every=100 if accelerator else 10)
    config.watchdog = common.watchdog()
    config.evals = {
        "val": {
            "type": "mean_loss",
            "every": max(steps // 20, 1) if accelerator else common.validation_every(size, steps),
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
