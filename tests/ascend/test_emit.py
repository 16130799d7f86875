"""Ascend C of the trial kernels: readable golden sources, and the bits of the simulator when they are run."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pytest
from tilewright.backends.ascend.ascendc.emit import kernel_source
from tilewright.backends.ascend.ascendc.names import Names, literal
from tilewright.backends.ascend.ascendc.signature import signature
from tilewright.backends.ascend.placed.form import without_edge
from tilewright.backends.ascend.simulator.machine import check
from tilewright.ir.types import DType

from tests.ascend.modelled import Modelled, ModelRefusedError, build, same_bits
from tests.ascend.test_trials import CASES
from tests.ascend.trials import TRIALS, placed

GOLDEN = Path(__file__).parent / "golden"


@lru_cache(maxsize=1)
def library() -> Modelled:
    """All trials in one translation unit."""
    return build({name: placed(name) for name in TRIALS}, level="-O0")


@pytest.mark.parametrize("name", TRIALS)
def test_source_is_the_golden_one(name: str, update_golden: bool) -> None:
    text, path = kernel_source(placed(name), placed(name).kernel.name), GOLDEN / f"{name}.asc"
    if update_golden:
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def _case(name: str, dims: dict[str, int]) -> object:
    """A trial's own sizes always, others where there is time."""
    marks = () if dims == TRIALS[name].dims else (pytest.mark.slow,)
    return pytest.param(name, dims, id=f"{name}-{'x'.join(map(str, dims.values()))}", marks=marks)


@pytest.mark.parametrize(("name", "dims"), [_case(name, dict(dims)) for name, dims in CASES])
def test_bits_are_those_of_the_simulator(name: str, dims: dict[str, int]) -> None:
    inputs = TRIALS[name].inputs(dims)
    got, fault = library().run(placed(name), inputs, dims, symbol=name)
    want = check(placed(name), inputs, dims)
    assert fault == want.fault
    for output, value in got.items():
        assert same_bits(value, want.outputs[output]), f"{name} {dims}: {output}"


def test_both_forms_have_one_body() -> None:
    for name in TRIALS:
        kernel = placed(name)
        asc, launch = (kernel_source(kernel, "k", form) for form in ("asc", "launch"))
        body, entry = asc.split("\n__global__ __")
        other, older = launch.split('\nextern "C" __global__ __aicore__ void k(')
        assert body == other
        assert "KERNEL_TASK_TYPE_DEFAULT" in older and "KERNEL_TASK_TYPE_DEFAULT" not in entry


def test_the_model_refuses_programs_without_a_flag() -> None:
    """Only what runs in program order can be seen: half a flag is; a whole edge is the simulator's to refuse."""
    kernel = placed("softmax")
    text = kernel_source(kernel, "row_softmax")
    first = next(line for line in text.splitlines() if "SetFlag<HardEvent::V_MTE3>" in line)
    broken = text.replace(first, "", 1)
    from tilewright.backends.ascend.ascendc.emit import Sources, emit

    from tests.ascend.modelled import load

    sources = emit([kernel])
    files = {**sources.files, "row_softmax.asc": broken}
    trial = TRIALS["softmax"]
    with pytest.raises(ModelRefusedError, match="which nobody has set"):
        load(Sources(files, sources.signatures), 2201, level="-O0").run(kernel, trial.inputs(), trial.dims)
    assert without_edge(kernel, kernel.edges[0].number) != kernel


def test_arguments_follow_the_kernel() -> None:
    sig = signature(placed("matmul"))
    assert [(a.name, a.kind) for a in sig.arguments][-2:] == [("workspace", "workspace"), ("M", "dimension")]
    assert sig.kind == "mix" and sig.cores_a_block == 1 and sig.workspace % 512 == 0
    assert signature(placed("softmax")).cores_a_block == 2


def test_names_are_identifiers_given_once() -> None:
    names = Names()
    assert [names.give(n) for n in ("a b", "a_b", "for", "Add", "1x", "é")] == [
        "a_b",
        "a_b_2",
        "for_2",
        "Add_2",
        "v_1x",
        "v",
    ]


def test_literals_denote_the_rounded_number() -> None:
    assert literal(0.1, DType.F32) == "0.1f"
    assert literal(float("-inf"), DType.F16) == "half(-INF)"
    assert literal(1.0, DType.F16) == "half(1.0f)"
    assert literal(3.0, DType.I32) == "int32_t(3)"
