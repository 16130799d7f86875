"""Runs graphs through the XLA backend's programs on jaxlib's CPU client, with garbage wherever there is padding.

    got = run(model, {"x": x})                                     # static sizes
    program = compiled(model, {"x": ("N=1..8", 4)}, {"N": (8,)})   # one program of size 8 …
    got = program.run({"x": x[:3]})                                # … run at size 3

Padding of inputs is NaN, or numbers that no index and no sum survives: a missing mask shows. A node that the backend
leaves to the host part is an error (:class:`OnHost`), with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from tilewright.backends.base import CompiledRegion, ProgramSettings, Refused
from tilewright.backends.xla.backend import XlaBackend
from tilewright.definitions import graph_passes
from tilewright.entries import entries_of, import_entries
from tilewright.ir.graph import constant_array, is_constant, type_of
from tilewright.ir.types import DType, TensorType
from tilewright.options import Options
from tilewright.passes.pipeline import run_pipeline
from tilewright.passes.place import Region, place
from tilewright.runtime.devices.xla import Client
from tilewright.target import Target

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Any]
Shapes = Mapping[str, Sequence[Any]]

TARGET = "xla:cpu"


class OnHost(AssertionError):
    """Nodes that have no form in StableHLO; ``reasons`` by node."""

    def __init__(self, reasons: Mapping[str, str]):
        super().__init__("; ".join(f"{node}: {reason}" for node, reason in reasons.items()))
        self.reasons = dict(reasons)


@dataclass(frozen=True)
class Program:
    """A graph and its programs, ready to run."""

    model: ir.Model
    region: Region | None  # None where every output is a constant
    compiled: CompiledRegion | None

    @property
    def text(self) -> str:
        """The StableHLO of all variants."""
        return "\n".join(self.compiled.texts.values()) if self.compiled else ""

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Outputs by name, cut to their true sizes; by the first variant that holds the sizes."""
        symbols = symbols_of(self.model, feeds)
        results: dict[ir.Value, Array] = {}
        if self.region is not None and self.compiled is not None:
            results = self._results(self.region, self.compiled, feeds, symbols)
        given = {v: np.asarray(feeds[str(v.name)]) for v in self.model.graph.inputs}
        outputs = {}
        for value in self.model.graph.outputs:
            known = constant_array(value) if is_constant(value) else results.get(value)
            outputs[str(value.name)] = np.asarray(given[value] if known is None else known)
        return outputs

    def _results(
        self, region: Region, compiled: CompiledRegion, feeds: Feeds, symbols: Mapping[str, int]
    ) -> dict[ir.Value, Array]:
        variant = next(v for v in compiled.variants if all(symbols.get(s, 0) <= n for s, n in v.sizes.items()))
        arguments = [
            padded(np.asarray(feeds[str(v.name)]), type_of(v), variant.sizes, seed)
            for seed, v in enumerate(region.inputs)
        ]
        arguments += [np.array(symbols[s], np.int32) for s in compiled.padded]
        arguments += [weight(v) for v in compiled.weights]
        found = client().run(executable(compiled.members[variant.module]), [client().put(a) for a in arguments])
        return {
            v: np.asarray(a)[tuple(slice(e.evaluate(symbols)) for e in type_of(v).shape)]
            for v, a in zip(region.outputs, found, strict=True)
        }


def run(
    model: onnx.ModelProto | Path | str,
    feeds: Feeds,
    shapes: Shapes | None = None,
    buckets: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, Array]:
    """Compile a model and run it once: see :func:`compiled`."""
    return compiled(model, shapes, buckets).run(feeds)


def compiled(
    model: onnx.ModelProto | Path | str,
    shapes: Shapes | None = None,
    buckets: Mapping[str, tuple[int, ...]] | None = None,
) -> Program:
    """The programs of a model, a path, or ONNX text; ``shapes`` are ``input_shapes`` of ``tw.compile``.

    Raises :class:`OnHost` where a node is not for the device.
    """
    graph = imported(model, shapes)
    backend = XlaBackend()
    target = target_of(TARGET)
    run_pipeline(graph, graph_passes(backend, target, Options(targets=(TARGET,)).level))
    told = {}
    for node in graph.graph:
        support = backend.runs(graph, node, target)
        if not support.ok and not all(is_constant(o) for o in node.outputs):
            told[f"{node.op_type} {node.name!r}"] = support.reason
    if told:
        raise OnHost(told)
    regions = place(graph, lambda node: False)
    if not regions:
        return Program(graph, None, None)
    (region,) = regions
    settings = ProgramSettings(buckets=dict(buckets or {}), compile=False)
    try:
        made = backend.compile_region(graph, region, "program", target, settings)
    except Refused as refused:
        raise OnHost({f"{r.node.op_type} {r.node.name!r}": r.reason for r in refused.refusals}) from refused
    return Program(graph, region, made)


def imported(model: onnx.ModelProto | Path | str, shapes: Shapes | None = None) -> ir.Model:
    """A graph as the driver imports it; text is parsed, as opset 21 where it is a graph alone."""
    if isinstance(model, str) and not model.endswith(".onnx"):
        model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]>\n{model}')
    options = Options(targets=(TARGET,), input_shapes=tuple((n, tuple(s)) for n, s in (shapes or {}).items()))
    (graph,) = import_entries(entries_of(model), options).values()
    return graph


def target_of(spelling: str) -> Target:
    """A target of the backend."""
    return XlaBackend().targets()[spelling]


def weight(value: ir.Value) -> Array:
    """A constant as programs get it: types of less than 8 bits packed, the first element in the lowest bits."""
    array, bits = constant_array(value), type_of(value).dtype.bits
    if bits >= 8:
        return array
    codes = array.reshape(-1).view(np.uint8) & ((1 << bits) - 1)
    codes = np.concatenate([codes, np.zeros(-len(codes) % (8 // bits), np.uint8)])
    shifted = codes.reshape(-1, 8 // bits) << np.arange(0, 8, bits, dtype=np.uint8)
    return np.asarray(np.bitwise_or.reduce(shifted, axis=1))


def symbols_of(model: ir.Model, feeds: Feeds) -> dict[str, int]:
    """The value of each symbol that is a dimension of an input by itself."""
    found: dict[str, int] = {}
    for value in model.graph.inputs:
        for size, actual in zip(type_of(value).shape, np.shape(feeds[str(value.name)]), strict=True):
            if len(size.symbols) == 1 and str(size) in size.symbols:
                found.setdefault(str(size), actual)
    return found


class TooLarge(Exception):
    """An input that no program holds, which a session refuses."""


def padded(array: Array, type_: TensorType, sizes: Mapping[str, int], seed: int = 0) -> Array:
    """``array`` as the first elements of one of the static shape, with :func:`garbage` around it."""
    shape = tuple(e.evaluate(sizes) for e in type_.shape)
    array = np.asarray(array, type_.dtype.numpy)
    if shape == array.shape:
        return array
    if any(n > most for n, most in zip(array.shape, shape, strict=True)):
        raise TooLarge(f"{array.shape} in a program for {shape}")
    whole = garbage(type_.dtype, shape, seed)
    whole[tuple(map(slice, array.shape))] = array
    return whole


def garbage(dtype: DType, shape: Sequence[int], seed: int = 0) -> Array:
    """NaN, or large numbers of both signs; booleans of both kinds."""
    rng = np.random.default_rng(seed)
    if dtype is DType.BOOL:
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.is_float:
        return np.full(shape, np.nan, dtype.numpy)
    low = -(2 ** (dtype.bits - 1)) if dtype.is_signed else 0
    return rng.integers(low, low + 2**dtype.bits, shape, dtype.numpy if dtype.bits >= 8 else np.int8).astype(
        dtype.numpy
    )


@cache
def client() -> Client:
    """One client of the CPU."""
    return Client("cpu")


@cache
def executable(module: bytes) -> Any:
    """A loaded program."""
    return client().compile(module)
