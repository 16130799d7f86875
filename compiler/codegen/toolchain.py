"""The C toolchain: text in, object and shared library bytes out; the same bytes for the same input, anywhere.

The default compiler is the one inside the ``ziglang`` package, found through Python, so that no system compiler and
no ``PATH`` is needed. It is given an explicit target and processor, never the machine it runs on.

``zig cc`` looks for a C library, its headers and its version at every call, which takes longer than compiling a kernel.
Kernels need none of that: :attr:`Toolchain.bare` calls the clang and the linker inside zig by themselves.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from tilewright.codegen.cache import CompileCache, content_key, default_cache_folder
from tilewright.errors import InternalError, UsageError

#: Seconds after which a compiler call counts as hung; a large kernel takes under two.
CALL_LIMIT_S = 600


@dataclass(frozen=True, slots=True)
class Toolchain:
    """A C compiler driver, and the folder where its results are kept.

    Attributes:
        command: the driver's words, without options (``(".../zig", "cc")``, ``("gcc",)``).
        version: what the driver says of itself; part of every cache key.
        is_zig: whether ``-target``/``-mcpu`` select the machine (else ``-march``).
        cache: compiled bytes by content.
        linker: the words that link by themselves, without a C library; empty where ``command`` does it.
    """

    command: tuple[str, ...]
    version: str
    is_zig: bool
    cache: CompileCache
    linker: tuple[str, ...] = ()

    @property
    def bare(self) -> Toolchain:
        """The same compiler for text that includes nothing of a C library; this one where it has no such way in.

        Its flags are clang's (``-march``, see ``linker``), not those of ``zig cc``.
        """
        zig = self.command[0]
        include = Path(zig).parent / "lib" / "include"  # of clang: stdint.h, stddef.h
        if not self.is_zig or self.linker or not (include / "stdint.h").is_file():
            return self
        clang = (zig, "clang", "-nostdinc", "-isystem", str(include))
        return replace(self, command=clang, linker=(zig, "ld.lld"))

    def compile(
        self, text: str, flags: Sequence[str], *, name: str = "kernel", headers: Mapping[str, str] | None = None
    ) -> bytes:
        """The object file of C text.

        Args:
            text: the translation unit.
            flags: options that choose machine and optimization.
            name: stem of the file name the compiler sees; it is part of messages only.
            headers: further files that ``text`` includes with quotes.

        Raises:
            InternalError: the compiler refused the text; ``bundle`` is a folder that reproduces it.
        """
        headers = headers or {}
        key = content_key(
            [
                "bare object" if self.linker else "object",
                self.version,
                *flags,
                text,
                *(part for pair in sorted(headers.items()) for part in pair),
            ]
        )
        found = self.cache.get(key)
        if found is not None:
            return found
        files: dict[str, str | bytes] = {f"{name}.c": text, **headers}
        data = self._run([*self.command, *flags, "-c", f"{name}.c", "-o", "out"], files)
        self.cache.put(key, data)
        return data

    def link(
        self,
        objects: Mapping[str, bytes],
        flags: Sequence[str],
        *,
        libraries: Sequence[str] = (),
        program: bool = False,
    ) -> bytes:
        """A stripped shared library (or a program) of objects, in the order of their names.

        Undefined symbols (``memcpy`` …) are left to the process that loads it unless ``libraries`` names their home,
        which a bare toolchain cannot find.

        Raises:
            InternalError: the linker refused; ``bundle`` is a folder that reproduces it.
        """
        if self.linker and (libraries or program):
            raise ValueError("a bare toolchain links neither libraries nor programs")
        ordered = sorted(objects.items())
        key = content_key(
            [
                "program" if program else "bare library" if self.linker else "library",
                self.version,
                *flags,
                *libraries,
                *(part for pair in ordered for part in pair),
            ]
        )
        found = self.cache.get(key)
        if found is not None:
            return found
        files: dict[str, str | bytes] = {f"{name}.o": data for name, data in ordered}
        if self.linker:
            words = [*self.linker, "-shared", "-s", "--build-id=none", *files, "-o", "out"]
        else:
            tail = [f"-l{library}" for library in libraries] if libraries else ["-nostdlib"]
            kind = "-pie" if program else "-shared"
            words = [*self.command, *flags, kind, "-s", "-Wl,--build-id=none", *files, *tail, "-o", "out"]
        data = self._run(words, files)
        self.cache.put(key, data)
        return data

    def _run(self, words: list[str], files: Mapping[str, str | bytes]) -> bytes:
        with tempfile.TemporaryDirectory(prefix="tilewright-") as scratch:
            work = Path(scratch) / "work"
            work.mkdir()
            _write_files(work, files)
            done = self._call(words, work, Path(scratch) / "zig")
            if done.returncode == 0 and (work / "out").exists():
                return (work / "out").read_bytes()
        raise InternalError(
            f"{Path(self.command[0]).name} refused generated code: {_first_error(done.stderr)}",
            bundle=self._bundle(words, files, done.stderr),
        )

    def _call(self, words: list[str], work: Path, local_cache: Path) -> subprocess.CompletedProcess[str]:
        # zig keeps every object it makes in its local cache; ours is the bounded one, so that one is thrown away.
        environment = {**os.environ, "LC_ALL": "C", "SOURCE_DATE_EPOCH": "0"}
        if self.is_zig:
            zig_folder = self.cache.folder / "zig"
            try:
                zig_folder.mkdir(parents=True, exist_ok=True)
                usable = os.access(zig_folder, os.W_OK)
            except OSError:
                usable = False
            environment["ZIG_GLOBAL_CACHE_DIR"] = str(zig_folder if usable else local_cache)
            environment["ZIG_LOCAL_CACHE_DIR"] = str(local_cache)
        try:
            return subprocess.run(
                words,
                cwd=work,
                env=environment,
                text=True,
                errors="replace",
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=CALL_LIMIT_S,
                check=False,
            )
        except OSError as error:
            raise UsageError(
                "compiler-missing",
                where=shlex.join(words[:2] if self.is_zig else self.command),
                cause=f"the C compiler cannot be started ({error.strerror})",
                fix="install the ziglang package, or name a working compiler with --cc",
            ) from error
        except subprocess.TimeoutExpired as error:
            message = f"{shlex.join(words)} took over {CALL_LIMIT_S} s"
            raise InternalError(message, bundle=self._bundle(words, {}, message)) from error

    def _bundle(self, words: list[str], files: Mapping[str, str | bytes], stderr: str) -> str:
        folder = Path(tempfile.mkdtemp(prefix="tilewright-compile-error-"))
        _write_files(folder, files)
        (folder / "stderr.txt").write_text(stderr, encoding="utf-8")
        (folder / "command.sh").write_text("#!/bin/sh\n" + shlex.join(words) + "\n", encoding="utf-8")
        versions = {"compiler": self.version, "python": platform.python_version(), "platform": platform.platform()}
        (folder / "versions.json").write_text(json.dumps(versions, indent=1), encoding="utf-8")
        return str(folder)


def default_toolchain(cc: str | None = None, cache_folder: Path | None = None, limit: int | None = None) -> Toolchain:
    """The toolchain of a build.

    Args:
        cc: a compiler command instead of the pinned default.
        cache_folder: where compiled bytes are kept; the platform's cache folder when ``None``.
        limit: bytes kept there.

    Raises:
        UsageError: no such compiler.
    """
    folder = cache_folder if cache_folder is not None else default_cache_folder()
    cache = CompileCache(folder) if limit is None else CompileCache(folder, limit)
    if cc is None:
        command = (str(_zig_executable()), "cc")
        return Toolchain(command, "zig " + _version_of((command[0], "version")), True, cache)
    words = tuple(shlex.split(cc))
    if not words or shutil.which(words[0]) is None:
        raise UsageError(
            "compiler-missing",
            where=f"--cc {cc}",
            cause="no such program",
            fix="give the path of a C compiler, or leave --cc out",
        )
    return Toolchain(words, _version_of((*words, "--version")), Path(words[0]).name.startswith("zig"), cache)


def _zig_executable() -> Path:
    spec = importlib.util.find_spec("ziglang")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        for name in ("zig", "zig.exe"):
            if (Path(folder) / name).is_file():
                return Path(folder) / name
    raise UsageError(
        "compiler-missing",
        where="ziglang",
        cause="the pinned C toolchain is not installed",
        fix="pip install 'tilewright[compile]', or name another compiler with --cc",
    )


@lru_cache(maxsize=16)
def _version_of(command: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=_quiet())
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(
            "compiler-missing",
            where=shlex.join(command),
            cause=f"cannot be started ({error})",
            fix="reinstall ziglang, or name a working compiler with --cc",
        ) from error
    return done.stdout.strip()


def _quiet() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C"}


def _first_error(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if "error" in line]
    return (lines or stderr.splitlines() or ["no message"])[0]


def _write_files(folder: Path, files: Mapping[str, str | bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
