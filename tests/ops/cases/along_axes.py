"""Operators that work along axes: the nodes of one model a group, as text. ``T`` stands for the element type."""

from __future__ import annotations

from dataclasses import dataclass

REDUCTIONS = "Sum Mean Max Min L1 L2 LogSumExp SumSquare Prod".split()


@dataclass(frozen=True)
class Group:
    """Inputs as the ONNX text format has them, constants, and the right sides of the nodes."""

    inputs: str
    constants: str
    nodes: tuple[str, ...]
    dtypes: tuple[str, ...] = ("float", "double", "float16", "bfloat16")
    #: Inputs that are no random numbers: their values, of each run.
    given: tuple[dict[str, list[int]], ...] = ({},)


GROUPS = {
    "reductions": Group(
        "T[N,3,M] x",
        "int64[1] one = {1}, int64[2] two = {-1, 0}, int64[0] none = {}",
        (
            *(
                f"Reduce{op}<keepdims={keep}>(x, {axes})"
                for op in REDUCTIONS
                for keep, axes in ((0, "one"), (1, "two"))
            ),
            "ReduceSum(x)",
            "ReduceSum<noop_with_empty_axes=1>(x, none)",
        ),
    ),
    "reductions of integers": Group(
        "T[N,3,M] x",
        "int64[1] one = {1}, int64[2] two = {-1, 0}",
        tuple(
            f"Reduce{op}<keepdims={keep}>(x, {axes})"
            for op in "Sum Mean Max Min L1 SumSquare Prod".split()
            for keep, axes in ((0, "one"), (1, "two"))
        ),
        ("int32", "int64", "uint32", "uint64"),
    ),
    "extrema": Group(
        "T[N,3,M] x",
        "int64[1] one = {1}",
        (
            *(f"Reduce{op}<keepdims={keep}>(x, one)" for op in ("Max", "Min") for keep in (0, 1)),
            *(f"Arg{op}<axis=1, select_last_index={last}>(x)" for op in ("Max", "Min") for last in (0, 1)),
            "ArgMax<axis=-2, keepdims=0>(x)",
        ),
        ("float", "float16", "int8", "uint8", "int64"),
    ),
    "run-time axes": Group(
        "T[N,3,M] x, int64[2] a, int64[1] b, int64[0] c",
        "",
        (
            *(f"Reduce{op}<keepdims=1>(x, a)" for op in ("Sum", "Mean", "Max", "L2")),
            *(f"Reduce{op}<keepdims=0>(x, b)" for op in ("Sum", "Min", "L1")),
            *(f"Reduce{op}<keepdims=0>(x, a)" for op in ("Sum", "Prod")),
            "ReduceMean(x, c)",
            "ReduceMean<noop_with_empty_axes=1>(x, c)",
        ),
        ("float", "int32"),
        given=({"a": [0, 2], "b": [-1]}, {"a": [-1, 1], "b": [0]}, {"a": [1, 0], "b": [1]}),
    ),
    "cumulative": Group(
        "T[N,3,M] x, int64 a, int64 b",
        "int64 first = {0}, int64 last = {-1}",
        tuple(
            f"CumSum<exclusive={exclusive}, reverse={reverse}>(x, {axis})"
            for axis, exclusive, reverse in (("first", 0, 0), ("last", 1, 0), ("a", 0, 1), ("a", 1, 1), ("b", 0, 0))
        ),
        ("float", "double", "int32", "uint64"),
        given=({"a": [1], "b": [-3]}, {"a": [-1], "b": [0]}),
    ),
    "softmax": Group(
        "T[N,3,M] x",
        "",
        (*(f"{op}<axis={axis}>(x)" for op in ("Softmax", "LogSoftmax", "Hardmax") for axis in (1, -1)),),
    ),
    "normalizations": Group(
        "T[N,6,M,2] x, T[6] s, T[6] t, T[6] m, T[6] v0, T[2] w, T[M,2] w2",
        "",
        (
            "InstanceNormalization<epsilon=0.01>(x, s, t)",
            "GroupNormalization<num_groups=1>(x, s, t)",
            "GroupNormalization<num_groups=3, epsilon=0.01>(x, s, t)",
            "GroupNormalization<num_groups=6>(x, s, t)",
            "RMSNormalization<axis=-2>(x, w2)",
            "LayerNormalization<axis=-1>(x, w, w)",
            "LayerNormalization<axis=2>(x, w2)",
        ),
    ),
    "products": Group(
        "T[N,3,M] x, T[M,2] y, T[M] v, T[3] u, T[2,4] z, T[4] c, T[N,M,3] w, T[5,M] r",
        "",
        (
            "MatMul(x, y)",
            "MatMul(x, v)",
            "MatMul(u, x)",
            "MatMul(u, u)",
            "MatMul(x, w)",
            "Gemm<alpha=2.0, beta=3.0>(y, z, c)",
            "Gemm<transA=1, transB=1>(y, r)",
        ),
        ("float", "double", "float16", "bfloat16", "int32", "uint64"),
    ),
    "einstein sums": Group(
        "T[N,3,M] x, T[M,2] y, T[M] v, T[3] u, T[2,4] z, T[N,M,3] w, T[N,3,3] q",
        "",
        (
            'Einsum<equation="nim,mk->nki">(x, y)',
            'Einsum<equation="...im,...mi->...">(x, w)',
            'Einsum<equation="nim,mk,kl->il">(x, y, z)',
            'Einsum<equation="nim->mi">(x)',
            'Einsum<equation="nii->ni">(q)',
            'Einsum<equation="m,i->im">(v, u)',
            'Einsum<equation="...i,i">(q, u)',
        ),
        ("float", "double", "float16", "int32", "int8"),
    ),
    "products of integers with fractions": Group(
        "T[N,M] x, T[M,4] y, T[4] c",
        "",
        ("Gemm<alpha=1.5, beta=0.5>(x, y, c)", "Gemm<alpha=-3.0>(x, y, c)", "Gemm<alpha=0.25>(x, y)"),
        ("int32", "int64"),
    ),
    "determinants": Group("T[N,3,3] q, T[4,4] r", "", ("Det(q)", "Det(r)"), ("float", "double")),
}
