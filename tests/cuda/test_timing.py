"""The program that times candidates, on a device that is made up: no GPU, and no time of one, is in these tests."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tilewright.backends.cuda import bundle
from tilewright.backends.cuda.launch import Argument, Launch
from tilewright.backends.cuda.modules import Module, encode_modules
from tilewright.backends.cuda.timing import recipes, run
from tilewright.backends.cuda.timing.driver import DriverError
from tilewright.backends.cuda.timing.measure import measure
from tilewright.backends.cuda.timing.modules import BUFFER, DIM32, FAULT, WORKSPACE, Code, decode_modules
from tilewright.ir.symbolic import constant, symbol
from tilewright.ir.types import DType
from tilewright.kernel.pack import blocked, in_memory, pack_constant
from tilewright.target import Target
from tilewright.tuning.records import record_from

from tests.cuda.mock.driver import NAMES, Mock, modules
from tests.kernel import trial_kernels

N = 8
IDENTITY = {"kernel": "k", "family": "f", "extents": [N], "bucket": [], "kind": "elementwise"}
IDENTITY |= {"dtypes": "f32", "layout": "in1", "epilogue": ""}
SCHEDULE = '{"loops":[["a0",128,"block"]]}'


class FakeDevice:
    """Memory in this process; a kernel is a function of arrays, and takes as long as it is said to."""

    name, version, arch, l2_bytes = "made up", "CUDA 0.0", 90, 100

    def __init__(self, kernels: dict[str, Callable[..., None]], seconds: dict[str, float]):
        self.kernels, self.seconds = kernels, seconds
        self.memory: dict[int, bytearray] = {}
        self.clock, self.started, self.capturing = 0.0, list[str](), None
        self.graphs: dict[int, list[tuple[str, list[int]]]] = {}

    def allocate(self, size: int) -> int:
        address = 1 << 20 | len(self.memory) + 1
        self.memory[address] = bytearray(size)
        return address

    def free(self, address: int) -> None:
        self.memory[address] = bytearray()

    def write(self, address: int, data: bytes) -> None:
        self.memory[address][: len(data)] = data

    def read(self, address: int, size: int) -> bytes:
        return bytes(self.memory[address][:size])

    def fill(self, address: int, value: int, size: int) -> None:
        self.memory[address][:size] = bytes([value]) * size

    def load(self, code: bytes, entry: str, shared: int) -> tuple[int, str]:
        if entry == "refused":
            raise DriverError("cuModuleLoadDataEx returned 200")
        return 1, entry

    def unload(self, module: int) -> None:
        pass

    def launch(self, function: str, grid: int, threads: int, shared: int, values: list[Any]) -> None:
        if self.capturing is not None:
            self.capturing.append((function, [v.value for v in values]))
            return
        self._run(function, [v.value for v in values])

    def _run(self, function: str, values: list[int]) -> None:
        self.started.append(function)
        self.clock += self.seconds[function]
        arrays = [np.frombuffer(self.memory[v], np.float32) if v in self.memory and v != 0 else v for v in values]
        self.kernels[function](*arrays)

    def graph(self, start: Callable[[], None]) -> int:
        self.capturing = []
        start()
        made, self.capturing = self.capturing, None
        self.graphs[len(self.graphs) + 1] = made
        return len(self.graphs)

    def drop_graph(self, graph: int) -> None:
        del self.graphs[graph]

    def time_graph(self, graph: int) -> float:
        return self.timed(lambda: [self._run(*x) for x in self.graphs[graph]] and None)

    def timed(self, start: Callable[[], None]) -> float:
        before = self.clock
        start()
        return self.clock - before


def add(a: Any, b: Any, out: Any, n: int, *_: Any) -> None:
    out[:n] = a[:n] + b[:n]


def wrong(a: Any, b: Any, out: Any, n: int, *_: Any) -> None:
    out[:n] = a[:n] - b[:n]


def unwritten(a: Any, b: Any, out: Any, n: int, *_: Any) -> None:
    out[: n - 1] = a[: n - 1] + b[: n - 1]


def faulty(a: Any, b: Any, out: Any, n: int, fault: Any, *_: Any) -> None:
    out[:n] = a[:n] + b[:n]
    fault[:] = 1.0


def case(names: list[str], **changed: Any) -> dict[str, Any]:
    buffer = {"dtype": "f32", "shape": [N], "alias": None, "values": ["normal", 1.0], "tolerance": 1e-6, "step": False}
    candidates = [
        {"code": n, "schedule": name, "grid": 1, "workspace": 0, "scratch": 0, "profile": 0, "packs": {}}
        for n, name in enumerate(names)
    ]
    buffers = [buffer | {"role": role} for role in ("in", "const", "out")]
    made = {"name": "add", "sizes": {}, "worth": 1.0, "least_seconds": 1e-6, "identity": {}, "dims": [N]}
    return made | {"buffers": buffers, "candidates": candidates} | changed


def codes(names: list[str]) -> list[Code]:
    parameters = ((BUFFER, 0), (BUFFER, 1), (BUFFER, 2), (DIM32, 0), (FAULT, 0))
    return [Code(name.rstrip("0123456789"), 128, 0, 0, 0, 0, b"", b"", parameters) for name in names]


def timed(names: list[str], seconds: dict[str, float], until: float | None = None) -> tuple[list[Any], FakeDevice]:
    functions = {"add": add, "fast": add, "wrong": wrong, "unwritten": unwritten, "faulty": faulty}
    device = FakeDevice(functions, dict.fromkeys(functions, 1e-5) | seconds)
    return measure(device, case(names), codes(names), until or time.monotonic() + 60), device


def test_the_fastest_right_candidate_wins() -> None:
    timings, _ = timed(["add", "fast", "add2"], {"fast": 4e-6})
    assert min(timings, key=lambda t: t.median).schedule == "fast"
    assert timings[0].median == pytest.approx(1e-5)
    assert timings[1].median == pytest.approx(4e-6)


@pytest.mark.parametrize("bad", ["wrong", "unwritten", "faulty", "refused"])
def test_what_is_not_right_never_wins(bad: str) -> None:
    timings, _ = timed(["add", bad], {bad: 1e-9})
    assert timings[1].wrong
    assert timings[1].median == float("inf")
    assert not timings[0].wrong


def test_expected_values_catch_a_wrong_first() -> None:
    made = case(["wrong", "add"])
    first, second = (
        recipes.decoded(recipes.stored(recipes.codes(b, n + 1), "f32"), "f32")
        for n, b in enumerate(made["buffers"][:2])
    )
    made["expected"] = [{"at": [0, 3], "values": [first[0] + second[0], first[3] + second[3]]}]
    device = FakeDevice({"wrong": wrong, "add": add}, {"wrong": 1e-9, "add": 1e-5})
    timings = measure(device, made, codes(["wrong", "add"]), time.monotonic() + 60)
    assert [bool(t.wrong) for t in timings] == [True, False]


def test_candidates_take_turns_and_the_slow_ones_stop() -> None:
    timings, device = timed(["add", "fast"], {"fast": 1e-6})
    assert len(timings[0].seconds) == 3
    assert len(timings[1].seconds) == 15
    assert not device.graphs
    assert not any(device.memory.values())


def test_after_the_deadline_one_turn_is_all() -> None:
    timings, _ = timed(["add", "fast"], {}, until=time.monotonic() - 1)
    assert [len(t.seconds) for t in timings] == [1, 1]


def test_lines_hold_records_and_the_most_worth_comes_first(tmp_path: Path) -> None:
    cases = []
    for worth in (1.0, 5.0):
        made = case(["add"], name=f"worth {worth}", worth=worth, identity=IDENTITY)
        made["candidates"][0]["schedule"] = SCHEDULE
        cases.append(made)
    told = {"target": "cuda:sm_90", "tools": {"triton": "3.9.0", "ptxas": "12.9.86"}, "cases": cases}
    device = FakeDevice({"add": add}, {"add": 1e-5})
    lines = list(run.timed(device, told, codes(["add"]), 60.0))
    assert [x["name"] for x in lines] == ["worth 5.0", "worth 1.0"]
    record = record_from(json.loads(json.dumps(lines[0]["record"])))
    assert (record.schedule, record.device, record.candidates) == (SCHEDULE, "made up", 1)
    assert not list(run.timed(device, told, codes(["add"]), -1.0))


# -- over the mock driver ------------------------------------------------------------------------------------------


def mock_bundle(path: Path, names: list[str]) -> None:
    """A bundle of kernels of the mock that copy ``x`` to ``out``, or that should."""
    made = case(names, identity=IDENTITY, dims=[64])
    made["buffers"] = [b | {"shape": [64]} for b in (made["buffers"][0], made["buffers"][2])]
    for candidate, name in zip(made["candidates"], names, strict=True):
        candidate |= {"code": NAMES.index(name), "workspace": 4096, "scratch": 4 * 256, "profile": 4 * 64, "grid": 4}
        candidate["schedule"] = SCHEDULE
    told = {"target": "cuda:sm_90", "tools": {"triton": "3.9.0", "ptxas": "12.9.86"}, "cases": [made]}
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("modules.bin", modules())
        out.writestr("cases.json", json.dumps(told))


def timed_on(mock: Mock, folder: Path, names: list[str]) -> tuple[int, list[dict[str, Any]]]:
    mock_bundle(folder / "b.pyz", names)
    words = ["--bundle", folder / "b.pyz", "--out", folder / "out", "--library", mock.path.decode(), "--seconds", 60]
    status = run.main(list(map(str, words)))
    text = (folder / "out").read_text() if (folder / "out").exists() else ""
    return status, [json.loads(line) for line in text.splitlines()]


def test_calls_keep_the_rules_of_the_driver(mock: Mock, tmp_path: Path) -> None:
    status, (line,) = timed_on(mock, tmp_path, ["split64", "scratched", "relu"])
    assert status == 1  # something computed something else
    assert ["wrong" in c for c in line["candidates"]] == [False, False, True]
    assert record_from(line["record"]).candidates == 2
    log = mock.log()
    assert sum(x.startswith("load") for x in log) == 3
    assert any("capture" in x for x in log)


def test_another_gpu_times_nothing(mock: Mock, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mock.set(major=8, minor=0)
    assert timed_on(mock, tmp_path, ["split64"]) == (run.NO_DEVICE, [])
    assert "is sm_80; nothing was timed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "call", ["cuModuleLoadDataEx", "cuLaunchKernel", "cuGraphInstantiateWithFlags", "cuMemAlloc_v2"]
)
def test_a_failed_call_costs_its_candidate_and_leaks_nothing(call: str, mock: Mock, tmp_path: Path) -> None:
    mock.fail(call)
    status, (line,) = timed_on(mock, tmp_path, ["split64", "scratched"])
    assert status == 1
    assert call in json.dumps(line)


# -- what travels ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["f32", "f16", "bf16", "f8e5m2", "f8e4m3"])
def test_floats_are_what_their_type_says(name: str) -> None:
    recipe = {"dtype": name, "shape": [2000], "values": ["normal", 1.0]}
    data = recipes.stored(recipes.codes(recipe, 3), name)
    values = np.frombuffer(data, DType.parse(name).numpy).astype(np.float64)
    want = ((recipes.noise(2000, 3).astype(np.float64) + 0.5) / 2**32 - 0.5) * 12**0.5
    step = {"f32": 2e-7, "f16": 1e-3, "bf16": 4e-3, "f8e5m2": 0.25, "f8e4m3": 0.125}[name]
    assert np.all(np.abs(values - want) <= step * np.maximum(np.abs(want), 2**-3))
    assert 0.9 < values.std() < 1.1 or name.startswith("f8")
    if name == "bf16":
        assert np.array_equal(values, want.astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float64))


def test_integers_stay_in_their_range() -> None:
    recipe = {"dtype": "i8", "shape": [999], "values": ["integers", -8, 8]}
    values = np.frombuffer(recipes.stored(recipes.codes(recipe, 1), "i8"), np.int8)
    assert (values.min(), values.max()) == (-8, 7)


@pytest.mark.parametrize("dtype", ["i4", "i8", "f16"])
def test_packs_are_those_of_the_compiler(dtype: str) -> None:
    shape = (6, 20)
    pack = blocked("B", (constant(6), constant(20)), 1, 8)
    recipe = {
        "dtype": dtype,
        "shape": list(shape),
        "values": ["integers", -8, 8] if dtype[0] == "i" else ["normal", 1.0],
    }
    elements = recipes.codes(recipe, 7)
    told = {"index": [str(i) for i in pack.index], "shape": [s.value for s in pack.shape]}
    got = recipes.stored(recipes.packed(elements, shape, told), dtype)
    bits = elements.astype(np.uint16 if dtype == "f16" else np.uint8).reshape(shape)
    assert got == in_memory(pack_constant(bits, pack), DType.parse(dtype)).tobytes()


def test_modules_are_read_back() -> None:
    arguments = (Argument("a", "*fp16", 16), Argument("n", "i32"), Argument("w", "*i32", 1, "workspace"))
    launch = Launch("k", "k_entry", arguments, symbol("n"), 4, 2, constant(64), 16)
    modules = [Module(launch, b"code", "ptx", 1024, ("u64", "u32", "u64", "u64", "u64"), (256, 0))] * 2
    arch, (one, two) = decode_modules(encode_modules(modules, 90))
    assert arch == 90
    assert one == two
    assert (one.entry, one.threads, one.shared, one.global_scratch, one.counters) == ("k_entry", 128, 1024, 256, 16)
    assert (one.cubin, one.ptx) == (b"code", b"ptx")
    assert one.parameters[:3] == ((BUFFER, 0), (DIM32, 0), (WORKSPACE, 0))


@pytest.mark.parametrize("cut", [0, 10, 40, 100, -1])
def test_damaged_modules_are_refused(cut: int) -> None:
    launch = Launch("k", "k", (Argument("a", "*fp16"),), constant(1), 4, 2)
    data = encode_modules([Module(launch, b"code", "", 0, ("u64", "u64", "u64"), (0, 0))], 90)
    with pytest.raises(ValueError, match=r"\w"):
        decode_modules(data[:cut])


@pytest.mark.usefixtures("triton")
def test_a_bundle_has_its_candidates_and_says_that_there_is_no_gpu(tmp_path: Path, sm_90: Target) -> None:
    kernel = trial_kernels.matmul_bias_gelu("f16", k=64, n=64)
    path = tmp_path / "tune.pyz"
    counts = bundle.write_bundle(path, [bundle.Case(kernel, {"M": 50}, 1.0)], sm_90, 2, expected=True)
    assert (counts["cases"], counts["candidates"] + counts["dropped"]) == (1, 2)
    with zipfile.ZipFile(path) as opened:
        told = json.loads(opened.read("cases.json"))
        arch, found = decode_modules(opened.read("modules.bin"))
    assert arch == 90
    (only,) = told["cases"]
    assert len(found) == len(only["candidates"]) == counts["candidates"]
    assert only["dims"] == [50]
    assert [b["role"] for b in only["buffers"]].count("out") == 1
    (want,) = only["expected"]
    assert len(want["at"]) == len(want["values"]) == 257
    assert 0.1 < np.std(want["values"]) < 100
    before = path.read_bytes()
    bundle.write_bundle(path, [bundle.Case(kernel, {"M": 50}, 1.0)], sm_90, 2, expected=True)
    assert path.read_bytes() == before
    words = [sys.executable, "-I", str(path), "--library", "libnothing.so.0", "--out", str(tmp_path / "out")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == run.NO_DEVICE
    assert "nothing was timed" in done.stderr
    assert not (tmp_path / "out").exists()
