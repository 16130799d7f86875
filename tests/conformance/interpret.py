"""A plan run without a device: its program here, its kernels in Triton's interpreter, on memory with marked borders.

``python -m tests.conformance.interpret`` is a worker that puts Triton into that mode, reads names of cases, one a line,
and answers each with a line of JSON.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from tilewright.backends.cuda.interpret import in_memory, unpacked
from tilewright.backends.cuda.interpreter_process import stand_in
from tilewright.backends.cuda.launch import LAUNCHES, Launch, from_json
from tilewright.plan import plan as p

from tests.conformance.cases import Case, cases, read_values
from tests.conformance.device import Prepared, prepare
from tests.conformance.execute import Outcome, _difference, _line, given

#: Bytes before and after every buffer that nobody may change, and what is in them.
_BORDER, _MARK = 64, 0xA5
#: NumPy types of pointers in signatures.
_POINTERS = {
    "fp32": np.float32, "fp16": np.float16, "fp64": np.float64, "i8": np.int8, "i16": np.int16, "i32": np.int32,
    "i64": np.int64, "u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "u64": np.uint64, "i1": np.bool_,
}  # fmt: skip


#: Programs that a case may have; the interpreter takes milliseconds for each.
_PROGRAMS = 1500


class Unable(Exception):
    """Triton's interpreter gets this wrong, or a plan does what this program does not follow."""


class Fault(Exception):
    """A kernel met an index outside its tensor, or something was written where nothing is."""


@dataclass(slots=True)
class Machine:
    """Memory and symbols of one run of a plan."""

    prepared: Prepared
    arrays: list[np.ndarray]
    constants: list[np.ndarray]
    functions: dict[str, Any]
    symbols: dict[str, int] = field(default_factory=dict)
    memory: dict[int, np.ndarray] = field(default_factory=dict)
    programs: int = 0

    def run(self) -> list[np.ndarray]:
        """The outputs' bytes, in order."""
        plan = self.prepared.plan
        assert plan is not None
        entry = plan.built.plan.entries[0]
        for signature, array in zip(entry.inputs, self.arrays, strict=True):
            for e, size in zip(signature.shape, array.shape, strict=True):
                if not e.is_constant and str(e) in {s for s, _ in entry.symbols}:
                    self.symbols[str(e)] = size
        at, steps = 0, 0
        while not isinstance(entry.code[at], p.Return):
            at = self.step(entry, entry.code[at], at)
            steps += 1
            if steps > 10_000:
                raise Unable("a plan of more than 10,000 instructions")
        for block in self.memory.values():
            if not ((block[:_BORDER] == _MARK).all() and (block[-_BORDER:] == _MARK).all()):
                raise Fault("a kernel wrote outside its buffer")
        return [self.bytes_of(entry, n) for n, b in self.outputs(entry)]

    def outputs(self, entry: p.EntryPoint) -> list[tuple[int, p.Buffer]]:
        """The buffer of each output."""
        found = {b.index: (n, b) for n, b in enumerate(entry.buffers) if b.kind == "output"}
        return [found[i] for i in range(len(entry.outputs))]

    def bytes_of(self, entry: p.EntryPoint, n: int) -> np.ndarray:
        """The memory of a buffer, made when it is first named."""
        b = entry.buffers[n]
        size = b.size.evaluate(self.symbols)
        if b.base is not None:
            offset = b.offset.evaluate(self.symbols)
            return self.bytes_of(entry, b.base)[offset : offset + size]
        if n not in self.memory:
            block = np.full(size + 2 * _BORDER, _MARK, np.uint8)
            inner = block[_BORDER : _BORDER + size]
            inner[:] = 0xCD
            if b.kind in ("input", "constant"):
                source = self.arrays[b.index] if b.kind == "input" else self.constants[b.index]
                data = in_memory(source, "*u8").reshape(-1).view(np.uint8)
                inner[: data.size] = data
            self.memory[n] = block
        return self.memory[n][_BORDER : _BORDER + size]

    def step(self, entry: p.EntryPoint, code: p.Instruction, at: int) -> int:
        """Carry out one instruction; the number of the next."""
        value = lambda e: e.evaluate(self.symbols)  # noqa: E731
        match code:
            case p.Launch():
                self.launch(entry, code)
            case p.Copy(source=source, target=target, size=size):
                self.bytes_of(entry, target)[: value(size)] = self.bytes_of(entry, source)[: value(size)]
            case p.LoadScalar(name=name, buffer=buffer, dtype=dtype, element=element):
                self.symbols[name] = int(self.bytes_of(entry, buffer).view(dtype.numpy)[value(element)])
            case p.Assert(expr=expr, lo=lo, hi=hi, message=message):
                if not value(lo) <= value(expr) <= value(hi):
                    raise Fault(message)
            case p.Allocate() | p.Free():
                pass
            case p.SetScalar(name=name, expr=expr):
                self.symbols[name] = value(expr)
            case p.Jump(to=to, condition=condition):
                return to if condition is None or value(condition) else at + 1
            case _:
                raise Unable(f"an instruction {type(code).__name__}")
        return at + 1

    def launch(self, entry: p.EntryPoint, code: p.Launch) -> None:
        """One kernel over its grid."""
        import torch

        assert self.prepared.plan is not None
        name = self.prepared.plan.built.plan.kernels[code.kernel]
        launch, function = self.functions[name]
        grid, dims = code.grid.evaluate(self.symbols), iter(code.dims)
        buffers = iter(code.buffers)
        fault = np.zeros(16, np.int32)
        arguments: list[Any] = []
        for a in launch.arguments:
            if a.role == "fault":
                arguments.append(torch.from_numpy(fault))
            elif a.role == "workspace":
                size = max(launch.workspace.evaluate(self.symbols), code.scratch.evaluate(self.symbols))
                arguments.append(torch.from_numpy(np.zeros(size + 64, np.uint8)))
            elif a.is_pointer:
                arguments.append(torch.from_numpy(self.pointer(self.bytes_of(entry, next(buffers)), a.type[1:])))
            else:
                arguments.append(next(dims).evaluate(self.symbols))
        self.programs += grid
        if self.programs > _PROGRAMS:
            raise Unable(f"more than {_PROGRAMS} programs")
        if grid:
            function[(grid,)](*arguments)
        if fault[0]:
            raise Fault(f"kernel {name} met an index outside its tensor")

    @staticmethod
    def pointer(data: np.ndarray, kind: str) -> np.ndarray:
        """``data`` as elements of ``kind``; of words, with the border where the last one is cut."""
        if kind not in _POINTERS:
            raise Unable(f"Triton's interpreter computes {kind} wrongly")
        dtype = np.dtype(_POINTERS[kind])
        if data.size % dtype.itemsize or not data.size:
            size = max(1, -(-data.size // dtype.itemsize)) * dtype.itemsize
            data = np.lib.stride_tricks.as_strided(data, (size,), (1,))  # the border is there
        return data.view(dtype)


def functions_of(prepared: Prepared, folder: Path) -> dict[str, tuple[Launch, Any]]:
    """The emitted functions of a case, to be interpreted."""
    assert prepared.source is not None
    found = {}
    for launch in from_json(prepared.source.files[LAUNCHES]):
        file = folder / f"{launch.kernel}.py"
        file.write_text(prepared.source.files[file.name], encoding="utf-8")
        spec = importlib.util.spec_from_file_location(launch.kernel, file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found[launch.kernel] = launch, getattr(module, launch.entry)
    return found


def execute(case: Case, target: Any, constants: bool) -> Outcome:
    """Plan a case and interpret it on every data set."""
    prepared = prepare(case, target, constants)
    if prepared.outcome.status != "passed":
        return prepared.outcome
    outcome = prepared.outcome
    try:
        problem = _compare(case, prepared)
    except Unable as error:
        return replace(outcome, status="unable", reason=str(error))
    except Exception as error:
        return replace(outcome, status="failed", reason=f"crash: {_line(error)}")
    return replace(outcome, status="wrong", reason=problem) if problem else outcome


def _compare(case: Case, prepared: Prepared) -> str:
    assert prepared.plan is not None
    built = prepared.plan.built
    entry = built.plan.entries[0]
    constants = _contents(built)
    names = given(onnx.load(str(case.folder / "model.onnx"), load_external_data=False))
    with tempfile.TemporaryDirectory() as folder:
        functions = functions_of(prepared, Path(folder))
        for data in case.data:
            inputs, expected = read_values(data, "input"), read_values(data, "output")
            feeds = dict(zip(names, inputs, strict=False))
            machine = Machine(prepared, [np.asarray(feeds[s.name]) for s in entry.inputs], constants, functions)
            outputs = machine.run()
            shaped = [
                unpacked(raw.copy(), s.dtype, [e.evaluate(machine.symbols) for e in s.shape])
                for raw, s in zip(outputs, entry.outputs, strict=True)
            ]
            if problem := _difference(expected, shaped, case):
                return problem
    return ""


def _contents(built: Any) -> list[np.ndarray]:
    from tilewright.artifact import contents_of

    contents = contents_of(built.constants)
    return [np.ascontiguousarray(contents[c.name]()).reshape(-1).view(np.uint8) for c in built.plan.constants]


def main() -> None:
    """Answer names with outcomes until the input ends. The arguments are the target, and ``constants``."""
    os.environ["TRITON_INTERPRET"] = "1"
    from tilewright.backends.cuda.backend import CudaBackend

    stand_in()
    target = CudaBackend().targets()[sys.argv[1]]
    known = cases()
    for line in sys.stdin:
        started = time.perf_counter()
        outcome = execute(known[line.strip()], target, "constants" in sys.argv[2:])
        print(json.dumps({**asdict(outcome), "seconds": time.perf_counter() - started}), flush=True)


if __name__ == "__main__":
    main()
