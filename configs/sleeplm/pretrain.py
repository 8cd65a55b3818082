"""Sleep in words: signals and captions by contrast, captioning and reconstruction (SleepLM).

Xu et al. 2026, arXiv 2602.23605.

    python -m launch.caption_nights --nights=NIGHTS
    python -m launch.train --config=configs/sleeplm/pretrain.py:tiny --workdir=DIR \\
        --config.data.path=NIGHTS

The argument is ``size``, ``size,channels`` or ``size,channels,released``. Sizes: ``test``,
``smoke``, ``tiny`` (two cores), ``small`` and ``base`` (the released one: 402.5 million
parameters with the reconstruction decoder). Channels are ``ten`` (default, those of the released
model) or ``twelve``, with heart rate and oxygen saturation, of which the captions speak.

``released`` is the official form where it differs: the published tokenizer with a context of 256,
missing channels as zeros that are seen, and a mask of pads shifted by one. ``base`` has the
published tokenizer too; the smaller ones have the words of the grammar. Loss weights, optimizer,
batch and schedule are ours, as none is published.
"""

import ml_collections

from configs import common

TEN = (
    *("ecg", "resp_abd", "resp_thx", "airflow", "eog_e1", "eog_e2"),
    *("eeg_c3", "eeg_c4", "emg_chin", "position"),
)
CHANNELS = {"ten": TEN, "twelve": (*TEN, "heart_rate", "spo2")}
# Width, heads, samples of a patch, width of its convolution, blocks; width of the embedding; layers
# of the text encoder and of the decoder; token ids of a text.
SIZES = {
    "test": (16, 2, 64, 8, 1, 16, 1, 1, 96),
    "smoke": (32, 2, 64, 16, 1, 32, 1, 1, 128),
    "tiny": (64, 4, 64, 32, 2, 64, 2, 2, 160),
    "small": (384, 6, 16, 128, 3, 384, 6, 6, 192),
    "base": (768, 12, 16, 256, 3, 512, 12, 12, 256),
}
# Epochs of a batch, steps, peak learning rate, steps of warm-up.
RUNS = {
    "test": (8, 20, 1e-3, 5),
    "smoke": (8, 40, 1e-3, 5),
    "tiny": (32, 1500, 7e-4, 40),
    "small": (256, 20_000, 5e-4, 500),
    "base": (1024, 150_000, 3e-4, 2000),
}
# What reads, writes and finds captions, as jobs: epochs that are enough for a size. Constrained
# captions are kept to the grammar, which needs its words.
JUDGES = {
    "test": {
        "zero_shot": {"type": "zero_shot", "every": "job", "epochs": 24, "draws": 20},
        "unseen_concepts": {"type": "unseen_concepts", "every": "job", "epochs": 24, "draws": 20},
        "text_retrieval": {"type": "text_retrieval", "every": "job", "pools": (8, 24)},
        "captions": {
            "type": "captions",
            "every": "job",
            "constrained": False,
            "epochs": 8,
            "nights": 1,
            "fit_epochs": 64,
            "examples": 2,
            "batch_size": 8,
        },
    },
    "tiny": {
        "zero_shot": {"type": "zero_shot", "every": "job", "epochs": 2000},
        "unseen_concepts": {"type": "unseen_concepts", "every": "job", "epochs": 2000},
        "text_retrieval": {"type": "text_retrieval", "every": "job", "pools": (200, 1000)},
        "captions": {
            "type": "captions",
            "every": "job",
            "constrained": False,
            "epochs": 256,
            "nights": 8,
        },
    },
    "small": {
        "zero_shot": {"type": "zero_shot", "every": "job", "epochs": 20_000},
        "unseen_concepts": {"type": "unseen_concepts", "every": "job", "epochs": 20_000},
        "text_retrieval": {"type": "text_retrieval", "every": "job"},
        "captions": {
            "type": "captions",
            "every": "job",
            "constrained": False,
            "epochs": 2000,
            "nights": 50,
            "fit_epochs": 20_000,
        },
    },
}
JUDGES["smoke"] = JUDGES["test"]


def get_config(arg: str = "smoke") -> ml_collections.ConfigDict:
    """Return the config of one size and choice of channels.

    Args:
        arg: ``"size"``, ``"size,channels"`` or ``"size,channels,released"``.

    Raises:
        ValueError: an unknown size or choice, or a third part that is not ``released``.
    """
    size, channels, released, *rest = (*arg.split(","), "", "")
    channels = channels or "ten"
    if size not in SIZES:
        raise ValueError(f"no size {size!r}; use one of {sorted(SIZES)}")
    if channels not in CHANNELS:
        raise ValueError(f"no channels {channels!r}; use one of {sorted(CHANNELS)}")
    if released not in ("", "released") or any(rest):
        raise ValueError(f"{arg!r}: the third part is 'released', or nothing")
    released = bool(released)
    width, heads, patch, conv, blocks, embed, text_layers, decoder_layers, context = SIZES[size]
    batch, steps, rate, warmup = RUNS[size]
    accelerator = size not in ("test", "smoke", "tiny")
    published = released or size == "base"

    config = ml_collections.ConfigDict()
    config.seed = 777 if accelerator else 0
    config.objective = {
        "name": "sleep_language",
        "model": {
            "modalities": (),  # those of the data, by data.fill
            "width": width,
            "heads": heads,
            "patch": patch,
            "conv_dim": conv,
            "blocks": blocks,
            "ffn_ratio": 3.0,
            "start": "released" if published else "wide",
            "memory_tokens": 32 if accelerator else 16,
            "embed_dim": embed,
            "text_layers": text_layers,
            "decoder_layers": decoder_layers,
            "vocab_size": 0,  # of the data's tokenizer, by data.fill
            "context": 0,  # of the data, by data.fill
            "reconstruct": True,
            "dropout": 0.1 if accelerator else 0.0,
            "mask_absent": not released,
            "legacy_mask": released,
            "remat": "cheap" if accelerator else "none",
            "dtype": "bfloat16" if accelerator else "float32",
        },
        "contrast_weight": 1.0,
        "caption_weight": 2.0,
        "reconstruction_weight": 1.0,
        "pairing": "softmax",
        "multi_positive": False,
        "single_text": False,  # as the data have it, by data.fill
        "channel_dropout": 0.0 if released else 0.1,
        "jitter": 0.1,
    }
    config.data = {
        "name": "captioned_epochs",
        "path": "",
        "recipe": "sleeplm",
        "modalities": CHANNELS[channels],
        "tokenizer": "clip" if published else "closed",
        "context": 256 if published else context,
        "single_text": False,
        "held_out": (),  # concepts that captions do not say, such as "alpha", but for the test's
        "max_damaged": 0.01,  # share of the records
        "fill": (
            ("objective.model.modalities", "modalities"),
            ("objective.model.vocab_size", "vocab_size"),
            ("objective.model.context", "context"),
            ("objective.single_text", "single_text"),
        ),
    }
    config.optim = common.optim(
        learning_rate=rate,
        warmup_steps=warmup,
        b1=0.9,
        b2=0.98,
        weight_decay=0.1 if accelerator else 0.01,
        ema_decay=0.9999 if accelerator else 0.0,
        freeze=(),  # parameters that stay as they are, such as "network/signals"
    )
    config.optim.eps = 1e-6
    config.optim.end_scale = 1e-2
    config.train = common.train(steps=steps, batch_size=batch)
    config.mesh = common.mesh()
    every = max(steps // 50, 1) if accelerator else common.validation_every(size, steps)
    config.checkpoints = common.checkpoints(every=every, best_metric="eval/val/loss", best="lowest")
    config.logs = common.logs(every=100 if accelerator else 10)
    config.watchdog = common.watchdog()
    config.evals = {
        "val": {
            "type": "mean_loss",
            "every": every,
            "split": "validation",
            "limit": 100 if accelerator else 8,  # batches
        },
        # python -m launch.evaluate
        "probe": {
            "type": "linear_probe",
            "every": "job",
            "tasks": ("staging", "apnea_only", "hypopnea_only"),  # where nights have such labels
            "fractions": (0.01, 0.05, 1.0),  # of the people of training
            "shots": (1, 10) if size in ("test", "smoke") else (1, 3, 10, 30, 100),  # of a class
        },
        **JUDGES[size if size in JUDGES else "small"],
    }
    return config.lock()
