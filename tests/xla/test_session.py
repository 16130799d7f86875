"""Running programs from Python: the interface of a session, sizes, memory, threads, permission to compile."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import tilewright as tw
from tilewright import runtime
from tilewright.runtime.devices import probe
from tilewright.runtime.devices.cache import ExecutableCache, default_folder, key_of

from tests.xla import models

pytest.importorskip("jaxlib")

Array = np.ndarray[Any, Any]
ROWS = {"x": ("1..6", models.WIDTH)}


def built(model: onnx.ModelProto, *targets: str, **settings: Any) -> bytes:
    return tw.compile(model, targets=targets or ("xla:cpu",), verify=False, **settings).to_bytes()


@pytest.fixture(scope="module")
def product() -> bytes:
    return built(models.product(), input_shapes=ROWS)


@pytest.fixture(scope="module")
def session(product: bytes) -> runtime.Session:
    return runtime.load(product, "xla-cpu", threads=2)


def rows(n: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((n, models.WIDTH)).astype(np.float32)


def wanted(x: Array) -> Array:
    return np.maximum(x @ models.weight(), 0)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6])
def test_every_size_runs_in_its_bucket(session: runtime.Session, n: int) -> None:
    (y,) = session.run(None, {"x": rows(n)})
    np.testing.assert_allclose(y, wanted(rows(n)), rtol=1e-5, atol=1e-5)
    assert y.flags.writeable and y.flags.owndata


def test_signature_names_and_threads(session: runtime.Session) -> None:
    assert [str(i) for i in session.inputs] == ["x: f32[N, 8]"]
    assert [str(o) for o in session.outputs] == ["y: f32[N, 8]"]
    assert (session.target, session.threads) == ("xla:cpu", 2)
    np.testing.assert_array_equal(session(x=rows(2))["y"], session.run(["y"], {"x": rows(2)})[0])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "no input 'x'"),
        ({"x": rows(2), "z": rows(2)}, "there is no input 'z'"),
        ({"x": rows(2).astype(np.float64)}, "it is float64"),
        ({"x": rows(2)[0]}, r"shape \[8\]"),
        ({"x": rows(2)[:, :4]}, r"shape \[2, 4\].*at N=2"),
        ({"x": rows(7)}, "it is 7, the most allowed is 6"),
        ({"x": rows(0)}, "it is 0, the least allowed is 1"),
    ],
)
def test_wrong_inputs(session: runtime.Session, inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(runtime.InputError, match=message):
        session.run(None, inputs)


@pytest.mark.parametrize(
    ("names", "out", "entry", "message"),
    [
        (["z"], {}, None, "there is no output 'z'"),
        (None, {"z": rows(2)}, None, "there is no output 'z'"),
        (None, {"y": rows(3)}, None, r"shape \[3, 8\]"),
        (None, {"y": rows(2).astype(np.float64)}, None, "it is float64"),
        (None, {"y": rows(4)[::2]}, None, "not contiguous"),
        (None, {}, "other", "there is no entry point 'other'"),
    ],
)
def test_wrong_names_and_memory(
    session: runtime.Session, names: list[str] | None, out: dict[str, Array], entry: str | None, message: str
) -> None:
    with pytest.raises(runtime.InputError, match=message):
        session.run(names, {"x": rows(2)}, out=out, entry=entry)


def test_memory_of_an_output(session: runtime.Session) -> None:
    x, given = rows(3), np.full((3, models.WIDTH), np.nan, np.float32)
    (y,) = session.run(None, {"x": x}, out={"y": given})
    assert y is given
    np.testing.assert_allclose(given, wanted(x), rtol=1e-5, atol=1e-5)
    with pytest.raises(runtime.InputError, match="overlaps input 'x'"):
        session.run(None, {"x": x}, out={"y": x})


def test_a_state_is_updated_in_its_own_memory() -> None:
    session = runtime.load(built(models.counter(), states={"past": "present"}), "xla-cpu")
    past, x = np.ones(models.WIDTH, np.float32), np.arange(models.WIDTH, dtype=np.float32)
    present, twice = session.run(None, {"past": past, "x": x})
    assert past.tolist() == [1] * models.WIDTH
    again, _ = session.run(None, {"past": past, "x": x}, out={"present": past})
    assert again is past
    np.testing.assert_array_equal(past, 1 + x)
    np.testing.assert_array_equal(twice, 2 * present)


@pytest.mark.parametrize("kind", ["bfloat16", "float8e4m3fn", "float8e5m2", "float16", "int4", "uint4"])
def test_narrow_types_are_what_a_plan_takes_and_gives(kind: str) -> None:
    numbers = np.array([1, 0, 3], np.float32)
    outputs = {}
    for device in ("cpu", "xla-cpu"):
        session = runtime.load(built(models.narrow(kind), "cpu", "xla:cpu"), device)
        type_ = np.dtype(
            getattr(ml_dtypes, {"float8e4m3fn": "float8_e4m3fn", "float8e5m2": "float8_e5m2"}.get(kind, kind), kind)
        )
        (outputs[device],) = session.run(None, {"x": numbers.astype(type_)})
        (again,) = session.run(None, {"x": numbers.astype(type_)}, out={"y": np.empty_like(outputs[device])})
        np.testing.assert_array_equal(again, outputs[device])
    assert outputs["cpu"].dtype == outputs["xla-cpu"].dtype
    np.testing.assert_array_equal(outputs["cpu"], outputs["xla-cpu"])


def test_numbers_that_4_bits_do_not_hold() -> None:
    session = runtime.load(built(models.narrow("int4")), "xla-cpu")
    with pytest.raises(runtime.InputError, match="i4 holds -8 to 7"):
        session.run(None, {"x": np.array([9, 0, 0], np.int8)})


def test_threads_share_a_session(product: bytes) -> None:
    session = runtime.load(product, "xla-cpu", threads=1)
    wrong: list[int] = []

    def work(seed: int) -> None:
        for n in (1, 3, 6, 2):
            x = rows(n, seed)
            if not np.allclose(session.run(None, {"x": x})[0], wanted(x), rtol=1e-5, atol=1e-5):
                wrong.append(n)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_profile_and_memory(session: runtime.Session) -> None:
    told = session.profile({"x": rows(3)})
    assert [name for name, _ in told] == ["main-0.2.vhlo"]
    assert all(seconds > 0 for _, seconds in told)
    assert session.memory({"x": rows(3)}).arena >= 0


def test_a_closed_session(product: bytes) -> None:
    with runtime.load(product, "xla-cpu") as session:
        session.run(None, {"x": rows(1)})
    with pytest.raises(runtime.InputError, match="closed"):
        session.run(None, {"x": rows(1)})


def test_damaged_weights_are_found(product: bytes) -> None:
    at = product.index(models.weight().tobytes()[:64])
    damaged = bytearray(product)
    damaged[at] ^= 1
    with pytest.raises(runtime.ArtifactError, match=r"weights.*SHA-256"):
        runtime.load(bytes(damaged), "xla-cpu")


# -- permission to compile, and what is kept ---------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, and no permission by the environment."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TILEWRIGHT_ALLOW_JIT")
    return tmp_path / "tilewright" / "xla"


def test_nothing_is_compiled_without_permission(product: bytes, home: Path) -> None:
    with pytest.raises(runtime.DeviceError, match=r"main-0\.0\.vhlo: there is no executable.*(\n.*)*--allow-jit"):
        runtime.load(product, "xla-cpu")
    assert not home.exists()


def test_what_was_compiled_needs_no_permission_again(product: bytes, home: Path) -> None:
    first = runtime.load(product, "xla-cpu", allow_jit=True)
    (want,) = first.run(None, {"x": rows(3)})
    assert first.jit_seconds > 0
    (kept,) = home.iterdir()
    assert home.stat().st_mode & 0o777 == 0o700 and kept.stat().st_mode & 0o077 == 0
    second = runtime.load(product, "xla-cpu")
    np.testing.assert_array_equal(second.run(None, {"x": rows(3)})[0], want)
    assert second.jit_seconds == 0
    with pytest.raises(runtime.DeviceError, match="executable"):  # another bucket
        second.run(None, {"x": rows(1)})
    with pytest.raises(runtime.DeviceError, match="executable"):
        runtime.load(product, "xla-cpu", cache=False)


def test_a_damaged_or_foreign_executable_is_not_used(product: bytes, home: Path) -> None:
    runtime.load(product, "xla-cpu", allow_jit=True).run(None, {"x": rows(3)})
    (kept,) = home.iterdir()
    home.chmod(0o777)
    with pytest.raises(runtime.DeviceError, match="executable"):
        runtime.load(product, "xla-cpu")
    home.chmod(0o700)
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    session = runtime.load(product, "xla-cpu")  # there is one, by its name
    with pytest.raises(runtime.DeviceError, match="executable"):
        session.run(None, {"x": rows(3)})
    assert not kept.exists()


def test_nothing_is_kept_when_told_so(product: bytes, home: Path) -> None:
    runtime.load(product, "xla-cpu", allow_jit=True, cache=False).run(None, {"x": rows(3)})
    assert not home.exists()


def test_the_least_used_go_first(tmp_path: Path) -> None:
    kept = ExecutableCache(tmp_path / "c", limit=300)
    for n in range(4):
        kept.put(key_of([str(n)]), bytes(100))
    assert [kept.get(key_of([str(n)])) is not None for n in range(4)] == [False, False, True, True]
    assert ExecutableCache(None).get("a") is None


def test_no_home_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/nowhere")
    assert default_folder() == Path("/nowhere/.cache/tilewright/xla")
    kept = ExecutableCache(Path("/proc/nowhere"))
    kept.put("a" * 64, b"x")
    assert kept.get("a" * 64) is None


# -- devices -----------------------------------------------------------------------------------------------------------


def test_auto_is_never_xla(product: bytes) -> None:
    with pytest.raises(runtime.DeviceError, match=r"it holds xla:cpu(.*\n)*.*--device xla-cpu"):
        runtime.load(product)
    mixed = built(models.product(), "xla:cpu", "cpu", input_shapes=ROWS)
    assert runtime.load(mixed).target.startswith("cpu:")
    assert {runtime.load(mixed, d).target for d in ("xla-cpu", "xla:cpu", "xla")} == {"xla:cpu"}


def test_a_device_that_the_artifact_does_not_hold(product: bytes) -> None:
    for device in ("tpu", "xla-cuda", "cpu", "frob"):
        with pytest.raises(runtime.DeviceError, match="it holds xla:cpu"):
            runtime.load(product, device)


def test_no_tpu_and_no_gpu_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_folder_of", lambda module: None)
    with pytest.raises(runtime.DeviceError, match="libtpu is not installed"):
        probe.require_plugin("tpu", tmp_path)
    with pytest.raises(runtime.DeviceError, match="no CUDA plugin"):
        probe.require_plugin("cuda", tmp_path)
    monkeypatch.setattr(probe, "_folder_of", lambda module: tmp_path)
    (tmp_path / "libtpu.so").touch()
    (tmp_path / "xla_cuda_plugin.so").touch()
    with pytest.raises(runtime.DeviceError, match="no TPU chip"):
        probe.require_plugin("tpu", tmp_path)
    with pytest.raises(runtime.DeviceError, match="no NVIDIA GPU"):
        probe.require_plugin("cuda", tmp_path)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "accel0").touch()
    with pytest.raises(runtime.DeviceError, match="its plugin does not find it"):  # an empty library
        probe.require_plugin("tpu", tmp_path)


def test_a_plugin_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_OPEN", "import time; time.sleep(60)")
    with pytest.raises(runtime.DeviceError, match="within 0 s"):
        probe.devices_of("tpu", "x.so", patience=0.3)
