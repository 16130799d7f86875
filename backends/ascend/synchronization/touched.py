"""What an instruction may read and write, as accesses with numbers for what is touched beside the lanes it names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tilewright.backends.ascend.placed.form import Access, Block, Buffer, Instruction, View
from tilewright.backends.ascend.placed.layout import BLOCK_BYTES, FRACTAL
from tilewright.ir.symbolic import Expr, ceildiv, constant

#: Bytes of one repeat of a vector instruction.
_REPEAT = 256


@dataclass(frozen=True, slots=True)
class Touched:
    """Accesses of an instruction: all that may be read, all that may be written."""

    reads: tuple[Access, ...]
    writes: tuple[Access, ...]


def touched(node: Instruction, buffers: Mapping[str, Buffer]) -> Touched:
    """What ``node`` touches: lanes in whole blocks of 32 bytes in the memories of a core, and what transfers,
    comparisons, brcb, transpose and sums of blocks write beside their lanes (see the page of instructions)."""
    sums = (node.dst,) if node.adds else ()
    reads = tuple(_blocks(a, buffers[a.buffer]) for a in (*node.reads, *sums))
    writes = tuple(_blocks(_beside(node, a, buffers), buffers[a.buffer]) for a in node.writes)
    return Touched(reads, writes)


def _beside(node: Instruction, access: Access, buffers: Mapping[str, Buffer]) -> Access:
    """What the instruction writes beside the lanes of its destination."""
    if isinstance(access, Block):
        return replace(access, whole=True) if node.op == "nd2nz" else access
    dims = list(access.dims)
    size = buffers[access.buffer].element_bytes
    if node.op == "brcb" and len(dims) > 1:
        dims[-2] = (_whole(dims[-2][0], 8), dims[-2][1])
    elif node.op == "transpose" and len(dims) > 1:
        dims[-2] = (_whole(dims[-2][0], FRACTAL if size == 2 else 8), dims[-2][1])
        dims[-1] = (_whole(dims[-1][0], FRACTAL), dims[-1][1])
    elif node.op.startswith("block_") and dims:
        dims[-1] = (_whole(dims[-1][0], 8), dims[-1][1])
    elif node.op.startswith("compare_") and dims:
        lanes = _REPEAT // buffers[node.reads[0].buffer].element_bytes
        dims[-1] = (_whole(dims[-1][0], lanes // 8), dims[-1][1])
    return replace(access, dims=tuple(dims))


def _blocks(access: Access, buffer: Buffer) -> Access:
    """A view in the memory of a core with its rows in whole blocks of 32 bytes."""
    if not isinstance(access, View) or buffer.scope == "gm" or not access.dims:
        return access
    count, stride = access.dims[-1]
    # A row of stride 0 is one block that is read over and over.
    lanes = max(1, BLOCK_BYTES // buffer.element_bytes)
    last = (constant(lanes), constant(1)) if stride == 0 else (_whole(count, lanes), stride)
    return replace(access, dims=(*access.dims[:-1], last if stride in (0, 1) else access.dims[-1]))


def _whole(count: Expr, step: int) -> Expr:
    return ceildiv(count, step) * step
