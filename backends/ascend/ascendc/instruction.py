"""One placed instruction as calls of Ascend C that do not depend on each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack

from tilewright.backends.ascend.ascendc.cube import CUBE
from tilewright.backends.ascend.ascendc.masks import MASKS
from tilewright.backends.ascend.ascendc.program import Program
from tilewright.backends.ascend.ascendc.transfer import TRANSFERS
from tilewright.backends.ascend.ascendc.vector import VECTOR
from tilewright.backends.ascend.placed.form import Block, Instruction

SPELLINGS: Mapping[str, Callable[[Program, Instruction], None]] = {**TRANSFERS, **CUBE, **VECTOR, **MASKS}

#: Instructions of the cube core whose counts have to be at least 1.
_COUNTED = frozenset(["nd2nz", "load", "mmad", "fixpipe"])


def spell(program: Program, node: Instruction) -> None:
    """Write ``node``. Raises :class:`UnsayableError` for what no call of Ascend C does."""
    spelling = SPELLINGS.get(node.op)
    if spelling is None:
        raise program.refuse(f"{node.op} has no spelling in Ascend C")
    with ExitStack() as stack:
        if node.op in _COUNTED and (condition := _present(program, node)):
            stack.enter_context(program.code.block(f"if ({condition})"))
        spelling(program, node)


def _present(program: Program, node: Instruction) -> str:
    """The condition under which a piece that a pipeline's variables speak of is there at all, or nothing."""
    dst = node.dst
    hints = [program.rows_of(dst.buffer), program.columns_of(dst.buffer)]
    counts = [dst.rows, dst.columns] if isinstance(dst, Block) else [n for n, _ in dst.dims]
    if node.op == "mmad" and isinstance(node.reads[0], Block):
        counts.append(node.reads[0].columns)
        hints.append(f"{program.tensor[node.reads[0].buffer]}_depth")
    code = program.code
    open_ones = {
        n: hint for n, hint in zip(counts, hints, strict=False) if n.symbols & program.given and code.low(n) < 1
    }
    return " && ".join(f"{code.value(n, hint)} > 0" for n, hint in open_ones.items())
