"""The runtime over the mock driver: whole plans, their order, copies, shapes and graphs."""

from __future__ import annotations

import threading
from ctypes import c_double, c_uint32, pointer
from typing import Any

import numpy as np
import pytest
from tilewright import runtime
from tilewright.plan.encode import encode_plan
from tilewright.runtime.library import ProfileBuffer, kernel_table, load_library

from tests.cuda.mock import plans
from tests.cuda.mock.driver import DIRECT, NO_GRAPHS, SPLIT64, TIMED, Failed, Mock, MockPlan, as_tensor
from tests.runtime import programs

Array = np.ndarray[Any, Any]


def rows(n: int, width: int = programs.K, seed: int = 0) -> Array:
    return np.random.default_rng(seed + n).standard_normal((n, width)).astype(np.float32)


def vector(n: int, seed: int = 0) -> Array:
    return rows(1, n, seed)[0]


def on_cpu(entry: str, inputs: dict[str, Array]) -> list[Array]:
    return runtime.load(programs.artifact(), threads=1).run(None, inputs, entry=entry)


def sparse(n: int) -> Array:
    return np.where(np.arange(n) % 3 == 0, np.float32(0), np.arange(n, dtype=np.float32))


def host_kernels() -> tuple[int, int]:
    return kernel_table(load_library(programs.kernels_library(), "mock-host-kernels", "test"), "test")


CASES: dict[str, dict[str, Array]] = {
    "main": {"x": rows(5)},
    "loop": {"x": vector(300), "steps": np.array([3])},
    "nonzero": {"x": sparse(50)},
    "state": {"cache": vector(400), "x": vector(400, 1)},
    "halves": {"x": rows(8), "n": vector(4)},
}


@pytest.mark.parametrize("entry", CASES)
def test_every_entry_point_gives_the_numbers_of_the_cpu(mock: Mock, entry: str) -> None:
    inputs = CASES[entry]
    wanted = on_cpu(entry, {k: v.copy() for k, v in inputs.items()})
    with MockPlan(mock, programs.plan()) as plan:
        for _ in range(4):
            for got, want in zip(plan.run(entry, list(inputs.values())), wanted, strict=True):
                np.testing.assert_array_equal(got, want)
        assert plan.use().captured == (entry in ("main", "state"))


def test_order_of_a_run(mock: Mock) -> None:
    with MockPlan(mock, programs.plan()) as plan:
        assert [x for x in mock.log() if x.startswith(("load", "opt-in"))] == [
            *(
                "load add",
                "load matmul",
                "opt-in matmul 65536",
                "load relu",
                "load count",
                "load keep",
                "load accumulate",
            )
        ]
        plan.run("main", [rows(3)])
        direct = [x for x in mock.log() if not x.startswith(("alloc", "pin"))]
        assert direct == [
            "h2d 576",
            "launch matmul grid=3 block=128 shared=65536",
            "launch relu grid=1 block=128 shared=0",
            "launch add grid=1 block=128 shared=0",
            *("d2d 384", "d2d 384", "d2h 384", "d2h 384"),
        ]
        plan.run("main", [rows(3)])
        captured = mock.log()
        assert captured == ["capture", "captured 5", "replay 5", *direct]
        plan.run("main", [rows(3)])
        assert mock.log() == ["replay 5", *direct]  # and nothing is allocated


def test_weights_are_uploaded_once_and_only_those_of_the_device(mock: Mock) -> None:
    with MockPlan(mock, programs.plan()) as plan:
        assert mock.log().count("h2d 6144") == 1
        assert plan.use().weight_bytes == 6144
        plan.run("halves", [rows(8), vector(4)])
        assert "h2d 6144" not in mock.log()
    with MockPlan(mock, plans.twice(), weights={"unused": vector(100)}) as plan:
        assert plan.use().weight_bytes == 0


def test_two_shapes_are_never_mixed(mock: Mock) -> None:
    with MockPlan(mock, plans.twice()) as plan:
        for i in range(12):
            x = vector(100 + i % 3, i)
            np.testing.assert_array_equal(plan.run("main", [x])[0], 4 * x)
        use = plan.use()
        assert (use.direct, use.captured, use.replayed, use.graphs) == (3, 3, 6, 3)


def test_graphs_are_bounded_and_the_least_recently_used_goes(mock: Mock) -> None:
    with MockPlan(mock, plans.twice(), graphs=2) as plan:

        def run(n: int) -> str:
            mock.log()
            x = vector(n)
            np.testing.assert_array_equal(plan.run("main", [x])[0], 4 * x)
            log = mock.log()
            return "captured" if "capture" in log else "replayed" if "replay 2" in log else "direct"

        assert [run(n) for n in (4000, 4000, 4000, 500, 500, 500)] == ["direct", "captured", "replayed"] * 2
        assert run(4000) == "replayed"
        assert [run(60), run(60)] == ["direct", "captured"]  # 500 was used longest ago
        assert [run(n) for n in (4000, 500, 60)] == ["replayed", "direct", "replayed"]
        assert [run(n) for n in range(61, 200)] == ["direct"] * 139  # what never comes again drives nothing out
        assert [run(n) for n in (4000, 60)] == ["replayed", "replayed"]
        assert plan.use().graphs == 2


def test_a_run_can_do_without_graphs(mock: Mock) -> None:
    x = vector(64)
    with MockPlan(mock, plans.twice(), flags=NO_GRAPHS) as plan:
        for _ in range(3):
            plan.run("main", [x])
        assert (plan.use().direct, plan.use().captured) == (3, 0)
    with MockPlan(mock, plans.twice()) as plan:
        for _ in range(3):
            plan.run("main", [x], flags=DIRECT)
        assert (plan.use().direct, plan.use().captured) == (3, 0)


def test_an_empty_grid_is_not_launched(mock: Mock) -> None:
    n = plans.N
    with MockPlan(mock, plans.one(2, n)) as plan:
        mock.log()
        assert plan.run("main", [vector(0)])[0].shape == (0,)
        assert not [x for x in mock.log() if x.startswith("launch")]


def test_counters_are_zero_for_every_kernel_however_they_follow(mock: Mock) -> None:
    x = vector(50)
    with MockPlan(mock, plans.counters()) as plan:
        for _ in range(5):
            np.testing.assert_array_equal(plan.run("main", [x])[0], x)
            np.testing.assert_array_equal(plan.run("main", [x], flags=DIRECT)[0], x)
    with MockPlan(mock, plans.one(SPLIT64, scratch=4096)) as plan:
        mock.log()
        for _ in range(4):
            plan.run("main", [x])
        assert sum(line == "set 64" for line in mock.log()) == 1  # once for all runs


def test_less_scratch_than_counters_is_refused(mock: Mock) -> None:
    with (
        MockPlan(mock, plans.one(SPLIT64, scratch=32)) as plan,
        pytest.raises(Failed, match="less scratch than counters"),
    ):
        plan.run("main", [vector(4)])


def test_scratch_of_every_program(mock: Mock) -> None:
    with MockPlan(mock, plans.scratched()) as plan:
        for _ in range(3):
            np.testing.assert_array_equal(plan.run("main", [vector(9)])[0], vector(9))
        assert plan.use().replayed == 1


def test_a_step_on_the_host_waits_for_what_it_reads(mock: Mock) -> None:
    with MockPlan(mock, plans.host_step(), host=host_kernels()) as plan:
        for n in (3, 3, 1000, 3):
            x = vector(n, n)
            np.testing.assert_array_equal(plan.run("main", [x])[0], np.maximum(x + x, 0) + x)
        assert plan.use().captured == 0
        names = [plan.table.kernel_name(plan.handle, i) for i in range(plan.table.kernel_count(plan.handle))]
        assert names[-6:] == [b"add", b"matmul", b"relu", b"count", b"keep", b"accumulate"]


def test_inputs_and_outputs_that_the_plan_wants_on_the_host(mock: Mock) -> None:
    with MockPlan(mock, plans.host_only(), host=host_kernels()) as plan:
        mock.log()
        np.testing.assert_array_equal(plan.run("main", [vector(30)])[0], np.maximum(vector(30), 0))
        assert not [x for x in mock.log() if x.startswith(("h2d", "d2h"))]


@pytest.mark.parametrize("space", ["device", "host"])
@pytest.mark.parametrize("n", [0, 1, 50, 3000])
def test_sizes_that_only_the_run_tells(mock: Mock, space: str, n: int) -> None:
    x = sparse(n)
    with MockPlan(mock, plans.nonzero(space)) as plan:
        for _ in range(2):
            np.testing.assert_array_equal(plan.run("main", [x])[0], x[x != 0])
        room = np.empty(n, np.float32)
        with plan.start("main", [x], [room]) as pending:
            pending.wait()
            found = pending.outputs[0].dim[0]
        np.testing.assert_array_equal(room[:found], x[x != 0])
        if n > 1:
            with pytest.raises(Failed, match="the memory given has 4") as caught:
                plan.run("main", [x], [np.empty(1, np.float32)])
            assert caught.value.code == 2


def test_an_index_outside_its_tensor_fails_that_run_alone(mock: Mock) -> None:
    table = vector(10)
    with MockPlan(mock, plans.select()) as plan:
        for at in (3, 9, 3, 10, -1, 4, 10, 2):
            if 0 <= at < 10:
                assert plan.run("main", [table, np.array([at])])[0][0] == table[at]
                continue
            with pytest.raises(Failed, match="an index in the inputs lies outside the tensor") as caught:
                plan.run("main", [table, np.array([at])])
            assert caught.value.code == 2


def test_large_tensors_go_without_staging(mock: Mock) -> None:
    x = vector(3 << 19)
    with MockPlan(mock, plans.twice()) as plan:
        for _ in range(3):
            np.testing.assert_array_equal(plan.run("main", [x])[0], 4 * x)


def test_several_threads_run_at_a_time(mock: Mock) -> None:
    wrong: list[BaseException | int] = []
    with MockPlan(mock, programs.plan()) as plan:
        wanted = {n: on_cpu("main", {"x": rows(n)})[0] for n in (3, 17)}

        def work(n: int) -> None:
            try:
                for _ in range(40):
                    if not np.array_equal(plan.run("main", [rows(n)])[0], wanted[n]):
                        wrong.append(n)
            except BaseException as error:
                wrong.append(error)

        threads = [threading.Thread(target=work, args=(n,)) for n in (3, 17, 3, 17)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert not wrong
        assert 1 <= plan.use().contexts <= 4


def test_kernels_are_timed_on_the_device(mock: Mock) -> None:
    kernels, seconds = (c_uint32 * 8)(), (c_double * 8)()
    profile = ProfileBuffer(kernels, seconds, 8, 0)
    with MockPlan(mock, plans.host_step(), host=host_kernels()) as plan:
        with plan.start("main", [vector(30)], profile=pointer(profile)) as pending:
            pending.wait()
        assert profile.count == 3
        names = [plan.table.kernel_name(plan.handle, kernels[i]) for i in range(3)]
        assert names == [b"add", b"relu", b"add"]
        assert [s > 0 for s in seconds[:3]] == [True] * 3
        with plan.start("main", [vector(30)], flags=TIMED) as pending:
            pending.wait()
            assert plan.table.pending_seconds(pending.handle) > 0
        small = ProfileBuffer((c_uint32 * 1)(), (c_double * 1)(), 1, 0)
        with plan.start("main", [vector(30)], profile=pointer(small)) as pending:
            pending.wait()
        assert small.count == 3


def test_shapes_and_the_arena_are_those_of_the_device(mock: Mock) -> None:
    from ctypes import byref, c_int64

    from tilewright.plan.memory import plan_memory
    from tilewright.runtime.library import Error, Tensor

    with MockPlan(mock, plans.host_step(), host=host_kernels()) as plan:
        arena, live, out = c_int64(), c_int64(), Tensor()
        x = as_tensor(vector(1000))
        assert (
            plan.table.shapes(plan.handle, 0, byref(x), 1, byref(out), 1, byref(arena), byref(live), byref(Error()))
            == 0
        )
        assert out.dim[0] == 1000
        layout = plan_memory(plans.host_step().entries[0], {"N": 1000}, "device")
        assert (arena.value, live.value) == (layout.size, layout.live_maximum)


def test_the_runtime_library_is_small() -> None:
    assert len(programs.runtime_library()) < 300_000


def test_a_plan_for_a_device_is_refused_on_the_cpu(mock: Mock) -> None:
    artifact = programs.artifact()
    from tests.runtime.rewrite import rewrite

    for data in (plans.host_step(), plans.host_only()):
        changed = rewrite(artifact, {"cpu/baseline/plan.bin": encode_plan(data)})
        with pytest.raises(runtime.ArtifactError):
            runtime.load(changed)
