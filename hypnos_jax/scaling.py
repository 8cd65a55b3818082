"""How loss falls with parameters, data and compute: what a config costs, and the laws of runs."""

from __future__ import annotations

import flax.linen as nn
import jax

from data_pipelines import pipeline
from hypnos_jax import batch as batches
from hypnos_jax import config as configs
from hypnos_jax import flops, sharding, train
from hypnos_jax.flops import Cost

__all__ = ["Cost", "cost"]


def cost(config: dict) -> Cost:
    """Count what a config's train step costs; it is traced, nothing is compiled, no data are read.

    The same numbers as the ``cost.json`` of a run: none depends on the devices.

    Args:
        config: resolved and filled.

    Raises:
        ConfigError: a config that could not be trained with.
    """
    objective = configs.make_objective(config)
    run = configs.call(train.Run, config["train"], "config.train")
    mesh = sharding.make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1])
    train.check_batch_size(objective, run, mesh)
    token_s = pipeline.find_source(config["data"]["name"]).TOKEN_S
    with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
        plan = train.make_plan(config, objective, mesh, batches.shapes(config))
        return flops.step_cost(plan.trace(), plan.state, plan.batch, token_s)
