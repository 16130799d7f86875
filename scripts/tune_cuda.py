"""Schedules measured on GPUs that are only sometimes there: candidates compiled here, timed there, records kept.

``tune_cuda.py bundle -t cuda:sm_90 -o tune.pyz bert-base:1x128:fp16 ...``
    takes the kernels of models of the zoo at a size and a precision (``small/`` before a name: the small zoo), compiles
    the first candidates of each, and writes them into one file. Nothing is run.
``python3 tune.pyz --seconds 300 --out timings.jsonl``
    times them on a machine with such a GPU, which needs Python with NumPy and NVIDIA's driver, and nothing else.
``tune_cuda.py accept timings.jsonl``
    puts the fastest of each kernel among the records of ``backends/cuda/tuned``, from which builds choose.

It is a script of the checkout and no command of the compiler, because what it writes is part of the compiler.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tilewright import driver
from tilewright.backends.cuda.backend import CudaBackend
from tilewright.backends.cuda.bundle import Case, can_time, write_bundle
from tilewright.cost import predict, rates_of, work_of
from tilewright.frontend.input_shapes import parse_input_shape
from tilewright.kernel.canonical import fingerprint
from tilewright.kernel.schedule import Scheduled
from tilewright.options import Options
from tilewright.package.atomic import atomic_file
from tilewright.plan.plan import Launch, Plan
from tilewright.request import precision_of
from tilewright.target import Target
from tilewright.tuning.records import TunedRecord, merged, read_records, record_from

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from models import zoo  # noqa: E402 (a folder of the checkout, not of the package)
from scripts.resumable_table import bound  # noqa: E402

FOLDER = ROOT / "build" / "zoo"
TUNED = ROOT / "backends" / "cuda" / "tuned"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model at a size in a precision: ``bert-base:1x128:fp16``, ``small/gpt2:1x17``."""

    name: str
    batch: int
    length: int
    precision: str | None
    small: bool

    @staticmethod
    def parse(text: str) -> Wanted:
        """Raises ``ValueError`` for anything else."""
        name, size, *precision = text.split(":")
        batch, _, length = size.partition("x")
        plain = name.removeprefix("small/")
        if plain not in zoo.zoo() or len(precision) > 1:
            raise ValueError(f"{text}: name a model of the zoo ({', '.join(zoo.zoo())}), as in bert-base:1x128:fp16")
        return Wanted(plain, int(batch), int(length), precision[0] if precision else None, plain != name)


def main() -> int:
    """Write a bundle, or accept what one measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    bundle = commands.add_parser("bundle", help="compile candidates into one file")
    bundle.add_argument("-t", "--target", default="cuda:sm_90")
    bundle.add_argument("-o", "--output", type=Path, required=True)
    bundle.add_argument("--folder", type=Path, default=FOLDER, help="models that are built already, or where to")
    bundle.add_argument("--most", type=int, default=8, help="candidates of a kernel")
    bundle.add_argument("--cases", type=int, default=60, help="kernels, those that take most first")
    bundle.add_argument("models", nargs="+", metavar="MODEL:BATCHxLENGTH[:PRECISION]")
    accept = commands.add_parser("accept", help="put measured schedules among the records")
    accept.add_argument("--folder", type=Path, default=TUNED)
    accept.add_argument("timings", nargs="+", type=Path)
    given = parser.parse_args()
    if given.command == "accept":
        return accepted(given.timings, given.folder)
    target = CudaBackend().targets()[given.target]
    cases = chosen([Wanted.parse(text) for text in given.models], target, given.folder, given.cases)
    counts = write_bundle(given.output, cases, target, given.most)
    size = given.output.stat().st_size
    told = ", ".join(f"{n} {name}" for name, n in counts.items())
    print(f"{given.output}: {told}; {size / 1e6:.1f} MB. Run it with python3 on a machine with {target.arch}")
    return 0


def chosen(wanted: Sequence[Wanted], target: Target, folder: Path, most: int) -> list[Case]:
    """The distinct kernels of all models, those first that are thought to take most of the runs."""
    found: dict[tuple[str, tuple[int, ...]], Case] = {}
    for w in wanted:
        for case in cases_of(w, target, folder):
            key = fingerprint(case.kernel), tuple(case.sizes.values())
            before = found[key].worth if key in found else 0.0
            found[key] = Case(case.kernel, case.sizes, before + case.worth)
    return sorted(found.values(), key=lambda c: -c.worth)[:most]


def cases_of(w: Wanted, target: Target, folder: Path) -> Iterator[Case]:
    """A case for every launch of a model that is on the device and whose sizes are known beforehand."""
    model = (zoo.small() if w.small else zoo.zoo())[w.name]
    with tempfile.TemporaryDirectory(prefix="tilewright-tune-") as scratch:
        path = (Path(scratch) if w.small else folder) / f"{w.name}.onnx"
        if not path.exists():
            model.build(path.parent)
        shapes = tuple(
            parse_input_shape(f"{name}:{','.join(bound(d, w.batch, w.length) for d in dims)}")
            for name, dims in model.input_shapes.items()
        )
        precision = precision_of(w.precision, None, None, None, "cosine", ("f32",) if w.precision else (), ())
        options = Options((target.spelling,), shapes, precision=precision)
        planned = driver.plan(path, options=options)[target.spelling]
    plan, rates = planned.built.plan, rates_of(target, target.units)
    assert isinstance(plan, Plan)
    for i in (i for entry in plan.entries for i in entry.code if isinstance(i, Launch)):
        code = planned.kernels[i.kernel]
        if not isinstance(code, Scheduled):
            continue  # a routine has one form
        kernel = code.kernel
        try:
            sizes = {name: d.evaluate({}) for (name, _), d in zip(kernel.facts, i.dims, strict=True)}
        except KeyError:
            continue  # only a run tells
        if can_time(kernel):
            yield Case(kernel, sizes, predict(work_of(kernel), rates, sizes).seconds)


def accepted(timings: Sequence[Path], folder: Path) -> int:
    """Add what was measured to the records, a file an architecture."""
    new: dict[str, list[TunedRecord]] = {}
    for path in timings:
        for line in path.read_text(encoding="utf-8").splitlines():
            told = json.loads(line).get("record")
            if told:
                record = record_from(told)
                new.setdefault(record.target.partition(":")[2], []).append(record)
    for arch, records in sorted(new.items()):
        path = folder / f"{arch}.jsonl"
        old = read_records(path) if path.exists() else ()
        text = merged([*old, *records])
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as stream:
            stream.write(text.encode())
        print(f"{path}: {len(text.splitlines())} records, {len(records)} of them from these timings")
    return 0


if __name__ == "__main__":
    sys.exit(main())
