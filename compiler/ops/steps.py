"""What a graph becomes: steps in order. And programs: operators that are more than one kernel, or not a tile IR kernel.

    @program("NonZero")
    def nonzero(ctx: Program) -> None:
        x, count = ctx.input(0), ctx.temporary(DType.I64, 1)
        ctx.call("nonzero_count", [x, count], [ctx.type(0).elements])
        ctx.read("count", count)
        ctx.call("nonzero", [x, ctx.output(0)], [...])

A routine is found under its name in the backend (``backends/cpu/routines/nonzero.h``). Attributes are passed among the
integers; a float as the bits of a 64-bit float (:func:`float_bits`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Union

import numpy as np
import onnx_ir as ir
from tilewright.errors import InternalError
from tilewright.ir.graph import known_value, set_type, type_of
from tilewright.ir.late import defined
from tilewright.ir.symbolic import ZERO, Expr, IntLike, as_expr, constant
from tilewright.ir.types import DType, TensorType
from tilewright.kernel.routine import Routine
from tilewright.kernel.tile import Kernel
from tilewright.ops.lower import Build, compose


@dataclass(frozen=True, slots=True)
class View:
    """``result`` is the memory of ``source``."""

    source: ir.Value
    result: ir.Value


@dataclass(frozen=True, slots=True)
class Run:
    """A kernel on graph values, in the order of its parameters."""

    kernel: Kernel
    values: tuple[ir.Value, ...]
    node: ir.Node


@dataclass(frozen=True, slots=True)
class Call:
    """A routine on graph values and temporaries: ``grid`` independent blocks, ``scratch`` bytes for each worker."""

    routine: Routine
    values: tuple[ir.Value, ...]
    dims: tuple[Expr, ...]
    node: ir.Node
    grid: Expr = field(default=constant(1))
    scratch: Expr = ZERO


@dataclass(frozen=True, slots=True)
class Read:
    """Symbol ``name`` becomes element ``element`` of an integer tensor."""

    name: str
    value: ir.Value
    element: int


Step = Union[View, Run, Call, Read]


class Program:
    """What a program sees of its node, and the steps that it has made so far."""

    def __init__(self, model: ir.Model, node: ir.Node, kernel: Callable[[], Run]):
        """``kernel`` lowers the node to a tile IR kernel."""
        self.model, self.node = model, node
        self.steps: list[Step] = []
        self._kernel = kernel
        self._temporaries = 0

    # -- what there is -------------------------------------------------------------------------------------------

    def has(self, index: int) -> bool:
        """True when input ``index`` is given."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def input(self, index: int) -> ir.Value:
        """Input ``index``, which must be there."""
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        if value is None:
            raise InternalError(f"{self.node.op_type} {self.node.name!r} has no input {index}")
        return value

    def type(self, index: int) -> TensorType:
        """The type of an input."""
        return type_of(self.input(index))

    def has_output(self, index: int) -> bool:
        """True when output ``index`` is listed and named."""
        return index < len(self.node.outputs) and bool(self.node.outputs[index].name)

    def output(self, index: int = 0) -> ir.Value:
        """Output ``index``, which must be there (see :meth:`has_output`; else take a temporary)."""
        return self.node.outputs[index]

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of an attribute, or ``default``."""
        found = self.node.attributes.get(name)
        return default if found is None else found.value

    def defined(self, hint: str) -> Expr:
        """What the shape rule defined under ``hint``."""
        return defined(self.node)[hint]

    def defines(self, hint: str) -> bool:
        """Whether the shape rule left something open under ``hint``."""
        return hint in defined(self.node)

    def expressions(self, index: int) -> list[Expr]:
        """The elements of an integer input that the shape rule asked for: constants, or symbols read at run time."""
        known = known_value(self.input(index))
        if known is None:
            raise InternalError(f"the shape rule of {self.node.op_type} did not ask for input {index}")
        return [as_expr(e) for e in known.reshape(-1)]

    # -- what is made --------------------------------------------------------------------------------------------

    def temporary(self, dtype: DType, *shape: IntLike) -> ir.Value:
        """A tensor of this node's own."""
        self._temporaries += 1
        value = ir.Value(name=f"{self.node.outputs[0].name}__{self._temporaries}")
        set_type(value, TensorType.of(dtype, *shape))
        return value

    def constant(self, array: np.ndarray[Any, Any]) -> ir.Value:
        """A constant of this node's own."""
        self._temporaries += 1
        name = f"{self.node.outputs[0].name}__{self._temporaries}"
        taken = {o.name for node in self.model.graph for o in node.outputs} | set(self.model.graph.initializers)
        while name in taken:  # constants are known by name
            name += "_"
        value = ir.val(name, const_value=ir.tensor(array, name=name))
        set_type(value, TensorType.of(DType.from_numpy(array.dtype), *array.shape))
        return value

    def call(
        self,
        routine: str,
        values: Sequence[ir.Value],
        dims: Sequence[IntLike] = (),
        *,
        outputs: int = 1,
        grid: IntLike = 1,
        scratch: IntLike = 0,
    ) -> None:
        """Launch a routine; the last ``outputs`` of ``values`` are written. ``grid`` blocks must be independent."""
        dtypes = tuple(type_of(v).dtype for v in values)
        sizes = tuple(as_expr(d) for d in dims)
        called = Routine(routine, dtypes, outputs, len(sizes))
        self.steps.append(Call(called, tuple(values), sizes, self.node, as_expr(grid), as_expr(scratch)))

    def read(self, hint: str, value: ir.Value, element: int = 0) -> None:
        """The size that the shape rule made under ``hint`` (:meth:`Infer.new_size`) is an element of ``value``."""
        size = self.defined(hint)
        if not size.is_constant:
            self.steps.append(Read(str(size), value, element))

    def launch(self, name: str, inputs: Sequence[ir.Value], output: ir.Value, build: Build) -> None:
        """Launch a tile IR kernel that computes ``output`` as ``build`` composes it from operands for ``inputs``."""
        lowered = compose(self.model, name, inputs, output, build)
        self.steps.append(Run(lowered.kernel, lowered.values, self.node))

    def kernel(self) -> None:
        """Launch the node's own tile IR kernel."""
        self.steps.append(self._kernel())


Rule = Callable[[Program], None]

_PROGRAMS: dict[str, Rule] = {}


def program(*operators: str) -> Callable[[Rule], Rule]:
    """Register a program for operators of the ONNX domain. Its routines see no operator names, only values."""

    def register(rule: Rule) -> Rule:
        for operator in operators:
            if _PROGRAMS.setdefault(operator, rule) is not rule:
                raise ValueError(f"two programs for {operator}")
        return rule

    return register


def program_of(node: ir.Node) -> Rule | None:
    """The program of a node's operator, or ``None`` when it is an ordinary kernel."""
    _load()
    return _PROGRAMS.get(node.op_type) if node.domain in ("", "ai.onnx") else None


@cache
def _load() -> None:
    import tilewright.ops.routines

    for family in sorted(m.name for m in iter_modules(tilewright.ops.routines.__path__)):
        import_module(f"tilewright.ops.routines.{family}")


def float_bits(value: float) -> int:
    """A float as an integer argument of a routine, which has ``tw_float_of`` for the way back."""
    return int(struct.unpack("<q", struct.pack("<d", value))[0])
