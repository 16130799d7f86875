"""Plans as bytes and back, and their text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tilewright.ir.symbolic import Expr, constant, floordiv, maximum, minimum, mod, symbol
from tilewright.plan.decode import decode_plan
from tilewright.plan.encode import encode_plan, postfix
from tilewright.plan.plan import Plan
from tilewright.plan.print import print_plan

from tests.runtime import programs

SYMBOLS = {"N": 0, "S": 1}


def evaluate(words: list[int], values: list[int]) -> int:
    """Postfix words the way the executor reads them."""
    stack: list[int] = []
    at = 0
    while at < len(words):
        code = words[at]
        at += 1
        if code == 0:
            value = words[at] | words[at + 1] << 32
            stack.append(value - 2**64 if value >= 2**63 else value)
            at += 2
        elif code == 1:
            stack.append(values[words[at]])
            at += 1
        else:
            b, a = stack.pop(), stack.pop()
            stack.append([a + b, a * b, b and a // b, b and a % b, min(a, b), max(a, b)][code - 2])
    (result,) = stack
    return result


LEAVES = st.one_of(st.integers(-(2**40), 2**40).map(constant), st.sampled_from([symbol("N"), symbol("S")]))


def combine(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    divisor = st.integers(1, 64).map(constant)
    return st.one_of(
        st.tuples(inner, inner).map(lambda p: p[0] + p[1]),
        st.tuples(inner, st.integers(-8, 8)).map(lambda p: p[0] * p[1]),
        st.tuples(inner, divisor).map(lambda p: floordiv(*p)),
        st.tuples(inner, divisor).map(lambda p: mod(*p)),
        st.tuples(inner, inner).map(lambda p: minimum(*p)),
        st.tuples(inner, inner).map(lambda p: maximum(*p)),
    )


@given(st.recursive(LEAVES, combine, max_leaves=8), st.integers(0, 1000), st.integers(1, 1000))
@settings(max_examples=200, deadline=None)
def test_postfix_code_has_the_expressions_value(expr: Expr, n: int, s: int) -> None:
    assert evaluate(postfix(expr, SYMBOLS), [n, s]) == expr.evaluate({"N": n, "S": s})


def test_a_plan_survives_encoding() -> None:
    plan = programs.plan()
    assert decode_plan(encode_plan(plan)) == plan


def test_equal_plans_give_equal_bytes() -> None:
    assert encode_plan(programs.plan()) == encode_plan(programs.plan())


@pytest.mark.parametrize("length", [0, 8, 15, 16, 40, 200, -1])
def test_a_truncated_plan_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="plan"):
        decode_plan(encode_plan(programs.plan())[:length])


def test_a_mutated_plan_decodes_or_is_refused() -> None:
    data = encode_plan(programs.plan())
    for at in range(0, len(data), 3):
        mutated = bytearray(data)
        mutated[at] ^= 0x41
        try:
            decode_plan(bytes(mutated))
        except ValueError:
            continue


GOLDEN = """\
plan: 6 kernels, 1 constants
  constant w: f32[48, 32]
entry main(x: f32[N, 48]) -> (y: f32[N, 32], z: f32[32*N])
  N in 1..64
  b0 = input x, 192*N bytes
  b1 = output y, 128*N bytes
  b2 = constant w, 6144 bytes
  b3 = temporary, 128*N + 128 bytes  live 0..1
  b4 = b3[64 : 64 + 128*N]
  b5 = temporary, 128*N bytes  live 1..4
  b6 = temporary, 128*N bytes  live 2..3
  b7 = output z, 128*N bytes
    0: matmul(b0, b2, b4; 48, 32) grid N scratch 128
    1: relu(b4, b5; 32*N) grid (32*N + 255) // 256
    2: add(b5, b5, b6; 32*N) grid (32*N + 255) // 256
    3: copy 128*N bytes b6 -> b1
    4: copy 128*N bytes b5 -> b7
    5: return
entry nonzero(x: f32[N]) -> (y: f32[found])
  N in 0..4611686018427387904
  b0 = input x, 4*N bytes
  b1 = temporary, 8 bytes  live 0..1
  b2 = temporary, 4*found bytes
  b3 = output y, 4*found bytes
    0: count(b0, b1; N) grid 1
    1: found = i64 b1[0]
    2: allocate b2
    3: keep(b0, b2; N) grid 1
    4: copy 4*found bytes b2 -> b3
    5: free b2
entry state(cache: f32[N], x: f32[N]) -> (new_cache: f32[N], twice: f32[N])
  N in 1..1048576, a multiple of 2
  state: output new_cache is input cache
  b0 = input x, 4*N bytes
  b1 = state cache, 4*N bytes
  b2 = output twice, 4*N bytes
    0: accumulate(b1, b0; N) grid (N + 255) // 256
    1: add(b1, b1, b2; N) grid (N + 255) // 256
entry halves(x: f32[2*N, 48], n: f32[N]) -> (y: f32[2*N, 32])
  N in 1..32
  b0 = input x, 384*N bytes
  b1 = b0[0 : 0 + 192*N]
  b2 = b0[192*N : 192*N + 192*N]
  b3 = output y, 256*N bytes
  b4 = b3[0 : 0 + 128*N]
  b5 = b3[128*N : 128*N + 128*N]
  b6 = temporary, 128*N bytes  live 0..1
    0: b4, b6 = call main(b1; N)
    1: b5, b6 = call main(b2; N)
"""


def test_text() -> None:
    plan = programs.plan()
    shown = Plan((plan.entries[0], *plan.entries[2:]), plan.constants, plan.kernels)
    assert print_plan(shown) == GOLDEN
