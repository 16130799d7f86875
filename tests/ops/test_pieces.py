"""A concatenation is stored piece by piece, through whatever is computed or moved behind it."""

from __future__ import annotations

import numpy as np
import pytest
from tilewright.ir.evaluate import evaluate
from tilewright.kernel.interpret import run_lowered
from tilewright.kernel.tile import Store
from tilewright.kernel.verify import verify_kernel
from tilewright.ops.lower import lower
from tilewright.passes.fusion.elementwise import FuseElementwise

from tests.passes.harness import feeds_for, graph, proto_of

#: Graph, number of stores, whether an element is still asked where it falls.
CASES = [
    ("g (float[B,S] x, float[B,T] z) => (float[B,M] y) { y = Concat<axis=1>(x, z) }", 2, False),
    ("g (float[B,4] x, float[B,4] z) => (float[B,8] y) { c = Concat<axis=1>(x, z) y = Tanh(c) }", 2, False),
    (  # what is added is read at the place of each piece
        "g (float[B,S] x, float[B,T] z, float[M] w) => (float[B,M] y) { c = Concat<axis=1>(x, z) y = Add(w, c) }",
        2,
        False,
    ),
    (
        "g (float[B,S,3] x, float[B,T,3] z) => (float[3,B,M] y) "
        "{ c = Concat<axis=1>(x, z) y = Transpose<perm=[2,0,1]>(c) }",
        2,
        False,
    ),
    (  # along two axes: four pieces
        "g (float[B,2] x, float[B,3] z, float[N,5] w) => (float[M,5] y) "
        "{ c = Concat<axis=1>(x, z) y = Concat<axis=0>(c, w) }",
        4,
        False,
    ),
    (  # joints at different places of one axis
        "g (float[B,2] x, float[B,3] z) => (float[B,5] y) "
        "{ a = Concat<axis=1>(x, z) b = Concat<axis=1>(z, x) y = Add(a, b) }",
        1,
        True,
    ),
    (
        "g (float[1,B] a, float[1,B] b, float[1,B] c, float[1,B] d, float[1,B] e) => (float[5,B] y) "
        "{ y = Concat<axis=0>(a, b, c, d, e) }",
        1,
        True,
    ),
]


@pytest.mark.parametrize(("text", "stores", "asks"), CASES)
def test_pieces(text: str, stores: int, asks: bool) -> None:
    model = graph(text)
    FuseElementwise().run(model)
    (node,) = model.graph
    lowered = lower(model, node)
    verify_kernel(lowered.kernel)
    assert sum(isinstance(s, Store) for s in lowered.kernel.body) == stores
    assert ("select" in repr(lowered.kernel).lower()) == asks
    feeds = feeds_for(model)
    names = {p.name: v.name for p, v in zip(lowered.kernel.params, lowered.values, strict=True)}
    shapes = {p.name: p.shape for p in lowered.kernel.params}
    want = evaluate(proto_of(model), feeds)["y"]
    dims = {"B": 2, "S": 5, "T": 7, "N": 3}
    inputs = {
        p: feeds[str(v)].reshape([s.evaluate(dims) for s in shapes[p]]) for p, v in names.items() if str(v) in feeds
    }
    np.testing.assert_allclose(run_lowered(lowered.kernel, inputs, dims)["y0"].reshape(want.shape), want, rtol=1e-6)
