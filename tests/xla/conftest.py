"""What the tests of programs share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

_ALLOW = "TILEWRIGHT_ALLOW_JIT"


@pytest.fixture(autouse=True, scope="package")
def _compiled_where_loaded() -> Iterator[None]:
    """Programs of xla:cpu are compiled where they are loaded, in child processes too."""
    before = os.environ.get(_ALLOW)
    os.environ[_ALLOW] = "1"
    yield
    if before is None:
        os.environ.pop(_ALLOW, None)
    else:
        os.environ[_ALLOW] = before
