"""Costs of training a config: parameters and FLOPs, counted in the model itself.

For dense layers C = 6 N D, a multiply and an add for each parameter and token in the forward pass
and twice that in the backward pass, where D counts tokens; here D is channel-seconds, a token is a
second of all channels, attention and code axes do more, embeddings do nothing: so the factor is
measured.
"""

from __future__ import annotations

import flax.linen as nn
import jax

from data_pipelines import pipeline
from hypnos_jax import batch as batches
from hypnos_jax import config as configs
from hypnos_jax import sharding
from hypnos_jax.cost import flops
from hypnos_jax.cost.flops import Cost
from hypnos_jax.nn import backend
from hypnos_jax.step import TrainOptions, check_batch_size, make_plan


def cost(config: dict) -> Cost:
    """Count what a config's train step costs; it is traced, nothing is compiled, no data are read.

    The same numbers as in the ``cost.json`` of a run. None depends on the devices: products are
    counted as a CPU would compute them, where no fused kernel hides any.

    Args:
        config: resolved and filled.

    Raises:
        ConfigError: a config that could not be trained with.
    """
    objective = configs.make_objective(config)
    if "attention" in (getattr(objective, "model", None) or {}):  # a kernel may hide products
        objective = objective.clone(model={**objective.model, "attention": "blocks"})
    run = configs.call(TrainOptions, config["train"], "config.train")
    mesh = sharding.make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1])
    check_batch_size(objective, run, mesh)
    token_s = pipeline.find_source(config["data"]["name"]).TOKEN_S
    rules = nn.logical_axis_rules(sharding.RULES)
    with jax.set_mesh(mesh), rules, backend.assume("cpu"):
        plan = make_plan(config, objective, mesh, batches.shapes(config))
        return flops.step_cost(plan.trace(), plan.state, plan.batch, token_s)
