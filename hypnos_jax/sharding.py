"""The place of every array: one mesh, one table from logical axis names to mesh axes.

Parameters name their axes by what they mean (``"embed"``, ``"mlp"``, ...) with
``nn.with_logical_partitioning``; ``RULES`` alone says which mesh axis carries which of them. A name
that is missing here would be replicated without a word, so ``state_shardings`` refuses it.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

MESH_AXES = ("data", "fsdp", "tensor")
# Rows of a batch are spread over both: fsdp is data parallelism with sharded parameters.
BATCH_AXES = ("data", "fsdp")

RULES = (
    # activations
    ("batch", BATCH_AXES),
    ("seconds", None),
    # parameters
    ("embed", "fsdp"),
    ("mlp", "tensor"),
    ("heads", "tensor"),
    ("head_dim", None),
    ("vocab", "tensor"),
    ("channels", None),
    ("levels", None),
    # codewords of a level: the sums over a batch come out of it scattered, as gradients do
    ("codes", ("fsdp", "tensor")),
    ("layers", None),
    ("kernel", None),
    ("modality", None),
)


def make_mesh(*, data: int = -1, fsdp: int = 1, tensor: int = 1, devices=None) -> Mesh:
    """Return the mesh ``data x fsdp x tensor`` over all devices.

    Args:
        data, fsdp, tensor: devices along each axis; -1 for at most one of them: what is left.
        devices: the devices to use; all by default.

    Raises:
        ValueError: the sizes do not multiply to the number of devices, or are no products of the
            sides of their torus.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [data, fsdp, tensor]
    known = int(np.prod([n for n in sizes if n != -1]))
    if sizes.count(-1) == 1 and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if -1 in sizes or min(sizes) < 1 or int(np.prod(sizes)) != len(devices):
        raise ValueError(
            f"config.mesh data={data} fsdp={fsdp} tensor={tensor} does not cover {len(devices)}"
            " devices exactly; give sizes that multiply to it, or -1 for one of them"
        )
    # Auto, spelled out: make_mesh defaults to Explicit, under which Linen's constraints fail.
    try:
        return jax.make_mesh(sizes, MESH_AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)
    except NotImplementedError as error:
        raise ValueError(
            f"config.mesh data={sizes[0]} fsdp={sizes[1]} tensor={sizes[2]} cannot be laid over"
            f" these chips: {error} Give sizes that are products of sides of the slice"
        ) from error


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: rows over ``data`` and ``fsdp``, all else whole."""
    return NamedSharding(mesh, P(BATCH_AXES))


def keep_rows(x: jax.Array) -> jax.Array:
    """Return ``x``, whose first axis is the batch's, kept on the devices that have its rows.

    Without a word of it the compiler may lay activations out as the parameters are, by width, and
    then it adds up every product over the devices instead of fetching the parameters. Two products
    laid out by different axes it has even added wrongly (jaxlib 0.10.2, fsdp and tensor above 1):
    say it of every product that something is added to.
    """
    return nn.with_logical_constraint(x, ("batch", *[None] * (x.ndim - 1)))


def on_own_rows_and_heads(function: Callable) -> Callable:
    """Return a function of arrays [N, H, ...] that each device calls with its own rows and heads.

    For kernels that the compiler cannot cut: without it every device would compute the whole.
    """

    def call(*arrays):
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty or mesh.size == 1:
            return function(*arrays)
        heads = arrays[0].shape[1]
        spec = divisible(P(BATCH_AXES, "tensor"), (arrays[0].shape[0], heads), mesh)
        cut = jax.shard_map(
            function, in_specs=(spec,) * len(arrays), out_specs=spec, check_vma=False
        )
        return cut(*arrays)

    return call


def state_shardings(mesh: Mesh, boxed) -> object:
    """Return one ``NamedSharding`` per array of a variables tree with Linen's axis names.

    A dimension that its mesh axes do not divide stays whole: a 3-wide kernel on 4 devices.

    Args:
        mesh: from ``make_mesh``.
        boxed: ``jax.eval_shape`` of ``module.init``, boxes kept.

    Raises:
        ValueError: a logical name that RULES does not have.
    """
    known = {name for name, _ in RULES}

    def one(path, leaf):
        if not isinstance(leaf, nn.Partitioned):
            return replicated(mesh)
        names = leaf.names
        unknown = [name for name in names if name is not None and name not in known]
        if unknown:
            raise ValueError(
                f"{jax.tree_util.keystr(path)} has the axis {unknown[0]!r}, which RULES in"
                f" hypnos_jax/sharding.py lacks; it has {sorted(known)}"
            )
        spec = nn.logical_to_mesh_axes(names, RULES)
        return NamedSharding(mesh, divisible(spec, leaf.value.shape, mesh))

    return jax.tree_util.tree_map_with_path(
        one, boxed, is_leaf=lambda x: isinstance(x, nn.Partitioned)
    )


def divisible(spec: P, shape: tuple[int, ...], mesh: Mesh) -> P:
    """Return ``spec`` without the axes that do not divide their dimension of ``shape``."""
    kept = []
    for dim, axes in zip(shape, tuple(spec) + (None,) * (len(shape) - len(spec))):
        names = () if axes is None else (axes,) if isinstance(axes, str) else axes
        size = int(np.prod([mesh.shape[name] for name in names]))
        kept.append(axes if dim % size == 0 else None)
    return P(*kept)


def host_rows(sharding: NamedSharding, rows: int) -> tuple[int, int]:
    """Return the half-open range of a global batch's rows that this process supplies.

    Taken from the sharding and not from the process's index: where the tensor axis spans
    processes, two of them supply the same rows.

    Raises:
        ValueError: the rows do not divide over the devices, or are not contiguous here.
    """
    shards = int(np.prod([sharding.mesh.shape[name] for name in BATCH_AXES]))
    if rows % shards:
        raise ValueError(
            f"config.train.batch_size={rows} does not divide over the mesh's {shards} row shards;"
            f" use a multiple of {shards}"
        )
    index = sharding.addressable_devices_indices_map((rows,)).values()
    spans = {(s[0].start or 0, rows if s[0].stop is None else s[0].stop) for s in index}
    lo, hi = min(a for a, _ in spans), max(b for _, b in spans)
    if sum(b - a for a, b in spans) != hi - lo:
        raise ValueError(
            f"this process's rows {sorted(spans)} are not contiguous: reorder the mesh"
        )
    return lo, hi


def put_batch(batch: dict[str, np.ndarray], sharding: NamedSharding, rows: int) -> dict:
    """Return the global batch on the devices, of which this process supplies its own rows.

    Args:
        batch: name -> this process's rows ``lo:hi`` of ``host_rows``, first axis B.
        sharding: ``batch_sharding``.
        rows: B of the global batch.
    """
    # global_shape always: without it replicas train on different data when the tensor axis spans
    # processes, and nothing is raised.
    return {
        name: jax.make_array_from_process_local_data(
            sharding, np.asarray(local), (rows, *np.shape(local)[1:])
        )
        for name, local in batch.items()
    }
