"""Runs a plan on a GPU: operands may lie there, and runs may go on after they were started."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Any

import numpy as np
from tilewright.runtime import dlpack
from tilewright.runtime.artifact import Artifact
from tilewright.runtime.binding import Operand, unknown
from tilewright.runtime.device import LoadedPlan, raise_error
from tilewright.runtime.device_tensor import DeviceTensor
from tilewright.runtime.devices import cuda
from tilewright.runtime.devices.cuda import Gpu, GpuPlan, load_gpu
from tilewright.runtime.devices.driver import driver
from tilewright.runtime.errors import InputError, RunError
from tilewright.runtime.flight import DeviceMemory, Flight, LentMemory, OwnMemory
from tilewright.runtime.library import DEVICE_OUTPUTS, ON_STREAM, TIMED, Error, RunOptions
from tilewright.runtime.manifest import TensorInfo
from tilewright.runtime.pending import Pending, RunMode
from tilewright.runtime.plan_session import Bound, PlanSession, collect
from tilewright.runtime.session import MemoryUse
from tilewright.runtime.tensors import (
    PACKED,
    as_input,
    check_bound,
    check_room,
    no_memory,
    require_code,
    unfit,
)

#: The default stream, as DLPack numbers streams of CUDA.
_DEFAULT_STREAM = 1
_UNPACKED = "elements of {} are packed on the way; give an array on the host"


class GpuSession(PlanSession):
    """A plan on a GPU. Runs have memory and, unless they are given one, a stream of their own.

    Attributes:
        gpu: where it runs.
    """

    def __init__(self, plan: GpuPlan, entry: str | None = None):
        super().__init__(plan, entry)
        self.gpu: Gpu = plan.gpu
        self._jit_seconds = plan.use.jit_seconds

    jit_by = "the NVIDIA driver"

    @property
    def device(self) -> str:
        return f"cuda:{self.gpu.index}"

    @property
    def place(self) -> str:
        return f"{self.target} on {self.gpu}"

    def memory(self, inputs: Mapping[str, Any], *, entry: str | None = None) -> MemoryUse:
        found, use = super().memory(inputs, entry=entry), self._gpu_plan().use
        told = use.device
        return replace(
            found, weights=use.weight_bytes, kept=use.context_bytes, free=told.free_bytes, total=told.total_bytes
        )

    def runs(self) -> dict[str, int]:
        """How many runs were launched kernel by kernel, recorded as a CUDA graph, and replayed from one."""
        use = self._gpu_plan().use
        return {"direct": use.direct, "captured": use.captured, "replayed": use.replayed, "graphs": use.graphs}

    def to_device(self, name: str, value: Any, *, entry: str | None = None) -> DeviceTensor:
        """A tensor on the GPU with the contents of an array for the input ``name``: for memory that runs share, such as
        the first state of a loop. Types of less than 8 bits stay on the host."""
        info = self._entries[self._index(entry)]
        found = {i.name: i for i in info.inputs}
        if name not in found:
            raise unknown(self._where, "input", name, list(found))
        if found[name].dtype in PACKED:
            raise unfit(dlpack.Unfit(_UNPACKED.format(found[name].dtype)), f"input {name!r}", "input-memory")
        array, plan = as_input(found[name], value), self._gpu_plan()
        pointer = driver(cuda.LIBRARY).upload(self.gpu.index, array)
        return DeviceTensor(found[name].dtype, array.shape, self.gpu.index, pointer, OwnMemory(plan, pointer))

    def known_shapes(self, inputs: Mapping[str, Any], *, entry: str | None = None) -> list[tuple[int, ...]]:
        """Shapes of the outputs for such inputs; -1 where only the run tells."""
        index = self._index(entry)
        info = self._entries[index]
        return self._remembered_shapes(index, info, self._bind_inputs(info, inputs, RunMode()))

    # -- operands ----------------------------------------------------------------------------------------------------

    def _operand(self, info: TensorInfo, value: Any, bound: Bound, mode: RunMode) -> Operand:
        tensor = self._on_gpu(info, value, f"input {info.name!r}", "input-memory", bound, mode)
        return as_input(info, value) if tensor is None else tensor

    def _target(self, info: TensorInfo, value: Any, shape: Sequence[int], bound: Bound, mode: RunMode) -> Operand:
        tensor = self._on_gpu(info, value, f"output {info.name!r}", "output-memory", bound, mode)
        if tensor is None:
            return check_bound(info, value, shape)
        check_room(info, tensor.shape, shape)
        return tensor

    def _on_gpu(
        self, info: TensorInfo, value: Any, where: str, code: str, bound: Bound, mode: RunMode
    ) -> DeviceTensor | None:
        """A tensor on a GPU, ready for this run; ``None`` for what lies on the host."""
        if isinstance(value, np.ndarray) or not dlpack.is_tensor(value):
            return None
        try:
            kind, number = dlpack.device_of(value)
            if kind not in (dlpack.CUDA, dlpack.CUDA_MANAGED):
                return None
            if kind == dlpack.CUDA and number != self.gpu.index:
                raise dlpack.Unfit(f"it lies on GPU {number}, the model is on {self.gpu}; move one of them")
            if info.dtype in PACKED:
                raise dlpack.Unfit(_UNPACKED.format(info.dtype))
            if isinstance(value, DeviceTensor):
                if value.dtype != info.dtype:
                    raise dlpack.Unfit(f"it is {value.dtype}, the model has {info}; give one of its type")
                return value
            borrowed = dlpack.borrow(value, mode.stream or _DEFAULT_STREAM)
        except dlpack.Unfit as error:
            raise unfit(error, where, code) from None
        require_code(info, borrowed, where, "input-type" if code == "input-memory" else code)
        if borrowed.read_only and code == "output-memory":
            raise no_memory(info, "its library lets it be read only")
        bound.ordered = True
        memory = LentMemory(self.gpu.index, borrowed.owner)
        return DeviceTensor(info.dtype, borrowed.shape, self.gpu.index, borrowed.pointer, memory)

    # -- one run -----------------------------------------------------------------------------------------------------

    def _start(self, plan: LoadedPlan, index: int, bound: Bound, mode: RunMode) -> Pending:
        assert isinstance(plan, GpuPlan)
        where = f"{self._where}, entry {bound.info.name!r}"
        if mode.outputs == "device":
            self._require_tensors(bound, where)
        stream = _DEFAULT_STREAM if mode.stream == 0 or (mode.stream is None and bound.ordered) else mode.stream
        options = RunOptions(
            size=ctypes.sizeof(RunOptions),
            flags=(ON_STREAM if stream is not None else 0)
            | (DEVICE_OUTPUTS if mode.outputs == "device" else 0)
            | (TIMED if mode.timed else 0),
            stream=None if stream == _DEFAULT_STREAM else stream,
        )
        if mode.profile is not None:
            options.profile = ctypes.pointer(mode.profile)
        handle, error = ctypes.c_void_p(), Error()
        with _after(bound, stream) as event:
            options.after = event
            code = plan.table.run_async(
                plan.handle,
                *(index, bound.inputs, len(bound.inputs), bound.outputs, len(bound.outputs)),
                *(ctypes.byref(options), ctypes.byref(handle), ctypes.byref(error)),
            )
        if code:
            raise_error(error, where)
        used = (*bound.operands, *bound.targets.values(), *bound.results, *bound.memory, mode.profile)
        return GpuRun(Flight(plan, handle, stream, used), bound, mode, where)

    def _require_tensors(self, bound: Bound, where: str) -> None:
        for o in bound.info.outputs:
            if o.dtype in PACKED and o.name not in bound.targets:
                cause, fix = f"{o} is unpacked on the way", "take it on the host"
                raise InputError("output-place", where=where, cause=cause, fix=fix)

    def _gpu_plan(self) -> GpuPlan:
        plan = self._open_plan()
        assert isinstance(plan, GpuPlan)
        return plan


@contextmanager
def _after(bound: Bound, stream: int | None) -> Iterator[int | None]:
    """The event of a run that this one has to come after, as long as that is needed; other runs are waited for here."""
    found: dict[int, Flight] = {}
    for operand, writes in [*((o, False) for o in bound.operands), *((t, True) for t in bound.targets.values())]:
        if isinstance(operand, DeviceTensor):
            found |= {id(f): f for f in memory_of(operand).before(writes) if not f.is_before(stream)}
    earlier = list(found.values())
    for flight in earlier[1:]:
        flight.wait()
    with earlier[0].held() if earlier else nullcontext() as event:
        yield event


def memory_of(tensor: DeviceTensor) -> DeviceMemory:
    """The memory that a tensor of ours lies in."""
    memory = tensor.memory
    assert isinstance(memory, DeviceMemory)
    return memory


class GpuRun(Pending):
    """A run on a GPU."""

    def __init__(self, flight: Flight, bound: Bound, mode: RunMode, where: str):
        self._flight, self._where = flight, where
        self._bound: Bound | None = bound
        self._results: list[Any] = []
        self._lock = threading.Lock()
        for i, (o, tensor) in enumerate(zip(bound.info.outputs, bound.outputs, strict=True)):
            if bound.results[i] is None and mode.outputs == "device":
                memory = OwnMemory(flight.plan, tensor.data)
                shape = tensor.dim[: tensor.rank]
                bound.results[i] = DeviceTensor(o.dtype, shape, flight.plan.gpu.index, tensor.data, memory)
        mine = [r for r in bound.results if isinstance(r, DeviceTensor)]
        used = [(o, False) for o in bound.operands] + [(t, True) for t in (*bound.targets.values(), *mine)]
        for operand, writes in used:
            if isinstance(operand, DeviceTensor):
                memory_of(operand).used_by(flight, writes)

    @property
    def outputs(self) -> list[Any]:
        """Outputs on the GPU, which work of other streams may be put behind at once; ``None`` for those on the host."""
        bound = self._bound
        results = self._results if bound is None else bound.results
        return [r if isinstance(r, DeviceTensor) else None for r in results]

    @property
    def done(self) -> bool:
        return self._flight.done

    @property
    def event(self) -> int | None:
        return self._flight.event

    @property
    def seconds(self) -> float | None:
        return self._flight.seconds if self._flight.seconds >= 0 else None

    def __del__(self) -> None:
        if self._bound is not None and any(result is None for result in self._bound.results):
            with suppress(RunError):  # memory of the host, which the executor allocated, is to be freed
                self.wait()

    def wait(self) -> list[Any]:
        error, table = self._flight.wait(), self._flight.plan.table
        with self._lock:
            bound = self._bound
            if bound is not None and error is None:
                self._results = collect(table, bound)
            elif bound is not None:
                for tensor, result in zip(bound.outputs, bound.results, strict=True):
                    if result is None:
                        table.release(tensor.data)
            self._bound = None
        if error is not None:
            raise_error(error, self._where)
        return self._results


def load_gpu_session(
    artifact: Artifact, device: str, threads: int | None, entry: str | None, allow_jit: bool
) -> GpuSession:
    """A session on a GPU; arguments and errors as of :func:`tilewright.runtime.devices.cuda.load_gpu`."""
    return GpuSession(load_gpu(artifact, device, threads, allow_jit), entry)
