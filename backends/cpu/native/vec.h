/* Vectors for generated kernels: TW_LANES elements of any type, one spelling for every instruction set.
 *
 * The generated file defines TW_LANES (32-bit elements of one register: 4, 8 or 16) and includes this. A vector of a
 * wider or narrower type has the same number of lanes; the compiler splits or packs it. A condition is an i32 vector
 * of 0 and -1. Products and sums may contract to fused multiply-adds, where the target has them.
 */
#ifndef TW_VEC_H
#define TW_VEC_H
#include <stddef.h>
#include <stdint.h>

#include "kernel_abi.h"

#define TW_INLINE static inline __attribute__((always_inline))
#define TW_RESTRICT __restrict__
#define TW_ALIGN __attribute__((aligned(64)))
#if defined(__clang__)
#define TW_UNROLL _Pragma("clang loop unroll(full)")
#define TW_ROLLED _Pragma("clang loop unroll(disable) vectorize(disable)")
#else
#define TW_UNROLL _Pragma("GCC unroll 64")
#define TW_ROLLED _Pragma("GCC unroll 1")
#endif
/* Kernels are compiled without the headers of a C library. */
void *memcpy(void *TW_RESTRICT to, const void *TW_RESTRICT from, size_t bytes);
void *memset(void *to, int byte, size_t bytes);

#define TW_FOR(i, n) for (int i = 0; i < (n); i++)

TW_INLINE int64_t min_int(int64_t a, int64_t b) { return a < b ? a : b; }
TW_INLINE int64_t max_int(int64_t a, int64_t b) { return a > b ? a : b; }
/* A run-time index: as it is when within [0, size), else 0, and the run is refused. */
TW_INLINE int64_t checked_row(const tw_args *args, int64_t row, int64_t size) {
    if ((uint64_t)row < (uint64_t)size) return row;
    __atomic_store_n(args->fault, 1, __ATOMIC_RELAXED);
    return 0;
}
/* Whether a run-time index to write at is within [0, size); when not, the run is refused. */
TW_INLINE int row_inside(const tw_args *args, int64_t row, int64_t size) {
    if ((uint64_t)row < (uint64_t)size) return 1;
    __atomic_store_n(args->fault, 1, __ATOMIC_RELAXED);
    return 0;
}
TW_INLINE int64_t ceil_int(int64_t a, int64_t b) { return (a + b - 1) / b; }
/* Division that rounds down, and its remainder; b > 0 everywhere in index arithmetic. */
TW_INLINE int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }
TW_INLINE int64_t floor_mod(int64_t a, int64_t b) { return a % b + (a % b < 0 ? b : 0); }

/* ---- types, loads and stores ---------------------------------------------------------------------------------- */

/* Masked moves are the compilers' builtins: reading <immintrin.h> takes longer than compiling most kernels. */
#if defined(__AVX512BW__) && TW_LANES == 16
typedef char live_1 __attribute__((vector_size(16)));
typedef short live_2 __attribute__((vector_size(32)));
typedef int live_4 __attribute__((vector_size(64)));
typedef long long live_8 __attribute__((vector_size(64)));
#define TW_LIVE16(n) ((unsigned short)((1u << (n)) - 1))
#define TW_LIVE8(n) ((unsigned char)TW_LIVE16(n))
TW_INLINE void load_live_1(void *v, const void *p, int64_t n) {
    *(live_1 *)v = __builtin_ia32_loaddquqi128_mask(p, (live_1){0}, TW_LIVE16(n));
}
TW_INLINE void load_live_2(void *v, const void *p, int64_t n) {
    *(live_2 *)v = __builtin_ia32_loaddquhi256_mask(p, (live_2){0}, TW_LIVE16(n));
}
TW_INLINE void load_live_4(void *v, const void *p, int64_t n) {
    *(live_4 *)v = __builtin_ia32_loaddqusi512_mask(p, (live_4){0}, TW_LIVE16(n));
}
TW_INLINE void load_live_8(void *v, const void *p, int64_t n) {
    ((live_8 *)v)[0] = __builtin_ia32_loaddqudi512_mask(p, (live_8){0}, TW_LIVE8(n));
    ((live_8 *)v)[1] =
        __builtin_ia32_loaddqudi512_mask((const void *)((const int64_t *)p + 8), (live_8){0}, TW_LIVE16(n) >> 8);
}
TW_INLINE void store_live_1(void *p, const void *v, int64_t n) {
    __builtin_ia32_storedquqi128_mask(p, *(const live_1 *)v, TW_LIVE16(n));
}
TW_INLINE void store_live_2(void *p, const void *v, int64_t n) {
    __builtin_ia32_storedquhi256_mask(p, *(const live_2 *)v, TW_LIVE16(n));
}
TW_INLINE void store_live_4(void *p, const void *v, int64_t n) {
    __builtin_ia32_storedqusi512_mask(p, *(const live_4 *)v, TW_LIVE16(n));
}
TW_INLINE void store_live_8(void *p, const void *v, int64_t n) {
    __builtin_ia32_storedqudi512_mask(p, ((const live_8 *)v)[0], TW_LIVE8(n));
    __builtin_ia32_storedqudi512_mask((void *)((int64_t *)p + 8), ((const live_8 *)v)[1], TW_LIVE16(n) >> 8);
}
#else
#define TW_LIVE_BY_LANE(size)                                                                                        \
    TW_INLINE void load_live_##size(void *v, const void *p, int64_t n) {                                             \
        memset(v, 0, (size) * TW_LANES);                                                                             \
        for (int64_t i = 0; i < n; i++) memcpy((char *)v + (size) * i, (const char *)p + (size) * i, size);          \
    }                                                                                                                \
    TW_INLINE void store_live_##size(void *p, const void *v, int64_t n) {                                            \
        for (int64_t i = 0; i < n; i++) memcpy((char *)p + (size) * i, (const char *)v + (size) * i, size);          \
    }
TW_LIVE_BY_LANE(1)
TW_LIVE_BY_LANE(2)
TW_LIVE_BY_LANE(8)
#if defined(__AVX2__) && TW_LANES == 8
typedef int live_4 __attribute__((vector_size(32)));
TW_INLINE live_4 live_mask(int64_t n) { return (live_4){0, 1, 2, 3, 4, 5, 6, 7} < (live_4){0} + (int)n; }
TW_INLINE void load_live_4(void *v, const void *p, int64_t n) {
    *(live_4 *)v = __builtin_ia32_maskloadd256(p, live_mask(n));
}
TW_INLINE void store_live_4(void *p, const void *v, int64_t n) {
    __builtin_ia32_maskstored256(p, live_mask(n), *(const live_4 *)v);
}
#else
TW_LIVE_BY_LANE(4)
#endif
#endif

/* load_T(p): TW_LANES elements. load_part_T(p, n): the first n <= TW_LANES, 0 behind them. store_…: likewise. */
#define TW_VECTOR(T, C, size)                                                                                        \
    typedef C T##v __attribute__((vector_size((size) * TW_LANES)));                                                  \
    typedef C T##u __attribute__((vector_size((size) * TW_LANES), aligned(size)));                                   \
    TW_INLINE T##v load_##T(const C *p) { return *(const T##u *)p; }                                                 \
    TW_INLINE void store_##T(C *p, T##v x) { *(T##u *)p = x; }                                                       \
    TW_INLINE T##v load_part_##T(const C *p, int64_t n) {                                                            \
        T##v x;                                                                                                      \
        if (__builtin_expect(n >= TW_LANES, 1)) return load_##T(p);                                                  \
        load_live_##size(&x, p, n);                                                                                  \
        return x;                                                                                                    \
    }                                                                                                                \
    TW_INLINE void store_part_##T(C *p, T##v x, int64_t n) {                                                         \
        if (__builtin_expect(n >= TW_LANES, 1)) store_##T(p, x);                                                     \
        else store_live_##size(p, &x, n);                                                                            \
    }                                                                                                                \
    TW_INLINE T##v set_##T(C x) {                                                                                    \
        T##v r;                                                                                                      \
        TW_UNROLL TW_FOR(l, TW_LANES) r[l] = x;                                                                      \
        return r;                                                                                                    \
    }                                                                                                                \
    TW_INLINE T##v load_strided_##T(const C *p, int64_t stride, int64_t n) {                                         \
        T##v r = set_##T(0);                                                                                         \
        TW_UNROLL TW_FOR(l, TW_LANES) if (l < n) r[l] = p[l * stride];                                               \
        return r;                                                                                                    \
    }                                                                                                                \
    TW_INLINE void store_strided_##T(C *p, int64_t stride, T##v x, int64_t n) {                                      \
        TW_UNROLL TW_FOR(l, TW_LANES) if (l < n) p[l * stride] = x[l];                                               \
    }
TW_VECTOR(f32, float, 4)
TW_VECTOR(f64, double, 8)
TW_VECTOR(i8, int8_t, 1)
TW_VECTOR(u8, uint8_t, 1)
TW_VECTOR(i16, int16_t, 2)
TW_VECTOR(u16, uint16_t, 2)
TW_VECTOR(i32, int32_t, 4)
TW_VECTOR(u32, uint32_t, 4)
TW_VECTOR(i64, int64_t, 8)
TW_VECTOR(u64, uint64_t, 8)
#define to(T, x) __builtin_convertvector((x), T##v)

/* 0, 1, 2 … */
TW_INLINE i64v lanes_i64(void) {
    i64v r;
    TW_UNROLL TW_FOR(l, TW_LANES) r[l] = l;
    return r;
}
TW_INLINE i32v lanes_i32(void) { return to(i32, lanes_i64()); }
/* The condition of the lanes below n. */
TW_INLINE i32v live(int64_t n) { return lanes_i32() < set_i32((int32_t)min_int(n, TW_LANES)); }

/* ---- conditions and selection ---------------------------------------------------------------------------------- */

TW_INLINE i32v to_condition(u8v x) { return to(i32, x) != 0; }
TW_INLINE u8v from_condition(i32v c) { return to(u8, c & 1); }
#define TW_SELECT(T, M)                                                                                              \
    TW_INLINE T##v select_##T(i32v c, T##v a, T##v b) {                                                              \
        M##v m = to(M, c);                                                                                           \
        return (T##v)(((M##v)a & m) | ((M##v)b & ~m));                                                               \
    }
TW_SELECT(f32, i32)
TW_SELECT(f64, i64)
TW_SELECT(i8, i8)
TW_SELECT(u8, i8)
TW_SELECT(i16, i16)
TW_SELECT(u16, i16)
TW_SELECT(i32, i32)
TW_SELECT(u32, i32)
TW_SELECT(i64, i64)
TW_SELECT(u64, i64)

/* Minimum and maximum; a NaN in either operand is the result. */
#define TW_EXTREMA(T)                                                                                                \
    TW_INLINE T##v max_##T(T##v a, T##v b) { return select_##T(to(i32, (a > b) | (a != a)), a, b); }                 \
    TW_INLINE T##v min_##T(T##v a, T##v b) { return select_##T(to(i32, (a < b) | (a != a)), a, b); }
/* The same for floats: one instruction, and all bits set (a NaN) where the first operand was one. */
#define TW_FLOAT_EXTREMA(T, M)                                                                                       \
    TW_INLINE T##v max_##T(T##v a, T##v b) {                                                                         \
        const M##v m = a > b;                                                                                        \
        return (T##v)(((M##v)a & m) | ((M##v)b & ~m) | (a != a));                                                    \
    }                                                                                                                \
    TW_INLINE T##v min_##T(T##v a, T##v b) {                                                                         \
        const M##v m = a < b;                                                                                        \
        return (T##v)(((M##v)a & m) | ((M##v)b & ~m) | (a != a));                                                    \
    }
/* And with a first operand that is known to be a number: just the instruction. */
#define TW_FLOAT_LIMITS(T, M)                                                                                        \
    TW_INLINE T##v at_least_##T(T##v limit, T##v x) {                                                                \
        const M##v m = limit > x;                                                                                    \
        return (T##v)(((M##v)limit & m) | ((M##v)x & ~m));                                                           \
    }                                                                                                                \
    TW_INLINE T##v at_most_##T(T##v limit, T##v x) {                                                                 \
        const M##v m = limit < x;                                                                                    \
        return (T##v)(((M##v)limit & m) | ((M##v)x & ~m));                                                           \
    }
TW_FLOAT_EXTREMA(f32, i32)
TW_FLOAT_EXTREMA(f64, i64)
TW_FLOAT_LIMITS(f32, i32)
TW_FLOAT_LIMITS(f64, i64)
TW_EXTREMA(i8)
TW_EXTREMA(u8)
TW_EXTREMA(i16)
TW_EXTREMA(u16)
TW_EXTREMA(i32)
TW_EXTREMA(u32)
TW_EXTREMA(i64)
TW_EXTREMA(u64)

/* ---- across the lanes, always in the same order ----------------------------------------------------------------- */

#define TW_ACROSS(T, C, name, combine)                                                                               \
    TW_INLINE C name##_across_##T(T##v x) {                                                                          \
        C half[TW_LANES];                                                                                            \
        TW_UNROLL TW_FOR(l, TW_LANES) half[l] = x[l];                                                                \
        TW_UNROLL for (int width = TW_LANES / 2; width; width /= 2)                                                  \
            TW_UNROLL TW_FOR(l, width) {                                                                             \
                const C a = half[l], b = half[l + width];                                                            \
                half[l] = combine;                                                                                   \
            }                                                                                                        \
        return half[0];                                                                                              \
    }
#define TW_ACROSS_ALL(T, C)                                                                                          \
    TW_ACROSS(T, C, sum, (C)(a + b))                                                                                 \
    TW_ACROSS(T, C, prod, (C)(a * b))                                                                                \
    TW_ACROSS(T, C, max, (a > b) | (a != a) ? a : b)                                                                 \
    TW_ACROSS(T, C, min, (a < b) | (a != a) ? a : b)
TW_ACROSS_ALL(f32, float)
TW_ACROSS_ALL(f64, double)
TW_ACROSS_ALL(i8, int8_t)
TW_ACROSS_ALL(u8, uint8_t)
TW_ACROSS_ALL(i16, int16_t)
TW_ACROSS_ALL(u16, uint16_t)
TW_ACROSS_ALL(i32, int32_t)
TW_ACROSS_ALL(u32, uint32_t)
TW_ACROSS_ALL(i64, int64_t)
TW_ACROSS_ALL(u64, uint64_t)

/* ---- integers ---------------------------------------------------------------------------------------------------- */

/* Division truncates; x / 0 is 0 and the most negative over -1 wraps, so that padded lanes never trap.
 * rem takes the sign of the dividend, mod that of the divisor. Shifts by the width or more give 0 (or the sign). */
#define TW_INTEGER(T, C, U, is_signed)                                                                               \
    TW_INLINE T##v div_##T(T##v a, T##v b) {                                                                         \
        T##v r;                                                                                                      \
        TW_UNROLL TW_FOR(l, TW_LANES) {                                                                              \
            const C d = b[l];                                                                                        \
            r[l] = d == 0 ? 0 : (is_signed) && d == (C)-1 ? (C)(0 - (U)a[l]) : (C)(a[l] / d);                        \
        }                                                                                                            \
        return r;                                                                                                    \
    }                                                                                                                \
    TW_INLINE T##v fmod_##T(T##v a, T##v b) { return a - div_##T(a, b) * b; }                                        \
    TW_INLINE T##v mod_##T(T##v a, T##v b) {                                                                         \
        const T##v r = fmod_##T(a, b);                                                                               \
        return select_##T(to(i32, (r != 0) & ((r ^ b) < 0)), r + b, r);                                              \
    }                                                                                                                \
    TW_INLINE T##v shl_##T(T##v a, T##v b) {                                                                         \
        const T##v bits = set_##T((C)(8 * sizeof(C)));                                                               \
        return select_##T(to(i32, (b < bits) & (b >= 0)), a << (b & (bits - 1)), set_##T(0));                        \
    }                                                                                                                \
    TW_INLINE T##v shr_##T(T##v a, T##v b) {                                                                         \
        const T##v bits = set_##T((C)(8 * sizeof(C)));                                                               \
        return select_##T(to(i32, (b < bits) & (b >= 0)), a >> (b & (bits - 1)),                  \
                          select_##T(to(i32, a < 0), set_##T((C)-1), set_##T(0)));                                    \
    }                                                                                                                \
    TW_INLINE T##v pow_##T(T##v a, T##v b) {                                                                         \
        T##v r;                                                                                                      \
        for (int l = 0; l < TW_LANES; l++) {                                                                         \
            U base = (U)a[l], result = 1;                                                                            \
            C e = b[l];                                                                                              \
            if (e < 0) result = a[l] == 1 ? 1 : (is_signed) && a[l] == (C)-1 ? (e & 1 ? (U)-1 : 1) : 0;              \
            for (; e > 0; e >>= 1, base *= base) result *= e & 1 ? base : 1;                                         \
            r[l] = (C)result;                                                                                        \
        }                                                                                                            \
        return r;                                                                                                    \
    }                                                                                                                \
    TW_INLINE T##v abs_##T(T##v a) { return select_##T(to(i32, a < 0), 0 - a, a); }                                  \
    TW_INLINE T##v sign_##T(T##v a) { return select_##T(to(i32, a < 0), set_##T((C)-1), to(T, (a > 0) & 1)); }
TW_INTEGER(i8, int8_t, uint8_t, 1)
TW_INTEGER(u8, uint8_t, uint8_t, 0)
TW_INTEGER(i16, int16_t, uint16_t, 1)
TW_INTEGER(u16, uint16_t, uint16_t, 0)
TW_INTEGER(i32, int32_t, uint32_t, 1)
TW_INTEGER(u32, uint32_t, uint32_t, 0)
TW_INTEGER(i64, int64_t, uint64_t, 1)
TW_INTEGER(u64, uint64_t, uint64_t, 0)

#endif
