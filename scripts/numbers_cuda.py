"""Numbers of the small zoo on an NVIDIA GPU, through the artifacts: ``numbers_cuda.py [--folder F] [--device cuda]``.

Artifacts and the outputs that ONNX Runtime gave for the float models come from ``scripts/prepare_cuda.py small``. What
runs here needs Python, NumPy and the driver. One row an artifact: the largest error relative to the largest value, and
the least cosine, over all outputs and sizes. The exit status is 1 when a row is off, 8 without a device.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "build" / "dev"))

from tilewright.runtime import DeviceError, RunError, load  # noqa: E402 (from the checkout)

FOLDER = ROOT / "build" / "device" / "small"
#: The largest error relative to the largest value, and the least cosine, by precision. Integers are of weights that
#: were rounded with next to no data: that the cosine is near 1 says that nothing else went wrong.
LIMITS = {
    "fp32": (1e-4, 0.999999),
    "fp16": (2e-2, 0.9999),
    "bf16": (1e-1, 0.999),
    "int8": (1.0, 0.98),
    "int8-weights": (1.0, 0.99),
    "int4-weights": (1.0, 0.9),
}


def main() -> int:
    """Run every artifact at its sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    wrong = 0
    print("| model | precision | largest error | least cosine | |\n|---|---|---|---|---|")
    for path in sorted(given.folder.glob("*.tw")):
        model, precision = path.stem.rsplit(".", 1)
        try:
            error, cosine = compared(path, given.folder / f"{model}.npz", given.device)
        except DeviceError as reason:
            print(f"{path.name}: {reason}", file=sys.stderr)
            return 8
        except RunError as reason:
            wrong += 1
            print(f"| {model} | {precision} | | | FAILED: {str(reason).splitlines()[0]} |", flush=True)
            continue
        most, least = LIMITS[precision]
        ok = error <= most and cosine >= least
        wrong += not ok
        print(f"| {model} | {precision} | {error:.2e} | {cosine:.6f} | {'PASS' if ok else 'OFF'} |", flush=True)
    print(f"{wrong} are off")
    return int(wrong > 0)


def compared(artifact: Path, recorded: Path, device: str) -> tuple[float, float]:
    """The largest relative error and the least cosine, run twice at every size: directly, then from a graph."""
    worst, least = 0.0, 1.0
    with load(artifact, device=device) as session:
        for feed, wanted in checks(recorded):
            for _ in range(3):
                got = session.run(None, feed)
            for info, value in zip(session.outputs, got, strict=True):
                want = wanted[info.name].astype(np.float64)
                have = np.asarray(value).astype(np.float64)
                worst = max(worst, float(np.abs(have - want).max() / max(np.abs(want).max(), 1e-30)))
                least = min(least, cosine_of(have, want))
    return (worst if np.isfinite(worst) else float("inf")), least


def cosine_of(a: Any, b: Any) -> float:
    """Of the angle between two arrays; 0 where one is not finite."""
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    found = float((a * b).sum() / norm) if norm else 1.0
    return found if np.isfinite(found) else 0.0


def checks(recorded: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Inputs and outputs of each size."""
    with np.load(recorded) as arrays:
        numbers = sorted({int(name.split("/")[0]) for name in arrays.files})
        for n in numbers:
            parts = ("in", "out")
            yield tuple(  # type: ignore[misc]
                {k.split("/", 2)[2]: arrays[k] for k in arrays.files if k.startswith(f"{n}/{part}/")} for part in parts
            )


if __name__ == "__main__":
    sys.exit(main())
