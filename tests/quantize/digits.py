"""A network for scikit-learn's handwritten digits, trained here in seconds: what accuracy of quantization is judged by.

Of the 1,797 images 900 train, 200 calibrate, 697 test; no image has two uses. Needs torch and scikit-learn.
"""

from __future__ import annotations

import io
import logging
import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SEEDS = (0, 1, 2)
TRAIN, CALIBRATION = 900, 200
EPOCHS, BATCH, RATE = 20, 50, 3e-3


@dataclass(frozen=True, slots=True)
class Digits:
    """A trained network and its data.

    Attributes:
        model: bytes of the ONNX model: ``image`` ``[batch, 1, 8, 8]`` to ``logits`` ``[batch, 10]``, in f32.
        calibration: images that it was not trained on, ``[200, 1, 8, 8]``.
        images, labels: those to test on, ``[697, 1, 8, 8]`` and ``[697]``.
    """

    model: bytes
    calibration: Array
    images: Array
    labels: Array

    def feeds(self, size: int = 20) -> tuple[dict[str, Array], ...]:
        """The calibration images in batches."""
        return tuple({"image": self.calibration[i : i + size]} for i in range(0, len(self.calibration), size))

    def accuracy(self, logits: Array) -> float:
        """Percent of test images whose largest logit is that of their digit."""
        return float(np.mean(logits.argmax(1) == self.labels) * 100)


def snr(got: Array, want: Array) -> float:
    """Signal over noise of ``got`` beside ``want``, in decibels."""
    noise = float(np.sum((got.astype(np.float64) - want) ** 2))
    return float(10 * np.log10(np.sum(want.astype(np.float64) ** 2) / noise)) if noise else np.inf


def of_onnxruntime(digits: Digits, folder: Any) -> Array:
    """Logits of the test images by ONNX Runtime's static quantizer: QDQ, weights per channel, min-max, on the same
    calibration images (after its own preparation, which folds normalizations into convolutions)."""
    import onnxruntime
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest = iter(digits.feeds())

        def get_next(self) -> dict[str, Array] | None:
            return next(self.rest, None)

    source, prepared, made = (folder / f"{name}.onnx" for name in ("f32", "prepared", "int8"))
    source.write_bytes(digits.model)
    quant_pre_process(str(source), str(prepared))
    quantization.quantize_static(
        str(prepared), str(made), Reader(), quant_format=quantization.QuantFormat.QDQ, per_channel=True
    )
    (logits,) = onnxruntime.InferenceSession(str(made)).run(None, {"image": digits.images})
    return np.asarray(logits)


@cache
def digits(seed: int) -> Digits:
    """The network of a seed; the same seed gives the same bytes on the same machine."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    order = np.random.default_rng(20260).permutation(len(images))
    first, second = TRAIN, TRAIN + CALIBRATION
    train, test = order[:first], order[second:]
    model = _trained(images[train], labels[train], seed)
    return Digits(model, images[order[first:second]], images[test], labels[test])


def _trained(images: Array, labels: Array, seed: int) -> bytes:
    import torch
    from torch import nn

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # another number of threads sums in another order
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = nn.Sequential(
                nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
                nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.BatchNorm2d(16), nn.ReLU(),
                nn.Conv2d(16, 32, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
                nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
                nn.Flatten(), nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 10),
            )  # fmt: skip
            x, y = torch.from_numpy(images), torch.from_numpy(labels)
            optimizer = torch.optim.Adam(network.parameters(), RATE)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
            for _ in range(EPOCHS):
                for rows in torch.randperm(len(x)).split(BATCH):
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
                    optimizer.step()
                schedule.step()
            return _exported(network.eval())
    finally:
        torch.set_num_threads(threads)


def _exported(network: Any) -> bytes:
    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network, (torch.zeros(2, 1, 8, 8),), dynamo=True, verbose=False, input_names=["image"],
            output_names=["logits"], dynamic_shapes=({0: torch.export.Dim("batch")},),
        )  # fmt: skip
    stream = io.BytesIO()
    assert program is not None
    program.save(stream)
    return stream.getvalue()
