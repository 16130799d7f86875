"""Code of an artifact in this process: libraries from bytes, and the executor's functions (``tilewright.h``)."""

from __future__ import annotations

import ctypes
import os
import tempfile
import threading
from ctypes import POINTER, c_char, c_char_p, c_double, c_int32, c_int64, c_ubyte, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any, TypeVar

from tilewright.runtime.errors import ArtifactError, DeviceError
from tilewright.runtime.format import ABI_VERSION

MAX_RANK = 16


class Error(ctypes.Structure):
    """``tw_error``."""

    _fields_ = (("code", c_int32), ("text", c_char * 1020))


class Tensor(ctypes.Structure):
    """``tw_tensor``."""

    _fields_ = (
        ("data", c_void_p),
        ("bytes", c_int64),
        ("dtype", c_int32),
        ("rank", c_int32),
        ("dim", c_int64 * MAX_RANK),
    )


class ProfileBuffer(ctypes.Structure):
    """``tw_profile``."""

    _fields_ = (
        ("kernel", POINTER(c_uint32)),
        ("seconds", POINTER(c_double)),
        ("capacity", c_uint32),
        ("count", c_uint32),
    )


class Weight(ctypes.Structure):
    """``tw_weight``."""

    _fields_ = (("name", c_char_p), ("offset", c_uint64), ("bytes", c_uint64))


class Weights(ctypes.Structure):
    """``tw_weights``."""

    _fields_ = (("data", c_void_p), ("bytes", c_uint64), ("tensor", POINTER(Weight)), ("count", c_uint32))


class Device(ctypes.Structure):
    """``tw_device``."""

    _fields_ = (
        ("name", c_char * 256),
        ("uuid", c_ubyte * 16),
        *((name, c_int32) for name in ("index", "major", "minor", "driver", "processors", "shared_bytes")),
        ("total_bytes", c_int64),
        ("free_bytes", c_int64),
    )


class DeviceOptions(ctypes.Structure):
    """``tw_device_options``."""

    _fields_ = (
        ("size", c_uint32),
        ("flags", c_uint32),
        *((name, c_int32) for name in ("device", "threads", "graphs", "driver_needed")),
        ("library", c_char_p),
        ("modules", c_void_p),
        ("module_bytes", c_uint64),
        ("host_kernels", c_void_p),
        ("host_kernel_count", c_uint32),
        ("reserved", c_uint32),
    )


class DeviceUse(ctypes.Structure):
    """``tw_device_use``."""

    _fields_ = (
        ("size", c_uint32),
        *((name, c_int32) for name in ("kernels", "jit_kernels", "graphs", "contexts", "reserved")),
        *((name, c_int64) for name in ("weight_bytes", "context_bytes")),
        *((name, c_double) for name in ("load_seconds", "jit_seconds")),
        *((name, c_uint64) for name in ("direct", "captured", "replayed")),
        ("device", Device),
    )


class RunOptions(ctypes.Structure):
    """``tw_run_options``."""

    _fields_ = (
        ("size", c_uint32),
        ("flags", c_uint32),
        ("stream", c_void_p),
        ("after", c_void_p),
        ("profile", POINTER(ProfileBuffer)),
    )


#: Flags of :class:`DeviceOptions` and of :class:`RunOptions`.
ALLOW_JIT = 1
ON_STREAM, DEVICE_OUTPUTS, TIMED = 1, 2, 4


class Signature(ctypes.Structure):
    """``tw_signature``."""

    _fields_ = (("name", c_char_p), ("shape", c_char_p), ("dtype", c_int32), ("rank", c_int32))


_F = ctypes.CFUNCTYPE
_TENSORS = POINTER(Tensor)
_ERROR = POINTER(Error)
_SIGNATURE = POINTER(Signature)


class Runtime(ctypes.Structure):
    """``tw_runtime``, the table that a runtime library exports. Calls release the interpreter's lock."""

    _fields_ = (
        ("abi", c_uint32),
        ("size", c_uint32),
        ("cpu_has", _F(c_int32, c_uint32, c_uint32, c_uint32, c_uint32)),
        ("threads_default", _F(c_int32)),
        ("cpu_quota", _F(c_double, c_char_p)),
        ("check_crc", _F(c_int64, c_void_p, c_uint64, c_void_p, c_int32)),
        (
            "create",
            _F(c_int32, POINTER(c_void_p), c_void_p, c_uint64, POINTER(Weights), c_void_p, c_uint32, c_int32, _ERROR),
        ),
        ("destroy", _F(None, c_void_p)),
        ("threads", _F(c_int32, c_void_p)),
        ("entry_count", _F(c_uint32, c_void_p)),
        ("entry_name", _F(c_char_p, c_void_p, c_uint32)),
        ("kernel_count", _F(c_uint32, c_void_p)),
        ("kernel_name", _F(c_char_p, c_void_p, c_uint32)),
        ("input_count", _F(c_uint32, c_void_p, c_uint32)),
        ("output_count", _F(c_uint32, c_void_p, c_uint32)),
        ("input", _F(_SIGNATURE, c_void_p, c_uint32, c_uint32)),
        ("output", _F(_SIGNATURE, c_void_p, c_uint32, c_uint32)),
        (
            "shapes",
            _F(
                *(c_int32, c_void_p, c_uint32, _TENSORS, c_uint32, _TENSORS, c_uint32),
                *(POINTER(c_int64), POINTER(c_int64), _ERROR),
            ),
        ),
        (
            "run",
            _F(c_int32, c_void_p, c_uint32, _TENSORS, c_uint32, _TENSORS, c_uint32, POINTER(ProfileBuffer), _ERROR),
        ),
        ("release", _F(None, c_void_p)),
    )


_OUT = POINTER(c_void_p)


class DeviceRuntime(Runtime):
    """The table with what came after: GPUs."""

    _fields_ = (  # type: ignore[assignment]
        ("device_count", _F(c_int32, c_char_p, POINTER(c_int32), _ERROR)),
        ("device_describe", _F(c_int32, c_char_p, c_int32, POINTER(Device), _ERROR)),
        ("device_runs", _F(c_int32, c_int32, c_int32, c_int32)),
        (
            "create_device",
            _F(c_int32, _OUT, c_void_p, c_uint64, POINTER(Weights), POINTER(DeviceOptions), _ERROR),
        ),
        ("device_info", _F(c_int32, c_void_p, POINTER(DeviceUse), _ERROR)),
        (
            "run_async",
            _F(
                *(c_int32, c_void_p, c_uint32, _TENSORS, c_uint32, _TENSORS, c_uint32),
                *(POINTER(RunOptions), _OUT, _ERROR),
            ),
        ),
        ("done", _F(c_int32, c_void_p, _ERROR)),
        ("wait", _F(c_int32, c_void_p, _ERROR)),
        ("pending_event", _F(c_void_p, c_void_p)),
        ("pending_seconds", _F(c_double, c_void_p)),
        ("pending_free", _F(None, c_void_p)),
        ("release_device", _F(None, c_void_p, c_void_p)),
    )


_Table = TypeVar("_Table", bound=Runtime)
_loaded: dict[str, ctypes.CDLL] = {}
_lock = threading.Lock()


def load_library(code: bytes | memoryview, digest: str, where: str) -> ctypes.CDLL:
    """A shared library from bytes whose SHA-256 (``digest``) was checked; loaded once for each digest.

    Raises:
        DeviceError: neither memory files nor temporary files may hold code here; the message says why.
    """
    with _lock:
        if digest not in _loaded:
            _loaded[digest] = _load(code, where)
        return _loaded[digest]


def _load(code: bytes | memoryview, where: str) -> ctypes.CDLL:
    reasons = []
    for attempt in (_from_memory, _from_temporary_file):
        try:
            return attempt(code)
        except (OSError, AttributeError) as error:
            reasons.append(f"{attempt.__name__.removeprefix('_from_').replace('_', ' ')}: {error}")
    raise DeviceError(
        "code-refused",
        where=where,
        cause=f"this system does not let the artifact's code be loaded ({'; '.join(reasons)})",
        fix="allow memfd_create, or a folder for temporary files that is not mounted noexec (TMPDIR)",
    )


def _from_memory(code: bytes | memoryview) -> ctypes.CDLL:
    # The descriptor stays open: the loader knows libraries by path, and a later one must not get this number.
    descriptor = os.memfd_create("tilewright", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(code)
        return ctypes.CDLL(f"/proc/self/fd/{descriptor}")
    except BaseException:
        os.close(descriptor)
        raise


def _from_temporary_file(code: bytes | memoryview) -> ctypes.CDLL:
    descriptor, name = tempfile.mkstemp(prefix="tilewright-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(code)
        return ctypes.CDLL(name)
    finally:
        Path(name).unlink()


def runtime_table(library: ctypes.CDLL, where: str, kind: type[_Table]) -> _Table:
    """The executor's functions, as many as ``kind`` has.

    Raises :class:`ArtifactError` when the library is none, or has another interface or too few.
    """
    try:
        table = kind.in_dll(library, "tw_runtime_v1")
    except ValueError:
        table = None
    if table is None or table.abi != ABI_VERSION or table.size < ctypes.sizeof(kind):
        raise ArtifactError(
            "artifact-version",
            where=where,
            cause="its executor has another interface",
            fix="use the version of Tilewright that wrote it, or compile the model again",
        )
    return table


def kernel_table(library: ctypes.CDLL, where: str) -> tuple[int, int]:
    """Address and length of the table of kernels. Raises :class:`ArtifactError` when there is none."""
    try:
        count = c_uint32.in_dll(library, "tw_kernel_count_v1").value
        first: Any = c_void_p.in_dll(library, "tw_kernels_v1")
    except ValueError:
        raise ArtifactError(
            "artifact-version",
            where=where,
            cause="its kernels have another interface",
            fix="use the version of Tilewright that wrote it, or compile the model again",
        ) from None
    return ctypes.addressof(first), count
