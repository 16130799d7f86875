/* What kernels use of <math.h>, for a compiler that is started without the headers of a C library. */
#ifndef TW_MATH_H
#define TW_MATH_H

#define TW_MATH(name) double name(double x); float name##f(float x);
#define TW_MATH_2(name) double name(double x, double y); float name##f(float x, float y);
TW_MATH(acos) TW_MATH(acosh) TW_MATH(asin) TW_MATH(asinh) TW_MATH(atan) TW_MATH(atanh) TW_MATH(cbrt) TW_MATH(ceil)
TW_MATH(cos) TW_MATH(cosh) TW_MATH(erf) TW_MATH(erfc) TW_MATH(exp) TW_MATH(exp2) TW_MATH(expm1) TW_MATH(fabs)
TW_MATH(floor) TW_MATH(lgamma) TW_MATH(log) TW_MATH(log10) TW_MATH(log1p) TW_MATH(log2) TW_MATH(nearbyint) TW_MATH(rint)
TW_MATH(round) TW_MATH(sin) TW_MATH(sinh) TW_MATH(sqrt) TW_MATH(tan) TW_MATH(tanh) TW_MATH(tgamma) TW_MATH(trunc)
TW_MATH_2(atan2) TW_MATH_2(copysign) TW_MATH_2(fmax) TW_MATH_2(fmin) TW_MATH_2(fmod) TW_MATH_2(hypot)
TW_MATH_2(nextafter) TW_MATH_2(pow) TW_MATH_2(remainder)
double frexp(double x, int *exponent);
float frexpf(float x, int *exponent);
double ldexp(double x, int exponent);
float ldexpf(float x, int exponent);
double modf(double x, double *whole);
float modff(float x, float *whole);

#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define HUGE_VAL __builtin_inf()
#define HUGE_VALF __builtin_inff()
#define M_PI 3.14159265358979323846
#define isnan(x) __builtin_isnan(x)
#define isinf(x) __builtin_isinf(x)
#define isfinite(x) __builtin_isfinite(x)
#define signbit(x) __builtin_signbit(x)

#endif
