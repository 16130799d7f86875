/* matmul for cpu:x86-64-v4+vnni, generated. */
#define TW_LANES 16
#include "vec.h"
#include "vec_math.h"
#include "vec_half.h"
#include "mma.h"
#include "dot8.h"

/* acc: rows x columns of the result in registers. */
TW_INLINE void tw_matmul_acc_tile(const int rows, const int vectors, int64_t columns,
    const uint8_t *a, const void *b, const int32_t *start, int32_t *c, int first, int last, int64_t depth, const tw_args *args, int64_t m_at, int64_t n_at) {
    i32v sum[TW_MOST_ROWS][TW_PANEL_VECTORS];
    start_sums_i32(rows, vectors, first, start, c, 64, sum);
    add_bytes(rows, vectors, 14, depth, a, b, sum);
    if (!last) {
        keep_sums_i32(rows, vectors, sum, c, 64);
        return;
    }
    const int32_t *const shift_here = (const int32_t *)args->buffer[2];
    const float *const scale = (const float *)args->buffer[3];
    uint8_t *const C = (uint8_t *)args->buffer[4];
    TW_UNROLL TW_FOR(j, vectors) TW_UNROLL TW_FOR(i, rows) {
        const int64_t m = m_at + i, n = n_at + j * TW_LANES;
        const f32v y_2 = (to(f32, (sum[i][j] + load_i32(shift_here + n))) * load_f32(scale + n));
        store_u8(C + m * 256 + n, to(u8, to(i32, at_most_f32(set_f32(255.0f), at_least_f32(set_f32(0.0f), (round_f32((y_2 * set_f32(0x1.666666p-1f))) + set_f32(128.0f)))))));
    }
}
static __attribute__((noinline)) void tw_matmul_acc(int64_t rows, int64_t columns,
    const uint8_t *a, const void *b, const int32_t *start, int32_t *c, int first, int last, int64_t depth, const tw_args *args, int64_t m_at, int64_t n_at) {
    switch (rows) {
        case 1: tw_matmul_acc_tile(1, 2, columns, a, b, start, c, first, last, depth, args, m_at, n_at); break;
        case 2: tw_matmul_acc_tile(2, 2, columns, a, b, start, c, first, last, depth, args, m_at, n_at); break;
        case 3: tw_matmul_acc_tile(3, 2, columns, a, b, start, c, first, last, depth, args, m_at, n_at); break;
        case 4: tw_matmul_acc_tile(4, 2, columns, a, b, start, c, first, last, depth, args, m_at, n_at); break;
        case 5: tw_matmul_acc_tile(5, 2, columns, a, b, start, c, first, last, depth, args, m_at, n_at); break;
        case 6: tw_matmul_acc_tile(6, 2, columns, a, b, start, c, first, last, depth, args, m_at, n_at); break;
        case 7: tw_matmul_acc_tile(7, 2, columns, a, b, start, c, first, last, depth, args, m_at, n_at); break;
        case 8: tw_matmul_acc_tile(8, 2, columns, a, b, start, c, first, last, depth, args, m_at, n_at); break;
        case 9: tw_matmul_acc_tile(9, 2, columns, a, b, start, c, first, last, depth, args, m_at, n_at); break;
        case 10: tw_matmul_acc_tile(10, 2, columns, a, b, start, c, first, last, depth, args, m_at, n_at); break;
        case 11: tw_matmul_acc_tile(11, 2, columns, a, b, start, c, first, last, depth, args, m_at, n_at); break;
        case 12: tw_matmul_acc_tile(12, 2, columns, a, b, start, c, first, last, depth, args, m_at, n_at); break;
        case 13: tw_matmul_acc_tile(13, 2, columns, a, b, start, c, first, last, depth, args, m_at, n_at); break;
        case 14: tw_matmul_acc_tile(14, 2, columns, a, b, start, c, first, last, depth, args, m_at, n_at); break;
    }
}

void tw_matmul(const tw_args *args, int64_t begin, int64_t end) {
    const uint8_t *const X = (const uint8_t *)args->buffer[0];
    const int8_t *const W = (const int8_t *)args->buffer[1];
    const int32_t *const shift = (const int32_t *)args->buffer[2];
    const float *const scale = (const float *)args->buffer[3];
    uint8_t *const C = (uint8_t *)args->buffer[4];
    const int64_t M = args->dim[0];
    for (int64_t block = begin; block < end; block++) {
        int64_t rest = block;
        const int64_t n0 = floor_mod(rest, 4) * 64;
        rest = floor_div(rest, 4);
        const int64_t m0_step = ceil_int(ceil_int(M, ceil_int(M, 126)), 14) * 14;
        const int64_t m0 = rest * m0_step;
        const int64_t m0_end = min_int(m0 + m0_step, M);
        TW_ALIGN int32_t acc[8080];
        /* acc[m, n] = sum(k, i32(X[m, k]) * i32(W[n // 32, k // 4, n % 32, k % 4]))  ?m */
        {
            const int64_t count = m0_end - m0;
            const int64_t pieces = ceil_int(count, 14);
            uint8_t *staged = (uint8_t *)((char *)args->scratch + 0);
            for (int64_t piece = 0, row = m0, stop; piece < pieces; piece++, row = stop) {
                stop = row + count / pieces + (piece < count % pieces);
                for (int64_t m = row; m < stop; m++) {
                    stage_bytes_u8(1024, X + m * 1024, staged + piece * 14336 + (m - row) * 16, 224);
                }
            }
            for (int64_t chunk = 0; chunk < 64; chunk += 32) {
                const int64_t deep = min_int(32, 64 - chunk);
                for (int64_t strip = n0; strip < n0 + 64; strip += 32) {
                    const int8_t *const packed = (const int8_t *)W + floor_mod(strip, 32) * 4 + floor_div(strip, 32) * 32768;
                    for (int64_t piece = 0, row = m0, stop; piece < pieces; piece++, row = stop) {
                        stop = row + count / pieces + (piece < count % pieces);
                        tw_matmul_acc(stop - row, n0 + 64 - strip, staged + piece * 14336 + chunk * 224, packed + chunk * 512, 0, acc + -m0 * 64 - n0 + row * 64 + strip, chunk == 0, chunk + 32 >= 64, min_int(deep * 4, 256 - chunk * 4), args, row, strip);
                    }
                }
            }
        }
    }
}
