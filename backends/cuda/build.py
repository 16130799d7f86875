"""From emitted text to cubins: Triton ahead of time, in a process and folders of its own."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tilewright.backends.base import Binary, Source
from tilewright.backends.cuda import aot_process, toolchain
from tilewright.backends.cuda.launch import LAUNCHES, Launch, from_json
from tilewright.errors import InternalError
from tilewright.target import Target


@dataclass(frozen=True, slots=True)
class Compiled:
    """One kernel's machine code.

    Attributes:
        shared: bytes of dynamic shared memory that a launch asks for.
        parameters: PTX types (``u64``, ``u32`` …) of everything a launch passes, scratch pointers included.
        scratch: bytes a program needs behind the global and the profile scratch pointer (0: pass null).
    """

    launch: Launch
    cubin: bytes
    ptx: str
    shared: int
    parameters: tuple[str, ...]
    scratch: tuple[int, int]


def compile_source(source: Source, target: Target) -> Mapping[str, Compiled]:
    """Compile every kernel of ``source``; the result is by kernel name.

    Raises ``UsageError`` when Triton is missing and ``InternalError``, with the folder kept, when it refuses the text.
    """
    launches = from_json(source.files[LAUNCHES])
    scratch = Path(tempfile.mkdtemp(prefix="tilewright-cuda-"))
    keep = False
    try:
        job = _write_job(scratch, source, launches, target)
        # -s: no user site-packages; the child imports Triton only.
        command = [sys.executable, "-s", aot_process.__file__, str(job)]
        run = subprocess.run(command, env=toolchain.environment(scratch), capture_output=True, text=True, check=False)
        if run.returncode:
            keep = True
            (scratch / "stderr.txt").write_text(run.stderr, encoding="utf-8")
            raise InternalError(f"Triton refused emitted code for {target.spelling}:\n{run.stderr}", str(scratch))
        return {x.kernel: _read(scratch, x) for x in launches}
    finally:
        if not keep:
            shutil.rmtree(scratch, ignore_errors=True)


def build(source: Source, target: Target) -> Binary:
    """The artifact's members for ``target``: a cubin and its PTX per kernel, and ``launches.json``."""
    compiled = compile_source(source, target)
    members: dict[str, bytes] = {}
    for name, c in compiled.items():
        members[f"{name}.cubin"] = c.cubin
        members[f"{name}.ptx"] = c.ptx.encode()
    facts = {
        n: {"shared": c.shared, "parameters": c.parameters, "scratch": c.scratch} for n, c in sorted(compiled.items())
    }
    entries = [entry | facts[entry["kernel"]] for entry in json.loads(source.files[LAUNCHES])]
    members[LAUNCHES] = (json.dumps(entries, indent=1) + "\n").encode()
    return Binary(members, {"triton": toolchain.triton_version(), "ptxas": toolchain.ptxas_version()})


def ptx_parameters(ptx: str) -> tuple[str, ...]:
    """Types of the parameters of the one entry of a PTX text, in order."""
    match = re.search(r"\.visible \.entry [^(]*\(([^)]*)\)", ptx)
    if match is None:
        raise InternalError("PTX without an entry")
    return tuple(re.findall(r"\.param \.(\w+)", match[1]))


def _write_job(folder: Path, source: Source, launches: tuple[Launch, ...], target: Target) -> Path:
    for name, text in source.files.items():
        (folder / name).write_text(text, encoding="utf-8")
    kernels = [
        {
            "file": f"{x.kernel}.py",
            "entry": x.entry,
            "signature": {a.name: a.type for a in x.arguments},
            "divisors": [a.divisor for a in x.arguments],
            "num_warps": x.num_warps,
            "num_stages": x.num_stages,
        }
        for x in launches
    ]
    arch = int(target.arch.removeprefix("sm_"))
    job = folder / "job.json"
    job.write_text(json.dumps({"arch": arch, "ptx_version": target.extra["ptx_version"], "kernels": kernels}))
    return job


def _read(folder: Path, launch: Launch) -> Compiled:
    stem = folder / launch.entry
    facts = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
    ptx = stem.with_suffix(".ptx").read_text(encoding="utf-8")
    scratch = (facts["global_scratch"], facts["profile_scratch"])
    return Compiled(launch, stem.with_suffix(".cubin").read_bytes(), ptx, facts["shared"], ptx_parameters(ptx), scratch)
