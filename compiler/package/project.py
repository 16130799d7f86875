"""A part that is source text as a project: kernels, weights and a host program, to be built by the device's toolkit."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tilewright.package.checksum import segment_sums
from tilewright.package.native import HEADERS, SOURCES, read_native
from tilewright.plan.decode import checked_plan
from tilewright.plan.plan import HostLaunch, Launch, Plan
from tilewright.runtime.errors import ArtifactError
from tilewright.runtime.format import TENSOR_ALIGNMENT
from tilewright.runtime.manifest import told_models

#: Files of the executor that are for GPUs alone.
_GPU = re.compile(r"cuda_.*|modules\.c|device\.h")
#: Files for acl that are part of the executor, and those that lie at the top of a project.
_EXECUTOR = ("device.h", "launches.h", "acl_device.c", "acl_memory.c", "acl_launch.c", "acl_run.c")
_TOP = ("model.h", "model.c", "main.c", "tables.h")
#: Kinds of arguments of a kernel, and how the launch passes each.
_PASSED = {"tensor": "buffer[{}]", "workspace": "workspace", "fault": "fault", "dimension": "dim[{}]"}


@dataclass(frozen=True, slots=True)
class _Kernel:
    """A kernel as ``launches.json`` tells it; ``arguments`` are kinds in call order."""

    name: str
    arguments: tuple[str, ...]
    blocks: int

    def count(self, kind: str) -> int:
        return self.arguments.count(kind)

    @property
    def passed(self) -> str:
        """The arguments of a call, each with its comma in front."""
        seen: dict[str, int] = {}
        words = []
        for kind in self.arguments:
            words.append(_PASSED[kind].format(seen.get(kind, 0)))
            seen[kind] = seen.get(kind, 0) + 1
        return ", ".join(words)


def project_files(
    manifest: Mapping[str, Any], part: Mapping[str, Any], read: Callable[[str], bytes]
) -> dict[str, bytes]:
    """The files of a project by name.

    Args:
        manifest: of the artifact. part: the target's entry in it.
        read: gives the bytes of a member of the artifact.

    Raises:
        ArtifactError: members that are damaged or do not fit together (exit 9).
    """
    try:
        return _files(manifest, part, read)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise ArtifactError(
            "artifact-damaged",
            where=str(part.get("target")),
            cause=f"its plan, launches or weights are malformed ({type(error).__name__}: {error})",
            fix="copy or compile the artifact again",
        ) from None


def _files(manifest: Mapping[str, Any], part: Mapping[str, Any], read: Callable[[str], bytes]) -> dict[str, bytes]:
    members: Mapping[str, str] = part["members"]
    plan = checked_plan(read(members["plan.bin"]))
    told = json.loads(read(members["launches.json"]))
    kernels = [_kernel(d) for d in told]
    if [k.name for k in kernels] != list(plan.kernels):
        raise ValueError("the launches are not those of the plan")
    weights, table = _weights(manifest, plan, read)
    files = {name: read(member) for name, member in members.items() if name.startswith(("kernels/", "host/"))}
    files |= _executor()
    files |= {f"launch/{k.name}{end}": text(k).encode() for k in kernels for end, text in _WRAPPERS.items()}
    files["launches.c"] = _launches(kernels, _target(part)).encode()
    files["tables.c"] = _tables(table, len(weights), len(plan.host_kernels)).encode()
    files["data/plan.bin"] = read(members["plan.bin"])
    files["data/weights.bin"] = weights
    files["data/weights.crc32c"] = segment_sums(weights) if weights else b""
    words = _words(manifest, part, plan, told, files)
    for name in ("CMakeLists.txt", "README.md"):
        files[name] = _filled(read_native(f"acl/{name}"), words).encode()
    return dict(sorted(files.items()))


def _kernel(d: Mapping[str, Any]) -> _Kernel:
    """Raises ``ValueError`` for what could not stand in C text."""
    return _Kernel(
        _plain(d["kernel"], r"[A-Za-z_]\w*"),
        tuple(_plain(kind, "|".join(_PASSED)) for _, kind in d["arguments"]),
        int(d["cores_a_block"]),
    )


def _plain(text: Any, pattern: str) -> str:
    """``text`` where it is wholly of a pattern: it goes into sources that are compiled and into names of files."""
    if not isinstance(text, str) or re.fullmatch(pattern, text, re.ASCII) is None:
        raise ValueError(f"{text!r} has no place in a source")
    return text


def _target(part: Mapping[str, Any]) -> str:
    return _plain(part["target"], r"[\w:.+=-]+")


def _executor() -> dict[str, bytes]:
    names = [n for n in (*HEADERS, *SOURCES) if not _GPU.fullmatch(n)]
    files = {f"runtime/{n}": read_native(n).encode() for n in names}
    files |= {f"runtime/{n}": read_native(f"acl/{n}").encode() for n in _EXECUTOR}
    return files | {n: read_native(f"acl/{n}").encode() for n in _TOP}


# -- launches ---------------------------------------------------------------------------------------------------------

_DECLARED = (
    "uint32_t tw_launch_{}(uint32_t blocks, void *stream, void *const *buffer, void *workspace, void *fault, "
    "const int64_t *dim)"
)
_UNUSED = "    (void)buffer, (void)workspace, (void)fault, (void)dim;\n"


def _asc_wrapper(k: _Kernel) -> str:
    arguments = re.sub(r"(buffer\[\d+\]|workspace|fault)", r"static_cast<uint8_t *>(\1)", k.passed)
    return (
        f"// How the host starts {k.name}: built by CANN 9 and later.\n"
        f'#include "kernels/{k.name}.asc"\n\n#include <cstdint>\n\n'
        f'extern "C" {_DECLARED.format(k.name)}\n{{\n{_UNUSED}'
        f"    {k.name}<<<blocks, nullptr, stream>>>({arguments});\n    return 0;\n}}\n"
    )


def _launch_wrapper(k: _Kernel) -> str:
    return (
        f"// How the host starts {k.name}: for CANN 8, whose build makes the header.\n"
        f'#include <cstdint>\n\n#include "aclrtlaunch_{k.name}.h"\n\n'
        f'extern "C" {_DECLARED.format(k.name)}\n{{\n{_UNUSED}'
        f"    return ACLRT_LAUNCH_KERNEL({k.name})(blocks, stream, {k.passed});\n}}\n"
    )


_WRAPPERS: Mapping[str, Callable[[_Kernel], str]] = {".asc": _asc_wrapper, ".cpp": _launch_wrapper}


def _launches(kernels: Sequence[_Kernel], target: str) -> str:
    lines = ["/* The kernels of the project in the order of the plan. */", '#include "runtime/launches.h"', ""]
    lines += [f"{_DECLARED.format(k.name)};" for k in kernels]
    lines += ["", "static const tw_launch_entry entries[] = {"]
    for k in kernels:
        counts = (k.count("tensor"), k.count("dimension"), k.blocks, k.count("workspace"), k.count("fault"))
        lines.append(f'    {{"{k.name}", tw_launch_{k.name}, {", ".join(map(str, counts))}}},')
    lines += ["    {0, 0, 0, 0, 0, 0, 0},", "};", ""]
    row = f'{{sizeof(tw_launches), {len(kernels)}, "{target}", entries}}'
    return "\n".join([*lines, f"const tw_launches tw_launch_table = {row};"]) + "\n"


# -- weights ----------------------------------------------------------------------------------------------------------


def _weights(
    manifest: Mapping[str, Any], plan: Plan, read: Callable[[str], bytes]
) -> tuple[bytes, list[tuple[str, int, int]]]:
    """The constants of the plan as one file, and name, offset and bytes of each, in ascending order of name."""
    places = {t[0]: (int(t[1]), int(t[2])) for t in manifest["weights"]["tensors"]}
    data, contents = read(manifest["weights"]["member"]), bytearray()
    table: list[tuple[str, int, int]] = []
    for name in sorted({c.name for c in plan.constants}, key=str.encode):
        offset, size = places[name]
        if offset < 0 or size < 0 or offset + size > len(data):
            raise ValueError(f"constant {name!r} lies outside the weights")
        contents += bytes(-len(contents) % TENSOR_ALIGNMENT)
        table.append((name, len(contents), size))
        contents += data[offset : offset + size]
    return bytes(contents), table


def _tables(table: Sequence[tuple[str, int, int]], size: int, host_kernels: int) -> str:
    lines = ["/* The weights of the project by name, and the kernels of its host. */", '#include "tables.h"', ""]
    lines.append("const tw_weight tw_weight_table[] = {")
    lines += [f"    {{{_string(name)}, {offset}u, {count}u}}," for name, offset, count in table]
    lines += ["    {0, 0, 0},", "};", f"const uint32_t tw_weight_count = {len(table)};"]
    lines.append(f"const uint64_t tw_weight_bytes = {size}u;")
    if host_kernels:
        lines.append("extern const tw_kernel tw_kernels_v1[];")
    lines.append(f"const tw_kernel *const tw_host_kernels = {'tw_kernels_v1' if host_kernels else '0'};")
    lines.append(f"const uint32_t tw_host_kernel_count = {host_kernels};")
    return "\n".join(lines) + "\n"


def _string(text: str) -> str:
    """A C string; whatever is not plain becomes octal bytes, which end after three digits."""
    return '"' + "".join(chr(b) if 32 <= b < 127 and b not in b'"\\?' else f"\\{b:03o}" for b in text.encode()) + '"'


# -- texts ------------------------------------------------------------------------------------------------------------


def _words(
    manifest: Mapping[str, Any],
    part: Mapping[str, Any],
    plan: Plan,
    told: Sequence[Mapping[str, Any]],
    files: Mapping[str, bytes],
) -> dict[str, str]:
    """What stands in the templates' capitals."""
    options = json.loads(files.get("host/options.json", b'{"common": []}'))
    options = {_plain(f, r"\w+"): [_plain(o, r"-[\w=+.,-]+") for o in words] for f, words in options.items()}
    family = next((name for name in options if name != "common"), "")
    models = told_models(manifest["provenance"]) or [{}]
    entry = manifest["entries"][0]
    return {
        "MODEL": str(models[0].get("name", "A model")),
        "TARGET": _target(part),
        "COUNTS": _counts(plan),
        "INPUTS": " ".join(f"--input {t['name']}=@.npy".replace("@", t["name"]) for t in entry["inputs"]),
        "ARCHITECTURE": str(int(told[0]["architecture"])) if told else "2201",
        "SOC": _plain(told[0]["soc"], r"\w+") if told else "Ascend910B3",
        "COMMON_OPTIONS": " ".join(options["common"]),
        "HOST_FAMILY": family,
        "HOST_OPTIONS": " ".join(options.get(family, ())),
        "HOST": _host_note(plan, family),
    }


def _counts(plan: Plan) -> str:
    launches = sum(isinstance(i, Launch) for e in plan.entries for i in e.code)
    beside = sum(isinstance(i, HostLaunch) for e in plan.entries for i in e.code)
    host = f", {beside} on the host ({len(plan.host_kernels)} of C)" if beside else ", none on the host"
    return f"A run launches {launches} kernels on the device ({len(plan.kernels)} different ones){host}."


def _host_note(plan: Plan, family: str) -> str:
    if not plan.host_kernels:
        return "Nothing runs on the host but the executor."
    names = ", ".join(plan.host_kernels)
    return f"On the host run: {names}. Their code is laid out for {family}; it builds on others, less fast."


def _filled(template: str, words: Mapping[str, str]) -> str:
    """``template`` with each word in capitals replaced, longer ones first."""
    pattern = "|".join(sorted(map(re.escape, words), key=lambda w: -len(w)))
    return re.sub(rf"\b(?:{pattern})\b", lambda m: words[m[0]], template)
