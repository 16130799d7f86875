"""Decoding with 4-bit weights beside ONNX Runtime and OpenVINO; writes models/results/int4-cpu.md.

``.venv/bin/python scripts/bench_int4.py [--threads N] [--seconds S]``, in the environment that ``./scripts/test`` made.

One step of Llama-125M with 128 tokens in its cache. All engines get one file: ``MatMulNBits`` of ONNX Runtime's
quantizer, round-to-nearest in blocks of 32, accuracy level 4 (activations in 8 bits). Engines run in turns within one
process; the same model in fp32 runs along. Weights are random: the error is that beside ONNX Runtime on the same file,
relative to its largest value. Bytes of the artifact are beside those of what it has to hold: weights and scales as the
file has them, and the table of words in f32.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import tilewright as tw
from tilewright.benchmark.disturbance import others_busy
from tilewright.benchmark.interleave import interleave
from tilewright.engines import Engine, open_engine

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from models import zoo  # noqa: E402 (a folder of the checkout, not of the package)
from scripts.bench_minilm import processor  # noqa: E402

RESULTS = ROOT / "models" / "results"
PEERS = ("onnxruntime", "openvino")
GROUP, LEVEL = 32, 4
SIZE = (1, 128)


def main() -> int:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, action="append", help="threads of a run; may be repeated [1 and 2]")
    parser.add_argument("--seconds", type=float, default=8.0, help="per number of threads")
    parser.add_argument("--models", type=Path, default=ROOT / "build" / "quantized", help="folder of the ONNX files")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.models.mkdir(parents=True, exist_ok=True)
    model = zoo.zoo()["llama-decode"]
    plain = model.build(options.models)
    path = quantized(plain, options.models / "llama-decode-int4.onnx")
    artifacts = {"int4": compiled(path, model), "fp32": compiled(plain, model)}
    told = (__doc__ or "").split("\n\n")[2].splitlines()
    versions = ", ".join(f"{p} {version(p)}" for p in PEERS)
    where = f"`{' '.join(['scripts/bench_int4.py', *sys.argv[1:]])}`, {datetime.now(UTC):%Y-%m-%d}, {processor()}"
    held, wanted = artifacts["int4"].stat().st_size, weights_of(path)
    table = ["# 4-bit decoding on a CPU", "", f"{where}, {versions}.", *told, ""]
    table += [f"Artifact {held / 1e6:.1f} MB, weights {wanted / 1e6:.1f} MB: {held / wanted - 1:+.1%}.", ""]
    table += ["| threads | engine | ms, median (p10–p90) | least | × our int4 time | error | others |"]
    table += ["|---|---|---|---|---|---|---|"]
    print("\n".join(table), flush=True)
    for threads in options.threads or (1, 2):
        for row in rows(model, artifacts, path, threads, options.seconds):
            table.append(row)
            print(row, flush=True)
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "int4-cpu.md").write_text("\n".join(table) + "\n", encoding="utf-8")
    return 0


def quantized(plain: Path, path: Path) -> Path:
    """The model with the weights of its products in blocks of 4 bits, made once."""
    if path.exists():
        return path
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    made = MatMulNBitsQuantizer(onnx.load(str(plain)), block_size=GROUP, is_symmetric=True, accuracy_level=LEVEL)
    made.process()
    onnx.save(made.model.model, str(path), save_as_external_data=True, location=f"{path.stem}.data")
    return path


def compiled(path: Path, model: zoo.Model) -> Path:
    """An artifact for this machine's level."""
    artifact = path.with_suffix(".tw")
    made = tw.compile(path, targets=("cpu:native",), input_shapes=model.input_shapes, verify=False)
    made.save(artifact)
    return artifact


def weights_of(path: Path) -> int:
    """Bytes of the constants of a model file, as it stores them."""
    graph = onnx.load(str(path), load_external_data=False).graph
    sizes = {onnx.TensorProto.FLOAT: 4, onnx.TensorProto.UINT8: 1, onnx.TensorProto.INT64: 8, onnx.TensorProto.INT32: 4}
    return sum(int(np.prod(t.dims)) * sizes.get(t.data_type, 1) for t in graph.initializer)


def rows(model: zoo.Model, artifacts: dict[str, Path], path: Path, threads: int, seconds: float) -> Iterator[str]:
    """One row an engine."""
    feed = model.feed(*SIZE)
    engines: dict[str, Engine] = {
        f"tilewright {name}": open_engine("tilewright", artifact, threads) for name, artifact in artifacts.items()
    }
    for peer in PEERS:
        engines[f"{peer} int4"] = open_engine(peer, path, threads)
    outputs = {name: engine.run(feed) for name, engine in engines.items()}
    want = outputs["onnxruntime int4"]
    busy = others_busy()
    found = interleave({name: partial(engine.run, feed) for name, engine in engines.items()}, seconds)
    others = busy()
    for name, runs in found.runs.items():
        low, middle, high = np.percentile(np.asarray(runs) * 1e3, (10, 50, 90))
        ratio = found.ratio(name, "tilewright int4")
        error = max(float(np.abs(outputs[name][o] - w).max() / np.abs(w).max()) for o, w in want.items())
        cells = [str(threads), name, f"{middle:.2f} ({low:.2f}–{high:.2f})", f"{min(runs) * 1e3:.2f}"]
        cells += [f"{ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f})", f"{error:.1e}"]
        yield f"| {' | '.join(cells)} | {'' if others is None else f'{others:.1f}'} |"


if __name__ == "__main__":
    sys.exit(main())
