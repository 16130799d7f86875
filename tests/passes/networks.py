"""Small image networks with random weights, one for each shape that real ones have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper

_F32 = onnx.TensorProto.FLOAT


@dataclass
class Net:
    """A graph in the making: methods add a node and give the name of what it computes; ``channels`` by name."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    channels: dict[str, int] = field(default_factory=dict)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def weight(self, *shape: int, scale: float = 1.0) -> str:
        array = (self.random.standard_normal(shape) * scale).astype(np.float32)
        return self.constant(array)

    def constant(self, array: np.ndarray) -> str:  # type: ignore[type-arg]
        self.weights.append(numpy_helper.from_array(array, f"w{len(self.weights)}"))
        return self.weights[-1].name

    def op(self, op_type: str, *inputs: str, channels: int = 0, **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], **attributes))
        self.channels[name] = channels or self.channels.get(inputs[0], 0)
        return name

    def conv(
        self, x: str, out: int, kernel: int = 1, stride: int = 1, groups: int = 1, bias: bool = False, norm: bool = True
    ) -> str:
        into, pad = self.channels[x] // groups, kernel // 2
        inputs = [x, self.weight(out, into, kernel, kernel, scale=(into * kernel * kernel) ** -0.5)]
        inputs += [self.weight(out)] if bias else []
        y = self.op(
            "Conv", *inputs, channels=out, group=groups, strides=[stride] * 2, pads=[pad] * 4, kernel_shape=[kernel] * 2
        )
        return self.norm(y) if norm else y

    def norm(self, x: str) -> str:
        c = self.channels[x]
        positive = self.constant(self.random.uniform(0.5, 2, c).astype(np.float32))
        return self.op("BatchNormalization", x, self.weight(c), self.weight(c), self.weight(c), positive)

    def relu6(self, x: str) -> str:
        return self.op("Clip", x, self.constant(np.float32(0)), self.constant(np.float32(6)))  # type: ignore[arg-type]

    def max_pool(self, x: str, kernel: int = 3, stride: int = 2) -> str:
        return self.op("MaxPool", x, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[(kernel - 1) // 2] * 4)

    def classifier(self, x: str, classes: int = 10) -> str:
        c = self.channels[x]
        flat = self.op("Flatten", self.op("GlobalAveragePool", x))
        return self.op("Gemm", flat, self.weight(classes, c), self.weight(classes), transB=1)

    def model(self, *outputs: str, inputs: dict[str, tuple[str | int, ...]] | None = None) -> onnx.ModelProto:
        given = inputs or {"x": ("B", 3, 32, 32)}
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info(n, _F32, s) for n, s in given.items()],
            [helper.make_tensor_value_info(o, _F32, None) for o in outputs],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def _start(channels: int = 3) -> Net:
    return Net(channels={"x": channels})


def resnet() -> onnx.ModelProto:
    """Two bottleneck blocks, the second with a projection."""
    n = _start()
    x = n.max_pool(n.op("Relu", n.conv("x", 16, 7, 2)))
    for out, stride in ((16, 1), (32, 2)):
        y = n.op("Relu", n.conv(x, 8))
        y = n.op("Relu", n.conv(y, 8, 3, stride))
        y = n.conv(y, out)
        x = n.op("Relu", n.op("Add", y, x if out == n.channels[x] else n.conv(x, out, 1, stride)))
    return n.model(n.classifier(x))


def mobilenet() -> onnx.ModelProto:
    """Inverted residuals: Relu6 through Clip, depthwise windows, a linear end, HardSwish and a gate on channels."""
    n = _start()
    x = n.relu6(n.conv("x", 16, 3, 2))
    for stride in (2, 1):
        y = n.relu6(n.conv(x, 48))
        y = n.relu6(n.conv(y, 48, 3, stride, groups=48))
        y = n.conv(y, 16)
        x = n.op("Add", x, y) if stride == 1 else y
    y = n.op("HardSwish", n.conv(x, 32))
    gate = n.op("HardSigmoid", n.conv(n.op("GlobalAveragePool", y), 32, bias=True, norm=False))
    return n.model(n.classifier(n.conv(n.op("Mul", y, gate), 24)))


def squeezenet() -> onnx.ModelProto:
    """Branches joined along channels, biases instead of normalizations, a classifier of windows."""
    n = _start()
    x = n.max_pool(n.op("Relu", n.conv("x", 16, 3, 2, bias=True, norm=False)))
    for _ in range(2):
        s = n.op("Relu", n.conv(x, 8, bias=True, norm=False))
        a, b = (n.op("Relu", n.conv(s, 16, k, bias=True, norm=False)) for k in (1, 3))
        x = n.op("Concat", a, b, channels=32, axis=1)
    y = n.op("Relu", n.conv(x, 10, bias=True, norm=False))
    return n.model(n.op("Flatten", n.op("GlobalAveragePool", y)))


def densenet() -> onnx.ModelProto:
    """Normalization before the window, on a value that grows by joining; a transition with an average."""
    n = _start()
    x = n.conv("x", 16, 3, 2)
    for _ in range(2):
        y = n.conv(n.op("Relu", n.norm(x)), 8, 3, norm=False)
        x = n.op("Concat", x, y, channels=n.channels[x] + 8, axis=1)
    y = n.conv(n.op("Relu", n.norm(x)), 16, norm=False)
    return n.model(n.classifier(n.op("AveragePool", y, kernel_shape=[2, 2], strides=[2, 2])))


def unet() -> onnx.ModelProto:
    """Down and up again: pixels are repeated by an Expand between views, and joined with what was there before."""
    n = _start()
    skip = n.op("Relu", n.conv("x", 8, 3))
    low = n.op("Relu", n.conv(n.max_pool(skip, 2), 16, 3))
    split = n.op("Unsqueeze", low, n.constant(np.array([3, 5])))
    twice = n.op("Expand", split, n.constant(np.array([1, 1, 1, 2, 1, 2])))
    up = n.op("Reshape", twice, n.constant(np.array([0, 16, 32, 32])))
    joined = n.op("Concat", skip, up, channels=24, axis=1)
    return n.model(n.conv(n.op("Relu", n.conv(joined, 8, 3)), 2, bias=True, norm=False))


def positions() -> onnx.ModelProto:
    """Something learnt for each position of the image is added between windows."""
    n = _start()
    y = n.op("Relu", n.op("Add", n.conv("x", 16, 3, 2), n.weight(1, 16, 16, 16)))
    return n.model(n.classifier(n.op("Relu", n.conv(y, 16, 3))))


def middle_output() -> onnx.ModelProto:
    """Features in the middle are an output as well."""
    n = _start()
    features = n.op("Relu", n.conv("x", 16, 3, 2))
    return n.model(features, n.classifier(n.op("Relu", n.conv(features, 16, 3))))


def image_to_image() -> onnx.ModelProto:
    """A wide image in, an image out, both as the caller has them."""
    n = _start(16)
    y = n.op("Relu", n.conv("x", 16, 3, bias=True, norm=False))
    return n.model(n.conv(y, 16, 3, bias=True, norm=False), inputs={"x": ("B", 16, "H", 32)})


def tensorflow() -> onnx.ModelProto:
    """Channels-last input and output, each window between Transposes."""
    n = _start()
    x, before, after = "x", [0, 3, 1, 2], [0, 2, 3, 1]
    for out, stride in ((16, 2), (16, 1)):
        y = n.conv(n.op("Transpose", x, perm=before), out, 3, stride, bias=True, norm=False)
        x = n.op("Relu", n.op("Add", n.op("Transpose", y, perm=after), n.weight(out)))
    y = n.max_pool(n.op("Transpose", x, perm=before))
    return n.model(n.op("Transpose", y, perm=after), inputs={"x": ("B", 32, 32, 3)})


def patches() -> onnx.ModelProto:
    """A vision transformer's beginning: each patch becomes a row at once."""
    n = _start()
    y = n.op("Conv", "x", n.weight(24, 3, 8, 8, scale=0.1), n.weight(24), channels=24, strides=[8, 8])
    rows = n.op("Transpose", n.op("Reshape", y, n.constant(np.array([0, 24, 16]))), perm=[0, 2, 1])
    z = n.op("Add", n.op("MatMul", rows, n.weight(24, 24, scale=0.2)), rows)
    return n.model(n.op("LayerNormalization", z, n.weight(24), n.weight(24)))


NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    f.__name__: f
    for f in (
        resnet,
        mobilenet,
        squeezenet,
        densenet,
        unet,
        positions,
        middle_output,
        image_to_image,
        tensorflow,
        patches,
    )
}


def random_network(seed: int) -> onnx.ModelProto:
    """A graph of windows and what may stand between them, some of it channels-last, with two or three outputs."""
    n = Net(channels={"x": 8}, random=np.random.default_rng(seed))
    choose = n.random
    images, swapped = ["x"], list[str]()  # [B, c, 6, 6] and [B, 6, 6, c]
    for _ in range(12):
        x = images[choose.integers(len(images))]
        twins = [v for v in images if n.channels[v] == n.channels[x]]
        match choose.integers(9):
            case 0 | 1:
                images.append(n.conv(x, int(choose.choice([4, 8])), int(choose.choice([1, 3])), norm=False))
            case 2:
                images.append(n.conv(x, n.channels[x], 3, groups=n.channels[x], norm=False))
            case 3:
                images.append(n.max_pool(x, 3, 1))
            case 4:
                images.append(n.op("Add", x, twins[choose.integers(len(twins))]))
            case 5 if n.channels[x] <= 8:
                y = twins[choose.integers(len(twins))]
                images.append(n.op("Concat", x, y, channels=2 * n.channels[x], axis=1))
            case 6:
                swapped.append(n.op("Transpose", x, perm=[0, 2, 3, 1]))
            case 7 if swapped:
                y = swapped[choose.integers(len(swapped))]
                images.append(n.op("Transpose", n.op("Add", y, n.weight(n.channels[y])), perm=[0, 3, 1, 2]))
            case 8:
                flat = n.op("Reshape", x, n.constant(np.array([0, n.channels[x], 36])))
                images.append(n.op("Reshape", n.op("Tanh", flat), n.constant(np.array([0, n.channels[x], 6, 6]))))
            case _:
                images.append(n.op("Mul", x, n.op("Sigmoid", n.op("GlobalAveragePool", x))))
    last = n.conv(images[-1], 8, 3, norm=False)
    picked = [v for v in (images[choose.integers(1, len(images))], *swapped[-1:]) if v != "x"] if images[1:] else []
    return n.model(*dict.fromkeys([last, *picked]), inputs={"x": ("B", 8, 6, 6)})
