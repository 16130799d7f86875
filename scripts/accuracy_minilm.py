"""What quantization costs MiniLM with its real weights; writes models/results/minilm-quantized.md.

Run as ``.venv/bin/python scripts/accuracy_minilm.py`` after ``./scripts/test`` has made the environment. Calibrated on
sentences of some topics, judged on sentences of others, beside ONNX Runtime's quantizers on the same sentences.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tilewright.frontend.onnx import import_model
from tilewright.options import Options
from tilewright.passes.pipeline import canonicalization, run_pipeline
from tilewright.passes.quantize.base import Calibration, Capability, Settings
from tilewright.passes.quantize.methods import METHODS, quantize
from tilewright.runner import GraphRunner
from tilewright.selection import resolve_targets

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from models import minilm, sentences  # noqa: E402 (a folder of the checkout, not of the package)
from models.builder import Array  # noqa: E402

RESULTS = ROOT / "models" / "results" / "minilm-quantized.md"
OUTPUT = "sentence_embedding"
#: Title, settings, and whether calibration data is given.
OURS: tuple[tuple[str, Settings, bool], ...] = (
    ("int8", Settings("int8"), True),
    ("smoothquant", Settings("smoothquant"), True),
    ("int8-dynamic", Settings("int8-dynamic"), True),
    ("int8-dynamic, narrow weights", Settings("int8-dynamic", narrow_weights=True), True),
    ("int8-dynamic, no data", Settings("int8-dynamic"), False),
    ("int4, blocks of 32", Settings("int4"), True),
    ("int8-weights", Settings("int8-weights"), True),
    ("int8, min-max", Settings("int8", calibrator="minmax"), True),
    ("int8, percentile", Settings("int8", calibrator="percentile"), True),
    ("int8, entropy", Settings("int8", calibrator="entropy"), True),
    ("smoothquant, exponent 0.5", Settings("smoothquant", smoothing=0.5), True),
    ("int4, blocks of 32, i8 rows", Settings("int4", activations="int8"), True),
    ("int4, blocks of 128", Settings("int4", group=128), True),
)


def main() -> int:
    """Quantize by every method, judge, print and write the table."""
    folder = ROOT / "build" / "accuracy"
    path = minilm.build(folder)
    base = import_model(path)
    run_pipeline(base, canonicalization())
    calibrate, test = (sentences.batches(sentences.texts(part)) for part in ("calibration", "test"))
    data = Calibration(calibrate.feeds, "models/sentences.txt", "")
    capability = Capability.common([target for _, target in resolve_targets(Options())])
    runner = GraphRunner(threads=1)  # threads that wait for one another are slow where others use the machine

    def embed(model: Any) -> Array:
        return test.in_order(found[OUTPUT] for found in runner(model, test.feeds, [OUTPUT]))

    floats = embed(base)
    lines = [_row("fp32", floats, floats)]
    with tempfile.TemporaryDirectory() as scratch:
        for title, file in _peers(path, Path(scratch), calibrate.feeds):
            lines.append(_row(title, _by_onnxruntime(file, test), floats))
    for title, settings, given in OURS:
        if settings.method not in METHODS:
            continue
        model, start = base.clone(), time.perf_counter()
        quantize(model, settings, capability, data if given else None, runner if given else None)
        lines.append(_row(title, embed(model), floats, f"{time.perf_counter() - start:.0f} s"))
        _write(lines, len(sentences.texts("calibration")), len(sentences.texts("test")))
    return 0


def _row(title: str, found: Array, floats: Array, seconds: str = "") -> str:
    j = sentences.judge(found, floats)
    row = f"| {title} | {j.cosine:.4f} | {j.least:.3f} | {j.agreement:.3f} | {j.found:.3f} | {seconds} |"
    print(row, flush=True)
    return row


def _peers(model: Path, scratch: Path, feeds: tuple[dict[str, Array], ...]) -> Iterator[tuple[str, Path]]:
    """Titles and files of what ONNX Runtime's own quantizers make."""
    import onnx
    from onnxruntime import quantization as q
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    prepared = scratch / "prepared.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(onnx.load(str(model))), str(prepared))

    class Reader(q.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest = iter(feeds)

        def get_next(self) -> dict[str, Array] | None:
            return next(self.rest, None)

    def static(out: Path) -> None:  # its histogram calibrators refuse batches of unequal lengths
        q.quantize_static(str(prepared), str(out), Reader(), per_channel=True, op_types_to_quantize=["MatMul"])

    def dynamic(out: Path) -> None:
        q.quantize_dynamic(str(prepared), str(out), per_channel=True, weight_type=q.QuantType.QInt8)

    def blocks(out: Path) -> None:
        made = MatMulNBitsQuantizer(onnx.load(str(prepared)), 4, block_size=32, is_symmetric=True)
        made.process()
        made.model.save_model_to_file(str(out))

    made: dict[str, Callable[[Path], None]] = {
        "ONNX Runtime, dynamic": dynamic,
        "ONNX Runtime, static, min-max": static,
        "ONNX Runtime, MatMulNBits, 4 bits, blocks of 32": blocks,
    }
    for i, (title, make) in enumerate(made.items()):
        file = scratch / f"{i}.onnx"
        try:
            make(file)
        except Exception as error:  # a peer's quantizer raises whatever it raises; the table goes on without it
            print(f"| {title} | failed: {type(error).__name__}: {str(error)[:200]} |", flush=True)
            continue
        yield title, file


def _by_onnxruntime(model: Path, batches: sentences.Batches) -> Array:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return batches.in_order(session.run([OUTPUT], feed)[0] for feed in batches.feeds)


def _write(lines: list[str], calibrated: int, judged: int) -> None:
    versions = f"onnxruntime {version('onnxruntime')}"
    text = f"""# MiniLM, quantized

`.venv/bin/python scripts/accuracy_minilm.py`, {datetime.now(UTC):%Y-%m-%d}, {versions}.

Calibrated on {calibrated} sentences of five topics, judged on {judged} of twelve others (models/sentences.txt). The
cosine is of each embedding to that of fp32. Agreement: of the queries whose nearest sentence is the one that fp32
finds; found: of those whose nearest is their own. All products with constant weights are quantized, none is left in
floats. ONNX Runtime runs its own files; where a machine lacks VNNI its products of u8 and i8 saturate, which is a part
of its numbers. Seconds are those of quantizing and judging, on a machine that others used.

| method | mean cosine | least | agreement | found | |
|---|---|---|---|---|---|
"""
    RESULTS.write_text(text + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
