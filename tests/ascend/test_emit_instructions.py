"""Every instruction alone, as Ascend C on the header model and on the simulator: the same bits at odd sizes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import pytest
from tilewright.backends.ascend.placed.instructions import CASTS, INSTRUCTIONS
from tilewright.backends.ascend.simulator.machine import check
from tilewright.ir.symbolic import constant
from tilewright.ir.types import DType

from tests.ascend.modelled import Modelled, build, same_bits
from tests.ascend.single import Single, Source, chosen, product, vector, widened

F32, F16, BF16 = DType.F32, DType.F16, DType.BF16
I64, I32, I16, I8, U16, U8 = DType.I64, DType.I32, DType.I16, DType.I8, DType.U16, DType.U8
NUMBERS, FLOATS = (F32, F16, I32, I16), (F32, F16)
ROUNDS = ("rint", "floor", "ceil", "trunc", "round")


def _cases() -> dict[str, Single]:
    made: dict[str, Single] = {}

    def add(single: Single) -> None:
        made[single.placed.kernel.name] = single

    for op in ("add", "sub", "mul", "max", "min"):
        for t in NUMBERS:
            add(vector(f"{op}_{t}", op, t, [Source(t), Source(t)]))
    for t in FLOATS:
        add(vector(f"div_{t}", "div", t, [Source(t), Source(t)]))
        add(vector(f"add_row_{t}", "add", t, [Source(t), Source(t, "row")]))
        add(vector(f"sub_blocks_{t}", "sub", t, [Source(t), Source(t, "blocks")]))
        add(vector(f"mul_wide_{t}", "mul", t, [Source(t), Source(t, "blocks")], (3, 1000)))
        for op in ("exp", "ln", "abs", "sqrt", "relu"):
            add(vector(f"{op}_{t}", op, t, [Source(t)]))
        for op in ("row_sum", "row_max", "row_min"):
            add(vector(f"{op}_{t}", op, t, [Source(t)], (20, 2048 // t.bits), out="rows"))
        for op in ("block_sum", "block_max", "block_min"):
            add(vector(f"{op}_{t}", op, t, [Source(t)], (21, 256 // t.bits), out="rows"))
            add(vector(f"{op}_many_{t}", op, t, [Source(t)], (2100, 1), out="rows"))
            add(vector(f"{op}_few_{t}", op, t, [Source(t)], (5, 8), out="rows"))
        for mode in ("eq", "ne", "lt", "le", "gt", "ge"):
            add(chosen(f"{mode}_{t}", mode, t, Source(t)))
            add(chosen(f"{mode}_number_{t}", mode, t, 0.5))
        add(vector(f"spread_{t}", "brcb", t, [Source(t, "rows")], (40, 1), out="blocks"))
    for t in NUMBERS:
        for op, value in (("add", 0.1), ("mul", -3.0), ("max", 0.0), ("min", 2.5)):
            number = value if t.is_float else float(int(value) + 1)
            add(vector(f"{op}_number_{t}", op, t, [Source(t), number], (300, 20)))
    for t in (I16, U16):
        add(vector(f"and_{t}", "and", t, [Source(t), Source(t)]))
        add(vector(f"or_{t}", "or", t, [Source(t), Source(t, "row")]))
        add(vector(f"not_{t}", "not", t, [Source(t)]))
    for t in (I16, U16, I32):
        for op in ("shift_left", "shift_right"):
            add(vector(f"{op}_{t}", op, t, [Source(t)], parameters=(("by", 3),)))
    for t in (F32, F16, BF16, I32, I16):
        add(vector(f"copy_{t}", "copy", t, [Source(t)]))
        add(vector(f"copy_wide_{t}", "copy", t, [Source(t)], (2, 4000)))
        add(vector(f"fill_{t}", "duplicate", t, [7.0 if t.is_integer else -0.3]))
    for t in (F32, F16, I32):
        add(vector(f"count_{t}", "iota", t, [constant(5)]))
    for source, result in sorted(CASTS):
        exact = {r for r in ROUNDS if source[0] in "fb" or result[0] == "f"}
        for mode in ROUNDS if source.startswith(("f", "bf")) or result == "f32" else ("rint",):
            if mode == "rint" or (mode in exact and _rounds(source, result)):
                kinds = DType[source.upper()], DType[result.upper()]
                add(vector(f"cast_{source}_{result}_{mode}", "cast", kinds[1], [Source(kinds[0])], (8, 70),
                           parameters=(("round", mode),)))  # fmt: skip
    add(widened("widen"))
    for t, result in ((F16, F32), (F16, F16), (BF16, BF16), (F32, F32), (I8, I32)):
        both = (False, True) if t.bits != 16 else (True, False)
        add(product(f"product_{t}_{result}", t, result, turned=(False, True)))
        if t.bits == 16:
            add(product(f"product_turned_{t}_{result}", t, result, turned=both))
    add(product("product_relu", F16, F16, parameters=(("relu", 1),)))
    add(product("product_bias", F16, F32, bias=F32))
    add(product("product_bias_f16", F16, F16, bias=F16, parameters=(("relu", 1),)))
    scaled = (("quant", "requant"), ("scale", 0.037), ("offset", -3))
    add(product("product_requant", I8, I8, turned=(False, True), parameters=scaled))
    add(product("product_deq", I8, F16, turned=(False, True), parameters=(("quant", "deq"), ("scale", 0.01))))
    return made


def _rounds(source: str, result: str) -> bool:
    """Whether the cast has roundings to choose from."""
    return (source in ("f32", "f16", "bf16") and result not in ("f32",)) or (source, result) == ("f32", "f32")


@lru_cache(maxsize=1)
def cases() -> Mapping[str, Single]:
    return _cases()


#: Those that run always: each way of spelling lanes, masks, reductions, casts and products once.
QUICK = frozenset(
    """add_f32 max_i16 sub_blocks_f16 mul_wide_f32 add_number_f16 exp_f16 row_sum_f16 row_max_f32 le_f32 ge_number_f16
    block_max_f16 block_sum_f32 block_min_few_f32 spread_f32 or_u16 shift_right_i32 copy_bf16 copy_wide_f32 fill_i32
    count_f16 cast_f32_bf16_rint cast_f16_i8_round cast_f32_i32_floor cast_i64_i32_rint product_f16_f32
    product_turned_bf16_bf16 product_i8_i32 product_bias_f16 product_requant widen""".split()
)


@lru_cache(maxsize=2)
def library(quick: bool) -> Modelled:
    """The quick cases, or all others, in one translation unit."""
    return build([s.placed for n, s in cases().items() if (n in QUICK) == quick], level="-O0")


def _case(name: str) -> object:
    return pytest.param(name, marks=() if name in QUICK else (pytest.mark.slow,))


@pytest.mark.parametrize("name", [_case(name) for name in cases()])
def test_bits_of_one_instruction(name: str) -> None:
    single = cases()[name]
    symbols = dict(single.placed.kernel.facts)
    rows, columns = single.high
    for r, c in ((rows, columns), (max(1, rows - 1), max(1, columns - 3)), (1, 1)):
        dims = {n: v for n, v in (("R", r), ("C", c)) if n in symbols}
        inputs = single.inputs(dims, seed=r * c)
        got, _ = library(name in QUICK).run(single.placed, inputs, dims, groups=1)
        want = check(single.placed, inputs, dims, groups=1).outputs
        for output, value in got.items():
            assert same_bits(value, want[output]), f"{name} {dims}"


def test_every_instruction_has_a_spelling() -> None:
    from tilewright.backends.ascend.ascendc.instruction import SPELLINGS

    assert set(SPELLINGS) == set(INSTRUCTIONS)
    assert set(cases()) >= QUICK
