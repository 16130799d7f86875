"""Load an artifact and run it: the Python interface, on NumPy alone."""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from ctypes import c_double, c_int64, c_uint32
from dataclasses import dataclass
from typing import Any

import numpy as np
from tilewright.runtime.artifact import Source, open_artifact
from tilewright.runtime.device import LoadedPlan, load_plan, raise_error
from tilewright.runtime.errors import InputError
from tilewright.runtime.library import Error, ProfileBuffer, Tensor
from tilewright.runtime.manifest import EntryInfo, Manifest, TensorInfo
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
)

#: Shapes whose output shapes are remembered.
REMEMBERED_SHAPES = 64
#: Launches that a profile has room for at first.
PROFILE_ROOM = 4096


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes of the temporaries' arena for some input shapes, and the most that are live at a time."""

    arena: int
    live_maximum: int


class Session:
    """A loaded artifact. Any number of threads may run it at a time; every run has its own memory.

    Attributes:
        manifest: what the artifact says.
        target: spelling of the part that runs here.
        threads: how many work on one run, the calling one among them.
    """

    def __init__(self, plan: LoadedPlan, entry: str | None = None):
        self._plan: LoadedPlan | None = plan
        self.manifest: Manifest = plan.artifact.manifest
        self.target: str = plan.target.target
        self.threads: int = plan.table.threads(plan.handle)
        self._where = plan.artifact.where
        self._entry = self._entry_index(entry)
        self._shapes: OrderedDict[tuple[Any, ...], list[tuple[int, ...]]] = OrderedDict()

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """Inputs of the entry point: ``.name``, ``.dtype``, ``.shape``."""
        return self.manifest.entries[self._entry].inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """Outputs of the entry point."""
        return self.manifest.entries[self._entry].outputs

    def run(
        self,
        output_names: Sequence[str] | None,
        inputs: Mapping[str, Any],
        *,
        out: Mapping[str, Array] | None = None,
        entry: str | None = None,
    ) -> list[Array]:
        """Run the model once.

        Args:
            output_names: which outputs to return, in this order; all of them when ``None``.
            inputs: an array for each input, of its element type. Contiguous arrays are not copied. ``bf16`` and
                narrower floats are arrays of ml_dtypes or the bits as unsigned integers, integers of less than 8 bits
                are those of ml_dtypes or of 8 bits; outputs are the latter.
            out: arrays that outputs are written to. For a state, the input's own array updates it in place.
            entry: name of the entry point; the first when ``None``.

        Raises:
            InputError: names, types or shapes that do not fit (exit 2).
            ResourceError: no memory (exit 7).
        """
        index = self._entry if entry is None else self._entry_index(entry)
        results = self._run(index, inputs, out or {}, None)
        if output_names is None:
            return results
        by_name = {o.name: r for o, r in zip(self.manifest.entries[index].outputs, results, strict=True)}
        for name in output_names:
            if name not in by_name:
                raise self._unknown("output", name, list(by_name))
        return [by_name[name] for name in output_names]

    def __call__(self, **inputs: Any) -> dict[str, Array]:
        """Run the model on inputs by name; outputs by name."""
        return {o.name: r for o, r in zip(self.outputs, self.run(None, inputs), strict=True)}

    def profile(
        self, inputs: Mapping[str, Any], *, out: Mapping[str, Array] | None = None, entry: str | None = None
    ) -> list[tuple[str, float]]:
        """Run once and return each kernel launch in order: the kernel's name, and its seconds.

        ``out`` is as for :meth:`run`: memory that was written before takes no page faults while it is measured.
        """
        index = self._entry if entry is None else self._entry_index(entry)
        plan = self._open_plan()
        room = PROFILE_ROOM
        while True:
            kernels, seconds = (c_uint32 * room)(), (c_double * room)()
            buffer = ProfileBuffer(kernels, seconds, room, 0)
            self._run(index, inputs, out or {}, buffer)
            if buffer.count <= room:
                break
            room = buffer.count
        names = [plan.table.kernel_name(plan.handle, i).decode() for i in range(plan.table.kernel_count(plan.handle))]
        return [(names[kernels[i]], seconds[i]) for i in range(buffer.count)]

    def memory(self, inputs: Mapping[str, Any], *, entry: str | None = None) -> MemoryUse:
        """Memory that temporaries need for inputs of these shapes; nothing is run."""
        index = self._entry if entry is None else self._entry_index(entry)
        info = self.manifest.entries[index]
        tensors, arrays, memory = self._bind_inputs(info, inputs)
        arena, live = c_int64(), c_int64()
        self._output_shapes(index, info, tensors, arena, live)
        del arrays, memory
        return MemoryUse(arena.value, live.value)

    def close(self) -> None:
        """Give up the artifact; runs that are going on finish."""
        self._plan = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # -- one run -----------------------------------------------------------------------------------------------------

    def _run(
        self, index: int, inputs: Mapping[str, Any], out: Mapping[str, Array], profile: ProfileBuffer | None
    ) -> list[Array]:
        plan, info = self._open_plan(), self.manifest.entries[index]
        tensors, arrays, memory = self._bind_inputs(info, inputs)
        shapes = self._remembered_shapes(index, info, tensors, arrays)
        outputs = (Tensor * len(info.outputs))()
        results = self._bind_outputs(info, shapes, out, outputs, memory)
        _refuse_overlap(info, arrays, out)
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
        names = [i.name for i in info.inputs]
        for name in inputs:
            if name not in names:
                raise self._unknown("input", name, names)
        missing = [name for name in names if name not in inputs]
        if missing:
            raise InputError(
                "input-missing",
                where=f"entry {info.name!r}",
                cause=f"no input {', '.join(map(repr, missing))}",
                fix=f"give {'; '.join(map(str, info.inputs))}",
            )
        arrays = [as_input(i, inputs[i.name]) for i in info.inputs]
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
        names = [o.name for o in info.outputs]
        for name in out:
            if name not in names:
                raise self._unknown("output", name, names)
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

    def _entry_index(self, name: str | None) -> int:
        try:
            return self.manifest.entry(name)
        except KeyError:
            raise self._unknown("entry point", str(name), [e.name for e in self.manifest.entries]) from None

    def _open_plan(self) -> LoadedPlan:
        if self._plan is None:
            raise InputError("session-closed", where=self._where, cause="the session was closed", fix="load it again")
        return self._plan

    def _unknown(self, what: str, name: str, known: Sequence[str]) -> InputError:
        return InputError(
            f"unknown-{what.replace(' ', '-')}",
            where=self._where,
            cause=f"there is no {what} {name!r}",
            fix=f"use one of {', '.join(map(repr, known))}",
        )


def _refuse_overlap(info: EntryInfo, arrays: list[Array], out: Mapping[str, Array]) -> None:
    """Memory given for an output may be an input's only where they are one state."""
    for name, target in out.items():
        for i, array in zip(info.inputs, arrays, strict=True):
            same_state = (i.name, name) in info.states and target.ctypes.data == array.ctypes.data
            if not same_state and np.may_share_memory(target, array):
                raise InputError(
                    "output-memory",
                    where=f"output {name!r}",
                    cause=f"its memory overlaps input {i.name!r}",
                    fix="give memory of its own",
                )


def load(
    source: Source,
    device: str = "auto",
    threads: int | None = None,
    mmap: bool = True,
    *,
    entry: str | None = None,
) -> Session:
    """Load an artifact.

    Args:
        source: path of a ``.tw`` file, or its bytes.
        device: ``auto``, ``cpu``, or a target's spelling (``cpu:x86-64-v3``). Never another one in silence.
        threads: threads of one run; ``None`` for the processors that this process may use (affinity and cgroup quota).
        mmap: map the file; ``False`` reads it, for files that may change meanwhile.
        entry: the entry point that ``run`` means by default; the first when ``None``.

    Raises:
        ArtifactError: damaged, truncated or of another version (exit 9).
        DeviceError: it holds nothing that this machine can run (exit 8).
        InputError: no such file (exit 2).
    """
    artifact = open_artifact(source, use_mmap=mmap)
    for target in artifact.manifest.targets:
        kinds = (target.target, target.target.partition(":")[0], target.target.replace(":", "-"))
        if "program.json" in target.members and device in kinds:
            from tilewright.runtime.program_session import ProgramSession

            return ProgramSession(artifact, target, entry)  # type: ignore[return-value]
    return Session(load_plan(artifact, device, threads), entry)
