/* convolution for cpu:x86-64-v3, generated. */
#define TW_LANES 8
#include "vec.h"
#include "vec_math.h"
#include "vec_half.h"
#include "mma.h"
#include "dot8.h"

/* acc: windows x columns of one spot, all channels, in registers. */
TW_INLINE void tw_convolution_acc_spot_tile(const int rows, const int16_t *a, const int32_t *b, int32_t *c) {
    i32v sum[TW_MOST_ROWS][TW_PANEL_VECTORS];
    start_sums_i32(rows, 2, 1, 0, c, 0, sum);
    add_widened(rows, 2, 6, 2, 2, a, b, sum);
    keep_sums_i32(rows, 2, sum, c, 16);
}
static __attribute__((noinline)) void tw_convolution_acc_spot(int64_t rows,
    const int16_t *a, const int32_t *b, int32_t *c) {
    switch (rows) {
        case 1: tw_convolution_acc_spot_tile(1, a, b, c); break;
        case 2: tw_convolution_acc_spot_tile(2, a, b, c); break;
        case 3: tw_convolution_acc_spot_tile(3, a, b, c); break;
        case 4: tw_convolution_acc_spot_tile(4, a, b, c); break;
        case 5: tw_convolution_acc_spot_tile(5, a, b, c); break;
        case 6: tw_convolution_acc_spot_tile(6, a, b, c); break;
    }
}

/* acc: one or two outputs from the sums of a window's spots. */
TW_INLINE void tw_convolution_acc_window_tile(const int rows, int64_t columns,
    int bottom, const int32_t *spots, int32_t *c, const tw_args *args, int64_t m_at, int64_t n_at) {
    enum { vectors = 2 };
    i32v sum[TW_MOST_ROWS][TW_PANEL_VECTORS];
    winograd_sums(vectors, bottom, spots, 864, sum);
    const int32_t *const shift_here = (const int32_t *)args->buffer[2];
    const float *const scale = (const float *)args->buffer[3];
    const uint8_t *const R = (const uint8_t *)args->buffer[4];
    uint8_t *const C = (uint8_t *)args->buffer[5];
    TW_UNROLL TW_FOR(j, vectors) TW_UNROLL TW_FOR(i, rows) {
        const int64_t m = m_at + i, n = n_at + j * TW_LANES;
        const f32v y_2 = at_least_f32(set_f32(0.0f), ((to(f32, (sum[i][j] + load_i32(shift_here + n))) * load_f32(scale + n)) + ((to(f32, load_u8(R + m * 64 + n)) - set_f32(9.0f)) * set_f32(0x1.99999ap-2f))));
        store_u8(C + m * 64 + n, to(u8, to(i32, at_most_f32(set_f32(255.0f), at_least_f32(set_f32(0.0f), (round_f32((y_2 * set_f32(0x1.666666p-1f))) + set_f32(128.0f)))))));
    }
}
static __attribute__((noinline)) void tw_convolution_acc_window(int64_t rows, int64_t columns,
    int bottom, const int32_t *spots, int32_t *c, const tw_args *args, int64_t m_at, int64_t n_at) {
    if (rows == 1) tw_convolution_acc_window_tile(1, columns, bottom, spots, c, args, m_at, n_at);
    else tw_convolution_acc_window_tile(2, columns, bottom, spots, c, args, m_at, n_at);
}

void tw_convolution(const tw_args *args, int64_t begin, int64_t end) {
    const uint8_t *const X = (const uint8_t *)args->buffer[0];
    const int8_t *const W = (const int8_t *)args->buffer[1];
    const int32_t *const shift = (const int32_t *)args->buffer[2];
    const float *const scale = (const float *)args->buffer[3];
    const uint8_t *const R = (const uint8_t *)args->buffer[4];
    uint8_t *const C = (uint8_t *)args->buffer[5];
    const int64_t B = args->dim[0];
    for (int64_t block = begin; block < end; block++) {
        const int64_t m0 = block * 196;
        /* acc[m, n] = sum((kh, kw, c), i32((X[m // 196, kh + (m // 14) % 14 - 1, kw + m % 14 - 1, c] or 7)) * i32(W[n // 32, 24*kh + 8*kw + c // 4, n % 32, c % 4])) */
        {
            int16_t *rows = (int16_t *)((char *)args->scratch + 0);
            TW_ALIGN int32_t weights[4096];
            int32_t *sums = (int32_t *)((char *)args->scratch + 55296);
            TW_ALIGN uint8_t border[32];
            memset(border, 7, 32);
            const uint8_t *const image = X + (m0) / 196 * 14 * 14 * 32;
            for (int64_t window = 0; window < 49; window++) {
                const int64_t top = (m0) % 196 / 14 + window / 7 * 2 - 1;
                const int64_t left = window % 7 * 2 - 1;
                const uint8_t *pixel[16];
                TW_FOR(p, 16) {
                    const int64_t y = top + p / 4, at = left + p % 4;
                    const int near = (uint64_t)y < (uint64_t)(14) && (uint64_t)at < (uint64_t)(14);
                    pixel[p] = (const uint8_t *)(near ? image + (y * 14 + at) * 32 : border);
                }
                winograd_rows_u8(32, pixel, rows + window / 6 * 192 + window % 6 * 16, 1728, 96);
            }
            for (int64_t strip = 0; strip < 64; strip += 16) {
                winograd_weights(2, 8, (const int8_t *)W + floor_mod(strip, 32) * 4 + floor_div(strip, 32) * 9216, weights, 256);
                for (int spot = 0; spot < 16; spot++) {
                    for (int64_t window = 0; window < 49; window += 6) {
                        tw_convolution_acc_spot(min_int(6, 49 - window), rows + (spot * 9 + window / 6) * 192, weights + spot * 256, sums + spot * 864 + window * 16);
                    }
                }
                for (int64_t window = 0; window < 49; window++) {
                    for (int bottom = 0; bottom < 2 && window / 7 * 2 + bottom < 14; bottom++) {
                        const int64_t at = (window / 7 * 2 + bottom) * 14 + window % 7 * 2;
                        tw_convolution_acc_window(min_int(2, 14 - window % 7 * 2), 64 - strip, bottom, sums + window * 16, 0, args, m0 + at, strip);
                    }
                }
            }
        }
    }
}
