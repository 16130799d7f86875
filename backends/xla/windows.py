"""Windows that slide over spatial dimensions: what convolutions and pools share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tilewright.backends.xla.build import Value
from tilewright.backends.xla.dialect import bindings, stablehlo
from tilewright.backends.xla.rule import Rule, Tensor
from tilewright.backends.xla.sizes import Unmaskable


@dataclass(frozen=True, slots=True)
class Slide:
    """A window, one entry per spatial dimension. ``before`` and ``after`` are positions beyond the ends (``after`` such
    that exactly the output comes out; it may be negative); ``ends`` are those of them that the operator's own padding
    covers: windows may reach further."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    ends: tuple[int, ...]

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Padding before and after."""
        return list(zip(self.before, self.after, strict=True))


def slide(ctx: Rule, x: Tensor, kernel: Sequence[int], out: Sequence[int]) -> Slide:
    """The window of the node over ``x`` ([N, C, *spatial]); ``out`` are the static spatial sizes of the output.

    Raises :class:`Unmaskable` where the padding in front hangs on a size that only the run tells.
    """
    rank, spatial = len(kernel), x.shape[2:]
    strides = tuple(ctx.attribute("strides") or (1,) * rank)
    dilations = tuple(ctx.attribute("dilations") or (1,) * rank)
    mode = ctx.attribute("auto_pad", "NOTSET") or "NOTSET"
    pads = tuple(ctx.attribute("pads") or (0,) * (2 * rank)) if mode == "NOTSET" else (0,) * (2 * rank)
    before, after, ends = list(pads[:rank]), [], list(pads[rank:])
    for d in range(rank):
        extent = (kernel[d] - 1) * dilations[d] + 1
        if mode.startswith("SAME"):
            if strides[d] != 1 and ctx.padded(x, [d + 2]):
                raise Unmaskable(f"{ctx.node.op_type} pads in front by the size {x.type.shape[d + 2]}")
            total = max(0, (out[d] - 1) * strides[d] + extent - spatial[d])
            before[d] = total // 2 if mode == "SAME_UPPER" else total - total // 2
            ends[d] = total - before[d]
        after.append((out[d] - 1) * strides[d] + extent - spatial[d] - before[d])
    return Slide(tuple(kernel), strides, dilations, tuple(before), tuple(after), tuple(ends))


def convolve(
    x: Value,
    w: Value,
    how: Slide,
    shape: Sequence[int],
    dtype: Any,
    groups: int = 1,
    precision: str = "HIGHEST",
    dilated: Sequence[int] | None = None,
    turned: bool = False,
) -> Value:
    """A convolution with dimensions as ONNX has them: [N, C, *spatial] with [O, C / groups, *kernel].

    Args:
        x, w: the operands.
        how: the window.
        shape: of the result.
        dtype: its MLIR element type, in which sums are taken.
        groups: of channels.
        precision: of the products.
        dilated: distance of the elements of ``x`` from each other (transposed convolutions).
        turned: whether the filters are [C, O, *kernel].
    """
    mlir, hlo, rank = bindings(), stablehlo(), len(how.kernel)
    spatial = list(range(2, rank + 2))
    numbers = hlo.ConvDimensionNumbers.get(0, 1, spatial, int(not turned), int(turned), spatial, 0, 1, spatial)
    padding = np.array(how.pairs, np.int64).reshape(rank, 2)
    return hlo.convolution(
        mlir.RankedTensorType.get(list(shape), dtype),
        x,
        w,
        numbers,
        groups,
        1,
        window_strides=list(how.strides),
        padding=mlir.DenseElementsAttr.get(padding),
        lhs_dilation=list(dilated or (1,) * rank),
        rhs_dilation=list(how.dilations),
        precision_config=mlir.ArrayAttr.get([hlo.PrecisionAttr.get(precision)] * 2),
    )


Combine = Callable[[Sequence[Value], Sequence[Value]], Sequence[Value]]


def reduce_windows(
    inputs: Sequence[Value], initial: Sequence[Value], how: Slide, shape: Sequence[int], combine: Combine
) -> list[Value]:
    """Each window combined to one element; leading dimensions that ``how`` does not have are left alone."""
    mlir, hlo = bindings(), stablehlo()
    lead = len(shape) - len(how.kernel)
    ones = [1] * lead
    operation = hlo.ReduceWindowOp(
        [mlir.RankedTensorType.get(list(shape), x.type.element_type) for x in inputs],
        list(inputs),
        list(initial),
        ones + list(how.kernel),
        window_strides=ones + list(how.strides),
        window_dilations=ones + list(how.dilations),
        padding=mlir.DenseElementsAttr.get(np.array([(0, 0)] * lead + how.pairs, np.int64)),
    )
    elements = [mlir.RankedTensorType.get([], x.type.element_type) for x in inputs]
    block = operation.regions[0].blocks.append(*elements, *elements)
    with mlir.InsertionPoint(block):
        arguments = list(block.arguments)
        hlo.return_(list(combine(arguments[: len(inputs)], arguments[len(inputs) :])))
    return list(operation.results)


def without_padding(how: Slide) -> Slide:
    """The same window over an input that is padded already."""
    none = (0,) * len(how.kernel)
    return replace(how, before=none, after=none, ends=none)
