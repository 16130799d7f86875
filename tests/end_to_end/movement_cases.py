"""Graphs of operators that move elements, every operand of which is an input: each runs at several sizes and values."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.end_to_end.routine_cases import DTYPES, RNG, Array, Graph, normal

END, START = np.iinfo(np.int64).max, np.iinfo(np.int64).min


def ints(*values: int) -> Array:
    """A vector of integers."""
    return np.array(values, np.int64)


def below(n: int, *shape: int) -> Array:
    """Random indices into an axis of ``n``, counted from either end."""
    return RNG.integers(-n, n, shape)


def _any(dtype: Any, *shape: int) -> Array:
    return RNG.integers(0, 2 if dtype is np.bool_ else 100, shape).astype(dtype)


SLICED: list[dict[str, Any]] = [
    {"starts": ints(1, 2), "ends": ints(3, END), "axes": ints(0, 2), "steps": ints(1, 2)},
    {"starts": ints(-1, END), "ends": ints(START, -100), "axes": ints(-3, -1), "steps": ints(-1, -3)},
    {"starts": ints(100, -2), "ends": ints(200, 1), "axes": ints(1, 0), "steps": ints(1, -1)},
    {"starts": ints(3, -100), "ends": ints(1, 100), "axes": ints(2, 1), "steps": ints(2**62, -(2**62))},
    {"starts": ints(0, 4), "ends": ints(END, 0), "axes": ints(0, 1), "steps": ints(2, -1)},
]

#: Lists of the operators that ONNX Runtime is asked about.
GRAPHS: dict[str, Graph] = {
    "a slice of which nothing is known": Graph(
        "g (float[A,5,C] x, int64[2] starts, int64[2] ends, int64[2] axes, int64[2] steps) => (float[M,N,K] y) "
        "{ y = Slice(x, starts, ends, axes, steps) }",
        [{"x": normal(a, 5, c), **cut} for cut in SLICED for a, c in ((4, 7), (1, 3))],
    ),
    "slices of given axes": Graph(
        "g (float[A,8] x, int64[1] s, int64[1] e, float[P] p, float[S] q) => (float[M,8] y, float[A,M] z, float[K] r) "
        "<int64[1] one = {1}, int64[1] zero = {0}, int64[1] back = {-2}> "
        "{ y = Slice(x, s, e, zero) z = Slice(x, s, e, one, back) "
        "  n = Shape(p) m = Shape(q) d = Sub(n, m) r = Slice(p, zero, d) }",
        [
            {"x": normal(a, 8), "s": ints(s), "e": ints(e), "p": normal(p), "q": normal(q)}
            for a, s, e, p, q in ((5, 1, -1, 6, 2), (3, -2, 1, 2, 6), (4, 7, START, 3, 3), (1, 0, 0, 9, 1))
        ],
    ),
    "split into run-time sizes": Graph(
        "g (float[A,T] x, int64[3] s) => (float[A,P] y, float[A,Q] z, float[A,R] r, float[A,P] w) "
        "{ y, z, r = Split<axis=-1>(x, s) w = Neg(y) }",
        [{"x": normal(a, sum(s)), "s": ints(*s)} for a, s in ((2, (1, 2, 3)), (1, (4, 0, 1)), (3, (0, 0, 5)))],
    ),
    "split unevenly": Graph(
        "g (float[T,3] x) => (float[M,3] a, float[N,3] b, float[K,3] c) { a, b, c = Split<axis=0, num_outputs=3>(x) }",
        [{"x": normal(t, 3)} for t in (3, 7, 8, 9)],
    ),
    "concatenation": Graph(
        "g (float[A,3] x, float[B,3] z, int64[C] i, int64[D] j) => (float[M,3] y, float[M,6] w, int64[N] k) "
        "{ y = Concat<axis=-2>(x, z, x) w = Concat<axis=1>(y, y) k = Concat<axis=0>(i, j) }",
        [
            {"x": normal(a, 3), "z": normal(b, 3), "i": below(9, a), "j": below(9, b)}
            for a, b in ((2, 5), (1, 1), (0, 4), (3, 0))
        ],
    ),
    "pads of given axes": Graph(
        "g (float[A,5] x, int64[4] p, float v, int64[2] q) => (float[M,N] y, float[M,N] z, float[A,K] r) "
        '<int64[1] last = {-1}> { y = Pad(x, p, v) z = Pad<mode="edge">(x, p) r = Pad<mode="wrap">(x, q, , last) }',
        [
            {"x": normal(a, 5), "p": ints(*p), "v": np.float32(v), "q": ints(*q)}
            for a, p, v, q in (
                (3, (1, 2, 0, 3), 7.5, (1, 2)),
                (2, (-1, 0, 2, -2), -1.0, (5, 3)),
                (1, (0, -2, 0, -2), 0.0, (0, 0)),
            )
        ],
    ),
    "pads of run-time axes": Graph(
        "g (float[A,5,B] x, int64[4] p, float v, int64[2] axes) => (float[M,N,K] y, float[M,N,K] z, float[M,N,K] r) "
        '{ y = Pad(x, p, v, axes) z = Pad<mode="edge">(x, p, , axes) r = Pad<mode="reflect">(x, p, , axes) }',
        [
            {"x": normal(a, 5, b), "p": ints(*p), "v": np.float32(3), "axes": ints(*axes)}
            for a, b, p, axes in (
                (3, 4, (1, 2, 0, 3), (0, 1)),
                (4, 6, (3, 4, 1, 0), (-3, -1)),
                (2, 2, (1, 0, 0, 4), (2, 1)),
            )
        ],
    ),
    "repetition and broadcast": Graph(
        "g (float[A,1,C] x, int64[3] r, int64[4] s, int64[2] t) => (float[M,N,K] y, float[P,Q,R,S] z, float[A,N,L] w) "
        "{ y = Tile(x, r) z = Expand(x, s) w = Expand(x, t) }",
        [
            {"x": normal(a, 1, c), "r": ints(*r), "s": ints(*s), "t": ints(*t)}
            for a, c, r, s, t in (
                (2, 3, (2, 1, 3), (2, 2, 4, 1), (5, 3)),
                (1, 2, (0, 2, 1), (1, 3, 1, 2), (1, 1)),
                (1, 1, (1, 1, 1), (2, 3, 0, 4), (2, 6)),
            )
        ],
    ),
    "axes that are put in and taken out": Graph(
        "g (float[A,1,B,1] x, int64[1] a, int64[2] b) => (float[M,N,K] y, float[P,Q,R,S,T,U] z, float[A,B] w) "
        "<int64[2] ones = {1, 3}> { y = Squeeze(x, a) z = Unsqueeze(x, b) w = Squeeze(x, ones) }",
        [
            {"x": normal(2, 1, 3, 1), "a": ints(a), "b": ints(*b)}
            for a, b in ((1, (0, 1)), (3, (5, 2)), (-1, (-1, -6)), (-3, (3, -2)))
        ],
    ),
    "triangles": Graph(
        "g (float[A,B,C] x, int64 k, int64[C,B] i) => (float[A,B,C] y, float[A,B,C] z, int64[C,B] w) "
        "{ y = Trilu(x, k) z = Trilu<upper=0>(x, k) w = Trilu<upper=0>(i) }",
        [
            {"x": normal(2, b, c), "k": np.int64(k), "i": below(9, c, b)}
            for b, c, k in ((3, 4, 1), (4, 3, -2), (5, 5, 0), (2, 2, 2**40), (2, 2, -(2**40)), (1, 0, 0))
        ],
    ),
    "ranges": Graph(
        "g (int64 a, int64 b, int64 c, float d, float e, float f, double h) => "
        "(int64[M] y, float[N] z, double[K] w, int32[L] v) "
        "{ y = Range(a, b, c) z = Range(d, e, f) i = Cast<to=11>(d) j = Cast<to=11>(e) w = Range(i, j, h) "
        "  k = Cast<to=6>(a) l = Cast<to=6>(b) m = Cast<to=6>(c) v = Range(k, l, m) }",
        [
            dict(zip("abcdefh", (np.int64(a), np.int64(b), np.int64(c), *map(np.float32, (d, e, f)), h), strict=True))
            for a, b, c, d, e, f, h in (
                (0, 7, 2, 0.5, 2.0, 0.25, np.float64(0.1)),
                (7, -1, -3, 3, -1, -0.75, np.float64(-0.3)),
                (2, 2, 5, 1, 0, 1, np.float64(0.5)),
                (2**30, 2**30 + 3, 1, 0, 1, 1 / 3, np.float64(1 / 3)),
            )
        ],
    ),
    "one hot": Graph(
        "g (int64[A,B] i, int64[1] d, float e, float[2] v, int32[2] w) => (float[A,B,M] y, int32[A,K,B] z) "
        "{ y = OneHot(i, d, v) z = OneHot<axis=1>(i, e, w) }",
        [
            {
                "i": RNG.integers(-7, 8, (a, b)),
                "d": ints(d),
                "e": np.float32(e),
                "v": normal(2),
                "w": np.array([-1, 5], np.int32),
            }
            for a, b, d, e in ((2, 3, 5, 4.0), (1, 1, 8, 7.0), (3, 2, 1, 1.0))
        ],
    ),
    "tensors of a run-time shape": Graph(
        "g (int64[3] s, int64[0] t, int64[1] u) => (float[M,N,K] y, int8 z, int64[L] w, bool[L] b) "
        "{ y = ConstantOfShape(s) z = ConstantOfShape<value = int8[1] {7}>(t) "
        "  w = ConstantOfShape<value = int64[1] {-3}>(u) b = ConstantOfShape<value = bool[1] {1}>(u) }",
        [{"s": ints(*s), "t": ints(), "u": ints(u)} for s, u in (((2, 3, 1), 4), ((0, 3, 2), 0), ((1, 1, 1), 1))],
    ),
    "blocks of pixels": Graph(
        "g (float[B,C,H,W] x) => (float[B,M,N,K] y, float[B,M,N,K] z, float[B,P,Q,R] w) "
        '{ y = DepthToSpace<blocksize=2>(x) z = DepthToSpace<blocksize=2, mode="CRD">(x) '
        "  w = SpaceToDepth<blocksize=2>(x) }",
        [{"x": normal(b, c, h, w)} for b, c, h, w in ((1, 8, 4, 6), (2, 4, 2, 2))],
    ),
    "sequences reversed in part": Graph(
        "g (float[T,B,3] x, int64[B] n, int64[B,T] i) => (float[T,B,3] y, int64[B,T] z) "
        "{ y = ReverseSequence<time_axis=0, batch_axis=1>(x, n) z = ReverseSequence<time_axis=1, batch_axis=0>(i, n) }",
        [
            {"x": normal(t, len(n), 3), "n": ints(*n), "i": below(9, len(n), t)}
            for t, n in ((5, (5, 1, 3)), (1, (1,)), (4, (2, 4)))
        ],
    ),
    "gathering": Graph(
        "g (float[A,B,C] x, int64[N,2] i, int64[A,B,D] e, int64[A,M,1] v, int32 j) => "
        "(float[A,N,2,C] y, float[A,B,D] z, float[A,M,C] w, float[B,C] u, float[N,C] t) "
        "{ y = Gather<axis=1>(x, i) z = GatherElements<axis=-1>(x, e) w = GatherND<batch_dims=1>(x, v) "
        "  u = Gather(x, j) t = GatherND(x, i) }",
        [
            {
                "x": normal(a, b, c),
                "i": below(min(a, b), n, 2),
                "e": below(c, a, b, d),
                "v": below(b, a, m, 1),
                "j": np.int32(-1),
            }
            for a, b, c, n, d, m in ((2, 3, 4, 3, 5, 2), (1, 1, 1, 1, 1, 1), (3, 2, 5, 0, 2, 0))
        ],
    ),
    "scattering that accumulates": Graph(
        "g (float[A,B,C] x, int64[P,Q,C] i, float[P,Q,C] u, int64[N,2] j, float[N,C] v) => "
        "(float[A,B,C] add, float[A,B,C] mul, float[A,B,C] min, float[A,B,C] max, float[A,B,C] y, float[A,B,C] z) "
        '{ add = ScatterElements<axis=1, reduction="add">(x, i, u) '
        '  mul = ScatterElements<axis=1, reduction="mul">(x, i, u) '
        '  min = ScatterElements<axis=1, reduction="min">(x, i, u) '
        '  max = ScatterElements<axis=1, reduction="max">(x, i, u) '
        '  y = ScatterND<reduction="add">(x, j, v) z = ScatterND<reduction="max">(x, j, v) }',
        [
            {
                "x": normal(a, b, c),
                "i": below(b, p, q, c),
                "u": normal(p, q, c),
                "j": below(min(a, b), n, 2),
                "v": normal(n, c),
            }
            for a, b, c, p, q, n in ((3, 2, 4, 2, 5, 6), (1, 1, 1, 1, 3, 2), (2, 3, 2, 1, 0, 0))
        ],
    ),
    "slices picked by a condition": Graph(
        "g (float[A,B] x, bool[N] c, bool[M] d) => (float[K,B] y, float[A,L] z, float[P] w) "
        "{ y = Compress<axis=0>(x, c) z = Compress<axis=-1>(x, d) w = Compress(x, c) }",
        [
            {"x": normal(a, b), "c": RNG.integers(0, 2, n).astype(bool), "d": RNG.integers(0, 2, m).astype(bool)}
            for a, b, n, m in ((4, 3, 4, 3), (5, 6, 2, 4), (1, 2, 1, 1))
        ],
    ),
    "sizes": Graph(
        "g (float[A,B,C] x, float s) => (int64[3] y, int64[1] z, int64[0] e, int64 n, int64 k, int64[0] q) "
        "{ y = Shape(x) z = Shape<start=-2, end=-1>(x) e = Shape<start=2, end=1>(x) n = Size(x) k = Size(s) "
        "  q = Shape(s) }",
        [{"x": normal(a, b, c), "s": np.float32(1)} for a, b, c in ((2, 3, 4), (1, 1, 1), (0, 2, 5))],
    ),
    "views": Graph(
        "g (float[A,B,C] x, float s) => (float[M,C] y, float[1,N] z, float[C,A,B] t, float[1,1] f, float i) "
        "{ y = Flatten<axis=-1>(x) z = Flatten<axis=0>(x) t = Transpose<perm=[2,0,1]>(x) f = Flatten<axis=0>(s) "
        "  i = Identity(s) }",
        [{"x": normal(a, b, c), "s": np.float32(1)} for a, b, c in ((2, 3, 4), (1, 1, 1), (2, 0, 5))],
    ),
    "diagonals": Graph(
        "g (float[A,B] x, int64[B,A] i) => (float[A,B] y, int64[B,A] z, double[A,B] w, bool[A,B] b) "
        "{ y = EyeLike(x) z = EyeLike<k=-1>(i) w = EyeLike<k=2, dtype=11>(x) d = EyeLike(x) b = Cast<to=9>(d) }",
        [{"x": normal(a, b), "i": below(3, b, a)} for a, b in ((3, 4), (1, 1), (5, 2))],
    ),
    "tensors that are empty whatever comes": Graph(
        "g (float[0,3] x, float[4,3] z, int64[0] i, int64[0,2] j, float[0] u, bool[0] c, int64[1] a) => "
        "(float[3,0] t, float[4,3] cat, float[0,3] g, float[0] n, float[4,3] s, float[4,3] add, float[0,3] cut, "
        " float[0,3] back, float[2,3] pad, float[0,7] edge, float[0,9] tile, float[2,0,3] wide, float[K,3] kept, "
        " float[0,3] tri, float[1,0] flat, float[P,Q,R] more) "
        "<int64[1] zero = {0}, int64[1] end = {5}, int64[1] last = {-1}, int64[1] first = {-99}, "
        " int64[4] p = {1, 0, 1, 0}, int64[4] q = {0, 2, 0, 2}, int64[2] r = {2, 3}, int64[3] w = {2, 0, 3}> "
        "{ t = Transpose(x) cat = Concat<axis=0>(x, z) g = Gather(z, i) n = GatherND(z, j) s = ScatterND(z, j, u) "
        '  add = ScatterND<reduction="add">(z, j, u) cut = Slice(x, zero, end) '
        "  back = Slice(x, last, first, zero, last) "
        '  pad = Pad(x, p) edge = Pad<mode="edge">(x, q) tile = Tile(x, r) wide = Expand(x, w) '
        "  kept = Compress<axis=0>(x, c) tri = Trilu(x) flat = Flatten<axis=0>(x) more = Unsqueeze(x, a) }",
        [
            {
                "x": normal(0, 3),
                "z": normal(4, 3),
                "i": ints(),
                "j": ints().reshape(0, 2),
                "u": normal(0),
                "c": np.zeros(0, bool),
                "a": ints(a),
            }
            for a in (0, -1)
        ],
    ),
    "numbers without axes": Graph(
        "g (float x, int64[2] a, int64[0] n, int64[2] s) => (float e, float t, float[M,N] u, float[K,L] w) "
        "{ e = Expand(x, n) t = Tile(x, n) u = Unsqueeze(x, a) w = Expand(x, s) }",
        [
            {"x": np.float32(2), "a": ints(*a), "n": ints(), "s": ints(*s)}
            for a, s in (((0, 1), (2, 0)), ((-1, 0), (1, 3)))
        ],
    ),
}  # fmt: skip


def _moved(dtype: str) -> Graph:
    """What only moves elements, for one element type."""
    numpy = DTYPES[dtype]

    def expected(feeds: Any) -> dict[str, Array]:
        x, s = feeds["x"], feeds["s"]
        return {
            "a": x[:, int(s[0]) :: 2],
            "b": np.concatenate([x, x], 0),
            "c": np.tile(x, (1, int(s[0]))),
            "d": np.pad(x, ((1, int(s[0])), (0, 0))),
            "e": x.T,
            "f": np.take(x, s, 1),
            "h": np.triu(x, int(s[0])),
        }

    return Graph(
        f"g ({dtype}[A,B] x, int64[1] s) => ({dtype}[A,M] a, {dtype}[N,B] b, {dtype}[A,K] c, {dtype}[L,B] d, "
        f"{dtype}[B,A] e, {dtype}[A,1] f, {dtype}[A,B] h) "
        "<int64[1] one = {1}, int64[1] zero = {0}, int64[1] end = {9999}, int64[1] two = {2}> "
        "{ a = Slice(x, s, end, one, two) b = Concat<axis=0>(x, x) r = Concat<axis=0>(one, s) c = Tile(x, r) "
        "  p = Concat<axis=0>(one, zero, s, zero) d = Pad(x, p) e = Transpose(x) f = Gather<axis=1>(x, s) "
        "  k = Squeeze(s) h = Trilu(x, k) }",
        [{"x": _any(numpy, a, b), "s": ints(1)} for a, b in ((3, 4), (1, 2))],
        expected,
    )


GRAPHS.update({f"elements of type {name}": _moved(name) for name in DTYPES})
