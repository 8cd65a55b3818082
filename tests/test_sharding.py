"""Placement of arrays: rows from the sharding, names from the table, nothing dropped in silence."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from hypnos_jax import sharding


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh(data=2, fsdp=2, tensor=2)


def plan(mesh, names, shape):
    boxed = {"w": nn.LogicallyPartitioned(jax.ShapeDtypeStruct(shape, jnp.float32), names)}
    return sharding.state_shardings(mesh, boxed)["w"].spec


def test_names_become_mesh_axes(mesh):
    assert plan(mesh, ("embed", "mlp"), (4, 8)) == P("fsdp", "tensor")
    assert plan(mesh, ("layers", "embed", "heads", "head_dim"), (3, 4, 2, 8)) == P(
        None, "fsdp", "tensor", None
    )


def test_a_dimension_that_does_not_divide_stays_whole(mesh):
    assert plan(mesh, ("embed", "mlp"), (3, 8)) == P(None, "tensor")


def test_an_unknown_name_is_refused(mesh):
    with pytest.raises(ValueError, match=r"\['w'\] has the axis 'width'.*RULES"):
        plan(mesh, ("width",), (4,))


@pytest.mark.parametrize("data, fsdp, tensor", [(-1, 2, 1), (8, 1, 1), (2, -1, 2)])
def test_a_mesh_covers_all_devices(data, fsdp, tensor):
    assert sharding.make_mesh(data=data, fsdp=fsdp, tensor=tensor).size == 8


@pytest.mark.parametrize("data, fsdp, tensor", [(3, 1, 1), (-1, -1, 1), (-1, 3, 1), (0, 1, 1)])
def test_a_mesh_that_does_not_fit_is_refused(data, fsdp, tensor):
    with pytest.raises(ValueError, match=f"data={data} fsdp={fsdp} tensor={tensor}"):
        sharding.make_mesh(data=data, fsdp=fsdp, tensor=tensor)


def test_a_batch_is_spread_over_rows_and_whole_again(mesh):
    place = sharding.batch_sharding(mesh)
    assert sharding.host_rows(place, 8) == (0, 8)
    rows = {"x": np.arange(24.0, dtype=np.float32).reshape(8, 3), "n": np.arange(8)}
    batch = sharding.put_batch(rows, place, 8)
    assert {shard.data.shape for shard in batch["x"].addressable_shards} == {(2, 3)}
    np.testing.assert_array_equal(batch["x"], rows["x"])


def test_rows_that_do_not_divide_are_refused(mesh):
    with pytest.raises(ValueError, match="batch_size=6 does not divide"):
        sharding.host_rows(sharding.batch_sharding(mesh), 6)


def test_rows_come_from_the_sharding_of_this_process():
    devices = np.array(jax.devices())
    mesh = sharding.make_mesh(data=4, fsdp=1, tensor=2, devices=list(devices))
    place = sharding.batch_sharding(mesh)

    class OfOneProcess:
        """A sharding that sees the devices of one process of four: one row shard, twice."""

        mesh = place.mesh

        @staticmethod
        def addressable_devices_indices_map(shape):
            return dict(list(place.devices_indices_map(shape).items())[2:4])

    assert sharding.host_rows(OfOneProcess, 8) == (2, 4)
