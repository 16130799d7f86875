"""Inputs that are given while compiling, and are no inputs of what is compiled."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import tilewright as tw
from onnx import ModelProto, TensorProto, helper
from tilewright.cli.arguments import once, read_constant
from tilewright.errors import TilewrightError, UsageError
from tilewright.frontend.constants import constant_input
from tilewright.frontend.onnx import import_model
from tilewright.ir.given import constant_texts, recorded
from tilewright.ir.graph import known_value, type_of


def model(
    inputs: dict[str, tuple[int, tuple[int | str, ...]]], *nodes: tuple[str, str, str], **attributes: Any
) -> ModelProto:
    made = [helper.make_node(op, into.split(), out.split(), **attributes) for op, into, out in nodes]
    values = [helper.make_tensor_value_info(n, kind, list(shape)) for n, (kind, shape) in inputs.items()]
    result = helper.make_tensor_value_info(nodes[-1][2], inputs["x"][0], None)
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(helper.make_graph(made, "g", values, [result]), opset_imports=opset, ir_version=10)


RESHAPE = model(
    {"x": (TensorProto.FLOAT, (2, "N", 3)), "shape": (TensorProto.INT64, ("R",)), "k": (TensorProto.FLOAT, ("R",))},
    ("Reshape", "x shape", "y"),
    ("ReduceSum", "k", "s"),
    ("Mul", "y s", "z"),
)


def imported(proto: ModelProto, **values: Any) -> Any:
    return import_model(proto, constants={name: constant_input(name, value) for name, value in values.items()})


def test_it_becomes_an_initializer() -> None:
    graph = imported(RESHAPE, shape=[3, -1])
    assert [v.name for v in graph.graph.inputs] == ["x", "k"]
    assert str(type_of(graph.graph.outputs[0])) == "f32[3, 2*N]"
    assert constant_texts(graph) == {"shape": "[3, -1]"}


def test_its_named_sizes_are_bound_everywhere() -> None:
    graph = imported(RESHAPE, shape=[3, -1])
    assert str(type_of(graph.graph.inputs[1])) == "f32[2]"


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (TensorProto.INT32, [3, 4], np.array([3, 4], np.int32)),
        (TensorProto.UINT8, np.array([3, 4]), np.array([3, 4], np.uint8)),
        (TensorProto.FLOAT, [0.1, 2], np.array([0.1, 2], np.float32)),
        (TensorProto.FLOAT, [3, 4], np.array([3, 4], np.float32)),
        (TensorProto.BFLOAT16, [0.5, 2], np.array([0.5, 2], ml_dtypes.bfloat16)),
        (TensorProto.BOOL, [True, False], np.array([True, False])),
    ],
)
def test_types(kind: int, value: Any, expected: np.ndarray[Any, Any]) -> None:
    graph = imported(model({"x": (kind, ("N",)), "c": (kind, (2,))}, ("Concat", "x c", "y"), axis=0), c=value)
    (constant,) = graph.graph.initializers.values()
    got = constant.const_value.numpy()
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("kind", "value", "code"),
    [
        (TensorProto.INT64, [0.5, 1.0], "constant-type"),
        (TensorProto.UINT8, [300, 1], "constant-type"),
        (TensorProto.UINT8, [-1, 1], "constant-type"),
        (TensorProto.FLOAT16, [1e6, 1.0], "constant-type"),
        (TensorProto.INT64, [True, False], "constant-type"),
        (TensorProto.BOOL, [1, 0], "constant-type"),
        (TensorProto.INT64, [1, 2, 3], "constant-shape"),
        (TensorProto.INT64, [[1, 2]], "constant-shape"),
        (TensorProto.INT64, ["a", "b"], "constant-value"),
        (TensorProto.INT64, [[1], [1, 2]], "constant-value"),
        (TensorProto.INT64, {"a": 1}, "constant-value"),
        (TensorProto.INT64, np.zeros(9000), "constant-value"),
    ],
)
def test_what_does_not_fit_is_told(kind: int, value: Any, code: str) -> None:
    proto = model({"x": (kind, ("N",)), "c": (kind, (2,))}, ("Concat", "x c", "y"), axis=0)
    with pytest.raises(UsageError) as caught:
        imported(proto, c=value)
    assert caught.value.code == code


def test_a_number_is_a_scalar_or_a_list_of_one() -> None:
    for shape in ((), (1,), ("K",)):
        proto = model({"x": (TensorProto.FLOAT, ("N",)), "c": (TensorProto.FLOAT, shape)}, ("Add", "x c", "y"))
        assert str(type_of(imported(proto, c=2).graph.outputs[0])) == "f32[N]"


def test_known_integers_follow() -> None:
    proto = model({"x": (TensorProto.INT64, (2,)), "c": (TensorProto.INT64, (2,))}, ("Add", "c c", "y"))
    graph = imported(proto, c=[3, 4])
    known = known_value(graph.graph.outputs[0])
    assert known is not None and [e.value for e in known] == [6, 8]


def test_an_unknown_name() -> None:
    with pytest.raises(UsageError, match="the inputs are x, k, shape"):
        tw.compile(RESHAPE, constants={"shape": [3, -1], "shap": [1]}, input_shapes={"x": (2, "1..4", 3)})


# -- the way through -------------------------------------------------------------------------------------------------


def test_compile_verify_and_bisect(tmp_path: Path) -> None:
    """The reference still has the input, and is given what the artifact was."""
    path = tmp_path / "m.onnx"
    onnx.save(RESHAPE, path)
    artifact = tw.compile(path, constants={"shape": [3, -1]}, input_shapes={"x": (2, "1..4", 3)})
    assert artifact.report.model.constants == (("shape", "[3, -1]"),)
    assert [i.name for i in tw.load(artifact).inputs] == ["x", "k"]
    artifact.save(tmp_path / "m.tw")
    assert tw.verify(tmp_path / "m.tw", path).ok
    feed = {"x": np.ones((2, 3, 3), np.float32), "k": np.ones(2, np.float32)}
    assert tw.verify(tmp_path / "m.tw", path, feeds=[feed | {"shape": np.array([3, -1])}]).ok
    with pytest.raises(UsageError, match=r"\[3, -1\] in the artifact"):
        tw.verify(tmp_path / "m.tw", path, feeds=[feed | {"shape": np.array([-1, 3])}])
    assert tw.bisect(tmp_path / "m.tw", path).ok


def test_the_record_is_checked() -> None:
    graph = imported(RESHAPE, shape=[3, -1])
    del graph
    good = {"data": "AwAAAAAAAAA=", "dtype": "i64", "shape": [1]}
    assert recorded({"a": good})["a"].tolist() == [3]
    for change in ({"data": "A"}, {"data": 3}, {"shape": [2]}, {"shape": [-1]}, {"shape": 3}, {"dtype": "i65"}):
        with pytest.raises(ValueError, match="constant input 'a'"):
            recorded({"a": good | change})
    for broken in (None, [], {"data": "AA=="}):
        with pytest.raises(ValueError, match="constant input 'a'"):
            recorded({"a": broken})


def test_a_torch_module() -> None:
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any, w: Any, b: Any) -> Any:
            return x * w + b

    args = (torch.ones(2, 3), torch.tensor([1.0, 2.0, 3.0]), torch.ones(3))
    artifact = tw.compile(Net(), example_args=args, constants={"w": [1, 2, 3]})
    assert [i.name for i in tw.load(artifact).inputs] == ["x", "b"]
    with pytest.raises(TilewrightError, match="another in the data"):
        tw.compile(Net(), example_args=args, constants={"w": [1, 2, 4]})


# -- the command line ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=3,224", np.array([3, 224])),
        ("a=[3, 224]", np.array([3, 224])),
        ("a=3", np.array([3])),
        ("a=0.5,1", np.array([0.5, 1])),
        ("a=true,false", np.array([True, False])),
        ("a=[]", np.array([], np.int64)),
    ],
)
def test_values(text: str, expected: np.ndarray[Any, Any]) -> None:
    name, array = read_constant(text)
    assert name == "a" and array.dtype == expected.dtype
    np.testing.assert_array_equal(array, expected)


def test_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(6).reshape(2, 3))
    assert read_constant(f"a=@{tmp_path / 'a.npy'}")[1].shape == (2, 3)


@pytest.mark.parametrize("text", ["a", "a=", "=3", "a=x", "a=3;4", "a=true,3"])
def test_syntax(text: str) -> None:
    with pytest.raises(UsageError, match="input-syntax"):
        read_constant(text)


def test_a_name_that_is_given_twice() -> None:
    with pytest.raises(UsageError, match="name-twice"):
        once([("a", 1), ("a", 2)], "--constant")
