"""Hypnos: an RVQ tokenizer of one signal type (arXiv 2606.09605), trained by reconstruction.

    python -m launch.train --config=configs/hypnos/rvq_tokenizer.py:smoke,ecg --workdir=DIR \\
        --config.data.path=NIGHTS

The argument is ``size`` or ``size,signal_type``; the type is ``eeg`` by default. All five types
train from here: eeg eog emg ecg resp. Sizes: ``test`` and ``smoke`` run in seconds on a CPU, most
of them compilation (smoke without any data too); ``demo`` takes about 35 CPU-seconds for 1000 steps
and follows a simulated ECG with an SNR of 6 dB; ``tiny``, ``small`` and ``base`` are for
accelerators. The released configuration is not public: for ``base``, the codewords' width, the
2048 codes, K = 8 for EEG and EOG, and the library's defaults of 64 filters and width 512 are known;
every number that does not say so is ours.
"""

import ml_collections

from configs import common

# Samples per second and per token, and the encoder's strides. The products are fixed by the
# release; the factors are those of its test fixture.
SIGNAL_TYPES = {
    "eeg": (128, (4, 4, 4, 2)),
    "eog": (128, (4, 4, 4, 2)),
    "emg": (128, (4, 4, 4, 2)),
    "ecg": (128, (4, 4, 4, 2)),
    "resp": (32, (4, 4, 2)),
}

# filters, width, layers, heads, window (tokens), codeword width, codes per level, levels.
# base: layers x window = 96 fits the reach of the released weights.
SIZES = {
    "test": (2, 8, 1, 2, 4, 6, 16, 2),
    "smoke": (4, 16, 1, 2, 8, 8, 16, 2),
    "demo": (8, 64, 0, 4, 16, 32, 128, 4),  # 1000 steps are too few for a transformer to help
    "tiny": (16, 128, 2, 4, 32, 64, 512, 8),
    "small": (32, 256, 3, 8, 32, 128, 1024, 8),
    "base": (64, 512, 3, 8, 32, 256, 2048, 8),
}

# Crop (s), rows of the global batch, steps, warm-up steps, peak learning rate.
RUNS = {
    "test": (16, 4, 20, 5, 2e-3),
    "smoke": (16, 4, 40, 5, 2e-3),
    "demo": (16, 8, 1000, 20, 5e-3),
    "tiny": (32, 64, 20_000, 1000, 1e-3),
    "small": (32, 64, 50_000, 1000, 3e-4),
    "base": (32, 64, 100_000, 1000, 3e-4),
}


def get_config(arg: str = "smoke") -> ml_collections.ConfigDict:
    """Return the config of one size and signal type.

    Args:
        arg: ``"size"`` or ``"size,signal_type"``.

    Raises:
        ValueError: an unknown size or signal type.
    """
    size, _, signal_type = arg.partition(",")
    signal_type = signal_type or "eeg"
    if size not in SIZES:
        raise ValueError(f"no size {size!r}; use one of {sorted(SIZES)}")
    if signal_type not in SIGNAL_TYPES:
        raise ValueError(f"no signal type {signal_type!r}; use one of {sorted(SIGNAL_TYPES)}")
    filters, dim, layers, heads, window, codebook_dim, codes, levels = SIZES[size]
    crop_s, batch, steps, warmup, rate = RUNS[size]
    rate_hz, ratios = SIGNAL_TYPES[signal_type]
    accelerator = size in ("tiny", "small", "base")
    spectra = (2.0, 4.0, 8.0, 16.0) if signal_type == "resp" else (0.25, 0.5, 1.0, 2.0, 4.0)

    config = ml_collections.ConfigDict()
    config.seed = 0
    config.objective = {
        "name": "rvq_reconstruction",
        "signal_type": signal_type,
        "rate_hz": rate_hz,
        "model": {
            "ratios": ratios,
            "filters": filters,
            "dim": dim,
            "units": 1,  # library default
            "dilation_base": 1,  # library default; Mimi: 2
            "activation": "elu",  # Mimi and the release's test fixture; library default: gelu
            "norm": "weight",  # as above; library default: layer
            "padding": "zero",  # Mimi; library default: reflect, which sees ahead at the start
            "layers": layers,
            "heads": heads,
            "window": window,
            "ffn_dim": 4 * dim,
            "codebook_dim": codebook_dim,
            "levels": levels,
            "codes": codes,
            "decay": 0.99,
            "rotation": False,
            "quantizer_dropout": 0.0,
            "expire_every": 5,
            "bypass": 0.1,
            "strict_causal": True,  # False: alignment of the released weights
            "remat": "none",
            "dtype": "bfloat16" if accelerator else "float32",
        },
        # Spectra know no phase: with equal weights a short training never follows the waveform.
        "time_weight": 10.0,
        "stft_weight": 1.0,
        "commitment_weight": 0.25,  # library default
        "stft_windows_s": spectra,
        "stft_floor": 0.01,  # white noise of unit variance is 1
        # Which electrode is positive differs between sites; muscle noise has no polarity.
        "flip": 0.0 if signal_type == "emg" else 0.5,
    }
    config.data = {
        "name": "signal_crops",
        "path": "",
        "signal_type": signal_type,
        "crop_s": crop_s,
        "gain": 0.0,  # of crops that vary in size, such as 0.2; their sign: objective.flip
        "rate": 0.0,  # of crops that vary in speed, such as 0.1
        "max_damaged": 0.01,  # share of the records
    }
    config.optim = common.optim(
        learning_rate=rate,
        warmup_steps=warmup,
        b1=0.8,
        b2=0.99,
        weight_decay=0.01,
        ema_decay=0.0,
    )
    config.train = common.train(
        steps=steps,
        batch_size=batch,
    )
    config.mesh = common.mesh()
    config.checkpoints = common.checkpoints(
        every=1000 if accelerator else max(steps // 2, 1),
        best_metric="eval/val/loss",
        best="lowest",
    )
    config.logs = common.logs(every=100 if accelerator else 10)
    config.watchdog = common.watchdog()
    limit = 64 if accelerator else 8  # batches
    config.evals = {
        "val": {
            "type": "mean_loss",
            "every": 1000 if accelerator else common.validation_every(size, steps),
            "split": "validation",
            "limit": limit,
        },
    }
    if size in ("test", "smoke"):
        return config.lock()
    when = "job" if accelerator else "final"  # job: python -m launch.evaluate --follow
    config.evals.usage = {"type": "codebook_usage", "every": when, "limit": limit}
    config.evals.reconstruction = {
        "type": "reconstruction",
        "every": when,
        "limit": limit,
        "signal_type": signal_type,
    }
    return config.lock()
