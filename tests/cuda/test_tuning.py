"""Records of measured schedules, and what is chosen by them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tilewright.backends.cuda import records as cuda_records
from tilewright.backends.cuda import schedule as heuristics
from tilewright.backends.cuda.backend import CudaBackend
from tilewright.backends.cuda.launch import LAUNCHES
from tilewright.errors import UsageError
from tilewright.kernel.apply import apply
from tilewright.kernel.canonical import canonical, canonical_names, rename_schedule
from tilewright.kernel.record import schedule_to_json
from tilewright.kernel.schedule import Schedule
from tilewright.kernel.tile import Kernel
from tilewright.target import Target
from tilewright.tuning.choice import choice_of, ordered
from tilewright.tuning.identity import identity_of
from tilewright.tuning.records import TunedRecord, merged, read_records

from tests.kernel import trial_kernels

TOOLS = {"triton": "3.9.0", "ptxas": "12.9.86"}
SIZES = {"M": 4096}


def matmul(k: int = 256, n: int = 512) -> Kernel:
    return trial_kernels.matmul_bias_gelu("f16", k=k, n=n)


def candidates(kernel: Kernel, target: Target) -> list[Schedule]:
    return list(heuristics.schedules(kernel, target))


def record(kernel: Kernel, schedule: Schedule, sizes: dict[str, int] | None = None, **changed: Any) -> TunedRecord:
    made = TunedRecord(
        target="cuda:sm_90",
        identity=identity_of(kernel, sizes or SIZES),
        schedule=schedule_to_json(rename_schedule(schedule, canonical_names(kernel))),
        seconds=1e-5,
        spread=0.02,
        heuristic_seconds=1.2e-5,
        candidates=4,
        tools=tuple(sorted(TOOLS.items())),
        device="a device",
        driver="CUDA 13.0",
        date="2026-01-02",
    )
    return replace(made, **changed)


def chosen(kernel: Kernel, target: Target, records: Sequence[TunedRecord], tools: dict[str, str] = TOOLS) -> Schedule:
    return next(iter(ordered(kernel, candidates(kernel, target), records, tools)))


def plain(schedule: Schedule) -> Schedule:
    return replace(schedule, extra=tuple((n, v) for n, v in schedule.extra if n != "choice"))


def test_a_record_of_the_same_kernel_and_bucket_is_taken_and_said(sm_90: Target) -> None:
    kernel = matmul()
    third = candidates(kernel, sm_90)[2]
    first = chosen(kernel, sm_90, [record(kernel, third)])
    assert plain(first) == third
    assert choice_of(first) == "tuned (2026-01-02, a device)"


def test_names_do_not_matter(sm_90: Target) -> None:
    kernel = matmul()
    other = replace(kernel, name="another")
    third = candidates(kernel, sm_90)[2]
    assert choice_of(chosen(other, sm_90, [record(kernel, third)])).startswith("tuned")


def test_options_of_an_axis_follow_its_name(sm_90: Target) -> None:
    kernel = matmul()
    other = canonical(kernel)
    first = candidates(kernel, sm_90)[0]
    split = replace(first, extra=(*first.extra, ("split:k", 4)))
    renamed = rename_schedule(split, canonical_names(kernel))
    assert ("split:a2", 4) in renamed.extra
    found = list(ordered(other, [*candidates(other, sm_90), renamed], [record(kernel, split)], TOOLS))
    assert plain(found[0]) == renamed
    assert choice_of(found[0]).startswith("tuned")


def test_another_bucket_or_size_is_a_near_record(sm_90: Target) -> None:
    kernel = matmul()
    third = candidates(kernel, sm_90)[2]
    bucket = chosen(kernel, sm_90, [record(kernel, third, {"M": 100})])
    assert plain(bucket) == third
    assert choice_of(bucket) == "nearest record (2026-01-02, a device)"
    larger = matmul(512, 512)
    near = chosen(larger, sm_90, [record(kernel, candidates(kernel, sm_90)[0])])
    assert choice_of(near).startswith("nearest record")
    assert near.loops == candidates(kernel, sm_90)[0].loops


@pytest.mark.parametrize("what", ["tools", "family", "far", "illegal", "architecture has none"])
def test_what_does_not_fit_is_left_alone(what: str, sm_90: Target) -> None:
    kernel = matmul()
    found, tools = [record(kernel, candidates(kernel, sm_90)[2])], dict(TOOLS)
    match what:
        case "tools":
            tools["ptxas"] = "13.0.1"
        case "family":
            kernel = trial_kernels.row_softmax("f16")
        case "far":
            kernel = matmul(4096, 4096)
        case "illegal":
            odd = replace(candidates(kernel, sm_90)[2], extra=(("num_warps", 32), ("num_stages", 9)))
            found = [record(kernel, odd)]
        case _:
            found = []
    first = chosen(kernel, sm_90, found, tools)
    assert choice_of(first) == "heuristic"
    assert first == candidates(kernel, sm_90)[0]


def test_every_candidate_stays(sm_90: Target) -> None:
    kernel = matmul()
    every = candidates(kernel, sm_90)
    found = list(ordered(kernel, every, [record(kernel, every[2])], TOOLS))
    assert sorted(map(repr, map(plain, found))) == sorted(map(repr, every))


def test_a_near_bucket_goes_before_a_near_kernel(sm_90: Target) -> None:
    kernel, other = matmul(), matmul(512, 512)
    second, third = candidates(kernel, sm_90)[1:3]
    found = [
        record(other, candidates(other, sm_90)[0]),
        record(kernel, third, {"M": 8}),
        record(kernel, second, {"M": 2048}),
    ]
    assert plain(chosen(kernel, sm_90, found)) == second


def test_the_backend_reads_its_folder_and_launches_say_it(
    tmp_path: Path, backend: CudaBackend, sm_90: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = matmul()
    third = candidates(kernel, sm_90)[2]
    (tmp_path / "sm_90.jsonl").write_text(merged([record(kernel, third)]))
    monkeypatch.setattr(cuda_records, "FOLDER", tmp_path)
    monkeypatch.setattr(cuda_records, "tools", lambda: TOOLS)
    monkeypatch.setattr(cuda_records.toolchain, "is_installed", lambda: True)
    cuda_records.records_of.cache_clear()
    try:
        first = next(iter(backend.schedules(kernel, sm_90)))
        told = json.loads(backend.emit([apply(kernel, first)], sm_90).files[LAUNCHES])
        assert plain(first) == third
        assert [x["choice"] for x in told] == ["tuned (2026-01-02, a device)"]
        plainly = json.loads(backend.emit([apply(kernel, plain(first))], sm_90).files[LAUNCHES])
        assert [x["choice"] for x in plainly] == ["heuristic"]
    finally:
        cuda_records.records_of.cache_clear()


def test_committed_records_can_be_read(backend: CudaBackend) -> None:
    for path in cuda_records.FOLDER.glob("*.jsonl"):
        records = read_records(path)
        assert {r.target for r in records} == {f"cuda:{path.stem}"}
        assert path.read_text() == merged(records)


def test_records_are_read_as_written_and_the_last_counts(tmp_path: Path, sm_90: Target) -> None:
    kernel = matmul()
    one = record(kernel, candidates(kernel, sm_90)[0])
    two = replace(one, seconds=2e-5)
    path = tmp_path / "sm_90.jsonl"
    path.write_text(f"{one.line()}\n\n{two.line()}\n")
    assert read_records(path) == (two,)
    assert merged([one, two]) == f"{two.line()}\n"


@pytest.mark.parametrize(
    "change",
    [
        {"seconds": -1.0},
        {"seconds": "fast"},
        {"seconds": True},
        {"spread": float("nan")},
        {"identity": []},
        {"identity": {"kernel": 3}},
        {"tools": {"triton": 3}},
        {"tools": []},
        {"schedule": "{"},
        {"schedule": '{"loops": [["m"]]}'},
        {"device": None},
        {"candidates": 0},
    ],
    ids=str,
)
def test_a_line_that_is_none_is_named(change: dict[str, Any], tmp_path: Path, sm_90: Target) -> None:
    kernel = matmul()
    good = record(kernel, candidates(kernel, sm_90)[0]).line()
    path = tmp_path / "sm_90.jsonl"
    path.write_text(f"{good}\n{json.dumps(json.loads(good) | change)}\n")
    with pytest.raises(UsageError, match="line 2") as caught:
        read_records(path)
    assert caught.value.code == "tuned-unreadable"


@pytest.mark.parametrize("text", ["[" * 100000, "null", "3", '"x"', "{}", "\xff"])
def test_no_bytes_crash_the_reader(text: str, tmp_path: Path) -> None:
    path = tmp_path / "sm_90.jsonl"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError):
        read_records(path)


def test_what_identifies_a_kernel() -> None:
    one = identity_of(matmul(), {"M": 100})
    assert one.bucket == (128,)
    assert one.extents == (100, 512, 256)
    assert one.dtypes.startswith("f16,f16")
    assert one.kind == "contraction"
    assert identity_of(matmul(512), SIZES).family == one.family
    assert identity_of(matmul(512), SIZES).kernel != one.kernel
    assert identity_of(trial_kernels.matmul_bias_gelu("bf16", k=256, n=512), SIZES).family != one.family
