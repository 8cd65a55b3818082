"""Ahead-of-time compilation for a TPU topology without TPUs: memory, collectives, step time.

The compiler is the real one, of the ``libtpu`` wheel; what it says of bytes and collectives is what
a pod would get. Times are a model: a step takes as long as the slowest of its arithmetic, its
memory traffic and its network would alone, arithmetic at a stated share of the peak.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import time
from collections.abc import Iterable

import flax.linen as nn
import jax
import numpy as np

from data_pipelines import pipeline
from hypnos_jax import batch as batches
from hypnos_jax import config as configs
from hypnos_jax import sharding
from hypnos_jax.cost import flops, hlo
from hypnos_jax.cost.chips import CHIPS, Chip
from hypnos_jax.step import TrainOptions, check_batch_size, make_plan

HOP_S = 1e-6  # what a message takes from chip to chip, apart from its length; an assumption


class AheadError(ValueError):
    """A topology that cannot be compiled for, or a compiler that is not there."""


@dataclasses.dataclass(frozen=True)
class Topology:
    """One slice of a TPU topology, without its chips.

    Attributes:
        name: as asked for, such as ``"v5e:16x16"``.
        chip: its row of ``CHIPS``.
        shape: chips along each dimension of the slice.
        devices: to make a mesh of.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]
    devices: list


def topology(name: str) -> Topology:
    """Return the chips that ``name`` means; needs ``libtpu``, and no TPU.

    Args:
        name: ``"v5e:16x16"``, ``"v5p:8x8x8"``, ``"v6e:4x4"``.

    Raises:
        AheadError: no such chip or shape, or no compiler.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    if not match or match[1] not in CHIPS:
        raise AheadError(
            f"topology {name!r} is not known; give one of {sorted(CHIPS)} and a shape, such as"
            " v5e:4x4, v5p:8x8x8 or v6e:16x16"
        )
    # The compiler asks the cloud what machine this is, and locks out other processes: neither is
    # of use where there is no TPU. It reads these once, when it is loaded.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5p-8")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "3")
    os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")
    from jax.experimental import topologies

    try:
        devices = topologies.get_topology_desc(topology_name=name, platform="tpu").devices
    except Exception as error:
        if "libtpu" in str(error).lower() or isinstance(error, ImportError):
            raise AheadError(
                f"the TPU compiler is not installed ({error}); pip install -e '.[tpu]'"
                " --constraint constraints.txt"
            ) from error
        raise AheadError(f"topology {name!r}: {error}") from error
    shape = tuple(int(n) for n in match[2].split("x"))
    return Topology(name, CHIPS[match[1]], shape, list(devices))


@dataclasses.dataclass(frozen=True)
class Report:
    """Memory, arithmetic and traffic of one program on one mesh. Bytes are of one chip.

    Attributes:
        program: ``"train"`` or ``"embed"``.
        topology, chips, mesh, rows: where, and the rows of the global batch.
        parameters: of the model.
        state: part -> bytes of what stays from step to step: parameters, optimizer, others.
        batch: bytes of the batch.
        temporaries: bytes of all else: activations, gradients, code; 0 where ``total`` is unknown.
        total, memory: bytes needed, and what there is.
        fits: whether total is within memory.
        flops: operations of all chips by dtype, from the model's own count.
        traffic: bytes from and to memory; 0 where it does not fit.
        collectives: one dict each: kind, bytes, group (partitions), axes of the slice that it
            spans, count a step, seconds of all of them.
        compute_s, memory_s, network_s: what each alone would take at its peak.
        channel_seconds: modality-seconds in a step.
        compile_s: what compiling took.
    """

    program: str
    topology: str
    chips: int
    mesh: dict[str, int]
    rows: int
    parameters: int
    state: dict[str, int]
    batch: int
    temporaries: int
    total: int
    memory: int
    fits: bool
    flops: dict[str, float]
    traffic: int
    collectives: list[dict]
    compute_s: float
    memory_s: float
    network_s: float
    channel_seconds: int
    compile_s: float

    def peak_s(self) -> float:
        """Seconds of a step at the peak of whatever bounds it."""
        return max(self.compute_s, self.memory_s, self.network_s)

    def step_s(self, utilisation: float) -> float:
        """Seconds of a step whose arithmetic runs at this share of its peak."""
        return max(self.compute_s / utilisation, self.memory_s, self.network_s)

    def bound(self) -> str:
        """What bounds the step at its peak: ``"compute"``, ``"memory"`` or ``"network"``."""
        times = {"compute": self.compute_s, "memory": self.memory_s, "network": self.network_s}
        return max(times, key=times.get)

    def parts(self) -> dict[str, int]:
        """Part -> bytes on one chip, the largest first."""
        parts = {**self.state, "batch": self.batch, "temporaries": self.temporaries}
        return dict(sorted(parts.items(), key=lambda part: -part[1]))


def compile_ahead(
    config: dict,
    where: Topology,
    mesh: dict[str, int],
    *,
    program: str = "train",
    effort: float = 0.0,
) -> Report:
    """Compile a config's train step or embedding for a mesh of chips that are absent.

    Args:
        config: resolved and filled; its ``mesh`` is not read.
        where: from ``topology``.
        mesh: keyword arguments of ``sharding.make_mesh``.
        program: ``"train"`` or ``"embed"``.
        effort: of the compiler's search for faster code; -1 compiles several times sooner, to code
            that takes more temporary memory.

    Raises:
        AheadError: neither program.
        ConfigError, ValueError: a config or mesh that could not be trained with either.
    """
    objective = configs.make_objective(config)
    run = configs.call(TrainOptions, config["train"], "config.train")
    mesh = configs.call(sharding.make_mesh, mesh, "mesh", devices=where.devices)
    check_batch_size(objective, run, mesh)
    source, shapes = pipeline.find_source(config["data"]["name"]), batches.shapes(config)
    with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
        plan = make_plan(config, objective, mesh, shapes)
        if program == "train":
            traced = plan.trace()
            state = {
                "parameters": plan.state.params,
                "optimizer": plan.state.opt_state,
                "averages": plan.state.ema,
                "collections": plan.state.collections,
            }
        elif program == "embed":
            traced = jax.jit(
                lambda variables, batch: objective.apply(variables, batch, method="embed"),
                out_shardings=sharding.batch_sharding(mesh),
            ).trace(plan.state.variables(), plan.batch)
            state = {"parameters": plan.state.params, "collections": plan.state.collections}
        else:
            raise AheadError(f"program={program!r}; it is 'train' or 'embed'")
        counts = flops.matrix_flops(traced.jaxpr)
        then = time.perf_counter()
        options = {"exec_time_optimization_effort": effort} if effort else {}
        try:
            compiled = traced.lower().compile(compiler_options=options)
            total, text = _needed(compiled.memory_analysis()), compiled.as_text()
        except jax.errors.JaxRuntimeError as error:
            total, text = _asked(error), ""
        compile_s = time.perf_counter() - then

    state = {name: _bytes(part) for name, part in state.items() if _bytes(part)}
    batch = _bytes(plan.batch)
    exchanged, network_s, traffic = [], 0.0, 0
    if text:
        module = hlo.HloModule(text)
        traffic = module.traffic()
        exchanged = [_price(each, mesh, where) for each in module.collectives()]
        network_s = sum(each["seconds"] for each in exchanged)
    return Report(
        program=program,
        topology=where.name,
        chips=mesh.size,
        mesh=dict(mesh.shape),
        rows=run.batch_size,
        parameters=sum(x.size for x in jax.tree.leaves(plan.state.params)),
        state=state,
        batch=batch,
        temporaries=max(total - sum(state.values()) - batch, 0),
        total=total,
        memory=where.chip.memory,
        fits=bool(text) and total <= where.chip.memory,
        flops=counts,
        traffic=traffic,
        collectives=exchanged,
        compute_s=sum(counts.values()) / mesh.size / where.chip.flops,
        memory_s=traffic / where.chip.memory_rate,
        network_s=network_s,
        channel_seconds=source.TOKEN_S * math.prod(shapes["valid"].shape),
        compile_s=round(compile_s, 1),
    )


def cheapest(reports: Iterable[Report], utilisation: float) -> Report | None:
    """Return the report that fits and takes the fewest chip-seconds for a modality-second."""
    fitting = [report for report in reports if report.fits]
    return min(
        fitting,
        key=lambda report: report.step_s(utilisation) * report.chips / report.channel_seconds,
        default=None,
    )


def _bytes(tree) -> int:
    """Bytes on one device of shapes with shardings."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


def _needed(stats) -> int:
    """Bytes that a compiled program occupies while it runs, its state included."""
    return (
        stats.argument_size_in_bytes
        + stats.output_size_in_bytes
        - stats.alias_size_in_bytes
        + stats.temp_size_in_bytes
        + stats.generated_code_size_in_bytes
    )


def _asked(error: jax.errors.JaxRuntimeError) -> int:
    """Bytes that a program which did not fit would have needed, from the compiler's words."""
    found = re.search(r"\((\d+(?:\.\d+)?)([MGT])\) exceeds available HBM", str(error))
    found = found or re.search(r"Used (\d+(?:\.\d+)?)([MGT]) of \S+ hbm", str(error))
    if not found:
        raise error
    return int(float(found[1]) * 2 ** {"M": 20, "G": 30, "T": 40}[found[2]])


def _price(each: hlo.Collective, mesh: jax.sharding.Mesh, where: Topology) -> dict:
    """A collective as a dict, with the seconds that all of its runs take.

    Rings along every dimension of the slice that the group spans, both ways where a dimension
    closes to a ring; the time is that of the bytes, or of the hops where that is longer.
    """
    group = list(each.group) or list(range(mesh.size))
    devices = [mesh.devices.flat[i] for i in group]
    places = np.array([device.coords for device in devices])
    sides = [len(set(places[:, i])) for i in range(places.shape[1])]
    rate = hops = 0
    for side, whole in zip(sides, where.shape):
        if side > 1:
            closed = side == whole and whole % where.chip.wraps == 0
            rate += where.chip.link_rate * (2 if closed else 1)
            hops += side // 2 if closed else side - 1
    n = len(devices)
    ring = (n - 1) / n
    share = {"all-reduce": 2 * ring, "all-to-all": max(n / 8, ring), "collective-permute": 1}
    moved = each.size * share.get(each.kind, ring)
    seconds = max(moved / rate, hops * HOP_S) if rate else 0.0
    along = np.unravel_index(group, mesh.devices.shape)
    axes = [name for name, index in zip(mesh.axis_names, along) if len(set(index)) > 1]
    return {
        "kind": each.kind,
        "bytes": each.size,
        "devices": n,
        "axes": axes,
        "count": each.count,
        "seconds": seconds * each.count,
    }
