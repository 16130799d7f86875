"""How fast this processor multiplies 8-bit integers, by instruction sequence, and what that allows for ResNet-50.

``.venv/bin/python scripts/integer_roof.py`` writes models/results/integer-roof.md: multiply-adds a second of one thread
on registers alone, with the accumulators and operands of a register tile of 6 × 16. Below VNNI there are two ways:
bytes with ``vpmaddubsw``, which saturates at 16 bits, and 16-bit integers with ``vpmaddwd``, which is exact.
"""

from __future__ import annotations

import ctypes
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from tilewright.codegen.toolchain import default_toolchain

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.bench_minilm import processor  # noqa: E402 (a folder of the checkout, not of the package)

#: One row of the tile by sequence: an element of a, two vectors of b, two sums. Multiply-adds of one such row.
ROW = {
    "f32, fused multiply-add": (16, ["vbroadcastss {a}, %%ymm12"] + ["vfmadd231ps %%ymm{y}, %%ymm12, %%ymm{s}"] * 2),
    "16 bits, exact (vpmaddwd, vpaddd)": (
        32,
        ["vpbroadcastd {a}, %%ymm12"]
        + ["vpmaddwd %%ymm{y}, %%ymm12, %%ymm13", "vpaddd %%ymm13, %%ymm{s}, %%ymm{s}"] * 2,
    ),
    "bytes, saturating (vpmaddubsw, vpmaddwd, vpaddd)": (
        64,
        ["vpbroadcastd {a}, %%ymm12"]
        + [
            "vpmaddubsw %%ymm{y}, %%ymm12, %%ymm13",
            "vpmaddwd 64(%0), %%ymm13, %%ymm13",
            "vpaddd %%ymm13, %%ymm{s}, %%ymm{s}",
        ]
        * 2,
    ),
}
ROWS, UNROLLED, ROUNDS, REPEATS = 6, 4, 200_000, 25
#: Multiply-adds of ResNet-50 at 224 pixels, and of its 3 × 3 convolutions of stride 1, of which exact F(2×2, 3×3)
#: leaves 4 in 9 (Winograd; Lavin and Gray 2016): 13 layers of 28² · 128 · 128 · 9 each.
RESNET, WINDOWS, LEFT = 4.09e9, 13 * 28 * 28 * 128 * 128 * 9, 4 / 9


def source() -> str:
    """C of one function a sequence."""
    text = ["static char data[1024] __attribute__((aligned(64)));"]
    for n, (_, row) in enumerate(ROW.values()):
        lines = []
        for i in range(ROWS):
            each = (len(row) - 1) // 2  # instructions for one of the two vectors
            vectors = iter((*[0] * each, *[1] * each))
            for line in row:
                j = 0 if "{a}" in line else next(vectors)
                lines.append(line.format(a=f"{4 * i}(%0)", y=14 + j, s=2 * i + j))
        body = "\\n\\t".join(lines * UNROLLED)
        clobbers = ", ".join(f'"ymm{i}"' for i in range(16))
        text.append(f"void tw_rate{n}(long rounds) {{ for (long r = 0; r < rounds; r++)")
        text.append(f'    __asm__ volatile("{body}" : : "r"(data) : "memory", {clobbers}); }}')
    return "\n".join(text) + "\n"


def rates() -> dict[str, float]:
    """Multiply-adds a second by sequence; the best of several runs."""
    import time

    with tempfile.TemporaryDirectory() as folder:
        tools = default_toolchain(cache_folder=Path(folder))
        code = tools.compile(source(), ("-O2", "-mcpu=native", "-fPIC"), name="rates")
        path = Path(folder) / "rates.so"
        path.write_bytes(tools.link({"rates": code}, ()))
        library = ctypes.CDLL(str(path))
    found = dict.fromkeys(ROW, 0.0)
    for _ in range(REPEATS):
        for n, (name, (macs, _)) in enumerate(ROW.items()):
            run = getattr(library, f"tw_rate{n}")
            start = time.perf_counter()
            run(ctypes.c_long(ROUNDS))
            found[name] = max(found[name], macs * ROWS * UNROLLED * ROUNDS / (time.perf_counter() - start))
    return found


def main() -> int:
    """Measure, print and write."""
    found = rates()
    exact = found["16 bits, exact (vpmaddwd, vpaddd)"]
    left = RESNET - WINDOWS * (1 - LEFT)
    lines = [
        "# 8-bit multiply-adds on one thread",
        "",
        f"`scripts/integer_roof.py`, {datetime.now(UTC):%Y-%m-%d}, {processor()}.",
    ]
    lines += ["", "| sequence | GMAC/s | ResNet-50 takes at least, ms |", "|---|---|---|"]
    lines += [f"| {name} | {rate / 1e9:.1f} | {RESNET / rate * 1e3:.1f} |" for name, rate in found.items()]
    lines += [f"| 16 bits, exact, with F(2×2, 3×3) | {exact / 1e9:.1f} | {left / exact * 1e3:.1f} |", ""]
    lines += [
        "Registers alone: no operand is loaded but the element of a, nothing is transformed, stored or requantized."
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    (ROOT / "models" / "results" / "integer-roof.md").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
