"""The calls of NVIDIA's driver library that timing takes, through ctypes: memory, modules, launches, events, graphs."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from ctypes import c_char_p, c_float, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any

_CHOSEN = {"major": 75, "minor": 76, "l2_bytes": 38, "processors": 16}  # CUdevice_attribute
_MAX_DYNAMIC_SHARED = 8  # CUfunction_attribute
_DEFAULT_SHARED = 48 << 10
_LARGEST_L2 = 126 << 20  # of compute capability 10.0 (targets/sm_100.toml)
_THREAD_CAPTURE = 1  # CUstreamCaptureMode: what other threads do is not our capture's business

#: Every function with the types of its arguments: pointers are 64 bits, and ctypes would cut them to 32.
_TYPES: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDriverGetVersion": (c_void_p,),
    "cuDeviceGetCount": (c_void_p,),
    "cuDeviceGet": (c_void_p, c_int),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDeviceGetAttribute": (c_void_p, c_int, c_int),
    "cuDevicePrimaryCtxRetain": (c_void_p, c_int),
    "cuDevicePrimaryCtxRelease_v2": (c_int,),
    "cuCtxPushCurrent_v2": (c_void_p,),
    "cuCtxPopCurrent_v2": (c_void_p,),
    "cuMemAlloc_v2": (c_void_p, c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_uint64, c_size_t, c_void_p),
    "cuMemcpyDtoDAsync_v2": (c_uint64, c_uint64, c_size_t, c_void_p),
    "cuMemsetD8Async": (c_uint64, ctypes.c_ubyte, c_size_t, c_void_p),
    "cuModuleLoadDataEx": (c_void_p, c_char_p, c_uint, c_void_p, c_void_p),
    "cuModuleUnload": (c_void_p,),
    "cuModuleGetFunction": (c_void_p, c_void_p, c_char_p),
    "cuFuncSetAttribute": (c_void_p, c_int, c_int),
    "cuLaunchKernel": (c_void_p, *(c_uint,) * 7, c_void_p, c_void_p, c_void_p),
    "cuStreamCreate": (c_void_p, c_uint),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, c_void_p),
    "cuGraphInstantiateWithFlags": (c_void_p, c_void_p, ctypes.c_ulonglong),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphExecDestroy": (c_void_p,),
    "cuGraphDestroy": (c_void_p,),
    "cuEventCreate": (c_void_p, c_uint),
    "cuEventRecord": (c_void_p, c_void_p),
    "cuEventSynchronize": (c_void_p,),
    "cuEventElapsedTime": (c_void_p, c_void_p, c_void_p),
    "cuEventDestroy_v2": (c_void_p,),
}


class NoDevice(Exception):
    """No driver library here, or no GPU behind it."""


class DriverError(Exception):
    """A call that failed, with the driver's number."""


class Driver:
    """The first GPU's primary context and one stream, as a context manager. Addresses are integers."""

    def __init__(self, library: str = "libcuda.so.1"):
        try:
            self._lib = ctypes.CDLL(library)
        except OSError as error:
            raise NoDevice(f"no driver: {error}") from error
        for name, types in _TYPES.items():
            function = getattr(self._lib, name)
            function.argtypes, function.restype = types, c_int
        if code := self._lib.cuInit(0):
            raise NoDevice(f"cuInit returned {code}")
        if not self._number("cuDeviceGetCount"):
            raise NoDevice("the driver sees no GPU")
        self._device = self._number("cuDeviceGet", 0)
        self._stream = c_void_p()

    def __enter__(self) -> Driver:
        context = c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self._call("cuCtxPushCurrent_v2", context)
        self._call("cuStreamCreate", ctypes.byref(self._stream), 1)
        return self

    def __exit__(self, *_: object) -> None:
        self._lib.cuStreamDestroy_v2(self._stream)
        self._lib.cuCtxPopCurrent_v2(ctypes.byref(c_void_p()))
        self._lib.cuDevicePrimaryCtxRelease_v2(self._device)

    @property
    def name(self) -> str:
        """As the driver calls the GPU."""
        text = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", text, 256, self._device)
        return text.value.decode(errors="replace")

    @property
    def version(self) -> str:
        """The newest CUDA that the driver knows: ``CUDA 13.0``."""
        number = self._number("cuDriverGetVersion")
        return f"CUDA {number // 1000}.{number % 1000 // 10}"

    @property
    def arch(self) -> int:
        """90 for compute capability 9.0."""
        return 10 * self._attribute("major") + self._attribute("minor")

    @property
    def l2_bytes(self) -> int:
        """Bytes of the cache that all multiprocessors share; where the driver does not say, of the largest there is."""
        try:
            return self._attribute("l2_bytes")
        except DriverError:
            return _LARGEST_L2

    def allocate(self, size: int) -> int:
        """The address of ``size`` new bytes."""
        address = c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), max(1, size))
        return address.value

    def free(self, address: int) -> None:
        """Give memory back."""
        self._lib.cuMemFree_v2(address)

    def write(self, address: int, data: bytes) -> None:
        """Bytes to the device."""
        if data:
            self._call("cuMemcpyHtoDAsync_v2", address, ctypes.cast(c_char_p(data), c_void_p), len(data), self._stream)
            self.wait()

    def read(self, address: int, size: int) -> bytes:
        """Bytes from the device, once all work of the stream is done."""
        data = ctypes.create_string_buffer(max(1, size))
        if size:
            self._call("cuMemcpyDtoHAsync_v2", data, address, size, self._stream)
        self.wait()
        return data.raw[:size]

    def copy(self, target: int, source: int, size: int) -> None:
        """Bytes within the device."""
        if size:
            self._call("cuMemcpyDtoDAsync_v2", target, source, size, self._stream)

    def fill(self, address: int, value: int, size: int) -> None:
        """``size`` bytes of one value."""
        if size:
            self._call("cuMemsetD8Async", address, value, size, self._stream)

    def load(self, code: bytes, entry: str, shared: int) -> tuple[int, int]:
        """A module and the function in it that may take ``shared`` bytes of dynamic shared memory."""
        module, function = c_void_p(), c_void_p()
        self._call("cuModuleLoadDataEx", ctypes.byref(module), code, 0, None, None)
        self._call("cuModuleGetFunction", ctypes.byref(function), module, entry.encode())
        if shared > _DEFAULT_SHARED:
            self._call("cuFuncSetAttribute", function, _MAX_DYNAMIC_SHARED, shared)
        return module.value or 0, function.value or 0

    def unload(self, module: int) -> None:
        """Drop a module."""
        self._lib.cuModuleUnload(module)

    def launch(self, function: int, grid: int, threads: int, shared: int, values: Sequence[Any]) -> None:
        """Start a kernel; ``values`` are of ctypes."""
        addresses = (c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
        self._call("cuLaunchKernel", function, grid, 1, 1, threads, 1, 1, shared, self._stream, addresses, None)

    def wait(self) -> None:
        """Until the stream is done."""
        self._call("cuStreamSynchronize", self._stream)

    def graph(self, start: Callable[[], None]) -> int:
        """What ``start`` launches, as one thing to be launched again and again."""
        self._call("cuStreamBeginCapture_v2", self._stream, _THREAD_CAPTURE)
        graph, ready = c_void_p(), c_void_p()
        try:
            try:
                start()
            finally:
                self._call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(ready), graph, 0)
        finally:
            if graph:
                self._lib.cuGraphDestroy(graph)
        return ready.value or 0

    def drop_graph(self, graph: int) -> None:
        """Drop what :meth:`graph` made."""
        self._lib.cuGraphExecDestroy(graph)

    def time_graph(self, graph: int) -> float:
        """Seconds on the device of one launch of a graph."""
        return self.timed(lambda: self._call("cuGraphLaunch", graph, self._stream))

    def timed(self, start: Callable[[], None]) -> float:
        """Seconds on the device of what ``start`` launches, between two events."""
        events = (c_void_p(), c_void_p())
        for event in events:
            self._call("cuEventCreate", ctypes.byref(event), 0)
        try:
            self._call("cuEventRecord", events[0], self._stream)
            start()
            self._call("cuEventRecord", events[1], self._stream)
            self._call("cuEventSynchronize", events[1])
            milliseconds = c_float()
            self._call("cuEventElapsedTime", ctypes.byref(milliseconds), *events)
            return milliseconds.value * 1e-3
        finally:
            for event in events:
                self._lib.cuEventDestroy_v2(event)

    def _attribute(self, name: str) -> int:
        return self._number("cuDeviceGetAttribute", _CHOSEN[name], self._device)

    def _number(self, name: str, *arguments: Any) -> int:
        value = c_int()
        self._call(name, ctypes.byref(value), *arguments)
        return value.value

    def _call(self, name: str, *arguments: Any) -> None:
        if code := getattr(self._lib, name)(*arguments):
            raise DriverError(f"{name} returned {code}")
