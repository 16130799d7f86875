"""The mock driver from Python: built once, told what to be, asked what was done and which rules were broken."""

from __future__ import annotations

import atexit
import ctypes
import functools
import struct
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import POINTER, c_char, c_char_p, c_double, c_int32, c_int64, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tilewright.package.native import NATIVE, machine_flags
from tilewright.plan.encode import encode_plan
from tilewright.plan.plan import Plan
from tilewright.runtime import library
from tilewright.runtime.library import Error, ProfileBuffer, Tensor, Weight, Weights

from tests.runtime import programs

HERE = Path(__file__).parent
BUFFER, DIM32, DIM64, GLOBAL, PROFILE, WORKSPACE, FAULT = range(7)
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class MockKernel:
    """What ``modules.bin`` says of a kernel of ``kernels.c``. ``parameters`` are (kind, index) pairs."""

    entry: str
    parameters: tuple[tuple[int, int], ...]
    threads: int = 128
    shared: int = 0
    global_bytes: int = 0
    profile_bytes: int = 0
    counters: int = 0


def _kernel(entry: str, kinds: str, **facts: int) -> MockKernel:
    """``kinds`` has a letter for each parameter: b a buffer, i and l dimensions, w workspace, f fault."""
    counts = {"b": 0, "d": 0}
    parameters = []
    for letter in kinds:
        if letter in "il":
            parameters.append((DIM32 if letter == "i" else DIM64, counts["d"]))
            counts["d"] += 1
        elif letter == "b":
            parameters.append((BUFFER, counts["b"]))
            counts["b"] += 1
        else:
            parameters.append((WORKSPACE if letter == "w" else FAULT, 0))
    return MockKernel(entry, (*parameters, (GLOBAL, 0), (PROFILE, 0)), **facts)


#: The kernels of ``tests/runtime/kernels.c``, in their order, then those for the runtime alone.
KERNELS = (
    _kernel("add", "bbbi"),
    _kernel("matmul", "bbbiiw", shared=65536),
    _kernel("relu", "bbl"),
    _kernel("count", "bbi"),
    _kernel("keep", "bbi"),
    _kernel("accumulate", "bbi"),
    _kernel("select", "bbbif"),
    _kernel("split64", "bbiw", counters=64),
    _kernel("split512", "bbiw", counters=512),
    _kernel("scratched", "bbi", global_bytes=256, profile_bytes=64),
)
NAMES = tuple(k.entry for k in KERNELS)
SELECT, SPLIT64, SPLIT512, SCRATCHED = range(6, 10)


def cubin(entry: str) -> bytes:
    """The least ELF file for a GPU: a header, a section and the name that the mock looks for."""
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, 190, 1, 0, 0, 64, 0, 64, 56, 0, 64, 1, 0)
    return header + bytes(64) + entry.encode() + b"\0"


def modules(
    kernels: Sequence[MockKernel] = KERNELS, arch: int = 90, *, cubins: bool = True, ptx: bool = False
) -> bytes:
    """``modules.bin`` of these kernels."""
    words: list[int] = []
    strings, blobs = bytearray(), bytearray()
    for k in kernels:
        code = cubin(k.entry) if cubins else b""
        text = f"PTX {k.entry}".encode() if ptx else b""
        words += [len(strings), k.threads, k.shared, k.global_bytes, k.profile_bytes, k.counters]
        words += [len(blobs), 0, len(code), 0, len(blobs) + len(code), 0, len(text), 0, len(k.parameters)]
        words += [kind | index << 8 for kind, index in k.parameters]
        strings += k.entry.encode() + b"\0"
        blobs += code + text + b"\0"
        blobs += bytes(-len(blobs) % 64)
    counts = (0x444D5754, 1, arch, len(kernels), len(words), len(strings), len(blobs))
    head = struct.pack("<6IQ", *counts) + struct.pack(f"<{len(words)}I", *words) + bytes(strings)
    return head + bytes(-len(head) % 64) + bytes(blobs)


def _shared_library(code: bytes) -> ctypes.CDLL:
    with tempfile.NamedTemporaryFile(prefix="tilewright-mock-", suffix=".so", delete=False) as file:
        file.write(code)
    atexit.register(Path(file.name).unlink)  # the runtime opens it by this name until then
    loaded = ctypes.CDLL(file.name)
    loaded.file = file.name  # type: ignore[attr-defined]
    return loaded


@functools.cache
def mock_library() -> ctypes.CDLL:
    """The mock, in this process; the runtime opens the same file."""
    tools = programs.toolchain()
    flags = [
        *machine_flags(tools, programs.TRIPLE),
        "-O2",
        "-std=gnu11",
        "-fPIC",
        "-fvisibility=hidden",
        "-Wall",
        "-Werror",
    ]
    headers = {n: (NATIVE / n).read_text() for n in ("cuda_driver.h", "tilewright.h")}
    headers["mock.h"] = (HERE / "mock.h").read_text()
    sources = {n: (HERE / f"{n}.c").read_text() for n in ("mock", "kernels", "cubin")}
    objects = {n: tools.compile(text, flags, name=n, headers=headers) for n, text in sources.items()}
    found = _shared_library(tools.link(objects, flags, libraries=("pthread",)))
    for name, kind in {
        "mock_log": c_char_p,
        "mock_rules": c_char_p,
        "mock_live": c_int64,
        "mock_device_bytes": c_int64,
    }.items():
        getattr(found, name).restype = kind
    found.mock_set.argtypes = (c_char_p, c_int64)
    found.mock_fail.argtypes = (c_char_p, ctypes.c_int, ctypes.c_int)
    return found


class Device(ctypes.Structure):
    """``tw_device``."""

    _fields_ = (
        ("name", c_char * 256),
        ("uuid", c_char * 16),
        *((n, c_int32) for n in ("index", "major", "minor", "driver", "processors", "shared_bytes")),
        ("total_bytes", c_int64),
        ("free_bytes", c_int64),
    )


class DeviceOptions(ctypes.Structure):
    """``tw_device_options``."""

    _fields_ = (
        ("size", c_uint32),
        ("flags", c_uint32),
        *((n, c_int32) for n in ("device", "threads", "graphs", "driver_needed")),
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
        *((n, c_int32) for n in ("kernels", "jit_kernels", "graphs", "contexts", "reserved")),
        ("weight_bytes", c_int64),
        ("context_bytes", c_int64),
        ("load_seconds", c_double),
        ("jit_seconds", c_double),
        *((n, c_uint64) for n in ("direct", "captured", "replayed")),
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


ALLOW_JIT, NO_GRAPHS = 1, 2
ON_STREAM, DEVICE_OUTPUTS, TIMED, DIRECT = 1, 2, 4, 8

_F = ctypes.CFUNCTYPE
_ERROR = POINTER(Error)
_RUN = (c_void_p, c_uint32, POINTER(Tensor), c_uint32, POINTER(Tensor), c_uint32)
_FIRST = [name for name, _ in library.Runtime._fields_].index("release") + 1


class Table(ctypes.Structure):
    """``tw_runtime`` with what is for devices, declared here from the C header and not from the session's."""

    _fields_ = (
        *library.Runtime._fields_[:_FIRST],
        ("device_count", _F(c_int32, c_char_p, POINTER(c_int32), _ERROR)),
        ("device_describe", _F(c_int32, c_char_p, c_int32, POINTER(Device), _ERROR)),
        ("device_runs", _F(c_int32, c_int32, c_int32, c_int32)),
        (
            "create_device",
            _F(c_int32, POINTER(c_void_p), c_void_p, c_uint64, POINTER(Weights), POINTER(DeviceOptions), _ERROR),
        ),
        ("device_info", _F(c_int32, c_void_p, POINTER(DeviceUse), _ERROR)),
        ("run_async", _F(c_int32, *_RUN, POINTER(RunOptions), POINTER(c_void_p), _ERROR)),
        ("done", _F(c_int32, c_void_p, _ERROR)),
        ("wait", _F(c_int32, c_void_p, _ERROR)),
        ("pending_event", _F(c_void_p, c_void_p)),
        ("pending_seconds", _F(c_double, c_void_p)),
        ("pending_free", _F(None, c_void_p)),
        ("release_device", _F(None, c_void_p, c_void_p)),
    )


@functools.cache
def table() -> Table:
    """The functions of a runtime library of its own."""
    return Table.in_dll(_shared_library(programs.runtime_library()), "tw_runtime_v1")


class Failed(Exception):
    """What the runtime refused, with its exit code."""

    def __init__(self, error: Error):
        super().__init__(error.text.decode())
        self.code = int(error.code)


_TYPES = {"float32": 1, "int64": 7}


class Mock:
    """The driver: settings, the log of what was done, and the rules."""

    def __init__(self) -> None:
        self.lib = mock_library()
        self.path: bytes = self.lib.file.encode()  # type: ignore[attr-defined]

    def set(self, **facts: int) -> None:
        for name, value in facts.items():
            self.lib.mock_set(name.encode(), value)

    def fail(self, name: str, after: int = 0, code: int = 999) -> None:
        self.lib.mock_fail(name.encode(), after, code)

    def log(self, *, clear: bool = True) -> list[str]:
        """Lines since the last call: ``launch add grid=1 …``, ``h2d 96``, ``capture``."""
        lines: list[str] = self.lib.mock_log().decode().splitlines()
        if clear:
            self.lib.mock_clear_log()
        return lines

    def rules(self) -> str:
        """The rules of the driver that were broken."""
        return str(self.lib.mock_rules().decode())

    def live(self) -> int:
        """Allocations, streams, events, graphs, modules and contexts that are still there."""
        return int(self.lib.mock_live())

    @contextmanager
    def context(self) -> Iterator[None]:
        """The primary context, as the program around the runtime has it."""
        made = c_void_p()
        self.lib.cuDevicePrimaryCtxRetain(ctypes.byref(made), 0)
        self.lib.cuCtxPushCurrent_v2(made)
        try:
            yield
        finally:
            self.lib.cuCtxPopCurrent_v2(ctypes.byref(made))
            self.lib.cuDevicePrimaryCtxRelease_v2(0)

    def to_device(self, array: Array, extra: int = 0) -> int:
        """Device memory with the contents of an array, in a current context; ``extra`` bytes before it."""
        address = c_uint64()
        assert self.lib.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(array.nbytes + extra)) == 0
        to = c_uint64(address.value + extra)
        self.lib.cuMemcpyHtoDAsync_v2(to, c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes), None)
        self.lib.cuCtxSynchronize()
        return to.value

    def from_device(self, address: int, like: Array) -> Array:
        found = np.empty_like(like)
        size = ctypes.c_size_t(found.nbytes)
        self.lib.cuMemcpyDtoHAsync_v2(c_void_p(found.ctypes.data), c_uint64(address), size, None)
        return found

    def is_device(self, address: int) -> bool:
        kind, wanted = ctypes.c_uint(), ctypes.c_int(2)
        values = (c_void_p * 1)(ctypes.addressof(kind))
        self.lib.cuPointerGetAttributes(1, ctypes.byref(wanted), values, c_uint64(address))
        return kind.value == 2

    def free(self, address: int) -> None:
        assert self.lib.cuMemFree_v2(c_uint64(address)) == 0


class MockPlan:
    """A plan on the mock GPU, through the C interface."""

    def __init__(
        self,
        mock: Mock,
        plan: Plan | bytes,
        modules_bin: bytes | None = None,
        *,
        weights: dict[str, Array] | None = None,
        host: tuple[int, int] = (0, 0),
        **options: Any,
    ):
        self.mock, self.table, self.handle = mock, table(), c_void_p()
        data = plan if isinstance(plan, bytes) else encode_plan(replace(plan, kernels=NAMES))
        code = modules() if modules_bin is None else modules_bin
        held = programs.weights() if weights is None else weights
        names = sorted(held)
        self._memory = np.zeros(sum(-(-held[n].nbytes // 64) * 64 for n in names) + 64, np.uint8)
        start = -self._memory.ctypes.data % 64
        rows, at = [], 0
        for n in names:
            flat = held[n].reshape(-1).view(np.uint8)
            self._memory[start + at : start + at + len(flat)] = flat
            rows.append(Weight(n.encode(), at, len(flat)))
            at += -(-len(flat) // 64) * 64
        listed = Weights(self._memory.ctypes.data + start, at, (Weight * len(rows))(*rows), len(rows))
        self._code = np.frombuffer(code, np.uint8)
        library_name = options.pop("library", mock.path)
        chosen = DeviceOptions(
            size=ctypes.sizeof(DeviceOptions),
            threads=2,
            library=library_name,
            modules=self._code.ctypes.data,
            module_bytes=len(code),
            host_kernels=host[0],
            host_kernel_count=host[1],
            **options,
        )
        error = Error()
        buffer = ctypes.create_string_buffer(data, len(data))
        result = self.table.create_device(
            ctypes.byref(self.handle),
            ctypes.addressof(buffer),
            len(data),
            ctypes.byref(listed),
            ctypes.byref(chosen),
            ctypes.byref(error),
        )
        if result:
            raise Failed(error)

    def close(self) -> None:
        self.table.destroy(self.handle)
        self.handle = c_void_p()

    def __enter__(self) -> MockPlan:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.handle:
            self.close()

    def use(self) -> DeviceUse:
        """What the plan has on the GPU."""
        use, error = DeviceUse(size=ctypes.sizeof(DeviceUse)), Error()
        if self.table.device_info(self.handle, ctypes.byref(use), ctypes.byref(error)):
            raise Failed(error)
        return use

    def entry(self, name: str) -> int:
        names = [self.table.entry_name(self.handle, i).decode() for i in range(self.table.entry_count(self.handle))]
        return names.index(name)

    def start(
        self,
        entry: str,
        inputs: Sequence[Tensor | Array],
        outputs: Sequence[Tensor | Array | None] = (),
        **options: Any,
    ) -> Pending:
        """``run_async``; outputs that are not given are allocated."""
        index = self.entry(entry)
        count = self.table.output_count(self.handle, index)
        given = [as_tensor(x) for x in inputs]
        wanted = [as_tensor(x) if x is not None else Tensor() for x in [*outputs, *[None] * (count - len(outputs))]]
        tensors, results = (Tensor * len(given))(*given), (Tensor * count)(*wanted)
        chosen = RunOptions(size=ctypes.sizeof(RunOptions), **options)
        pending, error = c_void_p(), Error()
        code = self.table.run_async(
            self.handle,
            index,
            tensors,
            len(given),
            results,
            count,
            ctypes.byref(chosen),
            ctypes.byref(pending),
            ctypes.byref(error),
        )
        if code:
            raise Failed(error)
        return Pending(self, pending, results, [t.data is not None for t in wanted])

    def run(
        self,
        entry: str,
        inputs: Sequence[Tensor | Array],
        outputs: Sequence[Tensor | Array | None] = (),
        **options: Any,
    ) -> list[Array]:
        """Start, wait, and the outputs as arrays."""
        with self.start(entry, inputs, outputs, **options) as pending:
            return pending.arrays()


class Pending:
    """A run that goes on."""

    def __init__(self, plan: MockPlan, handle: c_void_p, outputs: ctypes.Array[Tensor], given: list[bool]):
        self.plan, self.handle, self.outputs, self._given = plan, handle, outputs, given

    def done(self) -> int:
        """1, or 0 while it goes on."""
        error = Error()
        result = int(self.plan.table.done(self.handle, ctypes.byref(error)))
        if result < 0:
            raise Failed(error)
        return result

    def wait(self) -> None:
        error = Error()
        if self.plan.table.wait(self.handle, ctypes.byref(error)):
            raise Failed(error)

    def arrays(self) -> list[Array]:
        """The outputs once the run is done, wherever they lie."""
        self.wait()
        return [self._array(t) for t in self.outputs]

    def _array(self, tensor: Tensor) -> Array:
        found = np.empty(tuple(tensor.dim[: tensor.rank]), np.float32 if tensor.dtype == 1 else np.int64)
        assert found.nbytes == tensor.bytes
        if self.plan.mock.is_device(tensor.data):
            with self.plan.mock.context():
                return self.plan.mock.from_device(tensor.data, found)
        ctypes.memmove(found.ctypes.data, tensor.data, found.nbytes)
        return found

    def __enter__(self) -> Pending:
        return self

    def __exit__(self, *exception: object) -> None:
        self.plan.table.pending_free(self.handle)
        for tensor, given in zip(self.outputs, self._given, strict=True):
            if not given:
                self.plan.table.release(tensor.data)


def as_tensor(value: Tensor | Array) -> Tensor:
    """An array as the runtime takes it."""
    if isinstance(value, Tensor):
        return value
    dims = (c_int64 * 16)(*value.shape)
    return Tensor(value.ctypes.data, value.nbytes, _TYPES[str(value.dtype)], value.ndim, dims)


def device_tensor(address: int, like: Array) -> Tensor:
    """Device memory as the runtime takes it, with the type and shape of an array."""
    tensor = as_tensor(like)
    tensor.data = address
    return tensor
