"""Answers seeds with verdicts, one a line of JSON: ``python -m tests.fuzz.worker [TARGET]``.

What it is at goes out first.
"""

from __future__ import annotations

import json
import re
import sys
import time
from typing import Any

import onnx

from tests.fuzz import quantized
from tests.fuzz.graph import Graph
from tests.fuzz.judge import Verdict, judge
from tests.fuzz.makers import grow
from tests.fuzz.oracles import Array

TARGETS = ("cpu:native", "cpu:native", "cpu:x86-64-v2", "cpu:native")
LEVELS = (2, 2, 0, 3, 2)


def made(seed: int, avoid: frozenset[str] = frozenset()) -> tuple[onnx.ModelProto, list[dict[str, Array]]] | None:
    """The model of a seed and its feeds, or ``None`` where nothing came of it; a quantized one from
    :data:`quantized.FIRST` on."""
    graph = Graph(seed, avoid)
    (grow if seed < quantized.FIRST else quantized.grow)(graph)
    return (graph.model(), graph.feeds()) if graph.nodes else None


def settings(seed: int, target: str = "") -> tuple[str, int]:
    """Target (the seed's own if none is named) and level of a seed."""
    return target or TARGETS[seed % len(TARGETS)], LEVELS[seed % len(LEVELS)]


def answer(seed: int, at: Any, target: str = "") -> dict[str, Any]:
    """What became of a seed: operators that are not supported are told, and the model is made again without them."""
    if target == "ascend":
        from tests.fuzz import ascend_judge

        return ascend_judge.answer(seed, at)
    unsupported: list[str] = []
    avoid: frozenset[str] = frozenset()
    for _ in range(6):
        at("generate")
        model = made(seed, avoid)
        if model is None:
            return {"status": "empty", "reason": "", "unsupported": unsupported, "operators": []}
        verdict = judge(*model, *settings(seed, target), at=at)
        operators = [n.op_type for n in model[0].graph.node]
        if verdict.status != "unsupported":
            break
        problems = verdict.reason.split("; ")
        unsupported += problems
        named = {op for op in operators if any(re.match(rf"{op}\b", p.strip()) for p in problems)}
        if not named - avoid:
            break
        avoid |= named
    else:
        verdict = Verdict("unsupported", verdict.reason)
    return {
        "status": verdict.status,
        "reason": verdict.reason,
        "unsupported": unsupported,
        "operators": operators,
        "avoid": sorted(avoid),
    }


def main() -> None:
    """Answer until the input ends."""

    def at(stage: str) -> None:
        print(json.dumps({"at": stage}), flush=True)

    for line in sys.stdin:
        seed, started = int(line), time.perf_counter()
        try:
            result = answer(seed, at, *sys.argv[1:])
        except Exception as error:  # of the generator itself
            result = {"status": "generator", "reason": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps({"seed": seed, **result, "seconds": round(time.perf_counter() - started, 2)}), flush=True)


if __name__ == "__main__":
    main()
