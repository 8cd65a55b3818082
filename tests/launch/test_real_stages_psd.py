"""Stages from band powers by one command: equal operations, nobody tested who was learnt from."""

import json
import subprocess
import sys

import numpy as np
import pytest
from launch_commands import ROOT

from configs.pipelines import real_stages_psd
from hypnos_jax import config as configs
from hypnos_jax.cost.cost import cost
from launch.overrides import settings
from launch.steps import load_pipeline

FILE = "configs/pipelines/real_stages_psd.py"
CHANNELS = ("eeg_fpz_cz", "eeg_pz_oz", "eog")


def write_nights(folder, people, epochs=60):
    """Band powers that tell stages, of one night of each person."""
    rng = np.random.default_rng(0)
    stages = np.concatenate([rng.permutation(np.arange(epochs) % 5) for _ in people])
    means = rng.normal(size=(5, 3, 10))
    folder = folder / "sleep-edf-bandpower"
    folder.mkdir(parents=True)
    np.savez(
        folder / "bandpower.npz",
        x=(means[stages] + rng.normal(size=(len(stages), 3, 10))).astype(np.float16),
        y=stages.astype(np.int8),
        night=np.array([f"SC4{who}1" for who in people]),
        subject=np.array(people),
        start=np.arange(len(people) + 1) * epochs,
    )


def test_the_steps_are_named_and_options_that_mean_nothing_are_refused():
    steps = load_pipeline(f"{FILE}:test", {"data": "d", "seeds": 2, "families": "hybrid,next"})
    assert [step.name for step in steps] == [
        *("real_arrays", "prepare_nights", "train hybrid 0", "train hybrid 1"),
        *("train next 0", "train next 1", "label_efficiency"),
    ]
    assert steps[-1].arguments["finetuned"] == "hybrid"
    for options in ({"data": ""}, {"data": "d", "families": "hybrid,x"}):
        with pytest.raises(ValueError, match="data is empty|no 'x'"):
            load_pipeline(FILE, options)
    with pytest.raises(ValueError, match="fine-tuning begins from hybrid"):
        load_pipeline(FILE, {"data": "d", "families": "next"})


@pytest.mark.slow
def test_all_families_compute_the_same():
    rows = [{"name": name, "rate_hz": 1, "frames": 20} for name in CHANNELS]
    totals = {}
    for step in load_pipeline(FILE, {"data": "d", "seeds": 1}):
        if step.command != "train":
            continue
        file, _, argument = step.arguments["config"].partition(":")
        module = __import__(file.removesuffix(".py").replace("/", "."), fromlist=["get_config"])
        texts = [f"{k.removeprefix('config.')}={v}" for k, v in step.arguments.items()]
        changes = settings("x", [x for x in texts if not x.startswith(("config=", "workdir="))])
        changes = {k: v for k, v in changes.items() if k != "data.path"}
        config = configs.resolve(module.get_config(argument))
        config = configs.change(config, {"objective.model.modalities": rows, **changes})
        totals[step.name] = cost(config).flops_per_step * config["train"]["steps"]
    assert len(totals) == len(real_stages_psd.FAMILIES)
    mean = np.mean(list(totals.values()))
    assert all(abs(total / mean - 1) < 0.02 for total in totals.values()), totals


@pytest.mark.slow
def test_people_who_are_only_judged_are_in_no_training(tmp_path):
    write_nights(tmp_path / "own", [f"{i:02d}" for i in range(12)])
    write_nights(tmp_path / "others", [f"{i:02d}" for i in range(40, 44)])
    command = [sys.executable, "-m", "launch.pipeline", f"--pipeline={FILE}:test"]
    command += [f"--output={tmp_path / 'job'}", f"--set=data={tmp_path / 'own'}"]
    command += [f"--set=test={tmp_path / 'others'}", "--set=seeds=1", "--set=draws=2"]
    command += ["--set=untrained=1", "--set=people=3,0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = json.loads((tmp_path / "job/nights/manifest.json").read_text())
    people = {}
    for night in manifest["nights"]:
        people.setdefault(night["split"], set()).add(night["subject"])
    assert people["test"] == {f"SC4{i}" for i in range(40, 44)}
    assert not people["test"] & (people["train"] | people["validation"])
    report = json.loads((tmp_path / "job/labels.json").read_text())
    drawn = {who for draws in report["draws"].values() for own in draws for who in own}
    assert drawn <= people["train"] and report["people"]["test"] == 4
    assert {"hybrid, fine-tuned", "hybrid, from scratch", "next", "next, untrained"} < set(
        report["methods"]
    )
    assert {"hybrid, with context", "hybrid, untrained, joined"} < set(report["methods"])
    assert report["methods"]["contrast"]["flops"] > 0
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0 and again.stdout.count("done (") == 7
