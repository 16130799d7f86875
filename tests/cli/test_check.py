"""``tilewright check``: what the screen says, that it goes on past the first problem, and that it builds nothing."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import tilewright as tw
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from tilewright.cli.main import main
from tilewright.operators import contributed_operators, operator_table

from .conftest import Run
from .test_commands import GOLDEN, tiny

F = TensorProto.FLOAT


def model(folder: Path) -> Path:
    """Supported nodes, an operator of another domain, one that is refused, and what reads them."""
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "w"], ["a"], name="proj"),
        node("Gelu", ["a"], ["b"], name="gelu"),
        node("FancyNorm", ["b"], ["c"], name="fancy", domain="com.example"),
        node("Add", ["c", "b"], ["d"], name="residual"),
        node("Relu", ["d"], ["e"], name="after"),
        node("Reshape", ["b", "s"], ["f"], name="flat"),
        node("RandomNormalLike", ["b"], ["g"], name="noise"),
        node("Softmax", ["b"], ["h"], name="soft"),
    ]
    inputs = [helper.make_tensor_value_info("x", F, ["N", 8])]
    outputs = [helper.make_tensor_value_info(n, F, None) for n in "efgh"]
    weights = [numpy_helper.from_array(np.ones((8, 4), np.float32), "w"), numpy_helper.from_array(np.array([-1]), "s")]
    graph = helper.make_graph(nodes, "mixed", inputs, outputs, weights)
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("com.example", 1)]
    path = folder / "mixed.onnx"
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)
    return path


def test_screen(tmp_path: Path, update_golden: bool) -> None:
    result = CliRunner().invoke(main, ["check", str(model(tmp_path)), "-t", "cpu:x86-64-v3"])
    assert result.exit_code == 4
    path = GOLDEN / "check-mixed.txt"
    if update_golden:
        path.write_text(result.output, encoding="utf-8")
    assert result.output == path.read_text(encoding="utf-8")


def test_supported_model_needs_no_compiler(cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **more: object) -> None:
        raise AssertionError("the C compiler was asked for")

    monkeypatch.setattr("tilewright.selection.default_toolchain", refuse)
    checked = tw.check(tiny(tmp_path), ("cpu",))
    assert checked.ok and [r.ways for r in checked.operators] == [{"kernel": 1}]
    done = cli("check", tiny(tmp_path))
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "PASSED"


def test_json_has_every_problem_and_what_was_not_examined(tmp_path: Path) -> None:
    file = tmp_path / "told.json"
    result = CliRunner().invoke(main, ["check", str(model(tmp_path)), "--json", str(file)])
    told = json.loads(file.read_text(encoding="utf-8"))
    assert (result.exit_code, told["exit_code"], told["ok"]) == (4, 4, False)
    assert {i["node"] for i in told["issues"]} == {"fancy", "noise"}
    assert told["unexamined"] == ["Add 'residual'", "Relu 'after'"]
    assert all(i["reason"] and i["way_round"] for i in told["issues"])
    ways = {r["operator"]: r["ways"] for r in told["operators"]}
    assert ways["MatMul"] == {"kernel": 1} and ways["Reshape"] == {"view": 1} and ways["Add"] == {"not examined": 1}


@pytest.mark.parametrize("arguments", [[], ["--operators", "model.onnx"]])
def test_a_model_or_the_operators(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, ["check", *arguments])
    assert result.exit_code == 2 and "check-what" in result.output


def test_an_invalid_model_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "text.onnx"
    path.write_text("no model", encoding="utf-8")
    assert CliRunner().invoke(main, ["check", str(path)]).exit_code == 3
    with pytest.raises(tw.CompileError):
        tw.check(path)


def test_operators_are_all_told_with_a_reason() -> None:
    table = {o.name: o for o in operator_table()}
    known = {s.name for s in onnx.defs.get_all_schemas() if s.domain == ""}
    assert known <= set(table)
    assert (table["MatMul"].way, table["Reshape"].way, table["If"].way) == ("kernel", "view", "rewritten")
    assert all(o.note for o in table.values() if o.way == "no")
    result = CliRunner().invoke(main, ["check", "--operators"])
    assert result.exit_code == 0 and f"of {len(table)} operators" in result.output


def test_quantized_operators_are_told_as_what_becomes_of_them(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
    g (uint8[2,4] a, float[4,3] w) => (float[2,3] y) <float s = {0.1}, uint8 z = {3}> {
        b = com.microsoft.QLinearAdd(a, s, z, a, s, z, s, z)
        c = QLinearMatMul(b, s, z, a4, s, z, s, z)
        y = com.microsoft.QAttention(c)
    }"""
    proto = onnx.parser.parse_model(text.replace("a4", "v").replace("float[4,3] w", "uint8[4,3] v"))
    checked = tw.check(proto)
    ways = {r.operator: r.ways for r in checked.operators}
    assert ways["com.microsoft::QLinearAdd"] == ways["QLinearMatMul"] == {"rewritten": 1}
    (issue,) = checked.issues
    assert issue.operator == "com.microsoft::QAttention" and "transformer optimizer" in issue.reason
    assert "transformer optimizer" in issue.way_round
    with pytest.raises(tw.CompileError, match="transformer optimizer"):
        tw.compile(proto)


def test_contributed_operators_are_told() -> None:
    table = {o.name: o for o in contributed_operators()}
    assert table["com.microsoft::QGemm"].way == table["com.microsoft::MatMulNBits"].way == "rewritten"
    assert table["com.microsoft::DynamicQuantizeLSTM"].way == "no" and table["com.microsoft::DynamicQuantizeLSTM"].note
    result = CliRunner().invoke(main, ["check", "--operators"])
    assert all(name in result.output for name in table)


def test_a_terminal_gets_a_drawn_table(tmp_path: Path) -> None:
    into, out = pty.openpty()
    command = [sys.executable, "-m", "tilewright", "check", str(tiny(tmp_path)), "-t", "cpu:x86-64-v3"]
    done = subprocess.run(command, stdout=out, check=False, env={**os.environ, "TERM": "xterm", "COLUMNS": "80"})
    os.close(out)
    shown = os.read(into, 100_000).decode()
    os.close(into)
    assert done.returncode == 0 and "\x1b[1m" in shown and "kernel" in shown
