"""``ge-air``: a graph in GE's own operators, as the file that ATC takes with ``--framework=1``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import onnx_ir as ir
from tilewright.backends.ascend.graph_route.accepted import PRODUCTS
from tilewright.backends.ascend.graph_route.decompose import DecomposeForAtc
from tilewright.backends.ascend.graph_route.ge_graph import GeGraph, Ref, Untyped
from tilewright.backends.ascend.graph_route.ge_message import Message, Value, encoded
from tilewright.backends.ascend.graph_route.ge_operators import FORMS
from tilewright.backends.ascend.graph_route.ge_site import Site, Unmapped
from tilewright.backends.ascend.graph_route.ge_text import listing
from tilewright.backends.ascend.graph_route.route import AscendRoute
from tilewright.backends.base import GraphSource
from tilewright.errors import UnsupportedError, UsageError
from tilewright.ir.graph import constant_array, is_constant, type_of
from tilewright.ir.types import DType
from tilewright.passes.base import Pass
from tilewright.target import Target

#: A protobuf message ends at 2 GiB; beside the weights there are names.
LIMIT = (1 << 31) - (1 << 26)

#: Inputs of images have a layout of their own; whoever reads them says it.
_IMAGES = frozenset({"Conv", "MaxPool", "AveragePool"})


class AirRoute(AscendRoute):
    """See the module."""

    name: ClassVar[str] = "ge-air"

    def knows(self, node: ir.Node) -> bool:
        """Whether the table has a form for the operator."""
        return node.domain in ("", "ai.onnx") and (node.op_type in FORMS or node.op_type == "Constant")

    def passes(self) -> Sequence[Pass]:
        """Younger operators that GE has none of, before definitions are asked."""
        return [DecomposeForAtc(leave=frozenset(FORMS))]

    def files(
        self, model: ir.Model, target: Target, buckets: Mapping[str, tuple[int, ...]], source: GraphSource
    ) -> Iterator[tuple[str, Iterator[bytes]]]:
        """``model.air``, ``model.txt`` (the same to read), ``atc.sh``."""
        if buckets:
            raise UsageError(
                "air-gears",
                where="--bucket",
                cause="ATC takes no gears with a GE graph",
                fix="fix sizes with --input-shape, or write onnx-atc, which has gears",
            )
        _require_room(model, source)
        graph = _graph_of(model, target, source)
        message: Message = [("name", "model"), ("version", 1), ("graph", _graph_message(graph))]
        yield "model.air", iter([encoded("ModelDef", message)])
        yield "model.txt", iter([listing(graph.operators).encode()])
        yield "atc.sh", iter([_SCRIPT.replace("SOC", str(target.extra["soc_version"])).encode()])


_SCRIPT = """#!/bin/sh
# Makes model.om. Needs a CANN toolkit: source <toolkit>/set_env.sh first.
set -eu
cd "$(dirname "$0")"
exec atc --framework=1 --model=model.air --output=model --soc_version=SOC --precision_mode_v2=origin "$@"
"""


def _require_room(model: ir.Model, source: GraphSource) -> None:
    size = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
    if size > LIMIT:
        raise UnsupportedError(
            "air-size",
            where=source.title,
            cause=f"its weights are {size} bytes, and a GE graph is one message of 2 GiB at most",
            fix="write onnx-atc, which puts weights beside the graph, or use weights of 16 bits (--precision fp16)",
        )


def _graph_message(graph: GeGraph) -> Message:
    operators: list[tuple[str, Value]] = [("op", message) for message in graph.operators]
    return [("name", "model"), *operators]


def _graph_of(model: ir.Model, target: Target, source: GraphSource) -> GeGraph:
    """The graph in GE's operators. Raises :class:`UnsupportedError` for all nodes that have no form."""
    graph, refs = GeGraph(), {}
    for index, value in enumerate(model.graph.inputs):
        layout = "NCHW" if type_of(value).rank == 4 and any(u.node.op_type in _IMAGES for u in value.uses()) else "ND"
        refs[value] = graph.data(index, str(value.name), type_of(value), layout)

    def ref_of(value: ir.Value) -> Ref:
        if value not in refs:
            if not is_constant(value):
                raise Unmapped(f"{value.name!r} is made by a node that has no form")
            weight = type_of(value).rank == 4 and any(u.node.op_type == "Conv" for u in value.uses())
            refs[value] = graph.constant(constant_array(value), str(value.name), "NCHW" if weight else "ND")
        return refs[value]

    problems: dict[str, None] = {}
    lost: set[ir.Value] = set()
    for node in model.graph:
        if node.op_type == "Constant":
            continue
        if any(v in lost for v in node.inputs if v is not None):
            lost.update(node.outputs)
            continue
        why = _refusal(node, target)
        try:
            if why:
                raise Unmapped(why)
            site = Site(graph, node, ref_of)
            for value, ref in zip([o for o in node.outputs if o.name], FORMS[node.op_type](site), strict=False):
                refs[value] = ref
        except (Unmapped, Untyped) as reason:
            problems[f"{node.op_type}: {reason} (node {node.name!r})"] = None
            lost.update(node.outputs)
    if problems:
        raise UnsupportedError(
            "air-unsupported",
            where=source.title,
            cause="it has no form in GE's operators:\n    " + "\n    ".join(problems) + "\n ",
            fix="write onnx-atc, whose parser knows more operators, or compile it",
            problems=tuple(problems),
        )
    graph.output([ref_of(value) for value in model.graph.outputs])
    return graph


def _refusal(node: ir.Node, target: Target) -> str:
    if node.domain not in ("", "ai.onnx") or node.op_type not in FORMS:
        return "there is no form of it"
    first = node.inputs[0] if node.inputs else None
    product = node.op_type in PRODUCTS and first is not None and type_of(first).dtype is DType.F32
    if product and "mmad_f32" not in target.features:
        return f"the cube unit of {target.spelling} multiplies no f32: ask for --precision fp16"
    for value in (*node.inputs, *node.outputs):
        if value is not None and value.name and type_of(value).dtype is DType.BF16 and "bf16" not in target.features:
            return f"{value.name!r} is bf16, which {target.spelling} does not have"
    return ""
