"""Products of 8-bit integers with a constant, bit for bit as the interpreter has them, on every level and for VNNI's
tile, whose instruction is emulated where there is none."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass

import numpy as np
import pytest
from tilewright.backends.cpu import machine
from tilewright.backends.cpu.backend import LIBRARY, CpuBackend
from tilewright.backends.cpu.emit import emit_kernel
from tilewright.backends.cpu.schedule import choose, schedules
from tilewright.kernel.apply import apply
from tilewright.kernel.interpret import run_lowered, run_scheduled
from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.tile import Kernel
from tilewright.ops.flatten import flatten_axes, name_axes

from tests.cpu.harness import LEVELS, TARGETS, VNNI, compile_kernel

QUANTIZED = "u8(min(max(round(X[m, k] * f32(11.5)) + f32(120.0), f32(0.0)), f32(255.0)))"
REQUANTIZE = "u8(min(max(round(y[{axes}] * f32(0.7)) + f32(128.0), f32(0.0)), f32(255.0)))"


def matmul(
    k: int, n: int, a: str = "u8", b: str = "i8", out: str = "u8", read: str = "X[m, k]", limit: int | None = None
) -> Kernel:
    """Rows times a constant (of which no element exceeds ``limit``); ``out`` u8 is quantized, i32 the sums alone."""
    narrow = "" if limit is None else f", {limit}"
    result = {"u8": REQUANTIZE.format(axes="m, n"), "f32": "y[m, n]", "i32": "acc[m, n]"}[out]
    if out == "i32":
        after = ""
    else:
        after = "y[m, n] = f32(acc[m, n] + shift[n]) * scale[n]"
    return parse_kernel(f"""
@kernel
def matmul(X: {a}[M, {k}], W: const[{b}[{k}, {n}]{narrow}], shift: const[i32[{n}]], scale: const[f32[{n}]],
           C: out[{out}[M, {n}]]):
    where(1 <= M <= 4096)
    m: M
    n: {n}
    k: {k}
    acc[m, n] = sum(k, i32({read}) * i32(W[k, n]))
    {after}
    C[m, n] = {result}
""")


def convolution(
    size: int, ci: int, co: int, window: int = 3, *, stride: int = 1, dilation: int = 1, pad: int = 1, a: str = "u8",
    fill: int = 7, residual: bool = False, planes: bool = False,
) -> Kernel:  # fmt: skip
    """Channels last unless ``planes``; beyond the border lies ``fill``."""
    out = (size + 2 * pad - dilation * (window - 1) - 1) // stride + 1
    place = ", ".join(f"o{x}*{stride} + k{x}*{dilation} - {pad}" for x in "hw")
    read = f"X[b, c, {place}]" if planes else f"X[b, {place}, c]"
    read = f"({read} or {fill})" if pad else read
    shape = f"B, {ci}, {size}, {size}" if planes else f"B, {size}, {size}, {ci}"
    axes = "b, oh, ow, o"
    more = f" + (f32(R[{axes}]) - f32(9.0)) * f32(0.4)" if residual else ""
    return parse_kernel(f"""
@kernel
def convolution(X: {a}[{shape}], W: const[i8[{co}, {ci}, {window}, {window}]], shift: const[i32[{co}]],
                scale: const[f32[{co}]], {f"R: u8[B, {out}, {out}, {co}], " if residual else ""}
                C: out[u8[B, {out}, {out}, {co}]]):
    where(1 <= B <= 64)
    b: B
    oh: {out}
    ow: {out}
    o: {co}
    kh: {window}
    kw: {window}
    c: {ci}
    acc[{axes}] = sum((kh, kw, c), i32({read}) * i32(W[o, c, kh, kw]))
    y[{axes}] = max(f32(acc[{axes}] + shift[o]) * scale[o]{more}, f32(0.0))
    C[{axes}] = {REQUANTIZE.format(axes=axes)}
""")


def merged(kernel: Kernel) -> Kernel:
    """With one axis of rows, as lowering leaves it."""
    return name_axes(flatten_axes(kernel), ("m", "n"))


DYNAMIC = """
@kernel
def dynamic(X: f32[M, 72], W: const[i8[72, 40]], scale: const[f32[40]], C: out[f32[M, 40]]):
    where(1 <= M <= 4096)
    m: M
    n: 40
    k: 72
    top[m] = max(k, abs(X[m, k]))
    s[m] = max(top[m], f32(0.000001)) * f32(0.007874016)
    q[m, k] = i8(min(max(round(X[m, k] / s[m]), f32(-127.0)), f32(127.0)))
    acc[m, n] = sum(k, i32(q[m, k]) * i32(W[k, n]))
    C[m, n] = f32(acc[m, n]) * (s[m] * scale[n])
"""
VECTOR = """
@kernel
def vector(X: u8[70], W: const[i8[70, 50]], C: out[i32[50]]):
    n: 50
    k: 70
    acc[n] = sum(k, i32(X[k]) * i32(W[k, n]))
    C[n] = acc[n]
"""
HEADS = """
@kernel
def heads(X: i8[B, 3, M, 20], W: const[i8[40, 20]], C: out[i32[B, 3, M, 40]]):
    where(1 <= B <= 8, 1 <= M <= 4096)
    b: B
    h: 3
    m: M
    n: 40
    k: 20
    acc[b, h, m, n] = sum(k, i32(X[b, h, m, k]) * i32(W[n, k]))
    C[b, h, m, n] = acc[b, h, m, n] + i32(5)
"""


@dataclass(frozen=True)
class Case:
    """A kernel and dimensions to run it with."""

    name: str
    kernel: Kernel
    dims: tuple[dict[str, int], ...]


ROWS = tuple({"M": m} for m in (1, 2, 4, 5, 13, 61, 130))
BATCHES = ({"B": 1}, {"B": 3})
CASES = (
    Case("matmul-u8", matmul(100, 70), ROWS),
    Case("matmul-i8", matmul(100, 70, "i8"), ROWS),
    Case("matmul-u8-u8", matmul(33, 40, "u8", "u8"), ROWS[2:5]),
    Case("matmul-i8-u8", matmul(33, 40, "i8", "u8"), ROWS[2:5]),
    Case("narrow-u8", matmul(100, 70, b="i8", limit=64), ROWS),
    Case("narrow-i8", matmul(70, 65, "i8", out="i32", limit=64), ROWS),
    Case("narrow-deep", matmul(1605, 40, "i8", limit=64), ROWS[3:6]),
    Case("matmul-tiny", matmul(1, 1), ROWS[:4]),
    Case("matmul-whole", matmul(64, 128, out="f32"), ROWS),
    Case("matmul-deep", matmul(1605, 40, "i8"), ROWS[3:6]),
    Case("matmul-deep-sums", matmul(1605, 40, out="i32"), ROWS[3:6]),
    Case("matmul-sums", matmul(96, 65, "i8", out="i32"), ROWS),
    Case("matmul-quantized", matmul(67, 96, "f32", read=QUANTIZED), ROWS),
    Case("dynamic", parse_kernel(DYNAMIC), ROWS),
    Case("vector", parse_kernel(VECTOR), ({},)),
    Case("heads", parse_kernel(HEADS), ({"B": 1, "M": 1}, {"B": 2, "M": 17})),
    Case("conv", convolution(9, 32, 40, residual=True), BATCHES),
    Case("conv-deep", convolution(5, 96, 40), BATCHES),
    Case("conv-i8", convolution(9, 16, 33, a="i8", fill=-128), BATCHES),
    Case("conv-odd-channels", convolution(8, 5, 34, fill=255), BATCHES),
    Case("conv-strided-dilated", convolution(13, 16, 32, stride=2, dilation=2, pad=2), BATCHES),
    Case("conv-no-padding", convolution(7, 12, 32, pad=0), BATCHES),
    Case("conv-5x5", convolution(6, 4, 8, 5, pad=2), BATCHES),
    Case("conv-1x1", convolution(7, 48, 64, 1, pad=0), BATCHES),
    Case("conv-1x1-strided", convolution(7, 48, 64, 1, stride=2, pad=0, residual=True), BATCHES),
    Case("windows", merged(convolution(8, 16, 40, residual=True)), BATCHES),
    Case("windows-odd-i8", merged(convolution(7, 32, 64, a="i8", fill=-128)), BATCHES),
    Case("windows-no-padding", merged(convolution(9, 16, 33, pad=0)), BATCHES),
    Case("windows-many", merged(convolution(14, 48, 32, fill=255)), BATCHES),
    Case("windows-wide-padding", merged(convolution(8, 16, 16, pad=2)), BATCHES),
    Case("conv-planes", convolution(15, 3, 24, 7, stride=2, pad=3, planes=True), BATCHES),
)  # fmt: skip
#: What runs on the other levels in the ordinary suite.
QUICK = ("matmul-u8", "matmul-i8", "narrow-u8", "narrow-i8", "matmul-u8-u8", "matmul-deep", "conv", "windows")
PAIRS = [
    pytest.param(
        c, level, id=f"{c.name}-{level}",
        marks=() if level == LEVELS[-1] or c.name in QUICK else pytest.mark.slow,
    )
    for c in CASES
    for level in (*LEVELS, VNNI)
]  # fmt: skip


def tensors(kernel: Kernel, dims: dict[str, int], *, extreme: bool = False) -> dict[str, np.ndarray]:
    """Bytes over their whole range; where ``extreme`` one end of it alone, so that sums are as large as they get."""
    rng = np.random.default_rng(len(kernel.name) + sum(dims.values()))
    found = {}
    for p in kernel.params:
        shape = [s.evaluate(dims) for s in p.shape]
        if p.role == "out":
            continue
        if p.dtype.is_integer and p.dtype.bits == 8:
            ends = np.iinfo(p.dtype.numpy)
            least, most = (ends.min, ends.max) if p.limit is None else (-p.limit, p.limit)
            low = most if extreme and not least else least
            high = low + 1 if extreme else most + 1
            found[p.name] = rng.integers(low, high, shape).astype(p.dtype.numpy)
        elif p.dtype.is_integer:
            found[p.name] = rng.integers(-500, 500, shape).astype(p.dtype.numpy)
        else:
            found[p.name] = (rng.standard_normal(shape) * (0.002 if p.role == "const" else 4.0)).astype(np.float32)
    return found


@pytest.mark.parametrize("case, level", PAIRS)
def test_bits(case: Case, level: str) -> None:
    compiled = compile_kernel(case.kernel, level)
    for dims in case.dims:
        for extreme in (False, True):
            given = tensors(case.kernel, dims, extreme=extreme)
            expected = run_lowered(case.kernel, given, dims)["C"]
            np.testing.assert_array_equal(compiled(given, dims, (1,))["C"], expected, err_msg=f"{dims} {extreme}")


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_the_fast_path_is_taken(case: Case) -> None:
    for level in (LEVELS[-1], VNNI):
        text = emit_kernel(apply(case.kernel, choose(case.kernel, TARGETS[level])), TARGETS[level]).text
        assert "start_sums_i32(" in text
        windows = case.name.startswith("windows") and level != VNNI
        assert ("winograd_weights(" in text) == windows
        inner = re.findall(r"add_(?:bytes|narrow|packed_..|widened)\(rows", text)
        unsigned = case.kernel.param("W").dtype.name == "U8"
        assert ("add_bytes(rows" in inner) == (level == VNNI and not unsigned)
        assert ("add_narrow(rows" in inner) == (level != VNNI and case.name.startswith("narrow"))


def test_what_follows_stays_in_registers() -> None:
    for kernel in (matmul(64, 64), convolution(9, 32, 64, residual=True), parse_kernel(DYNAMIC)):
        target = TARGETS[LEVELS[-1]]
        text = emit_kernel(apply(kernel, choose(kernel, target)), target).text
        assert "keep_sums_i32(" not in text


def test_every_schedule_is_exact() -> None:
    convolutions = (convolution(9, 32, 40), merged(convolution(8, 32, 40)))
    for kernel, dims in ((matmul(100, 70), {"M": 61}), *((k, {"B": 2}) for k in convolutions)):
        given = tensors(kernel, dims)
        expected = run_lowered(kernel, given, dims)["C"]
        for schedule in schedules(kernel, TARGETS[LEVELS[-1]]):
            np.testing.assert_array_equal(run_scheduled(apply(kernel, schedule), given, dims)["C"], expected)
            np.testing.assert_array_equal(compile_kernel(kernel, LEVELS[-1], schedule)(given, dims)["C"], expected)


def disassembled(kernel: Kernel, spelling: str) -> str:
    """The instructions of a kernel for a target as it is."""
    target = machine.targets()[spelling]
    backend = CpuBackend()
    binary = backend.build(backend.emit([apply(kernel, choose(kernel, target))], target), target)
    with tempfile.NamedTemporaryFile(suffix=".so") as file:
        file.write(binary.members[LIBRARY])
        file.flush()
        return subprocess.run(
            ["objdump", "-d", "--no-show-raw-insn", file.name], check=True, capture_output=True, text=True
        ).stdout


def loops_of(listing: str, instruction: str) -> list[list[str]]:
    """The innermost loops that have ``instruction``: from the target of a backward jump to the jump."""
    lines = [line.strip().split(":", 1) for line in listing.splitlines() if re.match(r"\s+[0-9a-f]+:\t", line)]
    code = [(int(at, 16), text.strip()) for at, text in lines]
    index = {at: n for n, (at, _) in enumerate(code)}
    found = []
    for n, (at, text) in enumerate(code):
        jump = re.match(r"j\w+\s+([0-9a-f]+)", text)
        if jump and int(jump[1], 16) <= at and int(jump[1], 16) in index:
            body = [t for _, t in code[index[int(jump[1], 16)] : n + 1]]
            if any(t.startswith(instruction) for t in body) and sum(t[0] == "j" for t in body) == 1:
                found.append(body)
    return found


@pytest.mark.parametrize(
    "spelling, instruction", [("cpu:x86-64-v3", "vpmaddwd"), ("cpu:x86-64-v4", "vpmaddwd"), (VNNI, "vpdpbusd")]
)
def test_no_spills_in_the_inner_loops(spelling: str, instruction: str) -> None:
    loops = loops_of(disassembled(matmul(768, 64), spelling), instruction)
    largest = max(sum(t.startswith(instruction) for t in body) for body in loops)
    assert largest >= 12 * 8 // (1 if instruction == "vpmaddwd" else 2)
    for body in loops:
        assert not [t for t in body if "(%rsp" in t or "(%rbp" in t]
