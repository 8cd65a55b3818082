"""Length of a run by what it costs: so many steps as a budget of FLOPs pays for."""

from __future__ import annotations

import dataclasses
import os
import pathlib

from hypnos_jax import config as configs
from hypnos_jax.batch import load_source
from hypnos_jax.cost.cost import cost
from hypnos_jax.jobs import sweeps

CHECKPOINTS = 2  # of a run, and evaluations in its loop


def steps_for(config: dict, flops: float, folder: str | os.PathLike) -> dict:
    """Return a config with the steps that a budget pays for, counted in the model itself.

    The share of the steps that warm up stays as it is; checkpoints and evaluations of the loop come
    ``CHECKPOINTS`` times.

    Args:
        config: resolved.
        flops: matrix FLOPs of the whole run.
        folder: of the run; gets synthetic data where the config names none.

    Raises:
        ConfigError: less than half a step.
    """
    source = load_source(config, pathlib.Path(folder), split="train")
    asked = dataclasses.asdict(cost(configs.fill(config, source.describe())))
    given = {"budget.flops": flops, "budget.checkpoints": CHECKPOINTS}
    if share := config["optim"]["warmup_steps"] / config["train"]["steps"]:
        given["budget.warmup_share"] = share
    return configs.change(config, sweeps.resolved(given, config, asked))
