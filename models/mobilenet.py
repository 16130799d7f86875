"""MobileNetV2 with seeded weights, spelled as torchvision's is exported.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", arXiv:1801.04381, table 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from models.builder import GraphBuilder, save_model
from models.resnet import batch_norm, classify


@dataclass(frozen=True, slots=True)
class Config:
    """Sizes; the defaults are those of MobileNetV2 1.0.

    Attributes:
        stem: channels of the first convolution.
        stages: per stage the expansion, the channels, the blocks and the stride of the first block.
        last: channels of the last convolution.
    """

    stem: int = 32
    stages: tuple[tuple[int, int, int, int], ...] = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    last: int = 1280
    num_labels: int = 1000
    image_size: int = 224


#: Two blocks, the second with a residual.
SMALL = Config(stem=16, stages=((1, 8, 1, 1), (6, 24, 2, 2)), last=64, num_labels=10, image_size=32)


def save(path: Path, config: Config) -> Path:
    """Write the model at ``path``: ``image [batch, 3, size, size]`` to ``logits [batch, labels]``."""

    def describe(b: GraphBuilder) -> None:
        x = b.input("image", ["batch", 3, config.image_size, config.image_size])
        x = _conv(b, x, "features.0", (3, config.stem), 3, stride=2, gain=1.0)
        channels, number = config.stem, 1
        for expansion, width, depth, first in config.stages:
            for block in range(depth):
                stride = first if block == 0 else 1
                x = _inverted_residual(b, x, f"features.{number}", (channels, width), expansion, stride)
                channels, number = width, number + 1
        x = _conv(b, x, f"features.{number}", (channels, config.last), 1, gain=1.0)
        classify(b, x, "classifier.1", config.last, config.num_labels)

    return save_model(path, describe)


def _inverted_residual(
    b: GraphBuilder, x: str, name: str, channels: tuple[int, int], expansion: int, stride: int
) -> str:
    inner, y, part = channels[0] * expansion, x, 0
    if expansion != 1:
        y, part = _conv(b, x, f"{name}.conv.0", (channels[0], inner), 1, gain=1.0), 1
    y = _conv(b, y, f"{name}.conv.{part}", (inner, inner), 3, stride=stride, group=inner)
    weight = b.seeded(f"{name}.conv.{part + 1}.weight", (channels[1], inner, 1, 1), (2 / inner) ** 0.5)
    y = b.node("Conv", [y, weight], f"{name}.conv.{part + 1}", kernel_shape=[1, 1])
    kept = stride == 1 and channels[0] == channels[1]
    y = batch_norm(b, y, f"{name}.conv.{part + 2}", channels[1], 0.5 if kept else 1.0)
    return b.node("Add", [x, y], f"{name}.sum") if kept else y


def _conv(
    b: GraphBuilder,
    x: str,
    name: str,
    channels: tuple[int, int],
    kernel: int,
    *,
    stride: int = 1,
    group: int = 1,
    gain: float = 2.0,
) -> str:
    """Convolution, normalization and Relu6; ``gain`` 2 makes up for a Relu6 before."""
    shape = (channels[1], channels[0] // group, kernel, kernel)
    weight = b.seeded(f"{name}.0.weight", shape, (gain / (shape[1] * kernel * kernel)) ** 0.5)
    attributes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4, "group": group}
    y = batch_norm(b, b.node("Conv", [x, weight], f"{name}.0", **attributes), f"{name}.1", channels[1])
    return b.node("Clip", [y, b.constant("zero", 0.0), b.constant("six", 6.0)], f"{name}.2")
