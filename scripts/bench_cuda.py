"""Latency of full-size models on an NVIDIA GPU beside PyTorch and XLA, in one process and in turns.

``bench_cuda.py [--folder build/device/bench] [--out FOLDER] [--seconds N] [--dry-run] [TEXT ...]``, on a machine with
a GPU; the folder is made without one by ``scripts/prepare_cuda.py bench large``. Weights are seeded noise on all
sides: numbers are checked elsewhere, here it is time. A table (``bench.md``) and lines of JSON (``bench.jsonl``) are
written row by row. ``--dry-run`` goes the same way with tiny peers and no GPU, times nothing worth reading, and says
so.

Columns: *latency*, from the call until the device is done, inputs and outputs on the device; *back to back*, a run's
share of twenty that are started one after another. Medians over turns, from the first to the third quartile in
brackets. *roofline* is the least time by the copy and product rates measured on the same device just before, *share*
that over our back-to-back time; *of bandwidth* the bytes of weights and cache over it.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "build" / "dev")]

from scripts.weightless import fill  # noqa: E402 (a folder of the checkout, not of the package)

FOLDER = ROOT / "build" / "device" / "bench"
HEAD = ("model", "batch × length", "precision", "engine", "latency ms", "back to back ms", "× ours", "share", "remark")
TURNS, BACK_TO_BACK, WARM = 15, 20, 5
OURS = "tilewright"
#: Peers by the name that ``--peers`` has for them. Compiling takes PyTorch a minute or two a model.
PEERS = {"eager": "torch, eager in a CUDA graph", "xla": "XLA:GPU through JAX", "compile": "torch.compile max-autotune"}

Step = Callable[[], Any]


@dataclass(slots=True)
class Device:
    """The GPU under test, or with ``dry`` nothing: how work is waited for and timed."""

    dry: bool
    name: str = ""
    copy: float = 0.0
    products: dict[str, float] = field(default_factory=dict)

    def missing(self) -> str:
        """Why nothing can be measured here; empty where it can."""
        try:
            import torch
        except ImportError:
            return "PyTorch, which times this and holds the inputs, is not installed"
        return "" if self.dry or torch.cuda.is_available() else "PyTorch sees no GPU"

    def wait(self) -> None:
        """Until all work is done."""
        if not self.dry:
            import torch

            torch.cuda.synchronize()

    def measure(self) -> None:
        """The rates of this device: bytes a second of a large copy, operations a second of large products."""
        import torch

        where, n = ("cpu", 256) if self.dry else ("cuda", 8192)
        self.name = "no GPU: a dry run" if self.dry else torch.cuda.get_device_name()
        source = torch.empty((1 << 22) if self.dry else (1 << 32), dtype=torch.uint8, device=where).random_(0, 255)
        target = torch.empty_like(source)
        self.copy = 2 * source.numel() / self.seconds(partial(target.copy_, source))
        del source, target
        for kind, dtype in (("f16", torch.float16), ("bf16", torch.bfloat16), ("f32", torch.float32)):
            a, b = (torch.randn(n, n, device=where).to(dtype) for _ in range(2))
            self.products[kind] = 2 * n**3 / self.seconds(lambda a=a, b=b: a @ b)
        if not self.dry:
            a, b = (torch.randint(-127, 127, (n, n), device=where, dtype=torch.int8) for _ in range(2))
            self.products["i8"] = 2 * n**3 / self.seconds(lambda: torch._int_mm(a, b.t()))

    def seconds(self, step: Step) -> float:
        """The median time of one of a few runs, after warming up."""
        for _ in range(3):
            step()
        self.wait()
        return statistics.median(self.timed(step, 10) for _ in range(5))

    def timed(self, step: Step, count: int) -> float:
        """Seconds of one of ``count`` runs back to back."""
        self.wait()
        start = time.perf_counter()
        given = [step() for _ in range(count)]  # all are kept: a run that is dropped is waited for
        wait_for(given)
        self.wait()
        return (time.perf_counter() - start) / count


def wait_for(value: Any) -> None:
    """Wait for what an engine gave, where it has a way of its own."""
    for name in ("wait", "block_until_ready"):
        if hasattr(value, name):
            getattr(value, name)()
    if isinstance(value, tuple | list):
        for v in value:
            wait_for(v)


@dataclass(slots=True)
class Engine:
    """One side of a comparison; ``missing`` says why there are no times."""

    name: str
    step: Step | None = None
    missing: str = ""
    latency: list[float] = field(default_factory=list)
    back: list[float] = field(default_factory=list)
    keep: list[Any] = field(default_factory=list)


def main() -> int:
    """Measure every artifact of the folder for which there is time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--name", default="bench", help="of the files there")
    parser.add_argument("--seconds", type=float, default=300.0, help="no model is begun after that")
    parser.add_argument("--dry-run", action="store_true", help="without a GPU, with tiny peers: nothing is measured")
    parser.add_argument("--peers", default=",".join(PEERS), help=f"which of {', '.join(PEERS)}")
    parser.add_argument("only", nargs="*", metavar="TEXT", help="of the files, those whose names contain one")
    given = parser.parse_args()
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # the GPU is shared with the other engines
    start, device = time.monotonic(), Device(given.dry_run)
    if reason := device.missing():
        print(f"{reason}; nothing was measured (--dry-run goes the way without a GPU)", file=sys.stderr)
        return 8
    device.measure()
    given.out.mkdir(parents=True, exist_ok=True)
    table_file, lines_file = (given.out / f"{given.name}.{kind}" for kind in ("md", "jsonl"))
    with table_file.open("w", encoding="utf-8") as table, lines_file.open("w", encoding="utf-8") as lines:
        say(table, "\n".join(heading(device)))
        for path in chosen(given.folder, given.only):
            if time.monotonic() > start + given.seconds:
                say(table, f"| {path.stem} | | | | | | | | no time was left |")
                continue
            told = json.loads(path.read_text(encoding="utf-8"))
            engines = list(engines_of(path, told, device, given.peers.split(",")))
            turns(engines, device)
            for row in rows(told, engines, device):
                say(table, f"| {' | '.join(row)} |")
            lines.write(json.dumps(line_of(told, engines, device)) + "\n")
            lines.flush()
            engines.clear()
            gc.collect()
    return 0


def chosen(folder: Path, only: list[str]) -> list[Path]:
    """The models in the order of what is asked about most, those that take long to make ready behind."""
    order = ("bert-base-1x128-fp16", "resnet50-1x224-fp16", "llama-decode-static", "gpt2", "llama-1b", "vit", "bert")
    paths = [p for p in folder.glob("*.json") if p.with_suffix(".empty").exists()]
    paths = [p for p in paths if not only or any(text in p.name for text in only)]
    return sorted(paths, key=lambda p: (next(n for n, o in enumerate((*order, "")) if p.name.startswith(o)), p.name))


def heading(device: Device) -> Iterator[str]:
    """The lines above the table."""
    yield "# Latency on an NVIDIA GPU"
    yield ""
    if device.dry:
        yield "**A dry run without a GPU: the times below mean nothing.**"
        yield ""
    rates = ", ".join(f"{k} {v / 1e12:.1f} TFLOP/s" for k, v in device.products.items())
    yield f"`scripts/bench_cuda.py`, {datetime.now(UTC).date()}, {device.name}: measured copy"
    yield f"{device.copy / 1e12:.3f} TB/s (bytes read and written), products of 8192³: {rates}. {versions()}"
    yield ""
    yield from (__doc__ or "").split("\n\n")[2].splitlines()
    yield ""
    yield f"| {' | '.join(HEAD)} |"
    yield f"|{'---|' * len(HEAD)}"


def versions() -> str:
    """Versions of the peers, or that there are none."""
    from importlib import metadata

    told = []
    for name in ("torch", "torchvision", "transformers", "jax", "jax-cuda13-plugin"):
        try:
            told.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            told.append(f"{name} is not installed")
    return ", ".join(told) + "."


def engines_of(path: Path, told: Mapping[str, Any], device: Device, peers: Sequence[str]) -> Iterator[Engine]:
    """Ours and the peers, each ready to be timed or with the reason why not."""
    makers: dict[str, Callable[[], tuple[Step, list[Any]]]] = {OURS: lambda: ours(path, told, device)}
    known: dict[str, Callable[[], tuple[Step, list[Any]]]] = {
        "eager": lambda: torch_step(told, device, compiled=False),
        "compile": lambda: torch_step(told, device, compiled=True),
        "xla": lambda: jax_step(told, device),
    }
    makers |= {PEERS[peer]: known[peer] for peer in peers if peer}
    for name, make in makers.items():
        engine = Engine(name)
        try:
            engine.step, engine.keep = make()
            for _ in range(WARM):
                wait_for(engine.step())
            device.wait()
        except Exception as error:  # whatever a peer raises belongs into its row
            engine.step, engine.missing = None, f"{type(error).__name__}: {error}"[:160].replace("\n", " ")
        yield engine


def ours(path: Path, told: Mapping[str, Any], device: Device) -> tuple[Step, list[Any]]:
    """Our artifact with noise for weights; inputs, states and outputs stay on the device."""
    import torch
    from tilewright.runtime import load

    with tempfile.TemporaryDirectory() as scratch:
        artifact = Path(scratch) / "model.tw"
        fill(path.with_suffix(".empty"), artifact)
        session = load(artifact, device="cpu" if device.dry else "cuda")
    where = "cpu" if device.dry else "cuda"
    feed = {i.name: tensor(i, told, where) for i in session.inputs}
    out = {new: feed[old] for old, new in told["states"]}
    for o in session.outputs:
        if o.name not in out:
            out[o.name] = torch.empty(tuple(o.shape), dtype=torch_type(o.dtype), device=where)
    if device.dry:  # a CPU's session writes arrays; these are the same memory
        feed, out = ({name: t.numpy() for name, t in given.items()} for given in (feed, out))
    stream = None if device.dry else torch.cuda.current_stream()
    return (lambda: session.run_async(feed, out=out, stream=stream)), [session, feed, out]


def tensor(info: Any, told: Mapping[str, Any], where: str) -> Any:
    """An input: noise; of ids zeros; of a position three quarters of the cache; of a mask ones."""
    import torch

    dtype, shape = torch_type(info.dtype), tuple(info.shape)
    if dtype.is_floating_point:
        return torch.randn(shape, device=where).to(dtype)
    value = told["length"] * 3 // 4 if info.name == "position" else int("mask" in info.name)
    return torch.full(shape, value, dtype=dtype, device=where)


def torch_type(name: str) -> Any:
    """PyTorch's type of ours."""
    import torch

    names = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "i64": "int64", "i32": "int32", "bool": "bool"}
    return getattr(torch, names[name])


def torch_step(told: Mapping[str, Any], device: Device, *, compiled: bool) -> tuple[Step, list[Any]]:
    """The model in PyTorch."""
    import torch

    from scripts import peers_torch

    if told["precision"] == "int8":
        raise Missing("PyTorch has no static int8 of its own on GPUs")
    where = "cpu" if device.dry else "cuda"
    module, inputs = peers_torch.model_of(told["model"], told["precision"], where, device.dry)
    with torch.device(where):
        given = inputs(told["batch"], told["length"])
    call = torch.compile(module, mode="max-autotune", fullgraph=True) if compiled and not device.dry else module

    def step() -> Any:
        with torch.inference_mode():
            return call(**given) if isinstance(given, dict) else call(*given)

    if compiled or device.dry:
        return step, [module, given]
    return peers_torch.graphed(step), [module, given]


def jax_step(told: Mapping[str, Any], device: Device) -> tuple[Step, list[Any]]:
    """The work of the model through XLA."""
    from scripts import peers_jax

    if not device.dry and not peers_jax.has_gpu():
        raise Missing("this JAX sees no GPU")
    if told["precision"] not in ("fp32", "fp16", "bf16"):
        raise Missing("JAX has no such weights of its own")
    return peers_jax.step_of(told["model"], told["precision"], told["batch"], told["length"], device.dry), []


class Missing(Exception):
    """A peer that cannot do what is compared."""


def turns(engines: list[Engine], device: Device) -> None:
    """Time all engines in turn."""
    count = 2 if device.dry else TURNS
    for _ in range(count):
        for engine in engines:
            if engine.step is not None:
                engine.latency.append(device.timed(engine.step, 1))
                engine.back.append(device.timed(engine.step, 2 if device.dry else BACK_TO_BACK))


def rows(told: Mapping[str, Any], engines: list[Engine], device: Device) -> Iterator[tuple[str, ...]]:
    """A row an engine."""
    mine = next((statistics.median(e.back) for e in engines if e.name == OURS and e.back), None)
    least, bandwidth = roofline(told, device)
    for e in engines:
        first = (told["model"], f"{told['batch']} × {told['length']}", told["precision"], e.name)
        if not e.back:
            yield (*first, "", "", "", "", f"missing: {e.missing}")
            continue
        remark = ""
        if e.name == OURS:
            remark = f"roofline {least * 1e3:.3f} ms"
            if "decode" in told["model"]:
                remark += f"; {bandwidth / statistics.median(e.back):.0%} of bandwidth"
        ratio = f"{statistics.median(e.back) / mine:.2f}" if mine else ""
        yield (*first, spread(e.latency), spread(e.back), ratio, f"{least / statistics.median(e.back):.0%}", remark)


def spread(seconds: list[float]) -> str:
    """Median and quartiles in milliseconds."""
    low, middle, high = np.percentile(np.asarray(seconds) * 1e3, (25, 50, 75))
    return f"{middle:.4f} ({low:.4f}–{high:.4f})"


def roofline(told: Mapping[str, Any], device: Device) -> tuple[float, float]:
    """The least seconds of a run by the measured rates, and those of reading weights and cache alone."""
    kind = {"fp32": "f32", "fp16": "f16", "int8": "i8"}.get(told["precision"], "bf16")
    rate = device.products.get(kind, device.products["f32"])
    return max(told["flops"] / rate, told["bytes"] / device.copy), told["weight_bytes"] / device.copy


def line_of(told: Mapping[str, Any], engines: list[Engine], device: Device) -> dict[str, Any]:
    """Everything of one model."""
    found = {e.name: {"missing": e.missing, "latency": e.latency, "back_to_back": e.back} for e in engines}
    rates = {"copy": device.copy, "products": device.products}
    return {"told": dict(told), "device": device.name, "dry": device.dry, "rates": rates, "engines": found}


def say(table: Any, text: str) -> None:
    """A part of the table, on the screen and on the disk at once."""
    print(text, flush=True)
    table.write(text + "\n")
    table.flush()


if __name__ == "__main__":
    sys.exit(main())
