"""Runs the Ascend part of an artifact with no NPU: its plan here, each launch in the simulator of the cores.

Host launches run by the part's own library, so the part must be for this machine's processor (``+host=x86-64``). What
is handed from step to step starts as a pattern of ones, NaN in floats, so that reading what nobody wrote shows.
"""

from __future__ import annotations

import ctypes
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tilewright.backends.ascend.backend import AscendBackend
from tilewright.backends.ascend.placed.form import Placed
from tilewright.backends.ascend.simulator.machine import check
from tilewright.backends.base import Source
from tilewright.ir.symbolic import Expr
from tilewright.plan import plan as p
from tilewright.plan.decode import decode_plan
from tilewright.runtime import open_artifact
from tilewright.target import Target

Array = np.ndarray[Any, Any]
#: Groups of cores that are simulated at most; every number of them gives the same bits.
GROUPS = 2
_PATTERN = 0xFF


@contextmanager
def recorded() -> Iterator[dict[str, Placed]]:
    """While a model is compiled: the placed kernels by name."""
    found: dict[str, Placed] = {}
    emit = AscendBackend.emit

    def keep(self: AscendBackend, kernels: Sequence[Any], target: Target) -> Source:
        for code in kernels:
            found[code.kernel.name] = self._placed(code, target)
        return emit(self, kernels, target)

    AscendBackend.emit = keep  # type: ignore[method-assign]
    try:
        yield found
    finally:
        AscendBackend.emit = emit  # type: ignore[method-assign]


@dataclass(frozen=True)
class Started:
    """A launch on the device: the kernel, what it was given, and what it made."""

    placed: Placed
    inputs: Mapping[str, Array]
    dims: Mapping[str, int]
    outputs: Mapping[str, Array]


class _Arguments(ctypes.Structure):
    """``tw_args`` of kernel_abi.h."""

    _fields_ = (
        ("buffer", ctypes.POINTER(ctypes.c_void_p)),
        ("dim", ctypes.POINTER(ctypes.c_int64)),
        ("scratch", ctypes.c_void_p),
        ("fault", ctypes.POINTER(ctypes.c_int32)),
    )


_Kernel = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Arguments), ctypes.c_int64, ctypes.c_int64)


class SimulatedSession:
    """A part of an artifact, opened. ``watch`` is told of every launch on the device; ``groups`` are simulated."""

    def __init__(
        self,
        artifact: Path,
        placed: Mapping[str, Placed],
        watch: Callable[[Started], None] | None = None,
        groups: int = GROUPS,
    ):
        opened = open_artifact(artifact)
        self._part = next(t for t in opened.manifest.targets if t.has_sources)
        self.plan = decode_plan(bytes(opened.checked(self._part.members["plan.bin"])))
        self._kernels = [placed[name] for name in self.plan.kernels]
        self._watch = watch or (lambda launch: None)
        self.groups = groups
        weights = np.frombuffer(bytes(opened.bytes_of("weights")), np.uint8)
        places = {w.name: (w.offset, w.size) for w in opened.manifest.weights}
        self._constants = [weights[places[c.name][0] :][: places[c.name][1]] for c in self.plan.constants]
        self._table = self._library(bytes(opened.checked(self._part.members["kernels.so"]))) if self._has_host else None
        self.seconds = 0.0

    @property
    def _has_host(self) -> bool:
        return bool(self.plan.host_kernels)

    def _library(self, code: bytes) -> Any:
        with tempfile.NamedTemporaryFile(suffix=".so") as file:
            file.write(code)
            file.flush()
            self._loaded = ctypes.CDLL(file.name)
        return (ctypes.c_void_p * len(self.plan.host_kernels)).in_dll(self._loaded, "tw_kernels_v1")

    def run(self, inputs: Mapping[str, Array], entry: str | None = None) -> dict[str, Array]:
        """Outputs by name."""
        point = next(e for e in self.plan.entries if entry in (None, e.name))
        return _Run(self, point, inputs).finish()


@dataclass
class _Run:
    """One run: the memory of each buffer, and the values of symbols."""

    session: SimulatedSession
    entry: p.EntryPoint
    inputs: Mapping[str, Array]
    memory: dict[int, Array] = field(default_factory=dict)
    symbols: dict[str, int] = field(default_factory=dict)

    def finish(self) -> dict[str, Array]:
        entry = self.entry
        given = [np.asarray(self.inputs[s.name], s.dtype.numpy, order="C") for s in entry.inputs]
        for s, value in zip(entry.inputs, given, strict=True):
            self.symbols |= {
                str(d): int(n) for d, n in zip(s.shape, value.shape, strict=True) if str(d) in dict(entry.symbols)
            }
        states = [given[i].copy() for i, _ in entry.states]
        for n, b in enumerate(entry.buffers):
            if b.kind in ("input", "state"):
                self.memory[n] = (given if b.kind == "input" else states)[b.index].reshape(-1).view(np.uint8)
        at = 0
        while not isinstance(entry.code[at], p.Return):
            at = self._step(entry.code[at], at)
        results = {}
        for n, s in enumerate(entry.outputs):
            state = next((i for i, (_, o) in enumerate(entry.states) if o == n), None)
            kind, index = ("output", n) if state is None else ("state", state)
            buffer = next(
                (k for k, b in enumerate(entry.buffers) if b.base is None and (b.kind, b.index) == (kind, index)), None
            )
            data = (
                states[state].reshape(-1).view(np.uint8)
                if buffer is None and state is not None
                else self._bytes(buffer or 0)
            )
            results[s.name] = data.view(s.dtype.numpy).reshape([self._value(d) for d in s.shape]).copy()
        return results

    def _value(self, e: Expr) -> int:
        return e.evaluate(self.symbols)

    def _bytes(self, n: int) -> Array:
        """The memory of a buffer, made at first use; a view shares that of its base."""
        b = self.entry.buffers[n]
        size = self._value(b.size)
        if b.base is not None:
            offset = self._value(b.offset)
            return self._bytes(b.base)[offset : offset + size]
        if b.kind == "constant":
            return self.session._constants[b.index]
        if n not in self.memory:
            self.memory[n] = np.full(size, _PATTERN, np.uint8)
        return self.memory[n][:size]

    def _step(self, step: p.Instruction, at: int) -> int:
        match step:
            case p.Launch():
                self._launch(step)
            case p.HostLaunch():
                self._host(step)
            case p.Copy():
                size = self._value(step.size)
                self._bytes(step.target)[:size] = self._bytes(step.source)[:size].copy()
            case p.LoadScalar():
                self.symbols[step.name] = int(
                    self._bytes(step.buffer).view(step.dtype.numpy)[self._value(step.element)]
                )
            case p.SetScalar():
                self.symbols[step.name] = self._value(step.expr)
            case p.Assert():
                assert self._value(step.lo) <= self._value(step.expr) <= self._value(step.hi), step.message
            case p.Jump():
                return step.to if step.condition is None or self._value(step.condition) else at + 1
            case p.Free():
                self.memory.pop(step.buffer)
            case p.Allocate():
                pass
            case _:
                raise ValueError(f"{step}: not a step of the models that are tried here")
        return at + 1

    def _launch(self, step: p.Launch) -> None:
        placed = self.session._kernels[step.kernel]
        kernel, groups = placed.kernel, self._value(step.grid)
        if groups == 0:
            return
        dims = {name: self._value(d) for (name, _), d in zip(kernel.facts, step.dims, strict=True)}
        inputs: dict[str, Array] = {}
        shapes = {b.name: b.shape for b in placed.buffers}
        for param, buffer in zip(kernel.params, step.buffers, strict=True):
            if param.role != "out":
                shape = [e.evaluate(dims) for e in shapes[param.name]]
                dtype = placed.buffer(param.name).dtype
                inputs[param.name] = self._bytes(buffer).view(dtype.numpy).reshape(shape).copy()
        started = time.perf_counter()
        result = check(placed, inputs, dims, min(groups, self.session.groups))
        self.session.seconds += time.perf_counter() - started
        assert not result.fault, f"{kernel.name}: an index lies outside its tensor"
        for param, buffer in zip(kernel.params, step.buffers, strict=True):
            if param.role == "out":
                self._bytes(buffer)[:] = np.ascontiguousarray(result.outputs[param.name]).reshape(-1).view(np.uint8)
        self.session._watch(Started(placed, inputs, dims, result.outputs))

    def _host(self, step: p.HostLaunch) -> None:
        grid = self._value(step.grid)
        if grid == 0:
            return
        memory = [np.require(self._bytes(b), requirements="CA") for b in step.buffers]
        aligned = [_aligned(m) for m in memory]
        pointers = (ctypes.c_void_p * len(aligned))(*(m.ctypes.data for m in aligned))
        dims = (ctypes.c_int64 * max(1, len(step.dims)))(*(self._value(d) for d in step.dims))
        scratch, fault = _aligned(np.zeros(self._value(step.scratch) + 64, np.uint8)), ctypes.c_int32(0)
        arguments = _Arguments(pointers, dims, scratch.ctypes.data, ctypes.pointer(fault))
        _Kernel(self.session._table[step.kernel])(ctypes.byref(arguments), 0, grid)
        assert fault.value == 0, f"{self.session.plan.host_kernels[step.kernel]}: an index lies outside its tensor"
        for buffer, after in zip(step.buffers, aligned, strict=True):
            if self.entry.buffers[self._root(buffer)].kind != "constant":
                self._bytes(buffer)[:] = after

    def _root(self, n: int) -> int:
        base = self.entry.buffers[n].base
        return n if base is None else self._root(base)


def _aligned(data: Array) -> Array:
    """A copy that starts at a multiple of 64 bytes, as kernels of a host may take for granted."""
    room = np.empty(data.nbytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    result = room[start : start + data.nbytes]
    result[:] = data
    return result
