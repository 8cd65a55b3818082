"""The platform that a program is compiled for, which need not be the one here."""

from __future__ import annotations

import contextlib
import contextvars

import jax

_assumed = contextvars.ContextVar("platform", default=None)


def platform() -> str:
    """Return ``"cpu"``, ``"gpu"`` or ``"tpu"``: that of the mesh in use, else of this process.

    Ask while tracing. A mesh's devices may be ones that are not here, as when a step is compiled
    ahead for a pod.
    """
    if _assumed.get():
        return _assumed.get()
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    return jax.default_backend() if device is None else device.platform


@contextlib.contextmanager
def assume(name: str):
    """Trace what a platform would run, wherever this is: a fused kernel's FLOPs cannot be counted,
    and the same model must cost the same everywhere.
    """
    token = _assumed.set(name)
    try:
        yield
    finally:
        _assumed.reset(token)
