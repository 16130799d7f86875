"""The process that runs libtpu: ``python -P aot_process.py FOLDER`` compiles the program of ``FOLDER/job.json``.

It needs no TPU. It runs apart from the compiler because libtpu aborts the whole process on what it does not like, and
it imports nothing of Tilewright, so that a copy of this file beside a job is all that shows such an abort again. A job
is ``{"topology": "v5e:2x2", "bounds": [2, 2, 1], "config": "default", "devices": 4}`` with the portable program in
``module.vhlo``; ``executable`` and ``facts.json`` appear beside it, or ``error.json`` and exit code 3 when libtpu
refuses the program in words.
"""

from __future__ import annotations

import json
import re
import resource
import sys
import time
from collections import Counter
from math import prod
from pathlib import Path
from typing import Any

#: Exit code for a refusal that is written down.
REFUSED = 3

#: Operations between devices, as optimized HLO spells them; asynchronous ones are counted at their start.
_COLLECTIVE = re.compile(
    r" (all-gather|all-reduce|all-to-all|collective-permute|collective-broadcast|reduce-scatter|ragged-all-to-all)"
    r"(?:-start)?\("
)


def main(folder: Path) -> int:
    """Compile the job of a folder; the exit code."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    module = load((folder / "module.vhlo").read_bytes())
    with module.context:
        counted = products(module)
        start = time.perf_counter()
        try:
            executable = compile_module(module, job)
        except RuntimeError as error:  # of jaxlib, for a status of libtpu
            (folder / "error.json").write_text(json.dumps({"message": str(error)}), encoding="utf-8")
            return REFUSED
        seconds = time.perf_counter() - start
    facts = {
        **facts_of(executable, job["devices"]),
        "products": counted,
        "seconds": seconds,
        "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    (folder / "executable").write_bytes(executable.serialize())
    (folder / "facts.json").write_text(json.dumps(facts, sort_keys=True), encoding="utf-8")
    return 0


def load(data: bytes) -> Any:
    """The StableHLO module of portable bytes."""
    from jaxlib.mlir import ir
    from jaxlib.mlir._mlir_libs import _jax_mlir_ext
    from jaxlib.mlir.dialects import stablehlo

    registry = ir.DialectRegistry()
    _jax_mlir_ext.register_dialects(registry)
    context = ir.Context()
    context.append_dialect_registry(registry)
    context.load_all_available_dialects()
    stablehlo.register_dialect(context)
    return stablehlo.deserialize_portable_artifact(context, data)


def compile_module(module: Any, job: dict[str, Any]) -> Any:
    """What libtpu makes of a module for the devices of a job. Raises ``RuntimeError`` with libtpu's words."""
    import libtpu
    from jaxlib import xla_client

    xla_client.load_pjrt_plugin_dynamically("tpu", libtpu.get_library_path())
    xla_client.initialize_pjrt_plugin("tpu")
    topology = xla_client.make_tfrt_tpu_c_api_device_topology(
        job["topology"], chips_per_host_bounds=tuple(job["bounds"]), chip_config_name=job["config"]
    )
    devices = topology._make_compile_only_devices()[: job["devices"]]
    if len(devices) < job["devices"]:
        raise RuntimeError(f"{job['topology']} has {len(devices)} devices, not {job['devices']}")
    options = xla_client.CompileOptions()
    options.num_replicas, options.num_partitions = 1, len(devices)
    build = options.executable_build_options
    build.num_replicas, build.num_partitions = 1, len(devices)
    if len(devices) > 1:
        build.use_spmd_partitioning = True
        build.use_shardy_partitioner = bool(job.get("shardy", False))
    return devices[0].client.compile(
        module, executable_devices=xla_client.DeviceList(tuple(devices)), compile_options=options
    )


def facts_of(executable: Any, devices: int) -> dict[str, Any]:
    """What the compiler says of an executable, on one device: operations, bytes, memory, exchanges between devices."""
    cost = executable.cost_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    memory = executable.get_compiled_memory_stats()
    text, uncounted = "", ""
    if devices > 1:  # one device exchanges nothing
        try:
            text = "\n".join(module.to_string() for module in executable.hlo_modules())
        except RuntimeError as error:  # seen with asynchronous operations that jaxlib 0.10.2 does not read
            uncounted = f"exchanges not counted: jaxlib cannot read the optimized program ({str(error)[:200]})"
    return {
        "flops": float(cost.get("flops", 0.0)),
        "bytes": float(cost.get("bytes accessed", 0.0)),
        "arguments": memory.argument_size_in_bytes,
        "results": memory.output_size_in_bytes,
        "aliased": memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "code": memory.generated_code_size_in_bytes,
        "peak": memory.peak_memory_in_bytes,
        "collectives": dict(sorted(Counter(_COLLECTIVE.findall(text)).items())),
        "uncounted": uncounted,
    }


def products(module: Any) -> dict[str, float]:
    """Operations of products and convolutions by the type of their operands, of f32 with the precision: ``f32:HIGH``.

    A multiply-add is two; what stands in a loop counts once.
    """
    from jaxlib.mlir import ir

    found: Counter[str] = Counter()

    def visit(operation: Any) -> Any:
        name = operation.name
        if name in ("stablehlo.dot_general", "stablehlo.convolution"):
            left, right = (ir.RankedTensorType(o.type) for o in operation.operands)
            result = ir.RankedTensorType(operation.results[0].type)
            work = 2.0 * prod(result.shape) * _reduced(operation, list(left.shape), list(right.shape))
            wide = max((left.element_type, right.element_type), key=lambda t: getattr(t, "width", 8))
            found[_spelled(str(wide), operation)] += work
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    return dict(sorted(found.items()))


def _reduced(operation: Any, left: list[int], right: list[int]) -> float:
    """How many multiply-adds an element of the result takes."""
    from jaxlib.mlir.dialects import stablehlo

    if operation.name == "stablehlo.dot_general":
        numbers = stablehlo.DotDimensionNumbers(operation.attributes["dot_dimension_numbers"])
        return float(prod(left[d] for d in numbers.lhs_contracting_dimensions))
    numbers = stablehlo.ConvDimensionNumbers(operation.attributes["dimension_numbers"])
    features: int = right[numbers.kernel_output_feature_dimension]
    return prod(right) / max(features, 1)


def _spelled(dtype: str, operation: Any) -> str:
    if dtype != "f32":
        return dtype
    if "precision_config" not in operation.attributes:
        return "f32:DEFAULT"
    words = re.findall(r"precision (\w+)", str(operation.attributes["precision_config"]))
    return f"f32:{max(words, key=('DEFAULT', 'HIGH', 'HIGHEST').index, default='DEFAULT')}"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
