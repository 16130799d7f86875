"""Builds exported projects for Ascend NPUs here: a model of CANN's headers in the place of its compiler, the stand-in
in ``acl`` in the place of its runtime. Everything else is the project's own."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, Any]
HERE = Path(__file__).parent
MODEL, STAND_IN = HERE / "model", HERE / "acl"
#: How aemit's header model calls the cores of a launch.
_SHAPES = {"mix": "Mix", "cube": "Cube", "vector": "Vector", "fused": "Fused"}
_C_TYPES = {"tensor": "void*", "workspace": "void*", "fault": "void*", "dimension": "int64_t"}
#: What a project is told to be built with; -fsanitize=… is added by those tests that want it.
_C_FLAGS = ("-std=gnu11", "-D_GNU_SOURCE", "-O1", "-Wall", "-Wextra", "-Werror")
_CPP_FLAGS = ("-std=c++17", "-O1", "-ffp-contract=off", "-pthread", "-Wno-unused-parameter")
Form = Literal["asc", "launch"]


@dataclass(frozen=True)
class Ran:
    """How a run of a project ended, and its outputs by name."""

    code: int
    errors: str
    outputs: Mapping[str, Array]


def launches_of(artifact: Path) -> list[dict[str, Any]]:
    """The launches of the only part of an artifact."""
    from tilewright.runtime import open_artifact

    opened = open_artifact(artifact)
    (part,) = opened.manifest.targets
    return list(json.loads(bytes(opened.checked(part.members["launches.json"]))))


def compilers() -> tuple[list[str], list[str]]:
    """For C and C++: those of the system, else what is in the ``ziglang`` package."""
    if shutil.which("gcc") and shutil.which("g++"):
        return ["gcc"], ["g++"]
    zig = [sys.executable, "-m", "ziglang"]
    return [*zig, "cc"], [*zig, "c++"]


def build(
    folder: Path, launches: Sequence[Mapping[str, Any]], form: Form = "launch", flags: Sequence[str] = ()
) -> Path:
    """The program of an exported project. Raises ``RuntimeError`` with what the compiler said."""
    made = folder / f"build-{form}"
    made.mkdir(exist_ok=True)
    c, cpp = compilers()
    architecture = launches[0]["architecture"] if launches else 2201
    include = [f"-I{folder}", f"-I{folder / 'runtime'}", f"-I{STAND_IN}", f"-I{made}"]
    (made / "device.cpp").write_text(_device(folder, launches, form), encoding="utf-8")
    for launch in launches:
        (made / f"aclrtlaunch_{launch['kernel']}.h").write_text(_header(launch), encoding="utf-8")
    jobs = [[*c, *_C_FLAGS, *flags, *include, "-c", str(f)] for f in [*folder.glob("runtime/*.c"), *folder.glob("*.c")]]
    options = json.loads((folder / "host/options.json").read_text())["common"] if (folder / "host").is_dir() else []
    jobs += [[*c, *options, "-O1", f"-I{folder / 'host'}", "-c", str(f)] for f in folder.glob("host/*.c")]
    model = [f"-I{MODEL}", f"-I{folder / 'kernels'}", f"-D__NPU_ARCH__={architecture}"]
    jobs.append([*cpp, *_CPP_FLAGS, *flags, *include, *model, "-c", str(made / "device.cpp")])
    jobs.append([*cpp, *_CPP_FLAGS, *flags, *include, "-c", str(STAND_IN / "stand_in.cpp")])
    if form == "launch":
        jobs += [[*cpp, *_CPP_FLAGS, *flags, *include, "-c", str(f)] for f in folder.glob("launch/*.cpp")]
    headers = hashlib.sha256()
    for header in sorted(h for place in (folder, MODEL, STAND_IN) for h in place.rglob("*.h")):
        headers.update(header.read_bytes())
    objects = [_object(job, headers.hexdigest(), folder) for job in jobs]
    _run([*cpp, *flags, *map(str, objects), "-o", str(made / "run"), "-lm", "-lpthread"])
    return made / "run"


def _object(job: Sequence[str], headers: str, folder: Path) -> Path:
    """The object of a file, made once for the same text, headers and options."""
    words = [w.replace(str(folder), "") for w in job]
    key = hashlib.sha256(repr((words, headers, Path(job[-1]).read_bytes())).encode()).hexdigest()[:24]
    made = Path(tempfile.gettempdir()) / f"tilewright-ascend-project-{key}.o"
    if not made.exists():
        scratch = made.with_suffix(f".{os.getpid()}")
        _run([*job, "-o", str(scratch)])
        scratch.replace(made)
    return made


def _run(words: Sequence[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}\n{done.stderr[:4000]}")


def _header(launch: Mapping[str, Any]) -> str:
    """What the build of CANN 8 makes for each kernel."""
    types = "".join(f", {_C_TYPES[kind]}" for _, kind in launch["arguments"])
    name = launch["kernel"]
    macro = "#ifndef ACLRT_LAUNCH_KERNEL\n#define ACLRT_LAUNCH_KERNEL(kernel) aclrtlaunch_##kernel\n#endif\n"
    return f'#include <cstdint>\n{macro}extern "C" uint32_t aclrtlaunch_{name}(uint32_t blocks, void* stream{types});\n'


def _device(folder: Path, launches: Sequence[Mapping[str, Any]], form: Form) -> str:
    """All kernels as one unit of C++, each with a function that puts it into a stream of the stand-in."""
    end = "asc" if form == "asc" else "cpp"
    lines = ['#include "kernel_operator.h"', '#include "stand_in.h"']
    lines += [f'#include "kernels/{k["kernel"]}.{end}"' for k in launches]
    for k in launches:
        name, kinds = k["kernel"], [kind for _, kind in k["arguments"]]
        parameters = "".join(f", {_C_TYPES[kind]} a{i}" for i, kind in enumerate(kinds))
        passed = ", ".join(f"a{i}" if kind == "dimension" else f"(uint8_t*)a{i}" for i, kind in enumerate(kinds))
        memory = ", ".join(f"a{i}" for i, kind in enumerate(kinds) if kind != "dimension")
        lines += [
            f'extern "C" uint32_t aclrtlaunch_{name}(uint32_t blocks, void* stream{parameters})',
            "{",
            f"    auto kernel = [=] {{ {name}({passed}); }};",
            f"    auto work = [=] {{ return model::launch(blocks, model::Shape::{_SHAPES[k['kind']]}, kernel); }};",
            "    auto reason = [] { return model::last_error().c_str(); };",
            f'    return stand_in_launch(stream, "{name}", {{{memory}}}, work, reason);',
            "}",
        ]
    if form == "asc":
        lines += [
            _without_chevrons((folder / f"launch/{k['kernel']}.asc").read_text(encoding="utf-8")) for k in launches
        ]
    return "\n".join(lines) + "\n"


def _without_chevrons(text: str) -> str:
    """A launch of CANN 9 in terms of a function; the kernel itself is included already."""
    text = re.sub(r'#include "kernels/.*"\n', "", text)
    return re.sub(r"(\w+)<<<(\w+), nullptr, (\w+)>>>\(", r"aclrtlaunch_\1(\2, \3, ", text)


def run(
    program: Path,
    inputs: Mapping[str, Array],
    scratch: Path,
    entry: str | None = None,
    env: Mapping[str, str] | None = None,
) -> Ran:
    """Run a built project on arrays, in a folder of its own for the files."""
    scratch.mkdir(parents=True, exist_ok=True)
    out = scratch / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    words = [str(program), "--data", str(program.parent.parent / "data"), "--output-dir", str(out), "--threads", "1"]
    words += ["--entry", entry] if entry else []
    for n, (name, value) in enumerate(inputs.items()):
        np.save(scratch / f"{n}.npy", np.ascontiguousarray(value))
        words += ["--input", f"{name}={scratch / f'{n}.npy'}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, **(env or {})})
    outputs = {p.stem: np.load(p) for p in out.glob("*.npy")}
    return Ran(done.returncode, done.stderr, outputs)
