"""Operators that move elements, with operands that only a run tells; and runs that are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tilewright.runtime.errors import InputError

from tests.end_to_end.movement_cases import GRAPHS, Array, ints, normal
from tests.end_to_end.test_routines import check, expected_of, model_of, session_of


@pytest.mark.parametrize("name", GRAPHS)
def test_movement(name: str) -> None:
    graph = GRAPHS[name]
    empty = any(0 in array.shape for feeds in graph.runs for array in feeds.values())
    session, expected = session_of(graph.text, empty=empty), expected_of(graph, model_of(graph.text))
    names = [o.name for o in session.outputs]
    for given in graph.runs:
        feeds = {n: np.asarray(v) for n, v in given.items()}
        check(graph, dict(zip(names, session.run(None, feeds), strict=True)), expected(feeds))


#: A graph, a run that works, and inputs that a run refuses.
REFUSED: dict[str, tuple[str, dict[str, Array], list[dict[str, Array]]]] = {
    "a slice": (
        "g (float[A,4] x, int64[2] s, int64[2] a, int64[2] t) => (float[M,N] y) { y = Slice(x, s, s, a, t) }",
        {"x": normal(3, 4), "s": ints(0, 0), "a": ints(0, 1), "t": ints(1, 1)},
        [{"t": ints(1, 0)}, {"a": ints(0, 2)}, {"a": ints(0, -3)}, {"a": ints(1, -1)}],
    ),
    "split sizes": (
        "g (float[A] x, int64[2] s) => (float[M] y, float[N] z) { y, z = Split(x, s) }",
        {"x": normal(4), "s": ints(1, 3)},
        [{"s": ints(1, 2)}, {"s": ints(-1, 5)}],
    ),
    "pads": (
        'g (float[A] x, int64[2] p) => (float[M] y, float[N] z) { y = Pad(x, p) z = Pad<mode="edge">(x, p) }',
        {"x": normal(4), "p": ints(1, 3)},
        [{"p": ints(-5, 0)}, {"p": ints(2, -4)}],
    ),
    "sizes": (
        "g (float[A] x, int64[1] s) => (float[M] y, float[N] z, float[K] w) "
        "{ y = Tile(x, s) z = ConstantOfShape(s) w = Expand(x, s) }",
        {"x": normal(4), "s": ints(4)},
        [{"s": ints(-1)}, {"s": ints(3)}, {"s": ints(2**60)}],
    ),
    "axes": (
        "g (float[A,1] x, int64[1] a) => (float[M] y, float[N,K,L] z) { y = Squeeze(x, a) z = Unsqueeze(x, a) }",
        {"x": normal(4, 1), "a": ints(1)},
        [{"a": ints(0)}, {"a": ints(2)}, {"a": ints(-3)}],
    ),
    "a range": (
        "g (float a, float b, int64 c) => (float[M] y, int64[N] z) <int64 k = {0}, int64 l = {9}> "
        "{ y = Range(a, b, b) z = Range(k, l, c) }",
        {"a": np.float32(0), "b": np.float32(1), "c": np.int64(2)},
        [{"b": np.float32(0)}, {"b": np.float32(np.nan)}, {"a": np.float32(-np.inf)}, {"c": np.int64(0)}],
    ),
    "indices": (
        "g (float[A] x, int64[1] i, int64[1,1] j, float[1] u) => (float[1] y, float[1] z, float[A] v, float[A] w) "
        '{ y = Gather(x, i) z = GatherND(x, j) v = ScatterElements<reduction="add">(x, i, u) '
        '  w = ScatterND<reduction="mul">(x, j, u) }',
        {"x": normal(4), "i": ints(1), "j": ints(1)[None], "u": normal(1)},
        [{"i": ints(4)}, {"i": ints(-5)}, {"j": ints(4)[None]}, {"j": ints(-5)[None]}],
    ),
    "a depth": (
        "g (int64[2] i, float d, float[2] v) => (float[2,M] y) { y = OneHot(i, d, v) }",
        {"i": ints(0, 1), "d": np.float32(3), "v": normal(2)},
        [{"d": np.float32(-2)}, {"d": np.float32(np.nan)}, {"d": np.float32(1e30)}],
    ),
    "lengths": (
        "g (float[T,2] x, int64[2] n) => (float[T,2] y) { y = ReverseSequence(x, n) }",
        {"x": normal(3, 2), "n": ints(1, 3)},
        [{"n": ints(1, 5)}],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    text, good, changes = REFUSED[name]
    session = session_of(text)
    session.run(None, good)
    for change in changes:
        with pytest.raises(InputError):
            session.run(None, {**good, **change})
    session.run(None, good)


def _center(x: Array, sizes: tuple[int, ...]) -> Array:
    """The definition: what is too long is cut and what is too short is padded, the odd one at the end."""
    for d, size in enumerate(sizes):
        surplus = x.shape[d] - size
        if surplus > 0:
            x = np.take(x, range(surplus // 2, surplus // 2 + size), d)
        else:
            before = -surplus // 2
            x = np.pad(x, [(before, -surplus - before) if e == d else (0, 0) for e in range(x.ndim)])
    return x


def test_centered() -> None:
    session = session_of("g (float[A,B,C] x, int64[2] s) => (float[M,B,N] y) { y = CenterCropPad<axes=[0, -1]>(x, s) }")
    for shape, sizes in (((5, 2, 4), (2, 7)), ((4, 1, 3), (7, 2)), ((3, 2, 3), (3, 0)), ((1, 1, 1), (4, 4))):
        x = normal(*shape)
        (y,) = session.run(None, {"x": x, "s": ints(*sizes)})
        np.testing.assert_array_equal(y, _center(x, (sizes[0], shape[1], sizes[1])))


REDUCE: dict[str, Any] = {"add": np.add, "mul": np.multiply, "min": np.minimum, "max": np.maximum}


@pytest.mark.parametrize("dtype", ["float16", "double", "int8", "int32", "uint64"])
def test_reductions_of_other_types(dtype: str) -> None:
    """ONNX Runtime has few of them: beside ``ufunc.at``."""
    outputs = ", ".join(f"{dtype}[A] {name}, {dtype}[A] n{name}" for name in REDUCE)
    nodes = " ".join(
        f'{name} = ScatterElements<reduction="{name}">(x, i, u) n{name} = ScatterND<reduction="{name}">(x, j, u)'
        for name in REDUCE
    )
    session = session_of(
        f"g ({dtype}[A] x, int64[N] i, {dtype}[N] u) => ({outputs}) <int64[1] one = {{1}}> "
        f"{{ j = Unsqueeze(i, one) {nodes} }}"
    )
    numpy = np.dtype(dtype)
    x, u, i = np.array([3, 5, 7], numpy), np.array([2, 2, 1, 9], numpy), ints(0, -1, 2, 0)
    results = dict(zip([o.name for o in session.outputs], session.run(None, {"x": x, "i": i, "u": u}), strict=True))
    for name, ufunc in REDUCE.items():
        want = x.copy()
        ufunc.at(want, i, u)
        np.testing.assert_array_equal(results[name], want)
        np.testing.assert_array_equal(results[f"n{name}"], want)


def test_the_smaller_and_the_larger_of_nan_is_nan() -> None:
    session = session_of(
        "g (float[A] x, int64[N] i, float[N] u) => (float[A] y, float[A] z) "
        '{ y = ScatterElements<reduction="min">(x, i, u) z = ScatterElements<reduction="max">(x, i, u) }'
    )
    feeds = {"x": np.float32([1, np.nan, 3]), "i": ints(0, 1), "u": np.float32([np.nan, 2])}
    for result in session.run(None, feeds):
        np.testing.assert_array_equal(result, np.float32([np.nan, np.nan, 3]))
