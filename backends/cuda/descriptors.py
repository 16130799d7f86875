"""Operands that the tensor memory accelerator brings: a descriptor of the tensor, made by the kernel, and its blocks.

One thread asks for a whole tile, addresses and edges are the hardware's: what lies beyond the tensor arrives as zero. A
tensor can be read so when each index is an axis of its own or one position, and rows lie at multiples of 16 bytes.
"""

from __future__ import annotations

from collections.abc import Container

from tilewright.backends.cuda.positions import Frame, Positions
from tilewright.backends.cuda.program import Program
from tilewright.ir.ranges import divisor
from tilewright.ir.symbolic import Expr, product
from tilewright.ir.types import DType
from tilewright.kernel.expr import Load
from tilewright.kernel.scope import Scope
from tilewright.kernel.tile import Kernel, Param

#: The entry of a schedule that asks for descriptors where they can be.
DESCRIPTORS = "descriptors"
#: Rows start at multiples of this many bytes, and a block's are no shorter; lanes of a block along one dimension; its
#: dimensions (CUDA driver API, cuTensorMapEncodeTiled).
_BYTES, _LANES, _RANK = 16, 256, 5
_TYPES = frozenset([DType.F32, DType.F16, DType.BF16, DType.I8, DType.U8])


class Descriptors:
    """The descriptors of one kernel. ``padded``: constants of which the rest of each row is zero."""

    def __init__(self, kernel: Kernel, program: Program, padded: Container[str]):
        self._kernel, self._program, self._padded = kernel, program, padded
        self._made: dict[tuple[str, tuple[int, ...]], str] = {}

    def block(self, load: Load, frame: Frame, scope: Scope) -> str | None:
        """The text of a read of ``load`` over the lanes of ``frame``; ``None`` where it needs addresses."""
        p, at = self._kernel.param(load.tensor), self._program.at
        dims: list[str | None] = []
        starts: list[str] = []
        for index, size in zip(load.index, p.shape, strict=True):
            axis = str(index) if isinstance(index, Expr) and str(index) in scope.ranges else ""
            if not isinstance(index, Expr) or not _is_plain(index, axis, at):
                return None
            dim = at.dim(axis) if axis else None
            if dim is not None and scope.kernel.extent(axis) != size and load.tensor not in self._padded:
                return None  # lanes beyond the axis would be others of the tensor
            dims.append(dim)
            starts.append(at.index(scope.ranges[axis].start if dim is not None else index, ()).text)
        own = tuple(d for d in dims if d is not None)
        lanes = tuple(1 if d is None else at.lanes[d] for d in dims)
        if set(own) != set(frame) or len(own) != len(frame) or not _is_legal(p, lanes, scope):
            return None
        text = f"{self._descriptor(p, lanes)}.load([{', '.join(starts)}])"
        if len(lanes) > len(own):
            text = f"tl.reshape({text}, {at.shape(own)})"
        return text if own == frame else f"tl.permute({text}, {tuple(own.index(d) for d in frame)})"

    def _descriptor(self, p: Param, lanes: tuple[int, ...]) -> str:
        if (p.name, lanes) not in self._made:
            at = self._program.at
            name = self._made[p.name, lanes] = self._program.fresh(f"{p.name.lower()}_blocks")
            shape = ", ".join(at.index(e, ()).text for e in p.shape)
            strides = ", ".join(at.index(product(p.shape[n + 1 :]), ()).text for n in range(len(p.shape)))
            self._program.early_line(
                f"{name} = tl.make_tensor_descriptor({p.name}, [{shape}], [{strides}], {list(lanes)})", ()
            )
        return self._made[p.name, lanes]


def _is_plain(index: Expr, axis: str, at: Positions) -> bool:
    """Whether ``index`` is an axis with a dimension of its own, or one position."""
    if all(at.dim(a) is None for a in index.symbols if a in at.axes):
        return True
    return bool(axis) and at.dim(axis) == at.axes[axis].name


def _is_legal(p: Param, lanes: tuple[int, ...], scope: Scope) -> bool:
    size = p.dtype.bits // 8
    if p.dtype not in _TYPES or not 2 <= len(lanes) <= _RANK or max(lanes) > _LANES or lanes[-1] * size < _BYTES:
        return False
    rows = (product(p.shape[n:]) for n in range(1, len(lanes)))
    return all(divisor(e * size, scope.facts) % _BYTES == 0 for e in rows)
