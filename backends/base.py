"""What a backend is. Adding one is a folder here and a line in :data:`tilewright.selection.BACKENDS`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Union

import onnx_ir as ir
from tilewright.errors import UsageError
from tilewright.ir.symbolic import ZERO, Expr
from tilewright.kernel.routine import Routine
from tilewright.kernel.schedule import Schedule, Scheduled
from tilewright.kernel.tile import Kernel
from tilewright.passes.base import Pass
from tilewright.passes.place import Region
from tilewright.plan.programs import Sharding, Variant
from tilewright.target import Target, load_targets


@dataclass(frozen=True, slots=True)
class Support:
    """Whether a target runs something; ``reason`` is shown to the user when it does not."""

    ok: bool
    reason: str = ""


#: What ends up as one function of a binary.
Code = Union[Scheduled, Routine]


def name_of(code: Code) -> str:
    """The name under which a plan and a binary know a kernel or a routine."""
    return code.kernel.name if isinstance(code, Scheduled) else code.identity


@dataclass(frozen=True, slots=True)
class Source:
    """Generated text, by file name. ``symbols`` maps each kernel's name to its symbol."""

    files: Mapping[str, str]
    symbols: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Binary:
    """What a toolchain made: members to put under the target's folder in the artifact, by file name."""

    members: Mapping[str, bytes]
    tools: Mapping[str, str]  # tool → version, for provenance


@dataclass(frozen=True, slots=True)
class LaunchSize:
    """``grid`` independent blocks, and ``scratch`` bytes for each worker, both over the kernel's dimension symbols."""

    grid: Expr
    scratch: Expr = ZERO


class Backend(ABC):
    """A kind of target."""

    name: ClassVar[str]
    folder: ClassVar[Path]

    def targets(self) -> Mapping[str, Target]:
        """Targets by spelling, from ``targets/*.toml`` beside the backend."""
        return load_targets(self.folder / "targets", self.name)

    def resolve(self, spelling: str) -> tuple[Target, ...]:
        """The targets that a user's spelling means. Raises ``UsageError`` that lists what there is."""
        targets = self.targets()
        if spelling not in targets:
            raise UsageError(
                "unknown-target",
                where=f"target {spelling!r}",
                cause="there is no such target",
                fix=f"use one of {', '.join(targets)}",
            )
        return (targets[spelling],)


class KernelBackend(Backend):
    """A backend fed with tile IR.

    ``apart`` says that its targets have memory of their own beside a host's: what they have no code for is then run on
    the host part (``Target.host``). ``textual`` says that their parts are source text, which is compiled elsewhere: the
    host part then goes with them as text as well.
    """

    apart: ClassVar[bool] = False
    textual: ClassVar[bool] = False

    def prepared(self, kernel: Kernel, target: Target) -> Kernel:
        """``kernel`` as the target computes it: the same parameters and results, apart from rounding, by other sums."""
        del target
        return kernel

    @abstractmethod
    def supports(self, kernel: Kernel | Routine, target: Target) -> Support:
        """Whether ``target`` can run a lowered kernel or a routine, and why not."""

    @abstractmethod
    def schedules(self, kernel: Kernel, target: Target) -> Iterable[Schedule]:
        """Candidate schedules, best guess first; a tuner reads on."""

    @abstractmethod
    def launch(self, scheduled: Scheduled, target: Target) -> LaunchSize:
        """How a scheduled kernel is launched."""

    @abstractmethod
    def emit(self, kernels: Sequence[Code], target: Target) -> Source:
        """Target source text. Needs no device and no toolchain."""

    @abstractmethod
    def build(self, source: Source, target: Target) -> Binary:
        """Run the toolchain. A compile error here is our bug: raises ``InternalError`` with a bundle."""

    def project(self, source: Source, target: Target) -> Mapping[str, str]:
        """Every text that a compiler elsewhere needs to build ``source``, by file name."""
        del target
        return source.files


@dataclass(frozen=True, slots=True)
class ProgramSettings:
    """How programs of a graph target are made.

    Attributes:
        buckets: sizes to make programs for, by symbol, rising; symbols without any get a ladder of their range.
        exact: symbols that are met at just these sizes, never padded.
        mesh: devices along each axis; empty for one device.
        shard: how tensors are cut: ``auto``, ``tensor`` or ``batch``; empty without a mesh.
        compile: make executables ahead of time where the target's compiler is installed.
    """

    buckets: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    exact: frozenset[str] = frozenset()
    mesh: tuple[int, ...] = ()
    shard: str = ""
    compile: bool = True


@dataclass(frozen=True, slots=True)
class Refusal:
    """A node that a graph target cannot compute in its place, and why."""

    node: ir.Node
    reason: str


@dataclass(frozen=True, slots=True)
class CompiledRegion:
    """The programs of one region.

    Attributes:
        padded: symbols whose true size is an operand.
        weights: constants that are arguments, in order.
        variants: the program for each bucket, by rising sizes.
        members: their binaries by file name.
        texts: what to show of them, by file name.
        shardings: see :class:`tilewright.plan.programs.RunProgram`.
        facts: what the compiler said of each variant (:class:`ProgramFacts`), in order.
        cuts: on a mesh, what became of each weight. notes: what was asked of the mesh and cannot be, and why.
    """

    padded: tuple[str, ...]
    weights: tuple[ir.Value, ...]
    variants: tuple[Variant, ...]
    members: Mapping[str, bytes]
    texts: Mapping[str, str] = field(default_factory=dict)
    shardings: tuple[Sharding, ...] = ()
    facts: tuple[ProgramFacts, ...] = ()
    cuts: tuple[WeightCut, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WeightCut:
    """A weight on a mesh: in how many parts each of its dimensions is cut, its bytes, those that each device holds, and
    why it is not cut where it could have been."""

    name: str
    shape: tuple[int, ...]
    parts: tuple[int, ...]
    bytes: int
    bytes_per_device: int
    reason: str = ""

    @property
    def is_cut(self) -> bool:
        """Whether devices hold different parts."""
        return any(n > 1 for n in self.parts)


@dataclass(frozen=True, slots=True)
class ProgramFacts:
    """What is known of one program before it has ever run. Bytes and flops are as the target's compiler counts them.

    Attributes:
        name: of the variant.
        sizes: the bucket.
        flops, bytes: of one run; 0 where nobody counted.
        memory: bytes of device memory for arguments, results, temporaries and code; ``fits`` whether the device has
            them (``None``: not asked).
        arguments, results, temporaries, aliased: bytes of the parts of ``memory``; weights are arguments, and what is
            aliased is a result in the place of an argument.
        code_bytes: size of the executable; 0 where there is none.
        collectives: operations between devices by name.
        products: operations of products and convolutions by the type of their operands, of f32 with StableHLO's
            precision (``f32:HIGHEST``).
        predicted_seconds: by the roofline of the target's data: never measured.
        compile_seconds: what the target's compiler took; ``cached`` when that was another time.
        padding, mean_padding: the share of the work that is padding, at the worst sizes that run in this program and on
            average over them, counted in arithmetic operations of the graph.
        share: of the sizes of its region, that of those that run in this program.
        note: why something is missing.
    """

    name: str
    sizes: Mapping[str, int]
    flops: float = 0.0
    bytes: float = 0.0
    memory: int = 0
    arguments: int = 0
    results: int = 0
    temporaries: int = 0
    aliased: int = 0
    fits: bool | None = None
    code_bytes: int = 0
    collectives: Mapping[str, int] = field(default_factory=dict)
    products: Mapping[str, float] = field(default_factory=dict)
    predicted_seconds: float | None = None
    compile_seconds: float = 0.0
    cached: bool = False
    padding: float = 0.0
    mean_padding: float = 0.0
    share: float = 1.0
    note: str = ""


class Refused(Exception):
    """Nodes of a region have no form on the target: they are placed again, on the host part."""

    def __init__(self, refusals: Sequence[Refusal]):
        super().__init__("; ".join(f"{r.node.op_type} {r.node.name!r}: {r.reason}" for r in refusals))
        self.refusals = tuple(refusals)


class GraphBackend(Backend):
    """A backend fed with regions of the graph."""

    @abstractmethod
    def passes(self, target: Target, level: int) -> Sequence[Pass]:
        """What makes a graph ready for this target, after the canonicalization that all targets share."""

    @abstractmethod
    def knows(self, node: ir.Node) -> bool:
        """Whether there is a form for the operator of a node at all; one without is replaced by its definition, where
        the standard gives one."""

    @abstractmethod
    def runs(self, model: ir.Model, node: ir.Node, target: Target) -> Support:
        """Whether ``target`` can compute a node as far as the node itself tells."""

    def computes(self, node: ir.Node) -> str:
        """The element type in which a node sums products (``i8``, ``bf16``, ``f32``), for reports on precision; empty
        for a node that sums none."""
        del node
        return ""

    @abstractmethod
    def compile_region(
        self, model: ir.Model, region: Region, name: str, target: Target, settings: ProgramSettings
    ) -> CompiledRegion:
        """The programs of a region; ``name`` begins the names of their members.

        Raises :class:`Refused` for nodes that turn out to have no form; ``InternalError`` with a bundle where the
        target's own compiler fails.
        """

    def compile_ahead(self, made: CompiledRegion, target: Target, settings: ProgramSettings) -> CompiledRegion:
        """The programs of a region with executables beside their portable form, once placement has settled.

        Raises ``InternalError`` with a bundle where the target's own compiler fails, ``ResourceError`` for a program
        that does not fit the device.
        """
        del target, settings
        return made

    @abstractmethod
    def tools(self, target: Target, settings: ProgramSettings) -> Mapping[str, str]:
        """Tool → version, of those that have a part in programs for ``target``; for provenance."""


@dataclass(frozen=True, slots=True)
class GraphSource:
    """The model that a graph was imported from: its name for messages, and the names of its nodes and values."""

    title: str
    names: frozenset[str]


class GraphRoute(ABC):
    """A graph as files for somebody else's compiler: operators that it takes, and how it is called."""

    name: ClassVar[str]

    @abstractmethod
    def targets(self) -> Mapping[str, Target]:
        """Targets by spelling."""

    @abstractmethod
    def knows(self, node: ir.Node) -> bool:
        """Whether the other compiler has the operator of a node at all; one that it has not is replaced by its
        definition, where the standard gives one."""

    @abstractmethod
    def passes(self) -> Sequence[Pass]:
        """After canonicalization, before definitions are asked for."""

    @abstractmethod
    def cleanup(self) -> Sequence[Pass]:
        """After definitions."""

    @abstractmethod
    def computes(self, node: ir.Node) -> str:
        """As :meth:`GraphBackend.computes`."""

    @abstractmethod
    def floats(self, target: Target) -> frozenset[str]:
        """16-bit float types in which the target computes products, by spelling."""

    @abstractmethod
    def files(
        self, model: ir.Model, target: Target, buckets: Mapping[str, tuple[int, ...]], source: GraphSource
    ) -> Iterator[tuple[str, Iterator[bytes]]]:
        """Names of files and their bytes in pieces; ``model`` is used up.

        ``buckets`` are sizes by symbol. Raises ``UnsupportedError`` that lists every
        node that is not taken, ``UsageError`` for sizes that cannot be said.
        """
