"""Kernels as text: the lowered form can be read back exactly, the scheduled form is for people."""

from __future__ import annotations

import math

from tilewright.ir.ranges import NEGATIVE_INFINITY, POSITIVE_INFINITY, Range
from tilewright.ir.symbolic import Expr
from tilewright.ir.types import DType
from tilewright.kernel.analysis import index_symbols, used_symbols
from tilewright.kernel.expr import Binary, Cast, Const, IndexValue, Load, Ref, Select, Unary, Value
from tilewright.kernel.schedule import DEFAULT_SPACE, Alloc, Compute, Fill, For, Node, Rotate, Scheduled, Tile, Write
from tilewright.kernel.tile import Define, Kernel, Param, Reduction, Scan, Statement, Store

_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "mod": "%", "pow": "**", "bitand": "&", "bitor": "|",
    "bitxor": "^", "shl": "<<", "shr": ">>", "and": "and", "or": "or", "eq": "==", "ne": "!=", "lt": "<", "le": "<=",
    "gt": ">", "ge": ">=",
}  # fmt: skip
#: How tightly an infix operation binds in Python; a comparison or a power is never chained.
_LEVEL = {
    "or": 1, "and": 2, "eq": 4, "ne": 4, "lt": 4, "le": 4, "gt": 4, "ge": 4, "bitor": 5, "bitxor": 6, "bitand": 7,
    "shl": 8, "shr": 8, "add": 9, "sub": 9, "mul": 10, "div": 10, "mod": 10, "pow": 12,
}  # fmt: skip
_PREFIX = {"neg": ("-", 11), "not": ("not ", 3), "bitnot": ("~", 11)}
_ATOM = 20


def print_kernel(kernel: Kernel) -> str:
    """The text of a lowered kernel; :func:`tilewright.kernel.parse.parse_kernel` reads it back to an equal kernel."""
    lines = ["@kernel", f"def {kernel.name}({', '.join(map(_param, kernel.params))}):"]
    if kernel.facts:
        lines.append(f"    where({', '.join(_fact(n, r) for n, r in kernel.facts)})")
    lines += [f"    {a.name}: {a.extent}" for a in kernel.axes]
    for statement in kernel.body:
        lines += [f"    {line}" for line in _statement(kernel, statement)]
    if len(lines) == 2:
        lines.append("    pass")
    return "\n".join(lines) + "\n"


def _param(p: Param) -> str:
    kind = tensor_type(p.dtype, p.shape)
    if p.role == "out":
        kind = f"out[{kind}, {p.alias}]" if p.alias is not None else f"out[{kind}]"
    elif p.role == "const":
        kind = f"const[{kind}]" if p.limit is None else f"const[{kind}, {p.limit}]"
    return f"{p.name}: {kind}"


def tensor_type(dtype: DType, shape: tuple[Expr, ...]) -> str:
    """``f32[M, 64]``."""
    return f"{dtype}[{_items(shape)}]"


def _items(items: tuple[object, ...]) -> str:
    return ", ".join(map(str, items)) if items else "()"


def _fact(name: str, r: Range) -> str:
    parts = []
    low = "" if r.lo == NEGATIVE_INFINITY else f"{r.lo} <= "
    high = "" if r.hi == POSITIVE_INFINITY else f" <= {r.hi}"
    if low or high:
        parts.append(f"{low}{name}{high}")
    if r.divisor != 1 or not parts:
        parts.append(f"{name} % {r.divisor} == 0")
    return ", ".join(parts)


def _statement(kernel: Kernel, s: Statement) -> list[str]:
    match s:
        case Define():
            return [_define(s)]
        case Store(tensor=tensor, axes=axes, index=index, value=value):
            used = used_symbols(value) | index_symbols(index)
            plain = axes == tuple(a.name for a in kernel.axes if a.name in used)
            order = "" if plain else f": ({', '.join(axes)}{',' if len(axes) == 1 else ''})"
            return [f"{tensor}[{_index(index)}]{order} = {print_value(value)}"]
        case Scan(axis=axis, carries=carries, body=body, yields=yields):
            starts = ", ".join(f"{c.tile}={print_value(c.init)}[{_items(c.axes)}]" for c in carries)
            pairs = ", ".join(f"{carry}={tile}" for carry, tile in yields)
            return [f"for {axis} in scan({starts}):", *(f"    {_define(d)}" for d in body), f"    yield_({pairs})"]


def _define(d: Define) -> str:
    return f"{d.tile}[{_items(d.axes)}] = {_reduced(d.value, d.reduce)}"


def _reduced(value: Value, reduce: Reduction | None) -> str:
    if reduce is None:
        return print_value(value)
    axes = reduce.axes[0] if len(reduce.axes) == 1 else f"({', '.join(reduce.axes)})"
    return f"{reduce.op}({axes}, {print_value(value)})"


def print_value(v: Value) -> str:
    """The text of one expression."""
    return _value(v)[0]


def _value(v: Value) -> tuple[str, int]:
    """Text and how tightly it binds."""
    match v:
        case Const(value=number, dtype=dtype):
            return f"{dtype}({_number(number)})", _ATOM
        case IndexValue(index=index, dtype=dtype):
            return f"index({index}{'' if dtype is DType.I64 else f', {dtype}'})", _ATOM
        case Load(tensor=tensor, index=entries, fill=fill):
            text = f"{tensor}[{_index(entries)}]"
            return (text, _ATOM) if fill is None else (f"({text} or {_number(fill)})", _ATOM)
        case Ref(tile=tile, axes=axes):
            return f"{tile}[{_items(axes)}]", _ATOM
        case Unary(op=op, x=x):
            if op in _PREFIX:
                sign, level = _PREFIX[op]
                return f"{sign}{_at_least(x, level)}", level
            return f"{op}({print_value(x)})", _ATOM
        case Binary(op=op, a=a, b=b):
            if op not in _INFIX:
                return f"{op}({print_value(a)}, {print_value(b)})", _ATOM
            level = _LEVEL[op]
            left = level if op not in ("and", "or", "pow") and level != 4 else level + 1
            return f"{_at_least(a, left)} {_INFIX[op]} {_at_least(b, level + 1)}", level
        case Select(cond=c, a=a, b=b):
            return f"select({print_value(c)}, {print_value(a)}, {print_value(b)})", _ATOM
        case Cast(dtype=dtype, x=x):
            return f"{dtype}({print_value(x)})", _ATOM


def _index(index: tuple[Expr | Value, ...]) -> str:
    return _items(tuple(i if isinstance(i, Expr) else print_value(i) for i in index))


def _at_least(v: Value, level: int) -> str:
    text, binds = _value(v)
    return text if binds >= level else f"({text})"


def _number(x: float | int | bool) -> str:
    if isinstance(x, float) and (math.isinf(x) or math.isnan(x)):
        return "nan" if math.isnan(x) else ("inf" if x > 0 else "-inf")
    return repr(x)


# -- the scheduled form --------------------------------------------------------------------------------------------


def print_scheduled(scheduled: Scheduled) -> str:
    """A readable text of the tree; ``?m`` marks a guard along ``m``."""
    lines = [f"@scheduled({scheduled.kernel.name})", "def _():"]
    for pack in scheduled.schedule.packs:
        lines.append(f"    layout({pack.tensor}, [{_items(pack.index)}], [{_items(pack.shape)}])")
    return "\n".join(lines + _nodes(scheduled.body, "    ")) + "\n"


def _nodes(body: tuple[Node, ...], indent: str) -> list[str]:
    lines: list[str] = []
    for node in body:
        lines.append(indent + _node(node))
        if isinstance(node, For):
            lines += _nodes(node.body, indent + "    ")
    return lines


def _node(node: Node) -> str:
    match node:
        case For(axis=axis, var=var, lo=lo, hi=hi, size=size, kind=kind, balanced=balanced, unit=unit):
            even = "" if not balanced else ", balanced" if unit == 1 else f", balanced by {unit}"
            return f"for {axis} from {var} in {kind}({lo}, {hi}, {size}{even}):"
        case Alloc(tile=tile):
            return _tile(tile)
        case Fill(tile=tile, value=value):
            return f"{tile}[...] = {print_value(value)}"
        case Compute(tile=tile, axes=axes, value=value, reduce=reduce, accumulate=accumulate, guards=guards):
            sign = "=" if not accumulate else f"{reduce.op if reduce else ''}="
            return f"{tile}[{_items(axes)}] {sign} {_reduced(value, reduce)}{_guards(guards)}"
        case Write(tensor=tensor, index=index, value=value, guards=guards):
            return f"{tensor}[{_index(index)}] = {print_value(value)}{_guards(guards)}"
        case Rotate(pairs=pairs):
            return f"rotate({', '.join(f'{carry}={tile}' for carry, tile in pairs)})"


def _tile(tile: Tile) -> str:
    dims = ", ".join(f"{d.axis} from {d.start}: {d.size}" if d.start != 0 else f"{d.axis}: {d.size}" for d in tile.dims)
    space = "" if tile.space == DEFAULT_SPACE else f" @ {tile.space}"
    return f"{tile.name}: {tile.dtype}[{dims}]{space}{f' pad {tile.pad}' if tile.pad else ''}"


def _guards(guards: tuple[str, ...]) -> str:
    return "  " + " ".join(f"?{g}" for g in guards) if guards else ""


def print_node(node: Node) -> str:
    """The one line of a node of a scheduled tree."""
    return _node(node)
