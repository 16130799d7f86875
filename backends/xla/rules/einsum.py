"""Einstein sums that no matrix product stands for: diagonals, operands repeated along a label, sums of nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from string import ascii_letters

from tilewright.backends.xla import build
from tilewright.backends.xla.contract import Operand, accumulator, product
from tilewright.backends.xla.dialect import stablehlo
from tilewright.backends.xla.rule import Padding, Rule, Tensor, rule
from tilewright.ir.types import DType, TensorType
from tilewright.ops.einsum import read_equation


@rule("Einsum", padding=Padding.MASKED)
def einsum(ctx: Rule) -> Tensor:
    """One product after the other from the left; what no later operand has is summed as soon as it can be."""
    inputs = [ctx.input(n) for n in range(ctx.count)]
    equation = read_equation(ctx.attribute("equation"), [x.rank for x in inputs])
    names = dict.fromkeys(label for term in equation.terms for label in term)
    if len(names) > len(ascii_letters):
        raise ctx.unsupported(f"{len(names)} labels")
    letters = dict(zip(names, ascii_letters, strict=False))
    out = "".join(letters[label] for label in equation.result)
    operands = [
        _diagonals(ctx, Operand(x, "".join(letters[label] for label in term)))
        for x, term in zip(inputs, equation.terms, strict=True)
    ]
    dtype = accumulator(inputs[0].dtype, ctx)
    found = _widened(operands[0], dtype if len(operands) == 1 else inputs[0].dtype)
    for n, given in enumerate(operands[1:], start=1):
        needed = "".join((out, *(o.labels for o in operands[n + 1 :])))
        other = _summed(ctx, _widened(given, found.tensor.dtype), needed + found.labels)
        found = _summed(ctx, found, needed + other.labels)
        kept = "".join(c for c in dict.fromkeys(found.labels + other.labels) if c in needed)
        sizes = {c: s for o in (other, found) for c, s in zip(o.labels, o.tensor.type.shape, strict=True)}
        for c, s in zip(other.labels, other.tensor.type.shape, strict=True):
            sizes[c] = s if sizes[c] == 1 else sizes[c]
        value = product(ctx, found, other, kept, dtype)
        found = Operand(Tensor(value, TensorType(dtype, tuple(sizes[c] for c in kept))), kept)
    found = _summed(ctx, found, out)
    value = build.transpose(found.tensor.value, [found.labels.index(c) for c in out])
    return ctx.result(build.convert(value, ctx.type().dtype))


def _widened(x: Operand, dtype: DType) -> Operand:
    value = build.convert(x.tensor.value, dtype)
    return replace(x, tensor=Tensor(value, TensorType(dtype, x.tensor.type.shape)))


def _summed(ctx: Rule, x: Operand, needed: Sequence[str]) -> Operand:
    """With sums over the labels that nobody needs."""
    dims = [d for d, label in enumerate(x.labels) if label not in needed]
    if not dims:
        return x
    masked = ctx.masked(x.tensor, dims, 0)
    made = build.reduce(masked.value, build.splat(0, masked.dtype), dims, stablehlo().add)
    kept = [d for d in range(len(x.labels)) if d not in dims]
    type_ = TensorType(masked.dtype, tuple(x.tensor.type.shape[d] for d in kept))
    return Operand(Tensor(made, type_), "".join(x.labels[d] for d in kept))


def _diagonals(ctx: Rule, x: Operand) -> Operand:
    """With one dimension for labels that occur twice: everything off the diagonal is 0, and summed."""
    hlo = stablehlo()
    for label in dict.fromkeys(x.labels):
        while x.labels.count(label) > 1:
            first, second = [d for d, c in enumerate(x.labels) if c == label][:2]
            tensor = x.tensor
            rows, columns = (build.iota(DType.I32, tensor.shape, d) for d in (first, second))
            on = build.compare(rows, columns, "EQ", "SIGNED")
            zeros = build.splat(0, tensor.dtype, tensor.shape)
            value = hlo.select(on, tensor.value, zeros)
            made = build.reduce(value, build.splat(0, tensor.dtype), [second], hlo.add)
            kept = [d for d in range(tensor.rank) if d != second]
            type_ = TensorType(tensor.dtype, tuple(tensor.type.shape[d] for d in kept))
            x = Operand(Tensor(made, type_), "".join(x.labels[d] for d in kept))
    return x
