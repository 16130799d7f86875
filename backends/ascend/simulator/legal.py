"""What a placed program must respect before and while it runs: sizes, alignment, layouts, pipes, event numbers."""

from __future__ import annotations

from tilewright.backends.ascend.placed.form import CrossFlag, Flag, Instruction, Placed, Scalar, statements
from tilewright.backends.ascend.placed.instructions import CASTS, FUSED_CASTS, INSTRUCTIONS, Kind
from tilewright.backends.ascend.placed.layout import OTHER_LAYOUTS, SCOPE_LAYOUT
from tilewright.backends.ascend.placed.text import statement_text
from tilewright.backends.ascend.simulator.memory import Refused


def check_static(placed: Placed) -> None:
    """Rules that need no execution. Raises :class:`Refused`."""
    target = placed.target
    for b in placed.buffers:
        if b.layout != SCOPE_LAYOUT[b.scope] and b.layout not in OTHER_LAYOUTS.get(b.scope, ()):
            raise Refused("layout", f"{b.name}: {b.layout} in {b.scope}, which holds {SCOPE_LAYOUT[b.scope]}")
        if b.scope == "gm":
            continue
        align = int(target.extra["alignment"][b.scope])
        if b.address % align or (b.slots > 1 and b.slot_bytes % align):
            raise Refused("alignment", f"{b.name} at {b.address:#x}: {b.scope} wants multiples of {align} bytes")
        if b.address < 0 or b.end > target.memory[b.scope].size:
            size = target.memory[b.scope].size
            raise Refused("capacity", f"{b.name} ends at {b.end:#x}, {b.scope} has {size:#x} bytes")
    for node in statements(placed.body):
        match node:
            case Instruction():
                _check_instruction(placed, node)
            case Flag():
                if node.src == node.dst:
                    raise Refused("flag", "a flag orders two pipes", statement_text(node))
                if not all(0 <= e < int(target.extra["event_ids"]) for e in node.events):
                    raise Refused("event ids", "no such event of this pair of pipes", statement_text(node))
            case CrossFlag():
                if not 0 <= node.flag < int(target.extra["cross_flags"]):
                    raise Refused("event ids", "no such cross-core flag", statement_text(node))


def _check_instruction(placed: Placed, node: Instruction) -> None:
    kind = INSTRUCTIONS.get(node.op)
    if kind is None or node.pipe != kind.pipe:
        raise Refused("pipe", f"{node.op} does not run on {node.pipe}", statement_text(node))
    split = "split" in placed.target.features
    if split and node.core == "vector" and node.pipe in ("M", "MTE1", "FIX"):
        raise Refused("pipe", f"a vector core has no {node.pipe}", statement_text(node))
    if split and ((node.core == "cube" and node.pipe in ("V", "MTE3")) or node.op in ("drain", "ub2l1")):
        raise Refused("pipe", f"a cube core has no {node.pipe}", statement_text(node))
    scopes = tuple(placed.buffer(a.buffer).scope for a in (*node.reads, node.dst))
    if scopes not in _ways(node, kind):
        raise Refused("scope", f"{node.op} cannot go through {' -> '.join(scopes)}", statement_text(node))
    if scopes[-1] == "gm" and node.op == "fixpipe" and "fixpipe_gm" not in placed.target.features:
        raise Refused("scope", "sums do not leave L0C for global memory here", statement_text(node))
    if node.parameter("add") and (scopes[-1] != "gm" or node.parameter("nz")):
        raise Refused("scope", "sums are added to rows of global memory alone", statement_text(node))
    if unknown := {name for name, _ in node.parameters} - kind.parameters:
        raise Refused("parameter", f"{node.op} has no {', '.join(sorted(unknown))}", statement_text(node))
    _check_dtypes(placed, node, kind)


def _ways(node: Instruction, kind: Kind) -> set[tuple[str, ...]]:
    """The memories that ``node`` may go through: one source less where a number stands for it, at the end."""
    numbers = [isinstance(s, Scalar) for s in node.srcs]
    if not any(numbers):
        return set(kind.scopes)
    if numbers.count(True) > 1 or not numbers[-1]:
        return set()
    return {s[1:] for s in kind.scopes} if node.op in _WITH_NUMBER else set(kind.scopes) if len(numbers) == 1 else set()


#: Instructions whose last source may be a number (Adds, Muls, Maxs, Mins, CompareScalar, Select).
_WITH_NUMBER = frozenset(["add", "mul", "max", "min", "select"]) | {
    op for op in INSTRUCTIONS if op.startswith("compare")
}
#: Instructions whose operands may differ in type, each with a rule of its own.
_MIXED = frozenset(["mmad", "fixpipe", "cast", "widen", "select", "gather", "drain", "load_bias", "copy"])
#: What leaves L0C: sums, destination, and what multiplies them.
_WAYS_OUT = frozenset(
    [
        ("f32", "f32", ""),
        ("f32", "f16", ""),
        ("f32", "bf16", ""),
        ("i32", "i32", ""),
        ("i32", "f16", "deq"),
        ("i32", "i8", "requant"),
        ("f32", "i8", "requant"),
    ]
)
_BIASES = frozenset([("f32", "f32"), ("f16", "f32"), ("i32", "i32")])
_ROUNDINGS = frozenset(["rint", "floor", "ceil", "trunc", "round"])


def _check_dtypes(placed: Placed, node: Instruction, kind: Kind) -> None:
    target = placed.target
    # To an instruction a truth value is a byte.
    dtypes = [str(placed.buffer(a.buffer).dtype).replace("bool", "u8") for a in (*node.reads, node.dst)]
    compares = node.op.startswith("compare_")
    result = dtypes[0] if compares else dtypes[-1]
    wrong = result not in kind.dtypes
    computes = node.pipe in ("V", "M", "FIX")
    wrong |= computes and "bf16" in dtypes and "bf16" not in target.features
    parameters = dict(node.parameters)
    if node.op not in _MIXED:
        same = dtypes[:-1] if compares else dtypes
        wrong |= len(set(same)) > 1 or (compares and dtypes[-1] != "u8")
    match node.op:
        case "cast":
            wrong |= (dtypes[0], dtypes[1]) not in CASTS or parameters.get("round", "rint") not in _ROUNDINGS
            fused = FUSED_CASTS.get((dtypes[0], dtypes[1]), frozenset())
            wrong |= "split" not in target.features and parameters.get("round", "rint") not in fused
        case "row_max" | "row_min":
            # Without it the index comes out beside the value (Ascend C reference, WholeReduceMax, ReduceOrder).
            wrong |= "row_max" not in target.features
        case "copy":
            size = {placed.buffer(a.buffer).dtype.bits for a in (*node.reads, node.dst)}
            of_bits = "split" not in target.features and len(size) == 1
            wrong |= (len(set(dtypes)) > 1 or "i64" in dtypes) and not of_bits
        case "widen":
            wrong |= dtypes[0] != "u8" or "cast_i4" not in target.features
        case "select":
            wrong |= dtypes[0] != "u8" or len(set(dtypes[1:])) > 1
        case "gather":
            wrong |= dtypes[1] not in ("i32", "u32")
        case "load_bias":
            wrong |= (dtypes[0], dtypes[1]) not in _BIASES
        case "fixpipe":
            wrong |= (dtypes[0], result, parameters.get("quant", "")) not in _WAYS_OUT
            wrong |= bool(parameters.get("add")) and (result == "i8" or "fixpipe_add" not in target.features)
            wrong |= len(dtypes) > 2 and (dtypes[1] != "u64" or "quant" not in parameters)
            wrong |= len(dtypes) > 2 and not {"scale", "offset"}.isdisjoint(parameters)
        case "drain":
            pairs = {("f32", "f32"), ("f32", "f16"), ("i32", "i32"), ("i32", "f16")}
            wrong |= (dtypes[0], dtypes[1]) not in pairs
        case "mmad":
            wrong |= dtypes[0] != dtypes[1] or target.extra["mmad"].get(dtypes[0]) != result
            wrong |= len(dtypes) > 3 and (dtypes[2] != result or "bias_table" not in target.features)
        case "load":
            scope = placed.buffer(node.dst.buffer).scope
            turned = node.transpose == (scope == "l0a")
            source = placed.buffer(node.reads[0].buffer)
            squares = source.layout == "zZ" and source.dtype.bits == 32 and source.shape[1].value % 16 == 0
            wrong |= turned and source.dtype.bits != 16 and not (squares and scope == "l0b")
            wrong |= source.layout == "zZ" and not (turned and squares)
        case "nd2nz":
            # Pairs of fractals side by side are what loads turn into L0B.
            wrong |= placed.buffer(node.dst.buffer).layout == "zZ" and placed.buffer(node.dst.buffer).dtype.bits != 32
    if wrong:
        raise Refused("dtype", f"no {node.op} of {', '.join(dtypes)} here", statement_text(node))
