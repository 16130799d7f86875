"""Random valid models through the compiler, beside ONNX Runtime and the reference evaluator.

    python scripts/fuzz.py --seeds 2000 --from 0     the seeds that build/fuzz/results.jsonl does not have yet
    python scripts/fuzz.py --seed 17                 one seed, in this process, with the model as text
    python scripts/fuzz.py --seed 17 --shrink        the smallest model that fails alike, into tests/fuzz/minimal/
    python scripts/fuzz.py --seeds 2000 --retry      again those that did not end well
    python scripts/fuzz.py --target xla:cpu          through programs of XLA, with nothing on the host
    python scripts/fuzz.py --target ascend           kernels of Ascend NPUs, each launch in the simulator of the cores
    python scripts/fuzz.py --summary --update        writes tests/fuzz/results.md

A worker process that dies or takes too long costs the seed that it was at.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

RESULTS = ROOT / "build" / "fuzz" / "results.jsonl"
SUMMARY = ROOT / "tests" / "fuzz" / "results.md"

#: Seconds that one seed may take.
LIMIT = 240
BAD = ("wrong", "refused", "broken", "crash", "hang", "generator")


def main() -> int:
    """Exit status: 1 when a seed found a defect."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=200, help="how many")
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--shrink", action="store_true", help="with --seed: reduce it and keep it among the tests")
    parser.add_argument("--retry", action="store_true", help="also those that did not end well before")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    parser.add_argument("--summary", action="store_true", help="run nothing")
    parser.add_argument("--update", action="store_true", help=f"write {SUMMARY.name}")
    parser.add_argument("--target", choices=["", "xla:cpu", "ascend"], default="", help="instead of the seed's own")
    parser.add_argument("-n", type=int, default=min(os.cpu_count() or 1, 4), help="processes")
    options = parser.parse_args()
    if options.seed is not None:
        return _one(options.seed, options.shrink, options.target)
    kept = {"": "", "xla:cpu": "-xla", "ascend": "-ascend"}[options.target]
    path = RESULTS.with_name(f"results{kept}.jsonl")
    if options.fresh:
        path.unlink(missing_ok=True)
    wanted = range(options.first, options.first + options.seeds)
    known = read_results(path)
    again = [s for s in wanted if s not in known or (options.retry and known[s]["status"] in BAD)]
    if not options.summary:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as out:
            for result in run(again, options.n, options.target):
                known[result["seed"]] = result
                out.write(json.dumps(result) + "\n")
                out.flush()
                if result["status"] in BAD:
                    print(f"{result['seed']}  {result['status']}  {result['reason'][:200]}", flush=True)
    results = [known[s] for s in wanted if s in known]
    text = summary(results, options.target)
    print(text)
    if options.update:
        path = SUMMARY.with_name(f"results{kept}.md")
        path.write_text(text, encoding="utf-8")
    return 1 if any(r["status"] in BAD for r in results) else 0


def read_results(path: Path) -> dict[int, dict[str, Any]]:
    """The last result of each seed so far."""
    if not path.exists():
        return {}
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return {row["seed"]: row for row in rows}


def run(seeds: Iterable[int], processes: int, target: str = "") -> Iterator[dict[str, Any]]:
    """What became of each seed, as they end."""
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    seeds = list(seeds)
    for seed in seeds:
        waiting.put(seed)
    done: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threads = [threading.Thread(target=_feed, args=(waiting, done, target), daemon=True) for _ in range(processes)]
    for thread in threads:
        thread.start()
    for _ in seeds:
        yield done.get()


def _feed(waiting: queue.SimpleQueue[int], done: queue.SimpleQueue[dict[str, Any]], target: str) -> None:
    worker: subprocess.Popen[str] | None = None
    while True:
        try:
            seed = waiting.get_nowait()
        except queue.Empty:
            break
        if worker is None or worker.poll() is not None:
            worker = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.worker", *filter(None, [target])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                cwd=ROOT,
            )
        done.put(_ask(worker, seed))
    if worker is not None:
        worker.kill()


def _ask(worker: subprocess.Popen[str], seed: int) -> dict[str, Any]:
    assert worker.stdin is not None and worker.stdout is not None
    late = threading.Timer(LIMIT, worker.kill)
    started, stage = time.perf_counter(), "start"
    late.start()
    try:
        worker.stdin.write(f"{seed}\n")
        worker.stdin.flush()
        for line in worker.stdout:
            told = json.loads(line)
            if "seed" in told:
                return dict(told)
            stage = told["at"]
    except OSError:
        pass
    finally:
        late.cancel()
    seconds = time.perf_counter() - started
    worker.wait()
    status = "hang" if seconds >= LIMIT else "crash"
    if stage in ("onnxruntime", "onnx.reference", "generate"):
        status = "oracles"  # an oracle's own
    reason = f"{status} of the worker while at: {stage} (exit {worker.returncode})"
    return {"seed": seed, "status": status, "reason": reason, "unsupported": [], "operators": [], "seconds": seconds}


def summary(results: list[dict[str, Any]], target: str = "") -> str:
    """The document that is kept."""
    from tests.fuzz.judge import pattern

    count = collections.Counter(r["status"] for r in results)
    nodes = collections.Counter(op for r in results for op in r.get("operators", ()))
    first, last = min((r["seed"] for r in results), default=0), max((r["seed"] for r in results), default=0)
    lines = [
        "# Random valid models",
        "",
        f"Written by `python scripts/fuzz.py{f' --target {target}' if target else ''} --seeds {len(results)} "
        f"--from {first} --update`: seeds {first} to {last}, "
        f"{sum(nodes.values())} nodes of {len(nodes)} operators.",
        "",
        "| what became of a seed | seeds |",
        "|---|---|",
    ]
    lines += [f"| {_TOLD.get(status, status)} | {n} |" for status, n in count.most_common()]
    lines += _simulated(results) if target == "ascend" else []
    bad = [r for r in results if r["status"] in BAD]
    if bad:
        lines += ["", "## Defects", ""]
        groups: dict[str, list[int]] = collections.defaultdict(list)
        for r in bad:
            groups[f"{r['status']}: {pattern(r['reason'])}"].append(r["seed"])
        lines += [
            f"- {len(seeds)} × {reason} (seeds {', '.join(map(str, seeds[:6]))}{' …' if len(seeds) > 6 else ''})"
            for reason, seeds in sorted(groups.items(), key=lambda item: -len(item[1]))
        ]
    differ = [r for r in results if r["status"] in ("oracles", "unstable")]
    if differ:
        lines += ["", "## Oracles that differ, and models that amplify rounding", ""]
        lines += [f"- {r['seed']} {r['status']}: {r['reason'][:180]}  ({' '.join(r['operators'])})" for r in differ]
    reasons = collections.Counter(pattern(u) for r in results for u in set(r.get("unsupported", ())))
    if reasons:
        lines += ["", "## What is not supported", "", "| nodes | reason |", "|---|---|"]
        lines += [f"| {n} | {reason} |" for reason, n in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))]
    lines += ["", "## Operators that were compiled", ""]
    lines.append(", ".join(f"{op} {n}" for op, n in sorted(nodes.items())) + ".")
    return "\n".join(lines) + "\n"


def _simulated(results: list[dict[str, Any]]) -> list[str]:
    """What ran in the simulator of Ascend cores, and why the rest did not."""
    launches, compared, kernels = (sum(r.get(n, 0) for r in results) for n in ("launches", "compared", "kernels"))
    reasons = collections.Counter(re.sub(r"\d+", "#", why) for r in results for why in r.get("host", ()))
    lines = [
        "",
        f"{launches} launches of {kernels} kernels in the simulator of the cores, {compared} of them compared with the",
        "bits of their Ascend C. Machines are those of the targets or smaller ones (`tests/ascend/machines.py`).",
        "",
        f"## On the host part: {sum(reasons.values())} kernels",
        "",
        "| kernels | reason |",
        "|---|---|",
    ]
    return lines + [f"| {n} | {why.replace('|', '/')} |" for why, n in reasons.most_common(25)]


_TOLD = {
    "ok": "as the oracles have it",
    "unsupported": "refused as unsupported",
    "oracles": "the oracles differ (or one of them fails); one agrees with us",
    "assumed": "a run is refused: sizes that only it tells were taken to be equal, and one of them is 1",
    "unstable": "amplifies rounding",
    "no-oracle": "no oracle can run it",
    "empty": "nothing was generated",
}


def _one(seed: int, reduce: bool, target: str) -> int:
    import onnx

    from tests.fuzz.judge import judge
    from tests.fuzz.minimal import keep, shrink
    from tests.fuzz.worker import answer, made, settings

    told = answer(seed, lambda stage: None, target)
    print(told)
    model = made(seed, frozenset(told.get("avoid", ())))
    if model is None:
        return 0
    print(onnx.printer.to_text(model[0]))
    if reduce and told["status"] in BAD:
        own, level = settings(seed, target)
        small, feeds = shrink(*model, lambda m, f: judge(m, f, own, level).status == told["status"])
        path = keep(small, feeds, f"seed-{seed}", f"{told['status']}: {told['reason']}")
        print(onnx.printer.to_text(small), path, sep="\n")
    return int(told["status"] in BAD)


if __name__ == "__main__":
    sys.exit(main())
