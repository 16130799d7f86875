"""NumPy arrays as the executor's tensors, and back."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from tilewright.runtime import dlpack
from tilewright.runtime.errors import InputError
from tilewright.runtime.library import MAX_RANK, Tensor
from tilewright.runtime.manifest import TensorInfo

Array = np.ndarray[Any, np.dtype[Any]]

#: By spelling: the ONNX TensorProto.DataType number, the NumPy type that holds it here, and NumPy or ml_dtypes names of
#: arrays that are taken as they are. Types that NumPy lacks are seen as unsigned integers of their size.
DTYPES: dict[str, tuple[int, np.dtype[Any], tuple[str, ...]]] = {
    "f32": (1, np.dtype(np.float32), ()),
    "u8": (2, np.dtype(np.uint8), ()),
    "i8": (3, np.dtype(np.int8), ()),
    "u16": (4, np.dtype(np.uint16), ()),
    "i16": (5, np.dtype(np.int16), ()),
    "i32": (6, np.dtype(np.int32), ()),
    "i64": (7, np.dtype(np.int64), ()),
    "bool": (9, np.dtype(np.bool_), ()),
    "f16": (10, np.dtype(np.float16), ()),
    "f64": (11, np.dtype(np.float64), ()),
    "u32": (12, np.dtype(np.uint32), ()),
    "u64": (13, np.dtype(np.uint64), ()),
    "bf16": (16, np.dtype(np.uint16), ("bfloat16",)),
    "f8e4m3": (17, np.dtype(np.uint8), ("float8_e4m3fn",)),
    "f8e4m3fnuz": (18, np.dtype(np.uint8), ("float8_e4m3fnuz",)),
    "f8e5m2": (19, np.dtype(np.uint8), ("float8_e5m2",)),
    "f8e5m2fnuz": (20, np.dtype(np.uint8), ("float8_e5m2fnuz",)),
    "f8e8m0": (24, np.dtype(np.uint8), ("float8_e8m0fnu",)),
    "u4": (21, np.dtype(np.uint8), ("uint4",)),
    "i4": (22, np.dtype(np.int8), ("int4",)),
    "f4e2m1": (23, np.dtype(np.uint8), ("float4_e2m1fn",)),
    "u2": (25, np.dtype(np.uint8), ("uint2",)),
    "i2": (26, np.dtype(np.int8), ("int2",)),
}

#: Bits of the types of which several elements share a byte of the executor's memory; arrays have a byte for each.
PACKED = {"u4": 4, "i4": 4, "f4e2m1": 4, "u2": 2, "i2": 2}


def dtype_of(info: TensorInfo) -> tuple[int, np.dtype[Any]]:
    """ONNX number and NumPy type of an input or output. Raises :class:`InputError` for one that NumPy cannot carry."""
    if info.dtype not in DTYPES:
        raise InputError(
            "type-unsupported",
            where=f"{info}",
            cause=f"arrays of {info.dtype} cannot be passed from Python",
            fix="give the model inputs and outputs of another type",
        )
    number, dtype, _ = DTYPES[info.dtype]
    return number, dtype


def as_input(info: TensorInfo, value: Any) -> Array:
    """``value`` as memory the executor can read: itself when it is contiguous and aligned, else a copy.

    A tensor of another library is taken as it lies (DLPack), when it lies on the host.

    Raises:
        InputError: it has another element type, or lies elsewhere; nothing is converted or moved silently.
    """
    _, dtype = dtype_of(info)
    if not isinstance(value, np.ndarray) and dlpack.is_tensor(value):
        return _host_view(info, value)
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        fix = "give a NumPy array"
        cause = f"it is no array ({error})"
        raise InputError("input-type", where=f"input {info.name!r}", cause=cause, fix=fix) from None
    if array.dtype != dtype:
        if array.dtype.name in DTYPES[info.dtype][2]:
            # A signed number of 4 bits is not a byte with the same bits.
            array = array.astype(dtype) if dtype.kind == "i" else np.require(array, requirements="C").view(dtype)
        elif array.dtype.newbyteorder("=") == dtype:
            array = array.astype(dtype)
        else:
            raise InputError(
                "input-type",
                where=f"input {info.name!r}",
                cause=f"it is {array.dtype}, the model takes {info}",
                fix=f"convert it: array.astype({dtype.name!r})",
            )
    if not (array.flags.c_contiguous and array.flags.aligned):
        array = np.require(array, requirements=["C", "A"])
    return array


def _host_view(info: TensorInfo, value: Any) -> Array:
    """An array of a tensor's memory on the host, of the type that holds such elements here."""
    where = f"input {info.name!r}"
    try:
        kind, number = dlpack.device_of(value)
        if kind in (dlpack.CUDA, dlpack.CUDA_MANAGED):
            raise dlpack.Unfit(
                f"it lies on GPU {number}, and the model runs on the processor here; give a copy, or load for the GPU"
            )
        if kind not in (dlpack.CPU, dlpack.CUDA_HOST):
            raise dlpack.Unfit(f"it lies on a device of another kind (DLPack's {kind}); give a copy on the host")
        try:
            borrowed = dlpack.borrow(value, None)
        except dlpack.Unfit:
            if not hasattr(value, "__array__"):
                raise
            return as_input(info, np.asarray(value))  # not in row-major order: a copy
    except (dlpack.Unfit, TypeError, ValueError, RuntimeError) as error:
        raise unfit(error, where, "input-memory") from None
    require_code(info, borrowed, where, "input-type")
    result: Array = np.asarray(_Held(borrowed, dtype_of(info)[1]))
    return result


class _Held:
    """Memory that another library owns, as NumPy takes it; the array keeps this."""

    def __init__(self, borrowed: dlpack.Borrowed, dtype: np.dtype[Any]):
        self.borrowed = borrowed
        data = (borrowed.pointer or 1, True)  # NumPy wants an address of empty arrays as well
        self.__array_interface__ = {"version": 3, "data": data, "shape": borrowed.shape, "typestr": dtype.str}


def unfit(error: Exception, where: str, code: str) -> InputError:
    """Why a tensor of another library cannot be taken, as an error of ours."""
    cause, _, fix = str(error).rpartition("; ") if isinstance(error, dlpack.Unfit) else (str(error), "", "")
    return InputError(code, where=where, cause=cause, fix=fix or "give a NumPy array")


def require_code(info: TensorInfo, borrowed: dlpack.Borrowed, where: str, error: str) -> None:
    """Raise :class:`InputError` where a tensor's elements are of another type than the model's.

    Types that NumPy lacks are taken as unsigned integers with their bits as well, as arrays of them are.
    """
    _, dtype, names = DTYPES[info.dtype]
    fitting = {dlpack.CODES.get(info.dtype)}
    if names or info.dtype in PACKED:
        fitting.add((0 if dtype.kind == "i" else 1, 8 * dtype.itemsize))
    if borrowed.code not in fitting:
        fix = "convert it with its own library"
        raise InputError(error, where=where, cause=f"it is {borrowed.dtype}, the model has {info}", fix=fix)


def packed(info: TensorInfo, array: Array) -> Array:
    """The elements of ``array``, of a type in :data:`PACKED`, as the executor has them: the first in the lowest bits.

    Raises:
        InputError: a number does not fit the type.
    """
    bits = PACKED[info.dtype]
    check_range(info, array)
    codes = np.zeros(-(-array.size * bits // 8) * (8 // bits), np.uint8)
    codes[: array.size] = array.reshape(-1).view(np.uint8) & ((1 << bits) - 1)
    shifted = codes.reshape(-1, 8 // bits) << np.arange(0, 8, bits, dtype=np.uint8)
    result: Array = np.bitwise_or.reduce(shifted, axis=1)
    return result


def check_range(info: TensorInfo, array: Array) -> None:
    """Raise :class:`InputError` where a number of ``array`` does not fit a type in :data:`PACKED`."""
    bits, signed = PACKED[info.dtype], DTYPES[info.dtype][1].kind == "i"
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    if array.size and not low <= array.min() <= array.max() <= high:
        raise InputError(
            "input-type",
            where=f"input {info.name!r}",
            cause=f"numbers from {array.min()} to {array.max()}, where {info.dtype} holds {low} to {high}",
            fix="give numbers within these bounds",
        )


def unpacked(info: TensorInfo, memory: Array, shape: Sequence[int]) -> Array:
    """An array of a type in :data:`PACKED`, a byte an element, from what the executor wrote."""
    bits, dtype = PACKED[info.dtype], DTYPES[info.dtype][1]
    codes = memory.reshape(-1, 1) >> np.arange(0, 8, bits, dtype=np.uint8) & ((1 << bits) - 1)
    found = codes.reshape(-1)[: math.prod(shape)].astype(dtype)
    if dtype.kind == "i":
        found -= (found >> bits - 1) << bits
    return found.reshape(tuple(shape))


def packed_bytes(info: TensorInfo, shape: Sequence[int]) -> int:
    """Bytes of a tensor of a type in :data:`PACKED`."""
    return -(-math.prod(shape) * PACKED[info.dtype] // 8)


def fill_tensor(tensor: Tensor, number: int, array: Array, memory: Array | None = None) -> None:
    """Point ``tensor``, of the shape of ``array``, at its memory, or at another one."""
    if array.ndim > MAX_RANK:
        raise InputError(
            "input-rank", where="an input", cause=f"it has {array.ndim} dimensions", fix=f"give at most {MAX_RANK}"
        )
    memory = array if memory is None else memory
    tensor.data = memory.ctypes.data  # not by point_tensor: a call for each tensor of small models is felt
    tensor.bytes = memory.nbytes
    tensor.dtype = number
    tensor.rank = array.ndim
    tensor.dim[: array.ndim] = array.shape


def point_tensor(tensor: Tensor, number: int, shape: Sequence[int], pointer: int, size: int) -> None:
    """Point ``tensor`` at ``size`` bytes from ``pointer`` on, wherever these are."""
    tensor.data, tensor.bytes, tensor.dtype, tensor.rank = pointer, size, number, len(shape)
    tensor.dim[: len(shape)] = shape


def check_bound(info: TensorInfo, array: Any, shape: Sequence[int]) -> Array:
    """An array that the caller gives for an output, checked. Dimensions of -1 in ``shape`` are not known yet."""
    _, dtype = dtype_of(info)
    problem = None
    if not isinstance(array, np.ndarray):
        problem = f"it is {type(array).__name__}, not an array"
    elif array.dtype != dtype and array.dtype.name not in DTYPES[info.dtype][2]:
        problem = f"it is {array.dtype}, the model gives {info}"
    elif not (array.flags.c_contiguous and array.flags.aligned and array.flags.writeable):
        problem = "it is not contiguous, not aligned or not writeable"
    if problem is not None:
        raise no_memory(info, problem)
    check_room(info, array.shape, shape)
    result: Array = array
    return result


def check_room(info: TensorInfo, given: Sequence[int], shape: Sequence[int]) -> None:
    """Raise :class:`InputError` where memory of another shape is given for an output than it will have."""
    if -1 in shape:
        raise no_memory(info, "its shape is known only after the run, so memory cannot be given")
    if tuple(given) != tuple(shape):
        raise no_memory(info, f"it has shape {list(given)}, the model gives {list(shape)} for these inputs")


def no_memory(info: TensorInfo, cause: str) -> InputError:
    """The error that what is given for an output cannot hold it."""
    fix = "give a C-contiguous array of the output's type and shape, or none"
    return InputError("output-memory", where=f"output {info.name!r}", cause=cause, fix=fix)


def copy_out(tensor: Tensor, info: TensorInfo) -> Array:
    """An array with a copy of memory that the executor has."""
    shape = tuple(tensor.dim[: tensor.rank])
    if info.dtype in PACKED:
        memory = np.empty(packed_bytes(info, shape), np.uint8)
        ctypes.memmove(memory.ctypes.data, tensor.data, memory.nbytes)
        return unpacked(info, memory, shape)
    result = np.empty(shape, dtype_of(info)[1])
    if result.nbytes:
        ctypes.memmove(result.ctypes.data, tensor.data, result.nbytes)
    return result
