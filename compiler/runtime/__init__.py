"""Runs artifacts: kernels where only NumPy is, programs for XLA through jaxlib. Nothing here knows the compiler.

>>> session = load("model.tw")                                                              # doctest: +SKIP
>>> outputs = session.run(None, {"x": x})                                                   # doctest: +SKIP
"""

from __future__ import annotations

from tilewright.runtime.artifact import Artifact, open_artifact
from tilewright.runtime.errors import ArtifactError, DeviceError, InputError, ResourceError, RunError
from tilewright.runtime.manifest import Manifest, TensorInfo
from tilewright.runtime.session import MemoryUse, Session, load

__all__ = [
    "Artifact",
    "ArtifactError",
    "DeviceError",
    "InputError",
    "Manifest",
    "MemoryUse",
    "ResourceError",
    "RunError",
    "Session",
    "TensorInfo",
    "load",
    "open_artifact",
]
