"""Damaged model files: whatever the bytes, import succeeds or raises an error that tells the user something."""

from __future__ import annotations

import random
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tilewright.errors import TilewrightError
from tilewright.frontend.onnx import import_model

#: A damaged file is either refused or imported within this many seconds.
PATIENCE = 10.0


def small_model(opset: int) -> bytes:
    """A model of many features: functions, shapes computed from shapes, weights, attributes of every kind, graphs."""
    weights = np.arange(24 * 24, dtype=np.float32).reshape(24, 24)
    constants = {
        "zero": np.array([0], np.int64),
        "tail": np.array([4, 6], np.int64),
        "starts": np.array([0], np.int64),
        "ends": np.array([2], np.int64),
        "axes": np.array([1], np.int64),
        "turns": np.array(3, np.int64),
        "flag": np.array(True),
    }

    def branch(operator: str, result: str) -> onnx.GraphProto:
        made = [helper.make_node(operator, ["q"], [result])]
        return helper.make_graph(made, f"b_{result}", [], [helper.make_empty_tensor_value_info(result)])

    turn = [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["state", "c"], ["next"])]
    loop = helper.make_graph(
        turn,
        "turn",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), helper.make_empty_tensor_value_info("next")],
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="matmul"),
        helper.make_node("Twice", ["h"], ["t"], domain="local"),
        helper.make_node("Softmax", ["t"], ["s"], axis=-1),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Slice", ["shape", "starts", "ends"], ["lead"]),
        helper.make_node("Concat", ["lead", "tail"], ["target"], axis=0),
        helper.make_node("Reshape", ["s", "target"], ["r"]),
        helper.make_node("Transpose", ["r"], ["p"], perm=[0, 2, 1, 3]),
        helper.make_node("Slice", ["p", "starts", "ends", "axes"], ["q"]),
        helper.make_node("If", ["flag"], ["c"], then_branch=branch("Relu", "c0"), else_branch=branch("Neg", "c1")),
        helper.make_node("Loop", ["turns", "flag", "c"], ["l"], body=loop),
        helper.make_node("If", ["late"], ["y"], then_branch=branch("Abs", "y0"), else_branch=branch("Neg", "y1")),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "seq", 24]),
            helper.make_tensor_value_info("late", TensorProto.BOOL, [1]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "two", "seq", 6])],
        [numpy_helper.from_array(weights, "w"), *(numpy_helper.from_array(v, k) for k, v in constants.items())],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    body = helper.make_function(
        "local", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], imports[:1]
    )
    model = helper.make_model(graph, functions=[body], opset_imports=imports, ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def damaged(data: bytes, rng: random.Random) -> bytes:
    """One to three random edits of the bytes: bits, bytes, cuts, insertions and copies."""
    out = bytearray(data)
    # The weights are most of the file and their bytes are all legal: aim at the rest.
    weights = data.find(np.arange(1, 4, dtype=np.float32).tobytes())
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(out))
        if weights <= at < weights + 24 * 24 * 4:
            at = rng.randrange(weights)
        kind = rng.choice("bit bit bit byte byte delete insert copy cut".split())
        if kind == "bit":
            out[at] ^= 1 << rng.randrange(8)
        elif kind == "byte":
            out[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == "delete":
            del out[at : at + rng.randint(1, 8)]
        elif kind == "insert":
            out[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 8)))
        elif kind == "copy":
            begin = rng.randrange(len(out))
            out[at:at] = out[begin : begin + rng.randint(1, 64)]
        else:
            del out[max(at, 1) :]
    return bytes(out)


def distorted(data: bytes, rng: random.Random) -> bytes:
    """One to three random changes of the message that keep it a message."""
    model = onnx.ModelProto.FromString(data)
    graph = model.graph
    names = [n for node in graph.node for n in (*node.input, *node.output)] + [""]
    numbers = (-(2**63), -(2**31), -3, -1, 0, 1, 2, 7, 2**31, 2**62, 2**63 - 1)
    for _ in range(rng.randint(1, 3)):
        node = rng.choice(graph.node)
        tensor = rng.choice([i for i in graph.initializer if i.name != "w"])
        match rng.randrange(12):
            case 0 if node.input:
                node.input[rng.randrange(len(node.input))] = rng.choice(names)
            case 1:
                node.output[0] = rng.choice(names)
            case 2:
                node.op_type = rng.choice(
                    [n.op_type for n in graph.node] + ["Attention", "Conv", "If", "", "Tile", "Pad"]
                )
            case 3:
                tensor.raw_data = np.array([rng.choice(numbers)], np.int64).tobytes() * max(
                    1, len(tensor.raw_data) // 8
                )
            case 4:
                tensor.data_type = rng.randrange(30)
            case 5:
                tensor.dims.append(rng.choice(numbers))
            case 6:
                for attribute in node.attribute:
                    attribute.i = rng.choice(numbers)
                    attribute.ints[:] = [rng.choice(numbers) for _ in attribute.ints]
            case 7:
                graph.input[0].type.tensor_type.shape.dim[rng.randrange(3)].dim_value = rng.choice(numbers)
            case 8:
                graph.input[0].type.tensor_type.elem_type = rng.randrange(30)
            case 9:
                graph.node.append(rng.choice(graph.node))
            case 10:
                model.opset_import[0].version = rng.choice((-1, 0, 1, 6, 9, 12, 18, 23, 26, 99, 2**40))
            case _:
                graph.node.remove(node)
        if not graph.node:
            break
    return model.SerializeToString()


def check(data: bytes, path: Path, what: str) -> bool:
    """Import ``data``; True when it succeeded. Anything but a user error fails the test with the seed."""
    path.write_bytes(data)
    began = time.monotonic()
    try:
        import_model(path)
        succeeded = True
    except TilewrightError:
        succeeded = False
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    took = time.monotonic() - began
    assert took < PATIENCE, f"{what}: took {took:.1f} s"
    return succeeded


def run(tmp_path: Path, opset: int, seeds: range) -> None:
    data, path = small_model(opset), tmp_path / "model.onnx"
    assert check(data, path, "the undamaged model")
    for change in (damaged, distorted):
        outcomes = [check(change(data, random.Random(s)), path, f"{change.__name__} {opset} seed {s}") for s in seeds]
        assert 10 < outcomes.count(False) < len(seeds), f"{change.__name__}: the change is never or always noticed"


@pytest.mark.parametrize("opset", [17, 24])
def test_damaged_files(tmp_path: Path, opset: int) -> None:
    run(tmp_path, opset, range(300))


@pytest.mark.slow
@pytest.mark.parametrize("opset", [11, 13, 17, 24])
def test_many_damaged_files(tmp_path: Path, opset: int) -> None:
    run(tmp_path, opset, range(1000, 11000))


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    data = small_model(17)
    for length in range(0, len(data) - 1, 29):
        path = tmp_path / "model.onnx"
        path.write_bytes(data[:length])
        with pytest.raises(TilewrightError) as error:
            import_model(path)
        assert error.value.code in ("model-truncated", "not-a-model", "opset-unsupported"), (length, error.value.code)
