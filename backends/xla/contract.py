"""Products of two tensors with named dimensions as one ``dot_general``: nothing is transposed or repeated before it.

Transposes and reshapes that only insert dimensions of size 1, in front of a product, become part of its dimension
numbers (:func:`seen_through`); what they were is left without a reader and goes when the module is cleaned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tilewright.backends.xla import build
from tilewright.backends.xla.build import Value
from tilewright.backends.xla.dialect import stablehlo
from tilewright.backends.xla.rule import Rule, Tensor
from tilewright.ir.types import DType, TensorType

#: Narrow floats whose products are summed in f32.
NARROW = frozenset(
    (DType.F16, DType.BF16, DType.F8E4M3, DType.F8E4M3FNUZ, DType.F8E5M2, DType.F8E5M2FNUZ, DType.F4E2M1)
)


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor and the label of each of its dimensions."""

    tensor: Tensor
    labels: str

    def sizes(self) -> dict[str, int]:
        """Static size by label."""
        return dict(zip(self.labels, self.tensor.shape, strict=True))

    def without(self, labels: str) -> Operand:
        """Without the dimensions of these labels, which are of size 1."""
        kept = [d for d, label in enumerate(self.labels) if label not in labels]
        if len(kept) == len(self.labels):
            return self
        value = build.reshape(self.tensor.value, [self.tensor.shape[d] for d in kept])
        shape = tuple(self.tensor.type.shape[d] for d in kept)
        return Operand(Tensor(value, TensorType(self.tensor.dtype, shape)), "".join(self.labels[d] for d in kept))


def seen_through(operand: Operand) -> Operand:
    """The operand before transposes and inserted dimensions; labels of those that were inserted are missing."""
    value, places = operand.tensor.value, list(range(len(operand.labels)))  # of each dimension, in ``value``; -1: none
    while True:
        owner: Any = getattr(value, "owner", None)  # an operation, or a block for an argument
        name = getattr(owner, "name", "")
        if name == "stablehlo.transpose":
            order = list(owner.attributes["permutation"])
            places = [p if p < 0 else order[p] for p in places]
        elif name == "stablehlo.reshape":
            inserted = _inserted(build.shape_of(owner.operands[0]), build.shape_of(value))
            if inserted is None:
                break
            places = [p if p < 0 else inserted[p] for p in places]
        else:
            break
        value = owner.operands[0]
    if value is operand.tensor.value:
        return operand
    of = {p: d for d, p in enumerate(places) if p >= 0}
    order = [of[p] for p in range(len(of))]
    type_ = TensorType(operand.tensor.dtype, tuple(operand.tensor.type.shape[d] for d in order))
    return Operand(Tensor(value, type_), "".join(operand.labels[d] for d in order))


def _inserted(before: Sequence[int], after: Sequence[int]) -> list[int] | None:
    """For each dimension of ``after`` which of ``before`` it is, -1 for one of size 1 that was inserted; ``None`` for
    any other change of shape."""
    found, n = [], 0
    for size in after:
        if n < len(before) and before[n] == size:
            found.append(n)
            n += 1
        elif size == 1:
            found.append(-1)
        else:
            return None
    return found if n == len(before) else None


def accumulator(dtype: DType, ctx: Rule) -> DType:
    """The type that products of ``dtype`` are summed in."""
    if dtype in NARROW:
        return DType.F32 if ctx.policy.wide else dtype
    return DType.I32 if dtype.is_integer and dtype.bits < 32 else dtype


def product(ctx: Rule, x: Operand, y: Operand, out: str, result: DType, look_through: bool = True) -> Value:
    """``Σ x·y`` over the labels that are not in ``out``, by NumPy's rule of repetition along the others.

    The static shape is that of ``out``, in this order, with sums of type ``result``. Labels that are summed have to be
    in both; padded ones are masked on both sides (what lies there may be NaN).
    """
    size = _sizes(x, y)
    if look_through:
        x, y = seen_through(x), seen_through(y)
    x, y = _matched(x, size, y, out), _matched(y, size, x, out)
    if _out_of_order(x, y, out) and not _out_of_order(y, x, out):
        x, y = y, x
    contracted = [label for label in x.labels if label not in out]
    x, y = (_masked(ctx, v, contracted) for v in (x, y))
    batch = [label for label in out if label in x.labels and label in y.labels]
    precision = ctx.policy.precision if result is x.tensor.dtype else "DEFAULT"  # of floats that are not narrow
    made = build.dot(
        x.tensor.value,
        y.tensor.value,
        ([x.labels.index(b) for b in batch], [y.labels.index(b) for b in batch]),
        ([x.labels.index(c) for c in contracted], [y.labels.index(c) for c in contracted]),
        result,
        precision,
    )
    labels = _result_labels(x, y, out)
    present = [label for label in out if label in labels]
    return build.reshape(build.transpose(made, [labels.index(p) for p in present]), [size[o] for o in out])


def _sizes(x: Operand, y: Operand) -> dict[str, int]:
    left, right = x.sizes(), y.sizes()
    return {label: max(left.get(label, 1), right.get(label, 1)) if 0 not in (left.get(label), right.get(label)) else 0
            for label in {**left, **right}}  # fmt: skip


def _matched(x: Operand, size: dict[str, int], y: Operand, out: str) -> Operand:
    """Without dimensions of size 1 that are repeated, or that are summed and the other lacks."""
    own = x.sizes()
    repeated = [label for label in x.labels if own[label] == 1 and size[label] != 1]
    alone = [label for label in x.labels if label not in out and label not in y.labels and own[label] == 1]
    return x.without("".join((*repeated, *alone)))


def _result_labels(x: Operand, y: Operand, out: str) -> str:
    """Labels of what ``dot_general`` gives."""
    batch = [label for label in out if label in x.labels and label in y.labels]
    free = [label for v, w in ((x, y), (y, x)) for label in v.labels if label in out and label not in w.labels]
    return "".join((*batch, *free))


def _out_of_order(x: Operand, y: Operand, out: str) -> bool:
    labels = _result_labels(x, y, out)
    return labels != "".join(label for label in out if label in labels)


def _masked(ctx: Rule, x: Operand, labels: Sequence[str]) -> Operand:
    return replace(x, tensor=ctx.masked(x.tensor, [x.labels.index(label) for label in labels], 0))


def count(ctx: Rule, x: Tensor, dims: Sequence[int], dtype: DType) -> Value:
    """How many valid elements there are along ``dims``: a scalar."""
    made = build.splat(1, dtype)
    for d in dims:
        made = stablehlo().multiply(made, ctx.integer(x.type.shape[d], dtype))
    return made
