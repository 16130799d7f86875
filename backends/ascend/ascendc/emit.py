"""Placed kernels as Ascend C: explicit addresses and flags, one function for each kind of core, no queues.

The style is the "static tensor programming" of the Ascend C guide (CANN 8.3 and newer): tensors at fixed addresses,
``SetFlag``/``WaitFlag`` by hand, ``InitSocState`` first and a barrier of all pipes last. The same functions serve two
ways of launching: ``asc`` sources (CANN 9: ``k<<<blocks, nullptr, stream>>>(…)``) and the older one, whose build makes
a function for ``ACLRT_LAUNCH_KERNEL``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tilewright.backends.ascend.ascendc.code import folded
from tilewright.backends.ascend.ascendc.names import Names
from tilewright.backends.ascend.ascendc.program import new_program
from tilewright.backends.ascend.ascendc.signature import Argument, Signature, signature
from tilewright.backends.ascend.placed.form import Core, Node, Placed, program_of
from tilewright.kernel.print import print_kernel

Form = Literal["asc", "launch"]
#: The header that every source includes, by its name in a project.
HEADER = "tile_math.h"

_TASK = {"mix": "KERNEL_TYPE_MIX_AIC_1_2", "cube": "KERNEL_TYPE_AIC_ONLY", "vector": "KERNEL_TYPE_AIV_ONLY"}
_WHAT = {
    "cube": "What the cube core of a group does.",
    "vector": "What each vector core of a group does.",
    "fused": "What a core does.",
}
_SPACE = {"mix": "__mix__(1, 2)", "cube": "__cube__", "vector": "__vector__", "fused": "__aicore__"}


@dataclass(frozen=True, slots=True)
class Sources:
    """Generated text by file name, and how each kernel is launched, by kernel name."""

    files: Mapping[str, str]
    signatures: Mapping[str, Signature]


@dataclass(frozen=True, slots=True)
class Spelling:
    """What a kernel does in Ascend C, whatever it is called and however it is launched: the names of its arguments,
    and the lines of the function of each kind of core."""

    signature: Signature
    arguments: Mapping[Argument, str]
    functions: Mapping[str, tuple[str, ...]]


def spelled(placed: Placed, taken: Collection[str] = ()) -> Spelling:
    """The statements of ``placed`` in Ascend C; no argument is called as one of ``taken``. Raises
    :class:`UnsayableError` for what cannot be said there."""
    sig = signature(placed)
    names = Names(taken)
    arguments = {a: names.give(a.name) if a.kind in ("tensor", "dimension") else a.name for a in sig.arguments}
    functions: dict[str, tuple[str, ...]] = {}
    for core, body in _programs(placed, sig).items():
        program = new_program(placed, body, sig, arguments, Names(arguments.values()))
        program.declare()
        program.statements(body)
        functions[core] = tuple(program.code.text())
    return Spelling(sig, arguments, functions)


def emit(kernels: Sequence[Placed], form: Form = "asc", done: Mapping[str, Spelling] | None = None) -> Sources:
    """Sources of ``kernels``, a file each under the kernel's name, and the header they share. ``done``: what is spelled
    already, by name. Raises like :func:`spelled`."""
    files: dict[str, str] = {}
    for placed in kernels:
        name = placed.kernel.name
        files |= emit_kernel(placed, name, form, (done or {}).get(name))
    return Sources(files, {placed.kernel.name: signature(placed) for placed in kernels})


def emit_kernel(placed: Placed, symbol: str, form: Form = "asc", done: Spelling | None = None) -> dict[str, str]:
    """The source of one kernel, called ``symbol`` (a C++ identifier), and the header it includes. Raises like
    :func:`spelled`."""
    suffix = "asc" if form == "asc" else "cpp"
    header = (Path(__file__).parent / HEADER).read_text(encoding="utf-8")
    return {HEADER: header, f"{symbol}.{suffix}": kernel_source(placed, symbol, form, done)}


def kernel_source(placed: Placed, symbol: str, form: Form = "asc", done: Spelling | None = None) -> str:
    """The source of one kernel. Raises like :func:`spelled`."""
    name = Names().give(symbol)
    own = (name, *(f"{name}_{core}" for core in _WHAT))
    said = done if done is not None and not set(own) & set(done.arguments.values()) else spelled(placed, own)
    lines = [*_heading(placed), f'#include "{HEADER}"', "", "using namespace AscendC;", ""]
    for core, body in said.functions.items():
        head = f"__aicore__ inline void {name}_{core}({_parameters(said.arguments)})"
        lines += [f"// {_WHAT[core]}", *folded(head, ""), "{", *body, "}", ""]
    lines += _entry(form, said.signature, said.arguments, name, list(said.functions))
    return "\n".join(lines) + "\n"


def _programs(placed: Placed, sig: Signature) -> dict[str, tuple[Node, ...]]:
    if sig.kind == "fused":
        return {"fused": placed.body}
    return {core: program_of(placed.body, core) for core in placed.cores}


def _heading(placed: Placed) -> list[str]:
    target = placed.target
    lines = [f"// {placed.kernel.name} for {target.spelling} (dav-{target.extra['architecture']}). Computes:", "//"]
    lines += [f"//     {line}".rstrip() for line in print_kernel(placed.kernel).splitlines()]
    lines += ["//", f"// {placed.blocks} blocks, which groups of cores take in turn."]
    return lines


def _parameters(arguments: Mapping[Argument, str]) -> str:
    return ", ".join(f"{'int64_t' if a.kind == 'dimension' else 'GM_ADDR'} {text}" for a, text in arguments.items())


def _entry(
    form: Form, sig: Signature, arguments: Mapping[Argument, str], name: str, cores: Sequence[Core | str]
) -> list[str]:
    passed = ", ".join(arguments.values())
    qualifiers = f"__global__ {_SPACE[sig.kind]}" if form == "asc" else 'extern "C" __global__ __aicore__'
    lines = [*folded(f"{qualifiers} void {name}({_parameters(arguments)})", ""), "{"]
    if form == "launch" and sig.kind in _TASK:
        lines.append(f"    KERNEL_TASK_TYPE_DEFAULT({_TASK[sig.kind]});")
    lines.append("    InitSocState();")
    if sig.kind == "mix":
        for core, guard in (("cube", "ASCEND_IS_AIC"), ("vector", "ASCEND_IS_AIV")):
            if core in cores:
                lines += [f"    if {guard} {{", *folded(f"{name}_{core}({passed});", " " * 8), "    }"]
    else:
        lines.append(f"    {name}_{cores[0]}({passed});")
    lines += ["    PipeBarrier<PIPE_ALL>();", "}"]
    return lines
