"""How long the C program over PJRT takes from its start to the first result: compiling, and from a kept executable.

    python scripts/bench_pjrt_host.py --model bert-base.onnx                a table on the screen
    python scripts/bench_pjrt_host.py --model bert-base.onnx --update       also writes models/results/pjrt-host.md

Every start is a process of its own; a round is a start with an empty folder of executables and three with what that
kept. The file is in the page cache. Seconds are those that the program tells, from the beginning of
``main``; what the system needs to start and end a process that does nothing is told beside them.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import tilewright as tw
from tilewright.codegen.toolchain import default_toolchain
from tilewright.package.native import build_pjrt_program

RESULT = Path(__file__).resolve().parent.parent / "models" / "results" / "pjrt-host.md"
#: Second starts of a round.
AGAIN = 3
PARTS = ("artifact", "plugin", "client", "check", "compile", "load", "weights")
WHAT = {
    "artifact": "map the file, hash manifest and program",
    "plugin": "load the plugin's library",
    "client": "start its client",
    "check": "wait for the CRC32C of the weights (runs beside the rest)",
    "compile": "StableHLO to an executable",
    "load": "read, hash and load the executable",
    "weights": "weights as buffers of the device (in place on a CPU)",
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="an ONNX file with inputs of two dimensions")
    parser.add_argument("--artifact", type=Path, help="what was compiled of it for xla:cpu, else it is compiled")
    parser.add_argument("--plugin", type=Path, default=_plugin(), help="a PJRT plugin [of the package xla_cpu_pjrt]")
    parser.add_argument("--shape", default="1,128", help="of every input")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--about", default="", help="a sentence about the machine, for the result")
    parser.add_argument("--update", action="store_true", help=f"write {RESULT.name}")
    options = parser.parse_args()
    if options.plugin is None:
        parser.error("no PJRT plugin: name one with --plugin")
    with tempfile.TemporaryDirectory() as scratch:
        text = _measure(options, Path(scratch))
    print(text)
    if options.update:
        RESULT.write_text(text, encoding="utf-8")


def _plugin() -> Path | None:
    found = importlib.util.find_spec("xla_plugins")
    for folder in found.submodule_search_locations or () if found else ():
        path = Path(folder) / "xla_cpu_pjrt" / "xla_cpu_pjrt.so"
        if path.exists():
            return path
    return None


def _measure(options: argparse.Namespace, folder: Path) -> str:
    shape = tuple(map(int, options.shape.split(",")))
    inputs = [i.name for i in onnx.load(options.model, load_external_data=False).graph.input]
    artifact = options.artifact or folder / "model.tw"
    if options.artifact is None:
        tw.compile(options.model, targets=("xla:cpu",), input_shapes=dict.fromkeys(inputs, shape), verify=False).save(
            artifact
        )
    program = folder / "pjrt_run"
    program.write_bytes(build_pjrt_program(default_toolchain(), f"{platform.machine()}-linux-gnu.2.17"))
    program.chmod(0o755)
    command = [program, artifact, "--plugin", options.plugin, "--cache", folder / "kept", "--output-dir", folder]
    for name in inputs:
        np.save(folder / f"{name}-in.npy", np.ones(shape, np.int64))
        command += ["--input", f"{name}=@{folder}/{name}-in.npy"]
    words = list(map(str, command))
    _start(words, "--allow-jit")  # the page cache
    first, second, nothing = [], [], []
    for _ in range(options.rounds):
        shutil.rmtree(folder / "kept")
        first.append(_start(words, "--allow-jit"))
        second += [_start(words) for _ in range(AGAIN)]
        begun = time.perf_counter()
        subprocess.run([program], capture_output=True, check=False)
        nothing.append({"ready": 1e3 * (time.perf_counter() - begun)})
    return _report(options, artifact.stat().st_size, first, second, _median(nothing, "ready"))


def _start(words: list[str], *more: str) -> dict[str, float]:
    """Milliseconds by part, and until ready and until the first result."""
    before = os.times()
    done = subprocess.run([*words, *more], capture_output=True, text=True, check=True)
    after = os.times()
    told = re.search(r"ready after ([\d.]+) ms: (.*)", done.stderr)
    result = re.search(r"first result after ([\d.]+) ms", done.stderr)
    assert told is not None and result is not None
    parts = {name: float(value) for name, value in (part.split(" ") for part in told[2].split(", "))}
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return {**parts, "ready": float(told[1]), "result": float(result[1]), "used": 1e3 * used}


def _median(rows: list[dict[str, float]], name: str) -> float:
    return statistics.median(row[name] for row in rows)


def _report(
    options: argparse.Namespace,
    size: int,
    first: list[dict[str, float]],
    second: list[dict[str, float]],
    nothing: float,
) -> str:
    def row(what: str, name: str) -> str:
        return f"| {what} | {_median(first, name):.1f} | {_median(second, name):.1f} |"

    ready = _median(first, "ready") / _median(second, "ready")
    load = os.getloadavg()[0]
    return "\n".join(
        [
            "# Starts of the C program over PJRT",
            "",
            f"`python scripts/bench_pjrt_host.py --model {options.model.name} --shape {options.shape} --update`: ms,",
            f"medians of {options.rounds} rounds of 1 and {AGAIN}, {os.cpu_count()} cores ({platform.machine()}), load",
            f"average {load:.1f} at the end, plugin `{options.plugin.name}`, artifact {size / 1e6:.0f} MB. No Python",
            "runs in what is measured. Nothing of this was run on a TPU.",
            *([options.about] if options.about else []),
            "",
            "| | first start, compiling | second start, executable kept |",
            "|---|---|---|",
            *(row(f"{name}: {WHAT[name]}", name) for name in PARTS),
            row("**ready**, weights on the device", "ready"),
            row("first result", "result"),
            row("processor time of the whole process", "used"),
            "",
            f"Ready {ready:.1f} times as fast; best second start {min(r['ready'] for r in second):.1f} ms. Starting",
            f"and ending a process that does nothing takes {nothing:.1f} ms beside that. The first run is longer than",
            "later ones: XLA's CPU client packs the weights of its matrix products then.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
