"""Random convolutional networks and transformers with open sizes: what layouts, windows, products and attention meet.

Unlike :mod:`tests.end_to_end.random_models`, whose graphs are of any operators, these look like models: the kernels for
convolutions, products of few rows and attention are chosen, values get layouts, and borders and remainders are met.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]
#: What an input holds: made from a generator and the shape.
Content = Callable[[np.random.Generator, list[int]], Array]

RUNS = 4
#: Values of the open sizes in each run: batch, rows (queries), keys that were there before, and spatial sizes.
SIZES: dict[str, tuple[int, ...]] = {
    "N": (1, 3, 2, 1),
    "S": (7, 1, 33, 70),
    "P": (5, 40, 1, 3),
    "H": (9, 40, 16, 23),
    "W": (17, 8, 33, 40),
}
RANGES = {"N": "N=1..8", "S": "S=1..128", "P": "P=1..128", "H": "H=8..64", "W": "W=8..64"}


def normal(rng: np.random.Generator, shape: list[int]) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def keeps_first(rng: np.random.Generator, shape: list[int]) -> Array:
    """Which keys are there: never none."""
    found = rng.random(shape) < 0.7
    found[..., 0] = True
    return np.asarray(found)


def hides(rng: np.random.Generator, shape: list[int]) -> Array:
    """The same as what is added to scores."""
    return np.where(keeps_first(rng, shape), 0, np.finfo(np.float32).min).astype(np.float32)


@dataclass
class Network:
    """A network under construction; ``seed`` fixes everything, ``prefix`` keeps the names of several apart."""

    seed: int
    prefix: str = ""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    inputs: dict[str, tuple[int, list[int | str], Content]] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    count: int = 0

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def pick(self, items: Sequence[Any]) -> Any:
        return items[int(self.rng.integers(len(items)))]

    def maybe(self, chance: float = 0.5) -> bool:
        return bool(self.rng.random() < chance)

    def integer(self, low: int, high: int) -> int:
        """Between ``low`` and ``high``, both included."""
        return int(self.rng.integers(low, high + 1))

    def fresh(self) -> str:
        self.count += 1
        return f"{self.prefix}v{self.count}"

    def constant(self, value: Any) -> str:
        name = self.fresh()
        self.constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def number(self, value: float) -> str:
        return self.constant(np.float32(value))

    def weight(self, *shape: int, fan: int = 1) -> str:
        return self.constant((self.rng.standard_normal(shape) / np.sqrt(fan)).astype(np.float32))

    def input(self, shape: list[int | str], dtype: int = TensorProto.FLOAT, content: Content = normal) -> str:
        name = f"{self.prefix}in{len(self.inputs)}"
        self.inputs[name] = (dtype, shape, content)
        return name

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """A node; its output's name, or a list of them."""
        names = [self.fresh() for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=f"{op}_{names[0]}", **attributes))
        return names[0] if outputs == 1 else names

    def close(self) -> None:
        """What nobody reads is an output."""
        used = {name for n in self.nodes for name in n.input}
        self.outputs += [o for n in self.nodes for o in n.output if o not in used and o not in self.outputs]


@dataclass(frozen=True)
class Sample:
    """A model, what is said about its inputs' sizes, and the feeds of each run."""

    proto: onnx.ModelProto
    input_shapes: tuple[tuple[str, tuple[str, ...]], ...]
    feeds: list[dict[str, Array]]


def sample(grow: Callable[[Network], None], seeds: Sequence[int], opset: int = 20) -> Sample:
    """One model of a network per seed."""
    networks = []
    for seed in seeds:
        networks.append(Network(seed, f"s{seed}_"))
        grow(networks[-1])
        networks[-1].close()
    inputs = {name: made for n in networks for name, made in n.inputs.items()}
    infos = [helper.make_tensor_value_info(name, dtype, shape) for name, (dtype, shape, _) in inputs.items()]
    made = [name for n in networks for name in n.outputs if name not in inputs]
    outputs = [helper.make_empty_tensor_value_info(name) for name in made]
    constants = [c for n in networks for c in n.constants.values()]
    graph = helper.make_graph([x for n in networks for x in n.nodes], "random", infos, outputs, constants)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    proto = onnx.shape_inference.infer_shapes(proto)
    shapes = tuple((name, tuple(_said(d) for d in shape)) for name, (_, shape, _) in inputs.items())
    rng = np.random.default_rng(list(seeds))
    feeds = [
        {name: content(rng, [_value(d, run) for d in shape]) for name, (_, shape, content) in inputs.items()}
        for run in range(RUNS)
    ]
    return Sample(proto, shapes, feeds)


def _said(size: int | str) -> str:
    if isinstance(size, int):
        return str(size)
    return "?" if "+" in size else RANGES[size]


def _value(size: int | str, run: int) -> int:
    return size if isinstance(size, int) else sum(int(s) if s.isdigit() else SIZES[s][run] for s in size.split("+"))
