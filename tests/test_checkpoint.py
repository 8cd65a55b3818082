"""Only what is whole is trusted: seals, walking back, errors that name the file."""

import pathlib
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hypnos_jax import checkpoint, sharding, state


@pytest.fixture(scope="module")
def plan():
    mesh = sharding.make_mesh(data=2, fsdp=4)

    def init():
        kernel = jnp.arange(32.0).reshape(8, 4)
        return {
            "params": {"w": nn.LogicallyPartitioned(kernel, ("embed", "mlp"))},
            "vq": {"counts": jnp.ones(5)},
        }

    return state.create(init, lambda matrices: optax.adam(0.1), mesh, ema=True)


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
    files = filter(pathlib.Path.is_file, folder.rglob("*"))
    return max(files, key=lambda path: path.stat().st_size)


def test_the_newest_and_every_fourth_stay(saved):
    assert sorted(int(p.name) for p in (saved / "checkpoints").glob("[0-9]*")) == [4, 8, 10]
    assert checkpoint.good_steps(saved) == [4, 8, 10]


def test_a_state_comes_back_as_it_was_and_where_it_belongs(plan, saved):
    _, abstract, _ = plan
    found, meta = checkpoint.Checkpoints(saved).restore(abstract)
    assert meta == {"config": {"n": 10}}
    assert int(found.step) == 10
    np.testing.assert_array_equal(found.params["w"], np.arange(32.0).reshape(8, 4) + 5)
    np.testing.assert_array_equal(found.ema["w"], np.arange(32.0).reshape(8, 4))
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
    (folder / checkpoint.MANIFEST).write_text("{")


def leave_unsealed(folder):
    (folder / checkpoint.MANIFEST).unlink()


@pytest.mark.parametrize(
    "harm", [flip_a_bit, shorten, remove_a_file, spoil_the_seal, leave_unsealed]
)
def test_a_damaged_step_is_passed_over(plan, copy, harm):
    harm(copy / "checkpoints" / "10")
    assert checkpoint.good_steps(copy)[-1] == 8
    assert checkpoint.restore_variables(copy)[1] == 8
    with pytest.raises(checkpoint.CheckpointError, match="10 cannot be trusted"):
        checkpoint.restore_variables(copy, 10)
    keep = checkpoint.Checkpoints(copy, keep=2)
    found, _ = keep.restore(plan[1])
    assert int(found.step) == 8
    keep.save(10, found, {"config": {}})  # the step that was damaged can be saved again
    keep.close()
    assert checkpoint.good_steps(copy)[-1] == 10


def test_no_good_step_is_an_error_that_names_the_folder(copy, tmp_path):
    for folder in (copy / "checkpoints").glob("[0-9]*"):
        flip_a_bit(folder)
    for workdir in (copy, tmp_path / "nothing"):
        with pytest.raises(checkpoint.CheckpointError, match=str(workdir)):
            checkpoint.restore_variables(workdir)


def test_a_state_of_another_shape_is_refused(plan, copy):
    _, abstract, _ = plan
    other = abstract.replace(params={"v": abstract.params["w"]})
    with pytest.raises(checkpoint.CheckpointError, match="does not fit this program"):
        checkpoint.Checkpoints(copy).restore(other)


def test_a_save_that_fails_is_not_silent(plan, tmp_path, monkeypatch):
    keep = checkpoint.Checkpoints(tmp_path, every=1)

    def full(folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_seal", full)
    keep.save(1, plan[0](), {"config": {}})
    with pytest.raises(OSError, match="No space left"):
        keep.close()
    assert checkpoint.good_steps(tmp_path) == []
