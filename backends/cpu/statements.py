"""One statement at one element: the C lines that compute it, whatever loops stand around."""

from __future__ import annotations

from collections.abc import Collection
from typing import Union

from tilewright.backends.cpu.place import Place
from tilewright.backends.cpu.values import Values, register_type, rounded
from tilewright.codegen.cstyle import constant_text
from tilewright.ir.types import DType
from tilewright.kernel.analysis import identity
from tilewright.kernel.schedule import Compute, Write

Statement = Union[Compute, Write]

#: How a reduction combines two vectors, given the register type and the two operands.
_COMBINE = {
    "sum": "({a} + {b})",
    "prod": "({a} * {b})",
    "max": "max_{t}({a}, {b})",
    "min": "min_{t}({a}, {b})",
    "any": "({a} | {b})",
    "all": "({a} & {b})",
}
_ACROSS = {"any": "min", "all": "max"}  # of 0 and -1


def identity_text(op: str, dtype: DType) -> str:
    """A vector of what changes nothing under ``op``."""
    const = identity(op, dtype)
    return f"set_{register_type(dtype)}({constant_text(const.value, dtype)})"


def _op(op: str, dtype: DType) -> str:
    return {"max": "any", "min": "all"}.get(op, op) if dtype is DType.BOOL else op


def combine(op: str, dtype: DType, a: str, b: str) -> str:
    """``a op b`` of two vectors."""
    text = _COMBINE[_op(op, dtype)].format(t=register_type(dtype), a=a, b=b)
    return rounded(dtype, text) if op in ("sum", "prod") else text


def across(op: str, dtype: DType, lanes: str) -> str:
    """All lanes of a vector combined into one."""
    return f"{_ACROSS.get(_op(op, dtype), op)}_across_{register_type(dtype)}({lanes})"


def emit_statement(place: Place, s: Statement, values: Values, local: Collection[str]) -> None:
    """Compute ``s``, which reduces nothing, and store it; tiles of ``local`` stay in a variable."""
    text = values.spell(s.value)
    if isinstance(s, Write):
        values.store(place.params[s.tensor], s.index, text)
        return
    name = values.assign(s.tile, s.value.dtype, text)
    values.local[s.tile] = name
    if s.tile not in local:
        values.store_tile(place.buffers[s.tile], s.axes, name)


def emit_partial(place: Place, s: Compute, values: Values, lanes: str) -> None:
    """Combine the current vector of what ``s`` reduces into the variable ``lanes``, padded lanes left out."""
    assert s.reduce is not None
    text, dtype = values.spell(s.value), s.value.dtype
    if values.live is not None:
        text = f"select_{register_type(dtype)}(live({values.live}), {text}, {identity_text(s.reduce.op, dtype)})"
    place.out.line(f"{lanes} = {combine(s.reduce.op, dtype, lanes, text)};")
