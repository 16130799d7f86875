"""What importing costs: XLA's own count of flops and bytes for our programs, beside the same models written in JAX.

    python scripts/bench_xla_import.py FOLDER [--topology v5e:1x1 | --cpu] [--results models/results/xla-import.md]

BERT-base (batch 1, 128 tokens) and ResNet-50 (batch 1) in f32 and bf16: emitted from their ONNX files, which are
written into FOLDER where they are missing (``models/zoo.py``), and written here in jnp and lax as one would, with
weights as arguments and BatchNormalization folded. Both are StableHLO, compiled by the same compiler: libtpu's for a
TPU that is not there, or XLA's for the CPU. Nothing is run: bytes and flops are the compiler's ``cost_analysis`` of its
optimized program.

jax is a development dependency of this script; the product does not import it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxlib import xla_client
from tilewright.backends.base import ProgramSettings
from tilewright.backends.xla.backend import XlaBackend
from tilewright.entries import entries_of, import_entries
from tilewright.options import Options
from tilewright.passes.pipeline import canonicalization, run_pipeline
from tilewright.passes.place import place
from tilewright.passes.quantize.base import Capability, Settings
from tilewright.passes.quantize.methods import quantize
from tilewright.quantization.costs import name_layers

from models import bert, resnet
from models.zoo import zoo

TOKENS = 128
SIZES: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "bert-base": dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), (1, TOKENS)),
    "resnet50": {"image": (1, 3, 224, 224)},
}
#: What a program of ours may cost beside the one in JAX.
BOUND = 1.05


@dataclass(frozen=True)
class Cost:
    """Flops and bytes of one run, as the compiler counts them."""

    flops: float
    bytes: float


# -- the same models in JAX ----------------------------------------------------------------------------------------


def _matmul(x: Any, w: Any) -> Any:
    """Sums in f32, rounded once."""
    precision = "highest" if x.dtype == jnp.float32 else None
    return jnp.matmul(x, w, precision=precision, preferred_element_type=jnp.float32).astype(x.dtype)


def _norm(x: Any, scale: Any, bias: Any, epsilon: float = 1e-12) -> Any:
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(-1, keepdims=True)
    variance = (centred * centred).mean(-1, keepdims=True)
    return (centred * lax.rsqrt(variance + epsilon)).astype(x.dtype) * scale + bias


def bert_in_jax(w: Mapping[str, Any], ids: Any, mask: Any, kinds: Any) -> tuple[Any, Any]:
    """BERT: the last hidden state and the pooled output."""
    c = bert.BASE
    heads = c.num_attention_heads
    dtype = w["word"].dtype
    x = w["word"][ids] + w["kind"][kinds] + w["place"][: ids.shape[1]]
    x = _norm(x, w["norm.scale"], w["norm.bias"])
    absent = ((1.0 - mask.astype(jnp.float32)) * jnp.finfo(dtype).min)[:, None, None, :]
    precision = "highest" if dtype == jnp.float32 else None
    einsum = partial(jnp.einsum, precision=precision, preferred_element_type=jnp.float32)
    for n in range(c.num_hidden_layers):
        q, k, v = (
            (_matmul(x, w[f"{n}.{p}"]) + w[f"{n}.{p}.bias"]).reshape(*ids.shape, heads, -1) for p in ("q", "k", "v")
        )
        scores = einsum("bqhd,bkhd->bhqk", q, k).astype(dtype) * dtype.type(1 / np.sqrt(c.hidden_size // heads))
        weights = jax.nn.softmax(scores.astype(jnp.float32) + absent, axis=-1).astype(dtype)
        context = einsum("bhqk,bkhd->bqhd", weights, v).astype(dtype).reshape(x.shape)
        x = _norm(_matmul(context, w[f"{n}.out"]) + w[f"{n}.out.bias"] + x, w[f"{n}.norm1"], w[f"{n}.norm1.bias"])
        wide = jax.nn.gelu(_matmul(x, w[f"{n}.wide"]) + w[f"{n}.wide.bias"], approximate=False)
        x = _norm(_matmul(wide, w[f"{n}.narrow"]) + w[f"{n}.narrow.bias"] + x, w[f"{n}.norm2"], w[f"{n}.norm2.bias"])
    pooled = jnp.tanh(_matmul(x[:, 0], w["pool"]) + w["pool.bias"])
    return x.astype(jnp.float32), pooled.astype(jnp.float32)


def bert_weights(dtype: Any) -> dict[str, Any]:
    """Shapes of the weights; matrices are ``[in, out]``."""
    c = bert.BASE
    h, i = c.hidden_size, c.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        "word": (c.vocab_size, h), "kind": (c.type_vocab_size, h), "place": (c.max_position_embeddings, h),
        "norm.scale": (h,), "norm.bias": (h,), "pool": (h, h), "pool.bias": (h,),
    }  # fmt: skip
    for n in range(c.num_hidden_layers):
        dense = {"q": (h, h), "k": (h, h), "v": (h, h), "out": (h, h), "wide": (h, i), "narrow": (i, h)}
        for name, size in dense.items():
            shapes |= {f"{n}.{name}": size, f"{n}.{name}.bias": size[1:]}
        shapes |= {f"{n}.{name}": (h,) for name in ("norm1", "norm1.bias", "norm2", "norm2.bias")}
    return {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in shapes.items()}


def _conv(x: Any, w: Any, bias: Any, stride: int, padding: int) -> Any:
    precision = "highest" if x.dtype == jnp.float32 else None
    numbers = ("NCHW", "OIHW", "NCHW")
    pads = [(padding, padding)] * 2
    y = lax.conv_general_dilated(x, w, (stride, stride), pads, dimension_numbers=numbers, precision=precision)
    return y + bias[:, None, None]


def resnet_in_jax(w: Mapping[str, Any], image: Any) -> Any:
    """ResNet-50 with its normalizations folded."""
    c = resnet.Config()
    x = jax.nn.relu(_conv(image.astype(w["conv1"].dtype), w["conv1"], w["conv1.bias"], 2, 3))
    lowest = jnp.array(-jnp.inf, x.dtype)
    x = lax.reduce_window(x, lowest, lax.max, (1, 1, 3, 3), (1, 1, 2, 2), ((0, 0), (0, 0), (1, 1), (1, 1)))
    for stage, depth in enumerate(c.depths):
        for block in range(depth):
            name, stride = f"{stage}.{block}", 2 if stage and not block else 1
            y = jax.nn.relu(_conv(x, w[f"{name}.1"], w[f"{name}.1.bias"], 1, 0))
            y = jax.nn.relu(_conv(y, w[f"{name}.2"], w[f"{name}.2.bias"], stride, 1))
            y = _conv(y, w[f"{name}.3"], w[f"{name}.3.bias"], 1, 0)
            if not block:
                x = _conv(x, w[f"{name}.down"], w[f"{name}.down.bias"], stride, 0)
            x = jax.nn.relu(y + x)
    pooled = x.astype(jnp.float32).mean((2, 3)).astype(x.dtype)
    return (_matmul(pooled, w["fc"]) + w["fc.bias"]).astype(jnp.float32)


def resnet_weights(dtype: Any) -> dict[str, Any]:
    """Shapes of the weights; filters are ``[out, in, height, width]``."""
    c = resnet.Config()
    shapes: dict[str, tuple[int, ...]] = {"conv1": (c.embedding_size, 3, 7, 7)}
    channels = c.embedding_size
    for stage, (wide, depth) in enumerate(zip(c.hidden_sizes, c.depths, strict=True)):
        inner = wide // 4
        for block in range(depth):
            name = f"{stage}.{block}"
            shapes |= {f"{name}.1": (inner, channels, 1, 1), f"{name}.2": (inner, inner, 3, 3)}
            shapes |= {f"{name}.3": (wide, inner, 1, 1)} | ({} if block else {f"{name}.down": (wide, channels, 1, 1)})
            channels = wide
    shapes |= {f"{name}.bias": shape[:1] for name, shape in list(shapes.items())}
    shapes |= {"fc": (channels, c.num_labels), "fc.bias": (c.num_labels,)}
    return {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in shapes.items()}


def in_jax(name: str, dtype: Any) -> str:
    """StableHLO of the model as JAX writes it."""
    if name == "bert-base":
        ids = jax.ShapeDtypeStruct((1, TOKENS), jnp.int32)
        return jax.jit(bert_in_jax).lower(bert_weights(dtype), ids, ids, ids).as_text()
    image = jax.ShapeDtypeStruct(SIZES[name]["image"], jnp.float32)
    return jax.jit(resnet_in_jax).lower(resnet_weights(dtype), image).as_text()


# -- ours ----------------------------------------------------------------------------------------------------------


def emitted(name: str, path: Path, dtype: Any) -> str:
    """StableHLO of the model as the backend writes it."""
    backend = XlaBackend()
    target = backend.targets()["xla:cpu"]
    shapes = tuple((n, tuple(map(str, sizes))) for n, sizes in SIZES[name].items())
    options = Options(targets=(target.spelling,), input_shapes=shapes)
    (graph,) = import_entries(entries_of(path), options).values()
    run_pipeline(graph, canonicalization())
    if dtype == jnp.bfloat16:
        name_layers(graph)
        quantize(graph, Settings("bf16"), Capability.of(target))
    run_pipeline(graph, [*canonicalization(), *backend.passes(target, options.level)])
    (region,) = place(graph, lambda node: False)
    (text,) = backend.compile_region(graph, region, name, target, ProgramSettings(compile=False)).texts.values()
    return text


# -- compilers -----------------------------------------------------------------------------------------------------


def compiler_of(topology: str | None) -> Callable[[str], Any]:
    """Compiles text for the CPU, or for a TPU topology without a TPU."""
    options = xla_client.CompileOptions()
    options.num_replicas = options.num_partitions = 1
    if topology is None:
        client = xla_client.make_cpu_client()
        devices = xla_client.DeviceList(tuple(client.local_devices()[:1]))
        return lambda text: client.compile_and_load(_parsed(text), devices, options)
    import libtpu

    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    xla_client.load_pjrt_plugin_dynamically("tpu", libtpu.get_library_path())
    xla_client.initialize_pjrt_plugin("tpu")
    made = xla_client.make_tfrt_tpu_c_api_device_topology(topology, chips_per_host_bounds=(1, 1, 1))
    device = made._make_compile_only_devices()[0]
    only = xla_client.DeviceList((device,))
    return lambda text: device.client.compile(_parsed(text), executable_devices=only, compile_options=options)


def _parsed(text: str) -> Any:
    from jax._src.interpreters import mlir
    from jaxlib.mlir import ir

    with mlir.make_ir_context():
        return ir.Module.parse(text)


def cost_of(executable: Any) -> Cost:
    """As the compiler tells it."""
    told = executable.cost_analysis()
    told = told[0] if isinstance(told, list) else told
    return Cost(told["flops"], told["bytes accessed"])


def main() -> int:
    """Compare, print, and write the table. 1 where a ratio is beyond the bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--topology", default="v5e:1x1")
    parser.add_argument("--cpu", action="store_true", help="XLA's CPU compiler instead")
    parser.add_argument("--models", default="bert-base,resnet50")
    parser.add_argument("--types", default="f32,bf16")
    parser.add_argument("--dump", type=Path, help="folder for the optimized HLO of both")
    parser.add_argument("--results", type=Path, help="append the rows to this file")
    given = parser.parse_args()
    compile_ = compiler_of(None if given.cpu else given.topology)
    where, rows, bad = "XLA:CPU" if given.cpu else given.topology.split(":")[0], [], False
    for name in given.models.split(","):
        path = given.folder / f"{name}.onnx"
        if not path.exists():
            zoo()[name].build(given.folder)
        for spelled in given.types.split(","):
            dtype = {"f32": jnp.dtype(jnp.float32), "bf16": jnp.dtype(jnp.bfloat16)}[spelled]
            costs = []
            for who, text in (("ours", emitted(name, path, dtype)), ("jax", in_jax(name, dtype))):
                executable = compile_(text)
                costs.append(cost_of(executable))
                if given.dump:
                    given.dump.mkdir(parents=True, exist_ok=True)
                    stem = f"{name}-{spelled}-{where}-{who}".replace(":", "-")
                    (given.dump / f"{stem}.mlir").write_text(text)
                    (given.dump / f"{stem}.hlo").write_text(executable.hlo_modules()[0].to_string())
            ours, theirs = costs
            ratio = ours.bytes / theirs.bytes
            bad |= ratio > BOUND
            rows.append(
                f"| {name} | {spelled} | {where} | {ours.bytes / 1e6:.1f} | {theirs.bytes / 1e6:.1f} | {ratio:.3f} "
                f"| {ours.flops / 1e9:.2f} | {theirs.flops / 1e9:.2f} | {ours.flops / theirs.flops:.3f} |"
            )
            print(rows[-1], flush=True)
    if given.results:
        with given.results.open("a") as file:
            file.writelines(f"{row}\n" for row in rows)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
