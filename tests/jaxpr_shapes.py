"""Arrays that a function computes, seen in its jaxpr: nothing is compiled or run."""

import jax
import numpy as np


def shapes_of(jaxpr):
    """Yield every shape that a jaxpr computes, those of its inner jaxprs included."""
    for equation in jaxpr.eqns:
        yield from (v.aval.shape for v in equation.outvars)
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from shapes_of(inner)


def largest(function, *args) -> int:
    """Return the most elements that any array has while ``function(*args)`` is computed."""
    jaxpr = jax.make_jaxpr(function)(*args)
    return max(int(np.prod(shape)) for shape in shapes_of(jaxpr.jaxpr))
