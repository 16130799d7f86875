"""Runs a plan: the part of an artifact that the executor and kernels in C are, on NumPy alone."""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from ctypes import c_double, c_int64, c_uint32
from typing import Any

import numpy as np
from tilewright.runtime.binding import check_output_names, input_arrays, refuse_overlap
from tilewright.runtime.device import LoadedPlan, raise_error
from tilewright.runtime.library import Error, ProfileBuffer, Tensor
from tilewright.runtime.manifest import EntryInfo
from tilewright.runtime.session import MemoryUse, Session
from tilewright.runtime.tensors import (
    PACKED,
    Array,
    check_bound,
    copy_out,
    dtype_of,
    fill_tensor,
    packed,
    packed_bytes,
)

#: Shapes whose output shapes are remembered.
REMEMBERED_SHAPES = 64
#: Launches that a profile has room for at first.
PROFILE_ROOM = 4096


class PlanSession(Session):
    """A loaded plan. Every run has its own memory."""

    def __init__(self, plan: LoadedPlan, entry: str | None = None, entries: Sequence[EntryInfo] | None = None):
        """``entries`` are those of the plan where they are not the artifact's."""
        artifact = plan.artifact
        super().__init__(artifact, plan.target.target, plan.table.threads(plan.handle), entry, entries)
        self._plan: LoadedPlan | None = plan
        self._shapes: OrderedDict[tuple[Any, ...], list[tuple[int, ...]]] = OrderedDict()

    def profile(
        self, inputs: Mapping[str, Any], *, out: Mapping[str, Array] | None = None, entry: str | None = None
    ) -> list[tuple[str, float]]:
        index = self._entry if entry is None else self._entry_index(entry)
        plan = self._open_plan()
        room = PROFILE_ROOM
        while True:
            kernels, seconds = (c_uint32 * room)(), (c_double * room)()
            buffer = ProfileBuffer(kernels, seconds, room, 0)
            self._run_once(index, inputs, out or {}, buffer)
            if buffer.count <= room:
                break
            room = buffer.count
        names = [plan.table.kernel_name(plan.handle, i).decode() for i in range(plan.table.kernel_count(plan.handle))]
        return [(names[kernels[i]], seconds[i]) for i in range(buffer.count)]

    def memory(self, inputs: Mapping[str, Any], *, entry: str | None = None) -> MemoryUse:
        index = self._entry if entry is None else self._entry_index(entry)
        info = self._entries[index]
        tensors, arrays, memory = self._bind_inputs(info, inputs)
        arena, live = c_int64(), c_int64()
        self._output_shapes(index, info, tensors, arena, live)
        del arrays, memory
        return MemoryUse(arena.value, live.value)

    def close(self) -> None:
        self._plan = None

    # -- one run -----------------------------------------------------------------------------------------------------

    def _run(self, index: int, inputs: Mapping[str, Any], out: Mapping[str, Array]) -> list[Array]:
        return self._run_once(index, inputs, out, None)

    def _run_once(
        self, index: int, inputs: Mapping[str, Any], out: Mapping[str, Array], profile: ProfileBuffer | None
    ) -> list[Array]:
        plan, info = self._open_plan(), self._entries[index]
        tensors, arrays, memory = self._bind_inputs(info, inputs)
        shapes = self._remembered_shapes(index, info, tensors, arrays)
        outputs = (Tensor * len(info.outputs))()
        results = self._bind_outputs(info, shapes, out, outputs, memory)
        refuse_overlap(info, arrays, out)
        error = Error()
        code = plan.table.run(
            plan.handle,
            *(index, tensors, len(tensors), outputs, len(outputs)),
            ctypes.byref(profile) if profile is not None else None,
            ctypes.byref(error),
        )
        if code:
            raise_error(error, f"{self._where}, entry {info.name!r}")
        for i, result in enumerate(results):
            if result is None:
                results[i] = copy_out(outputs[i], info.outputs[i])
                plan.table.release(outputs[i].data)
            elif info.outputs[i].dtype in PACKED:
                numbers = copy_out(outputs[i], info.outputs[i])
                target = result if numbers.dtype.kind == "i" else result.view(numbers.dtype)
                target[...] = numbers
        del memory
        return [r for r in results if r is not None]

    def _bind_inputs(
        self, info: EntryInfo, inputs: Mapping[str, Any]
    ) -> tuple[ctypes.Array[Tensor], list[Array], list[Array]]:
        """Tensors, the arrays that they are, and further memory that they point into."""
        arrays = input_arrays(info, inputs, self._where)
        tensors = (Tensor * len(arrays))()
        memory: list[Array] = []
        for tensor, i, array in zip(tensors, info.inputs, arrays, strict=True):
            if i.dtype in PACKED:
                memory.append(packed(i, array))
            fill_tensor(tensor, dtype_of(i)[0], array, memory[-1] if i.dtype in PACKED else None)
        return tensors, arrays, memory

    def _remembered_shapes(
        self, index: int, info: EntryInfo, tensors: ctypes.Array[Tensor], arrays: list[Array]
    ) -> list[tuple[int, ...]]:
        key = (index, *(a.shape for a in arrays))
        shapes = self._shapes.get(key)
        if shapes is None:
            shapes = self._output_shapes(index, info, tensors, None, None)
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

    def _bind_outputs(
        self,
        info: EntryInfo,
        shapes: list[tuple[int, ...]],
        out: Mapping[str, Array],
        outputs: ctypes.Array[Tensor],
        memory: list[Array],
    ) -> list[Array | None]:
        """Arrays for the outputs whose shape is known; ``memory`` takes in what their tensors point into besides."""
        check_output_names(info, out, self._where)
        results: list[Array | None] = []
        for tensor, o, shape in zip(outputs, info.outputs, shapes, strict=True):
            number, dtype = dtype_of(o)
            array = check_bound(o, out[o.name], shape) if o.name in out else None
            if array is None and -1 not in shape:
                array = np.empty(shape, dtype)
            if array is not None:
                if o.dtype in PACKED:
                    memory.append(np.empty(packed_bytes(o, shape), np.uint8))
                fill_tensor(tensor, number, array, memory[-1] if o.dtype in PACKED else None)
            results.append(array)
        return results

    def _open_plan(self) -> LoadedPlan:
        if self._plan is None:
            raise self._closed()
        return self._plan
