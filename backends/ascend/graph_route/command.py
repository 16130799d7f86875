"""The command line for ATC, as a script, and what to do with what it makes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

import onnx_ir as ir
from tilewright.backends.ascend.graph_route.gears import Gears
from tilewright.errors import UsageError
from tilewright.ir.graph import type_of
from tilewright.target import Target

#: What ATC's own syntax of shapes, or a shell, would read as something else.
_SPECIAL = re.compile(r"[\s:;,~\"'\\$`\x00-\x1f\x7f]")


def require_names(model: ir.Model) -> None:
    """Raise :class:`UsageError` for inputs that ``--input_shape`` cannot name."""
    for value in model.graph.inputs:
        if not value.name or _SPECIAL.search(value.name):
            raise UsageError(
                "atc-input-name",
                where=f"input {value.name!r}",
                cause="--input_shape of atc cannot name it: blanks, quotes and : ; , ~ end a name there",
                fix="give the input another name in the model",
            )


def options_of(target: Target, gears: Gears, op_precision: bool) -> list[tuple[str, str]]:
    """Options of ``atc`` and their values, in order. The types are those of the graph: nothing is left to a default."""
    told = [
        ("framework", "5"),
        ("model", "model.onnx"),
        ("output", "model"),
        ("soc_version", str(target.extra["soc_version"])),
        ("input_format", gears.format),
        *gears.options.items(),
        ("precision_mode_v2", "origin"),
    ]
    return [*told, ("op_precision_mode", "op_precision.ini")] if op_precision else told


def script_of(options: Sequence[tuple[str, str]]) -> str:
    """``atc.sh``: makes ``model.om`` beside itself; further options go after its name."""
    lines = " \\\n".join(f"    --{name}={shlex.quote(value)}" for name, value in options)
    return f"""#!/bin/sh
# Makes model.om. Needs a CANN toolkit: source <toolkit>/set_env.sh first.
set -eu
cd "$(dirname "$0")"
exec atc \\
{lines} \\
    "$@"
"""


def op_precision_of(operators: Sequence[str]) -> str:
    """``op_precision.ini``: products of f32 in f32, where CANN would take HF32 (11 bits) for convolutions."""
    return "[ByOpType]\n" + "".join(f"{name}=enable_float_32_execution\n" for name in operators)


def readme_of(
    model: ir.Model, target: Target, gears: Gears, options: Sequence[tuple[str, str]], title: str, notes: Sequence[str]
) -> str:
    """``README.md`` of the folder."""
    command = " ".join(f"--{name}={shlex.quote(value)}" for name, value in options)
    lines = [
        f"# {_plain(title)} for ATC ({target.spelling})",
        "",
        f"`model.onnx` is an ONNX file of opset 17 for `{options[3][1]}`. ATC's parser has a plugin for every operator",
        "of it in that opset. It was not run through ATC, nor on a device.",
        "",
        "    . <toolkit>/set_env.sh",
        "    sh atc.sh                  # model.om",
        "",
        "which is",
        "",
        f"    atc {_plain(command)}",
        "",
        "`--precision_mode_v2=origin` keeps every element type as it is in the graph; atc's default is `fp16`.",
        "",
        "## Inputs and outputs",
        "",
        "| | name | type | sizes |",
        "|---|---|---|---|",
    ]
    for what, values in (("input", model.graph.inputs), ("output", model.graph.outputs)):
        for value in values:
            t = type_of(value)
            lines.append(
                f"| {what} | `{_plain(str(value.name))}` | {t.dtype} | {', '.join(map(str, t.shape)) or '()'} |"
            )
    lines += ["", "## Running it", "", *_running(gears), *(("", "## Notes", "") if notes else ())]
    lines += [f"- {note}" for note in notes]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Text from a model file on one line of Markdown."""
    return "".join(c if c.isprintable() and c not in "`|<>" else "?" for c in text)


def _running(gears: Gears) -> list[str]:
    lines = [
        "    aclInit(NULL); aclrtSetDevice(0);",
        '    aclmdlLoadFromFile("model.om", &id);',
        "    aclmdlDesc *desc = aclmdlCreateDesc(); aclmdlGetDesc(desc, id);",
        "    // each input i: aclrtMalloc(&p, aclmdlGetInputSizeByIndex(desc, i), 0), aclrtMemcpy,",
        "    // aclmdlAddDatasetBuffer(inputs, aclCreateDataBuffer(p, size)); outputs likewise",
    ]
    index = "    aclmdlGetInputIndexByName(desc, ACL_DYNAMIC_TENSOR_NAME, &index);"
    if gears.how == "batch":
        lines += [index, "    aclmdlSetDynamicBatchSize(id, inputs, index, batch);  // one of the gears, no other"]
    elif gears.how == "dims":
        lines += [
            index,
            "    aclmdlSetInputDynamicDims(id, inputs, index, &dims);   // every size of every input, of one gear",
        ]
    elif gears.how == "range":
        lines += ["    aclmdlSetDatasetTensorDesc(inputs, aclCreateTensorDesc(type, rank, sizes, ACL_FORMAT_ND), i);"]
    lines += ["    aclmdlExecute(id, inputs, outputs);"]
    if gears.how in ("batch", "dims"):
        lines += ["", "Gears (a run with other sizes fails; pad up to one):", "", *_gear_table(gears)]
    elif gears.how == "range":
        lines += [
            "",
            "Open sizes are ranges, for which kernels of every size are scheduled one by one. Gears (`--bucket N=1,8`)",
            "are compiled as fixed sizes are, and are faster.",
        ]
    return lines


def _gear_table(gears: Gears) -> list[str]:
    names = list(gears.sizes[0])
    rows = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return rows + ["| " + " | ".join(str(g[n]) for n in names) + " |" for g in gears.sizes]
