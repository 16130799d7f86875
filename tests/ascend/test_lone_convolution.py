"""Convolutions that stand alone, images channels first in and out: no launch on the host, numbers beside NumPy, the
same bits from their Ascend C."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tilewright as tw
from onnx import TensorProto, helper, numpy_helper

from tests.ascend import modelled
from tests.ascend.session import GROUPS, SimulatedSession, Started, recorded

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the host part is compiled for x86-64")
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Lone:
    """Sizes of one, pairs (down, across). ``dtype`` is that of image and weights; of ``i8`` results are f32, or i8
    where it is ``requantized``."""

    image: tuple[int, int]
    channels: int
    filters: int
    kernel: tuple[int, int] = (3, 3)
    stride: int = 1
    dilation: int = 1
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)
    dtype: str = "f16"
    residual: bool = False
    requantized: bool = False
    group: int = 1

    @property
    def out(self) -> tuple[int, int]:
        """Output rows and columns."""
        sizes = zip(self.image, self.kernel, self.pads[:2], self.pads[2:], strict=True)
        high, wide = ((n + a + b - self.dilation * (k - 1) - 1) // self.stride + 1 for n, k, a, b in sizes)
        return high, wide


STEM = {"kernel": (7, 7), "stride": 2, "pads": (3, 3, 3, 3)}
POINT = {"kernel": (1, 1), "pads": (0, 0, 0, 0)}
CASES: Mapping[str, Lone] = {
    "3x3": Lone((8, 8), 32, 32),
    "3x3, channels that fill no fractal": Lone((9, 7), 24, 20),
    "3x3, fewer channels than a fractal": Lone((7, 5), 10, 6),
    "3x3, one filter": Lone((6, 6), 16, 1),
    "3x3, residual": Lone((6, 10), 16, 48, residual=True),
    "padding on one side, stride": Lone((9, 8), 16, 24, stride=2, pads=(1, 0, 0, 1)),
    "dilation": Lone((10, 9), 16, 16, dilation=2, pads=(2, 2, 2, 2)),
    "3x3, groups": Lone((8, 6), 32, 48, group=2),
    "first": Lone((24, 30), 3, 16, **STEM),  # type: ignore[arg-type]
    "1x1": Lone((7, 9), 32, 48, **POINT),  # type: ignore[arg-type]
    "1x1, residual": Lone((6, 7), 24, 40, residual=True, **POINT),  # type: ignore[arg-type]
    "1x1, stride": Lone((8, 8), 32, 16, stride=2, **POINT),  # type: ignore[arg-type]
}
BYTES: Mapping[str, Lone] = {
    "3x3, int8": Lone((8, 8), 32, 32, dtype="i8"),
    "3x3, int8, channels that fill no fractal": Lone((7, 9), 40, 20, dtype="i8"),
    "3x3, int8, to int8": Lone((8, 8), 32, 16, dtype="i8", requantized=True),
    "3x3, int8, groups": Lone((6, 8), 32, 48, dtype="i8", group=2),
    "first, int8": Lone((24, 30), 3, 16, dtype="i8", **STEM),  # type: ignore[arg-type]
    "1x1, int8": Lone((7, 9), 32, 48, dtype="i8", **POINT),  # type: ignore[arg-type]
    "1x1, int8, residual": Lone((6, 8), 64, 32, dtype="i8", residual=True, **POINT),  # type: ignore[arg-type]
}
X_SCALE, Y_SCALE = np.float32(0.02), np.float32(0.1)
_TYPES = {"f16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16, "i8": TensorProto.INT8}


class Graph:
    """A graph of many of them, each with inputs and outputs of its own: they are compiled together."""

    def __init__(self, cases: Mapping[str, Lone]):
        self.cases = dict(enumerate(cases.values()))
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.arrays: dict[str, Array] = {}
        for n, case in self.cases.items():
            self._add(n, case)

    def save(self, folder: Path) -> Path:
        """The path of the model."""
        graph = helper.make_graph(self.nodes, "lone", self.inputs, self.outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        onnx.checker.check_model(model)
        onnx.save(model, folder / "lone.onnx")
        return folder / "lone.onnx"

    @property
    def shapes(self) -> dict[str, tuple[int | str, ...]]:
        """Of the inputs, the batch open."""
        shapes: dict[str, tuple[int | str, ...]] = {}
        for n, case in self.cases.items():
            shapes[f"x{n}"] = ("batch=1..4", case.channels, *case.image)
            if case.residual:
                shapes[f"r{n}"] = ("batch=1..4", case.filters, *case.out)
        return shapes

    def feed(self, batch: int) -> dict[str, Array]:
        """Normal numbers, or integers of every size."""
        random = np.random.default_rng(batch)
        made = {}
        for name, shape in self.shapes.items():
            case = self.cases[int(name[1:])]
            sizes = (batch, *(int(s) for s in shape[1:]))
            if name[0] == "x" and case.dtype == "i8":
                made[name] = random.integers(-128, 128, sizes).astype(np.int8)
            else:
                made[name] = random.standard_normal(sizes).astype(self.kind(case))
        return made

    def kind(self, case: Lone) -> np.dtype[Any]:
        """The type of a residual, and of results in floats."""
        return np.dtype(np.float32 if case.dtype == "i8" else np.float16)

    def _constant(self, name: str, array: Array) -> str:
        self.arrays[name] = array
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def _node(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def _add(self, n: int, case: Lone) -> None:
        random = np.random.default_rng(n)
        shape = (case.filters, case.channels // case.group, *case.kernel)
        x, w, b = f"x{n}", f"w{n}", f"b{n}"
        floats = helper.np_dtype_to_tensor_dtype(self.kind(case))
        self.inputs.append(helper.make_tensor_value_info(x, _TYPES[case.dtype], ["batch", case.channels, *case.image]))
        if case.dtype == "i8":
            scale = self._constant(f"x_scale{n}", np.array(X_SCALE))
            self._constant(w, random.integers(-127, 128, shape).astype(np.int8))
            scales = self._constant(f"w_scale{n}", random.uniform(0.001, 0.01, case.filters).astype(np.float32))
            bias = random.integers(-5000, 5000, case.filters).astype(np.int32)
            both = self._constant(f"b_scale{n}", X_SCALE * self.arrays[scales])
            x = self._node("DequantizeLinear", [x, scale], f"xf{n}")
            w = self._node("DequantizeLinear", [w, scales], f"wf{n}", axis=0)
            b = self._node("DequantizeLinear", [self._constant(b, bias), both], f"bf{n}", axis=0)
        else:
            self._constant(w, (random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float16))
            self._constant(b, random.standard_normal(case.filters).astype(np.float16))
        strides, dilations = [case.stride] * 2, [case.dilation] * 2
        options = {"kernel_shape": case.kernel, "strides": strides, "dilations": dilations, "pads": case.pads}
        y = self._node("Conv", [x, w, b], f"c{n}", group=case.group, **options)
        if case.residual:
            place = ["batch", case.filters, *case.out]
            self.inputs.append(helper.make_tensor_value_info(f"r{n}", floats, place))
            y = self._node("Add", [y, f"r{n}"], f"s{n}")
        y = self._node("Relu", [y], f"y{n}" if not case.requantized else f"p{n}")
        kind = floats
        if case.requantized:
            ends = [
                self._constant(f"y_scale{n}", np.array(Y_SCALE)),
                self._constant(f"y_zero{n}", np.array(3, np.int8)),
            ]
            self._node("QuantizeLinear", [y, *ends], f"y{n}")
            kind = TensorProto.INT8
        self.outputs.append(helper.make_tensor_value_info(f"y{n}", kind, ["batch", case.filters, *case.out]))

    def wanted(self, n: int, feed: Mapping[str, Array]) -> Array:
        """Sums in f64 (integers exactly), what comes after them in f64 too."""
        case, x = self.cases[n], feed[f"x{n}"].astype(np.float64)
        w = self.arrays[f"w{n}"].astype(np.float64)
        (a, c, b, d), (high, wide) = case.pads, case.out
        x = np.pad(x, ((0, 0), (0, 0), (a, b), (c, d)))
        total = np.zeros((x.shape[0], case.filters, high, wide))
        for i in range(case.kernel[0]):
            for j in range(case.kernel[1]):
                y, z = i * case.dilation, j * case.dilation
                taken = x[:, :, y :: case.stride, z :: case.stride][:, :, :high, :wide]
                parts = zip(np.split(taken, case.group, 1), np.split(w[:, :, i, j], case.group), strict=True)
                total += np.concatenate([np.einsum("bchw,fc->bfhw", t, f) for t, f in parts], 1)
        total += self.arrays[f"b{n}"].astype(np.float64)[:, None, None]
        if case.dtype == "i8":
            total *= self.arrays[f"b_scale{n}"].astype(np.float64)[:, None, None]
        if case.residual:
            total += feed[f"r{n}"]
        total = np.maximum(total, 0)
        return np.clip(np.rint(total / Y_SCALE) + 3, -128, 127) if case.requantized else total


def _run(cases: Mapping[str, Lone], target: str, folder: Path, batches: Sequence[int]) -> None:
    graph = Graph(cases)
    with recorded() as placed:
        made = tw.compile(
            str(graph.save(folder)), targets=(f"{target}+host=x86-64",), input_shapes=graph.shapes, verify=False
        )
    (facts,) = made.report.targets
    assert not facts.fallback
    made.save(folder / "m.tw")
    emitted = modelled.build(list(placed.values()), level="-O0")

    def watch(launch: Started) -> None:
        outputs, fault = emitted.run(launch.placed, launch.inputs, launch.dims, GROUPS)
        assert not fault
        assert all(modelled.same_bits(v, launch.outputs[n]) for n, v in outputs.items())

    session = SimulatedSession(folder / "m.tw", placed, watch)
    for batch in batches:
        feed = graph.feed(batch)
        got = session.run(feed)
        for n, (name, case) in enumerate(cases.items()):
            want = graph.wanted(n, feed)
            off = np.abs(got[f"y{n}"].astype(np.float64) - want).max()
            most = 1.0 if case.requantized else (2e-6 if case.dtype == "i8" else 4e-3) * np.abs(want).max()
            assert off <= most, (name, batch, off)


#: What is run every time, on the target where it is harder.
USUAL: Mapping[str, tuple[str, ...]] = {
    "ascend:910b3": ("3x3, residual", "first", "1x1, residual", "3x3, int8, to int8"),
    "ascend:310p3": ("3x3", "padding on one side, stride", "3x3, int8, channels that fill no fractal", "1x1, int8"),
}
TARGETS = tuple(USUAL)


@pytest.mark.parametrize("target", TARGETS)
def test_on_the_device(target: str, tmp_path: Path) -> None:
    every = {**CASES, **BYTES}
    _run({name: every[name] for name in USUAL[target]}, target, tmp_path, (3,))


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_every_kind_on_the_device(target: str, tmp_path: Path) -> None:
    _run({**CASES, **BYTES}, target, tmp_path, (1, 2, 4))
