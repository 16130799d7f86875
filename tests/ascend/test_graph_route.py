"""``onnx-atc``: what is written computes what the source does, ATC's parser takes it, and it is always the same."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, parser
from onnx.reference import ReferenceEvaluator
from tilewright.accuracy import compare
from tilewright.backends.ascend.graph_route.accepted import OPSET, registered
from tilewright.backends.ascend.graph_route.atc import AtcRoute
from tilewright.backends.ascend.graph_route.gears import gears_of
from tilewright.errors import PrecisionError, UnsupportedError, UsageError
from tilewright.frontend.onnx import import_model
from tilewright.graph_export import export_graph
from tilewright.options import Options, Precision

from models import zoo

ort = pytest.importorskip("onnxruntime")

Array = np.ndarray[Any, Any]
SMALL = zoo.small()
MODELS = ("resnet50", "vit-b16", "bert-base", "gpt2", "llama-decode", "llama-decode-static")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("zoo")
    return {name: SMALL[name].build(folder) for name in MODELS}


@pytest.fixture(scope="module")
def written_zoo(built: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("exported")
    return {name: exported(built[name], folder / name, input_shapes=shapes_of(name)) for name in MODELS}


def shapes_of(name: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple((k, tuple(map(str, v))) for k, v in SMALL[name].input_shapes.items())


def exported(source: Path | onnx.ModelProto, folder: Path, target: str = "ascend:910b3", **options: Any) -> Path:
    export_graph(source, "onnx-atc", folder, Options((target,), **options))
    return folder


def session(path: Path) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options)


def run(path: Path, feed: Mapping[str, Array]) -> dict[str, Array]:
    s = session(path)
    return dict(zip([o.name for o in s.get_outputs()], s.run(None, dict(feed)), strict=True))


def text_model(body: str, opset: int = 24) -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]>\n{body}')


@pytest.mark.parametrize("name", MODELS)
def test_zoo(name: str, built: Mapping[str, Path], written_zoo: Mapping[str, Path]) -> None:
    folder = written_zoo[name]
    written = onnx.load(folder / "model.onnx")
    onnx.checker.check_model(written, full_check=True)
    assert [(o.domain, o.version) for o in written.opset_import] == [("", OPSET)]
    assert not written.functions
    assert {n.op_type for n in written.graph.node} <= set(registered())
    names = [n.name for n in written.graph.node]
    assert all(names) and len(set(names)) == len(names)
    old, new = session(built[name]), session(folder / "model.onnx")
    outputs = [o.name for o in old.get_outputs()]
    assert [o.name for o in new.get_outputs()] == outputs
    for batch, length in SMALL[name].checks:
        feed = SMALL[name].feed(batch, length)
        for output, want, got in zip(outputs, old.run(None, feed), new.run(None, feed), strict=True):
            assert (done := compare(output, got, want)).ok, done


@pytest.mark.parametrize("name", MODELS)
def test_what_was_exported_exports_as_it_is(name: str, written_zoo: Mapping[str, Path], tmp_path: Path) -> None:
    first = written_zoo[name]
    twice = exported(first / "model.onnx", tmp_path, input_shapes=shapes_of(name))
    assert sorted(f.name for f in first.iterdir()) == ["README.md", "atc.sh", "model.onnx", "op_precision.ini"]
    assert (twice / "model.onnx").read_bytes() == (first / "model.onnx").read_bytes()
    assert (twice / "atc.sh").read_bytes() == (first / "atc.sh").read_bytes()


def test_the_same_bytes_each_time(built: Mapping[str, Path], written_zoo: Mapping[str, Path], tmp_path: Path) -> None:
    again = exported(built["llama-decode"], tmp_path, input_shapes=shapes_of("llama-decode"))
    for file in written_zoo["llama-decode"].iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes()


def test_weights_beside_it(
    built: Mapping[str, Path], written_zoo: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = written_zoo["bert-base"]
    monkeypatch.setattr(AtcRoute.__init__, "__defaults__", (0,))
    apart = exported(built["bert-base"], tmp_path / "apart", input_shapes=shapes_of("bert-base"))
    light = onnx.load(apart / "model.onnx", load_external_data=False)
    outside = [t for t in light.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    assert outside and (apart / "model.weights").stat().st_size > 100_000
    assert {e.key for t in outside for e in t.external_data} == {"location", "offset", "length"}
    feed = SMALL["bert-base"].feed(3, 17)
    want, got = run(whole / "model.onnx", feed), run(apart / "model.onnx", feed)
    assert all(np.array_equal(want[k], got[k]) for k in want)


@pytest.mark.parametrize("target", ["ascend:910b3", "ascend:310p3"])
def test_fp16_is_in_the_graph(target: str, built: Mapping[str, Path], tmp_path: Path) -> None:
    """Every product is f16 by Casts in the graph, the rest is as it was, and ATC is told to keep it so."""
    wanted = Precision("fp16", allowed=("f32",))
    folder = exported(built["bert-base"], tmp_path / "a", target, input_shapes=shapes_of("bert-base"), precision=wanted)
    written = onnx.load(folder / "model.onnx")
    types = {v.name: v.type.tensor_type.elem_type for v in (*written.graph.value_info, *written.graph.output)}
    products = [n for n in written.graph.node if n.op_type == "MatMul"]
    assert products and {types[n.output[0]] for n in products} == {TensorProto.FLOAT16}
    script = (folder / "atc.sh").read_text()
    assert "--precision_mode_v2=origin" in script and f"--soc_version={SOC[target]}" in script
    assert not (folder / "op_precision.ini").exists() and "op_precision" not in script
    feed = SMALL["bert-base"].feed(3, 17)
    want, got = run(built["bert-base"], feed), run(folder / "model.onnx", feed)
    assert all(np.abs(want[k] - got[k].astype(np.float32)).max() < 0.02 * np.abs(want[k]).max() for k in want)


def test_chips_have_their_names() -> None:
    told = {spelling: target.extra["soc_version"] for spelling, target in AtcRoute().targets().items()}
    assert told == SOC


SOC = {
    "ascend:910b1": "Ascend910B1",
    "ascend:910b3": "Ascend910B3",
    "ascend:910b4": "Ascend910B4",
    "ascend:310p3": "Ascend310P3",
}


def test_f32_products_need_a_cube_unit_that_has_them(built: Mapping[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="precision fp16") as error:
        exported(built["resnet50"], tmp_path / "a", "ascend:310p3", input_shapes=shapes_of("resnet50"))
    assert len(error.value.problems) == 10 and not (tmp_path / "a").exists()
    folder = exported(built["resnet50"], tmp_path / "b", input_shapes=shapes_of("resnet50"))
    assert "Conv2D=enable_float_32_execution" in (folder / "op_precision.ini").read_text()


def test_bf16_is_refused_where_there_is_none(built: Mapping[str, Path], tmp_path: Path) -> None:
    wanted = Precision("bf16", allowed=())
    with pytest.raises(PrecisionError):
        exported(built["bert-base"], tmp_path, "ascend:310p3", input_shapes=shapes_of("bert-base"), precision=wanted)


# -- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "buckets", "options"),
    [
        (
            "resnet50",
            (("batch", (1, 4, 8)),),
            ["--input_format=NCHW", "--input_shape=image:-1,3,48,48", "--dynamic_batch_size=1,4,8"],
        ),
        ("resnet50", (("batch", (8,)),), ["--input_format=NCHW", "--input_shape=image:8,3,48,48"]),
        ("resnet50", (), ["--input_format=NCHW", "--input_shape=image:1~32,3,48,48"]),
        (
            "bert-base",
            (("batch", (1, 2)), ("sequence", (17, 64))),
            [
                "--input_format=ND",
                "--input_shape=input_ids:-1,-1;attention_mask:-1,-1;token_type_ids:-1,-1",
                "--dynamic_dims=1,17,1,17,1,17;1,64,1,64,1,64;2,17,2,17,2,17;2,64,2,64,2,64",
            ],
        ),
    ],
)
def test_sizes(name: str, buckets: Any, options: Sequence[str], built: Mapping[str, Path], tmp_path: Path) -> None:
    folder = exported(built[name], tmp_path / "a", input_shapes=shapes_of(name), buckets=buckets)
    lines = [line.strip(" \\").replace("'", "") for line in (folder / "atc.sh").read_text().splitlines()]
    told = [o for o in lines if re.match("--(input|dynamic)_", o)]
    assert told == list(options)


def test_every_gear_computes_what_the_source_does(built: Mapping[str, Path], tmp_path: Path) -> None:
    """Each gear is a static model to ATC: its sizes written into the inputs, it has the source's numbers."""
    buckets = (("batch", (1, 2)), ("past", (16, 40)))
    name = "llama-decode"
    folder = exported(built[name], tmp_path / "a", input_shapes=shapes_of(name), buckets=buckets)
    (told,) = re.findall(r"--dynamic_dims='([\d,;]+)'", (folder / "atc.sh").read_text())
    gears = [[int(n) for n in gear.split(",")] for gear in told.split(";")]
    assert len(gears) == 4
    for gear in gears:
        written = onnx.load(folder / "model.onnx")
        sizes = iter(gear)
        for value in written.graph.input:
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param:
                    dim.dim_value = next(sizes)
        assert next(sizes, None) is None
        static = tmp_path / "static.onnx"
        onnx.save(written, static)
        dims = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in written.graph.input}
        feed = SMALL[name].feed(dims["input_ids"][0], dims["past_key_values.0.key"][2])
        want, got = run(built[name], feed), run(static, feed)
        for output in want:
            assert (done := compare(output, got[output], want[output])).ok, done


@pytest.mark.parametrize(
    ("buckets", "code"),
    [
        ((("batch", (1, 2)),), "gears-incomplete"),
        ((("batch", tuple(range(1, 12))), ("sequence", tuple(range(1, 12)))), "gears-many"),
        ((("nobody", (1, 2)),), "bucket-name"),
    ],
)
def test_gears_that_atc_cannot_have(buckets: Any, code: str, built: Mapping[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        exported(built["bert-base"], tmp_path, input_shapes=shapes_of("bert-base"), buckets=buckets)
    assert error.value.code == code


def test_an_open_size_without_end_is_any() -> None:
    model = import_model(text_model("m (float[N,4] x) => (float[N,4] y) { y = Relu(x) }"))
    assert gears_of(model, {}).options == {"input_shape": "x:-1,4"}


# -- operators -------------------------------------------------------------------------------------------------------

X = np.random.default_rng(3).standard_normal((2, 6, 4, 8)).astype(np.float32)
F = "float[2,6,4,8]"
G = f"m ({F} x) => (float[a,b,c,d] y)"
V = "s = Constant<value_floats=[1.0,2.0,3.0,4.0,5.0,6.0{}]>()\n"
SIX, EIGHT = V.format(""), V.format(",7.0,8.0")

SPELLINGS = {
    "Gelu": f"{G} {{ y = Gelu(x) }}",
    "GeluTanh": f'{G} {{ y = Gelu<approximate="tanh">(x) }}',
    "Swish": f"{G} {{ y = Swish<alpha=1.5>(x) }}",
    "Mish": f"{G} {{ y = Mish(x) }}",
    "GroupNormalization": f"{G} {{ {SIX} y = GroupNormalization<num_groups=3>(x, s, s) }}",
    "RMSNormalization": f"{G} {{ {EIGHT} y = RMSNormalization(x, s) }}",
    "LayerNormalization": f"{G} {{ {EIGHT} y = LayerNormalization(x, s) }}",
    "ReduceMean": f"{G} {{ a = Constant<value_ints=[1,-1]>()\n y = ReduceMean(x, a) }}",
    "ReduceAll": "m (float[2,6,4,8] x) => (float y) { y = ReduceMax<keepdims=0>(x) }",
    "ReduceSumAll": f"{G} {{ y = ReduceSum(x) }}",
    "ReduceL2": f"{G} {{ a = Constant<value_ints=[2]>()\n y = ReduceL2(x, a) }}",
    "Split": f"{G} {{ y, z, w, v = Split<num_outputs=4, axis=1>(x) }}",
    "Pad": f"{G} {{ p = Constant<value_ints=[1,2]>()\n a = Constant<value_ints=[-1]>()\n y = Pad(x, p, , a) }}",
    "Transpose": f"{G} {{ y = Transpose(x) }}",
    "Shape": "m (float[2,6,4,8] x) => (int64[2] y) { y = Shape<start=1, end=-1>(x) }",
    "ConvImplicit": f"m ({F} x, float[4,6,3,3] w) => (float[a,b,c,d] y) {{ y = Conv(x, w) }}",
    "AveragePool": f"{G} {{ y = AveragePool<kernel_shape=[2,2]>(x) }}",
    "CastLike": f"m ({F} x, float16[1] h) => (float16[a,b,c,d] y) {{ y = CastLike(x, h) }}",
    "Resize": f"{G} {{ s = Constant<value_floats=[1.0,1.0,2.0,2.0]>()\n y = Resize(x, , s) }}",
    "TensorScatter": f"m ({F} x, float[2,6,2,8] u, int64[2] i) => ({F} y) {{ y = TensorScatter(x, u, i) }}",
    "TensorScatterRing": f"m ({F} x, float[2,6,2,8] u, int64[2] i) => ({F} y) "
    '{ y = TensorScatter<mode="circular">(x, u, i) }',
    "RotaryEmbedding": f"m ({F} x, float[2,4,4] p, float[2,4,4] q) => ({F} y) {{ y = RotaryEmbedding(x, p, q) }}",
    "RotaryPart": f"m ({F} x, float[2,4,2] p, float[2,4,2] q) => ({F} y) "
    "{ y = RotaryEmbedding<rotary_embedding_dim=4>(x, p, q) }",
    "RotaryInterleaved": f"m ({F} x, float[2,4,4] p, float[2,4,4] q) => ({F} y) "
    "{ y = RotaryEmbedding<interleaved=1>(x, p, q) }",
    "Attention": f"m ({F} x, {F} k) => ({F} y) {{ y = Attention(x, k, k) }}",
    "NegativeLogLikelihood": "m (float[2,6] x, int64[2] t) => (float y) { y = NegativeLogLikelihoodLoss(x, t) }",
    "If": """m (float[2,6,4,8] x, bool c) => (float[2,6,4,8] y) {
        y = If (c) <then_branch = t () => (float[2,6,4,8] a) { a = Gelu(x) },
                    else_branch = e () => (float[2,6,4,8] b) { b = Transpose<perm=[0,1,2,3]>(x) }> }""",
}


def feed_of(model: onnx.ModelProto) -> dict[str, Array]:
    rng, feed = np.random.default_rng(5), {}
    for value in model.graph.input:
        t = value.type.tensor_type
        shape = [d.dim_value for d in t.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(t.elem_type)
        integral = dtype.kind in "iub"
        feed[value.name] = (rng.integers(0, 2, shape) if integral else rng.standard_normal(shape)).astype(dtype)
    return feed


@pytest.mark.parametrize("case", SPELLINGS)
def test_spelling(case: str, tmp_path: Path) -> None:
    """Each younger form, by the reference evaluator beside the older one in ONNX Runtime."""
    model = text_model(SPELLINGS[case])
    folder = exported(model, tmp_path / "a")
    written = onnx.load(folder / "model.onnx")
    onnx.checker.check_model(written, full_check=True)
    assert {n.op_type for n in written.graph.node} <= set(registered())
    for node in written.graph.node:
        if node.op_type == "Transpose":
            assert any(a.name == "perm" for a in node.attribute)
    feed = feed_of(model)
    (want, *_) = ReferenceEvaluator(model).run(None, feed)
    (got, *_) = run(folder / "model.onnx", feed).values()
    assert (done := compare("y", got, np.asarray(want))).ok, done


@pytest.mark.parametrize("kind", ["i8", "u8 by columns", "u8 with zeros"])
def test_weights_of_8_bits(kind: str, tmp_path: Path) -> None:
    """They stay i8 or u8 in the file (where they are not small), with what makes floats of them."""
    rng = np.random.default_rng(11)
    weights = (
        rng.integers(-90, 90, (400, 100)).astype(np.int8)
        if kind == "i8"
        else rng.integers(0, 255, (400, 100), np.uint8)
    )
    wide = kind != "i8"
    scale = rng.random(100, np.float32) if wide else np.float32(0.03)
    zero = rng.integers(0, 9, 100).astype(np.uint8) if kind.endswith("zeros") else np.zeros(scale.shape, weights.dtype)
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=1),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [3, k]) for n, k in (("x", 400), ("y", 100))]
    held = [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in (("q", weights), ("s", scale), ("z", zero))]
    opsets = [helper.make_opsetid("", 21)]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:], held), opset_imports=opsets, ir_version=10
    )
    written = onnx.load(exported(model, tmp_path / "a") / "model.onnx")
    assert 1 in {onnx.numpy_helper.to_array(t).dtype.itemsize for t in written.graph.initializer}
    feed = {"x": rng.standard_normal((3, 400), np.float32)}
    (want,) = ReferenceEvaluator(model).run(None, feed)
    assert (done := compare("y", run(tmp_path / "a" / "model.onnx", feed)["y"], np.asarray(want))).ok, done


REFUSED = {
    "QuantizeLinear": (
        "m (float[2,6] x) => (uint8[2,6] y) {"
        "s = Constant<value_float=0.1>()\n z = Cast<to=2>(s)\n y = QuantizeLinear(x, s, z) }",
        "AMCT",
    ),
    "storage_order": (
        "m (float[1,2,4,4] x) => (float[a,b,c,d] y, int64[a,b,c,d] i) {y, i = MaxPool<kernel_shape=[2,2]>(x) }",
        "no indices",
    ),
    "ArgMax": (
        "m (float[2,6] x) => (int64[a,b] y) { y = ArgMax<select_last_index=1>(x) }",
        "select_last_index",
    ),
    "RNN": (
        "m (float[3,2,4] x, float[1,5,4] w, float[1,5,5] r) => (float[a,b,c,d] y) { y = RNN<hidden_size=5>(x, w, r) }",
        "no plugin",
    ),
    "Bitwise": ("m (int32[4] x) => (int32[4] y) { y = BitwiseNot(x) }", "no plugin"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, tmp_path: Path) -> None:
    body, reason = REFUSED[case]
    with pytest.raises(UnsupportedError, match=reason) as error:
        exported(text_model(body), tmp_path / "a")
    assert error.value.exit_code == 4 and not (tmp_path / "a").exists()


def test_nodes_have_names_that_ge_can_refer_to(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["h:0"]), helper.make_node("Abs", ["h:0"], ["y"], name="a b:é" * 99)]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("x", "y")]
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:]))
    written = onnx.load(exported(model, tmp_path) / "model.onnx")
    assert all(re.fullmatch(r"[\w./-]{1,200}", n.name, re.ASCII) for n in written.graph.node)


@pytest.mark.parametrize("name", ["a;b", "a:0", "$(touch x)", "a b", "it's"])
def test_names_that_a_command_line_cannot_say(name: str, tmp_path: Path) -> None:
    node = helper.make_node("Relu", [name], ["y"])
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in (name, "y")]
    model = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:]))
    with pytest.raises(UsageError) as error:
        exported(model, tmp_path / "a")
    assert error.value.code == "atc-input-name"
