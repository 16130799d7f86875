"""Quantized operators of ONNX and ``com.microsoft`` in ONNX text (``quantized_cases.txt``), each a model by itself.

Scales are chosen so that results spread over the whole range of their type and are rarely ties. Weights have 7 bits:
ONNX Runtime's products of u8 and s8 saturate in 16 bits on machines without VNNI (its documentation: "reduce_range").
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, parser

OPSETS = '"" : 21, "com.microsoft" : 1'


@dataclass(frozen=True, slots=True)
class Case:
    """A model.

    Attributes:
        name: unique.
        inputs: of the graph, as text.
        output: likewise; without sizes, of as many axes as the first input.
        body: nodes; ``w:int8[5,7]`` is a random weight, ``f:5x7`` one in f32, ``p:7`` positive numbers, ``s:0.1`` a
            scale (``s1``: with one axis, ``h``: in f16), ``v:7`` random scales, ``z:u8:3`` a zero point (``z7``: seven
            times), ``n:2,3`` integers.
    """

    name: str
    inputs: str
    output: str
    body: str


def _cases() -> list[Case]:
    text = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8")
    found = re.findall(r"^([\w-]+): (.*) => (.*)\n    (.*)$", text, re.MULTILINE)
    return [Case(*parts) for parts in found]


CASES = _cases()

_TYPES = {
    "u8": np.uint8, "i8": np.int8, "u16": np.uint16, "i16": np.int16, "uint8": np.uint8, "int8": np.int8,
    "int32": np.int32, "i32": np.int32,
}  # fmt: skip
_WORD = re.compile(r"\b(w|s|s1|h|v|f|p|n|z\d*):(-?[\w.]+(?:,\d+)*)(?:\[([\d,]+)\])?(?::(-?\d+))?")


def build(case: Case, prefix: str = "") -> onnx.ModelProto:
    """The model of a case; names of values begin with ``prefix``."""
    constants: dict[str, NDArray[np.generic]] = {}
    random = np.random.default_rng(len(case.body))

    def constant(found: re.Match[str]) -> str:
        name = f"k{len(constants)}"
        constants[name] = _array(found, random)
        return name

    body = _WORD.sub(constant, case.body)
    text = f"<ir_version: 10, opset_import: [{OPSETS}]>\ng ({case.inputs}) => ({_ranked(case)}) {{ {body} }}"
    model = parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in constants.items())
    if prefix:
        model.graph.CopyFrom(onnx.compose.add_prefix_graph(model.graph, prefix))
    return model


def _ranked(case: Case) -> str:
    if "[" in case.output:
        return case.output
    dtype, name = case.output.split()
    return f"{dtype}[{','.join('abcd'[: _rank(case)])}] {name}"


def _rank(case: Case) -> int:
    return len(re.search(r"\[(.*?)\]", case.inputs.partition("bool")[2] or case.inputs)[1].split(","))  # type: ignore[index]


def _array(found: re.Match[str], random: np.random.Generator) -> NDArray[np.generic]:
    kind, first, sizes, last = found.groups()
    if kind == "w":
        shape, dtype = [int(s) for s in sizes.split(",")], _TYPES[first]
        low, high = {np.uint8: (0, 127), np.int8: (-64, 63), np.int32: (-500, 500)}[dtype]
        return random.integers(low, high, shape, endpoint=True).astype(dtype)
    if kind in ("s", "s1"):
        return np.full([1] * (kind == "s1"), float(first), np.float32)
    if kind == "h":
        return np.array(float(first), np.float16)
    if kind == "n":
        return np.array([int(s) for s in first.split(",")])
    if kind == "p":
        return random.uniform(0.02, 1.0, [int(s) for s in first.split("x")]).astype(np.float32)
    if kind == "v":
        return random.uniform(0.01, 0.05, int(first)).astype(np.float32)
    if kind == "f":
        return random.standard_normal([int(s) for s in first.split("x")]).astype(np.float32)
    shape = [int(kind[1:])] if kind[1:] else []
    return np.full(shape, int(last), _TYPES[first])


def feeds(model: onnx.ModelProto, batch: int, seed: int = 0) -> dict[str, NDArray[np.generic]]:
    """Random inputs: integers over their whole range, floats of unit size."""
    random = np.random.default_rng(seed)
    made: dict[str, NDArray[np.generic]] = {}
    for value in model.graph.input:
        shape = [d.dim_value or batch for d in value.type.tensor_type.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            made[value.name] = random.standard_normal(shape).astype(np.float32)
        elif dtype in (np.bool_, np.int64):
            made[value.name] = random.integers(0, 2, shape).astype(dtype)
        else:
            info = np.iinfo(dtype)
            made[value.name] = random.integers(info.min, info.max, shape, endpoint=True).astype(dtype)
    return made
