"""From steps to a plan: which buffer each value is, which constants are packed how, what is launched in which order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir
from tilewright.errors import CompileError
from tilewright.ir.facts import facts
from tilewright.ir.graph import is_constant, type_of
from tilewright.ir.late import late_symbols
from tilewright.ir.ranges import Range
from tilewright.ir.symbolic import Expr, ceildiv
from tilewright.ir.types import TensorType
from tilewright.kernel.schedule import Pack
from tilewright.plan.late import LateSymbols, with_allocations
from tilewright.plan.plan import (
    Buffer,
    BufferKind,
    Constant,
    Copy,
    EntryPoint,
    HostLaunch,
    Instruction,
    Launch,
    Plan,
    Return,
    Signature,
    Space,
)
from tilewright.plan.programs import Programs


@dataclass(frozen=True, slots=True)
class KernelLaunch:
    """One launch: the kernel's index among those of its space, its integers, grid and scratch, and the layout of each
    packed constant."""

    kernel: int
    name: str
    values: tuple[ir.Value, ...]
    dims: tuple[Expr, ...]
    grid: Expr
    scratch: Expr
    packs: Mapping[int, Pack]  # by position among ``values``
    updates: tuple[tuple[int, int], ...] = ()  # positions: an output, and the input that it is the new contents of
    space: Space = "device"
    outputs: int = 1  # the last of ``values`` that it writes


@dataclass(frozen=True, slots=True)
class Alias:
    """``result`` is the memory of ``source``."""

    source: ir.Value
    result: ir.Value


@dataclass(frozen=True, slots=True)
class Size:
    """Symbol ``name`` becomes element ``element`` of an integer value."""

    name: str
    value: ir.Value
    element: int


@dataclass(frozen=True, slots=True)
class EntrySteps:
    """What one entry point runs. ``states`` are pairs of positions, an input and the output that is its new value;
    ``apart`` says that the target has memory of its own."""

    name: str
    model: ir.Model
    steps: Sequence[KernelLaunch | Alias | Size]
    states: tuple[tuple[int, int], ...] = ()
    apart: bool = False


@dataclass(frozen=True, slots=True)
class PackedConstant:
    """A constant of the plan, and where its contents come from."""

    constant: Constant
    value: ir.Value
    pack: Pack | None


@dataclass(frozen=True, slots=True)
class Built:
    """A plan (or the programs of a graph target) and the source of each of its constants, in the plan's order."""

    plan: Plan | Programs
    constants: tuple[PackedConstant, ...]


def byte_size(t: TensorType) -> Expr:
    """Bytes of a row-major tensor; elements of less than 8 bits share bytes."""
    return ceildiv(t.elements * t.dtype.bits, 8)


def build_plan(
    entries: Sequence[EntrySteps],
    kernels: Sequence[str],
    names: Mapping[ir.Value, str],
    host_kernels: Sequence[str] = (),
) -> Built:
    """The plan of one target. ``names`` are those of constants among the weights, where they differ from their own."""
    table = _Constants(names)
    points = tuple(_entry_point(entry, table) for entry in entries)
    plan = Plan(points, tuple(c.constant for c in table.constants), tuple(kernels), tuple(host_kernels))
    return Built(plan, tuple(table.constants))


def _entry_point(entry: EntrySteps, constants: _Constants) -> EntryPoint:
    model = entry.model
    builder = _Builder(entry, constants)
    late = LateSymbols(model, _sizes_used(entry))
    code: list[Instruction] = late.after(model.graph.inputs, builder.whole)
    for step in entry.steps:
        match step:
            case KernelLaunch():
                needed = [*step.dims, step.grid, step.scratch, *(s for v in step.values for s in type_of(v).shape)]
                late.require(needed, step.name)
                code += builder.before(step)
                buffers = tuple(builder.argument(v, step.packs.get(i), step.space) for i, v in enumerate(step.values))
                launch = Launch if step.space == "device" else HostLaunch
                code.append(launch(step.kernel, buffers, step.dims, step.grid, step.scratch))
                code += late.after(step.values, builder.whole)
            case Alias(result=result):
                code += late.after([result], builder.whole)
            case Size(name=name, value=value, element=element):
                code += late.read(name, value, element, builder.whole)
    late.require_all()
    code = [*code, *builder.copies, *builder.updates]
    return EntryPoint(
        name=entry.name,
        inputs=tuple(_signature(v) for v in model.graph.inputs),
        outputs=tuple(_signature(v) for v in model.graph.outputs),
        states=entry.states,
        symbols=_symbols(model),
        buffers=tuple(builder.buffers),
        code=(*with_allocations(code, builder.buffers, late.given), Return()),
    )


def _symbols_of(value: ir.Value) -> frozenset[str]:
    return frozenset[str]().union(*(s.symbols for s in type_of(value).shape))


def _sizes_used(entry: EntrySteps) -> list[Expr]:
    """Every size and integer that the program of an entry point needs."""
    launches = [s for s in entry.steps if isinstance(s, KernelLaunch)]
    values = [*entry.model.graph.outputs, *(v for step in launches for v in step.values)]
    sizes = [size for v in values for size in type_of(v).shape]
    return [*sizes, *(e for step in launches for e in (*step.dims, step.grid, step.scratch))]


def _root(value: ir.Value, sources: Mapping[ir.Value, ir.Value]) -> ir.Value:
    """The value whose memory ``value`` is."""
    while value in sources:
        value = sources[value]
    return value


def _signature(value: ir.Value) -> Signature:
    t = type_of(value)
    return Signature(str(value.name), t.dtype, t.shape)


def _symbols(model: ir.Model) -> tuple[tuple[str, Range], ...]:
    """Dimension symbols in order of appearance. Raises when one cannot be read off any input dimension."""
    known = facts(model)
    sizes = [s for v in model.graph.inputs for s in type_of(v).shape]
    names = list(dict.fromkeys(n for s in sizes for n in sorted(s.symbols)))
    alone = {str(s) for s in sizes}
    for name in names:
        if name not in alone:
            raise CompileError(
                "dimension-not-an-input",
                where=f"dimension {name}",
                cause="no input has it as a dimension of its own, so its value cannot be read at run time",
                fix="bind it with --input-shape, or give an input that dimension",
            )
    return tuple((n, known.get(n, Range(0))) for n in names)


@dataclass(slots=True)
class _Constants:
    """The constants of all entry points, each layout of each once."""

    names: Mapping[ir.Value, str]
    constants: list[PackedConstant] = field(default_factory=list)
    _by_name: dict[str, int] = field(default_factory=dict)

    def index(self, value: ir.Value, pack: Pack | None) -> int:
        """The position of a constant in the plan."""
        layout = "" if pack is None else f"{'x'.join(map(str, pack.source))}[{', '.join(map(str, pack.index))}]"
        name = self.names.get(value, str(value.name)) + layout
        if name not in self._by_name:
            t = type_of(value)
            shape = tuple(s.value for s in (t.shape if pack is None else pack.shape))
            self._by_name[name] = len(self.constants)
            self.constants.append(PackedConstant(Constant(name, t.dtype, shape), value, pack))
        return self._by_name[name]


@dataclass(slots=True)
class _Builder:
    """The buffers of one entry point, made on demand.

    The new value of a state is computed in memory of its own and copied when everything has read the old one, so that
    any graph is right in place; but a kernel that replaces some elements of it (a cache) works on the state itself.
    A value lies where it is written; a launch in the other space reads a copy, which is made once.
    """

    entry: EntrySteps
    table: _Constants
    buffers: list[Buffer] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)
    updates: list[Copy] = field(default_factory=list)  # of states, after all copies
    _by_value: dict[ir.Value, int] = field(default_factory=dict)
    _by_constant: dict[tuple[int, Space], int] = field(default_factory=dict)
    _moved: dict[ir.Value, int] = field(default_factory=dict)  # by root: its copy in the other space
    _sources: dict[ir.Value, ir.Value] = field(default_factory=dict)
    _homes: dict[ir.Value, Space] = field(default_factory=dict)  # by root, where that is not the device

    def __post_init__(self) -> None:
        graph = self.entry.model.graph
        sources = self._sources = {s.result: s.source for s in self.entry.steps if isinstance(s, Alias)}
        self._homes = _hosted(self.entry, sources)
        states = {i: number for number, (i, _) in enumerate(self.entry.states)}
        for i, v in enumerate(graph.inputs):
            kind: BufferKind = "state" if i in states else "input"
            self._by_value[v] = self._add(kind, type_of(v), states.get(i, i), self._homes.get(v, "device"))
        updated = {o: self._by_value[graph.inputs[i]] for i, o in self.entry.states}
        old = set(updated.values())
        self._update_in_place(sources)
        late = late_symbols(self.entry.model).keys()
        for i, v in enumerate(graph.outputs):
            root = _root(v, sources)
            if i in updated:
                self._update(root, updated[i], old)
                continue
            buffer = self._add("output", type_of(v), i, self._homes.get(root, "device"))
            unsized = _symbols_of(v) & late - _symbols_of(root)
            if root in self._by_value or is_constant(root) or unsized:
                # Somebody else's memory (an input, a constant, an earlier output), or memory that is written before
                # the sizes of the output are known: the output is a copy of it.
                self.copies.append(Copy(self.whole(root), buffer, byte_size(type_of(v))))
            else:
                self._by_value[root] = buffer
        for result, source in sources.items():
            self._by_value[result] = self.whole(source)

    def _update_in_place(self, sources: Mapping[ir.Value, ir.Value]) -> None:
        """Let a launch that updates a tensor work on its memory where nobody reads the old contents afterwards."""
        graph = self.entry.model.graph
        launches = [s for s in self.entry.steps if isinstance(s, KernelLaunch)]
        last = {_root(v, sources): at for at, step in enumerate(launches) for v in step.values}
        outputs = [_root(v, sources) for v in graph.outputs]
        states = {_root(graph.outputs[o], sources): graph.inputs[i] for i, o in self.entry.states}
        for at, step in enumerate(launches):
            for new, old in step.updates:
                value, base = step.values[new], _root(step.values[old], sources)
                others = [v for n, v in enumerate(step.values) if n not in (new, old)]
                if base in outputs or last[base] > at or any(_root(v, sources) is base for v in others):
                    continue
                if not is_constant(base) and self._homes.get(base, "device") != step.space:
                    continue
                temporary = not is_constant(base) and base not in graph.inputs and value not in outputs
                if temporary or (states.get(value) is base and outputs.count(value) == 1):
                    self._by_value[value] = self.whole(base)

    def before(self, step: KernelLaunch) -> Iterator[Copy]:
        """Copies of what ``step`` reads but lies in the other space, and of what it updates but may not change."""
        for value in step.values[: len(step.values) - step.outputs]:
            root = _root(value, self._sources)
            if is_constant(root) or root in self._moved or self._space(root) == step.space:
                continue
            source, t = self.whole(root), type_of(root)
            self._moved[root] = self._add("temporary", t, space=step.space)
            yield Copy(source, self._moved[root], byte_size(t))
        for new, old in step.updates:
            source = self.argument(step.values[old], step.packs.get(old), step.space)
            target = self.argument(step.values[new], None, step.space)
            if source != target:
                yield Copy(source, target, byte_size(type_of(step.values[new])))

    def _update(self, root: ir.Value, state: int, old: set[int]) -> None:
        source, t = self.whole(root), type_of(root)
        if source == state:
            return
        if source in old:  # another state, which may get its own new value first
            kept = self._add("temporary", t, space=self.buffers[source].space)
            self.copies.append(Copy(source, kept, byte_size(t)))
            source = kept
        self.updates.append(Copy(source, state, byte_size(t)))

    def _add(self, kind: BufferKind, t: TensorType, index: int = 0, space: Space = "device") -> int:
        self.buffers.append(Buffer(kind, byte_size(t), index, space=space))
        return len(self.buffers) - 1

    def _space(self, root: ir.Value) -> Space:
        return self._homes.get(root, "device")

    def whole(self, value: ir.Value) -> int:
        """The buffer of a value that is read as it is, where it lies."""
        root = _root(value, self._sources)
        return self.argument(value, None, self._space(root))

    def argument(self, value: ir.Value, pack: Pack | None, space: Space) -> int:
        """The buffer of a value in a space; constants once per layout and space."""
        root = _root(value, self._sources)
        if is_constant(value):
            return self._constant(self.table.index(value, pack), space)
        if is_constant(root) and space != self._space(root):
            return self._constant(self.table.index(root, pack), space)
        if root in self._moved and space != self._space(root):
            return self._moved[root]
        if value not in self._by_value:
            self._by_value[value] = self._add("temporary", type_of(value), space=space)
        return self._by_value[value]

    def _constant(self, index: int, space: Space) -> int:
        if (index, space) not in self._by_constant:
            constant = self.table.constants[index].constant
            t = TensorType.of(constant.dtype, *constant.shape)
            self._by_constant[index, space] = self._add("constant", t, index, space)
        return self._by_constant[index, space]


def _hosted(entry: EntrySteps, sources: Mapping[ir.Value, ir.Value]) -> dict[ir.Value, Space]:
    """Values that lie on the host of a target with memory of its own: what host launches write, and inputs that no
    launch on the device reads (sizes, say)."""
    if not entry.apart:
        return {}
    launches = [s for s in entry.steps if isinstance(s, KernelLaunch)]
    written = [v for s in launches if s.space == "host" for v in s.values[len(s.values) - s.outputs :]]
    read = {_root(v, sources) for s in launches if s.space == "device" for v in s.values}
    states = {i for i, _ in entry.states}
    inputs = [v for i, v in enumerate(entry.model.graph.inputs) if i not in states and v not in read]
    return dict.fromkeys([*written, *inputs], "host")
