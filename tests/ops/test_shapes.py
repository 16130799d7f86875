"""Shape rules over symbolic sizes: equalities are kept, integers are followed from Shape to Reshape."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from tilewright.errors import CompileError, UnsupportedError
from tilewright.frontend.onnx import import_model
from tilewright.ir.facts import assumptions, facts, notes
from tilewright.ir.graph import known_value, type_of
from tilewright.ir.symbolic import symbol
from tilewright.ops.infer import infer_model, infer_node, verify_types
from tilewright.ops.registry import operators_with_shape_rule


def imported(inputs: str, body: str, constants: str = "", outputs: str = "float y", opset: int = 20) -> ir.Model:
    text = f'<ir_version: 10, opset_import: ["": {opset}]> g ({inputs}) => ({outputs}) <{constants}> {{ {body} }}'
    model = onnx.parser.parse_model(text if constants else text.replace("<>", ""))
    result = import_model(model)
    verify_types(result)
    return result


def output(inputs: str, body: str, constants: str = "", opset: int = 20) -> str:
    return str(type_of(imported(inputs, body, constants, opset=opset).graph.outputs[0]))


I = "int64[1] m1 = {-1}, int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] eight = {8}"  # noqa: E741

RULES = [
    ("broadcast", "float[B,S,8] x, float[S,8] z", "y = Add(x, z)", "", "f32[B, S, 8]"),
    ("broadcast of 1", "float[B,1,8] x, float[B,S,1] z", "y = Mul(x, z)", "", "f32[B, S, 8]"),
    ("matmul", "float[B,H,S,D] x, float[B,H,D,T] z", "y = MatMul(x, z)", "", "f32[B, H, S, T]"),
    ("matmul of a vector", "float[B,S,D] x, float[D] z", "y = MatMul(x, z)", "", "f32[B, S]"),
    ("gemm", "float[D,N] x, float[M,D] z", "y = Gemm<transA=1,transB=1>(x, z)", "", "f32[N, M]"),
    (
        "einsum",
        "float[B,S,H,D] x, float[B,T,H,D] z",
        'y = Einsum<equation="bshd,bthd->bhst">(x, z)',
        "",
        "f32[B, H, S, T]",
    ),
    ("concat adds", "float[P,8] x, float[S,8] z", "y = Concat<axis=0>(x, z)", "", "f32[P + S, 8]"),
    (
        "concat either way",
        "float[P] x, float[S] z",
        "a = Concat<axis=0>(x, z) b = Concat<axis=0>(z, x) y = Add(a, b)",
        "",
        "f32[P + S]",
    ),
    ("transpose", "float[B,S,H,D] x", "y = Transpose<perm=[0,2,1,3]>(x)", "", "f32[B, H, S, D]"),
    ("flatten", "float[B,S,8] x", "y = Flatten<axis=2>(x)", "", "f32[B*S, 8]"),
    (
        "reshape with 0 and -1",
        "float[B,S,96] x",
        "y = Reshape(x, t)",
        "int64[4] t = {0, 0, 12, -1}",
        "f32[B, S, 12, 8]",
    ),
    ("reshape joins", "float[B,S,8] x", "y = Reshape(x, t)", "int64[2] t = {-1, 8}", "f32[B*S, 8]"),
    (
        "reshape by shape",
        "float[B,S,96] x",
        "s = Shape<start=0,end=2>(x) t = Concat<axis=0>(s, two, m1) y = Reshape(x, t)",
        I,
        "f32[B, S, 2, 48]",
    ),
    (
        "reshape there and back",
        "float[P,D] p, float[S,D] q",
        "x = Concat<axis=0>(p, q) s = Shape(x) f = Reshape(x, m1) y = Reshape(f, s)",
        I,
        "f32[P + S, D]",
    ),
    ("split", "float[B,96] x", "a, y, c = Split<axis=1,num_outputs=3>(x)", "", "f32[B, 32]"),
    ("split unevenly", "float[B,10] x", "a, b, y = Split<axis=1,num_outputs=3>(x)", "", "f32[B, 2]"),
    (
        "slice to a size",
        "float[64,8] x, float[S] z",
        "s = Shape(z) t = Slice(x, zero, s) y = Identity(t)",
        I,
        "f32[min(64, S), 8]",
    ),
    (
        "slice from the back",
        "float[B,S] x",
        "y = Slice(x, m1, e, one)",
        f"{I}, int64[1] e = {{9223372036854775807}}",
        "f32[B, 1]",
    ),
    (
        "slice backwards",
        "float[B,S] x",
        "y = Slice(x, m1, e, one, m1)",
        f"{I}, int64[1] e = {{-9223372036854775807}}",
        "f32[B, S]",
    ),
    (
        "slice by steps",
        "float[B,S] x",
        "y = Slice(x, zero, e, one, two)",
        f"{I}, int64[1] e = {{9223372036854775807}}",
        "f32[B, (S + 1) // 2]",
    ),
    ("expand by shape", "float[1,8] x, float[S,8] z", "s = Shape(z) y = Expand(x, s)", "", "f32[S, 8]"),
    ("tile", "float[B,S] x", "y = Tile(x, t)", "int64[2] t = {1, 3}", "f32[B, 3*S]"),
    ("pad", "float[B,S] x", "y = Pad(x, t)", "int64[4] t = {0, 1, 0, 2}", "f32[B, S + 3]"),
    (
        "range",
        "float[B,S] x",
        "s = Shape(x) n = Gather(s, i) y = Range(o, n, i)",
        "int64 i = {1}, int64 o = {0}",
        "i64[S]",
    ),
    ("constant of shape", "float[B,S] x", "s = Shape(x) y = ConstantOfShape(s)", "", "f32[B, S]"),
    ("gather rows", "float[100,8] x, int64[B,S] i", "y = Gather(x, i)", "", "f32[B, S, 8]"),
    ("gather one", "float[B,S,8] x", "y = Gather<axis=1>(x, i)", "int64 i = {0}", "f32[B, 8]"),
    ("reduce", "float[B,S,8] x", "y = ReduceMean<keepdims=0>(x, one)", I, "f32[B, 8]"),
    ("argmax", "float[B,S,8] x", "y = ArgMax<axis=-1,keepdims=0>(x)", "", "i64[B, S]"),
    ("top k", "float[B,S] x", "y, i = TopK(x, k)", "int64[1] k = {5}", "f32[B, 5]"),
    (
        "conv",
        "float[B,3,H,W] x, float[16,3,3,3] w",
        "y = Conv<strides=[2,2],pads=[1,1,1,1]>(x, w)",
        "",
        "f32[B, 16, (H + 1) // 2, (W + 1) // 2]",
    ),
    (
        "conv, same",
        "float[B,3,H,W] x, float[16,3,3,3] w",
        'y = Conv<auto_pad="SAME_UPPER",strides=[2,2]>(x, w)',
        "",
        "f32[B, 16, (H + 1) // 2, (W + 1) // 2]",
    ),
    (
        "conv transposed",
        "float[B,16,H,W] x, float[16,3,2,2] w",
        "y = ConvTranspose<strides=[2,2]>(x, w)",
        "",
        "f32[B, 3, 2*H, 2*W]",
    ),
    ("pool", "float[B,3,H,W] x", "y = MaxPool<kernel_shape=[2,2],strides=[2,2]>(x)", "", "f32[B, 3, H // 2, W // 2]"),
    ("resize", "float[B,3,H,W] x", "y = Resize(x, , s)", "float[4] s = {1.0, 1.0, 2.0, 0.5}", "f32[B, 3, 2*H, W // 2]"),
    (
        "where on a shape",
        "float[B,1] x, float[B,S] z",
        "s = Shape(z) c = Equal(s, m1) t = Where(c, one, s) y = Expand(x, t)",
        I,
        "f32[B, S]",
    ),
    (
        "cast sizes",
        "float[B,S] x",
        "s = Shape(x) c = Cast<to=6>(s) d = Cast<to=7>(c) y = ConstantOfShape(d)",
        "",
        "f32[B, S]",
    ),
    (
        "size arithmetic",
        "float[B,S] x",
        "s = Shape(x) d = Mul(s, two) e = Div(d, two) y = ConstantOfShape(e)",
        I,
        "f32[B, S]",
    ),
    ("product of a shape", "float[B,S] x", "s = Shape(x) d = ReduceProd(s) y = ConstantOfShape(d)", "", "f32[B*S]"),
    ("squeeze and unsqueeze", "float[B,1,S] x", "a = Squeeze(x, one) y = Unsqueeze(a, zero)", I, "f32[1, B, S]"),
    ("layer norm", "float[B,S,8] x, float[8] w", "y = LayerNormalization(x, w)", "", "f32[B, S, 8]"),
    ("quantize", "float[B,S] x, float s, int8 z", "y = QuantizeLinear(x, s, z)", "", "i8[B, S]"),
]


@pytest.mark.parametrize(("inputs", "body", "constants", "expected"), [r[1:] for r in RULES], ids=[r[0] for r in RULES])
def test_rule(inputs: str, body: str, constants: str, expected: str) -> None:
    assert output(inputs, body, constants) == expected


def test_attention_with_past() -> None:
    model = imported(
        "float[B,4,S,8] q, float[B,4,S,8] k, float[B,4,S,8] v, float[B,4,P,8] pk, float[B,4,P,8] pv",
        "y, a, b = Attention(q, k, v, , pk, pv)",
        outputs="float y, float a, float b",
        opset=23,
    )
    assert [str(type_of(v)) for v in model.graph.outputs] == ["f32[B, 4, S, 8]", *["f32[B, 4, P + S, 8]"] * 2]


def test_equal_dimensions_become_one() -> None:
    model = imported("float[batch,8] x, float[batch_1,8] z", "y = Add(x, z)")
    assert [str(type_of(v)) for v in model.graph.inputs] == ["f32[batch, 8]"] * 2
    assert set(facts(model)) == {"batch"}
    assert [n.split(" (")[0] for n in notes(model)] == ["batch_1 == batch"]
    assert not assumptions(model)


def test_a_dimension_that_is_a_sum() -> None:
    model = imported("float[P] p, float[S] s, float[T] m", "a = Concat<axis=0>(p, s) y = Add(a, m)")
    assert [str(type_of(v)) for v in model.graph.inputs] == ["f32[P]", "f32[S]", "f32[P + S]"]


def test_a_table_bounds_a_dimension() -> None:
    model = imported(
        "float[B,S,4] x, float[16,4] table",
        "s = Shape<start=1,end=2>(x) part = Slice(table, zero, s) y = Add(x, part)",
        "int64[1] zero = {0}",
    )
    assert str(type_of(model.graph.outputs[0])) == "f32[B, S, 4]"
    assert facts(model)["S"].hi == 16


POSITIONS = """s = Shape(x) n = Gather(s, o) p = Range(z, n, o) u = Unsqueeze(p, zero) q = Add(u, k)
    e = Gather(table, q) y = Add(x, e)"""
POSITION_CONSTANTS = f"{I}, int64 o = {{1}}, int64 z = {{0}}, int64 k = {{2}}"


def test_positions_bound_a_dimension() -> None:
    model = imported("float[B,S,4] x, float[16,4] table", POSITIONS, POSITION_CONSTANTS)
    assert str(type_of(model.graph.outputs[0])) == "f32[B, S, 4]"
    assert facts(model)["S"].hi == 14
    assert [n.split(" (")[0] for n in notes(model)] == ["S <= 14"]


def test_positions_in_a_table_of_open_size_are_assumed_to_fit() -> None:
    model = imported("float[B,S,4] x, float[T,4] table", POSITIONS, POSITION_CONSTANTS)
    (assumption,) = assumptions(model)
    sizes = {"S": 5, "T": 7}
    assert assumption.left.evaluate(sizes) == assumption.right.evaluate(sizes)
    assert assumption.left.evaluate(sizes | {"S": 6}) != assumption.right.evaluate(sizes | {"S": 6})


def test_a_constant_index_beyond_the_end() -> None:
    with pytest.raises(CompileError, match="9 exceeds 7"):
        imported("float[8,4] x", "y = Gather(x, i)", "int64[2] i = {0, 9}")


def test_what_cannot_be_solved_is_assumed() -> None:
    model = imported("float[N] x", "a = Reshape(x, t) y = Reshape(a, u)", "int64[2] t = {-1, 4}, int64[1] u = {-1}")
    assert str(type_of(model.graph.outputs[0])) == "f32[4*(N // 4)]"
    (assumption,) = assumptions(model)
    assert {str(assumption.left), str(assumption.right)} == {"N", "4*(N // 4)"}


def test_sizes_known_at_run_time_only() -> None:
    model = imported("float[N,4] x", "i = NonZero(x) t = Transpose(i) y = Cast<to=1>(t)")
    (_, nonzero) = sorted(facts(model))
    assert str(type_of(model.graph.outputs[0])) == f"f32[{nonzero}, 2]"
    assert facts(model)[nonzero].lo == 0


def test_sizes_that_cannot_fit() -> None:
    with pytest.raises(CompileError) as error:
        imported("float[P,4] p, float[P,4] q", "a = Concat<axis=0>(p, q) b = Concat<axis=0>(a, p) y = Add(b, a)")
    assert error.value.code == "shape-mismatch"


def test_axes_that_a_run_gives() -> None:
    for keep, rank in ((0, 1), (1, 2)):
        model = imported("float[B,S] x, int64[1] a", f"y = ReduceSum<keepdims={keep}>(x, a)")
        assert type_of(model.graph.outputs[0]).rank == rank


def test_axes_of_unknown_number_are_unsupported() -> None:
    with pytest.raises(UnsupportedError, match="how many is not known"):
        imported("float[B,S] x, int64[N] a", "y = ReduceSum(x, a)")


def test_known_integers_are_symbolic() -> None:
    model = imported("float[B,S] x", "s = Shape(x) y = Add(s, s)", outputs="int64[2] y")
    known = known_value(model.graph.outputs[0])
    assert known is not None
    assert [str(e) for e in known] == ["2*B", "2*S"]


def test_arithmetic_that_wraps_is_not_followed() -> None:
    body = "a = Sub(k, l) c = Cast<to=7>(a) y = ConstantOfShape(c)"
    model = imported("float[B] x", f"{body} z = Relu(x)", "uint8[1] k = {1}, uint8[1] l = {2}", outputs="float y")
    assert type_of(model.graph.outputs[0]).shape == (symbol("c_0"),)  # read at run time: neither 255 nor -1


def test_a_new_node_gets_its_type() -> None:
    model = imported("float[B,S] x", "y = Relu(x)")
    node = ir.node("Transpose", [model.graph.inputs[0]])
    model.graph.append(node)
    infer_node(model, node)
    assert str(type_of(node.outputs[0])) == "f32[S, B]"


def test_inference_again_changes_nothing() -> None:
    model = imported("float[batch,8] x, float[batch_1,8] z", "a = Add(x, z) y = NonZero(a)", outputs="int64 y")

    def state() -> tuple[object, ...]:
        types = [str(type_of(v)) for node in model.graph for v in (*node.inputs, *node.outputs) if v is not None]
        return types, facts(model), notes(model), assumptions(model)

    before = state()
    assert before[2]
    infer_model(model)
    assert state() == before


def test_there_are_many_operators() -> None:
    assert len(operators_with_shape_rule()) >= 170
