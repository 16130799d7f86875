"""The few calls of NVIDIA's driver library that run a cubin, through ctypes. For tests on a machine with a GPU."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np
from tilewright.backends.cuda.modules import Module

_COMPUTE_MAJOR, _COMPUTE_MINOR = 75, 76  # CUdevice_attribute
_MAX_DYNAMIC_SHARED = 8  # CUfunction_attribute


class NoDevice(Exception):
    """No driver library here, or no GPU behind it."""


class Driver:
    """The first GPU's primary context, as a context manager."""

    def __init__(self, library: str = "libcuda.so.1"):
        try:
            self._lib = ctypes.CDLL(library)
        except OSError as error:
            raise NoDevice(str(error)) from error
        if code := self._lib.cuInit(0):
            raise NoDevice(f"cuInit returned {code}")
        self._device = ctypes.c_int()
        count = ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(count))
        if not count.value:
            raise NoDevice("the driver sees no GPU")
        self._call("cuDeviceGet", ctypes.byref(self._device), 0)

    def __enter__(self) -> Driver:
        context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self._call("cuCtxSetCurrent", context)
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, at: TracebackType | None) -> None:
        self._lib.cuDevicePrimaryCtxRelease_v2(self._device)

    @property
    def arch(self) -> str:
        """``sm_90`` and the like."""
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(major), _COMPUTE_MAJOR, self._device)
        self._call("cuDeviceGetAttribute", ctypes.byref(minor), _COMPUTE_MINOR, self._device)
        return f"sm_{major.value}{minor.value}"

    def run(
        self, kernel: Module, arrays: Mapping[str, np.ndarray[Any, Any]], sizes: Mapping[str, int]
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Launch ``kernel`` once; every array is copied to the device and back."""
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuModuleLoadData", ctypes.byref(module), kernel.cubin)
        self._call("cuModuleGetFunction", ctypes.byref(function), module, kernel.launch.entry.encode())
        self._call("cuFuncSetAttribute", function, _MAX_DYNAMIC_SHARED, kernel.shared)
        memory: dict[str, ctypes.c_uint64] = {}
        try:
            for name, array in arrays.items():
                memory[name] = ctypes.c_uint64()
                self._call("cuMemAlloc_v2", ctypes.byref(memory[name]), ctypes.c_size_t(array.nbytes))
                self._call("cuMemcpyHtoD_v2", memory[name], array.ctypes.data_as(ctypes.c_void_p), _size(array))
            values = self._arguments(kernel, memory, sizes)
            addresses = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
            grid, threads = kernel.launch.grid.evaluate(sizes), 32 * kernel.launch.num_warps
            self._call(
                "cuLaunchKernel", function, grid, 1, 1, threads, 1, 1, kernel.shared, None, addresses, None
            )  # fmt: skip
            self._call("cuCtxSynchronize")
            results = {name: np.empty_like(array) for name, array in arrays.items()}
            for name, array in results.items():
                self._call("cuMemcpyDtoH_v2", array.ctypes.data_as(ctypes.c_void_p), memory[name], _size(array))
            return results
        finally:
            for pointer in memory.values():
                self._lib.cuMemFree_v2(pointer)
            self._lib.cuModuleUnload(module)

    @staticmethod
    def _arguments(kernel: Module, memory: Mapping[str, ctypes.c_uint64], sizes: Mapping[str, int]) -> list[Any]:
        """One value for each parameter of the PTX: tensors, symbols, then null scratch pointers."""
        assert kernel.scratch == (0, 0)
        values: list[Any] = []
        for a in kernel.launch.arguments:
            size = ctypes.c_int64 if a.type == "i64" else ctypes.c_int32
            values.append(memory[a.name] if a.is_pointer else size(sizes[a.name]))
        values += [ctypes.c_uint64(0) for _ in kernel.parameters[len(values) :]]
        assert [ctypes.sizeof(v) * 8 for v in values] == [int(p[1:]) for p in kernel.parameters]
        return values

    def _call(self, name: str, *arguments: Any) -> None:
        if code := getattr(self._lib, name)(*arguments):
            raise RuntimeError(f"{name} returned {code}")


def _size(array: np.ndarray[Any, Any]) -> ctypes.c_size_t:
    return ctypes.c_size_t(array.nbytes)
