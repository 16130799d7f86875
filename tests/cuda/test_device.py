"""Cubins on a GPU, against the lowered form. Skipped, and never passed, where there is none."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from tilewright.backends.cuda.backend import CudaBackend
from tilewright.backends.cuda.build import compile_source
from tilewright.kernel.apply import apply
from tilewright.kernel.interpret import run_lowered

from tests.kernel import trial_kernels

from .cases import INTEGER, SMALL, Case, empty_outputs, inputs, int8_matmul
from .driver import Driver, NoDevice

pytestmark = [pytest.mark.device, pytest.mark.usefixtures("triton")]

#: As in the interpreter, but for the device's own exp, erf and division (2 units in the last place each).
TOLERANCE = {"f32": 5e-6, "f16": 1e-3, "bf16": 8e-3, "i8": 0.0}

#: Under the first guess for the device at hand, at sizes where most tiles have edges.
FIRST_GUESSES = (
    (Case("matmul", trial_kernels.matmul_bias_gelu, None, {"M": 261}), "f16"),
    (Case("matmul", trial_kernels.matmul_bias_gelu, None, {"M": 261}), "bf16"),
    (Case("matmul", trial_kernels.matmul_bias_gelu, None, {"M": 67}), "f32"),
    (Case("convolution", lambda t: trial_kernels.conv3x3_residual_relu(dtype=t), None, {"B": 3}), "f16"),
    (Case("softmax", trial_kernels.row_softmax, None, {"M": 131, "N": 999}), "f16"),
    (
        Case(
            "attention",
            lambda t: trial_kernels.flash_attention(t, mask="causal"),
            None,
            {"B": 2, "H": 3, "S": 131, "T": 197},
        ),
        "f16",
    ),
    (Case("int8_matmul", int8_matmul, None, {"M": 261}), "i8"),
)


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    try:
        found = Driver()
    except NoDevice as reason:
        pytest.skip(f"no NVIDIA GPU: {reason}")
    with found:
        yield found


def _check(backend: CudaBackend, driver: Driver, case: Case, dtype: str) -> None:
    kernel, sizes = case.build(dtype), case.sizes
    target = backend.targets()[f"cuda:{driver.arch}"]
    schedule = case.schedule or next(iter(backend.schedules(kernel, target)))
    compiled = compile_source(backend.emit([apply(kernel, schedule)], target), target)[kernel.name]
    given, outputs = inputs(kernel, sizes), empty_outputs(kernel, sizes)
    got = driver.run(compiled, {**given, **outputs}, sizes)
    for name, want in run_lowered(kernel, given, sizes).items():
        a, b = got[name].astype(np.float64), want.astype(np.float64)
        assert np.array_equal(np.isnan(a), np.isnan(b))
        assert np.nanmax(np.abs(a - b)) <= TOLERANCE[dtype] * np.nanmax(np.abs(b))


@pytest.mark.parametrize("dtype", ["f32", "f16"])
@pytest.mark.parametrize("case", SMALL, ids=lambda c: c.name)
def test_small_sizes(case: Case, dtype: str, backend: CudaBackend, driver: Driver) -> None:
    _check(backend, driver, case, dtype)


def test_int8_is_exact(backend: CudaBackend, driver: Driver) -> None:
    _check(backend, driver, INTEGER, "i8")


@pytest.mark.parametrize(("case", "dtype"), FIRST_GUESSES, ids=lambda x: getattr(x, "name", x))
def test_first_guesses(case: Case, dtype: str, backend: CudaBackend, driver: Driver) -> None:
    _check(backend, driver, case, dtype)
