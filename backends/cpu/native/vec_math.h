/* Elementary functions on f32 vectors, by polynomials fitted for this file (minimax, Remez, weights as noted).
 *
 * Bounds are the largest errors over all exponents, in units of the last place, held by tests/cpu/test_vec_math.py:
 * exp 2, exp2 2, log 2, log2 3, tanh 3, erf 2, sigmoid 3, rsqrt 2; sqrt, reciprocal, floor, ceil, round exact.
 */
#ifndef TW_VEC_MATH_H
#define TW_VEC_MATH_H
#include "vec.h"

TW_INLINE f32v f32_bits(i32v x) { return (f32v)x; }
TW_INLINE i32v bits_f32(f32v x) { return (i32v)x; }
TW_INLINE f32v abs_f32(f32v x) { return f32_bits(bits_f32(x) & 0x7fffffff); }
TW_INLINE f32v copysign_f32(f32v x, f32v sign) {
    return f32_bits((bits_f32(x) & 0x7fffffff) | (bits_f32(sign) & (int32_t)0x80000000));
}

/* Exact operations that are instructions where the target has them. */
#if defined(__clang__)
#define TW_ELEMENTWISE(T, name, clang, lane)                                                                         \
    TW_INLINE T##v name##_##T(T##v x) { return __builtin_elementwise_##clang(x); }
#else
#define TW_ELEMENTWISE(T, name, clang, lane)                                                                         \
    TW_INLINE T##v name##_##T(T##v x) {                                                                              \
        TW_FOR(l, TW_LANES) x[l] = lane(x[l]);                                                                       \
        return x;                                                                                                    \
    }
#endif
TW_ELEMENTWISE(f32, sqrt, sqrt, __builtin_sqrtf)
TW_ELEMENTWISE(f32, floor, floor, __builtin_floorf)
TW_ELEMENTWISE(f32, ceil, ceil, __builtin_ceilf)
TW_ELEMENTWISE(f32, round, roundeven, __builtin_rintf)
TW_ELEMENTWISE(f64, sqrt, sqrt, __builtin_sqrt)
TW_ELEMENTWISE(f64, floor, floor, __builtin_floor)
TW_ELEMENTWISE(f64, ceil, ceil, __builtin_ceil)
TW_ELEMENTWISE(f64, round, roundeven, __builtin_rint)
TW_INLINE f32v reciprocal_f32(f32v x) { return 1.0f / x; }
TW_INLINE f32v rsqrt_f32(f32v x) { return 1.0f / sqrt_f32(x); }
TW_INLINE f32v sign_f32(f32v x) {
    const f32v unit = copysign_f32(set_f32(1.0f), x);
    return select_f32((x == 0.0f) | (x != x), x, unit);
}
TW_INLINE i32v isnan_f32(f32v x) { return x != x; }
TW_INLINE i32v isinf_f32(f32v x) { return abs_f32(x) == __builtin_inff(); }

TW_INLINE f64v abs_f64(f64v x) { return (f64v)((i64v)x & INT64_MAX); }
TW_INLINE f64v reciprocal_f64(f64v x) { return 1.0 / x; }
TW_INLINE f64v rsqrt_f64(f64v x) { return 1.0 / sqrt_f64(x); }
TW_INLINE f64v sign_f64(f64v x) {
    const f64v unit = (f64v)(((i64v)x & INT64_MIN) | (i64v)set_f64(1.0));
    return select_f64(to(i32, (x == 0.0) | (x != x)), x, unit);
}
TW_INLINE i32v isnan_f64(f64v x) { return to(i32, x != x); }
TW_INLINE i32v isinf_f64(f64v x) { return to(i32, abs_f64(x) == __builtin_inf()); }

/* Rounded to an odd last digit where it is not exact: rounding that to fewer digits is like rounding x once. */
TW_INLINE f32v odd_f32(f64v x) {
    const f32v near = to(f32, x);
    const f64v back = to(f64, near);
    const i32v step = select_i32(to(i32, abs_f64(back) > abs_f64(x)), set_i32(-1), set_i32(1));
    const i32v moved = to(i32, back != x) & ((bits_f32(near) & 1) - 1);
    return f32_bits(bits_f32(near) + (step & moved));
}

/* e^r for |r| <= ln(2)/2: 1 + r + r^2 P(r); |error| < 3.4e-9. */
TW_INLINE f32v exp_reduced(f32v r) {
    f32v p = set_f32(0x1.6dbc68p-10f);
    p = p * r + 0x1.124148p-7f;
    p = p * r + 0x1.555454p-5f;
    p = p * r + 0x1.555486p-3f;
    p = p * r + 0x1p-1f;
    return p * (r * r) + r + 1.0f;
}
/* x * 2^n for integral n within [-160, 160], rounded once. */
TW_INLINE f32v scale_f32(f32v x, f32v n) {
#if defined(__AVX512F__) && TW_LANES == 16
    return __builtin_ia32_scalefps512_mask(x, n, x, 0xffff, 4 /* the current rounding direction */);
#else
    const i32v e = to(i32, n), half = e >> 1;
    return x * f32_bits((half + 127) << 23) * f32_bits((e - half + 127) << 23);
#endif
}
/* The nearest integer, for |x| < 2^22. */
TW_INLINE f32v nearest_f32(f32v x) { return (x + 0x1.8p23f) - 0x1.8p23f; }
/* n, or 0 where x is NaN and n could not become an integer. */
TW_INLINE f32v finite_f32(f32v x, f32v n) {
#if defined(__AVX512F__) && TW_LANES == 16
    return n;
#else
    return select_f32(x != x, set_f32(0.0f), n);
#endif
}

TW_INLINE f32v exp_f32(f32v x) {
    /* Beyond these the result is inf or 0; the comparisons leave a NaN as it is. */
    f32v y = select_f32(x > 90.0f, set_f32(90.0f), x);
    y = select_f32(y < -105.0f, set_f32(-105.0f), y);
    const f32v n = finite_f32(x, nearest_f32(y * 0x1.715476p+0f));
    /* ln 2 in two parts; the first has 9 bits, so that n times it is exact without a fused multiply-add. */
    const f32v r = (y - n * 0x1.63p-1f) - n * -0x1.bd0106p-13f;
    return scale_f32(exp_reduced(r), n);
}
TW_INLINE f32v exp2_f32(f32v x) {
    f32v y = select_f32(x > 130.0f, set_f32(130.0f), x);
    y = select_f32(y < -152.0f, set_f32(-152.0f), y);
    const f32v n = finite_f32(x, nearest_f32(y));
    return scale_f32(exp_reduced((y - n) * 0x1.62e430p-1f), n);
}

/* log(1 + f) - f, for sqrt(1/2) - 1 <= f <= sqrt(2) - 1: -f^2/2 + f^3 P(f); |error| < 7.3e-10 |f|. */
TW_INLINE f32v log_reduced(f32v f) {
    f32v p = set_f32(0x1.1b42b4p-4f);
    p = p * f + -0x1.e2e9b0p-4f;
    p = p * f + 0x1.e650a6p-4f;
    p = p * f + -0x1.fb432ap-4f;
    p = p * f + 0x1.2332c0p-3f;
    p = p * f + -0x1.5562e4p-3f;
    p = p * f + 0x1.99a546p-3f;
    p = p * f + -0x1.ffffeep-3f;
    p = p * f + 0x1.555546p-2f;
    const f32v square = f * f;
    return p * (f * square) - 0.5f * square;
}
/* x = (1 + f) * 2^e for positive finite x, denormals included. */
TW_INLINE f32v log_split(f32v x, f32v *e) {
    const i32v tiny = x < 0x1p-126f;
    const i32v bits = bits_f32(select_f32(tiny, x * 0x1p32f, x));
    const i32v shifted = bits - 0x3f3504f3; /* sqrt(1/2) */
    *e = to(f32, (shifted >> 23) - (tiny & 32));
    return f32_bits((shifted & 0x7fffff) + 0x3f3504f3) - 1.0f;
}
/* What log and its kin give outside the positive finite numbers. */
TW_INLINE f32v log_edges(f32v x, f32v y) {
    y = select_f32(x == 0.0f, set_f32(-__builtin_inff()), y);
    y = select_f32(x < 0.0f, set_f32(__builtin_nanf("")), y);
    return select_f32((x == __builtin_inff()) | (x != x), x, y);
}
TW_INLINE f32v log_f32(f32v x) {
    f32v e;
    const f32v f = log_split(x, &e);
    const f32v tail = log_reduced(f) + e * -0x1.bd0106p-13f;
    return log_edges(x, (tail + f) + e * 0x1.63p-1f);
}
TW_INLINE f32v log2_f32(f32v x) {
    f32v e;
    const f32v f = log_split(x, &e);
    /* log2(e) in two parts: 1 + 0.4427…; the sum keeps the leading f exact. */
    const f32v tail = log_reduced(f);
    return log_edges(x, e + (f + (tail + (f + tail) * 0x1.c551d9p-2f)));
}

TW_INLINE f32v tanh_f32(f32v x) {
    const f32v a = abs_f32(x), s = x * x;
    /* |x| < 0.63: x + x s P(s), relative error < 4.8e-9. */
    f32v p = set_f32(-0x1.72fc48p-8f);
    p = p * s + 0x1.518b16p-6f;
    p = p * s + -0x1.b8265cp-5f;
    p = p * s + 0x1.11068ep-3f;
    p = p * s + -0x1.555530p-2f;
    const f32v small = x + x * (s * p);
    const f32v large = 1.0f - 2.0f / (exp_f32(2.0f * a) + 1.0f);
    return select_f32(a < 0.63f, small, copysign_f32(large, x));
}
TW_INLINE f32v sigmoid_f32(f32v x) {
    /* e^-|x| never overflows; the two halves meet in 1/2. */
    const f32v z = exp_f32(-abs_f32(x)), d = 1.0f + z;
    return select_f32(x < 0.0f, z, select_f32(x != x, x, set_f32(1.0f))) / d;
}
TW_INLINE f32v erf_f32(f32v x) {
    const f32v a = abs_f32(x), s = x * x;
    /* |x| < 0.93: x (1 + P(x^2)), relative error < 5.2e-10. */
    f32v p = set_f32(0x1.5a99fcp-14f);
    p = p * s + -0x1.a99262p-11f;
    p = p * s + 0x1.54b476p-8f;
    p = p * s + -0x1.b80c8ep-6f;
    p = p * s + 0x1.ce2df2p-4f;
    p = p * s + -0x1.812742p-2f;
    p = p * s + 0x1.06eba80000000p-3f; /* adding x last keeps its bits */
    /* up to 4, where it rounds to 1: 1 - e^-Q(|x|), relative error < 4.7e-11. */
    const f32v t = select_f32(a > 4.0f, set_f32(4.0f), a);
    f32v q = set_f32(0x1.61ea30p-16f);
    q = q * t + -0x1.c790ecp-12f;
    q = q * t + 0x1.115ac2p-8f;
    q = q * t + -0x1.9b8e78p-6f;
    q = q * t + 0x1.bb83e4p-4f;
    q = q * t + 0x1.44460cp-1f;
    q = q * t + 0x1.2127e4p+0f;
    q = q * t + -0x1.6e565ap-13f;
    const f32v large = select_f32(a >= 4.0f, set_f32(1.0f), 1.0f - exp_f32(-q));
    return select_f32(a < 0.93f, x + x * p, copysign_f32(large, x));
}

#endif
