"""Watching a compilation: dumps, numeric checks after each pass, reasons of non-matches, times. Changes nothing."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from tilewright import sample
from tilewright.accuracy import compare
from tilewright.errors import InternalError, UsageError
from tilewright.ir.verify import verify
from tilewright.options import Observation
from tilewright.passes.base import PassResult

Array = NDArray[Any]
Say = Callable[[str], None]

#: Initializers above this size are written once and shared by all dumps.
SHARED_BYTES = 1024


class Stopped(Exception):
    """``--stop-after`` was reached; ``name`` is the stage or pass."""

    def __init__(self, name: str):
        super().__init__(f"stopped after {name}")
        self.name = name


class Observer:
    """Called by the driver as it goes. With a default :class:`Observation`, every method returns at once.

    Args:
        observe: what to look at.
        say: takes a line for the user.
    """

    def __init__(self, observe: Observation, say: Say):
        self.observe, self.say = observe, say
        self.seconds: dict[str, float] = {}
        self.changed: list[str] = []  # passes that changed the graph, in order
        self._count = 0
        self._checked = 0
        self._folder = Path(observe.dump_ir) if observe.dump_ir else None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        if self._folder is None and observe.verify_each:
            self._scratch = tempfile.TemporaryDirectory(prefix="tilewright-")
            self._folder = Path(self._scratch.name)
        self._written: dict[int, tuple[ir.TensorProtocol, str]] = {}
        self._before: dict[str, Array] = {}
        self._feeds: dict[str, Array] = {}

    def expect(self, passes: Iterable[str], stages: Iterable[str] = ()) -> None:
        """Check ``--explain`` (passes) and ``--stop-after`` (passes and stages) against the names there are.

        Raises :class:`UsageError`.
        """
        names = sorted(set(passes))
        for name in self.observe.explain:
            _require_known(name, names, "no pass of this name")
        if self.observe.stop_after:
            _require_known(self.observe.stop_after, sorted({*names, *stages}), "no pass or stage of this name")

    def start(self, model: ir.Model, name: str = "import") -> None:
        """The graph as imported (``name`` says otherwise), dumped; what every later state is compared with."""
        if self.observe.watch:
            self.observe.watch(name, model)
        if self._folder:
            path = self._dump(model, name)
            if self.observe.verify_each:
                self._feeds = _feeds(model)
                self._before = _values(path, self._feeds)

    def __call__(self, name: str, model: ir.Model, result: PassResult, seconds: float) -> None:
        """A pass is through: an observer of :func:`tilewright.passes.pipeline.run_pipeline`.

        Raises :class:`InternalError` when it changed numbers, :class:`Stopped` when it is the one to stop after.
        """
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        if result.modified:
            self.changed.append(name)
        if name in self.observe.explain:
            self.say(f"{name}: {'changed the graph' if result.modified else 'found nothing to change'}")
            for miss in result.misses:
                self.say(f"  {name}: {miss}")
        if result.modified and self.observe.watch:
            self.observe.watch(name, model)
        if result.modified and self._folder:
            path = self._dump(model, name)
            if self.observe.verify_each:
                verify(model)
                self._check(name, path)
        self.after_stage(name)

    def after_stage(self, name: str) -> None:
        """A stage is through. Raises :class:`Stopped` when it is the one to stop after."""
        if self.observe.stop_after == name:
            self.finish()
            raise Stopped(name)

    def text(self, name: str, content: str) -> None:
        """Dump a kernel in tile IR, or a file of generated source, under its own name."""
        if self.observe.dump_ir:
            path = Path(self.observe.dump_ir) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")

    def finish(self) -> None:
        """Tell the times of passes and drop what was only written to be checked."""
        if self.observe.verify_each:
            states = "1 state" if self._checked == 1 else f"{self._checked} states"
            self.say(f"verify-each: {states}, each gives the numbers of the one before it")
        if self.observe.time_passes:
            total = sum(self.seconds.values())
            for name, seconds in sorted(self.seconds.items(), key=lambda item: -item[1]):
                self.say(f"{seconds * 1e3:9.1f} ms  {name}")
            self.say(f"{total * 1e3:9.1f} ms  all passes")
        if self._scratch:
            self._scratch.cleanup()

    def _dump(self, model: ir.Model, name: str) -> Path:
        assert self._folder is not None
        path = self._folder / f"{self._count:02d}-{name}.onnx"
        self._count += 1
        save_graph(model, path, self._written)
        return path

    def _check(self, name: str, path: Path) -> None:
        after = _values(path, self._feeds)
        outputs = [o.name for o in onnx.load(str(path), load_external_data=False).graph.output]
        if all(compare(o, after[o], self._before[o]).ok for o in outputs):
            self._before = after
            self._checked += 1
            return
        shared = [n for n in after if n in self._before]
        bad = next(c for c in (compare(n, after[n], self._before[n]) for n in shared) if not c.ok)
        kept = "" if self._scratch else f"; see {path.name}"
        raise InternalError(
            f"pass {name} changes numbers: {bad.name} {bad.problem or f'is off by {bad.relative:.2e}'}"
            f" (may be {bad.tolerance:.0e}){kept}"
        )


def _values(path: Path, feeds: dict[str, Array]) -> dict[str, Array]:
    """Every value of a dumped state."""
    from tilewright.ir.evaluate import evaluate  # the reference evaluator takes half a second to import

    return evaluate(path, feeds, every=True)


def _require_known(name: str, known: Sequence[str], cause: str) -> None:
    if name not in known:
        near = get_close_matches(name, known, 3) or known
        raise UsageError("unknown-pass", where=name, cause=cause, fix=f"one of: {', '.join(near)}")


def save_graph(model: ir.Model, path: Path, written: dict[int, tuple[ir.TensorProtocol, str]] | None = None) -> None:
    """Write a graph as ONNX, every large weight in a file of its own beside it, named after its content.

    Args:
        model: the graph.
        path: the ``.onnx`` file.
        written: tensors that lie in that folder already, by ``id``, with their file; added to. Holding the tensor
            keeps its id its own.
    """
    written = {} if written is None else written
    path.parent.mkdir(parents=True, exist_ok=True)
    proto = ir.to_proto(model)
    for tensor in proto.graph.initializer:
        value = model.graph.initializers[tensor.name].const_value
        if value is None or (value.nbytes <= SHARED_BYTES and tensor.data_location != onnx.TensorProto.EXTERNAL):
            continue
        if id(value) not in written:
            content = value.tobytes()
            file = path.parent / f"{hashlib.sha256(content).hexdigest()[:16]}.weights"
            if not file.exists():
                file.write_bytes(content)
            written[id(value)] = (value, file.name)
        tensor.ClearField("raw_data")
        del tensor.external_data[:]
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=written[id(value)][1])
        tensor.external_data.add(key="length", value=str(value.nbytes))
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _feeds(model: ir.Model) -> dict[str, Array]:
    inputs = [
        sample.Input(str(v.name), v.dtype.numpy(), tuple(d if isinstance(d, int) else str(d.value) for d in v.shape))
        for v in model.graph.inputs
        if v.name not in model.graph.initializers and v.shape is not None and v.dtype is not None
    ]
    sizes = {symbol: 3 + 2 * i for i, symbol in enumerate(sample.symbols_of(inputs))}  # distinct: a mix-up shows
    return sample.make_inputs(inputs, sizes)
