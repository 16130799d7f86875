"""Which part may import which, and what an import costs."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tilewright
import tilewright.backends
import tilewright.passes

PACKAGE = Path(tilewright.__file__).parent

COMPILING = {"errors", "options", "target", "ir", "kernel", "ops", "cost", "passes", "codegen", "plan", "tuning"}
BELOW_DRIVER = COMPILING | {"frontend", "backends", "backends.base", "package"}
ALLOWED: dict[str, set[str]] = {
    "runtime": set(),
    "errors": set(),
    "options": set(),
    "target": {"errors"},
    "ir": {"errors"},
    "kernel": {"ir.types", "ir.symbolic", "ir.ranges", "ir.parse", "errors"},
    "ops": {"ir", "kernel", "errors"},
    "frontend": {"ir", "ops", "errors", "options"},
    "cost": {"kernel", "target", "ir", "errors"},
    "passes": {"ir", "ops", "cost", "target", "errors"},
    "codegen": {"kernel", "cost", "target", "ir", "errors"},
    "plan": {"kernel", "cost", "target", "ir", "errors"},
    "tuning": {"kernel", "cost", "target", "ir", "errors"},
    "backends": set(),
    "backends.base": COMPILING,
    "backends.cpu": COMPILING | {"backends.base"},
    "backends.cuda": COMPILING | {"backends.base"},
    "backends.ascend": COMPILING | {"backends.base"},
    "backends.xla": COMPILING | {"backends.base"},
    "package": {"plan", "runtime.errors", "runtime.format", "runtime.manifest", "errors"}
    | {"ir.types", "ir.symbolic", "ir.ranges", "ir.parse"},
    "observe": BELOW_DRIVER | {"accuracy", "sample"},
    "selection": BELOW_DRIVER,
    "build": BELOW_DRIVER | {"observe"},
    "build_programs": BELOW_DRIVER | {"build", "observe"},
    "definitions": BELOW_DRIVER,
    "entries": BELOW_DRIVER | {"build"},
    "calibration": {"sample", "ir", "passes", "errors"},
    "quantization": BELOW_DRIVER
    | {"accuracy", "calibration", "driver", "engines", "entries", "observe", "report", "runner", "runtime", "selection"}
    | {"sample", "verification"},
    "driver": BELOW_DRIVER
    | {
        "artifact",
        "build",
        "build_programs",
        "definitions",
        "entries",
        "facts",
        "observe",
        "quantization",
        "report",
        "selection",
        "__version__",
    },
    "graph_export": BELOW_DRIVER | {"entries", "quantization", "selection"},
    "runner": BELOW_DRIVER | {"driver", "runtime"},
    "ways": {"ops"},
    "operators": {"frontend", "ops", "ways"},
    "support": BELOW_DRIVER | {"build", "definitions", "entries", "observe", "selection", "ways"},
    "accuracy": {"errors"},
    "sample": {"errors", "ir.symbolic", "ir.types", "ir.ranges", "ir.parse"},
    "report": set(),
    "artifact": {"package", "plan", "kernel", "ir", "quantization", "report", "errors"},
    "facts": {
        "tuning",
        "backends.base",
        "cost",
        "engines",
        "options",
        "report",
        "kernel",
        "plan",
        "ir",
        "target",
        "build",
        "build_programs",
    },
    "engines": {"runtime", "errors", "sample", "__version__"},
    "rounding": {"accuracy", "frontend"},
    "verification": {"engines", "rounding", "accuracy", "frontend", "runtime", "errors", "ir.given"},
    "diagnosis": BELOW_DRIVER
    | {"driver", "build", "entries", "runner", "observe", "selection", "accuracy", "engines", "verification", "sample"}
    | {"artifact", "runtime", "rounding"},
    "benchmark": {"engines", "codegen", "runtime", "errors", "verification", "sample"}
    | {"cost", "plan", "ir", "target", "selection"},
    "feeds": {"sample", "runtime", "verification", "errors"},
    "torch_reference": {"errors"},
    "request": {"quantization", "options", "errors"},
    "api": {
        "feeds",
        "torch_reference",
        "request",
        "driver",
        "quantization",
        "support",
        "entries",
        "engines",
        "artifact",
        "frontend",
        "verification",
        "benchmark",
        "diagnosis",
        "runner",
        "sample",
        "runtime",
        "options",
        "errors",
    },
    "doctor": {"codegen", "errors"},
    "explain": {"errors"},
    "cli": BELOW_DRIVER
    | {"driver", "artifact", "engines", "observe", "api", "report", "accuracy", "verification", "benchmark", "sample"}
    | {"runtime", "selection", "doctor", "explain", "support", "operators", "diagnosis", "quantization"}
    | {"graph_export", "feeds", "request"},
    "": {"api", "runtime", "errors"},
    "__main__": {"cli"},
}


def part_of(module: str) -> str:
    """The row of the table that a module below ``tilewright`` belongs to."""
    pieces = module.split(".")
    return ".".join(pieces[:2]) if pieces[0] == "backends" else pieces[0]


def modules() -> list[tuple[str, Path]]:
    """Every module below ``tilewright`` with its file. An editable install keeps the three folders apart."""
    found: dict[str, Path] = {}
    for package, prefix in ((tilewright, ()), (tilewright.backends, ("backends",)), (tilewright.passes, ("passes",))):
        folder = Path(package.__file__).parent
        for path in walk(folder):
            pieces = (*prefix, *path.relative_to(folder).with_suffix("").parts)
            found[".".join(pieces[:-1] if pieces[-1] == "__init__" else pieces)] = path
    return list(found.items())


def walk(folder: Path) -> Iterator[Path]:
    """Python files below ``folder``, through links too (the development layout is made of them)."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name != "__pycache__":
            yield from walk(path)
        elif path.suffix == ".py":
            yield path


def imports(path: Path, module: str) -> Iterator[str]:
    """What a file imports of ours, at any depth, below ``tilewright``."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = ("tilewright." + package).rstrip(".").split(".")
                base = ".".join([*up[: len(up) - node.level + 1], *filter(None, [base])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "tilewright":
                yield name.partition(".")[2]


def allowed(part: str, name: str) -> bool:
    if part_of(name) == part or name.startswith("__version__"):
        return True
    return any(name == row or name.startswith(row + ".") for row in ALLOWED[part])


def test_every_part_is_looked_at() -> None:
    assert {"runtime", "kernel", "cli", "backends.cpu", "passes"} <= {part_of(module) for module, _ in modules()}


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda v: v if isinstance(v, str) else "")
def test_import_directions(module: str, path: Path) -> None:
    part = part_of(module)
    assert part in ALLOWED, f"a new part: say in this table what {part} may import"
    wrong = sorted({name for name in imports(path, module) if not allowed(part, name)})
    assert not wrong, f"{module} may import {sorted(ALLOWED[part])} and not {wrong}"


@pytest.mark.parametrize(
    ("part", "text", "ok"),
    [
        ("runtime", "from tilewright.ir.types import DType", False),
        ("runtime", "def f():\n    import tilewright.errors", False),
        ("kernel", "from tilewright.ir import graph", False),
        ("kernel", "from tilewright.ir.symbolic import Expr", True),
        ("backends.cpu", "from tilewright.backends.cuda import emit", False),
        ("backends.cpu", "from ..base import Backend", True),
        ("backends.cpu", "from ...runtime import session", False),
    ],
)
def test_the_check_sees(tmp_path: Path, part: str, text: str, ok: bool) -> None:
    path = tmp_path / "x.py"
    path.write_text(text)
    assert all(allowed(part, name) for name in imports(path, f"{part}.x")) is ok


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_import_is_light() -> None:
    code = (
        "import sys, tilewright; print(*{m.split('.')[0] for m in sys.modules} & {'onnx', 'onnx_ir', 'click', 'rich'})"
    )
    done = run(code)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_no_public_function_is_hidden_by_a_module() -> None:
    """Importing a submodule sets it as an attribute of the package, over any function of the same name."""
    hidden = set(tilewright.__all__) & {module.partition(".")[0] for module, _ in modules()}
    assert not hidden


def test_import_under_the_folder_name_is_refused() -> None:
    folder = (PACKAGE / "__init__.py").resolve().parent
    if folder.name != "compiler":
        pytest.skip("installed under its import name")
    done = run(f"import sys; sys.path.insert(0, {str(folder.parent)!r}); import compiler")
    assert "import tilewright, not compiler" in done.stderr


def test_runtime_needs_numpy_only() -> None:
    """Every module of the runtime imports while anything outside the standard library, NumPy and itself is refused."""
    names = [
        f"tilewright.{m}".rstrip(".") for m, _ in modules() if part_of(m) == "runtime" and not m.endswith("__main__")
    ]
    code = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        ours = top == "tilewright" and name != "tilewright" and not (name + ".").startswith("tilewright.runtime.")
        if ours or not (top in sys.stdlib_module_names or top in ("numpy", "tilewright") or top.startswith("_")):
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Block())
import importlib
for name in {names!r}:
    importlib.import_module(name)
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
