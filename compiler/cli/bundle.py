"""The reproduction bundle that an internal error leaves behind."""

from __future__ import annotations

import json
import platform
import shutil
import sys
import tempfile
import traceback
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from tilewright import __version__

PACKAGES = {"numpy", "onnx", "onnx-ir", "onnx_ir", "onnxscript", "ml_dtypes", "ziglang", "triton", "torch", "click"}
LARGEST_MODEL = 64 << 20  # bytes; weights outside the model file are never copied


def write_bundle(error: BaseException, arguments: Sequence[str]) -> str:
    """Write the command, the versions, the traceback and the model's graph into a new folder; its path.

    The folder is made in the current directory, or among the temporary files where that cannot be written.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="tilewright-bug-", dir="."))
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="tilewright-bug-"))
    (folder / "traceback.txt").write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    facts = {
        "arguments": list(arguments),
        "tilewright": __version__,
        "python": sys.version,
        "platform": platform.platform(),
        "packages": {d.name: d.version for d in metadata.distributions() if d.name.lower() in PACKAGES},
    }
    (folder / "command.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    for argument in arguments:
        path = Path(argument)
        if path.suffix == ".onnx" and path.is_file() and path.stat().st_size <= LARGEST_MODEL:
            shutil.copy(path, folder / path.name)
    return str(folder)
