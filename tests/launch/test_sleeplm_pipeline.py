"""SleepLM by one command: simulated nights, facts, two runs, their judgement and the report."""

import json
import os
import subprocess
import sys

import pytest
from launch_commands import ROOT


@pytest.mark.slow
def test_one_command_makes_a_judged_model(tmp_path):
    command = [sys.executable, "-m", "launch.pipeline", f"--output={tmp_path / 'out'}"]
    command += ["--pipeline=configs/pipelines/sleeplm.py:test,twelve", "--set=nights=20"]
    command += ["--set=hours=0.1", "--set=steps=4"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(command, cwd=ROOT, env=environment, **pipes)
    assert done.returncode == 0, done.stdout
    model = tmp_path / "out/model"
    rows = json.loads((model / "captions_test.json").read_text())["rows"]
    assert [*rows] == ["model", "majority", "nearest", "probed", "random encoder, trained decoder"]
    results = json.loads((model / "evaluation.json").read_text())["results"]
    assert "eval/zero_shot/staging/accuracy" in results
    assert "eval/text_retrieval/24/times_chance" in results
    page = (tmp_path / "out/report.html").read_text()
    for title in ("Zero-shot answers", "Retrieval of epochs and texts", "Captions beside rivals"):
        assert title in page
    assert (tmp_path / "out/export").is_dir()
