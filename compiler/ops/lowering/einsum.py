"""Lowering of Einstein sums."""

from __future__ import annotations

from functools import reduce

from tilewright.ir.symbolic import ZERO, Expr
from tilewright.kernel.expr import Value
from tilewright.ops.compose import Index, Operand, binary, cast
from tilewright.ops.einsum import read_equation
from tilewright.ops.lower import Context, lowering
from tilewright.ops.lowering.reduction import accumulator


@lowering("Einsum")
def _lower_einsum(ctx: Context) -> Operand:
    """The sum of the products of what the operands hold where their labels are. Products of three and more are taken
    at once; the passes make pairs of them first.
    """
    operands = [ctx.input(i) for i in range(len(ctx.inputs))]
    equation = read_equation(ctx.attribute("equation"), [x.type.rank for x in operands])
    dtype = ctx.outputs[0].dtype
    wide = accumulator(dtype)
    sizes: dict[str, Expr] = {}
    for term, x in zip(equation.terms, operands, strict=True):
        for label, size in zip(term, x.type.shape, strict=True):
            if sizes.get(label, 1) == 1:
                sizes[label] = size

    def at(index: tuple[Index, ...]) -> Value:
        places: dict[str, Index] = dict(zip(equation.result, index, strict=True))
        over = [ctx.composer.axis(sizes[label], "k") for label in equation.summed]
        places.update(zip(equation.summed, over, strict=True))

        def element(term: tuple[str, ...], x: Operand) -> Value:
            # An axis of size 1 broadcasts.
            own = [ZERO if n == 1 else places[label] for label, n in zip(term, x.type.shape, strict=True)]
            return cast(x.at(own), wide)

        elements = [element(term, x) for term, x in zip(equation.terms, operands, strict=True)]
        value = reduce(lambda a, b: binary("mul", a, b), elements)
        return cast(ctx.composer.reduce("sum", over, value, "acc") if over else value, dtype)

    return ctx.result(at)
