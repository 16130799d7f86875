"""What a generated kernel is called with, and how its workspace is divided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tilewright.backends.ascend.placed.form import Placed, Read, statements
from tilewright.backends.ascend.placed.layout import round_up

#: Parts of a group's workspace begin at multiples of this: no two share a line of the data cache or of L2.
WORKSPACE_ALIGN = 512


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a launch: an address on the device, or the value (``int64_t``) of a dimension symbol."""

    name: str
    kind: Literal["tensor", "workspace", "fault", "dimension"]


@dataclass(frozen=True, slots=True)
class Signature:
    """How a kernel is launched.

    Attributes:
        arguments: in call order: tensors as the kernel has them, then ``workspace`` if it needs one, then ``fault``
            (a 32-bit word, at first 0) if it reads indices, then dimension symbols.
        workspace: bytes that each group of cores needs.
        cores_a_block: launched blocks for one group: 1, or 2 where only vector cores work.
        kind: ``mix`` (a cube core and two vector cores a group), ``cube``, ``vector`` or ``fused``.
    """

    arguments: tuple[Argument, ...]
    workspace: int
    cores_a_block: int
    kind: Literal["mix", "cube", "vector", "fused"]


def signature(placed: Placed) -> Signature:
    """The launch signature of a placed kernel."""
    kernel = placed.kernel
    names = [Argument(p.name, "tensor") for p in kernel.params]
    size = sum(_sizes(placed).values())
    if size:
        names.append(Argument("workspace", "workspace"))
    if any(isinstance(s, Read) for s in statements(placed.body)):
        names.append(Argument("fault", "fault"))
    names += [Argument(name, "dimension") for name, _ in kernel.facts]
    kind = _kind(placed)
    subblocks = max(1, int(placed.target.extra["subblocks"]))
    return Signature(tuple(names), size, subblocks if kind == "vector" else 1, kind)


def workspace_offsets(placed: Placed) -> Mapping[str, int]:
    """Where each workspace buffer begins in the workspace of its group, in bytes."""
    offsets: dict[str, int] = {}
    end = 0
    for name, size in _sizes(placed).items():
        offsets[name], end = end, end + size
    return offsets


def _sizes(placed: Placed) -> Mapping[str, int]:
    return {b.name: round_up(b.slots * b.slot_bytes, WORKSPACE_ALIGN) for b in placed.buffers if b.workspace}


def _kind(placed: Placed) -> Literal["mix", "cube", "vector", "fused"]:
    if not int(placed.target.extra["subblocks"]):
        return "fused"
    cores = placed.cores
    return "mix" if len(cores) == 2 else "cube" if cores == ("cube",) else "vector"
