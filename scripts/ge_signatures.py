"""The signatures of GE's operators, out of the wheel ``torch-npu``, as the table that graphs are checked against.

    pip download torch-npu==2.14.0 --no-deps -d wheel && unzip wheel/*.whl -d wheel/x
    python scripts/ge_signatures.py wheel/x      # writes backends/ascend/graph_route/signatures/ge.txt

The wheel (BSD-3-Clause, Copyright (c) 2020 Huawei Technologies Co., Ltd and the authors of PyTorch) has the inputs,
outputs, attributes and element types of every operator that GE registers in the docstrings of its generated Python
interface, and in ``graph/types.h`` what its classes of types stand for. Of both only these facts are taken.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "backends" / "ascend" / "graph_route" / "signatures" / "ge.txt"
PYTHON = Path("torch_npu/dynamo/torchair")
SOURCES = (
    "_ge_concrete_graph/auto_generated_ge_raw_ops.py",
    "_ge_concrete_graph/dynamic_output_ops.py",
    "ge/_ge_graph.py",
)
TYPES = Path("torch_npu/include/third_party/acl/inc/graph/types.h")

_PARTS = {
    "INPUT": ("in", ""),
    "OPTIONAL_INPUT": ("in", "?"),
    "DYNAMIC_INPUT": ("in", "*"),
    "OUTPUT": ("out", ""),
    "DYNAMIC_OUTPUT": ("out", "*"),
    "ATTR": ("attr", ""),
    "ATRR": ("attr", ""),  # so in the source, twice
    "REQUIRED_ATTR": ("attr", "!"),
}


def classes_of(header: str) -> dict[str, list[str]]:
    """Element types of each class of them (``BasicType``)."""
    found = re.finditer(r"static TensorType (\w+)\(\)\s*\{\s*return TensorType\{([^}]*)\}", header)
    return {m[1]: re.findall(r"DT_(\w+)", m[2]) for m in found}


def docstrings(folder: Path) -> Iterator[tuple[str, str]]:
    """Operator and docstring; the generated file goes first."""
    for source in SOURCES:
        for node in ast.parse((folder / PYTHON / source).read_text(encoding="utf-8")).body:
            told = ast.get_docstring(node) if isinstance(node, ast.FunctionDef) else None
            match = re.search(r"REG_OP\((\w+)\)", told or "")
            if match and told:
                yield match[1], told


def calls(text: str) -> Iterator[tuple[str, str]]:
    """``.NAME(arguments)`` of a docstring, parentheses matched."""
    for match in re.finditer(r"\.([A-Z_]+)\(", text):
        depth, end = 1, match.end()
        while depth and end < len(text):
            depth += (text[end] == "(") - (text[end] == ")")
            end += 1
        yield match[1], " ".join(text[match.end() : end - 1].split())


def types_of(text: str, classes: dict[str, list[str]], symbols: dict[str, str]) -> str:
    """Element types as ``FLOAT,FLOAT16``; ``*`` for any."""
    if (quoted := text.strip().strip('"')) in symbols:
        return symbols[quoted]
    if "ALL()" in text or not re.search(r"DT_|Type\(\)|::\w+\(\)|REALNUMBERTYPE", text):
        return "*"  # every type, or a symbol that the wheel does not resolve
    found = re.findall(r"DT_(\w+)", text)
    for name in re.findall(r"(\w+)\(\)", text):
        found += classes.get(name, classes.get("FloatingDataType", []) if name == "FLOAT" else [])
        if name not in classes:
            return "*"
    return ",".join(sorted({"FLOAT" if t == "FLOAT32" else t for t in found}))


def signature(text: str, classes: dict[str, list[str]]) -> tuple[list[str], list[str], list[str]]:
    """Inputs, outputs and attributes, each ``mark name:types`` or ``mark name:type=default``."""
    symbols = {}
    for kind, arguments in calls(text):
        if kind == "DATATYPE":
            name, _, told = arguments.partition(",")
            symbols[name.strip()] = types_of(told, classes, {})
    parts: dict[str, list[str]] = {"in": [], "out": [], "attr": []}
    for kind, arguments in calls(text):
        if kind not in _PARTS:
            continue
        side, mark = _PARTS[kind]
        name, _, rest = arguments.partition(",")
        if side != "attr":
            parts[side].append(f"{mark}{name.strip()}:{types_of(rest, classes, symbols)}")
            continue
        form, _, default = rest.partition(",")
        spelled = form.strip() + ("" if mark else f"={default.strip().replace(' ', '')}")
        parts[side].append(f"{mark}{name.strip()}:{spelled}")
    return parts["in"], parts["out"], parts["attr"]


def table(folder: Path, version: str) -> str:
    """The text of the table."""
    classes = classes_of((folder / TYPES).read_text(encoding="utf-8"))
    lines: dict[str, tuple[list[str], list[str], list[str]]] = {}
    for name, text in docstrings(folder):
        lines.setdefault(name, signature(text, classes))
    sets: dict[str, int] = {}

    def short(part: str) -> str:
        name, _, types = part.partition(":")
        return f"{name}:{sets.setdefault(types, len(sets))}"

    body = []
    for name, (inputs, outputs, attributes) in sorted(lines.items()):
        sides = [" ".join(map(short, inputs)), " ".join(map(short, outputs)), " ".join(attributes)]
        body.append("|".join([name, *sides]))
    head = [
        f"# Signatures of GE's operators: facts out of torch-npu {version} (BSD-3-Clause, Copyright (c) 2020 Huawei",
        "# Technologies Co., Ltd and the authors of PyTorch), written by scripts/ge_signatures.py. First the sets of",
        "# element types, then operator|inputs|outputs|attributes; ? optional, * any number of, ! without a default.",
    ]
    return "\n".join([*head, *(f"{n}={types}" for types, n in sets.items()), "", *body]) + "\n"


def version_of(folder: Path) -> str:
    """The version of the wheel that was unpacked there."""
    (metadata,) = folder.glob("torch_npu-*.dist-info/METADATA")
    match = re.search(r"^Version: (\S+)", metadata.read_text(encoding="utf-8"), re.M)
    assert match
    return match[1]


def main() -> None:
    """Write the table."""
    folder = Path(sys.argv[1])
    text = table(folder, version_of(folder))
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(text, encoding="utf-8")
    print(f"{TABLE}: {sum('|' in line and line[0] != '#' for line in text.splitlines())} operators, {len(text)} bytes")


if __name__ == "__main__":
    main()
