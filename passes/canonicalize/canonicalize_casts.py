"""``canonicalize-casts``: casts by the types that are known, and none there and back around a choice.

    CastLike(x, like)                        →  Cast<type of like>(x)
    Cast<T>(Where(c, Cast<wide>(x), k))      →  Where(c, x, Cast<T>(k))     x of type T, which wide holds; k constant

What was read for its type alone is then no longer read. The second is how a mask is left behind whose constant a
narrow type does not hold: what is masked is of that type before and after, and the constant becomes what the Cast made
of it (-∞ of -3.4e38). Nothing is rounded otherwise than before.
"""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir
from tilewright.ir.graph import is_constant, type_of
from tilewright.ir.types import DType
from tilewright.passes.base import Miss
from tilewright.passes.rewrite import RewritePass, Rewriter, required

#: Types that hold every value of another.
_HOLD = {DType.F16: (DType.F32, DType.F64), DType.BF16: (DType.F32, DType.F64), DType.F32: (DType.F64,)}


class CanonicalizeCasts(RewritePass):
    """Attributes (``saturate``, ``round_mode``) are the same in CastLike and Cast."""

    name: ClassVar[str] = "canonicalize-casts"
    operators: ClassVar[frozenset[str]] = frozenset(["CastLike", "Cast"])

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        if node.op_type == "Cast":
            return _through_where(node, rewriter)
        attributes = {name: a.value for name, a in node.attributes.items()} | {
            "to": type_of(node.outputs[0]).dtype.onnx
        }
        cast = rewriter.new("Cast", [required(node, 0)], before=node, attributes=attributes)
        rewriter.replace(node.outputs[0], cast)
        return True


def _through_where(node: ir.Node, rewriter: Rewriter) -> bool:
    chosen, narrow = required(node, 0), type_of(node.outputs[0]).dtype
    where = chosen.producer()
    if where is None or where.op_type != "Where" or chosen.is_graph_output() or len(chosen.uses()) != 1:
        return False
    branches = [required(where, 1), required(where, 2)]
    before = [_narrow(b, narrow) for b in branches]
    if not any(before) or not all(x or is_constant(b) for x, b in zip(before, branches, strict=True)):
        return False
    values = [
        x or rewriter.new("Cast", [b], before=node, attributes={"to": narrow.onnx})
        for x, b in zip(before, branches, strict=True)
    ]
    rewriter.replace(node.outputs[0], rewriter.new("Where", [required(where, 0), *values], before=node))
    return True


def _narrow(value: ir.Value, narrow: DType) -> ir.Value | None:
    """What ``value`` was before it was cast to a type that holds ``narrow``, its type then."""
    cast = value.producer()
    if cast is None or cast.op_type != "Cast" or type_of(value).dtype not in _HOLD.get(narrow, ()):
        return None
    source = required(cast, 0)
    return source if type_of(source).dtype is narrow else None
