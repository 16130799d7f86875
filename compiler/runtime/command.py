"""``python -m tilewright.runtime run|inspect|verify``: what can be done with an artifact where only NumPy is."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tilewright.runtime import modules
from tilewright.runtime.artifact import Artifact, open_artifact
from tilewright.runtime.errors import InputError, RunError
from tilewright.runtime.manifest import EntryInfo, TensorInfo, evaluate_size
from tilewright.runtime.placement import described
from tilewright.runtime.session import load
from tilewright.runtime.tensors import Array, dtype_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.action(options)
        return code
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tilewright.runtime", description=__doc__)
    actions = parser.add_subparsers(required=True, metavar="run|inspect|verify")
    run = actions.add_parser("run", help="load an artifact and run it once")
    run.add_argument("artifact")
    run.add_argument(
        "--input", action="append", default=[], metavar="NAME=FILE.npy", help="an input; @ before FILE is allowed"
    )
    run.add_argument("--output-dir", type=Path, help="write each output as NAME.npy")
    run.add_argument("--entry", help="entry point; the first by default")
    run.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, xla-cpu, tpu, or a target")
    run.add_argument("--threads", type=int)
    run.add_argument("--no-mmap", action="store_true", help="read the file instead of mapping it")
    run.add_argument("--allow-jit", action="store_true", help="let XLA or the driver compile what has no code here")
    run.add_argument("--no-cache", action="store_true", help="neither read nor keep programs compiled here")
    run.add_argument("--profile", action="store_true", help="print the seconds of each kernel launch")
    run.set_defaults(action=_run)
    inspect = actions.add_parser("inspect", help="what is in an artifact; runs nothing of it")
    inspect.add_argument("artifact")
    inspect.add_argument("--json", action="store_true", help="print the manifest")
    inspect.set_defaults(action=_inspect)
    verify = actions.add_parser("verify", help="whether an artifact is whole; runs nothing of it")
    verify.add_argument("artifact")
    verify.add_argument("--integrity", action="store_true", help="compare the SHA-256 of every member (the default)")
    verify.set_defaults(action=_verify)
    return parser


def _run(options: argparse.Namespace) -> int:
    session = load(
        options.artifact,
        options.device,
        options.threads,
        not options.no_mmap,
        entry=options.entry,
        allow_jit=options.allow_jit or None,
        cache=not options.no_cache,
    )
    given = dict(_named_array(text) for text in options.input)
    inputs = given or _random_inputs(session.manifest.entries[session.manifest.entry(options.entry)])
    if not given:
        print("no --input: random values of the smallest shapes", file=sys.stderr)
    if options.profile:
        for name, seconds in session.profile(inputs):
            print(f"{seconds * 1e6:12.1f} us  {name}")
    start = time.perf_counter()
    outputs = session.run(None, inputs)
    print(f"{session.place}: {(time.perf_counter() - start) * 1e3:.3f} ms", file=sys.stderr)
    if session.note:
        print(session.note, file=sys.stderr)
    if session.jit_seconds:
        print(f"compiled here by {session.jit_by}: {session.jit_seconds * 1e3:.0f} ms", file=sys.stderr)
    for info, array in zip(session.outputs, outputs, strict=True):
        print(f"{info.name}: {info.dtype}{list(array.shape)}")
        if options.output_dir is not None:
            _save(options.output_dir, info.name, array)
    return 0


def _named_array(text: str) -> tuple[str, Array]:
    name, _, file = text.partition("=")
    path = file.removeprefix("@")
    try:
        array: Array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError("input-file", where=f"--input {text}", cause=str(error), fix="name a .npy file") from None
    return name, array


def _random_inputs(entry: EntryInfo) -> dict[str, Array]:
    least = {s.name: max(-(-s.min // s.multiple) * s.multiple, s.multiple) for s in entry.symbols}
    return {i.name: _random(i, least) for i in entry.inputs}


def _random(info: TensorInfo, sizes: Mapping[str, int]) -> Array:
    shape = tuple(evaluate_size(d, sizes) for d in info.shape)
    _, dtype = dtype_of(info)
    values = np.random.default_rng(0).standard_normal(shape)
    return values.astype(dtype) if dtype.kind == "f" else np.zeros(shape, dtype)


def _save(folder: Path, name: str, array: Array) -> None:
    path = folder / f"{name.replace('/', '_')}.npy"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        np.save(path, array)
    except OSError as error:
        fix = "name a folder that can be written"
        raise InputError("output-file", where=str(path), cause=str(error.strerror or error), fix=fix) from None


def _inspect(options: argparse.Namespace) -> int:
    artifact = open_artifact(options.artifact)
    if options.json:
        print(json.dumps(json.loads(bytes(artifact.bytes_of("manifest.json"))), indent=1))
    else:
        print("\n".join(describe(artifact)))
    return 0


def describe(artifact: Artifact) -> list[str]:
    """Lines about an artifact: entry points, targets, members and weights. Nothing of it is run."""
    manifest = artifact.manifest
    lines = [f"{artifact.where}: {len(artifact.data)} bytes"]
    for entry in manifest.entries:
        lines += _entry_lines(entry)
    lines += ["targets, best first:"]
    for target in manifest.targets:
        lacks = ", ".join(name for name, *_ in (*target.requires, *target.host_requires))
        family = target.family or (f"host part {target.host_family}" if target.host_family else "")
        told = "; ".join(filter(None, (family, f"needs {lacks}" if lacks else "")))
        lines.append(f"  {target.target}" + (f" ({told})" if told else ""))
        lines += [f"    {line}" for line in described(artifact, target)] if target.has_programs else []
        lines += [f"    {line}" for line in modules.described(artifact, target)] if target.has_modules else []
    lines += ["members:"] + [f"  {m.size:12} {m.name}" for m in artifact.members.values()]
    lines.append(f"weights: {len(manifest.weights)} tensors, {sum(w.size for w in manifest.weights)} bytes")
    lines += [f"{key}: {json.dumps(value)}" for key, value in manifest.provenance.items()]
    return lines


def _entry_lines(entry: EntryInfo) -> list[str]:
    lines = [f"entry {entry.name}"]
    lines += [f"  input  {i}" for i in entry.inputs] + [f"  output {o}" for o in entry.outputs]
    lines += [f"  state  {i} is {o}" for i, o in entry.states]
    for s in entry.symbols:
        lines.append(f"  {s.name} in {s.min}..{s.max}" + (f", a multiple of {s.multiple}" if s.multiple > 1 else ""))
    return lines


def _verify(options: argparse.Namespace) -> int:
    artifact = open_artifact(options.artifact)
    artifact.verify()
    print(f"{artifact.where}: whole ({len(artifact.manifest.hashes)} members, SHA-256)")
    return 0
