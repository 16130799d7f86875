"""Which static sizes a region gets programs for, and what is told of sizes that it cannot have."""

import math
from itertools import product

import numpy as np
import onnx_ir as ir
import pytest
import tilewright as tw
from onnx import ModelProto, TensorProto, helper
from tilewright.backends.xla.buckets import PROGRAMS, buckets_of, ladder
from tilewright.backends.xla.rising import holds
from tilewright.backends.xla.waste import waste_of
from tilewright.errors import UsageError
from tilewright.frontend.buckets import apply_buckets, by_symbol, parse_bucket
from tilewright.frontend.onnx import import_model
from tilewright.ir.facts import Assumption, facts, set_assumptions, set_facts
from tilewright.ir.parse import parse
from tilewright.ir.ranges import POSITIVE_INFINITY, Range
from tilewright.passes.place import Region, place


def model(
    nodes: list[tuple[str, str, str]], shapes: dict[str, tuple[int | str, ...]], results: list[str]
) -> ModelProto:
    made = [helper.make_node(op, inputs.split(), outputs.split()) for op, inputs, outputs in nodes]
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(s)) for n, s in shapes.items()]
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in results]
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(helper.make_graph(made, "g", inputs, outputs), opset_imports=opset, ir_version=10)


MATMUL = model([("MatMul", "x y", "z")], {"x": ("M", "K"), "y": ("K", "N")}, ["z"])


def imported(proto: ModelProto, **ranges: tuple[int, ...]) -> tuple[ir.Model, Region]:
    graph = import_model(proto)
    set_facts(graph, facts(graph) | {name: Range(*r) for name, r in ranges.items()})
    (region,) = place(graph, lambda node: False)
    return graph, region


@pytest.mark.parametrize(
    ("bounds", "sizes"),
    [
        ((1, 1), (1,)),
        ((1, 8), (1, 2, 4, 8)),
        ((3, 20), (4, 8, 16, 20)),
        ((1, 512), (8, 16, 32, 64, 128, 256, 512)),  # less than a tile costs as much as one
        ((1, 500), (8, 16, 32, 64, 128, 256, 500)),
        ((100, 128), (128,)),
        ((0, 4), (1, 2, 4)),
        ((0, 0), (0,)),
        ((8, 512, 24), (24, 48, 72, 144, 264, 504)),
    ],
)
def test_ladder(bounds: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    assert ladder("S", Range(*bounds)) == sizes


def test_an_open_end_needs_a_bound() -> None:
    with pytest.raises(UsageError, match="--bucket sequence=32,128"):
        ladder("sequence", Range(1, POSITIVE_INFINITY))


@pytest.mark.parametrize(
    ("ranges", "counts"),
    [
        ({"M": (1, 512), "K": (4, 4), "N": (4, 4)}, (7, 1, 1)),
        ({"M": (1, 32), "K": (1, 512), "N": (4, 4)}, (2, 7, 1)),
        ({"M": (1, 512), "K": (1, 512), "N": (1, 512)}, (2, 4, 2)),
    ],
)
def test_programs_stay_few(ranges: dict[str, tuple[int, int]], counts: tuple[int, ...]) -> None:
    graph, region = imported(MATMUL, **ranges)
    found = buckets_of(graph, region, {})
    sizes = {s: sorted({b.sizes[s] for b in found}) for s in ranges}
    assert len(found) == math.prod(map(len, sizes.values())) <= PROGRAMS
    assert sorted(map(len, sizes.values())) == sorted(counts)
    assert all(sizes[s][-1] == ranges[s][1] for s in ranges)
    assert [tuple(b.sizes.values()) for b in found] == sorted(tuple(b.sizes.values()) for b in found)
    assert set(found[0].padded) == {s for s, (lo, hi) in ranges.items() if lo < hi}


def test_a_dimension_multiplied_with_itself_has_shorter_steps() -> None:
    shapes: dict[str, tuple[int | str, ...]] = {"x": ("A", 4), "y": (4, "A"), "w": ("B",)}
    proto = model([("MatMul", "x y", "z"), ("Relu", "w", "v")], shapes, ["z", "v"])
    graph, region = imported(proto, A=(2, 64), B=(2, 64))
    found = buckets_of(graph, region, {})
    assert len({b.sizes["A"] for b in found}) > len({b.sizes["B"] for b in found})


def test_one_request_is_not_padded() -> None:
    graph, region = imported(MATMUL, M=(1, 32), K=(8, 128), N=(4, 4))
    assert min(b.sizes["M"] for b in buckets_of(graph, region, {})) == 1


def test_sizes_that_have_to_be_divisible() -> None:
    graph, region = imported(MATMUL, M=(1, 20), K=(4, 4), N=(4, 4))
    set_assumptions(graph, (Assumption(parse("M"), parse("3*(M//3)"), "a Reshape"),))
    found = buckets_of(graph, region, {})
    assert [b.sizes["M"] for b in found] == [3, 6, 9, 18]
    assert found[0].padded == ("M",)


def test_sizes_that_have_to_be_equal_to_one_another() -> None:
    graph, region = imported(MATMUL, M=(1, 6), K=(4, 4), N=(1, 6))
    set_assumptions(graph, (Assumption(parse("2*M"), parse("3*N"), "a Reshape"),))
    found = buckets_of(graph, region, {}, ["M", "N"])
    assert [(b.sizes["M"], b.sizes["N"]) for b in found] == [(3, 2), (6, 4)]
    assert not found[0].padded


def test_the_cost_of_padding() -> None:
    """Of M alone: 5 rows in a program of 8 leave 3/8; of K and N as well it is what is left of the product."""
    graph, region = imported(MATMUL, M=(1, 8), K=(4, 4), N=(4, 4))
    wastes = waste_of(region, buckets_of(graph, region, {}), facts(graph))
    assert [w.worst for w in wastes] == [0, 0, 1 - 3 / 4, 1 - 5 / 8]
    assert [w.mean for w in wastes] == [0, 0, 1 - 3.5 / 4, 1 - 6.5 / 8]
    assert [w.share for w in wastes] == [1 / 8, 1 / 8, 2 / 8, 4 / 8]
    graph, region = imported(MATMUL, M=(1, 8), K=(1, 4), N=(1, 4))
    (found,) = waste_of(region, buckets_of(graph, region, {"M": (8,), "K": (4,), "N": (4,)}), facts(graph))
    assert found.worst == 1 - 1 / (8 * 4 * 4) and found.share == 1


def test_only_symbols_of_the_region_multiply() -> None:
    graph, _ = imported(MATMUL, M=(1, 8), K=(1, 8), N=(1, 8))
    node = next(iter(graph.graph))
    x = node.inputs[0]
    assert x is not None
    assert len(buckets_of(graph, Region(False, (), (x,), (x,)), {})) == 4 * 4


def test_sizes_taken_to_be_equal_are_equal_in_every_bucket() -> None:
    proto = model([("Concat", "p s", "c"), ("Add", "c t", "y")], {"p": ("P", 4), "s": ("S", 4), "t": ("T", 4)}, ["y"])
    proto.graph.node[0].attribute.append(helper.make_attribute("axis", 0))
    graph, region = imported(proto, P=(1, 8), S=(1, 8))
    known = facts(graph)
    if "T" in known:  # otherwise the signature says it already
        set_facts(graph, known | {"T": Range(1, 16)})
        for b in buckets_of(graph, region, {}):
            assert b.sizes["T"] == b.sizes["P"] + b.sizes["S"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("S", True),
        ("S + P", True),
        ("2*S - 1", True),
        ("(S + 3)//4", True),
        ("S*P - P", True),
        ("max(S, 4) * min(P, 2)", True),
        ("S - S//2", True),  # by trying
        ("S + -S % 4", True),
        ("8 - S", False),
        ("S % 4", False),
        ("12//S", False),
        ("S - P", False),
        ("10*S - S*S", False),
    ],
)
def test_sizes_that_grow(text: str, expected: bool) -> None:
    e, bucket, known = parse(text), {"S": 8, "P": 5}, {"S": Range(1, 8), "P": Range(1, 8)}
    assert holds(e, bucket, ["S", "P"], known) is expected
    each = product(range(1, 9), range(1, 6))
    assert all(e.evaluate({"S": s, "P": p}) <= e.evaluate(bucket) for s, p in each) is expected


def test_what_is_not_padded_may_do_anything() -> None:
    assert holds(parse("8 - S"), {"S": 3}, [], {"S": Range(1, 8)})


# -- what the user says ----------------------------------------------------------------------------------------------


def test_the_command_line() -> None:
    assert parse_bucket("sequence=32, 64") == ("sequence", (32, 64), False)
    assert parse_bucket("a b==4") == ("a b", (4,), True)


@pytest.mark.parametrize("text", ["", "S", "S=", "S=4,", "=4", "S=x", "S=-1", "S===4", "S=4..8"])
def test_syntax(text: str) -> None:
    with pytest.raises(UsageError, match="bucket-syntax"):
        parse_bucket(text)


def test_buckets_bound_the_dimension() -> None:
    graph = import_model(MATMUL)
    apply_buckets([graph], {"M": (4, 16), "K": (8, 24)}, ["K"])
    assert (facts(graph)["M"], facts(graph)["K"]) == (Range(1, 16), Range(8, 24))


def test_a_dimension_is_named_as_the_model_spells_it() -> None:
    proto = model([("Relu", "x", "y")], {"x": ("batch size", 4)}, ["y"])
    graph = import_model(proto)
    assert by_symbol([graph], {"batch size": (2, 4)}) == by_symbol([graph], {"batch_size": (2, 4)})
    assert by_symbol([graph], {"batch size": (2, 4)}) == {"batch_size": (2, 4)}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"Q": (4,)}, "the dimensions are K, M, N"),
        ({"M": ()}, "is no list of sizes"),
        ({"M": (4, -1)}, "is no list of sizes"),
        ({"M": (8, 4)}, "write 4,8"),
        ({"M": (4, 4)}, "write 4"),
        ({"M": (4, 40)}, "never 40"),
        ({"M": tuple(range(1, 66))}, "65 sizes"),
    ],
)
def test_what_is_wrong_is_said(sizes: dict[str, tuple[int, ...]], message: str) -> None:
    graph = import_model(MATMUL)
    set_facts(graph, facts(graph) | {"M": Range(1, 32)})
    with pytest.raises(UsageError, match=message):
        apply_buckets([graph], sizes)


def test_too_many_combinations() -> None:
    graph, region = imported(MATMUL)
    asked = {s: tuple(range(1, 6)) for s in "MKN"}
    apply_buckets([graph], asked)
    with pytest.raises(UsageError, match="125, and 64 at most"):
        buckets_of(graph, region, asked)


# -- programs --------------------------------------------------------------------------------------------------------


def test_programs_of_exact_sizes() -> None:
    pytest.importorskip("jaxlib")
    artifact = tw.compile(
        MATMUL, ("xla:cpu",), buckets={"M": (2, 4), "K": (3, 5), "N": (4,)}, exact=("K",), verify=False
    )
    session = tw.load(artifact, device="xla-cpu")
    x, y = np.ones((3, 5), np.float32), np.ones((5, 2), np.float32)
    np.testing.assert_array_equal(session.run(None, {"x": x, "y": y})[0], x @ y)
    with pytest.raises(Exception, match="K=4"):
        session.run(None, {"x": x[:, :4], "y": y[:4]})


def test_the_settings_are_in_the_record() -> None:
    pytest.importorskip("jaxlib")
    artifact = tw.compile(MATMUL, ("xla:cpu",), buckets={"M": (2, 4), "K": (3,), "N": (4,)}, exact=("K",), verify=False)
    told = artifact.provenance["options"]["buckets"]
    assert told["M"] == {"exact": False, "sizes": [2, 4], "symbols": ["M"]} and told["K"]["exact"]
    assert [dict(p.sizes) for p in artifact.report.targets[0].programs] == [
        {"K": 3, "M": 2, "N": 4},
        {"K": 3, "M": 4, "N": 4},
    ]


def test_samples_have_exact_sizes() -> None:
    pytest.importorskip("jaxlib")
    sizes = {"M": (2, 6, 9), "K": (3, 5), "N": (4,)}
    artifact = tw.compile(MATMUL, ("xla:cpu",), buckets=sizes, exact=("M", "K"))  # and verified on samples
    assert artifact.report.targets[0].distinct == 6
