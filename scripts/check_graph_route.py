"""Graphs for other compilers against ONNX's backend suite: what is written computes what the test says, or is refused.

    python scripts/check_graph_route.py [--as onnx-atc] [-t ascend:910b3] [--limit N] [PATTERN]

Every plain test is exported; ONNX Runtime runs what was written. ``wrong`` is an export whose numbers differ,
``broken`` one that ONNX Runtime does not load; exit 1 where there is one of these. ``unjudged``: ONNX Runtime does not
pass the test itself. GE graphs (``--as ge-air``) are written and held against the signatures, and not run here.
"""

from __future__ import annotations

import argparse
import collections
import fnmatch
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from tilewright.errors import TilewrightError
from tilewright.graph_export import export_graph
from tilewright.options import Options

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.conformance.cases import Case, cases, plain_names, read_values  # noqa: E402


def outcome(case: Case, kind: str, target: str, folder: Path) -> tuple[str, str]:
    """``same``, ``wrong``, ``broken``, ``refused`` or ``unjudged``, and why."""
    model = onnx.load(case.folder / "model.onnx")
    try:
        export_graph(model, kind, folder, Options((target,)))
    except TilewrightError as error:
        lines = getattr(error, "problems", ()) or (f"{error.code}: {error.cause}",)
        return "refused", lines[0].replace("\n", " ")
    if kind != "onnx-atc":
        return "same", ""  # nothing here runs it
    found, why = _ran(folder / "model.onnx", model, case)
    if found != "same" and _ran(case.folder / "model.onnx", model, case)[0] != "same":
        return "unjudged", f"ONNX Runtime does not pass the test itself ({why})"
    return found, why


def _ran(path: Path, model: onnx.ModelProto, case: Case) -> tuple[str, str]:
    """What ONNX Runtime makes of a file with the inputs of a test."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    data = case.data[0]
    try:
        session = onnxruntime.InferenceSession(str(path), options)
        names = [i.name for i in model.graph.input if i.name not in {w.name for w in model.graph.initializer}]
        feed = dict(zip(names, read_values(data, "input"), strict=False))
        got = session.run(None, {i.name: feed[i.name] for i in session.get_inputs() if i.name in feed})
    except Exception as error:  # whatever it raises is what is to be told
        return "broken", str(error).splitlines()[0][:160]
    pairs = zip(read_values(data, "output"), got, strict=True)
    return ("same", "") if all(_close(want, have, case) for want, have in pairs) else ("wrong", "numbers")


def _close(want: Any, have: Any, case: Case) -> bool:
    same = want.shape == np.shape(have) and want.dtype == np.asarray(have).dtype
    wide = [np.asarray(v).astype(np.float64) for v in (have, want)]
    return same and np.allclose(*wide, case.rtol, max(case.atol, 1e-6), equal_nan=True)


def main() -> int:
    """Run the tests that are asked for and tell the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--as", dest="kind", default="onnx-atc")
    parser.add_argument("-t", "--target", default="ascend:910b3")
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("pattern", nargs="?", default="*")
    given = parser.parse_args()
    every = cases()
    asked = [every[n] for n in plain_names() if fnmatch.fnmatch(n, given.pattern)]
    counts: collections.Counter[str] = collections.Counter()
    reasons: collections.Counter[str] = collections.Counter()
    for case in asked[: given.limit or None]:
        with tempfile.TemporaryDirectory() as folder:
            found, why = outcome(case, given.kind, given.target, Path(folder) / "out")
        counts[found] += 1
        if found in ("wrong", "broken", "unjudged"):
            print(f"{found:8}{case.name}: {why}")
        elif found == "refused":
            reasons[why.partition(" (node")[0]] += 1
    for why, count in reasons.most_common(40):
        print(f"refused {count:4}  {why[:150]}")
    print(", ".join(f"{counts[k]} {k}" for k in ("same", "refused", "unjudged", "wrong", "broken")))
    return 1 if counts["wrong"] or counts["broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
