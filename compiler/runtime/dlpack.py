"""DLPack: tensors of other libraries taken as they lie, and ours given away, without copies.

Structures and protocol: DLPack 1.1, ``dlpack.h`` and "Python Specification for DLPack" (dmlc.github.io/dlpack). The
capsules of before version 1 are taken and given as well.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from ctypes import c_char_p, c_int, c_int32, c_int64, c_uint8, c_uint16, c_uint32, c_uint64, c_void_p, py_object
from dataclasses import dataclass
from typing import Any

from tilewright.runtime.library import MAX_RANK

#: Device types: memory of the host, page-locked or not; of an NVIDIA GPU; that both see.
CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13
#: Type code and bits by our spelling.
CODES: dict[str, tuple[int, int]] = {
    **{f"i{bits}": (0, bits) for bits in (8, 16, 32, 64)},
    **{f"u{bits}": (1, bits) for bits in (8, 16, 32, 64)},
    **{f"f{bits}": (2, bits) for bits in (16, 32, 64)},
    "bf16": (4, 16),
    "bool": (6, 8),
    "f8e4m3": (10, 8),
    "f8e4m3fnuz": (11, 8),
    "f8e5m2": (12, 8),
    "f8e5m2fnuz": (13, 8),
    "f8e8m0": (14, 8),
}
_SPELLINGS = {code: spelling for spelling, code in CODES.items()}
VERSION = (1, 1)
_READ_ONLY = 1
_NAME, _USED = b"dltensor", b"used_dltensor"
_NAME_VERSIONED, _USED_VERSIONED = b"dltensor_versioned", b"used_dltensor_versioned"


class _Tensor(ctypes.Structure):
    """``DLTensor``."""

    _fields_ = (
        ("data", c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("ndim", c_int32),
        ("code", c_uint8),
        ("bits", c_uint8),
        ("lanes", c_uint16),
        ("shape", ctypes.POINTER(c_int64)),
        ("strides", ctypes.POINTER(c_int64)),
        ("byte_offset", c_uint64),
    )


_Deleter = ctypes.CFUNCTYPE(None, c_void_p)


class _Managed(ctypes.Structure):
    """``DLManagedTensor``."""

    _fields_ = (("tensor", _Tensor), ("context", c_void_p), ("deleter", _Deleter))


class _Versioned(ctypes.Structure):
    """``DLManagedTensorVersioned``."""

    _fields_ = (
        ("major", c_uint32),
        ("minor", c_uint32),
        ("context", c_void_p),
        ("deleter", _Deleter),
        ("flags", c_uint64),
        ("tensor", _Tensor),
    )


def _python(name: str, result: Any, *arguments: Any) -> Any:
    return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))


_is_valid = _python("PyCapsule_IsValid", c_int, py_object, c_char_p)
_pointer_of = _python("PyCapsule_GetPointer", c_void_p, py_object, c_char_p)
_rename = _python("PyCapsule_SetName", c_int, py_object, c_char_p)
_Destructor = ctypes.PYFUNCTYPE(None, c_void_p)
_new = _python("PyCapsule_New", py_object, c_void_p, c_char_p, _Destructor)
# In a destructor the capsule has no references left: it may not become an object again.
_dying_is_valid = _python("PyCapsule_IsValid", c_int, c_void_p, c_char_p)
_dying_pointer = _python("PyCapsule_GetPointer", c_void_p, c_void_p, c_char_p)


class Unfit(Exception):
    """Why a tensor cannot be taken; its message goes on with what to do after ``; ``."""


class _Owned:
    """What a producer gave with its tensor; given back when nothing refers to this any more."""

    def __init__(self, address: int, managed: Any):
        self._address, self._managed = address, managed

    def __del__(self) -> None:
        if self._managed.deleter:
            self._managed.deleter(self._address)


@dataclass(frozen=True, slots=True)
class Borrowed:
    """A tensor in row-major order that another library made.

    Attributes:
        pointer: of the first element.
        code: type code and bits.
        device: DLPack's device type, and which of that type.
        owner: keeps it alive.
    """

    pointer: int
    shape: tuple[int, ...]
    code: tuple[int, int]
    device: tuple[int, int]
    read_only: bool
    owner: object

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return math.prod(self.shape) * self.code[1] // 8

    @property
    def dtype(self) -> str:
        """The element type, for a reader."""
        return _SPELLINGS.get(self.code) or f"type {self.code[0]} of {self.code[1]} bits"


def is_tensor(value: object) -> bool:
    """Whether ``value`` can be taken by DLPack."""
    return hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__")


def device_of(value: Any) -> tuple[int, int]:
    """Device type and number of what :func:`is_tensor`. Raises :class:`Unfit`."""
    try:
        kind, number = value.__dlpack_device__()
        return int(kind), int(number)
    except Exception as error:
        raise Unfit(f"it does not tell where it lies ({error}); give an array or a tensor") from None


def borrow(value: Any, stream: int | None) -> Borrowed:
    """Take a tensor; work on it by its own library is then before what is put into ``stream``.

    Args:
        value: what :func:`is_tensor`.
        stream: of CUDA, as DLPack numbers them (1: the default one); ``None`` for memory of the host.

    Raises:
        Unfit: it cannot be given, or not as it lies.
    """
    try:
        try:
            capsule = value.__dlpack__(stream=stream, max_version=VERSION)
        except TypeError:  # a library of before version 1
            capsule = value.__dlpack__(stream=stream)
    except Exception as error:  # libraries raise what they like here
        raise Unfit(f"its library does not give it ({error}); give a plain dense tensor") from None
    if _is_valid(capsule, _NAME_VERSIONED):
        address = _pointer_of(capsule, _NAME_VERSIONED)
        versioned = _Versioned.from_address(address)
        _rename(capsule, _USED_VERSIONED)
        owner = _Owned(address, versioned)
        if versioned.major != VERSION[0]:
            raise Unfit(f"it speaks DLPack {versioned.major}; use a library of version {VERSION[0]}")
        return _checked(versioned.tensor, bool(versioned.flags & _READ_ONLY), owner)
    if _is_valid(capsule, _NAME):
        address = _pointer_of(capsule, _NAME)
        managed = _Managed.from_address(address)
        _rename(capsule, _USED)
        return _checked(managed.tensor, False, _Owned(address, managed))
    raise Unfit("its __dlpack__ gives no tensor; give an array")


def _checked(tensor: Any, read_only: bool, owner: object) -> Borrowed:
    if tensor.lanes != 1:
        raise Unfit("its elements are vectors; give one of plain numbers")
    if not 0 <= tensor.ndim <= MAX_RANK:
        raise Unfit(f"it has {tensor.ndim} dimensions; give at most {MAX_RANK}")
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    if any(n < 0 for n in shape):
        raise Unfit(f"its shape is {list(shape)}; give a tensor")
    if tensor.strides and not _is_dense(shape, tensor.strides[: tensor.ndim]):
        raise Unfit("it is not contiguous in row-major order; give x.contiguous(), or another copy of it")
    device = (tensor.device_type, tensor.device_id)
    return Borrowed(
        (tensor.data or 0) + tensor.byte_offset, shape, (tensor.code, tensor.bits), device, read_only, owner
    )


def _is_dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return math.prod(shape) == 0
        expected *= size
    return True


#: What was given away, by the address of its structure: the structure, its shape, what keeps the memory.
_given: dict[int, tuple[Any, Any, object]] = {}


def _forget(address: int) -> None:
    _given.pop(address, None)


def _drop(capsule: int) -> None:
    """Of a capsule that nobody took a tensor from."""
    for name in (_NAME, _NAME_VERSIONED):
        if _dying_is_valid(capsule, name):
            _given.pop(_dying_pointer(capsule, name), None)


#: The deleter and the destructor of all that is given away.
_DELETER, _DESTRUCTOR = _Deleter(_forget), _Destructor(_drop)


def give(
    pointer: int, shape: Sequence[int], dtype: str, device: tuple[int, int], owner: object, versioned: bool
) -> object:
    """A capsule with a tensor in row-major order; ``owner`` is kept until who takes it gives it back."""
    managed = (_Versioned if versioned else _Managed)()
    if versioned:
        managed.major, managed.minor = VERSION
    sizes = (c_int64 * max(len(shape), 1))(*shape)
    strides = (c_int64 * max(len(shape), 1))(*(math.prod(shape[i + 1 :]) for i in range(len(shape))))
    tensor = managed.tensor
    tensor.data, tensor.ndim, tensor.lanes = pointer, len(shape), 1
    tensor.device_type, tensor.device_id = device
    tensor.code, tensor.bits = CODES[dtype]
    tensor.shape, tensor.strides = sizes, strides
    managed.deleter = _DELETER
    address = ctypes.addressof(managed)
    _given[address] = (managed, (sizes, strides), owner)
    return _new(address, _NAME_VERSIONED if versioned else _NAME, _DESTRUCTOR)
