"""What each class of kernels reaches on this machine, one thread: numbers of ``[cost]`` in a CPU target's TOML.

``python scripts/measure_classes.py [--level cpu:x86-64-v3]`` compiles one model of one operator per row below, runs it
at sizes that are bound by what the row says (arithmetic in a cache, or main memory), takes the least time, less that of
a launch that does next to nothing, and prints the share of this machine's own roof
(:mod:`tilewright.benchmark.roofline`).
"""

from __future__ import annotations

import argparse
import hashlib
import math
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tilewright as tw
from onnx import TensorProto, helper
from tilewright.benchmark.roofline import Roofline, measure
from tilewright.cost.work import FUNCTIONS

ROUNDS = 4
SIZE = 16384  # elements of a function's row: two arrays of 64 KiB
FOLDER = Path(__file__).resolve().parent.parent / "build" / "classes"
F = TensorProto.FLOAT


@dataclass(frozen=True)
class Row:
    """One operator on inputs and constants of these shapes; plain operations, bytes and calls of functions of a run."""

    kind: str
    bound: str
    op: str
    inputs: tuple[tuple[int, ...], ...]
    constants: tuple[tuple[int, ...], ...] = ()
    attributes: tuple[tuple[str, Any], ...] = ()
    flops: float = 0
    bytes: float = 0
    calls: tuple[tuple[str, float], ...] = ()


def contraction(m: int, k: int, n: int) -> Row:
    return Row("contraction", "compute", "MatMul", ((m, k),), ((k, n),), flops=2.0 * m * k * n)


def conv(c: int, o: int, size: int, window: int) -> Row:
    attributes = (("pads", (window // 2,) * 4),)
    flops = 2.0 * c * o * size**2 * window**2
    return Row("contraction", "compute", "Conv", ((1, c, size, size),), ((o, c, window, window),), attributes, flops)


def depthwise(c: int, size: int, bound: str) -> Row:
    attributes = (("pads", (1,) * 4), ("group", c))
    shape = (1, c, size, size)
    return Row("window", bound, "Conv", (shape,), ((c, 1, 3, 3),), attributes, 18.0 * c * size**2, 8.0 * c * size**2)


def rows(op: str, m: int, n: int, bound: str, flops: float, calls: Mapping[str, float], vectors: int = 0) -> Row:
    attributes, calls = (("axis", -1),), {name: count * m * n for name, count in calls.items()}
    return Row(
        "rows", bound, op, ((m, n),), ((n,),) * vectors, attributes, flops * m * n, 8.0 * m * n, tuple(calls.items())
    )


def attention(heads: int, s: int, d: int) -> Row:
    shape = (1, heads, s, d)
    flops = 4.0 * heads * s * s * d + 4.0 * heads * s * s
    return Row("scan", "compute", "Attention", (shape,) * 3, flops=flops, calls=(("exp", 1.0 * heads * s * s),))


LARGE = 1 << 23  # elements: twice 32 MB, beyond a last-level cache
ROWS = [
    *(contraction(*s) for s in ((128, 768, 768), (128, 768, 3072), (128, 3072, 768), (512, 256, 256))),
    *(conv(*s) for s in ((64, 64, 56, 3), (128, 128, 28, 3), (256, 256, 14, 3), (256, 1024, 14, 1))),
    Row("contraction", "memory", "MatMul", ((1, 4096),), ((4096, 2048),), bytes=2.0 * 4096**2),
    depthwise(96, 28, "compute"),
    depthwise(32, 56, "compute"),
    depthwise(128, 512, "memory"),
    rows("Softmax", 64, 128, "compute", 3, {"exp": 1, "div": 1}),
    rows("LayerNormalization", 32, 384, "compute", 7, {}, 2),
    rows("Softmax", LARGE // 256, 256, "memory", 3, {"exp": 1, "div": 1}),
    attention(12, 128, 64),
    attention(12, 512, 64),
    Row("elementwise", "compute", "HardSwish", ((16384,),), flops=16384 * 5.0),
    Row("elementwise", "memory", "Relu", ((LARGE,),), bytes=8.0 * LARGE),
    Row("movement", "memory", "Transpose", ((1024, 64, 128),), attributes=(("perm", (1, 0, 2)),), bytes=8.0 * LARGE),
    Row("movement", "memory", "Transpose", ((4096, 2048),), attributes=(("perm", (1, 0)),), bytes=8.0 * LARGE),
]
#: The ONNX operator that computes a function alone, and how many operands it takes.
ALONE = {
    "exp": ("Exp", 1),
    "log": ("Log", 1),
    "sqrt": ("Sqrt", 1),
    "reciprocal": ("Reciprocal", 1),
    "erf": ("Erf", 1),
    "tanh": ("Tanh", 1),
    "sigmoid": ("Sigmoid", 1),
    "sin": ("Sin", 1),
    "cos": ("Cos", 1),
    "tan": ("Tan", 1),
    "atan": ("Atan", 1),
    "sinh": ("Sinh", 1),
    "cosh": ("Cosh", 1),
    "asinh": ("Asinh", 1),
    "acosh": ("Acosh", 1),
    "div": ("Div", 2),
    "pow": ("Pow", 2),
}


def main() -> int:
    """Compile everything, then measure in rounds and print lines for a TOML."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--level", default="cpu:native")
    parser.add_argument("--compile-only", action="store_true", help="fill build/classes, for a measurement later")
    options = parser.parse_args()
    small = [Row("elementwise", "launch", "Relu", ((8,),)), Row("elementwise", "compute", "HardSwish", ((SIZE,),))]
    alone = [Row("elementwise", "compute", op, ((SIZE,),) * operands) for op, operands in ALONE.values()]
    runs = {row: session(row, options.level) for row in dict.fromkeys([*small, *alone, *ROWS])}
    if options.compile_only:
        return 0
    roof, took = measure(1), dict.fromkeys(runs, math.inf)
    for _ in range(ROUNDS):
        for row, run in runs.items():
            took[row] = min(took[row], *(run() for _ in range(2 if row.bound == "memory" else 4)))
        roof = roof.best(measure(1))
    launch = took[small[0]]
    plain = 5.0 * SIZE / (took[small[1]] - launch)
    weights = {name: (took[row] - launch) / SIZE * plain for (name, _), row in zip(ALONE.items(), alone, strict=True)}
    assert set(weights) <= FUNCTIONS
    shares: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in ROWS:
        found = reached(row, took[row] - launch, roof, weights)
        shares[row.kind, row.bound].append(found)
        print(f"# {row.kind:12} {row.bound:8} {row.op} {row.inputs}: {took[row] * 1e6:.1f} us, {found:.2f}")
    print(f"# roof {roof.operations / 1e9:.1f} GFLOP/s, {roof.bandwidth / 1e9:.1f} GB/s, one thread")
    print(f"launch = {launch:.1e}")
    print("functions = { " + ", ".join(f"{name} = {max(1, round(w))}" for name, w in sorted(weights.items())) + " }")
    for bound in ("compute", "memory"):
        told = {kind: statistics.median(v) for (kind, b), v in shares.items() if b == bound}
        print(f"{bound} = {{ " + ", ".join(f"{kind} = {v:.2f}" for kind, v in told.items()) + " }")
    return 0


def reached(row: Row, took: float, roof: Roofline, weights: Mapping[str, float]) -> float:
    """The share of the roof that the row names."""
    if row.bound == "memory":
        return row.bytes / took / roof.bandwidth
    operations = row.flops + sum(weights[name] * count for name, count in row.calls)
    return operations / took / roof.operations


def session(row: Row, level: str) -> Callable[[], float]:
    """What runs a row once and tells its seconds. The artifact is kept in ``build/classes``."""
    rng = np.random.default_rng(0)
    names = [f"x{i}" for i in range(len(row.inputs))]
    given = {f"c{i}": rng.random(shape).astype(np.float32) for i, shape in enumerate(row.constants)}
    node = helper.make_node(row.op, [*names, *given], ["y"], **dict(row.attributes))
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(n, F, shape) for n, shape in zip(names, row.inputs, strict=True)],
        [helper.make_tensor_value_info("y", F, None)],
        [onnx.numpy_helper.from_array(array, name) for name, array in given.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    key = hashlib.sha256(model.SerializeToString() + level.encode() + tw.__version__.encode()).hexdigest()
    path = FOLDER / f"{row.op}-{key[:12]}.tw"
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        tw.compile(model, targets=(level,), verify=False).save(path)
        print(f"# compiled {row.op} {row.inputs}", file=sys.stderr, flush=True)
    loaded = tw.load(path, threads=1)
    feed = {n: 1 + rng.random(shape, dtype=np.float32) for n, shape in zip(names, row.inputs, strict=True)}
    out = {"y": loaded.run(None, feed)[0]}  # memory that is there already: a page fault is no part of a kernel

    def run() -> float:
        # Other processes add to the wall's time of long launches, Python to the thread's own time of short ones.
        start = time.thread_time()
        took = sum(seconds for _, seconds in loaded.profile(feed, out=out))
        return min(took, time.thread_time() - start)

    return run


if __name__ == "__main__":
    sys.exit(main())
