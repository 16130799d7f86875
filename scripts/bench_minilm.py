"""MiniLM beside ONNX Runtime and OpenVINO over sizes and thread counts; writes models/results/minilm-cpu.md.

Run as ``.venv/bin/python scripts/bench_minilm.py`` after ``./scripts/test`` has made the environment. None of the sizes
measured is used while compiling: the artifact is made for batch 1..32 and sequence 8..256.
"""

from __future__ import annotations

import platform
import re
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import tilewright as tw
from tilewright.benchmark import bench

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from models import minilm  # noqa: E402 (a folder of the checkout, not of the package)

RESULTS = ROOT / "models" / "results" / "minilm-cpu.md"
SIZES = [(1, 8), (1, 16), (1, 32), (1, 64), (1, 128), (1, 256), (4, 24), (8, 64), (32, 16), (32, 128)]
PEERS = ("onnxruntime", "openvino")
SECONDS = 1.5


def main() -> int:
    """Measure, print and write the table."""
    folder = ROOT / "build" / "bench"
    model = minilm.build(folder)
    sizes = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), ("1..32", "8..256"))
    artifact = folder / "minilm.tw"
    tw.compile(model, input_shapes=sizes).save(artifact)
    versions = ", ".join(f"{p} {version(p)}" for p in PEERS)
    lines = [
        "# MiniLM (fp32) on a CPU",
        "",
        f"`.venv/bin/python scripts/bench_minilm.py`, {datetime.now(UTC):%Y-%m-%d}, {processor()}, {versions}.",
        "Milliseconds are medians of runs in turns within one process; a ratio is our time over the peer's per round,",
        "median (10th to 90th percentile); below 1 we are faster. `others` is how many CPUs other processes kept busy.",
        "",
        "| threads | batch × tokens | ours, ms | / ONNX Runtime | / OpenVINO | roof | error | others |",
        "|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines))
    worst = 0.0
    for threads in (1, 2):
        for batch, tokens in SIZES:
            rng = np.random.default_rng([batch, tokens])
            ones = np.ones((batch, tokens), np.int64)
            feed = {"input_ids": rng.integers(0, 30000, ones.shape), "attention_mask": ones, "token_type_ids": 0 * ones}
            found = bench(
                artifact,
                feed,
                against=dict.fromkeys(PEERS, model),
                roofline=True,
                threads=threads,
                seconds=SECONDS,
            )
            ratios = [p.ratio for p in found.peers]
            worst = max(worst, *(r.median for r in ratios))
            cells = [f"{r.median:.2f} ({r.low:.2f}–{r.high:.2f})" for r in ratios]
            error = max(p.max_error for p in found.peers)
            share = f"{found.roof.share:.0%}" if found.roof else ""
            busy = "" if found.others is None else f"{found.others:.1f}"
            ours = found.load.latency["p50"] * 1e3
            row = [str(threads), f"{batch} × {tokens}", f"{ours:.2f}", *cells, share, f"{error:.1e}", busy]
            lines.append(f"| {' | '.join(row)} |")
            print(lines[-1], flush=True)
    lines += ["", f"Largest ratio in the table: {worst:.2f}. {load_line(artifact)}"]
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(lines[-1])
    return 0


def load_line(artifact: Path) -> str:
    """Seconds from opening the file to the first result, less a median run: the cost of loading, pages cached."""
    feed = {name: np.ones((1, 16), np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
    extra = []
    for _ in range(7):
        start = time.perf_counter()
        session = tw.load(artifact)
        session.run(None, feed)
        first = time.perf_counter() - start
        runs = []
        for _ in range(30):
            start = time.perf_counter()
            session.run(None, feed)
            runs.append(time.perf_counter() - start)
        extra.append(first - float(np.median(runs)))
    return f"Load and first result, less a median run: {1e3 * float(np.median(extra)):.1f} ms (median of 7)."


def processor() -> str:
    """The processor's name and how many of its CPUs this machine has."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"model name\s*:\s*(.+)", text)
    return f"{found.group(1) if found else platform.machine()}, {len(re.findall(r'^processor', text, re.M))} CPUs"


if __name__ == "__main__":
    sys.exit(main())
