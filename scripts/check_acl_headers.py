"""Host programs of Ascend exports against the acl headers of a CANN: they compile, and our stand-in is the same.

    python scripts/check_acl_headers.py --include FOLDER [--stand-in tests/ascend/acl] [EXPORT …]

FOLDER holds ``acl/acl.h``; the wheel ``torch-npu`` (BSD) has such headers in ``torch_npu/include/third_party/acl/inc``.
EXPORT is a folder of ``tilewright export --as dir``: its C and C++ files that are for the host (those that include no
header of kernels, nor one that CANN's build makes of them) are compiled, nothing is linked. Every function and every
enumerator of the stand-in's headers is declared once more behind the real headers, so that a difference is a compiler's
error with its name.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

#: Headers of Ascend C, and those that its build makes of kernels: what includes them needs more than a host's compiler.
_KERNELS = re.compile(r'#\s*include\s*[<"](kernel_operator|kernel_tiling|basic_api|adv_api|tile_math|aclrtlaunch_)')
_INCLUDED = re.compile(r'#\s*include\s*"([^"]+)"')
_COMMENTS = re.compile(r"/\*.*?\*/|//[^\n]*", re.S)
_FUNCTION = re.compile(r"(?<![\w;])((?:const\s+)?\w+(?:\s*\*+\s*|\s+))(acl\w+)\s*\(([^(){};]*)\)\s*;")
_ENUM = re.compile(r"enum\s*\w*\s*(?::\s*\w+\s*)?\{([^}]*)\}")
_VALUE = re.compile(r"(ACL_\w+)\s*(?:=\s*([^,]+))?")
_CONSTANT = re.compile(
    r"(?:static\s+)?(?:const(?:expr)?)\s+(?:int|size_t|aclError)\s+(ACL_\w+)\s*=\s*([^;]+);|#\s*define\s+(ACL_\w+)\s+(\S+)"
)


@dataclass(frozen=True, slots=True)
class Declared:
    """What a header declares: prototypes by name, and the values of its constants by name, as text."""

    functions: dict[str, str]
    constants: dict[str, str]


def declared(text: str) -> Declared:
    """Functions ``acl…`` and constants ``ACL_…`` of a header's text."""
    text = _COMMENTS.sub(" ", text)
    functions = {m[2]: f"{' '.join(m[1].split())} {m[2]}({' '.join(m[3].split())});" for m in _FUNCTION.finditer(text)}
    constants = {}
    for body in _ENUM.findall(text):
        last: str | None = None
        for item in _VALUE.finditer(body):
            last = item[2].strip() if item[2] else "0" if last is None else f"({last}) + 1"
            constants[item[1]] = last
    for m in _CONSTANT.finditer(text):
        name, value = (m[1], m[2]) if m[1] else (m[3], m[4])
        constants[name] = value.strip()
    return Declared(functions, constants)


def compiles(source: str, include: Sequence[Path], language: str = "c") -> str:
    """The compiler's errors for a text; empty where there are none."""
    with tempfile.TemporaryDirectory() as folder:
        suffix = {"c": "c", "c++": "cpp"}[language]
        file, out = Path(folder) / f"checked.{suffix}", Path(folder) / "checked.o"
        file.write_text(source, encoding="utf-8")
        tool = [sys.executable, "-m", "ziglang", "c++" if language == "c++" else "cc"]
        flags = ["-std=gnu++17" if language == "c++" else "-std=gnu11", "-D_GNU_SOURCE", "-c", "-o", str(out)]
        flags += [f"-I{path}" for path in include]
        done = subprocess.run([*tool, *flags, str(file)], capture_output=True, text=True, check=False)
        return "" if done.returncode == 0 else done.stderr


def differences(stand_in: str, include: Path) -> list[str]:
    """How a stand-in's declarations differ from those of the real headers; one line a name."""
    ours = declared(stand_in)
    real = '#include "acl/acl.h"\n#include <stddef.h>\n#include <stdint.h>\n'
    lines = dict(ours.functions) | {
        name: f'_Static_assert((long long)({name}) == (long long)({value}), "its value");'
        for name, value in ours.constants.items()
    }
    if not compiles(real + "\n".join(lines.values()), [include]):
        return []
    found = []
    for name, line in lines.items():  # one at a time: whose error it is
        if error := compiles(real + line, [include]):
            told = next((t for t in error.splitlines() if "error:" in t), error.strip())
            found.append(f"{name}: {told.partition('error: ')[2] or told}")
    return found


def undeclared(stand_in: str, include: Path) -> list[str]:
    """Functions of a stand-in that the real headers do not have."""
    real = '#include "acl/acl.h"\n'
    names = declared(stand_in).functions
    if not compiles(real + "\n".join(f"void *use_{n} = (void *){n};" for n in names), [include]):
        return []
    return [n for n in names if compiles(real + f"void *use = (void *){n};", [include])]


def host_sources(folder: Path) -> list[Path]:
    """C and C++ files of an export that are for the host."""
    files = sorted(p for p in folder.rglob("*") if p.suffix in (".c", ".cc", ".cpp") and p.is_file())
    headers = {p.name: p.read_text(encoding="utf-8") for p in folder.rglob("*.h")}

    def is_for_kernels(text: str, seen: frozenset[str]) -> bool:
        more = [n for n in map(str, _INCLUDED.findall(text)) if n in headers and n not in seen]
        return bool(_KERNELS.search(text)) or any(is_for_kernels(headers[n], seen | {n}) for n in more)

    return [p for p in files if not is_for_kernels(p.read_text(encoding="utf-8"), frozenset())]


def check_export(folder: Path, include: Path) -> list[str]:
    """What the compiler says of an export's host sources; empty where they compile."""
    found = []
    for path in host_sources(folder):
        folders = [include, *sorted({p.parent for p in folder.rglob("*.h")})]
        error = compiles(path.read_text(encoding="utf-8"), folders, "c" if path.suffix == ".c" else "c++")
        if error:
            found.append(f"{path.relative_to(folder)}:\n{error}")
    return found


def main() -> int:
    """The command line; 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--include", type=Path, required=True, help="folder that holds acl/acl.h")
    parser.add_argument("--stand-in", type=Path, help="folder with the stand-in's headers")
    parser.add_argument("exports", nargs="*", type=Path)
    given = parser.parse_args()
    if not (given.include / "acl" / "acl.h").is_file():
        parser.error(f"there is no acl/acl.h in {given.include}")
    problems = []
    if given.stand_in:
        for header in sorted(given.stand_in.rglob("*.h")):
            text = header.read_text(encoding="utf-8")
            found = [f"{n}: the real headers have no such function" for n in undeclared(text, given.include)]
            found += differences(text, given.include)
            problems += [f"{header}: {line}" for line in found]
            told = declared(text)
            print(f"{header}: {len(told.functions)} functions and {len(told.constants)} constants compared")
    for export in given.exports:
        problems += [f"{export}: {line}" for line in check_export(export, given.include)]
        print(f"{export}: {len(host_sources(export))} host sources compiled")
    print("\n".join(problems) if problems else "no differences")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
