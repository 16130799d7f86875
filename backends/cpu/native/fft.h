/* Fourier transforms of any length in f64: Stockham's algorithm with radices up to 13, Bluestein's where a larger prime
 * divides the length. A table of roots of unity is made once for a length (tw_fft_table).
 *
 * Van Loan, Computational Frameworks for the Fast Fourier Transform, 1992, 1.7 and 4.2.
 */
#ifndef TW_FFT_H
#define TW_FFT_H
#include <stddef.h>

#include "libm.h"
#include "routine.h"

#define TW_FFT_RADIX 13

/* `size` is the length of what is transformed by radices: n, or a power of two that holds a convolution of length n. */
typedef struct {
    int64_t n, size;
    const double *table;
    int radix[64], radices, chirped;
} tw_fft;

static tw_fft tw_fft_of(int64_t n, const double *table) {
    static const int radices[] = {4, 2, 3, 5, 7, 11, 13};
    tw_fft fft = {.n = n, .size = n, .table = table};
    int64_t rest = n;
    for (int i = 0; i < 7; i++) {
        for (; rest % radices[i] == 0; rest /= radices[i]) fft.radix[fft.radices++] = radices[i];
    }
    if (rest == 1) return fft;
    fft.chirped = 1;
    fft.radices = 0;
    for (fft.size = 1; fft.size < 2 * n - 1;) {
        int radix = 4 * fft.size <= 2 * (2 * n - 1) ? 4 : 2;
        fft.radix[fft.radices++] = radix;
        fft.size *= radix;
    }
    return fft;
}

/* One step: `done` is the product of the radices before, `m` what is left after this one. */
TW_INLINE void tw_fft_step(int p, int64_t done, int64_t m, const double *w, const double *__restrict__ xr,
                           const double *__restrict__ xi, double *__restrict__ yr, double *__restrict__ yi) {
    double c[TW_FFT_RADIX], s[TW_FFT_RADIX], tc[TW_FFT_RADIX], ts[TW_FFT_RADIX];
    for (int q = 0; q < p; q++) c[q] = w[2 * q * done * m], s[q] = w[2 * q * done * m + 1];
    for (int64_t j = 0; j < done; j++) {
        for (int q = 0; q < p; q++) tc[q] = w[2 * j * q * m], ts[q] = w[2 * j * q * m + 1];
        for (int64_t k = 0; k < m; k++) {
            double ar[TW_FFT_RADIX], ai[TW_FFT_RADIX];
            for (int q = 0; q < p; q++) {
                double re = xr[(j * p + q) * m + k], im = xi[(j * p + q) * m + k];
                ar[q] = re * tc[q] - im * ts[q];
                ai[q] = re * ts[q] + im * tc[q];
            }
            for (int r = 0; r < p; r++) {
                double re = ar[0], im = ai[0];
                for (int q = 1; q < p; q++) {
                    int turn = q * r % p;
                    re += ar[q] * c[turn] - ai[q] * s[turn];
                    im += ar[q] * s[turn] + ai[q] * c[turn];
                }
                yr[(j + done * r) * m + k] = re;
                yi[(j + done * r) * m + k] = im;
            }
        }
    }
}

/* Radix 4, where the roots are 1, -i, -1 and i. */
TW_INLINE void tw_fft_step4(int64_t done, int64_t m, const double *w, const double *__restrict__ xr,
                            const double *__restrict__ xi, double *__restrict__ yr, double *__restrict__ yi) {
    int64_t out = done * m;
    for (int64_t j = 0; j < done; j++) {
        const double *w1 = w + 2 * j * m, *w2 = w + 4 * j * m, *w3 = w + 6 * j * m;
        double c1 = w1[0], s1 = w1[1], c2 = w2[0], s2 = w2[1], c3 = w3[0], s3 = w3[1];
        for (int64_t k = 0; k < m; k++) {
            int64_t at = 4 * j * m + k, to = j * m + k;
            double r0 = xr[at], i0 = xi[at], r = xr[at + m], i = xi[at + m];
            double r1 = r * c1 - i * s1, i1 = r * s1 + i * c1;
            r = xr[at + 2 * m], i = xi[at + 2 * m];
            double r2 = r * c2 - i * s2, i2 = r * s2 + i * c2;
            r = xr[at + 3 * m], i = xi[at + 3 * m];
            double r3 = r * c3 - i * s3, i3 = r * s3 + i * c3;
            double ar = r0 + r2, ai = i0 + i2, br = r0 - r2, bi = i0 - i2;
            double cr = r1 + r3, ci = i1 + i3, dr = r1 - r3, di = i1 - i3;
            yr[to] = ar + cr, yi[to] = ai + ci;
            yr[to + out] = br + di, yi[to + out] = bi - dr;
            yr[to + 2 * out] = ar - cr, yi[to + 2 * out] = ai - ci;
            yr[to + 3 * out] = br - di, yi[to + 3 * out] = bi + dr;
        }
    }
}

/* Transforms re and im, of `size` elements; other has room for both. */
static void tw_fft_run(const tw_fft *fft, const double *w, double *re, double *im, double *other) {
    double *xr = re, *xi = im, *yr = other, *yi = other + fft->size;
    int64_t done = 1, m = fft->size;
    for (int i = 0; i < fft->radices; i++) {
        int p = fft->radix[i];
        m /= p;
        if (p == 4) tw_fft_step4(done, m, w, xr, xi, yr, yi);
        else if (p == 2) tw_fft_step(2, done, m, w, xr, xi, yr, yi);
        else if (p == 3) tw_fft_step(3, done, m, w, xr, xi, yr, yi);
        else if (p == 5) tw_fft_step(5, done, m, w, xr, xi, yr, yi);
        else tw_fft_step(p, done, m, w, xr, xi, yr, yi);
        done *= p;
        double *r = xr, *s = xi;
        xr = yr, xi = yi, yr = r, yi = s;
    }
    if (xr == re) return;
    memcpy(re, xr, (size_t)fft->size * sizeof *re);
    memcpy(im, xi, (size_t)fft->size * sizeof *im);
}

/* The transform of n elements, of which im follows re at `work + size`; work has room for 4 * size. */
static void tw_fft_forward(const tw_fft *fft, double *work) {
    int64_t n = fft->n, size = fft->size;
    double *re = work, *im = work + size, *other = work + 2 * size;
    if (!fft->chirped) {
        tw_fft_run(fft, fft->table, re, im, other);
        return;
    }
    const double *chirp = fft->table + 2 * size, *kernel = chirp + 2 * n;
    for (int64_t k = 0; k < n; k++) {
        double r = re[k], i = im[k], c = chirp[2 * k], s = chirp[2 * k + 1];
        re[k] = r * c - i * s, im[k] = r * s + i * c;
    }
    for (int64_t k = n; k < size; k++) re[k] = im[k] = 0;
    tw_fft_run(fft, fft->table, re, im, other);
    for (int64_t k = 0; k < size; k++) {
        double r = re[k], i = im[k], c = kernel[2 * k], s = kernel[2 * k + 1];
        re[k] = r * c - i * s, im[k] = r * s + i * c;
    }
    tw_fft_run(fft, fft->table, im, re, other); /* backwards: real and imaginary parts change places */
    for (int64_t k = 0; k < n; k++) {
        double r = re[k] / (double)size, i = im[k] / (double)size, c = chirp[2 * k], s = chirp[2 * k + 1];
        re[k] = r * c - i * s, im[k] = r * s + i * c;
    }
}

static void tw_fft_roots(double *roots, int64_t count, int64_t turn) {
    for (int64_t k = 0; k < count; k++) {
        double angle = -2 * 3.14159265358979323846 * (double)k / (double)turn;
        roots[2 * k] = cos(angle), roots[2 * k + 1] = sin(angle);
    }
}

/* Fills the table of a length: 2 * n numbers, or 2 * n + 4 * size with a chirp; work has room for 4 * size. */
static void tw_fft_table(int64_t n, double *table, double *work) {
    tw_fft fft = tw_fft_of(n, table);
    tw_fft_roots(table, fft.size, fft.size);
    if (!fft.chirped) return;
    int64_t size = fft.size;
    double *chirp = table + 2 * size, *kernel = chirp + 2 * n, *re = work, *im = work + size;
    for (int64_t k = 0, turn = 0; k < n; turn = (turn + 2 * k + 1) % (2 * n), k++) { /* turn is k * k */
        double angle = -3.14159265358979323846 * (double)turn / (double)n;
        chirp[2 * k] = cos(angle), chirp[2 * k + 1] = sin(angle);
    }
    for (int64_t k = 0; k < size; k++) re[k] = im[k] = 0;
    for (int64_t k = 0; k < n; k++) {
        int64_t mirrored = k ? size - k : 0;
        re[k] = re[mirrored] = chirp[2 * k];
        im[k] = im[mirrored] = -chirp[2 * k + 1];
    }
    tw_fft_run(&fft, table, re, im, work + 2 * size);
    for (int64_t k = 0; k < size; k++) kernel[2 * k] = re[k], kernel[2 * k + 1] = im[k];
}

#endif
