"""How much arithmetic a region is, over its symbols, counted from the graph.

Products count by their multiplications, everything else by the elements that it reads or writes, whichever are more.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
from tilewright.ir.graph import has_type, type_of
from tilewright.ir.symbolic import ZERO, Expr, constant
from tilewright.ir.symbolic import product as multiplied
from tilewright.passes.place import Region


def work_of(region: Region) -> dict[Expr, int]:
    """Expressions of work, and how often each occurs: the layers of a model are alike. Sizes that only a run tells do
    not count."""
    found: dict[Expr, int] = {}
    for node in region.nodes:
        e = operations(node)
        found[e] = found.get(e, 0) + 1
    return found


def evaluated(work: Mapping[Expr, int], sizes: Mapping[str, int]) -> float:
    """The sum at these sizes."""
    return float(sum(e.evaluate(sizes) * n for e, n in work.items()))


def operations(node: ir.Node) -> Expr:
    """The multiplications of a product, the elements that another operator goes through; 0 where sizes hang on data."""
    values = [v for v in (*node.inputs, *node.outputs) if v is not None and v.name and has_type(v)]
    shapes = {v: type_of(v).shape for v in values}
    made = [shapes[v] for v in node.outputs if v in shapes]
    read = [() if v is None or v not in shapes else shapes[v] for v in node.inputs]
    if not made:
        return ZERO
    match node.op_type:
        case "MatMul" | "MatMulInteger" if read[0]:
            return multiplied(made[0]) * read[0][-1]
        case "Gemm":
            transposed = node.attributes.get("transA")
            return multiplied(made[0]) * read[0][0 if transposed is not None and transposed.value else 1]
        case "Conv" | "ConvInteger":
            return multiplied(made[0]) * multiplied(read[1][1:])
        case "ConvTranspose":
            return multiplied(read[0]) * multiplied(read[1][1:])
        case "Attention" if len(read[0]) == 4:
            keys = made[1][2] if len(made) > 1 else read[1][2]
            return multiplied(read[0]) * keys * 2
        case "Attention":
            return multiplied(read[0]) * (made[1][2] if len(made) > 1 else read[1][1]) * 2
    # The larger of two sums is not known before sizes are; that of the outputs stands for both.
    counts = [multiplied(shape) for shape in (*made, *read)]
    degree = [sum(p for m, _ in e.terms[-1:] for _, p in m) for e in counts]
    return counts[degree.index(max(degree))] if counts else constant(0)
