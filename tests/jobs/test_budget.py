"""Steps by a budget of FLOPs: as many as it pays for, and all that follows from them."""

import dataclasses

import pytest

from configs.sleep2vec import pretrain
from hypnos_jax import config as configs
from hypnos_jax.batch import load_source
from hypnos_jax.cost.cost import cost
from hypnos_jax.jobs.budget import steps_for


def test_a_budget_pays_for_so_many_steps(tmp_path):
    config = configs.resolve(pretrain.get_config("test"))
    names = ["ibi", "spo2"]
    config = configs.change(config, {"data.modalities": names, "data.min_tokens": 1})
    source = load_source(config, tmp_path, split="train")
    step = dataclasses.asdict(cost(configs.fill(config, source.describe())))["flops_per_step"]
    found = steps_for(config, 100.4 * step, tmp_path)
    assert found["train"]["steps"] == 100
    assert found["optim"]["warmup_steps"] == 5  # one in twenty, as in the config
    assert found["checkpoints"]["every"] == found["evals"]["val"]["every"] == 50
    assert found["objective"] == config["objective"]
    with pytest.raises(configs.ConfigError, match="less than half a step"):
        steps_for(config, 0.4 * step, tmp_path)
