"""One placed instruction as calls of Ascend C that do not depend on each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tilewright.backends.ascend.ascendc.cube import CUBE
from tilewright.backends.ascend.ascendc.masks import MASKS
from tilewright.backends.ascend.ascendc.program import Program
from tilewright.backends.ascend.ascendc.transfer import TRANSFERS
from tilewright.backends.ascend.ascendc.vector import VECTOR
from tilewright.backends.ascend.placed.form import Instruction

SPELLINGS: Mapping[str, Callable[[Program, Instruction], None]] = {**TRANSFERS, **CUBE, **VECTOR, **MASKS}


def spell(program: Program, node: Instruction) -> None:
    """Write ``node``. Raises :class:`UnsayableError` for what no call of Ascend C does."""
    spelling = SPELLINGS.get(node.op)
    if spelling is None:
        raise program.refuse(f"{node.op} has no spelling in Ascend C")
    spelling(program, node)
