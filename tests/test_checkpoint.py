"""Only what is whole is trusted: seals, walking back, errors that name the file."""

import contextlib
import shutil
import time
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hypnos_jax import checkpoint, checkpoint_choice, sharding, state
from hypnos_jax.runtime import orbax_files, save_timer, seals


@pytest.fixture(scope="module")
def plan():
    mesh = sharding.make_mesh(data=2, fsdp=4)

    def init():
        kernel = jnp.arange(32.0).reshape(8, 4)
        return {
            "params": {"w": nn.LogicallyPartitioned(kernel, ("embed", "mlp"))},
            "vq": {"counts": jnp.ones(5)},
        }

    return state.create(init, lambda matrices: optax.adam(0.1), mesh, averaged=("params",))


@pytest.fixture(scope="module")
def saved(plan, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("saved")
    keep = checkpoint.Checkpoints(workdir, every=2, keep=2, keep_every=4)
    made = plan[0]()
    for step in (2, 4, 6, 8, 10):
        made = made.replace(step=made.step + 2, params=jax.tree.map(lambda x: x + 1, made.params))
        keep.save(step, made, {"config": {"n": step}})
    keep.close()
    return workdir


@pytest.fixture
def copy(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "run")
    return tmp_path / "run"


def largest(folder):
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != seals.MANIFEST]
    return max(files, key=lambda path: path.stat().st_size)


def test_the_newest_and_every_fourth_stay(saved):
    assert sorted(int(p.name) for p in (saved / "checkpoints").glob("[0-9]*")) == [4, 8, 10]
    assert seals.good_steps(saved) == [4, 8, 10]


def test_a_state_comes_back_as_it_was_and_where_it_belongs(plan, saved):
    _, abstract, _ = plan
    found, meta = checkpoint.Checkpoints(saved).restore(abstract)
    assert meta == {"config": {"n": 10}}
    assert int(found.step) == 10
    np.testing.assert_array_equal(found.params["w"], np.arange(32.0).reshape(8, 4) + 5)
    np.testing.assert_array_equal(found.ema["params"]["w"], np.arange(32.0).reshape(8, 4))
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(abstract), strict=True):
        assert ours.sharding == theirs.sharding
        assert ours.dtype == theirs.dtype


def test_variables_alone_are_numpy_and_the_average(saved):
    config, step, variables = checkpoint.restore_variables(saved)
    assert (config, step) == ({"n": 10}, 10)
    assert isinstance(variables["params"]["w"], np.ndarray)
    np.testing.assert_array_equal(variables["params"]["w"], np.arange(32.0).reshape(8, 4))
    np.testing.assert_array_equal(variables["vq"]["counts"], 1)
    assert checkpoint.restore_variables(saved, 4)[0] == {"n": 4}


def test_the_best_stay_too(plan, tmp_path):
    policy = {"keep": 1, "keep_best": 1, "best_metric": "eval/v/kappa", "best": "highest"}
    keep = checkpoint.Checkpoints(tmp_path, **policy)
    made = plan[0]()
    for step, kappa in enumerate([0.3, 0.5, None, 0.4, float("nan")], 1):
        keep.save(step, made, {}, {} if kappa is None else {"eval/v/kappa": kappa})
    keep.close()
    assert seals.good_steps(tmp_path) == [2, 5]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["2", "5"]


@pytest.mark.parametrize("best, step", [("highest", 2), ("lowest", 1)])
def test_the_best_by_the_runs_own_metric_is_restored(plan, tmp_path, best, step):
    metric = {"best_metric": "eval/v/kappa", "best": best}
    keep = checkpoint.Checkpoints(tmp_path)
    made, meta = plan[0](), {"config": {"checkpoints": metric}}
    for number, kappa in enumerate([0.3, 0.5, None], 1):
        keep.save(number, made, meta, {} if kappa is None else {"eval/v/kappa": kappa})
    keep.close()
    assert checkpoint.restore_variables(tmp_path, "best")[1] == step
    assert checkpoint.restore_variables(tmp_path)[1] == step
    assert checkpoint.restore_variables(tmp_path, "newest")[1] == 3
    assert f"the best, step {step}: its eval/v/kappa" in checkpoint_choice.reason(tmp_path, step)
    assert checkpoint_choice.reason(tmp_path, step).endswith("the newest is step 3")
    (tmp_path / "checkpoints" / str(step) / "stray").touch()
    other = checkpoint_choice.choose(tmp_path)
    assert other == 3 - step  # the next best, and no damaged one
    assert "what is better is damaged" in checkpoint_choice.reason(tmp_path, other)


def test_the_newest_is_the_best_where_none_was_evaluated(plan, tmp_path):
    keep = checkpoint.Checkpoints(tmp_path)
    for number in (1, 2):
        keep.save(number, plan[0](), {"config": {"checkpoints": {"best_metric": "eval/v/x"}}}, {})
    keep.save(3, plan[0](), {"config": {}}, {})
    keep.close()
    with pytest.raises(seals.CheckpointError, match="best_metric does not say what is best"):
        checkpoint_choice.choose(tmp_path, "best")
    assert checkpoint_choice.choose(tmp_path) == 3
    assert "names nothing to judge by" in checkpoint_choice.reason(tmp_path, 3)
    shutil.rmtree(tmp_path / "checkpoints/3")
    assert checkpoint_choice.choose(tmp_path, "best") == checkpoint_choice.choose(tmp_path) == 2
    assert "no checkpoint has a eval/v/x yet" in checkpoint_choice.reason(tmp_path, 2)


def test_one_run_at_a_time(plan, copy):
    with contextlib.closing(checkpoint.Checkpoints(copy)) as keep:
        keep.restore(plan[1])
        with pytest.raises(seals.CheckpointError, match="another run is at work"):
            checkpoint.Checkpoints(copy).restore(plan[1])
        assert checkpoint.restore_variables(copy)[1] == 10
    checkpoint.Checkpoints(copy).restore(plan[1])


def test_processes_that_do_not_see_the_same_files_are_named(plan, copy, monkeypatch):
    monkeypatch.setattr(checkpoint.distributed, "gather", lambda name, mine: [mine, False, mine])
    with pytest.raises(seals.CheckpointError, match=r"process 1 cannot see .*/10, which"):
        checkpoint.Checkpoints(copy).restore(plan[1])


def test_saving_by_the_clock(monkeypatch, tmp_path):
    now = [100.0]
    monkeypatch.setattr(save_timer, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    keep = checkpoint.Checkpoints(tmp_path, every=1000, every_s=60)
    due = []
    for step in range(1, 300):
        now[0] += 5 if step < 50 else 1  # seconds of a step
        if keep.due(step):
            due.append((step, now[0]))
            keep._alarm.restart()
    gaps = [b[1] - a[1] for a, b in zip([(0, 100.0), *due], due)]
    assert len(due) > 4
    assert all(60 <= gap <= 66 for gap in gaps), gaps


def test_a_reader_whose_checkpoint_is_removed_meanwhile_takes_another(copy, monkeypatch):
    load = orbax_files.load

    def late(folder, wanted):
        if folder.name == "10":
            shutil.rmtree(folder)  # by the run that is in progress
        return load(folder, wanted)

    monkeypatch.setattr(orbax_files, "load", late)
    assert checkpoint.restore_variables(copy)[1] == 8


def flip_a_bit(folder):
    data = largest(folder)
    content = bytearray(data.read_bytes())
    content[len(content) // 3] ^= 8
    data.write_bytes(content)


def shorten(folder):
    data = largest(folder)
    data.write_bytes(data.read_bytes()[:-1])


def remove_a_file(folder):
    largest(folder).unlink()


def spoil_the_seal(folder):
    (folder / seals.MANIFEST).write_text("{")


def change_the_seal(folder):
    text = (folder / seals.MANIFEST).read_text()
    (folder / seals.MANIFEST).write_text(text.replace('"step": 10', '"step": 11'))


def add_a_file(folder):
    (folder / "params" / "d" / "more").write_text("")


def take_another_step(folder):
    shutil.rmtree(folder)
    shutil.copytree(folder.with_name("8"), folder)


def take_the_parameters_of_another_step(folder):
    shutil.rmtree(folder / "params")
    shutil.copytree(folder.with_name("8") / "params", folder / "params")


def leave_unsealed(folder):
    (folder / seals.MANIFEST).unlink()


@pytest.mark.parametrize(
    "harm",
    [
        flip_a_bit,
        shorten,
        remove_a_file,
        add_a_file,
        spoil_the_seal,
        change_the_seal,
        take_another_step,
        take_the_parameters_of_another_step,
        leave_unsealed,
    ],
)
def test_a_damaged_step_is_passed_over(plan, copy, harm):
    harm(copy / "checkpoints" / "10")
    assert seals.good_steps(copy)[-1] == 8
    assert checkpoint.restore_variables(copy)[1] == 8
    with pytest.raises(seals.CheckpointError, match="10 cannot be trusted"):
        checkpoint.restore_variables(copy, 10)
    shutil.copytree(copy / "checkpoints" / "8", copy / "checkpoints" / "80 (copy)")  # no step
    keep = checkpoint.Checkpoints(copy, keep=2)
    found, _ = keep.restore(plan[1])
    assert int(found.step) == 8
    keep.save(10, found, {"config": {}})  # the step that was damaged can be saved again
    keep.close()
    assert seals.good_steps(copy)[-1] == 10


def test_no_good_step_is_an_error_that_names_the_folder(copy, tmp_path):
    for folder in (copy / "checkpoints").glob("[0-9]*"):
        flip_a_bit(folder)
    for workdir in (copy, tmp_path / "nothing"):
        with pytest.raises(seals.CheckpointError, match=str(workdir)):
            checkpoint.restore_variables(workdir)


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_again(plan, copy):
    for folder in (copy / "checkpoints").glob("[0-9]*"):
        flip_a_bit(folder)
    before = set(copy.rglob("*")) - {copy / "checkpoints" / "lock"}
    for _ in range(2):
        with pytest.raises(seals.CheckpointError, match="every checkpoint is damaged"):
            checkpoint.Checkpoints(copy).restore(plan[1])
    assert set(copy.rglob("*")) - {copy / "checkpoints" / "lock"} == before


def test_a_state_of_another_shape_is_refused(plan, copy):
    _, abstract, _ = plan
    other = abstract.replace(params={"v": abstract.params["w"]})
    with pytest.raises(seals.CheckpointError, match="does not fit this program"):
        checkpoint.Checkpoints(copy).restore(other)


def test_a_save_that_fails_is_not_silent(plan, tmp_path, monkeypatch):
    keep = checkpoint.Checkpoints(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_seal", full)
    keep.save(1, plan[0](), {"config": {}})
    end = time.monotonic() + 60
    with pytest.raises(seals.CheckpointError, match=r"checkpoints/1 was not .*No space left"):
        while time.monotonic() < end:
            assert not keep.due(2)  # the next step finds out
            time.sleep(0.01)
    keep.close()
    assert not list((tmp_path / "checkpoints").iterdir())
