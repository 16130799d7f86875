"""What a shape rule sees of its node: :class:`Infer`; and the types found so far: :class:`Scope`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import onnx_ir as ir
from tilewright.errors import InternalError
from tilewright.ir import graph
from tilewright.ir.graph import Known
from tilewright.ir.late import Late
from tilewright.ir.ranges import NEGATIVE_INFINITY, POSITIVE_INFINITY
from tilewright.ir.symbolic import Expr, IntLike, as_expr, maximum
from tilewright.ir.types import DType, TensorType
from tilewright.ops.dimensions import WEIGHT_LIMIT, Dimensions, Mismatch, followable, weight

#: Symbolic elements that are worth comparing one by one.
_SHORT = 16

#: Elements of a tensor that is read while the program runs, to learn sizes and axes; more is data.
READ_LIMIT = 64

#: NumPy's limit, and far beyond any model.
RANK_LIMIT = 64


class Unsupported(Exception):
    """Raised by a rule for a use of its operator that it cannot handle; collected, and reported with all others."""


@dataclass(slots=True)
class Scope:
    """Types and known integers of one graph or function body while it is being inferred."""

    model: ir.Model
    dimensions: Dimensions
    types: dict[ir.Value, TensorType] = field(default_factory=dict)
    known: dict[ir.Value, Known] = field(default_factory=dict)
    largest: dict[ir.Value, Expr] = field(default_factory=dict)  # a bound on every element of an integer tensor
    attributes: dict[str, ir.Attr] = field(default_factory=dict)  # of the call, inside a function body
    is_body: bool = False  # of a function: shared by its callers, so that nothing in it can stand for run-time values
    defined: dict[ir.Node, dict[str, Expr]] = field(default_factory=dict)  # what rules defined, by hint
    late: set[ir.Node] = field(default_factory=set)  # nodes whose rules looked at run-time values

    def type_of(self, value: ir.Value) -> TensorType | None:
        """The type of ``value``, or ``None`` where it could not be inferred."""
        found = self.types.get(value)
        if found is None:
            tensor = graph.constant_tensor(value)
            if tensor is not None:
                found = TensorType.of(DType.from_onnx(tensor.dtype.value), *tensor.shape.numpy())
            elif graph.has_type(value):
                found = graph.type_of(value)
            if found is not None:
                self.types[value] = found
        return found

    def known_value(self, value: ir.Value) -> Known | None:
        """The symbolic elements of ``value``, or ``None``."""
        found = self.known.get(value)
        return found if found is not None else graph.known_value(value)


class Infer:
    """What a shape rule may ask about its node, and how it reports."""

    __slots__ = ("_scope", "defined", "known_outputs", "largest_output", "late", "node")

    def __init__(self, node: ir.Node, scope: Scope):
        self.node = node
        self._scope = scope
        self.known_outputs: dict[int, Known] = {}
        self.largest_output: Expr | None = None
        self.defined: dict[str, Expr] = {}
        self.late = False

    # -- inputs --------------------------------------------------------------------------------------------------

    @property
    def inputs(self) -> Sequence[ir.Value | None]:
        """The inputs as the node lists them; ``None`` for an optional one left out."""
        return self.node.inputs

    def has(self, index: int) -> bool:
        """True when input ``index`` is given."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def input(self, index: int = 0) -> TensorType:
        """Type of a required input. Fails when it is missing."""
        found = self.optional(index)
        return found if found is not None else self.fail(f"input {index} is missing")

    def optional(self, index: int) -> TensorType | None:
        """Type of an optional input, or ``None`` when it is left out."""
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        if value is None:
            return None
        found = self._scope.type_of(value)
        if found is None:
            raise InternalError(f"input {value.name!r} of {self.node.name!r} has no type")
        return found

    def types(self) -> list[TensorType]:
        """Types of all given inputs, in order."""
        return [self.input(i) for i in range(len(self.node.inputs)) if self.has(i)]

    def known(self, index: int) -> Known | None:
        """Symbolic elements of an integer input, where they are known (dtype object, elements :class:`Expr`)."""
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        known = None if value is None else self._scope.known_value(value)
        if known is not None and any(map(self._scope.dimensions.hangs_on_late, known.flat)):
            self.late = True
        return known

    def known_list(self, index: int, what: str, lo: int = NEGATIVE_INFINITY, hi: int = POSITIVE_INFINITY) -> list[Expr]:
        """The elements of a 1-D (or scalar) integer input. Those of a short input that is computed at run time are
        symbols, which the plan reads from memory and checks to be within ``lo..hi``; the use is unsupported when the
        input's length is not known.
        """
        known = self.known(index)
        if known is None:
            known = self._read(index, what, lo, hi)
        return [as_expr(e) for e in known.reshape(-1)]

    def _read(self, index: int, what: str, lo: int, hi: int) -> Known:
        value, t = self.node.inputs[index], self.input(index)
        assert value is not None
        if not t.dtype.is_integer or t.dtype.bits < 8 or self._scope.is_body:
            self.unsupported(f"{what} (input {index}) depends on run-time values")
        if not t.is_static or t.elements.value > READ_LIMIT:
            self.unsupported(f"{what} (input {index}) depends on run-time values, and how many is not known: {t}")
        elements = [
            self._scope.dimensions.add_late(
                f"{value.name}_{n}", Late(value.name or "", self._where(), element=n), lo, hi
            )
            for n in range(t.elements.value)
        ]
        known = graph.expressions(np.array(elements, dtype=object).reshape([s.value for s in t.shape]))
        self._scope.known[value] = known
        self.late = True
        return known

    def known_shape(self, index: int, what: str = "the shape", lo: int = NEGATIVE_INFINITY) -> list[Expr]:
        """The elements of an input that is a shape. Fails for more axes than any tensor has."""
        sizes = self.known_list(index, what, lo)
        return sizes if len(sizes) <= RANK_LIMIT else self.fail(f"{what} has {len(sizes)} axes")

    def define(self, hint: str, value: IntLike, lo: int = 0, hi: int = POSITIVE_INFINITY) -> Expr:
        """A symbol for ``value`` where that hangs on run-time values or is long; the plan sets it, and refuses a run
        where it is not within ``lo..hi``. The lowering finds the result again under ``hint``.
        """
        dimensions = self._scope.dimensions
        e = dimensions.rewrite(as_expr(value))
        low, high = dimensions.bounds(e)
        if low == high:
            e = as_expr(low)
        if e.is_constant and not lo <= e.value <= hi:
            self.fail(f"{hint} is {e}, not within {lo}..{hi}")
        short = e.is_constant or weight(e) == 1 or (weight(e) <= _SHORT and not dimensions.hangs_on_late(e))
        if not short and not self._scope.is_body:
            self.late = True
            owner = self.node.outputs[0].name or ""
            late = Late(owner, self._where(), expr=e)
            e = dimensions.add_late(f"{owner}_{hint}", late, max(lo, low), min(hi, high))
        self.defined[hint] = e
        return e

    def known_ints(self, index: int, what: str) -> list[int]:
        """The elements of a 1-D integer input that have to be plain numbers, such as axes."""
        elements = self.known_list(index, what)
        if not all(e.is_constant for e in elements):
            self.unsupported(f"{what} (input {index}) is not constant: {[str(e) for e in elements]}")
        return [e.value for e in elements]

    def largest(self, index: int) -> Expr | None:
        """What no element of an integer input exceeds, where that is known: positions made by ``Range``, constants."""
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        if value is None:
            return None
        found, known = self._scope.largest.get(value), self.known(index)
        if found is not None or known is None or not known.size:
            return found
        return maximum(*known.flat) if known.size <= _SHORT or all(e.is_constant for e in known.flat) else None

    def constant(self, index: int) -> np.ndarray[Any, Any] | None:
        """The array of a constant input of any element type, or ``None``."""
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        if value is None or not graph.is_constant(value):
            return None
        return graph.constant_array(value)

    # -- attributes ----------------------------------------------------------------------------------------------

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of an attribute (in a function body: of the call, where the body refers to it)."""
        attribute = self.node.attributes.get(name)
        if attribute is not None and attribute.is_ref():
            attribute = self._scope.attributes.get(attribute.ref_attr_name or "")
        return default if attribute is None else attribute.value

    def integer(self, name: str, default: int | None = None) -> int:
        """An integer attribute; required when there is no default."""
        value = self.attribute(name, default)
        return int(value) if value is not None else self.fail(f"attribute {name!r} is missing")

    def integers(self, name: str) -> list[int] | None:
        """A list of integers, or ``None`` when the attribute is absent."""
        value = self.attribute(name)
        return None if value is None else [int(v) for v in value]

    def string(self, name: str, default: str) -> str:
        """A text attribute."""
        return str(self.attribute(name, default))

    def dtype(self, name: str, default: DType | None = None) -> DType:
        """An attribute that holds a ``TensorProto.DataType`` number."""
        code = self.attribute(name)
        if code is None:
            return default if default is not None else self.fail(f"attribute {name!r} is missing")
        try:
            return DType.from_onnx(int(code))
        except KeyError:
            self.unsupported(f"element type {type_name(int(code))}")

    @property
    def opset(self) -> int:
        """Version of the node's operator set."""
        return self._scope.model.opset_imports.get(self.node.domain, 0)

    @property
    def outputs(self) -> int:
        """How many outputs the node lists."""
        return len(self.node.outputs)

    def has_output(self, index: int) -> bool:
        """True when output ``index`` is listed and named."""
        return index < len(self.node.outputs) and bool(self.node.outputs[index].name)

    # -- sizes ---------------------------------------------------------------------------------------------------

    def equal(self, a: IntLike, b: IntLike) -> Expr:
        """The one size that ``a`` and ``b`` must both be. Fails when they cannot be equal; otherwise the equality is
        used from here on and, if only a run can confirm it, recorded for the plan to assert.
        """
        return self._scope.dimensions.equal(as_expr(a), as_expr(b), self._where())

    def at_most(self, a: IntLike, b: IntLike) -> None:
        """Require ``a <= b``. Fails when it cannot be; limits a dimension or is recorded where only a run can tell."""
        self._scope.dimensions.at_most(as_expr(a), as_expr(b), self._where())

    def broadcast(self, *shapes: tuple[Expr, ...]) -> tuple[Expr, ...]:
        """The shape that NumPy's rules give. Two sizes of which neither is 1 are taken to be equal."""
        rank = max(map(len, shapes), default=0)
        result = [as_expr(1)] * rank
        for shape in shapes:
            for i, size in enumerate(shape, start=rank - len(shape)):
                result[i] = size if result[i] == 1 else result[i] if size == 1 else self.equal(result[i], size)
        return tuple(result)

    def product(self, sizes: Iterable[Expr]) -> Expr:
        """The number of elements of a shape; unsupported where that expression grows beyond reason."""
        result = as_expr(1)
        for size in sizes:
            result = result * size
            if weight(result) > WEIGHT_LIMIT:
                self.unsupported(f"a number of elements as complicated as {str(result)[:60]}…")
        return result

    def axis(self, axis: int, rank: int) -> int:
        """``axis`` counted from the front. Fails when it is out of range."""
        if not -rank <= axis < rank:
            self.fail(f"axis {axis} is out of range for rank {rank}")
        return axis % rank

    def bounds(self, size: IntLike) -> tuple[int, int]:
        """Inclusive bounds of a size."""
        return self._scope.dimensions.bounds(as_expr(size))

    def hangs_on_run(self, e: Expr) -> bool:
        """Whether ``e`` mentions what only a run can tell."""
        return self._scope.dimensions.hangs_on_late(e)

    def new_size(self, hint: str, upper: IntLike) -> Expr:
        """A fresh symbol for a size that depends on run-time values, between 0 and ``upper``. The node's program reads
        it from memory; the lowering finds it again under ``hint``.
        """
        if self._scope.is_body:
            self.unsupported(f"a size that depends on run-time values ({hint}) inside a function body")
        owner = self.node.outputs[0].name or hint
        late = Late(owner, self._where())
        self.late = True
        self.defined[hint] = self._scope.dimensions.add_late(f"{owner}_{hint}", late, 0, self.bounds(upper)[1])
        return self.defined[hint]

    # -- results -------------------------------------------------------------------------------------------------

    def set_known(self, elements: Known | Sequence[IntLike] | IntLike | None, output: int = 0) -> None:
        """Declare the symbolic elements of an integer output; ``None`` is ignored."""
        if elements is None:
            return
        array = np.array(elements, dtype=object)
        if array.size <= graph.KNOWN_LIMIT:
            known = graph.expressions(array)
            if followable(known.flat):
                self.known_outputs[output] = known

    def fail(self, cause: str) -> NoReturn:
        """The node is wrong: its inputs do not fit."""
        raise Mismatch(cause)

    def unsupported(self, reason: str) -> NoReturn:
        """The node may be right, but this use of it is not supported."""
        raise Unsupported(reason)

    def _where(self) -> str:
        return f"{self.node.op_type} {self.node.name or self.node.outputs[0].name!r}"


def type_name(code: int) -> str:
    """The ONNX name of an element type, or its number."""
    try:
        return ir.DataType(code).name
    except ValueError:
        return str(code)
