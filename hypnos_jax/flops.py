"""How much arithmetic a program asks for, and how fast these devices do it.

XLA's own cost analysis counts the body of a loop once however often it runs, so scanned layers and
micro-batches would vanish; the program's jaxpr has the loops' lengths.
"""

from __future__ import annotations

import collections
import math
import time
from collections.abc import Callable

import jax
import jax.extend.core
import jax.numpy as jnp


def matrix_flops(closed_jaxpr) -> dict[str, float]:
    """Count a program's matrix products and convolutions, over all devices.

    A multiply and an add are two operations. The loop of a ``while`` counts once (its length is not
    known); of a ``cond`` the cheapest branch counts: what happens once in a run, such as k-means of
    the codebooks, must not flatter every step. What a backward pass recomputes counts.

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
        return min(branches, key=lambda counts: sum(counts.values()))
    repeats = options["length"] if name == "scan" else 1
    counts = collections.Counter()
    for value in options.values():
        for inner in value if isinstance(value, list | tuple) else (value,):
            if hasattr(inner, "eqns"):
                inner = jax.extend.core.ClosedJaxpr(inner, ())
            if hasattr(inner, "jaxpr"):
                for dtype, count in matrix_flops(inner).items():
                    counts[dtype] += repeats * count
    return counts


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
    # Random numbers: a GPU multiplies ones an eighth faster.
    make = lambda: jax.random.normal(jax.random.key(0), (mesh.size, size, size), dtype)
    product = jax.jit(lambda x: x @ x * jnp.asarray(size**-0.5, x.dtype), out_shardings=place)
    x = jax.jit(make, out_shardings=place)()
    product(x).block_until_ready()
    best = float("inf")
    for _ in range(5):
        then = clock()
        product(x).block_until_ready()
        best = min(best, clock() - then)
    return 2.0 * mesh.size * size**3 / best
