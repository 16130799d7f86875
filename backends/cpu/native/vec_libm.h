/* Functions that are computed lane by lane by the C library: rare in models, so exactness matters more than speed.
 *
 * A file that includes this makes its kernel library depend on libm.
 */
#ifndef TW_VEC_LIBM_H
#define TW_VEC_LIBM_H
#include "vec_math.h"

#define TW_BY_LANE(T, name, call)                                                                                    \
    TW_INLINE T##v name##_##T(T##v x) {                                                                              \
        T##v r;                                                                                                      \
        for (int l = 0; l < TW_LANES; l++) r[l] = call;                                                              \
        return r;                                                                                                    \
    }
#define TW_BY_LANE_2(T, name, call)                                                                                  \
    TW_INLINE T##v name##_##T(T##v x, T##v y) {                                                                      \
        T##v r;                                                                                                      \
        for (int l = 0; l < TW_LANES; l++) r[l] = call;                                                              \
        return r;                                                                                                    \
    }
TW_BY_LANE(f32, sin, __builtin_sinf(x[l]))
TW_BY_LANE(f32, cos, __builtin_cosf(x[l]))
TW_BY_LANE(f32, tan, __builtin_tanf(x[l]))
TW_BY_LANE(f32, asin, __builtin_asinf(x[l]))
TW_BY_LANE(f32, acos, __builtin_acosf(x[l]))
TW_BY_LANE(f32, atan, __builtin_atanf(x[l]))
TW_BY_LANE(f32, sinh, __builtin_sinhf(x[l]))
TW_BY_LANE(f32, cosh, __builtin_coshf(x[l]))
TW_BY_LANE(f32, asinh, __builtin_asinhf(x[l]))
TW_BY_LANE(f32, acosh, __builtin_acoshf(x[l]))
TW_BY_LANE(f32, atanh, __builtin_atanhf(x[l]))
TW_BY_LANE_2(f32, pow, __builtin_powf(x[l], y[l]))
TW_BY_LANE_2(f32, fmod, __builtin_fmodf(x[l], y[l]))
TW_BY_LANE(f64, exp, __builtin_exp(x[l]))
TW_BY_LANE(f64, exp2, __builtin_exp2(x[l]))
TW_BY_LANE(f64, log, __builtin_log(x[l]))
TW_BY_LANE(f64, log2, __builtin_log2(x[l]))
TW_BY_LANE(f64, sin, __builtin_sin(x[l]))
TW_BY_LANE(f64, cos, __builtin_cos(x[l]))
TW_BY_LANE(f64, tan, __builtin_tan(x[l]))
TW_BY_LANE(f64, asin, __builtin_asin(x[l]))
TW_BY_LANE(f64, acos, __builtin_acos(x[l]))
TW_BY_LANE(f64, atan, __builtin_atan(x[l]))
TW_BY_LANE(f64, sinh, __builtin_sinh(x[l]))
TW_BY_LANE(f64, cosh, __builtin_cosh(x[l]))
TW_BY_LANE(f64, tanh, __builtin_tanh(x[l]))
TW_BY_LANE(f64, asinh, __builtin_asinh(x[l]))
TW_BY_LANE(f64, acosh, __builtin_acosh(x[l]))
TW_BY_LANE(f64, atanh, __builtin_atanh(x[l]))
TW_BY_LANE(f64, erf, __builtin_erf(x[l]))
TW_BY_LANE(f64, sigmoid, x[l] < 0 ? __builtin_exp(x[l]) / (1 + __builtin_exp(x[l])) : 1 / (1 + __builtin_exp(-x[l])))
TW_BY_LANE_2(f64, pow, __builtin_pow(x[l], y[l]))
TW_BY_LANE_2(f64, fmod, __builtin_fmod(x[l], y[l]))

/* The remainder with the sign of the divisor. */
#define TW_MOD(T)                                                                                                    \
    TW_INLINE T##v mod_##T(T##v x, T##v y) {                                                                         \
        const T##v r = fmod_##T(x, y);                                                                               \
        return select_##T(to(i32, (r != 0) & ((r < 0) ^ (y < 0))), r + y, r);                                        \
    }
TW_MOD(f32)
TW_MOD(f64)

#endif
