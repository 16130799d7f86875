"""``onnx-atc``: a graph as an ONNX file that ATC takes, with the command line for the chosen chip."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import onnx_ir as ir
from tilewright.backends.ascend.graph_route.accepted import PRODUCTS, is_known, refusal
from tilewright.backends.ascend.graph_route.command import (
    op_precision_of,
    options_of,
    readme_of,
    require_names,
    script_of,
)
from tilewright.backends.ascend.graph_route.decompose import DecomposeForAtc
from tilewright.backends.ascend.graph_route.gears import gears_of
from tilewright.backends.ascend.graph_route.route import AscendRoute
from tilewright.backends.ascend.graph_route.serialize import INSIDE, onnx_files
from tilewright.backends.ascend.graph_route.spelling import Unspeakable, every_node, finish, spell_out
from tilewright.backends.base import GraphSource
from tilewright.errors import UnsupportedError
from tilewright.ir.graph import set_known_value, type_of
from tilewright.ir.types import DType
from tilewright.passes.base import Pass
from tilewright.passes.canonicalize.eliminate_dead_code import EliminateDeadCode
from tilewright.passes.rewrite import Rewriter
from tilewright.target import Target

#: GE's operators of products of f32 that may be computed in HF32.
_F32_PRODUCTS = {"Conv": ("Conv2D",), "ConvTranspose": ("Conv2DTranspose", "Conv2DBackpropInput")}
_F32_MATMULS = ("MatMul", "MatMulV2", "BatchMatMul", "BatchMatMulV2")


class AtcRoute(AscendRoute):
    """See the module."""

    name: ClassVar[str] = "onnx-atc"

    def __init__(self, inside: int = INSIDE):
        """``inside``: bytes of weights up to which they are in the ONNX file itself."""
        self._inside = inside

    def knows(self, node: ir.Node) -> bool:
        """Whether ATC's parser has the operator."""
        return is_known(node)

    def passes(self) -> Sequence[Pass]:
        """Younger operators by few older ones, before definitions are asked."""
        return [DecomposeForAtc()]

    def files(
        self, model: ir.Model, target: Target, buckets: Mapping[str, tuple[int, ...]], source: GraphSource
    ) -> Iterator[tuple[str, Iterator[bytes]]]:
        """``model.onnx`` (``model.weights``), ``atc.sh``, ``op_precision.ini`` for products of f32, ``README.md``."""
        require_names(model)
        _require_nodes(model, target, source.title)
        gears = gears_of(model, buckets)
        notes, precise = _notes(model), _f32_products(model)
        options = options_of(target, gears, bool(precise))
        texts = {
            "atc.sh": script_of(options),
            "README.md": readme_of(model, target, gears, options, source.title, notes),
        }
        if precise:
            texts["op_precision.ini"] = op_precision_of(precise)
        _spelled(model, source)
        for name, pieces in onnx_files(model, self._inside):
            yield name, iter(pieces)
        for name, text in sorted(texts.items()):
            yield name, iter([text.encode()])


def _require_nodes(model: ir.Model, target: Target, title: str) -> None:
    """Raise one error for all nodes that ATC does not take."""
    found = [(node, refusal(node, target)) for node in every_node(model.graph)]
    _refuse([(node, why) for node, why in found if why], title)


def _spelled(model: ir.Model, source: GraphSource) -> None:
    """The graph in the opset of the file."""
    rewriter, unspeakable = Rewriter(model), []
    for node in list(every_node(model.graph)):
        try:
            spell_out(model, node, rewriter)
        except Unspeakable as reason:
            unspeakable.append((node, str(reason)))
    _refuse(unspeakable, source.title)
    for node in every_node(model.graph):
        for value in node.outputs:
            set_known_value(value, None)
    EliminateDeadCode().run(model)
    finish(model, source.names)


def _refuse(found: Sequence[tuple[ir.Node, str]], title: str) -> None:
    if not found:
        return
    lines = tuple(dict.fromkeys(f"{node.op_type}: {why} (node {node.name!r})" for node, why in found))
    raise UnsupportedError(
        "atc-unsupported",
        where=title,
        cause="ATC does not take:\n    " + "\n    ".join(lines) + "\n ",
        fix="export the model with other operators, or compile it (tilewright compile -t cpu), which has more of them",
        problems=lines,
    )


def _f32_products(model: ir.Model) -> list[str]:
    """GE's operators for products of f32 in the graph."""
    found: set[str] = set()
    for node in every_node(model.graph):
        first = node.inputs[0] if node.inputs else None
        if node.op_type in PRODUCTS and first is not None and type_of(first).dtype is DType.F32:
            found.update(_F32_PRODUCTS.get(node.op_type, _F32_MATMULS))
    return sorted(found)


def _notes(model: ir.Model) -> list[str]:
    """What whoever runs the model has to know of its element types."""
    notes = []
    wide = [f"`{v.name}`" for v in model.graph.inputs if type_of(v).dtype is DType.I64]
    if wide:
        notes.append(
            f"{', '.join(wide)}: i64 as in the source model, and atc keeps it: buffers hold 8 bytes an element "
            "(aclmdlGetInputDataType says ACL_INT64)."
        )
    doubles = {
        n.op_type for n in every_node(model.graph) for v in n.outputs if v.name and type_of(v).dtype is DType.F64
    }
    if doubles:
        notes.append(f"f64 in {', '.join(sorted(doubles))}: no core of the NPU computes it, CANN's AI CPU kernels do.")
    return notes
