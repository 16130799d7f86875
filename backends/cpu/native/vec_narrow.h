/* Element types of 8 bits and less: floats are f32 in registers, rounded to the nearest with ties to even; integers of
 * 4 and 2 bits are bytes in registers and share a byte in memory, the first element in its lowest bits.
 */
#ifndef TW_VEC_NARROW_H
#define TW_VEC_NARROW_H
#include "vec_math.h"

/* ---- floats ------------------------------------------------------------------------------------------------------ */

/* A float of one sign bit above `exponent` bits and `digits` bits. Values beyond `largest` become the code `over`, NaN
 * becomes `nan`; codes from `special` on are infinities (that one alone, if `has_inf`) and NaNs. Where `unsigned_zero`,
 * the code of -0 is the only NaN instead.
 */
#define TW_NARROW_FLOAT(T, exponent, digits, bias, largest, over, nan, special, has_inf, unsigned_zero)              \
    TW_INLINE f32v T##_value(u8v x) {                                                                                \
        const u32v w = to(u32, x), m = w & ((1u << ((exponent) + (digits))) - 1);                                    \
        const u32v sign = (w >> ((exponent) + (digits)) & 1) << 31;                                                  \
        /* Multiplying mends the exponent and makes subnormal numbers normal. */                                     \
        const f32v scaled = (f32v)(m << (23 - (digits))) * f32_power(127 - (bias));                                  \
        u32v value = (u32v)scaled;                                                                                   \
        value = select_u32((i32v)(m >= (special)), set_u32(0x7fc00000), value);                                      \
        if (has_inf) value = select_u32((i32v)(m == (special)), set_u32(0x7f800000), value);                         \
        if (unsigned_zero) value = select_u32((i32v)((sign != 0) & (m == 0)), set_u32(0x7fc00000), value);           \
        return (f32v)(value | sign);                                                                                 \
    }                                                                                                                \
    TW_INLINE u8v T##_bits(f32v x) {                                                                                 \
        const u32v sign = (u32v)x >> 31 << ((exponent) + (digits));                                                  \
        const f32v a = select_f32(abs_f32(x) > 131072.0f, set_f32(131072.0f), abs_f32(x));                           \
        const f32v least = f32_power(1 - (bias)); /* of the normal numbers */                                        \
        /* Adding a number whose last place is that of the result rounds to it, once. */                             \
        const u32v e = select_u32(a < least, (u32v)least, (u32v)a & 0x7f800000);                                     \
        const f32v magic = (f32v)(e + ((23u - (digits)) << 23));                                                     \
        const f32v rounded = (a + magic) - magic;                                                                    \
        const u32v normal = ((u32v)rounded - ((127u - (bias)) << 23)) >> (23 - (digits));                            \
        const u32v tiny = to(u32, to(i32, rounded * f32_power((bias)-1 + (digits))));                                \
        u32v code = select_u32(rounded < least, tiny, normal);                                                       \
        code = select_u32(rounded > (largest), set_u32(over), code);                                                 \
        code = select_u32(x != x, set_u32(nan), code);                                                               \
        return to(u8, unsigned_zero ? select_u32((i32v)((code == 0) | (code == (nan))), code, code | sign)           \
                                    : code | sign);                                                                  \
    }                                                                                                                \
    TW_INLINE f32v round_##T(f32v x) { return T##_value(T##_bits(x)); }

TW_INLINE f32v f32_power(int n) { return (f32v)set_i32((n + 127) << 23); }

TW_NARROW_FLOAT(f8e4m3, 4, 3, 7, 448.0f, 0x7f, 0x7f, 0x7f, 0, 0)
TW_NARROW_FLOAT(f8e5m2, 5, 2, 15, 57344.0f, 0x7c, 0x7e, 0x7c, 1, 0)
TW_NARROW_FLOAT(f8e4m3fnuz, 4, 3, 8, 240.0f, 0x80, 0x80, 0x80, 0, 1)
TW_NARROW_FLOAT(f8e5m2fnuz, 5, 2, 16, 57344.0f, 0x80, 0x80, 0x80, 0, 1)
/* No infinity and no NaN: the largest number, and -0. */
TW_NARROW_FLOAT(f4e2m1, 2, 1, 1, 6.0f, 7, 8, 8, 0, 0)

/* Powers of two: the exponent alone. Halfway goes up; what is not positive and finite becomes NaN. */
TW_INLINE f32v f8e8m0_value(u8v x) {
    const u32v w = to(u32, x);
    const u32v value = select_u32((i32v)(w == 0), set_u32(0x00400000), w << 23);
    return (f32v)select_u32((i32v)(w == 255), set_u32(0x7fc00000), value);
}
TW_INLINE u8v f8e8m0_bits(f32v x) {
    const u32v b = (u32v)x;
    /* Of the subnormal numbers, those up to the middle between 2^-127 and 2^-126 are the former. */
    const u32v up = select_u32((i32v)(b < 0x00800000), to(u32, b >= 0x00600000) & 1, b >> 22 & 1);
    const u32v code = (b >> 23) + up;
    return to(u8, select_u32((x > 0.0f) & (x < __builtin_inff()), code, set_u32(255)));
}
TW_INLINE f32v round_f8e8m0(f32v x) { return f8e8m0_value(f8e8m0_bits(x)); }

/* ---- integers, and elements that share a byte -------------------------------------------------------------------- */

TW_INLINE u8v wrap_u4(u8v x) { return x & 15; }
TW_INLINE i8v wrap_i4(i8v x) { return (i8v)((u8v)x << 4) >> 4; }
TW_INLINE u8v wrap_u2(u8v x) { return x & 3; }
TW_INLINE i8v wrap_i2(i8v x) { return (i8v)((u8v)x << 6) >> 6; }

TW_INLINE uint8_t get_packed(const uint8_t *p, int bits, int64_t i) {
    const int64_t bit = i * bits;
    return (uint8_t)(p[bit >> 3] >> (bit & 7) & ((1 << bits) - 1));
}
/* Write element i of count: other threads may be writing the others of the byte. The last one clears what follows it. */
TW_INLINE void put_packed(uint8_t *p, int bits, int64_t i, uint8_t x, int64_t count) {
    const int64_t bit = i * bits;
    const int shift = (int)(bit & 7), ones = (1 << bits) - 1;
    const int mask = i == count - 1 ? 0xff << shift : ones << shift;
    __atomic_fetch_and(p + (bit >> 3), (uint8_t)~mask, __ATOMIC_RELAXED);
    __atomic_fetch_or(p + (bit >> 3), (uint8_t)((x & ones) << shift), __ATOMIC_RELAXED);
}

#endif
