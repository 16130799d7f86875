"""What a rule sees of its node, and where rules register.

    @rule("Relu", padding=Padding.POINTWISE)
    def relu(ctx: Rule) -> Tensor:
        x = ctx.input(0)
        return ctx.result(hlo.maximum(x.value, ctx.splat(0, x)))

Rules are found by operator; the files of :mod:`tilewright.backends.xla.rules` are imported on first use.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pkgutil import iter_modules
from typing import Any, Union

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from tilewright.backends.xla import build
from tilewright.backends.xla.build import Value
from tilewright.backends.xla.dialect import stablehlo
from tilewright.backends.xla.sizes import Sizes, Unmaskable
from tilewright.backends.xla.why import computed_from
from tilewright.errors import UnsupportedError
from tilewright.ir.graph import constant_array, is_constant, known_value
from tilewright.ir.symbolic import Expr
from tilewright.ir.types import DType, TensorType

#: Tensors of at most this many known elements are put together from sizes one by one.
FOLLOWED = 64


class Padding(Enum):
    """What a rule does about padded dimensions."""

    #: Each element is computed from elements of the same index (or of size 1): padding stays padding.
    POINTWISE = "pointwise"
    #: The rule masks what it has to (:mod:`tilewright.backends.xla.sizes`).
    MASKED = "masked"
    #: Not thought through: no padded dimension may reach it.
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Quantized:
    """What a dequantized tensor stands for: ``value`` (narrow integers), ``scale`` and ``zero``; ``axis`` and
    ``block`` as of DequantizeLinear (``axis`` is ``None`` for one scale)."""

    value: Tensor
    scale: Tensor
    zero: Tensor | None
    axis: int | None = None
    block: int = 0


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value of the program: its MLIR value and its symbolic type; ``quantized`` is what it is the dequantized form
    of, ``source`` the value of the graph that it is, where it is one."""

    value: Value
    type: TensorType
    quantized: Quantized | None = None
    source: ir.Value | None = None

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    @property
    def rank(self) -> int:
        return self.type.rank

    @property
    def shape(self) -> tuple[int, ...]:
        """Static sizes."""
        return build.shape_of(self.value)


@dataclass(frozen=True, slots=True)
class Policy:
    """How to compute where the graph leaves that open.

    Attributes:
        precision: of products of f32, as of StableHLO: ``HIGHEST``, ``HIGH`` or ``DEFAULT``.
        wide: narrow floats are summed in f32 (products, reductions, norms).
    """

    precision: str = "HIGHEST"
    wide: bool = True


class Rule:
    """A node while it is lowered."""

    def __init__(
        self,
        model: ir.Model,
        node: ir.Node,
        inputs: Sequence[Tensor | None],
        types: Sequence[TensorType | None],
        sizes: Sizes,
        policy: Policy,
        known: Mapping[ir.Value, Any] | None = None,
    ):
        """``types`` are those of the outputs; ``known`` the known integers of values that have none of their own (in a
        function body)."""
        self.model, self.node, self.types = model, node, types
        self.sizes, self.policy = sizes, policy
        self._inputs = inputs
        self._known = known or {}

    # -- what there is -----------------------------------------------------------------------------------------------

    def has(self, index: int) -> bool:
        """True when input ``index`` is given."""
        return index < len(self._inputs) and self._inputs[index] is not None

    @property
    def count(self) -> int:
        """Inputs of the node, those left out among them."""
        return len(self._inputs)

    def input(self, index: int) -> Tensor:
        """Input ``index``, which must be there."""
        found = self._inputs[index] if index < len(self._inputs) else None
        if found is None:
            raise self.unsupported(f"input {index} is left out")
        return found

    def type(self, output: int = 0) -> TensorType:
        """The type of an output that is asked for."""
        found = self.types[output]
        if found is None:
            raise self.unsupported(f"output {output} has no type")
        return found

    def wants(self, output: int) -> bool:
        """Whether an output is asked for."""
        return output < len(self.types) and self.types[output] is not None

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of an attribute (``str``, ``int``, ``float``, sequences of them, a tensor)."""
        found = self.node.attributes.get(name)
        return default if found is None else found.value

    def constant(self, index: int) -> NDArray[Any] | None:
        """The elements of an input that is a constant of the model, or whose known elements are numbers."""
        value = self._value(index)
        if value is None:
            return None
        if is_constant(value):
            return constant_array(value)
        known = self.known(index)
        if known is None or not all(e.is_constant for e in known.flat):
            return None
        return np.array([e.value for e in known.flat], np.int64).reshape(known.shape)

    def known(self, index: int) -> NDArray[Any] | None:
        """The elements of a short integer input as expressions, where they are known."""
        return self._followed(self._value(index))

    def _followed(self, value: ir.Value | None) -> NDArray[Any] | None:
        """What is known of a value, over sizes of the program: others a run may tell too late."""
        if value is None:
            return None
        known = self._known[value] if value in self._known else known_value(value)
        return known if known is None or all(e.symbols <= self.sizes.bucket.keys() for e in known.flat) else None

    def integers(self, index: int) -> list[int]:
        """The elements of a short integer input; refused when they are not known while compiling."""
        found = self.constant(index)
        if found is None:
            raise self.computed(index)
        return [int(v) for v in np.atleast_1d(found).reshape(-1)]

    def axes(self, index: int, rank: int, default: Sequence[int]) -> list[int]:
        """Axes from the attribute ``axes`` or input ``index``, not negative."""
        given = self.attribute("axes")
        if given is None:
            given = self.integers(index) if self.has(index) else list(default)
        return [int(a) % rank for a in given]

    def _value(self, index: int) -> ir.Value | None:
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def followed(self) -> list[Tensor | None] | None:
        """The outputs, where shape inference knows the elements of all: they are written from sizes."""
        made: list[Tensor | None] = []
        for value, type_ in zip(self.node.outputs, self.types, strict=True):
            if type_ is None:
                made.append(None)
                continue
            known = self._followed(value)
            if known is None or (known.size > FOLLOWED and not all(e.is_constant for e in known.flat)):
                return None
            if any(e.symbols - self.sizes.bucket.keys() for e in known.flat):  # symbols that only a run tells
                return None
            made.append(Tensor(self.elements(known, type_.dtype), type_))
        return made

    def elements(self, known: NDArray[Any], dtype: DType) -> Value:
        """A tensor of expressions, true while the program runs."""
        if all(e.is_constant for e in known.flat):
            return build.literal(np.array([e.value for e in known.flat], np.int64).reshape(known.shape), dtype)
        parts = [build.reshape(self.integer(e, dtype), (1,)) for e in known.flat]
        return build.reshape(build.concatenate(parts, 0), known.shape)

    # -- results -----------------------------------------------------------------------------------------------------

    def result(self, value: Value, output: int = 0, **more: Any) -> Tensor:
        """``value`` as an output; its static shape has to be the output's."""
        type_ = self.type(output)
        expected = self.sizes.shape(type_.shape)
        if build.shape_of(value) != expected:
            raise AssertionError(f"{self.node.op_type}: shape {build.shape_of(value)}, not {expected}")
        return Tensor(value, type_, **more)

    def unsupported(self, cause: str) -> UnsupportedError:
        """An error that names the node."""
        return UnsupportedError(
            "operator-form-unsupported",
            where=f"node {self.node.name!r}: {self.node.op_type}",
            cause=cause,
            fix="let it run on the host part (--fallback), rewrite the operator, or make the operand a constant",
            problems=(f"{self.node.op_type} {self.node.name!r}: {cause}",),
        )

    def computed(self, index: int) -> UnsupportedError:
        """The error for an operand that has to be known, with the inputs of the model that it is computed from."""
        return self.unsupported(f"input {index} is computed at run time{computed_from(self._value(index))}")

    # -- sizes -------------------------------------------------------------------------------------------------------

    def shape(self, output: int = 0) -> tuple[int, ...]:
        """Static sizes of an output."""
        return self.sizes.shape(self.type(output).shape)

    def padded(self, x: Tensor, dims: Sequence[int] | None = None) -> list[int]:
        """Which of ``dims`` (of all) may be shorter than their static size."""
        return [d for d in (range(x.rank) if dims is None else dims) if self.sizes.is_padded(x.type.shape[d])]

    def valid(self, x: Tensor, dims: Sequence[int]) -> Value | None:
        """Booleans of the static shape of ``x``: whether the index is below the true size along all of ``dims``;
        ``None`` where none of them is padded."""
        hlo = stablehlo()
        found: Value | None = None
        for d in self.padded(x, dims):
            length = build.broadcast(self.sizes.true(x.type.shape[d]), x.shape, ())
            inside = build.compare(build.iota(DType.I32, x.shape, d), length, "LT", "SIGNED")
            found = inside if found is None else hlo.and_(found, inside)
        return found

    def masked(self, x: Tensor, dims: Sequence[int], identity: float | int | bool) -> Tensor:
        """``x`` with ``identity`` in every element beyond the true size of one of ``dims``; itself where none is
        padded."""
        inside = self.valid(x, dims)
        if inside is None:
            return x
        other = build.splat(identity, x.dtype, x.shape)
        return Tensor(stablehlo().select(inside, x.value, other), x.type)

    def integer(self, expr: Expr, dtype: DType = DType.I64) -> Value:
        """A scalar: a size or another expression over symbols, true while the program runs."""
        if self.sizes.is_padded(expr):
            return build.convert(self.sizes.true(expr), dtype)
        return build.splat(expr.evaluate(self.sizes.bucket), dtype)

    def refuse_padding(self, x: Tensor, dims: Sequence[int] | None = None) -> None:
        """Raise :class:`Unmaskable` where one of ``dims`` is padded."""
        if dims := self.padded(x, dims):
            sizes = [x.type.shape[d] for d in dims]
            symbols = {s for e in sizes for s in e.symbols}
            raise Unmaskable(
                f"{self.node.op_type} cannot work on a padded dimension ({', '.join(map(str, sizes))})", symbols
            )

    # -- shorthand ---------------------------------------------------------------------------------------------------

    def splat(self, number: float | int | bool, like: Tensor) -> Value:
        """``number`` in the type and static shape of a tensor."""
        return build.splat(number, like.dtype, like.shape)

    def broadcast(self, x: Tensor, type_: TensorType) -> Value:
        """``x`` repeated to a type's sizes by NumPy's rule. Sizes that a run has to find equal may differ in the
        bucket: padding makes up for it."""
        shape = self.sizes.shape(type_.shape)
        own = [1 if e == 1 else n for e, n in zip(x.type.shape, shape[len(shape) - x.rank :], strict=True)]
        return build.trailing(build.fit(x.value, own), shape)

    def wide(self, dtype: DType) -> DType:
        """The type that sums of ``dtype`` are computed in."""
        return DType.F32 if self.policy.wide and dtype.is_float and dtype.bits < 32 else dtype


Lowering = Callable[[Rule], Union[Tensor, Sequence["Tensor | None"]]]


@dataclass(frozen=True, slots=True)
class Entry:
    """A rule of the table."""

    lower: Lowering
    padding: Padding


_RULES: dict[str, Entry] = {}


def rule(*names: str, padding: Padding = Padding.NONE) -> Callable[[Lowering], Lowering]:
    """Register a rule for operators of the ONNX domain."""

    def register(lower: Lowering) -> Lowering:
        for name in names:
            if name in _RULES:
                raise ValueError(f"two rules for {name}")
            _RULES[name] = Entry(lower, padding)
        return lower

    return register


def find_rule(domain: str, operator: str) -> Entry | None:
    """The rule of an operator, or ``None``."""
    load_rules()
    return _RULES.get(operator) if domain in ("", "ai.onnx") else None


@cache
def load_rules() -> None:
    """Import every family file, which registers its rules."""
    import tilewright.backends.xla.rules as families

    for name in sorted(m.name for m in iter_modules(families.__path__)):
        importlib.import_module(f"{families.__name__}.{name}")
