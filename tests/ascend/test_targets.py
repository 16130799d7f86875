"""Every kernel family on every target: placed by the backend itself, and its Ascend C compiled without a warning."""

from __future__ import annotations

import pytest
from tilewright.backends.ascend.ascendc.emit import Sources, emit_kernel
from tilewright.backends.ascend.ascendc.program import UnsayableError
from tilewright.backends.ascend.ascendc.signature import signature
from tilewright.backends.ascend.backend import AscendBackend
from tilewright.backends.ascend.placed.form import Placed
from tilewright.backends.base import Support
from tilewright.kernel.apply import apply
from tilewright.kernel.schedule import Scheduled

from tests.ascend.families import MORE_CORES, RAGGED, REFUSED, found, kernels
from tests.ascend.modelled import compile_library, launcher
from tests.ascend.trials import targets


@pytest.mark.parametrize("family", kernels())
@pytest.mark.parametrize("spelling", sorted(targets()))
def test_placed(spelling: str, family: str) -> None:
    made = found(family, spelling)
    reason = REFUSED.get((spelling, family), "")
    if reason:
        assert isinstance(made, Support) and reason in made.reason, made
    else:
        assert not isinstance(made, Support), made
    if spelling in ("ascend:910b1", "ascend:910b4") and not isinstance(made, Support):
        same = found(family, "ascend:910b3")
        another = spelling == "ascend:910b1" and (family in MORE_CORES or family in RAGGED)
        assert not isinstance(same, Support)
        assert (made[1].body != same[1].body) == another, "those that are placed otherwise are damaged as well"


@pytest.mark.parametrize("architecture", sorted({int(t.extra["architecture"]) for t in targets().values()}))
def test_compiled_without_a_warning(architecture: int) -> None:
    """One translation unit for all kernels of all targets of an architecture; equal sources once."""
    files: dict[str, str] = {}
    signatures = {}
    seen: set[str] = set()
    for spelling, target in sorted(targets().items()):
        if int(target.extra["architecture"]) != architecture:
            continue
        for n, family in enumerate(kernels()):
            made = found(family, spelling)
            if isinstance(made, Support):
                continue
            symbol = f"k{n}_{spelling.partition(':')[2]}"
            source = emit_kernel(made[1], symbol)
            body = source[f"{symbol}.asc"].replace(symbol, "").replace(spelling, "")
            if body not in seen:
                seen.add(body)
                files |= source
                signatures[symbol] = signature(made[1])
    assert len(signatures) > 5
    sources = Sources(files, signatures)
    compile_library({**files, "launcher.cpp": launcher(sources)}, "launcher.cpp", architecture, level="-fsyntax-only")


def test_a_bug_in_spelling_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a call of Ascend C cannot do sends a kernel to the host; anything else that is raised comes through."""
    from tilewright.backends.ascend import backend as module

    def fails(error: Exception) -> AscendBackend:
        def spelled(placed: Placed) -> None:
            raise error

        monkeypatch.setattr(module, "spelled", spelled)
        return AscendBackend()

    kernel, target = kernels()["softmax"], targets()["ascend:910b3"]
    told = fails(UnsayableError("softmax", "no such call")).supports(kernel, target)
    assert not told.ok and told.reason == "no such call"
    for error in (AssertionError("inside"), KeyError("relu"), ValueError("not linear"), IndexError("behind")):
        with pytest.raises(type(error)):
            fails(error).supports(kernel, target)


def test_nothing_is_spelled_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    from tilewright.backends.ascend import backend as module
    from tilewright.backends.ascend.ascendc import emit

    counted: list[str] = []
    spelled = emit.spelled

    def counting(placed: Placed, taken: object = ()) -> emit.Spelling:
        counted.append(placed.kernel.name)
        return spelled(placed, taken)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "spelled", counting)
    monkeypatch.setattr(emit, "spelled", counting)
    mine, kernel, target = AscendBackend(), kernels()["softmax"], targets()["ascend:910b3"]
    assert mine.supports(kernel, target).ok
    (schedule,) = mine.schedules(kernel, target)
    code: Scheduled = apply(kernel, schedule)
    mine.launch(code, target)
    source = mine.emit([code], target)
    assert {"asc", "cpp"} <= {name.rpartition(".")[2] for name in source.files}
    assert len(counted) == 1
