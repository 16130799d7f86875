"""Runs a plan: the part of an artifact that the executor and kernels in C are, on NumPy alone."""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from ctypes import c_double, c_int64, c_uint32
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tilewright.runtime.binding import Operand, check_output_names, given_inputs, refuse_overlap
from tilewright.runtime.device import LoadedPlan, raise_error
from tilewright.runtime.device_tensor import DeviceTensor
from tilewright.runtime.library import Error, ProfileBuffer, Runtime, Tensor
from tilewright.runtime.manifest import EntryInfo, TensorInfo
from tilewright.runtime.pending import PLAIN, Finished, Pending, RunMode, require_host
from tilewright.runtime.session import MemoryUse, Session
from tilewright.runtime.tensors import (
    PACKED,
    Array,
    as_input,
    check_bound,
    copy_out,
    dtype_of,
    fill_tensor,
    packed,
    packed_bytes,
    point_tensor,
)

#: Shapes whose output shapes are remembered.
REMEMBERED_SHAPES = 64
#: Launches that a profile has room for at first.
PROFILE_ROOM = 4096


@dataclass(slots=True)
class Bound:
    """The operands of one run.

    Attributes:
        inputs, outputs: as the executor takes them.
        operands: what the inputs are. targets: what was given for outputs, by name.
        results: what the caller gets for each output; ``None`` where the executor allocates it.
        memory: what tensors point into besides.
        ordered: whether memory of another library is among it, whose work is ordered in the default stream of CUDA.
    """

    info: EntryInfo
    inputs: ctypes.Array[Tensor]
    outputs: ctypes.Array[Tensor]
    operands: list[Operand] = field(default_factory=list)
    targets: dict[str, Operand] = field(default_factory=dict)
    results: list[Any] = field(default_factory=list)
    memory: list[Array] = field(default_factory=list)
    ordered: bool = False


def collect(table: Runtime, bound: Bound) -> list[Any]:
    """What the caller gets, of a run that is over. What the executor allocated on the host is copied and freed."""
    for i, (o, tensor, result) in enumerate(zip(bound.info.outputs, bound.outputs, bound.results, strict=True)):
        if result is None:
            bound.results[i] = copy_out(tensor, o)
            table.release(tensor.data)
        elif o.dtype in PACKED:
            numbers = copy_out(tensor, o)
            target = result if numbers.dtype.kind == "i" else result.view(numbers.dtype)
            target[...] = numbers
    return bound.results


class PlanSession(Session):
    """A loaded plan. Every run has its own memory."""

    #: Spent on compiling here: nothing, where there is machine code.
    _jit_seconds = 0.0

    def __init__(self, plan: LoadedPlan, entry: str | None = None, entries: Sequence[EntryInfo] | None = None):
        """``entries`` are those of the plan where they are not the artifact's."""
        artifact = plan.artifact
        super().__init__(artifact, plan.target.target, plan.table.threads(plan.handle), entry, entries)
        self._plan: LoadedPlan | None = plan
        self._shapes: OrderedDict[tuple[Any, ...], list[tuple[int, ...]]] = OrderedDict()

    @property
    def jit_seconds(self) -> float:
        return self._jit_seconds

    @property
    def device(self) -> str:
        return "cpu"

    def profile(
        self, inputs: Mapping[str, Any], *, out: Mapping[str, Any] | None = None, entry: str | None = None
    ) -> list[tuple[str, float]]:
        index = self._index(entry)
        plan = self._open_plan()
        room = PROFILE_ROOM
        while True:
            kernels, seconds = (c_uint32 * room)(), (c_double * room)()
            buffer = ProfileBuffer(kernels, seconds, room, 0)
            self._begin(index, inputs, out or {}, RunMode(profile=buffer)).wait()
            if buffer.count <= room:
                break
            room = buffer.count
        names = [plan.table.kernel_name(plan.handle, i).decode() for i in range(plan.table.kernel_count(plan.handle))]
        return [(names[kernels[i]], seconds[i]) for i in range(buffer.count)]

    def memory(self, inputs: Mapping[str, Any], *, entry: str | None = None) -> MemoryUse:
        index = self._index(entry)
        info = self._entries[index]
        given = self._bind_inputs(info, inputs, RunMode())
        arena, live = c_int64(), c_int64()
        self._output_shapes(index, info, given.inputs, arena, live)
        return MemoryUse(arena.value, live.value)

    def close(self) -> None:
        self._plan = None

    # -- one run -----------------------------------------------------------------------------------------------------

    def _begin(self, index: int, inputs: Mapping[str, Any], out: Mapping[str, Any], mode: RunMode) -> Pending:
        plan, info = self._open_plan(), self._entries[index]
        bound = self._bind_inputs(info, inputs, mode)
        shapes = self._remembered_shapes(index, info, bound)
        self._bind_outputs(bound, shapes, out, mode)
        if bound.targets:
            refuse_overlap(info, bound.operands, bound.targets)
        return self._start(plan, index, bound, mode)

    def _start(self, plan: LoadedPlan, index: int, bound: Bound, mode: RunMode) -> Pending:
        """Run what is bound."""
        if mode is not PLAIN:
            require_host(mode, f"{self._where}, entry {bound.info.name!r}")
        error = Error()
        code = plan.table.run(
            plan.handle,
            *(index, bound.inputs, len(bound.inputs), bound.outputs, len(bound.outputs)),
            ctypes.byref(mode.profile) if mode.profile is not None else None,
            ctypes.byref(error),
        )
        if code:
            raise_error(error, f"{self._where}, entry {bound.info.name!r}")
        return Finished(collect(plan.table, bound))

    def _bind_inputs(self, info: EntryInfo, inputs: Mapping[str, Any], mode: RunMode) -> Bound:
        given = given_inputs(info, inputs, self._where)
        bound = Bound(info, (Tensor * len(given))(), (Tensor * len(info.outputs))())
        for tensor, (i, value) in zip(bound.inputs, given, strict=True):
            number, _ = dtype_of(i)
            operand = self._operand(i, value, bound, mode)
            bound.operands.append(operand)
            if isinstance(operand, DeviceTensor):
                point_tensor(tensor, number, operand.shape, operand.pointer, operand.nbytes)
            elif i.dtype in PACKED:
                bound.memory.append(packed(i, operand))
                fill_tensor(tensor, number, operand, bound.memory[-1])
            else:
                fill_tensor(tensor, number, operand)
        return bound

    def _operand(self, info: TensorInfo, value: Any, bound: Bound, mode: RunMode) -> Operand:
        """What is given for an input, as the executor takes it."""
        del bound, mode
        return as_input(info, value)

    def _target(self, info: TensorInfo, value: Any, shape: Sequence[int], bound: Bound, mode: RunMode) -> Operand:
        """What is given for an output, as the executor takes it."""
        del bound, mode
        return check_bound(info, value, shape)

    def _remembered_shapes(self, index: int, info: EntryInfo, bound: Bound) -> list[tuple[int, ...]]:
        key = (index, *(o.shape for o in bound.operands))
        shapes = self._shapes.get(key)
        if shapes is None:
            shapes = self._output_shapes(index, info, bound.inputs, None, None)
            self._shapes[key] = shapes
            while len(self._shapes) > REMEMBERED_SHAPES:
                self._shapes.popitem(last=False)
        return shapes

    def _output_shapes(
        self,
        index: int,
        info: EntryInfo,
        tensors: ctypes.Array[Tensor],
        arena: c_int64 | None,
        live: c_int64 | None,
    ) -> list[tuple[int, ...]]:
        """Shapes of the outputs, -1 where only the run tells; every input is checked."""
        plan = self._open_plan()
        outputs, error = (Tensor * len(info.outputs))(), Error()
        code = plan.table.shapes(
            plan.handle,
            *(index, tensors, len(tensors), outputs, len(outputs)),
            *(ctypes.byref(v) if v is not None else None for v in (arena, live)),
            ctypes.byref(error),
        )
        if code:
            raise_error(error, f"{self._where}, entry {info.name!r}")
        return [tuple(t.dim[: t.rank]) for t in outputs]

    def _bind_outputs(self, bound: Bound, shapes: list[tuple[int, ...]], out: Mapping[str, Any], mode: RunMode) -> None:
        """Memory for the outputs whose shape is known, unless the device is to have them."""
        check_output_names(bound.info, out, self._where)
        for tensor, o, shape in zip(bound.outputs, bound.info.outputs, shapes, strict=True):
            number, dtype = dtype_of(o)
            target: Operand | None = None
            if o.name in out:
                target = bound.targets[o.name] = self._target(o, out[o.name], shape, bound, mode)
            elif -1 not in shape and mode.outputs == "host":
                target = np.empty(shape, dtype)
            if isinstance(target, DeviceTensor):
                point_tensor(tensor, number, target.shape, target.pointer, target.nbytes)
            elif target is not None:
                if o.dtype in PACKED:
                    bound.memory.append(np.empty(packed_bytes(o, shape), np.uint8))
                fill_tensor(tensor, number, target, bound.memory[-1] if o.dtype in PACKED else None)
            bound.results.append(out.get(o.name, target))

    def _open_plan(self) -> LoadedPlan:
        if self._plan is None:
            raise self._closed()
        return self._plan
