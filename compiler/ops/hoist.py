"""What a kernel would compute from constants alone in every run is computed once, while compiling.

The sum of each column of quantized weights, a product of two scales, weights moved by 128: parts of a statement that
hang on constants only become constants themselves, where these take no more memory than what they are made of. The
kernel's own text is evaluated, by the interpreter of the tile IR, when somebody asks for the elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np
import onnx_ir as ir
from tilewright.ir.graph import constant_array, set_type
from tilewright.ir.symbolic import Expr, symbol
from tilewright.ir.types import TensorType
from tilewright.kernel.analysis import loads_of, refs_of
from tilewright.kernel.expr import Binary, Cast, Const, Load, Ref, Select, Unary, Value, operands
from tilewright.kernel.interpret import run_lowered
from tilewright.kernel.tile import Axis, Define, Kernel, Param, Scan, Statement, Store
from tilewright.ops.compose import free_axes

#: Steps of one constant that are worth interpreting: seconds.
_STEP_LIMIT = 1 << 28


def hoist_constants(kernel: Kernel, values: Sequence[ir.Value], name: str) -> tuple[Kernel, list[ir.Value]]:
    """``kernel`` and the values of its parameters, with constants in place of what hangs on constants only.

    ``name`` begins the names of new constants.
    """
    if not any(p.role == "const" for p in kernel.params):
        return kernel, list(values)
    return _Hoister(kernel, values, name).run()


class _Hoister:
    def __init__(self, kernel: Kernel, values: Sequence[ir.Value], name: str):
        self.kernel, self.name = kernel, name
        self.values = dict(zip((p.name for p in kernel.params), values, strict=True))
        self.sizes = {a.name: a.extent for a in kernel.axes}
        self.tiles: dict[str, Define] = {}  # those that hang on constants only
        self.made: dict[tuple[Value, tuple[str, ...]], Param] = {}

    def run(self) -> tuple[Kernel, list[ir.Value]]:
        body: list[Statement] = []
        for s in self.kernel.body:
            if isinstance(s, Define) and self._is_constant(s.value) and s.axes and self._fits(s):
                self.tiles[s.tile] = s
            body.append(s)
        body = [self._statement(s) for s in body if not (isinstance(s, Define) and s.tile in self.tiles)]
        left = {r.tile for s in body for v in _values(s) for r in refs_of(v)}
        if left & self.tiles.keys():  # read where no constant can stand: as it was
            return self.kernel, [self.values[p.name] for p in self.kernel.params]
        if not self.made:
            return self.kernel, [self.values[p.name] for p in self.kernel.params]
        new = list(self.made.values())
        outs = [p for p in self.kernel.params if p.role == "out"]
        params = (*(p for p in self.kernel.params if p.role != "out"), *new, *outs)
        return replace(self.kernel, params=params, body=tuple(body)), [self.values[p.name] for p in params]

    def _statement(self, s: Statement) -> Statement:
        match s:
            case Scan():
                return replace(s, body=tuple(replace(d, value=self._rewritten(d.value)) for d in s.body))
            case Store():
                index = tuple(i if isinstance(i, Expr) else self._rewritten(i) for i in s.index)
                return replace(s, index=index, value=self._rewritten(s.value))
        return replace(s, value=self._rewritten(s.value))

    def _rewritten(self, v: Value) -> Value:
        if self._is_constant(v) and self._is_worth(v):
            return self._constant(v)
        match v:
            case Unary() | Cast():
                return replace(v, x=self._rewritten(v.x))
            case Binary():
                return replace(v, a=self._rewritten(v.a), b=self._rewritten(v.b))
            case Select():
                return Select(self._rewritten(v.cond), self._rewritten(v.a), self._rewritten(v.b))
            case Load() if any(not isinstance(i, Expr) for i in v.index):
                return replace(v, index=tuple(i if isinstance(i, Expr) else self._rewritten(i) for i in v.index))
        return v

    def _is_constant(self, v: Value) -> bool:
        """Whether ``v`` hangs on constants in memory (at least one) and axes of fixed length only."""
        match v:
            case Const():
                return True
            case Load():
                plain = v.fill is None and all(isinstance(i, Expr) for i in v.index)
                return plain and self._role(v.tensor) == "const" and self._is_static(free_axes(v))
            case Ref():
                return v.tile in self.tiles
            case Unary() | Binary() | Cast() | Select():
                return all(self._is_constant(x) for x in operands(v))
        return False

    def _role(self, name: str) -> str:
        return self.kernel.param(name).role

    def _is_static(self, axes: frozenset[str]) -> bool:
        return all(a in self.sizes and self.sizes[a].is_constant for a in axes)

    def _is_worth(self, v: Value) -> bool:
        """Whether something is computed, and takes no more memory than what it is made of."""
        if isinstance(v, Ref):
            return True
        if not isinstance(v, Unary | Binary | Cast | Select) or not (loads_of(v) or refs_of(v)):
            return False
        if isinstance(v, Cast) and isinstance(v.x, Load):
            return False  # as cheap where it is read
        return self._count(free_axes(v)) * v.dtype.bits <= self._source_bits(v)

    def _fits(self, s: Define) -> bool:
        steps = self._count(frozenset(s.axes) | free_axes(s.value))
        return steps <= _STEP_LIMIT and self._count(frozenset(s.axes)) * s.value.dtype.bits <= self._source_bits(
            s.value
        )

    def _source_bits(self, v: Value) -> int:
        """Of the largest tensor that ``v`` is made of."""
        params = [self.kernel.param(load.tensor) for load in loads_of(v)]
        direct = [prod(e.value for e in p.shape) * p.dtype.bits for p in params]
        return max([*direct, *(self._source_bits(self.tiles[r.tile].value) for r in refs_of(v))], default=0)

    def _count(self, axes: frozenset[str]) -> int:
        return prod(self.sizes[a].value for a in axes)

    def _constant(self, v: Value) -> Value:
        names = free_axes(v)
        axes = tuple(a.name for a in self.kernel.axes if a.name in names)
        key = (v, axes)
        if key not in self.made:
            number = len(self.made)
            taken = {p.name for p in self.kernel.params}
            param = next(n for n in (f"c{number}" + "_" * i for i in range(99)) if n not in taken)
            shape = tuple(self.sizes[a] for a in axes)
            self.made[key] = Param(param, v.dtype, shape, "const")
            self.values[param] = self._value(v, axes, TensorType(v.dtype, shape), f"{self.name}/{param}")
        return Load(self.made[key].name, tuple(symbol(a) for a in axes), v.dtype)

    def _value(self, v: Value, axes: tuple[str, ...], type_: TensorType, name: str) -> ir.Value:
        kernel = self._kernel_of(v, axes, type_)
        values = {p.name: self.values[p.name] for p in kernel.params if p.role != "out"}

        def evaluate() -> ir.TensorProtocol:
            arrays = {n: constant_array(x).reshape([e.value for e in kernel.param(n).shape]) for n, x in values.items()}
            result = run_lowered(kernel, arrays)["result"]
            return ir.tensor(np.ascontiguousarray(result.astype(type_.dtype.numpy)), name=name)

        value = ir.val(name)
        set_type(value, type_)
        assert value.dtype is not None and isinstance(value.shape, ir.Shape)
        value.const_value = ir.LazyTensor(evaluate, value.dtype, value.shape, cache=True, name=name)
        return value

    def _kernel_of(self, v: Value, axes: tuple[str, ...], type_: TensorType) -> Kernel:
        """A kernel that stores ``v`` as its only result."""
        needed: list[Define] = []
        pending = list(refs_of(v))
        while pending:
            tile = self.tiles[pending.pop().tile]
            if tile not in needed:
                needed.insert(0, tile)
                pending += refs_of(tile.value)
        order = [s for s in self.kernel.body if isinstance(s, Define) and s in needed]
        store = Store("result", axes, tuple(symbol(a) for a in axes), v)
        body: tuple[Define | Store, ...] = (*order, store)
        read = {load.tensor for s in body for load in loads_of(s.value)}
        used = {a for s in body for a in (*s.axes, *free_axes(s.value))}
        used |= {a for s in body if isinstance(s, Define) and s.reduce for a in s.reduce.axes}
        params = tuple(p for p in self.kernel.params if p.name in read)
        result = Param("result", v.dtype, type_.shape, "out")
        return Kernel(
            "constant",
            (*params, result),
            (),
            tuple(Axis(a.name, a.extent) for a in self.kernel.axes if a.name in used),
            body,
        )


def _values(s: Statement) -> Sequence[Value]:
    match s:
        case Scan():
            return [d.value for d in s.body]
        case Store():
            return [s.value, *(i for i in s.index if not isinstance(i, Expr))]
    return [s.value]
