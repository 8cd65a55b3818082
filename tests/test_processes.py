"""Several processes are one program: same run, same stop, one clear end when one is amiss."""

import json
import signal
import time

import pytest
from processes import Failed, run, start_toy
from toy_objective import install, toy_config

from hypnos_jax import config, metrics, train
from hypnos_jax.runtime import exit_codes, preemption, seals


@pytest.fixture(autouse=True, scope="module")
def toy():
    with pytest.MonkeyPatch.context() as monkeypatch:
        install(monkeypatch)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an uninterrupted run on eight devices of one process."""
    workdir = tmp_path_factory.mktemp("whole")
    assert train.train(toy_of(8), workdir) == 0
    return workdir


def toy_of(devices, **changes):
    """The toy's config on so many devices in all."""
    options = {key.replace("__", "."): value for key, value in changes.items()}
    mesh = {"mesh.data": devices // 2 or 1, "mesh.fsdp": min(devices, 2), "mesh.tensor": 1}
    return config.change(config.resolve(toy_config()), mesh | options)


def lines(workdir):
    rows = metrics.read(workdir / "metrics.jsonl")
    return [{name: row[name] for name in row.keys() - metrics.TIMES} for row in rows]


def logged(workdir, step):
    """Whether a run has logged so many steps."""
    path = workdir / "metrics.jsonl"
    return lambda: path.exists() and path.read_text().count('"loss"') >= step


def assert_same_losses(workdir, other):
    for ours, theirs in zip(lines(workdir), lines(other), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_a_process_that_raises_fails_the_test_in_seconds(tmp_path):
    body = "import jax.numpy as jnp\nfrom jax.experimental import multihost_utils\n"
    body += "assert jax.process_index() == 0, 'amiss'\n"
    body += "multihost_utils.process_allgather(jnp.ones(1))\n"
    then = time.monotonic()
    with pytest.raises(Failed, match="AssertionError: amiss"):
        run(body, 2, tmp_path)
    assert time.monotonic() - then < 20  # without the hook: a minute and more


@pytest.mark.slow
def test_a_run_goes_on_with_other_numbers_of_processes(tmp_path):
    options = {"train__steps": 40, "data__delay_s": 0.03, "checkpoints__every": 1000}
    workdir = tmp_path / "moved"
    for processes, (number, who) in ((1, (signal.SIGTERM, 0)), (2, (signal.SIGINT, 1))):
        steps = len(lines(workdir)) if workdir.exists() else 0
        with start_toy([toy_of(processes, **options)] * processes, workdir) as group:
            group.wait_for(logged(workdir, steps + 3))
            group.all[who].send_signal(number)
            assert group.wait(codes=(75,)) == [75] * processes
    (step,) = seals.good_steps(workdir)[-1:]
    assert 6 <= step < 40
    assert train.train(toy_of(8, **options), workdir) == 0
    assert train.train(toy_of(8, **options), tmp_path / "whole") == 0
    assert_same_losses(workdir, tmp_path / "whole")


@pytest.mark.parametrize(
    "processes, devices",
    [
        pytest.param(4, 1, marks=pytest.mark.slow),
        pytest.param(8, 1, marks=pytest.mark.slow),
        pytest.param(4, 2, marks=pytest.mark.slow),
        (2, 4),
    ],
)
def test_more_processes_are_the_same_run(tmp_path, whole, processes, devices):
    workdir = tmp_path / "many"
    config = toy_of(processes * devices)
    with start_toy([config] * processes, workdir, devices=devices) as group:
        group.wait(300)
    assert_same_losses(workdir, whole)


def test_processes_with_different_configs_say_what_differs(tmp_path):
    configs = [toy_of(2), toy_of(2, optim__learning_rate=0.1)]
    with start_toy(configs, tmp_path / "run") as group:
        group.wait(codes=(1,))
        for log in group.logs:
            assert (
                "config.optim.learning_rate: 0.05 on process 0, 0.1 on process 1" in log.read_text()
            )
    assert not (tmp_path / "run/config.json").exists()


STUCK = """
if index == "1":
    from hypnos_jax import sharding
    put, calls = sharding.put_batch, []
    def stuck(*arguments):
        calls.append(1)
        if len(calls) == 4:
            import time
            time.sleep(1000)
        return put(*arguments)
    sharding.put_batch = stuck
"""


def test_a_stuck_process_is_named_and_ends_the_run(tmp_path):
    config = toy_of(2, watchdog__step_s=8.0, train__steps=100)
    with start_toy([config] * 2, tmp_path / "run", before=STUCK) as group:
        group.wait(codes=(exit_codes.STUCK,))
        for log in group.logs:
            assert "stuck: process 1" in log.read_text()
        assert "in stuck" in group.logs[1].read_text()  # where, by its stack


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_stands_still_is_named_before_any_deadline(tmp_path, victim):
    config = toy_of(2, watchdog__save_s=8.0, train__steps=10**6, data__delay_s=0.01)
    impatient = "from hypnos_jax.runtime import watchdog; watchdog.SILENCE_S = 4.0"
    with start_toy([config] * 2, tmp_path / "run", before=impatient) as group:
        group.wait_for(logged(tmp_path / "run", 3))
        group.all[victim].send_signal(signal.SIGSTOP)
        assert group.all[1 - victim].wait(60) == exit_codes.STUCK
        words = group.logs[1 - victim].read_text()
        assert f"standing still: process {victim}" in words
        assert "in train" in words  # where this one waits


@pytest.mark.parametrize("poll", [2, 8, 9])  # at the start, in an evaluation, while training
def test_a_stop_at_any_poll_resumes_as_the_same_run(tmp_path, whole, monkeypatch, poll):
    polls = []

    def requested():
        polls.append(1)
        return len(polls) >= poll

    monkeypatch.setattr(preemption, "requested", requested)
    assert train.train(toy_of(8), tmp_path / "stopped") == exit_codes.STOPPED_EARLY
    assert len(polls) == poll  # at once
    monkeypatch.undo()
    assert train.train(toy_of(8), tmp_path / "stopped") == 0
    assert lines(tmp_path / "stopped") == lines(whole)


@pytest.mark.slow
def test_a_signal_at_any_moment_saves_and_stops(tmp_path):
    options = {"train__steps": 60, "data__delay_s": 0.01, "checkpoints__every": 7}
    options |= {"data__rows": 400, "evals__validation__limit": 20}
    workdir = tmp_path / "stopped"
    for i in range(12):
        with start_toy([toy_of(2, **options)] * 2, workdir) as group:
            end = time.monotonic() + 0.3 + 1.1 * i  # imports, start-up, compilation, steps
            group.wait_for(lambda end=end: time.monotonic() > end)
            group.all[i % 2].send_signal((signal.SIGTERM, signal.SIGINT)[i // 2 % 2])
            assert set(group.wait(codes=(0, 75))) <= {0, 75}
    with start_toy([toy_of(2, **options)] * 2, workdir) as group:
        group.wait()
    assert train.train(toy_of(8, **options), tmp_path / "whole") == 0
    assert_same_losses(workdir, tmp_path / "whole")
    assert json.loads((workdir / "config.json").read_text())["train"]["steps"] == 60
