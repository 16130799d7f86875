"""Compares programs of XLA with ``onnx.reference``, at static sizes and with padding around smaller ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from tilewright.accuracy import compare

from tests.xla.run import Array, Program, Shapes, compiled


def model_of(text: str, opset: int = 21) -> onnx.ModelProto:
    """A model from the text of its graph."""
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]>\n{text}')


def agree(
    text: str,
    feeds: Mapping[str, Array],
    shapes: Shapes | None = None,
    buckets: Mapping[str, tuple[int, ...]] | None = None,
    want: list[Any] | None = None,
    opset: int = 21,
    tolerance: float | None = None,
) -> Program:
    """Run it, compare every output with the reference (or ``want``), and return the program.

    The tolerance is that of the reference's element type (:data:`tilewright.accuracy.TOLERANCE`) if not given.
    """
    model = model_of(text, opset)
    if want is None:
        want = ReferenceEvaluator(model).run(None, dict(feeds))
    program = compiled(model, shapes, buckets)
    for (name, got), wanted in zip(program.run(feeds).items(), want, strict=True):
        found = compare(name, np.asarray(got), np.asarray(wanted), tolerance)
        assert found.ok, f"{found.distance} {found.problem}\n{program.text}"
    return program


def normal(*shape: int, seed: int = 0) -> Array:
    """Normal f32 numbers."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape, dtype=np.float32)
