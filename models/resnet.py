"""ResNet (v1.5: the stride is in the 3×3 convolution) with seeded weights, spelled as torchvision's is exported.

He et al., "Deep Residual Learning for Image Recognition", arXiv:1512.03385.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from models.builder import GraphBuilder, save_model

#: Standard deviation of what a residual branch adds: keeps activations of order 1 through 16 blocks.
BRANCH = 0.25


@dataclass(frozen=True, slots=True)
class Config:
    """Sizes, named as in ``config.json``; the defaults are those of ResNet-50."""

    embedding_size: int = 64
    hidden_sizes: tuple[int, ...] = (256, 512, 1024, 2048)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    num_labels: int = 1000
    image_size: int = 224


#: Two blocks, the second with a stride, narrow.
SMALL = Config(embedding_size=16, hidden_sizes=(32, 64), depths=(1, 1), num_labels=10, image_size=48)


def save(path: Path, config: Config) -> Path:
    """Write the model at ``path``: ``image [batch, 3, size, size]`` to ``logits [batch, labels]``."""

    def describe(b: GraphBuilder) -> None:
        x = b.input("image", ["batch", 3, config.image_size, config.image_size])
        x = relu(b, conv_norm(b, x, "", 1, (3, config.embedding_size), 7, stride=2, gain=1.0))
        x = b.node("MaxPool", [x], "maxpool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        channels = config.embedding_size
        for stage, (width, depth) in enumerate(zip(config.hidden_sizes, config.depths, strict=True), start=1):
            for block in range(depth):
                stride = 2 if stage > 1 and block == 0 else 1
                x = _bottleneck(b, x, f"layer{stage}.{block}.", (channels, width), stride)
                channels = width
        classify(b, x, "fc", channels, config.num_labels)

    return save_model(path, describe)


def _bottleneck(b: GraphBuilder, x: str, name: str, channels: tuple[int, int], stride: int) -> str:
    inner, wide = channels[1] // 4, channels[1]
    y = relu(b, conv_norm(b, x, name, 1, (channels[0], inner), 1))
    y = relu(b, conv_norm(b, y, name, 2, (inner, inner), 3, stride=stride))
    y = conv_norm(b, y, name, 3, (inner, wide), 1, spread=BRANCH)
    if channels[0] != wide or stride > 1:
        x = _shortcut(b, x, name, channels, stride)
    return relu(b, b.node("Add", [y, x], f"{name}sum"))


def _shortcut(b: GraphBuilder, x: str, name: str, channels: tuple[int, int], stride: int) -> str:
    weight = b.seeded(f"{name}downsample.0.weight", (channels[1], channels[0], 1, 1), (2 / channels[0]) ** 0.5)
    y = b.node("Conv", [x, weight], f"{name}downsample.0", kernel_shape=[1, 1], strides=[stride, stride])
    return batch_norm(b, y, f"{name}downsample.1", channels[1])


def conv_norm(
    b: GraphBuilder,
    x: str,
    name: str,
    number: int,
    channels: tuple[int, int],
    kernel: int,
    *,
    stride: int = 1,
    gain: float = 2.0,
    spread: float = 1.0,
) -> str:
    """``conv<number>`` and ``bn<number>``; ``gain`` 2 makes up for a Relu before, ``spread`` is the norm's scale."""
    shape = (channels[1], channels[0], kernel, kernel)
    scale = (gain / (channels[0] * kernel * kernel)) ** 0.5
    attributes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4}
    y = b.node("Conv", [x, b.seeded(f"{name}conv{number}.weight", shape, scale)], f"{name}conv{number}", **attributes)
    return batch_norm(b, y, f"{name}bn{number}", channels[1], spread)


def batch_norm(b: GraphBuilder, x: str, name: str, channels: int, spread: float = 1.0) -> str:
    """A normalization whose statistics are near those of a unit normal input, but never equal to them."""
    inputs = [
        x,
        b.seeded(f"{name}.weight", (channels,), 0.1 * spread, spread),
        b.seeded(f"{name}.bias", (channels,), 0.1),
    ]
    inputs.append(b.seeded(f"{name}.running_mean", (channels,), 0.1))
    inputs.append(b.seeded(f"{name}.running_var", (channels,), 0.1, 1.0))  # ten deviations from 0
    return b.node("BatchNormalization", inputs, name, epsilon=1e-5)


def relu(b: GraphBuilder, x: str) -> str:
    """A Relu named after what it takes."""
    return b.node("Relu", [x], f"{x}.relu")


def classify(b: GraphBuilder, x: str, name: str, channels: int, labels: int) -> str:
    """The mean of each channel and a classifier; ``logits`` is the graph's output."""
    pooled = b.node("Flatten", [b.node("GlobalAveragePool", [x], "pooled")], "features", axis=1)
    weight = b.seeded(f"{name}.weight", (labels, channels), channels**-0.5)
    b.node("Gemm", [pooled, weight, b.seeded(f"{name}.bias", (labels,), 0.1)], "logits", transB=1)
    return b.output("logits", ["batch", labels])
