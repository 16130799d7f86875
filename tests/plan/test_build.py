"""Plans from graphs, as text: whose memory each value is, when an output is somebody else's."""

from __future__ import annotations

import onnx
import onnx.parser
import pytest
from tilewright.errors import CompileError
from tilewright.ir.ranges import Range
from tilewright.ir.symbolic import constant, symbol
from tilewright.kernel.schedule import Pack
from tilewright.ops.program import View, lower_graph
from tilewright.plan.build import Alias, Built, EntrySteps, KernelLaunch, build_plan
from tilewright.plan.print import print_plan
from tilewright.plan.verify import verify_plan

from tests.ops.interpret import typed

ONE = constant(1)


def built(graph: str, bounds: dict[str, Range] | None = None, packed: str = "") -> Built:
    """The plan of a graph whose kernels all have one block; ``packed`` names a constant that every reader packs."""
    text = f'<ir_version: 10, opset_import: ["" : 22]> g {graph}'
    model = typed(onnx.parser.parse_model(text), {"N": Range(1, 64)} if bounds is None else bounds)
    steps: list[KernelLaunch | Alias] = []
    names: list[str] = []
    for step in lower_graph(model):
        if isinstance(step, View):
            steps.append(Alias(step.source, step.result))
            continue
        packs = {i: Pack("w", (ONE,), (constant(16),)) for i, v in enumerate(step.values) if v.name == packed}
        dims = tuple(symbol(name) for name, _ in step.kernel.facts)
        steps.append(KernelLaunch(len(names), step.kernel.name, step.values, dims, ONE, constant(0), packs))
        names.append(step.kernel.name)
    result = build_plan([EntrySteps("main", model, steps)], names, {})
    verify_plan(result.plan)
    return result


@pytest.mark.parametrize(
    "graph, expected",
    [
        pytest.param(
            "(float[N] x) => (float[N] y) { a = Neg(x) y = Exp(a) }",
            """
  b0 = input x, 4*N bytes
  b1 = output y, 4*N bytes
  b2 = temporary, 4*N bytes  live 0..1
    0: neg(b0, b2; N) grid 1
    1: exp(b2, b1; N) grid 1
    2: return
""",
            id="a value between",
        ),
        pytest.param(
            "(float[N] x) => (float[N] y, float[N] z) { y = Identity(x) z = Identity(y) }",
            """
  b0 = input x, 4*N bytes
  b1 = output y, 4*N bytes
  b2 = output z, 4*N bytes
    0: copy 4*N bytes b0 -> b1
    1: copy 4*N bytes b0 -> b2
    2: return
""",
            id="outputs that are an input",
        ),
        pytest.param(
            "(float[N] x) => (float[N] y, float[N] a, float[N] b) { a = Neg(x) b = Identity(a) y = Exp(b) }",
            """
  b0 = input x, 4*N bytes
  b1 = output y, 4*N bytes
  b2 = output a, 4*N bytes
  b3 = output b, 4*N bytes
    0: neg(b0, b2; N) grid 1
    1: exp(b2, b1; N) grid 1
    2: copy 4*N bytes b2 -> b3
    3: return
""",
            id="a value that is read, given out, and given out as a view",
        ),
        pytest.param(
            "(float[N] x) => (float[N] u, float[N] v, float[N] y)"
            " { t = Neg(x) a = Identity(t) u = Identity(a) v = Identity(t) y = Exp(v) }",
            """
  b0 = input x, 4*N bytes
  b1 = output u, 4*N bytes
  b2 = output v, 4*N bytes
  b3 = output y, 4*N bytes
    0: neg(b0, b1; N) grid 1
    1: exp(b1, b3; N) grid 1
    2: copy 4*N bytes b1 -> b2
    3: return
""",
            id="a temporary that two outputs view",
        ),
        pytest.param(
            "(float[N] x) => (float[N] y, float[2] z) <float[2] w = {1, 2}> { y = Neg(x) z = Identity(w) }",
            """
  b0 = input x, 4*N bytes
  b1 = output y, 4*N bytes
  b2 = output z, 8 bytes
  b3 = constant w, 8 bytes
    0: neg(b0, b1; N) grid 1
    1: copy 8 bytes b3 -> b2
    2: return
""",
            id="an output that is a constant",
        ),
        pytest.param(
            "(float[2] x) => (float[2] y) <float[2] w = {1, 2}> { v = Identity(w) a = Add(x, v) y = Mul(a, w) }",
            """
  b0 = input x, 8 bytes
  b1 = output y, 8 bytes
  b2 = constant w, 8 bytes
  b3 = temporary, 8 bytes  live 0..1
    0: add(b0, b2, b3; ) grid 1
    1: mul(b3, b2, b1; ) grid 1
    2: return
""",
            id="a constant and a view of it",
        ),
    ],
)
def test_buffers_and_code(graph: str, expected: str) -> None:
    lines = print_plan(built(graph).plan).splitlines()
    body = [line for line in lines if line.lstrip()[:1].isdigit() or line.startswith("  b")]
    assert "\n".join(body) == expected.strip("\n")


def test_a_constant_is_kept_once_per_layout() -> None:
    graph = (
        "(float[2] x) => (float[2] y, float[2] z) <float[2] w = {1, 2}>"
        " { v = Identity(w) y = Add(x, w) a = Mul(x, w) z = Add(a, v) }"
    )
    constants = [(c.constant.name, c.constant.shape, c.pack is None) for c in built(graph, packed="w").constants]
    assert sorted(constants) == [("w", (2,), True), ("w[1]", (16,), False)]


def test_assumed_equalities_are_asserted_first() -> None:
    bounds = {s: Range(2, 64) for s in "PQRS"}
    graph = (
        "(float[P, Q] x, float[R, S] z) => (float[M] y) <int64[1] flat = {-1}>"
        " { a = Reshape(x, flat) b = Reshape(z, flat) y = Add(a, b) }"
    )
    text = print_plan(built(graph, bounds).plan)
    (check,) = (line for line in text.splitlines() if "needs" in line)
    assert check.startswith("    0: assert") and "P*Q == R*S" in check


def test_a_dimension_that_stands_only_in_sums_is_refused() -> None:
    bounds = {"P": Range(1, 8), "S": Range(1, 8)}
    with pytest.raises(CompileError, match="dimension-not-an-input") as refused:
        built('(float["P + S"] x, float[P] p) => (float["P + S"] y) { y = Neg(x) }', bounds)
    assert refused.value.where == "dimension S"
