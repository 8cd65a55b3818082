"""What a config costs to train, and what the runs of a sweep cost and reached.

Parameters and FLOPs are counted in the model itself. For dense layers C = 6 N D, a multiply and an
add for each parameter and token in the forward pass and twice that in the backward pass, where D
counts tokens; here D is channel-seconds, a token is a second of all channels, attention and code
axes do more, tables that are only looked up do nothing: so the factor is measured.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib

from hypnos_jax import metrics, plugins
from hypnos_jax.cost.flops import Cost
from hypnos_jax.jobs import sweeps

__all__ = ["Cost", "Run", "cost", "read_sweep"]


def cost(config: dict) -> Cost:
    """Count what a config's train step costs; it is traced, nothing is compiled, no data are read.

    The same numbers as in the ``cost.json`` of a run. None depends on the devices: products are
    counted as a CPU would compute them, where no fused kernel hides any.

    Args:
        config: resolved and filled.

    Raises:
        ConfigError: a config that could not be trained with.
    """
    import flax.linen as nn  # what reads runs needs none of these
    import jax

    from data_pipelines import pipeline
    from hypnos_jax import batch as batches
    from hypnos_jax import config as configs
    from hypnos_jax import sharding, train
    from hypnos_jax.cost import flops
    from hypnos_jax.nn import backend

    objective = configs.make_objective(config)
    if "attention" in (getattr(objective, "model", None) or {}):  # a kernel may hide products
        objective = objective.clone(model={**objective.model, "attention": "blocks"})
    run = configs.call(train.Run, config["train"], "config.train")
    mesh = sharding.make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1])
    train.check_batch_size(objective, run, mesh)
    token_s = pipeline.find_source(config["data"]["name"]).TOKEN_S
    rules = nn.logical_axis_rules(sharding.RULES)
    with jax.set_mesh(mesh), rules, backend.assume("cpu"):
        plan = train.make_plan(config, objective, mesh, batches.shapes(config))
        return flops.step_cost(plan.trace(), plan.state, plan.batch, token_s)


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        name: of its folder.
        given: the sweep's overrides.
        parameters, looked_up: as in ``Cost``.
        steps: that it trained.
        data: channel-seconds that it saw.
        flops: of all its steps.
        unique: channel-seconds of one pass over its corpus; infinite where unknown.
        modalities: how many; 0 where unknown.
        loss: the metric asked for, of the last step.
        metrics: every evaluation metric of the last step.
    """

    name: str
    given: dict
    parameters: int
    looked_up: int
    steps: int
    data: float
    flops: float
    unique: float
    modalities: int
    loss: float
    metrics: dict[str, float]


def read_sweep(folder: str | os.PathLike, metric: str) -> tuple[list[Run], dict[str, str]]:
    """Return a sweep's finished runs, and name -> why it is left out, of the others.

    Args:
        folder: with ``sweep.json`` and ``runs/<name>``.
        metric: the loss, such as ``"eval/val/loss"``.

    Raises:
        ValueError: no sweep is there.
    """
    folder, sweep = pathlib.Path(folder), sweeps.read_sweep(folder)
    if not sweep:
        raise ValueError(f"{folder} holds no sweep: it has no sweep.json")
    runs, left_out = [], {}
    for entry in sweep["runs"]:
        found = _read_run(folder / "runs" / entry["name"], entry, metric)
        if isinstance(found, str):
            left_out[entry["name"]] = found
        else:
            runs.append(found)
    return runs, left_out


def _read_run(workdir: pathlib.Path, entry: dict, metric: str) -> Run | str:
    """A finished run, or why it is none."""
    try:
        spent = json.loads((workdir / "cost.json").read_text())
        config = json.loads((workdir / "config.json").read_text())
    except (OSError, ValueError):
        return "has not begun"
    lines = metrics.read_run(workdir)
    steps = config["train"]["steps"]
    trained = {line["step"]: line for line in lines if "channel_seconds" in line}
    if steps not in trained:
        return f"is at step {max(trained, default=0)} of {steps}"
    last = {}
    for line in lines:
        if line["step"] == steps:
            last |= {k: v for k, v in line.items() if k.startswith("eval/") and v is not None}
    if metric not in last:
        known = ", ".join(sorted(last)) or "nothing"
        return f"has no {metric} at step {steps}; it has {known}"
    if not last[metric] > 0:
        return f"has {metric} = {last[metric]}, no loss above 0"
    data = sum(line["channel_seconds"] for line in trained.values())
    share = spent.get("examples_per_epoch", math.inf) / (steps * config["train"]["batch_size"])
    network = config["objective"].get(plugins.network_key(config["objective"]), {})
    modalities = network.get("modalities", ())
    return Run(
        name=entry["name"],
        given=entry["given"],
        parameters=spent["parameters"],
        looked_up=spent["looked_up"],
        steps=steps,
        data=data,
        flops=spent["flops_per_step"] * steps,
        unique=data * share,
        modalities=len(modalities),
        loss=last[metric],
        metrics=last,
    )
