"""Towers without any contrast: a masked autoencoder, or a denoising one, of spectra (ours).

    python -m launch.train --config=configs/sleep2vec/reconstruct.py:smoke --workdir=DIR \\
        --config.data.path=MODALITIES

The argument is ``size`` or ``size,kind``; the kind is ``masked`` by default (half of a window's
tokens are hidden, and their band powers predicted), or ``denoising`` (noise is added to all).
Sizes, network and optimizer are those of ``pretrain.py``: what is trained for is all that differs.
"""

import ml_collections

from configs import common
from configs.sleep2vec import pretrain

SIZES = tuple(pretrain.SIZES)
TYPES = {"masked": (0.5, 0.0), "denoising": (0.0, 1.0)}  # share hidden, noise
MODALITIES = 9  # a window of this config costs about as much as so many halves of a pair


def get_config(arg: str = "smoke") -> ml_collections.ConfigDict:
    """Return the config of one size and kind.

    Args:
        arg: ``"size"`` or ``"size,kind"``.

    Raises:
        ValueError: an unknown size or kind.
    """
    size, _, kind = arg.partition(",")
    kind = kind or "masked"
    if kind not in TYPES:
        raise ValueError(f"no kind {kind!r}; use one of {sorted(TYPES)}")
    mask_rate, noise = TYPES[kind]
    config = pretrain.get_config(size).unlock()
    window, batch, steps, _ = pretrain.RUNS[size]
    accelerator = size not in ("test", "smoke", "demo")
    config.objective = {
        "name": "spectrum_prediction",
        "model": {**config.objective.model, "mask_rate": mask_rate},
        "bands": 24,
        "noise": noise,
    }
    config.data = {
        "name": "modality_nights",
        "path": "",
        "recipe": "sleep2vec",
        "window_tokens": window,
        "modalities": (),  # all of the store
        "sites": (),  # all
        "max_damaged": 0.01,  # share of the records
        "fill": (("objective.model.modalities", "modalities"),),
    }
    config.train = common.train(
        steps=steps, batch_size=max(2 * batch // MODALITIES, 4), init_from=""
    )
    config.checkpoints.best_metric, config.checkpoints.best = "eval/val/loss", "lowest"
    config.evals = {
        "val": {
            "type": "mean_loss",
            "every": 1000 if accelerator else max(steps // 2, 1),
            "split": "validation",
            "limit": 72 if accelerator else 8,  # batches
        },
        "probe": config.evals.probe,
    }
    return config.lock()
