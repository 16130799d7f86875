"""The process that runs Triton: ``python aot_process.py JOB`` compiles the kernels a job file lists, with no GPU.

It runs apart from the compiler so that Triton's settings (environment, cache, an abort inside LLVM) stay its own, and
it imports nothing of Tilewright. A job is ``{"arch": 90, "ptx_version": 80, "kernels": [{"file", "entry", "signature",
"divisors", "num_warps", "num_stages"}]}``; beside the job file appear ``<entry>.cubin``, ``.ptx`` and ``.json``.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any


def main(job_file: Path) -> None:
    """Compile every kernel of the job."""
    job = json.loads(job_file.read_text(encoding="utf-8"))
    for kernel in job["kernels"]:
        compile_kernel(job_file.parent, kernel, job)


def compile_kernel(folder: Path, kernel: dict[str, Any], job: dict[str, Any]) -> None:
    """Compile one kernel and write its files."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    spec = importlib.util.spec_from_file_location(kernel["entry"], folder / kernel["file"])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    attributes = {(i,): [["tt.divisibility", d]] for i, d in enumerate(kernel["divisors"]) if d > 1}
    source = ASTSource(getattr(module, kernel["entry"]), signature=kernel["signature"], constexprs={}, attrs=attributes)
    options = {
        "num_warps": kernel["num_warps"],
        "num_stages": kernel["num_stages"],
        "ptx_version": job["ptx_version"],
        "enable_fp_fusion": True,  # a*b+c is one rounding, as tl.dot has it
    }
    compiled = triton.compile(source, target=GPUTarget("cuda", job["arch"], 32), options=options)
    stem = folder / kernel["entry"]
    stem.with_suffix(".cubin").write_bytes(compiled.asm["cubin"])
    stem.with_suffix(".ptx").write_text(compiled.asm["ptx"], encoding="utf-8")
    m = compiled.metadata
    facts = {
        "shared": m.shared,
        "num_warps": m.num_warps,
        "global_scratch": m.global_scratch_size,
        "profile_scratch": m.profile_scratch_size,
        "triton": triton.__version__,
    }
    stem.with_suffix(".json").write_text(json.dumps(facts), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
