"""Where Triton and NVIDIA's tools are, found without importing Triton, and the environment that they run in.

Everything comes from Triton's wheel (``pip install triton==3.9.*``): the compiler, ``ptxas``, ``cuobjdump`` and
``nvdisasm``. One assembler serves every architecture: ptxas 12.9, whose cubins every driver of CUDA 12 reads
(minor-version compatibility); Triton's own choice from sm_90 on is 13.x, which needs a driver of that generation.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import subprocess
from functools import lru_cache
from pathlib import Path

from tilewright.errors import UsageError

#: Versions that the emitted text and the assertions on its machine code were tried with.
TRITON = "3.9"

#: Prefixes and names of variables that change what Triton or LLVM produce; the toolchain's process gets none of them.
_MEDDLING = re.compile(
    r"(TRITON|MLIR|LLVM|PTXAS|NVPTX|CUDA)_|USE_IR_LOC$|DISABLE_PTXAS_OPT$|AMDGCN_|PYTHON(PATH|HOME|STARTUP)$"
)


def is_installed() -> bool:
    """Whether Triton can be imported here."""
    return importlib.util.find_spec("triton") is not None


def triton_version() -> str:
    """The installed version. Raises ``UsageError`` where there is none or not the one this backend is made for."""
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError as error:
        raise UsageError(
            "toolchain-missing",
            where="target cuda",
            cause="Triton, which compiles the kernels of NVIDIA GPUs, is not installed",
            fix=f"pip install 'triton=={TRITON}.*' (no GPU is needed), or leave the cuda targets out",
        ) from error
    if not version.startswith(TRITON + "."):
        raise UsageError(
            "toolchain-version",
            where="target cuda",
            cause=f"Triton {version} is installed; kernels are emitted for {TRITON}",
            fix=f"pip install 'triton=={TRITON}.*'",
        )
    return version


@lru_cache
def tool(name: str) -> Path:
    """The path of ``ptxas``, ``cuobjdump`` or ``nvdisasm`` in Triton's wheel."""
    triton_version()
    spec = importlib.util.find_spec("triton")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "backends" / "nvidia" / "bin" / name


@lru_cache
def ptxas_version() -> str:
    """``12.9.86`` and the like, as the assembler reports it."""
    text = subprocess.run([tool("ptxas"), "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"V(\d+\.\d+\.\d+)", text)
    return match[1] if match else "unknown"


def environment(scratch: Path) -> dict[str, str]:
    """Variables for a process of the toolchain: nothing inherited that changes code, every cache below ``scratch``."""
    kept = {k: v for k, v in os.environ.items() if not _MEDDLING.match(k)}
    own = {"TRITON_HOME": scratch, "TRITON_CACHE_DIR": scratch / "cache", "TMPDIR": scratch}
    pinned = {"TRITON_DISABLE_LINE_INFO": "1", "TRITON_PTXAS_PATH": tool("ptxas"), "PYTHONHASHSEED": "0"}
    blackwell = {"TRITON_PTXAS_BLACKWELL_PATH": tool("ptxas")}
    return kept | {k: str(v) for k, v in (own | pinned | blackwell).items()}
