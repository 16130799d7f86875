/* The C library's functions that routines call. Its own headers are not there when kernels are compiled; a library of
 * kernels in which a file includes this is linked with libm. */
#ifndef TW_LIBM_H
#define TW_LIBM_H

double exp(double x), log(double x), log1p(double x), pow(double x, double y), sqrt(double x), fabs(double x);
double sin(double x), cos(double x), tan(double x), tanh(double x), floor(double x), ceil(double x), rint(double x);
float expf(float x), logf(float x), log1pf(float x), powf(float x, float y), sqrtf(float x), fabsf(float x);
float sinf(float x), cosf(float x), tanf(float x), tanhf(float x), floorf(float x), ceilf(float x), rintf(float x);

#endif
