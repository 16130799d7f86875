"""Generated C, word for word. ``pytest tests/cpu/test_golden.py --update-golden`` rewrites; read the difference."""

from __future__ import annotations

from pathlib import Path

import pytest
from tilewright.backends.cpu import machine
from tilewright.backends.cpu.emit import emit_kernel
from tilewright.backends.cpu.schedule import choose
from tilewright.kernel.apply import apply

from tests.cpu import test_integers
from tests.kernel import trial_kernels

GOLDEN = Path(__file__).parent / "golden"
KERNELS = {
    "matmul_bias_gelu": trial_kernels.matmul_bias_gelu(k=384, n=1536),
    "conv3x3_residual_relu": trial_kernels.conv3x3_residual_relu(),
    "row_softmax": trial_kernels.row_softmax(),
    "flash_attention": trial_kernels.flash_attention(depth=32, mask="additive"),
}
LEVELS = ("x86-64-v3", "x86-64-v4")
CASES = [(name, level) for name in KERNELS for level in LEVELS]
KERNELS |= {
    "integer_matmul": test_integers.matmul(1024, 256),
    "integer_convolution": test_integers.merged(test_integers.convolution(14, 32, 64, residual=True)),
}
CASES += [(name, level) for name in KERNELS if "integer" in name for level in ("x86-64-v3", "x86-64-v4+vnni")]


@pytest.mark.parametrize("name, level", CASES)
def test_text(name: str, level: str, update_golden: bool) -> None:
    target = machine.targets()[f"cpu:{level}"]
    text = emit_kernel(apply(KERNELS[name], choose(KERNELS[name], target)), target).text
    path = GOLDEN / f"{name}.{level}.c"
    if update_golden:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", KERNELS)
def test_text_is_readable(name: str) -> None:
    target = machine.targets()["cpu:x86-64-v4"]
    text = emit_kernel(apply(KERNELS[name], choose(KERNELS[name], target)), target).text
    kernel = KERNELS[name]
    for p in kernel.params:
        assert f"const {p.name} = " in text
    assert max(map(len, text.splitlines())) < 260
    assert text.count("{") == text.count("}")
