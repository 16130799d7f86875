"""The instructions of a placed program: pipe, memories, element types, and what each one computes.

This table is the contract between the placement (which writes instructions), the simulator (which executes them) and
the emitter (which spells them). Three rules hold for each instruction:

1. One instruction becomes calls of Ascend C that do not depend on each other: repeats, loops over rows, several
   transfers. Whatever needs an order inside is several instructions, so that every barrier is seen by the
   synchronisation and by the simulator.
2. A result has one bit pattern. Where the documentation leaves the arithmetic open, this page fixes it, and says so:
   the simulator and the header model for C++ implement this page independently of each other.
3. Lanes that no view names are neither read nor written, apart from the fractals that ``whole`` blocks contain.

Operands:

- The sources of a vector instruction have as many dimensions and lanes as its destination, apart from what is said
  below. The last stride is 1. A source whose last stride is 0 is one block of 32 bytes a row, as ``brcb`` writes it:
  lane ``j`` takes element ``j mod (32 / size)`` of the block. Other strides of 0 repeat rows.
- A number among the operands is the last one. It is first rounded to the type of the instruction, to nearest even.
- A truth value (bool) is a byte of 0 or 1: a tensor of them is u8 to every instruction.
- All operands have one element type, apart from masks (u8), ``cast``, ``gather`` (whose offsets are i32,
  and whose source may have another type than its destination: bytes are taken), ``copy`` on a fused core (whose types
  have one size) and the cube unit.
- Where a block of a matrix meets a view of three dimensions ``(columns / c, rows, c)``, element (r, q) is ``[q // c,
  r, q % c]``; of two dimensions, ``[r, q]``.
- ``copy_in`` and ``nd2nz`` leave the rest of the last 32 bytes of each row undefined. A transfer between views goes
  lane by lane, its last strides are 1.
- Without DataCopyPad (no feature ``copy_pad``) whole blocks of 32 bytes move, to and from any element of global memory:
  the runs of ``copy_out`` are multiples of 32 bytes, both may name lanes up to the next multiple of 32 bytes behind the
  end of a tensor, and ``copy_in`` brings lanes that nobody wrote as undefined ones. What lies behind the end of a
  tensor stays as it is.
- An L1 buffer in layout ND is a row of bytes, for biases and scales; one in NC1HWC0 is an image of pixels × channels
  for ``load_image``, without padding between the channels' planes; other blocks go to and from NZ.

Arithmetic:

- f16 additions, subtractions and products are computed in f32 and rounded once more, to nearest even, which equals
  one rounding. f32 operations round once. Denormals are kept. ``max`` and ``min`` give NaN when an operand is NaN; of
  two zeros ``max`` gives +0 if one of them is +0, ``min`` gives -0 if one is -0. ``relu`` is ``max`` with +0. Integer
  additions, subtractions and products wrap around; shifts to the right keep the sign of signed types.
- A NaN that an instruction computes is the positive quiet one without payload (0x7fc00000, 0x7e00, 0x7fc0), whatever
  came in. ``copy``, ``duplicate``, ``select``, ``gather``, ``transpose``, ``brcb``, bit operations and transfers keep
  bits.
- ``exp``, ``ln``, ``sqrt`` and ``div`` are correctly rounded here: computed in f64 (by the C library), then rounded
  once to the element type. Hardware differs by units in the last place; no source states its bits.
- ``row_sum`` adds the elements of a row in a binary tree of neighbours, (0+1)+(2+3), …: an odd one out of a level
  goes up unchanged ("binary tree mode", Ascend C reference, WholeReduceSum). Each addition rounds to the element
  type.
- ``block_sum``, ``block_max`` and ``block_min`` do to rows of at most 32 bytes what ``row_sum`` and the others do to
  rows of at most 256, eight rows at a time: the numbers of rows that follow on one another are neighbours, and up to
  the eighth what is behind the last one is undefined (Ascend C reference, BlockReduceMax; of 310P it does not say what
  is written for a block without a lane). They exist on every target, and write no index.
- ``mmad`` goes through the reduced axis in steps of 32 bytes of elements (16 of f16 or bf16, 8 of f32, 32 of i8).
  Within a step s = 0, then s = s + a·b for rising k, in f64, where each product is exact; then the accumulator
  becomes f32(f64(accumulator) + s). A sum that starts is 0, or the f32 of the bias table for its column, before the
  first step; lanes beyond k have no part. i8 sums are exact in i32 and wrap around. The depth of a step is the cube
  unit's; its rounding is undocumented.
- ``cast`` rounds as its ``round`` parameter says: ``rint`` (to nearest even; the default), ``floor``, ``ceil``,
  ``trunc``, ``round`` (half away from zero). From float to integer it rounds, then saturates; NaN becomes 0. To a
  float it rounds to the destination's significand as if the exponent had no upper end, and what is then beyond the
  largest finite number is infinity. A result of zero has the sign of the operand. Between integers bits are cut. A
  cast of f32 to f32 rounds to whole numbers.
- ``widen`` turns each byte of its source into two elements: signed integers of 4 bits, that of the lower half first
  (Ascend C, ``int4b_t``). Source and destination are views of equal rows, those of the destination twice as long.
- ``iota`` gives first + i, exact, rounded once to the element type.
- ``compare`` with a NaN is false, but ``ne``. Bits of the last byte beyond the row are 0.
- ``fixpipe``, in this order: ``quant`` multiplies, relu (``relu`` = 1), the destination. Without ``quant``: f32 →
  f32, f16, bf16, rounded to nearest even, too large ones infinite; i32 → i32. ``deq``: i32 → f16; ``requant``: i32 or
  f32 → i8. Both turn the sum into f32 (to nearest even) and multiply it in f32 (one rounding) by ``scale``; the unit
  keeps 19 bits of a scale, so the low 13 bits of its f32 are dropped first (aclnnTransQuantParamV3, "0xFFFFE000").
  ``requant`` then rounds to nearest even, adds ``offset`` (-256 to 255) and saturates; NaN becomes 0.
- Per-channel scales are 64-bit words, one a column from the first of the view of ``fb``: the scale's f32 in bits 0 to
  31, the offset's 9 bits in 37 to 45, bit 46 set for i8 (the same page). ``scale`` and ``offset`` are absent then.
- ``fixpipe`` with ``add`` = 1 adds what it would have written to what global memory holds, element by element, as the
  ``add`` of that type does; sums of bf16 round once, to nearest even (Ascend C reference, SetAtomicAdd: from L0C to
  global memory on A2, of f32, f16, bf16, i32 and smaller integers; its rounding is undocumented).
- ``fixpipe`` with ``nz`` = 1 writes fractals to global memory: a view of ``(columns / c, rows, c)``, c = 32 for i8,
  else 16.
- ``drain`` moves whole fractals: a view of ``(columns / 16, rows, 16)`` whose last strides are 16 and 1. f32 → f16
  rounds to nearest even; i32 → f16 takes ``scale``, rounded to f16, as ``deq`` does.
- ``copy_nz`` moves blocks of 32 bytes: a view of ``(columns / c, rows, c)`` with c = 32 / size into a block, or a
  view to a view of an ND buffer.
- ``ub2l1`` goes from rows of a view to a block, or from a run of whole blocks of 32 bytes to one in an ND buffer.
- ``load`` with ``transpose`` gives dst[q, r] = src[r, q]. Into L0B that needs no turning of fractals; without it, or
  into L0A with it, each fractal is turned, which only 16-bit types can do. 32-bit ones can on the way into L0B, from a
  buffer in zZ whose columns are a multiple of 16: squares of two fractals side by side are turned and become two that
  lie one above the other (Ascend C reference, LoadDataWithTranspose). Such rows are taken in sixteens.
- ``load_bias`` widens f16 to f32 on the way. The bias of a ``mmad`` is its third source and counts as read also where
  the sum goes on (``init`` is not zero).
- ``load_image`` reads an image of ``image`` = (height, width) pixels and writes rows of windows: row i is the window
  of output pixel p = ``first`` + i, where oy = p div wide, ox = p mod wide and wide = (width + left + right -
  dilation·(kw - 1) - 1) div stride + 1; column ``(c1·kh·kw + y·kw + x)·c0 + c`` with ``kernel`` = (kh, kw) is channel
  c1·c0 + c at (oy·stride + y·dilation - top, ox·stride + x·dilation - left). Columns are counted from ``column`` (a
  multiple of 32 / size), rows of the destination are whole fractals: those below the last window are computed by the
  same rule. ``stride`` and ``dilation`` are (down, across), ``pads`` = (top, left, bottom, right). Where that is
  outside the image, in any direction, stands ``value``, 0 if there is none; ``bottom`` alone changes nothing.
  The image lies in one of two ways. In NC1HWC0, c0 = 32 / size: a block from row 0 on with height·width rows, a pixel
  each, over whole c0 columns; the buffer has exactly these rows, since planes of channels are height·width·32 bytes
  apart. With ``channels`` (4 or 8, of 8-bit types also 16) it is a view of an ND buffer, pixel by pixel of so many
  channels; c0 = channels then, there is one plane, and columns end at kh·kw·c0 (Ascend C reference, Load3D:
  channelSize, padValue).
- ``gather``: dst[i] is the element at byte offsets[i], a multiple of its size and not negative, from the beginning of
  the source's slot; the source's view covers every byte that may be taken. A destination of 64-bit integers takes two
  offsets a lane, of its lower and of its upper 32 bits. ``transpose`` swaps the last two
  dimensions: 16 × 16 pieces of 16-bit elements; of 32-bit ones 16 × 8 pieces of the source. Its views name the
  elements; both buffers have room for whole pieces, what lies between is moved unseen.
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
#: Types of elements that instructions move within the unified buffer.
MOVED = frozenset(["f32", "f16", "bf16", "i32", "i16", "u16", "u32"])

INSTRUCTIONS: Mapping[str, Kind] = {
    # -- transfers of the cube core ---------------------------------------------------------------------------------
    # A row-major matrix of global memory into NZ fractals of L1.
    "nd2nz": Kind("MTE2", _ways("gm l1"), ANY, ("DataCopy(Nd2NzParams)",)),
    # A block of a matrix that lies in NZ fractals in global memory already (weights packed at compile time).
    "copy_nz": Kind("MTE2", _ways("gm l1"), ANY | {"u64"}, ("DataCopy(DataCopyParams)",)),
    # Zeros, or an integer of 8 bits that pads an image.
    "zero_l1": Kind("MTE2", _ways("l1"), ANY, ("InitConstValue",), frozenset(["value"])),
    # L1 to the operand memories; ``transpose`` turns each fractal on the way (16-bit types).
    "load": Kind("MTE1", _ways("l1 l0a", "l1 l0b"), ANY, ("LoadData(LoadData2DParams)", "LoadDataWithTranspose")),
    # Image to columns on the way to L0A: the source is an image in L1, in NC1HWC0 or with few channels a pixel.
    "load_image": Kind(
        "MTE1",
        _ways("l1 l0a"),
        frozenset(["f16", "bf16", "i8", "f32"]),
        ("LoadData(LoadData3DParamsV2)",),
        frozenset(["kernel", "stride", "dilation", "pads", "image", "first", "column", "value", "channels"]),
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
        ("Fixpipe(FixpipeParamsV220)", "SetAtomicAdd", "SetAtomicNone"),
        frozenset(["relu", "quant", "scale", "offset", "nz", "add"]),
    ),
    # The fused core of 310P: sums into the unified buffer by way of the vector unit.
    "drain": Kind(
        "V",
        _ways("l0c ub"),
        frozenset(["f32", "f16", "i32"]),
        ("DataCopy(DataCopyEnhancedParams)",),
        frozenset(["scale"]),
    ),
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
    # Two integers of 4 bits a byte (Cast of int4b_t to half, CAST_NONE).
    "widen": _vector(1, frozenset(["f16"]), "Cast"),
    # Integers of 64 bits on a fused core only, whose copies are of bits.
    "copy": _vector(1, MOVED | {"i64"}, "Adds", "Copy"),
    # A scalar operand into every lane.
    "duplicate": Kind("V", _ways("ub"), MOVED, ("Duplicate",)),
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
    # The same of at most one block (32 bytes) of each row.
    "block_sum": _vector(1, FLOATS, "BlockReduceSum"),
    "block_max": _vector(1, FLOATS, "BlockReduceMax"),
    "block_min": _vector(1, FLOATS, "BlockReduceMin"),
    # -- moving within the unified buffer ----------------------------------------------------------------------------
    # dst[i] = src at byte offset offsets[i] (i32) from the beginning of the source's slot.
    "gather": _vector(2, MOVED | {"i64"}, "Gather"),
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
#: Pairs on the fused core of 310P, and the roundings that each has (the same page).
_NEAREST, _EVERY = frozenset(["rint"]), frozenset(["rint", "floor", "ceil", "trunc", "round"])
FUSED_CASTS: Mapping[tuple[str, str], frozenset[str]] = {
    **{("f16", to): _NEAREST for to in ("f32", "i16")},
    **{("f16", to): _EVERY for to in ("i32", "i8", "u8")},
    **{(source, "f16"): _NEAREST for source in ("f32", "i16", "i8", "u8")},
    **{("i32", to): _NEAREST for to in ("f32", "i16")},
}
