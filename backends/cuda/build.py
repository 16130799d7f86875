"""From emitted text to cubins: Triton ahead of time, in processes and folders of its own, each kernel cached."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from tilewright.backends.base import Binary, Source
from tilewright.backends.cuda import aot_process, toolchain
from tilewright.backends.cuda.launch import LAUNCHES, Launch, from_json
from tilewright.backends.cuda.modules import Module, encode_modules, launches_told
from tilewright.codegen.cache import CompileCache, content_key, default_cache_folder
from tilewright.errors import InternalError
from tilewright.target import Target

#: The member of an artifact's target folder that the executor reads.
MODULES = "modules.bin"
#: Bytes of compiled kernels that are kept; a model has a few megabytes of them.
_KEPT = 512 * 2**20
#: A process of its own, which takes a second to start, pays for this many kernels.
_KERNELS_PER_PROCESS = 4
#: Seconds of the wall clock after which a kernel is given up; the longest of the zoo takes ten on an idle processor.
_KERNEL_SECONDS = 900.0
#: In the folder that is kept of a failure: a command that shows it again, where Triton is installed.
_REPRODUCE = 'cd "$(dirname "$0")" && python -s aot_process.py job.json\n'


def compile_source(source: Source, target: Target) -> Mapping[str, Module]:
    """Compile every kernel of ``source``; the result is by kernel name, in the order of the launches.

    Raises ``UsageError`` when Triton is missing and ``InternalError``, with the folder kept, when it refuses the text.
    """
    toolchain.triton_version()
    launches = from_json(source.files[LAUNCHES])
    kept = CompileCache(default_cache_folder() / "cuda", _KEPT)
    keys = {x.kernel: _key(source.files[f"{x.kernel}.py"], x, target) for x in launches}
    found = {x.kernel: data for x in launches if (data := kept.get(keys[x.kernel])) is not None}
    missing = [x for x in launches if x.kernel not in found]
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = max(1, min(cpus, -(-len(missing) // _KERNELS_PER_PROCESS)))
    with ThreadPoolExecutor(shares) as pool:  # threads that only wait
        parts = [missing[n::shares] for n in range(shares)]
        for made in pool.map(lambda part: _compile(source, part, target), parts):
            for name, data in made.items():
                kept.put(keys[name], data)
                found[name] = data
    return {x.kernel: _module(x, found[x.kernel]) for x in launches}


def build(source: Source, target: Target) -> Binary:
    """The artifact's members for ``target``: the modules, and for people ``launches.json``."""
    compiled = compile_source(source, target)
    portable = bool(target.extra.get("ptx_portable", False))
    modules = [m if portable else m.without_ptx() for m in compiled.values()]
    facts = {str(told["kernel"]): told for told in launches_told(compiled)}
    entries = [entry | facts[entry["kernel"]] for entry in json.loads(source.files[LAUNCHES])]
    members = {
        MODULES: encode_modules(modules, _arch(target)),
        LAUNCHES: (json.dumps(entries, indent=1) + "\n").encode(),
    }
    return Binary(members, {"triton": toolchain.triton_version(), "ptxas": toolchain.ptxas_version()})


def ptx_parameters(ptx: str) -> tuple[str, ...]:
    """Types of the parameters of the one entry of a PTX text, in order."""
    match = re.search(r"\.visible \.entry [^(]*\(([^)]*)\)", ptx)
    if match is None:
        raise InternalError("PTX without an entry")
    return tuple(re.findall(r"\.param \.(\w+)", match[1]))


def _arch(target: Target) -> int:
    return int(target.arch.removeprefix("sm_"))


def _key(text: str, launch: Launch, target: Target) -> str:
    """Everything that decides the machine code."""
    told = json.dumps([_job_of(launch), _arch(target), target.extra["ptx_version"]], sort_keys=True)
    return content_key([text, told, toolchain.triton_version(), toolchain.ptxas_version(), _process_text()])


@cache
def _process_text() -> str:
    return Path(aot_process.__file__).read_text(encoding="utf-8")


def _job_of(x: Launch) -> dict[str, Any]:
    return {
        "file": f"{x.kernel}.py",
        "entry": x.entry,
        "signature": {a.name: a.type for a in x.arguments},
        "divisors": [a.divisor for a in x.arguments],
        "num_warps": x.num_warps,
        "num_stages": x.num_stages,
    }


def _compile(source: Source, launches: Sequence[Launch], target: Target) -> dict[str, bytes]:
    """What the cache keeps of each kernel: a line of JSON, the cubin, the PTX."""
    if not launches:
        return {}
    scratch = Path(tempfile.mkdtemp(prefix="tilewright-cuda-"))
    keep = False
    try:
        for x in launches:
            (scratch / f"{x.kernel}.py").write_text(source.files[f"{x.kernel}.py"], encoding="utf-8")
        job = scratch / "job.json"
        kernels = [_job_of(x) for x in launches]
        job.write_text(
            json.dumps({"arch": _arch(target), "ptx_version": target.extra["ptx_version"], "kernels": kernels})
        )
        said = _run_triton(job, toolchain.environment(scratch), _KERNEL_SECONDS * len(launches))
        if said is not None:
            keep = True
            (scratch / "stderr.txt").write_text(said, encoding="utf-8")
            shutil.copy(aot_process.__file__, scratch)
            (scratch / "reproduce.sh").write_text(_REPRODUCE, encoding="utf-8")
            raise InternalError(f"Triton refused emitted code for {target.spelling}:\n{said}", str(scratch))
        return {x.kernel: _read(scratch / x.entry) for x in launches}
    finally:
        if not keep:
            shutil.rmtree(scratch, ignore_errors=True)


def _run_triton(job: Path, env: Mapping[str, str], seconds: float) -> str | None:
    """Run the process over a job; what it said when it failed, or took longer. It leaves no assembler behind."""
    # -s: no user site-packages; the child imports Triton only.
    command = [sys.executable, "-s", aot_process.__file__, str(job)]
    errors = job.parent / "errors"
    with errors.open("wb") as stream:
        child = subprocess.Popen(command, env=env, stdout=stream, stderr=stream, start_new_session=True)
        try:
            status = child.wait(seconds)
        except subprocess.TimeoutExpired:
            return f"it did not end within {seconds:.0f} seconds"
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
    return errors.read_text(encoding="utf-8", errors="replace") if status else None


def _read(stem: Path) -> bytes:
    facts = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
    cubin = stem.with_suffix(".cubin").read_bytes()
    line = json.dumps(facts | {"cubin": len(cubin)}, sort_keys=True).encode()
    return line + b"\n" + cubin + stem.with_suffix(".ptx").read_bytes()


def _module(launch: Launch, data: bytes) -> Module:
    line, _, code = data.partition(b"\n")
    facts = json.loads(line)
    ptx = code[facts["cubin"] :].decode()
    scratch = (facts["global_scratch"], facts["profile_scratch"])
    return Module(
        launch, code[: facts["cubin"]], ptx, facts["shared"], ptx_parameters(ptx), scratch, facts["num_warps"]
    )
