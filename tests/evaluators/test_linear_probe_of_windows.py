"""Stages read out of a model of windows that is a few lines: what it tells, and what not."""

import json

import jax
import jax.numpy as jnp
import pytest
from toy_models import ROUGH, Roughness

from data_pipelines.synthetic.shortcuts import write_shortcut_cohort
from hypnos_jax import evaluate, sharding
from hypnos_jax.evaluators.linear_probe import LinearProbe


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    write_shortcut_cohort(folder / "nights", 12, 0, hours=0.2, names=ROUGH, progress=False)
    data = {"name": "modality_pairs", "path": str(folder / "nights"), "window_tokens": 8}
    config = {"seed": 0, "data": {**data, "fill": []}, "train": {"batch_size": 4}}
    mesh = sharding.make_mesh(data=1, devices=jax.local_devices()[:1])
    init = lambda seed: {"params": {"gain": jnp.zeros(())}}
    with jax.set_mesh(mesh):
        yield evaluate.Context(config, Roughness(), init, mesh, folder)


@pytest.mark.parametrize("pooling", ["mean", "side_by_side"])
def test_windows_are_probed_by_people_with_intervals_beside_baselines(context, pooling):
    options = {"pooling": pooling, "tasks": ["staging"], "fractions": [1.0]}
    probe = LinearProbe(context, batch_size=8, strength=1.0, draws=200, **options)
    told = {"params": {"gain": jnp.ones(())}}
    found = dict(probe.run(told, 3))
    own = {key: found[f"staging/embedding/{key}"] for key in ("kappa", "kappa_low", "kappa_high")}
    assert 0.2 < own["kappa_low"] <= own["kappa"] <= own["kappa_high"] <= 1
    assert found["staging/random_backbone/kappa"] == pytest.approx(0, abs=0.05)
    assert found["staging/no_features/kappa"] == pytest.approx(0, abs=0.05)
    report = json.loads((context.workdir / "probe.json").read_text())
    assert report["step"] == 3
    task = report["tasks"]["staging"]
    assert "cross-validation by subject" in task["how"]
    assert task["subjects"] == len({n.subject for n in context.store.nights})
    assert task["not_run"]["token_latents"] == "the model reads no tokens"
    # The next checkpoint of a job: the baselines stand, the towers are asked again.
    made, context.init = context.init, None
    nothing = dict(probe.run({"params": {"gain": jnp.zeros(())}}, 4))
    assert nothing["staging/embedding/kappa"] == pytest.approx(0, abs=0.05)
    assert {k: v for k, v in nothing.items() if "embedding" not in k} == {
        k: v for k, v in found.items() if "embedding" not in k
    }
    context.init = made
