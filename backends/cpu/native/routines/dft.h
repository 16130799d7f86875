/* The Fourier transform of each row along an axis, cut or filled with zeros to its length.
 *
 * buffers: x[before, at, after, 1 or 2], table, y[before, found, after, 1 or 2]; dims: at, after, length, found,
 * backwards, numbers of an element of x and of y, x is the first half of a spectrum whose signal is real.
 * grid: before * after.
 */
#include "libm.h"

#include "fft.h"

TW_DEFINE(ROUTINE) {
    int64_t at = DIM(0), after = DIM(1), n = DIM(2), found = DIM(3), from = DIM(5), to = DIM(6);
    tw_fft fft = tw_fft_of(n, BUFFER(1));
    double *work = args->scratch, *re = work, *im = work + fft.size;
    for (int64_t row = begin; row < end; row++) {
        int64_t x = (row / after * at * after + row % after) * from;
        int64_t y = (row / after * found * after + row % after) * to;
        int64_t given = min_int(at, DIM(7) ? n / 2 + 1 : n);
        for (int64_t k = 0; k < n; k++) {
            re[k] = k < given ? (double)GET0(x + k * after * from) : 0;
            im[k] = k < given && from == 2 ? (double)GET0(x + k * after * from + 1) : 0;
        }
        if (DIM(7)) {
            im[0] = 0;
            if (n % 2 == 0) im[n / 2] = 0;
            for (int64_t k = 1; k < n - k; k++) re[n - k] = re[k], im[n - k] = -im[k];
        }
        if (DIM(4)) {
            for (int64_t k = 0; k < n; k++) {
                double r = re[k];
                re[k] = im[k], im[k] = r;
            }
        }
        tw_fft_forward(&fft, work);
        const double *yr = DIM(4) ? im : re, *yi = DIM(4) ? re : im;
        double scale = DIM(4) ? (double)n : 1;
        for (int64_t k = 0; k < found; k++) {
            PUT2(y + k * after * to, (V2)(yr[k] / scale));
            if (to == 2) PUT2(y + k * after * to + 1, (V2)(yi[k] / scale));
        }
    }
}
