"""Where tensors are quantized: golden lists for the zoo, and each rule on a small graph of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper
from tilewright.frontend.onnx import import_model
from tilewright.options import Options
from tilewright.passes.pipeline import canonicalization, run_pipeline
from tilewright.passes.quantize.base import Capability
from tilewright.passes.quantize.placement import Placement, place
from tilewright.selection import resolve_targets

from models.zoo import small

GOLDEN = Path(__file__).parent / "golden" / "quantize-static"


def common() -> Capability:
    """What all of the portable CPU's parts absorb."""
    return Capability.common([target for _, target in resolve_targets(Options())])


def text(placement: Placement) -> str:
    """A line for each tensor (its group, its readers) and for each contraction that stays as it is."""
    lines = []
    for t in placement.tensors:
        readers = ", ".join(f"{n.op_type} {n.name}" for n in t.readers)
        lines.append(f"{t.value.name} [{t.group}] -> {readers}")
    lines += [f"- {n.name}: {why}" for n, why in placement.refused.items()]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", ["resnet50", "mobilenetv2", "bert-base", "gpt2", "llama-prefill", "vit-b16"])
def test_zoo(name: str, tmp_path: Path, update_golden: bool) -> None:
    model = import_model(small()[name].build(tmp_path))
    run_pipeline(model, canonicalization())
    before = ir.to_proto(model).SerializeToString()
    found = text(place(model, common()))
    path = GOLDEN / f"{name}.txt"
    if update_golden:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(found, encoding="utf-8")
    assert found == path.read_text(encoding="utf-8")
    assert ir.to_proto(model).SerializeToString() == before


def canonical(nodes: str, x: str = "float[N,8,H,H]", outputs: str = "y") -> ir.Model:
    """A graph from ``result = Op(inputs) attributes; …``: ``c…`` are 1×1 filters, ``m…`` matrices, ``b…`` vectors."""
    random, made, used = np.random.default_rng(0), [], {}
    for line in nodes.split(";"):
        result, _, call = line.strip().partition(" = ")
        op, _, rest = call.partition("(")
        inputs, _, attributes = rest.partition(")")
        names = [n.strip() for n in inputs.split(",")]
        for n in names:
            shape = {"c": (8, 8, 1, 1), "m": (8, 8), "b": (8,)}.get(n[0])
            if shape and n[1:].isdigit():
                used[n] = numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), n)
        made.append(helper.make_node(op, names, [result], name=result, **eval(f"dict({attributes})")))
    proto = onnx.parser.parse_graph(f"g ({x} x) => (float {outputs.replace(',', ', float ')}) {{}}")
    proto.node.extend(made)
    proto.initializer.extend(used.values())
    for output in proto.output:
        output.type.Clear()
        output.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return import_model(helper.make_model(proto, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))


POOL = "kernel_shape=[2,2], strides=[2,2]"
#: Graphs by what they show: nodes, shape of x, outputs, and the golden text.
RULES = {
    "a chain: each input of a convolution, not the last output": (
        "a = Conv(x, c1); r = Relu(a); y = Conv(r, c2)",
        ("x [0] -> Conv a", "r [1] -> Conv y"),
    ),
    "a residual sum: the operand of the later convolution comes from its accumulator": (
        "a = Conv(x, c1); b = Conv(x, c2); s = Add(a, b); r = Relu(s); y = Conv(r, c3)",
        ("x [0] -> Conv a, Conv b", "a [1] -> Add s", "r [2] -> Conv y"),
    ),
    "an identity: it is read as integers where the stream stays in integers": (
        "r = Conv(x, c1); a = Conv(r, c2); s = Add(a, r); y = Conv(s, c3)",
        ("x [0] -> Conv r", "r [1] -> Conv a, Add s", "s [2] -> Conv y"),
    ),
    "a sum that others read as floats is one of floats": (
        "r = Conv(x, c1); a = Conv(r, c2); s = Add(a, r); z = Softmax(s); y = Conv(s, c3)",
        ("x [0] -> Conv r", "r [1] -> Conv a", "s [2] -> Conv y"),
    ),
    "a maximum passes integers on: one encoding before and after": (
        f"a = Conv(x, c1); p = MaxPool(a) {POOL}; y = Conv(p, c2)",
        ("x [0] -> Conv a", "a [1] -> MaxPool p", "p [1] -> Conv y"),
    ),
    "what is joined has one encoding": (
        "a = Conv(x, c1); b = Conv(x, c2); j = Concat(a, b) axis=2; y = Conv(j, c3)",
        ("x [0] -> Conv a, Conv b", "a [1] -> Concat j", "b [1] -> Concat j", "j [1] -> Conv y"),
    ),
    "an average takes and gives integers, each in an encoding of its own": (
        f"a = Conv(x, c1); p = AveragePool(a) {POOL}; y = Conv(p, c2)",
        ("x [0] -> Conv a", "a [1] -> AveragePool p", "p [2] -> Conv y"),
    ),
    "behind an exponential the moved result is quantized, not what was moved": (
        f"a = Conv(x, c1); e = Softmax(a); p = MaxPool(e) {POOL}; y = Conv(p, c2)",
        ("x [0] -> Conv a", "p [1] -> Conv y"),
    ),
    "an output of the model is not taken for integers that only a sum would read": (
        "z = Conv(x, c1); a = Conv(x, c2); s = Add(a, z); y = Conv(s, c3)",
        ("x [0] -> Conv z, Conv a", "s [1] -> Conv y"),
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_rule(rule: str) -> None:
    nodes, want = RULES[rule]
    outputs = "y,z" if "z = " in nodes else "y"
    model = canonical(nodes, outputs=outputs)
    assert tuple(text(place(model, common())).splitlines()) == want


def test_one_layer_left_out() -> None:
    """Its weights and its result are floats. It reads what is quantized for others: the stream stays in integers."""
    model = canonical("r = Conv(x, c1); a = Conv(r, c2); s = Add(a, r); y = Conv(s, c3)")
    found = place(model, common(), {"r", "y"})
    assert (
        text(found)
        == "x [0] -> Conv r\nr [1] -> Conv a, Add s\ns [2] -> Conv y\n- a: not among the layers that were chosen\n"
    )


def test_nothing_is_absorbed() -> None:
    """A target without kernels of integers gets no Q and no DQ."""
    found = place(canonical("y = Conv(x, c1)"), Capability())
    assert text(found) == "- y: the target has no kernel for Conv on integers\n"


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (np.full((8, 8, 1, 1), np.nan, np.float32), "its weights are not all finite"),
        (np.ones((8, 8, 1, 1), np.float64), "its weights are f64, not f32"),
    ],
)
def test_weights_that_are_not_quantized(array: np.ndarray, why: str) -> None:  # type: ignore[type-arg]
    model = canonical("y = Conv(x, c1)")
    weight = model.graph.initializers["c1"]
    weight.const_value = ir.tensor(array, name="c1")
    assert text(place(model, common())) == f"- y: {why}\n"
