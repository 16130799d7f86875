"""Programs compiled by libtpu, in processes of their own, with no TPU: an executable and what libtpu says of it.

Results are kept in a cache by content: the program, the devices, and the versions of libtpu and jaxlib.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tilewright.codegen.cache import CompileCache, content_key, default_cache_folder
from tilewright.errors import InternalError, ResourceError

#: Seconds after which libtpu counts as hung: a large model at a large batch takes a few minutes on two busy cores.
LIMIT_S = 1800
#: Bytes of executables that are kept; one takes a few megabytes.
CACHE_LIMIT = 2**30
#: Memory that has to be free for two compilers at once: one of BERT-base in f32 took 0.9 GB, large batches take more.
ROOM_FOR_TWO = 6 * 2**30

_PROCESS = Path(__file__).with_name("aot_process.py")
#: Variables that change what libtpu does; its process gets none of them.
_MEDDLING = re.compile(r"(TPU|LIBTPU|XLA|JAX|TF|PJRT|MLIR)_")
#: No metadata server is asked what this machine is (it waits for minutes where there is none), two may run at once, and
#: no log files are written.
_OWN = {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_SKIP_MDS_QUERY": "1", "TPU_LOG_DIR": "disabled", "JAX_PLATFORMS": "cpu"}
_NEEDS = re.compile(
    r"\(([\d.]+[KMGT]?)\) exceeds available HBM \(([\d.]+[KMGT]?)\)|Used ([\d.]+[KMGT]?) of ([\d.]+[KMGT]?) hbm"
)
_REFUSED = 3


@dataclass(frozen=True, slots=True)
class Job:
    """A program to compile.

    Attributes:
        name: for messages.
        module: portable bytes of static shapes.
        topology: as libtpu spells it: ``v5e:2x2``.
        bounds: chips of one host along each axis.
        config: libtpu's name for how the cores of a chip work together.
        devices: how many of the topology's devices the program runs on.
    """

    name: str
    module: bytes
    topology: str
    bounds: tuple[int, ...]
    config: str
    devices: int = 1

    def text(self) -> str:
        """``job.json`` of :mod:`tilewright.backends.xla.aot_process`."""
        told = {k: v for k, v in asdict(self).items() if k not in ("name", "module")}
        return json.dumps(told | {"shardy": self.devices > 1}, sort_keys=True)


@dataclass(frozen=True, slots=True)
class Compiled:
    """What libtpu made of a job: the executable, what :func:`aot_process.facts_of` and its caller tell, and whether it
    was in the cache."""

    executable: bytes
    facts: Mapping[str, Any]
    cached: bool


def installed() -> dict[str, str]:
    """Versions of jaxlib and libtpu; without one of them it is missing here."""
    found = {}
    for name in ("jaxlib", "libtpu"):
        try:
            if importlib.util.find_spec(name) is not None:
                found[name] = version(name)
        except (PackageNotFoundError, ValueError):
            continue
    return found


def default_cache() -> CompileCache:
    """Where executables are kept."""
    return CompileCache(default_cache_folder() / "ahead", CACHE_LIMIT)


def compile_jobs(jobs: Sequence[Job], cache: CompileCache | None = None, limit_s: float = LIMIT_S) -> list[Compiled]:
    """Compile every job, two at a time where there is memory for two.

    Raises:
        ResourceError: a program does not fit into the device's memory (``hbm-exceeded``), or compiling it into this
            machine's (``ahead-memory``).
        InternalError: libtpu refused a program, crashed or hung; ``bundle`` is a folder that shows it again.
    """
    cache = cache or default_cache()
    for job in jobs:
        if where := dynamic_dimension(job.module):
            message = f"{job.name}: a dynamic dimension ({where}) would make libtpu abort"
            raise InternalError(message, bundle=_bundle(job, message))
    workers = 2 if len(jobs) > 1 and available_memory() >= ROOM_FOR_TWO else 1
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(_compiled, job, cache, limit_s) for job in jobs]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def run_process(job: Job, limit_s: float = LIMIT_S) -> Compiled:
    """Compile a job in a process, whatever is in its module. Errors as of :func:`compile_jobs`."""
    with tempfile.TemporaryDirectory(prefix="tilewright-ahead-") as scratch:
        folder = Path(scratch)
        _write_job(folder, job)
        words = [sys.executable, "-P", str(_PROCESS), str(folder)]
        try:
            done = subprocess.run(
                words,
                env=environment(),
                capture_output=True,
                text=True,
                errors="replace",
                stdin=subprocess.DEVNULL,
                timeout=limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            message = f"{job.name}: libtpu took over {limit_s:g} s for {job.topology}"
            stderr = error.stderr.decode(errors="replace") if isinstance(error.stderr, bytes) else error.stderr
            raise InternalError(message, bundle=_bundle(job, stderr or "")) from error
        if done.returncode == 0:
            facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
            return Compiled((folder / "executable").read_bytes(), facts, False)
        words_of_libtpu = ""
        if done.returncode == _REFUSED and (folder / "error.json").exists():
            words_of_libtpu = json.loads((folder / "error.json").read_text(encoding="utf-8"))["message"]
    raise _error(job, done, words_of_libtpu)


def environment() -> dict[str, str]:
    """Variables of libtpu's process: nothing inherited that changes what it makes."""
    return {k: v for k, v in os.environ.items() if not _MEDDLING.match(k)} | _OWN


def dynamic_dimension(module: bytes) -> str:
    """The type of a value of portable bytes that has no static shape, or empty."""
    from tilewright.backends.xla.dialect import bindings, context, stablehlo

    mlir, found = bindings(), ""

    def visit(operation: Any) -> Any:
        nonlocal found
        values = [*operation.results, *(a for region in operation.regions for b in region for a in b.arguments)]
        for value in values:
            if isinstance(value.type, mlir.UnrankedTensorType) or (
                isinstance(value.type, mlir.RankedTensorType) and not value.type.has_static_shape
            ):
                found = str(value.type)
                return mlir.WalkResult.INTERRUPT
        return mlir.WalkResult.ADVANCE

    with context():
        stablehlo().deserialize_portable_artifact(context(), module).operation.walk(visit)
    return found


def available_memory() -> int:
    """Bytes that this machine has left; 0 where it does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), 0)


def _compiled(job: Job, cache: CompileCache, limit_s: float) -> Compiled:
    versions = installed()
    process = _PROCESS.read_bytes()
    key = content_key(["ahead", job.text(), job.module, process, versions["jaxlib"], versions["libtpu"]])
    found = _unpacked(cache.get(key))
    if found is None:
        found = run_process(job, limit_s)
        facts = json.dumps(found.facts).encode()
        cache.put(key, len(facts).to_bytes(8, "little") + facts + found.executable)
    return found


def _unpacked(payload: bytes | None) -> Compiled | None:
    if payload is None:
        return None
    end = 8 + int.from_bytes(payload[:8], "little")
    try:
        facts = json.loads(payload[8:end])
    except ValueError:
        return None
    return Compiled(payload[end:], facts, True) if isinstance(facts, dict) and len(payload) > end else None


def _error(job: Job, done: subprocess.CompletedProcess[str], message: str) -> Exception:
    if message.startswith("RESOURCE_EXHAUSTED") and "hbm" in message.lower():
        sizes = next(([s for s in m.groups() if s] for m in _NEEDS.finditer(message)), None)
        cause = message.partition("\n")[0]
        if sizes:
            cause = f"it needs {_told(sizes[0])} of device memory, and there are {_told(sizes[1])}"
        return ResourceError(
            "hbm-exceeded",
            where=f"program {job.name} on {job.topology}",
            cause=cause,
            fix="use a smaller batch or bucket (--input-shape, --bucket), narrower types (--precision bf16, int8), or "
            "more devices (--mesh)",
        )
    if done.returncode == -signal.SIGKILL:
        return ResourceError(
            "ahead-memory",
            where=f"program {job.name} on {job.topology}",
            cause="the compiler was killed, as a system does that runs out of memory",
            fix="free memory, use a smaller batch or bucket, or leave executables out (--no-ahead)",
        )
    bundle = _bundle(job, done.stderr + message)
    if done.returncode < 0:
        name = next((s.name for s in signal.Signals if s == -done.returncode), f"signal {-done.returncode}")
        return InternalError(f"{job.name}: libtpu crashed ({name}) for {job.topology}{_first(done.stderr)}", bundle)
    words = message or done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
    return InternalError(f"{job.name}: libtpu refused the program for {job.topology}: {words}", bundle)


def _told(size: str) -> str:
    """``15.75G`` of libtpu, which means powers of two."""
    return f"{size[:-1]} {size[-1]}iB" if size[-1:].isalpha() else f"{size} B"


def _first(stderr: str) -> str:
    """The line of a fatal check, where there is one."""
    found = re.search(r"^F\d{4} .*?\] (.*)$", stderr, re.MULTILINE)
    return f": {found[1].strip()}" if found else ""


def _write_job(folder: Path, job: Job) -> None:
    (folder / "job.json").write_text(job.text(), encoding="utf-8")
    (folder / "module.vhlo").write_bytes(job.module)


def _bundle(job: Job, stderr: str) -> str:
    """A folder with all that shows a failure again: it needs jaxlib and libtpu, and nothing of this project."""
    folder = Path(tempfile.mkdtemp(prefix="tilewright-ahead-error-"))
    _write_job(folder, job)
    shutil.copy(_PROCESS, folder / _PROCESS.name)
    (folder / "module.mlir").write_text(_text(job.module), encoding="utf-8")
    (folder / "stderr.txt").write_text(stderr, encoding="utf-8")
    variables = " ".join(f"{k}={v}" for k, v in _OWN.items())
    command = (
        f'#!/bin/sh\ncd "$(dirname "$0")" && exec env {variables} {shlex.quote(sys.executable)} -P aot_process.py .\n'
    )
    (folder / "command.sh").write_text(command, encoding="utf-8")
    (folder / "command.sh").chmod(0o755)
    versions = installed() | {"python": platform.python_version(), "platform": platform.platform()}
    (folder / "versions.json").write_text(json.dumps(versions, indent=1), encoding="utf-8")
    return str(folder)


def _text(module: bytes) -> str:
    """The program as text, or why there is none: a bundle is written whatever the bytes are."""
    from tilewright.backends.xla.dialect import context, stablehlo

    try:
        with context():
            return str(stablehlo().deserialize_portable_artifact(context(), module))
    except Exception as error:
        return f"// not readable: {error}\n"
