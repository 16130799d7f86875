"""Reading a kernel from its text, the Python subset that :mod:`tilewright.kernel.tile` shows.

Beyond the examples there: ``X[i] or 0`` is a load with a fill, ``index(i)`` the value of an index expression
(``index(i, i32)`` in another dtype than ``i64``), ``select(c, a, b)`` a select, ``f32(0.5)`` a literal and ``f32(x)``
a cast, ``out[f32[M], A]`` an output that is the new contents of ``A``, and ``f32[()]`` a scalar. The axes of a store
are those it mentions, in order of declaration; ``C[m, n]: (n, m) = …`` gives others.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence
from typing import NoReturn

from tilewright.errors import CompileError
from tilewright.ir.parse import parse as parse_expr
from tilewright.ir.ranges import Range
from tilewright.ir.symbolic import Expr
from tilewright.ir.types import DType
from tilewright.kernel.analysis import index_symbols, used_symbols
from tilewright.kernel.expr import UNARY, Binary, Cast, Const, IndexValue, Load, Ref, Select, Unary, Value
from tilewright.kernel.tile import (
    REDUCTIONS,
    Axis,
    Carry,
    Define,
    Kernel,
    Param,
    Reduction,
    Role,
    Scan,
    Statement,
    Store,
)

#: Spelling of the infix operations, by the class of the syntax node.
INFIX: dict[type[ast.AST], str] = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.Div: "div",
    ast.Mod: "mod",
    ast.Pow: "pow",
    ast.BitAnd: "bitand",
    ast.BitOr: "bitor",
    ast.BitXor: "bitxor",
    ast.LShift: "shl",
    ast.RShift: "shr",
    ast.And: "and",
    ast.Or: "or",
    ast.Eq: "eq",
    ast.NotEq: "ne",
    ast.Lt: "lt",
    ast.LtE: "le",
    ast.Gt: "gt",
    ast.GtE: "ge",
}
PREFIX: dict[type[ast.AST], str] = {ast.USub: "neg", ast.Not: "not", ast.Invert: "bitnot"}
#: Binary operations that are written as calls.
CALLED = frozenset(["min", "max", "fmod", "xor"])

_DTYPES = {str(d): d for d in DType}


def parse_kernel(text: str) -> Kernel:
    """The kernel that ``text`` spells. Raises :class:`CompileError` (``kernel-syntax``) that names the line."""
    try:
        module = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError) as error:
        line = getattr(error, "lineno", None) or 1
        raise _error(line, f"not Python syntax: {getattr(error, 'msg', None) or error}") from error
    match module.body:
        case [ast.FunctionDef(decorator_list=[ast.Name(id="kernel")]) as function]:
            try:
                return _Reader(text).kernel(function)
            except RecursionError as error:
                raise _error(function.lineno, "expressions nested too deeply") from error
    raise _error(1, "expected one function decorated with @kernel")


def _error(line: int, cause: str) -> CompileError:
    return CompileError(
        "kernel-syntax",
        where=f"kernel text, line {line}",
        cause=cause,
        fix="see the grammar in tilewright.kernel.parse",
    )


def _fail(node: ast.AST, cause: str) -> NoReturn:
    raise _error(getattr(node, "lineno", 1), cause)


class _Reader:
    """State of one reading: what each name means."""

    def __init__(self, text: str):
        self.text = text
        self.params: dict[str, Param] = {}
        self.axes: dict[str, Axis] = {}
        self.tiles: dict[str, tuple[tuple[str, ...], DType]] = {}

    # -- head --------------------------------------------------------------------------------------------------

    def kernel(self, function: ast.FunctionDef) -> Kernel:
        arguments = function.args
        if arguments.vararg or arguments.kwarg or arguments.kwonlyargs or arguments.posonlyargs or arguments.defaults:
            _fail(function, "a kernel takes plain annotated parameters only")
        for arg in arguments.args:
            if arg.arg in self.params:
                _fail(arg, f"parameter {arg.arg} occurs twice")
            self.params[arg.arg] = self._param(arg)
        facts: dict[str, Range] = {}
        body: list[Statement] = []
        for node in function.body:
            match node:
                case ast.Expr(value=ast.Call(func=ast.Name(id="where"), args=args, keywords=[])):
                    for condition in args:
                        self._fact(condition, facts)
                case ast.AnnAssign(target=ast.Name(id=name), annotation=extent, value=None):
                    if name in self.axes:
                        _fail(node, f"axis {name} is declared twice")
                    self.axes[name] = Axis(name, self._index(extent))
                case ast.Pass():
                    pass
                case _:
                    body.append(self._statement(node))
        return Kernel(
            function.name, tuple(self.params.values()), tuple(facts.items()), tuple(self.axes.values()), tuple(body)
        )

    def _param(self, arg: ast.arg) -> Param:
        match arg.annotation:
            case ast.Subscript(value=ast.Name(id="const" | "out" as role), slice=inner):
                alias: str | None = None
                if role == "out" and isinstance(inner, ast.Tuple):
                    match inner.elts:
                        case [first, ast.Name(id=source)]:
                            inner, alias = first, source
                        case _:
                            _fail(arg, "expected out[type, input] for an output that reuses an input's memory")
                limit: int | None = None
                if role == "const" and isinstance(inner, ast.Tuple):
                    match inner.elts:
                        case [first, ast.Constant(value=int(number))] if number > 0:
                            inner, limit = first, number
                        case _:
                            _fail(arg, "expected const[type, limit] for a constant of small magnitude")
                kind: Role = "const" if role == "const" else "out"
                dtype, shape = self._type(inner)
                return Param(arg.arg, dtype, shape, kind, alias, limit)
            case None:
                _fail(arg, f"parameter {arg.arg} has no type")
            case annotation:
                dtype, shape = self._type(annotation)
                return Param(arg.arg, dtype, shape)

    def _type(self, node: ast.expr) -> tuple[DType, tuple[Expr, ...]]:
        match node:
            case ast.Subscript(value=ast.Name(id=name), slice=shape) if name in _DTYPES:
                return _DTYPES[name], tuple(map(self._index, _elements(shape)))
        _fail(node, f"expected a tensor type such as f32[M, N], got {self._source(node)}")

    def _fact(self, node: ast.expr, facts: dict[str, Range]) -> None:
        def update(name: str, **change: int) -> None:
            r = facts.get(name, Range())
            known = {"lo": r.lo, "hi": r.hi, "divisor": r.divisor}
            facts[name] = Range(**{**known, **change})

        match node:
            case ast.Compare(
                left=ast.BinOp(left=ast.Name(id=name), op=ast.Mod(), right=divisor), ops=[ast.Eq()], comparators=[zero]
            ) if _integer(zero) == 0 and (_integer(divisor) or 0) > 0:
                return update(name, divisor=_integer(divisor) or 1)
            case ast.Compare(left=lo, ops=[ast.LtE(), ast.LtE()], comparators=[ast.Name(id=name), hi]):
                if (low := _integer(lo)) is not None and (high := _integer(hi)) is not None:
                    return update(name, lo=low, hi=high)
            case ast.Compare(left=ast.Name(id=name), ops=[ast.LtE()], comparators=[hi]):
                if (high := _integer(hi)) is not None:
                    return update(name, hi=high)
            case ast.Compare(left=lo, ops=[ast.LtE()], comparators=[ast.Name(id=name)]):
                if (low := _integer(lo)) is not None:
                    return update(name, lo=low)
        _fail(node, f"expected 1 <= M <= 64 or M % 8 == 0, got {self._source(node)}")

    # -- statements --------------------------------------------------------------------------------------------

    def _statement(self, node: ast.stmt) -> Statement:
        match node:
            case ast.For(target=ast.Name(id=axis), iter=ast.Call(func=ast.Name(id="scan"), args=[]) as scan, orelse=[]):
                return self._scan(node, axis, scan)
            case ast.Assign(targets=[ast.Subscript(value=ast.Name(id=name), slice=index)], value=value):
                if name in self.params:
                    indices = self._entries(index)
                    result = self._value(value)
                    used = used_symbols(result) | index_symbols(indices)
                    return Store(name, tuple(a for a in self.axes if a in used), indices, result)
                return self._define(node, name, index, value)
            case ast.AnnAssign(
                target=ast.Subscript(value=ast.Name(id=name), slice=index), annotation=ast.Tuple() as order, value=value
            ) if name in self.params and value is not None:
                indices = self._entries(index)
                return Store(name, self._axis_names(order), indices, self._value(value))
        _fail(node, f"expected an assignment or a scan, got {self._source(node)}")

    def _define(self, node: ast.stmt, name: str, index: ast.expr, value: ast.expr) -> Define:
        axes = self._axis_names(index)
        reduce = None
        match value:
            case ast.Call(func=ast.Name(id=op), args=[over, inner], keywords=[]) if op in REDUCTIONS and (
                isinstance(over, ast.Tuple) or (isinstance(over, ast.Name) and over.id in self.axes)
            ):
                reduce, value = Reduction(op, self._axis_names(over)), inner
        result = self._value(value)
        if name in self.tiles:
            _fail(node, f"tile {name} is assigned twice")
        self.tiles[name] = (axes, result.dtype)
        return Define(name, axes, result, reduce)

    def _scan(self, node: ast.For, axis: str, scan: ast.Call) -> Scan:
        carries: list[Carry] = []
        for keyword in scan.keywords:
            match keyword.value:
                case ast.Subscript(value=init, slice=index) if keyword.arg:
                    const = self._value(init)
                    if not isinstance(const, Const):
                        _fail(init, "a carry starts at a literal such as f32(0.0)[m]")
                    carries.append(Carry(keyword.arg, self._axis_names(index), const))
                    self.tiles[keyword.arg] = (carries[-1].axes, const.dtype)
                case _:
                    _fail(keyword.value, "expected name=f32(0.0)[axes]")
        body: list[Define] = []
        yields: list[tuple[str, str]] = []
        for inner in node.body:
            match inner:
                case ast.Expr(value=ast.Call(func=ast.Name(id="yield_"), args=[], keywords=pairs)):
                    for pair in pairs:
                        if pair.arg is None or not isinstance(pair.value, ast.Name):
                            _fail(inner, "expected yield_(carry=tile)")
                        yields.append((pair.arg, pair.value.id))
                case _:
                    statement = self._statement(inner)
                    if not isinstance(statement, Define):
                        _fail(inner, "a scan holds assignments to tiles only")
                    body.append(statement)
        return Scan(axis, tuple(carries), tuple(body), tuple(yields))

    # -- expressions -------------------------------------------------------------------------------------------

    def _value(self, node: ast.expr) -> Value:
        match node:
            case ast.Subscript(value=ast.Name(id=name), slice=index):
                return self._read(node, name, index)
            case ast.BoolOp(op=ast.Or(), values=[ast.Subscript() as x, fill]) if (number := _number(fill)) is not None:
                load = self._value(x)
                if not isinstance(load, Load):
                    _fail(node, "a fill belongs to a read of a parameter")
                return Load(load.tensor, load.index, load.dtype, number)
            case ast.BoolOp(op=op, values=[first, *others]):
                result = self._value(first)
                for other in others:
                    result = Binary(INFIX[type(op)], result, self._value(other))
                return result
            case ast.BinOp(left=a, op=op, right=b) if type(op) in INFIX:
                return Binary(INFIX[type(op)], self._value(a), self._value(b))
            case ast.Compare(left=a, ops=[op], comparators=[b]) if type(op) in INFIX:
                return Binary(INFIX[type(op)], self._value(a), self._value(b))
            case ast.UnaryOp(op=op, operand=x) if type(op) in PREFIX and _number(node) is None:
                return Unary(PREFIX[type(op)], self._value(x))
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
                return self._call(node, name, args)
        if _number(node) is not None:
            _fail(node, f"a literal needs its dtype: f32({self._source(node)})")
        _fail(node, f"not a value: {self._source(node)}")

    def _read(self, node: ast.expr, name: str, index: ast.expr) -> Value:
        if name in self.params:
            return Load(name, self._entries(index), self.params[name].dtype)
        if name in self.tiles:
            return Ref(name, self._axis_names(index), self.tiles[name][1])
        _fail(node, f"{name} is neither a parameter nor a tile assigned above")

    def _call(self, node: ast.expr, name: str, args: Sequence[ast.expr]) -> Value:
        match name, args:
            case _, [x] if name in _DTYPES:
                number = _number(x)
                return Const(number, _DTYPES[name]) if number is not None else Cast(_DTYPES[name], self._value(x))
            case "index", [i]:
                return IndexValue(self._index(i))
            case "index", [i, ast.Name(id=dtype)] if dtype in _DTYPES:
                return IndexValue(self._index(i), _DTYPES[dtype])
            case "select", [c, a, b]:
                return Select(self._value(c), self._value(a), self._value(b))
            case _, [x] if name in UNARY:
                return Unary(name, self._value(x))
            case _, [a, b] if name in CALLED:
                return Binary(name, self._value(a), self._value(b))
        if name in REDUCTIONS:
            _fail(node, f"{name} over axes stands only at the top of an assignment to a tile")
        _fail(node, f"unknown operation {name} with {len(args)} operands")

    def _entries(self, node: ast.expr) -> tuple[Expr | Value, ...]:
        return tuple(self._value(i) if _is_gather(i) else self._index(i) for i in _elements(node))

    def _index(self, node: ast.expr) -> Expr:
        try:
            return parse_expr(ast.unparse(node))
        except ValueError as error:
            raise _error(node.lineno, f"not an index expression: {self._source(node)}") from error

    def _axis_names(self, node: ast.expr) -> tuple[str, ...]:
        names: list[str] = []
        for element in _elements(node):
            if not isinstance(element, ast.Name) or element.id not in self.axes:
                _fail(node, f"{self._source(element)} is not an axis declared above")
            names.append(element.id)
        return tuple(names)

    def _source(self, node: ast.AST) -> str:
        return ast.get_source_segment(self.text, node) or ast.unparse(node)


def _elements(node: ast.expr) -> list[ast.expr]:
    return list(node.elts) if isinstance(node, ast.Tuple) else [node]


def _is_gather(node: ast.expr) -> bool:
    """An index that reads memory or is typed is a value; plain arithmetic over names is an index expression."""
    return any(
        isinstance(n, ast.Subscript)
        or (isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id not in ("min", "max"))
        for n in ast.walk(node)
    )


def _integer(node: ast.expr) -> int | None:
    match node:
        case ast.Constant(value=int(v)) if not isinstance(v, bool):
            return v
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(v))) if not isinstance(v, bool):
            return -v
    return None


def _number(node: ast.expr) -> float | int | bool | None:
    """The number of a literal: digits, ``inf``, ``nan``, ``True``, ``False``, with a sign."""
    match node:
        case ast.Constant(value=bool(v) | int(v) | float(v)):
            return v
        case ast.Name(id="inf"):
            return math.inf
        case ast.Name(id="nan"):
            return math.nan
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float()) | ast.Name(id="inf" | "nan") as x):
            value = _number(x)
            return None if value is None or isinstance(value, bool) else -value
    return None
