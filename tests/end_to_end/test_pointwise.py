"""Every pointwise operator on every element type that ONNX allows: one model an element type, run at several sizes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator
from tilewright import driver
from tilewright.options import Options
from tilewright.runtime import load

from tests.ops.cases.pointwise import CASES, DTYPES, Pointwise, draw, np_dtype

#: Declared shapes of up to three operands, by turns: equal, broadcast from the left and right, and one for all.
SHAPES: tuple[tuple[tuple[Any, ...], ...], ...] = (
    (("N", 3, "M"), ("N", 3, "M"), ("N", 3, "M")),
    (("N", 3, "M"), ("M",), (3, 1)),
    ((3, 1), ("N", 1, "M"), ("M",)),
    (("N", "M"), (), (1,)),
)
SCALARS = ((), (), ())
SIZES = ({"N": 2, "M": 7}, {"N": 1, "M": 1}, {"N": 0, "M": 5}, {"N": 5, "M": 33})
#: Largest error in units of the last place of the type: some functions are computed with a few.
TOLERANCE = {"float": 2e-6, "double": 1e-12, "float16": 2e-3, "bfloat16": 2e-2}
#: The evaluator computes these in f32, or with constants of f32.
SINGLE = ("Erf", "Gelu")
QUICK = ("float", "float16", "int32", "uint8", "bool")


def _shapes(n: int, case: Pointwise, scalar: bool) -> tuple[tuple[Any, ...], ...]:
    # The condition of Clip's bounds: they are scalars. PRelu broadcasts in one direction only.
    chosen = SCALARS if scalar else SHAPES[0 if case.operands == 1 else n % len(SHAPES)]
    if case.op == "Clip":
        return chosen[0], (), ()
    return SHAPES[1][:2] if case.op == "PRelu" and not scalar else chosen[: case.operands]


def _models(dtype: str, scalar: bool) -> list[tuple[onnx.ModelProto, list[tuple[Pointwise, list[str]]]]]:
    """One model an opset; which case has which inputs."""
    found = []
    for opset in sorted({c.opset for c in CASES}):
        cases = [c for c in CASES if c.opset == opset and c.takes(dtype)]
        nodes, inputs, outputs, used = [], [], [], []
        for n, case in enumerate(cases):
            names = [f"x{n}_{i}" for i in range(case.operands)]
            kinds = [_dtype_of(case, i, dtype) for i in range(case.operands)]
            for name, kind, shape in zip(names, kinds, _shapes(n, case, scalar), strict=False):
                code = helper.np_dtype_to_tensor_dtype(np_dtype(kind))
                inputs.append(helper.make_tensor_value_info(name, code, shape))
            nodes.append(helper.make_node(case.op, names, [f"y{n}"], name=f"n{n}", **case.attributes))
            outputs.append(helper.make_empty_tensor_value_info(f"y{n}"))
            used.append((case, names))
        if cases:
            graph = helper.make_graph(nodes, "pointwise", inputs, outputs)
            typed = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
            found.append((onnx.shape_inference.infer_shapes(typed), used))
    return found


def _ranges(model: onnx.ModelProto) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Sizes from 0 on."""
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input}
    return tuple((n, tuple(f"{s}=0..64" if isinstance(s, str) else str(s) for s in dims)) for n, dims in shapes.items())


def _dtype_of(case: Pointwise, i: int, dtype: str) -> str:
    return (case.dtypes[i] if i < len(case.dtypes) else "") or dtype


def _reference(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    """What the reference evaluator makes of it; of short floats, in f64."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    short = {1, 10, 16}
    for value in (*wide.graph.input, *wide.graph.output):
        if value.type.tensor_type.elem_type in short:
            value.type.tensor_type.elem_type = 11
    widened = {n: a.astype(np.float64) if a.dtype.kind in "fV" else a for n, a in feeds.items()}
    # The evaluator gives numbers instead of arrays for some scalars, and chokes on its own: vectors of one do as well.
    vectors = {n: a.reshape(1) if a.ndim == 0 else a for n, a in widened.items()}
    with np.errstate(all="ignore"):
        return ReferenceEvaluator(wide).run(None, vectors)  # type: ignore[no-any-return]


@pytest.mark.parametrize("scalar", [False, True], ids=["tensors", "scalars"])
@pytest.mark.parametrize("dtype", [d if d in QUICK else pytest.param(d, marks=pytest.mark.slow) for d in DTYPES])
def test_every_operator(dtype: str, scalar: bool) -> None:
    wrong = []
    for model, used in _models(dtype, scalar):
        options = Options(targets=("cpu:native",), input_shapes=_ranges(model))
        session = load(driver.compile(model, options=options).to_bytes())
        for sizes, seed in zip(SIZES[: 1 if scalar else None], itertools.count()):
            rng = np.random.default_rng(seed)
            feeds = {}
            for n, (case, names) in enumerate(used):
                for i, (name, shape) in enumerate(zip(names, _shapes(n, case, scalar), strict=False)):
                    actual = [sizes.get(s, s) for s in shape]
                    feeds[name] = draw(rng, _dtype_of(case, i, dtype), actual, *case.bounds(i))
            results = session.run(None, feeds)
            for (case, _), got, want in zip(used, results, _reference(model, feeds), strict=True):
                expected = np.asarray(want)
                problem = _difference(got, expected.reshape(()) if scalar else expected, dtype, case.op in SINGLE)
                wrong += [f"{case} at {sizes}: {problem}"] if problem else []
    assert not wrong, "\n".join(wrong)


def _difference(got: Any, want: Any, dtype: str, single: bool) -> str:
    if want.dtype.kind == "f":
        got = got.view(np_dtype("bfloat16")) if dtype == "bfloat16" else got
        if got.dtype != np_dtype(dtype):
            return f"{got.dtype} instead of {dtype}"
        got, limit = got.astype(np.float64), max(TOLERANCE[dtype], 2e-7 if single else 0)
    else:
        limit = 0.0
        if got.dtype != want.dtype:
            return f"{got.dtype} instead of {want.dtype}"
    if got.shape != want.shape:
        return f"shape {got.shape} instead of {want.shape}"
    if np.allclose(got, want, rtol=limit, atol=limit, equal_nan=True):
        return ""
    at = int(np.argmax(~np.isclose(got, want, rtol=limit, atol=limit, equal_nan=True)))
    return f"{got.reshape(-1)[at]} instead of {want.reshape(-1)[at]}"
