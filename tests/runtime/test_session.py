"""Loading and running: values, shapes, binding, errors."""

import ast
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tilewright
from tilewright import runtime
from tilewright.ir.ranges import Range
from tilewright.ir.symbolic import Expr, constant, maximum, minimum, symbol
from tilewright.ir.types import DType
from tilewright.plan.plan import Assert, Buffer, Copy, EntryPoint, Plan, Signature

from tests.runtime import programs

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def session() -> runtime.Session:
    return runtime.load(programs.artifact(), threads=2)


def rows(n: int) -> Array:
    return np.random.default_rng(n).standard_normal((n, programs.K)).astype(np.float32)


@pytest.mark.parametrize("n", [1, 2, 5, 17, 64])
def test_three_kernels_with_views_and_a_symbolic_dimension(session: runtime.Session, n: int) -> None:
    y, z = session.run(None, {"x": rows(n)})
    np.testing.assert_allclose(y, programs.reference(rows(n)), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(z.reshape(y.shape) * 2, y)


def test_call_by_keyword_and_output_names(session: runtime.Session) -> None:
    by_name = session(x=rows(3))
    (z,) = session.run(["z"], {"x": rows(3)})
    np.testing.assert_array_equal(by_name["z"], z)


@pytest.mark.parametrize("steps", [0, 1, 7])
def test_loop_over_a_number_read_from_a_tensor(session: runtime.Session, steps: int) -> None:
    x = np.arange(300, dtype=np.float32)
    (y,) = session.run(None, {"x": x, "steps": np.array([steps])}, entry="loop")
    np.testing.assert_array_equal(y, x * (steps + 1))


def test_assertion_of_the_program(session: runtime.Session) -> None:
    with pytest.raises(runtime.InputError, match="steps: -1 is not within 0 and 1000"):
        session.run(None, {"x": np.zeros(1, np.float32), "steps": np.array([-1])}, entry="loop")


@pytest.mark.parametrize("values", [[], [0, 0], [1, 0, 2], [3.5] * 1000])
def test_output_whose_size_the_run_decides(session: runtime.Session, values: list[float]) -> None:
    x = np.array(values, np.float32)
    (y,) = session.run(None, {"x": x}, entry="nonzero")
    np.testing.assert_array_equal(y, x[x != 0])


def test_calls_of_another_entry_point(session: runtime.Session) -> None:
    x = rows(12)
    (y,) = session.run(None, {"x": x, "n": np.zeros(6, np.float32)}, entry="halves")
    np.testing.assert_allclose(y, programs.reference(x), rtol=1e-5, atol=1e-5)


def test_a_state_is_copied_unless_its_own_memory_is_given(session: runtime.Session) -> None:
    cache, x = np.ones(8, np.float32), np.arange(8, dtype=np.float32)
    new, twice = session.run(None, {"cache": cache, "x": x}, entry="state")
    np.testing.assert_array_equal(new, 2 + x)
    np.testing.assert_array_equal(twice, 2 * new)
    assert cache.tolist() == [1] * 8
    again, _ = session.run(None, {"cache": cache, "x": x}, entry="state", out={"new_cache": cache})
    assert again is cache
    np.testing.assert_array_equal(cache, new)


def test_outputs_bind_without_copies(session: runtime.Session) -> None:
    out = np.full((4, programs.WIDTH), np.nan, np.float32)
    y, _ = session.run(None, {"x": rows(4)}, out={"y": out})
    assert y is out
    np.testing.assert_array_equal(out, session.run(["y"], {"x": rows(4)})[0])


STRANGE: dict[str, Callable[[Array], Array]] = {
    "fortran": np.asfortranarray,
    "strided": lambda x: np.repeat(x, 2, axis=0)[::2],
    "big-endian": lambda x: x.astype(">f4"),
    "unaligned": lambda x: np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape),
    "read-only": lambda x: np.frombuffer(x.tobytes(), np.float32).reshape(x.shape),
}


@pytest.mark.parametrize("make", STRANGE.values(), ids=STRANGE)
def test_inputs_in_other_memory_layouts(session: runtime.Session, make: Callable[[Array], Array]) -> None:
    x = rows(5)
    np.testing.assert_array_equal(session(x=make(x))["y"], session(x=x)["y"])


ZEROS = np.zeros
WRONG: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "missing": ({}, None, r"no input 'x'.*\n.*x: f32\[N, 48\]"),
    "unknown": ({"x": rows(1), "q": rows(1)}, None, "no input 'q'"),
    "dtype": ({"x": ZEROS((1, 48))}, None, r"float64, the model takes x: f32\[N, 48\]"),
    "rank": ({"x": ZEROS(48, np.float32)}, None, r"\[48\], the model takes \[N, 48\] \(rank 2\)"),
    "shape": ({"x": ZEROS((2, 47), np.float32)}, None, r"\[2, 47\], the model takes \[N, 48\]: dimension 1"),
    "above": ({"x": ZEROS((65, 48), np.float32)}, None, "N is 65, the most allowed is 64"),
    "below": ({"x": ZEROS((0, 48), np.float32)}, None, "N is 0, the least allowed is 1"),
    "multiple": ({"cache": ZEROS(3, np.float32), "x": ZEROS(3, np.float32)}, "state", "N is 3, not a multiple of 2"),
    "expression": ({"x": rows(3), "n": ZEROS(1, np.float32)}, "halves", r"the model takes \[2\*N, 48\]"),
    "entry": ({"x": rows(1)}, "nothing", "no entry point 'nothing'"),
    "object": ({"x": None}, None, "the model takes x"),
    "deep": ({"x": ZEROS((1,) * 20, np.float32)}, None, "20 dimensions"),
}


@pytest.mark.parametrize(("inputs", "entry", "message"), WRONG.values(), ids=WRONG)
def test_wrong_inputs(session: runtime.Session, inputs: dict[str, Any], entry: str | None, message: str) -> None:
    with pytest.raises(runtime.InputError, match=message) as caught:
        session.run(None, inputs, entry=entry)
    assert caught.value.exit_code == 2


BOUND: dict[str, tuple[Callable[[Array], Any], str]] = {
    "shape": (lambda x: np.zeros((5, 32), np.float32), "has shape"),
    "type": (lambda x: np.zeros((4, 32), np.float64), "float64"),
    "strided": (lambda x: np.zeros((4, 64), np.float32)[:, ::2], "not contiguous"),
    "read-only": (lambda x: np.broadcast_to(np.float32(0), (4, 32)), "not contiguous"),
    "overlap": (lambda x: x.reshape(-1)[: 4 * 32].reshape(4, 32), "overlaps input 'x'"),
    "list": (lambda x: [1.0], "not an array"),
}


@pytest.mark.parametrize(("make", "message"), BOUND.values(), ids=BOUND)
def test_wrong_memory_for_outputs(session: runtime.Session, make: Callable[[Array], Any], message: str) -> None:
    x = rows(4)
    with pytest.raises(runtime.InputError, match=message):
        session.run(None, {"x": x}, out={"y": make(x)})


def test_memory_for_an_output_of_unknown_size(session: runtime.Session) -> None:
    x = np.ones(3, np.float32)
    with pytest.raises(runtime.InputError, match="only after the run"):
        session.run(None, {"x": x}, out={"y": np.zeros(3, np.float32)}, entry="nonzero")


def test_profile_names_every_launch(session: runtime.Session) -> None:
    launches = session.profile({"x": rows(4)})
    assert [name for name, _ in launches] == ["matmul", "relu", "add"]
    assert all(0 <= seconds < 1 for _, seconds in launches)


def test_profile_with_more_launches_than_room(session: runtime.Session) -> None:
    import tilewright.runtime.plan_session as module

    room, module.PROFILE_ROOM = module.PROFILE_ROOM, 2
    try:
        launches = session.profile({"x": np.ones(4, np.float32), "steps": np.array([9])}, entry="loop")
    finally:
        module.PROFILE_ROOM = room
    assert [name for name, _ in launches] == ["add"] * 9


def test_signature(session: runtime.Session) -> None:
    assert [str(i) for i in session.inputs] == ["x: f32[N, 48]"]
    assert [(o.name, o.dtype, o.shape) for o in session.outputs] == [("y", "f32", ("N", 32)), ("z", "f32", ("32*N",))]
    assert session.manifest.provenance == {"test": True}


def test_paths_and_copies(tmp_path: Path, session: runtime.Session) -> None:
    path = tmp_path / "model.tw"
    path.write_bytes(programs.artifact())
    for mmap in (True, False):
        with runtime.load(path, mmap=mmap, threads=1) as loaded:
            np.testing.assert_array_equal(loaded(x=rows(6))["y"], session(x=rows(6))["y"])
    with pytest.raises(runtime.InputError, match="closed"):
        loaded(x=rows(6))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.tw", tmp_path):
        with pytest.raises(runtime.InputError) as caught:
            runtime.load(path)
        assert caught.value.exit_code == 2


def echo_entry(dtype: DType) -> EntryPoint:
    size = symbol("N") * dtype.bits // 8
    signature = Signature("x", dtype, (symbol("N"),)), Signature("y", dtype, (symbol("N"),))
    buffers = (Buffer("input", size), Buffer("output", size))
    return EntryPoint("main", signature[:1], signature[1:], (), (("N", Range(0)),), buffers, (Copy(0, 1, size),))


@pytest.mark.parametrize("dtype", DType, ids=str)
def test_every_element_type_passes_through(dtype: DType) -> None:
    session = runtime.load(programs.artifact(Plan((echo_entry(dtype),), (), programs.KERNELS)), threads=1)
    x = np.array([0, 1, 1, 0]).astype(dtype.numpy)
    (y,) = session.run(None, {"x": x})
    assert y.tobytes() == x.tobytes()
    assert y.dtype == x.dtype or y.dtype.kind == "u" or (dtype.bits < 8 and y.dtype == np.int8)


EXPRESSIONS: list[Expr] = [
    symbol("N") * symbol("S") + 3,
    (symbol("N") * 7 - 100) // 3 + 50,
    maximum((5 - symbol("N")) % 4, symbol("S")),
    minimum(symbol("N"), symbol("S"), constant(9)) * symbol("N"),
    ((symbol("N") + 15) // 16 * 16) * symbol("S"),
]


@pytest.mark.parametrize("expr", EXPRESSIONS, ids=str)
@pytest.mark.parametrize(("n", "s"), [(1, 1), (13, 4), (40, 256)])
def test_size_expressions_in_the_executor(expr: Expr, n: int, s: int) -> None:
    size = expr * 4
    entry = EntryPoint(
        "main",
        (Signature("x", DType.F32, (symbol("N"), symbol("S"))),),
        (Signature("y", DType.F32, (expr,)),),
        (),
        (("N", Range(1)), ("S", Range(1))),
        (Buffer("output", size),),
        (),
    )
    session = runtime.load(programs.artifact(Plan((entry,), (), programs.KERNELS)), threads=1)
    (y,) = session.run(None, {"x": np.zeros((n, s), np.float32)})
    assert y.shape == (expr.evaluate({"N": n, "S": s}),)


def test_overflowing_sizes_are_an_error() -> None:
    big = symbol("N") * (2**60)
    entry = replace(programs.dense_entry(), code=(Assert(big * 4, constant(0), constant(1), "big"),))
    session = runtime.load(programs.artifact(Plan((entry,), programs.plan().constants, programs.KERNELS)))
    with pytest.raises(runtime.InputError, match="overflows"):
        session(x=rows(63))


ALONE = """\
import sys
from pathlib import Path
from tilewright.runtime.command import main
code = main(["run", sys.argv[1], "--output-dir", sys.argv[2]])
ours = {name.partition(".")[0] for name in sys.modules}
print(sorted(ours - set(sys.stdlib_module_names) - {"numpy", "tilewright", "__mp_main__", "cython_runtime"}))
sys.exit(code)
"""


def test_running_needs_numpy_alone_and_no_path(tmp_path: Path) -> None:
    path = tmp_path / "model.tw"
    path.write_bytes(programs.artifact())
    command = [sys.executable, "-c", ALONE, str(path), str(tmp_path)]
    environment = {"PYTHONPATH": str(Path(tilewright.__file__).parent.parent), "PATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    foreign = [n for n in ast.literal_eval(done.stdout.splitlines()[-1]) if not n.startswith(("_", "sitecustomize"))]
    assert foreign == []
    assert np.load(tmp_path / "y.npy").shape == (1, programs.WIDTH)
