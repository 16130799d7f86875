/* convolution for cpu:x86-64-v4+vnni, generated. */
#define TW_LANES 16
#include "vec.h"
#include "vec_math.h"
#include "vec_half.h"
#include "mma.h"
#include "dot8.h"

/* acc: rows x columns of the result in registers. */
TW_INLINE void tw_convolution_acc_tile(const int rows, const int vectors, int64_t columns,
    const uint8_t *a, const void *b, const int32_t *start, int32_t *c, const tw_args *args, int64_t m_at, int64_t n_at) {
    const int first = 1, last = 1;
    const int64_t depth = 72;
    i32v sum[TW_MOST_ROWS][TW_PANEL_VECTORS];
    start_sums_i32(rows, vectors, first, start, c, 64, sum);
    add_bytes(rows, vectors, 14, depth, a, b, sum);
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
static __attribute__((noinline)) void tw_convolution_acc(int64_t rows, int64_t columns,
    const uint8_t *a, const void *b, const int32_t *start, int32_t *c, const tw_args *args, int64_t m_at, int64_t n_at) {
    switch (rows) {
        case 1: tw_convolution_acc_tile(1, 2, columns, a, b, start, c, args, m_at, n_at); break;
        case 2: tw_convolution_acc_tile(2, 2, columns, a, b, start, c, args, m_at, n_at); break;
        case 3: tw_convolution_acc_tile(3, 2, columns, a, b, start, c, args, m_at, n_at); break;
        case 4: tw_convolution_acc_tile(4, 2, columns, a, b, start, c, args, m_at, n_at); break;
        case 5: tw_convolution_acc_tile(5, 2, columns, a, b, start, c, args, m_at, n_at); break;
        case 6: tw_convolution_acc_tile(6, 2, columns, a, b, start, c, args, m_at, n_at); break;
        case 7: tw_convolution_acc_tile(7, 2, columns, a, b, start, c, args, m_at, n_at); break;
        case 8: tw_convolution_acc_tile(8, 2, columns, a, b, start, c, args, m_at, n_at); break;
        case 9: tw_convolution_acc_tile(9, 2, columns, a, b, start, c, args, m_at, n_at); break;
        case 10: tw_convolution_acc_tile(10, 2, columns, a, b, start, c, args, m_at, n_at); break;
        case 11: tw_convolution_acc_tile(11, 2, columns, a, b, start, c, args, m_at, n_at); break;
        case 12: tw_convolution_acc_tile(12, 2, columns, a, b, start, c, args, m_at, n_at); break;
        case 13: tw_convolution_acc_tile(13, 2, columns, a, b, start, c, args, m_at, n_at); break;
        case 14: tw_convolution_acc_tile(14, 2, columns, a, b, start, c, args, m_at, n_at); break;
    }
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
        const int64_t m0_step = ceil_int(ceil_int(B * 196, ceil_int(B * 196, 126)), 14) * 14;
        const int64_t m0 = block * m0_step;
        const int64_t m0_end = min_int(m0 + m0_step, B * 196);
        /* acc[m, n] = sum((kh, kw, c), i32((X[m // 196, kh + (m // 14) % 14 - 1, kw + m % 14 - 1, c] or 7)) * i32(W[n // 32, 24*kh + 8*kw + c // 4, n % 32, c % 4])) */
        {
            const int64_t count = m0_end - m0;
            const int64_t pieces = ceil_int(count, 14);
            uint8_t *staged = (uint8_t *)((char *)args->scratch + 0);
            for (int64_t piece = 0, row = m0, stop; piece < pieces; piece++, row = stop) {
                stop = row + count / pieces + (piece < count % pieces);
                for (int64_t m = row; m < stop; m++) {
                    for (int64_t kh = 0; kh < 3; kh++) {
                        for (int64_t kw = 0; kw < 3; kw++) {
                            if ((uint64_t)(kh + floor_mod(floor_div(m, 14), 14) - 1) < (uint64_t)(14) && (uint64_t)(kw + floor_mod(m, 14) - 1) < (uint64_t)(14))
                                stage_bytes_u8(32, X + kh * 448 + kw * 32 + floor_mod(floor_div(m, 14), 14) * 448 + floor_mod(m, 14) * 32 + floor_div(m, 196) * 6272 - 480, staged + piece * 4032 + (m - row) * 16 + (kh * 3 + kw) * 448, 224);
                            else stage_bytes_u8_fill(32, 7, staged + piece * 4032 + (m - row) * 16 + (kh * 3 + kw) * 448, 224);
                        }
                    }
                }
            }
            for (int64_t strip = 0; strip < 64; strip += 32) {
                const int8_t *const packed = (const int8_t *)W + floor_mod(strip, 32) * 4 + floor_div(strip, 32) * 9216;
                for (int64_t piece = 0, row = m0, stop; piece < pieces; piece++, row = stop) {
                    stop = row + count / pieces + (piece < count % pieces);
                    tw_convolution_acc(stop - row, 64 - strip, staged + piece * 4032, packed, 0, 0, args, row, strip);
                }
            }
        }
    }
}
