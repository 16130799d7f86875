"""The few calls of NVIDIA's driver that are made from Python, for memory that a run left on a GPU.

Everything else is the executor's, in C; both open the driver where it is used, and nothing links against it.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import c_int, c_size_t, c_uint, c_uint64, c_void_p
from functools import cache

from tilewright.runtime.errors import DeviceError, ResourceError
from tilewright.runtime.tensors import Array

#: Parameters by name (CUDA Driver API reference); all return a CUresult.
_FUNCTIONS = {
    "cuInit": (c_uint,),
    "cuDeviceGet": (ctypes.POINTER(c_int), c_int),
    "cuDevicePrimaryCtxRetain": (ctypes.POINTER(c_void_p), c_int),
    "cuDevicePrimaryCtxRelease_v2": (c_int,),
    "cuCtxPushCurrent_v2": (c_void_p,),
    "cuCtxPopCurrent_v2": (ctypes.POINTER(c_void_p),),
    "cuStreamWaitEvent": (c_void_p, c_void_p, c_uint),
    "cuMemAlloc_v2": (ctypes.POINTER(c_uint64), c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_uint64, c_size_t, c_void_p),
    "cuStreamSynchronize": (c_void_p,),
}


_OUT_OF_MEMORY, _NO_DEVICE = 2, 100  # CUresult
_CAPABILITY = (75, 76)  # CUdevice_attribute: COMPUTE_CAPABILITY_MAJOR and _MINOR


class Driver:
    """The driver library, opened. Any number of threads may use it."""

    def __init__(self, library: str):
        self._library = ctypes.CDLL(library)
        for name, parameters in _FUNCTIONS.items():
            function = getattr(self._library, name)
            function.restype, function.argtypes = c_int, parameters
        self._call("cuInit", 0)

    def wait(self, device: int, stream: int, event: int) -> None:
        """Let what comes into a stream begin after an event."""
        with self._current(device):
            self._call("cuStreamWaitEvent", stream, event, 0)

    def upload(self, device: int, array: Array) -> int:
        """New memory of a GPU with the contents of an array; there when this returns."""
        pointer = c_uint64()
        with self._current(device):
            self._call("cuMemAlloc_v2", ctypes.byref(pointer), max(array.nbytes, 1))
            try:
                if array.nbytes:
                    self._call("cuMemcpyHtoDAsync_v2", pointer, array.ctypes.data, array.nbytes, None)
                    self._call("cuStreamSynchronize", None)
            except DeviceError:
                self._library.cuMemFree_v2(pointer)
                raise
        return pointer.value

    def fetch(self, device: int, pointer: int, array: Array) -> None:
        """Copy from memory of a GPU into an array of as many bytes; over when this returns."""
        with self._current(device):
            self._call("cuMemcpyDtoHAsync_v2", array.ctypes.data, pointer, array.nbytes, None)
            self._call("cuStreamSynchronize", None)

    @contextmanager
    def _current(self, device: int) -> Iterator[None]:
        """A GPU's primary context, which the executor uses too, for this thread."""
        handle, context = c_int(), c_void_p()
        self._call("cuDeviceGet", ctypes.byref(handle), device)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), handle)
        try:
            self._call("cuCtxPushCurrent_v2", context)
            try:
                yield
            finally:
                self._library.cuCtxPopCurrent_v2(ctypes.byref(context))
        finally:
            self._library.cuDevicePrimaryCtxRelease_v2(handle)

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._library, name)(*arguments)
        if code == _OUT_OF_MEMORY:
            asked = f"no {arguments[1]} bytes left in the GPU's memory"
            fix = "use smaller inputs, or a GPU with more memory"
            raise ResourceError("out-of-memory", where="the NVIDIA driver", cause=asked, fix=fix)
        if code:
            cause, fix = f"{name} returned {code}", "look at the driver's log (dmesg, nvidia-smi)"
            raise DeviceError("device-failed", where="the NVIDIA driver", cause=cause, fix=fix)


@cache
def driver(library: str) -> Driver:
    """The driver of this process. It is there: the executor has opened it before."""
    return Driver(library)


def found(library: str) -> tuple[str, str]:
    """What there is, in a word (``ok``, ``missing``, ``broken``) and in a line: the driver's version, and its GPUs."""
    try:
        opened = ctypes.CDLL(library)
    except OSError as error:
        return "missing", f"no NVIDIA driver on this machine ({error})"
    version, count = c_int(), c_int()
    for name, arguments in (
        ("cuDriverGetVersion", (ctypes.byref(version),)),
        ("cuInit", (0,)),
        ("cuDeviceGetCount", (ctypes.byref(count),)),
    ):
        code = getattr(opened, name)(*arguments)
        if code == _NO_DEVICE:
            break
        if code:
            return "broken", f"the NVIDIA driver's {name} returned {code}"
    driver_version = f"driver for CUDA {version.value // 1000}.{version.value % 1000 // 10}"
    if not count.value:
        return "missing", f"{driver_version}, which shows no GPU"
    return "ok", "; ".join([driver_version, *(_described(opened, index) for index in range(count.value))])


def _described(library: ctypes.CDLL, index: int) -> str:
    handle, value, size = c_int(), c_int(), c_size_t()
    name = ctypes.create_string_buffer(256)
    library.cuDeviceGet(ctypes.byref(handle), index)
    library.cuDeviceGetName(name, len(name), handle)
    library.cuDeviceTotalMem_v2(ctypes.byref(size), handle)
    capability = []
    for attribute in _CAPABILITY:
        library.cuDeviceGetAttribute(ctypes.byref(value), attribute, handle)
        capability.append(str(value.value))
    told = name.value.decode("utf-8", "replace")
    return f"GPU {index} {told}, compute capability {'.'.join(capability)}, {size.value / 1e9:.1f} GB"


if __name__ == "__main__":
    state, detail = found(sys.argv[1] if len(sys.argv) > 1 else "libcuda.so.1")
    print(json.dumps({"state": state, "detail": detail}))
