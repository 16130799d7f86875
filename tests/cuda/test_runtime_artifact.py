"""A compiled artifact on the mock driver: real cubins are opened, launched with live pointers and replayed.

Nothing is computed (no GPU is here): what is checked is that plan, ``modules.bin`` and machine code fit together.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import tilewright as tw
from onnx import TensorProto as T
from onnx import helper
from tilewright.plan.decode import decode_plan

from tests.cuda.mock.driver import Mock, MockPlan
from tests.runtime import programs
from tests.runtime.rewrite import members
from tests.runtime.test_c import run_rows, zig

pytestmark = pytest.mark.usefixtures("triton")
B = np.arange(16, dtype=np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """y = softmax(x + b) for two architectures."""
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Add", ["x", "b"], ["s"]), helper.make_node("Softmax", ["s"], ["y"])]
    sides = [value("x", T.FLOAT, ["N", 16])], [value("y", T.FLOAT, ["N", 16])]
    graph = helper.make_graph(nodes, "softmax", *sides, [onnx.numpy_helper.from_array(B, "b")])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path = tmp_path_factory.mktemp("artifact") / "model.tw"
    targets = ("cuda:sm_80", "cuda:sm_90")
    tw.compile(made, targets=targets, verify=False, input_shapes={"x": ("1..64", 16)}).save(path)
    return path


@pytest.mark.parametrize(("arch", "major", "minor"), [(80, 8, 6), (90, 9, 0)])
def test_cubins_take_what_the_plan_passes(mock: Mock, model: Path, arch: int, major: int, minor: int) -> None:
    mock.set(major=major, minor=minor)
    contents = members(model.read_bytes())
    plan, code = contents[f"cuda/sm_{arch}/plan.bin"], contents[f"cuda/sm_{arch}/modules.bin"]
    weights = {c.name: B for c in decode_plan(plan).constants}
    with MockPlan(mock, plan, code, weights=weights) as loaded:
        for n in (7, 7, 7, 1, 64):
            (y,) = loaded.run("main", [np.zeros((n, 16), np.float32)])
            assert y.shape == (n, 16)
        use = loaded.use()
        assert use.kernels >= 1 and (use.direct, use.captured, use.replayed) == (3, 1, 1)
    log = mock.log()
    assert sum(line.startswith("load") for line in log) == use.kernels
    assert sum(line.startswith("launch") for line in log) >= 5


def test_a_c_program_opens_the_part_for_the_gpu(mock: Mock, model: Path, tmp_path: Path) -> None:
    zig([programs.__file__.replace("programs.py", "run_model.c")], tmp_path / "program", "-lpthread", "-ldl")
    assert run_rows(tmp_path / "program", model, tmp_path, 16, "1", "cuda", mock.path.decode())[0] == 0
