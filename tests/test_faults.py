"""Work is never lost, and nothing is trusted that is not whole: a small campaign, disks, NaNs."""

import contextlib
import json
import pathlib
import random
import resource
import shutil
import subprocess

import fault_campaign
import numpy as np
import pytest
from processes import start_toy
from toy_objective import install, toy_config

from hypnos_jax import checkpoint, config, train
from hypnos_jax.runtime import seals


@pytest.fixture(autouse=True, scope="module")
def toy():
    with pytest.MonkeyPatch.context() as monkeypatch:
        install(monkeypatch)
        yield


def changed(**changes):
    options = {key.replace("__", "."): value for key, value in changes.items()}
    return config.change(config.resolve(toy_config()), options)


def ledger(workdir):
    return checkpoint.restore_variables(workdir)[2]["seen"]["slots"]


def test_damage_of_every_kind_is_found_or_harmless(tmp_path):
    train.train(changed(), tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "mutated")
    draw = random.Random(1)
    found, faults, slowest_s = fault_campaign.mutate(
        tmp_path / "mutated", tmp_path / "run", 170, draw
    )
    assert faults == []
    assert sum(a + b for a, b in found[0].values()) == 170
    assert slowest_s < 5


def saving_and_dying_at(last, save=checkpoint.Checkpoints.save):
    """Return a method that saves, and once a step is saved ends the run as if killed."""

    def save_and_die(keep, step, *rest):
        save(keep, step, *rest)
        if step == last:
            raise KeyboardInterrupt

    return save_and_die


@pytest.mark.slow
def test_each_slot_is_trained_on_once_an_epoch_whatever_the_mesh(tmp_path):
    for steps, mesh in ((3, (8, 1, 1)), (9, (2, 2, 2)), (15, (1, 8, 1))):
        sizes = dict(zip(("data", "fsdp", "tensor"), mesh))
        options = {"train__steps": 15, "evals": {}, "checkpoints__every": 1}
        if steps < 15:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(checkpoint.Checkpoints, "save", saving_and_dying_at(steps))
                with pytest.raises(KeyboardInterrupt):
                    train.train(changed(mesh=sizes, **options), tmp_path)
        else:
            assert train.train(changed(mesh=sizes, **options), tmp_path) == 0
    assert ledger(tmp_path).tolist() == [3] * 40  # 15 steps of 8 rows


@pytest.mark.slow
def test_a_small_campaign(tmp_path):
    counts = ["--kills=8", "--kills_of_two=3", "--stuck=1", "--mutations=170"]
    assert fault_campaign.main([f"--output={tmp_path}", "--seed=7", *counts]) == 0, (
        tmp_path / "tables.md"
    ).read_text()


@pytest.mark.slow
def test_each_slot_is_trained_on_once_an_epoch_over_kills_and_numbers_of_processes(tmp_path):
    options = {"train__steps": 60, "data__delay_s": 0.02, "checkpoints__every": 4}
    options["mesh"] = {"data": -1}
    for processes, devices, step in ((1, 2, 10), (2, 1, 25), (1, 4, 40), (4, 1, 60)):
        group = start_toy([changed(**options)] * processes, tmp_path / "run", devices=devices)
        with group:
            if step == 60:
                group.wait(240)
            else:
                group.wait_for(lambda step=step: (checkpoint_steps(tmp_path / "run"))[-1] >= step)
                group.all[-1].kill()
    assert ledger(tmp_path / "run").tolist() == [12] * 40
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").open()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 61))


def checkpoint_steps(workdir):
    return sorted(int(p.parent.name) for p in workdir.glob("checkpoints/*/sha256.json")) or [-1]


@pytest.mark.slow
def test_two_processes_stop_at_what_is_not_finite_with_the_state_of_both(tmp_path):
    options = {"data__poison": 7, "mesh": {"data": 1, "fsdp": 2}, "checkpoints__every": 1}
    with start_toy([changed(**options)] * 2, tmp_path / "run") as group:
        group.wait(240, codes=(1,))
        assert "NonFiniteError: step" in group.words()
    batches = sorted((tmp_path / "run/not_finite").glob("*.npz"))
    assert len(batches) == 2  # each process's rows
    step = int(batches[0].name.split("_")[3])
    _, _, met = checkpoint.restore_variables(tmp_path / "run/not_finite", step - 1)
    _, newest, saved = checkpoint.restore_variables(tmp_path / "run")
    assert newest == step - 1
    np.testing.assert_array_equal(met["seen"]["slots"], saved["seen"]["slots"])


@contextlib.contextmanager
def disk(folder: pathlib.Path, size: str):
    """A file system of that size, or a skipped test."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small tmpfs cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_leaves_the_earlier_checkpoints_and_the_run_goes_on_with_more_space(tmp_path):
    options = {"train__steps": 40, "checkpoints__every": 2, "checkpoints__keep": 100}
    options |= {"mesh": {"data": -1}, "logs__tensorboard": False}
    train.train(changed(**options), tmp_path / "whole")
    size = sum(p.stat().st_blocks * 512 for p in (tmp_path / "whole/checkpoints/20").rglob("*"))
    with disk(tmp_path / "disk", f"{6 * size // 1024 + 64}k") as small:
        with pytest.raises((seals.CheckpointError, OSError)) as error:
            train.train(changed(**options), small / "run")
        assert str(small / "run") in str(error.value)
        assert "no space left" in str(error.value).casefold()
        kept = seals.good_steps(small / "run")
        assert len(kept) > 1
        for step in kept:
            assert seals.damage(small / "run/checkpoints" / str(step)) is None
        with pytest.raises((seals.CheckpointError, OSError)):
            train.train(changed(**options), small / "run")
        assert seals.good_steps(small / "run")[: len(kept)] == kept
        subprocess.run(["mount", "-o", "remount,size=400m", str(small)], check=True)
        assert train.train(changed(**options), small / "run") == 0
        assert not fault_differences(small / "run", tmp_path / "whole")


def fault_differences(workdir, reference):
    ours, theirs = (fault_campaign.lines(folder) for folder in (workdir, reference))
    same = np.array_equal(ledger(workdir), ledger(reference))
    return [] if ours == theirs and same else [(ours, theirs)]


@pytest.mark.slow
def test_a_file_that_cannot_grow_is_named_and_the_earlier_checkpoint_stays(tmp_path):
    assert train.train(changed(train__steps=4, evals={}), tmp_path) == 0
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (tmp_path / "metrics.jsonl").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, limits[1]))
    try:
        with pytest.raises(OSError, match="metrics.jsonl"):
            train.train(changed(train__steps=8, evals={}, logs__tensorboard=False), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert seals.good_steps(tmp_path) == [4]
    assert train.train(changed(train__steps=8, evals={}), tmp_path) == 0
    rows = fault_campaign.lines(tmp_path)
    assert [row["step"] for row in rows] == list(range(1, 9))
