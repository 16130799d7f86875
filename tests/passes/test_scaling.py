"""Fusion looks at each part of a graph a bounded number of times, however many nodes there are."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir
import pytest
from tilewright.passes.fusion.order import Order
from tilewright.passes.pipeline import default_pipeline, fusion, run_pipeline

from tests.passes.harness import graph, ops

#: One layer: a norm written out, two products with a residual of the graph's input, a softmax, a far residual.
_LAYER = (
    "m{0} = ReduceMean({1}, ax) c{0} = Sub({1}, m{0}) p{0} = MatMul(c{0}, w) b{0} = Add(p{0}, bias) g{0} = Gelu(b{0}) "
    "q{0} = MatMul(g{0}, w) r{0} = Add(q{0}, x) s{0} = Softmax(r{0}) e{0} = Exp(s{0}) f{0} = Add(e{0}, {1}) "
)


def _layers(count: int) -> ir.Model:
    text, last = "", "x"
    for n in range(count):
        text, last = text + _LAYER.format(n, last), f"f{n}"
    head = "g (float[B,8] x, float[8,8] w, float[8] bias) => (float[B,8] y) <int64[1] ax = {-1}> "
    return graph(head + "{ " + text + f"y = Neg({last}) }}")


@pytest.mark.parametrize("layers", [8])
def test_work_grows_with_the_graph(layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the layers ask at most a little more than twice the questions."""
    asked: Counter[str] = Counter()
    for name in ("at", "readers", "following", "sorted"):

        def counting(self: Order, *args: object, name: str = name, method: object = getattr(Order, name)) -> object:
            asked[name] += 1
            return method(self, *args)  # type: ignore[operator]

        monkeypatch.setattr(Order, name, counting)
    counts = []
    for factor in (1, 2):
        asked.clear()
        model = _layers(layers * factor)
        run_pipeline(model, fusion(2))
        counts.append(sum(asked.values()))
    assert counts[0] > 0
    assert counts[1] < 2.2 * counts[0]


def test_readers_in_front_of_a_fused_node_move_behind_it() -> None:
    """The sum is read before the norm stands; as outputs of one node both come at the norm's place."""
    model = graph(
        "g (float[B,S,4] x, float[B,S,4] r, float[4] w) => (float[B,S,4] y, float[B,S,4] z) "
        "{ s = Add(x, r) n = Softmax(s) z = Softmax(n) y = LayerNormalization(s, w) }"
    )
    run_pipeline(model, default_pipeline())
    assert ops(model) == "FusedLayerNorm Softmax Softmax"
