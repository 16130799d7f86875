"""A random model under construction: nodes are evaluated as they are added, so that the next may fit the values.

A node that neither oracle can compute, or that makes values too large to compare, is not added. Sizes of inputs may be
named; then the model is run at other sizes as well, where an oracle can.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.fuzz.oracles import ORACLES, Array, Cannot

#: Values of the named sizes in each run; the models are built with the first.
SIZES: tuple[dict[str, int], ...] = ({"N": 3, "M": 6}, {"N": 5, "M": 4}, {"N": 1, "M": 1})
FIXED = (1, 2, 3, 4, 5, 7, 8, 17)
FLOATS = ("float32", "float32", "float32", "float32", "float32", "float16", "float64")
INTEGERS = ("int64", "int64", "int32", "int32", "int8", "uint8", "int16", "uint16", "uint32", "uint64")
OPSETS = (18, 19, 20, 21, 22, 23, 24)

#: Elements of one value, and the largest magnitude that stays comparable.
MOST_ELEMENTS, LARGEST = 20_000, 2000.0


class Skip(Exception):
    """The chosen operator does not fit what there is."""


@dataclass
class Input:
    """A run-time input: its sizes (numbers or names) and how its contents are drawn.

    ``kind`` is ``any``, ``positive`` (1 and above, for divisors), ``wide`` (integers of any size), ``below:K`` (an
    index), or ``fixed`` (an operand whose contents are ``array`` in every run).
    """

    dtype: str
    sizes: tuple[int | str, ...]
    kind: str
    array: Array

    def draw(self, rng: np.random.Generator, sizes: dict[str, int]) -> Array:
        """Contents at other sizes."""
        shape = [sizes[s] if isinstance(s, str) else s for s in self.sizes]
        return self.array if self.kind == "fixed" else draw(rng, self.dtype, shape, self.kind)


@dataclass
class Graph:
    """The model so far; ``avoid`` are operators that are not to be used."""

    seed: int
    avoid: frozenset[str] = frozenset()
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inputs: dict[str, Input] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)
    values: dict[str, Array] = field(default_factory=dict)
    exact: set[str] = field(default_factory=set)
    sizes: dict[str, tuple[int | str, ...]] = field(default_factory=dict)
    pool: list[str] = field(default_factory=list)
    pinned: bool = False  # what was chosen holds for these values only
    named_sizes: tuple[dict[str, int], ...] = SIZES
    most: int = MOST_ELEMENTS
    count: int = 0

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.opset = self.pick(OPSETS)
        self.named = self.maybe(0.5)
        self.empty = self.maybe(0.06)

    # -- choices -------------------------------------------------------------------------------------------------

    def pick(self, items: Sequence[Any]) -> Any:
        return items[int(self.rng.integers(len(items)))]

    def maybe(self, chance: float = 0.5) -> bool:
        return bool(self.rng.random() < chance)

    def integer(self, low: int, high: int) -> int:
        """Between ``low`` and ``high``, both included."""
        return int(self.rng.integers(low, high + 1))

    def size(self) -> int | str:
        if self.named and self.maybe(0.35):
            return str(self.pick(list(self.named_sizes[0])))
        return 0 if self.empty and self.maybe(0.3) else int(self.pick(FIXED))

    def axis(self, name: str) -> int:
        rank = self.values[name].ndim
        return self.integer(-rank, rank - 1) if rank else 0

    # -- values --------------------------------------------------------------------------------------------------

    def input(self, dtype: str, sizes: Sequence[int | str], kind: str = "any", array: Array | None = None) -> str:
        """A new run-time input."""
        shape = [self.named_sizes[0][s] if isinstance(s, str) else s for s in sizes]
        name = f"x{len(self.inputs)}"
        contents = draw(self.rng, dtype, shape, kind) if array is None else array
        self.inputs[name] = Input(dtype, tuple(sizes), kind, contents)
        return self._known(name, contents, tuple(sizes))

    def constant(self, array: Any, dtype: str = "int64") -> str:
        """A new initializer."""
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(array, dtype)
        return self._known(name, self.constants[name], self.constants[name].shape)

    def operand(self, array: Any, dtype: str = "int64", run_time: float = 0.3) -> str:
        """An integer operand (axes, a shape, pads …): a constant, or a run-time input with the same contents."""
        if self.maybe(run_time):
            contents = np.asarray(array, dtype)
            return self.input(dtype, contents.shape, "fixed", contents)
        return self.constant(array, dtype)

    def of(self, dtype: str, sizes: Sequence[int | str], kind: str = "any") -> str:
        """A constant where no size is named, or an input."""
        if all(isinstance(s, int) for s in sizes) and self.maybe(0.5):
            return self.constant(draw(self.rng, dtype, [int(s) for s in sizes], kind), dtype)
        return self.input(dtype, sizes, kind)

    def take(
        self,
        dtypes: Sequence[str] = (),
        least: int = 0,
        most: int = 5,
        exact: bool = False,
        ok: Callable[[Array], bool] | None = None,
    ) -> str:
        """A value of one of the element types and a rank within bounds: there already, or a new input."""
        dtypes = dtypes or (*FLOATS, *INTEGERS, "bool")
        found = [
            n
            for n in self.pool[-10:]
            if self.values[n].dtype.name in dtypes
            and least <= self.values[n].ndim <= most
            and (n in self.exact or not exact)
            and (ok is None or ok(self.values[n]))
        ]
        if found and self.maybe(0.85):
            return str(self.pick(found))
        for _ in range(20):
            dtype, sizes = self.pick(dtypes), [self.size() for _ in range(self.integer(least, min(most, least + 3)))]
            shape = [self.named_sizes[0][s] if isinstance(s, str) else s for s in sizes]
            if np.prod(shape) <= self.most and (ok is None or ok(draw(self.rng, dtype, shape))):
                return self._pooled(self.input(dtype, sizes))
        raise Skip

    def like(self, name: str, dtype: str | None = None, kind: str = "any", exact: bool = False) -> str:
        """Something that broadcasts with a value: there already, or new."""
        x = self.values[name]
        dtype = dtype or x.dtype.name
        fits = [
            n
            for n in self.pool[-10:]
            if self.values[n].dtype.name == dtype
            and (n in self.exact or not exact)
            and all(a == b or 1 in (a, b) for a, b in zip(self.sizes[n][::-1], self.sizes[name][::-1], strict=False))
        ]
        if fits and kind == "any" and self.maybe(0.5):
            return str(self.pick(fits))
        sizes = [s if self.maybe(0.7) else 1 for s in self.sizes[name]]
        return self.of(dtype, sizes[self.integer(0, len(sizes)) if self.maybe(0.4) else 0 :], kind)

    # -- nodes ---------------------------------------------------------------------------------------------------

    def add(
        self, op: str, inputs: Sequence[str | None], outputs: int = 1, exact: bool = False, **attributes: Any
    ) -> list[str]:
        """Add a node. ``exact``: without rounding error when its inputs have none. Raises :class:`Skip`."""
        if op in self.avoid:
            raise Skip
        names = [f"v{self.count + i}" for i in range(outputs)]
        given = ["" if n is None else n for n in inputs]
        node = helper.make_node(op, given, names, name=f"{op}_{names[0]}", **attributes)
        results = self._evaluated(node)
        for result in results:
            if result.dtype == object or result.size > self.most or not self.comparable(result):
                raise Skip
        self.count += outputs
        self.nodes.append(node)
        known = {n: s for i in given if i for s, n in zip(self.sizes[i], self.values[i].shape, strict=True)}
        for name, result in zip(names, results, strict=True):
            # A guess, which an oracle judges: a size that equals a named one of the inputs is that one.
            self._known(name, result, tuple(known.get(n, n) for n in result.shape))
            self.exact.discard(name)
            if (exact or result.dtype.kind != "f") and all(n in self.exact for n in given if n):
                self.exact.add(name)
            self._pooled(name)
        return names

    def comparable(self, array: Array) -> bool:
        """Whether a value may stand in the model."""
        return comparable(array)

    def _evaluated(self, node: onnx.NodeProto) -> list[Array]:
        feeds = {n: self.values[n] for n in node.input if n}
        infos = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in feeds.items()
        ]
        graph = helper.make_graph([node], "one", infos, [helper.make_empty_tensor_value_info(n) for n in node.output])
        try:
            model = onnx.shape_inference.infer_shapes(self.model_of(graph), check_type=True, strict_mode=True)
            onnx.checker.check_model(model)
        except Exception:
            raise Skip from None
        for oracle in (ORACLES["onnx.reference"], ORACLES["onnxruntime"]):
            try:
                results = oracle(model, feeds)
            except Cannot:
                continue
            return [np.asarray(results[n]) for n in node.output]
        raise Skip

    def model_of(self, graph: onnx.GraphProto) -> onnx.ModelProto:
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)

    def _known(self, name: str, array: Array, sizes: tuple[int | str, ...]) -> str:
        self.values[name], self.sizes[name] = array, sizes
        self.exact.add(name)
        return name

    def _pooled(self, name: str) -> str:
        self.pool.append(name)
        return name

    # -- the whole -----------------------------------------------------------------------------------------------

    def model(self) -> onnx.ModelProto:
        """What was built; values that nothing reads are its outputs."""
        used = {n for node in self.nodes for n in node.input}
        made = [n for node in self.nodes for n in node.output]
        outputs = [n for n in made if n not in used] or made[-1:]
        infos = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(i.array.dtype), i.sizes)
            for n, i in self.inputs.items()
            if n in used
        ]
        constants = [numpy_helper.from_array(a, n) for n, a in self.constants.items() if n in used]
        outs = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), [None] * a.ndim)
            for n, a in ((n, self.values[n]) for n in outputs)
        ]
        return self.model_of(helper.make_graph(self.nodes, f"seed_{self.seed}", infos, outs, constants))

    def feeds(self) -> list[dict[str, Array]]:
        """Inputs of each run; the first are those that the model was built with."""
        used = {n for node in self.nodes for n in node.input}
        mine = {n: i for n, i in self.inputs.items() if n in used}
        named = any(isinstance(s, str) for i in mine.values() for s in i.sizes)
        runs = [{n: i.array for n, i in mine.items()}]
        if named and not self.pinned:
            rng = np.random.default_rng([self.seed, 1])
            runs += [{n: i.draw(rng, sizes) for n, i in mine.items()} for sizes in self.named_sizes[1:]]
        return runs


def comparable(array: Array) -> bool:
    """Whether numbers are finite and of ordinary size."""
    if array.dtype.kind != "f" or not array.size:
        return True
    return bool(np.isfinite(array).all()) and float(np.abs(array.astype(np.float64)).max()) <= LARGEST


def draw(rng: np.random.Generator, dtype: str, shape: Sequence[int], kind: str = "any") -> Array:
    """Contents of an input or constant; floats are multiples of 1/4, so that small sums of them are exact."""
    if dtype == "bool":
        return np.asarray(rng.random(shape) < 0.6)
    if kind.startswith("below:"):
        return np.asarray(rng.integers(0, int(kind[6:]), shape), dtype)
    if dtype.startswith("float"):
        low = 1 if kind == "positive" else -10
        return np.asarray(rng.integers(low, 11, shape) / 4, dtype)
    if kind == "wide":
        info = np.iinfo(dtype)
        near = rng.integers(max(-9, info.min), 10, shape)
        return np.asarray(
            np.where(rng.random(shape) < 0.5, rng.integers(info.min // 2, info.max // 2, shape), near), dtype
        )
    low = 1 if kind == "positive" else 0 if dtype.startswith("u") else -9
    return np.asarray(rng.integers(low, 10, shape), dtype)
