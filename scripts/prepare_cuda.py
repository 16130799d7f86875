"""Makes everything that a machine with a GPU is to run, on one without: ``prepare_cuda.py [STEP ...]``.

The folder ``build/device`` then holds artifacts of the small zoo with recorded outputs of ONNX Runtime, artifacts of
full size without their weights, and bundles of kernels with candidates; ``scripts/device_cuda.sh`` runs it all there.
What is there already is kept. Steps: ``small``, ``numbers``, ``bench``, ``large`` (1.1 billion parameters), ``tune``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from models import llama, zoo  # noqa: E402 (a folder of the checkout, not of the package)
from scripts.check_cuda import BF16, FP16, INT8, OWN, PRECISIONS, WEIGHTS4, WEIGHTS8  # noqa: E402
from scripts.resumable_table import bound  # noqa: E402
from scripts.weightless import empty  # noqa: E402

DEVICE = ROOT / "build" / "device"
MODELS = ROOT / "build" / "zoo"
#: Llama of 1.1 billion parameters: sizes of TinyLlama (Zhang et al., arXiv:2401.02385).
LARGE = llama.Config(2048, 5632, 22, 32, 4, 32000, 1e-5)


@dataclass(frozen=True, slots=True)
class Bench:
    """A model at one size and precision; ``name`` is that of its files."""

    model: str
    batch: int
    length: int
    precision: str

    @property
    def name(self) -> str:
        """``bert-base-1x128-fp16``."""
        return f"{self.model}-{self.batch}x{self.length}-{self.precision.replace(' ', '-')}"


BENCHES = (
    *(Bench("llama-decode-static", 1, 1024, p) for p in (BF16, WEIGHTS4, WEIGHTS8)),
    *(Bench("bert-base", b, 128, FP16) for b in (1, 32)),
    *(Bench("resnet50", b, 224, FP16) for b in (1, 32)),
    Bench("vit-b16", 1, 224, FP16),
    Bench("gpt2", 1, 512, FP16),
    Bench("resnet50", 1, 224, INT8),
    Bench("bert-base", 1, 128, INT8),
)
LARGE_BENCHES = tuple(Bench("llama-1b-decode-static", 1, 1024, p) for p in (BF16, WEIGHTS4, WEIGHTS8))
#: What candidates are timed of: the same sizes.
TUNED = ("bert-base:1x128:fp16", "resnet50:1x224:fp16", "llama-decode-static:1x1024:bf16", "gpt2:1x512:fp16")


def main() -> int:
    """Make the steps that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-t", "--target", default="cuda:sm_90")
    parser.add_argument("--models", type=Path, default=MODELS, help="models that are built already, or where to")
    parser.add_argument("--out", type=Path, default=DEVICE)
    parser.add_argument("--only", default="", metavar="TEXT", help="files whose names contain it")
    parser.add_argument("--most", type=int, default=8, help="candidates of a kernel")
    parser.add_argument("--cases", type=int, default=24, help="kernels that are tuned")
    parser.add_argument("steps", nargs="*", metavar="STEP")
    given = parser.parse_args()
    steps = {"small": small, "numbers": numbers, "bench": bench, "large": large, "tune": tune}
    for name in given.steps or steps:
        steps[name](given)
    total = sum(p.stat().st_size for p in given.out.rglob("*") if p.is_file())
    print(f"{given.out}: {total / 1e6:.1f} MB")
    return 0


def small(given: argparse.Namespace) -> None:
    """Artifacts of the small zoo, each with inputs and ONNX Runtime's outputs of the float model."""
    from tilewright.engines import open_engine

    folder = given.out / "small"
    folder.mkdir(parents=True, exist_ok=True)
    for name, model in zoo.small().items():
        with tempfile.TemporaryDirectory(prefix="tilewright-prepare-") as scratch:
            path, wanted = model.build(Path(scratch)), folder / f"{name}.npz"
            if not wanted.exists():
                engine, arrays = open_engine("onnxruntime", path, 1), {}
                for n, size in enumerate(model.checks):
                    feed = model.feed(*size)
                    arrays |= {f"{n}/in/{k}": v for k, v in feed.items()}
                    arrays |= {f"{n}/out/{k}": v for k, v in engine.run(feed).items()}
                np.savez_compressed(wanted, **arrays)
            for precision in _small_precisions(name):
                artifact = folder / f"{name}.{precision.replace(' ', '-')}.tw"
                if not artifact.exists() and given.only in artifact.name:
                    shapes = [f"{n}:{','.join(map(str, dims))}" for n, dims in model.input_shapes.items()]
                    _compile(path, artifact, given.target, precision, shapes, model, model.checks[0])


def _small_precisions(name: str) -> Iterator[str]:
    yield from (OWN, FP16, BF16)
    yield from (WEIGHTS8, WEIGHTS4) if "decode" in name else (INT8,)


def bench(given: argparse.Namespace) -> None:
    """Artifacts of full size without weights, and what a run of each does."""
    for b in BENCHES:
        _bench(given, b, zoo.zoo()[b.model])


def large(given: argparse.Namespace) -> None:
    """Decoding with 1.1 billion parameters; its model takes 4.4 GB of disk while this runs, and is deleted then."""
    model = zoo._decode_static("llama-1b-decode-static", LARGE, 2048)
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tilewright-large-", dir=given.out) as scratch:
        for b in LARGE_BENCHES:
            _bench(argparse.Namespace(**vars(given) | {"models": Path(scratch)}), b, model)


def _bench(given: argparse.Namespace, b: Bench, model: zoo.Model) -> None:
    from tilewright.benchmark.records import describe, target_of

    folder = given.out / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / f"{b.name}.json"
    if done.exists() or given.only not in done.name:
        return
    path = given.models / f"{b.model}.onnx"
    if not path.exists():
        model.build(path.parent)
    shapes = [f"{n}:{','.join(bound(d, b.batch, b.length) for d in dims)}" for n, dims in model.input_shapes.items()]
    with tempfile.TemporaryDirectory(prefix="tilewright-prepare-", dir=given.out) as scratch:
        artifact = Path(scratch) / "model.tw"
        if not _compile(path, artifact, given.target, b.precision, shapes, model, (b.batch, b.length)):
            return
        target = target_of(given.target)
        record = describe(artifact, {}, target=given.target, threads=target.units)
        empty(artifact, folder / f"{b.name}.empty")
    told = {
        "model": b.model,
        "batch": b.batch,
        "length": b.length,
        "precision": b.precision,
        "states": list(map(list, model.states)),
        "launches": record.launches,
        "flops": record.flops,
        "bytes": sum(k.bytes for k in record.kernels),
        "weight_bytes": record.constants,
        "predicted_seconds": sum(k.predicted for k in record.kernels),
    }
    done.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _compile(
    path: Path, artifact: Path, target: str, precision: str, shapes: list[str], model: zoo.Model, size: tuple[int, int]
) -> bool:
    """Compile one artifact in a process of its own; what fails is said, and the rest goes on."""
    words = [sys.executable, "-m", "tilewright", "compile", str(path), "-o", str(artifact), "-t", target]
    words += ["--no-verify", "-q", *PRECISIONS[precision]]
    words += [word for shape in shapes for word in ("--input-shape", shape)]
    words += [word for pair in model.in_place.items() for word in ("--state", "=".join(pair))]
    with tempfile.TemporaryDirectory() as scratch:
        if precision == INT8:
            samples = Path(scratch) / "samples.npz"
            np.savez(samples, **model.feed(*size))
            words += ["--calib", str(samples)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    failed = f": FAILED, {done.stderr.strip()[-300:]}" if done.returncode else ""
    print(f"{artifact.name if artifact.name != 'model.tw' else path.stem} {precision} {size}{failed}", flush=True)
    return not done.returncode


def numbers(given: argparse.Namespace) -> None:
    """The kernels of the tests with a GPU (tests/cuda/test_device.py), with values that NumPy computed."""
    from tilewright.backends.cuda.backend import CudaBackend
    from tilewright.backends.cuda.bundle import Case, write_bundle

    from tests.cuda.cases import INTEGER, SMALL
    from tests.cuda.test_device import FIRST_GUESSES

    path = given.out / "numbers.pyz"
    if path.exists():
        return
    target = CudaBackend().targets()[given.target]
    wanted = [(c, t) for c in SMALL for t in ("f32", "f16")] + [(INTEGER, "i8"), *FIRST_GUESSES]
    cases = [Case(c.build(t), c.sizes, 1.0) for c, t in wanted]
    path.parent.mkdir(parents=True, exist_ok=True)
    print(path.name, write_bundle(path, cases, target, 2, expected=True), flush=True)


def tune(given: argparse.Namespace) -> None:
    """Candidates of the kernels that take most of the models measured."""
    from tilewright.backends.cuda.backend import CudaBackend
    from tilewright.backends.cuda.bundle import write_bundle

    from scripts.tune_cuda import Wanted, chosen

    path = given.out / "tune.pyz"
    if path.exists():
        return
    target = CudaBackend().targets()[given.target]
    cases = chosen([Wanted.parse(text) for text in TUNED], target, given.models, given.cases)
    path.parent.mkdir(parents=True, exist_ok=True)
    print(path.name, write_bundle(path, cases, target, given.most), flush=True)


def told_of(folder: Path) -> Mapping[str, dict[str, object]]:
    """What :func:`bench` wrote, by name."""
    return {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted(folder.glob("*.json"))}


if __name__ == "__main__":
    sys.exit(main())
