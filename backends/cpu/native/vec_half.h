/* Half precisions: bits in memory, f32 in registers; rounding to nearest even. */
#ifndef TW_VEC_HALF_H
#define TW_VEC_HALF_H
#include "vec_math.h"

TW_INLINE f32v bf16_value(u16v x) { return (f32v)(to(u32, x) << 16); }
TW_INLINE u16v bf16_bits(f32v x) {
    const u32v b = (u32v)x;
    const u32v rounded = (b + 0x7fff + ((b >> 16) & 1)) >> 16;
    return to(u16, select_u32(x != x, (b >> 16) | 0x40, rounded));
}

/* Conversions are the compilers' builtins, for the reason in vec.h; the last 0 rounds to the nearest. */
#if defined(__F16C__) && TW_LANES == 8
typedef short half_bits __attribute__((vector_size(16)));
TW_INLINE f32v f16_value(u16v x) {
#if defined(__clang__)
    typedef _Float16 half __attribute__((vector_size(16)));
    return __builtin_convertvector((half)x, f32v);
#else
    return __builtin_ia32_vcvtph2ps256((half_bits)x);
#endif
}
TW_INLINE u16v f16_bits(f32v x) { return (u16v)__builtin_ia32_vcvtps2ph256(x, 0); }
#elif defined(__AVX512F__) && TW_LANES == 16
typedef short half_bits __attribute__((vector_size(32)));
TW_INLINE f32v f16_value(u16v x) { return __builtin_ia32_vcvtph2ps512_mask((half_bits)x, (f32v){0}, 0xffff, 4); }
TW_INLINE u16v f16_bits(f32v x) { return (u16v)__builtin_ia32_vcvtps2ph512_mask(x, 0, (half_bits){0}, 0xffff); }
#else
TW_INLINE f32v f16_value(u16v x) {
    const u32v w = to(u32, x), sign = (w & 0x8000) << 16, m = (w & 0x7fff) << 13;
    /* Multiplying by 2^112 mends the exponent and makes subnormal numbers normal; inf and NaN are put back. */
    const f32v scaled = (f32v)m * 0x1p112f;
    const u32v special = m | 0x7f800000;
    const u32v value = select_u32((i32v)(m >= (0x7c00u << 13)), special, (u32v)scaled);
    return (f32v)(value | sign);
}
TW_INLINE u16v f16_bits(f32v x) {
    const u32v b = (u32v)x, sign = (b >> 16) & 0x8000;
    const f32v a = select_f32(abs_f32(x) > 65536.0f, set_f32(65536.0f), abs_f32(x));
    /* Adding a number whose last place is that of the f16 result rounds to it, once. */
    const u32v e = select_u32(a < 0x1p-14f, set_u32(113u << 23), (u32v)a & 0x7f800000);
    const f32v magic = (f32v)(e + (13u << 23));
    const f32v rounded = (a + magic) - magic;
    const u32v normal = ((u32v)rounded - (112u << 23)) >> 13;
    const u32v tiny = to(u32, to(i32, rounded * 0x1p24f));
    u32v h = select_u32(rounded < 0x1p-14f, tiny, normal);
    h = select_u32(rounded >= 65536.0f, set_u32(0x7c00), h);
    h = select_u32(x != x, set_u32(0x7e00), h);
    return to(u16, h | sign);
}
#endif
TW_INLINE f32v round_f16(f32v x) { return f16_value(f16_bits(x)); }
TW_INLINE f32v round_bf16(f32v x) { return bf16_value(bf16_bits(x)); }

#endif
