"""Tables of results: one row is written at a time, and the others stay as they are."""

from __future__ import annotations

from pathlib import Path

from scripts.resumable_table import Table, chosen


def test_a_row_takes_the_place_of_its_key(tmp_path: Path) -> None:
    table = Table(tmp_path / "t.md", ("model", "target", "error"), 2)
    order = [("a", "x"), ("b", "x"), ("c", "x")]
    table.put(("c", "x", "1"), ["# Title"], order)
    table.put(("a", "x", "2"), ["# Title"], order)
    table.put(("z", "x", "5"), ["# Title"], order)
    before = table.path.read_text(encoding="utf-8").splitlines()
    table.put(("a", "x", "3"), ["# Another title"], order)
    after = table.path.read_text(encoding="utf-8").splitlines()
    assert [a for a, b in zip(before, after, strict=True) if a != b] == ["# Title", "| a | x | 2 |"]
    assert list(table.read()) == [("a", "x"), ("c", "x"), ("z", "x")]
    assert table.read()["a", "x"] == ("a", "x", "3")
    assert [p.name for p in tmp_path.iterdir()] == ["t.md"]


def test_rows_are_asked_for_by_how_they_begin() -> None:
    row = ("bert-base", "int8", "ascend:910b3")
    assert chosen(row, []) and chosen(row, ["gpt2", "bert-base:int8"])
    assert not chosen(row, ["bert-base:fp16"])
