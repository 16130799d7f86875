"""A plan as text, for people: ``tilewright inspect`` and golden files."""

from __future__ import annotations

from collections.abc import Iterable

from tilewright.plan.memory import live_intervals
from tilewright.plan.plan import (
    Allocate,
    Assert,
    Buffer,
    Call,
    Copy,
    EntryPoint,
    Free,
    HostLaunch,
    Instruction,
    Jump,
    Launch,
    LoadScalar,
    Plan,
    Return,
    SetScalar,
    Signature,
)


def print_plan(plan: Plan) -> str:
    """The text of ``plan``: constants, then each entry point with its buffers and code."""
    hosted = f", {len(plan.host_kernels)} on the host" if plan.host_kernels else ""
    lines = [f"plan: {len(plan.kernels)} kernels{hosted}, {len(plan.constants)} constants"]
    lines += [f"  constant {c.name}: {c.dtype}[{_join(c.shape)}]" for c in plan.constants]
    for entry in plan.entries:
        lines += _entry_lines(plan, entry)
    return "\n".join(lines) + "\n"


def _join(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def _entry_lines(plan: Plan, entry: EntryPoint) -> list[str]:
    lines = [f"entry {entry.name}({_signature(entry.inputs)}) -> ({_signature(entry.outputs)})"]
    for name, known in entry.symbols:
        multiple = f", a multiple of {known.divisor}" if known.divisor > 1 else ""
        lines.append(f"  {name} in {known.lo}..{known.hi}{multiple}")
    for i, o in entry.states:
        lines.append(f"  state: output {entry.outputs[o].name} is input {entry.inputs[i].name}")
    live = live_intervals(entry)
    for i, b in enumerate(entry.buffers):
        alive = f"  live {live[i][0]}..{live[i][1]}" if i in live else ""
        lines.append(f"  b{i} = {_buffer(plan, entry, b)}{alive}")
    lines += [f"  {i:3}: {_instruction(plan, step)}" for i, step in enumerate(entry.code)]
    return lines


def _signature(signatures: tuple[Signature, ...]) -> str:
    return ", ".join(f"{s.name}: {s.dtype}[{_join(s.shape)}]" for s in signatures)


def _buffer(plan: Plan, entry: EntryPoint, b: Buffer) -> str:
    if b.base is not None:
        return f"b{b.base}[{b.offset} : {b.offset} + {b.size}]"
    names = {
        "input": [s.name for s in entry.inputs],
        "output": [s.name for s in entry.outputs],
        "constant": [c.name for c in plan.constants],
        "state": [entry.inputs[i].name for i, _ in entry.states],
    }
    what = b.kind if b.kind == "temporary" else f"{b.kind} {names[b.kind][b.index]}"
    return f"{what}, {b.size} bytes{', on the host' if b.space == 'host' else ''}"


def _instruction(plan: Plan, step: Instruction) -> str:
    match step:
        case Launch(kernel, buffers, dims, grid, scratch):
            extra = f" scratch {scratch}" if scratch != 0 else ""
            return f"{plan.kernels[kernel]}({_refs(buffers)}; {_join(dims)}) grid {grid}{extra}"
        case HostLaunch(kernel, buffers, dims, grid, scratch):
            extra = f" scratch {scratch}" if scratch != 0 else ""
            return f"on the host: {plan.host_kernels[kernel]}({_refs(buffers)}; {_join(dims)}) grid {grid}{extra}"
        case Copy(source, target, size):
            return f"copy {size} bytes b{source} -> b{target}"
        case LoadScalar(name, buffer, dtype, element):
            return f"{name} = {dtype} b{buffer}[{element}]"
        case Assert(expr, lo, hi, message):
            return f"assert {lo} <= {expr} <= {hi}, {message!r}"
        case Allocate(buffer):
            return f"allocate b{buffer}"
        case Free(buffer):
            return f"free b{buffer}"
        case Jump(to, condition):
            return f"jump {to}" if condition is None else f"jump {to} if {condition}"
        case SetScalar(name, expr):
            return f"{name} = {expr}"
        case Call(entry, inputs, outputs, symbols):
            return f"{_refs(outputs)} = call {plan.entries[entry].name}({_refs(inputs)}; {_join(symbols)})"
        case Return():
            return "return"


def _refs(buffers: tuple[int, ...]) -> str:
    return _join(f"b{b}" for b in buffers)
