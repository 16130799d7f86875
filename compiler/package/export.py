"""An artifact as a folder for a C program, as one shared library, or as one program."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from tilewright.errors import UnsupportedError, UsageError
from tilewright.ir.parse import parse
from tilewright.package.atomic import atomic_file
from tilewright.package.embed import embed_artifact
from tilewright.package.native import BASELINE, PJRT_HEADERS, CompilesC, build_pjrt_stub, build_stub, read_native
from tilewright.package.project import project_files
from tilewright.runtime.format import MANIFEST, WEIGHTS, read_directory

Kind = Literal["dir", "so", "exe"]


def export(artifact: Path, kind: Kind, out: Path, toolchain: CompilesC, *, family: str | None = None) -> list[Path]:
    """Write what a C program links or what runs by itself; returns the files.

    Of an artifact that has programs for XLA and no CPU part, a folder and a program are for PJRT plugins
    (``tilewright_pjrt.h``): the program is told the plugin when it is run.

    Args:
        artifact: a ``.tw`` file whose integrity was checked.
        kind: ``dir``: the artifact, the C headers, an example and the small members unpacked; of a part that is source
            text, a project for its toolkit (in a folder of its own where there are other parts). ``so``: a shared
            library with everything inside and, beside it, its C header. ``exe``: a program, ``.npy`` files in and out.
        out: the folder or file to write.
        toolchain: compiles the loader (``so``, ``exe``).
        family: processor family of a library or program; needed when the artifact has CPU parts of several.

    Raises:
        UsageError: several families and none named; an output that is there already as something else.
        UnsupportedError: it has no part for a CPU or GPU (a library), or nothing that a program could run (exit 4).
        ResourceError: the output cannot be written (exit 7).
    """
    data = artifact.read_bytes()
    manifest = _manifest(data, str(artifact))
    if kind == "dir":
        return _export_folder(data, manifest, out)
    if kind == "exe" and not _families(manifest) and _program_parts(manifest):
        stub = build_pjrt_stub(toolchain, f"{_plugin_family(manifest, family)}-linux-gnu.2.17")
        return [_write(out, embed_artifact(stub, data), 0o755)]
    triple = f"{_family(manifest, family, str(artifact))}-linux-gnu.2.17"
    if kind == "exe":
        stub = build_stub(toolchain, triple, {"program.c": read_native("program.c")}, program=True)
        return [_write(out, embed_artifact(stub, data), 0o755)]
    name = _identifier(out.stem)
    stub = build_stub(toolchain, triple, {"library.c": _LIBRARY.replace("NAME", name)}, program=False)
    return [
        _write(out, embed_artifact(stub, data), 0o755),
        _write(out.with_suffix(".h"), _library_header(name, manifest).encode(), 0o644),
    ]


def _manifest(data: bytes, where: str) -> dict[str, Any]:
    member = read_directory(memoryview(data), where)[MANIFEST]
    manifest: dict[str, Any] = json.loads(data[member.offset : member.offset + member.size])
    return manifest


def _program_parts(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    return [t for t in manifest["targets"] if "program.json" in t["members"]]


def _source_parts(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Parts whose kernels are source text."""
    return [t for t in manifest["targets"] if "launches.json" in t["members"] and "modules.bin" not in t["members"]]


def _families(manifest: dict[str, Any]) -> list[str]:
    """Processor families of the parts that the executor runs: on the processor, or on a GPU beside it."""
    sources = _source_parts(manifest)
    parts = [t for t in manifest["targets"] if "program.json" not in t["members"] and t not in sources]
    return sorted({t.get("family") or t.get("host", {}).get("family", "") for t in parts} - {""})


def _plugin_family(manifest: dict[str, Any], wanted: str | None) -> str:
    """The processor family of the machine with the plugin: that of the host part, else the one asked for, else this."""
    here = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    families = sorted({t["host"]["family"] for t in _program_parts(manifest) if "host" in t})
    family = wanted or (families[0] if families else here)
    if family not in (families or BASELINE):
        raise UsageError(
            "export-family",
            where=f"--family {family}",
            cause=f"a program can be made for {', '.join(families or BASELINE)}",
            fix="name one of them",
        )
    return family


def _family(manifest: dict[str, Any], wanted: str | None, where: str) -> str:
    families = _families(manifest)
    if not families and _program_parts(manifest):
        raise UnsupportedError(
            "export-without-cpu",
            where=where,
            cause="its programs need a PJRT plugin, and it has no CPU part",
            fix="export it --as exe or --as dir, or compile the model with -t cpu as well",
        )
    if not families and _source_parts(manifest):
        raise UnsupportedError(
            "export-without-cpu",
            where=where,
            cause="its kernels are source text, which the device's own toolkit compiles",
            fix="export it --as dir, which is a project for that toolkit, or compile the model with -t cpu as well",
        )
    if not families:
        raise UnsupportedError(
            "export-without-cpu",
            where=where,
            cause="it has no part for a CPU or an NVIDIA GPU",
            fix="compile the model with -t cpu as well",
        )
    if wanted is None and len(families) == 1:
        return str(families[0])
    if wanted is None or wanted not in families:
        raise UsageError(
            "export-family",
            where=where,
            cause=f"it has parts for processors {', '.join(families)}",
            fix=f"name one of them with --family: {', '.join(families)}",
        )
    return wanted


def _write(path: Path, data: bytes, mode: int) -> Path:
    with atomic_file(path) as stream:
        stream.write(data)
    if mode & 0o111:
        path.chmod(mode)
    return path


def _identifier(stem: str) -> str:
    name = re.sub(r"\W", "_", stem.removeprefix("lib"), flags=re.ASCII)
    return name if name[:1].isalpha() else f"model_{name}"


# -- folder ----------------------------------------------------------------------------------------------------------


def _export_folder(data: bytes, manifest: dict[str, Any], out: Path) -> list[Path]:
    if out.exists() and not out.is_dir():
        raise UsageError("no-such-folder", where=str(out), cause="it is a file", fix="name a folder")
    files: dict[str, bytes] = {
        "model.tw": data,
        "tilewright.h": read_native("tilewright.h").encode(),
    }
    directory = read_directory(memoryview(data), str(out))

    def read(name: str) -> bytes:
        member = directory[name]
        return data[member.offset : member.offset + member.size]

    sources = _source_parts(manifest)
    for part in sources:
        alone = len(manifest["targets"]) == 1
        folder = "" if alone else f"{re.sub(r'[^A-Za-z0-9.]+', '-', part['target'])}/"
        files |= {f"{folder}{name}": contents for name, contents in project_files(manifest, part, read).items()}
    if len(sources) == len(manifest["targets"]):
        return _write_all(out, {name: contents for name, contents in files.items() if name not in _LOADED})
    if _program_parts(manifest):
        files |= {name: read_native(name).encode() for name in (*PJRT_HEADERS, "pjrt_run.c")}
        files["README"] = _pjrt_readme(manifest).encode()
    if _families(manifest) or not _program_parts(manifest):
        files["main.c"] = _example(manifest).encode()
    files |= {f"members/{name}": read(name) for name in directory if name != WEIGHTS}
    return _write_all(out, files)


#: What a folder for the runtime's own loader has besides.
_LOADED = ("model.tw", "tilewright.h")


def _write_all(out: Path, files: Mapping[str, bytes]) -> list[Path]:
    written = []
    for name, contents in files.items():
        path = out / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            fix = "name a folder that can be made"
            raise UsageError("no-such-folder", where=str(path.parent), cause=str(error.strerror), fix=fix) from error
        written.append(_write(path, contents, 0o644))
    return written


def _pjrt_readme(manifest: dict[str, Any]) -> str:
    targets = ", ".join(t["target"] for t in _program_parts(manifest))
    words = " ".join(f"--input {t['name']}=@{t['name']}.npy" for t in manifest["entries"][0]["inputs"])
    return _PJRT_README.replace("TARGETS", targets).replace("INPUTS", words)


_PJRT_README = """\
model.tw holds programs for TARGETS, which a PJRT plugin runs: on a TPU machine libtpu.so, of the package libtpu.

    cc -std=c11 -O2 -D_GNU_SOURCE pjrt_run.c -o pjrt_run -lpthread -lm -ldl
    ./pjrt_run model.tw --plugin libtpu.so INPUTS --output-dir . --allow-jit

--allow-jit compiles the programs that have no executable here, once: what comes out is kept in ~/.cache/tilewright/pjrt
(--cache DIR) for this plugin and device, and later starts load it. Without it, such a program is refused.

In a C program of your own: tilewright_pjrt.h says how, and pjrt_run.c is one. tilewright.h, pjrt.h and crc32c.h belong
to it.
"""

#: Bytes of the element types that the example fills with zeros.
_BYTES = {"f64": 8, "i64": 8, "u64": 8, "f32": 4, "i32": 4, "u32": 4, "f16": 2, "bf16": 2, "i16": 2, "u16": 2}
_ONNX = {
    "f32": 1, "u8": 2, "i8": 3, "u16": 4, "i16": 5, "i32": 6, "i64": 7, "bool": 9, "f16": 10, "f64": 11, "u32": 12,
    "u64": 13, "bf16": 16, "f8e4m3": 17, "f8e5m2": 19, "u4": 21, "i4": 22,
}  # fmt: skip


def _example(manifest: dict[str, Any]) -> str:
    """A C program that runs the first entry point on zeros of the smallest shapes and prints the outputs' shapes."""
    entry = manifest["entries"][0]
    least = {s["name"]: max(s["min"], s["multiple"], 1) for s in entry["symbols"]}
    lines = []
    for i, tensor in enumerate(entry["inputs"]):
        # Every symbol is some dimension by itself; a dimension that is an expression is worked out from those.
        shape = [d if isinstance(d, int) else parse(d).evaluate(least) for d in tensor["shape"]]
        count = _BYTES.get(tensor["dtype"], 1)
        for d in shape:
            count *= d
        dims = ", ".join(map(str, shape)) or "0"
        note = f"{tensor['name']}: {tensor['dtype']}{tensor['shape']}".replace("*/", "* /")
        lines.append(f"    in[{i}] = (tw_tensor){{calloc(1, {max(count, 1)}), {count}, {_ONNX[tensor['dtype']]}, ")
        lines[-1] += f"{len(shape)}, {{{dims}}}}}; /* {note} */"
    text = _MAIN.replace("INPUTS", str(len(entry["inputs"]))).replace("OUTPUTS", str(len(entry["outputs"])))
    return text.replace("    FILL", "\n".join(lines))


_MAIN = """\
/* Runs the model once on zeros. Build: cc -std=c11 -O2 main.c -o main -lpthread -ldl */
#include <stdio.h>
#include <stdlib.h>

#define TILEWRIGHT_IMPLEMENTATION
#include "tilewright.h"

int main(int count, char **arguments) {
    tw_model *model;
    tw_error error;
    tw_tensor in[INPUTS + 1] = {{0}}, out[OUTPUTS + 1] = {{0}};
    if (tw_open(&model, count > 1 ? arguments[1] : "model.tw", NULL, &error) != TW_OK) {
        fprintf(stderr, "%s\\n", error.text);
        return error.code;
    }
    FILL
    if (tw_run(model, 0, in, INPUTS, out, OUTPUTS, &error) != TW_OK) {
        fprintf(stderr, "%s\\n", error.text);
        return error.code;
    }
    for (uint32_t i = 0; i < OUTPUTS; i++) {
        const tw_signature *s = tw_output(model, 0, i);
        printf("%s: %lld bytes, shape %s\\n", s->name, (long long)out[i].bytes, s->shape);
        tw_free(model, out[i].data);
    }
    for (uint32_t i = 0; i < INPUTS; i++) free(in[i].data);
    tw_close(model);
    return 0;
}
"""

# -- library ---------------------------------------------------------------------------------------------------------

_LIBRARY = """\
#include "tilewright.h"

int32_t tw_open_embedded(tw_model **model, const tw_options *options, tw_error *error);

TW_PUBLIC int32_t NAME_open(tw_model **model, const tw_options *options, tw_error *error) {
    return tw_open_embedded(model, options, error);
}
""".replace("TW_PUBLIC", '__attribute__((visibility("default")))')


def _library_header(name: str, manifest: dict[str, Any]) -> str:
    declarations = read_native("tilewright.h").split("/* ====", 1)[0]
    about = [f" * {e['name']}: {_names(e['inputs'])} -> {_names(e['outputs'])}" for e in manifest["entries"]]
    return (
        f"/* The model in lib{name}: open it with {name}_open, then see tw_run below.\n"
        + "\n".join(about).replace("*/", "* /")
        + f'\n */\n{declarations}\n#ifdef __cplusplus\nextern "C"\n#endif\n'
        + f"int32_t {name}_open(tw_model **model, const tw_options *options, tw_error *error);\n"
    )


def _names(tensors: list[dict[str, Any]]) -> str:
    return ", ".join(f"{t['name']} {t['dtype']}{t['shape']}" for t in tensors)
