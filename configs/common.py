"""Sections that all configs share: each value here is the same in every family.

A function takes what a family or a size chooses, by keyword, and adds what is the same everywhere.
Keys that one family alone has (``more``) are added as they are.
"""

import ml_collections


def optim(
    *,
    learning_rate: float,  # the peak
    warmup_steps: int,
    b1: float,
    b2: float,
    weight_decay: float,
    ema_decay: float,  # of averaged weights; 0: none
    **more,
) -> ml_collections.ConfigDict:
    """AdamW after a linear warm-up, with a cosine decay to a tenth of the peak."""
    return ml_collections.ConfigDict(
        {
            "learning_rate": learning_rate,
            "warmup_steps": warmup_steps,
            "decay": "cosine",
            "end_scale": 0.1,
            "b1": b1,
            "b2": b2,
            "eps": 1e-8,
            "weight_decay": weight_decay,
            "clip_norm": 1.0,
            "ema_decay": ema_decay,
            **more,
        }
    )


def train(*, steps: int, batch_size: int, **more) -> ml_collections.ConfigDict:
    """Length of a run in steps, and the rows of its global batch."""
    return ml_collections.ConfigDict(
        {
            "steps": steps,
            "batch_size": batch_size,
            "accumulate": 1,
            "skip_not_finite": 0,  # batches in a row; 0: the first such loss or gradient ends it
            "stop_after": 0,  # evaluations without a new best; 0: the run goes to its last step
            **more,
        }
    )


def validation_every(size: str, steps: int) -> int:
    """Steps between validations of a size that runs on a CPU: two in all for those of seconds, else
    enough of them to see a longer run memorise."""
    return max(steps // (2 if size in ("test", "smoke") else 4), 1)


def mesh() -> ml_collections.ConfigDict:
    """Data parallelism over all devices."""
    return ml_collections.ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})


def checkpoints(
    *, every: int, best_metric: str, best: str, keep_best: int = 1
) -> ml_collections.ConfigDict:
    """Checkpoints every ``every`` steps, and the ``keep_best`` best of ``best_metric``.

    Args:
        every: steps.
        best_metric: such as ``eval/val/loss``.
        best: ``lowest`` or ``highest``.
        keep_best: how many of the best are kept beside the newest.
    """
    return ml_collections.ConfigDict(
        {
            "every": every,
            "every_s": 600.0,  # and whenever so long has passed
            "keep": 3,
            "keep_every": 0,  # steps; 0: the newest ones alone
            "keep_for_jobs": 4,  # older steps that may wait for launch.evaluate --follow
            "keep_best": keep_best,
            "best_metric": best_metric,
            "best": best,
        }
    )


def logs(*, every: int) -> ml_collections.ConfigDict:
    """Lines of the log every ``every`` steps, to TensorBoard too."""
    return ml_collections.ConfigDict(
        {
            "every": every,
            "tensorboard": True,
            "mfu": True,
            "compile_cache": "~/.cache/hypnos_jax/compiled",
            "profile": (),  # first and last step that jax.profiler traces
        }
    )


def watchdog() -> ml_collections.ConfigDict:
    """How long a process may take before the run is ended as stuck, in seconds."""
    return ml_collections.ConfigDict(
        {
            "step_s": 100.0,  # named, and ended, within 120
            "data_s": 600.0,  # a batch
            "save_s": 600.0,
            "evaluation_s": 1800.0,  # a batch of one, or all that has no batches
            "startup_s": 1800.0,  # data, restore, compilation
        }
    )
