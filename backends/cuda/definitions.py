"""Functions that emitted text defines for itself when it uses them: what Triton lacks, or spells with another meaning.

Accuracy, in units in the last place of f32: ``_tanh`` below 0.6 is an odd polynomial (1.3), above it the identity with
exp (3.2). ``_round`` is to nearest even by the carry of 1.5 * 2**23 (of f64: 1.5 * 2**52). Conversions of floats of
8 and 4 bits are exact, by integer arithmetic, so that every architecture has them and all agree.
"""

from __future__ import annotations

import re

_EXTREME = "    return tl.{}imum(a, b, propagate_nan=tl.PropagateNan.ALL)\n"

#: ``_value(code, …)``: a float of ``EXPONENT`` and ``DIGITS`` bits as f32: multiplying mends the exponent and makes
#: subnormal numbers normal. Codes from ``SPECIAL`` on are NaN, that one alone an infinity where ``INFINITE``; where
#: ``ONE_ZERO``, the code of -0 is the only NaN. ``_bits`` is the inverse, rounded once to nearest even: adding a number
#: whose last place is that of the result. Beyond ``LARGEST`` comes the code ``OVER``.
_FLOATS = {
    "_value": """\
def _value(code, EXPONENT: tl.constexpr, DIGITS: tl.constexpr, BIAS: tl.constexpr, LARGEST: tl.constexpr,
           OVER: tl.constexpr, NAN: tl.constexpr, SPECIAL: tl.constexpr, INFINITE: tl.constexpr,
           ONE_ZERO: tl.constexpr):
    w = code.to(tl.int32)
    m = w & ((1 << (EXPONENT + DIGITS)) - 1)
    sign = w >> (EXPONENT + DIGITS)
    power = tl.cast((254 - BIAS) << 23, tl.int32).to(tl.float32, bitcast=True)
    x = (m << (23 - DIGITS)).to(tl.float32, bitcast=True) * power
    x = tl.where(m >= SPECIAL, float("nan"), x)
    if INFINITE:
        x = tl.where(m == SPECIAL, float("inf"), x)
    if ONE_ZERO:
        x = tl.where((sign != 0) & (m == 0), float("nan"), x)
    return tl.where(sign != 0, -x, x)
""",
    "_bits": """\
def _bits(x, EXPONENT: tl.constexpr, DIGITS: tl.constexpr, BIAS: tl.constexpr, LARGEST: tl.constexpr,
          OVER: tl.constexpr, NAN: tl.constexpr, SPECIAL: tl.constexpr, INFINITE: tl.constexpr,
          ONE_ZERO: tl.constexpr):
    sign = ((x.to(tl.int32, bitcast=True) >> 31) & 1) << (EXPONENT + DIGITS)
    a = tl.minimum(tl.abs(x), 131072.0)
    e = tl.maximum(a.to(tl.int32, bitcast=True) & 0x7F800000, (128 - BIAS) << 23)
    magic = (e + ((23 - DIGITS) << 23)).to(tl.float32, bitcast=True)
    rounded = (a + magic) - magic
    power = tl.cast(BIAS << 23, tl.int32).to(tl.float32, bitcast=True)
    code = (rounded * power).to(tl.int32, bitcast=True) >> (23 - DIGITS)
    code = tl.where(rounded > LARGEST, OVER, code)
    code = tl.where(x != x, NAN, code)
    if ONE_ZERO:
        return tl.where((code == 0) | (code == NAN), code, code | sign).to(tl.uint8)
    return (code | sign).to(tl.uint8)
""",
}

_NARROW = {
    "f8e4m3": "4, 3, 7, 448.0, 0x7F, 0x7F, 0x7F, False, False",
    "f8e5m2": "5, 2, 15, 57344.0, 0x7C, 0x7E, 0x7C, True, False",
    "f8e4m3fnuz": "4, 3, 8, 240.0, 0x80, 0x80, 0x80, False, True",
    "f8e5m2fnuz": "5, 2, 16, 57344.0, 0x80, 0x80, 0x80, False, True",
    "f4e2m1": "2, 1, 1, 6.0, 7, 8, 8, False, False",
}

#: Powers of two: the exponent alone. Halfway goes up; what is not positive and finite becomes NaN.
_EXPONENTS = {
    "_f8e8m0_value": """\
def _f8e8m0_value(code):
    w = code.to(tl.int32)
    bits = tl.where(w == 0, 0x00400000, w << 23)
    return tl.where(w == 255, 0x7FC00000, bits).to(tl.float32, bitcast=True)
""",
    "_f8e8m0_bits": """\
def _f8e8m0_bits(x):
    b = x.to(tl.int32, bitcast=True)
    up = tl.where(b < 0x00800000, (b >= 0x00600000).to(tl.int32), (b >> 22) & 1)
    return tl.where((x > 0.0) & (x < float("inf")), (b >> 23) + up, 255).to(tl.uint8)
""",
}

#: Elements of 4 and 2 bits share a byte, the first in its lowest bits. Other lanes and programs write the others of a
#: word; the last element of the tensor clears what follows it in its byte.
#: ``_pairs``: both elements of each byte. Of f16 they are made from bits: 0x6400 is 1024 with steps of 1, 0x5400 is 64
#: with steps of 1/16, so that a nibble set into its low bits adds itself; conversions have a quarter of the rate.
_PACKED = {
    "_i4_pairs": """\
def _i4_pairs(x):
    x = x.to(tl.int8, bitcast=True)
    return tl.interleave((x << 4).to(tl.int8), x) >> 4
""",
    "_u4_pairs": """\
def _u4_pairs(x):
    return tl.interleave((x << 4).to(tl.uint8), x) >> 4
""",
    "_i4_pairs_f16": """\
def _i4_pairs_f16(x):
    x = x.to(tl.int16)
    low = ((x & 15) ^ 0x6408).to(tl.float16, bitcast=True) - 1032.0
    high = ((x & 240) ^ 0x5480).to(tl.float16, bitcast=True) - 72.0
    return tl.interleave(low.to(tl.float16), high.to(tl.float16))
""",
    "_u4_pairs_f16": """\
def _u4_pairs_f16(x):
    x = x.to(tl.int16)
    low = ((x & 15) ^ 0x6400).to(tl.float16, bitcast=True) - 1024.0
    high = ((x & 240) ^ 0x5400).to(tl.float16, bitcast=True) - 64.0
    return tl.interleave(low.to(tl.float16), high.to(tl.float16))
""",
    "_upper": """\
def _upper(x):
    return (x.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
""",
    "_rest": """\
def _rest(x):
    upper = _upper(x)
    return tl.where(x == upper, 0.0, x - upper)
""",
    "_get_packed": """\
def _get_packed(byte, at, BITS: tl.constexpr, SIGNED: tl.constexpr):
    shift = ((at % (8 // BITS)) * BITS).to(tl.int32)
    x = (byte.to(tl.int32) >> shift) & ((1 << BITS) - 1)
    if SIGNED:
        return ((x ^ (1 << (BITS - 1))) - (1 << (BITS - 1))).to(tl.int8)
    else:
        return x.to(tl.uint8)
""",
    "_put_packed": """\
def _put_packed(words, at, x, inside, count, BITS: tl.constexpr):
    ones: tl.constexpr = (1 << BITS) - 1
    bit = ((at % (32 // BITS)) * BITS).to(tl.int32)
    first = bit % 8
    kept = tl.where(at == count - 1, (255 << first) & 255, ones << first) << (bit - first)
    tl.atomic_and(words + at // (32 // BITS), ~kept, mask=inside, sem="relaxed")
    tl.atomic_or(words + at // (32 // BITS), (x.to(tl.int32) & ones) << bit, mask=inside, sem="relaxed")
""",
    "_wrap": """\
def _wrap(x, BITS: tl.constexpr, SIGNED: tl.constexpr):
    x = x.to(tl.int32) & ((1 << BITS) - 1)
    if SIGNED:
        return ((x ^ (1 << (BITS - 1))) - (1 << (BITS - 1))).to(tl.int8)
    else:
        return x.to(tl.uint8)
""",
}

#: Integers: division by zero gives 0, as the other targets have it; shifts by the width and more give what shifting
#: one place at a time would.
_INTEGERS = {
    "_floordiv": "def _floordiv(a, b):\n    return a // b - ((a % b != 0) & ((a < 0) != (b < 0))).to(tl.int32)\n",
    "_floormod": "def _floormod(a, b):\n    return ((a % b) + b) % b\n",
    "_divide": "def _divide(a, b):\n    return tl.where(b == 0, 0, a // tl.where(b == 0, 1, b))\n",
    "_remainder": "def _remainder(a, b):\n    return tl.where(b == 0, a, a % tl.where(b == 0, 1, b))\n",
    "_modulo": (
        "def _modulo(a, b):\n"
        "    r = _remainder(a, b)\n"
        "    return tl.where((r != 0) & ((r < 0) != (b < 0)), r + b, r)\n"
    ),
    "_shift_left": (
        "def _shift_left(a, b, BITS: tl.constexpr):\n"
        "    inside = (b >= 0) & (b < BITS)\n"
        "    return tl.where(inside, a << tl.where(inside, b, 0), 0).to(a.dtype)\n"
    ),
    "_shift_right": (
        "def _shift_right(a, b, BITS: tl.constexpr):\n"
        "    inside = (b >= 0) & (b < BITS)\n"
        "    return (a >> tl.where(inside, b, BITS - 1).to(a.dtype)) * (inside | (a < 0)).to(a.dtype)\n"
    ),
    "_power": (
        "def _power(a, b, BITS: tl.constexpr):\n"
        "    x, rest, result = a, b, a * 0 + 1\n"
        "    for _ in range(BITS):\n"
        "        result = tl.where((rest & 1) != 0, result * x, result).to(a.dtype)\n"
        "        x = (x * x).to(a.dtype)\n"
        "        rest = (rest >> 1).to(b.dtype)\n"
        "    inverse = tl.where(a == 1, 1, tl.where(a + 1 == 0, 1 - 2 * (b & 1), 0)).to(a.dtype)\n"
        "    return tl.where(b < 0, inverse, result)\n"
    ),
}  # fmt: skip

DEFINITIONS = {
    "_max": "def _max(a, b):\n" + _EXTREME.format("max"),
    "_min": "def _min(a, b):\n" + _EXTREME.format("min"),
    "_product": "def _product(a, b):\n    return a * b\n",
    "_any": "def _any(a, b):\n    return a | b\n",
    "_all": "def _all(a, b):\n    return a & b\n",
    "_sign": "def _sign(x):\n    return tl.where(x > 0, 1, tl.where(x < 0, -1, x)).to(x.dtype)\n",
    "_round": (
        "def _round(x):\n"
        "    return tl.where(tl.abs(x) < 4194304.0, (x + 12582912.0) - 12582912.0, x)\n"
    ),
    "_round64": (
        "def _round64(x):\n"
        "    return tl.where(tl.abs(x) < 2251799813685248.0, (x + 6755399441055744.0) - 6755399441055744.0, x)\n"
    ),
    "_tanh": (
        "def _tanh(x):\n"
        "    z = x * x\n"
        "    p = -0.005905865 * z + 0.020805383\n"
        "    p = p * z - 0.053786684\n"
        "    p = p * z + 0.13331959\n"
        "    p = p * z - 0.333332986\n"
        "    far = 1.0 - 2.0 / (tl.exp(2.0 * tl.abs(x)) + 1.0)\n"
        "    return tl.where(tl.abs(x) < 0.6, x + x * (z * p), tl.where(x < 0.0, -far, far))\n"
    ),
    "_floatmod": (
        "def _floatmod(a, b):\n"
        "    r = libdevice.fmod(a, b)\n"
        "    return tl.where((r != 0) & ((r < 0) != (b < 0)), r + b, r)\n"
    ),
    # A run-time index outside its tensor: the run is refused.
    "_refuse": (
        "def _refuse(fault, outside):\n"
        "    tl.store(fault + outside.to(tl.int32) * 0, 1, mask=outside)\n"
    ),
    **_INTEGERS,
    **_FLOATS,
    **{f"_{t}_value": f"def _{t}_value(code):\n    return _value(code, {form})\n" for t, form in _NARROW.items()},
    **{f"_{t}_bits": f"def _{t}_bits(x):\n    return _bits(x, {form})\n" for t, form in _NARROW.items()},
    **_EXPONENTS,
    **_PACKED,
}  # fmt: skip

_CALL = re.compile(r"(?<![\w.])(_[a-z]\w*)(?=\()|, (_[a-z]\w*)\)")
LIBDEVICE = "from triton.language.extra.cuda import libdevice\n"


def definitions_used(text: str) -> list[str]:
    """Definitions that ``text`` calls and those that they call, in the order of :data:`DEFINITIONS`; with an import
    before them where something is NVIDIA's own function."""
    used: set[str] = set()
    pending = [text]
    while pending:
        found = {name for pair in _CALL.findall(pending.pop()) for name in pair if name in DEFINITIONS} - used
        used |= found
        pending += [DEFINITIONS[name] for name in found]
    bodies = [f"@triton.jit\n{body}" for name, body in DEFINITIONS.items() if name in used]
    return [LIBDEVICE, *bodies] if any("libdevice." in x for x in (text, *bodies)) else bodies
