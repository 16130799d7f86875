"""``decompose-einsum``: an Einstein sum becomes sums along axes and products of two, matrix products where it is one.

    Einsum<"bhid,bhjd->bhij">(q, k)  →  MatMul(q, Transpose(k))
    Einsum<"ij,jk,kl->il">(a, b, c)  →  Einsum<"ik,kl->il">(Einsum<"ij,jk->ik">(a, b), c)

So what other passes do with products and transpositions, they do here as well. Of three operands and more the two come
first whose product has the fewest axes. Diagonals, products that sum nothing, and operands that broadcast against each
other along a label stay an Einsum, which has a lowering of its own.

Semantics: ONNX operator reference, Einsum; NumPy's ``einsum``.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from tilewright.ir.graph import type_of
from tilewright.ir.symbolic import Expr, product
from tilewright.ir.types import DType
from tilewright.ops.einsum import BadEquation, Equation, Labels, read_equation
from tilewright.passes.base import Miss
from tilewright.passes.rewrite import RewritePass, Rewriter, required
from tilewright.passes.views import view

#: What MatMul and ReduceSum are defined for.
_DTYPES = frozenset(map(DType.parse, "f16 bf16 f32 f64 i32 i64 u32 u64".split()))


class DecomposeEinsum(RewritePass):
    """Pairs, then sums along axes, then matrix products."""

    name: ClassVar[str] = "decompose-einsum"
    operators: ClassVar[frozenset[str]] = frozenset(["Einsum"])

    def rewrite(self, node: ir.Node, rewriter: Rewriter) -> bool | Miss:
        operands = [required(node, i) for i in range(len(node.inputs))]
        types = [type_of(x) for x in operands]
        try:
            equation = read_equation(node.attributes["equation"].as_string(), [t.rank for t in types])
        except BadEquation as error:
            return Miss.at(node, str(error))
        if types[0].dtype not in _DTYPES:
            return Miss.at(node, f"no matrix product of {types[0].dtype}")
        if any(len(set(term)) < len(term) for term in equation.terms):
            return Miss.at(node, "a diagonal")
        sizes = _sizes(equation, [t.shape for t in types])
        if sizes is None:
            return Miss.at(node, "operands broadcast along a label")
        made = _Sum(node, rewriter, sizes).write(operands, equation)
        if isinstance(made, str):
            return Miss.at(node, made)
        rewriter.replace(node.outputs[0], made)
        return True


def _sizes(equation: Equation, shapes: Sequence[Sequence[Expr]]) -> dict[str, Expr] | None:
    """The size of each label; ``None`` where operands have different ones."""
    sizes: dict[str, Expr] = {}
    for term, shape in zip(equation.terms, shapes, strict=True):
        for label, size in zip(term, shape, strict=True):
            if sizes.setdefault(label, size) != size:
                return None
    return sizes


class _Sum:
    """Writes one Einstein sum in front of its node; see :meth:`write`."""

    def __init__(self, node: ir.Node, rewriter: Rewriter, sizes: Mapping[str, Expr]):
        self._node, self._rewriter, self._sizes = node, rewriter, sizes

    def write(self, operands: Sequence[ir.Value], equation: Equation) -> ir.Value | str:
        """The value of the sum, or why it stays as it is."""
        if len(operands) > 2:
            return self._paired(list(operands), list(equation.terms), equation.result)
        for n, term in enumerate(equation.terms):
            others = {c for m, t in enumerate(equation.terms) for c in t if m != n}
            alone = [c for c in term if c not in others and c not in equation.result]
            if alone:  # it sums what the other operand does not have
                rest = tuple(c for c in term if c not in alone)
                terms = [rest if m == n else t for m, t in enumerate(equation.terms)]
                axes = self._rewriter.constant(np.array([term.index(c) for c in alone], np.int64), "axes")
                total = self._new("ReduceSum", [operands[n], axes], keepdims=0)
                parts = [total if m == n else x for m, x in enumerate(operands)]
                return self.write(parts, Equation(tuple(terms), equation.result))
        if len(operands) == 1:
            return self._transposed(operands[0], equation.terms[0], equation.result)
        return self._product(operands, equation)

    def _paired(self, operands: list[ir.Value], terms: list[Labels], result: Labels) -> ir.Value | str:
        def kept(i: int, j: int) -> Labels:
            rest = {c for n, t in enumerate(terms) for c in t if n not in (i, j)} | set(result)
            return tuple(dict.fromkeys(c for c in (*terms[i], *terms[j]) if c in rest))

        i, j = min(combinations(range(len(terms)), 2), key=lambda pair: len(kept(*pair)))
        left = kept(i, j)
        first = self._einsum([operands[i], operands[j]], [terms[i], terms[j]], left)
        if first is None:
            return "more labels than letters"
        others = [n for n in range(len(terms)) if n not in (i, j)]
        last = self._einsum([first, *(operands[n] for n in others)], [left, *(terms[n] for n in others)], result)
        assert last is not None
        return last

    def _einsum(self, operands: Sequence[ir.Value], terms: Sequence[Labels], result: Labels) -> ir.Value | None:
        names = dict(zip(self._sizes, string.ascii_letters, strict=False))
        if len(names) < len(self._sizes):
            return None
        left, right = (["".join(names[c] for c in term) for term in part] for part in (terms, [result]))
        return self._new("Einsum", operands, equation=f"{','.join(left)}->{right[0]}")

    def _product(self, operands: Sequence[ir.Value], equation: Equation) -> ir.Value | str:
        """As MatMul of [batch, rows, summed] and [batch, summed, columns]."""
        a, b = equation.terms
        batch = [c for c in a if c in b and c in equation.result]
        summed = [c for c in a if c in b and c not in equation.result]
        rows, columns = [c for c in a if c not in b], [c for c in b if c not in a]
        if not summed:
            return "a product that sums nothing"
        left = self._matrix(operands[0], a, batch, rows, summed)
        right = self._matrix(operands[1], b, batch, summed, columns)
        if left is None or right is None:
            return "several axes of sizes that only a run knows would be one"
        matrix = self._new("MatMul", [left, right])
        order = (*batch, *rows, *columns)
        whole = self._viewed(matrix, order)
        if whole is None:
            return "several axes of sizes that only a run knows would be one"
        return self._transposed(whole, order, equation.result)

    def _matrix(
        self, x: ir.Value, labels: Labels, batch: Iterable[str], rows: Iterable[str], columns: Iterable[str]
    ) -> ir.Value | None:
        batch, rows, columns = tuple(batch), tuple(rows), tuple(columns)
        ordered = self._transposed(x, labels, (*batch, *rows, *columns))
        matrix = tuple(product(self._sizes[c] for c in part) for part in (rows, columns))
        return view(self._rewriter, ordered, (*(self._sizes[c] for c in batch), *matrix), before=self._node)

    def _viewed(self, x: ir.Value, labels: Labels) -> ir.Value | None:
        return view(self._rewriter, x, tuple(self._sizes[c] for c in labels), before=self._node)

    def _transposed(self, x: ir.Value, labels: Labels, order: Labels) -> ir.Value:
        if labels == order:
            return x
        return self._new("Transpose", [x], perm=[labels.index(c) for c in order])

    def _new(self, operator: str, inputs: Sequence[ir.Value], **attributes: object) -> ir.Value:
        return self._rewriter.new(operator, inputs, before=self._node, attributes=attributes)
