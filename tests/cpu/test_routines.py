"""Routines under sanitizers: every buffer is an allocation of its own, and what buffers hold is hostile too."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from tilewright.backends.cpu.machine import codegen, headers, runnable
from tilewright.backends.cpu.routine import emit_routine
from tilewright.frontend.onnx import import_model
from tilewright.ir.graph import constant_array, is_constant, known_value, type_of
from tilewright.ir.late import late_symbols
from tilewright.kernel.interpret import run_lowered
from tilewright.kernel.routine import Routine
from tilewright.ops.program import Call, Read, View, lower_graph

from tests.end_to_end.routine_cases import GRAPHS, Array, Graph, normal
from tests.end_to_end.test_routines import check, model_of

GCC = shutil.which("gcc")
pytestmark = pytest.mark.skipif(GCC is None or not runnable(), reason="SKIPPED: no gcc on the PATH for sanitizers")

CHECKS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1", "-std=gnu11", "-w"]


@dataclass
class Programs:
    """Programs that call one routine each, compiled once."""

    folder: Path
    made: dict[str, Path] = field(default_factory=dict)

    def program(self, routine: Routine) -> Path:
        """``tests/cpu/run_routine.c`` with a routine."""
        if routine.identity not in self.made:
            target = runnable()[0]
            folder = self.folder / routine.identity
            folder.mkdir()
            for name, text in headers().items():
                (folder / name).write_text(text)
            (folder / "routine.c").write_text(emit_routine(routine, "routine", target))
            march, *more = str(codegen(target)["march"]).split()
            options = [f"-march={march}", *more, *CHECKS, f"-I{folder}"]
            sources = [str(folder / "routine.c"), str(Path(__file__).with_name("run_routine.c"))]
            subprocess.run([str(GCC), *options, *sources, "-o", str(folder / "program"), "-lm"], check=True)
            self.made[routine.identity] = folder / "program"
        return self.made[routine.identity]

    def call(self, routine: Routine, arrays: list[Array], dims: list[int], grid: int, scratch: int) -> int:
        """Run in three pieces; outputs are written into ``arrays``. Returns the fault flag."""
        program = self.program(routine)
        header = np.array([len(arrays), len(dims), grid, scratch, *(a.nbytes for a in arrays), *dims], np.int64)
        (self.folder / "call").write_bytes(header.tobytes() + b"".join(a.tobytes() for a in arrays))
        command = [str(program), str(self.folder / "call"), str(self.folder / "result"), "3"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[:4000]
        result, at = (self.folder / "result").read_bytes(), 1
        for array in arrays:
            array.reshape(-1)[:] = np.frombuffer(result[at : at + array.nbytes], array.dtype)
            at += array.nbytes
        return result[0]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    return Programs(tmp_path_factory.mktemp("routines"))


@dataclass
class Execution:
    """A run of a graph's steps: routines by their programs, kernels by the interpreter."""

    model: ir.Model
    programs: Programs
    dims: dict[str, int] = field(default_factory=dict)
    values: dict[ir.Value, Array] = field(default_factory=dict)
    fault: int = 0

    def run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        """Outputs by name."""
        for value in self.model.graph.inputs:
            array = np.array(feeds[str(value.name)], order="C")
            for size, actual in zip(type_of(value).shape, array.shape, strict=True):
                if str(size) in size.symbols:
                    self.dims[str(size)] = actual
            self.store(value, array)
        for step in lower_graph(self.model):
            match step:
                case View(source=source, result=result):
                    self.store(result, self.array(source).reshape(self.shape(result)))
                case Read(name=name, value=value, element=element):
                    self.dims[name] = int(self.values[value].reshape(-1)[element])
                    self.settle()
                case Call():
                    self.call(step)
                case _:
                    self.launch(step)
        return {str(o.name): self.array(o) for o in self.model.graph.outputs}

    def shape(self, value: ir.Value) -> list[int]:
        return [s.evaluate(self.dims) for s in type_of(value).shape]

    def array(self, value: ir.Value) -> Array:
        return np.asarray(constant_array(value)) if is_constant(value) else self.values[value]

    def store(self, value: ir.Value, array: Array) -> None:
        """Keep a result, and what hangs on it: symbols that are its elements, then definitions."""
        self.values[value] = array
        late, known = late_symbols(self.model), known_value(value)
        for n, element in enumerate(() if known is None else known.flat):
            if str(element) in late and late[str(element)].element is not None:
                self.dims[str(element)] = int(array.reshape(-1)[n])
        self.settle()

    def settle(self) -> None:
        for name, late in late_symbols(self.model).items():
            if late.expr is not None and late.expr.symbols <= self.dims.keys():
                self.dims[name] = late.expr.evaluate(self.dims)

    def call(self, step: Call) -> None:
        first = len(step.values) - step.routine.outputs
        arrays = [np.array(self.array(v)) for v in step.values[:first]]
        arrays += [np.zeros(self.shape(v), type_of(v).dtype.numpy) for v in step.values[first:]]
        dims = [d.evaluate(self.dims) for d in step.dims]
        grid, scratch = step.grid.evaluate(self.dims), step.scratch.evaluate(self.dims)
        self.fault |= self.programs.call(step.routine, arrays, dims, grid, scratch)
        for value, array in zip(step.values[first:], arrays[first:], strict=True):
            self.store(value, array)

    def launch(self, step: Any) -> None:
        pairs = list(zip(step.kernel.params, step.values, strict=True))
        given = {
            p.name: self.array(v).reshape([s.evaluate(self.dims) for s in p.shape]) for p, v in pairs if p.role != "out"
        }
        results = run_lowered(step.kernel, given, {n: self.dims[n] for n, _ in step.kernel.facts})
        for p, v in pairs:
            if p.role == "out":
                self.store(v, results[p.name].reshape(self.shape(v)))


def executed(graph: Graph, programs: Programs) -> Execution:
    proto = model_of(graph.text, graph.opset)
    shapes = {
        v.name: tuple("0.." if d.dim_param else str(d.dim_value) for d in v.type.tensor_type.shape.dim)
        for v in proto.graph.input
    }
    return Execution(import_model(proto, shapes), programs)


#: A compilation for each element type.
SLOW = ("TopK of every type", "Unique of every type")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in GRAPHS])
def test_no_byte_outside_a_buffer(name: str, programs: Programs) -> None:
    graph = GRAPHS[name]
    for feeds in graph.runs:
        execution = executed(graph, programs)
        results = execution.run(feeds)
        assert execution.fault == 0
        if graph.expected is not None:
            check(graph, results, graph.expected(feeds))


@pytest.mark.parametrize("lengths", [[-1, 3], [2**31 - 1, 0], [-(2**31), 4]])
def test_lengths_outside_the_tensor_are_refused(lengths: list[int], programs: Programs) -> None:
    execution = executed(GRAPHS["LSTM"], programs)
    shapes = {v.name: [s.value if s.is_constant else {"S": 3, "B": 2}[str(s)] for s in type_of(v).shape]
              for v in execution.model.graph.inputs}  # fmt: skip
    feeds = {str(n): normal(*shape) for n, shape in shapes.items()}
    execution.run({**feeds, "n": np.array(lengths, np.int32)})
    assert execution.fault == 1


@pytest.mark.parametrize("most", [-(2**63), 2**63 - 1])
def test_boxes_that_are_no_numbers(most: int, programs: Programs) -> None:
    """NaN and infinity wherever they can be."""
    rng = np.random.default_rng(0)
    strange = np.array([np.nan, np.inf, -np.inf, 0.0, 1.0], np.float32)
    feeds = {
        "boxes": strange[rng.integers(0, 5, (2, 30, 4))], "scores": strange[rng.integers(0, 5, (2, 3, 30))],
        "most": np.array([most]), "iou": strange[:1], "least": strange[2:3],
    }  # fmt: skip
    execution = executed(GRAPHS["NonMaxSuppression"], programs)
    for rows in execution.run(feeds).values():
        assert rows.shape[1] == 3
        assert (rows >= 0).all()
        assert (rows < [2, 3, 30]).all()
