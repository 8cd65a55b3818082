"""Stages read out of towers that are a few lines: what they tell, and what they do not."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from data_pipelines.synthetic.shortcuts import write_shortcut_cohort
from hypnos_jax import evaluate, sharding
from hypnos_jax.evaluators.tower_probe import TowerProbe

NAMES = ("eeg", "ecg")


class Roughness(nn.Module):
    """Of each token how rough its signal is, times a parameter: at 0 nothing is told."""

    def setup(self):
        self.gain = self.param("gain", nn.initializers.zeros, ())

    def encode(self, signal, scale, valid, modality):
        x = signal.astype(jnp.float32) * scale[:, None, None]
        steps = [jnp.abs(x[..., k:] - x[..., :-k]).mean(-1) for k in (1, 4, 16, 64)]
        return self.gain * jnp.log(1e-3 + jnp.stack(steps, -1)) * valid[..., None]


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    write_shortcut_cohort(folder / "nights", 12, 0, hours=0.2, names=NAMES, progress=False)
    data = {"name": "modality_pairs", "path": str(folder / "nights"), "window_tokens": 8}
    config = {"seed": 0, "data": {**data, "fill": []}, "train": {"batch_size": 4}}
    mesh = sharding.make_mesh(data=1, devices=jax.local_devices()[:1])
    init = lambda seed: {"params": {"gain": jnp.zeros(())}}
    with jax.set_mesh(mesh):
        yield evaluate.Context(config, Roughness(), init, mesh, folder)


def test_towers_are_probed_by_people_with_intervals_beside_baselines(context):
    probe = TowerProbe(context, batch_size=8, strength=1.0, draws=200)
    told = {"params": {"gain": jnp.ones(())}}
    found = dict(probe.run(told, 3))
    own = {key: found[f"staging/embedding/{key}"] for key in ("kappa", "kappa_low", "kappa_high")}
    assert 0.2 < own["kappa_low"] <= own["kappa"] <= own["kappa_high"] <= 1
    assert found["staging/random_towers/kappa"] == pytest.approx(0, abs=0.05)
    assert found["staging/no_features/kappa"] == pytest.approx(0, abs=0.05)
    report = json.loads((context.workdir / "tower_probe.json").read_text())
    assert report["step"] == 3
    assert "cross-validation by subject" in report["how"]
    assert report["sets"]["embedding"]["subjects"] == len({n.subject for n in context.store.nights})
    # The next checkpoint of a job: the baselines stand, the towers are asked again.
    context.init = None
    nothing = dict(probe.run({"params": {"gain": jnp.zeros(())}}, 4))
    assert nothing["staging/embedding/kappa"] == pytest.approx(0, abs=0.05)
    assert {k: v for k, v in nothing.items() if "embedding" not in k} == {
        k: v for k, v in found.items() if "embedding" not in k
    }
