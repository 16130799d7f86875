"""Plans of targets with memory of their own: what lies where, what is copied, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.helper as h
import pytest
from onnx import TensorProto
from tilewright.backends.base import Support
from tilewright.backends.cuda.backend import CudaBackend
from tilewright.build import TargetPlan
from tilewright.driver import plan
from tilewright.errors import InternalError, UnsupportedError
from tilewright.kernel.routine import Routine
from tilewright.kernel.tile import Kernel
from tilewright.options import Options
from tilewright.plan.decode import decode_plan
from tilewright.plan.encode import encode_plan
from tilewright.plan.memory import plan_memory
from tilewright.plan.plan import Copy, HostLaunch, Launch, LoadScalar, Plan
from tilewright.plan.print import print_plan
from tilewright.plan.verify import verify_plan
from tilewright.target import Target

F32, I64 = TensorProto.FLOAT, TensorProto.INT64


@pytest.fixture(autouse=True)
def a_device_that_lacks_something(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device without exponentials and maxima, so that there is something for the host part."""
    ours = CudaBackend.supports

    def supports(self: CudaBackend, kernel: Kernel | Routine, target: Target) -> Support:
        if isinstance(kernel, Kernel) and kernel.name.startswith(("exp", "max")):
            return Support(False, f"function {kernel.name[:3]}")
        return ours(self, kernel, target)

    monkeypatch.setattr(CudaBackend, "supports", supports)


def _planned(
    folder: Path,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[int | str]]],
    outputs: dict[str, int],
    constants: dict[str, np.ndarray] | None = None,
    **options: object,
) -> TargetPlan:
    graph = h.make_graph(
        nodes,
        "g",
        [h.make_tensor_value_info(n, t, shape) for n, (t, shape) in inputs.items()],
        [h.make_tensor_value_info(n, t, None) for n, t in outputs.items()],
        [onnx.numpy_helper.from_array(a, n) for n, a in (constants or {}).items()],
    )
    path = folder / "model.onnx"
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 18)]), path)
    (found,) = plan(path, options=Options(targets=("cuda:sm_80",), level=0, **options)).values()  # type: ignore[arg-type]
    return found


def _plan(found: TargetPlan) -> Plan:
    assert isinstance(found.built.plan, Plan)
    verify_plan(found.built.plan)
    assert decode_plan(encode_plan(found.built.plan)) == found.built.plan
    return found.built.plan


def _code(found: TargetPlan) -> list[str]:
    """The instructions in short: kinds, and where what they name lies."""
    (entry,) = _plan(found).entries
    told = []
    for i in entry.code:
        if isinstance(i, Copy):
            told.append(f"copy {entry.buffers[i.source].space}->{entry.buffers[i.target].space}")
        elif isinstance(i, Launch | HostLaunch):
            names = _plan(found).kernels if isinstance(i, Launch) else _plan(found).host_kernels
            told.append(f"{'device' if isinstance(i, Launch) else 'host'} {names[i.kernel].partition('_')[0]}")
        elif isinstance(i, LoadScalar):
            told.append(f"load {entry.buffers[i.buffer].space}")
    return told


def test_a_host_launch_stands_between_copies(tmp_path: Path) -> None:
    nodes = [h.make_node("Relu", ["x"], ["a"]), h.make_node("Exp", ["a"], ["b"]), h.make_node("Sqrt", ["b"], ["y"])]
    found = _planned(tmp_path, nodes, {"x": (F32, ["N", 4])}, {"y": F32})
    moves = ["copy device->host", "host exp", "copy host->device"]
    assert _code(found) == ["device relu", *moves, "device sqrt"]
    assert found.on_host == (("Exp 'node_1'", "function exp"),)
    assert [code.kernel.name.partition("_")[0] for code in found.host_kernels] == ["exp"]  # type: ignore[union-attr]
    (entry,) = _plan(found).entries
    assert {b.space for b in entry.buffers if b.kind in ("input", "output")} == {"device"}
    spaces = {space: plan_memory(entry, {"N": 32}, space).size for space in ("device", "host")}  # type: ignore[arg-type]
    assert spaces == {"device": 512, "host": 2 * 512}  # on the device one dies before the other is born


def test_what_several_read_on_the_other_side_is_copied_once(tmp_path: Path) -> None:
    nodes = [
        h.make_node("Exp", ["x"], ["a"]),
        h.make_node("Sqrt", ["a"], ["y"]),
        h.make_node("Relu", ["a"], ["z"]),
        h.make_node("Exp", ["a"], ["w"]),
    ]
    found = _planned(tmp_path, nodes, {"x": (F32, [8])}, {"y": F32, "z": F32, "w": F32})
    assert sorted(_code(found)) == ["copy host->device", "device relu", "device sqrt", "host exp", "host exp"]
    (entry,) = _plan(found).entries
    told = {entry.inputs[0].name: "host"} | {
        s.name: next(b.space for b in entry.buffers if b.kind == "output" and b.index == i)
        for i, s in enumerate(entry.outputs)
    }
    assert told == {"x": "host", "y": "device", "z": "device", "w": "host"}


def test_sizes_are_read_where_the_caller_has_them(tmp_path: Path) -> None:
    nodes = [h.make_node("Reshape", ["x", "s"], ["a"]), h.make_node("Relu", ["a"], ["y"])]
    found = _planned(tmp_path, nodes, {"x": (F32, ["N", 4]), "s": (I64, [2])}, {"y": F32})
    assert _code(found) == ["load host", "load host", "device relu"]
    assert not found.on_host


def test_a_constant_may_lie_on_both_sides(tmp_path: Path) -> None:
    nodes = [h.make_node("Add", ["x", "c"], ["y"]), h.make_node("Max", ["x", "c"], ["z"])]
    found = _planned(tmp_path, nodes, {"x": (F32, [8])}, {"y": F32, "z": F32}, {"c": np.arange(8, dtype=np.float32)})
    assert sorted(_code(found)) == ["copy device->host", "device add", "host max"]
    buffers = [(b.space, b.index) for b in _plan(found).entries[0].buffers if b.kind == "constant"]
    assert sorted(buffers) == [("device", 0), ("host", 0)]


def test_a_forbidden_host_part_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="function exp") as error:
        _planned(tmp_path, [h.make_node("Exp", ["x"], ["y"])], {"x": (F32, [8])}, {"y": F32}, fallback="forbid")
    assert error.value.code == "host-part-forbidden"
    assert error.value.exit_code == 4


def test_kernels_reach_their_own_side_only(tmp_path: Path) -> None:
    nodes = [h.make_node("Relu", ["x"], ["a"]), h.make_node("Exp", ["a"], ["y"])]
    made = _plan(_planned(tmp_path, nodes, {"x": (F32, [8])}, {"y": F32}))
    (entry,) = made.entries
    for kind, wrong in ((Launch, "host"), (HostLaunch, "device")):
        at = next(n for n, i in enumerate(entry.code) if isinstance(i, kind))
        launch = entry.code[at]
        assert isinstance(launch, Launch | HostLaunch)
        buffers = list(entry.buffers)
        buffers[launch.buffers[0]] = replace(buffers[launch.buffers[0]], space=wrong)  # type: ignore[arg-type]
        with pytest.raises(InternalError, match=f"lies on the {wrong}"):
            verify_plan(replace(made, entries=(replace(entry, buffers=tuple(buffers)),)))
    assert "on the host: exp" in print_plan(made)
