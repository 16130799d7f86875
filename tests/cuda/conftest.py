"""What the CUDA tests need, and the backend they share."""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Iterator

import pytest
from tilewright.backends.cuda import toolchain
from tilewright.backends.cuda.backend import CudaBackend
from tilewright.runtime.devices import cuda
from tilewright.target import Target

from tests.cuda.mock.driver import Mock


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


@pytest.fixture
def mock() -> Iterator[Mock]:
    """The mock driver, as new; afterwards no rule was broken and everything was given back."""
    found = Mock()
    found.lib.mock_reset()
    yield found
    assert found.rules() == ""
    assert found.live() == 0, "something was not given back"
    assert found.lib.mock_depth() == 0, "a context was left current"


@pytest.fixture
def gpu(mock: Mock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mock]:
    """The mock as the driver of sessions; what they hold is collected before the mock looks for what is left."""
    monkeypatch.setattr(cuda, "LIBRARY", mock.path.decode())
    monkeypatch.delenv("TILEWRIGHT_ALLOW_JIT", raising=False)
    yield mock
    gc.collect()
