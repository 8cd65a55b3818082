"""FLOPs of a program, and the peak speed of these devices.

XLA's own cost analysis counts the body of a loop once however often it runs, so scanned layers and
micro-batches would vanish; the program's jaxpr has the loops' lengths.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import time
from collections.abc import Callable

import jax
import jax.extend.core
import jax.numpy as jnp

# What passes a parameter on as it is: to a product or a look-up, perhaps.
LAYOUT = {
    *("broadcast_in_dim", "concatenate", "convert_element_type", "copy", "dynamic_slice"),
    *("reshape", "sharding_constraint", "slice", "split", "squeeze", "transpose", "unstack"),
}


@dataclasses.dataclass(frozen=True)
class Cost:
    """Cost of a train step, counted before anything runs; a run's ``cost.json``.

    Attributes:
        parameters: of the model, all of them.
        embedding_parameters: of those, the ones used by gathers only, in no product.
        flops_per_step: ``matrix_flops`` of the step: forward, backward, what is computed anew.
        channel_seconds_per_step: seconds of signal in a full batch, each channel for itself.
    """

    parameters: int
    embedding_parameters: int
    flops_per_step: float
    channel_seconds_per_step: float


def step_cost(traced, state, batch: dict, token_s: float) -> Cost:
    """Return what a traced train step costs.

    Args:
        traced: ``step.Plan.trace()``.
        state, batch: the shapes that it was traced with.
        token_s: seconds that an entry of ``batch["valid"]`` stands for.
    """
    sizes = [x.size for x in jax.tree.leaves(state.params)]
    # The step's arguments are the leaves of (state, batch): which of them are the parameters?
    numbered = jax.tree.map(lambda _: -1, (state, batch))
    tree = jax.tree.structure(state.params)
    numbers = jax.tree.unflatten(tree, range(tree.num_leaves))
    numbered = jax.tree.leaves((numbered[0].replace(params=numbers), numbered[1]))
    jaxpr = traced.jaxpr.jaxpr
    uses = collections.defaultdict(set)
    sources = {v: {i} for v, i in zip(jaxpr.invars, numbered, strict=True) if i >= 0}
    _follow(jaxpr, sources, uses)
    return Cost(
        parameters=sum(sizes),
        embedding_parameters=sum(size for i, size in enumerate(sizes) if uses[i] == {"gather"}),
        flops_per_step=sum(matrix_flops(traced.jaxpr).values()),
        channel_seconds_per_step=token_s * math.prod(batch["valid"].shape),
    )


def _follow(jaxpr, sources: dict, uses: dict[int, set[str]]) -> None:
    """Note which look-ups and products the marked variables reach as they are.

    Args:
        jaxpr: to go through.
        sources: variable -> marks.
        uses: mark -> ``"gather"`` and ``"product"``, added to.
    """

    def marks(v):
        return () if hasattr(v, "val") else sources.get(v, ())  # literals do not hash

    for equation in jaxpr.eqns:
        name, inputs = equation.primitive.name, equation.invars
        if name == "gather":
            for mark in marks(inputs[0]):
                uses[mark].add("gather")
        elif name in ("dot_general", "conv_general_dilated"):
            for mark in (*marks(inputs[0]), *marks(inputs[1])):
                uses[mark].add("product")
        elif name in LAYOUT:
            reached = set().union(*map(marks, inputs))
            sources |= dict.fromkeys(equation.outvars, reached) if reached else {}
        for inner in _inner(equation):
            # The last arguments are those of a body: of a cond the first is which branch.
            given = inputs[len(inputs) - len(inner.jaxpr.invars) :]
            own = {v: marks(x) for v, x in zip(inner.jaxpr.invars, given) if marks(x)}
            if own:
                _follow(inner.jaxpr, own, uses)


def matrix_flops(closed_jaxpr) -> dict[str, float]:
    """Count a program's matrix products and convolutions, over all devices.

    A multiply and an add are two operations. The loop of a ``while`` counts once (its length is not
    known); of two branches of a ``cond`` the cheaper one counts: what happens once in a run, such
    as k-means of the codebooks, must not flatter every step. Of more branches (one of many
    modalities, drawn anew each step) it is their mean. What a backward pass recomputes counts.

    Args:
        closed_jaxpr: ``jax.make_jaxpr(f)(*args)`` or ``jax.jit(f).trace(*args).jaxpr``.

    Returns:
        Operand dtype's name -> floating-point operations of one run.
    """
    counts = collections.Counter()
    for equation in closed_jaxpr.jaxpr.eqns:
        counts.update(_flops(equation))
    return dict(counts)


def _flops(equation) -> dict[str, float]:
    name, options = equation.primitive.name, equation.params
    if name == "dot_general":
        left, right = (v.aval for v in equation.invars[:2])
        (contracted, _), _ = options["dimension_numbers"]
        inner = math.prod(left.shape[axis] for axis in contracted)
        return {left.dtype.name: 2.0 * inner * math.prod(equation.outvars[0].aval.shape)}
    if name == "conv_general_dilated":
        left, kernel = (v.aval for v in equation.invars[:2])
        features = kernel.shape[options["dimension_numbers"].rhs_spec[0]]
        per_output = math.prod(kernel.shape) / features
        outputs = math.prod(equation.outvars[0].aval.shape) / math.prod(options["lhs_dilation"])
        return {left.dtype.name: 2.0 * per_output * outputs}
    if name == "cond":
        branches = [matrix_flops(branch) for branch in options["branches"]]
        if len(branches) == 2:
            return min(branches, key=lambda counts: sum(counts.values()))
        total = collections.Counter()
        for counts in branches:
            total.update(counts)
        return {dtype: count / len(branches) for dtype, count in total.items()}
    repeats = options["length"] if name == "scan" else 1
    counts = collections.Counter()
    for inner in _inner(equation):
        for dtype, count in matrix_flops(inner).items():
            counts[dtype] += repeats * count
    return counts


def _inner(equation):
    """Yield the programs that an equation calls, as closed jaxprs."""
    for value in equation.params.values():
        for inner in value if isinstance(value, list | tuple) else (value,):
            if hasattr(inner, "eqns"):
                inner = jax.extend.core.ClosedJaxpr(inner, ())
            if hasattr(inner, "jaxpr"):
                yield inner


def matmul_rate(
    mesh: jax.sharding.Mesh,
    dtype="float32",
    *,
    size: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Return the FLOP/s of square matrix products, all devices of the mesh at once.

    Args:
        mesh: the devices.
        dtype: of the operands.
        size: rows and columns; by default what takes milliseconds on this kind of device.
        clock: seconds; ``time.process_time`` on a CPU that has other work.
    """
    if size is None:
        size = 1024 if jax.default_backend() == "cpu" else 8192
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(mesh.axis_names))
    product = jax.jit(lambda x: x @ x * jnp.asarray(size**-0.5, x.dtype), out_shardings=place)
    # Random numbers: a GPU multiplies ones an eighth faster.
    shape = (mesh.size, size, size)
    x = jax.jit(lambda: jax.random.normal(jax.random.key(0), shape, dtype), out_shardings=place)()
    product(x).block_until_ready()
    best = float("inf")
    for _ in range(5):
        then = clock()
        product(x).block_until_ready()
        best = min(best, clock() - then)
    return 2.0 * mesh.size * size**3 / best


def speed(traced, mesh: jax.sharding.Mesh, measure: bool) -> tuple[float, float | None]:
    """Return the step's floating-point operations and the devices' rate in its commonest dtype."""
    counts = matrix_flops(traced.jaxpr) or {"float32": 0.0}
    dtype = max(counts, key=counts.get)
    return sum(counts.values()), matmul_rate(mesh, dtype) if measure else None
