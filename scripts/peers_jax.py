"""The transformers and the ResNet of ``scripts/bench_cuda.py`` in JAX, with random weights: what XLA:GPU makes of them.

Only the work is that of the models: the weights are noise, layers are looped over by Python, and everything is one
jitted function with its weights as arguments. Raises ``ImportError`` where JAX is not there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Step = Callable[[], Any]


def has_gpu() -> bool:
    """Whether JAX sees a GPU."""
    try:
        return bool(jax.devices("gpu"))
    except RuntimeError:
        return False


def step_of(name: str, precision: str, batch: int, length: int, tiny: bool) -> Step:
    """One run; ``jax.block_until_ready`` of what it gives waits for it. Raises ``KeyError`` for what is not here."""
    dtype = {"fp32": jnp.float32, "fp16": jnp.float16, "bf16": jnp.bfloat16}[precision]
    make = _MODELS[name]
    function, weights, inputs = make(batch, length, dtype, tiny)
    weights, inputs = jax.device_put(weights), jax.device_put(inputs)
    return partial(jax.jit(function), weights, *inputs)


def _noise(*shape: int, dtype: Any) -> Any:
    return jax.random.normal(jax.random.key(len(shape)), shape, dtype) * dtype(shape[0] ** -0.5)


def _norm(x: Any, w: Any) -> Any:
    wide = x.astype(jnp.float32)
    wide = wide - wide.mean(-1, keepdims=True)
    return (wide * lax.rsqrt((wide * wide).mean(-1, keepdims=True) + 1e-5)).astype(x.dtype) * w[0] + w[1]


def _rms(x: Any, w: Any) -> Any:
    wide = x.astype(jnp.float32)
    return (wide * lax.rsqrt((wide * wide).mean(-1, keepdims=True) + 1e-5)).astype(x.dtype) * w


def _block(x: Any, w: Any, heads: int, causal: bool, before: bool) -> Any:
    """A layer with attention and a feed-forward part, normalized before or after."""
    batch, length, hidden = x.shape
    qkv = (_norm(x, w["n1"]) if before else x) @ w["qkv"]
    q, k, v = jnp.split(qkv.reshape(batch, length, 3 * heads, hidden // heads), 3, 2)
    y = jax.nn.dot_product_attention(q, k, v, is_causal=causal).reshape(x.shape) @ w["out"]
    x = x + y if before else _norm(x + y, w["n1"])
    y = jax.nn.gelu((_norm(x, w["n2"]) if before else x) @ w["up"]) @ w["down"]
    return x + y if before else _norm(x + y, w["n2"])


def _layers(count: int, hidden: int, dtype: Any) -> list[Any]:
    shapes = {
        "qkv": (hidden, 3 * hidden),
        "out": (hidden, hidden),
        "up": (hidden, 4 * hidden),
        "down": (4 * hidden, hidden),
    }
    norms = {n: jnp.ones((2, hidden), dtype) for n in ("n1", "n2")}
    return [{n: _noise(*s, dtype=dtype) for n, s in shapes.items()} | norms for _ in range(count)]


def _encoder(
    batch: int, length: int, dtype: Any, tiny: bool, *, causal: bool = False, before: bool = False, words: int = 30522
) -> tuple[Callable[..., Any], Any, tuple[Any, ...]]:
    hidden, heads, count = (64, 2, 2) if tiny else (768, 12, 12)
    weights = {"words": _noise(words, hidden, dtype=dtype), "layers": _layers(count, hidden, dtype)}

    def run(w: Any, ids: Any) -> Any:
        x = w["words"][ids]
        for layer in w["layers"]:
            x = _block(x, layer, heads, causal, before)
        return x @ w["words"].T if causal else x

    return run, weights, (jnp.zeros((batch, length), jnp.int32),)


def _vit(batch: int, length: int, dtype: Any, tiny: bool) -> tuple[Callable[..., Any], Any, tuple[Any, ...]]:
    hidden, heads, count = (64, 2, 2) if tiny else (768, 12, 12)
    side = length // 16
    weights = {"patch": _noise(768, hidden, dtype=dtype), "layers": _layers(count, hidden, dtype)}

    def run(w: Any, image: Any) -> Any:
        x = image.reshape(batch, side, 16, side, 16, 3).transpose(0, 1, 3, 2, 4, 5).reshape(batch, side * side, 768)
        x = x @ w["patch"]
        x = jnp.concatenate([x[:, :1], x], 1)
        for layer in w["layers"]:
            x = _block(x, layer, heads, causal=False, before=True)
        return x[:, 0]

    return run, weights, (_noise(batch, length, length, 3, dtype=dtype),)


def _resnet(batch: int, length: int, dtype: Any, tiny: bool) -> tuple[Callable[..., Any], Any, tuple[Any, ...]]:
    depths = (1, 1, 1, 1) if tiny else (3, 4, 6, 3)
    weights: list[Any] = [_noise(7, 7, 3, 64, dtype=dtype)]
    inputs = 64
    for stage, depth in enumerate(depths):
        width = 64 << stage
        for block in range(depth):
            shapes = [(1, 1, inputs, width), (3, 3, width, width), (1, 1, width, 4 * width)]
            shapes += [(1, 1, inputs, 4 * width)] if block == 0 else []
            weights.append([_noise(*s, dtype=dtype) for s in shapes])
            inputs = 4 * width
    weights.append(_noise(inputs, 1000, dtype=dtype))

    def convolve(x: Any, w: Any, stride: int = 1) -> Any:
        return lax.conv_general_dilated(x, w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def run(w: Any, image: Any) -> Any:
        x = jax.nn.relu(convolve(image, w[0], 2))
        x = lax.reduce_window(x, jnp.asarray(-jnp.inf, dtype), lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
        at = 1
        for stage, depth in enumerate(depths):
            for block in range(depth):
                stride = 2 if stage and block == 0 else 1
                own = w[at]
                y = jax.nn.relu(convolve(x, own[0]))
                y = convolve(jax.nn.relu(convolve(y, own[1], stride)), own[2])
                x = jax.nn.relu(y + (convolve(x, own[3], stride) if block == 0 else x))
                at += 1
        return x.mean((1, 2)) @ w[at]

    return run, weights, (_noise(batch, length, length, 3, dtype=dtype),)


def _decoder(
    batch: int, length: int, dtype: Any, tiny: bool, *, sizes: tuple[int, ...]
) -> tuple[Callable[..., Any], Any, tuple[Any, ...]]:
    hidden, inner, count, heads, groups, words = (64, 160, 2, 4, 2, 301) if tiny else sizes
    size = hidden // heads
    shapes = {"qkv": (hidden, (heads + 2 * groups) * size), "out": (hidden, hidden)}
    shapes |= {"wide": (hidden, 2 * inner), "down": (inner, hidden)}
    norms = {n: jnp.ones(hidden, dtype) for n in ("n1", "n2")}
    layers = [{n: _noise(*s, dtype=dtype) for n, s in shapes.items()} | norms for _ in range(count)]
    weights = {
        "words": _noise(words, hidden, dtype=dtype),
        "head": _noise(hidden, words, dtype=dtype),
        "layers": layers,
    }
    caches = [_noise(batch, length, groups, size, dtype=dtype) for _ in range(2 * count)]
    speeds = jnp.asarray(10000.0 ** -(np.arange(size // 2) / (size // 2)), jnp.float32)

    def turned(x: Any, angle: Any) -> Any:
        first, second = jnp.split(x, 2, -1)
        both = jnp.concatenate([angle, angle], -1)
        return x * jnp.cos(both).astype(dtype) + jnp.concatenate([-second, first], -1) * jnp.sin(both).astype(dtype)

    def run(w: Any, ids: Any, position: Any, *cache: Any) -> Any:
        x, new = w["words"][ids], []
        angle = position * speeds
        seen = (jnp.arange(length) <= position)[None, None, None]
        for n, layer in enumerate(w["layers"]):
            qkv = (_rms(x, layer["n1"]) @ layer["qkv"]).reshape(batch, 1, heads + 2 * groups, size)
            q, k, v = jnp.split(qkv, (heads, heads + groups), 2)
            keys = lax.dynamic_update_slice(cache[2 * n], turned(k, angle), (0, position, 0, 0))
            values = lax.dynamic_update_slice(cache[2 * n + 1], v, (0, position, 0, 0))
            new += [keys, values]
            y = jax.nn.dot_product_attention(turned(q, angle), keys, values, mask=seen)
            x = x + y.reshape(batch, 1, hidden) @ layer["out"]
            gate, up = jnp.split(_rms(x, layer["n2"]) @ layer["wide"], 2, -1)
            x = x + (jax.nn.silu(gate) * up) @ layer["down"]
        return x @ w["head"], new

    return run, weights, (jnp.zeros((batch, 1), jnp.int32), jnp.asarray(length * 3 // 4, jnp.int32), *caches)


_MODELS: dict[str, Callable[..., tuple[Callable[..., Any], Any, tuple[Any, ...]]]] = {
    "resnet50": _resnet,
    "vit-b16": _vit,
    "bert-base": _encoder,
    "gpt2": partial(_encoder, causal=True, before=True, words=50257),
    "llama-decode-static": partial(_decoder, sizes=(768, 2048, 12, 12, 4, 32000)),
    "llama-1b-decode-static": partial(_decoder, sizes=(2048, 5632, 22, 32, 4, 32000)),
}
