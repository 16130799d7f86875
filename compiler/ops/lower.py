"""From a graph node to a kernel: look up each operator's rule, compose, store."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pkgutil import iter_modules
from typing import Any

import numpy as np
import onnx_ir as ir
from tilewright.errors import InternalError, UnsupportedError
from tilewright.ir.facts import assumptions, facts
from tilewright.ir.graph import KNOWN_LIMIT, body_of, constant_array, has_type, is_constant, known_value, type_of
from tilewright.ir.late import defined, late_symbols
from tilewright.ir.symbolic import Expr, as_expr
from tilewright.ir.types import DType, TensorType
from tilewright.kernel.expr import IndexValue, Value
from tilewright.kernel.tile import Kernel
from tilewright.kernel.verify import InvalidKernel, verify_kernel
from tilewright.ops.compose import (
    Composer,
    Index,
    Operand,
    binary,
    const,
    is_empty,
    select,
    size_of,
)
from tilewright.ops.context import Scope
from tilewright.ops.dimensions import is_least
from tilewright.ops.infer import infer_body
from tilewright.ops.store import store, tidy

#: Constants of at most this many elements are written into the kernel's text instead of being read from memory.
INLINE_ELEMENTS = 1

_RULES: dict[str, Rule] = {}
_POINTWISE: set[str] = set()


@dataclass(frozen=True, slots=True)
class Context:
    """What a rule sees of one operator."""

    composer: Composer
    node: ir.Node
    inputs: tuple[Operand | None, ...]
    outputs: tuple[TensorType, ...]
    definitions: Mapping[str, Expr]

    def input(self, i: int) -> Operand:
        """Input ``i``, which must be there."""
        operand = self.inputs[i]
        assert operand is not None
        return operand

    def optional(self, i: int) -> Operand | None:
        """Input ``i`` or ``None`` when it is left out."""
        return self.inputs[i] if i < len(self.inputs) else None

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of an attribute, or ``default``."""
        found = self.node.attributes.get(name)
        return default if found is None else found.value

    def integers(self, i: int, name: str) -> list[int] | None:
        """Integers given as attribute ``name`` or as compile-time input ``i``; ``None`` when neither is there."""
        if (value := self.attribute(name)) is not None:
            return [int(v) for v in value]
        operand = self.optional(i)
        if operand is None:
            return None
        if operand.known is None:
            raise unsupported(self.node, f"input {i} ({name}) is computed at run time")
        return [int(v) for v in np.atleast_1d(operand.known)]

    def expressions(self, i: int) -> list[Expr]:
        """The elements of an integer input that the shape rule asked for: constants, or symbols read at run time.

        Raises :class:`UnsupportedError` when they are not known here (in a fused body, say).
        """
        operand = self.input(i)
        if operand.symbols is not None:
            return [as_expr(e) for e in operand.symbols.reshape(-1)]
        if operand.known is None:
            raise unsupported(self.node, f"input {i} is computed at run time")
        return [as_expr(int(v)) for v in np.atleast_1d(operand.known).reshape(-1)]

    def defined(self, hint: str) -> Expr:
        """What the shape rule defined under ``hint``."""
        return self.definitions[hint]

    def result(self, compute: Callable[[tuple[Index, ...]], Any], output: int = 0, **more: Any) -> Operand:
        """An operand of the type of an output."""
        return Operand(self.outputs[output], compute, **more)


Rule = Callable[[Context], "Operand | tuple[Operand, ...]"]


def lowering(*names: str, pointwise: bool = False) -> Callable[[Rule], Rule]:
    """Register a rule for operators of the ONNX domain; ``pointwise`` ones read their inputs where they write."""

    def register(rule: Rule) -> Rule:
        for name in names:
            if _RULES.setdefault(name, rule) is not rule:
                raise ValueError(f"two lowerings of {name}")
        _POINTWISE.update(names if pointwise else ())
        return rule

    return register


def unsupported(node: ir.Node, cause: str) -> UnsupportedError:
    """An error that names the node."""
    # Inside the body of a fused operator values have no types of their own.
    types = ", ".join("-" if v is None else str(type_of(v)) if has_type(v) else str(v.name) for v in node.inputs)
    return UnsupportedError(
        "operator-form-unsupported",
        where=f"node {node.name!r}: {node.op_type}({types})",
        cause=cause,
        fix="rewrite this operator in the model, or make the operand a constant",
        problems=(f"{node.op_type} {node.name!r}: {cause}",),
    )


def has_lowering(model: ir.Model, node: ir.Node) -> bool:
    """Whether every operator of the node (of its body, for a fused one) has a rule."""
    load_lowerings()
    body = body_of(model, node)
    if body is not None:
        return all(has_lowering(model, n) for n in body)
    return node.domain in ("", "ai.onnx") and (node.op_type in _RULES or node.op_type == "Constant")


@cache
def load_lowerings() -> None:
    """Import every family file, which registers its rules."""
    import tilewright.ops.lowering

    for family in sorted(m.name for m in iter_modules(tilewright.ops.lowering.__path__)):
        importlib.import_module(f"tilewright.ops.lowering.{family}")


@dataclass(frozen=True, slots=True)
class Lowered:
    """A kernel and the graph values its parameters stand for, in parameter order."""

    kernel: Kernel
    values: tuple[ir.Value, ...]


def lower(model: ir.Model, node: ir.Node) -> Lowered:
    """Lower one node of ``model``. Raises :class:`UnsupportedError` for a form that no rule covers."""
    load_lowerings()
    if equal := _equal_sizes(model, node):
        lowered = _lowered(model, node, equal)
        try:
            verify_kernel(lowered.kernel)
            return lowered
        except InvalidKernel:  # what is equal is not always what shows that an index is inside
            pass
    lowered = _lowered(model, node, {})
    if equal or late_symbols(model):
        try:
            verify_kernel(lowered.kernel)
        except InvalidKernel as error:
            cause = f"only a run tells how its sizes hang together, and so not that {error.problems[0]}"
            raise unsupported(node, cause) from None
    return lowered


def _lowered(model: ir.Model, node: ir.Node, equal: Mapping[Expr, Expr]) -> Lowered:
    composer = Composer(_kernel_name(node.op_type), facts(model), equal)
    values: list[ir.Value] = []
    operands: dict[ir.Value, Operand] = {}
    for value in node.inputs:
        if value is not None and value not in operands:
            operands[value] = _leaf(composer, value, values)
    inputs = [None if v is None else operands[v] for v in node.inputs]
    results: Sequence[Operand | None]
    if all(is_empty(type_of(o)) for o in node.outputs if o.name):
        results = [Operand(type_of(o), _no_element) if o.name else None for o in node.outputs]
    elif (body := body_of(model, node)) is not None:
        results = _apply_body(composer, body, inputs, infer_body(model, node))
    else:
        types = [type_of(o) if has_type(o) else None for o in node.outputs]
        results = _apply(composer, node, inputs, types, defined(node))
    for value, result in zip(node.outputs, results, strict=False):
        if value.name and result is not None:
            store(composer, value, result, values)
            values.append(value)
    return Lowered(*tidy(composer, values))


def _no_element(index: tuple[Index, ...]) -> Any:
    raise InternalError("an empty tensor was asked for an element")


#: Makes one operand of others, the elements of a kernel's result from those of what it reads.
Build = Callable[[Composer, Sequence[Operand]], Operand]


def compose(model: ir.Model, name: str, inputs: Sequence[ir.Value], output: ir.Value, build: Build) -> Lowered:
    """A kernel that computes ``output`` from ``inputs`` as ``build`` says: a part of an operator."""
    composer = Composer(name, facts(model))
    values: list[ir.Value] = []
    operands = [_leaf(composer, value, values) for value in inputs]
    store(composer, output, build(composer, operands), values)
    return Lowered(*tidy(composer, [*values, output]))


def _equal_sizes(model: ir.Model, node: ir.Node) -> dict[Expr, Expr]:
    """Sizes of the node's values that a run has confirmed to be others of them, or numbers, and those. The left side of
    an assumption is what its users were given for both."""
    held = [a for a in assumptions(model) if not is_least(a)]
    if not held:
        return {}
    values = [v for v in (*node.inputs, *node.outputs) if v is not None and has_type(v)]
    symbols = {s for v in values for e in type_of(v).shape for s in e.symbols}
    mine = [a for a in held if a.left.symbols | a.right.symbols <= symbols]
    return {a.left if a.right.is_constant else a.right: a.right if a.right.is_constant else a.left for a in mine}


def _kernel_name(operator: str) -> str:
    """``FusedMatMul`` as ``fused_matmul``."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", operator.replace("MatMul", "Matmul"))
    return words.lower()


def _leaf(composer: Composer, value: ir.Value, values: list[ir.Value]) -> Operand:
    """A value from outside: a parameter, or a literal when it is a small constant."""
    type_ = composer.spelled(type_of(value))
    array = _known_array(value, type_)
    if array is not None and array.size <= INLINE_ELEMENTS:
        scalar = array.reshape(-1)[0].item() if array.size else 0
        return Operand(type_, lambda index: const(scalar, type_.dtype), known=array)
    values.append(value)
    name = composer.fresh(f"x{len(values) - 1}")
    operand = composer.param(name, type_, "const" if is_constant(value) else "in", _limit(value, type_))
    operand.known, operand.symbols = array, known_value(value)
    return operand


#: Products of an unsigned byte with two weights of this magnitude are exact in 16 bits: 2 · 255 · 64 < 2^15.
NARROW = 64


def _limit(value: ir.Value, type_: TensorType) -> int | None:
    """:data:`NARROW` for 8-bit constants of which no element is larger."""
    if type_.dtype is not DType.I8 or type_.rank < 2 or not is_constant(value):
        return None
    array = constant_array(value)
    narrow = bool(array.size) and max(-int(array.min()), int(array.max())) <= NARROW
    return NARROW if narrow else None


def _known_array(value: ir.Value, type_: TensorType) -> np.ndarray[Any, Any] | None:
    """The contents of a short tensor that is known while compiling."""
    if is_constant(value):
        return constant_array(value) if type_.elements.value <= KNOWN_LIMIT else None
    known = known_value(value)
    if known is None:
        return None
    elements: list[Expr] = list(known.flat)
    if not all(e.is_constant for e in elements):
        return None
    return np.array([e.value for e in elements], type_.dtype.numpy).reshape(known.shape)


def _apply(
    composer: Composer,
    node: ir.Node,
    inputs: Sequence[Operand | None],
    outputs: Sequence[TensorType | None],
    definitions: Mapping[str, Expr],
) -> tuple[Operand, ...]:
    """The operands that one operator computes; ``outputs`` are the types of its outputs, in their places, and
    ``definitions`` what its shape rule defined."""
    rule = _RULES.get(node.op_type)
    if rule is None:
        raise unsupported(node, "this operator has no lowering")
    simple: list[TensorType] = []
    for n, t in enumerate(outputs):
        if t is None and any(outputs[n:]):
            raise unsupported(node, f"output {n} is left out and has no type")
        simple += [] if t is None else [composer.spelled(t)]
    result = rule(Context(composer, node, tuple(inputs), tuple(simple), definitions))
    if isinstance(result, tuple):
        return result
    if node.op_type in _POINTWISE and not result.cuts:
        result.cuts = common_cuts(result.type, [o for o in inputs if o is not None])
    return (result,)


def common_cuts(result: TensorType, inputs: Sequence[Operand]) -> dict[int, tuple[Expr, ...]]:
    """Where the inputs of a pointwise operator change their formulas, it does; two that differ along one dimension
    leave it uncut."""
    cuts: dict[int, tuple[Expr, ...]] = {}
    unclear: set[int] = set()
    for operand in inputs:
        for d, starts in operand.cuts.items():
            at = d + result.rank - operand.type.rank
            if operand.type.shape[d] == result.shape[at] and cuts.setdefault(at, starts) != starts:
                unclear.add(at)
    return {d: starts for d, starts in cuts.items() if d not in unclear}


def _apply_body(
    composer: Composer, body: ir.Function, inputs: Sequence[Operand | None], scope: Scope
) -> tuple[Operand, ...]:
    """The operands that the body of a fused operator computes."""
    known: dict[ir.Value, Operand | None] = dict(zip(body.inputs, inputs, strict=False))
    for inner in body:
        if inner.op_type == "Constant":
            known[inner.outputs[0]] = _literal(inner)
            continue
        args = [None if v is None else known.get(v) for v in inner.inputs]
        types = [scope.type_of(o) for o in inner.outputs]
        results = _apply(composer, inner, args, types, scope.defined.get(inner, {}))
        known.update(zip(inner.outputs, results, strict=False))
    return tuple(o for v in body.outputs if (o := known[v]) is not None)


def _literal(node: ir.Node) -> Operand:
    """A tensor that is written in the body: axes, shapes and other short lists of integers, and scalars."""
    array = node.attributes["value"].as_tensor().numpy()
    dtype = DType.from_numpy(array.dtype)
    elements = [const(e, dtype) for e in array.reshape(-1).tolist()]

    def at(index: tuple[Index, ...]) -> Value:
        if len(elements) <= 1:
            return elements[0] if elements else const(0, dtype)
        if len(index) != 1:
            raise unsupported(node, "a literal tensor of several axes inside a fused body is read element by element")
        return _listed(array.tolist(), index[0], dtype)

    return Operand(TensorType.of(dtype, *array.shape), at, known=array)


def _listed(elements: list[int], index: Index, dtype: DType) -> Value:
    """The element at ``index`` of a short list, by its formula where it counts evenly, else by comparison."""
    step = elements[1] - elements[0]
    if isinstance(index, Expr) and elements == [elements[0] + step * n for n in range(len(elements))]:
        return size_of(elements[0] + step * index, dtype)
    position = IndexValue(index) if isinstance(index, Expr) else index
    result: Value = const(elements[-1], dtype)
    for n, element in reversed(list(enumerate(elements[:-1]))):
        result = select(binary("eq", position, n), const(element, dtype), result)
    return result
