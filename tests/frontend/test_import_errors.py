"""What is wrong with a model is told with a code, a place, a cause and a way out."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tilewright.errors import ExitCode, TilewrightError, UnsupportedError
from tilewright.frontend.onnx import import_model
from tilewright.ir.graph import type_of


def text(body: str, opset: int = 17, functions: str = "", imports: str = "") -> onnx.ModelProto:
    """A model from ONNX's text form: ``body`` is a graph without its name."""
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}{imports}]> g {body} {functions}')


def code_of(source: object) -> TilewrightError:
    with pytest.raises(TilewrightError) as error:
        import_model(source)  # type: ignore[arg-type]
    assert error.value.where
    assert error.value.fix
    return error.value


FILES = [
    ("empty", b"", "not-a-model", "empty"),
    ("text", b"hello, world, this is no model", "not-a-model", ""),
    ("zip", b"PK\x03\x04" + b"\0" * 30, "not-a-model", "zip"),
    ("pickle", b"\x80\x02}q\x00.", "not-a-model", "pickle"),
    ("LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "not-a-model", "git lfs pull"),
    ("web page", b"<!DOCTYPE html><html></html>", "not-a-model", "web page"),
    ("json", b'{"a": 1}', "not-a-model", "JSON"),
    ("zeros", b"\0" * 4096, "not-a-model", ""),
    ("ones", b"\xff" * 4096, "not-a-model", ""),
    ("no graph", onnx.ModelProto(ir_version=8).SerializeToString(), "model-truncated", "no graph"),
    ("a tensor", numpy_helper.from_array(np.ones(3, np.float32), "t").SerializeToString(), "not-a-model", ""),
]


@pytest.mark.parametrize(("data", "code", "hint"), [f[1:] for f in FILES], ids=[f[0] for f in FILES])
def test_files_that_are_no_models(tmp_path: Path, data: bytes, code: str, hint: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    error = code_of(path)
    assert error.code == code
    assert hint in error.cause
    assert error.where == str(path)
    assert error.exit_code == ExitCode.INVALID_MODEL


def test_truncated(tmp_path: Path) -> None:
    weights = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    proto = text("(float[n,64] x) => (float[n,64] y) { y = MatMul(x, w) }")
    proto.graph.initializer.append(weights)
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString()[:-200])
    assert code_of(path).code == "model-truncated"


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "null"])
def test_paths_that_cannot_be_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("a\0b" if kind == "null" else "model.onnx")
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    error = code_of(path)
    assert error.code == "model-unreadable"
    assert error.exit_code == ExitCode.USAGE


GRAPHS = [
    ("cycle", "(float[2] x) => (float[2] y) { a = Add(x, b) b = Relu(a) y = Relu(b) }", "invalid-model"),
    ("two definitions", "(float[2] x) => (float[2] y) { a = Relu(x) a = Abs(x) y = Relu(a) }", "invalid-model"),
    ("input is redefined", "(float[2] x) => (float[2] y) { x = Relu(x) y = Relu(x) }", "invalid-model"),
    ("undefined output", "(float[2] x) => (float[2] y) { a = Relu(x) }", "invalid-model"),
    ("missing input", "(float[2] x) => (float[2] y) { y = Add(x) }", "invalid-model"),
    ("unknown attribute", "(float[2] x) => (float[2] y) { y = Relu<no=1>(x) }", "invalid-model"),
    ("negative size", "(float[-2] x) => (float[2] y) { y = Relu(x) }", "invalid-model"),
    ("sizes that differ", "(float[2,3] x, float[4,5] z) => (float[2,5] y) { y = MatMul(x, z) }", "shape-mismatch"),
    ("broadcast", "(float[2,3] x, float[2,4] z) => (float[2,4] y) { y = Add(x, z) }", "shape-mismatch"),
    ("axis", "(float[2,3] x) => (float[2,3] y) { y = Softmax<axis=5>(x) }", "shape-mismatch"),
    ("permutation", "(float[2,3] x) => (float[2,3] y) { y = Transpose<perm=[0,0]>(x) }", "shape-mismatch"),
]


@pytest.mark.parametrize(("graph", "code"), [g[1:] for g in GRAPHS], ids=[g[0] for g in GRAPHS])
def test_graphs_that_cannot_be(graph: str, code: str) -> None:
    assert code_of(text(graph)).code == code


def test_a_mismatch_names_node_operator_and_shapes() -> None:
    error = code_of(text("(float[n,3] x, float[4,5] z) => (float[n,5] y) { [product] y = MatMul(x, z) }"))
    assert error.where == "node 'product', MatMul(f32[n, 3], f32[4, 5])"
    assert "3 and 4 must be equal" in error.cause


def test_all_unsupported_operators_are_reported_together() -> None:
    graph = """(float[2] x) => (float[2] y) {
        a = NotAnOp(x) b = com.acme.Gelu(a) c = NotAnOp(b) d = StringSplit(c) y = Relu(d) }"""
    with pytest.raises(UnsupportedError) as error:
        import_model(text(graph, imports=', "com.acme": 1'))
    assert error.value.code == "unsupported-operators"
    assert error.value.exit_code == ExitCode.UNSUPPORTED
    names = [p.split()[0] for p in error.value.problems]
    assert names == ["NotAnOp", "StringSplit", "com.acme::Gelu"]
    assert "(2: 'a', 'c')" in error.value.problems[0]


def test_unsupported_uses_are_reported_together_too() -> None:
    graph = """(float[2,3] x, int64[n] s, float[3] v) => (float[a,b] y, float[c] z) {
        y = Reshape(x, s) z = Reshape(v, s) }"""
    with pytest.raises(UnsupportedError) as error:
        import_model(text(graph))
    assert len(error.value.problems) == 2
    assert all("depends on run-time values" in p for p in error.value.problems)


#: Control flow that only a run can follow, and what is said of it.
ENDLESS = {
    """(bool c, float[4] x) => (float[n] y) {
        y = If(c) <then_branch = t () => (float[4] a) { a = Relu(x) },
                   else_branch = e () => (float[1] b) { b = ReduceMax(x) }> }""": "its branches give f32[4] and f32[1]",
    """(int64 m, float[4] x) => (float[4] y) {
        y = Loop(m, , x) <body = b (int64 i, bool c, float[4] s) => (bool d, float[4] t) {
            d = Identity(c) t = Relu(s) }> }""": "only a run tells how often it runs",
    """(float[4] x) => (float[4] y) <bool go = {1}> {
        y = Loop(, go, x) <body = b (int64 i, bool c, float[4] s) => (bool d, float[4] t) {
            d = Identity(c) t = Relu(s) }> }""": "more often than 512 times",
    """(float[n,4] x, float[4] z) => (float[4] y) {
        y = Scan<num_scan_inputs=1, body = b (float[4] s, float[4] r) => (float[4] t) { t = Add(s, r) }>(z, x) }""": (
        "it runs n times"
    ),
    """(float[2,4] x, float[4] z) => (float[4] y) {
        y = Scan<num_scan_inputs=1, body = b (float[4] s, float[4] r) => (float[4] t) {
            t = Nothing(s, r) }>(z, x) }""": "Nothing",
}


#: Control flow whose graphs do not fit.
CROOKED = {
    """(bool c, float[4] x) => (float[4] y, float[4] z) {
        y, z = If(c) <then_branch = t () => (float[4] a) { a = Relu(x) },
                      else_branch = e () => (float[4] b) { b = Abs(x) }> }""": "its body gives 1",
    """(float[4] x) => (float[4] y) {
        y = Scan<num_scan_inputs=0, body = b (float[4] s) => (float[4] t) { t = Relu(s) }>(x) }""": "0 inputs to scan",
    """(float[4] x) => (float[4] y) {
        y = Scan<num_scan_inputs=1, body = b (float[4] s) => (float[4] t) { t = Relu(s) }>(x, x) }""": "takes 1 inputs",
    """(float[4] x) => (float[4] y) {
        y = Scan<num_scan_inputs=1, scan_input_axes=[3], body = b (float s, float r) => (float t) {
            t = Add(s, r) }>(x, x) }""": "scans axis 3",
    """(float[4] x) => (float[n,4] y) <int64 m = {-3}> {
        a, y = Loop(m, , x) <body = b (int64 i, bool c, float[4] s) => (bool d, float[4] t, float[4] u) {
            d = Identity(c) t = Relu(s) u = Abs(s) }> }""": "it never runs",
    """(float[4] x) => (float[4] y) <int64 m = {3}> {
        y = Loop(m, , x) <body = b (int64 i, bool c) => (bool d) { d = Identity(c) }> }""": "does not fit its inputs",
}


@pytest.mark.parametrize("graph", CROOKED)
def test_control_flow_that_does_not_fit(graph: str) -> None:
    with pytest.raises(TilewrightError) as error:
        import_model(text(graph))
    assert CROOKED[graph] in str(error.value) or error.value.code == "invalid-model"


def test_a_model_without_operators_of_onnx_names_those_it_has() -> None:
    graph = helper.make_graph(
        [helper.make_node("LabelEncoder", ["x"], ["y"], domain="ai.onnx.ml", keys_int64s=[1], values_int64s=[2])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.INT64, [3])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, [3])],
    )
    with pytest.raises(UnsupportedError) as error:
        import_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("ai.onnx.ml", 4)], ir_version=8))
    assert "ai.onnx.ml::LabelEncoder" in error.value.problems[0]


@pytest.mark.parametrize("graph", ENDLESS)
def test_control_flow_that_a_run_decides(graph: str) -> None:
    with pytest.raises(TilewrightError) as error:
        import_model(text(graph))
    assert ENDLESS[graph] in str(error.value)


def test_element_types_without_support() -> None:
    with pytest.raises(UnsupportedError) as error:
        import_model(
            text("(complex64[2] x, string[2] z) => (complex64[2] y, string[2] w) { y = Identity(x) w = Identity(z) }")
        )
    assert [p.split()[2] for p in error.value.problems] == ["COMPLEX64", "STRING"]


def test_what_no_output_needs_may_be_unsupported_by_shape() -> None:
    model = import_model(text("(float[2,3] x, int64[2] s) => (float[2,3] y) { a = Reshape(x, s) y = Relu(x) }"))
    assert [n.op_type for n in model.graph] == ["Relu"]


@pytest.mark.parametrize("opset", [0, 99])
def test_opsets_that_do_not_exist(opset: int) -> None:
    proto = text("(float[2] x) => (float[2] y) { y = Relu(x) }")
    proto.opset_import[0].version = opset
    assert code_of(proto).code == "opset-unsupported"


def test_functions_that_call_themselves() -> None:
    functions = """
        <domain: "f", opset_import: ["": 17, "f": 1]> A (x) => (y) { y = f.B(x) }
        <domain: "f", opset_import: ["": 17, "f": 1]> B (x) => (y) { y = f.A(x) }"""
    error = code_of(text("(float[2] x) => (float[2] y) { y = f.A(x) }", functions=functions, imports=', "f": 1'))
    assert error.code == "invalid-model"
    assert "calls itself" in error.cause


def test_functions_that_multiply() -> None:
    """Thirty functions, each calling the next twice, stand for a billion nodes."""
    functions = "".join(
        f"""<domain: "f", opset_import: ["": 17, "f": 1]> F{i} (x) => (y) {{ a = f.F{i + 1}(x) y = f.F{i + 1}(a) }}\n"""
        for i in range(30)
    )
    functions += '<domain: "f", opset_import: ["": 17]> F30 (x) => (y) { y = Relu(x) }'
    error = code_of(text("(float[2] x) => (float[2] y) { y = f.F0(x) }", functions=functions, imports=', "f": 1'))
    assert error.code == "model-too-large"


def test_duplicate_initializers() -> None:
    proto = text("(float[2] x) => (float[2] y) { y = Add(x, w) }")
    proto.graph.initializer.extend([numpy_helper.from_array(np.ones(2, np.float32), "w")] * 2)
    assert code_of(proto).code == "duplicate-name"


@pytest.mark.parametrize(
    ("dims", "raw", "code"),
    [
        ([3], b"\0" * 8, "tensor-length"),
        ([2**40, 2**40], b"\0" * 8, "tensor-length"),
        ([-2], b"\0" * 8, "invalid-model"),
        ([1], b"\0" * 4096, "tensor-length"),
    ],
    ids=["short", "absurd", "negative", "long"],
)
def test_tensors_that_do_not_add_up(tmp_path: Path, dims: list[int], raw: bytes, code: str) -> None:
    proto = text("(float[2] x) => (float[2] y) { y = Add(x, w) }")
    proto.graph.initializer.append(TensorProto(name="w", data_type=1, dims=dims, raw_data=raw))
    assert code_of(proto).code == code
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    assert code_of(path).code == code


def test_no_rank_and_how_to_give_one() -> None:
    proto = text("(float[2] x) => (float[2] y) { y = Relu(x) }")
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    assert code_of(proto).code == "input-rank-unknown"
    assert str(type_of(import_model(proto, {"x": ("4", "N")}).graph.outputs[0])) == "f32[4, N]"


def test_expressions_that_explode() -> None:
    """Squaring a size forty times would give a polynomial of 2**40 terms, or a number of that many bits: it is read
    when the model runs."""
    for size in ("Add(n, m)", "Identity(k)"):
        squares = " ".join(f"q{i + 1} = Mul(q{i}, q{i})" for i in range(40))
        graph = f"""(float[a,b] x) => (float[c] y) <int64 k = {{3}}, int64 i0 = {{0}}, int64 i1 = {{1}}> {{
            s = Shape(x) n = Gather(s, i0) m = Gather(s, i1) q0 = {size} {squares}
            u = Unsqueeze(q40, z) y = ConstantOfShape(u) }}"""
        proto = text(graph)
        proto.graph.initializer.append(helper.make_tensor("z", TensorProto.INT64, [1], [0]))
        (output,) = import_model(proto).graph.outputs
        assert len(str(type_of(output))) < 20


def test_dimensions_that_limit_one_another_without_end() -> None:
    """Every table is one row shorter than the one before, so that each would start inference again."""
    names = [f"t{i}" for i in range(400)]
    tables = ", ".join(f"float[{1000 - i},1] {n}" for i, n in enumerate(names))
    lookups = " ".join(f"g{i} = Gather({n}, p)" for i, n in enumerate(names))
    graph = f"""(float[n] x, {tables}) => (float[m,k] y) <int64 z = {{0}}, int64 o = {{1}}> {{
        s = Shape(x) q = Squeeze(s) p = Range(z, q, o) {lookups} y = Sum({", ".join(f"g{i}" for i in range(400))}) }}"""
    assert code_of(text(graph)).code == "unsupported-operators"
