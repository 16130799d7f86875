"""Which kernels of a model, or of the plain tests of ONNX's suite, are placed on an Ascend target; why others are not.

    python scripts/cover_ascend.py resnet50 bert-base            models of the small zoo
    python scripts/cover_ascend.py --full resnet50               at its published size
    python scripts/cover_ascend.py model.onnx --precision fp16
    python scripts/cover_ascend.py --plain [-k TEXT]             the plain tests
    python scripts/cover_ascend.py --plain --numbers             and compare what is placed on the model of the machine

Kernels are counted once each where they are equal but for names. ``--class vector`` leaves out those with products,
``--kernels TEXT`` prints the text of each kernel whose refusal contains TEXT. Nothing is emitted.
"""

from __future__ import annotations

import argparse
import collections
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from tilewright.accuracy import compare
from tilewright.backends import ascend
from tilewright.backends.ascend.groups import merged_groups
from tilewright.backends.ascend.placed.form import Placed
from tilewright.backends.ascend.placing.place import place, place_unsynchronized
from tilewright.backends.ascend.schedules.reasons import why_none
from tilewright.backends.ascend.schedules.schedule import schedules
from tilewright.backends.ascend.simulator.machine import check
from tilewright.entries import entries_of, import_entries
from tilewright.errors import InternalError, TilewrightError, UnsupportedError
from tilewright.kernel.analysis import as_product
from tilewright.kernel.apply import apply, defines
from tilewright.kernel.canonical import fingerprint
from tilewright.kernel.interpret import run_lowered
from tilewright.kernel.pack import pack_constant
from tilewright.kernel.print import print_kernel
from tilewright.kernel.schedule import Schedule, ScheduleError
from tilewright.kernel.tile import Kernel
from tilewright.ops.program import Call, Run, lower_graph
from tilewright.options import Options, Precision
from tilewright.passes.layout.cost import traffic_on
from tilewright.passes.pipeline import canonicalization, default_pipeline, run_pipeline
from tilewright.target import Target, load_targets

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from models import zoo  # noqa: E402 (a folder of the checkout, not of the package)
from tests.conformance.cases import cases, plain_names  # noqa: E402

#: Schedules that are tried before a kernel counts as refused.
TRIED = 8


@dataclass(frozen=True, slots=True)
class Found:
    """What became of one distinct kernel: how it was placed, or why not; ``uses`` are the steps that launch it."""

    kernel: Kernel
    schedule: Schedule | None
    reason: str
    uses: tuple[str, ...]

    @property
    def has_product(self) -> bool:
        return any((p := as_product(d)) is not None and p.m and p.n for d in defines(self.kernel))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("models", nargs="*", help="names of the zoo, or files")
    parser.add_argument("--target", default="ascend:910b3")
    parser.add_argument("--precision", default="", help="fp16, bf16, int8 …; the model's own where none is given")
    parser.add_argument("--full", action="store_true", help="models of the zoo at their published sizes")
    parser.add_argument("--plain", action="store_true", help="the plain tests of ONNX's suite")
    parser.add_argument("-k", default="", help="only tests whose name contains this")
    parser.add_argument("--class", dest="only", choices=["vector", "product"], help="only kernels of this class")
    parser.add_argument("--kernels", default=None, help="print kernels whose refusal contains this text")
    parser.add_argument("--numbers", action="store_true", help="compare kernels that are placed at small sizes")
    parser.add_argument("-v", action="store_true", help="a line for each kernel")
    options = parser.parse_args()
    target = load_targets(Path(ascend.__path__[0]) / "targets", "ascend")[options.target]
    started = time.perf_counter()
    gathered: dict[str, tuple[Kernel, list[str]]] = {}
    others: collections.Counter[str] = collections.Counter()
    for name, model, shapes in _models(options):
        _gather(name, model, shapes, options.precision, target, gathered, others)
    found = [cover(kernel, tuple(uses), target) for kernel, uses in gathered.values()]
    if options.only:
        found = [f for f in found if f.has_product == (options.only == "product")]
    wrong = 0
    for line in (line for f in found if f.schedule and options.numbers for line in numbers(f, target)):
        print(f"WRONG  {line}", flush=True)
        wrong += 1
    _tell(found, others, options.v, options.kernels)
    placed = sum(f.schedule is not None for f in found)
    seconds = time.perf_counter() - started
    print(f"{placed} of {len(found)} distinct kernels are placed for {options.target} ({seconds:.0f} s)")
    return 1 if wrong else 0


def cover(kernel: Kernel, uses: tuple[str, ...], target: Target) -> Found:
    """The first schedule under which ``kernel`` is placed, or the reason of the last refusal."""
    reason = ""
    for schedule in islice(schedules(kernel, target), TRIED):
        try:
            place_unsynchronized(apply(kernel, schedule), target)
            return Found(kernel, schedule, "", uses)
        except ScheduleError as error:
            reason = error.cause
        except UnsupportedError as error:
            return Found(kernel, None, error.cause, uses)
        except Exception as error:  # a crash is a row too: the rest is still to be counted
            return Found(kernel, None, f"crash: {type(error).__name__} {error}"[:200], uses)
    return Found(kernel, None, reason or why_none(kernel, target), uses)


def numbers(found: Found, target: Target) -> Iterator[str]:
    """What is wrong with a placed kernel at one small binding of its sizes; nothing where it is right."""
    assert found.schedule is not None
    kernel = found.kernel
    dims = {name: max(r.lo, min(r.hi, 3 * r.divisor) // r.divisor * r.divisor) for name, r in kernel.facts}
    inputs = sample(kernel, dims)
    try:
        program: Placed = place(apply(kernel, found.schedule), target)
        packs = {p.tensor: p for p in found.schedule.packs}
        packed = {n: pack_constant(x, packs[n]) if n in packs else x for n, x in inputs.items()}
        got = check(program, packed, dims)
        want = run_lowered(kernel, inputs, dims)
    except (InternalError, TilewrightError, ValueError, KeyError, AssertionError) as error:
        yield f"{found.uses[0]}: {str(error)[:300]}"
        return
    for name, value in got.outputs.items():
        result = compare(name, np.asarray(value), want[name])
        if not result.ok:
            yield f"{found.uses[0]}: {result}"


def sample(kernel: Kernel, dims: Mapping[str, int]) -> dict[str, Any]:
    """Values for the inputs of ``kernel``: normal ones, and small integers, which are within every table."""
    random = np.random.default_rng(0)
    made: dict[str, Any] = {}
    for p in kernel.params:
        if p.role != "out":
            shape = [e.evaluate(dims) for e in p.shape]
            values = random.standard_normal(shape) if p.dtype.is_float else random.integers(0, 2, shape)
            made[p.name] = np.asarray(values).astype(p.dtype.numpy)
    return made


def _models(options: argparse.Namespace) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    if options.plain:
        known = cases()
        for name in plain_names():
            if options.k in name:
                yield name, str(known[name].folder / "model.onnx"), {}
    made = zoo.zoo() if options.full else zoo.small()
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            if name in made:
                yield name, str(made[name].build(Path(folder))), made[name].input_shapes
            else:
                yield Path(name).stem, name, {}


def _gather(
    name: str,
    model: str,
    shapes: Mapping[str, Any],
    precision: str,
    target: Target,
    gathered: dict[str, tuple[Kernel, list[str]]],
    others: collections.Counter[str],
) -> None:
    """Lower one model and add its kernels; routines and what does not lower are counted in ``others``."""
    try:
        graph = lowered(model, shapes, precision, target)
        steps = lower_graph(graph)
    except TilewrightError as error:
        others[f"not lowered: {' '.join(str(error).split())[:120]}"] += 1
        return
    for step in steps:
        if isinstance(step, Call):
            others[f"routine {step.routine.identity.split('_')[0]}"] += 1
        if isinstance(step, Run):
            kernel = merged_groups(step.kernel, target)
            uses = gathered.setdefault(fingerprint(kernel), (kernel, []))[1]
            uses.append(f"{name}: {step.node.op_type} {step.node.name}")


def lowered(model: str, shapes: Mapping[str, Any], precision: str, target: Target) -> ir.Model:
    """The graph of a model after the passes for ``target``, ready to be lowered."""
    asked = Precision(precision, allowed=("f32",)) if precision else None
    options = Options(targets=(target.spelling,), input_shapes=dict(shapes), precision=asked)
    graphs = import_entries(entries_of(model), options)
    own = default_pipeline(options.level, traffic_on([target]))
    if asked is not None:
        from tilewright.quantization.plan import PrecisionPlan

        for graph in graphs.values():
            run_pipeline(graph, canonicalization())
        (group,) = PrecisionPlan(asked, None, options.level, lambda stage, detail: None).quantized(graphs, [target])
        graphs = dict(group.graphs)
    (graph,) = graphs.values()
    run_pipeline(graph, own)
    return graph


def _tell(found: list[Found], others: Mapping[str, int], every: bool, wanted: str | None) -> None:
    reasons: dict[str, list[Found]] = {}
    for f in found:
        if f.schedule is None:
            reasons.setdefault(f.reason, []).append(f)
        if every:
            print(f"{'placed' if f.schedule else 'refused':8}{f.uses[0]}  {f.reason}")
        if wanted is not None and f.schedule is None and wanted in f.reason:
            print(f"# {f.uses[0]}: {f.reason}\n{print_kernel(f.kernel)}")
    for reason, rows in sorted(reasons.items(), key=lambda r: -len(r[1])):
        launches = sum(len(f.uses) for f in rows)
        print(f"{len(rows):5} kernels, {launches:5} launches  {reason}   e.g. {rows[0].uses[0]}")
    for reason, count in sorted(others.items(), key=lambda r: -r[1]):
        print(f"{count:5} times  {reason}")


if __name__ == "__main__":
    sys.exit(main())
