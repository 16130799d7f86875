"""Candidates of kernels compiled with no GPU, in one file that times them on a machine that has one.

The file is a program (``python3 bundle.pyz``): :mod:`tilewright.backends.cuda.timing`, ``modules.bin`` with the machine
code of every candidate, and ``cases.json`` with all that is known of them.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tilewright.backends.cuda import records, sass, timing
from tilewright.backends.cuda import schedule as heuristics
from tilewright.backends.cuda.backend import CudaBackend
from tilewright.backends.cuda.build import compile_source
from tilewright.backends.cuda.modules import Module, encode_modules
from tilewright.backends.cuda.timing import recipes
from tilewright.backends.cuda.timing.recipes import BITS
from tilewright.cost import predicted_seconds
from tilewright.errors import InternalError
from tilewright.ir.symbolic import Expr
from tilewright.ir.types import DType
from tilewright.kernel.analysis import walk
from tilewright.kernel.apply import apply, defines
from tilewright.kernel.canonical import canonical_names, rename_schedule
from tilewright.kernel.expr import Load, Value
from tilewright.kernel.interpret import run_lowered
from tilewright.kernel.record import schedule_to_json
from tilewright.kernel.schedule import Schedule, ScheduleError
from tilewright.kernel.tile import Kernel, Param, Store
from tilewright.target import Target
from tilewright.tuning.identity import identity_of

#: By how much outputs of two right candidates may differ, relative to the largest: they sum in different orders.
_TOLERANCES = {
    DType.F64: 1e-9,
    DType.F32: 1e-4,
    DType.F16: 4e-3,
    DType.BF16: 3e-2,
    DType.F8E4M3: 8.0,
    DType.F8E5M2: 8.0,
}
#: Elements of an output that are compared with the interpreter's.
_CHECKED = 257
_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Case:
    """A kernel at the sizes at which it is timed; ``worth`` is what it is thought to take of the runs of its models, in
    seconds."""

    kernel: Kernel
    sizes: Mapping[str, int]
    worth: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """One schedule of a case, compiled. ``dropped`` says why it is not worth timing."""

    schedule: Schedule
    module: Module | None
    dropped: str = ""
    facts: Mapping[str, int] | None = None


def write_bundle(
    path: Path, cases: Sequence[Case], target: Target, most: int, *, expected: bool = False
) -> dict[str, int]:
    """Compile at most ``most`` candidates of each case and write the bundle; returns counts for a report.

    With ``expected``, the lowered form's interpreter says some elements of every output, on which candidates are
    judged; without, the first candidate is what the others are judged on.

    Raises ``UsageError`` where Triton is missing.
    """
    modules: list[Module] = []
    told, dropped = [], 0
    for number, case in enumerate(cases):
        found = list(candidates(case, target, most, f"c{number}"))
        kept = [c for c in found if c.module is not None and not c.dropped]
        dropped += len(found) - len(kept)
        if kept:
            told.append(_told(case, target, kept, len(modules)))
            if expected:
                told[-1]["expected"] = list(expected_values(case, told[-1]["buffers"]))
            modules += [c.module for c in kept if c.module is not None]
    bundle = {"target": target.spelling, "tools": records.tools(), "cases": told}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in _program():
            out.writestr(zipfile.ZipInfo(name, _DATE), data, zipfile.ZIP_DEFLATED)
        arch = int(target.arch.removeprefix("sm_"))
        code = encode_modules([m.without_ptx() for m in modules], arch)
        out.writestr(zipfile.ZipInfo("modules.bin", _DATE), code, zipfile.ZIP_DEFLATED)
        text = json.dumps(bundle, sort_keys=True, indent=1)
        out.writestr(zipfile.ZipInfo("cases.json", _DATE), text, zipfile.ZIP_DEFLATED)
    return {"cases": len(told), "candidates": len(modules), "dropped": dropped}


def _program() -> Iterator[tuple[str, str]]:
    """The files of the program in a bundle."""
    package = timing.__name__.split(".")
    yield "__main__.py", f"import sys\n\nfrom {timing.__name__}.run import main\n\nsys.exit(main())\n"
    for n in range(1, len(package)):
        yield f"{'/'.join(package[:n])}/__init__.py", ""
    for path in sorted(Path(timing.__file__).parent.glob("*.py")):
        yield f"{'/'.join(package)}/{path.name}", path.read_text(encoding="utf-8")


def candidates(case: Case, target: Target, most: int, prefix: str) -> Iterator[Candidate]:
    """The first schedules of the heuristic that hold, compiled; those that cannot be fast are dropped."""
    backend, names, scheduled = CudaBackend(), [], []
    for n, schedule in enumerate(islice(heuristics.schedules(case.kernel, target), most)):
        kernel = replace(case.kernel, name=f"{prefix}_{n}_{case.kernel.name}")
        try:
            made = apply(kernel, schedule)
            backend.launch(made, target)
        except ScheduleError:
            continue
        names.append(kernel.name)
        scheduled.append((schedule, made))
    try:
        source = backend.emit([s for _, s in scheduled], target)
        compiled: dict[str, Module] = dict(compile_source(source, target)) if scheduled else {}
    except InternalError:  # one that Triton refuses takes the others with it: each on its own
        compiled = {}
        for name, (_, made) in zip(names, scheduled, strict=True):
            compiled |= _alone(backend, name, made, target)
    seen = set()
    for name, (schedule, _) in zip(names, scheduled, strict=True):
        module = compiled.get(name)
        if module is None:
            yield Candidate(schedule, None, "Triton refuses it")
            continue
        facts, reason = _examined(module, target)
        code = module.cubin.replace(module.launch.entry.encode(), b"")
        yield Candidate(schedule, module, "the same code as another" if code in seen else reason, facts)
        seen.add(code)


def _alone(backend: CudaBackend, name: str, made: Any, target: Target) -> dict[str, Module]:
    try:
        return {name: compile_source(backend.emit([made], target), target)[name]}
    except InternalError:
        return {}


def _examined(module: Module, target: Target) -> tuple[dict[str, int], str]:
    """What a candidate takes, and why it is not worth timing: it does not start, or its registers spill."""
    used = sass.resources(module.cubin)
    threads, extra = module.threads, target.extra
    blocks = min(
        extra["registers_per_sm"] // max(1, used.registers * threads),
        extra["shared_per_sm"] // max(1, module.shared + 1024),  # one KiB of each block is the system's
        extra["threads_per_sm"] // threads,
        extra["blocks_per_sm"],
    )
    facts = {"registers": used.registers, "shared": module.shared, "stack": used.stack, "blocks_per_sm": blocks}
    reason = "its registers spill" if used.stack else "it does not fit a multiprocessor" if blocks == 0 else ""
    return facts, reason


def _told(case: Case, target: Target, kept: Sequence[Candidate], first: int) -> dict[str, Any]:
    """What ``cases.json`` says of a case."""
    kernel, names = case.kernel, canonical_names(case.kernel)
    return {
        "name": kernel.name,
        "sizes": dict(case.sizes),
        "worth": case.worth,
        "least_seconds": predicted_seconds(kernel, target, case.sizes, target.units),
        "identity": asdict(identity_of(kernel, case.sizes)),
        "dims": [case.sizes[name] for name, _ in kernel.facts],
        "buffers": [_buffer(kernel, p, case.sizes) for p in kernel.params],
        "candidates": [
            {
                "code": first + n,
                "schedule": schedule_to_json(rename_schedule(c.schedule, names)),
                "grid": c.module.launch.grid.evaluate(case.sizes),
                "workspace": c.module.launch.workspace.evaluate(case.sizes),
                "scratch": c.module.scratch[0] * c.module.launch.grid.evaluate(case.sizes),
                "profile": c.module.scratch[1] * c.module.launch.grid.evaluate(case.sizes),
                "packs": _packs(c.schedule, kernel),
                "facts": c.facts,
            }
            for n, c in enumerate(kept)
            if c.module is not None
        ],
    }


def expected_values(case: Case, buffers: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Elements of each output by the interpreter of the lowered form, for the inputs that the recipes make."""
    inputs = {}
    for n, (p, b) in enumerate(zip(case.kernel.params, buffers, strict=True)):
        if p.role != "out":
            elements = recipes.codes(b, n + 1)
            wide = elements.astype(f"<u{max(8, p.dtype.bits) // 8}")
            inputs[p.name] = wide.view(p.dtype.numpy).reshape(b["shape"])
    results = run_lowered(case.kernel, inputs, case.sizes)
    for p in (p for p in case.kernel.params if p.role == "out"):
        flat = np.asarray(results[p.name]).reshape(-1)
        at = np.unique(np.linspace(0, flat.size - 1, _CHECKED).astype(np.int64))
        yield {"at": at.tolist(), "values": flat[at].astype(np.float64).tolist()}


def _packs(schedule: Schedule, kernel: Kernel) -> dict[str, Any]:
    positions = {p.name: n for n, p in enumerate(kernel.params)}
    return {
        str(positions[p.tensor]): {"index": [str(i) for i in p.index], "shape": [s.value for s in p.shape]}
        for p in schedule.packs
    }


def _buffer(kernel: Kernel, p: Param, sizes: Mapping[str, int]) -> dict[str, Any]:
    """How a parameter is made and compared."""
    position = {q.name: n for n, q in enumerate(kernel.params)}
    narrow = p.dtype.is_float and p.dtype.bits == 8
    return {
        "dtype": str(p.dtype),
        "shape": [e.evaluate(sizes) for e in p.shape],
        "role": p.role,
        "alias": position[p.alias] if p.alias is not None else None,
        "values": _values(kernel, p, sizes),
        "tolerance": _tolerance(p.dtype),
        "step": narrow or not p.dtype.is_float,  # the tolerance is in steps of the type
    }


def _tolerance(dtype: DType) -> float:
    """Relative for wide floats; else in steps: what is rounded to a narrow type may fall on either side of a tie."""
    if dtype in _TOLERANCES:
        return _TOLERANCES[dtype]
    return 1.0 if dtype.bits <= 8 and dtype is not DType.BOOL else 0.0


def _values(kernel: Kernel, p: Param, sizes: Mapping[str, int]) -> list[Any]:
    """Values of variance 1; small integers; of a tensor that says places in another, places that are there."""
    if p.dtype.is_float:
        return ["normal", 1.0]
    limits = [n for index, n in _gathers(kernel, sizes) if p.name in index]
    if limits:
        return ["integers", 0, max(1, min(limits))]
    if p.dtype is DType.BOOL:
        return ["integers", 0, 2]
    return ["integers", -8, 8] if p.dtype.is_signed else ["integers", 0, 16]


def _gathers(kernel: Kernel, sizes: Mapping[str, int]) -> Iterator[tuple[set[str], int]]:
    """For every index that is a value: the tensors that it is computed from, and the extent that it is an index of."""
    tensors = {p.name: p for p in kernel.params}
    values: Iterable[Value] = [
        *(d.value for d in defines(kernel)),
        *(s.value for s in kernel.body if isinstance(s, Store)),
    ]
    reads = [(v.tensor, v.index) for value in values for v in walk(value) if isinstance(v, Load)]
    reads += [(s.tensor, s.index) for s in kernel.body if isinstance(s, Store)]
    for tensor, index in reads:
        for extent, i in zip(tensors[tensor].shape, index, strict=True):
            if not isinstance(i, Expr):
                yield {x.tensor for x in walk(i) if isinstance(x, Load)}, extent.evaluate(sizes)


def can_time(kernel: Kernel) -> bool:
    """Whether inputs of all types of a kernel can be made."""
    return all(str(p.dtype) in BITS for p in kernel.params)
