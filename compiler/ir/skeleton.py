"""A graph without its weights, as bytes: what tells two states of a graph apart, however large the weights are."""

from __future__ import annotations

import onnx_ir as ir


def skeleton_bytes(model: ir.Model) -> bytes:
    """The ONNX message of ``model`` with every initializer as an input: names and types of weights, not their contents.

    Small for models of any size; equal for equal graphs.
    """
    copy = model.clone()
    weights = list(copy.graph.initializers.values())
    copy.graph.initializers.clear()
    for value in weights:
        value.const_value = None
        if not value.is_graph_input():
            copy.graph.inputs.append(value)
    return bytes(ir.to_proto(copy).SerializeToString(deterministic=True))
