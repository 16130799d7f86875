/* Functions that are computed lane by lane by the C library: rare in models, so exactness matters more than speed.
 *
 * A file that includes this makes its kernel library depend on libm.
 */
#ifndef TW_VEC_LIBM_H
#define TW_VEC_LIBM_H
#include <math.h>
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
TW_BY_LANE(f32, sin, sinf(x[l]))
TW_BY_LANE(f32, cos, cosf(x[l]))
TW_BY_LANE(f32, tan, tanf(x[l]))
TW_BY_LANE(f32, asin, asinf(x[l]))
TW_BY_LANE(f32, acos, acosf(x[l]))
TW_BY_LANE(f32, atan, atanf(x[l]))
TW_BY_LANE(f32, sinh, sinhf(x[l]))
TW_BY_LANE(f32, cosh, coshf(x[l]))
TW_BY_LANE(f32, asinh, asinhf(x[l]))
TW_BY_LANE(f32, acosh, acoshf(x[l]))
TW_BY_LANE(f32, atanh, atanhf(x[l]))
TW_BY_LANE_2(f32, pow, powf(x[l], y[l]))
TW_BY_LANE_2(f32, fmod, fmodf(x[l], y[l]))
TW_BY_LANE(f64, exp, exp(x[l]))
TW_BY_LANE(f64, exp2, exp2(x[l]))
TW_BY_LANE(f64, log, log(x[l]))
TW_BY_LANE(f64, log2, log2(x[l]))
TW_BY_LANE(f64, sin, sin(x[l]))
TW_BY_LANE(f64, cos, cos(x[l]))
TW_BY_LANE(f64, tan, tan(x[l]))
TW_BY_LANE(f64, asin, asin(x[l]))
TW_BY_LANE(f64, acos, acos(x[l]))
TW_BY_LANE(f64, atan, atan(x[l]))
TW_BY_LANE(f64, sinh, sinh(x[l]))
TW_BY_LANE(f64, cosh, cosh(x[l]))
TW_BY_LANE(f64, tanh, tanh(x[l]))
TW_BY_LANE(f64, asinh, asinh(x[l]))
TW_BY_LANE(f64, acosh, acosh(x[l]))
TW_BY_LANE(f64, atanh, atanh(x[l]))
TW_BY_LANE(f64, erf, erf(x[l]))
TW_BY_LANE(f64, sigmoid, x[l] < 0 ? exp(x[l]) / (1 + exp(x[l])) : 1 / (1 + exp(-x[l])))
TW_BY_LANE_2(f64, pow, pow(x[l], y[l]))
TW_BY_LANE_2(f64, fmod, fmod(x[l], y[l]))

/* The remainder with the sign of the divisor. */
#define TW_MOD(T)                                                                                                    \
    TW_INLINE T##v mod_##T(T##v x, T##v y) {                                                                         \
        const T##v r = fmod_##T(x, y);                                                                               \
        return select_##T(to(i32, (r != 0) & ((r < 0) ^ (y < 0))), r + y, r);                                        \
    }
TW_MOD(f32)
TW_MOD(f64)

#endif
