"""Products with weights of 8 and 4 bits: vector cores widen them ahead of the cube core, or beside it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from tilewright.accuracy import TOLERANCE, compare
from tilewright.backends.ascend.backend import AscendBackend
from tilewright.backends.ascend.groups import merged_groups
from tilewright.backends.ascend.placed.form import Instruction, Placed, statements
from tilewright.backends.ascend.placing.place import place
from tilewright.backends.ascend.schedules.schedule import first_fit
from tilewright.backends.ascend.simulator.machine import check
from tilewright.backends.ascend.synchronization.verify import unproved
from tilewright.errors import UnsupportedError
from tilewright.kernel.apply import apply
from tilewright.kernel.interpret import run_lowered
from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.schedule import Schedule

from tests.ascend.modelled import build, same_bits
from tests.ascend.trials import Trial, packed, targets

PRODUCT = """
@kernel
def product(A: {t}[M, {k}], B: const[{w}[{k}, {n}]], {more}C: out[{t}[M, {n}]]):
    where(1 <= M <= 512)
    m: M
    n: {n}
    k: {k}
    acc[m, n] = sum(k, f32(A[m, k]) * f32({operand}))
    C[m, n] = {t}({value})
"""
#: What an operand is, and what is made of the sums: integers as they are, in groups, in groups with zero points.
FORMS = {
    "columns": ("S: const[{t}[{n}]], ", "B[k, n]", "acc[m, n] * f32(S[n])"),
    "scaled": ("S: const[{t}[{n}]], ", "{t}(f32(B[k, n]) * f32(S[n]))", "acc[m, n]"),
    "groups": ("S: const[{t}[{g}, {n}]], ", "{t}(f32(B[k, n]) * f32(S[k // 32, n]))", "acc[m, n]"),
    "zeros": (
        "Z: const[{w}[{g}, {n}]], S: const[{t}[{g}, {n}]], ",
        "{t}((f32(B[k, n]) - f32(Z[k // 32, n])) * f32(S[k // 32, n]))",
        "acc[m, n]",
    ),
}
COLUMNS_OF_FEW_ROWS = {
    "t": "f16",
    "w": "i8",
    "k": 320,
    "n": 96,
    "more": "S: const[f16[96]], ",
    "operand": "B[k, n]",
    "value": "acc[m, n] * f32(S[n])",
}
#: Element types, the form, and sizes: whole and ragged slices of depth, columns that end inside a fractal.
CASES = (
    ("f16", "i8", "columns", 320, 96),
    ("f16", "i8", "zeros", 96, 40),
    ("f16", "i4", "columns", 272, 136),
    ("f16", "i4", "groups", 320, 112),
    ("f16", "u8", "scaled", 160, 80),
    ("bf16", "i8", "columns", 144, 48),
    ("bf16", "i4", "zeros", 320, 72),
)
#: The same on a fused core, which has no cast of integers of 4 bits: it takes words apart by shifts.
FUSED = (
    ("f16", "i8", "columns", 320, 96, "ascend:310p3"),
    ("f16", "i8", "zeros", 128, 112, "ascend:310p3"),
    ("f16", "i4", "groups", 256, 112, "ascend:310p3"),
)


@lru_cache(maxsize=32)
def placed(t: str, w: str, form: str, k: int, n: int, target: str = "ascend:910b3") -> tuple[Trial, Placed]:
    names = {"t": t, "w": w, "k": k, "n": n, "g": k // 32}
    more, operand, value = (part.format(**names) for part in FORMS[form])
    kernel = parse_kernel(PRODUCT.format(more=more, operand=operand, value=value, **names))
    schedule = first_fit(kernel, targets()[target])
    return Trial(kernel, schedule, {"M": 40}), place(apply(kernel, schedule), targets()[target])


@pytest.mark.parametrize("case", (*CASES, *FUSED), ids=lambda c: " ".join(map(str, c)))
def test_what_a_product_with_narrow_weights_is(case: tuple[str, str, str, int, int, str]) -> None:
    trial, program = placed(*case)
    assert unproved(program) is None
    for rows in (1, 40):
        dims = {"M": rows}
        values = trial.values(dims)
        got = check(program, trial.inputs(dims), dims, groups=2).outputs["C"]
        compared = compare("C", got, run_lowered(trial.kernel, values, dims)["C"])
        assert compared.ok and compared.relative < TOLERANCE[case[0]] / 4, str(compared)


@pytest.mark.parametrize("cases", (CASES, FUSED), ids=("910B", "310P"))
def test_its_ascend_c_gives_the_same_bits(cases: tuple[tuple[str, str, str, int, int, str], ...]) -> None:
    every = {f"product_{n}": placed(*case) for n, case in enumerate(cases)}
    library = build({name: program for name, (_, program) in every.items()}, level="-O0")
    for name, (trial, program) in every.items():
        inputs = trial.inputs()
        got, _ = library.run(program, inputs, trial.dims, symbol=name)
        assert same_bits(got["C"], check(program, inputs, trial.dims, groups=2).outputs["C"]), name


def test_weights_stay_narrow_in_memory_and_are_widened_a_slice_ahead() -> None:
    _, program = placed("f16", "i4", "groups", 320, 112)
    assert str(program.buffer("B").dtype) == "u8" and program.buffer("B").shape[-1] == 8
    (workspace,) = (b for b in program.buffers if b.workspace)
    assert workspace.slots > 1 and workspace.rotates is not None
    cores = {n.op: n.core for n in statements(program.body) if isinstance(n, Instruction)}
    assert cores["widen"] == "vector" and cores["mmad"] == "cube"


def test_every_integer_of_both_widths_is_exact() -> None:
    for w, low, high in (("i8", -128, 128), ("i4", -8, 8)):
        trial, program = placed("f16", w, "columns", 272, 136)
        values = trial.values()
        weights = np.resize(np.arange(low, high), (272, 136)).astype(values["B"].dtype)
        one = {**values, "A": np.eye(40, 272, dtype=np.float16), "B": weights, "S": np.ones(136, np.float16)}
        got = check(program, packed(trial.schedule, one), trial.dims, groups=2).outputs["C"]
        np.testing.assert_array_equal(got.astype(np.float32), weights[:40].astype(np.float32))


GROUPED = """
@kernel
def grouped(A: f16[M, 96], B: const[i4[96, 40]], Z: const[i4[3, 40]], S: const[f16[3, 40]], C: out[f16[M, 40]]):
    where(1 <= M <= 512)
    m: M
    n: 40
    block: 3
    j: 32
    part[m, n, block] = sum(j, f32(A[m, 32*block + j]) * f32(B[32*block + j, n]))
    row[m, block] = sum(j, f32(A[m, 32*block + j]))
    acc[m, n] = sum(block, (part[m, n, block] - row[m, block] * f32(Z[block, n])) * f32(S[block, n]))
    C[m, n] = f16(acc[m, n])
"""


def test_groups_become_one_sum_of_rounded_weights() -> None:
    kernel = parse_kernel(GROUPED)
    target = targets()["ascend:910b3"]
    merged = merged_groups(kernel, target)
    assert [a.name for a in merged.axes] == ["m", "n", "k"] and merged.params == kernel.params
    assert merged_groups(merged, target) == merged
    values, dims = Trial(kernel, Schedule(), {"M": 7}).values(), {"M": 7}
    compared = compare("C", run_lowered(merged, values, dims)["C"], run_lowered(kernel, values, dims)["C"])
    assert compared.ok, str(compared)
    found = AscendBackend().supports(kernel, targets()["ascend:910b3"])
    assert found.ok, found.reason


def test_words_hold_quarters_of_a_slice_on_a_fused_core() -> None:
    _, program = placed("f16", "i4", "groups", 256, 112, "ascend:310p3")
    assert str(program.buffer("B").dtype) == "i16"
    with pytest.raises(UnsupportedError, match="zero points"):
        placed("f16", "i4", "zeros", 256, 112, "ascend:310p3")
    ops = {n.op for n in statements(program.body) if isinstance(n, Instruction)}
    assert {"shift_left", "shift_right", "ub2l1"} <= ops and "widen" not in ops


def test_scales_of_columns_go_into_the_weights_of_many_rows() -> None:
    trial, _ = placed("f16", "i8", "columns", 320, 96)
    target = targets()["ascend:910b3"]
    merged = merged_groups(trial.kernel, target)
    assert merged != trial.kernel and merged_groups(merged, target) == merged
    assert merged_groups(trial.kernel, targets()["ascend:310p3"]) == trial.kernel
    values, dims = trial.values(), {"M": 40}
    compared = compare("C", run_lowered(merged, values, dims)["C"], run_lowered(trial.kernel, values, dims)["C"])
    assert compared.ok, str(compared)
    few = parse_kernel(PRODUCT.format(**COLUMNS_OF_FEW_ROWS).replace("M <= 512", "M <= 16"))
    assert merged_groups(few, target) == few
