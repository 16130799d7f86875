"""CPU time of compiling models of one node: what this process takes at each stage, and the compilers it starts.

    python scripts/bench_compile.py              a table on the screen
    python scripts/bench_compile.py --update     also writes models/results/compile-time.md

Every kernel is compiled anew, in a process that has compiled before. The executor, and what zig builds once for each
machine and version of the C library (its stubs: several seconds), are there already.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper
from tilewright import driver
from tilewright.codegen.cache import default_cache_folder
from tilewright.options import Options

RESULT = Path(__file__).resolve().parent.parent / "models" / "results" / "compile-time.md"
TARGETS = ("cpu:native", "cpu")

#: Operator, shapes of its inputs (the later ones constant when ``constant``), attributes.
MODELS: dict[str, tuple[str, tuple[tuple[Any, ...], ...], dict[str, Any]]] = {
    "Relu": ("Relu", ((16, 64),), {}),
    "Add, symbolic": ("Add", (("n", 64), ("n", 64)), {}),
    "Gelu": ("Gelu", ((16, 64),), {}),
    "Cos, of libm": ("Cos", ((16, 64),), {}),
    "Transpose": ("Transpose", ((16, 64),), {"perm": [1, 0]}),
    "Concat": ("Concat", ((16, 64), (16, 32)), {"axis": 1}),
    "ReduceSum": ("ReduceSum", ((16, 64),), {}),
    "Softmax": ("Softmax", ((16, 64),), {}),
    "LayerNormalization": ("LayerNormalization", ((16, 64), (64,)), {}),
    "MatMul": ("MatMul", ((16, 64), (64, 32)), {}),
    "MatMul, symbolic": ("MatMul", (("n", 64), (64, 32)), {}),
    "Conv": ("Conv", ((1, 16, 14, 14), (32, 16, 3, 3)), {"pads": [1, 1, 1, 1]}),
    "MaxPool": ("MaxPool", ((1, 16, 14, 14),), {"kernel_shape": [2, 2]}),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--update", action="store_true", help=f"write {RESULT.name}")
    options = parser.parse_args()
    lines = [f"| model | {' | '.join(f'{t}: all, ms | compilers | import | rest' for t in TARGETS)} |"]
    lines.append("|---" * (1 + 4 * len(TARGETS)) + "|")
    with _own_cache():
        rows = [_row(name, options.rounds) for name in MODELS]
    lines += [f"| {name} | {' | '.join(f'{1000 * v:.0f}' for v in values)} |" for name, values in rows]
    medians = [statistics.median(column) for column in zip(*(values for _, values in rows), strict=True)]
    lines.append(f"| **median** | {' | '.join(f'**{1000 * v:.0f}**' for v in medians)} |")
    print("\n".join(lines))
    if options.update:
        RESULT.write_text(_document(lines, options.rounds), encoding="utf-8")


def _row(name: str, rounds: int) -> tuple[str, list[float]]:
    model = one_node(*MODELS[name])
    return name, [value for target in TARGETS for value in measure(model, target, rounds)]


def measure(model: onnx.ModelProto, target: str, rounds: int) -> tuple[float, float, float, float]:
    """CPU seconds, the median of ``rounds``: all, compilers, this process while importing, the rest of this process."""
    driver.compile(one_node("Neg", ((3,),), {}), options=Options((target,)))  # the executor, and lazy imports
    kept = set(_objects())
    samples = []
    for _ in range(rounds):
        marks: dict[str, float] = {}
        own, children = _seconds(resource.RUSAGE_SELF), _seconds(resource.RUSAGE_CHILDREN)

        def mark(stage: str, detail: str, marks: dict[str, float] = marks) -> None:
            marks.setdefault(stage, _seconds(resource.RUSAGE_SELF))

        driver.compile(model, options=Options((target,)), progress=mark)
        mine = _seconds(resource.RUSAGE_SELF) - own
        theirs = _seconds(resource.RUSAGE_CHILDREN) - children
        importing = marks["optimize"] - marks["import"]
        samples.append((mine + theirs, theirs, importing, mine - importing))
        for path in set(_objects()) - kept:
            path.unlink()
    return sorted(samples)[rounds // 2]


def one_node(op: str, shapes: tuple[tuple[Any, ...], ...], attributes: dict[str, Any]) -> onnx.ModelProto:
    """A float32 model of one node whose inputs are all run-time inputs."""
    inputs = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, s) for i, s in enumerate(shapes)]
    node = helper.make_node(op, [i.name for i in inputs], ["y"], name="node", **attributes)
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "one_node", inputs, [output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])


def _seconds(who: int) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


@contextmanager
def _own_cache() -> Iterator[None]:
    """A cache of compiled bytes that is empty, with what zig has built for this machine."""
    zig = default_cache_folder() / "zig"
    zig.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tilewright").mkdir()
        (Path(folder) / "tilewright" / "zig").symlink_to(zig)
        before = os.environ.get("XDG_CACHE_HOME")
        os.environ["XDG_CACHE_HOME"] = folder
        try:
            yield
        finally:
            os.environ.pop("XDG_CACHE_HOME")
            if before is not None:
                os.environ["XDG_CACHE_HOME"] = before


def _objects() -> list[Path]:
    return list((default_cache_folder() / "objects").glob("*/*"))


def _document(lines: list[str], rounds: int) -> str:
    cpu = next((x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")), "")
    machine = f"{cpu.partition(':')[2].strip() or platform.machine()}, {os.cpu_count()} CPUs"
    head = (
        "# CPU time of compiling a model of one node\n\n"
        "Written by `python scripts/bench_compile.py --update`: milliseconds of CPU time (user and system), median\n"
        f"of {rounds} rounds, on {machine}. `compilers` are the processes\n"
        "that this one starts; `import` and `rest` are this process. No kernel comes from the cache. `cpu` has two\n"
        "libraries of kernels (x86-64-v3, x86-64-v4+vnni).\n"
    )
    return head + "\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
