"""``tilewright check``."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from tilewright.cli import arguments, screen
from tilewright.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from tilewright.support import Checked, Issue, OperatorRow

#: Columns of a plain table's text where no terminal tells its width.
WIDTH = 100

#: Names of nodes that are told of one reason.
_NAMES = 4


@click.command("check", short_help="What of a model is supported, before compiling.")
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option(
    "-t", "--target", "targets", multiple=True, default=("cpu",), help="KIND[:ARCH[+FEATURE]]. [default: cpu]"
)
@arguments.shapes("Bind (x:1x3x224x224) or bound (x:1..32x3) an input's sizes, or with commas (x:1..32,3).")
@click.option("-O", "level", type=click.IntRange(0, 3), default=2, show_default=True, help="As of compile.")
@click.option(
    "--fallback",
    type=click.Choice(["report", "forbid"]),
    default="report",
    show_default=True,
    help="Whether nodes on the host part of a target are supported.",
)
@click.option("--operators", is_flag=True, help="Without MODEL: every ONNX operator, and how it is computed.")
@arguments.json_option
@click.pass_context
def command(
    ctx: click.Context,
    *,
    model: Path | None,
    targets: tuple[str, ...],
    shapes: tuple[str, ...],
    level: int,
    fallback: str,
    operators: bool,
    json_path: Path | None,
) -> int:
    """Tell which operators of MODEL, an ONNX file, each target supports, and what to do about the others.

    Nothing is compiled. Exit status: 0 when all is supported, 4 when something is not, 3 for an invalid model.
    """
    outcome = arguments.begin(ctx, json_path)
    if operators == (model is not None):
        cause = "a model and --operators are given" if operators else "no model is given"
        raise UsageError("check-what", where="check", cause=cause, fix="give a MODEL, or --operators alone")
    if model is None:
        outcome.data["operators"] = _operators(targets)
        return ExitCode.OK
    from tilewright.frontend.input_shapes import parse_input_shape
    from tilewright.options import Options
    from tilewright.support import check

    checked = check(model, Options(targets, tuple(map(parse_input_shape, shapes)), level, fallback=fallback))
    outcome.data |= checked.as_dict()
    screen.block([("model", checked.model), ("targets", ", ".join(checked.targets))])
    if checked.operators:
        click.echo()
        screen.table(("operator", "nodes", *checked.targets), _rows(checked))
    for line in _issues(checked):
        click.echo(line)
    click.echo()
    screen.verdict(checked.ok)
    return ExitCode.OK if checked.ok else ExitCode.UNSUPPORTED


def _rows(checked: Checked) -> screen.Rows:
    rows = []
    for row in checked.operators:
        ways = ", ".join(way if n == row.nodes else f"{way} ({n})" for way, n in row.ways.items())
        cells = []
        for target in checked.targets:
            # Either may be more than the model's nodes where one became several.
            no, placed = checked.unsupported(row.operator, target), checked.placed(row.operator, target)
            if no:
                cells.append("no" if no >= row.nodes else f"no ({no} of {row.nodes})")
            elif placed:
                cells.append("host part" if placed >= row.nodes else f"host part ({placed} of {row.nodes})")
            else:
                cells.append(_in_programs(row) if target in checked.programs else ways)
        rows.append((row.operator, str(row.nodes), *cells))
    return rows


def _in_programs(row: OperatorRow) -> str:
    """The cell of a target of programs."""
    kept = [way for way in row.ways if way in ("compile time", "function body", "rewritten")]
    return ", ".join(kept) if len(kept) == len(row.ways) else "program"


def _issues(checked: Checked) -> Iterator[str]:
    """What is not supported or left to the host, equal reasons together, and what was left unexamined because of it."""
    yield from _grouped("not supported", checked.issues)
    yield from _grouped("on the host part", checked.on_host, not checked.host_allowed)
    if checked.unexamined:
        yield ""
        names = list(checked.unexamined)
        told = f"{', '.join(names[:_NAMES])}{' …' if len(names) > _NAMES else ''}"
        yield from _wrapped("not examined: ", f"{len(names)}, since they read what these nodes would make: {told}")


def _grouped(title: str, found: Sequence[Issue], ways: bool = True) -> Iterator[str]:
    groups: dict[tuple[str, str, str, str], list[Issue]] = {}
    for issue in found:
        groups.setdefault((issue.operator, issue.reason, issue.way_round, issue.target), []).append(issue)
    if groups:
        yield ""
        yield f"{title}: {len(found)} node{'s' if len(found) > 1 else ''}"
    for (operator, reason, way, target), issues in groups.items():
        yield ""
        yield f"  {operator}  {_names([i.node for i in issues])}{f'  on {target}' if target else ''}"
        yield from _wrapped("    why:       ", reason)
        if ways:
            yield from _wrapped("    way round: ", way)


def _wrapped(label: str, text: str) -> list[str]:
    return textwrap.wrap(f"{label}{text}", WIDTH, subsequent_indent=" " * len(label), break_long_words=False)


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return ", ".join(repr(n) for n in names[:_NAMES]) + more


def _operators(targets: Sequence[str]) -> dict[str, dict[str, object]]:
    """Every operator: how kernels compute it, and how each of ``targets`` does that runs programs."""
    from tilewright.backends.base import GraphBackend
    from tilewright.operators import contributed_operators, on_graph_target, operator_table
    from tilewright.options import Options
    from tilewright.selection import resolve_targets
    from tilewright.support import WAYS

    table, contributed = operator_table(), contributed_operators()
    graphed = {
        t.spelling: b.knows for b, t in resolve_targets(Options(tuple(targets)), False) if isinstance(b, GraphBackend)
    }
    ways = {o.name: {t: on_graph_target(o, knows) for t, knows in graphed.items()} for o in (*table, *contributed)}
    rows = [(o.name, str(o.since), o.way, *ways[o.name].values(), o.note) for o in (*table, *contributed)]
    screen.table(("operator", "since", "how", *graphed, "note"), rows)
    click.echo()
    screen.block([(f"{way:<15}", meaning) for way, meaning in WAYS.items()])
    some = sum(o.way != "no" for o in table)
    click.echo(f"\n{some} of {len(table)} operators; forms of one may be refused, which `tilewright check MODEL` tells")
    return {
        o.name: {"since": o.since, "way": o.way, "note": o.note} | ({"targets": ways[o.name]} if graphed else {})
        for o in (*table, *contributed)
    }
