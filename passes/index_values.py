"""Integer tensors whose elements are a formula of their own position, and what else is known of elements.

``Unsqueeze(Range(0, S, 1), [0, 1])`` of shape [1, 1, S] is the expression ``i2``. Exporters build gathers out of such
tensors where a view or an Expand is meant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
from tilewright.ir.graph import constant_array, is_constant, known_value, type_of
from tilewright.ir.ranges import POSITIVE_INFINITY, Range, bounds
from tilewright.ir.ranges import Facts as SymbolFacts
from tilewright.ir.symbolic import Expr, constant, symbol
from tilewright.ir.types import DType
from tilewright.passes.match import scalar_of
from tilewright.passes.rewrite import required
from tilewright.passes.views import inserted_ones

#: Steps that the analysis follows backwards before it gives up.
_MAX_DEPTH = 64


def position(axis: int) -> str:
    """The name that stands for the index along ``axis`` in these formulas; no dimension is called so."""
    return f"_i{axis}"


def index_formula(value: ir.Value, depth: int = 0) -> Expr | None:
    """The elements of an integer tensor as an expression of :func:`position` names and dimensions; else ``None``."""
    if depth > _MAX_DEPTH or not type_of(value).dtype.is_integer:
        return None
    known = known_value(value)
    if known is not None and known.size and all(e == known.reshape(-1)[0] for e in known.reshape(-1)):
        return known.reshape(-1)[0]  # type: ignore[no-any-return]
    if is_constant(value):
        return _arange(constant_array(value))
    node = value.producer()
    rule = _RULES.get(node.op_type) if node is not None and node.domain == "" else None
    return rule(node, depth + 1) if rule is not None and node is not None else None


def _arange(array: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Expr | None:
    """A constant that counts 0, 1, 2 … along one axis and repeats along the others."""
    for axis, size in enumerate(array.shape):
        if size > 1:
            counted = np.arange(size).reshape([-1 if a == axis else 1 for a in range(array.ndim)])
            if bool((array == counted).all()):
                return symbol(position(axis))
    return None


def operand_formula(node: ir.Node, index: int, depth: int = 0) -> Expr | None:
    """Formula of an operand in the positions of the output it broadcasts to."""
    value = required(node, index)
    formula = index_formula(value, depth)
    shift = type_of(node.outputs[0]).rank - type_of(value).rank
    return None if formula is None else _renamed(formula, lambda axis: axis + shift)


def _renamed(formula: Expr, rename: Callable[[int], int]) -> Expr:
    axes = [s for s in formula.symbols if s.startswith("_i") and s[2:].isdigit()]
    return formula.substitute({s: symbol(position(rename(int(s[2:])))) for s in axes})


def _range(node: ir.Node, depth: int) -> Expr | None:
    start, step = (index_formula(v, depth) if v is not None else None for v in (node.inputs[0], node.inputs[2]))
    return None if start is None or step is None else start + step * symbol(position(0))


def _arithmetic(apply: Callable[[Expr, Expr], Expr]) -> Callable[[ir.Node, int], Expr | None]:
    def rule(node: ir.Node, depth: int) -> Expr | None:
        a, b = operand_formula(node, 0, depth), operand_formula(node, 1, depth)
        return None if a is None or b is None else apply(a, b)

    return rule


def _unsqueeze(node: ir.Node, depth: int) -> Expr | None:
    x = required(node, 0)
    formula = index_formula(x, depth)
    axes = known_value(node.inputs[1]) if node.inputs[1] is not None else None
    if formula is None or axes is None:
        return None
    rank = type_of(node.outputs[0]).rank
    added = {e.value % rank for e in axes.reshape(-1)}
    kept = [a for a in range(rank) if a not in added]
    return _renamed(formula, lambda axis: kept[axis])


def _squeeze(node: ir.Node, depth: int) -> Expr | None:
    x = required(node, 0)
    formula = index_formula(x, depth)
    removed = inserted_ones(type_of(node.outputs[0]).shape, type_of(x).shape)
    if formula is None or removed is None:
        return None
    kept = [a for a in range(type_of(x).rank) if a not in removed]
    formula = formula.substitute({position(a): constant(0) for a in removed})
    return _renamed(formula, kept.index)


def _slice(node: ir.Node, depth: int) -> Expr | None:
    """Forwards from constant starts, which move positions."""
    given = [node.inputs[i] if i < len(node.inputs) else None for i in (1, 3, 4)]
    starts, axes, steps = (constant_array(v).reshape(-1) if v is not None and is_constant(v) else None for v in given)
    formula = operand_formula(node, 0, depth)
    unread = any(v is not None and array is None for v, array in zip(given, (starts, axes, steps), strict=True))
    if formula is None or starts is None or unread or (starts < 0).any() or (steps is not None and (steps != 1).any()):
        return None
    rank = type_of(node.outputs[0]).rank
    along = range(len(starts)) if axes is None else [int(a) % rank for a in axes]
    return formula.substitute({position(a): symbol(position(a)) + int(b) for a, b in zip(along, starts, strict=True)})


def _concat(node: ir.Node, depth: int) -> Expr | None:
    """Parts that go on counting where the one before them ends."""
    axis = node.attributes["axis"].as_int() % type_of(node.outputs[0]).rank
    whole: Expr | None = None
    start = constant(0)
    for index, part in enumerate(node.inputs):
        own = operand_formula(node, index, depth)
        if own is None or part is None:
            return None
        moved = own.substitute({position(axis): symbol(position(axis)) - start})
        size = type_of(part).shape[axis]
        first = {position(axis): constant(0)}
        # A part of one element says nothing of how it goes on: it has to fit the next one.
        fits = start == 1 and whole is not None and whole.substitute(first) == moved.substitute(first)
        if whole not in (None, moved) and not fits:
            return None
        whole = moved
        start = start + size
    return whole


def _cumulated(node: ir.Node, depth: int) -> Expr | None:
    """Sums of nothing but 0."""
    formula = operand_formula(node, 0, depth)
    return constant(0) if formula is not None and formula == 0 else None


def _cast(node: ir.Node, depth: int) -> Expr | None:
    source = required(node, 0)
    if type_of(source).dtype is not DType.BOOL:
        return operand_formula(node, 0, depth)
    truth = _truth(source, depth)
    return None if truth is None else constant(int(truth))


def _truth(value: ir.Value, depth: int) -> bool | None:
    """What every element of a boolean tensor is, where comparisons of formulas tell."""
    number = scalar_of(value)
    if number is not None:
        return bool(number)
    node = value.producer()
    if node is None or node.domain != "" or depth > _MAX_DEPTH:
        return None
    if node.op_type in ("Expand", "Unsqueeze", "Squeeze", "Reshape", "Identity"):
        return _truth(required(node, 0), depth + 1)
    if node.op_type == "Not":
        inner = _truth(required(node, 0), depth + 1)
        return None if inner is None else not inner
    if node.op_type == "Equal" and type_of(required(node, 0)).dtype.is_integer:
        a, b = (operand_formula(node, i, depth + 1) for i in (0, 1))
        return True if a is not None and a == b else None
    return None


_RULES: dict[str, Callable[[ir.Node, int], Expr | None]] = {
    "Range": _range,
    "Add": _arithmetic(lambda a, b: a + b),
    "Sub": _arithmetic(lambda a, b: a - b),
    "Mul": _arithmetic(lambda a, b: a * b),
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Slice": _slice,
    "Expand": lambda node, depth: operand_formula(node, 0, depth),
    "Cast": _cast,
    "Concat": _concat,
    "CumSum": _cumulated,
    "Identity": lambda node, depth: operand_formula(node, 0, depth),
}


def compare_positions(node: ir.Node, a: Expr, b: Expr, facts: SymbolFacts) -> bool | None:
    """The one outcome that comparing formulas ``a`` and ``b`` has at every position of the output, or ``None``."""
    sizes = {position(i): size for i, size in enumerate(type_of(node.outputs[0]).shape)}
    last = {name: size - 1 for name, size in sizes.items()}
    least, most = _extremes(a - b, last)
    return compare(node.op_type, least, most, {**facts, **{name: Range(0, POSITIVE_INFINITY) for name in last}})


def compare(op_type: str, least: Expr, most: Expr, facts: SymbolFacts) -> bool | None:
    """The outcome of ``a op b`` when ``a - b`` lies between ``least`` and ``most``; ``None`` when both occur."""
    lo, hi = bounds(least, facts)[0], bounds(most, facts)[1]
    outcomes: dict[str, tuple[bool, bool]] = {
        "GreaterOrEqual": (lo >= 0, hi < 0),
        "Greater": (lo > 0, hi <= 0),
        "LessOrEqual": (hi <= 0, lo > 0),
        "Less": (hi < 0, lo >= 0),
        "Equal": (lo == hi == 0, lo > 0 or hi < 0),
    }
    always, never = outcomes[op_type]
    return True if always else False if never else None


def _extremes(difference: Expr, last: Mapping[str, Expr]) -> tuple[Expr, Expr]:
    """Bounds of a formula, each position from 0 to its last one: exact where its factor is a number."""
    least = most = difference
    for name in sorted(difference.symbols & last.keys()):
        factor = _factor(difference, name)
        if factor is None:
            continue
        ends = ({name: constant(0)}, {name: last[name]})
        low, high = ends if factor >= 0 else ends[::-1]
        least, most = least.substitute(low), most.substitute(high)
    return least, most


def _factor(formula: Expr, name: str) -> int | None:
    """The number that multiplies ``name``, which occurs nowhere else; ``None`` where there is no such number."""
    try:
        factor = formula.coefficient(name)
    except ValueError:
        return None
    return factor.value if factor.is_constant else None
