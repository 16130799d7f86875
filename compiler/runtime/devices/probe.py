"""Whether an accelerator and its plugin are there, found out without loading what may hang or abort where it is not."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tilewright.runtime.errors import DeviceError

#: Seconds that a plugin may take to find its devices. A TPU takes about ten.
PATIENCE = 120
#: Opens a plugin in a process apart and tells its devices' kinds, after a mark: plugins print what they like.
_MARK = "tilewright devices:"
_OPEN = f"""
import sys
from jaxlib import xla_client as xc
name, path = sys.argv[1:]
xc.load_pjrt_plugin_dynamically(name, path)
xc.initialize_pjrt_plugin(name)
print({_MARK!r}, *[d.device_kind.replace(" ", "_") for d in xc.make_c_api_client(name).local_devices()])
"""
#: Packages with a CUDA plugin, the newest first, and its file.
_CUDA = ("jax_plugins.xla_cuda13", "jax_plugins.xla_cuda12")
_CUDA_FILE = "xla_cuda_plugin.so"


def require_plugin(kind: str, root: Path = Path("/")) -> str:
    """The path of the plugin that drives devices of a kind, after one of them answered to it in a process apart.

    Args:
        kind: ``tpu`` or ``cuda``.
        root: where ``dev`` is.

    Raises:
        DeviceError: what is missing (exit 8).
    """
    path, found = {"tpu": (_libtpu, _tpu_nodes), "cuda": (_cuda, _cuda_nodes)}[kind]
    library = path()
    if not found(root):
        names = {"tpu": "no TPU chip (neither /dev/accel* nor /dev/vfio/*)", "cuda": "no NVIDIA GPU (/dev/nvidia*)"}
        raise missing(kind, f"this machine has {names[kind]}", "run it where there is one, or name another device")
    devices_of(kind, library)
    return library


def devices_of(kind: str, library: str, patience: float = PATIENCE) -> list[str]:
    """The kinds of the devices that a plugin finds, in a process apart. Raises :class:`DeviceError` where it fails."""
    child = [sys.executable, "-c", _OPEN, kind, library]
    try:
        done = subprocess.run(child, capture_output=True, text=True, errors="replace", timeout=patience, check=False)
    except subprocess.TimeoutExpired:
        raise missing(kind, f"its plugin did not find it within {patience:.0f} s", _FREE) from None
    told = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if done.returncode or not told:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit status {done.returncode}"]
        raise missing(kind, f"its plugin does not find it ({lines[-1].strip()[:300]})", _FREE)
    kinds = [name.replace("_", " ") for name in told[-1].removeprefix(_MARK).split()]
    if not kinds:
        raise missing(kind, "its plugin finds no device", _FREE)
    return kinds


_FREE = "see that no other process holds the device, and that its driver and plugin go together"


def missing(kind: str, cause: str, fix: str) -> DeviceError:
    """The error that a device cannot be used."""
    return DeviceError("device-missing", where=f"device {kind}", cause=cause, fix=fix)


def _libtpu() -> str:
    folder = _folder_of("libtpu")
    library = None if folder is None else folder / "libtpu.so"
    if library is None or not library.is_file():
        raise missing("tpu", "libtpu is not installed", "pip install 'tilewright[tpu]'")
    return str(library)


def _tpu_nodes(root: Path) -> bool:
    groups = [p for p in (root / "dev/vfio").glob("*") if p.name.isdigit()]
    return bool(groups) or any((root / "dev").glob("accel*"))


def _cuda() -> str:
    for name in _CUDA:
        folder = _folder_of(name)
        if folder is not None and (folder / _CUDA_FILE).is_file():
            return str(folder / _CUDA_FILE)
    cause = "no CUDA plugin for XLA is installed"
    raise missing("cuda", cause, "pip install jax-cuda12-plugin, of the version of jaxlib")


def _cuda_nodes(root: Path) -> bool:
    return any(p.name.removeprefix("nvidia").isdigit() for p in (root / "dev").glob("nvidia*"))


def _folder_of(module: str) -> Path | None:
    """The folder of a package, which is not imported."""
    find: Callable[[str], object] = importlib.util.find_spec
    try:
        spec = find(module)
    except (ImportError, ValueError):
        return None
    origin = getattr(spec, "origin", None)
    return Path(origin).parent if origin else None
