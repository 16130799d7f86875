"""Compiles each model of the zoo once and checks it at sizes it was not compiled for; writes a table of the outcome.

Run as ``.venv/bin/python scripts/check_zoo.py [--target xla:cpu] [NAME ...]`` after ``./scripts/test`` has made the
environment. Compiling a model, running it and running ONNX Runtime are processes of their own, so that memory is told
apart. A model that fails is a row that says so. With names, only those rows of ``models/results/zoo-accuracy.md`` (of
another target: ``zoo-accuracy-xla-cpu.md``) are made anew. A target of static programs gets :data:`BUCKETS`.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import onnx
import tilewright as tw
from tilewright.engines import peak_rss
from tilewright.verification import verify

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench_minilm import processor  # noqa: E402 (beside this file)

from models import zoo  # noqa: E402 (a folder of the checkout, not of the package)

FOLDER = ROOT / "build" / "zoo"
RESULTS = ROOT / "models" / "results" / "zoo-accuracy.md"
TARGET = "cpu"
#: Sizes of static programs, by dimension: those that are checked are run in them, padded.
BUCKETS = {"batch": (1, 8), "sequence": (64,), "past": (64,), "capacity": (64,)}
TOLERANCE = 1e-4
#: What compiling may take beside twice the weights: Python, NumPy, ONNX and the compiler itself.
FIXED_MB = 600
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Checked:
    """One compiled model.

    Attributes:
        weights, artifact, memory: bytes of the model's weights, of the artifact and of the compiling process at most.
        seconds: of each stage of compiling, and of writing the artifact (``save``).
        processor: seconds of processor time of all that, the C compiler's included.
        launches, kernels: launches of one run, and distinct kernels among them.
        errors: largest error of any output, relative to its largest reference value, at each size.
        problem: why there is no number, or which is too large; empty when all is well.
    """

    weights: int = 0
    artifact: int = 0
    memory: int = 0
    seconds: dict[str, float] | None = None
    processor: float = 0.0
    launches: int = 0
    kernels: int = 0
    errors: tuple[tuple[int, int, float], ...] = ()
    problem: str = ""


def main(arguments: list[str]) -> int:
    """Check the models named, or all; 1 when one of them failed."""
    if arguments[:1] == ["--compile"]:
        return _compile(arguments[1], arguments[2])
    target = TARGET
    if arguments[:1] == ["--target"]:
        target, arguments = arguments[1], arguments[2:]
    models = zoo.zoo()
    names = arguments or list(models)
    results = RESULTS if target == TARGET else RESULTS.with_stem(f"{RESULTS.stem}-{target.replace(':', '-')}")
    kept = _rows(results)
    for name in names:
        found = check(models[name], target)
        kept[name] = _row(name, found)
        print(kept[name], flush=True)
        rows = {n: kept.get(n, f"| {n} | not run yet |" + " |" * (HEAD.count("|") - 3)) for n in models}
        _write(results, target, rows)
    return int(any("FAILS" in kept[n] for n in names))


def check(model: zoo.Model, target: str) -> Checked:
    """Compile a model in a child process and compare it with ONNX Runtime at each of its sizes."""
    path = model.build(FOLDER)
    weights = weight_bytes(path)
    child = subprocess.run(
        [sys.executable, __file__, "--compile", model.name, target], capture_output=True, text=True, check=False
    )
    if child.returncode:
        told = (child.stderr.strip() or f"exit status {child.returncode}").splitlines()[-1]
        return Checked(weights=weights, problem=f"does not compile: {told}")
    made = json.loads(child.stdout.splitlines()[-1])
    errors, problem = [], ""
    for batch, length in model.checks:  # one at a time: logits of large batches are large
        try:
            worst = verify(
                path.with_suffix(".tw"),
                path,
                [model.feed(batch, length)],
                tolerance=TOLERANCE,
                engine="onnxruntime",
            ).worst
        except tw.TilewrightError as error:
            problem = problem or f"{batch} × {length}: {error}".splitlines()[0]
            continue
        errors.append((batch, length, worst.relative))
        if not worst.ok:
            problem = problem or f"{batch} × {length}: {worst.name} {worst.problem or f'off by {worst.relative:.1e}'}"
    return Checked(weights=weights, errors=tuple(errors), problem=problem, **made)


def _compile(name: str, target: str) -> int:
    """In the child: compile and save; the last line of stdout is what :class:`Checked` takes."""
    model = zoo.zoo()[name]
    path = FOLDER / f"{name}.onnx"
    named = {d.partition("=")[0] for dims in model.input_shapes.values() for d in dims if isinstance(d, str)}
    artifact = tw.compile(
        path,
        targets=(target,),
        input_shapes=model.input_shapes,
        states=model.in_place,
        buckets={} if target == TARGET else {n: sizes for n, sizes in BUCKETS.items() if n in named},
        verify=False,
    )
    start = time.perf_counter()
    artifact.save(path.with_suffix(".tw"))
    report = artifact.report
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    made = {
        "processor": sum(u.ru_utime + u.ru_stime for u in used),
        "artifact": report.artifact_bytes,
        "memory": peak_rss(),
        "seconds": {**report.seconds, "save": time.perf_counter() - start},
        "launches": report.targets[0].launches,
        "kernels": report.targets[0].distinct,
    }
    print(json.dumps(made))
    return 0


def weight_bytes(path: Path) -> int:
    """Bytes of the initializers that lie beside a graph."""
    tensors = onnx.load(str(path), load_external_data=False).graph.initializer
    return sum(int(e.value) for t in tensors for e in t.external_data if e.key == "length")


# -- the table ---------------------------------------------------------------------------------------------------------

HEAD = (
    "| model | largest error | at each batch × length | launches (kernels) | weights, MB | artifact, MB "
    "| compile, s (of processor) | by stage | memory, MB | allowed, MB |"
)


def _row(name: str, found: Checked) -> str:
    sizes = ", ".join(f"{b} × {s}: {e:.1e}" for b, s, e in found.errors)
    worst = f"{max(e for *_, e in found.errors):.1e}" if found.errors else "none"
    if found.problem:
        worst = f"FAILS: {found.problem.replace('|', '/')}"
    stages = found.seconds or {}
    allowed = 2 * found.weights / MIB + FIXED_MB
    memory = f"{found.memory / MIB:.0f}" + (" (too much)" if found.memory / MIB > allowed else "")
    cells = [
        name,
        worst,
        sizes,
        f"{found.launches} ({found.kernels})",
        f"{found.weights / MIB:.1f}",
        f"{found.artifact / MIB:.1f}",
        f"{sum(stages.values()):.1f} ({found.processor:.1f})",
        ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in stages.items()),
        memory,
        f"{allowed:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _rows(results: Path) -> dict[str, str]:
    """The rows of the last run, by model."""
    if not results.exists():
        return {}
    lines = results.read_text(encoding="utf-8").splitlines()
    return {line.split("|")[1].strip(): line for line in lines if line.startswith("| ")}


def _write(results: Path, target: str, rows: dict[str, str]) -> None:
    text = [
        "# Accuracy of the zoo (fp32) and what compiling it takes",
        "",
        f"`.venv/bin/python scripts/check_zoo.py{'' if target == TARGET else f' --target {target}'}`,",
        f"{datetime.now(UTC):%Y-%m-%d}, {processor()}, target `{target}`,",
        f"beside onnxruntime {version('onnxruntime')}. One artifact a model, compiled for ranges of sizes and run at",
        "three batches and two lengths (images have one). Errors are relative to the largest value of each output",
        f"and may be {TOLERANCE:.0e}. Memory is the most that the compiling process held, mapped weights included;",
        f"allowed are twice the weights and {FIXED_MB} MB. Seconds are those of a machine that others use too, with",
        "compiled kernels kept from earlier runs where there were any.",
        "",
        HEAD,
        "|---" * (HEAD.count("|") - 1) + "|",
        *rows.values(),
    ]
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
