"""Which program computes which tile: the block loops as one linear grid."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.backends.cuda.positions import parenthesized
from tilewright.backends.cuda.program import Program
from tilewright.ir.symbolic import product
from tilewright.kernel.schedule import For
from tilewright.kernel.scope import Scope, trips

#: The entry of a schedule for rows of tiles that are computed together across all columns.
GROUP = "group"
#: The entry of a schedule for how many programs there are at most, each of which computes one tile after the other.
PERSISTENT = "persistent"


def persistent_loop(nest: Sequence[For], programs: int, program: Program) -> None:
    """The head of the loop over the tiles of one program, whose number is then ``pid``. What a kernel makes once
    (descriptors) is made once for all of them."""
    program.at.facts = dict(program.kernel.facts)
    total = program.at.index(product(trips(loop) for loop in nest), ()).text
    tile = program.fresh("tile")
    program.enter_loop([loop.axis for loop in nest])
    program.line(f"for {tile} in tl.range(tl.program_id(0), {total}, {programs}, num_stages=1):")
    program.depth += 1
    program.line(f"pid = {tile}")


def order_tiles(nest: Sequence[For], scope: Scope, group: int, program: Program, known: bool = False) -> None:
    """The variables of block loops from one linear program id (``known``: ``pid`` has it already), the innermost loop
    fastest.

    With a ``group``, so many positions of the innermost loop pass by all of the next one before the following ones
    begin, and what they read stays in the L2.
    """
    at, line = program.at, program.line
    at.facts = dict(scope.facts)
    left = [loop for loop in reversed(nest) if trips(loop) != 1]
    if left and not known:
        line("pid = tl.program_id(0)")
    if group > 1 and len(left) > 1:
        _in_bands(left[0], left[1], group, program, alone=len(left) == 2)
        left = left[2:]
    for n, loop in enumerate(left):
        number = at.index(trips(loop), ()).operand
        last = n == len(left) - 1
        line(f"{loop.var} = {_scaled('pid' if last else f'pid % {number}', loop.size)}")
        if not last:
            line(f"pid = pid // {number}")


def _in_bands(rows: For, columns: For, group: int, program: Program, alone: bool) -> None:
    line = program.line
    down, across = (program.at.index(trips(loop), ()).operand for loop in (rows, columns))
    local, band, height = map(program.fresh, ("local", "band", "height"))
    line(f"{local} = pid" if alone else f"{local} = pid % ({down} * {across})")
    if not alone:
        line(f"pid = pid // ({down} * {across})")
    line(f"{band} = {local} // ({group} * {across}) * {group}")
    line(f"{height} = tl.minimum({down} - {band}, {group})")
    line(f"{local} = {local} % ({group} * {across})")
    line(f"{rows.var} = {_scaled(f'{band} + {local} % {height}', rows.size)}")
    line(f"{columns.var} = {_scaled(f'{local} // {height}', columns.size)}")


def _scaled(text: str, size: int) -> str:
    return text if size == 1 else f"{parenthesized(text)} * {size}"
