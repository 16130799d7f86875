"""Reading machine code back: the instructions of a cubin and what it uses, through the tools of Triton's wheel."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tilewright.backends.cuda import toolchain


@dataclass(frozen=True, slots=True)
class Resources:
    """What one kernel takes: 32-bit registers of a thread, stack and local bytes of a thread (spills live there),
    static shared bytes of a block."""

    registers: int
    stack: int
    local: int
    shared: int


def disassemble(cubin: bytes) -> str:
    """The SASS text of a cubin."""
    return _cuobjdump(cubin, "-sass")


def opcodes(cubin: bytes) -> Counter[str]:
    """How often each instruction occurs, with its modifiers: ``HMMA.16816.F32``, ``LDG.E.128`` …"""
    # "        /*0040*/    @!P0 LDG.E.128 R4, …": an address, perhaps a predicate, then the instruction.
    lines = re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Za-z0-9_.]*)", disassemble(cubin), re.M)
    return Counter(lines)


def resources(cubin: bytes) -> Resources:
    """Registers, stack, local and static shared memory of the one kernel in a cubin."""
    text = _cuobjdump(cubin, "-res-usage")
    found = dict(re.findall(r"(REG|STACK|LOCAL|SHARED):(\d+)", text))
    return Resources(int(found["REG"]), int(found["STACK"]), int(found["LOCAL"]), int(found["SHARED"]))


def _cuobjdump(cubin: bytes, option: str) -> str:
    with tempfile.TemporaryDirectory(prefix="tilewright-sass-") as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        command = [str(toolchain.tool("cuobjdump")), option, str(file)]
        env = {"PATH": str(toolchain.tool("nvdisasm").parent)}  # cuobjdump starts nvdisasm by name
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
