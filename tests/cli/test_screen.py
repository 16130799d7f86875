"""What is left on a terminal, and how numbers are told."""

import io
import re

import pytest
from tilewright.cli import screen


def shown(written: str) -> list[str]:
    """The lines that a terminal shows after this was written: carriage return, cursor up and erase are obeyed."""
    lines, row = [""], 0
    fresh = True
    for piece in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", written):
        if piece == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
            fresh = True
        elif piece == "\r":
            fresh = True
        elif piece.endswith("A"):
            row -= int(piece[2:-1] or 1)
        elif piece.endswith("K"):
            lines[row] = ""
        elif not piece.startswith("\x1b"):
            lines[row] = piece if fresh else lines[row] + piece
            fresh = False
    return [line.rstrip() for line in lines if line.strip()]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_keeps_one_line_per_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with screen.Progress("auto") as progress:
        progress("import", "model[1].onnx")
        progress("observe", "a line that was asked for")
        progress("build", "cpu:x86-64-v3")
    lines = shown(terminal.getvalue())
    assert [re.sub(r" +[\d.]+ s ", " 0 s ", line) for line in lines] == [
        "a line that was asked for",
        "✓ import 0 s  model[1].onnx",
        "✓ build 0 s  cpu:x86-64-v3",
    ]


@pytest.mark.parametrize(("mode", "count"), [("auto", 2), ("plain", 2), ("none", 0)])
def test_elsewhere_lines_are_plain(capsys: pytest.CaptureFixture[str], mode: str, count: int) -> None:
    with screen.Progress(mode) as progress:
        progress("import", "m.onnx")
        progress("build", "cpu")
    told = capsys.readouterr().err
    assert len(told.splitlines()) == count
    assert "\x1b" not in told


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (26.4e6, "26.4 MB"), (2e9, "2.0 GB")]
)
def test_sizes(value: float, text: str) -> None:
    assert screen.size(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.000412, "0.412 ms"), (0.0123, "12.3 ms"), (18.21, "18.2 s")])
def test_durations(value: float, text: str) -> None:
    assert screen.duration(value) == text
