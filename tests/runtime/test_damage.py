"""Damaged, truncated, foreign and hostile artifacts: the documented error, never a crash."""

import json
import random
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tilewright import runtime
from tilewright.errors import InternalError
from tilewright.ir.symbolic import Expr, Range, constant, floordiv, maximum, minimum, symbol
from tilewright.ir.types import DType
from tilewright.plan.encode import encode_plan
from tilewright.plan.plan import (
    Allocate,
    Assert,
    Buffer,
    Call,
    Copy,
    EntryPoint,
    Free,
    Jump,
    Launch,
    LoadScalar,
    Plan,
    SetScalar,
    Signature,
)
from tilewright.runtime import library
from tilewright.runtime.command import main
from tilewright.runtime.errors import RunError
from tilewright.runtime.format import MANIFEST, MANIFEST_HASH, PAGE, read_directory

from tests.runtime import programs
from tests.runtime.rewrite import members, pack, rewrite, seal

X = np.ones((2, programs.K), np.float32)


def outcome(data: bytes) -> str:
    """How loading and running ends: "ran" or the name of the error."""
    try:
        session = runtime.load(data, threads=1)
        np.testing.assert_allclose(session(x=X)["y"], programs.reference(X), rtol=1e-5, atol=1e-5)
    except RunError as error:
        return type(error).__name__
    return "ran"


@pytest.fixture(scope="module")
def artifact() -> bytes:
    return programs.artifact()


def test_every_mutated_byte_is_found_or_means_nothing(artifact: bytes) -> None:
    """Nothing but the documented error, and no way to other numbers: what still runs runs right."""
    generator = random.Random(1)
    ends = [m.offset for m in read_directory(memoryview(artifact), "test").values()]
    interesting = [i for e in [0, *ends, len(artifact)] for i in range(e - 80, e + 80) if 0 <= i < len(artifact)]
    places = generator.sample(range(len(artifact)), 1400) + generator.sample(interesting, 600)
    results = set()
    for place in places:
        mutated = bytearray(artifact)
        mutated[place] ^= 1 << generator.randrange(8)
        results.add(outcome(bytes(mutated)))
    assert results == {"ArtifactError"}


def test_truncation(artifact: bytes) -> None:
    offsets = [m.offset for m in read_directory(memoryview(artifact), "test").values()]
    lengths = {0, 1, 21, 22, 23, 45, 4095, 4096, *range(len(artifact) - 200, len(artifact), 3)}
    lengths |= {o + d for o in offsets for d in (-1, 0, 1)}
    for length in sorted(lengths):
        assert outcome(artifact[:length]) == "ArtifactError", length


def test_more_bytes_after_the_end(artifact: bytes) -> None:
    assert outcome(artifact + b"\0") == "ArtifactError"
    assert outcome(b"\0" + artifact) == "ArtifactError"


def test_what_other_zip_programs_write_is_refused(artifact: bytes) -> None:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        stream = BytesIO()
        with zipfile.ZipFile(stream, "w", method) as z:
            for name, data in members(artifact).items():
                z.writestr(name, data)
        assert outcome(stream.getvalue()) == "ArtifactError"


def test_zip_programs_can_read_it(artifact: bytes) -> None:
    with zipfile.ZipFile(BytesIO(artifact)) as z:
        assert z.testzip() is None
        assert {i.filename: z.read(i) for i in z.infolist()} == members(artifact)
    assert all(m.offset % PAGE == 0 for m in read_directory(memoryview(artifact), "test").values())


def central_records(data: bytes) -> list[int]:
    start = struct.unpack_from("<I", data, len(data) - 6)[0]
    found = []
    while data[start : start + 4] == b"PK\1\2":
        found.append(start)
        start += 46 + sum(struct.unpack_from("<3H", data, start + 28))
    return found


FIELDS = {
    "method": (10, "<H", 8),
    "flags": (8, "<H", 1),
    "size": (24, "<I", 7),
    "offset": (42, "<I", 0),
    "name": (28, "<H", 3),
}


@pytest.mark.parametrize(("at", "form", "value"), FIELDS.values(), ids=FIELDS)
def test_directory_fields(artifact: bytes, at: int, form: str, value: int) -> None:
    """Compression, flags, other sizes, overlapping members (an offset of another one), shorter names."""
    for record in central_records(artifact)[1:]:
        mutated = bytearray(artifact)
        struct.pack_into(form, mutated, record + at, value)
        assert outcome(bytes(mutated)) == "ArtifactError"


def test_duplicate_and_unsafe_names(artifact: bytes) -> None:
    original = members(artifact)
    for name in ("../evil", "/evil", "a//b", "a/./b", "a\\b", ".hidden", "a/", ""):
        renamed = pack(original).replace(b"weights.crc32c", (name.encode() + b"_" * 14)[:14])
        assert outcome(renamed) == "ArtifactError"
    twice = bytearray(pack({**original, "manifest.sha257": b"x" * 64}))
    assert outcome(bytes(twice).replace(b"manifest.sha257", b"manifest.sha256")) == "ArtifactError"


@pytest.mark.parametrize("name", [MANIFEST, MANIFEST_HASH, "weights", "weights.crc32c", "cpu/baseline/plan.bin"])
def test_a_missing_member(artifact: bytes, name: str) -> None:
    contents = members(artifact)
    del contents[name]
    assert outcome(pack(contents)) == "ArtifactError"


# -- manifest ---------------------------------------------------------------------------------------------------------


def set_value(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def edit(manifest: dict[str, Any]) -> None:
        at: Any = manifest
        *way, last = (int(p) if p.isdigit() else p for p in path.split("."))
        for step in way:
            at = at[step]
        at[last] = value

    return edit


BAD_VALUES = {
    "format": 2,
    "abi": 0,
    "entries": [],
    "entries.0.inputs": None,
    "entries.0.inputs.0.name": 7,
    "targets.0.members": [],
    "targets.0.members.plan.bin": "x",
    "targets.0.requires": [["avx", 0, 0]],
    "weights.segment": 1,
    "weights.tensors": [["w", 1, 6144, "f32", [48, 32]]],
    "members": {},
    "provenance": 3,
}


@pytest.mark.parametrize(("path", "value"), BAD_VALUES.items(), ids=BAD_VALUES)
def test_a_malformed_manifest(artifact: bytes, path: str, value: Any) -> None:
    if path == "targets.0.members.plan.bin":
        changed = rewrite(artifact, {}, lambda m: m["targets"][0]["members"].update({"plan.bin": value}))
    else:
        changed = rewrite(artifact, {}, set_value(path, value))
    assert outcome(changed) == "ArtifactError"


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{", b"\xff", b'{"format":1,"format":1}', b"[" * 100000, b"1e999", b"null"]
)
def test_a_manifest_that_is_no_manifest(artifact: bytes, text: bytes) -> None:
    contents = {n: d for n, d in members(artifact).items() if n not in (MANIFEST, MANIFEST_HASH)}
    assert outcome(seal(contents, text)) == "ArtifactError"


@pytest.mark.parametrize(
    "tensor", [("w", 2**62, 6144), ("w", 0, 2**62), ("w", 64, 6144), ("w", 32, 6112), ("v", 0, 6144)]
)
def test_weights_that_point_outside(artifact: bytes, tensor: tuple[str, int, int]) -> None:
    changed = rewrite(artifact, {}, set_value("weights.tensors", [[*tensor, "f32", [48, 32]]]))
    assert outcome(changed) == "ArtifactError"


def test_unknown_versions_say_so(artifact: bytes) -> None:
    with pytest.raises(runtime.ArtifactError, match="format 2, interface 1") as caught:
        runtime.load(rewrite(artifact, {}, set_value("format", 2)))
    assert (caught.value.code, caught.value.exit_code) == ("artifact-version", 9)


# -- hostile plans ----------------------------------------------------------------------------------------------------


def with_plan(artifact: bytes, plan: bytes) -> bytes:
    return rewrite(artifact, {"cpu/baseline/plan.bin": plan})


def test_mutated_plans_with_right_hashes(artifact: bytes) -> None:
    """Loading refuses what is out of range. (Running is left to the next test: kernels trust their dimensions.)"""
    plan = members(artifact)["cpu/baseline/plan.bin"]
    generator = random.Random(2)
    words = struct.unpack_from("<I", plan, 8)[0]
    refused = 0
    for _ in range(200):
        mutated = bytearray(plan)
        at = 16 + 4 * generator.randrange(words)
        struct.pack_into("<I", mutated, at, generator.choice([0, 1, 7, 255, 2**16, 2**31, 2**32 - 1]))
        try:
            runtime.load(with_plan(artifact, bytes(mutated)), threads=1)
        except RunError:
            refused += 1
    assert refused > 60


def no_kernels() -> EntryPoint:
    """Everything but launches: what it does to memory is the executor's own doing."""
    n, i, s = symbol("N"), symbol("i"), symbol("s")
    buffers = (
        Buffer("input", n * 8, 0),
        Buffer("output", n * 8, 0),
        Buffer("temporary", n * 8 + 64),
        Buffer("temporary", n * 8, base=2, offset=constant(64)),
        Buffer("temporary", s * 8 + 8),
        Buffer("temporary", constant(8), base=4, offset=s * 8),
        Buffer("temporary", n * 16),
    )
    code = (
        Copy(0, 3, n * 8),
        LoadScalar("s", 3, DType.I64, n - 1),
        Assert(s, constant(0), constant(100), "s"),
        Allocate(4),
        Copy(3, 5, constant(8)),
        SetScalar("i", constant(0)),
        Jump(10, 1 - minimum(maximum(3 - i, 0), 1)),
        Copy(3, 6, n * 8),
        SetScalar("i", i + 1),
        Jump(6),
        Free(4),
        Copy(6, 1, n * 8),
    )
    x = Signature("x", DType.I64, (n,))
    return EntryPoint("main", (x,), (replace(x, name="y"),), (), (("N", Range(1, 100)),), buffers, code)


def test_running_mutated_plans_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = programs.artifact(Plan((no_kernels(),), (), programs.KERNELS))
    plan = members(artifact)["cpu/baseline/plan.bin"]
    generator = random.Random(3)
    words = struct.unpack_from("<I", plan, 8)[0]
    x = np.arange(5, dtype=np.int64)
    outcomes = set()
    for _ in range(600):
        mutated = bytearray(plan)
        for _ in range(generator.choice([1, 1, 2])):
            at = 16 + 4 * generator.randrange(words)
            old = struct.unpack_from("<I", mutated, at)[0]
            new = generator.choice([0, 1, old + 1, old - 1, 9, 2**20, 2**31, 2**32 - 1])
            struct.pack_into("<I", mutated, at, new % 2**32)
        try:
            runtime.load(with_plan(artifact, bytes(mutated)), threads=1).run(None, {"x": x})
            outcomes.add("ran")
        except RunError as error:
            outcomes.add(type(error).__name__)
    assert {"ran", "ArtifactError"} <= outcomes


N = symbol("N")
BIG = constant(2**40)
PLAIN = (Buffer("input", N * 8), Buffer("output", N * 8), *(Buffer("temporary", N * 8) for _ in range(3)))
LOOP = replace(no_kernels(), buffers=PLAIN, code=())


def deep(levels: int) -> Expr:
    expr = N
    for i in range(levels):
        expr = floordiv(constant(1000 + i), expr + N)
    return expr


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "copy past the end": ({"code": (Copy(0, 1, N * 8 + 1),)}, "past its buffers"),
    "copy of a negative size": ({"code": (Copy(0, 1, -N),)}, "past its buffers"),
    "copy to an input": ({"code": (Copy(1, 0, N),)}, "instruction 0 is malformed"),
    "scalar past the end": ({"code": (LoadScalar("s", 0, DType.I64, N),)}, "lies past"),
    "scalar before the start": ({"code": (LoadScalar("s", 0, DType.I64, -N),)}, "lies past"),
    "loop without end": ({"code": (Jump(0),)}, "stopped after"),
    "jump out": ({"code": (Jump(9),)}, "instruction 0 is malformed"),
    "unknown kernel": ({"code": (Launch(6, (), (), N),)}, "instruction 0 is malformed"),
    "unknown buffer": ({"code": (Launch(0, (7,), (), N),)}, "instruction 0 is malformed"),
    "negative grid": ({"code": (Launch(0, (), (), -N),)}, "malformed grid"),
    "endless grid": ({"code": (Launch(0, (), (), BIG * BIG // BIG * 2**12),)}, "malformed grid"),
    "scratch": ({"code": (Launch(0, (), (), N, BIG),)}, "malformed grid or scratch"),
    "calls itself": ({"code": (Call(0, (0,), (1,), (N,)),)}, "nest too deeply"),
    "allocated twice": ({"code": (Allocate(4), Allocate(4))}, "allocated twice"),
    "used while free": ({"code": (Allocate(4), Free(4), Copy(4, 1, N))}, "has no memory"),
    "view past its base": ({"buffers": (PLAIN[0], Buffer("input", N, base=0, offset=N * 8))}, "past its base"),
    "view before its base": ({"buffers": (PLAIN[0], Buffer("input", N, base=0, offset=-N))}, "past its base"),
    "larger than its input": ({"buffers": (Buffer("input", N * 9),)}, "larger than what it names"),
    "larger than its output": ({"buffers": (Buffer("output", N * 9),)}, "larger than what it names"),
    "larger than its constant": ({"buffers": (Buffer("constant", N * 9000),)}, "larger than its constant"),
    "negative size": ({"buffers": (Buffer("temporary", -N),)}, "negative size"),
    "no such constant": ({"buffers": (Buffer("constant", N, 1),)}, "names nothing"),
    "symbol without an input": ({"symbols": (*LOOP.symbols, ("M", Range(0)))}, "no input gives M"),
    "without a life": ({"code": (Copy(0, 2, N),)}, "instruction 0 is malformed"),
    "too much memory": ({"buffers": (*PLAIN[:2], Buffer("temporary", N * 2**58)), "code": (Copy(0, 2, N),)}, "memory"),
    "output too large": ({"outputs": (Signature("y", DType.I64, (N * 2**57,)),)}, "memory|dimension"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_plans(monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], message: str) -> None:
    from tilewright.plan import encode

    monkeypatch.setattr(encode, "verify_plan", lambda plan: None)
    if change.get("code") in (HOSTILE["without a life"][0]["code"], HOSTILE["unknown buffer"][0]["code"]):
        monkeypatch.setattr(encode, "live_intervals", lambda entry: {})
    plan = Plan((replace(LOOP, **change),), programs.plan().constants, programs.KERNELS)
    with pytest.raises(RunError, match=message):
        runtime.load(programs.artifact(plan), threads=2).run(None, {"x": np.arange(5)})


def test_expressions_that_need_too_much_stack() -> None:
    entry = replace(LOOP, code=(Assert(deep(40), N, N, "deep"),))
    with pytest.raises(InternalError, match="nests too deeply"):
        encode_plan(Plan((entry,), (), programs.KERNELS))


def test_postfix_code_of_a_hostile_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    from tilewright.plan import encode

    entry = replace(LOOP, code=(Assert(N, N, N, "x"),))
    for words in ([], [2], [1, 0, 2], [1, 5], [0, 1], [9], [1, 0, 1, 0], [1, 0] * 33 + [2] * 32):
        monkeypatch.setattr(encode, "postfix", lambda expr, symbols, words=words: words)
        monkeypatch.setattr(encode, "stack_depth", lambda words: 0)
        with pytest.raises(runtime.ArtifactError):
            runtime.load(programs.artifact(Plan((entry,), (), programs.KERNELS)))


# -- other machines ---------------------------------------------------------------------------------------------------


def test_an_artifact_for_another_family() -> None:
    other = "aarch64" if programs.FAMILY == "x86_64" else "x86_64"
    data = programs.artifact(parts=[programs.part(programs.plan(), "cpu:other", (), other)])
    with pytest.raises(runtime.DeviceError, match=r"it holds cpu:other; none of it is for device 'auto'") as caught:
        runtime.load(data)
    assert caught.value.exit_code == 8


def test_an_artifact_for_a_newer_cpu() -> None:
    never = ("warp-drive", 5 if programs.FAMILY == "x86_64" else 6, 0, 0, 63)
    parts = [programs.part(programs.plan(), "cpu:future", (never,))]
    with pytest.raises(runtime.DeviceError, match="lacks features of every part: cpu:future needs warp-drive"):
        runtime.load(programs.artifact(parts=parts))
    parts.append(programs.part(programs.plan()))
    assert runtime.load(programs.artifact(parts=parts)).target == "cpu:baseline"


def test_the_part_that_requires_most_is_run() -> None:
    always = ("fp", 5, 0, 0, 0) if programs.FAMILY == "aarch64" else ("fpu", 3, 1, 0, 0)
    parts = [programs.part(programs.plan()), programs.part(programs.plan(), "cpu:level", (always,))]
    data = programs.artifact(parts=parts)
    assert runtime.load(data).target == "cpu:level"
    assert runtime.load(data, device="cpu:baseline").target == "cpu:baseline"


@pytest.mark.parametrize("device", ["cuda", "cpu:x86-64-v9", "tpu"])
def test_a_device_that_the_artifact_lacks(artifact: bytes, device: str) -> None:
    with pytest.raises(runtime.DeviceError, match=f"for device '{device}'"):
        runtime.load(artifact, device=device)


def test_code_without_memory_files(artifact: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*args: object) -> int:
        raise PermissionError("no memory files")

    monkeypatch.setattr(library.os, "memfd_create", refuse)
    monkeypatch.setattr(library, "_loaded", {})
    monkeypatch.setattr(library.tempfile, "tempdir", str(tmp_path))
    assert outcome(artifact) == "ran"
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(library, "_loaded", {})
    monkeypatch.setattr(library.tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(runtime.DeviceError, match=r"no memory files.*missing"):
        runtime.load(artifact)


# -- the command line -------------------------------------------------------------------------------------------------


def test_commands(artifact: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.tw"
    path.write_bytes(artifact)
    np.save(tmp_path / "x.npy", X)
    assert main(["run", str(path), "--input", f"x=@{tmp_path / 'x.npy'}", "--output-dir", str(tmp_path / "out")]) == 0
    np.testing.assert_allclose(np.load(tmp_path / "out" / "y.npy"), programs.reference(X), rtol=1e-5, atol=1e-5)
    assert main(["run", str(path), "--entry", "halves"]) == 0
    assert main(["verify", str(path), "--integrity"]) == 0
    assert main(["inspect", str(path)]) == 0
    assert "entry state" in capsys.readouterr().out
    assert main(["inspect", "--json", str(path)]) == 0
    assert json.loads(capsys.readouterr().out)["format"] == 1


CODES = [
    ("missing.tw", [], 2),
    ("damaged.tw", [], 9),
    ("model.tw", ["--device", "cuda"], 8),
    ("model.tw", ["--input", "x=no"], 2),
]


@pytest.mark.parametrize(("name", "more", "code"), CODES)
def test_exit_codes(artifact: bytes, tmp_path: Path, name: str, more: list[str], code: int) -> None:
    (tmp_path / "model.tw").write_bytes(artifact)
    (tmp_path / "damaged.tw").write_bytes(artifact[:-1])
    assert main(["run", str(tmp_path / name), *more]) == code


def test_looking_at_an_artifact_loads_none_of_its_code(artifact: bytes, tmp_path: Path) -> None:
    bad = rewrite(artifact, {"cpu/baseline/kernels.so": b"not code", f"cpu/{programs.FAMILY}/runtime.so": b"nor this"})
    path = tmp_path / "model.tw"
    path.write_bytes(bad)
    assert main(["verify", str(path)]) == 0
    assert main(["inspect", str(path)]) == 0
    assert main(["run", str(path)]) == 8


def test_damaged_weights_are_found_by_verify_and_load(artifact: bytes, tmp_path: Path) -> None:
    mutated = bytearray(artifact)
    mutated[PAGE + 5000] ^= 1
    path = tmp_path / "model.tw"
    path.write_bytes(mutated)
    assert main(["verify", str(path)]) == 9
    with pytest.raises(runtime.ArtifactError, match="from 4096 on"):
        runtime.load(path)
