"""ONNX's backend suite through the compiler and what runs an artifact: how many of its tests pass, and why not.

    python scripts/conformance.py                 the 1,176 plain tests
    python scripts/conformance.py --all           all tests of the suite
    python scripts/conformance.py -k resize       those whose name contains a text
    python scripts/conformance.py --missing       those that did not pass before
    python scripts/conformance.py --symbolic      with every size of the inputs left open
    python scripts/conformance.py --target xla:cpu               through programs of XLA, with nothing on the host
    python scripts/conformance.py --target xla:cpu --constants   inputs that determine shapes are constants
    python scripts/conformance.py --target cuda:sm_80            to machine code without a GPU, nothing on the host
    python scripts/conformance.py --target cuda:sm_80 --interpret        numbers of a sample, in Triton's interpreter
    python scripts/conformance.py --target cuda:sm_80 --interpret --all  of every plain test
    python scripts/conformance.py --update        also write tests/conformance/passed.md and passed.txt

Every input of a test's graph is an input of the artifact. The processes that compile and run import neither onnxruntime
nor onnx.reference. A test in ``passed.txt`` that does not pass any more makes the command fail. Each mode has its own
list of what passes.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.conformance.cases import FOLDER, cases, plain_names  # noqa: E402

#: What passed in each mode, a name a line; beside each the last result as a table, under the same name.
LISTS = {
    "": "passed.txt",
    "symbolic": "passed-symbolic.txt",
    "xla:cpu": "passed-xla.txt",
    "xla:cpu constants": "passed-xla-constants.txt",
    "cuda:sm_80": "passed-cuda.txt",
    "cuda:sm_80 constants": "passed-cuda-constants.txt",
    "cuda:sm_80 interpret": "passed-cuda-interpreted.txt",
}
TITLES = {
    "": "",
    "symbolic": ", sizes of inputs left open",
    "xla:cpu": ", programs of XLA, nothing on the host",
    "xla:cpu constants": ", programs of XLA, inputs that determine shapes are constants, nothing on the host",
    "cuda:sm_80": ", kernels for cuda:sm_80, nothing on the host; compiled, not run",
    "cuda:sm_80 constants": ", kernels for cuda:sm_80, inputs that determine shapes are constants, nothing on the "
    "host; compiled, not run",
    "cuda:sm_80 interpret": ", kernels for cuda:sm_80 in Triton's interpreter, nothing on the host",
}

#: Seconds that one test may take.
LIMIT = 300


def main() -> int:
    """Exit status: 1 when a test that once passed does not."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--all", action="store_true", help="all tests of the suite, not the plain ones only")
    parser.add_argument("--symbolic", action="store_true", help="leave every size of the inputs open")
    parser.add_argument(
        "--target", choices=["cpu:native", "xla:cpu", "cuda:sm_80"], default="cpu:native", help="compile for it"
    )
    parser.add_argument("--constants", action="store_true", help="inputs that determine shapes are constants")
    parser.add_argument("--interpret", action="store_true", help="numbers of kernels for GPUs, in Triton's interpreter")
    parser.add_argument("--missing", action="store_true", help="only tests that did not pass before")
    parser.add_argument("-k", default="", help="only tests whose name contains this")
    parser.add_argument("-n", type=int, default=min(os.cpu_count() or 1, 4), help="processes")
    parser.add_argument("--update", action="store_true", help="write the results and the list of what passes")
    parser.add_argument("-v", action="store_true", help="also list what passes")
    options = parser.parse_args()
    known = cases()
    plain = plain_names()
    words = ([] if options.target == "cpu:native" else [options.target]) + ["constants"] * options.constants
    mode = " ".join(words + ["symbolic"] * options.symbolic + ["interpret"] * options.interpret)
    if mode not in LISTS:
        parser.error("there is no list of what passes this way")
    before = ROOT / "tests" / "conformance" / LISTS[mode]
    skipped = _names(before) if options.missing else set()
    every = (
        (plain if options.all or options.k else sample(plain)) if options.interpret else known if options.all else plain
    )
    names = [n for n in every if options.k in n and n not in skipped]
    started = time.perf_counter()
    if options.target.startswith("cuda") and not options.interpret:
        outcomes = compile_all(names, options.target, options.constants)
    else:
        module = "interpret" if options.interpret else "execute"
        outcomes = run(names, options.n, [f"tests.conformance.{module}", options.target, *mode.split()[-1:]])
    seconds = time.perf_counter() - started
    for name in names:
        outcome = outcomes[name]
        if options.v or outcome["status"] != "passed":
            print(f"{outcome['status']:12}{name}  {outcome['reason']}")
    print(summary(outcomes, plain, seconds))
    lost = sorted(n for n in _names(before) & set(names) if outcomes[n]["status"] != "passed")
    for name in lost:
        print(f"LOST  {name}: it passed before")
    if options.update and not options.k and not options.missing:
        _write(before, outcomes, plain, seconds, lost, TITLES[mode])
    return 1 if lost else 0


def sample(names: list[str]) -> list[str]:
    """The first test of those whose names begin with the same word: one of every operator, more or less."""
    groups: dict[str, str] = {}
    for name in names:
        groups.setdefault(name.rpartition("/")[2].split("_")[1], name)
    return list(groups.values())


def compile_all(names: list[str], target: str, constants: bool) -> dict[str, dict[str, Any]]:
    """The outcome of every test, as far as that goes without a GPU: its plan, its device code, and its machine code."""
    from tests.conformance import device

    return {o.name: asdict(o) for o in device.compile_cases(names, target, constants, _progress)}


def _progress(done: int, all_: int) -> None:
    print(f"\r{done}/{all_}", end="" if done < all_ else "\n", file=sys.stderr, flush=True)


def run(names: list[str], processes: int, words: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The outcome of every test, by workers: modules with these arguments. One that dies or takes too long costs its
    test."""
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in names:
        waiting.put(name)
    outcomes: dict[str, dict[str, Any]] = {}
    threads = [threading.Thread(target=_feed, args=(waiting, outcomes, words)) for _ in range(processes)]
    for thread in threads:
        thread.start()
    while any(t.is_alive() for t in threads):
        threads[0].join(10) if threads[0].is_alive() else time.sleep(1)
        print(f"\r{len(outcomes)}/{len(names)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return outcomes


def _feed(waiting: queue.SimpleQueue[str], outcomes: dict[str, dict[str, Any]], words: Sequence[str]) -> None:
    worker: subprocess.Popen[str] | None = None
    while True:
        try:
            name = waiting.get_nowait()
        except queue.Empty:
            break
        if worker is None:
            worker = _worker(words)
        assert worker.stdin is not None and worker.stdout is not None
        timer = threading.Timer(LIMIT, worker.kill)
        timer.start()
        try:
            worker.stdin.write(f"{name}\n")
            worker.stdin.flush()
            line = worker.stdout.readline()
        except BrokenPipeError:
            line = ""
        late = not timer.is_alive()
        timer.cancel()
        if line:
            outcomes[name] = json.loads(line)
            continue
        code = worker.wait()
        reason = f"longer than {LIMIT} s" if late else f"the process died with {code}"
        outcomes[name] = {"name": name, "status": "failed", "reason": reason, "cpu": 0.0, "constants": ()}
        worker = None
    if worker is not None and worker.stdin is not None:
        worker.stdin.close()
        worker.wait()


def _worker(words: Sequence[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-m", *words]
    return subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def summary(outcomes: dict[str, dict[str, Any]], plain: list[str], seconds: float) -> str:
    """Counts of the plain tests and of all that ran, and processor seconds of a compilation."""
    lines = []
    for title, chosen in (("plain tests", set(plain)), ("all that ran", set(outcomes))):
        counts = collections.Counter(o["status"] for n, o in outcomes.items() if n in chosen)
        rest = ", ".join(f"{c} {s}" for s, c in sorted(counts.items()) if s != "passed")
        lines.append(f"{title}: {counts['passed']} of {sum(counts.values())} pass" + (f" ({rest})" if rest else ""))
    times = sorted(o["cpu"] for n, o in outcomes.items() if o["cpu"])
    if times:
        middle, late = times[len(times) // 2], times[len(times) * 9 // 10]
        lines.append(f"processor seconds of compiling one: median {middle:.2f}, nine in ten below {late:.2f}")
    lines.append(f"{seconds:.0f} s")
    return "\n".join(lines)


def _names(path: Path) -> set[str]:
    return set(path.read_text().split()) if path.exists() else set()


def _write(
    before: Path,
    outcomes: dict[str, dict[str, Any]],
    plain: list[str],
    seconds: float,
    lost: list[str],
    title: str,
) -> None:
    passed = {n for n, o in outcomes.items() if o["status"] == "passed"} | (_names(before) - set(outcomes))
    before.write_text("\n".join(sorted(passed | set(lost))) + "\n")
    text = [f"# ONNX's backend suite, {FOLDER.name.rpartition('-')[2]}{title}", ""]
    text += [f"`python scripts/conformance.py {' '.join(sys.argv[1:])}` wrote this.", ""]
    text += [f"- {line}" for line in summary(outcomes, plain, seconds).splitlines()] + [""]
    for kind, chosen in (("Plain tests", True), ("Others", False)):
        missed = [(n, o) for n, o in sorted(outcomes.items()) if (n in plain) == chosen and o["status"] != "passed"]
        text += [f"## {kind} that do not pass", "", "| test | | reason |", "|---|---|---|"]
        text += [f"| {n} | {o['status']} | {o['reason'].replace('|', '/')} |" for n, o in missed] + [""]
    told = [(n, o) for n, o in sorted(outcomes.items()) if o["constants"] and o["status"] == "passed"]
    if told:
        text += ["## Inputs that were constants, of tests that pass", "", "| test | inputs |", "|---|---|"]
        text += [f"| {n} | {', '.join(o['constants'])} |" for n, o in told] + [""]
    before.with_suffix(".md").write_text("\n".join(text))


if __name__ == "__main__":
    sys.exit(main())
