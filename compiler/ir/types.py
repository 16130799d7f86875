"""Element types and tensor types, shared by the graph, the kernels and the plan.

This module imports nothing heavy: the kernel layer uses it without ever importing ``onnx_ir``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import ml_dtypes
import numpy as np
from tilewright.ir.symbolic import Expr, IntLike, as_expr, product


@dataclass(frozen=True, slots=True)
class _Element:
    onnx: int
    numpy: np.dtype[Any]
    bits: int
    kind: str  # "float", "int", "uint", "bool"


class DType(Enum):
    """An element type. ``str(DType.F32)`` is ``f32``, the spelling of kernels and reports."""

    F32 = _Element(1, np.dtype(np.float32), 32, "float")
    U8 = _Element(2, np.dtype(np.uint8), 8, "uint")
    I8 = _Element(3, np.dtype(np.int8), 8, "int")
    U16 = _Element(4, np.dtype(np.uint16), 16, "uint")
    I16 = _Element(5, np.dtype(np.int16), 16, "int")
    I32 = _Element(6, np.dtype(np.int32), 32, "int")
    I64 = _Element(7, np.dtype(np.int64), 64, "int")
    BOOL = _Element(9, np.dtype(np.bool_), 8, "bool")
    F16 = _Element(10, np.dtype(np.float16), 16, "float")
    F64 = _Element(11, np.dtype(np.float64), 64, "float")
    U32 = _Element(12, np.dtype(np.uint32), 32, "uint")
    U64 = _Element(13, np.dtype(np.uint64), 64, "uint")
    BF16 = _Element(16, np.dtype(ml_dtypes.bfloat16), 16, "float")
    F8E4M3 = _Element(17, np.dtype(ml_dtypes.float8_e4m3fn), 8, "float")
    F8E4M3FNUZ = _Element(18, np.dtype(ml_dtypes.float8_e4m3fnuz), 8, "float")
    F8E5M2 = _Element(19, np.dtype(ml_dtypes.float8_e5m2), 8, "float")
    F8E5M2FNUZ = _Element(20, np.dtype(ml_dtypes.float8_e5m2fnuz), 8, "float")
    U4 = _Element(21, np.dtype(ml_dtypes.uint4), 4, "uint")
    I4 = _Element(22, np.dtype(ml_dtypes.int4), 4, "int")
    F4E2M1 = _Element(23, np.dtype(ml_dtypes.float4_e2m1fn), 4, "float")
    F8E8M0 = _Element(24, np.dtype(ml_dtypes.float8_e8m0fnu), 8, "float")
    U2 = _Element(25, np.dtype(ml_dtypes.uint2), 2, "uint")
    I2 = _Element(26, np.dtype(ml_dtypes.int2), 2, "int")

    @property
    def onnx(self) -> int:
        """The ``TensorProto.DataType`` number."""
        return self.value.onnx

    @property
    def numpy(self) -> np.dtype[Any]:
        """The NumPy dtype that holds one element (types of less than 8 bits take a byte each there)."""
        return self.value.numpy

    @property
    def bits(self) -> int:
        """Bits of one element in memory."""
        return self.value.bits

    @property
    def is_float(self) -> bool:
        return self.value.kind == "float"

    @property
    def is_integer(self) -> bool:
        """True for signed and unsigned integers, not for ``bool``."""
        return self.value.kind in ("int", "uint")

    @property
    def is_signed(self) -> bool:
        return self.value.kind in ("int", "float")

    def __str__(self) -> str:
        return self.name.lower()

    def __repr__(self) -> str:
        return str(self)

    @staticmethod
    def from_onnx(code: int) -> DType:
        """The type of a ``TensorProto.DataType`` number. Raises ``KeyError`` for one we have no name for."""
        return _BY_ONNX[code]

    @staticmethod
    def from_numpy(dtype: np.dtype[Any] | type) -> DType:
        """The type of a NumPy dtype. Raises ``KeyError`` for one we have no name for."""
        return _BY_NUMPY[np.dtype(dtype)]

    @staticmethod
    def parse(text: str) -> DType:
        """The type spelled ``f32``, ``i64``, ``bool`` … Raises ``KeyError``."""
        return DType[text.upper()]


_BY_ONNX = {d.onnx: d for d in DType}
_BY_NUMPY = {d.numpy: d for d in DType}


@dataclass(frozen=True, slots=True)
class TensorType:
    """An element type and a shape of symbolic sizes."""

    dtype: DType
    shape: tuple[Expr, ...]

    @staticmethod
    def of(dtype: DType, *shape: IntLike) -> TensorType:
        return TensorType(dtype, tuple(as_expr(s) for s in shape))

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def elements(self) -> Expr:
        """Number of elements."""
        return product(self.shape)

    @property
    def is_static(self) -> bool:
        return all(s.is_constant for s in self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"
