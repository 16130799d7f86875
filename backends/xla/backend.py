"""XLA: regions of the graph to StableHLO, and for TPUs on to executables by libtpu, on machines that have no TPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import onnx_ir as ir
from tilewright.backends.base import (
    CompiledRegion,
    GraphBackend,
    ProgramFacts,
    ProgramSettings,
    Support,
)
from tilewright.backends.xla.ahead import ahead, why_not
from tilewright.backends.xla.aot import installed
from tilewright.backends.xla.computes import computed_in
from tilewright.backends.xla.dialect import UNPORTABLE
from tilewright.backends.xla.rule import Policy, find_rule
from tilewright.backends.xla.variants import programs_of
from tilewright.backends.xla.waste import waste_of
from tilewright.backends.xla.why import told_by_inputs
from tilewright.codegen.toolchain import Toolchain
from tilewright.ir.facts import facts as known_ranges
from tilewright.ir.graph import body_of, has_type, type_of
from tilewright.ir.late import late_symbols
from tilewright.passes.base import Pass
from tilewright.passes.place import Region
from tilewright.plan.programs import Variant
from tilewright.target import Target, load_targets


class XlaBackend(GraphBackend):
    """StableHLO for everything that XLA compiles for: kinds ``tpu`` and ``xla``."""

    name: ClassVar[str] = "xla"
    folder: ClassVar[Path] = Path(__file__).parent

    def __init__(self, tools: Toolchain | None = None):
        """``tools`` is for backends that run a C compiler."""
        del tools

    def targets(self) -> Mapping[str, Target]:
        """Of both kinds; each file says its own."""
        return load_targets(self.folder / "targets", self.name)

    def passes(self, target: Target, level: int) -> Sequence[Pass]:
        """None yet: XLA fuses by itself."""
        return ()

    def knows(self, node: ir.Node) -> bool:
        """Whether the table has a rule for the operator."""
        return node.op_type == "Constant" or find_rule(node.domain, node.op_type) is not None

    def runs(self, model: ir.Model, node: ir.Node, target: Target) -> Support:
        """Whether there is a rule for it, and its sizes are known before the program runs."""
        body = body_of(model, node)
        operators = [node] if body is None else [n for n in body if n.op_type != "Constant"]
        for operator in operators:
            if find_rule(operator.domain, operator.op_type) is None:
                return Support(False, f"{operator.op_type} has no form in StableHLO")
        late = late_symbols(model)
        for value in (*node.inputs, *node.outputs):
            if value is not None and value.name and has_type(value):
                if type_of(value).dtype in UNPORTABLE:
                    return Support(False, f"{type_of(value).dtype} is younger than StableHLO's portable form")
                hung = [s for e in type_of(value).shape for s in e.symbols if s in late]
                if hung:
                    told = told_by_inputs(model, hung)
                    return Support(False, f"only a run tells the size {hung[0]} of {value.name!r}{told}")
        return Support(True)

    def computes(self, node: ir.Node) -> str:
        """By the operands of the product: see :mod:`tilewright.backends.xla.computes`."""
        return computed_in(node)

    def compile_region(
        self, model: ir.Model, region: Region, name: str, target: Target, settings: ProgramSettings
    ) -> CompiledRegion:
        """A portable program for each bucket."""
        members: dict[str, bytes] = {}
        texts: dict[str, str] = {}
        variants, facts = [], []
        programs, shardings = programs_of(model, region, settings, Policy())
        wastes = waste_of(region, [bucket for bucket, _ in programs], known_ranges(model))
        for number, ((bucket, emitted), waste) in enumerate(zip(programs, wastes, strict=True)):
            stem = name if len(programs) == 1 else f"{name}.{number}"
            members[f"{stem}.vhlo"] = emitted.module
            texts[f"{stem}.mlir"] = emitted.text
            variants.append(Variant(bucket.sizes, f"{stem}.vhlo"))
            told = ProgramFacts(stem, bucket.sizes)
            facts.append(replace(told, padding=waste.worst, mean_padding=waste.mean, share=waste.share))
        made = CompiledRegion(emitted.sizes, emitted.weights, tuple(variants), members, texts, facts=tuple(facts))
        if shardings is None:
            return made
        listed = shardings.listed(region, len(emitted.sizes), emitted.weights)
        return replace(made, shardings=listed, cuts=shardings.table(emitted.weights), notes=shardings.notes)

    def compile_ahead(self, made: CompiledRegion, target: Target, settings: ProgramSettings) -> CompiledRegion:
        """Executables by libtpu, for targets whose data says how it is told."""
        return ahead(made, target, settings)

    def tools(self, target: Target, settings: ProgramSettings) -> Mapping[str, str]:
        """jaxlib writes StableHLO; libtpu compiles it where it is there and asked to."""
        found = installed()
        return {name: v for name, v in found.items() if name == "jaxlib" or not why_not(target, settings)}
