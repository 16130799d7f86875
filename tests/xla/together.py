"""Many small graphs as one program: each is compared with ``onnx.reference`` by itself, and all are compiled once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from tests.xla.reference import model_of
from tests.xla.run import Array, Program, compiled

#: Sizes of the dimensions that a case may name; all programs are of size 8.
BUCKET = 8
SIZES = (
    {"B": 3, "S": 5, "T": 4},
    {"B": 8, "S": 8, "T": 8},
    {"B": 1, "S": 1, "T": 1},
    {"B": 2, "S": 7, "T": 3},
    {"B": 5, "S": 2, "T": 8},
)

Feeds = dict[str, Array]


@dataclass(frozen=True)
class Case:
    """A graph's text.

    Attributes:
        want: what it has to give, where the reference evaluator is wrong or cannot.
        feeds: its inputs for some sizes; random ones by default.
    """

    text: str
    want: Callable[[Mapping[str, Array]], Sequence[Any]] | None = None
    feeds: Callable[[Mapping[str, int]], Feeds] | None = None
    opset: int = 21
    rtol: float = 2e-6
    model: onnx.ModelProto = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", model_of(self.text, self.opset))

    def inputs(self, sizes: Mapping[str, int], rng: np.random.Generator) -> Feeds:
        """Inputs of these sizes."""
        if self.feeds is not None:
            return self.feeds(sizes)
        found = {}
        for value in self.model.graph.input:
            shape = [sizes.get(d.dim_param, d.dim_value) for d in value.type.tensor_type.shape.dim]
            dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            found[value.name] = np.asarray(numbers(rng, dtype, shape))
        return found

    def results(self, feeds: Feeds) -> Sequence[Any]:
        """What it has to give."""
        return self.want(feeds) if self.want else ReferenceEvaluator(self.model).run(None, feeds)


def numbers(rng: np.random.Generator, dtype: np.dtype[Any], shape: Sequence[int]) -> Array:
    """Normal floats; small integers, not negative ones where they are unsigned; booleans."""
    if dtype.kind in "iu":
        return rng.integers(-9 if dtype.kind == "i" else 0, 10, shape).astype(dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    return rng.standard_normal(shape).astype(dtype)


def program_of(cases: Mapping[str, Case], symbolic: bool = True) -> Program:
    """All cases as one program of padded sizes, or of those that the inputs have."""
    nodes, inputs, outputs, constants, shapes = [], [], [], [], {}
    for n, case in enumerate(cases.values()):
        whole = onnx.compose.add_prefix(case.model, f"c{n}_")
        nodes += whole.graph.node
        constants += whole.graph.initializer
        inputs += whole.graph.input
        outputs += [
            helper.make_tensor_value_info(o.name, o.type.tensor_type.elem_type, None) for o in whole.graph.output
        ]
        for value in whole.graph.input:
            dims = [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
            if symbolic and any(isinstance(d, str) for d in dims):
                shapes[value.name] = tuple(f"{d}=1..{BUCKET}" if isinstance(d, str) else d for d in dims)
    graph = helper.make_graph(nodes, "all", inputs, outputs, constants)
    (opset,) = {case.opset for case in cases.values()}
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return compiled(model, shapes, dict.fromkeys("BST", (BUCKET,)))


def check(cases: Mapping[str, Case], sizes: Iterable[Mapping[str, int]] = SIZES) -> None:
    """Compile all cases together, run them at all sizes, and tell all that is off."""
    program, rng, wrong = program_of(cases), np.random.default_rng(0), []
    for these in sizes:
        feeds = {name: case.inputs(these, rng) for name, case in cases.items()}
        given = {f"c{n}_{i}": a for n, own in enumerate(feeds.values()) for i, a in own.items()}
        got = program.run(given)
        for n, (name, case) in enumerate(cases.items()):
            for output, want in zip(case.model.graph.output, case.results(feeds[name]), strict=True):
                problem = difference(got[f"c{n}_{output.name}"], np.asarray(want), case.rtol)
                wrong += [f"{name} {output.name} at {dict(these)}: {problem}"] if problem else []
    assert not wrong, "\n".join(wrong)


def difference(got: Array, want: Array, rtol: float) -> str:
    """What is wrong, or nothing. Equal are NaN and NaN; integers have to be exact."""
    if got.dtype != want.dtype or got.shape != want.shape:
        return f"{got.dtype}{got.shape} instead of {want.dtype}{want.shape}"
    if want.dtype.kind in "iub":
        return "" if np.array_equal(got, want) else f"{got.tolist()} instead of {want.tolist()}"
    with np.errstate(invalid="ignore"):
        near = np.isclose(got.astype(np.float64), want.astype(np.float64), rtol, rtol, equal_nan=True)
    return "" if near.all() else f"{got[~near][:4]} instead of {want[~near][:4]}"
