"""The commands as a user types them: every ``:smoke`` trains and evaluates by itself."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from hypnos_jax import metrics

ROOT = pathlib.Path(__file__).parent.parent
CONFIGS = sorted(
    path.relative_to(ROOT)
    for path in (ROOT / "configs").rglob("*.py")
    if "def get_config(" in path.read_text()
)


def launch(name, *flags):
    return subprocess.run(
        [sys.executable, "-m", f"launch.{name}", *flags],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_smoke_trains_and_evaluates_without_any_data(tmp_path, config):
    done = launch("train", f"--config={config}:smoke", f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    rows = [row for row in metrics.read(tmp_path / "metrics.jsonl") if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    done = launch("evaluate", f"--workdir={tmp_path}", "--set=evals.val.limit=1")
    assert done.returncode == 0, done.stderr
    assert "eval/val/loss" in done.stdout
    assert json.loads((tmp_path / "evaluation.json").read_text())["step"] == len(rows)


def test_an_unknown_key_on_the_command_line_is_named(tmp_path):
    config = f"--config={CONFIGS[0]}:smoke"
    done = launch("train", config, f"--workdir={tmp_path}/run", "--config.train.stepz=3")
    assert done.returncode not in (0, 75)
    assert "stepz" in done.stderr
    assert "steps" in done.stderr


def test_a_folder_that_is_no_store_is_a_short_error(tmp_path):
    config = f"--config={CONFIGS[0]}:smoke"
    done = launch("train", config, f"--workdir={tmp_path}/run", f"--config.data.path={tmp_path}")
    assert done.returncode == 1
    assert f"{tmp_path} is not a store of nights" in done.stderr
    assert "Traceback" not in done.stderr


def test_evaluating_a_folder_without_a_run_is_a_short_error(tmp_path):
    done = launch("evaluate", f"--workdir={tmp_path}")
    assert done.returncode == 1
    assert "holds no complete checkpoint" in done.stderr
    assert "Traceback" not in done.stderr
