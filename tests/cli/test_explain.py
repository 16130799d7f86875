"""Every error code has a text, and every text a code."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import tilewright
import tilewright.backends
import tilewright.passes
from tilewright.errors import UsageError
from tilewright.explain import explain, explanations

#: An editable install keeps the three folders apart.
FOLDERS = [Path(package.__file__).parent for package in (tilewright, tilewright.backends, tilewright.passes)]
#: Made from a word at run time: `unknown-{what}` of the session; told by the command line for MemoryError.
COMPOSED = {"unknown-input", "unknown-output", "unknown-entry-point", "memory"}


def sources(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name != "__pycache__":
            yield from sources(path)
        elif path.suffix == ".py":
            yield path


def every_source() -> list[Path]:
    return [path for folder in FOLDERS for path in sources(folder)]


def raised() -> dict[str, str]:
    """Codes in the sources: the first argument of every error that also says where."""
    found = {}
    for path in every_source():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and node.args and any(k.arg == "where" for k in node.keywords):
                first = node.args[0]
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    found[first.value] = path.name
    return found


def test_every_code_is_explained() -> None:
    missing = {code: file for code, file in raised().items() if code not in explanations()}
    assert not missing


def test_no_text_without_its_code() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in every_source())
    unused = [c for c in explanations() if c not in COMPOSED and f'"{c}"' not in text]
    assert not unused


def test_texts_are_sentences() -> None:
    for code, told in explanations().items():
        assert told.endswith("."), code
        assert len(told) > 20, code


def test_an_unknown_code_is_refused_with_a_near_one() -> None:
    with pytest.raises(UsageError, match="artifact-damaged"):
        explain("artifact-damage")
