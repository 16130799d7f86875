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

from .cases import INTEGER, LAYER_NORM, SMALL, Array, Case, empty_outputs, in_memory, inputs

pytestmark = pytest.mark.usefixtures("interpreter")

#: Largest error over the largest reference value. f32: sums in another order; f16: one rounding of the result, and
#: of the probabilities of attention; int8 products are exact.
TOLERANCE = {"f32": 2e-6, "f16": 1e-3, "i8": 0.0}


ALL = [(c, t) for c in (*SMALL, LAYER_NORM) for t in ("f32", "f16")] + [(INTEGER, "i8")]


def launch(
    backend: CudaBackend, target: Target, cases: list[tuple[Case, str]], change: tuple[str, str] | None = None
) -> list[tuple[Array, Array]]:
    """Pairs of (interpreted, reference) for the one output of each case; ``change`` replaces text first."""
    scheduled = [case.scheduled(dtype) for case, dtype in cases]
    source = backend.emit(scheduled, target)
    if change is not None:
        assert any(change[0] in text for text in source.files.values())
        source = Source({file: text.replace(*change) for file, text in source.files.items()}, source.symbols)
    runs, wanted = [], []
    for s, (case, _) in zip(scheduled, cases, strict=True):
        given, outputs = inputs(s.kernel, case.sizes), empty_outputs(s.kernel, case.sizes)
        arrays = in_memory(s, given) | outputs
        runs.append(Run(s.kernel.name, arrays, case.sizes, tuple(outputs)))
        wanted.append(run_lowered(s.kernel, given, case.sizes))
    return [(g[o], w[o]) for g, w in zip(interpret(source, runs), wanted, strict=True) for o in w]


@pytest.fixture(scope="module")
def interpreted(interpreter: None, backend: CudaBackend, sm_90: Target) -> dict[tuple[str, str], tuple[Array, Array]]:
    """All kernels in one process: importing torch takes longer than any of them."""
    pairs = launch(backend, sm_90, ALL)
    return {(case.name, dtype): pair for (case, dtype), pair in zip(ALL, pairs, strict=True)}


def error(pair: tuple[Array, Array]) -> float:
    got, want = (x.astype(np.float64) for x in pair)
    if not np.array_equal(np.isnan(got), np.isnan(want)):
        return np.inf
    return float(np.nanmax(np.abs(got - want)) / max(np.nanmax(np.abs(want)), 1e-30))


@pytest.mark.parametrize(("case", "dtype"), ALL, ids=lambda x: getattr(x, "name", x))
def test_kernels(case: Case, dtype: str, interpreted: dict[tuple[str, str], tuple[Array, Array]]) -> None:
    assert error(interpreted[case.name, dtype]) <= TOLERANCE[dtype]


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
