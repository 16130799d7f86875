"""``fuse-depthwise-pointwise``: a depthwise convolution goes into the 1×1 convolution that reads it.

    Conv(Clip(Conv<group=C>(x, D) + d), P) + p + residual   →   FusedDepthwisePointwise(x, D, d, P, p, residual)

A block of rows of the intermediate is computed and multiplied at once, and never in memory whole. Nothing is computed
twice: a 1×1 convolution of stride 1 reads each element of its input in one row only, provided that the kernel takes all
columns of a block of rows together. Check: one filter per channel, the 1×1 convolution has no groups, no stride and no
padding, only elementwise operators of the intermediate's shape stand between, and nothing else reads them. Cost: worth
it from :attr:`FuseDepthwisePointwise.least` elements of the intermediate of one image on; what lies in a core's cache
anyway is not saved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from tilewright.ir.graph import is_constant, type_of
from tilewright.ir.symbolic import product
from tilewright.passes.base import Miss, Pass, PassResult
from tilewright.passes.fusion.order import Order
from tilewright.passes.fusion.outline import obstacle, outline
from tilewright.passes.fusion.region import grow_forward, keeps_shape
from tilewright.passes.rewrite import Rewriter, candidates, required


@dataclass(frozen=True)
class FuseDepthwisePointwise(Pass):
    """One kernel instead of two, for intermediates of ``least`` elements an image and more (64 Ki: 256 KiB of f32)."""

    name: ClassVar[str] = "fuse-depthwise-pointwise"
    least: int = 1 << 16

    def run(self, model: ir.Model) -> PassResult:
        rewriter, order = Rewriter(model), Order(model.graph)
        misses: list[Miss] = []
        modified = False
        for node in list(candidates(model, frozenset(["Conv"]))):
            if node.graph is None or not _is_depthwise(node):
                continue
            between, output, _ = grow_forward(order, [node], node.outputs[0], keeps_shape(node.outputs[0]))
            pointwise = next((use.node for use in output.uses()), None)
            reason = self._refusal(output, pointwise)
            if reason is None and pointwise is not None:
                region, result, _ = grow_forward(
                    order, [*between, pointwise], pointwise.outputs[0], keeps_shape(pointwise.outputs[0])
                )
                reason = obstacle(order, region, [result])
            if reason is not None:
                misses.append(Miss.at(node, reason))
                continue
            first = [required(node, 0)]
            outline(rewriter, order, region, "FusedDepthwisePointwise", inputs=first, outputs=[result])
            modified = True
        return PassResult(modified, misses)

    def _refusal(self, output: ir.Value, pointwise: ir.Node | None) -> str | None:
        """Why ``pointwise`` cannot take what makes ``output``."""
        if pointwise is None or not _is_pointwise(pointwise) or pointwise.inputs[0] is not output:
            return f"{output.name} does not go to a 1×1 convolution"
        if output.is_graph_output() or len(output.uses()) > 1:
            return f"{output.name} is also read elsewhere"
        elements = product(type_of(output).shape[1:])
        if elements.is_constant and elements.value < self.least:
            return f"{elements} elements an image stay in a cache: nothing is saved"
        return None


def _is_depthwise(conv: ir.Node) -> bool:
    """One filter for each channel, as constants."""
    weights = required(conv, 1)
    shape = type_of(weights).shape
    return is_constant(weights) and len(shape) == 4 and shape[1] == 1 and _group(conv) == shape[0] and shape[0] != 1


def _is_pointwise(conv: ir.Node) -> bool:
    """A product with a matrix at each position."""
    if conv.op_type != "Conv" or conv.domain != "" or not is_constant(required(conv, 1)):
        return False
    plain = all(
        all(v == neutral for v in conv.attributes[name].as_ints())
        for name, neutral in (("strides", 1), ("pads", 0))
        if name in conv.attributes
    )
    automatic = conv.attributes["auto_pad"].as_string() if "auto_pad" in conv.attributes else "NOTSET"
    kernel = type_of(required(conv, 1)).shape[2:]
    return plain and automatic in ("NOTSET", "VALID") and _group(conv) == 1 and all(k == 1 for k in kernel)


def _group(conv: ir.Node) -> int:
    return conv.attributes["group"].as_int() if "group" in conv.attributes else 1
