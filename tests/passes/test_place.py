"""Which nodes the host part computes, and how a graph is cut into regions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper
from tilewright.entries import entries_of, import_entries
from tilewright.options import Options
from tilewright.passes.canonicalize.eliminate_dead_code import EliminateDeadCode
from tilewright.passes.place import Region, near_host, place

X = "float[N, 4] x"


def graph(body: str, outputs: str, inputs: str = X) -> ir.Model:
    """An imported graph: ``w`` is a weight."""
    text = f'<ir_version: 10, opset_import: ["" : 21]>\ng ({inputs}) => ({outputs}) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((4, 4), np.float32), "w"))
    (imported,) = import_entries(entries_of(model), Options(targets=("xla:cpu",))).values()
    EliminateDeadCode().run(imported)
    return imported


def regions(model: ir.Model, host: Sequence[str], settle: bool = True) -> list[str]:
    """Each region as ``device: A B`` or ``host: A B``; operators of ``host`` are on the host."""
    reasons = {node for node in model.graph if node.op_type in host}
    reasons |= set(near_host(model, reasons.__contains__)) if settle else set()
    return [told(region) for region in place(model, reasons.__contains__)]


def told(region: Region) -> str:
    return f"{'host' if region.on_host else 'device'}: {' '.join(n.op_type for n in region.nodes)}"


CASES = {
    "all on the device": ("a = MatMul(x, w) y = Relu(a)", "float[N, 4] y", (), ["device: MatMul Relu"]),
    "one region where no host node is between": (
        "a = MatMul(x, w) b = Sigmoid(x) y = Add(a, b) z = Hardmax(a)",
        "float[N, 4] y, float[N, 4] z",
        ("Hardmax",),
        ["device: MatMul Sigmoid Add", "host: Hardmax"],
    ),
    "the device before and after": (
        "a = MatMul(x, w) b = Hardmax(a) y = MatMul(b, w)",
        "float[N, 4] y",
        ("Hardmax",),
        ["device: MatMul", "host: Hardmax", "device: MatMul"],
    ),
    "a cheap node between host nodes does not come to the device": (
        "a = MatMul(x, w) b = Hardmax(a) c = Relu(b) d = Transpose<perm = [1, 0]>(c) e = Hardmax(d) y = MatMul(e, e2)",
        "float[4, 4] y",
        ("Hardmax",),
        ["device: MatMul", "host: Hardmax Relu Transpose Hardmax", "device: MatMul"],
    ),
    "what is given and goes to the host stays there": (
        "a = Neg(x) b = Hardmax(a) y = MatMul(b, w)",
        "float[N, 4] y",
        ("Hardmax",),
        ["host: Neg Hardmax", "device: MatMul"],
    ),
    "what the host makes for the caller stays there": (
        "a = MatMul(x, w) b = Hardmax(a) y = Neg(b)",
        "float[N, 4] y",
        ("Hardmax",),
        ["device: MatMul", "host: Hardmax Neg"],
    ),
    "a product comes to the device": (
        "a = Hardmax(x) b = MatMul(a, w) y = Hardmax(b)",
        "float[N, 4] y",
        ("Hardmax",),
        ["host: Hardmax", "device: MatMul", "host: Hardmax"],
    ),
    "so does a cheap node that a product needs": (
        "a = Hardmax(x) b = Neg(a) c = MatMul(b, w) y = Hardmax(c) z = Hardmax(b)",
        "float[N, 4] y, float[N, 4] z",
        ("Hardmax",),
        ["host: Hardmax", "device: Neg MatMul", "host: Hardmax Hardmax"],
    ),
    "cheap nodes by themselves stay on the device": (
        "a = Neg(x) y = Relu(a) b = MatMul(x, w) z = Hardmax(b)",
        "float[N, 4] y, float[N, 4] z",
        ("Hardmax",),
        ["device: Neg Relu MatMul", "host: Hardmax"],
    ),
    "alternating as little as the longest chain": (
        "a = Hardmax(x) b = MatMul(a, w) c = MatMul(x, w) d = Hardmax(c) y = Add(b, d)",
        "float[N, 4] y",
        ("Hardmax",),
        ["device: MatMul", "host: Hardmax Hardmax", "device: MatMul Add"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_regions(name: str) -> None:
    body, outputs, host, want = CASES[name]
    inputs = f"{X}, float[N, 4] e2" if "e2" in body else X
    assert regions(graph(body, outputs, inputs), host) == want


def test_without_settling_cheap_nodes_cut_the_graph() -> None:
    body, outputs, host, _ = CASES["a cheap node between host nodes does not come to the device"]
    model = graph(body, outputs, f"{X}, float[N, 4] e2")
    assert len(regions(model, host, settle=False)) == 5


def test_values_between_regions() -> None:
    model = graph("a = MatMul(x, w) b = Hardmax(a) c = MatMul(b, w) y = Add(a, c)", "float[N, 4] y")
    on_host = {node for node in model.graph if node.op_type == "Hardmax"}
    first, second, third = place(model, on_host.__contains__)
    names = [[[v.name for v in side] for side in (r.inputs, r.outputs)] for r in (first, second, third)]
    assert names == [[["x"], ["a"]], [["a"], ["b"]], [["b", "a"], ["y"]]]


def test_constants_are_in_no_region() -> None:
    model = graph("k = Constant<value_floats = [1.0, 2.0, 3.0, 4.0]>() y = Add(x, k)", "float[N, 4] y")
    (region,) = place(model, lambda node: False)
    assert [v.name for v in region.inputs] == ["x"]
    assert [n.op_type for n in region.nodes] == ["Add"]
