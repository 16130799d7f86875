"""8-bit models beside ONNX Runtime and OpenVINO; writes models/results/quantized-cpu.md.

``.venv/bin/python scripts/bench_quantized.py [--only NAME] [--threads N] [--seconds S]``, in the environment that
``./scripts/test`` made.

Engines run in turns within one process. ResNet-50 is one QDQ file that all three engines get (made by ONNX Runtime's
quantizer: u8 activations, s8 weights per channel). BERT-base: ours are what our own methods make (narrow weights have
7 bits); peers run what suits them best of three files of ONNX Runtime's quantizer (dynamic; static; static for products
with weights only), and are judged by their fastest. The same models in fp32 run along. Weights are random: the cosine
beside fp32 says that kernels compute what they should, not what accuracy a trained model keeps.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tilewright as tw
from numpy.typing import NDArray
from tilewright.benchmark.disturbance import others_busy
from tilewright.benchmark.interleave import interleave, percentiles
from tilewright.engines import Engine, open_engine

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from models import zoo  # noqa: E402 (a folder of the checkout, not of the package)
from scripts.bench_minilm import processor  # noqa: E402

Array = NDArray[Any]
RESULTS = ROOT / "models" / "results"
PEERS = ("onnxruntime", "openvino")


@dataclass(frozen=True, slots=True)
class Case:
    """A model, what of ours is measured by name (a maker of an artifact), and the files that peers run."""

    model: zoo.Model
    size: zoo.Size
    ours: Mapping[str, Callable[[], tw.Artifact]]
    peers: Mapping[str, Path]


def main() -> int:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=("resnet50", "bert-base"), help="may be repeated")
    parser.add_argument("--threads", type=int, action="append", help="threads of a run; may be repeated [1 and 2]")
    parser.add_argument("--seconds", type=float, default=8.0, help="per model and number of threads")
    parser.add_argument("--models", type=Path, default=ROOT / "build" / "quantized", help="folder of the ONNX files")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.models.mkdir(parents=True, exist_ok=True)
    where = f"`{' '.join(['scripts/bench_quantized.py', *sys.argv[1:]])}`, {datetime.now(UTC):%Y-%m-%d}, {processor()}"
    versions = ", ".join(f"{p} {version(p)}" for p in PEERS)
    told = (__doc__ or "").split("\n\n")[2].splitlines()
    table = ["# 8-bit models on a CPU", "", f"{where}, {versions}.", *told, ""]
    table += ["| model | threads | engine | ms, median (p10–p90) | × our 8-bit time | cosine to fp32 | others |"]
    table += ["|---|---|---|---|---|---|---|"]
    print("\n".join(table), flush=True)
    for name in options.only or CASES:
        case = CASES[name](options.models)
        artifacts = {
            label: _saved(make, options.models / f"{name}-{label.replace(', ', '-').replace(' ', '-')}.tw")
            for label, make in case.ours.items()
        }
        for threads in options.threads or (1, 2):
            for row in rows(name, case, artifacts, threads, options.seconds):
                table.append(row)
                print(row, flush=True)
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "quantized-cpu.md").write_text("\n".join(table) + "\n", encoding="utf-8")
    return 0


def rows(name: str, case: Case, artifacts: Mapping[str, Path], threads: int, seconds: float) -> Iterator[str]:
    """One row an engine; ratios beside the fastest 8-bit artifact of ours."""
    feed = case.model.feed(*case.size)
    engines: dict[str, Engine] = {
        f"tilewright {n}": open_engine("tilewright", p, threads) for n, p in artifacts.items()
    }
    for label, path in case.peers.items():
        for peer in PEERS:
            try:
                engine = open_engine(peer, path, threads)
                engine.run(feed)
            except RuntimeError:
                continue  # a peer that lacks an operator of this file
            engines[f"{peer} {label}"] = engine
    want = engines["tilewright fp32"].run(feed)
    cosines = {n: min(_cosine(e.run(feed)[o], want[o]) for o in want) for n, e in engines.items()}
    busy = others_busy()
    found = interleave({n: partial(e.run, feed) for n, e in engines.items()}, seconds)
    others = busy()
    mine = min((n for n in artifacts if n != "fp32"), key=lambda n: percentiles(found.runs[f"tilewright {n}"])["p50"])
    for engine, runs in found.runs.items():
        low, middle, high = np.percentile(np.asarray(runs) * 1e3, (10, 50, 90))
        ratio = found.ratio(engine, f"tilewright {mine}")
        told = f"{ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f})"
        cells = [name, str(threads), engine, f"{middle:.2f} ({low:.2f}–{high:.2f})", told, f"{cosines[engine]:.4f}"]
        yield f"| {' | '.join(cells)} | {'' if others is None else f'{others:.1f}'} |"


def _cosine(a: Array, b: Array) -> float:
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


def _saved(make: Callable[[], tw.Artifact], path: Path) -> Path:
    make().save(path)
    return path


# -- models ----------------------------------------------------------------------------------------------------------


def _compiled(model: zoo.Model, path: Path) -> tw.Artifact:
    return tw.compile(path, ("cpu:native",), input_shapes=model.input_shapes, verify=False)


def _resnet(folder: Path) -> Case:
    model = zoo.zoo()["resnet50"]
    path = _float(model, folder)
    whole, ready, quantized = (folder / f"resnet50-{n}.onnx" for n in ("whole", "ready", "qdq"))
    if not quantized.exists():
        from onnxruntime.quantization.shape_inference import quant_pre_process

        onnx.save(onnx.load(path), whole)
        quant_pre_process(str(whole), str(ready), skip_symbolic_shape=True)
        _static(ready, quantized, [model.feed(1, 224, seed) for seed in range(2)])
    ours = {"int8": partial(_compiled, model, quantized), "fp32": partial(_compiled, model, path)}
    return Case(model, (1, 224), ours, {"int8, the same file": quantized, "fp32": path})


def _bert(folder: Path) -> Case:
    model = zoo.zoo()["bert-base"]
    path = _float(model, folder)
    dynamic, static, products = (folder / f"bert-base-{n}.onnx" for n in ("dynamic", "static", "products"))
    feeds = [model.feed(1, 128, seed) for seed in range(4)]
    if not dynamic.exists():
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(str(path), str(dynamic), per_channel=True, weight_type=QuantType.QInt8)
    if not static.exists():
        _static(path, static, feeds, op_types_to_quantize=["MatMul", "Gemm"])
    if not products.exists():
        weights = {i.name for i in onnx.load(path, load_external_data=False).graph.initializer}
        nodes = onnx.load(path, load_external_data=False).graph.node
        names = [n.name for n in nodes if n.op_type in ("MatMul", "Gemm") and n.input[1] in weights]
        alone = {"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]}
        _static(path, products, feeds, nodes_to_quantize=names, extra_options=alone)
    ours = {
        "int8-dynamic": partial(_precision, model, path, "int8-dynamic", feeds, narrow=False),
        "int8-dynamic, narrow weights": partial(_precision, model, path, "int8-dynamic", feeds, narrow=True),
        "int8, narrow weights": partial(_precision, model, path, "int8", feeds, narrow=True),
        "fp32": partial(_compiled, model, path),
    }
    files = {"int8 dynamic": dynamic, "int8 static": static, "int8 static, products": products, "fp32": path}
    return Case(model, (1, 128), ours, files)


def _precision(
    model: zoo.Model, path: Path, method: str, feeds: Sequence[Mapping[str, Array]], *, narrow: bool
) -> tw.Artifact:
    """Ours, quantized by our own method."""
    target = path.with_name(f"{path.stem}-ours-{method}{'-narrow' * narrow}.onnx")
    given, shapes = {"narrow_weights": narrow}, model.input_shapes
    tw.quantize(path, method=method, calibration=feeds, settings=given, input_shapes=shapes).save(target)
    return _compiled(model, target)


def _float(model: zoo.Model, folder: Path) -> Path:
    path = folder / f"{model.name}.onnx"
    return path if path.exists() else model.build(folder)


def _static(path: Path, to: Path, feeds: Sequence[Mapping[str, Array]], **more: Any) -> None:
    """ONNX Runtime's static quantizer: u8 activations, s8 weights per channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(feeds)

        def get_next(self) -> Mapping[str, Array] | None:
            return next(self.left, None)

    quantize_static(
        str(path),
        str(to),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        **more,
    )


CASES: Mapping[str, Callable[[Path], Case]] = {"resnet50": _resnet, "bert-base": _bert}


if __name__ == "__main__":
    sys.exit(main())
