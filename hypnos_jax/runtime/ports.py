"""Ports of this machine; apart from ``distributed``, as a supervisor needs one and no JAX."""

import socket


def free_port() -> int:
    """Return a TCP port of this machine that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
