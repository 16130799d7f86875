"""The program of one kind of core as a function of Ascend C."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from tilewright.backends.ascend.ascendc.code import Code
from tilewright.backends.ascend.ascendc.names import CPP_TYPES, Names
from tilewright.backends.ascend.ascendc.signature import Argument, Signature, workspace_offsets
from tilewright.backends.ascend.placed.form import (
    Barrier,
    Block,
    Buffer,
    CrossFlag,
    Flag,
    Instruction,
    Let,
    Loop,
    Node,
    Placed,
    Read,
    View,
    counter,
    statements,
)
from tilewright.ir.ranges import Range, bounds, divisor
from tilewright.ir.symbolic import Expr, product, symbol
from tilewright.kernel.schedule import ScheduleError

#: Logical positions of the memories; the unified buffer's depends on what a buffer is for.
_POSITIONS = {"l1": "A1", "l0a": "A2", "l0b": "B2", "l0c": "CO1", "bt": "C2", "fb": "C2PIPE2GM"}


class UnsayableError(ScheduleError):
    """No call of Ascend C does what an instruction says; another schedule may be sayable. Anything else that spelling
    raises is a bug of ours."""


@dataclass(slots=True)
class Program:
    """Spells the statements of one program. ``tensor`` names buffers in C++, ``arguments`` those of the
    kernel; ``given``: variables of the scalar unit."""

    placed: Placed
    body: tuple[Node, ...]
    signature: Signature
    code: Code
    tensor: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)
    given: set[str] = field(default_factory=set)

    def buffer(self, name: str) -> Buffer:
        return self.placed.buffer(name)

    def refuse(self, why: str) -> UnsayableError:
        """The error for what cannot be said in Ascend C."""
        return UnsayableError(self.placed.kernel.name, why)

    # -- accesses ------------------------------------------------------------------------------------------------

    def at(self, access: View | Block, offset: Expr, more: str = "") -> str:
        """The tensor of ``access`` from ``offset`` elements within its slot on, and ``more`` elements further."""
        buffer = self.buffer(access.buffer)
        name = self.tensor[access.buffer]
        terms = []
        if buffer.slots > 1:
            turn = self.code.factor(access.slot % buffer.slots, f"{self._loop_name(buffer)}_slot")
            terms.append(f"{turn} * {buffer.slot_bytes // buffer.element_bytes}")
        if offset != 0:
            hint = f"{self.tensor[access.buffer].removesuffix('_gm')}_at"
            terms.append(self.code.value(offset, hint))
        terms += [more] if more else []
        return f"{name}[{' + '.join(terms)}]" if terms else name

    def _loop_name(self, buffer: Buffer) -> str:
        return self.code.symbols.get(buffer.rotates or "", "slot")

    def rows_of(self, buffer: str) -> str:
        return f"{self.tensor[buffer].removesuffix('_gm')}_rows"

    def columns_of(self, buffer: str) -> str:
        return f"{self.tensor[buffer].removesuffix('_gm')}_columns"

    # -- the function --------------------------------------------------------------------------------------------

    def declare(self) -> None:
        """Cores and groups, tensors, flags of iterations."""
        code, used = self.code, self._used()
        per = self.signature.cores_a_block
        if per > 1:
            code.first(f"const int64_t group = GetBlockIdx() / {per};")
            code.first(f"const int64_t groups = GetBlockNum() / {per};")
            code.first(f"const int64_t sub = GetBlockIdx() % {per};  // which vector core of the group")
        else:
            divided = " / GetSubBlockNum()" if self.signature.kind == "mix" and self._core() == "vector" else ""
            code.first(f"const int64_t group = GetBlockIdx(){divided};")
            code.first("const int64_t groups = GetBlockNum();")
            if "_sub" in self._symbols():
                code.first("const int64_t sub = GetSubBlockIdx();  // which vector core of the group")
        offsets = workspace_offsets(self.placed)
        for b in self.placed.buffers:
            if b.name in used and b.scope == "gm":
                self._declare_global(b, offsets)
        if "fault" in self.arguments and any(isinstance(s, Read) for s in statements(self.body)):
            code.line("GlobalTensor<int32_t> fault_gm;")
            code.line(f"fault_gm.SetGlobalBuffer((__gm__ int32_t*){self.arguments['fault']}, 1);")
        for b in self.placed.buffers:
            if b.name in used and b.scope != "gm":
                self._declare_local(b)
        for name in self._counters(self.body):
            if counter(name) in self._symbols():
                code.line(f"int64_t {code.symbols[counter(name)]} = 0;")
                code.inline_after(counter(name))

    def _declare_global(self, b: Buffer, offsets: Mapping[str, int]) -> None:
        code, cpp, name = self.code, CPP_TYPES[b.dtype], self.tensor[b.name]
        code.line(f"GlobalTensor<{cpp}> {name};")
        size = b.slots * product(b.shape) if b.workspace else product(b.shape)
        where = self.arguments.get(b.name, "")
        if b.workspace:
            at = f"group * {self.signature.workspace}" + (f" + {offsets[b.name]}" if offsets[b.name] else "")
            where = f"({self.arguments['workspace']} + {at})"
        code.line(f"{name}.SetGlobalBuffer((__gm__ {cpp}*){where}, {code.spelled(size)});")

    def _declare_local(self, b: Buffer) -> None:
        elements = b.slot_bytes // b.element_bytes
        count = f"{b.slots} * {elements}" if b.slots > 1 else f"{elements}"
        shape = " x ".join(map(str, b.shape))
        layout = f" {b.layout}" if b.layout != "ND" else ""
        position = _POSITIONS.get(b.scope) or self._position(b.name)
        self.code.line(
            f"LocalTensor<{CPP_TYPES[b.dtype]}> {self.tensor[b.name]}(TPosition::{position}, {b.address:#x}, {count});"
            f"  // {shape}{layout}"
        )

    def _position(self, name: str) -> str:
        """A buffer that transfers fill or drain has the position that DataCopyPad wants."""
        for s in statements(self.body):
            if isinstance(s, Instruction):
                if s.op == "copy_in" and s.dst.buffer == name:
                    return "VECIN"
                if s.op in ("copy_out", "ub2l1") and s.reads[0].buffer == name:
                    return "VECOUT"
        return "VECCALC"

    def _core(self) -> str:
        return next((s.core for s in statements(self.body)), "vector")

    def _used(self) -> set[str]:
        names: set[str] = set()
        for s in statements(self.body):
            if isinstance(s, Instruction):
                names |= {a.buffer for a in (*s.reads, *s.writes)}
            elif isinstance(s, Read):
                names.add(s.source.buffer)
        return names

    def _counters(self, body: tuple[Node, ...]) -> list[str]:
        names: list[str] = []
        for node in body:
            if isinstance(node, Loop):
                names += [n for n in (node.var, *self._counters(node.body)) if n not in names]
        return names

    def _symbols(self) -> set[str]:
        found: set[str] = set()

        def visit(body: tuple[Node, ...]) -> None:
            for node in body:
                if isinstance(node, Loop):
                    visit(node.body)
                elif isinstance(node, Flag):
                    found.update(node.slot.symbols if len(node.events) > 1 else ())
                elif isinstance(node, Instruction):
                    for access in (*node.reads, *node.writes):
                        found.update(_access_symbols(access, self.buffer(access.buffer).slots))
                    for s in node.srcs:
                        found.update(getattr(getattr(s, "value", None), "symbols", ()))
                    found.update(node.init.symbols if node.init is not None else ())
                elif isinstance(node, Read):
                    found.update(_access_symbols(node.source, 1), node.limit.symbols)
                    found.update(*(e.symbols for e in (node.wrap, node.add) if e is not None))
                elif isinstance(node, Let):
                    found.update(node.value.symbols)

        visit(self.body)
        return found | ({"_sub"} if any("_sub" in e.symbols for e in _bounds_of_loops(self.body)) else set())

    # -- statements ----------------------------------------------------------------------------------------------

    def statements(self, body: tuple[Node, ...]) -> None:
        """Spell ``body``."""
        from tilewright.backends.ascend.ascendc.instruction import spell

        for node in body:
            match node:
                case Loop():
                    self._loop(node)
                case Instruction():
                    spell(self, node)
                case Flag():
                    self._flag(node)
                case CrossFlag():
                    self._cross(node)
                case Barrier():
                    self.code.line(f"PipeBarrier<PIPE_{node.pipe}>();{self._why(node.edge)}")
                case Read():
                    self._read(node)
                case Let():
                    self._let(node)

    def _loop(self, node: Loop) -> None:
        code, name = self.code, self.code.symbols[node.var]
        lo, hi = code.value(node.lo, f"{name}_begin"), code.value(node.hi, f"{name}_end")
        step = code.value(node.step, f"{name}_step")
        advance = f"++{name}" if node.step == 1 else f"{name} += {step}"
        low, high = bounds(node.lo, code.ranges)[0], bounds(node.hi, code.ranges)[1]
        common = math.gcd(divisor(node.lo, code.ranges), divisor(node.step, code.ranges)) or 1
        code.ranges[node.var] = Range(low, max(low, high - 1), common)
        turn = counter(node.var)
        code.loose -= {node.var, turn}
        counted = turn in self._symbols()
        tail = f"++{code.symbols[turn]};" if counted else ""
        with code.loop(f"for (int64_t {name} = {lo}; {name} < {hi}; {advance})", {node.var, turn}, tail):
            code.open_loop(node.var, node.hi)
            self.statements(node.body)
            code.left.pop(node.hi - symbol(node.var), None)
        code.inline_after(turn)

    def _flag(self, node: Flag) -> None:
        first = node.events[0]
        if len(node.events) == 1:
            event = f"EVENT_ID{first}"
        elif node.slot.is_constant:
            event = f"EVENT_ID{node.events[node.slot.value % len(node.events)]}"
        else:
            slot = self.code.value(node.slot % len(node.events), f"{self._turn_name(node.slot)}_slot")
            event = self._event(slot, node.events)
        verb = "SetFlag" if node.action == "set" else "WaitFlag"
        self.code.line(f"{verb}<HardEvent::{node.src}_{node.dst}>({event});{self._why(node.edge)}")

    def _turn_name(self, slot: Expr) -> str:
        for name in sorted(slot.symbols):
            if name.startswith("_n_"):
                return self.code.symbols.get(name.removeprefix("_n_"), "turn")
        return "turn"

    def _event(self, slot: str, events: tuple[int, ...]) -> str:
        if events == tuple(range(events[0], events[0] + len(events))):
            return f"EVENT_ID{events[0]} + {slot}" if events[0] else slot
        text = f"EVENT_ID{events[-1]}"
        for n in range(len(events) - 2, -1, -1):
            text = f"{slot} == {n} ? EVENT_ID{events[n]} : {text}"
        return text

    def _cross(self, node: CrossFlag) -> None:
        if node.action == "set":
            self.code.line(f"CrossCoreSetFlag<0x2, PIPE_{node.pipe}>({node.flag});{self._why(node.edge)}")
        else:
            self.code.line(f"CrossCoreWaitFlag({node.flag});{self._why(node.edge)}")

    def _why(self, edge: int) -> str:
        for e in self.placed.edges:
            if e.number == edge:
                return f"  // {e.reason}"
        return ""

    def _let(self, node: Let) -> None:
        """A variable of the function: declared in front of the loops, set at the beginning of a loop's body."""
        code, name = self.code, self.code.symbols[node.var]
        outside = len(code.levels) == 1
        code.levels[-1].binds.add(node.var)
        code.first(f"{'int64_t ' if outside else ''}{name} = {code.spelled(node.value)};")

    def _read(self, node: Read) -> None:
        code = self.code
        name = code.symbols[node.var]
        cpp = CPP_TYPES[self.buffer(node.source.buffer).dtype]
        source = self.tensor[node.source.buffer]
        code.line(f"int64_t {name} = {source}.GetValue({code.value(node.source.offset, f'{source}_at')});  // {cpp}")
        if node.swap is not None:
            given, taken = node.swap
            code.line(f"{name} = {name} == {given} ? {taken} : {name};")
        if node.add is not None:
            added = code.value(node.add, "add")  # unsigned: an index may be any number
            code.line(f"{name} = static_cast<int64_t>(static_cast<uint64_t>({name}) + {added});")
        if node.wrap is not None:
            code.line(f"{name} += {name} < 0 ? {code.value(node.wrap, 'wrap')} : 0;  // counted from the end")
        with code.block(f"if ({name} < 0 || {name} >= {code.value(node.limit, 'limit')})"):
            code.line("fault_gm.SetValue(0, 1);  // the run is refused afterwards")
            split = int(self.placed.target.extra["architecture"]) == 2201
            where = ", DcciDst::CACHELINE_OUT" if split else ""
            code.line(f"DataCacheCleanAndInvalid<int32_t, CacheLine::SINGLE_CACHE_LINE{where}>(fault_gm);")
            code.line(f"{name} = {node.bad};")
        code.ranges[node.var] = Range(node.bad, max(0, bounds(node.limit, code.ranges)[1] - 1))
        code.inline_after(node.var)


def new_program(
    placed: Placed, body: tuple[Node, ...], signature: Signature, arguments: Mapping[Argument, str], names: Names
) -> Program:
    """A program ready to be spelled, with names for every symbol and buffer."""
    symbols = {"_group": "group", "_groups": "groups", "_sub": "sub"}
    ranges = dict(placed.kernel.facts)
    ranges |= {"_group": Range(0), "_groups": Range(1), "_sub": Range(0, 1)}
    given = {a.name: text for a, text in arguments.items() if a.kind != "dimension"}
    symbols |= {a.name: text for a, text in arguments.items() if a.kind == "dimension"}
    program = Program(placed, body, signature, Code(names, symbols, ranges), arguments=given)

    def visit(nodes: tuple[Node, ...]) -> None:
        for node in nodes:
            if isinstance(node, Loop):
                if node.var not in symbols:
                    symbols[node.var] = "block" if node.var == "_block" else names.give(node.var)
                    symbols[counter(node.var)] = names.give(f"{symbols[node.var]}_turn")
                    ranges[counter(node.var)] = Range(0)
                visit(node.body)
            elif isinstance(node, Read):
                symbols[node.var] = names.give(node.var)
                ranges[node.var] = Range(node.bad)
            elif isinstance(node, Let) and node.var not in symbols:
                symbols[node.var] = names.give(node.var)
                ranges[node.var] = Range(0, max(0, bounds(node.limit, ranges)[1] - 1))
                program.given.add(node.var)

    visit(body)
    for b in placed.buffers:
        program.tensor[b.name] = names.give(f"{b.name}_gm" if b.scope == "gm" else b.name)
    return program


def _access_symbols(access: View | Block, slots: int) -> set[str]:
    found = set(access.slot.symbols) if slots > 1 else set()
    if isinstance(access, Block):
        return found.union(*(e.symbols for e in (access.row, access.column, access.rows, access.columns)))
    return found.union(access.offset.symbols, *(n.symbols | s.symbols for n, s in access.dims))


def _bounds_of_loops(body: tuple[Node, ...]) -> list[Expr]:
    result: list[Expr] = []
    for node in body:
        if isinstance(node, Loop):
            result += [node.lo, node.hi, node.step, *_bounds_of_loops(node.body)]
    return result
