"""What a program is compiled for, which need not be what is here."""

from __future__ import annotations

import jax


def platform() -> str:
    """Return ``"cpu"``, ``"gpu"`` or ``"tpu"``: that of the mesh in use, else of this process.

    Ask while tracing. A mesh's devices may be ones that are not here, as when a step is compiled
    ahead for a pod.
    """
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    return jax.default_backend() if device is None else device.platform
