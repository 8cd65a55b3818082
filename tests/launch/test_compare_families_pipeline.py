"""The pipeline of families: every method gets the same budget, and one command makes the page."""

import collections
import json
import os
import re
import runpy
import subprocess
import sys

import pytest
from launch_commands import ROOT

from hypnos_jax import config as configs
from launch.steps import load_pipeline

FILE = str(ROOT / "configs/pipelines/compare_families.py")


def test_every_method_and_seed_gets_the_whole_budget_and_no_more():
    steps = load_pipeline(FILE, {"budget": 1e12, "seeds": 2})
    spent = collections.Counter()
    for step in steps:
        if "flops" in step.arguments:
            method = re.match(r"(c[^/]+/(supervised/)?[^/]+)", step.output)[1]
            spent[method] += float(step.arguments["flops"])
    assert len(spent) == 2 * 2 * (7 + 2 * 3)  # budgets, seeds, families and questions by shares
    for method, flops in spent.items():
        assert flops == pytest.approx(1e12 if method.startswith("c1e+12/") else 4e12), method
    entries = json.loads(steps[-1].arguments["models"])
    made = {f"{{output}}/{step.output}" for step in steps}
    for entry in entries:
        assert {entry["path"], entry["nights"], *entry["stages"]} <= made
    stages = {entry["name"]: len(entry["stages"]) for entry in entries}
    assert stages["Hypnos"] == 5 and stages["SynthSleepNet"] == 4 and sum(stages.values()) == 9


@pytest.mark.parametrize("size", ["demo", "accelerator"])
def test_every_override_is_a_key_of_the_config_that_it_changes(size):
    steps = load_pipeline(f"{FILE}:{size}", {"factor": 1})
    for step in (step for step in steps if step.command == "train"):
        path, _, argument = step.arguments["config"].partition(":")
        found = configs.flat(configs.resolve(runpy.run_path(path)["get_config"](argument)))
        for key in step.arguments:
            key = key.removeprefix("config.")
            assert key in found or key in ("config", "workdir", "flops"), (step.name, key)


def test_only_what_is_asked_for_is_prepared():
    steps = load_pipeline(FILE, {"families": "dash", "supervised": "", "factor": 1})
    names = [step.name for step in steps]
    assert names[:3] == ["synthesize", "prepare hypnos", "prepare sleep2vec"]
    assert len(names) == 5
    with pytest.raises(ValueError, match="no 'bert'; there are"):
        load_pipeline(FILE, {"families": "bert"})
    with pytest.raises(ValueError, match="supervised=age: it is one of"):
        load_pipeline(FILE, {"supervised": "age"})


@pytest.mark.slow
def test_one_command_makes_the_page(tmp_path):
    command = [sys.executable, "-m", "launch.pipeline", f"--pipeline={FILE}:test"]
    command += [f"--output={tmp_path}", "--set=untrained=1", "--set=supervised=staging"]
    command += ["--set=factor=1"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "comparison.json").read_text())
    for method in report["methods"]:
        if method["budget"]:
            assert method["spent"] == pytest.approx(method["budget"], rel=0.2), method["name"]
    assert len({m["name"] for m in report["methods"] if m["budget"]}) == 7
    again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert again.stdout.count(": done (") == len(
        load_pipeline(f"{FILE}:test", {"untrained": 1, "supervised": "staging", "factor": 1})
    )
