"""How many kernels a graph is, and what it converts between layouts: for reports and golden tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir
from tilewright.ir.graph import body_of, is_constant, type_of
from tilewright.ir.symbolic import product
from tilewright.passes.layout.problem import MEMORY


@dataclass(frozen=True, slots=True)
class Account:
    """``kernels`` without views; ``conversions``: Transposes between kernels, which copy ``converted`` bytes a run."""

    kernels: int
    conversions: int
    converted: int


def account(model: ir.Model, sizes: Mapping[str, int]) -> Account:
    """The account of ``model`` at the given sizes of its named dimensions."""
    kernels = [n for n in model.graph if not _is_free(model, n)]
    moved = [n for n in kernels if _only_moves(model, n)]
    types = [type_of(n.outputs[0]) for n in moved]
    converted = sum(t.dtype.numpy.itemsize * product(t.shape).evaluate(sizes) for t in types)
    return Account(len(kernels), len(moved), converted)


def _is_free(model: ir.Model, node: ir.Node) -> bool:
    """Views, and what is computed while compiling."""
    view = body_of(model, node) is None and node.domain in ("", "ai.onnx") and node.op_type in MEMORY
    return view or all(is_constant(o) for o in node.outputs)


def _only_moves(model: ir.Model, node: ir.Node) -> bool:
    """A Transpose, alone or with others and views in a body."""
    body = body_of(model, node)
    operators = {n.op_type for n in ([node] if body is None else body)} - MEMORY - {"Constant"}
    return operators == {"Transpose"}
