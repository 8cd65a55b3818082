"""The loop: any objective trains, stops, resumes as the same run, and says what is wrong."""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from toy_objective import ToyRegression, ToySource, install, toy_config

from data_pipelines import pipeline
from hypnos_jax import batch as batches
from hypnos_jax import checkpoint, config, evaluate, metrics, sharding, train
from hypnos_jax.non_finite import NonFiniteError
from hypnos_jax.runtime import exit_codes, seals

TESTS = pathlib.Path(__file__).parent


@pytest.fixture(autouse=True, scope="module")
def toy():
    with pytest.MonkeyPatch.context() as monkeypatch:
        install(monkeypatch)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp("whole")
    assert run(workdir) == 0
    return workdir


@pytest.fixture
def cut_off(whole, tmp_path):
    """The folder of the same run as if killed after the save of step 8."""
    workdir = tmp_path / "cut_off"
    shutil.copytree(whole, workdir)
    shutil.rmtree(workdir / "checkpoints" / "12")
    return workdir


def run(workdir, **changes):
    return train.train(changed(**changes), workdir)


def changed(**changes):
    options = {key.replace("__", "."): value for key, value in changes.items()}
    return config.change(config.resolve(toy_config()), options)


def lines(workdir):
    """What was logged, without the times."""
    rows = metrics.read(workdir / "metrics.jsonl")
    return [{name: row[name] for name in row.keys() - metrics.TIMES} for row in rows]


def variables(workdir):
    return checkpoint.restore_variables(workdir)[2]


def start(workdir, **changes):
    """Start the same training in a process of its own."""
    code = (
        "import json, sys, jax; jax.config.update('jax_num_cpu_devices', 8);"
        "from absl import logging; logging.set_verbosity(logging.INFO);"
        "import toy_objective; toy_objective.install();"
        "from hypnos_jax.runtime import distributed; distributed.initialize();"
        "from hypnos_jax.train import train;"
        "sys.exit(train(json.loads(sys.argv[1]), sys.argv[2]))"
    )
    text = json.dumps(changed(**changes))
    with open(workdir.with_suffix(".log"), "a") as log:
        return subprocess.Popen(
            [sys.executable, "-c", code, text, str(workdir)],
            env={**os.environ, "PYTHONPATH": str(TESTS), "JAX_PLATFORMS": "cpu"},
            stdout=log,
            stderr=log,
        )


def wait_for_step(process, workdir, step, seconds=120):
    """Wait until the process has logged that many steps."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        path = workdir / "metrics.jsonl"
        if path.exists() and path.read_text().count('"loss"') >= step:
            return
        time.sleep(0.01)
    pytest.fail(f"no step {step}; exit {process.poll()}\n{workdir.with_suffix('.log').read_text()}")


def assert_same_run(workdir, other):
    assert lines(workdir) == lines(other)
    jax.tree.map(np.testing.assert_array_equal, variables(workdir), variables(other))


def test_a_config_trains_an_objective(tmp_path):
    assert run(tmp_path, logs__mfu=True, checkpoints__every=100) == 0
    steps = [line for line in metrics.read(tmp_path / "metrics.jsonl") if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 13))
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert {"error", "grad_norm", "learning_rate", *metrics.TIMES} - {"save_s"} <= set(steps[0])
    assert {line["channel_seconds"] for line in steps} == {8}
    assert json.loads((tmp_path / "cost.json").read_text()) == {
        "parameters": 4 * 8 + 8 + 1,
        "embedding_parameters": 0,
        "flops_per_step": 2 * 8 * (2 * 4 * 8 + 3 * 8),  # the input has no gradient
        "channel_seconds_per_step": 8,
        "examples_per_epoch": 40,
    }
    assert "absent" not in steps[0]  # nothing counted for it: 0 would be a lie
    compiled = [line["compiled"] for line in steps]
    assert len(set(compiled[1:5])) == len(set(compiled[5:])) == 1  # step 5 evaluates, once anew
    evals = [line for line in lines(tmp_path) if "eval/validation/loss" in line]
    assert [line["step"] for line in evals] == [5, 10, 12]
    resolved, step, found = checkpoint.restore_variables(tmp_path)
    assert step == 12
    assert resolved["objective"] == {"name": "toy", "width": 8}
    assert set(found) == {"params", "seen"}
    assert found["seen"]["rows"] == 12 * 8
    assert any((tmp_path / "tensorboard").iterdir())


def test_steps_are_traced_where_asked(tmp_path):
    assert run(tmp_path, train__steps=3, logs__profile=[2, 3], evals={}) == 0
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    with pytest.raises(config.ConfigError, match=r"logs.profile=\[3\].*first step, last step"):
        run(tmp_path, logs__profile=[3])


def test_stopping_and_resuming_is_the_same_run(whole, cut_off):
    assert run(cut_off) == 0
    assert_same_run(whole, cut_off)
    before = (cut_off / "metrics.jsonl").read_bytes()
    assert run(cut_off) == 0  # nothing left to do
    assert (cut_off / "metrics.jsonl").read_bytes() == before


def test_a_damaged_checkpoint_is_set_aside_and_the_run_is_the_same(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    files = (tmp_path / "run/checkpoints/12/params").rglob("*")
    data = max(filter(pathlib.Path.is_file, files), key=os.path.getsize)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    assert seals.good_steps(tmp_path / "run") == [8]
    assert run(tmp_path / "run") == 0
    assert_same_run(whole, tmp_path / "run")
    assert (tmp_path / "run/damaged_checkpoints/12").is_dir()


def test_kill_9_then_the_same_command_is_the_same_run(tmp_path):
    options = {"train__steps": 40, "data__delay_s": 0.004}
    process = start(tmp_path / "killed", **options)
    wait_for_step(process, tmp_path / "killed", 14)
    process.kill()
    process.wait()
    resumed = start(tmp_path / "killed", **options)
    assert resumed.wait(120) == 0, (tmp_path / "killed.log").read_text()
    assert run(tmp_path / "whole", **options) == 0
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.slow
def test_kill_9_at_many_moments(tmp_path):
    options = {"train__steps": 150, "data__delay_s": 0.004}
    draw = random.Random(5)
    for _ in range(6):
        process = start(tmp_path / "killed", **options)
        time.sleep(draw.uniform(2, 12))
        process.kill()
        process.wait()
    assert start(tmp_path / "killed", **options).wait(300) == 0
    assert run(tmp_path / "whole", **options) == 0
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_saves_and_stops(tmp_path, number):
    options = {"train__steps": 40, "data__delay_s": 0.02, "checkpoints__every": 1000}
    process = start(tmp_path / "stopped", **options)
    wait_for_step(process, tmp_path / "stopped", 5)
    process.send_signal(number)
    assert process.wait(60) == exit_codes.STOPPED_EARLY, (tmp_path / "stopped.log").read_text()
    (step,) = seals.good_steps(tmp_path / "stopped")
    assert 5 <= step < 40
    assert run(tmp_path / "stopped", **options) == 0
    run(tmp_path / "whole", **options)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_a_run_is_not_shortened_below_its_checkpoint(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    with pytest.raises(config.ConfigError, match="config.train.steps=8, but .* step 12"):
        run(tmp_path / "run", train__steps=8)


def test_another_mesh_resumes_the_run(whole, cut_off):
    run(cut_off, mesh__data=2, mesh__fsdp=2, mesh__tensor=2)
    for ours, theirs in zip(lines(cut_off), lines(whole), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    # Each of 40 slots once an epoch: 96 examples are two epochs and some of the third.
    trained, wanted = (variables(folder)["seen"]["slots"] for folder in (cut_off, whole))
    np.testing.assert_array_equal(trained, wanted)
    assert set(wanted) == {2, 3}


def test_a_loss_that_is_not_finite_stops_with_its_batch_and_state(whole, tmp_path):
    with pytest.raises(NonFiniteError, match=r"step \d+: loss=inf") as error:
        run(tmp_path, data__poison=7, checkpoints__every=1)
    (saved,) = (tmp_path / "not_finite").glob("batch_of_step_*_process_0.npz")
    with np.load(saved) as batch:
        assert np.abs(batch["y"]).max() > 1e30
    step = int(saved.name.split("_")[3])
    assert f"checkpoints/{step - 1}" in str(error.value)
    assert seals.good_steps(tmp_path)[-1] == step - 1
    # What met the batch is what was saved before it, and the same as where nothing is poisoned.
    _, _, met = checkpoint.restore_variables(tmp_path / "not_finite", step - 1)
    jax.tree.map(np.testing.assert_array_equal, met, variables(tmp_path))
    assert lines(tmp_path) == lines(whole)[: len(lines(tmp_path))]
    with pytest.raises(NonFiniteError):  # the same command, the same end
        run(tmp_path, data__poison=7, checkpoints__every=1)


def test_a_state_that_is_not_finite_itself_is_told(tmp_path, monkeypatch):
    save = checkpoint.Checkpoints.save

    def break_down(keep, step, state, *rest):
        params = {**state.params, "bias": state.params["bias"] * np.nan}
        save(keep, step, state.replace(params=params), *rest)

    monkeypatch.setattr(checkpoint.Checkpoints, "save", break_down)
    run(tmp_path, train__steps=4, evals={})
    monkeypatch.undo()
    install(monkeypatch)
    with pytest.raises(NonFiniteError, match=r"finite already \(params/bias\), .*Remove the"):
        run(tmp_path, train__steps=8, evals={})


def test_a_batch_that_is_not_finite_can_be_skipped(tmp_path):
    options = {"data__poison": 7, "checkpoints__every": 1}
    with pytest.raises(NonFiniteError):
        run(tmp_path, **options)
    bad = seals.good_steps(tmp_path)[-1]
    before = variables(tmp_path)
    assert run(tmp_path, train__skip_not_finite=1, train__steps=bad + 1, **options) == 0
    jax.tree.map(np.testing.assert_array_equal, variables(tmp_path), before)
    (line,) = [line for line in lines(tmp_path) if "skipped" in line]
    assert line["step"] == bad + 1
    assert (line["skipped"], line["loss"], line["grad_norm"]) == (1, None, None)
    # What was skipped then does not count where none may be skipped any more.
    assert run(tmp_path, train__steps=bad + 2, **options) == 0
    assert run(tmp_path, train__skip_not_finite=1, **options) == 0
    steps = [line["step"] for line in lines(tmp_path) if "loss" in line]
    assert steps == list(range(1, 13))
    skipped = sum("skipped" in line for line in lines(tmp_path))
    assert variables(tmp_path)["seen"]["rows"] == 8 * (12 - skipped)


def test_accumulation_is_refused_where_rows_are_coupled(tmp_path, monkeypatch):
    monkeypatch.setattr(ToyRegression, "couples_batch", True)
    with pytest.raises(config.ConfigError, match="accumulate=2, but ToyRegression couples"):
        run(tmp_path, train__accumulate=2, train__batch_size=16)


def test_micro_batches_give_the_gradient_of_the_whole_batch(tmp_path):
    options = {"train__batch_size": 32, "objective__dropout": 0.0}
    run(tmp_path / "whole", **options)
    run(tmp_path / "cut", train__accumulate=4, **options)
    for ours, theirs in zip(lines(tmp_path / "cut"), lines(tmp_path / "whole"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("objective.widht", 3, "config.objective.widht: did you mean 'width'"),
        ("objective.name", "toyy", "no objective named 'toyy'"),
        ("optim.learning_rte", 1.0, "config.optim.learning_rte: did you mean 'learning_rate'"),
        ("train.batchsize", 1, "config.train.batchsize: did you mean 'batch_size'"),
        ("train.batch_size", 7, "batch_size=7 is not divisible"),
        ("mesh.data", 3, "data=3 fsdp=2 tensor=1 does not cover 8 devices"),
        ("logs.evry", 1, "config.logs.evry: did you mean 'every'"),
        ("checkpoints.keeep", 1, "config.checkpoints.keeep: did you mean 'keep'"),
        ("evals.validation.typo", 1, "config.evals.validation.typo"),
        ("evals.validation.every", "never", "every='never'"),
        ("data.name", "toi", "config.data.name='toi': did you mean 'toy'"),
        ("data.rowz", 1, "config.data.rowz: did you mean 'rows'"),
        ("optim.decay", "linear", "it is 'cosine' or 'constant'"),
        ("lgos.every", 1, "config.lgos: did you mean 'logs'"),
        ("data.fill", [["objective.depth", "depth"]], "'objective.depth', which is not there"),
        ("data.fill", [["objective.width", "girth"]], "not 'girth'"),
    ],
)
def test_a_wrong_config_names_its_key(tmp_path, key, value, message):
    with pytest.raises(ValueError) as error:
        train.train(config.change(config.resolve(toy_config()), {key: value}), tmp_path)
    assert message in str(error.value)
    if not key.startswith("checkpoints."):  # which may differ between starts of a run
        assert not (tmp_path / "config.json").exists()


def test_another_config_in_the_same_folder_is_refused(tmp_path):
    run(tmp_path, train__steps=2)
    with pytest.raises(config.ConfigError, match=r"config.optim.learning_rate: 0.05 there, 0.1"):
        run(tmp_path, train__steps=2, optim__learning_rate=0.1)
    with pytest.raises(config.ConfigError, match="other data"):
        run(tmp_path, train__steps=2, data__path="elsewhere")
    # sections that may change, also where one of the two leaves all to the defaults
    assert run(tmp_path, train__steps=4, logs__every=1, watchdog__step_s=60.0, evals={}) == 0


def test_the_job_evaluates_every_evaluator_of_the_config(tmp_path):
    run(tmp_path, train__steps=2)
    found = evaluate.evaluate(
        tmp_path, changes={"evals.again": {"type": "mean_loss", "every": "job", "split": "test"}}
    )
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert written["taken"].startswith("the newest, step 2: config.checkpoints.best_metric names")
    assert (written["step"], written["results"]) == (2, found)
    assert {"eval/validation/loss", "eval/again/loss", "eval/again/error"} <= set(found)
    logged = next(line for line in lines(tmp_path) if "eval/validation/loss" in line)
    assert found["eval/validation/loss"] == pytest.approx(logged["eval/validation/loss"], rel=1e-5)


def test_the_metrics_have_the_mean_over_rows_that_count(tmp_path):
    run(tmp_path, train__steps=1, data__rows=11, evals={"v": {"type": "mean_loss", "every": 1}})
    source = ToySource(None, split="validation", seed=3, rows=11)
    (batch,) = source.evaluation_batches(16)
    assert batch["weight"].sum() == 11
    objective = ToyRegression()
    loss = objective.apply(variables(tmp_path), objective.weigh(batch), train=False)
    (line,) = [line for line in lines(tmp_path) if "eval/v/loss" in line]
    assert line["eval/v/loss"] == pytest.approx(float(loss.total / 11), rel=1e-5)


def test_a_split_that_holds_nothing_is_evaluated_on_nothing(tmp_path, monkeypatch):
    def empty(*args, split):
        raise pipeline.EmptySplitError(f"no night in split {split!r}")

    monkeypatch.setattr(batches, "load_source", empty)
    mesh = sharding.make_mesh(data=1, devices=jax.local_devices()[:1])
    context = evaluate.Context(config.resolve(toy_config()), None, None, mesh, tmp_path)
    assert list(context.batches("validation")) == []
