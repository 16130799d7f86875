"""How each operator of the ONNX domain is supported, of any model: :func:`operator_table`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import onnx_ir as ir
from tilewright.frontend import contrib
from tilewright.frontend.blocks import is_block_operator
from tilewright.frontend.definition import has_definition
from tilewright.ops.lower import has_lowering
from tilewright.ops.program import VIEWS
from tilewright.ops.registry import find_shape_rule
from tilewright.ops.steps import program_of
from tilewright.ways import ABSENT, REWRITTEN

#: What the import brings to another operator.
_IMPORTED = {
    "Constant": "an initializer",
    "If": "the branch that is known, else both and a choice",
    **dict.fromkeys(("Loop", "Scan"), "turn by turn, when their number is known"),
    "Scatter": "as ScatterElements",
    "Upsample": "as Resize",
}
#: Weights in blocks of 4 bits.
_BLOCKS = tuple(n for n in ("GatherBlockQuantized", "MatMulNBits") if is_block_operator(contrib.DOMAIN, n))


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator of the newest opset. ``way`` is a key of :data:`tilewright.support.WAYS`, or ``no``; ``note`` why."""

    name: str
    since: int
    way: str
    note: str = ""


def contributed_operators() -> tuple[Operator, ...]:
    """The quantized operators of ``com.microsoft`` that are imported, and those that are refused for a reason of their
    own, by name."""
    rows = [
        Operator(n, 1, "rewritten", "as ONNX operators at import") for n in (*contrib.expanded_operators(), *_BLOCKS)
    ]
    rows += [Operator(n, 1, "no", reason) for n, reason in contrib.REFUSED.items()]
    return tuple(sorted((replace(r, name=f"{contrib.DOMAIN}::{r.name}") for r in rows), key=lambda r: r.name))


def on_graph_target(operator: Operator, knows: Callable[[ir.Node], bool]) -> str:
    """How a target of programs computes an operator that kernels compute as ``operator`` says: a key of
    :data:`tilewright.support.WAYS`, or ``no``. ``knows`` is the backend's."""
    domain, _, name = operator.name.rpartition("::")
    if operator.way == "compile time" or name in _IMPORTED or (domain and operator.way == "rewritten"):
        return operator.way
    if knows(ir.Node(domain, name, [])):
        return "program"
    if not domain and operator.way != "no" and has_definition("", name, operator.since):
        return "function body"
    return "host part" if operator.way in ("kernel", "routine", "view") else operator.way


def operator_table() -> tuple[Operator, ...]:
    """Every operator of the ``ai.onnx`` domain, by name; forms of one may still be refused, which a check tells."""
    import onnx

    newest: dict[str, onnx.defs.OpSchema] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and (
            schema.name not in newest or newest[schema.name].since_version < schema.since_version
        ):
            newest[schema.name] = schema
    return tuple(_operator(name, newest[name].since_version, newest[name].deprecated) for name in sorted(newest))


def _operator(name: str, since: int, deprecated: bool) -> Operator:
    if name in _IMPORTED:
        return Operator(name, since, "compile time" if name == "Constant" else "rewritten", _IMPORTED[name])
    node = ir.Node("", name, [])
    if program_of(node) is not None:
        return Operator(name, since, "routine")
    if name in VIEWS:
        return Operator(name, since, "view")
    if name in REWRITTEN:
        return Operator(name, since, "rewritten", REWRITTEN[name])
    known = find_shape_rule("", name) is not None
    if known and has_lowering(ir.Model(ir.Graph([], [], nodes=[]), ir_version=10), node):
        return Operator(name, since, "kernel")
    if name not in ABSENT and not deprecated and has_definition("", name, since):
        return Operator(name, since, "function body")
    return Operator(name, since, "no", ABSENT.get(name, "deprecated" if deprecated else "nothing computes it yet"))
