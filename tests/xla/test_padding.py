"""Padding changes nothing: programs of larger sizes, garbage beyond the true ones, beside references at these sizes.

And masking is what does it: without it these cases fail.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator
from tilewright.backends.xla.rule import Rule
from tilewright.errors import TilewrightError

from tests.conformance.cases import FOLDER, cases, plain_names, read_values
from tests.conformance.execute import _difference, fixed, given
from tests.end_to_end import random_models, random_networks
from tests.end_to_end.test_operators import all_cases, check_cases
from tests.end_to_end.test_random_models import difference, reference
from tests.end_to_end.test_random_networks import KINDS
from tests.ops.test_lowering import SIZES, Case, build
from tests.xla.padded import padded_program
from tests.xla.run import OnHost, Program, TooLarge, compiled

pytest.importorskip("jaxlib")

#: Larger than the sizes of the runs (``SIZES``).
BUCKETS = {"A": (5,), "C": (8,), "T": (8,)}


def shapes_of(model: onnx.ModelProto) -> dict[str, tuple[int | str, ...]]:
    """The declared shapes, with ranges for what is open."""
    dims = {v.name: v.type.tensor_type.shape.dim for v in model.graph.input}
    ranges = {name: f"{name}=1..{sizes[0]}" for name, sizes in BUCKETS.items()}
    return {n: tuple(ranges.get(d.dim_param, d.dim_value) for d in shape) for n, shape in dims.items()}


def test_every_lowering_case() -> None:
    """All of them in one program; none is left to the host part."""
    model, feeds, expected = all_cases()
    program = compiled(model, shapes_of(model), BUCKETS)
    assert program.compiled is not None and set(program.compiled.padded) == set(SIZES)
    check_cases(program.run(feeds), expected)


# -- without masking -------------------------------------------------------------------------------------------------

#: Operators in which elements along a padded dimension meet.
MEET = "Softmax LogSoftmax ArgMax ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL2 ReduceLogSumExp".split()


def met() -> list[Case]:
    """A case of each whose padded dimension is the one that is gone through."""
    reduced = np.array([-1, 0])
    found = [Case(op, (("A", "C"),), {"keepdims": 1}, (reduced,)) for op in MEET if op.startswith("Reduce")]
    found += [Case(op, (("A", "C"),), {"axis": 1}) for op in MEET if not op.startswith("Reduce")]
    found.append(Case("MatMul", ((4, "C"), ("C", 6))))
    found.append(Case("MatMul", (("A", 4, "C"), ("A", "C", 2))))
    found.append(Case("Gemm", (("C", 4), (6, "C")), {"transA": 1, "transB": 1}))
    found.append(Case("LayerNormalization", (("A", "C"), ("C",))))
    found.append(Case("GlobalAveragePool", (("A", 2, "C", "T"),)))
    found.append(Case("Conv", (("A", 4, "T"), (6, 4, 3)), {"pads": [1, 1]}))
    found.append(Case("Attention", ((2, 2, 3, 8), (2, 2, "C", 8), (2, 2, "C", 8))))
    return found


def program_of(case: Case) -> tuple[Program, dict[str, Any], Any]:
    model, feeds = build(case)
    (want, *_) = ReferenceEvaluator(model).run(None, feeds)
    kind = helper.np_dtype_to_tensor_dtype(want.dtype)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y0", kind, None))
    return compiled(model, shapes_of(model), BUCKETS), feeds, want


@pytest.mark.parametrize("case", met(), ids=str)
def test_masking_is_what_does_it(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    program, feeds, want = program_of(case)
    np.testing.assert_allclose(program.run(feeds)["y0"], want, rtol=5e-6, atol=5e-6)
    monkeypatch.setattr(Rule, "masked", lambda self, x, dims, identity: x)
    program, feeds, want = program_of(case)
    assert not np.allclose(program.run(feeds)["y0"], want, rtol=5e-6, atol=5e-6)


def test_attention_moves_no_row() -> None:
    """Rows of attention over 5 keys in a program for 8; unmasked they would move by a hundredth and more."""
    text = """g (float[B,2,S,8] q, float[B,2,S,8] k, float[B,2,S,8] v) => (float[B,2,S,8] y)
    { t = Transpose<perm=[0,1,3,2]>(k) s = MatMul(q, t) p = Softmax<axis=-1>(s) y = MatMul(p, v) }"""
    shapes = dict.fromkeys("qkv", ("B=1..3", 2, "S=1..8", 8))
    random = np.random.default_rng(0)
    feeds = {n: random.standard_normal((2, 2, 5, 8)).astype(np.float32) for n in "qkv"}
    got, exact = (compiled(text, shapes, b).run(feeds)["y"] for b in ({"B": (3,), "S": (8,)}, {"B": (2,), "S": (5,)}))
    assert np.abs(got - exact).max() <= 1e-6


# -- random graphs ---------------------------------------------------------------------------------------------------


def check_random_model(seeds: list[int], opset: int) -> None:
    sample = random_models.sample(seeds, opset=opset)
    ranges = {"N": "N=1..12", "M": "M=1..20"}
    dims = {v.name: v.type.tensor_type.shape.dim for v in sample.proto.graph.input}
    shapes = {n: tuple(ranges.get(d.dim_param, d.dim_value) for d in shape) for n, shape in dims.items()}
    program = compiled(sample.proto, shapes, {"N": (12,), "M": (20,)})
    wrong = []
    for sizes, feeds, want in zip(random_models.ASSIGNMENTS, sample.feeds, reference(sample), strict=True):
        got = program.run(feeds)
        found = {name: difference(got[name], value) for name, value in want.items()}
        wrong += [f"{name} at {sizes}: {problem}" for name, problem in found.items() if problem]
    assert not wrong, "\n".join(wrong)


def test_random_models() -> None:
    check_random_model(list(range(4)), 17)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(100, 140, 4))
def test_many_random_models(first: int) -> None:
    check_random_model(list(range(first, first + 4)), (17, 21, 23)[first // 4 % 3])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20, 26))
@pytest.mark.parametrize("kind", KINDS)
def test_random_networks(kind: str, seed: int) -> None:
    sample = random_networks.sample(KINDS[kind], [seed])
    program = compiled(sample.proto, dict(sample.input_shapes))
    for feeds, want in zip(sample.feeds, reference(sample), strict=True):  # type: ignore[arg-type]
        got = program.run(feeds)
        wrong = {name: problem for name, value in want.items() if (problem := difference(got[name], value))}
        assert not wrong


# -- the suite -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not Path(FOLDER, "index.txt").exists(), reason="scripts/conformance.py writes the suite")
def test_the_plain_tests_of_the_suite() -> None:
    """Every size above 1 of every input open, and those that need some sizes known with one of them open at a time."""
    known = cases()
    wrong, padded = [], 0
    for name in plain_names():
        try:
            model, _ = fixed(onnx.load(str(known[name].folder / "model.onnx")), known[name])
        except TilewrightError:
            continue  # refused at import
        every = given(onnx.load(str(known[name].folder / "model.onnx")))
        arrays = dict(zip(every, read_values(known[name].data[0], "input"), strict=False))
        feeds = {n: arrays[n] for n in given(model)}
        sizes = {n for a in feeds.values() for n in np.shape(a) if n > 1}
        for only in (None, *sorted(sizes)):
            try:
                program = padded_program(model, feeds, only)
            except (OnHost, TilewrightError):
                continue  # refused, with a reason
            want = read_values(known[name].data[0], "output")
            try:
                got = list(program.run(feeds).values())
            except TooLarge:
                continue  # open sizes that meet are taken to be equal, and these are not
            problem = _difference(want, got, known[name])
            if problem:
                wrong.append(f"{name} with {only} open: {problem}")
            padded += bool(program.compiled and program.compiled.padded)
            if only is None:
                break
    assert not wrong, "\n".join(wrong)
    assert padded > 800
