/* The Fourier transforms of frames of a signal, which a window weighs.
 *
 * buffers: x[images, signal, 1 or 2], window[length], table, y[images, frames, found, 2]; dims: signal, frames, step,
 * length, found, numbers of an element of x, there is a window. grid: images * frames.
 */
#include "libm.h"

#include "fft.h"

TW_DEFINE(ROUTINE) {
    int64_t frames = DIM(1), n = DIM(3), found = DIM(4), from = DIM(5);
    tw_fft fft = tw_fft_of(n, BUFFER(2));
    double *work = args->scratch, *re = work, *im = work + fft.size;
    for (int64_t row = begin; row < end; row++) {
        int64_t x = (row / frames * DIM(0) + row % frames * DIM(2)) * from, y = row * found * 2;
        for (int64_t k = 0; k < n; k++) {
            double weight = DIM(6) ? (double)GET1(k) : 1;
            re[k] = weight * (double)GET0(x + k * from);
            im[k] = from == 2 ? weight * (double)GET0(x + k * from + 1) : 0;
        }
        tw_fft_forward(&fft, work);
        for (int64_t k = 0; k < found; k++) {
            PUT3(y + 2 * k, (V3)re[k]);
            PUT3(y + 2 * k + 1, (V3)im[k]);
        }
    }
}
