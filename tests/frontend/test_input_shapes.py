"""``--input-shape``: its spelling, and what it does to the dimensions of a model."""

from __future__ import annotations

import onnx
import pytest
from tilewright.errors import ExitCode, TilewrightError, UsageError
from tilewright.frontend.input_shapes import parse_input_shape
from tilewright.frontend.onnx import import_model
from tilewright.ir.facts import dimension_names, facts, notes
from tilewright.ir.graph import type_of


@pytest.mark.parametrize(
    ("text", "name", "sizes"),
    [
        ("x:1x3x224x224", "x", ("1", "3", "224", "224")),
        ("x:1..32x3x224x224", "x", ("1..32", "3", "224", "224")),
        ("x[1,3,224,224]", "x", ("1", "3", "224", "224")),
        ("x:1,3,224,224", "x", ("1", "3", "224", "224")),
        ("x: 1, N=1..32, ?", "x", ("1", "N=1..32", "?")),
        ("input:0:4x8", "input:0", ("4", "8")),
        ("input:0[4,8]", "input:0", ("4", "8")),
        ("x:batch", "x", ("batch",)),
        ("x:batch,max_len", "x", ("batch", "max_len")),
        ("x:1..", "x", ("1..",)),
        ("x[]", "x", ()),
    ],
)
def test_spellings(text: str, name: str, sizes: tuple[str, ...]) -> None:
    assert parse_input_shape(text) == (name, sizes)


@pytest.mark.parametrize(
    "text", ["x", "x:", ":1x2", "x:1xx2", "x:-1", "x:1.5", "x:3..1", "x:1x2,3", "x:a=", "x:..", "x:1 2", ""]
)
def test_spellings_that_are_none(text: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_input_shape(text)
    assert error.value.code == "input-shape-syntax"
    assert error.value.exit_code == ExitCode.USAGE


def model(inputs: str = "float[batch,3,size] x", body: str = "y = Relu(x)") -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g ({inputs}) => (float y) {{ {body} }}')


def shape(source: onnx.ModelProto, **sizes: tuple[str, ...]) -> str:
    imported = import_model(source, sizes)
    return str(type_of(imported.graph.inputs[0]))


@pytest.mark.parametrize(
    ("sizes", "expected", "bounds"),
    [
        (None, "f32[batch, 3, size]", {"batch": (1, 2**62), "size": (1, 2**62)}),
        (("8", "3", "?"), "f32[8, 3, size]", {"size": (1, 2**62)}),
        (("1..32", "?", "?"), "f32[batch, 3, size]", {"batch": (1, 32), "size": (1, 2**62)}),
        (("0..", "3", "224"), "f32[batch, 3, 224]", {"batch": (0, 2**62)}),
        (("N", "3", "M=4..8"), "f32[N, 3, M]", {"N": (1, 2**62), "M": (4, 8)}),
        (("N=1..4", "1..9", "N=2..8"), "f32[N, 3, N]", {"N": (2, 4)}),
        (("N", "3", "N=4"), "f32[4, 3, 4]", {}),
    ],
)
def test_sizes(sizes: tuple[str, ...] | None, expected: str, bounds: dict[str, tuple[int, int]]) -> None:
    imported = import_model(model(), {"x": sizes} if sizes else None)
    assert str(type_of(imported.graph.inputs[0])) == expected
    assert str(type_of(imported.graph.outputs[0])) == expected
    assert {n: (r.lo, r.hi) for n, r in facts(imported).items()} == bounds


@pytest.mark.parametrize(
    ("shapes", "code", "hint"),
    [
        ({"X": ("1", "3", "4")}, "input-shape-name", "did you mean 'x'?"),
        ({"x": ("1", "3")}, "input-shape-rank", "2 sizes for an input of 3 axes (batch, 3, size)"),
        ({"x": ("1", "4", "4")}, "input-shape-conflict", "the size is 3"),
        ({"x": ("1", "C", "4")}, "input-shape-conflict", "the size is 3"),
        ({"x": ("1", "4..8", "4")}, "input-shape-conflict", "the size is 3"),
        ({"x": ("N=1..4", "3", "N=5..8")}, "input-shape-conflict", "1..4 and 5..8"),
        ({"x": ("N=2", "3", "N=3")}, "input-shape-conflict", "2..2 and 3..3"),
        ({"x": ("one", "3", "-4")}, "input-shape-syntax", "'-4' is no size"),
    ],
)
def test_conflicts(shapes: dict[str, tuple[str, ...]], code: str, hint: str) -> None:
    with pytest.raises(TilewrightError) as error:
        import_model(model(), shapes)
    assert error.value.code == code
    assert hint in error.value.cause


def test_one_name_is_one_size_in_all_inputs() -> None:
    source = model("float[n,4] x, float[n,4] z", "y = Add(x, z)")
    assert [str(v.shape) for v in import_model(source, {"z": ("7", "?")}).graph.inputs] == ["[7,4]", "[7,4]"]
    with pytest.raises(UsageError) as error:
        import_model(source, {"x": ("6", "?"), "z": ("7", "?")})
    assert error.value.code == "input-shape-conflict"


def test_names_become_identifiers_and_stay_apart() -> None:
    proto = model("float[a,b,c,d,e,f] x")
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    for dim, name in zip(dims, ("batch-size", "batch size", "lambda", "2d", "größe", ""), strict=True):
        dim.Clear()
        if name:
            dim.dim_param = name
    imported = import_model(proto)
    sizes = [str(s) for s in type_of(imported.graph.inputs[0]).shape]
    assert len(set(sizes)) == 6
    assert all(s.isidentifier() and s.isascii() for s in sizes)
    assert [dimension_names(imported)[s] for s in sizes] == ["batch-size", "batch size", "lambda", "2d", "größe", "x_5"]


def test_a_name_that_is_a_sum_of_names() -> None:
    proto = model("float[past] p, float[new] q, float[t] x", "a = Concat<axis=0>(p, q) y = Add(a, x)")
    proto.graph.input[2].type.tensor_type.shape.dim[0].dim_param = "past + new"
    imported = import_model(proto, {"p": ("0..100",), "q": ("1",)})
    assert str(type_of(imported.graph.inputs[2])) == "f32[past + 1]"
    assert str(type_of(imported.graph.outputs[0])) == "f32[past + 1]"
    assert not notes(imported)


def test_a_bound_beyond_what_the_model_can_do_is_refused() -> None:
    source = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        g (float[n] x) => (float[n] y)
        <float[8] table = {1,2,3,4,5,6,7,8}, int64[1] zero = {0}> {
            s = Shape(x) part = Slice(table, zero, s) y = Add(x, part) }""")
    assert facts(import_model(source))["n"].hi == 8
    assert facts(import_model(source, {"x": ("1..4",)}))["n"].hi == 4
    with pytest.raises(TilewrightError) as error:
        import_model(source, {"x": ("1..16",)})
    assert error.value.code == "shape-mismatch"
    assert "n is at most 8" in error.value.cause
