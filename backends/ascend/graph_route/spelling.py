"""From the graph's opset to that of ATC: the same operators as they were spelled in opset 17, with everything said.

    ReduceMean(x, axes)           →  ReduceMean<axes>(x)
    Shape<start, end>(x)          →  Slice(Shape(x), start, end)              the plugin gives the whole shape
    Split<num_outputs>(x)         →  Split(x, sizes)
    Transpose(x)                  →  Transpose<perm>(x)                       the plugin wants it
    Conv(x, w)                    →  Conv<kernel_shape, pads, strides, dilations, group>(x, w)
    LayerNormalization(x, g)      →  LayerNormalization(x, g, 0)              the zero of the plugin is f32

The last step before writing: what comes out is not for passes any more, which know one opset.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from tilewright.backends.ascend.graph_route.accepted import IR_VERSION, OPSET
from tilewright.ir.graph import constant_array, is_constant, type_of
from tilewright.passes.rewrite import Rewriter

#: GE refers to an output as ``node:index``: names of nodes are of what is left, and of this many characters.
_UNNAMEABLE = re.compile(r"[^A-Za-z0-9_./\-]")
MOST_NAME = 200


class Unspeakable(Exception):
    """A node that opset 17 has no words for; the text is the reason."""


def spell_out(model: ir.Model, node: ir.Node, rewriter: Rewriter) -> None:
    """Change one node to its spelling in opset 17, in place. Raises :class:`Unspeakable`."""
    rule = _RULES.get(node.op_type)
    if rule is not None:
        rule(node, rewriter)
    _require_schema(node)


def finish(model: ir.Model, source: frozenset[str]) -> None:
    """Say the opset, name every node (the parser names what it makes after them), and drop our own notes; ``source``
    are names in the source model."""
    model.opset_imports.clear()
    model.opset_imports[""] = OPSET
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "tilewright", None
    model.metadata_props.clear()
    _name_made(model.graph, source)
    taken: set[str] = set()
    for node in every_node(model.graph):
        node.domain = ""
        node.version = None
        node.metadata_props.clear()
        told = node.name or next((str(o.name) for o in node.outputs if o.name), node.op_type)
        base = _UNNAMEABLE.sub("_", told)[:MOST_NAME]
        name, count = base, 1
        while name in taken:
            count += 1
            name = f"{base}_{count}"
        taken.add(name)
        node.name = name


#: Where names of values go that are not the source model's.
_MADE = "made/"


def _name_made(graph: ir.Graph, source: frozenset[str]) -> None:
    """Values that passes made are named in the order of use, and so the same again where what was exported is exported:
    then their names are the source model's, and are given anew all the same."""
    kept = {v.name for v in (*graph.inputs, *graph.outputs)} | {n for n in source if not n.startswith(_MADE)}
    renamed: dict[ir.Value, str] = {}
    for node in graph:
        for value in (*node.inputs, *node.outputs):
            if value is not None and value.name and value.name not in kept and value not in renamed:
                maker = value.producer()
                renamed[value] = f"{_MADE}{'constant' if maker is None else maker.op_type}_{len(renamed)}"
    constants = [v for v in renamed if v.name in graph.initializers]
    for value in constants:
        del graph.initializers[str(value.name)]
    for value, name in renamed.items():
        value.name = name
    for value in constants:
        graph.initializers.add(value)
    for node in graph:
        made = [str(o.name) for o in node.outputs if o in renamed]
        if made or (node.name or "") not in source:
            node.name = (made or [str(o.name) for o in node.outputs if o.name] or [""])[0]


def every_node(graph: ir.Graph) -> Iterator[ir.Node]:
    """The nodes of a graph and of those inside them, in order."""
    for node in graph:
        yield node
        for attribute in node.attributes.values():
            if attribute.type is ir.AttributeType.GRAPH:
                yield from every_node(attribute.as_graph())
            elif attribute.type is ir.AttributeType.GRAPHS:
                for inner in attribute.as_graphs():
                    yield from every_node(inner)


# -- rules -----------------------------------------------------------------------------------------------------------


def _value(node: ir.Node, name: str, default: Any) -> Any:
    found = node.attributes.get(name)
    return default if found is None else found.value


def _set(node: ir.Node, name: str, value: Any) -> None:
    (attribute,) = ir.convenience.convert_attributes({name: value})
    node.attributes[name] = attribute


def _drop(node: ir.Node, name: str, default: Any) -> None:
    """Leave out an attribute that is younger than opset 17 and says what was the only way before."""
    value = _value(node, name, default)
    if value != default:
        raise Unspeakable(f"opset {OPSET} has no {name}, and it is {value!r}")
    node.attributes.pop(name, None)


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _ints(node: ir.Node, index: int, what: str) -> list[int] | None:
    """The elements of an input that has to be a constant; ``None`` where there is none."""
    value = _input(node, index)
    if value is None:
        return None
    if not is_constant(value):
        raise Unspeakable(f"its {what} are computed while it runs, and opset {OPSET} has them in an attribute")
    return [int(n) for n in constant_array(value).reshape(-1)]


def _reduction(node: ir.Node, rewriter: Rewriter) -> None:
    axes = _ints(node, 1, "axes")
    if not axes and _value(node, "noop_with_empty_axes", 0):
        raise Unspeakable("it reduces over no axis (noop_with_empty_axes), which opset 17 cannot say")
    node.attributes.pop("noop_with_empty_axes", None)
    node.resize_inputs(1)
    rank = _rank(node.inputs[0])
    _set(node, "axes", axes or list(range(rank)))
    _set(node, "keepdims", int(_value(node, "keepdims", 1)))


def _reduce_sum(node: ir.Node, rewriter: Rewriter) -> None:
    """Axes stay an input; that all are meant is said."""
    axes = _input(node, 1)
    known = axes is not None and is_constant(axes)
    if _value(node, "noop_with_empty_axes", 0) and not (known and _ints(node, 1, "axes")):
        raise Unspeakable("it may reduce over no axis (noop_with_empty_axes), which the plugin does not read")
    node.attributes.pop("noop_with_empty_axes", None)
    if axes is None or (known and not _ints(node, 1, "axes")):
        every = rewriter.constant(np.arange(_rank(node.inputs[0]), dtype=np.int64), "axes")
        node.resize_inputs(2)
        node.replace_input_with(1, every)


def _shape(node: ir.Node, rewriter: Rewriter) -> None:
    start, end = _value(node, "start", 0), _value(node, "end", None)
    rank = _rank(node.inputs[0])
    node.attributes.pop("start", None)
    node.attributes.pop("end", None)
    if (start, end) in ((0, None), (0, rank)):
        return
    (result,) = node.outputs
    whole = rewriter.new("Shape", [node.inputs[0]], before=node)
    bounds = [int(start), rank if end is None else int(end)]
    first, last = (min(max(n + rank if n < 0 else n, 0), rank) for n in bounds)
    operands = [rewriter.constant(np.array([n], np.int64), "bound") for n in (first, max(first, last), 0)]
    made = rewriter.new("Slice", [whole, *operands], before=node)
    rewriter.replace(result, made)


def _split(node: ir.Node, rewriter: Rewriter) -> None:
    count = _value(node, "num_outputs", len(node.outputs))
    node.attributes.pop("num_outputs", None)
    if _input(node, 1) is not None:
        return
    value = node.inputs[0]
    assert value is not None
    size = type_of(value).shape[int(_value(node, "axis", 0))]
    if not size.is_constant:
        raise Unspeakable("the size of what is split is open; give it with --input-shape")
    part = -(-size.value // count)
    sizes = [part] * (count - 1) + [size.value - part * (count - 1)]
    node.resize_inputs(2)
    node.replace_input_with(1, rewriter.constant(np.array(sizes, np.int64), "split"))


def _pad(node: ir.Node, rewriter: Rewriter) -> None:
    axes = _ints(node, 3, "axes")
    if axes is not None:
        pads = _ints(node, 1, "pads")
        assert pads is not None
        rank, count = _rank(node.inputs[0]), len(axes)
        whole = [0] * (2 * rank)
        for i, axis in enumerate(axes):
            whole[axis % rank], whole[axis % rank + rank] = pads[i], pads[i + count]
        node.replace_input_with(1, rewriter.constant(np.array(whole, np.int64), "pads"))
    if len(node.inputs) > 3:
        node.resize_inputs(3)
    _set(node, "mode", str(_value(node, "mode", "constant")))


def _cast(node: ir.Node, rewriter: Rewriter) -> None:
    """Both are about 8-bit floats, which opset 17 does not have."""
    node.attributes.pop("saturate", None)
    node.attributes.pop("round_mode", None)


def _resize(node: ir.Node, rewriter: Rewriter) -> None:
    _drop(node, "antialias", 0)
    _drop(node, "keep_aspect_ratio_policy", "stretch")
    axes = _value(node, "axes", None)
    if axes is not None and list(axes) != list(range(_rank(node.inputs[0]))):
        raise Unspeakable("it names the axes that it resizes, which opset 17 cannot say")
    node.attributes.pop("axes", None)
    if _value(node, "coordinate_transformation_mode", "half_pixel") == "half_pixel_symmetric":
        raise Unspeakable("half_pixel_symmetric is younger than opset 17")


def _window(node: ir.Node, rewriter: Rewriter) -> None:
    """Everything that a window has, said: the parser tells 1, 2 and 3 axes apart by what it finds."""
    weight = _input(node, 1) if node.op_type in ("Conv", "ConvTranspose") else None
    if weight is not None:
        shape = type_of(weight).shape[2:]
        if all(s.is_constant for s in shape):
            _set(node, "kernel_shape", [s.value for s in shape])
    kernel = _value(node, "kernel_shape", None)
    if kernel is None:
        raise Unspeakable("the sizes of its window are open")
    count = len(kernel)
    dilations = list(_value(node, "dilations", [1] * count))
    if node.op_type in ("AveragePool", "LpPool"):
        node.attributes.pop("dilations", None)
        if dilations != [1] * count:
            raise Unspeakable(f"opset {OPSET} has no dilations of this operator")
    else:
        _set(node, "dilations", dilations)
    _set(node, "strides", list(_value(node, "strides", [1] * count)))
    if _value(node, "auto_pad", "NOTSET") == "NOTSET":
        _set(node, "pads", list(_value(node, "pads", [0] * 2 * count)))
    if weight is not None:
        _set(node, "group", int(_value(node, "group", 1)))
    if node.op_type == "LpPool":
        _drop(node, "ceil_mode", 0)


def _layer_norm(node: ir.Node, rewriter: Rewriter) -> None:
    if _input(node, 2) is None:
        scale = node.inputs[1]
        assert scale is not None
        zero = np.zeros(tuple(s.value for s in type_of(scale).shape), type_of(scale).dtype.numpy)
        node.resize_inputs(3)
        node.replace_input_with(2, rewriter.constant(zero, "beta"))
    for name, default in (("axis", -1), ("epsilon", 1e-5), ("stash_type", 1)):
        _set(node, name, _value(node, name, default))


def _transpose(node: ir.Node, rewriter: Rewriter) -> None:
    rank = _rank(node.inputs[0])
    _set(node, "perm", list(_value(node, "perm", range(rank - 1, -1, -1))))


def _axis(default: int) -> Callable[[ir.Node, Rewriter], None]:
    """A rule: the axis is said, and counted from the front."""

    def rule(node: ir.Node, rewriter: Rewriter) -> None:
        _set(node, "axis", int(_value(node, "axis", default)) % max(_rank(node.inputs[0]), 1))

    return rule


def _grid_sample(node: ir.Node, rewriter: Rewriter) -> None:
    mode = str(_value(node, "mode", "linear"))
    _set(node, "mode", {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode))
    if _rank(node.inputs[0]) != 4:
        raise Unspeakable(f"in opset {OPSET} it samples images only")


def _rank(value: ir.Value | None) -> int:
    assert value is not None
    return type_of(value).rank


_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")

_RULES: Mapping[str, Callable[[ir.Node, Rewriter], None]] = {
    **{f"Reduce{name}": _reduction for name in _REDUCTIONS},
    **dict.fromkeys(("AveragePool", "Conv", "ConvTranspose", "LpPool", "MaxPool"), _window),
    **dict.fromkeys(("LogSoftmax", "Softmax"), _axis(-1)),
    "Cast": _cast,
    "CastLike": _cast,
    "Gather": _axis(0),
    "GridSample": _grid_sample,
    "LayerNormalization": _layer_norm,
    "Pad": _pad,
    "ReduceSum": _reduce_sum,
    "Resize": _resize,
    "Shape": _shape,
    "Split": _split,
    "Transpose": _transpose,
}


# -- the schema ------------------------------------------------------------------------------------------------------


def _require_schema(node: ir.Node) -> None:
    """What a node has must be in its schema of opset 17; bf16 where a later opset added it is let through, since ATC
    reads types from the tensors."""
    from onnx import defs

    schema = defs.get_schema(node.op_type, OPSET, "")
    for name in sorted(set(node.attributes) - set(schema.attributes)):
        raise Unspeakable(f"opset {OPSET} has no attribute {name} of it")
    if len(node.inputs) > schema.max_input or len(node.outputs) > schema.max_output:
        raise Unspeakable(f"opset {OPSET} has no such inputs or outputs of it")
    _require_types(node, schema, node.inputs, schema.inputs)
    _require_types(node, schema, node.outputs, schema.outputs)


def _require_types(node: ir.Node, schema: Any, values: Sequence[ir.Value | None], formal: Sequence[Any]) -> None:
    for i, value in enumerate(values):
        if value is None or not value.name or not formal:
            continue
        told = formal[min(i, len(formal) - 1)].types
        spelled = f"tensor({_SPELLED.get(str(type_of(value).dtype), str(type_of(value).dtype))})"
        if told and spelled not in told and not (spelled == "tensor(bfloat16)" and "tensor(float)" in told):
            raise Unspeakable(f"in opset {OPSET} it takes no {type_of(value).dtype}, and {value.name!r} is")


_SPELLED = {
    **{f"i{n}": f"int{n}" for n in (8, 16, 32, 64)},
    **{f"u{n}": f"uint{n}" for n in (8, 16, 32, 64)},
    "f16": "float16",
    "f32": "float",
    "f64": "double",
    "bf16": "bfloat16",
}
