"""TPU chips: what one can do at best, and the slices that they come in."""

from __future__ import annotations

import dataclasses

GIB = 2**30
FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of chip.

    Attributes:
        flops: bfloat16 operations per second.
        memory: bytes that a program may use.
        memory_rate: bytes per second from and to that memory.
        link_rate: bytes per second of one link to a neighbour, one way.
        wraps: a dimension of a slice closes to a ring where it is a multiple of this.
        largest: chips of the largest slice that can be had.
        nodes: label of its nodes in Kubernetes.
        per_host: chips of a host in a slice of several hosts.
        alone: chips of the largest slice that one host has.
        shapes: of slices; of v5p also those whose sides are multiples of 4.
    """

    flops: float
    memory: int
    memory_rate: float
    link_rate: float
    wraps: int
    largest: int
    nodes: str
    per_host: int
    alone: int
    shapes: tuple[str, ...]


# cloud.google.com/tpu/docs/{v5e,v5p,v6e}: peak, memory rate, "bidirectional ICI bandwidth per chip"
# over its 4 or 6 links and both ways, and slices.
# Memory: what the compiler of libtpu 0.0.42 lets a program use, where known, else the page's.
# cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus: nodes, hosts and shapes.
CHIPS = {
    "v5e": Chip(
        *(197e12, int(15.75 * GIB), 819e9, 50e9, 16, 256),
        *("tpu-v5-lite-podslice", 4, 8, FLAT),
    ),
    "v5p": Chip(
        *(459e12, 95 * GIB, 2765e9, 100e9, 4, 6144),
        *("tpu-v5p-slice", 4, 4, ("2x2x1", "2x2x2", "2x2x4", "2x4x4")),
    ),
    "v6e": Chip(
        *(918e12, int(31.25 * GIB), 1640e9, 100e9, 16, 256),
        *("tpu-v6e-slice", 4, 8, FLAT),
    ),
}
