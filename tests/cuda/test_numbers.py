"""Numbers of the emitted text, in Triton's interpreter, against the lowered form."""

from __future__ import annotations

import numpy as np
import pytest
from tilewright.backends.base import Source
from tilewright.backends.cuda.backend import CudaBackend
from tilewright.backends.cuda.interpret import Run, interpret
from tilewright.errors import UnsupportedError
from tilewright.kernel.interpret import run_lowered
from tilewright.target import Target

from .cases import INTEGER, LAYER_NORM, SMALL, Array, Case, empty_outputs, inputs

pytestmark = pytest.mark.usefixtures("interpreter")

#: Largest error over the largest reference value. f32: sums in another order; f16: one rounding of the result, and
#: of the probabilities of attention.
TOLERANCE = {"f32": 2e-6, "f16": 1e-3, "i8": 0.0}


def launch(
    backend: CudaBackend, target: Target, cases: list[tuple[Case, str]], change: tuple[str, str] | None = None
) -> list[tuple[Array, Array]]:
    """Pairs of (interpreted, reference) for the one output of each case; ``change`` replaces text first."""
    runs, sources, wanted = [], {}, []
    for case, dtype in cases:
        scheduled = case.scheduled(dtype)
        kernel = scheduled.kernel
        given = inputs(kernel, case.sizes)
        outputs = empty_outputs(kernel, case.sizes)
        source = backend.emit([scheduled], target)
        if change is not None:
            text = source.files[f"{kernel.name}.py"]
            assert change[0] in text
            source = Source({**source.files, f"{kernel.name}.py": text.replace(*change)}, source.symbols)
        sources[kernel.name] = source
        runs.append((source, Run(kernel.name, {**given, **outputs}, case.sizes, tuple(outputs))))
        wanted.append(run_lowered(kernel, given, case.sizes))
    got = [interpret(source, [run])[0] for source, run in runs]
    return [(g[o], w[o]) for g, w in zip(got, wanted, strict=True) for o in g]


def error(pair: tuple[Array, Array]) -> float:
    got, want = (x.astype(np.float64) for x in pair)
    if not np.array_equal(np.isnan(got), np.isnan(want)):
        return np.inf
    return float(np.nanmax(np.abs(got - want)) / max(np.nanmax(np.abs(want)), 1e-30))


@pytest.mark.parametrize("dtype", ["f32", "f16"])
@pytest.mark.parametrize("case", (*SMALL, LAYER_NORM), ids=lambda c: c.name)
def test_kernels(case: Case, dtype: str, backend: CudaBackend, sm_90: Target) -> None:
    (pair,) = launch(backend, sm_90, [(case, dtype)])
    assert error(pair) <= TOLERANCE[dtype]


def test_int8_product_is_exact(backend: CudaBackend, sm_90: Target) -> None:
    (pair,) = launch(backend, sm_90, [(INTEGER, "i8")])
    assert np.array_equal(*pair)


@pytest.mark.parametrize(
    ("case", "change"),
    [
        ("matmul", ("k_in = k < 72", "k_in = k < 71")),
        ("matmul", (", mask=m_in[:, None] & n_in[None, :]", "")),
        ("convolution", ("kw0 - 1 + ow * 2 >= 0", "kw0 + ow * 2 >= 0")),
        ("softmax", ("tl.where(n_in[None, :], e, 0.0)", "e")),
        ("attention", ("tl.where(t_in[None, :], p, 0.0)", "p")),
    ],
)
def test_a_wrong_mask_shows(case: str, change: tuple[str, str], backend: CudaBackend, sm_90: Target) -> None:
    """The inputs and sizes above do exercise the masks: with one wrong or left out, numbers are wrong or
    the process dies."""
    found = next(c for c in SMALL if c.name == case)
    try:
        (pair,) = launch(backend, sm_90, [(found, "f32")], change)
    except Exception as broken:
        assert "interpreter failed" in str(broken)
        return
    assert error(pair) > TOLERANCE["f32"]


def test_bfloat16_is_refused_by_the_interpreter(backend: CudaBackend, sm_90: Target) -> None:
    with pytest.raises(UnsupportedError, match="bf16 wrongly"):
        launch(backend, sm_90, [(SMALL[0], "bf16")])
