"""Checks that a plan can be run: what the executor relies on, and what it would refuse. A failure is our own bug."""

from __future__ import annotations

from collections.abc import Iterable

from tilewright.errors import InternalError
from tilewright.ir.symbolic import Expr, Symbol
from tilewright.plan.memory import allocated_buffers, buffers_used, expressions_used, root_of
from tilewright.plan.plan import (
    Allocate,
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
    SetScalar,
    Space,
)

#: Most dimensions of a tensor (``TW_MAX_RANK`` of the C ABI).
MAX_RANK = 16


def local_symbols(entry: EntryPoint) -> list[str]:
    """Names that the program sets while it runs, in the order of the first instruction that does."""
    return list(dict.fromkeys(i.name for i in entry.code if isinstance(i, LoadScalar | SetScalar)))


def verify_plan(plan: Plan) -> None:
    """Raise ``InternalError`` naming entry, buffer or instruction when ``plan`` is malformed."""
    _unique("entry points", (e.name for e in plan.entries))
    _unique("constants", (c.name for c in plan.constants))
    for entry in plan.entries:
        try:
            _EntryCheck(plan, entry).run()
        except _MalformedError as error:
            raise InternalError(f"plan entry {entry.name!r}: {error}") from error


class _MalformedError(Exception):
    pass


def _unique(what: str, names: Iterable[str]) -> None:
    listed = list(names)
    if len(set(listed)) != len(listed):
        raise InternalError(f"plan: {what} with equal names")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise _MalformedError(message)


class _EntryCheck:
    def __init__(self, plan: Plan, entry: EntryPoint):
        self._plan, self._entry = plan, entry
        self._fixed = {name for name, _ in entry.symbols}
        self._known = self._fixed | set(local_symbols(entry))
        self._own = allocated_buffers(entry)

    def run(self) -> None:
        self._symbols()
        self._signatures()
        for i, buffer in enumerate(self._entry.buffers):
            self._buffer(i, buffer)
        for i, instruction in enumerate(self._entry.code):
            try:
                self._instruction(instruction)
            except _MalformedError as error:
                raise _MalformedError(f"instruction {i} ({type(instruction).__name__}): {error}") from error

    def _symbols(self) -> None:
        entry = self._entry
        _require(len(self._fixed) == len(entry.symbols), "dimension symbols with equal names")
        for name, known in entry.symbols:
            _require(known.divisor >= 1 and known.lo <= known.hi, f"bounds of {name} are malformed")
        changed = self._fixed & set(local_symbols(entry))
        _require(not changed, f"dimension symbols are set by the program: {sorted(changed)}")
        shown = {
            a.name for s in entry.inputs for d in s.shape for a in d.atoms if isinstance(a, Symbol) and d == _alone(a)
        }
        called = any(
            isinstance(i, Call) and i.entry == self._plan.entries.index(entry)
            for e in self._plan.entries
            for i in e.code
        )
        missing = self._fixed - shown
        _require(called or not missing, f"no input dimension gives {sorted(missing)}")

    def _signatures(self) -> None:
        entry = self._entry
        for s in entry.inputs + entry.outputs:
            _require(len(s.shape) <= MAX_RANK, f"{s.name!r} has more than {MAX_RANK} dimensions")
        for s in entry.inputs:
            for d in s.shape:
                self._expr(d, self._fixed, f"shape of input {s.name!r}")
        for s in entry.outputs:
            for d in s.shape:
                self._expr(d, self._known, f"shape of output {s.name!r}")
        names = [s.name for s in entry.inputs], [s.name for s in entry.outputs]
        _require(all(len(set(n)) == len(n) for n in names), "inputs or outputs with equal names")
        for i, o in entry.states:
            _require(i < len(entry.inputs) and o < len(entry.outputs), "a state names no input or output")
            same = (entry.inputs[i].dtype, entry.inputs[i].shape) == (entry.outputs[o].dtype, entry.outputs[o].shape)
            _require(same, f"state {entry.inputs[i].name!r} and its output differ in type or shape")
        _require(all(len(set(side)) == len(side) for side in zip(*entry.states, strict=True)), "a state is named twice")

    def _expr(self, expr: Expr, known: set[str], where: str) -> None:
        _require(expr.symbols <= known, f"{where}: {expr} has unknown symbols {sorted(expr.symbols - known)}")

    def _buffer(self, i: int, b: Buffer) -> None:
        entry, where = self._entry, f"buffer {i}"
        self._expr(b.size, self._known, where)
        self._expr(b.offset, self._known, where)
        if b.base is not None:
            _require(0 <= b.base < i, f"{where}: a view comes after its base")
            _require(b.space == entry.buffers[b.base].space, f"{where}: a view lies where its base does")
            return
        counts = {
            "input": len(entry.inputs),
            "output": len(entry.outputs),
            "constant": len(self._plan.constants),
            "state": len(entry.states),
        }
        if b.kind == "temporary":
            _require(
                i in self._own or b.size.symbols <= self._fixed, f"{where}: its size is set at run time: Allocate it"
            )
            return
        _require(0 <= b.index < counts[b.kind], f"{where}: there is no {b.kind} {b.index}")
        _require(b.kind == "output" or b.size.symbols <= self._fixed, f"{where}: its size is set at run time")
        side = {"input": 0, "output": 1}.get(b.kind)
        taken = side is not None and b.index in {pair[side] for pair in entry.states}
        _require(not taken, f"{where}: {b.kind} {b.index} is a state: name it as one")

    def _instruction(self, instruction: Instruction) -> None:
        entry, count = self._entry, len(self._entry.buffers)
        _require(all(0 <= b < count for b in buffers_used(instruction)), "a buffer index is out of range")
        for expr in expressions_used(instruction):
            self._expr(expr, self._known, "operand")
        match instruction:
            case Launch(kernel=kernel):
                _require(0 <= kernel < len(self._plan.kernels), f"there is no kernel {kernel}")
                self._lie(instruction.buffers, "device")
            case HostLaunch(kernel=kernel):
                _require(0 <= kernel < len(self._plan.host_kernels), f"there is no host kernel {kernel}")
                self._lie(instruction.buffers, "host")
            case Copy(target=target):
                self._writable(target)
            case LoadScalar(dtype=dtype):
                _require(dtype.bits >= 8 and not dtype.is_float, f"{dtype} is no whole integer type")
            case Allocate(buffer) | Free(buffer):
                b = entry.buffers[buffer]
                _require(b.kind == "temporary" and b.base is None, "only a temporary that is no view")
            case Jump(to=to):
                _require(0 <= to < len(entry.code), f"there is no instruction {to}")
            case Call():
                self._call(instruction)

    def _lie(self, buffers: Iterable[int], space: Space) -> None:
        for buffer in buffers:
            found = self._entry.buffers[buffer].space
            _require(found == space, f"buffer {buffer} lies on the {found}, the kernel runs on the {space}")

    def _writable(self, buffer: int) -> None:
        kind = self._entry.buffers[root_of(self._entry.buffers, buffer)].kind
        _require(kind not in ("input", "constant"), f"writes to buffer {buffer}, which is an {kind}")

    def _call(self, call: Call) -> None:
        _require(0 <= call.entry < len(self._plan.entries), f"there is no entry point {call.entry}")
        callee = self._plan.entries[call.entry]
        wanted = len(callee.inputs), len(callee.outputs), len(callee.symbols)
        given = len(call.inputs), len(call.outputs), len(call.symbols)
        _require(wanted == given, f"{callee.name!r} takes {wanted} inputs, outputs and symbols, got {given}")
        for buffer in call.outputs:
            self._writable(buffer)


def _alone(atom: Symbol) -> Expr:
    return Expr([(((atom, 1),), 1)])
