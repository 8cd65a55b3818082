"""Collectives and memory traffic of a compiled program, read from XLA's text of it.

XLA's own cost analysis counts the body of a loop once; here everything counts as often as it runs.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re

import numpy as np

BITS = {"pred": 8, "bf16": 16, "token": 0, "opaque": 0}  # others end in their bits: f32, s8
KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
# Opcodes that move nothing themselves: names for what is there, or loops whose bodies count.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional"}
FREE |= {"call", "after-all", "optimization-barrier", "partition-id", "replica-id"}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation: ``name = shape opcode(operands), attributes``."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str


@dataclasses.dataclass(frozen=True)
class Collective:
    """What devices exchange, once.

    Attributes:
        kind: one of ``KINDS``.
        size: bytes on one device of the whole: of an all-gather its result, else its operand.
        group: partitions of the first group; empty for all.
        count: how often a run of the program does it.
    """

    kind: str
    size: int
    group: tuple[int, ...]
    count: int


def size(shape: str, *, slow: bool = False) -> int:
    """Return the bytes of a shape as XLA prints it, tuples summed.

    Args:
        shape: such as ``"(f32[8,128]{1,0:T(8,128)}, bf16[4]{0})"``.
        slow: leave out what lies in fast memory, ``S(1)``.
    """
    total = 0
    for dtype, dims, layout in re.findall(r"([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?", shape):
        if slow and "S(" in layout:
            continue
        bits = BITS[dtype] if dtype in BITS else int(re.match(r"[a-z]+(\d+)", dtype).group(1))
        total += bits * math.prod(int(n) for n in dims.split(",") if n) // 8
    return total


class Program:
    """A module's computations, and how often each runs.

    Attributes:
        computations: name -> its instructions in order.
        runs: name of a computation of the control flow, or of a fusion in it -> how often it runs.
        fused: computations that are the inside of one instruction.
    """

    def __init__(self, text: str):
        """Read ``compiled.as_text()``."""
        self.computations, entry = {}, None
        current = None
        for line in text.splitlines():
            header = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
            if header:
                current = self.computations[header[2]] = []
                entry = header[2] if header[1] else entry
            elif current is not None and " = " in line:
                current.append(_instruction(line))
        self.runs, self.fused = collections.Counter(), set()
        self._visit(entry, 1)

    def _visit(self, name: str, times: int) -> None:
        self.runs[name] += times
        for instruction in self.computations[name]:
            called = _called(instruction)
            if instruction.opcode == "while":
                times_inside = times * self.trips(instruction)
            else:
                times_inside = times
            for inner in called:
                if instruction.opcode not in ("while", "conditional", "call"):
                    self.fused.add(inner)
                if inner in self.computations:
                    self._visit(inner, times_inside)

    def trips(self, loop: Instruction) -> int:
        """How often a loop over a counter from 0 runs; 1 where its end is not a constant."""
        condition = re.search(r"condition=%?([\w.\-]+)", loop.attributes)[1]
        ends = [
            int(i.operands[0])
            for i in self.computations[condition]
            if i.opcode == "constant" and re.match(r"[su](32|64)\[\]", i.shape)
        ]
        return ends[0] if len(ends) == 1 else 1

    def collectives(self) -> list[Collective]:
        """Return every collective, equal ones together."""
        found = collections.Counter()
        for name, times in self.runs.items():
            shapes = {i.name: i.shape for i in self.computations[name]}
            for instruction in self.computations[name]:
                kind = instruction.opcode.removesuffix("-start")
                if kind not in KINDS:
                    continue
                bytes_in = sum(size(shapes.get(operand, "")) for operand in instruction.operands)
                group = _group(instruction.attributes)
                if kind == "all-gather":
                    bytes_in *= max(len(group), 1)
                # A TPU scatters by a fusion of an all-reduce and the slice that is kept.
                if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
                    kind = "reduce-scatter"
                found[kind, bytes_in, group] += times
        return [
            Collective(kind, number, group, count)
            for (kind, number, group), count in sorted(found.items(), key=lambda x: x[0][:2])
        ]

    def traffic(self) -> int:
        """Return the bytes that instructions read from and write to slow memory, on one device.

        Of an array that a fusion slices or updates in place, only that part counts. Instructions
        that wait for an asynchronous one count nothing; what is kept in fast memory neither.
        """
        total = 0
        for name, times in self.runs.items():
            if name in self.fused:
                continue
            shapes = {i.name: i.shape for i in self.computations[name]}
            for instruction in self.computations[name]:
                if instruction.opcode in FREE or instruction.opcode.endswith("-done"):
                    continue
                total += times * self._moves(instruction, shapes)
        return total

    def _moves(self, instruction: Instruction, shapes: dict[str, str]) -> int:
        written = size(instruction.shape, slow=True)
        read = [size(shapes.get(operand, ""), slow=True) for operand in instruction.operands]
        if instruction.opcode in ("dynamic-slice", "gather"):
            return 2 * written
        if instruction.opcode == "dynamic-update-slice":
            return 2 * read[1]
        called = _called(instruction)
        if instruction.opcode != "fusion" or not called or called[0] not in self.computations:
            return written + sum(read)
        inside = self.computations[called[0]]
        by_name = {i.name: i for i in inside}
        numbers = {i.name: int(i.operands[0]) for i in inside if i.opcode == "parameter"}
        users = collections.defaultdict(list)
        for i in inside:
            for operand in i.operands:
                users[operand].append(i)
        for parameter, number in numbers.items():
            if number >= len(read) or not read[number]:
                continue
            parts = []
            for user in users[parameter]:
                first = user.operands[0] == parameter
                if user.opcode in ("dynamic-slice", "gather") and first:
                    parts.append(size(user.shape))
                elif user.opcode == "dynamic-update-slice" and first:
                    update = size(by_name[user.operands[1]].shape)
                    parts.append(update)
                    written = max(written - size(user.shape), 0) + update
                else:
                    break
            else:
                read[number] = min(read[number], sum(parts)) if parts else read[number]
        return written + sum(read)


def _instruction(line: str) -> Instruction:
    name, rest = line.strip().removeprefix("ROOT ").split(" = ", 1)
    end = _balanced(rest) if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opcode, rest = rest.split("(", 1)
    end = _balanced("(" + rest) - 1
    inside, attributes = rest[: end - 1], rest[end:]
    if opcode in ("parameter", "constant"):
        operands = (inside,)
    else:
        operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    return Instruction(name.lstrip("%"), shape, opcode, operands, attributes)


def _balanced(text: str) -> int:
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return i + 1
    raise ValueError(f"unbalanced: {text[:200]}")


def _called(instruction: Instruction) -> list[str]:
    found = re.findall(
        r"\b(?:calls|body|to_apply|called_computation)=%?([\w.\-]+)", instruction.attributes
    )
    branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
    if branches:
        found += [name.strip().lstrip("%") for name in branches[1].split(",")]
    found += re.findall(r"\b(?:true|false)_computation=%?([\w.\-]+)", instruction.attributes)
    return found


def _group(attributes: str) -> tuple[int, ...]:
    """The first group of partitions that exchange something; empty for all of them."""
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", attributes)
    if listed:
        return tuple(int(n) for n in listed[1].split(","))
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes)
    if iota:
        shape, dims, order = (
            [int(n) for n in part.split(",")] if part else None for part in iota.groups()
        )
        numbers = np.arange(math.prod(dims)).reshape(dims)
        if order:
            numbers = numbers.transpose(order)
        return tuple(int(n) for n in numbers.reshape(shape)[0])
    # By the names of a mesh's axes, with or without the order of its devices.
    order = r"(?:,\s*device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))?"
    named = re.search(r"replica_groups=mesh\[([^\]]*)\]" + order + r"\s*\{([^}]*)\}", attributes)
    if named:
        axes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", named[1])}
        over = re.findall(r"'(\w+)'", named[4])
        numbers = np.arange(math.prod(axes.values()))
        if named[2]:
            numbers = numbers.reshape([int(n) for n in named[2].split(",")])
            if named[3]:
                numbers = numbers.transpose([int(n) for n in named[3].split(",")])
        numbers = numbers.reshape(list(axes.values()))
        index = tuple(slice(None) if name in over else 0 for name in axes)
        return tuple(int(n) for n in numbers[index].reshape(-1))
    pairs = re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", attributes)
    return (int(pairs[1]), int(pairs[2])) if pairs else ()
