"""What the CUDA tests need, and the backend they share."""

from __future__ import annotations

import importlib.util

import pytest
from tilewright.backends.cuda import toolchain
from tilewright.backends.cuda.backend import CudaBackend
from tilewright.target import Target


@pytest.fixture(scope="session")
def backend() -> CudaBackend:
    return CudaBackend()


@pytest.fixture(scope="session")
def sm_90(backend: CudaBackend) -> Target:
    return backend.targets()["cuda:sm_90"]


@pytest.fixture(scope="session")
def triton() -> None:
    """Skips where Triton, an optional part of the installation, is missing."""
    if not toolchain.is_installed():
        pytest.skip("Triton is not installed (pip install 'tilewright[cuda]')")


@pytest.fixture(scope="session")
def interpreter(triton: None) -> None:
    """Skips where Triton's interpreter cannot run, which needs torch."""
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch, which Triton's interpreter needs, is not installed")
