"""The launch that the device tests make, against a stand-in for the driver library: what is passed, in which order."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from tilewright.backends.cuda.launch import Argument, Launch
from tilewright.backends.cuda.modules import Module
from tilewright.ir.symbolic import ceildiv, symbol

from .driver import Driver, NoDevice

#: A kernel of two tensors and two sizes, one of them 64 bits wide, with the scratch pointers that Triton appends.
KERNEL = Module(
    Launch(
        "double",
        "double",
        (Argument("X", "*fp32", 16), Argument("Y", "*fp32", 16), Argument("M", "i32"), Argument("N", "i64")),
        ceildiv(symbol("M"), 64),
        4,
        1,
    ),
    b"\x7fELF",
    "",
    65536,
    ("u64", "u64", "u32", "u64", "u64", "u64"),
    (0, 0),
)


class StandIn:
    """Memory is the host's; the kernel doubles ``M * N`` elements. Calls are kept in order."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.memory: dict[int, ctypes.Array[ctypes.c_char]] = {}
        self.opted_in = 0
        self.launched: tuple[int, int, int] | None = None

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            self.calls.append(name)
            return 0

        return call

    def cuMemAlloc_v2(self, pointer: Any, size: ctypes.c_size_t) -> int:
        buffer = ctypes.create_string_buffer(size.value)
        pointer._obj.value = ctypes.addressof(buffer)
        self.memory[pointer._obj.value] = buffer
        return 0

    def cuMemFree_v2(self, pointer: ctypes.c_uint64) -> int:
        del self.memory[pointer.value]
        return 0

    def cuMemcpyHtoD_v2(self, to: ctypes.c_uint64, source: ctypes.c_void_p, size: ctypes.c_size_t) -> int:
        assert len(self.memory[to.value]) == size.value
        ctypes.memmove(to.value, source, size.value)
        return 0

    def cuMemcpyDtoH_v2(self, to: ctypes.c_void_p, source: ctypes.c_uint64, size: ctypes.c_size_t) -> int:
        assert "cuCtxSynchronize" in self.calls
        ctypes.memmove(to, source.value, size.value)
        return 0

    def cuFuncSetAttribute(self, function: Any, attribute: int, value: int) -> int:
        self.opted_in = value if attribute == 8 else 0
        return 0

    def cuLaunchKernel(self, function: Any, *rest: Any) -> int:
        gx, gy, gz, bx, by, bz, shared, stream, parameters, extra = rest
        assert shared <= self.opted_in
        assert (gy, gz, by, bz, stream, extra) == (1, 1, 1, 1, None, None)
        types = [ctypes.c_uint64 if p == "u64" else ctypes.c_uint32 for p in KERNEL.parameters]
        x, y, m, n, *scratch = (ctypes.cast(a, ctypes.POINTER(t))[0] for a, t in zip(parameters, types, strict=True))
        assert scratch == [0, 0]
        self.launched = gx, bx, shared
        for i in range(m * n):
            value = ctypes.c_float.from_address(x + 4 * i).value
            ctypes.c_float.from_address(y + 4 * i).value = 2 * value
        return 0


def test_a_launch_passes_pointers_sizes_and_null_scratch() -> None:
    driver = Driver.__new__(Driver)
    driver._lib = stand_in = StandIn()  # type: ignore[assignment]
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    result = driver.run(KERNEL, {"X": x, "Y": np.zeros_like(x)}, {"M": 3, "N": 2})
    assert np.array_equal(result["Y"], 2 * x)
    assert stand_in.launched == (1, 128, 65536)
    assert not stand_in.memory
    assert stand_in.calls == ["cuModuleLoadData", "cuModuleGetFunction", "cuCtxSynchronize", "cuModuleUnload"]


def test_a_missing_library_is_no_device() -> None:
    with pytest.raises(NoDevice):
        Driver("libcuda-that-is-nowhere.so.1")
