"""What a bundle does when it is run: ``python3 bundle.pyz [--out FILE] [--seconds N]``, on a machine with a GPU.

It needs the standard library, NumPy and NVIDIA's driver; no CUDA toolkit, Triton or Tilewright. Cases come in the order
of what they are worth, each with a share of the time; a line of JSON is written as soon as a case is done.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from tilewright.backends.cuda.timing.driver import Driver, DriverError, NoDevice
from tilewright.backends.cuda.timing.measure import Timing, measure
from tilewright.backends.cuda.timing.modules import decode_modules

#: No device, as of ``tilewright`` itself; 1 where a kernel computed something else than its reference.
NO_DEVICE = 8


def main(arguments: Sequence[str] | None = None) -> int:
    """Time the cases of the bundle that this is part of."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("timings.jsonl"), help="where lines are added")
    parser.add_argument("--seconds", type=float, default=300.0, help="for all cases together")
    parser.add_argument("--library", default="libcuda.so.1", help="the driver library")
    parser.add_argument("--bundle", type=Path, default=Path(sys.argv[0]), help="the bundle, where it is not this file")
    given = parser.parse_args(arguments)
    try:
        driver = Driver(given.library)
    except NoDevice as reason:
        print(f"no NVIDIA GPU: {reason}; nothing was timed", file=sys.stderr)
        return NO_DEVICE
    with driver, zipfile.ZipFile(given.bundle) as bundle, given.out.open("a", encoding="utf-8") as out:
        told = json.loads(bundle.read("cases.json"))
        arch, codes = decode_modules(bundle.read("modules.bin"))
        if arch != driver.arch:
            print(f"the bundle is for sm_{arch}, {driver.name} is sm_{driver.arch}; nothing was timed", file=sys.stderr)
            return NO_DEVICE
        done = wrong = 0
        for line in timed(driver, told, codes, given.seconds):
            done += bool(line["record"])
            wrong += "error" in line or any("wrong" in c for c in line["candidates"])
            write(out, line)
        print(f"{done} of {len(told['cases'])} cases timed on {driver.name}, {wrong} with something wrong: {given.out}")
    return int(wrong > 0)


def timed(device: Any, told: Mapping[str, Any], codes: Sequence[Any], seconds: float) -> Iterator[dict[str, Any]]:
    """A line for each case that there was time for: the record of the fastest, if any, and all candidates."""
    start = time.monotonic()
    cases = sorted(told["cases"], key=lambda c: -c["worth"])
    left = sum(c["worth"] ** 0.5 for c in cases)
    for case in cases:
        now = time.monotonic()
        if now > start + seconds:
            break
        share = case["worth"] ** 0.5 / left if left else 1.0
        left -= case["worth"] ** 0.5
        try:
            timings = measure(device, case, codes, now + share * (start + seconds - now))
            yield line_of(case, timings, told, device)
        except DriverError as error:
            yield {"name": case["name"], "record": None, "candidates": [], "error": str(error)}


def line_of(case: Mapping[str, Any], timings: Sequence[Timing], told: Mapping[str, Any], device: Any) -> dict[str, Any]:
    """What is written of a case; ``record`` is as :mod:`tilewright.tuning.records` reads it."""
    right = [t for t in timings if t.median < float("inf")]
    best = min(right, key=lambda t: t.median, default=None)
    record = best and {
        "target": told["target"],
        "tools": told["tools"],
        "identity": case["identity"],
        "schedule": best.schedule,
        "seconds": best.median,
        "spread": best.spread,
        "heuristic_seconds": timings[0].median if timings[0] in right else 0.0,
        "candidates": len(right),
        "device": device.name,
        "driver": device.version,
        "date": str(datetime.now(UTC).date()),
    }
    return {
        "name": case["name"],
        "sizes": case["sizes"],
        "least_seconds": case["least_seconds"],
        "record": record,
        "candidates": [t.told() for t in timings],
    }


def write(out: TextIO, line: Mapping[str, Any]) -> None:
    """Add a line, on the disk at once, and say it in short."""
    out.write(json.dumps(line, sort_keys=True) + "\n")
    out.flush()
    record = line["record"]
    wrong = sum("wrong" in c for c in line["candidates"])
    if record is None:
        print(f"{line['name']}: nothing right ({wrong} candidates wrong) {line.get('error', '')}", flush=True)
        return
    gain, right = record["heuristic_seconds"] / record["seconds"], record["candidates"]
    print(
        f"{line['name']}: {record['seconds'] * 1e6:.1f} µs (± {record['spread']:.0%}), the heuristic's first "
        f"{gain:.2f} ×, {line['least_seconds'] * 1e6:.1f} µs by the roofline; {right} right, {wrong} wrong",
        flush=True,
    )
