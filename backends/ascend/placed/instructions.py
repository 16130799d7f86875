"""The instructions of a placed program: pipe, memories, element types, and what each one computes.

This table is the contract between the placement (which writes instructions), the simulator (which executes them) and
the emitter (which spells them). Three rules hold for each instruction:

1. One instruction becomes calls of Ascend C that do not depend on each other: repeats, loops over rows, several
   transfers. Whatever needs an order inside is several instructions, so that every barrier is seen by the
   synchronisation and by the simulator.
2. A result has one bit pattern. Where the documentation leaves the arithmetic open, this page fixes it, and says so:
   the simulator and the header model for C++ implement this page independently of each other.
3. Lanes that no view names are neither read nor written, apart from the fractals that ``whole`` blocks contain.

Arithmetic:

- f16 and bf16 vector operations compute each element in f32 and round once, to nearest even. f32 operations round once.
  Denormals are kept. ``max`` and ``min`` give NaN when an operand is NaN. Integer additions, subtractions and products
  wrap around.
- ``exp``, ``ln``, ``sqrt`` and ``div`` are correctly rounded here (computed in f64, then rounded). Hardware differs by
  units in the last place; no source states its bits.
- ``row_sum`` adds the elements of a row in a binary tree of neighbours, (0+1)+(2+3), …: an odd one out of a level goes
  up unchanged ("binary tree mode", Ascend C reference, WholeReduceSum). Each addition rounds to the element type.
- ``mmad`` goes through the reduced axis in steps of 32 bytes of elements (16 of f16 or bf16, 8 of f32, 32 of i8). The
  products of one step are added exactly (in f64 for floats) and the sum of the step is added to the accumulator with
  one rounding to f32. i8 sums are exact in i32. The depth of a step is the cube unit's; its rounding is undocumented.
- ``cast`` rounds as its ``round`` parameter says: ``rint`` (to nearest even; also the one between floats), ``floor``,
  ``ceil``, ``trunc``, ``round`` (half away from zero). A float beyond the range of an integer type saturates, NaN
  becomes 0; a float beyond f16 becomes infinity. A cast that gains range or precision is exact. Between integers bits
  are cut.
- ``fixpipe`` multiplies (``quant``), adds nothing, applies relu, rounds to the destination and saturates there, in this
  order: f32 → f16/bf16/f32, i32 → f16 (``deq``: i32 → f32, times the scale in f32, to f16), i32/f32 → i8
  (``requant``: to f32, times the scale in f32, to nearest even, plus the offset, saturated). Of a scale, the 13 lowest
  bits of its f32 count as zero (aclnnTransQuantParamV2: the unit multiplies by floats of 19 bits), whether it comes
  from ``fb`` or from the parameter ``scale``: what has to be exact with other scales goes through a vector core.

Operands of the cube unit's instructions:

- ``copy_nz``: ``dst`` is a :class:`Block` of whole fractal columns; the source views ``((fractal columns, stride),
  (rows, c0), (c0, 1))`` with ``c0`` elements in 32 bytes: its element ``[j, i, c]`` becomes row ``i`` and column
  ``j·c0 + c``.
- ``copy_row``: both sides are views of as many bytes, whole blocks of 32; the buffer in L1 has layout ND.
- ``load_bias``: from a view of an ND buffer of L1 into a view of ``bt``; f16 is widened to f32 on the way.
- ``load_scales``: from a view of ``2·n`` f32 of an ND buffer of L1 into a view of ``n`` words of ``fb``: each pair is
  a word, the first of a pair its low half.
- ``mmad`` with ``bt`` has the sources ``l0a``, ``l0b`` and the view of one row of the columns. Where the sum starts
  (``init`` absent or zero) it starts from that row instead of zero; it counts as read in any case.
- ``fixpipe`` with ``fb`` has that view as its second source: one scale a column.
- ``drain``: ``dst`` views ``((columns / 16, stride), (rows, 16), (16, 1))`` of an ND buffer of UB, the source is a
  block of whole fractals; element ``[j, i, c]`` is row ``i`` and column ``16·j + c``.
- ``load_image``: the source is a whole L1 buffer of layout NC1HWC0 (its ``image[0]·image[1]`` pixels as rows,
  channels as columns). It makes a matrix of columns, of which ``dst`` takes the rows from ``first`` (an expression)
  and the columns from ``at`` on. Row ``p`` is output pixel ``p``, counted along rows of ``(image[1] + left + right −
  dilation[1]·(kernel[1] − 1) − 1) // stride[1] + 1``; column ``((c1·kernel[0] + kh)·kernel[1] + kw)·c0 + c`` is the
  image's pixel ``(y·stride[0] − top + kh·dilation[0], x·stride[1] − left + kw·dilation[1])`` in channel ``c1·c0 +
  c``, zero outside the image. ``pads`` are ``(left, right, top, bottom)``. Channels beyond the buffer's fill whole
  fractals with what lies there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

FLOATS = frozenset(["f32", "f16"])
NUMBERS = FLOATS | {"i32", "i16"}
ANY = frozenset(["f32", "f16", "bf16", "i64", "i32", "i16", "i8", "u8", "u16", "u32", "bool"])


@dataclass(frozen=True, slots=True)
class Kind:
    """One instruction.

    Attributes:
        pipe: where it runs.
        scopes: memories of the sources, then of the destination, each way that it can go.
        dtypes: element types of the destination (of the first source for comparisons); empty: see the legality rules.
        parameters: names of what ``Instruction.parameters`` may hold.
        spelling: the Ascend C names it becomes.
    """

    pipe: Literal["S", "V", "M", "MTE1", "MTE2", "MTE3", "FIX"]
    scopes: frozenset[tuple[str, ...]]
    dtypes: frozenset[str]
    spelling: tuple[str, ...]
    parameters: frozenset[str] = frozenset()


def _ways(*ways: str) -> frozenset[tuple[str, ...]]:
    return frozenset(tuple(w.split()) for w in ways)


def _vector(sources: int, dtypes: frozenset[str], *spelling: str, parameters: tuple[str, ...] = ()) -> Kind:
    return Kind("V", frozenset([("ub",) * (sources + 1)]), dtypes, spelling, frozenset(parameters))


_BITS = frozenset(["i16", "u16"])
_MOVED = frozenset(["f32", "f16", "bf16", "i32", "i16", "u16", "u32"])

INSTRUCTIONS: Mapping[str, Kind] = {
    # -- transfers of the cube core ---------------------------------------------------------------------------------
    # A row-major matrix of global memory into NZ fractals of L1.
    "nd2nz": Kind("MTE2", _ways("gm l1"), ANY, ("DataCopy(Nd2NzParams)",)),
    # A block of a matrix that lies in NZ fractals in global memory already (weights packed at compile time).
    "copy_nz": Kind("MTE2", _ways("gm l1"), ANY, ("DataCopy(DataCopyParams)",)),
    # A row as it is: bias and scales.
    "copy_row": Kind("MTE2", _ways("gm l1"), ANY, ("DataCopy(DataCopyParams)",)),
    "zero_l1": Kind("MTE2", _ways("l1"), ANY, ("InitConstValue",)),
    # L1 to the operand memories; ``transpose`` turns each fractal on the way (16-bit types).
    "load": Kind("MTE1", _ways("l1 l0a", "l1 l0b"), ANY, ("LoadData(LoadData2DParams)",)),
    # Image to columns on the way to L0A: the source is an image in NC1HWC0 in L1.
    "load_image": Kind(
        "MTE1",
        _ways("l1 l0a"),
        frozenset(["f16", "bf16", "i8", "f32"]),
        ("LoadData(LoadData3DParamsV2)",),
        frozenset(["kernel", "stride", "dilation", "pads", "image", "first", "at"]),
    ),
    # A row of f32, f16 (or i32) into the bias table, where ``mmad`` starts its sums from.
    "load_bias": Kind("MTE1", _ways("l1 bt"), frozenset(["f32", "i32"]), ("DataCopy",)),
    # Per-channel scales for ``fixpipe``: 64-bit words with the f32 bits below.
    "load_scales": Kind("FIX", _ways("l1 fb"), frozenset(["u64"]), ("DataCopy",)),
    # -- the cube unit ----------------------------------------------------------------------------------------------
    "mmad": Kind("M", _ways("l0a l0b l0c", "l0a l0b bt l0c"), frozenset(["f32", "i32"]), ("Mmad",)),
    "fixpipe": Kind(
        "FIX",
        _ways("l0c gm", "l0c l1", "l0c fb gm", "l0c fb l1"),
        frozenset(["f32", "f16", "bf16", "i32", "i8"]),
        ("Fixpipe(FixpipeParamsV220)",),
        frozenset(["relu", "quant", "scale", "offset", "nz"]),
    ),
    # The fused core of 310P: sums into the unified buffer by way of the vector unit.
    "drain": Kind("V", _ways("l0c ub"), frozenset(["f32", "f16", "i32"]), ("DataCopy(DataCopyEnhancedParams)",)),
    # Unified buffer to L1 on a fused core, row-major into NZ.
    "ub2l1": Kind("MTE3", _ways("ub l1"), ANY, ("DataCopy(Nd2NzParams)",)),
    # -- transfers of the vector core -------------------------------------------------------------------------------
    "copy_in": Kind("MTE2", _ways("gm ub"), ANY, ("DataCopyPad",)),
    "copy_out": Kind("MTE3", _ways("ub gm"), ANY, ("DataCopyPad",)),
    # -- element-wise; sources repeat along dimensions of stride 0 ---------------------------------------------------
    "add": _vector(2, NUMBERS, "Add", "Adds"),
    "sub": _vector(2, NUMBERS, "Sub"),
    "mul": _vector(2, NUMBERS, "Mul", "Muls"),
    "div": _vector(2, FLOATS, "Div"),
    "max": _vector(2, NUMBERS, "Max", "Maxs"),
    "min": _vector(2, NUMBERS, "Min", "Mins"),
    "and": _vector(2, _BITS, "And"),
    "or": _vector(2, _BITS, "Or"),
    "not": _vector(1, _BITS, "Not"),
    "exp": _vector(1, FLOATS, "Exp"),
    "ln": _vector(1, FLOATS, "Ln"),
    "abs": _vector(1, FLOATS, "Abs"),
    "sqrt": _vector(1, FLOATS, "Sqrt"),
    "relu": _vector(1, FLOATS | {"i32"}, "Relu"),
    "shift_left": _vector(1, frozenset(["i16", "u16", "i32", "u32"]), "ShiftLeft", parameters=("by",)),
    "shift_right": _vector(1, frozenset(["i16", "u16", "i32", "u32"]), "ShiftRight", parameters=("by",)),
    # The pairs of types that exist are CASTS below.
    "cast": _vector(1, ANY, "Cast", parameters=("round",)),
    "copy": _vector(1, _MOVED, "Adds", "Copy"),
    # A scalar operand into every lane.
    "duplicate": Kind("V", _ways("ub"), _MOVED, ("Duplicate",)),
    # first, first + 1, … along the last dimension.
    "iota": Kind("V", _ways("ub"), frozenset(["f32", "f16", "i32"]), ("CreateVecIndex",)),
    # One element a row into a block of 32 bytes a row.
    "brcb": _vector(1, frozenset(["f32", "f16", "i32", "i16", "u16", "u32"]), "Brcb"),
    # Comparisons write one bit a lane, lane 0 in bit 0 of byte 0; ``select`` reads such a mask.
    **{
        f"compare_{c}": Kind("V", _ways("ub ub ub", "ub ub"), FLOATS, ("Compare", "CompareScalar"))
        for c in ("eq", "ne", "lt", "le", "gt", "ge")
    },
    "select": Kind("V", _ways("ub ub ub ub", "ub ub ub"), FLOATS, ("Select",)),
    # -- along rows: at most one repeat (256 bytes) of each row ------------------------------------------------------
    "row_sum": _vector(1, FLOATS, "WholeReduceSum"),
    "row_max": _vector(1, FLOATS, "WholeReduceMax"),
    "row_min": _vector(1, FLOATS, "WholeReduceMin"),
    # -- moving within the unified buffer ----------------------------------------------------------------------------
    # dst[i] = src at byte offset offsets[i] (u32) from the beginning of the source's slot.
    "gather": _vector(2, frozenset(["f32", "f16", "bf16", "i32", "i16", "u16", "u32"]), "Gather"),
    # A matrix of 16-bit or 32-bit elements turned, in whole 16 × 16 (16 × 8) pieces.
    "transpose": _vector(1, frozenset(["f16", "bf16", "i16", "u16", "f32", "i32"]), "TransDataTo5HD"),
}

#: Pairs (source, destination) of ``cast`` on a vector core of 910B (Ascend C reference, Cast).
CASTS = frozenset(
    [
        *(("f32", d) for d in ("f32", "f16", "bf16", "i16", "i32", "i64")),
        *(("f16", d) for d in ("f32", "i16", "i32", "i8", "u8")),
        *(("bf16", d) for d in ("f32", "i32")),
        *(("u8", d) for d in ("f16",)),
        *(("i8", d) for d in ("f16",)),
        *(("i16", d) for d in ("f16", "f32")),
        *(("i32", d) for d in ("f32", "i16", "i64")),
        *(("i64", d) for d in ("i32", "f32")),
    ]
)
