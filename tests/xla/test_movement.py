"""Views, cuts, joins, repetition and generated tensors at sizes inside a padded bucket."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

pytest.importorskip("jaxlib")

from tests.xla.run import Array, OnHost, compiled, run
from tests.xla.together import BUCKET, SIZES, Case, check, numbers

RNG = np.random.default_rng(0)

VIEWS = {
    "tokens of all sentences": "g (float[B,S,4] x) => (float[M,4] y) <int64[2] s = {-1, 4}> { y = Reshape(x, s) }",
    "tokens and back": "g (float[B,S,4] x) => (float[P,Q,2,2] y) <int64[2] s = {-1, 4}, int64[2] t = {2, 2}> "
    "{ h = Reshape(x, s) r = Relu(h) n = Shape<end=2>(x) u = Concat<axis=0>(n, t) y = Reshape(r, u) }",
    "all in a row": "g (float[B,S] x) => (float[M] y) <int64[1] s = {-1}> { y = Reshape(x, s) }",
    "heads": "g (float[B,S,6] x) => (float[M,K,L,J] y) <int64[4] s = {0,0,2,3}> { y = Reshape(x, s) }",
    "heads into the batch": "g (float[B,S,6] x) => (float[M,K,J] y) <int64[4] s = {0,0,2,3}, int64[1] a = {-1}, "
    "int64[1] b = {3}> { h = Reshape(x, s) q = Transpose<perm=[0,2,1,3]>(h) n = Shape<start=1, end=2>(x) "
    "u = Concat<axis=0>(a, n, b) y = Reshape(q, u) }",
    "a padded tail cut anew": "g (float[B,S] x) => (float[M,K] y) <int64[2] s = {-1, 2}> "
    "{ z = Concat<axis=1>(x, x) y = Reshape(z, s) }",
    "flat": "g (float[B,S,3] x) => (float[M,K] y, float[M,K] z, float[M,K] w, float[M,K] u) "
    "{ y = Flatten<axis=0>(x) z = Flatten(x) w = Flatten<axis=2>(x) u = Flatten<axis=3>(x) }",
    "axes in and out": "g (float[B,S] x) => (float[M,1,K,1] y, float[M,K] z) <int64[2] a = {1, 3}> "
    "{ y = Unsqueeze(x, a) n = Neg(y) z = Squeeze(n, a) }",
    "transposes": "g (float[B,S,3] x) => (float[3,S,B] y, float[S,B,3] z) "
    "{ y = Transpose(x) z = Transpose<perm=[1,0,2]>(x) }",
    "blocks of pixels": "g (float[B,8,S,T] x) => (float[B,2,K,L] y, float[B,2,K,L] z, float[B,M,N,P] w) "
    '{ y = DepthToSpace<blocksize=2>(x) z = DepthToSpace<blocksize=2, mode="CRD">(x) '
    "  c = Concat<axis=2>(x, x) d = Concat<axis=3>(c, c) w = SpaceToDepth<blocksize=2>(d) }",
}

JOINS = {
    "two padded parts": "g (float[B,S] x, float[B,T] z) => (float[B,K] y) { y = Concat<axis=1>(x, z) }",
    "three": "g (float[B,S] x, float[B,T] z) => (float[B,K] y) { y = Concat<axis=1>(x, z, x) }",
    "joined twice": "g (float[B,S] x) => (float[K,S] y, float[L,S] w) "
    "{ n = Neg(x) y = Concat<axis=0>(x, n) w = Concat<axis=-2>(n, y, x) }",
    "with constants": "g (float[S,2] x) => (float[K,2] y) <float[1,2] c = {5,6}> "
    "{ y = Concat<axis=0>(c, x, c, c, x, c) }",
    "repeated": "g (float[B,S] x) => (float[M,N] y) <int64[2] r = {2,3}> { y = Tile(x, r) }",
    "repeated as often as a size says": "g (float[3,1] x, float[S] z) => (float[K,1] y) <int64[1] one = {1}> "
    "{ n = Shape(z) r = Concat<axis=0>(n, one) y = Tile(x, r) }",
    "spread": "g (float[1,S] x, float[B] z) => (float[B,S] y) "
    "{ n = Shape(z) m = Shape<start=1>(x) s = Concat<axis=0>(n, m) y = Expand(x, s) }",
}


def _sliced(starts: str, ends: str, axes: str = "1", steps: str = "1") -> str:
    constants = ", ".join(
        f"int64[{len(v.split(','))}] {n} = {{{v}}}" for n, v in (("a", starts), ("e", ends), ("d", axes), ("t", steps))
    )
    return f"g (float[B,S] x) => (float[M,K] y) <{constants}> {{ y = Slice(x, a, e, d, t) }}"


CUTS = {
    "1:": _sliced("1", "99999"),
    "-1:": _sliced("-1", "9223372036854775807"),
    "-2:-1": _sliced("-2", "-1"),
    ":-1": _sliced("0", "-1"),
    "-3:": _sliced("-3", "9999"),
    "::-1": _sliced("-1,-1", "-99999,-9223372036854775808", "1,0", "-1,-2"),
    "4::-1": _sliced("4", "-99999", steps="-1"),
    "::3": _sliced("0", "99999", steps="3"),
    "2:4": _sliced("2", "4"),
    "9:": _sliced("9", "99"),
    "the upper half": "g (float[B,S] x) => (float[B,K] y, float[B,L] z) "
    "<int64[1] two = {2}, int64[1] e = {99999}, int64[1] d = {1}, int64[1] a = {0}> "
    "{ n = Shape<start=1, end=2>(x) h = Div(n, two) y = Slice(x, h, e, d) z = Slice(x, a, h, d) }",
    "of a table": "g (float[B,2] x, float[S,2] z, float[16,3] t) => (float[K,3] y, float[L,3] w) "
    "<int64[1] d = {0}, int64[1] a = {0}> { n = Shape<start=0, end=1>(x) m = Shape<start=0, end=1>(z) e = Add(n, m) "
    "y = Slice(t, n, e, d) w = Slice(t, a, m, d) }",
    "the last three backwards": "g (float[S,2] z) => (float[3,2] y) <float[3,2] c = {1,2,3,4,5,6}, "
    "int64[1] a = {-1}, int64[1] e = {-4}, int64[1] d = {0}, int64[1] t = {-1}> "
    "{ w = Concat<axis=0>(z, c) y = Slice(w, a, e, d, t) }",
    "halves": "g (float[S,2] x) => (float[K,2] y, float[L,2] z) { y, z = Split<axis=0, num_outputs=2>(x) }",
    "pieces beside padding": "g (float[S,6] x) => (float[S,K] y, float[S,L] z) "
    "{ y, z = Split<axis=1, num_outputs=2>(x) }",
    "all but the first": "g (float[S,2] x) => (float[K,2] y, float[L,2] z) <int64[1] one = {1}> "
    "{ n = Shape<start=0, end=1>(x) m = Sub(n, one) p = Concat<axis=0>(one, m) y, z = Split<axis=0>(x, p) }",
}

PADS = {
    "around": "g (float[B,S] x) => (float[M,N] y) <int64[4] p = {1,2,3,1}, float v = {7}> { y = Pad(x, p, v) }",
    "edge": 'g (float[B,S] x) => (float[M,N] y) <int64[4] p = {1,2,3,1}> { y = Pad<mode="edge">(x, p) }',
    "wrap": 'g (float[B,S] x) => (float[M,N] y) <int64[4] p = {1,2,3,1}> { y = Pad<mode="wrap">(x, p) }',
    "reflect": 'g (float[B,4] x) => (float[M,N] y) <int64[4] p = {0,3,0,2}> { y = Pad<mode="reflect">(x, p) }',
    "reflect at a padded end": "g (float[B,S] x) => (float[M,N] y) <int64[4] p = {0,1,0,2}> "
    '{ z = Concat<axis=1>(x, x, x) y = Pad<mode="reflect">(z, p) }',
    "by sizes": "g (float[B,2] x, float[S] z) => (float[M,2] y, float[M,2] w) <int64[2] zeros = {0,0}> "
    '{ n = Shape(z) p = Concat<axis=0>(n, zeros, n) q = Pad(x, p) y = Neg(q) w = Pad<mode="edge">(x, p) }',
}

GENERATED = {
    "sizes": "g (float[B,S] x) => (int64[2] y, int64 z, int64[1] w) "
    "{ y = Shape(x) z = Size(x) w = Shape<start=-1>(x) }",
    "sizes computed with": "g (float[B,S] x) => (int64[2] y, float[2] z) <int64[2] c = {3, -1}> "
    "{ n = Shape(x) m = Mul(n, c) y = Sub(m, n) z = Cast<to=1>(n) }",
    "a constant": "g (float[B,S] x) => (float[B,S] y) { n = Shape(x) c = ConstantOfShape(n) y = Add(c, x) }",
    "a range": "g (float[S] x) => (int64[S] y, int64[K] z) <int64 a = {0}, int64 o = {1}, int64 b = {-1}, "
    "int64 t = {-2}> { n = Size(x) y = Range(a, n, o) z = Range(n, b, t) }",
    "triangles": "g (float[B,S] x, int64 k) => (float[B,S] y, float[B,S] z, float[B,S] w) "
    "{ y = Trilu(x, k) z = Trilu<upper=0>(x) w = Trilu<upper=0>(x, k) }",
    "a diagonal": "g (float[B,S] x) => (float[B,S] y, int32[B,S] z) "
    "{ y = EyeLike<k=1>(x) z = EyeLike<k=-1, dtype=6>(x) }",
}


@pytest.mark.parametrize("texts", [VIEWS, JOINS, CUTS, PADS, GENERATED], ids="views joins cuts pads generated".split())
def test_padding_moves_along(texts: Mapping[str, str]) -> None:
    check({name: Case(text) for name, text in texts.items()})


def test_negative_pads_at_padded_ends() -> None:
    text = "g (float[B,S] x) => (float[M,N] y) <int64[4] p = {0,-1,1,2}, float v = {7}> { y = Pad(x, p, v) }"

    def want(feeds: Mapping[str, Array]) -> list[Array]:
        return [np.pad(feeds["x"][:, 1:], ((0, 1), (0, 2)), constant_values=7)]

    check({"cut and set": Case(text, want)})


def test_a_slice_whose_start_a_run_tells() -> None:
    text = (
        "g (float[B,7] x, int64[1] a, int64[1] back) => (float[B,K] y, float[B,L] z) "
        "<int64[1] d = {1}, int64[1] two = {2}, int64[1] end = {9223372036854775807}> "
        "{ e = Add(a, two) y = Slice(x, a, e, d) z = Slice(x, back, end, d) }"
    )
    with pytest.raises(OnHost, match="only a run tells the size"):
        compiled(text)


#: Static sizes: dtype, and sizes of 0.
DTYPES = "float float16 bfloat16 double int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool".split()


def test_elements_of_every_type_are_moved() -> None:
    def moved(dtype: str) -> Case:
        return Case(
            f"g ({dtype}[B,S] x) => ({dtype}[S,B] a, {dtype}[M,S] b, {dtype}[B,K] c, {dtype}[N,L] d, {dtype}[B,S] e, "
            f"{dtype}[P] f, {dtype}[B,S] h) "
            "<int64[1] s = {-1}, int64[1] end = {-99}, int64[1] one = {1}, int64[4] p = {1,0,2,1}> "
            "{ a = Transpose(x) b = Concat<axis=0>(x, x) c = Slice(x, s, end, one, s) d = Pad(x, p) e = Trilu(x) "
            "  f = Reshape(x, s) t = Shape(x) h = Expand(x, t) }",
            _moved,
        )

    check({dtype: moved(dtype) for dtype in DTYPES}, SIZES[:2])


def _moved(feeds: Mapping[str, Array]) -> list[Array]:
    x = feeds["x"]
    padded = np.zeros((x.shape[0] + 3, x.shape[1] + 1), x.dtype)
    padded[1:-2, :-1] = x
    triangle = np.where(np.tri(*x.shape, -1, dtype=bool), np.zeros((), x.dtype), x)
    return [x.T, np.concatenate([x, x]), x[:, ::-1], padded, triangle, x.reshape(-1), x]


def test_tensors_without_elements() -> None:
    text = (
        "g (float[0,3] x, float[4,3] z) => (float[3,0] t, float[4,3] cat, float[0,3] cut, float[0,3] back, "
        "float[2,3] pad, float[0,7] edge, float[0,9] tile, float[2,0,3] wide, float[0,3] tri, float[1,0] flat, "
        "float[1,3] sum, float[1,3] most, float[0,3] soft, float[0,3] run) "
        "<int64[1] zero = {0}, int64[1] end = {5}, int64[1] last = {-1}, int64[1] first = {-99}, "
        " int64[4] p = {1,0,1,0}, int64[4] q = {0,2,0,2}, int64[2] r = {2,3}, int64[3] w = {2,0,3}, int64 a = {0}> "
        "{ t = Transpose(x) cat = Concat<axis=0>(x, z) cut = Slice(x, zero, end) "
        '  back = Slice(x, last, first, zero, last) pad = Pad(x, p) edge = Pad<mode="edge">(x, q) tile = Tile(x, r) '
        "  wide = Expand(x, w) tri = Trilu(x) flat = Flatten<axis=0>(x) sum = ReduceSum(x, zero) "
        "  most = ReduceMax(x, zero) soft = Softmax(x) run = CumSum(x, a) }"
    )
    z = numbers(RNG, np.dtype(np.float32), (4, 3))
    got = run(text, {"x": np.zeros((0, 3), np.float32), "z": z})
    assert np.array_equal(got["cat"], z)
    assert np.array_equal(got["pad"], np.zeros((2, 3), np.float32))
    assert np.array_equal(got["sum"], np.zeros((1, 3)))
    assert np.array_equal(got["most"], np.full((1, 3), -np.inf))
    shapes = {"t": (3, 0), "edge": (0, 7), "tile": (0, 9), "wide": (2, 0, 3), "flat": (1, 0), "soft": (0, 3)}
    assert {name: got[name].shape for name in shapes} == shapes


def test_a_view_that_padding_allows_is_a_plain_reshape() -> None:
    """Groups with no padded size, or with one that is outermost, cost nothing."""
    program = compiled(
        "g (float[B,S,6] x) => (float[M,K,L,J] y, float[N,6] z) <int64[4] s = {0,0,2,3}> "
        "{ y = Reshape(x, s) f = Flatten<axis=2>(x) z = Neg(f) }",
        {"x": (4, f"S=1..{BUCKET}", 6)},
        {"S": (BUCKET,)},
    )
    assert program.text.count('"stablehlo.gather"(') == 1  # the rows of z; y is a reshape alone
    outermost = compiled(
        "g (float[B,S,6] x) => (float[N,6] z) { f = Flatten<axis=2>(x) z = Neg(f) }",
        {"x": (f"B=1..{BUCKET}", 4, 6)},
        {"B": (BUCKET,)},
    )
    assert "gather" not in outermost.text


def test_unpadded_slices_and_splits_are_static() -> None:
    program = compiled(
        "g (float[4,8] x) => (float[4,K] y, float[4,L] z, float[4,M] w) "
        "<int64[1] a = {-1}, int64[1] e = {-99}, int64[1] d = {1}, int64[1] t = {-2}> "
        "{ y = Slice(x, a, e, d, t) z, w = Split<axis=1, num_outputs=2>(x) }"
    )
    assert "dynamic" not in program.text
    assert "stablehlo.pad" not in program.text


def test_the_last_token_is_cut_out_of_its_place() -> None:
    """What is there for sure needs no room after the end."""
    program = compiled(
        "g (float[2,S,4] x) => (float[2,1,4] y) <int64[1] a = {-1}, int64[1] e = {99}, int64[1] d = {1}> "
        "{ y = Slice(x, a, e, d) }",
        {"x": (2, f"S=1..{BUCKET}", 4)},
        {"S": (BUCKET,)},
    )
    assert "stablehlo.dynamic_slice" in program.text
    assert "stablehlo.pad" not in program.text
