"""``ge-air``: GE's operators as their signatures have them, and the source's numbers by an interpreter of graphs."""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser
from onnx.reference import ReferenceEvaluator
from tilewright.accuracy import compare
from tilewright.backends.ascend.graph_route.ge_graph import GeGraph, Untyped
from tilewright.backends.ascend.graph_route.ge_message import FIELDS
from tilewright.backends.ascend.graph_route.ge_operators import FORMS
from tilewright.backends.ascend.graph_route.ge_signature import signature_of
from tilewright.errors import InternalError, UnsupportedError, UsageError
from tilewright.graph_export import export_graph
from tilewright.ir.types import DType, TensorType
from tilewright.options import Options, Precision

from models import zoo
from tests.ascend import ge_interpreter

ort = pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parents[2]
SMALL = zoo.small()
MODELS = ("resnet50", "mobilenetv2", "vit-b16", "bert-base", "gpt2", "llama-decode", "llama-decode-static")
REPEATED = {
    ("ModelDef", "graph"),
    ("ModelDef", "attr"),
    *(("GraphDef", n) for n in ("input", "output", "op", "attr")),
    *(("OpDef", n) for n in ("input", "attr", "input_desc", "output_desc")),
    *(("ListValue", n) for n in "sifb"),
    ("ShapeDef", "dim"),
}


def exported(source: Path | onnx.ModelProto, folder: Path, target: str = "ascend:910b3", **options: Any) -> Path:
    export_graph(source, "ge-air", folder, Options((target,), **options))
    return folder


def shapes_of(name: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple((k, tuple(map(str, v))) for k, v in SMALL[name].input_shapes.items())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, tuple[Path, Path]]:
    """The source of each model and the folder of its graph."""
    folder = tmp_path_factory.mktemp("zoo")
    built = {name: SMALL[name].build(folder) for name in MODELS}
    return {n: (p, exported(p, folder / n, input_shapes=shapes_of(n))) for n, p in built.items()}


def read(folder: Path) -> Any:
    model = ge_interpreter.model_class(ge_interpreter.descriptor_of(FIELDS, REPEATED))()
    model.ParseFromString((folder / "model.air").read_bytes())
    return model


def attributes(op: Any) -> dict[str, Any]:
    return {entry.key: entry.value for entry in op.attr}


@pytest.mark.parametrize("name", MODELS)
def test_zoo(name: str, written: Mapping[str, tuple[Path, Path]]) -> None:
    source, folder = written[name]
    model = read(folder)
    (graph,) = model.graph
    assert len({op.name for op in graph.op}) == len(graph.op)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    reference = ort.InferenceSession(str(source), options)
    for batch, length in SMALL[name].checks[:2]:
        feed = SMALL[name].feed(batch, length)
        wanted = reference.run(None, feed)
        for want, got in zip(wanted, ge_interpreter.run(model, feed, attributes), strict=True):
            assert (done := compare(name, got, want)).ok, done


def test_every_operator_is_used_as_its_signature_has_it(written: Mapping[str, tuple[Path, Path]]) -> None:
    """Read back: inputs by name and in order, attributes by name, element types."""
    seen = set()
    for _, folder in written.values():
        for op in read(folder).graph[0].op:
            if op.type in ("Data", "Const", "NetOutput"):
                continue
            seen.add(op.type)
            signature = signature_of(op.type)
            assert signature is not None, op.type
            names = [p.name for p in signature.inputs]
            told = [d.name.rstrip("0123456789") if d.name not in names else d.name for d in op.input_desc]
            assert [n for n in names if n in told] == list(dict.fromkeys(told)), op.type
            assert len(op.input) == len(op.input_desc)
            required = {p.name for p in signature.inputs if not p.many}
            assert required <= {d.name for d, s in zip(op.input_desc, op.input, strict=True) if s}
            assert set(attributes(op)) <= set(signature.attributes)
            assert {a.name for a in signature.attributes.values() if a.required} <= set(attributes(op))
    assert len(seen) > 25


def test_the_same_bytes_each_time(written: Mapping[str, tuple[Path, Path]], tmp_path: Path) -> None:
    source, first = written["llama-decode"]
    again = exported(source, tmp_path, input_shapes=shapes_of("llama-decode"))
    for file in first.iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_16_bits(precision: str, written: Mapping[str, tuple[Path, Path]], tmp_path: Path) -> None:
    source, _ = written["llama-decode"]
    wanted = Precision(precision, allowed=("f32",))
    folder = exported(source, tmp_path, input_shapes=shapes_of("llama-decode"), precision=wanted)
    number = {"fp16": 2, "bf16": 27}[precision]
    products = [op for op in read(folder).graph[0].op if op.type in ("MatMulV2", "BatchMatMulV2")]
    assert products and {op.output_desc[0].dtype for op in products} == {number}


def test_nothing_is_written_for_gears(written: Mapping[str, tuple[Path, Path]], tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        exported(written["bert-base"][0], tmp_path, input_shapes=shapes_of("bert-base"), buckets=(("batch", (1, 2)),))
    assert error.value.code == "air-gears"


FORMS_ALONE = {
    "ArgMax": "m (float[4,8] x) => (int64[4,1] y) { y = ArgMax<axis=1>(x) }",
    "ArgMin": "m (float[4,8] x) => (int64[8] y) { y = ArgMin<axis=0, keepdims=0>(x) }",
    "AveragePool": "m (float[1,2,6,6] x) => (float[a,b,c,d] y) { y = AveragePool<kernel_shape=[2,3]>(x) }",
    "Clip": "m (float[4,8] x) => (float[4,8] y) { h = Constant<value_float=0.5>()\n y = Clip(x, , h) }",
    "ConstantOfShape": "m (int64[2] x) => (float[a,b] y) { y = ConstantOfShape(x) }",
    "CumSum": "m (float[4,8] x) => (float[4,8] y) { a = Constant<value_int=1>()\n y = CumSum<reverse=1>(x, a) }",
    "DivInteger": "m (int32[4] x, int32[4] z) => (int32[4] y) { y = Div(x, z) }",
    "Max": "m (float[4] x, float[4] z, float[4] w) => (float[4] y) { y = Max(x, z, w) }",
    "Pad": "m (float[4,8] x) => (float[a,b] y) { p = Constant<value_ints=[1,0,0,2]>()\n y = Pad(x, p) }",
    "SliceBool": "m (bool[4,8] x) => (bool[a,b] y) { s = Constant<value_ints=[1]>()\n e = Constant<value_ints=[3]>()\n"
    " y = Slice(x, s, e) }",
    "Split": "m (float[7,2] x) => (float[a,2] y, float[b,2] z) { y, z = Split<num_outputs=2>(x) }",
    "TopK": "m (float[4,8] x) => (float[4,3] y, int64[4,3] i) { k = Constant<value_ints=[3]>()\n y, i = TopK(x, k) }",
    "Trilu": "m (float[4,8] x) => (float[4,8] y) { y = Trilu<upper=0>(x) }",
}


@pytest.mark.parametrize("case", FORMS_ALONE)
def test_forms(case: str, tmp_path: Path) -> None:
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 24]>\n{FORMS_ALONE[case]}')
    folder = exported(model, tmp_path)
    rng, feed = np.random.default_rng(7), {}
    for value in model.graph.input:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        wide = rng.integers(1, 4, shape) if dtype.kind == "i" else rng.standard_normal(shape)
        feed[value.name] = (wide > 0) if dtype.kind == "b" else wide.astype(dtype)
    wanted = ReferenceEvaluator(model).run(None, feed)
    for want, got in zip(wanted, ge_interpreter.run(read(folder), feed, attributes), strict=True):
        assert (done := compare(case, got, np.asarray(want))).ok, done


REFUSED = {
    "Xor": ("m (bool[4] x, bool[4] z) => (bool[4] y) { y = Xor(x, z) }", "no form"),
    "uint8": ("m (uint32[4] x, uint32[4] z) => (uint32[4] y) { y = Add(x, z) }", "Add takes no u32"),
    "bf16": ("m (bfloat16[4,N] x) => (int64[2] y) { y = Shape(x) }", "Shape takes no bf16"),
    "vector": ("m (float[4,8] x, float[8] z) => (float[4] y) { y = MatMul(x, z) }", "vectors"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, tmp_path: Path) -> None:
    body, reason = REFUSED[case]
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 24]>\n{body}')
    with pytest.raises(UnsupportedError, match=reason) as error:
        exported(model, tmp_path / "a")
    assert error.value.exit_code == 4 and not (tmp_path / "a").exists()


# -- the builder refuses ---------------------------------------------------------------------------------------------

F32 = TensorType.of(DType.F32, 4, 4)


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes", "error"),
    [
        ("Relu", ("x",), {}, None),
        ("Nobody", ("x",), {}, InternalError),
        ("Relu", (), {}, InternalError),
        ("Relu", ("y",), {}, InternalError),
        ("Relu", ("x",), {"alpha": 1.0}, InternalError),
        ("Conv2D", ("x", "filter"), {"pads": [0] * 4}, InternalError),
        ("LogicalNot", ("x",), {}, Untyped),
    ],
)
def test_the_builder_knows_signatures(
    operator: str, inputs: tuple[str, ...], attributes: dict[str, Any], error: type[Exception] | None
) -> None:
    graph = GeGraph()
    x = graph.data(0, "x", F32, "ND")
    if error is None:
        graph.add(operator, "n", dict.fromkeys(inputs, x), [F32], attributes)
        return
    with pytest.raises(error):
        graph.add(operator, "n", dict.fromkeys(inputs, x), [F32], attributes)


def test_every_form_is_of_operators_that_gates_know() -> None:
    onnx_names = {s.name for s in onnx.defs.get_all_schemas()}
    assert set(FORMS) <= onnx_names


def test_hostile_names_cannot_point_elsewhere() -> None:
    graph = GeGraph()
    names = [graph.data(i, n, F32, "ND").operator for i, n in enumerate(("a:0", "a:0", "a\n0", "é" * 500))]
    assert len(set(names)) == 4 and all(len(n) < 220 and ":" not in n for n in names)


# -- beside the wheel ------------------------------------------------------------------------------------------------


@pytest.fixture
def wheel(request: pytest.FixtureRequest) -> Path:
    folder = request.config.getoption("--torch-npu")
    if not folder:
        pytest.skip("no unpacked wheel torch-npu named (--torch-npu FOLDER)")
    return Path(folder)


def test_the_table_is_that_of_the_wheel(wheel: Path) -> None:
    sys.path.insert(0, str(ROOT / "scripts"))
    from ge_signatures import TABLE, table, version_of

    assert TABLE.read_text(encoding="utf-8") == table(wheel, version_of(wheel))


def test_the_wheels_own_protobuf_reads_it(wheel: Path, written: Mapping[str, tuple[Path, Path]]) -> None:
    """Every field is known there, the message is written back byte for byte, and its attributes say the same."""
    path = wheel / "torch_npu/dynamo/torchair/_ge_concrete_graph/ge_ir_by_protoc_3_19_pb2.py"
    constants = (n.value for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Constant))
    (serialized,) = {c for c in constants if isinstance(c, bytes) and c.startswith(b"\n\x0bge_ir.proto")}
    kind = ge_interpreter.model_class(serialized)
    for name, (_, folder) in written.items():
        data = (folder / "model.air").read_bytes()
        theirs = kind()
        theirs.ParseFromString(data)
        before = theirs.SerializeToString(deterministic=True)
        theirs.DiscardUnknownFields()
        assert theirs.SerializeToString(deterministic=True) == before and len(before) == len(data), name
        feed = SMALL[name].feed(*SMALL[name].checks[0])
        ours = ge_interpreter.run(read(folder), feed, attributes)
        again = ge_interpreter.run(theirs, feed, lambda op: op.attr)
        assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(ours, again, strict=True))
