/* What every routine starts from. The generated file defines, for each buffer n of the call, Tn (its C type in memory,
 * half precisions as their bits), Vn (the type it is computed in) and GETn(i), PUTn(i, v) on element i, then ROUTINE,
 * the name of the function; and includes a file of routines/ that defines the function.
 *
 * A file that includes one of vec_*.h has vectors of TW_LANES elements, see vec.h.
 * No header of the C library is there but stdint.h, stddef.h and the like; libm.h declares what is wanted of libm.
 * Sizes and attributes are integers: DIM(k). Contents of buffers are not to be trusted: an index that they hold is
 * checked, and a run with a bad one is refused (REFUSE).
 */
#ifndef TW_ROUTINE_H
#define TW_ROUTINE_H
#include <stdint.h>

#include "kernel_abi.h"

#if defined(TW_LANES) /* of a routine that uses vectors */
#include "vec.h"
#else
#define memcpy __builtin_memcpy
#define memmove __builtin_memmove
#define memset __builtin_memset
#define memcmp __builtin_memcmp
#define TW_INLINE static inline __attribute__((always_inline))
TW_INLINE int64_t min_int(int64_t a, int64_t b) { return a < b ? a : b; }
TW_INLINE int64_t max_int(int64_t a, int64_t b) { return a > b ? a : b; }
#endif
#define BUFFER(n) (args->buffer[n])
#define DIM(k) (args->dim[k])
#define REFUSE() __atomic_store_n(args->fault, 1, __ATOMIC_RELAXED)
#define TW_DEFINE(name) void name(const tw_args *args, int64_t begin, int64_t end)

/* An attribute that is a float travels as the bits of a double. */
TW_INLINE double tw_float_of(int64_t bits) {
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

TW_INLINE float tw_bits_to_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

TW_INLINE uint32_t tw_float_to_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

TW_INLINE float tw_from_bf16(uint16_t x) { return tw_bits_to_float((uint32_t)x << 16); }

TW_INLINE uint16_t tw_to_bf16(float x) {
    uint32_t b = tw_float_to_bits(x);
    return (uint16_t)(x != x ? b >> 16 | 0x40 : (b + 0x7fff + (b >> 16 & 1)) >> 16);
}

TW_INLINE float tw_from_f16(uint16_t x) {
    uint32_t m = (uint32_t)(x & 0x7fff) << 13, sign = (uint32_t)(x & 0x8000) << 16;
    /* Multiplying by 2^112 mends the exponent and makes subnormal numbers normal; inf and NaN are put back. */
    uint32_t value = m >= 0x7c00u << 13 ? m | 0x7f800000 : tw_float_to_bits(tw_bits_to_float(m) * 0x1p112f);
    return tw_bits_to_float(value | sign);
}

TW_INLINE uint16_t tw_to_f16(float x) {
    uint32_t b = tw_float_to_bits(x), sign = b >> 16 & 0x8000;
    float a = tw_bits_to_float(b & 0x7fffffff);
    if (x != x) return (uint16_t)(0x7e00 | sign);
    if (a > 65536.0f) a = 65536.0f;
    /* Adding a number whose last place is that of the f16 result rounds to it, once. */
    uint32_t exponent = a < 0x1p-14f ? 113u << 23 : tw_float_to_bits(a) & 0x7f800000;
    volatile float shifted = a + tw_bits_to_float(exponent + (13u << 23));
    float rounded = shifted - tw_bits_to_float(exponent + (13u << 23));
    if (rounded >= 65536.0f) return (uint16_t)(0x7c00 | sign);
    if (rounded < 0x1p-14f) return (uint16_t)((uint32_t)(rounded * 0x1p24f) | sign);
    return (uint16_t)((tw_float_to_bits(rounded) - (112u << 23)) >> 13 | sign);
}

#endif
