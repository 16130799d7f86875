"""A sample of ONNX's backend suite on a GPU that is not there: plans, and numbers in Triton's interpreter.

``scripts/conformance.py --target cuda:sm_80`` plans all plain tests and compiles their kernels to machine code.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tilewright.backends.cuda.backend import CudaBackend

from tests.conformance.cases import cases
from tests.conformance.device import prepare

FOLDER = Path(__file__).parent
PLANNED = (FOLDER / "passed-cuda.txt").read_text().split()
#: One of each kind of kernel and of routine whose text is most unlike the others'; a few seconds in all.
INTERPRETED = (
    "node/test_cumsum_1d_reverse_exclusive",
    "node/test_dynamicquantizelinear",
    "node/test_gather_negative_indices",
    "node/test_gru_seq_length",
    "node/test_pow_types_float32_int64",
    "node/test_scatter_elements_with_reduction_max",
    "node/test_scatternd_add",
    "node/test_split_variable_parts_2d_opset13",
    "node/test_top_k_negative_axis",
)


def test_a_sample_is_planned_without_a_host_launch() -> None:
    target, known = CudaBackend().targets()["cuda:sm_80"], cases()
    outcomes = [prepare(known[name], target, constants=False).outcome for name in PLANNED[::40]]
    assert [(o.name, o.reason) for o in outcomes if o.status != "passed"] == []


def test_a_sample_gives_the_expected_numbers() -> None:
    if any(importlib.util.find_spec(name) is None for name in ("triton", "torch")):
        pytest.skip("Triton's interpreter needs triton and torch")
    command = [sys.executable, "-W", "ignore", "-m", "tests.conformance.interpret", "cuda:sm_80"]
    text = "\n".join(INTERPRETED) + "\n"
    done = subprocess.run(command, input=text, cwd=FOLDER.parents[1], capture_output=True, text=True, check=True)
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert [o["name"] for o in outcomes] == list(INTERPRETED)
    assert [(o["name"], o["reason"]) for o in outcomes if o["status"] != "passed"] == []
