"""What the checker refuses, on programs of a few statements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from tilewright.backends.ascend.placed.form import (
    Barrier,
    Buffer,
    CrossFlag,
    Flag,
    Instruction,
    Node,
    Placed,
    Scalar,
    View,
)
from tilewright.backends.ascend.simulator.machine import check
from tilewright.backends.ascend.simulator.memory import Refused
from tilewright.backends.ascend.synchronization.synchronize import synchronize
from tilewright.ir.symbolic import ZERO, constant
from tilewright.ir.types import DType
from tilewright.kernel.parse import parse_kernel

from tests.ascend.trials import targets

N = 64
KERNEL = parse_kernel(f"""
@kernel
def twice(X: f32[{N}], Y: out[f32[{N}]]):
    n: {N}
    Y[n] = X[n] * f32(2.0)
""")
Body = tuple[Node, ...]


def view(buffer: str, count: int = N, offset: int = 0) -> View:
    return View(buffer, constant(offset), ((constant(count), constant(1)),))


def vector(op: str, pipe: str, dst: View, *srcs: View | Scalar) -> Instruction:
    return Instruction(op, "vector", pipe, dst, srcs)  # type: ignore[arg-type]


LOAD = vector("copy_in", "MTE2", view("a"), view("X"))
DOUBLE = vector("mul", "V", view("b"), view("a"), Scalar(2.0))
STORE = vector("copy_out", "MTE3", view("Y"), view("b"))
BUFFERS = tuple(Buffer(n, "ub", DType.F32, (constant(N),), "ND", at, core="vector") for n, at in (("a", 0), ("b", 256)))


def flag(action: str, src: str, dst: str, event: int = 0) -> Flag:
    return Flag(action, "vector", src, dst, (event,), ZERO, 0)  # type: ignore[arg-type]


def pair(src: str, dst: str, event: int = 0) -> tuple[Flag, Flag]:
    return flag("set", src, dst, event), flag("wait", src, dst, event)


GOOD: Body = (LOAD, *pair("MTE2", "V"), DOUBLE, *pair("V", "MTE3"), STORE)


def program(body: Body, buffers: tuple[Buffer, ...] = BUFFERS, target: str = "ascend:310p3") -> Placed:
    tensors = tuple(Buffer(p.name, "gm", p.dtype, p.shape) for p in KERNEL.params)
    return Placed(KERNEL, targets()[target], (*tensors, *buffers), body, constant(1))


def run(placed: Placed, groups: int = 1) -> np.ndarray:
    return check(placed, {"X": np.arange(N, dtype=np.float32)}, {}, groups).outputs["Y"]


def test_a_correct_program_is_accepted() -> None:
    np.testing.assert_array_equal(run(program(GOOD)), 2 * np.arange(N, dtype=np.float32))


def moved(buffer: int, **changes: object) -> tuple[Buffer, ...]:
    return tuple(replace(b, **changes) if i == buffer else b for i, b in enumerate(BUFFERS))  # type: ignore[arg-type]


#: A store of a number that is no 32-bit integer.
WORDS = (Buffer("w", "ub", DType.I32, (constant(N),), "ND", 0, core="vector"),)
WHOLE: Body = (vector("duplicate", "V", view("w"), Scalar(0.5)),)

BAD: dict[str, tuple[str, Callable[[], Placed]]] = {
    "no flag after the load": ("race", lambda: program((LOAD, DOUBLE, *pair("V", "MTE3"), STORE))),
    "no flag before the store": ("race", lambda: program((LOAD, *pair("MTE2", "V"), DOUBLE, STORE))),
    "flag in the wrong direction": (
        "race",
        lambda: program((LOAD, *pair("V", "MTE2"), DOUBLE, *pair("V", "MTE3"), STORE)),
    ),
    "set before what it stands for": (
        "race",
        lambda: program((flag("set", "MTE2", "V"), LOAD, flag("wait", "MTE2", "V"), DOUBLE, *pair("V", "MTE3"), STORE)),
    ),
    "two dependent vector statements without a barrier": (
        "race",
        lambda: program(
            (
                LOAD,
                *pair("MTE2", "V"),
                DOUBLE,
                vector("add", "V", view("b"), view("b"), view("b")),
                *pair("V", "MTE3"),
                STORE,
            )
        ),
    ),
    "a number that the type lacks": ("number", lambda: program(WHOLE, WORDS)),
    "nothing loaded": ("unwritten", lambda: program((DOUBLE, *pair("V", "MTE3"), STORE))),
    "half loaded": ("unwritten", lambda: program((vector("copy_in", "MTE2", view("a", 32), view("X", 32)), *GOOD[1:]))),
    "half stored": (
        "unwritten",
        lambda: program((*GOOD[:-1], vector("copy_out", "MTE3", view("Y", 32), view("b", 32)))),
    ),
    "wait for nothing": ("deadlock", lambda: program((*GOOD, flag("wait", "MTE3", "V")))),
    "wait in front of its set": (
        "deadlock",
        lambda: program((flag("wait", "MTE3", "MTE2"), *GOOD, flag("set", "MTE3", "MTE2"))),
    ),
    "leaked flag": ("leaked flag", lambda: program((*GOOD, flag("set", "MTE3", "V")))),
    "doubled flag": (
        "doubled flag",
        lambda: program(
            (
                *GOOD,
                flag("set", "MTE3", "V"),
                flag("set", "MTE3", "V"),
                flag("wait", "MTE3", "V"),
                flag("wait", "MTE3", "V"),
            )
        ),
    ),
    "ninth event": ("event ids", lambda: program((LOAD, *pair("MTE2", "V", 8), *GOOD[3:]))),
    "beyond the memory": ("capacity", lambda: program(GOOD, moved(1, address=262144 - 128))),
    "misaligned buffer": ("alignment", lambda: program(GOOD, moved(1, address=264))),
    "misaligned access": (
        "alignment",
        lambda: program(
            (LOAD, *pair("MTE2", "V"), vector("mul", "V", view("b", 60, 4), view("a", 60, 2), Scalar(2.0)), *GOOD[4:])
        ),
    ),
    "out of bounds": ("bounds", lambda: program((vector("copy_in", "MTE2", view("a", N, 8), view("X")), *GOOD[1:]))),
    "wrong layout": ("layout", lambda: program(GOOD, moved(1, layout="NZ"))),
    "wrong pipe": ("pipe", lambda: program((replace(LOAD, pipe="MTE3"), *GOOD[1:]))),
    "no such pipe on a vector core": (
        "pipe",
        lambda: program((replace(LOAD, op="mmad", pipe="M"), *GOOD[1:]), target="ascend:910b3"),
    ),
    "wrong memory": ("scope", lambda: program((replace(LOAD, dst=view("Y")), *GOOD[1:]))),
    "buffers over each other": ("overlap", lambda: program(GOOD, moved(1, address=32))),
    "two cores write one place": ("race", lambda: program(GOOD, target="ascend:910b3")),
}


@pytest.mark.parametrize("name", BAD)
def test_refused(name: str) -> None:
    kind, build = BAD[name]
    with pytest.raises(Refused) as refused:
        run(build())
    assert refused.value.kind == kind, refused.value


def test_a_race_names_both_statements() -> None:
    with pytest.raises(Refused) as refused:
        run(BAD["no flag after the load"][1]())
    assert "copy_in" in refused.value.first and "mul" in refused.value.second


def test_a_barrier_orders_its_own_pipe_only() -> None:
    again = vector("add", "V", view("b"), view("b"), view("b"))
    body = (LOAD, *pair("MTE2", "V"), DOUBLE, Barrier("vector", "V", 1), again, *pair("V", "MTE3"), STORE)
    np.testing.assert_array_equal(run(program(body)), 4 * np.arange(N, dtype=np.float32))
    with pytest.raises(Refused, match="race"):
        run(program((LOAD, Barrier("vector", "MTE2", 1), DOUBLE, *pair("V", "MTE3"), STORE)))


def test_a_stale_read_through_another_buffer_is_an_overlap() -> None:
    other = vector("duplicate", "V", view("c", 8), Scalar(1.0))
    buffers = (*BUFFERS, Buffer("c", "ub", DType.F32, (constant(8),), "ND", 0, core="vector"))
    body = (LOAD, *pair("MTE2", "V"), other, Barrier("vector", "V", 1), *GOOD[3:])
    with pytest.raises(Refused) as refused:
        run(program(body, buffers))
    assert refused.value.kind == "overlap"
    assert "duplicate" in refused.value.first and "mul" in refused.value.second


def test_cross_core_counters_stop_at_fifteen() -> None:
    def ahead(count: int) -> Placed:
        sets = tuple(CrossFlag("set", "cube", "FIX", 0, 1) for _ in range(count))
        waits = tuple(CrossFlag("wait", "vector", "MTE2", 0, 1) for _ in range(count))
        half = View("X", ZERO, ((constant(0), constant(1)),))
        return program((*sets, *waits, vector("copy_in", "MTE2", view("a", 0), half)), target="ascend:910b3")

    for count, kind in ((15, "unwritten"), (16, "doubled flag")):
        with pytest.raises(Refused) as refused:
            run(ahead(count))
        assert refused.value.kind == kind


def chain(inputs: int) -> Placed:
    """Ten loads that the vector pipe adds up, through ``inputs`` buffers taken in turn."""
    starts = [constant(256 * i) for i in range(inputs + 1)]
    buffers = tuple(Buffer(f"a{i}", "ub", DType.F32, (constant(N),), "ND", at.value) for i, at in enumerate(starts))
    total = f"a{inputs}"
    body: list[Node] = []
    for i in range(10):
        source = f"a{i % inputs}"
        body.append(vector("copy_in", "MTE2", view(source), view("X")))
        body.append(vector("add", "V", view(total), view(total if i else source), view(source)))
    return program((*body, replace(STORE, srcs=(view(total),))), buffers)


def test_event_numbers_are_shared_where_that_is_unambiguous() -> None:
    """Each load waits until its buffer is free, so ten orders need no ten events."""
    done = synchronize(chain(2))
    events = [n.events[0] for n in done.body if isinstance(n, Flag) and n.action == "set" and n.src == "MTE2"]
    assert len(events) == 10 and max(events) < int(done.target.extra["event_ids"])
    np.testing.assert_array_equal(run(done), 11 * np.arange(N, dtype=np.float32))
