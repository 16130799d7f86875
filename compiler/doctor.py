"""What this machine has and lacks: versions, toolchain, CPU level, optional engines, devices."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tilewright import __version__
from tilewright.errors import InternalError, UsageError

State = Literal["ok", "missing", "broken"]

NEEDED = ("onnx", "onnx-ir", "onnxscript", "ml-dtypes", "networkx")
OPTIONAL = {"onnxruntime": "the reference of --verify, a peer of bench", "openvino": "a peer of bench"}
OPTIONAL |= {"torch": "models that are torch modules", "triton": "CUDA kernels"}
OPTIONAL |= {"jaxlib": "programs for XLA and TPUs", "libtpu": "compiles them for TPUs, with no TPU"}
GOOGLE = "0x1ae0"  # PCI vendor (pci-ids.ucw.cz); TPUs are processing accelerators, class 12
#: Where CANN is installed for all users: CANN 8 and earlier, CANN 9.
CANN = ("/usr/local/Ascend/ascend-toolkit/latest", "/usr/local/Ascend/cann")
PATIENCE = 60  # seconds that a driver may take to answer
PROBE = "double probe(double x) { return 2 * x; }\n"
#: Features of the x86-64 levels (psABI), as the kernel spells them in /proc/cpuinfo; each level has those before it.
LEVELS = {
    "x86-64-v2": "cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3",
    "x86-64-v3": "avx avx2 bmi1 bmi2 f16c fma abm movbe",
    "x86-64-v4": "avx512f avx512bw avx512cd avx512dq avx512vl",
    "x86-64-v4+vnni": "avx512_vnni",
}


@dataclass(frozen=True, slots=True)
class Check:
    """One line. ``required``: compiling does not work without it."""

    name: str
    state: State
    detail: str
    required: bool = False


def diagnose() -> Iterator[Check]:
    """Every check, as it is done."""
    yield Check("tilewright", "ok", f"{__version__} from {Path(__file__).parent}")
    yield Check("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    yield _package("numpy", required=True)
    for name in NEEDED:
        yield _package(name, required=True)
    yield _toolchain()
    yield Check("cpu", "ok", f"{cpu_level()}, {_cpus()} CPUs for this process")
    for name, use in OPTIONAL.items():
        yield _package(name, use=use)
    yield _nvidia()
    yield _tpu()
    yield _ascend()


def _package(name: str, required: bool = False, use: str = "") -> Check:
    suffix = f" ({use})" if use else ""
    try:
        return Check(name, "ok", importlib.metadata.version(name) + suffix, required)
    except importlib.metadata.PackageNotFoundError:
        return Check(name, "missing", f"pip install {name}{suffix}", required)


def _toolchain() -> Check:
    """Compile and link a small library with the pinned compiler, past every cache."""
    from tilewright.codegen.toolchain import default_toolchain

    try:
        with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
            toolchain = default_toolchain(cache_folder=Path(folder))
            start = time.perf_counter()
            toolchain.link({"probe": toolchain.compile(PROBE, ("-O2", "-fPIC"), name="probe")}, ())
            seconds = time.perf_counter() - start
    except UsageError as error:
        return Check("toolchain", "missing", error.fix, required=True)
    except InternalError as error:
        return Check("toolchain", "broken", str(error), required=True)
    return Check("toolchain", "ok", f"{toolchain.version} built a library in {seconds:.1f} s", required=True)


def cpu_level() -> str:
    """The highest x86-64 level of this CPU, or its architecture elsewhere."""
    machine = platform.machine()
    path = Path("/proc/cpuinfo")
    if machine != "x86_64" or not path.exists():
        return machine
    lines = path.read_text(encoding="utf-8").splitlines()
    flags = set(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())
    level = "x86-64"
    for name, needed in LEVELS.items():
        if not set(needed.split()) <= flags:
            break
        level = name
    return level


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _nvidia() -> Check:
    """The driver and its GPUs, asked in a process apart: a broken driver may hang or abort. None is needed to
    compile."""
    try:
        child = [sys.executable, "-m", "tilewright.runtime.devices.driver"]
        done = subprocess.run(child, capture_output=True, text=True, check=False, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return Check("nvidia", "broken", f"the NVIDIA driver did not answer within {PATIENCE} s")
    if done.returncode:
        told = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return Check("nvidia", "broken", f"asking the NVIDIA driver failed: {told}")
    found = json.loads(done.stdout)
    return Check("nvidia", found["state"], found["detail"])


def _tpu() -> Check:
    """Whether the system shows a TPU: ``/dev/accel*``, or ``/dev/vfio/*`` with Google's PCI vendor. None is needed to
    compile."""
    found = [str(p) for p in sorted(Path("/dev").glob("accel[0-9]*"))]
    for vendor in sorted(Path("/sys/bus/pci/devices").glob("*/vendor")):
        try:
            shown = vendor.read_text(encoding="ascii").strip() == GOOGLE and (vendor.parent / "iommu_group").exists()
        except OSError:
            continue
        if shown and (vendor.parent / "class").read_text(encoding="ascii").startswith("0x12"):
            found.append(vendor.parent.name)
    return Check("tpu", "ok", ", ".join(found)) if found else Check("tpu", "missing", "no TPU on this machine")


def _ascend() -> Check:
    """Whether the system shows Ascend NPUs (``/dev/davinci*``) and has CANN's runtime library. Neither is needed to
    compile; the exported project needs both."""
    devices = [p.name for p in sorted(Path("/dev").glob("davinci[0-9]*"))]
    folders = [os.environ.get(name, "") for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")]
    folders += [*os.environ.get("LD_LIBRARY_PATH", "").split(":"), *CANN]
    places = [Path(f) / inner / "libascendcl.so" for f in folders if f for inner in ("", "lib64")]
    library = next((str(p) for p in places if p.is_file()), "")
    if library:
        shown = ", ".join(devices) or "no NPU on this machine"
        return Check("ascend", "ok" if devices else "missing", f"{library}; {shown}")
    told = f"{', '.join(devices)}, but " if devices else ""
    return Check("ascend", "missing", f"{told}no CANN toolkit (libascendcl.so); only exported projects need it")
