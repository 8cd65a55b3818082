"""The loop: any objective trains, stops, resumes as the same run, and says what is wrong."""

import pytest
from toy_objective import install, toy_config

from hypnos_jax import checkpoint, metrics, train


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    install(monkeypatch)


def run(workdir, **changes):
    config = toy_config()
    for key, value in changes.items():
        section, name = key.split("__")
        config[section][name] = value
    return train.train(config, workdir)


def lines(workdir):
    return metrics.read(workdir / "metrics.jsonl")


def test_a_config_trains_an_objective(tmp_path):
    assert run(tmp_path) == 0
    steps = [line for line in lines(tmp_path) if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 13))
    assert steps[-1]["loss"] < steps[0]["loss"]
    evals = [line for line in lines(tmp_path) if "eval/validation/loss" in line]
    assert [line["step"] for line in evals] == [5, 10, 12]
    config, step, variables = checkpoint.restore_variables(tmp_path)
    assert step == 12
    assert config["objective"]["name"] == "toy"
    assert set(variables) == {"params", "seen"}
