"""Graphs of operators that are routines: sorting, recurrent layers, spectra; and what they have to give.

Each graph has several forms of an operator side by side, and runs at several sizes of one artifact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)

#: ONNX's names of the ordinary element types.
DTYPES: dict[str, Any] = {
    "float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float": np.float32, "double": np.float64,
    "int8": np.int8, "int16": np.int16, "int32": np.int32, "int64": np.int64,
    "uint8": np.uint8, "uint16": np.uint16, "uint32": np.uint32, "uint64": np.uint64, "bool": np.bool_,
}  # fmt: skip

#: What the standard lets these operators have.
ORDERED = {name: d for name, d in DTYPES.items() if name != "bool"}
DISTINCT = {name: d for name, d in DTYPES.items() if name != "bfloat16"}


@dataclass(frozen=True)
class Graph:
    """Text of a graph, feeds of several runs, and the results by name where ONNX Runtime is not asked."""

    text: str
    runs: list[dict[str, Array]]
    expected: Callable[[Mapping[str, Array]], dict[str, Array]] | None = None
    rtol: float = 1e-5
    opset: int = 21


def normal(*shape: int) -> Array:
    """Random f32."""
    return RNG.standard_normal(shape).astype(np.float32)


def few(dtype: Any, *shape: int) -> Array:
    """Numbers with many equal ones; NaN and both zeros among floats, the largest among unsigned integers."""
    kind = np.dtype(dtype).kind
    values = [0, 1, 2, 3, 100]
    if dtype is np.bool_:
        values = [0, 1]
    elif kind in "fV":
        values += [-0.0, -1.5, np.nan, np.inf, -np.inf]
    elif kind == "i":
        values += [-1, -100]
    else:
        values += [np.iinfo(dtype).max]
    return np.array(values, dtype=object)[RNG.integers(0, len(values), shape)].astype(dtype)


def single(value: float) -> Array:
    """A scalar f32."""
    return np.array(value, np.float32)


def number(value: int) -> Array:
    """A scalar integer, as operators take sizes."""
    return np.array(value, np.int64)


# -- sorting -------------------------------------------------------------------------------------------------------


def _sortable(x: Array) -> Array:
    """What sorts like ``x`` with NaN at the end: numbers of a type of which none is lost."""
    return x.astype(np.float64) if x.dtype.kind in "fV" else x


def top_k(x: Array, k: int, axis: int = -1, largest: bool = True) -> tuple[Array, Array]:
    """The definition, with a NaN as the largest; of equal elements the first comes first."""
    moved = np.moveaxis(_sortable(x), axis, -1)
    _, rank = np.unique(moved, return_inverse=True)  # NaNs are one value, the last
    rank = rank.reshape(moved.shape)
    order = np.argsort(-rank if largest else rank, axis=-1, kind="stable")[..., :k]
    order = np.moveaxis(order, -1, axis)
    return np.take_along_axis(x, order, axis), order


def _top_k_of_types(feeds: Mapping[str, Array]) -> dict[str, Array]:
    found = {}
    for name in ORDERED:
        found[f"v_{name}"], found[f"i_{name}"] = top_k(feeds[f"x_{name}"], int(feeds["k"][0]))
    return found


def _top_k_forms(feeds: Mapping[str, Array]) -> dict[str, Array]:
    x, k = feeds["x"], int(feeds["k"][0])
    found = {}
    for n, (axis, largest) in enumerate([(0, True), (1, False), (-1, True), (2, False)]):
        found[f"v{n}"], found[f"i{n}"] = top_k(x, k, axis, largest)
    return found


def _unique(x: Array, axis: int | None, in_order: bool) -> list[Array]:
    """The definition; NaNs are equal."""
    slices = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1) if axis is not None else x.reshape(-1, 1)
    _, codes = np.unique(_sortable(slices), return_inverse=True)
    codes = codes.reshape(slices.shape)
    _, first, inverse, counts = np.unique(codes, axis=0, return_index=True, return_inverse=True, return_counts=True)
    inverse = inverse.reshape(-1)
    if in_order:
        order = np.argsort(first)
        place = np.argsort(order)
        first, inverse, counts = first[order], place[inverse], counts[order]
    taken = x.reshape(-1)[first] if axis is None else np.take(x, first, axis)
    return [taken, first, inverse, counts]


def _unique_of_types(feeds: Mapping[str, Array]) -> dict[str, Array]:
    found = {}
    for name in DISTINCT:
        for n, part in enumerate(_unique(feeds[f"x_{name}"], None, False)):
            found[f"y_{name}_{n}"] = part
    return found


def _unique_forms(feeds: Mapping[str, Array]) -> dict[str, Array]:
    found = {}
    for n, (axis, in_order) in enumerate([(None, True), (0, False), (1, True), (2, False)]):
        for part, array in zip("yfic", _unique(feeds["x"], axis, in_order), strict=True):
            found[f"{part}{n}"] = array
    del found["f3"], found["c0"]
    return found


def _typed(types: Mapping[str, Any], prefix: str, shape: str) -> str:
    return ", ".join(f"{name}[{shape}] {prefix}_{name}" for name in types)


SORTING = {
    "TopK of every type": Graph(
        f"g ({_typed(ORDERED, 'x', 'A,B')}, int64[1] k) => ({_typed(ORDERED, 'v', 'A,K')}, "
        + ", ".join(f"int64[A,K] i_{name}" for name in ORDERED)
        + ") {" + " ".join(f"v_{n}, i_{n} = TopK(x_{n}, k)" for n in ORDERED) + "}",
        [
            {**{f"x_{n}": few(d, *shape) for n, d in ORDERED.items()}, "k": np.array([k])}
            for shape, k in [((3, 50), 4), ((2, 50), 50), ((1, 200), 60), ((0, 7), 2), ((2, 5), 0)]
        ],
        _top_k_of_types,
    ),
    "TopK along axes": Graph(
        "g (float[A,B,C] x, int64[1] k) => (float[K,B,C] v0, int64[K,B,C] i0, float[A,K,C] v1, int64[A,K,C] i1, "
        "float[A,B,K] v2, int64[A,B,K] i2, float[A,B,K] v3, int64[A,B,K] i3) "
        "{ v0, i0 = TopK<axis=0>(x, k) v1, i1 = TopK<axis=1, largest=0>(x, k) v2, i2 = TopK<axis=-1, sorted=0>(x, k) "
        "v3, i3 = TopK<axis=2, largest=0>(x, k) }",
        [{"x": normal(7, 9, 100), "k": np.array([3])}, {"x": few(np.float32, 4, 5, 6), "k": np.array([4])}],
        _top_k_forms,
    ),
    "Unique of every type": Graph(
        f"g ({_typed(DISTINCT, 'x', 'A,B')}) => ("
        + ", ".join(
            f"{n}[U_{n}] y_{n}_0, int64[U_{n}] y_{n}_1, int64[T_{n}] y_{n}_2, int64[U_{n}] y_{n}_3" for n in DISTINCT
        )
        + ") {" + " ".join(f"y_{n}_0, y_{n}_1, y_{n}_2, y_{n}_3 = Unique(x_{n})" for n in DISTINCT) + "}",
        [{f"x_{n}": few(d, *shape) for n, d in DISTINCT.items()} for shape in [(3, 20), (1, 1), (0, 4)]],
        _unique_of_types,
    ),
    "Unique along axes": Graph(
        "g (float[A,B,C] x) => (float[N] y0, int64[N] f0, int64[M] i0, float[D,B,C] y1, int64[D] f1, int64[A] i1, "
        "int64[D] c1, float[A,E,C] y2, int64[E] f2, int64[B] i2, int64[E] c2, float[A,B,F] y3, int64[C] i3, "
        "int64[F] c3) { y0, f0, i0 = Unique<sorted=0>(x) y1, f1, i1, c1 = Unique<axis=0>(x) "
        "y2, f2, i2, c2 = Unique<axis=1, sorted=0>(x) y3, , i3, c3 = Unique<axis=-1>(x) }",
        [{"x": few(np.float32, 30, 1, 1)}, {"x": few(np.bool_, 9, 3, 2).astype(np.float32)}, {"x": normal(3, 4, 50)}],
        _unique_forms,
    ),
    "NonMaxSuppression": Graph(
        "g (float[B,N,4] boxes, float[B,C,N] scores, int64[1] most, float[1] iou, float[1] least) => "
        "(int64[P,3] a, int64[Q,3] b, int64[R,3] c, int64[S,3] d) "
        "{ a = NonMaxSuppression(boxes, scores, most, iou, least) "
        "b = NonMaxSuppression<center_point_box=1>(boxes, scores, most, iou) "
        "c = NonMaxSuppression(boxes, scores, most, , least) d = NonMaxSuppression(boxes, scores) }",
        [
            {
                "boxes": RNG.random((b, n, 4), np.float32), "scores": RNG.random((b, c, n), np.float32),
                "most": np.array([m]), "iou": np.array([iou], np.float32), "least": np.array([0.3], np.float32),
            }
            for b, c, n, m, iou in [(1, 1, 10, 3, 0.5), (2, 3, 200, 20, 0.3), (1, 2, 60, 2**40, 0.9), (2, 1, 5, 0, 0.1)]
        ],
    ),
}  # fmt: skip


# -- spectra -------------------------------------------------------------------------------------------------------


def _pairs(z: Array, dtype: Any) -> Array:
    return np.stack([z.real, z.imag], -1).astype(dtype)


def _complex(x: Array) -> Array:
    wide = x.astype(np.float64)
    return wide[..., 0] + 1j * wide[..., 1]


def _dft(feeds: Mapping[str, Array]) -> dict[str, Array]:
    x, z, n, axis = feeds["x"], feeds["z"], int(feeds["n"]), int(feeds["axis"])
    rank = x.ndim - 1
    at = axis if axis >= 0 else axis + rank + 1
    real = x[..., 0].astype(np.float64)
    half = np.fft.irfft(_complex(z), axis=at)
    return {
        "a": _pairs(np.fft.fft(real, n, at), x.dtype),
        "b": _pairs(np.fft.ifft(_complex(z), n, at), x.dtype),
        "c": _pairs(np.fft.rfft(real, n, at), x.dtype),
        "d": np.fft.irfft(_complex(z), n, at)[..., None].astype(x.dtype),
        "e": _pairs(np.fft.fft(_complex(z), axis=rank - 1), x.dtype),
        "f": half[..., None].astype(x.dtype),
    }


def _stft(feeds: Mapping[str, Array]) -> dict[str, Array]:
    x, w, step = feeds["x"], feeds["w"], int(feeds["step"])
    n, signal = len(w), x.shape[1]
    starts = range(0, max(0, signal - n + 1), step)
    frames = np.stack([x[:, s : s + n, 0] for s in starts], 1) if starts else np.zeros((len(x), 0, n))
    both = np.fft.fft(frames * w)
    return {"a": _pairs(both[..., : n // 2 + 1], x.dtype), "b": _pairs(both, x.dtype)}


def _windows(feeds: Mapping[str, Array]) -> dict[str, Array]:
    size = int(feeds["n"])
    found = {}
    for letter, factors in {"h": (0.5, 0.5), "m": (25 / 46, 21 / 46), "b": (0.42, 0.5, 0.08)}.items():
        for n, turn in enumerate((size, max(1, size - 1))):
            angles = 2 * np.pi * np.arange(size) / turn
            signs = [1, -1, 1]
            window = sum(s * f * np.cos(k * angles) for k, (s, f) in enumerate(zip(signs, factors, strict=False)))
            found[f"{letter}{n}"] = np.asarray(window).astype(np.float64 if n else np.float32)
    return found


def _dft_run(shape: tuple[int, ...], n: int, axis: int, dtype: Any = np.float32) -> dict[str, Array]:
    x, z = RNG.standard_normal((*shape, 1)).astype(dtype), RNG.standard_normal((*shape, 2)).astype(dtype)
    return {"x": x, "z": z, "n": number(n), "axis": number(axis)}


def _dft_graph(dtype: str) -> str:
    outputs = ", ".join(f"{dtype}[{letter}1,{letter}2,{letter}3,{letter}4] {letter}" for letter in "abcdef")
    return (
        f"g ({dtype}[A,B,C,1] x, {dtype}[A,B,C,2] z, int64 n, int64 axis) => ({outputs}) "
        "{ a = DFT(x, n, axis) b = DFT<inverse=1>(z, n, axis) c = DFT<onesided=1>(x, n, axis) "
        "d = DFT<onesided=1, inverse=1>(z, n, axis) e = DFT(z) f = DFT<onesided=1, inverse=1>(z, , axis) }"
    )


SPECTRA = {
    "DFT": Graph(
        _dft_graph("float"),
        [
            _dft_run((2, 3, 16), 16, 2),
            _dft_run((2, 30, 3), 30, -3),
            _dft_run((12, 3, 2), 8, 0),
            _dft_run((2, 17, 2), 34, 1),
            _dft_run((1, 2, 2 * 3 * 5 * 7), 11 * 13, -2),
            _dft_run((1, 2, 3), 1009, 2),
            _dft_run((0, 4, 4), 4, 1),
        ],
        _dft,
        rtol=2e-6,
    ),
    "DFT in f64": Graph(
        _dft_graph("double"),
        [_dft_run((2, 3, 400), 400, 2, np.float64), _dft_run((2, 101, 3), 101, 1, np.float64)],
        _dft,
        rtol=1e-12,
    ),
    "STFT": Graph(
        "g (float[A,S,1] x, int64 step, float[W] w) => (float[A,F,G,2] a, float[A,F,H,2] b) "
        "{ a = STFT(x, step, w) b = STFT<onesided=0>(x, step, w) }",
        [
            {"x": normal(2, 400, 1), "step": number(40), "w": normal(100)},
            {"x": normal(1, 61, 1), "step": number(7), "w": normal(19)},
            {"x": normal(1, 8, 1), "step": number(1), "w": normal(9)},
        ],
        _stft,
        rtol=2e-6,
    ),
    "windows": Graph(
        "g (int64 n) => (float[N] h0, double[N] h1, float[N] m0, double[N] m1, float[N] b0, double[N] b1) { "
        "h0 = HannWindow(n) h1 = HannWindow<periodic=0, output_datatype=11>(n) "
        "m0 = HammingWindow(n) m1 = HammingWindow<periodic=0, output_datatype=11>(n) "
        "b0 = BlackmanWindow(n) b1 = BlackmanWindow<periodic=0, output_datatype=11>(n) }",
        [{"n": number(n)} for n in (10, 1, 0, 401)],
        _windows,
        rtol=1e-7,
    ),
    "MelWeightMatrix": Graph(
        "g (int64 bins, int64 length, int64 rate, float low, float high) => (float[R,C] y) "
        "{ y = MelWeightMatrix(bins, length, rate, low, high) }",
        [
            {"bins": number(b), "length": number(n), "rate": number(8192), "low": single(low), "high": single(high)}
            for b, n, low, high in [(8, 16, 0, 4096), (40, 512, 20, 4000), (1, 8, 0, 100)]
        ],
    ),
    "TfIdfVectorizer": Graph(
        "g (int64[A,B] x) => (float[A,7] y, float[A,7] z, float[A,7] w) { "
        + " ".join(
            f'{name} = TfIdfVectorizer<mode="{mode}", min_gram_length={least}, max_gram_length=2, '
            f"max_skip_count={skips}, "
            "ngram_counts=[0, 4], ngram_indexes=[0, 1, 2, 3, 4, 5, 6], pool_int64s=[2, 3, 5, 4, 5, 6, 7, 8, 6, 7], "
            "weights=[0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]>(x)"
            for name, mode, least, skips in [("y", "TF", 1, 0), ("z", "IDF", 2, 5), ("w", "TFIDF", 1, 3)]
        )
        + " }",
        [{"x": RNG.integers(2, 9, (a, b))} for a, b in [(3, 12), (1, 1), (2, 40)]],
    ),
}  # fmt: skip


# -- recurrent layers ----------------------------------------------------------------------------------------------


def _layer(operator: str, attributes: str, *, both: bool = False, more: bool = True) -> Graph:
    """A layer of 5 inputs and 18 hidden values with everything that it may be given, or with nothing."""
    gates, d, hidden = {"RNN": 1, "GRU": 3, "LSTM": 4}[operator], 2 if both else 1, 18
    lstm = operator == "LSTM"
    given = ["x", "w", "r", *(["b", "n", "h", *(["c", "p"] if lstm else [])] if more else [])]
    shapes: dict[str, tuple[Any, ...]] = {
        "x": ("S", "B", 5), "w": (d, gates * hidden, 5), "r": (d, gates * hidden, hidden), "b": (d, 2 * gates * hidden),
        "n": ("B",), "h": (d, "B", hidden), "c": (d, "B", hidden), "p": (d, 3 * hidden),
    }  # fmt: skip
    results = ["y", "yh", *(["yc"] if lstm else [])]
    runs = []
    for steps, batch in [(6, 1), (1, 2), (4, 3), (3, 9)]:
        sizes = {"S": steps, "B": batch}
        feeds = {n: 0.4 * normal(*(sizes.get(s, s) for s in shapes[n])) for n in given}
        if more:
            feeds["n"] = np.array([steps, *RNG.integers(1, steps + 1, batch - 1)], np.int32)
        runs.append(feeds)
    kinds = {n: "int32" if n == "n" else "float" for n in given}
    inputs = ", ".join(f"{kinds[n]}[{','.join(map(str, shapes[n]))}] {n}" for n in given)
    outputs = ", ".join(f"float[{n}1,{n}2,{n}3{',y4' if n == 'y' else ''}] {n}" for n in results)
    direction = ', direction="bidirectional"' if both else ""
    node = f"{', '.join(results)} = {operator}<hidden_size=18{direction}{attributes}>({', '.join(given)})"
    return Graph(f"g ({inputs}) => ({outputs}) {{ {node} }}", runs)


RECURRENT = {
    "RNN": _layer("RNN", "", both=True),
    "RNN bare, backwards, Relu": _layer("RNN", ', direction="reverse", activations=["Relu"]', more=False),
    "GRU": _layer("GRU", "", both=True),
    "GRU, late reset, clipped": _layer("GRU", ", linear_before_reset=1, clip=0.2"),
    "GRU of other activations": _layer(
        "GRU",
        ', activations=["HardSigmoid", "ScaledTanh", "Softsign", "Elu"], activation_alpha=[0.3, 0.7, 0.9], '
        "activation_beta=[0.4, 0.8]",
        both=True,
    ),
    "LSTM": _layer("LSTM", "", both=True),
    "LSTM bare, backwards": _layer("LSTM", ', direction="reverse"', more=False),
    "LSTM, coupled gates, clipped": _layer("LSTM", ", input_forget=1, clip=0.2"),
    "LSTM of other activations": _layer(
        "LSTM",
        ', activations=["Affine", "LeakyRelu", "Softplus", "Sigmoid", "ThresholdedRelu", "Softsign"], '
        "activation_alpha=[0.3, 0.7, 0.1], activation_beta=[0.4]",
        both=True,
    ),
}

# -- linear attention ----------------------------------------------------------------------------------------------

#: By letter: the update rule, whether each element of a key decays by itself, beta for each head, and a first state.
_UPDATES = {
    "a": ("linear", False, False, True),
    "b": ("gated", True, False, False),
    "c": ("delta", False, True, True),
    "d": ("gated_delta", True, False, True),
    "e": ("gated_delta", False, True, False),
}


def _linear_attention(feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Two heads, two queries for each, keys of 3 and values of 40 elements."""
    found = {}
    for letter, (rule, per_key, per_head, first) in _UPDATES.items():
        batch, steps, _ = feeds["q"].shape
        q = feeds["q"].reshape(batch, steps, 2, 2, 3).astype(np.float64)
        k, v = feeds["k"].reshape(batch, steps, 2, 3), feeds["v"].reshape(batch, steps, 2, 40)
        g = feeds["gk"].reshape(k.shape) if per_key else feeds["gh"][..., None]
        beta = feeds["bh"] if per_head else feeds["bs"]
        state = feeds["s"].astype(np.float64) if first else np.zeros((batch, 2, 3, 40))
        results = np.zeros((batch, steps, 2, 2, 40))
        for t in range(steps):
            if "gated" in rule:
                state = state * np.exp(g[:, t])[..., None]
            new = v[:, t]
            if "delta" in rule:
                new = beta[:, t][..., None] * (new - np.einsum("bhk,bhkv->bhv", k[:, t], state))
            state = state + k[:, t][..., None] * new[:, :, None]
            results[:, t] = np.einsum("bhgk,bhkv->bhgv", q[:, t], state) / np.sqrt(3)
        found[f"y{letter}"] = results.reshape(batch, steps, 160).astype(np.float32)
        found[f"z{letter}"] = state.astype(np.float32)
    return found


def _attention_nodes() -> str:
    nodes = []
    for letter, (rule, per_key, per_head, first) in _UPDATES.items():
        inputs = ["q", "k", "v", "s" if first else "", "gk" if per_key else "gh", "bh" if per_head else "bs"]
        attributes = f'q_num_heads=4, kv_num_heads=2, update_rule="{rule}"'
        nodes.append(f"y{letter}, z{letter} = LinearAttention<{attributes}>({', '.join(inputs)})")
    return " ".join(nodes)


ATTENTION = {
    "LinearAttention": Graph(
        "g (float[B,T,12] q, float[B,T,6] k, float[B,T,80] v, float[B,2,3,40] s, float[B,T,6] gk, float[B,T,2] gh, "
        "float[B,T,2] bh, float[B,T,1] bs) => ("
        + ", ".join(f"float[B,T,160] y{letter}, float[B,2,3,40] z{letter}" for letter in _UPDATES)
        + f") {{ {_attention_nodes()} }}",
        [
            {
                "q": normal(b, t, 12), "k": 0.5 * normal(b, t, 6), "v": normal(b, t, 80), "s": normal(b, 2, 3, 40),
                "gk": -np.abs(normal(b, t, 6)), "gh": -np.abs(normal(b, t, 2)), "bh": RNG.random((b, t, 2), np.float32),
                "bs": RNG.random((b, t, 1), np.float32),
            }
            for b, t in [(2, 5), (1, 1), (3, 17), (1, 0)]
        ],
        _linear_attention,
        opset=27,
    ),
}  # fmt: skip

GRAPHS = {**ATTENTION, **SORTING, **SPECTRA, **RECURRENT}
